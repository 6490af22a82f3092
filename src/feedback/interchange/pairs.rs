//! A record as two texts: one that somebody preferred to the other.

use super::incoming::{IncomingRecord, RowImage, said};
use crate::feedback::{
    record::{Feedback, JudgedPart},
    submission::{Judgment, Submission},
};

/// A prompt and two answers.
pub(super) struct PreferencePair {
    pub(super) prompt: String,
    pub(super) chosen: String,
    pub(super) rejected: String,
}

impl PreferencePair {
    /// `None` where there are no two: nothing is wrong, or nobody said what is right. Where only
    /// the first error was looked for, both texts end with it, because nobody judged what follows.
    pub(super) fn of(record: &Feedback) -> Option<Self> {
        let first = record.errors.first()?;
        let prompt = record.prompt.clone();
        if record.scope == Some(JudgedPart::FirstError) {
            let correction = first.correction.as_ref()?;
            let (chosen, rejected) = (
                first.partial_caption.clone() + correction,
                first.partial_caption.clone() + &first.text,
            );
            return Some(Self {
                prompt,
                chosen,
                rejected,
            });
        }
        Some(Self {
            prompt,
            chosen: record.corrected()?,
            rejected: record.response.clone(),
        })
    }

    /// The segments in which the two differ are the errors; where they do not, all is right.
    pub(super) fn said(self, picture: RowImage) -> IncomingRecord {
        let submission = said(self.prompt, self.rejected);
        let same = submission.response.as_ref() == Some(&self.chosen);
        let submission = if same {
            Submission {
                label: Some(Judgment::Good),
                ..submission
            }
        } else {
            Submission {
                edit: Some(self.chosen),
                ..submission
            }
        };
        IncomingRecord::Said(Box::new(submission), picture)
    }
}
