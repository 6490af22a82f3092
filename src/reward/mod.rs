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
pub mod reader;
pub mod scorer;
pub mod standalone;
#[cfg(test)]
pub(crate) mod testing;
pub mod thresholds;

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::vlm::{
    Row,
    prompt::{ImageFeatures, Prompt},
};

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

/// Reading of one token that will not change any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenReading {
    /// Calibrated reward, 0 to 1.
    pub reward: f32,
    /// Log-probability of the token under the scorer's own model, if it reads the text with one;
    /// otherwise the policy's counts.
    pub log_probability: Option<f32>,
}

impl TokenReading {
    /// Returns the reading of a token whose log-probability is the policy's.
    pub(crate) fn of_policy(reward: f32) -> Self {
        Self {
            reward,
            log_probability: None,
        }
    }
}

/// Image and prompt for a scorer that reads the text with a model of its own.
#[derive(Debug, Clone)]
pub struct ReaderPrompt {
    /// Prompt in the tokens of the scorer's model.
    pub prompt: Prompt,
    /// Image, encoded by the scorer's tower.
    pub image: ImageFeatures,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct ScoredRow<'a> {
    /// The row that the policy received; without tokens if the text ended before.
    pub row: Row<'a>,
    /// Number of leading wanted tokens of the row that belong to the prompt and are not judged.
    pub unjudged: usize,
    /// Log-probability under the policy of each wanted token; 0 for the prompt's.
    pub log_probabilities: &'a [f32],
    /// Bytes of each judged token.
    pub bytes: &'a [&'a [u8]],
    /// `true` if the text ends with this row.
    pub ends: bool,
    /// `true` if what is written next depends on the readings. Others may come some tokens late.
    pub at_once: bool,
    /// Image and prompt for scorers with a model of their own.
    pub reader: Option<&'a Arc<ReaderPrompt>>,
}

/// Tokens that may wait for their readings where nobody needs these at once: read together, they
/// cost little more than one.
const LATE: usize = 32;

impl ScoredRow<'_> {
    /// Returns `true` if `unread` tokens, those of this row included, may wait no longer.
    fn is_due(&self, unread: usize) -> bool {
        unread > 0 && (self.at_once || self.ends || unread >= LATE)
    }

    /// Returns the tokens to judge.
    pub fn judged(&self) -> &[u32] {
        self.row.wanted().get(self.unjudged..).unwrap_or_default()
    }
}

/// Scorer that follows the decoder step by step.
pub trait TokenReward: Send + Sync {
    /// Returns the name by which `reward.kind` selects the scorer: `probe`, `detached`, ...
    fn kind(&self) -> &'static str;

    /// Returns the layers of the policy whose hidden states the scorer reads.
    fn taps(&self) -> &[usize] {
        &[]
    }

    /// Returns `true` if the scorer reads the text with a model of its own and needs a
    /// [`ReaderPrompt`].
    fn reads_text(&self) -> bool {
        false
    }

    /// Creates the state of `slots` sequences of at most `capacity` positions of the policy,
    /// together at most `positions`.
    ///
    /// # Errors
    /// When its memory cannot be allocated.
    fn new_state(
        &self,
        slots: usize,
        capacity: usize,
        positions: usize,
    ) -> Result<Box<dyn RewardState>>;
}

/// Scorer's knowledge of the sequences it follows. The engine forks and rolls it back together
/// with the policy's cache, by the policy's slots and positions.
pub trait RewardState: Send {
    /// Takes the rows that the policy received and returns, for each, the readings that became
    /// final: of the judged tokens in order, none left out, but possibly later than their row. A
    /// row that ends its text makes all of them final. `hidden` are the policy's hidden states of
    /// all wanted tokens at the scorer's taps, side by side; `None` if there are none.
    ///
    /// # Errors
    /// When a tensor operation fails; the state of the rows' slots is then undefined.
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>>;

    /// Rolls `slot` back to `len` positions of the policy; `0` frees it.
    fn truncate(&mut self, slot: usize, len: usize);

    /// Makes `to` a copy of the first `len` positions of `from`.
    fn fork(&mut self, from: usize, to: usize, len: usize);
}
