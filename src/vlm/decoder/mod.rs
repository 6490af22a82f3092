//! LLaMA decoder (Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>): RMSNorm, rotary
//! positions, SwiGLU, grouped-query attention.
//!
//! Checkpoint keys are Hugging Face's (`modeling_llama.py`). The same layers serve two uses:
//! [`Llama::step`] appends a ragged batch to a [`KvCache`]; [`Llama::whole`] runs padded whole
//! sequences under a mask and is differentiable.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::vlm::{
    KvCache,
    nn::{self, Ragged},
};

/// Sizes of the decoder, named as in Hugging Face's `LlamaConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key/value heads.
    pub num_key_value_heads: usize,
    /// Longest sequence in positions.
    pub max_position_embeddings: usize,
    /// Base of the rotary angles.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Epsilon of RMSNorm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// `true` if the output matrix is the input embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_eps() -> f64 {
    1e-5
}

impl LlamaConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of a layer's keys, equal to that of its values.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim()
    }
}

/// Regularization of a training pass; [`Regular::default`] has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Regular {
    /// Dropout probability on the input and on the outputs of both halves of each block.
    pub dropout: f32,
    /// Seed of the dropout masks.
    pub seed: u64,
}

struct Layer {
    input_norm: Tensor,
    qkv: Tensor,
    o: Tensor,
    post_norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
}

/// LLaMA decoder. Weights are `(out, in)`; projections of the same input are stacked into one.
pub struct Llama {
    config: LlamaConfig,
    embed: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
}

/// `x @ weightᵀ` for `x` `(tokens, in)`.
fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

