//! Contents of a row of a file.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::feedback::{
    record::{Feedback, FeedbackSource, ImageHash},
    submission::Submission,
};

/// Something to take in.
#[derive(Debug, Clone, PartialEq)]
pub enum IncomingRecord {
    /// A record as it was.
    Record(Box<Feedback>, Option<Vec<u8>>),
    /// A submission, to be made a record of.
    Said(Box<Submission>, RowImage),
    /// Something of the row that no record keeps: its name, for all rows alike.
    LeftOut(String),
    /// Nothing was said: somebody passed the row over.
    Skipped,
}

/// The image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowImage {
    /// The file.
    File(Vec<u8>),
    /// Its SHA-256; the file is elsewhere.
    Named(ImageHash),
    /// Place of the file, for whoever wrote the row.
    At(String),
}

impl RowImage {
    /// A text that is a `data:` URL, or else says where the file is.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        match text.strip_prefix("data:") {
            Some(url) => Some(Self::File(
                BASE64_STANDARD.decode(url.split_once(";base64,")?.1).ok()?,
            )),
            None => (!text.trim().is_empty()).then(|| Self::At(text.to_owned())),
        }
    }
}

/// A submission from a file about an answer to `prompt`.
pub(super) fn said(prompt: String, response: String) -> Submission {
    Submission {
        prompt: Some(prompt),
        response: Some(response),
        source: Some(FeedbackSource::Import),
        ..Submission::default()
    }
}
