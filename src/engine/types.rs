//! What goes into the engine and what comes out.

use std::sync::Arc;

use candle_core::Tensor;

use super::fair::Share;
use crate::{
    guard::{self, abstain::AnswerGate, question::Unanswerable},
    reward::finish::Finisher,
};

/// How to choose the next token. Field names and ranges are OpenAI's.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Smallest set of tokens whose probability reaches this; 1 is all.
    pub top_p: f64,
    /// Only the `k` most likely tokens.
    pub top_k: Option<usize>,
    /// Seed of this sequence's own generator.
    pub seed: u64,
    /// Subtracted from the logit of every token already written.
    pub presence_penalty: f32,
    /// Subtracted once for each time that the token was written.
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

/// What the guard should do for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardParams {
    /// The mode.
    pub mode: guard::Mode,
    /// Words with a reward below theirs are doubted.
    pub thresholds: guard::Thresholds,
    /// The share of right words that they are to flag, where that was asked for: thresholds follow
    /// from it once the photograph is known.
    pub target_fpr: Option<f32>,
    /// Most tokens that repairs may decode beyond the answer's own.
    pub max_attempts: usize,
    /// Words that are held back beside the open one, for repairs to reach.
    pub window: usize,
    /// What is done about words that stay doubted; nothing is shown before the end where that may
    /// change the answer.
    pub on_exhausted: guard::OnExhausted,
    /// What is done about questions that cannot be answered.
    pub on_unanswerable: guard::OnUnanswerable,
    /// Probability of being right below which a short answer is withheld.
    pub abstain_below: f32,
}

impl GuardParams {
    /// Tokens that repairs may decode where nothing else is asked for.
    pub const MAX_ATTEMPTS: usize = 50;

    /// Words that are held back where nothing else is asked for: on the tuning half of Flickr8k's
    /// development split as good as the whole answer.
    pub const WINDOW: usize = 3;

    /// One threshold for all words, and nothing shown before the end where words are repaired.
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

    /// Returns these with the threshold that flags the wanted share of right words about a
    /// photograph, where one was measured for its familiarity.
    pub fn about(mut self, photograph: Option<&Finisher>) -> Self {
        let measured = photograph
            .zip(self.target_fpr)
            .and_then(|(finisher, target)| finisher.threshold_for_fpr(target.into()));
        self.thresholds.common = measured.unwrap_or(self.thresholds.common);
        self
    }
}

/// One sequence to write.
#[derive(Debug, Clone)]
pub struct Request {
    /// The completion's id, for logs.
    pub id: Arc<str>,
    /// Who competes for the engine with it.
    pub share: Share,
    /// Its number among the sequences of its completion: others of the same competitor go before
    /// all but the first few.
    pub rank: usize,
    /// Encoded image, `(image_tokens, channels)`.
    pub image: Tensor,
    /// What finishes the rewards of its answer, where the model has evidence of what the image
    /// shows.
    pub finisher: Option<Arc<Finisher>>,
    /// The prompt's tokens, template applied.
    pub prompt: Vec<u32>,
    /// Most tokens to write.
    pub max_tokens: usize,
    /// Strings that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Choice of tokens.
    pub sampling: Sampling,
    /// How many alternatives to report with each token's log-probability; `None`: no
    /// log-probabilities at all.
    pub top_logprobs: Option<usize>,
    /// The guard.
    pub guard: GuardParams,
    /// Why nothing is to be written: the answer is that it cannot be told.
    pub unanswerable: Option<Unanswerable>,
    /// What decides whether a short answer is given, where that is not certain.
    pub gate: Option<Arc<AnswerGate>>,
}

/// A token with its log-probability under the untempered distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Vocabulary id.
    pub id: u32,
    /// The bytes that it stands for.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; NaN when the request asked for none.
    pub logprob: f32,
}

/// A written token.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// The token itself.
    pub token: Alternative,
    /// The most likely tokens in its place, best first.
    pub top: Vec<Alternative>,
    /// Its calibrated reward, where it was scored.
    pub reward: Option<f32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End of sequence or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The guard blocked it.
    ContentFilter,
}

/// What the engine sends while it writes. A channel that closes without `Finished` or `Failed`
/// means that the engine was stopped.
#[derive(Debug, Clone)]
pub enum Event {
    /// More of the answer. The concatenation of all `text` is the answer.
    Delta {
        /// Whole words only, except at the end: the open word is held back until it is scored.
        text: String,
        /// The tokens of this text; every token of the answer appears in exactly one delta.
        tokens: Vec<GeneratedToken>,
        /// Spans that this text closes; they may begin in earlier text.
        spans: Vec<guard::Span>,
        /// How many of the tokens are of low-reward words; 0 in modes that mark none.
        flagged_tokens: usize,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens of the prompt, image positions included.
        prompt_tokens: usize,
        /// Tokens of the answer: those of all deltas, so neither the end-of-sequence token nor
        /// tokens of a stop string alone.
        completion_tokens: usize,
        /// `None` in mode `off`.
        guard: Option<guard::GuardReport>,
    },
    /// The request failed; nothing follows.
    Failed(EngineError),
}

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The waiting queue is at its bound.
    #[error(
        "the server is at capacity ({waiting} requests are waiting); retry in {retry_after_s} s"
    )]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// When a place is likely.
        retry_after_s: u64,
    },
    /// The request asks for what this engine cannot do.
    #[error("{0}")]
    Invalid(String),
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, image included; the model's context is \
         {context_len}"
    )]
    PromptTooLong {
        /// Its length.
        prompt_tokens: usize,
        /// The model's.
        context_len: usize,
    },
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The scorer failed and `guard.on_error` is `fail_closed`.
    #[error("the scorer failed: {0}")]
    Scorer(String),
    /// A tensor operation failed.
    #[error("the model failed: {0}")]
    Model(String),
}
