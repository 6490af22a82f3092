//! What the engine tells those who count.

use std::time::Duration;

/// Receives what happens in the engine, whether it is shown to anybody or not: who shows answers
/// counts those. Called on the engine's own thread, between and within steps: implementations count
/// and return.
pub trait Observer: Send + Sync {
    /// After every step and when the engine falls idle: sequences that run, requests that wait,
    /// share of the cache in use (0 to 1).
    fn load(&self, running: usize, waiting: usize, kv_usage: f64) {
        let _ = (running, waiting, kv_usage);
    }

    /// A sequence got a token, this long after its previous one (`None`: its first).
    fn token(&self, gap: Option<Duration>) {
        let _ = gap;
    }

    /// A step's response tokens were scored, those of versions that are tried among them; `took` is
    /// the scorer's time in this step, prompts included.
    fn scored(&self, rewards: &[f32], took: Duration) {
        let _ = (rewards, took);
    }
}

/// Nobody counts.
impl Observer for () {}
