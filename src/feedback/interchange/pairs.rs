//! A record as two texts: one that somebody preferred to the other.

use super::incoming::{Incoming, Picture, said};
use crate::feedback::{
    record::{Feedback, Scope},
    submission::{Judgement, Submission},
};

/// A prompt and two answers.
pub(super) struct Pair {
    pub(super) prompt: String,
    pub(super) chosen: String,
    pub(super) rejected: String,
}

impl Pair {
    /// `None` where there are no two: nothing is wrong, or nobody said what is right. Where only
    /// the first error was looked for, both texts end with it, because nobody judged what follows.
    pub(super) fn of(record: &Feedback) -> Option<Self> {
        let first = record.errors.first()?;
        let prompt = record.prompt.clone();
        if record.scope == Some(Scope::FirstError) {
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
    pub(super) fn said(self, picture: Picture) -> Incoming {
        let submission = said(self.prompt, self.rejected);
        let same = submission.response.as_ref() == Some(&self.chosen);
        let submission = if same {
            Submission {
                label: Some(Judgement::Good),
                ..submission
            }
        } else {
            Submission {
                edit: Some(self.chosen),
                ..submission
            }
        };
        Incoming::Said(Box::new(submission), picture)
    }
}
