//! Items that annotators are shown.

use serde::Serialize;

use super::words::token_words;
use crate::{
    feedback::{record::RecordedChoice, store::queue::Lease},
    guard::{Span, Verdict},
};

/// A word of the answer, to be pointed at. Offsets count Unicode code points of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueWord {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// The word.
    pub text: String,
    /// Its calibrated reward; absent when it was not scored and in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
    /// Indicates whether the guard flagged it; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubted: Option<bool>,
}

/// An answer for an annotator to judge: by `POST /v1/feedback` with its `completion_id`, `choice`
/// and `annotator`, which closes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueItem {
    /// The item's name in `/v1/queue/{id}/...`.
    pub id: String,
    /// The completion.
    pub completion_id: String,
    /// Which of its answers.
    pub choice: usize,
    /// When the answer was written, in Unix time.
    pub created: u64,
    /// The image, as a `data:` URL.
    pub image: String,
    /// The prompt; empty for a description.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Its words.
    pub words: Vec<QueueWord>,
    /// Drawn by chance, and shown without rewards, marks and proposals: what people find in such
    /// answers estimates the guard's recall.
    pub unassisted: bool,
    /// Spans that the guard flagged, with what it would write instead; empty in unassisted items.
    pub spans: Vec<Span>,
    /// The guard's conclusion; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The threshold that was in force; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Unix time after which somebody else may get it.
    pub lease_expires: u64,
}

impl QueueItem {
    /// Makes the item that `lease` shows of an answer.
    pub fn new(
        lease: &Lease,
        created: u64,
        prompt: String,
        answer: RecordedChoice,
        image: String,
    ) -> Self {
        let RecordedChoice {
            response,
            tokens,
            verdict,
            threshold,
            spans,
            ..
        } = answer;
        let shown = !lease.unassisted;
        let in_span = |start, end| {
            spans
                .iter()
                .any(|span| span.is_doubted() && span.start < end && start < span.end)
        };
        let letters: Vec<char> = response.chars().collect();
        let words = token_words(&response, &tokens)
            .into_iter()
            .map(|word| QueueWord {
                start: word.chars.start,
                end: word.chars.end,
                text: letters[word.chars.clone()].iter().collect(),
                reward: word.reward.filter(|_| shown),
                doubted: shown.then(|| !word.function && in_span(word.chars.start, word.chars.end)),
            });
        Self {
            id: lease.place.to_string(),
            words: words.collect(),
            spans: if shown { spans } else { Vec::new() },
            verdict: shown.then_some(verdict),
            threshold: shown.then_some(threshold),
            completion_id: lease.place.completion_id.clone(),
            choice: lease.place.choice,
            created,
            image,
            prompt,
            response,
            unassisted: lease.unassisted,
            lease_expires: lease.expires,
        }
    }
}
