//! Training of the per-token scorers (`candor train reward`): the probe on the frozen policy's hidden states and a detached copy of the policy,
//! fine-tuned end to end, side by side on the same batches.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    Tensors, TrainError,
    checkpoint::{Point, RunDir},
    curve,
    export::read_weights,
    features::{Features, VIEWS},
    flickr8k::Dataset,
    optim::{AdamW, OptimConfig, named_vars},
    parallel::Workers,
    policy::Policy,
    progress,
    reward_data::{Example, Examples},
    sft::load_tower,
};
use crate::{
    reward::{
        detached::DetachedNet,
        probe::{ProbeConfig, ProbeNet},
    },
    train::rows::RowBatch,
    vlm::decoder::llama::Regular,
};

/// `candor train reward --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// Folder in Flickr8k's layout.
    pub data: PathBuf,
    /// Run directory of `candor train sft` whose policy is scored.
    pub policy: PathBuf,
    /// Weights of the vision tower.
    pub vision: PathBuf,
    /// Width of the probe's hidden layer.
    pub probe_hidden: usize,
    /// Passes over the training split.
    pub epochs: usize,
    /// Images a step.
    pub batch_images: usize,
    /// True captions an image and epoch.
    pub true_captions: usize,
    /// Perturbed captions an image and epoch.
    pub perturbed_captions: usize,
    /// Captions of the policy's own an image (one greedy, the others sampled); all of them every epoch.
    pub own_captions: usize,
    /// Captions of other images an image and epoch, judged like the policy's own.
    pub foreign_captions: usize,
    /// Answers to derived questions an image and epoch, half of them wrong.
    pub answers: usize,
    /// Answers of the policy's own to derived questions an image; all of them every epoch.
    pub own_answers: usize,
    /// Temperature of the sampled captions and answers.
    pub temperature: f32,
    /// Dropout in the detached scorer.
    pub dropout: f32,
    /// Share of the tokens in no range of a perturbed or true caption whose label counts (the rest is masked), so that function words do not outweigh the others.
    pub rest_weight: f32,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Worker threads; 0 takes every core.
    pub workers: usize,
    /// The detached scorer's optimiser.
    pub detached: OptimConfig,
    /// The probe's optimiser.
    pub probe: OptimConfig,
}

/// A reward training that is ready to run, or to go on.
pub struct RewardTraining {
    pub(super) config: RewardConfig,
    pub(super) run: RunDir,
    pub(super) data: Dataset,
    pub(super) workers: Workers,
    pub(super) policy: Policy,
    pub(super) train_features: Features,
    pub(super) dev_features: Features,
}

/// The two scorers of a step, or at the end of a run.
pub struct Scorers {
    /// Network of its own.
    pub detached: DetachedNet,
    /// Head on the policy.
    pub probe: ProbeNet,
}

/// Raw scores of a batch's learnt tokens.
pub(super) struct Logits {
    pub(super) detached: Tensor,
    pub(super) probe: Tensor,
}

impl RewardTraining {
    /// Reads policy and data.
    ///
    /// # Errors
    /// When the configuration, the data, the policy or the run directory is not usable.
    pub fn prepare(config: RewardConfig, out: &Path, resume: bool) -> Result<Self, TrainError> {
        let data = Dataset::open(&config.data)?;
        let run = RunDir::open(out, &config, resume)?;
        let workers = Workers::new(if config.workers == 0 { candle_core::utils::get_num_threads() } else { config.workers })?;
        let policy = Policy::open(&config.policy)?;
        let tower = load_tower(&policy.config.vision, &config.vision)?;
        // The policy's run has these features already.
        let cached = |name: &str| config.policy.join(name);
        let train_features = Features::compute(&data.train, VIEWS, &tower, &workers, &cached("train-features.f16"))?;
        let dev_features = Features::compute(&data.dev, 1, &tower, &workers, &cached("dev-features.f16"))?;
        Ok(Self { config, run, data, workers, policy, train_features, dev_features })
    }

