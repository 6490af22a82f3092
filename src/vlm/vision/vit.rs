//! Vision transformer (Dosovitskiy et al., 2020, <https://arxiv.org/abs/2010.11929>) as CLIP
//! (Radford et al., 2021, <https://arxiv.org/abs/2103.00020>) and SigLIP (Zhai et al., 2023,
//! <https://arxiv.org/abs/2303.15343>) use it.
//!
//! Checkpoint keys are Hugging Face's (`modeling_clip.py`, `modeling_idefics3.py`).

use candle_core::{Result, Tensor, bail};
use candle_nn::Init;

use crate::vlm::{
    nn::{self, Activation, Linear, Ragged, RaggedRow, ragged_attention},
    weights::Weights,
};

/// Channels of a picture.
const CHANNELS: usize = 3;

/// Most attention scores, and activations of a feed-forward layer, that are in memory at once:
/// tiles are run in groups, and queries attend in groups.
const MOST_ELEMENTS: usize = 1 << 22;

/// Sizes and options of a vision transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers to run, which may be fewer than the checkpoint holds.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Side of the square picture in pixels.
    pub image_size: usize,
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of the layer norms.
    pub eps: f64,
    /// `true` if a learned class token precedes the patches.
    pub class_token: bool,
    /// `true` if the patch embedding has a bias.
    pub patch_bias: bool,
    /// `true` if a norm precedes the first layer.
    pub pre_norm: bool,
    /// `true` if a norm follows the last layer that is run.
    pub post_norm: bool,
}

impl VitConfig {
    /// Returns the patches along one side of the picture; a rest narrower than a patch is cut off.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Returns the positions of a tile, with the class token.
    pub fn positions(&self) -> usize {
        self.side() * self.side() + usize::from(self.class_token)
    }
}

