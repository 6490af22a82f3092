//! The per-token reward model: how sure are we that a written token is grounded in the image?
//!
//! `r_t` in `[0, 1]` is the calibrated probability that response token `t` is supported by the
//! image, given image, prompt and the response up to and including `t`. 1 is good.

pub mod answers;
pub mod calibration;
pub mod calibrator;
pub mod detached;
pub mod drift;
pub mod evidence;
pub mod familiarity;
pub mod finish;
pub mod logistic;
pub mod matching;
pub mod probe;
pub mod scorer;
mod stored;
#[cfg(test)]
pub(crate) mod testing;
pub mod thresholds;
pub mod word_features;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::vlm::{KvCache, Row};

/// Kind of scorer, by its name in files and configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Head on the policy's hidden states; see [`probe`].
    Probe,
    /// Network of its own; see [`detached`].
    Detached,
}

impl RewardKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Probe, Self::Detached];

    /// Returns its name in files and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Detached => "detached",
        }
    }
}

/// A scorer that follows the decoder step by step.
///
/// It is shown exactly the rows that the policy was given, with the policy's hidden states for
/// them, and answers one reward a text token. A scorer with a network of its own keeps its own
/// cache, which the engine rolls back together with the policy's.
pub trait TokenReward: Send + Sync {
    /// `probe`, `detached`, ...: what `reward.kind` selects.
    fn kind(&self) -> &'static str;

    /// The scorer's own cache, when it has a network that needs one.
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<Option<KvCache>>;

    /// Calibrated rewards of every text token of `rows`, in their order. `hidden` is
    /// `(text tokens, hidden_features)` from the policy's step over the same rows;
    /// `log_probabilities` says how likely the policy found each of those tokens (0 for prompts,
    /// which it did not write); `cache` is what [`Self::new_cache`] made.
    fn score(
        &self,
        rows: &[Row<'_>],
        hidden: &Tensor,
        log_probabilities: &[f32],
        cache: Option<&mut KvCache>,
    ) -> Result<Vec<f32>>;
}