    /// Trains both scorers to the end and returns them with averaged weights; `RUNDIR/reward.safetensors` holds them in f16.
    ///
    /// # Errors
    /// When a step fails or the loss is no number; the last checkpoint stays.
    pub fn train(&self) -> Result<Scorers, TrainError> {
        let examples = Examples::new(self)?;
        let vars = self.initial()?;
        let mut optims = (AdamW::new(&vars.0, self.config.detached)?, AdamW::new(&vars.1, self.config.probe)?);
        let mut done = 0;
        if let Some((step, state)) = self.run.load()? {
            optims.0.restore(&strip(&state, "detached/"))?;
            optims.1.restore(&strip(&state, "probe/"))?;
            done = step;
        }
        let per_epoch = self.data.train.len().div_ceil(self.config.batch_images);
        let total = per_epoch * self.config.epochs;
        let bar = progress(total, done);
        for step in done..total {
            let loss = self.step(&examples, &vars, &mut optims, step, per_epoch, total)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step, loss });
            }
            self.run.log(&Point { step, train: Some(loss), dev: None })?;
            bar.set_position(step as u64 + 1);
            bar.set_message(format!("loss {loss:.4}"));
            if (step + 1) % self.config.checkpoint_every == 0 || step + 1 == total {
                let mut state = prefixed(optims.0.state()?, "detached/");
                state.extend(prefixed(optims.1.state()?, "probe/"));
                self.run.save(step + 1, state)?;
            }
        }
        bar.finish();
        curve::draw(&self.run.losses()?, "candor train reward (detached)", &self.run.file("loss.svg"))?;
        let mut weights = prefixed(optims.0.averages()?, "detached.");
        weights.extend(prefixed(optims.1.averages()?, "probe."));
        super::export::write_weights(&self.run.file("reward.safetensors"), weights)?;
        self.scorers()
    }

    /// The finished scorers, as the bundle will hold them.
    pub fn scorers(&self) -> Result<Scorers, TrainError> {
        let weights = read_weights(&self.run.file("reward.safetensors"), "")?;
        let weights = weights.into_iter().map(|(k, t)| Ok((k, t.to_dtype(DType::F32)?))).collect::<candle_core::Result<_>>()?;
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        Ok(Scorers {
            detached: DetachedNet::load(&self.policy.config.language, vb.pp("detached"))?,
            probe: ProbeNet::load(&self.probe_config(), vb.pp("probe"))?,
        })
    }

    /// Sizes of the probe.
    pub fn probe_config(&self) -> ProbeConfig {
        let decoder = &self.policy.config.language.decoder;
        ProbeConfig { features: decoder.num_hidden_layers * decoder.hidden_size, hidden: self.config.probe_hidden }
    }

    /// The detached scorer begins as the policy, the probe at small random weights over standardised features.
    fn initial(&self) -> Result<(VarMap, VarMap), TrainError> {
        let (detached, probe) = (VarMap::new(), VarMap::new());
        DetachedNet::load(&self.policy.config.language, VarBuilder::from_varmap(&detached, DType::F32, &Device::Cpu))?;
        let policy = read_weights(&self.config.policy.join("policy.safetensors"), "")?;
        for (name, var) in named_vars(&detached) {
            if let Some(weight) = policy.get(&name) {
                var.set(weight)?;
            }
        }
        ProbeNet::load(&self.probe_config(), VarBuilder::from_varmap(&probe, DType::F32, &Device::Cpu))?;
        let mut rng = SmallRng::seed_from_u64(self.config.seed);
        for (_, var) in named_vars(&probe).into_iter().filter(|(_, v)| v.rank() == 2) {
            let bound = (3.0 / var.dim(1)? as f32).sqrt();
            let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-bound..bound)).collect();
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        self.standardise(&probe)?;
        Ok((detached, probe))
    }

    /// Mean and scale of the policy's features over true captions of some training images.
    fn standardise(&self, probe: &VarMap) -> Result<(), TrainError> {
        let images: Vec<usize> = (0..self.data.train.len().min(64)).collect();
        let batch = Examples::true_captions(self, &images)?;
        let views: Vec<(usize, usize)> = images.iter().map(|&i| (i, 0)).collect();
        let hidden = self.hidden(&self.train_features.batch(&views)?, &batch)?;
        let mean = hidden.mean(0)?;
        let scale = (hidden.broadcast_sub(&mean)?.sqr()?.mean(0)? + 1e-6)?.sqrt()?.recip()?;
        for (name, var) in named_vars(probe) {
            match name.as_str() {
                "mean" => var.set(&mean)?,
                "scale" => var.set(&scale)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The policy's hidden states, all layers side by side, at the learnt tokens themselves: `(tokens, features)`, without gradients.
    pub(super) fn hidden(&self, images: &Tensor, batch: &RowBatch) -> candle_core::Result<Tensor> {
        let states = self.policy.model.whole(images, &batch.tokens, &batch.positions, &batch.mask, Regular::default())?;
        let lines = Tensor::new(batch.own_lines.as_slice(), &Device::Cpu)?;
        let states = states.iter().map(|s| s.index_select(&lines, 0)).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&states, 1)?.detach())
    }

    /// Both scorers' raw scores of a batch's learnt tokens.
    pub(super) fn logits(&self, scorers: &Scorers, images: &Tensor, batch: &RowBatch, regular: Regular) -> candle_core::Result<Logits> {
        let states = scorers.detached.decoder().whole(images, &batch.tokens, &batch.positions, &batch.mask, regular)?;
        let Some(last) = states.last() else { candle_core::bail!("the decoder has no layers") };
        let own = last.index_select(&Tensor::new(batch.own_lines.as_slice(), &Device::Cpu)?, 0)?;
        Ok(Logits { detached: scorers.detached.logits(&own)?, probe: scorers.probe.logits(&self.hidden(images, batch)?)? })
    }

    fn step(
        &self,
        examples: &Examples<'_>,
        vars: &(VarMap, VarMap),
        optims: &mut (AdamW, AdamW),
        step: usize,
        per_epoch: usize,
        total: usize,
    ) -> Result<f64, TrainError> {
        let (epoch, at) = (step / per_epoch, step % per_epoch);
        let mut order: Vec<usize> = (0..self.data.train.len()).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(self.config.seed ^ (epoch as u64 + 1) << 20));
        let first = at * self.config.batch_images;
        let batch = &order[first..(first + self.config.batch_images).min(order.len())];
        let parts: Vec<&[usize]> = batch.chunks(batch.len().div_ceil(self.workers.count())).collect();
        let seed = self.config.seed ^ (step as u64 + 1) << 32;
        let shards: Vec<Example> =
            self.workers.map(&parts, |images| examples.batch(images, seed ^ images[0] as u64).map_err(candle_core::Error::wrap))?;
        let weight: f32 = shards.iter().map(|s| s.weights.iter().sum::<f32>()).sum();
        let both: Vec<_> = optims.0.vars().into_iter().chain(optims.1.vars()).collect();
        let (loss, mut gradients) = self.workers.gradients(&shards, &both, |shard| {
            let vb = |vars: &VarMap| VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
            let scorers = Scorers {
                detached: DetachedNet::load(&self.policy.config.language, vb(&vars.0))?,
                probe: ProbeNet::load(&self.probe_config(), vb(&vars.1))?,
            };
            let regular = Regular { dropout: self.config.dropout, seed: seed ^ shard.seed };
            let logits = self.logits(&scorers, &shard.images, &shard.batch, regular)?;
            let loss = |x: &Tensor| shard.binary_cross_entropy(x, weight);
            loss(&logits.detached)? + loss(&logits.probe)?
        })?;
        let of_probe = gradients.split_off(optims.0.vars().len());
        optims.0.step(gradients, step, total)?;
        optims.1.step(of_probe, step, total)?;
        Ok(loss / 2.0)
    }
}

fn prefixed(tensors: Tensors, prefix: &str) -> Tensors {
    tensors.into_iter().map(|(k, v)| (format!("{prefix}{k}"), v)).collect()
}

fn strip(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors.iter().filter_map(|(k, v)| k.strip_prefix(prefix).map(|k| (k.to_owned(), v.clone()))).collect()
}
