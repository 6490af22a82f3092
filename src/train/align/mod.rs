//! Alignment: reduces hallucination by token-wise PPO and by the baselines it is compared with
//! (`candor train ppo|sequence-ppo|dpo|ddpo|spin|rest`).
//!
//! All methods start from the same policy, images and corrections, and share one loop
//! ([`Alignment`]) that runs, evaluates and stops them. They differ in one iteration: `ppo` rewards
//! words (or the whole answer by their sum) with a frozen scorer, `pairs` prefers one answer to
//! another, `rest` imitates the policy's best answers.

mod answers;
mod config;
mod data;
mod events;
#[cfg(test)]
mod gradients;
mod learner;
mod log;
mod pairs;
mod ppo;
mod rest;
mod reward;
mod run;
mod supervised;
mod value;
mod watch;

pub use config::{
    AlignConfig, CorrectionConfig, PpoConfig, PreferenceConfig, RestConfig, RewardShape,
    WatchConfig,
};
pub use run::Alignment;

use serde::{Deserialize, Serialize};

/// Alignment method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Token-wise proximal policy optimization.
    Ppo,
    /// PPO with the sum of the rewards at the end of the answer (InstructGPT, Ouyang et al., 2022).
    SequencePpo,
    /// Direct preference optimization on corrected answers.
    Dpo,
    /// DPO with more weight on corrected tokens (RLHF-V).
    Ddpo,
    /// Self-play: a human caption against the policy's own.
    Spin,
    /// Imitation of the policy's high-scoring answers.
    Rest,
}

impl Method {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::SequencePpo => "sequence-ppo",
            Self::Dpo => "dpo",
            Self::Ddpo => "ddpo",
            Self::Spin => "spin",
            Self::Rest => "rest",
        }
    }
}
