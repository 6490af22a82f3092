//! `config/align.toml`: one configuration for all methods, so that they are compared on the same
//! data and budget.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    feedback::record::JudgedPart,
    train::{losses::kl::AdaptiveKl, optim::OptimConfig},
};

/// Configuration of `candor train ppo|sequence-ppo|dpo|ddpo|spin|rest --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignConfig {
    /// Folder in Flickr8k's layout. Training uses the training split; the watch uses the tuning
    /// half of the development split.
    pub data: PathBuf,
    /// Bundle (directory or embedded name) whose policy is aligned and whose standalone scorer
    /// gives the rewards. The policy is also the KL reference.
    pub policy: String,
    /// Folder of cached image features; runs can share it.
    pub features: PathBuf,
    /// Images per iteration.
    pub batch_images: usize,
    /// Iterations, not counting [`CorrectionConfig::iterations`].
    pub iterations: usize,
    /// Sampled answers per image, for methods that sample.
    pub samples: usize,
    /// Sampling temperature of the policy.
    pub temperature: f32,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Share of the image tokens masked for the policy while it answers, 0 to 1; the scorer sees
    /// all of them. Masking makes the policy as uncertain about training images as it is about
    /// unseen ones.
    #[serde(default)]
    pub hidden_tokens: f32,
    /// Weight of the cross-entropy on human texts of the same images, added to the method's loss
    /// (PPO-ptx in InstructGPT).
    pub human_weight: f32,
    /// Human captions per image in that loss.
    pub human_captions: usize,
    /// Maximum question-answer pairs per image in that loss, which keep the policy from forgetting
    /// questions.
    pub human_answers: usize,
    /// Seed of all random generators.
    pub seed: u64,
    /// Worker threads; 0 uses all cores.
    pub workers: usize,
    /// Corrections to learn from.
    pub corrections: CorrectionConfig,
    /// Reward of an answer.
    pub reward: RewardShape,
    /// Proximal policy optimization, token-wise or sequence-level.
    pub ppo: PpoConfig,
    /// DPO, dense DPO and SPIN.
    pub preference: PreferenceConfig,
    /// ReST.
    pub rest: RestConfig,
    /// Evaluation during the run, and its stopping bounds.
    pub watch: WatchConfig,
    /// Optimizer of PPO and of the supervised steps on corrections.
    pub optim: OptimConfig,
}

/// Corrections of the policy's captions of training images, by people or by a simulated annotator,
/// and the supervised steps on them that precede the method's own iterations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectionConfig {
    /// Snapshot of people's corrections (see [`crate::train::snapshot`]), used instead of the
    /// simulated annotator; of the fields below only [`Self::limit`] and [`Self::iterations`] then
    /// apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Part of a caption that the annotator corrects.
    pub scope: JudgedPart,
    /// Share of captions in which the annotator marks something that is not wrong, 0 to 1.
    pub wrong_labels: f64,
    /// Captions per image: the first greedy, the others sampled.
    pub captions: usize,
    /// Sampling temperature of those others.
    pub temperature: f32,
    /// Maximum number of corrected captions; 0 is unlimited.
    pub limit: usize,
    /// Supervised iterations on corrections before the method's own.
    pub iterations: usize,
}

/// Reward of an answer, in units of the scorer's reward (0 to 1) unless stated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardShape {
    /// Baseline subtracted from the reward of an object mention, color or number; the batch mean if
    /// absent. It trades naming something against omitting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center: Option<f32>,
    /// Factor on the reward of colors and numbers.
    pub attributes: f32,
    /// Terminal reward: weight of the share of nouns named by two people that the answer supports.
    pub completeness: f32,
    /// Terminal reward: weight of the answer's CIDEr-D (0 to 10) against the human captions.
    pub consensus: f32,
    /// Terminal penalty per unit of missing length, as a share of the mean human length in words.
    #[serde(default)]
    pub brevity: f32,
    /// Terminal penalty of an answer that is cut off at the maximum length.
    pub missing_end: f32,
}

/// Proximal policy optimization.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// Passes over an iteration's answers.
    pub epochs: usize,
    /// Optimizer steps per pass.
    pub minibatches: usize,
    /// Clip range `ε` of the probability ratio.
    pub clip: f64,
    /// Clip range of the value.
    pub value_clip: f64,
    /// Maximum absolute logarithm of a probability ratio.
    pub log_ratio: f64,
    /// Weight of the value loss.
    pub value_weight: f64,
    /// Width of the value head's hidden layer.
    pub value_hidden: usize,
    /// Discount `γ`.
    pub gamma: f32,
    /// Trace decay `λ` of GAE.
    pub lambda: f32,
    /// KL penalty against the reference.
    pub kl: AdaptiveKl,
}

/// Preference losses on pairs of answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceConfig {
    /// DPO's `β`.
    pub dpo_beta: f64,
    /// Dense DPO's `β`.
    pub ddpo_beta: f64,
    /// Weight `γ` of changed tokens in dense DPO.
    pub ddpo_gamma: f32,
    /// SPIN's `λ`.
    pub spin_lambda: f64,
    /// Rounds of SPIN; each takes the current policy as the new opponent.
    pub spin_rounds: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
}

/// ReST.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestConfig {
    /// Rounds; each samples from the policy at its beginning.
    pub rounds: usize,
    /// Share of the answers rejected in the first round.
    pub first_share: f64,
    /// Share of the answers rejected in the last round.
    pub last_share: f64,
    /// Peak learning rate.
    pub learning_rate: f64,
}

/// Evaluation on the tuning half of the development split, and the bounds that stop a run, relative
/// to the initial policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// Iterations between evaluations; a checkpoint follows each evaluation within bounds.
    pub every: usize,
    /// Number of images captioned.
    pub images: usize,
    /// Maximum KL from the reference, in nats per answer.
    pub max_kl: f64,
    /// Minimum mean length, as a share of the initial one.
    pub min_words: f64,
    /// Maximum loss of recall, absolute.
    pub max_recall_loss: f64,
    /// Maximum loss of CIDEr-D, as a share of the initial one.
    pub max_cider_loss: f64,
    /// Minimum share of answers that are not cut off.
    pub min_ended: f64,
}
