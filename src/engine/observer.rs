//! Measurements of the engine.

use std::time::Duration;

/// Receives measurements of all decoding, sent to a client or not. Called on the engine's thread,
/// between and within steps: implementations must return quickly.
pub trait Observer: Send + Sync {
    /// Called after every step and when the engine becomes idle: running sequences, waiting
    /// requests, share of the KV cache in use (0 to 1).
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        let _ = (running, waiting, kv_usage);
    }

    /// Called for each token of an answer, with the time since the previous one (`None` for the
    /// first).
    fn token(&self, gap: Option<Duration>) {
        let _ = gap;
    }

    /// Called with the rewards of a step's tokens, those of repair candidates included; `took` is
    /// the scorer's time in this step, prompts included.
    fn scored(&self, rewards: &[f32], took: Duration) {
        let _ = (rewards, took);
    }
}

/// Ignores all measurements.
impl Observer for () {}
