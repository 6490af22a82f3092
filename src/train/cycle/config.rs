//! `config/cycle.toml`: what a cycle does, and how much of it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    registry::gate::GateConfig,
    reward::RewardKind,
    train::{
        TrainError,
        align::{AlignConfig, Method},
        optim::OptimConfig,
        reward::{HumanConfig, RewardTrainingConfig},
        scored_split::DevelopmentHalf,
        scorers::ScorerConfig,
        snapshot::TakeConfig,
    },
};

/// `candor cycle --recipe FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe<A = AlignConfig, R = RewardTrainingConfig> {
    /// How policies are aligned: data, features, rewards, bounds. In a file, the name of the file
    /// that says it; `policy` and budgets come from here.
    pub align: A,
    /// How scorers are trained: likewise.
    pub reward: R,
    /// What is taken from the store.
    pub snapshot: TakeConfig,
    /// The reward model's fine-tuning.
    pub scorer: ScorerStep,
    /// The policy's.
    pub policy: PolicyStep,
    /// The scorers' re-fit on the new policy.
    pub refit: ScorerStep,
    /// What both versions are measured on.
    pub evaluation: EvaluationConfig,
    /// What a candidate must hold.
    #[serde(default)]
    pub gate: GateConfig,
}

/// Budget of a training of scorers, which begins at the present ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorerStep {
    /// Optimiser steps.
    pub steps: usize,
    /// Images a step.
    pub batch_images: usize,
    /// Images of the training split that fill the batches up.
    pub images: usize,
    /// Most of a step's images that people corrected, as a share.
    pub human_share: f64,
    /// Most passes over those.
    pub human_passes: usize,
    /// Factor on the recipe's learning rates.
    pub learning_rate: f64,
}

/// Budget of an alignment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyStep {
    /// Which.
    pub method: Method,
    /// Iterations that imitate corrections.
    pub supervised: usize,
    /// Iterations of the method's own.
    pub iterations: usize,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Which half of the development split: the other one is for reports.
    pub half: DevelopmentHalf,
    /// Most images of it; 0 for all.
    pub images: usize,
    /// Most questions an image.
    pub questions: usize,
}

impl Recipe<PathBuf, PathBuf> {
    /// Reads a recipe and the two files that it names, relative to where the program runs.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(file: &Path) -> Result<Recipe, TrainError> {
        let Self {
            align,
            reward,
            snapshot,
            scorer,
            policy,
            refit,
            evaluation,
            gate,
        } = toml(file)?;
        let (mut align, mut reward): (AlignConfig, RewardTrainingConfig) =
            (toml(&align)?, toml(&reward)?);
        // A cycle goes on wherever the program is started.
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

fn toml<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let wrong = |message: String| TrainError::Config {
        path: path.to_owned(),
        message,
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    ::toml::from_str(&text).map_err(|e| wrong(e.to_string()))
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
            return Err(
                "reward: there is no scorer named detached, which policies are rewarded by".into(),
            );
        }
        if (&self.align.data, &self.align.features) != (&self.reward.data, &self.reward.features) {
            return Err("align and reward name different data or features".into());
        }
        Ok(())
    }

    /// The reward model's training on a snapshot, from the scorers of `base`.
    pub(super) fn scorers(&self, base: &str, snapshot: &Path, number: u64) -> RewardTrainingConfig {
        self.fine_tuning(&self.scorer, base, base, snapshot, number)
    }

    /// The re-fit on a policy: the detached scorer, which reads no policy's states, stays as it is,
    /// and all are calibrated anew.
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

    /// The policy's alignment, rewarded by the scorer of `rewarded`.
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
