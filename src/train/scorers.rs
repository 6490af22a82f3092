//! Trainable scorers: entries `[scorers.NAME]` of the configuration of `candor train reward`, and
//! their networks.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result as CandleResult, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    optim::{OptimConfig, named_vars},
    policy::Policy,
    rows::RowBatch,
    taps::ProbeLayers,
};
use crate::{
    reward::{
        probe::{ProbeConfig, ProbeNet},
        standalone::StandaloneNet,
    },
    vlm::{decoder::Regular, models::candor_mini::CandorMiniConfig},
};

/// Configuration of a scorer, `[scorers.NAME]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScorerConfig {
    /// Probe: a head on the frozen policy's hidden states.
    Probe {
        /// The policy's layers that it reads.
        layers: ProbeLayers,
        /// Width of the hidden layer; 0 for a linear probe.
        hidden: usize,
        /// `true` to also read similarities between the word and the image positions.
        #[serde(default)]
        similarity: bool,
        /// Seed of the initial weights.
        seed: u64,
        /// Optimizer.
        optim: OptimConfig,
    },
    /// Standalone network, initialized from the policy.
    Detached {
        /// Weight of the language-model loss on true captions beside the scorer's; 0 for none. With
        /// a loss of its own the copy remains a policy: a probe trained jointly with it.
        #[serde(default)]
        language_weight: f64,
        /// `true` to show it another image of the batch: it then learns the prior, without sight.
        #[serde(default)]
        shuffled: bool,
        /// Dropout probability.
        dropout: f32,
        /// Seed of the dropout.
        seed: u64,
        /// Optimizer.
        optim: OptimConfig,
    },
}

/// Scorers of a run by name.
pub type ScorerConfigs = BTreeMap<String, ScorerConfig>;

impl ScorerConfig {
    /// Configuration that loads a bundle's probe over the layers `taps`.
    pub fn stored_probe(taps: Vec<usize>, hidden: usize) -> Self {
        Self::Probe {
            layers: ProbeLayers::Listed(taps),
            hidden,
            similarity: false,
            seed: 0,
            optim: OptimConfig::default(),
        }
    }

    /// Configuration that loads a bundle's standalone scorer.
    pub fn stored_detached() -> Self {
        Self::Detached {
            language_weight: 0.0,
            shuffled: false,
            dropout: 0.0,
            seed: 0,
            optim: OptimConfig::default(),
        }
    }

    /// Checks the settings against a policy with `layers` layers.
    ///
    /// # Errors
    /// When a probe reads layers that the policy lacks; the error begins with the key.
    pub fn check(&self, layers: usize) -> Result<(), String> {
        match self {
            Self::Probe { layers: read, .. } => {
                read.check(layers).map_err(|why| format!("layers: {why}"))
            }
            Self::Detached { .. } => Ok(()),
        }
    }

    /// Optimizer settings.
    pub fn optim(&self) -> OptimConfig {
        match self {
            Self::Probe { optim, .. } | Self::Detached { optim, .. } => *optim,
        }
    }

    /// Weight of the language-model loss.
    pub fn language_weight(&self) -> f64 {
        if let Self::Detached {
            language_weight, ..
        } = self
        {
            *language_weight
        } else {
            0.0
        }
    }

    /// Sizes of a probe on a policy; `None` for a standalone scorer, and for a probe whose layers
    /// training has yet to choose.
    pub fn probe(&self, model: &CandorMiniConfig) -> Option<ProbeConfig> {
        let Self::Probe {
            layers,
            hidden,
            similarity,
            ..
        } = self
        else {
            return None;
        };
        let decoder = &model.language.decoder;
        let (all, width) = (decoder.num_hidden_layers, decoder.hidden_size);
        let taps = layers.taps(all)?;
        Some(ProbeConfig {
            features: taps.len() * width + if *similarity { 2 * HEADS } else { 0 },
            hidden: *hidden,
            layers: (taps.len() < all).then_some(taps),
        })
    }

    /// Regularization of its training at `step`.
    pub fn regular(&self, step: u64) -> Regular {
        match self {
            Self::Probe { .. } => Regular::default(),
            Self::Detached { dropout, seed, .. } => Regular {
                dropout: *dropout,
                seed: seed ^ step,
            },
        }
    }

