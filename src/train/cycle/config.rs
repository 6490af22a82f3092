//! `config/cycle.toml`: steps and budgets of a cycle.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    registry::gate::GateConfig,
    reward::RewardKind,
    train::{
        TrainError,
        align::{AlignConfig, Method},
        optim::OptimConfig,
        recipe,
        reward::{HumanConfig, RewardTrainingConfig},
        scored_split::DevelopmentHalf,
        scorers::ScorerConfig,
        snapshot::TakeConfig,
    },
};

/// Configuration of `candor cycle --recipe FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe<A = AlignConfig, R = RewardTrainingConfig> {
    /// Alignment settings: data, features, rewards, bounds. In a file, the path of an alignment
    /// configuration, whose policy and budgets are replaced by the recipe's.
    pub align: A,
    /// Settings of scorer training, given likewise.
    pub reward: R,
    /// Selection of records from the store.
    pub snapshot: TakeConfig,
    /// Fine-tuning of the scorers.
    pub scorer: ScorerStep,
    /// Alignment of the policy.
    pub policy: PolicyStep,
    /// Re-fitting of the scorers to the new policy.
    pub refit: ScorerStep,
    /// Data that both versions are evaluated on.
    pub evaluation: EvaluationConfig,
    /// Conditions that a candidate must meet.
    #[serde(default)]
    pub gate: GateConfig,
}

/// Budget of a fine-tuning of the scorers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorerStep {
    /// Optimizer steps.
    pub steps: usize,
    /// Images per step.
    pub batch_images: usize,
    /// Images of the training split that fill up the batches.
    pub images: usize,
    /// Maximum share of a step's images with corrections.
    pub human_share: f64,
    /// Maximum passes over the images with corrections.
    pub human_passes: usize,
    /// Factor on the recipe's learning rates.
    pub learning_rate: f64,
}

/// Budget of the alignment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyStep {
    /// Alignment method.
    pub method: Method,
    /// Supervised iterations on corrections.
    pub supervised: usize,
    /// Iterations of the method.
    pub iterations: usize,
}

/// Selection of the evaluation data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Half of the development split; the other half is for reports.
    pub half: DevelopmentHalf,
    /// Maximum images; 0 for all.
    pub images: usize,
    /// Maximum questions per image.
    pub questions: usize,
}

impl Recipe<PathBuf, PathBuf> {
    /// Reads a recipe and the two files it names, relative to the working directory. `warn`
    /// gets a message about each key under an older name, which is accepted.
    ///
    /// # Errors
    /// When a file is missing or invalid; the error names it.
    pub fn read(file: &Path, warn: &mut dyn FnMut(String)) -> Result<Recipe, TrainError> {
        let Self {
            align,
            reward,
            snapshot,
            scorer,
            policy,
            refit,
            evaluation,
            gate,
        } = toml(file, warn)?;
        let (mut align, mut reward): (AlignConfig, RewardTrainingConfig) =
            (toml(&align, warn)?, toml(&reward, warn)?);
        // Absolute paths let a cycle resume from any working directory.
        let origins = reward.origins.iter_mut().map(|origins| &mut origins.data);
        for path in [
            &mut align.data,
            &mut align.features,
            &mut reward.data,
            &mut reward.features,
        ]
        .into_iter()
        .chain(origins)
        {
            *path = std::path::absolute(&*path).map_err(TrainError::io(path))?;
        }
        let recipe = Recipe {
            align,
            reward,
            snapshot,
            scorer,
            policy,
            refit,
            evaluation,
            gate,
        };
        recipe.check().map_err(|message| TrainError::Config {
            path: file.to_owned(),
            message,
        })?;
        Ok(recipe)
    }
}

fn toml<T: DeserializeOwned>(path: &Path, warn: &mut dyn FnMut(String)) -> Result<T, TrainError> {
    let wrong = |message: String| TrainError::Config {
        path: path.to_owned(),
        message,
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    recipe::parse(&text, &mut |warning| {
        warn(format!("{}: {warning}", path.display()))
    })
    .map_err(|e| wrong(e.to_string()))
}

impl Recipe {
    fn check(&self) -> Result<(), String> {
        let share = |name: &str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name}: must be a share, 0 to 1, not {value}"))
            }
        };
        share("snapshot.held_out", self.snapshot.held_out)?;
        for (name, step) in [("scorer", &self.scorer), ("refit", &self.refit)] {
            share(&format!("{name}.human_share"), step.human_share)?;
            if step.steps == 0 || step.batch_images == 0 || step.images == 0 {
                return Err(format!(
                    "{name}: steps, batch_images and images must be at least 1"
                ));
            }
        }
        if !self
            .reward
            .scorers
            .contains_key(RewardKind::Detached.name())
        {
            return Err("reward: no scorer named detached, which alignment needs".into());
        }
        if (&self.align.data, &self.align.features) != (&self.reward.data, &self.reward.features) {
            return Err("align and reward name different data or features".into());
        }
        Ok(())
    }

    /// Configuration that fine-tunes the scorers of `base` on a snapshot.
    pub(super) fn scorers(&self, base: &str, snapshot: &Path, number: u64) -> RewardTrainingConfig {
        self.fine_tuning(&self.scorer, base, base, snapshot, number)
    }

    /// Configuration that re-fits the scorers to a policy. The standalone scorer, which reads no
    /// hidden states, is frozen; all are calibrated anew.
    pub(super) fn refit(
        &self,
        policy: &str,
        scorers: &str,
        snapshot: &Path,
        number: u64,
    ) -> RewardTrainingConfig {
        RewardTrainingConfig {
            frozen: vec![RewardKind::Detached.name().into()],
            ..self.fine_tuning(&self.refit, policy, scorers, snapshot, number)
        }
    }

    fn fine_tuning(
        &self,
        step: &ScorerStep,
        policy: &str,
        scorers: &str,
        snapshot: &Path,
        number: u64,
    ) -> RewardTrainingConfig {
        let mut config = self.reward.clone();
        config
            .scorers
            .retain(|name, _| RewardKind::ALL.iter().any(|kind| kind.name() == name));
        for scorer in config.scorers.values_mut() {
            let (ScorerConfig::Probe { optim, .. } | ScorerConfig::Detached { optim, .. }) = scorer;
            *optim = OptimConfig {
                learning_rate: optim.learning_rate * step.learning_rate,
                warmup_steps: optim.warmup_steps.min(step.steps / 10),
                ..*optim
            };
        }
        RewardTrainingConfig {
            policy: policy.to_owned(),
            init: Some(scorers.to_owned()),
            epochs: step.steps,
            steps: Some(step.steps),
            batch_images: step.batch_images,
            images: Some(step.images),
            quiet: true,
            corrections: Some(HumanConfig {
                from: snapshot.to_owned(),
                share: step.human_share,
                passes: step.human_passes,
            }),
            seed: config.seed ^ number << 40,
            ..config
        }
    }

    /// Configuration that aligns the policy with rewards from the scorer of the bundle `rewarded`.
    pub(super) fn alignment(&self, rewarded: &str, snapshot: &Path, number: u64) -> AlignConfig {
        let mut config = self.align.clone();
        config.policy = rewarded.to_owned();
        config.iterations = self.policy.iterations;
        config.corrections.iterations = self.policy.supervised;
        config.corrections.from = Some(snapshot.to_owned());
        config.corrections.limit = 0;
        config.seed ^= number << 40;
        config
    }
}