impl Llama {
    /// Loads the weights; with a `VarMap` behind `vb`, every weight becomes a trainable variable.
    pub fn load(config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let matrix = |vb: &VarBuilder<'_>, name: &str, out: usize, input: usize| {
            let init = candle_nn::Init::Randn {
                mean: 0.0,
                stdev: 0.02,
            };
            vb.pp(name).get_with_hints((out, input), "weight", init)
        };
        let norm = |vb: &VarBuilder<'_>, name: &str| {
            vb.pp(name)
                .get_with_hints(width, "weight", candle_nn::Init::Const(1.0))
        };
        let model = vb.pp("model");
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let vb = model.pp("layers").pp(i);
                let (attn, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
                let (q, kv) = (
                    config.num_attention_heads * config.head_dim(),
                    config.kv_width(),
                );
                let qkv = [
                    matrix(&attn, "q_proj", q, width)?,
                    matrix(&attn, "k_proj", kv, width)?,
                    matrix(&attn, "v_proj", kv, width)?,
                ];
                let gate_up = [
                    matrix(&mlp, "gate_proj", inner, width)?,
                    matrix(&mlp, "up_proj", inner, width)?,
                ];
                Ok(Layer {
                    input_norm: norm(&vb, "input_layernorm")?,
                    qkv: Tensor::cat(&qkv, 0)?,
                    o: matrix(&attn, "o_proj", width, q)?,
                    post_norm: norm(&vb, "post_attention_layernorm")?,
                    gate_up: Tensor::cat(&gate_up, 0)?,
                    down: matrix(&mlp, "down_proj", width, inner)?,
                })
            })
            .collect::<Result<_>>()?;
        let embed = matrix(&model, "embed_tokens", config.vocab_size, width)?;
        let head = if config.tie_word_embeddings {
            embed.clone()
        } else {
            matrix(&vb, "lm_head", config.vocab_size, width)?
        };
        Ok(Self {
            config: config.clone(),
            embed,
            layers,
            norm: norm(&model, "norm")?,
            head,
        })
    }

    /// Sizes of the decoder.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Embeddings of `tokens`: `(tokens, hidden_size)`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.embed
            .index_select(&Tensor::new(tokens, self.embed.device())?, 0)
    }

    /// Logits of final hidden states: `(n, hidden_size)` to `(n, vocab_size)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear(hidden, &self.head)
    }

    /// Appends `x` `(tokens, hidden_size)`, laid out by `ragged`, to the cache and returns the
    /// residual stream after every layer, with the final norm applied to the last:
    /// `num_hidden_layers` tensors `(tokens, hidden_size)`. The caller advances the cache.
    pub fn step(
        &self,
        x: &Tensor,
        ragged: &Ragged,
        slots: &[usize],
        cache: &KvCache,
    ) -> Result<Vec<Tensor>> {
        let positions: Vec<u32> = ragged
            .rows
            .iter()
            .flat_map(|r| (r.start..r.start + r.len).map(|p| p as u32))
            .collect();
        self.run(x, &positions, Regular::default(), |layer, q, k, v| {
            let mut first = 0;
            for (row, &slot) in ragged.rows.iter().zip(slots) {
                cache.write(
                    layer,
                    slot,
                    &k.narrow(0, first, row.len)?,
                    &v.narrow(0, first, row.len)?,
                )?;
                first += row.len;
            }
            let (keys, values) = cache.layer(layer);
            nn::ragged_attention(&q, keys, values, ragged)
        })
    }

    /// Runs whole padded sequences, differentiably. `x`: `(batch, length, hidden_size)`;
    /// `positions`: `batch * length` rotary positions; `mask`: `(batch, length, length)`, 0 where a
    /// query attends to a key and a large negative number elsewhere. Returns hidden states like
    /// [`Self::step`], with `batch * length` rows.
    pub fn whole(
        &self,
        x: &Tensor,
        positions: &[u32],
        mask: &Tensor,
        regular: Regular,
    ) -> Result<Vec<Tensor>> {
        let (batch, length, width) = x.dims3()?;
        let (heads, kv_heads, d) = (
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
            self.config.head_dim(),
        );
        let scale = 1.0 / (d as f64).sqrt();
        self.run(
            &x.reshape((batch * length, width))?,
            positions,
            regular,
            |_, q, k, v| {
                let split = |t: &Tensor, n: usize| {
                    t.reshape((batch, length, n, d))?
                        .transpose(1, 2)?
                        .contiguous()
                };
                let shared = |t: &Tensor| -> Result<Tensor> {
                    let t = split(t, kv_heads)?;
                    if heads == kv_heads {
                        return Ok(t);
                    }
                    t.unsqueeze(2)?
                        .broadcast_as((batch, kv_heads, heads / kv_heads, length, d))?
                        .reshape((batch, heads, length, d))
                };
                let scores = split(&q, heads)?.matmul(&shared(&k)?.t()?)?;
                let out = nn::masked_softmax(&scores, mask, scale)?.matmul(&shared(&v)?)?;
                out.transpose(1, 2)?.reshape((batch * length, heads * d))
            },
        )
    }

    fn run(
        &self,
        x: &Tensor,
        positions: &[u32],
        regular: Regular,
        attend: impl Fn(usize, Tensor, Tensor, Tensor) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let config = &self.config;
        let (kv, d, eps) = (config.kv_width(), config.head_dim(), config.rms_norm_eps);
        let q_width = config.num_attention_heads * d;
        let drop = |t: &Tensor, n: usize| {
            nn::dropout(
                t,
                regular.dropout,
                regular
                    .seed
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .wrapping_add(n as u64),
            )
        };
        let mut x = drop(x, 0)?;
        let mut states = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let qkv = linear(&nn::rms_norm(&x, &layer.input_norm, eps)?, &layer.qkv)?;
            let part = |from: usize, len: usize| qkv.narrow(1, from, len)?.contiguous();
            let q = nn::rope(&part(0, q_width)?, positions, d, config.rope_theta)?;
            let k = nn::rope(&part(q_width, kv)?, positions, d, config.rope_theta)?;
            let attended = attend(i, q, k, part(q_width + kv, kv)?)?;
            x = (x + drop(&linear(&attended, &layer.o)?, 2 * i + 1)?)?;
            let inner = nn::silu_mul(&linear(
                &nn::rms_norm(&x, &layer.post_norm, eps)?,
                &layer.gate_up,
            )?)?;
            x = (x + drop(&linear(&inner, &layer.down)?, 2 * i + 2)?)?;
            states.push(x.clone());
        }
        if let Some(last) = states.last_mut() {
            *last = nn::rms_norm(last, &self.norm, eps)?;
        }
        Ok(states)
    }
}
