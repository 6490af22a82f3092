//! Feedback: people's corrections of answers, kept as token-level training records.
//!
//! A [`submission`] arrives; [`derive`] (pure) turns it into a [`record`]: it aligns error spans
//! with tokens ([`tokens`]), labels every token, and splits an edit of the whole text into changes
//! ([`diff`]), typography aside ([`fold`]). [`store`] keeps records and receipts of completions,
//! [`images`] the files, `retention` removes them again; [`corrections`] ties these together.
//! [`mod@export`] and [`mod@import`] read and write files in the formats of [`interchange`].
//! [`queue`] picks the answers that annotators see next, and [`monitor`] measures the scorer by
//! people's judgments.

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
