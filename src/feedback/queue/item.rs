//! Items of the annotation queue as annotators see them.

use serde::Serialize;

use crate::{
    feedback::{
        record::{RecordedChoice, ResponseToken},
        store::queue::Lease,
    },
    guard::{Span, Verdict, words},
    util::offsets::{ByteRange, CharRange},
};

/// Word of an answer. Offsets count Unicode code points of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueWord {
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Text of the word.
    pub text: String,
    /// Lowest calibrated reward of its tokens; absent if it was not scored and in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
    /// `true` if the guard flagged it; absent in unassisted items.
    #[serde(rename = "doubted", skip_serializing_if = "Option::is_none")]
    pub flagged: Option<bool>,
}

/// Answer for an annotator to judge. `POST /v1/feedback` with its `completion_id`, `choice` and
/// `annotator` closes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueItem {
    /// Id of the item in `/v1/queue/{id}/...`.
    pub id: String,
    /// Completion id.
    pub completion_id: String,
    /// Index of the answer among the completion's choices.
    pub choice: usize,
    /// Unix time of the completion.
    pub created: u64,
    /// The image, as a `data:` URL.
    pub image: String,
    /// The prompt; empty for a description.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Words of the answer.
    pub words: Vec<QueueWord>,
    /// `true` if the answer was drawn at random and is shown without rewards, marks and proposals:
    /// errors found in such answers estimate the guard's recall.
    pub unassisted: bool,
    /// Spans that the guard flagged, with its proposals; empty in unassisted items.
    pub spans: Vec<Span>,
    /// Verdict of the guard; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Threshold of the answer; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Unix time at which the lease ends and others may get the item.
    pub lease_expires: u64,
}

impl QueueItem {
    /// Makes the item of a leased answer; marks are left out of unassisted ones.
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
        let is_flagged = |word: CharRange| {
            spans.iter().any(|span| {
                span.is_still_low() && word.overlaps(CharRange::new(span.start, span.end))
            })
        };
        let letters: Vec<char> = response.chars().collect();
        let words = token_words(&response, &tokens)
            .into_iter()
            .map(|word| QueueWord {
                start: word.chars.start,
                end: word.chars.end,
                text: letters[word.chars.range()].iter().collect(),
                reward: word.reward.filter(|_| shown),
                flagged: shown.then(|| !word.function && is_flagged(word.chars)),
            });
        Self {
            id: lease.answer.to_string(),
            words: words.collect(),
            spans: if shown { spans } else { Vec::new() },
            verdict: shown.then_some(verdict),
            threshold: shown.then_some(threshold),
            completion_id: lease.answer.completion_id.clone(),
            choice: lease.answer.choice,
            created,
            image,
            prompt,
            response,
            unassisted: lease.unassisted,
            lease_expires: lease.expires,
        }
    }
}

/// Word of an answer with the rewards and probabilities of its tokens.
pub(in crate::feedback) struct TokenWord {
    /// Bytes in the answer.
    pub(in crate::feedback) bytes: ByteRange,
    /// Code points in the answer.
    pub(in crate::feedback) chars: CharRange,
    /// `true` if it is a function word, which claims nothing about the image.
    pub(in crate::feedback) function: bool,
    /// Lowest reward of its tokens; `None` if one has none.
    pub(in crate::feedback) reward: Option<f32>,
    /// Lowest probability of its tokens; `None` if one has none.
    pub(in crate::feedback) probability: Option<f32>,
}

/// Returns the words of an answer, in order.
pub(in crate::feedback) fn token_words(response: &str, tokens: &[ResponseToken]) -> Vec<TokenWord> {
    let (_, words) = words::words([response.as_bytes()], &[]);
    let lowest = |tokens: &[ResponseToken], value: fn(&ResponseToken) -> Option<f32>| {
        tokens
            .iter()
            .try_fold(f32::INFINITY, |lowest, token| {
                value(token).map(|v| lowest.min(v))
            })
            .filter(|v| v.is_finite())
    };
    let word = |word: words::Word| {
        let chars = CharRange::from(word.chars);
        let own = &tokens[chars.to_tokens(tokens, ResponseToken::chars).range()];
        TokenWord {
            reward: lowest(own, |t| t.reward),
            probability: lowest(own, |t| t.logprob).map(f32::exp),
            function: word.function,
            bytes: word.bytes.into(),
            chars,
        }
    };
    words.into_iter().map(word).collect()
}
