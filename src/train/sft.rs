//! Supervised training of the policy (`candor train sft`) on captions and on question-answer pairs
//! derived from them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    checkpoint::{LossPoint, RunDir},
    corpus::{Corpus, END, prompt_phrases, train_tokenizer},
    curve,
    export::{self, read_weights},
    features::{Features, VIEWS},
    optim::{AdamW, OptimConfig, named_vars},
    parallel::Workers,
    progress,
    qa::QaBuilder,
    rows::{RowBatch, TextRow},
    stats::CaptionStats,
    text::normalize_caption,
    tower::Tower,
};
use crate::eval::data::flickr8k::{Dataset, Image};
use crate::lexicon::Lexicon;
use crate::vlm::{
    decoder::Regular,
    models::candor_mini::{CandorMiniConfig, PrefixDecoder},
    nn,
    processor::template::ChatTemplate,
    processor::tokenizer::TextTokenizer,
    vision::efficientnet_lite::{EfficientNetLite, EfficientNetLiteConfig},
};

/// Configuration of `candor train sft --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Folder in Flickr8k's layout.
    pub data: PathBuf,
    /// Weights of the vision tower: a file written by `candor models convert`, or a bundle's
    /// `model.safetensors`.
    pub vision: PathBuf,
    /// `true` to also use the tower's finer 14 x 14 feature map.
    pub mid_tap: bool,
    /// Size of the vocabulary to train.
    pub vocab_size: usize,
    /// Hidden size of the decoder.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Number of its layers.
    pub layers: usize,
    /// Number of its query heads.
    pub heads: usize,
    /// Number of its key/value heads.
    pub kv_heads: usize,
    /// Longest sequence in positions, image included.
    pub context_len: usize,
    /// Passes over the training split.
    pub epochs: usize,
    /// Images per step.
    pub batch_images: usize,
    /// Questions per image and epoch.
    pub questions_per_image: usize,
    /// First epoch (from 0) with questions; captions alone teach the vocabulary.
    pub questions_from_epoch: usize,
    /// Dropout on the residual branches.
    pub dropout: f32,
    /// Label smoothing.
    pub label_smoothing: f32,
    /// Number of views per image, 1 to 4: whole, mirrored, crop, mirrored crop.
    pub views: usize,
    /// Seed of all random generators.
    pub seed: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Steps between evaluations on the development split.
    pub eval_every: usize,
    /// Worker threads; 0 uses all cores.
    pub workers: usize,
    /// Optimizer.
    pub optim: OptimConfig,
}

const PHRASE_REPEATS: usize = 50;

/// Supervised training run, ready to start or resume.
pub struct Sft {
    config: SftConfig,
    run: RunDir,
    data: Dataset,
    workers: Workers,
    stats: CaptionStats,
    tokenizer: TextTokenizer,
    template: ChatTemplate,
    model: CandorMiniConfig,
    train_features: Features,
    dev_features: Features,
}

impl Sft {
    /// Reads the data, trains the tokenizer and encodes the images; tokenizer and features are
    /// reused from the run directory if it has them.
    ///
    /// # Errors
    /// When the configuration, the data or the run directory is invalid.
    pub fn prepare(config: SftConfig, out: &Path, resume: bool) -> Result<Self, TrainError> {
        if !(1..=VIEWS).contains(&config.views) {
            return Err(TrainError::Run(format!(
                "views: must be 1 to {VIEWS}, not {}",
                config.views
            )));
        }
        let data = Dataset::open(&config.data)?;
        let run = RunDir::open(out, &config, resume)?;
        let workers = Workers::new(if config.workers == 0 {
            candle_core::utils::get_num_threads()
        } else {
            config.workers
        })?;
        let stats = CaptionStats::new(&data.train, Lexicon::shared());
        let tokenizer = tokenizer(&config, &run, &data)?;
        let template =
            ChatTemplate::new(export::CHAT_TEMPLATE).map_err(|e| TrainError::Run(e.to_string()))?;
        let vision_config = EfficientNetLiteConfig {
            mid_tap: config.mid_tap,
            ..EfficientNetLiteConfig::default()
        };
        let tower = Tower::load(&vision_config, read_weights(&config.vision)?)?;
        let model = config.model(&vision_config, &tower.net, tokenizer.vocab_size());
        let train_features = Features::compute(
            &data.train,
            config.views,
            &tower,
            &workers,
            &run.file("train-features.f16"),
        )?;
        let dev_features = Features::compute(
            &data.dev,
            1,
            &tower,
            &workers,
            &run.file("dev-features.f16"),
        )?;
        Ok(Self {
            config,
            run,
            data,
            workers,
            stats,
            tokenizer,
            template,
            model,
            train_features,
            dev_features,
        })
    }