/// Layer norm with its weights.
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    fn load(name: &str, config: &VitConfig, weights: &Weights<'_>) -> Result<Self> {
        let norm = weights.pp(name);
        Ok(Self {
            weight: norm.tensor("weight", config.hidden_size, Init::Const(1.0))?,
            bias: norm.tensor("bias", config.hidden_size, Init::Const(0.0))?,
            eps: config.eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

struct Layer {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// Vision transformer: normalized pixels in, hidden states out.
pub struct Vit {
    config: VitConfig,
    patches: Linear,
    class: Option<Tensor>,
    positions: Tensor,
    pre_norm: Option<Norm>,
    layers: Vec<Layer>,
    post_norm: Option<Norm>,
}

impl Vit {
    /// Loads `embeddings`, `encoder.layers` and, as the options say, `pre_layrnorm` (spelled so in
    /// CLIP's checkpoints) and `post_layernorm`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &VitConfig, weights: &Weights<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (init, zero) = (
            Init::Randn {
                mean: 0.0,
                stdev: 0.02,
            },
            Init::Const(0.0),
        );
        let embeddings = weights.pp("embeddings");
        let patch = embeddings.pp("patch_embedding");
        let (p, bias) = (config.patch_size, config.patch_bias);
        let filters = patch.tensor("weight", (width, CHANNELS, p, p), init)?;
        let bias = bias
            .then(|| patch.tensor("bias", width, zero))
            .transpose()?;
        let class = || embeddings.tensor("class_embedding", width, init);
        let table = (config.positions(), width);
        let norm = |name: &str| Norm::load(name, config, weights);
        let layers = (0..config.layers).map(|i| {
            let layer = weights.pp("encoder").pp("layers").pp(i);
            let (attention, mlp) = (layer.pp("self_attn"), layer.pp("mlp"));
            // A picture has hundreds of positions: arithmetic counts, not the reading of weights.
            let linear = |at: &Weights<'_>, name: &str, out: usize, input: usize| {
                let layer = at.linear(name, out, input, true)?;
                Ok::<_, candle_core::Error>(match layer.is_half() {
                    true => layer.rounded(),
                    false => layer,
                })
            };
            Ok(Layer {
                norm1: Norm::load("layer_norm1", config, &layer)?,
                q: linear(&attention, "q_proj", width, width)?,
                k: linear(&attention, "k_proj", width, width)?,
                v: linear(&attention, "v_proj", width, width)?,
                out: linear(&attention, "out_proj", width, width)?,
                norm2: Norm::load("layer_norm2", config, &layer)?,
                fc1: linear(&mlp, "fc1", inner, width)?,
                fc2: linear(&mlp, "fc2", width, inner)?,
            })
        });
        Ok(Self {
            patches: Linear::dense(filters.flatten_from(1)?, bias)?,
            class: config.class_token.then(class).transpose()?,
            positions: embeddings
                .pp("position_embedding")
                .tensor("weight", table, init)?,
            pre_norm: config.pre_norm.then(|| norm("pre_layrnorm")).transpose()?,
            layers: layers.collect::<Result<_>>()?,
            post_norm: config
                .post_norm
                .then(|| norm("post_layernorm"))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// Returns the sizes of the transformer.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Runs `pixels` `(tiles, 3, height, width)` and returns the hidden states numbered `wanted`,
    /// `(tiles, positions, hidden_size)` each. Number 0 is the input of the first layer, `n` the
    /// output of the `n`th; that of the last is behind the final norm, if there is one.
    ///
    /// # Errors
    /// When the pictures have another size, there is no such state, or a tensor operation fails.
    pub fn forward(&self, pixels: &Tensor, wanted: &[usize]) -> Result<Vec<Tensor>> {
        let tiles = pixels.dim(0)?;
        let elements = self.config.positions() * self.config.intermediate_size;
        let group = (MOST_ELEMENTS / elements.max(1)).max(1);
        let mut groups = vec![Vec::new(); wanted.len()];
        for first in (0..tiles).step_by(group) {
            let states = self.run(&pixels.narrow(0, first, group.min(tiles - first))?, wanted)?;
            groups.iter_mut().zip(states).for_each(|(g, s)| g.push(s));
        }
        groups.iter().map(|group| Tensor::cat(group, 0)).collect()
    }

    fn run(&self, pixels: &Tensor, wanted: &[usize]) -> Result<Vec<Tensor>> {
        let (tiles, last) = (pixels.dim(0)?, self.layers.len());
        let mut x = self.embed(pixels)?;
        let mut states = vec![None; wanted.len()];
        for number in 0..=last {
            if let Some(index) = number.checked_sub(1) {
                x = self.step(&self.layers[index], &x, tiles)?;
            }
            for (state, _) in states.iter_mut().zip(wanted).filter(|(_, n)| **n == number) {
                let x = match &self.post_norm {
                    Some(norm) if number == last => norm.forward(&x)?,
                    _ => x.clone(),
                };
                *state = Some(x.reshape((tiles, self.config.positions(), ()))?);
            }
        }
        match states.into_iter().collect() {
            Some(states) => Ok(states),
            None => bail!("there are hidden states 0 to {last}, asked for are {wanted:?}"),
        }
    }

    /// Returns the input of the first layer: `(tiles * positions, hidden_size)`.
    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (tiles, channels, height, width) = pixels.dims4()?;
        let (side, p) = (self.config.side(), self.config.patch_size);
        if (channels, height / p, width / p) != (CHANNELS, side, side) {
            let size = self.config.image_size;
            bail!(
                "expected pictures of ({CHANNELS}, {size}, {size}), got {:?}",
                &pixels.dims()[1..]
            );
        }
        let unfolded = pixels
            .narrow(2, 0, side * p)?
            .narrow(3, 0, side * p)?
            .reshape((tiles, CHANNELS, side, p, side, p))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((tiles * side * side, CHANNELS * p * p))?;
        let mut x = self.patches.forward(&unfolded)?;
        x = x.reshape((tiles, side * side, ()))?;
        if let Some(class) = &self.class {
            let class = class.reshape((1, 1, ()))?.repeat((tiles, 1, 1))?;
            x = Tensor::cat(&[class, x], 1)?;
        }
        x = x.broadcast_add(&self.positions)?.flatten_to(1)?;
        match &self.pre_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    fn step(&self, layer: &Layer, x: &Tensor, tiles: usize) -> Result<Tensor> {
        let normed = layer.norm1.forward(x)?;
        let (q, k, v) = (
            layer.q.forward(&normed)?,
            layer.k.forward(&normed)?,
            layer.v.forward(&normed)?,
        );
        let x = (x + layer.out.forward(&self.attend(&q, &k, &v, tiles)?)?)?;
        let inner = layer.fc1.forward(&layer.norm2.forward(&x)?)?;
        x + layer
            .fc2
            .forward(&self.config.activation.forward(&inner)?)?
    }

    /// Attention of every tile's positions to all of that tile.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, tiles: usize) -> Result<Tensor> {
        let (heads, positions) = (self.config.heads, self.config.positions());
        let tables: Vec<u32> = (0..tiles as u32).collect();
        let all = 0..positions;
        let ragged = Ragged {
            rows: tables
                .iter()
                .map(|tile| RaggedRow {
                    blocks: std::slice::from_ref(tile),
                    start: 0,
                    len: positions,
                    full: std::slice::from_ref(&all),
                })
                .collect(),
            block: positions,
            heads,
            kv_heads: heads,
            head_dim: self.config.hidden_size / heads,
        };
        ragged_attention(q, k, v, &ragged)
    }
}
