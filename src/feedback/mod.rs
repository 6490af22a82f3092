//! Corrections: what people said about answers, as token-level training records that are never lost.
//!
//! [`record`] is what is kept, [`submission`] what somebody sends, and [`derive`] makes the one from the other (pure): it aligns character spans with
//! tokens, labels them, and takes edits of the whole text apart ([`diff`]).

pub mod derive;
pub mod diff;
pub mod record;
pub mod submission;
pub mod tokens;
