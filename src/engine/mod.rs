//! The engine: one task owns the running batch.
//!
//! Requests enter through a bounded queue, join the batch between two steps, and leave as soon as
//! they are finished or nobody listens any more. The task is a thread of its own, because its steps
//! compute. [`Engine::start`] starts it, an [`EngineHandle`] hands it [`Request`]s, and each is
//! answered by an [`EventStream`].
//!
//! A token's reward comes out of the step that feeds the token, one step after the one that chose
//! it. So text is shown a word later than it is written where it is scored, and an answer that ends
//! without an end-of-sequence token takes one step more.

mod answer;
mod batch;
pub mod fair;
mod handle;
mod images;
#[cfg(test)]
mod lifecycle_tests;
mod observer;
mod partial_answer;
mod repair;
mod sampler;
mod scheduler;
mod sequence;
mod stop;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod track;
mod types;
mod versions;
mod vocabulary;

use std::sync::Arc;

pub(crate) use batch::WRITTEN;
pub use handle::{EngineHandle, EventStream, Health, Reservation};
pub use images::{CacheScope, DecodeMemory, EncodedImage, EncodingError, ImageCache};
pub use observer::Observer;
pub use scheduler::Engine;
pub use types::{
    Alternative, EngineError, Event, FinishReason, GeneratedToken, GuardParams, Request, Sampling,
};

/// What happens to an answer whose scorer fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The request fails.
    #[default]
    FailClosed,
    /// The answer is finished and its verdict is `unscored`.
    FailOpen,
}

/// The engine's bounds.
#[derive(Clone)]
pub struct EngineConfig {
    /// Sequences that run at once. An eighth as many again may, of competitors that have less than
    /// their share of them.
    pub max_batch: usize,
    /// Requests that may wait for a place in the batch. [`Self::max_batch`] more may, of
    /// competitors that have less than their share of the places.
    pub max_waiting: usize,
    /// Positions that a sequence can have, image included; at most the model's own.
    pub context_len: usize,
    /// Sequences that may join in one step: reading a prompt takes far longer than a decode, and
    /// the running ones wait for it.
    pub max_prefills: usize,
    /// How doubted words are written again.
    pub repair: crate::guard::repair::RankingWeights,
    /// What happens to an answer whose scorer fails.
    pub on_error: OnError,
    /// Whether competitors of unlike demands take turns of steps, and do not share each. Right
    /// where a step's time grows with its rows (a CPU): the answer of one then does not wait for
    /// the many of another.
    pub takes_turns: bool,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_waiting: 64,
            context_len: usize::MAX,
            max_prefills: 4,
            repair: crate::guard::repair::RankingWeights::default(),
            on_error: OnError::FailClosed,
            takes_turns: true,
            observer: Arc::new(()),
        }
    }
}
