//! What the engine tells those who count.

use std::time::Duration;

use super::{EngineError, FinishReason};
use crate::guard::Report;

/// Receives what happens in the engine. Called on the engine's own thread, between and within steps: implementations count and return.
pub trait Observer: Send + Sync {
    /// After every step and when the engine falls idle: sequences that run, requests that wait, share of the cache in use (0 to 1).
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        let _ = (running, waiting, kv_usage);
    }

    /// A request's first delta went out, this long after it was submitted.
    fn first_delta(&self, after: Duration) {
        let _ = after;
    }

    /// A sequence got a token, this long after its previous one (`None`: its first).
    fn token(&self, gap: Option<Duration>) {
        let _ = gap;
    }

    /// A step's response tokens were scored; `took` is the scorer's time in this step, prompts included.
    fn scored(&self, rewards: &[f32], took: Duration) {
        let _ = (rewards, took);
    }

    /// An answer is complete.
    fn finished(&self, outcome: &Outcome<'_>) {
        let _ = outcome;
    }

    /// An accepted request failed.
    fn failed(&self, error: &EngineError) {
        let _ = error;
    }

    /// A request's client left before its answer was complete.
    fn cancelled(&self) {}
}

/// Nobody counts.
impl Observer for () {}

/// A complete answer, for counting.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt, image positions included.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Of these, tokens of doubted words; 0 in modes that doubt nothing.
    pub doubted_tokens: usize,
    /// From submission to now.
    pub elapsed: Duration,
    /// The guard's report; `None` in mode `off`.
    pub guard: Option<&'a Report>,
}
