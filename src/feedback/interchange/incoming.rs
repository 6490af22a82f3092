//! What a row of a file says.

use crate::feedback::{
    record::{Feedback, ImageHash, Source},
    submission::Submission,
};

/// Something to take in.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// A record as it was.
    Record(Box<Feedback>, Option<Vec<u8>>),
    /// What somebody said, to be made a record of.
    Said(Box<Submission>, Picture),
}

/// The image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// The file.
    File(Vec<u8>),
    /// Its name; the file is elsewhere.
    Named(ImageHash),
}

impl Picture {
    /// Its name.
    pub fn hash(&self) -> ImageHash {
        match self {
            Self::File(file) => ImageHash::of(file),
            Self::Named(hash) => *hash,
        }
    }
}

/// A submission from a file about an answer to `prompt`.
pub(super) fn said(prompt: String, response: String) -> Submission {
    Submission { prompt: Some(prompt), response: Some(response), source: Some(Source::Import), ..Submission::default() }
}
