//! `config/align.toml`: one configuration for every method, so that they are compared on the same
//! data and budget.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    feedback::record::JudgedPart,
    train::{losses::kl::AdaptiveKl, optim::OptimConfig},
};

/// `candor train ppo|sequence-ppo|dpo|ddpo|spin|rest --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignConfig {
    /// Folder in Flickr8k's layout: the training split alone is learnt from; the tuning half of the
    /// development split is watched.
    pub data: PathBuf,
    /// The bundle whose policy is aligned, and whose detached scorer rewards: its directory, or the
    /// name of an embedded one. It is the reference, too.
    pub policy: String,
    /// Folder for the photographs' features, which several runs can share.
    pub features: PathBuf,
    /// Images an iteration.
    pub batch_images: usize,
    /// Iterations, without those of [`CorrectionConfig::iterations`].
    pub iterations: usize,
    /// Answers an image, where the method draws some.
    pub samples: usize,
    /// Temperature of the policy that is optimised.
    pub temperature: f32,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Share of the image's tokens that the policy does not see while it answers, 0 to 1; the
    /// scorer sees all. It is less sure of a training image that way, as it is of one that it never
    /// learnt from.
    #[serde(default)]
    pub hidden_tokens: f32,
    /// Weight of the cross-entropy on what people wrote about the same images beside the method's
    /// own loss (InstructGPT's PPO-ptx).
    pub human_weight: f32,
    /// Captions of people an image for it.
    pub human_captions: usize,
    /// Most answers to questions derived from them: what is not practised is unlearnt.
    pub human_answers: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Worker threads; 0 takes every core.
    pub workers: usize,
    /// What is learnt from.
    pub corrections: CorrectionConfig,
    /// What answers earn.
    pub reward: RewardShape,
    /// Proximal policy optimisation, token by token or a sequence at a time.
    pub ppo: PpoConfig,
    /// DPO, dense DPO and SPIN.
    pub preference: PreferenceConfig,
    /// ReST.
    pub rest: RestConfig,
    /// What is watched, and when the run stops.
    pub watch: WatchConfig,
    /// The optimiser of the steps on corrections and of PPO.
    pub optim: OptimConfig,
}

/// Corrections, people's or an annotator's that is simulated, of the policy's own captions of
/// training images; and supervised steps on them before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectionConfig {
    /// A snapshot of people's corrections (see [`crate::train::snapshot`]) in the place of the
    /// annotator's; the fields below then say nothing but [`Self::limit`] and [`Self::iterations`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// How much of a caption is judged.
    pub scope: JudgedPart,
    /// Share of captions in which the annotator marks something else than what is wrong, 0 to 1.
    pub wrong_labels: f64,
    /// Captions an image: the first greedy, the others drawn.
    pub captions: usize,
    /// Temperature of the others.
    pub temperature: f32,
    /// Most corrected captions in all; 0 for no limit.
    pub limit: usize,
    /// Supervised iterations on them before the method's own.
    pub iterations: usize,
}

/// What an answer earns, in rewards of its scorer (0 to 1) unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardShape {
    /// What a thing, colour or number earns is its reward less this; the mean over the batch where
    /// absent. It weighs naming something against leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center: Option<f32>,
    /// Factor on what colours and numbers earn.
    pub attributes: f32,
    /// At the end: weight of the share of the nouns that two people named which the answer
    /// supports.
    pub completeness: f32,
    /// At the end: weight of the answer's CIDEr-D (0 to 10) against what people wrote.
    pub consensus: f32,
    /// At the end: what an answer loses for each share of people's usual length, in words, that it
    /// lacks.
    #[serde(default)]
    pub brevity: f32,
    /// At the end: what an answer loses that does not come to its end within the longest length.
    pub missing_end: f32,
}

/// Proximal policy optimisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// Passes over an iteration's answers.
    pub epochs: usize,
    /// Optimiser steps a pass.
    pub minibatches: usize,
    /// Clip of the probability ratio.
    pub clip: f64,
    /// Clip of the value.
    pub value_clip: f64,
    /// Largest logarithm of a ratio.
    pub log_ratio: f64,
    /// Weight of the value's loss.
    pub value_weight: f64,
    /// Width inside the value head.
    pub value_hidden: usize,
    /// Discount.
    pub gamma: f32,
    /// Trace decay.
    pub lambda: f32,
    /// The price of distance from the reference.
    pub kl: AdaptiveKl,
}

/// Losses on pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceConfig {
    /// DPO's `β`.
    pub dpo_beta: f64,
    /// Dense DPO's `β`.
    pub ddpo_beta: f64,
    /// Dense DPO's weight of changed tokens.
    pub ddpo_gamma: f32,
    /// SPIN's `λ`.
    pub spin_lambda: f64,
    /// Rounds of SPIN: each begins with a new opponent, the policy as it then is.
    pub spin_rounds: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
}

/// ReST.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    /// Rounds: each draws from the policy as it then is.
    pub rounds: usize,
    /// Share of the answers below the bar in the first round.
    pub first_share: f64,
    /// In the last one.
    pub last_share: f64,
    /// Peak learning rate.
    pub learning_rate: f64,
}

/// What is watched on the tuning half of the development split, and when the run stops. The bounds
/// compare with the policy that the run began with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// Iterations between looks; a checkpoint follows each that is passed.
    pub every: usize,
    /// Images looked at.
    pub images: usize,
    /// Most nats an answer from the reference.
    pub max_kl: f64,
    /// Least length, as a share of the first one.
    pub min_words: f64,
    /// Largest fall of recall, in shares of 1.
    pub max_recall_loss: f64,
    /// Largest fall of CIDEr-D, as a share of the first one.
    pub max_cider_loss: f64,
    /// Least share of answers that come to their end.
    pub min_ended: f64,
}
