//! Alignment: a policy that hallucinates less, by token-wise PPO and by the methods that it is
//! compared with (`candor train ppo|sequence-ppo|dpo|ddpo|spin|rest`).
//!
//! All of them begin at the same policy, see the same photographs and corrections, and are run,
//! watched and stopped by the same loop ([`Alignment`]). What differs is one iteration: `ppo`
//! rewards words by a frozen scorer (or the whole answer by their sum), `pairs` prefers one answer
//! to another, `rest` imitates its own best answers.

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

/// How a policy is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Proximal policy optimisation with a reward a token.
    Ppo,
    /// The same with the sum of the rewards at the end of the answer (InstructGPT, Ouyang et al.,
    /// 2022).
    SequencePpo,
    /// Direct preference optimisation on corrected answers.
    Dpo,
    /// The same with more weight on what was corrected (RLHF-V).
    Ddpo,
    /// Self-play: a person's answer against the policy's own.
    Spin,
    /// Imitation of the own answers that score high.
    Rest,
}

impl Method {
    /// Its name on the command line.
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