    /// Trains to the end and writes `RUNDIR/policy.safetensors` (averaged weights without the
    /// tower), `RUNDIR/loss.svg` and `RUNDIR/bundle`, which has no scorer.
    ///
    /// # Errors
    /// When a step fails or the loss is not finite; the last checkpoint remains.
    pub fn train(&self, name: &str, version: &str) -> Result<(), TrainError> {
        let vars = initial_weights(&self.model, self.config.seed)?;
        self.standardize(&vars)?;
        let mut optim = AdamW::new(&vars, self.config.optim)?;
        let mut done = 0;
        if let Some((step, state)) = self.run.load()? {
            optim.restore(&state)?;
            done = step;
        }
        let per_epoch = self.data.train.len().div_ceil(self.config.batch_images);
        let total = per_epoch * self.config.epochs;
        let bar = progress(total, done);
        for step in done..total {
            let loss = self.step(&vars, &mut optim, step, per_epoch, total)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step, loss });
            }
            self.run.log(&LossPoint {
                step,
                train: Some(loss),
                dev: None,
            })?;
            bar.set_position(step as u64 + 1);
            bar.set_message(format!("loss {loss:.3}"));
            if (step + 1) % self.config.eval_every == 0 || step + 1 == total {
                let dev = self.dev_loss(&optim)?;
                bar.suspend(|| {
                    crate::train::report_progress(format_args!(
                        "step {}: development loss {dev:.4}",
                        step + 1
                    ))
                });
                self.run.log(&LossPoint {
                    step: step + 1,
                    train: None,
                    dev: Some(dev),
                })?;
                curve::draw(
                    &self.run.losses()?,
                    "candor train sft",
                    &self.run.file("loss.svg"),
                )?;
            }
            if (step + 1) % self.config.checkpoint_every == 0 || step + 1 == total {
                self.run.save(step + 1, optim.state()?)?;
                candle_core::safetensors::save(
                    &optim.averages()?,
                    self.run.file("policy.safetensors"),
                )?;
            }
        }
        bar.finish();
        let weights = read_weights(&self.run.file("policy.safetensors"))?;
        let tokenizer = std::fs::read(self.run.file("tokenizer.json"))
            .map_err(TrainError::io(&self.run.file("tokenizer.json")))?;
        export::write_policy(
            &self.run.file("bundle"),
            name,
            version,
            &self.model,
            &tokenizer,
            read_weights(&self.config.vision)?,
            weights,
        )
    }

    /// Initializes the projector's norm so that every feature has mean 0 and scale 1 over some
    /// training images. Features of the tower's inner map are ten times larger than those of the
    /// last and would otherwise dominate.
    fn standardize(&self, vars: &VarMap) -> Result<(), TrainError> {
        let views: Vec<(usize, usize)> = (0..self.data.train.len().min(256))
            .map(|i| (i, 0))
            .collect();
        let x = self.train_features.batch(&views)?.flatten_to(1)?;
        let centered = x.broadcast_sub(&x.mean_keepdim(1)?)?;
        let normal = centered.broadcast_div(&(centered.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?)?;
        let mean = normal.mean(0)?;
        let gain = (normal.broadcast_sub(&mean)?.sqr()?.mean(0)? + 1e-3)?
            .sqrt()?
            .recip()?;
        for (name, var) in named_vars(vars) {
            match name.as_str() {
                "connector.norm.weight" => var.set(&gain)?,
                "connector.norm.bias" => var.set(&(&mean * &gain)?.neg()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn step(
        &self,
        vars: &VarMap,
        optim: &mut AdamW,
        step: usize,
        per_epoch: usize,
        total: usize,
    ) -> Result<f64, TrainError> {
        let (epoch, batch_index) = (step / per_epoch, step % per_epoch);
        let mut order: Vec<usize> = (0..self.data.train.len()).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(
            self.config.seed ^ (epoch as u64 + 1) << 20,
        ));
        let first = batch_index * self.config.batch_images;
        let batch = &order[first..(first + self.config.batch_images).min(order.len())];
        let mut rng = SmallRng::seed_from_u64(self.config.seed ^ (step as u64 + 1) << 40);
        let views: Vec<(usize, usize)> = batch
            .iter()
            .map(|&i| (i, rng.random_range(0..self.train_features.views())))
            .collect();
        let shard = views.len().div_ceil(self.workers.count());
        let seeds: Vec<u64> = views.iter().map(|_| rng.random()).collect();
        let questions = if epoch < self.config.questions_from_epoch {
            0
        } else {
            self.config.questions_per_image
        };
        let parts: Vec<_> = views.chunks(shard).zip(seeds.chunks(shard)).collect();
        let shards = self.workers.map(&parts, |(views, seeds)| {
            let images: Vec<&Image> = views.iter().map(|&(i, _)| &self.data.train[i]).collect();
            Shard::new(
                self,
                &images,
                seeds,
                self.train_features.batch(views)?,
                questions,
            )
            .map_err(candle_core::Error::wrap)
        })?;
        let learned: usize = shards.iter().map(|s| s.batch.targets.len()).sum();
        let (loss, gradients) = self.workers.gradients(&shards, &optim.vars(), |shard| {
            let vb = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
            let model = PrefixDecoder::load(&self.model.language, vb)?;
            let regular = Regular {
                dropout: self.config.dropout,
                seed: shard.seed,
            };
            shard.loss(&model, learned, self.config.label_smoothing, regular)
        })?;
        optim.step(gradients, step, total)?;
        Ok(loss)
    }

    /// Mean loss of the averaged weights on the captions of the development split.
    fn dev_loss(&self, optim: &AdamW) -> Result<f64, TrainError> {
        let model = PrefixDecoder::load(
            &self.model.language,
            VarBuilder::from_tensors(optim.averages()?, DType::F32, &Device::Cpu),
        )?;
        let images: Vec<usize> = (0..self.data.dev.len()).collect();
        let mut shards = Vec::new();
        for chunk in images.chunks(self.config.batch_images.max(1)) {
            let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
            let batch_images: Vec<&Image> = chunk.iter().map(|&i| &self.data.dev[i]).collect();
            let seeds: Vec<u64> = chunk.iter().map(|&i| i as u64).collect();
            shards.push((views, batch_images, seeds));
        }
        let parts = self.workers.map(&shards, |(views, batch_images, seeds)| {
            let shard = Shard::new(
                self,
                batch_images,
                seeds,
                self.dev_features.batch(views)?,
                0,
            )
            .map_err(candle_core::Error::wrap)?;
            let loss = shard
                .loss(&model, 1, 0.0, Regular::default())?
                .to_scalar::<f32>()?;
            Ok((f64::from(loss), shard.batch.targets.len()))
        })?;
        let (loss, n) = parts
            .into_iter()
            .fold((0.0, 0), |(a, b), (l, n)| (a + l, b + n));
        Ok(loss / n.max(1) as f64)
    }
}

struct Shard {
    images: Tensor,
    batch: RowBatch,
    seed: u64,
}

impl Shard {
    fn new(
        sft: &Sft,
        images: &[&Image],
        seeds: &[u64],
        features: Tensor,
        questions: usize,
    ) -> Result<Self, TrainError> {
        let builder = QaBuilder::new(&sft.stats, Lexicon::shared());
        let corpus = Corpus::new(&sft.tokenizer, &sft.template, &builder, questions);
        let rows: Vec<TextRow> = images
            .iter()
            .zip(seeds)
            .map(|(image, &seed)| corpus.row(image, seed))
            .collect::<Result<_, _>>()?;
        let batch = RowBatch::new(&rows, sft.model.language.connector.tokens)?;
        Ok(Self {
            images: features,
            batch,
            seed: seeds.first().copied().unwrap_or(0),
        })
    }

    /// Cross-entropy over the learned tokens, divided by `learned`.
    fn loss(
        &self,
        model: &PrefixDecoder,
        learned: usize,
        smoothing: f32,
        regular: Regular,
    ) -> candle_core::Result<Tensor> {
        let batch = &self.batch;
        let states = model.whole(
            &self.images,
            &batch.tokens,
            &batch.positions,
            &batch.mask,
            regular,
        )?;
        let Some(last) = states.last() else {
            candle_core::bail!("the decoder has no layers")
        };
        let hidden = last.index_select(&Tensor::new(batch.lines.as_slice(), &Device::Cpu)?, 0)?;
        let weights = vec![1.0 / learned as f32; batch.targets.len()];
        nn::cross_entropy(
            &model.llama().logits(&hidden)?,
            &batch.targets,
            &weights,
            smoothing,
        )
    }
}

impl SftConfig {
    fn model(
        &self,
        vision: &EfficientNetLiteConfig,
        tower: &EfficientNetLite,
        vocab_size: usize,
    ) -> CandorMiniConfig {
        use crate::vlm::{
            decoder::DecoderConfig, models::candor_mini::PrefixDecoderConfig, projector::MlpConfig,
        };
        CandorMiniConfig {
            vision: vision.clone(),
            language: PrefixDecoderConfig {
                connector: MlpConfig {
                    in_features: tower.channels(),
                    width: self.hidden_size,
                    tokens: tower.tokens(),
                },
                decoder: DecoderConfig {
                    vocab_size,
                    hidden_size: self.hidden_size,
                    intermediate_size: self.intermediate_size,
                    num_hidden_layers: self.layers,
                    num_attention_heads: self.heads,
                    num_key_value_heads: self.kv_heads,
                    max_position_embeddings: self.context_len,
                    rope_theta: 10_000.0,
                    rms_norm_eps: 1e-5,
                    tie_word_embeddings: true,
                    ..DecoderConfig::default()
                },
            },
        }
    }
}

/// Tokenizer of the run: trained on first use on the captions of the training split and common
/// prompt phrases, then read from its file.
fn tokenizer(
    config: &SftConfig,
    run: &RunDir,
    data: &Dataset,
) -> Result<TextTokenizer, TrainError> {
    let file = run.file("tokenizer.json");
    if !file.exists() {
        let mut lines: Vec<String> = data
            .train
            .iter()
            .flat_map(|i| i.captions.iter().map(|c| normalize_caption(c)))
            .collect();
        // Repeated often enough to make common phrases of prompts and questions whole tokens.
        lines.extend((0..PHRASE_REPEATS).flat_map(|_| prompt_phrases().map(str::to_owned)));
        let tokenizer = train_tokenizer(&lines, config.vocab_size)?;
        tokenizer
            .save(&file, false)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
    }
    let json = std::fs::read(&file).map_err(TrainError::io(&file))?;
    TextTokenizer::from_bytes(&json, END)
        .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))
}

/// Initial weights, deterministic in the seed: candle's own initializers cannot be seeded.
pub fn initial_weights(model: &CandorMiniConfig, seed: u64) -> Result<VarMap, TrainError> {
    let vars = VarMap::new();
    PrefixDecoder::load(
        &model.language,
        VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu),
    )?;
    let depth = (2.0 * model.language.decoder.num_hidden_layers as f32).sqrt();
    for (i, (name, var)) in named_vars(&vars).into_iter().enumerate() {
        if var.rank() < 2 {
            continue;
        }
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(i as u64));
        let fan_in = var.dim(1)? as f32;
        let scale = match name.as_str() {
            n if n.contains("embed_tokens") || n.ends_with("pos") => 0.02,
            n if n.contains("o_proj") || n.contains("down_proj") => fan_in.powf(-0.5) / depth,
            _ => fan_in.powf(-0.5),
        };
        let normal = (0..var.elem_count()).map(|_| {
            // Box-Muller transform of two uniform deviates.
            let (a, b) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
            scale * (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
        });
        var.set(&Tensor::from_vec(
            normal.collect::<Vec<_>>(),
            var.shape(),
            var.device(),
        )?)?;
    }
    Ok(vars)
}