    /// Initial weights: a copy of the policy for a standalone scorer; small random weights over
    /// features standardized on `sample` for a probe.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn initial(&self, policy: &Policy, sample: &ScorerInput<'_>) -> Result<VarMap, TrainError> {
        let vars = VarMap::new();
        let load = || {
            Net::load(
                self,
                &policy.config.model,
                VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu),
            )
        };
        load()?;
        match self {
            Self::Detached { .. } => {
                for (name, var) in named_vars(&vars) {
                    if let Some(weight) = policy.weights.get(&name) {
                        var.set(weight)?;
                    }
                }
            }
            Self::Probe { seed, .. } => {
                let mut rng = SmallRng::seed_from_u64(*seed);
                for (_, var) in named_vars(&vars).into_iter().filter(|(_, v)| v.rank() == 2) {
                    let bound = (3.0 / var.dim(1)? as f32).sqrt();
                    let values: Vec<f32> = (0..var.elem_count())
                        .map(|_| rng.random_range(-bound..bound))
                        .collect();
                    var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
                }
                let Net::Probe(probe) = load()? else {
                    return Ok(vars);
                };
                let features = probe.features(sample)?.detach();
                let (mean, scale) = standardization(&features)?;
                for (name, var) in named_vars(&vars) {
                    match name.as_str() {
                        "mean" => var.set(&mean)?,
                        "scale" => var.set(&scale)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(vars)
    }
}

/// Mean of each feature and the reciprocal of its standard deviation: `(n, features)` to
/// `(features)` each.
pub(super) fn standardization(features: &Tensor) -> CandleResult<(Tensor, Tensor)> {
    let mean = features.mean(0)?;
    let scale = (features.broadcast_sub(&mean)?.sqr()?.mean(0)? + 1e-6)?
        .sqrt()?
        .recip()?;
    Ok((mean, scale))
}

/// Batch as the scorers read it: rows, images, and the frozen policy's hidden states.
pub struct ScorerInput<'a> {
    /// Image features, `(rows, image_tokens, channels)`.
    pub images: &'a Tensor,
    /// Rows.
    pub batch: &'a RowBatch,
    /// The policy's hidden states after every layer, `(rows * positions, width)` each, detached.
    states: Vec<Tensor>,
}

impl<'a> ScorerInput<'a> {
    /// Runs the policy over the batch.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn new(policy: &Policy, images: &'a Tensor, batch: &'a RowBatch) -> CandleResult<Self> {
        let states = policy.model.whole(
            images,
            &batch.tokens,
            &batch.positions,
            &batch.mask,
            Regular::default(),
        )?;
        Ok(Self {
            images,
            batch,
            states: states.into_iter().map(|s| s.detach()).collect(),
        })
    }

    /// Creates a batch for scorers that do not read the policy's hidden states.
    pub fn without_policy(images: &'a Tensor, batch: &'a RowBatch) -> Self {
        Self {
            images,
            batch,
            states: Vec::new(),
        }
    }

    /// Replaces the images, which only standalone networks read, and keeps the hidden states.
    pub fn with_images(self, images: &'a Tensor) -> Self {
        Self { images, ..self }
    }

    /// Hidden states of the policy's layers `taps` at the learned tokens, concatenated: `(tokens,
    /// taps * width)`.
    pub(super) fn hidden(&self, taps: &[usize]) -> CandleResult<Tensor> {
        let lines = Tensor::new(self.batch.own_lines.as_slice(), &Device::Cpu)?;
        let states = taps
            .iter()
            .map(|&tap| match self.states.get(tap) {
                Some(states) => states.index_select(&lines, 0),
                None => candle_core::bail!("the decoder has no layer {tap}"),
            })
            .collect::<CandleResult<Vec<_>>>()?;
        Tensor::cat(&states, 1)
    }

    /// The policy's final hidden states at the positions that predict the learned tokens.
    pub(super) fn predicting(&self) -> CandleResult<Tensor> {
        let Some(last) = self.states.last() else {
            candle_core::bail!("the decoder has no layers")
        };
        last.index_select(&Tensor::new(self.batch.lines.as_slice(), &Device::Cpu)?, 0)
    }

    /// Hidden states of the policy's middle layer at the image positions, `(rows, image_tokens,
    /// width)`.
    fn image_states(&self) -> CandleResult<Tensor> {
        let (rows, tokens, _) = self.images.dims3()?;
        let middle = &self.states[self.states.len() / 2];
        let (lines, width) = middle.dims2()?;
        middle
            .reshape((rows, lines / rows, width))?
            .narrow(1, 0, tokens)?
            .contiguous()
    }

    /// Row index of every learned token.
    fn rows(&self) -> CandleResult<Vec<u32>> {
        let positions = (self.batch.positions.len() / self.images.dim(0)?.max(1)) as u32;
        Ok(self
            .batch
            .own_lines
            .iter()
            .map(|line| line / positions.max(1))
            .collect())
    }
}

/// Number of similarity heads.
const HEADS: usize = 8;

/// Width of a similarity head.
const HEAD_WIDTH: usize = 32;

/// Similarity heads between a word and the image positions: scaled dot products of learned
/// projections without a softmax, reduced to their maximum and mean.
pub struct Similarity {
    word: Tensor,
    part: Tensor,
}

impl Similarity {
    fn load(width: usize, vb: VarBuilder<'_>) -> CandleResult<Self> {
        let init = candle_nn::Init::Randn {
            mean: 0.0,
            stdev: (width as f64).powf(-0.5),
        };
        let matrix = |name: &str| vb.get_with_hints((HEADS * HEAD_WIDTH, width), name, init);
        Ok(Self {
            word: matrix("word")?,
            part: matrix("part")?,
        })
    }

