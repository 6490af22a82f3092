//! Corrections: what people said about answers, as token-level training records that are never
//! lost.
//!
//! [`record`] is what is kept, [`submission`] what somebody sends, and [`derive`] makes the one
//! from the other (pure): it aligns character spans with tokens ([`tokens`]), labels them, and
//! takes edits of the whole text apart ([`diff`]), typography aside ([`fold`]). [`store`] keeps
//! records and receipts, [`images`] the files; [`corrections`] is the whole of it, `retention` what
//! goes again, [`mod@export`] writes records out and [`mod@import`] takes them in, in the forms of
//! [`interchange`]. [`queue`] says what annotators look at next, [`monitor`] what all of it says
//! about the scorer.

pub mod corrections;
pub mod derive;
pub mod diff;
pub mod export;
pub mod fold;
pub mod images;
pub mod import;
pub mod interchange;
pub mod monitor;
pub mod queue;
mod receipts;
pub mod record;
mod retention;
pub mod store;
pub mod submission;
pub mod tokens;

pub use corrections::Corrections;
