//! Training of per-token scorers (`candor train reward`): several side by side, each step on the
//! same batch.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    Tensors, TrainError,
    checkpoint::{LossPoint, RunDir, write_atomically},
    corrections::CorrectedAnswer,
    curve,
    evidence::origins::LabeledPhotograph,
    export::{write_json, write_weights},
    features::{Features, VIEWS},
    optim::{AdamW, named_vars},
    origins::{OriginsConfig, OtherOrigins, questioned},
    progress, report_progress,
    reward_data::{Example, Examples},
    samples::{self, Negatives},
    scorers::{Net, ScorerConfig, ScorerConfigs, ScorerInput},
    setup::Setup,
    snapshot::Snapshot,
    taps,
};
use crate::{
    bundle::Bundle,
    eval::{data::flickr8k::Image, honesty::PhotographOrigin},
    reward::{RewardKind, probe::ProbeConfig},
    vlm::nn,
};

/// Configuration of `candor train reward --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardTrainingConfig {
    /// Folder in Flickr8k's layout.
    pub data: PathBuf,
    /// Photographs of other origins to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<OriginsConfig>,
    /// Bundle (directory or embedded name) whose policy is scored.
    pub policy: String,
    /// Folder of cached image features; runs can share it.
    pub features: PathBuf,
    /// Passes over the training data.
    pub epochs: usize,
    /// Images per step.
    pub batch_images: usize,
    /// Composition of the examples.
    pub examples: ExampleConfig,
    /// Seed of the order, the examples and their views.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Worker threads; 0 uses all cores.
    pub workers: usize,
    /// Snapshot of people's corrections to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrections: Option<HumanConfig>,
    /// Bundle (directory or embedded name) from whose scorers of the same name and shape these
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Scorers that are not trained but copied from [`Self::init`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// Maximum steps; training ends with these or with its epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// `true` to only write a calibrated bundle: no evaluation on the reporting half of the
    /// development split and no report.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
    /// Maximum images of the training split and other origins, drawn by the seed; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Scorers by name. `probe` and `detached` go into the bundle.
    pub scorers: ScorerConfigs,
}

/// People's corrections as training data: the first images of every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HumanConfig {
    /// Directory of a [snapshot](super::snapshot).
    pub from: PathBuf,
    /// Maximum share of a step's images with corrections.
    pub share: f64,
    /// Maximum passes over the corrections in the whole run, so that a few corrections are not
    /// memorized.
    pub passes: usize,
}

/// Number of examples per image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExampleConfig {
    /// True captions per image and epoch.
    pub true_captions: usize,
    /// Perturbed captions per image and epoch.
    pub perturbed_captions: usize,
    /// The policy's captions per image (one greedy, the others sampled); all of them every epoch.
    pub own_captions: usize,
    /// Captions of other images per image and epoch, labeled like the policy's own.
    pub foreign_captions: usize,
    /// Answers to derived questions per image and epoch, half of them wrong.
    pub answers: usize,
    /// The policy's answers to derived questions per image; all of them every epoch.
    pub own_answers: usize,
    /// Sampling temperature of the captions and answers.
    pub temperature: f32,
    /// Loss weight of unchanged tokens in true and perturbed captions, which are many and mostly
    /// function words.
    pub rest_weight: f32,
}

/// Reward training run, ready to start or resume.
pub struct RewardTraining {
    pub(super) config: RewardTrainingConfig,
    pub(super) run: RunDir,
    pub(super) setup: Setup,
    /// Photographs of other origins; their indices follow those of `setup`'s training images.
    pub(super) others: OtherOrigins,
    /// Features of `setup`'s training images, followed by those of `others`.
    pub(super) train_features: Features,
    /// Indices of the images to learn from, without those with corrections.
    pub(super) split: Vec<usize>,
    /// The same indices, each repeated as often as an epoch visits the image.
    pub(super) epoch: Vec<usize>,
    /// Corrections of the last of `setup`'s training images, which follow the split, one entry per
    /// image.
    pub(super) human: Vec<Vec<CorrectedAnswer>>,
}

