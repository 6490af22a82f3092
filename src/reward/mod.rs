//! The per-token reward model: an estimate of how certainly a token is grounded in the image.
//!
//! The reward `r_t` in `[0, 1]` is the calibrated probability that response token `t` is supported
//! by the image, given the image, the prompt and the response up to and including `t`.

pub mod answers;
pub mod calibration;
pub mod drift;
pub mod evidence;
pub mod finish;
pub mod logistic;
pub mod probe;
pub mod scorer;
pub mod standalone;
#[cfg(test)]
pub(crate) mod testing;
pub mod thresholds;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::vlm::{KvCache, Row};

/// Kind of scorer, by its name in files and configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Head on the policy's hidden states; see [`probe`].
    Probe,
    /// Standalone scorer, a network of its own; see [`standalone`].
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

/// Scorer that follows the decoder step by step.
///
/// It receives exactly the rows that the policy received, with the policy's hidden states for them,
/// and returns one reward per text token. A scorer with a network of its own keeps its own cache,
/// which the engine rolls back together with the policy's.
pub trait TokenReward: Send + Sync {
    /// Returns the name by which `reward.kind` selects the scorer: `probe`, `detached`, ...
    fn kind(&self) -> &'static str;

    /// Creates the scorer's own cache, if its network needs one.
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<Option<KvCache>>;

    /// Returns the calibrated reward of every text token of `rows`, in order. `hidden` is `(text
    /// tokens, hidden_features)`, from the policy's step over the same rows; `log_probabilities`
    /// are those of the tokens under the policy (0 for prompts, which it did not generate); `cache`
    /// comes from [`Self::new_cache`].
    fn score(
        &self,
        rows: &[Row<'_>],
        hidden: &Tensor,
        log_probabilities: &[f32],
        cache: Option<&mut KvCache>,
    ) -> Result<Vec<f32>>;
}