    /// Similarity features, `(tokens, 2 * HEADS)`.
    fn features(&self, pass: &ScorerInput<'_>) -> CandleResult<Tensor> {
        let parts = pass.image_states()?;
        let (rows, image_tokens, width) = parts.dims3()?;
        let keys = parts
            .reshape((rows * image_tokens, width))?
            .matmul(&self.part.t()?)?;
        let last = pass.states.len().saturating_sub(1);
        let words = pass.hidden(&[last])?.matmul(&self.word.t()?)?;
        let row = pass.rows()?;
        let own: Vec<u32> = row
            .iter()
            .flat_map(|r| (0..image_tokens as u32).map(move |i| r * image_tokens as u32 + i))
            .collect();
        // A gather of each token's own image, since rows have few tokens.
        let keys = keys
            .index_select(&Tensor::new(own, &Device::Cpu)?, 0)?
            .reshape((row.len(), image_tokens, HEADS, HEAD_WIDTH))?;
        let words = words.reshape((row.len(), 1, HEADS, HEAD_WIDTH))?;
        let scores =
            (keys.broadcast_mul(&words)?.sum(D::Minus1)? * (HEAD_WIDTH as f64).powf(-0.5))?;
        Tensor::cat(&[scores.max(1)?, scores.mean(1)?], 1)
    }
}

/// Probe with the selection of features it reads.
pub struct PolicyProbe {
    taps: Vec<usize>,
    similarity: Option<Similarity>,
    head: ProbeNet,
}

impl PolicyProbe {
    fn features(&self, pass: &ScorerInput<'_>) -> CandleResult<Tensor> {
        let hidden = pass.hidden(&self.taps)?;
        match &self.similarity {
            Some(similarity) => Tensor::cat(&[hidden, similarity.features(pass)?], 1),
            None => Ok(hidden),
        }
    }
}

/// Network of a scorer.
pub enum Net {
    /// Probe on the policy's hidden states.
    Probe(PolicyProbe),
    /// Standalone network.
    Detached {
        /// Network.
        net: Box<StandaloneNet>,
        /// `true` if it is shown another image of the batch.
        shuffled: bool,
    },
}

/// Outputs of a scorer's network.
pub struct ScorerOutput {
    /// Logits that each learned token is grounded, `(tokens)`.
    pub logits: Tensor,
    /// The network's own final hidden states at the positions that predict the learned tokens;
    /// `None` for probes.
    pub predicting: Option<Tensor>,
}

impl Net {
    /// Loads a scorer's weights.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        config: &ScorerConfig,
        model: &CandorMiniConfig,
        vb: VarBuilder<'_>,
    ) -> CandleResult<Self> {
        let decoder = &model.language.decoder;
        match config {
            ScorerConfig::Probe {
                layers, similarity, ..
            } => {
                let chosen = layers.taps(decoder.num_hidden_layers);
                let Some((taps, sizes)) = chosen.zip(config.probe(model)) else {
                    candle_core::bail!("the probe's layers are yet to be chosen")
                };
                let width = decoder.hidden_size;
                let similarity = similarity
                    .then(|| Similarity::load(width, vb.pp("similarity")))
                    .transpose()?;
                Ok(Self::Probe(PolicyProbe {
                    taps,
                    similarity,
                    head: ProbeNet::load(&sizes, vb)?,
                }))
            }
            ScorerConfig::Detached { shuffled, .. } => Ok(Self::Detached {
                net: Box::new(StandaloneNet::load(&model.language, vb)?),
                shuffled: *shuffled,
            }),
        }
    }

    /// Scores every learned token of a batch.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn score(&self, pass: &ScorerInput<'_>, regular: Regular) -> CandleResult<ScorerOutput> {
        match self {
            Self::Probe(probe) => Ok(ScorerOutput {
                logits: probe.head.logits(&probe.features(pass)?)?,
                predicting: None,
            }),
            Self::Detached { net, shuffled } => {
                let images = if *shuffled {
                    next_image(pass.images)?
                } else {
                    pass.images.clone()
                };
                let batch = pass.batch;
                let states = net.decoder().whole(
                    &images,
                    &batch.tokens,
                    &batch.positions,
                    &batch.mask,
                    regular,
                )?;
                let Some(last) = states.last() else {
                    candle_core::bail!("the decoder has no layers")
                };
                let select =
                    |lines: &[u32]| last.index_select(&Tensor::new(lines, &Device::Cpu)?, 0);
                Ok(ScorerOutput {
                    logits: net.logits(&select(&batch.own_lines)?)?,
                    predicting: Some(select(&batch.lines)?),
                })
            }
        }
    }

    /// Network of a standalone scorer; `None` for a probe.
    pub fn detached(&self) -> Option<&StandaloneNet> {
        if let Self::Detached { net, .. } = self {
            Some(net)
        } else {
            None
        }
    }
}

/// Gives every row the image of the next one.
pub(super) fn next_image(images: &Tensor) -> CandleResult<Tensor> {
    let n = images.dim(0)? as u32;
    images.index_select(
        &Tensor::new(
            (0..n).map(|i| (i + 1) % n).collect::<Vec<_>>(),
            images.device(),
        )?,
        0,
    )
}