/// Variables and optimizer of one scorer.
struct Learner<'a> {
    name: &'a str,
    config: &'a ScorerConfig,
    vars: VarMap,
    optim: AdamW,
}

impl Learner<'_> {
    /// Network with the current weights.
    fn net(&self, training: &RewardTraining) -> candle_core::Result<Net> {
        let vb = VarBuilder::from_varmap(&self.vars, DType::F32, &Device::Cpu);
        Net::load(self.config, &training.setup.policy.config.model, vb)
    }

    /// Weighted cross-entropy of the scorer's logits, plus that of its language model if it keeps
    /// one.
    fn loss(
        &self,
        net: &Net,
        pass: &ScorerInput<'_>,
        shard: &Example,
        totals: Totals,
        step: u64,
    ) -> candle_core::Result<Tensor> {
        let scored = net.score(pass, self.config.regular(step ^ shard.seed))?;
        let loss = shard.binary_cross_entropy(&scored.logits, totals.weight)?;
        let weight = self.config.language_weight();
        let (Some(predicting), Some(net), true) = (scored.predicting, net.detached(), weight > 0.0)
        else {
            return Ok(loss);
        };
        let lines = Tensor::new(shard.language.as_slice(), &Device::Cpu)?;
        let logits = net
            .decoder()
            .llama()
            .logits(&predicting.index_select(&lines, 0)?)?;
        let targets: Vec<u32> = shard
            .language
            .iter()
            .map(|&i| shard.batch.targets[i as usize])
            .collect();
        let weights = vec![weight as f32 / totals.language.max(1) as f32; targets.len()];
        loss + nn::cross_entropy(&logits, &targets, &weights, 0.0)?
    }
}

/// Normalizers of a step's losses, over all its shards.
#[derive(Clone, Copy)]
struct Totals {
    weight: f32,
    language: usize,
}

impl RewardTraining {
    /// Reads policy and data.
    ///
    /// # Errors
    /// When the configuration, the data, the policy or the run directory is invalid.
    pub fn prepare(
        config: RewardTrainingConfig,
        out: &Path,
        resume: bool,
    ) -> Result<Self, TrainError> {
        if config.scorers.is_empty() {
            return Err(TrainError::Run(
                "scorers: none configured; add a table such as [scorers.probe]".into(),
            ));
        }
        if let Some(name) = config
            .frozen
            .iter()
            .find(|name| config.init.is_none() || !config.scorers.contains_key(*name))
        {
            return Err(TrainError::Run(format!(
                "frozen: {name} is not a scorer that starts from a bundle's (see init)"
            )));
        }
        let others = OtherOrigins::open(config.origins.as_ref())?;
        let mut setup = Setup::open(&config.data, &config.policy, config.workers)?;
        let layers = setup.policy.config.model.language.decoder.num_hidden_layers;
        for (name, scorer) in &config.scorers {
            scorer
                .check(layers)
                .map_err(|why| TrainError::Run(format!("scorers.{name}.{why}")))?;
        }
        let run = RunDir::open(out, &config, resume)?;
        let mut train_features =
            setup.features(&setup.data.train, VIEWS, &config.features.join("train.f16"))?;
        let first = setup.data.train.len();
        let mut human = Vec::new();
        if let Some(HumanConfig { from, .. }) = &config.corrections {
            let snapshot = Snapshot::open(from)?;
            snapshot.join(&mut setup, &mut train_features, &config.features)?;
            let corrections_of = |image: &Image| {
                snapshot
                    .learnt
                    .iter()
                    .filter(|c| c.image == image.name)
                    .cloned()
                    .collect()
            };
            human = setup.data.train[first..]
                .iter()
                .map(corrections_of)
                .collect();
        }
        let others_start = setup.data.train.len();
        if !others.photographs.is_empty() {
            let images: Vec<Image> = others
                .photographs
                .iter()
                .map(|photograph| photograph.image.clone())
                .collect();
            train_features.append(setup.features(
                &images,
                VIEWS,
                &config.features.join("train-origins.f16"),
            )?)?;
        }
        let mut split: Vec<usize> = (0..first)
            .chain(others_start..others_start + others.photographs.len())
            .collect();
        if let Some(images) = config.images {
            split.shuffle(&mut SmallRng::seed_from_u64(config.seed));
            split.truncate(images);
            split.sort_unstable();
        }
        let passes = |origin: PhotographOrigin| {
            config
                .origins
                .as_ref()
                .map_or(1, |origins| origins.passes(origin))
        };
        let origin = |i: usize| {
            i.checked_sub(others_start)
                .map_or(PhotographOrigin::Flickr8k, |i| others.photographs[i].origin)
        };
        let epoch: Vec<usize> = split
            .iter()
            .flat_map(|&i| std::iter::repeat_n(i, passes(origin(i))))
            .collect();
        if epoch.is_empty() {
            return Err(TrainError::Run(
                "origins.passes: no photographs to learn from".into(),
            ));
        }
        Ok(Self {
            config,
            run,
            setup,
            others,
            train_features,
            split,
            epoch,
            human,
        })
    }

