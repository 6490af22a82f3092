//! Requests, events and errors of the engine.

use std::sync::Arc;

use super::{AnswerObserver, fair::Share};
use crate::{
    guard::{self, abstain::AnswerGate, question::Unanswerable},
    reward::{ReaderPrompt, finish::Finisher},
    vlm::prompt::{ImageFeatures, Prompt},
};

/// Sampling parameters, with OpenAI's names and ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Softmax temperature; 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling: the smallest set of tokens with this total probability; 1 is all.
    pub top_p: f64,
    /// Sampling among the `k` most likely tokens only.
    pub top_k: Option<usize>,
    /// Seed of the sequence's random generator.
    pub seed: u64,
    /// Subtracted from the logit of every token already written.
    pub presence_penalty: f32,
    /// Subtracted from the logit once for each time the token was written.
    pub frequency_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            seed: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

/// Guard settings of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardParams {
    /// Guard mode.
    pub mode: guard::Mode,
    /// Reward thresholds below which words are flagged.
    pub thresholds: guard::Thresholds,
    /// Target share of correct words that are flagged, if set: the threshold is derived from it
    /// once the image's familiarity is known.
    pub target_fpr: Option<f32>,
    /// Most tokens that repairs may decode beyond the answer's own.
    pub max_attempts: usize,
    /// Closed words that are held back so that repairs can reach them.
    pub window: usize,
    /// Handling of words that stay flagged after repair; if it rewrites the answer, nothing is sent
    /// before the end.
    pub on_exhausted: guard::OnExhausted,
    /// Handling of unanswerable questions.
    pub on_unanswerable: guard::OnUnanswerable,
    /// Probability of being right below which a short answer is withheld.
    pub abstain_below: f32,
}

impl GuardParams {
    /// Default of [`Self::max_attempts`].
    pub const MAX_ATTEMPTS: usize = 50;

    /// Default of [`Self::window`]: as good as the whole answer on the tuning half of Flickr8k's
    /// development split.
    pub const WINDOW: usize = 3;

    /// Creates settings with one threshold for all words, which hold repairable answers back until
    /// the end.
    pub fn new(mode: guard::Mode, threshold: f32) -> Self {
        Self {
            mode,
            thresholds: threshold.into(),
            target_fpr: None,
            max_attempts: Self::MAX_ATTEMPTS,
            window: usize::MAX,
            on_exhausted: guard::OnExhausted::Flag,
            on_unanswerable: guard::OnUnanswerable::Answer,
            abstain_below: 0.5,
        }
    }

    /// Applies the threshold measured for [`Self::target_fpr`] at the image's familiarity, if there
    /// is one.
    pub fn with_image_threshold(mut self, finisher: Option<&Finisher>) -> Self {
        let measured = finisher
            .zip(self.target_fpr)
            .and_then(|(finisher, target)| finisher.threshold_for_fpr(target.into()));
        self.thresholds.common = measured.unwrap_or(self.thresholds.common);
        self
    }
}

/// A generation request for one sequence.
#[derive(Debug, Clone)]
pub struct Request {
    /// Id of the completion, for logs.
    pub id: Arc<str>,
    /// Competitor and weight.
    pub share: Share,
    /// Index among the sequences of its completion; later ones are queued behind other requests of
    /// the same competitor.
    pub rank: usize,
    /// Encoded images that the prompt shows.
    pub images: Vec<ImageFeatures>,
    /// Adjusts rewards by image evidence, if the model provides it.
    pub finisher: Option<Arc<Finisher>>,
    /// Prompt, template applied.
    pub prompt: Arc<Prompt>,
    /// Image and prompt for a scorer that reads the text with a model of its own.
    pub reader: Option<Arc<ReaderPrompt>>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Stop strings; they end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Alternatives to report with each token's log-probability; `None` reports no
    /// log-probabilities.
    pub top_logprobs: Option<usize>,
    /// Guard settings.
    pub guard: GuardParams,
    /// Reason to abstain without decoding.
    pub unanswerable: Option<Unanswerable>,
    /// Gate that may withhold a short answer.
    pub gate: Option<Arc<AnswerGate>>,
    /// Receiver of the answer's phases; without one their times are not taken.
    pub observer: Option<Arc<dyn AnswerObserver>>,
}

/// A token with its log-probability at temperature 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Vocabulary id.
    pub id: u32,
    /// Bytes of the token's text.
    pub bytes: Vec<u8>,
    /// Natural-log probability; NaN if the request asked for none.
    pub logprob: f32,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// The token itself.
    pub token: Alternative,
    /// Most likely tokens at its position, best first.
    pub top: Vec<Alternative>,
    /// Calibrated reward, if it was scored.
    pub reward: Option<f32>,
}

/// Reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End of sequence or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The guard blocked it.
    ContentFilter,
}

/// Event of a request. A channel that closes without `Finished` or `Failed` means that the engine
/// stopped.
#[derive(Debug, Clone)]
pub enum Event {
    /// A piece of the answer; the concatenation of all `text` is the answer.
    Delta {
        /// Whole words, except at the end: an open word is held back until it is scored.
        text: String,
        /// Tokens of this text; every token of the answer appears in exactly one delta.
        tokens: Vec<GeneratedToken>,
        /// Spans that end in this text; they may start in earlier text.
        spans: Vec<guard::Span>,
        /// Number of tokens in low-reward words; 0 in modes that flag none.
        flagged_tokens: usize,
    },
    /// The answer is complete.
    Finished {
        /// Reason for the end.
        reason: FinishReason,
        /// Tokens of the prompt, image positions included.
        prompt_tokens: usize,
        /// Tokens of all deltas, without the end-of-sequence token and tokens of a stop string
        /// alone.
        completion_tokens: usize,
        /// Guard report; `None` in mode `off`.
        guard: Option<guard::GuardReport>,
    },
    /// The request failed; no event follows.
    Failed(EngineError),
}

/// Reasons why the engine refuses or fails a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The waiting queue is full.
    #[error(
        "the server is at capacity ({waiting} requests are waiting); retry in {retry_after_s} s"
    )]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// Estimated time until a slot in the queue is free, in seconds.
        retry_after_s: u64,
    },
    /// The engine cannot serve this request.
    #[error("{0}")]
    Invalid(String),
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, image included; the model's context is \
         {context_len}"
    )]
    PromptTooLong {
        /// Prompt length in tokens, image included.
        prompt_tokens: usize,
        /// Context length of the model.
        context_len: usize,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The scorer failed and `guard.on_error` is `fail_closed`.
    #[error("the scorer failed: {0}")]
    Scorer(String),
    /// A tensor operation failed.
    #[error("the model failed: {0}")]
    Model(String),
}
