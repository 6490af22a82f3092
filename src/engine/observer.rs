//! Measurements of the engine.

use std::time::Duration;

use super::LoadReader;

/// Receives measurements of all decoding, sent to a client or not. Called on the engine's thread,
/// between and within steps: implementations must return quickly.
pub trait Observer: Send + Sync {
    /// Called once, when the engine starts, with a reader of its load.
    fn started(&self, load: LoadReader) {
        let _ = load;
    }

    /// Called when the engine begins to read a prompt: its positions, and how many of them the
    /// cache already had.
    fn prompt(&self, positions: usize, cached: usize) {
        let _ = (positions, cached);
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

    /// Called when the scorer failed in a step, with the answers that it was to score.
    fn scorer_failed(&self, answers: usize) {
        let _ = answers;
    }
}

/// Ignores all measurements.
impl Observer for () {}
