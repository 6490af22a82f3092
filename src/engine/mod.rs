//! Inference engine with continuous batching, on one thread.
//!
//! Requests enter through a bounded queue, join the batch between two steps, and leave as soon as
//! they are finished or their client disconnects. [`Engine::start`] starts the thread; an
//! [`EngineHandle`] submits [`Request`]s and returns an [`EventStream`] for each.
//!
//! A step computes one token of each answer and parts of the prompts that are not read yet, so that
//! a long prompt delays nobody for long. A token's reward is computed by the step that feeds the
//! token, one step after it was sampled, or some steps later together with others'. Scored text is
//! therefore sent at least one word late, and an answer may need one extra step.

mod answer;
mod batch;
pub mod fair;
mod handle;
mod images;
#[cfg(test)]
mod lifecycle_tests;
mod observer;
mod partial_answer;
mod phases;
mod prefill;
mod repair;
mod room;
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

use crate::vlm::kv_cache::KvShape;

pub(crate) use batch::DECODED_TOKEN_WORK;
pub use handle::{EngineHandle, EventStream, Health, Load, LoadReader, Reservation};
pub use images::{CacheScope, DecodeMemory, EncodedImage, EncodingError, ImageCache};
pub use observer::Observer;
pub use phases::{AnswerObserver, AnswerOutcome, AnswerPhases, RepairPhase, ScoringPhase};
pub(crate) use sampler::Sampler;
pub use scheduler::Engine;
pub use types::{
    Alternative, EngineError, Event, FinishReason, GeneratedToken, GuardParams, Request, Sampling,
};

/// Policy for answers whose scorer fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Fail the request.
    #[default]
    FailClosed,
    /// Finish the answer with verdict `unscored`.
    FailOpen,
}

/// Limits and policies of the engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// Sequences in the batch. An eighth more is reserved for competitors below their share.
    pub max_batch: usize,
    /// Requests that may wait for the batch. [`Self::max_batch`] more are reserved for competitors
    /// below their share.
    pub max_waiting: usize,
    /// Most positions of a sequence, image included; capped at the model's own context.
    pub context_len: usize,
    /// Most prompts that a step reads (parts of), and most requests that join before it.
    pub max_prefills: usize,
    /// Most positions of prompts that a step reads while answers are being written, which wait for
    /// it; otherwise a step reads four times as many. `None` to measure how many keep a step short.
    /// An image whose positions attend to each other is never divided.
    pub prefill_chunk: Option<usize>,
    /// Weights of the ranking of repair candidates.
    pub repair: crate::guard::repair::RankingWeights,
    /// Policy for answers whose scorer fails.
    pub on_error: OnError,
    /// `true` to serve competitors with unlike demands in separate steps. Useful where step time
    /// grows with the rows (CPU): a single answer then does not wait for another competitor's many.
    pub takes_turns: bool,
    /// Most memory of the key/value cache in bytes; running sequences share it.
    pub kv_bytes: u64,
    /// Receiver of measurements.
    pub observer: Arc<dyn Observer>,
}

impl EngineConfig {
    /// Returns the most bytes that the key/value caches of a model of `context` positions and of
    /// its scorer take; `scorer` is the bytes that a position takes in the latter.
    pub fn cache_bytes(&self, kv: &KvShape, context: usize, scorer: Option<u64>) -> u64 {
        let sequences = self.max_batch + self.max_batch.div_ceil(8);
        let slots = sequences * batch::slots_each(scorer.is_some(), self.repair);
        let context = context.min(self.context_len);
        let positions = batch::kv_positions(kv, slots, context, self.kv_bytes) as u64;
        let each = (kv.position_bytes() as u64).saturating_add(scorer.unwrap_or(0));
        positions.saturating_mul(each)
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_waiting: 64,
            context_len: usize::MAX,
            max_prefills: 4,
            prefill_chunk: None,
            repair: crate::guard::repair::RankingWeights::default(),
            on_error: OnError::FailClosed,
            takes_turns: true,
            kv_bytes: u64::MAX,
            observer: Arc::new(()),
        }
    }
}