    /// Trains every scorer to the end and writes their averaged weights in f16 to
    /// `RUNDIR/reward.safetensors`.
    ///
    /// # Errors
    /// When a step fails or the loss is not finite; the last checkpoint remains.
    pub fn train(&self) -> Result<(), TrainError> {
        let checkpoint = self.run.load()?;
        let done = checkpoint.as_ref().map_or(0, |(step, _)| *step);
        let total = self.total();
        if done == total && self.run.file(WEIGHTS).exists() {
            return Ok(());
        }
        let examples = Examples::new(self)?;
        if !self.config.quiet {
            let negatives = self.write_samples(&examples)?;
            if let Some(class) = negatives.missing() {
                return Err(TrainError::Run(format!(
                    "no training text is wrong about any {class}, so scorers \
                     cannot learn to detect it"
                )));
            }
        }
        if let Some(chosen) = taps::decide(self, &examples)? {
            report_progress(format_args!("AUROC by layers that a probe reads: {chosen}"));
        }
        let scorers = taps::resolved(&self.run.file(""), &self.config.scorers)?;
        let frozen = self.frozen(&scorers)?;
        let mut learners = self.learners(&scorers)?;
        if let Some((_, state)) = &checkpoint {
            for learner in &mut learners {
                learner
                    .optim
                    .restore(&strip(state, &format!("{}/", learner.name)))?;
            }
        }
        let bar = progress(total, done);
        for step in done..total {
            let loss = self.step(&examples, &mut learners, step, total)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step, loss });
            }
            self.run.log(&LossPoint {
                step,
                train: Some(loss),
                dev: None,
            })?;
            bar.set_position(step as u64 + 1);
            bar.set_message(format!("loss {loss:.4}"));
            if (step + 1) % self.config.checkpoint_every == 0 || step + 1 == total {
                let mut state = Tensors::new();
                for learner in &learners {
                    state.extend(prefixed(
                        learner.optim.state()?,
                        &format!("{}/", learner.name),
                    ));
                }
                self.run.save(step + 1, state)?;
            }
        }
        bar.finish();
        curve::draw(
            &self.run.losses()?,
            "candor train reward",
            &self.run.file("loss.svg"),
        )?;
        let mut weights = Tensors::new();
        for learner in &learners {
            weights.extend(prefixed(
                learner.optim.averages()?,
                &format!("{}.", learner.name),
            ));
        }
        weights.extend(frozen);
        write_weights(&self.run.file(WEIGHTS), weights)
    }

    /// Writes statistics and samples of the training data to `RUNDIR/samples.json`, `samples.html`
    /// and `negatives.json`, and prints the number of negatives.
    fn write_samples(&self, examples: &Examples<'_>) -> Result<Negatives, TrainError> {
        let (report, negatives) = samples::summarize(self, examples)?;
        report_progress(format_args!("negatives by class of word: {negatives}"));
        write_json(&self.run.file(NEGATIVES), &negatives)?;
        write_json(&self.run.file("samples.json"), &report.to_json())?;
        let html = report.html().map_err(|e| TrainError::Run(e.to_string()))?;
        write_atomically(&self.run.file("samples.html"), html.as_bytes())?;
        Ok(negatives)
    }

    /// Returns `true` if the run writes no report: it then ends with [`Self::calibrate`] instead of
    /// [`Self::finish`].
    pub fn is_quiet(&self) -> bool {
        self.config.quiet
    }

    /// Writes statistics and samples of the training data without training.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn look_at_data(&self) -> Result<(), TrainError> {
        self.write_samples(&Examples::new(self)?).map(drop)
    }

    fn per_epoch(&self) -> usize {
        self.epoch.len().div_ceil(self.config.batch_images)
    }

    /// Training image by index, or one of another origin.
    pub(super) fn image(&self, i: usize) -> &Image {
        self.photograph(i)
            .map_or_else(|| &self.setup.data.train[i], |photograph| &photograph.image)
    }

    /// Photograph of another origin by index, with its labels; `None` for other images.
    pub(super) fn photograph(&self, i: usize) -> Option<&LabeledPhotograph> {
        self.others
            .photographs
            .get(i.checked_sub(self.setup.data.train.len())?)
    }

    /// Image for deriving questions; `None` if too little is known about it.
    pub(super) fn questioned(&self, i: usize) -> Option<Image> {
        self.photograph(i)
            .map_or_else(|| Some(self.image(i).clone()), questioned)
    }

    /// Name of an image's origin.
    pub(super) fn origin(&self, i: usize) -> &'static str {
        let corrected = self.setup.data.train.len() - self.human.len()..self.setup.data.train.len();
        match self.photograph(i) {
            Some(photograph) => photograph.origin.name(),
            None if corrected.contains(&i) => "corrections",
            None => PhotographOrigin::Flickr8k.name(),
        }
    }

    /// Images to learn from, including those with corrections (then shuffled).
    pub(super) fn training_images(&self) -> impl Iterator<Item = usize> {
        let first = self.setup.data.train.len() - self.human.len();
        let mut all: Vec<usize> = self
            .split
            .iter()
            .copied()
            .chain(first..self.setup.data.train.len())
            .collect();
        if !self.human.is_empty() {
            all.shuffle(&mut SmallRng::seed_from_u64(self.config.seed));
        }
        all.into_iter()
    }

    fn total(&self) -> usize {
        (self.per_epoch() * self.config.epochs).min(self.config.steps.unwrap_or(usize::MAX))
    }

    /// Probe of the configured initial bundle, if the scorer `name` starts from it.
    fn initial_probe(&self, name: &str) -> Result<Option<ProbeConfig>, TrainError> {
        let Some(bundle) = self
            .config
            .init
            .as_ref()
            .filter(|_| name == RewardKind::Probe.name())
        else {
            return Ok(None);
        };
        let config = Bundle::describe(bundle).map_err(|e| TrainError::Run(e.to_string()))?;
        Ok(config.reward.and_then(|reward| reward.probe))
    }

    /// Layers that the weights from which the scorer `name` starts read; `None` if it starts from
    /// none.
    ///
    /// # Errors
    /// When the initial bundle is invalid or its probe reads another policy's layers.
    pub(super) fn initial_taps(&self, name: &str) -> Result<Option<Vec<usize>>, TrainError> {
        let decoder = &self.setup.policy.config.model.language.decoder;
        let probe = self.initial_probe(name)?;
        Ok(probe
            .map(|probe| probe.taps(decoder.num_hidden_layers, decoder.hidden_size))
            .transpose()?)
    }

    /// Initial weights in f32 of a scorer from the configured bundle; empty if it has none of that
    /// name, or a probe that reads other layers.
    fn initial(&self, name: &str, scorer: &ScorerConfig) -> Result<Tensors, TrainError> {
        let Some(bundle) = &self.config.init else {
            return Ok(Tensors::new());
        };
        let config = Bundle::describe(bundle).map_err(|e| TrainError::Run(e.to_string()))?;
        let own = scorer.probe(&self.setup.policy.config.model);
        let reads_others = self
            .initial_probe(name)?
            .zip(own)
            .is_some_and(|(initial, own)| initial.layers != own.layers);
        if config.reward.is_none() || reads_others {
            return Ok(Tensors::new());
        }
        let file = Bundle::file(bundle, "reward.safetensors")
            .map_err(|e| TrainError::Run(e.to_string()))?;
        let own = strip(
            &candle_core::safetensors::load_buffer(&file, &Device::Cpu)?,
            &format!("{name}."),
        );
        Ok(own
            .into_iter()
            .map(|(k, t)| Ok((k, t.to_dtype(DType::F32)?)))
            .collect::<candle_core::Result<_>>()?)
    }

    /// Weights of the frozen scorers by their names in the run's weights.
    fn frozen(&self, scorers: &ScorerConfigs) -> Result<Tensors, TrainError> {
        let mut out = Tensors::new();
        for name in &self.config.frozen {
            let weights = scorers
                .get(name)
                .map(|scorer| self.initial(name, scorer))
                .transpose()?
                .filter(|weights| !weights.is_empty());
            let weights = weights.ok_or_else(|| {
                TrainError::Run(format!(
                    "frozen: the bundle of init has no scorer {name} that reads the same layers"
                ))
            })?;
            out.extend(prefixed(weights, &format!("{name}.")));
        }
        Ok(out)
    }

    fn learners<'a>(&self, scorers: &'a ScorerConfigs) -> Result<Vec<Learner<'a>>, TrainError> {
        let images: Vec<usize> = self
            .split
            .iter()
            .copied()
            .filter(|&i| !self.image(i).captions.is_empty())
            .take(64)
            .collect();
        let batch = Examples::true_captions(self, &images)?;
        let views: Vec<(usize, usize)> = images.iter().map(|&i| (i, 0)).collect();
        let features = self.train_features.batch(&views)?;
        let sample = ScorerInput::new(&self.setup.policy, &features, &batch)?;
        let mut learners = Vec::with_capacity(scorers.len());
        for (name, config) in scorers
            .iter()
            .filter(|(name, _)| !self.config.frozen.contains(name))
        {
            let vars = config.initial(&self.setup.policy, &sample)?;
            initialize_from(&vars, &self.initial(name, config)?)?;
            learners.push(Learner {
                name,
                config,
                optim: AdamW::new(&vars, config.optim())?,
                vars,
            });
        }
        Ok(learners)
    }

    /// Images of a step: first some with corrections, which take turns, then some of the split.
    fn batch(&self, step: usize, total: usize) -> Vec<usize> {
        let size = self.config.batch_images;
        let seed = |pass: usize| self.config.seed ^ (pass as u64 + 1) << 20;
        let corrected = self.config.corrections.as_ref().map_or(0, |c| {
            corrected_images(self.human.len(), size, c.share, c.passes, total)
        });
        let first = self.setup.data.train.len() - self.human.len();
        let mut batch: Vec<usize> = Vec::with_capacity(size);
        for place in step * corrected..(step + 1) * corrected {
            let mut order: Vec<usize> = (first..self.setup.data.train.len()).collect();
            let (pass, at) = (place / order.len(), place % order.len());
            order.shuffle(&mut SmallRng::seed_from_u64(seed(pass) ^ 0xC0DE));
            batch.push(order[at]);
        }
        let (epoch, at) = (step / self.per_epoch(), step % self.per_epoch());
        let mut order = self.epoch.clone();
        order.shuffle(&mut SmallRng::seed_from_u64(seed(epoch)));
        let first = at * size;
        batch.extend(
            order[first..(first + size).min(order.len())]
                .iter()
                .take(size - corrected),
        );
        batch
    }

    fn step(
        &self,
        examples: &Examples<'_>,
        learners: &mut [Learner<'_>],
        step: usize,
        total: usize,
    ) -> Result<f64, TrainError> {
        let batch = self.batch(step, total);
        let workers = &self.setup.workers;
        let parts: Vec<&[usize]> = batch
            .chunks(batch.len().div_ceil(workers.count()))
            .collect();
        let seed = self.config.seed ^ (step as u64 + 1) << 32;
        let shards: Vec<Example> = workers.map(&parts, |images| {
            examples
                .batch(images, seed ^ images[0] as u64)
                .map_err(candle_core::Error::wrap)
        })?;
        let totals = Totals {
            weight: shards.iter().map(|s| s.weights.iter().sum::<f32>()).sum(),
            language: shards.iter().map(|s| s.language.len()).sum(),
        };
        let reads_policy = learners
            .iter()
            .any(|learner| matches!(learner.config, ScorerConfig::Probe { .. }));
        let vars: Vec<_> = learners.iter().flat_map(|l| l.optim.vars()).collect();
        let (loss, gradients) = workers.gradients(&shards, &vars, |shard| {
            let pass = match reads_policy {
                true => ScorerInput::new(&self.setup.policy, &shard.images, &shard.batch)?,
                false => ScorerInput::without_policy(&shard.images, &shard.batch),
            };
            let losses = learners
                .iter()
                .map(|learner| learner.loss(&learner.net(self)?, &pass, shard, totals, seed));
            Tensor::stack(&losses.collect::<candle_core::Result<Vec<_>>>()?, 0)?.sum_all()
        })?;
        let mut gradients = gradients.into_iter();
        for learner in learners.iter_mut() {
            let own = gradients
                .by_ref()
                .take(learner.optim.vars().len())
                .collect();
            learner.optim.step(own, step, total)?;
        }
        Ok(loss / learners.len() as f64)
    }
}

/// File of the counts of negatives.
pub(super) const NEGATIVES: &str = "negatives.json";

/// File of a finished run's scorer weights.
pub(super) const WEIGHTS: &str = "reward.safetensors";

/// Number of a step's `size` images with corrections: at most a share, and few enough to keep each
/// within the maximum number of passes.
fn corrected_images(images: usize, size: usize, share: f64, passes: usize, steps: usize) -> usize {
    let most = (size as f64 * share.clamp(0.0, 1.0)) as usize;
    most.min((images * passes).div_ceil(steps.max(1)))
        .min(images)
}

/// Initializes the variables for which `weights` has a tensor of the same shape.
fn initialize_from(vars: &VarMap, weights: &Tensors) -> Result<(), TrainError> {
    for (name, var) in named_vars(vars) {
        if let Some(weight) = weights
            .get(&name)
            .filter(|weight| weight.shape() == var.shape())
        {
            var.set(weight)?;
        }
    }
    Ok(())
}

fn prefixed(tensors: Tensors, prefix: &str) -> Tensors {
    tensors
        .into_iter()
        .map(|(k, v)| (format!("{prefix}{k}"), v))
        .collect()
}

fn strip(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors
        .iter()
        .filter_map(|(k, v)| k.strip_prefix(prefix).map(|k| (k.to_owned(), v.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{OriginsConfig, OtherOrigins, RewardTrainingConfig, corrected_images};

    #[test]
    fn recipe_parses_and_its_origins_are_valid() {
        let recipe: RewardTrainingConfig =
            toml::from_str(include_str!("../../config/reward.toml")).unwrap();
        let nowhere = OriginsConfig {
            data: "nowhere".into(),
            ..recipe.origins.unwrap()
        };
        assert!(
            OtherOrigins::open(Some(&nowhere))
                .unwrap()
                .photographs
                .is_empty()
        );
        let without: RewardTrainingConfig =
            toml::from_str(include_str!("../../config/ablation.toml")).unwrap();
        assert_eq!(without.origins, None, "Flickr8k's photographs alone");
    }

    #[test]
    fn corrected_images_respects_share_and_passes() {
        assert_eq!(
            corrected_images(2000, 16, 0.5, 2, 200),
            8,
            "the share bounds many"
        );
        assert_eq!(
            corrected_images(100, 16, 0.5, 2, 200),
            1,
            "the passes bound few"
        );
        assert_eq!(corrected_images(3, 16, 1.0, 100, 10), 3);
        assert_eq!(corrected_images(0, 16, 0.5, 2, 200), 0);
    }
}
