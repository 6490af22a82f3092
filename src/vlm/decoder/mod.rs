//! Decoder: RMSNorm, rotary positions, SwiGLU and grouped-query attention, as in LLaMA (Touvron et
//! al., 2023, <https://arxiv.org/abs/2302.13971>) and the models that vary it.
//!
//! Checkpoint keys are Hugging Face's (`modeling_llama.py`). The same layers serve two uses:
//! [`Decoder::step`] appends a ragged batch to a [`KvCache`]; [`Decoder::whole`] runs padded whole
//! sequences under a mask and is differentiable.

mod config;
mod embed;

pub use config::{DecoderConfig, RopeScaling};

use candle_core::{Error, Result, Tensor};
use candle_nn::Init;

use super::{
    Embedded, Logits, Outputs, StepOutput,
    kv_cache::{KvCache, KvShape, RowSpan},
    nn::{self, Linear, RopeAngles},
    weights::Weights,
};

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
    qkv: Linear,
    o: Linear,
    post_norm: Tensor,
    gate_up: Linear,
    down: Linear,
}

/// Decoder. Projections of the same input are joined into one.
pub struct Decoder {
    config: DecoderConfig,
    rates: Vec<f64>,
    embed: Linear,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
}

impl Decoder {
    /// Loads `model` and, unless it is tied, `lm_head`; with a `VarMap` behind `weights`, every
    /// tensor becomes a trainable variable.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &DecoderConfig, weights: &Weights<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |weights: &Weights<'_>, name: &str| {
            weights.pp(name).tensor("weight", width, Init::Const(1.0))
        };
        // Each token reads these whole.
        let matrix = |weights: &Weights<'_>, name: &str, shape: (usize, usize), bias: bool| {
            Ok::<_, Error>(
                weights
                    .linear(name, shape.0, shape.1, bias)?
                    .in_large_pages(),
            )
        };
        let model = weights.pp("model");
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let layer = model.pp("layers").pp(i);
                let (attn, mlp) = (layer.pp("self_attn"), layer.pp("mlp"));
                let (q, kv) = (
                    config.num_attention_heads * config.head_dim(),
                    config.kv_width(),
                );
                let qkv = vec![
                    matrix(&attn, "q_proj", (q, width), config.qkv_bias)?,
                    matrix(&attn, "k_proj", (kv, width), config.qkv_bias)?,
                    matrix(&attn, "v_proj", (kv, width), config.qkv_bias)?,
                ];
                let gate_up = vec![
                    matrix(&mlp, "gate_proj", (inner, width), config.mlp_bias)?,
                    matrix(&mlp, "up_proj", (inner, width), config.mlp_bias)?,
                ];
                Ok(Layer {
                    input_norm: norm(&layer, "input_layernorm")?,
                    qkv: Linear::stacked(qkv)?,
                    o: matrix(&attn, "o_proj", (width, q), config.o_bias)?,
                    post_norm: norm(&layer, "post_attention_layernorm")?,
                    gate_up: Linear::stacked(gate_up)?,
                    down: matrix(&mlp, "down_proj", (width, inner), config.mlp_bias)?,
                })
            })
            .collect::<Result<_>>()?;
        let embed = model.linear("embed_tokens", config.vocab_size, width, false)?;
        let (embed, head) = if config.tie_word_embeddings {
            let embed = embed.in_large_pages();
            (embed.clone(), embed)
        } else {
            let shape = (config.vocab_size, width);
            (embed, matrix(weights, "lm_head", shape, false)?)
        };
        Ok(Self {
            config: config.clone(),
            rates: config.rotary_rates(),
            embed,
            layers,
            norm: norm(&model, "norm")?,
            head,
        })
    }

    /// Rounds the matrices; see [`Linear::rounded`].
    #[must_use]
    pub fn rounded(self) -> Self {
        let layers = self.layers.into_iter().map(|layer| Layer {
            qkv: layer.qkv.rounded(),
            o: layer.o.rounded(),
            gate_up: layer.gate_up.rounded(),
            down: layer.down.rounded(),
            ..layer
        });
        let embed = self.embed.rounded();
        let head = match self.config.tie_word_embeddings {
            true => embed.clone(),
            false => self.head.rounded(),
        };
        Self {
            layers: layers.collect(),
            embed,
            head,
            ..self
        }
    }

    /// Returns the sizes of the decoder.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Returns the sizes of its keys and values.
    pub fn kv_shape(&self) -> KvShape {
        self.config.kv_shape()
    }

    /// Returns the bytes of the weights that every step reads: all but rows of the embeddings.
    pub fn step_bytes(&self) -> usize {
        let of_layer = |layer: &Layer| {
            let matrices = [&layer.qkv, &layer.o, &layer.gate_up, &layer.down];
            matrices.map(Linear::bytes).iter().sum::<usize>()
        };
        self.layers.iter().map(of_layer).sum::<usize>() + self.head.bytes()
    }

    /// Creates an empty cache with the sizes of the decoder; see [`KvCache::new`].
    ///
    /// # Errors
    /// When it cannot be allocated.
    pub fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache> {
        KvCache::new(
            self.kv_shape(),
            slots,
            capacity,
            positions,
            self.norm.device(),
        )
    }

    /// Returns the embeddings of `tokens`: `(tokens, hidden_size)`.
    ///
    /// # Errors
    /// When a token is beyond the table.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.embed.rows(tokens)
    }

    /// Returns the logits of final hidden states: `(n, hidden_size)` to `(n, vocab_size)`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
    }

    /// Appends embedded rows to the cache and returns what was asked for. The caller advances the
    /// cache.
    ///
    /// # Errors
    /// When the cache is full or a tensor operation fails.
    pub fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        let states = self.step(&input.x, &input.positions, &input.rows, cache)?;
        let Some(last) = states.last() else {
            candle_core::bail!("the decoder has no layers")
        };
        let lengths = || input.rows.iter().map(|row| row.len);
        let wants = || lengths().zip(&input.from).map(|(len, &from)| from < len);
        if !wants().any(|wants| wants) {
            return Ok(StepOutput {
                logits: None,
                hidden: None,
            });
        }
        let whole = input.from.iter().all(|&from| from == 0);
        // Of every row, the tokens from its first wanted one on.
        let wanted = |tensor: &Tensor| {
            if whole {
                return Ok(tensor.clone());
            }
            let mut first = 0;
            let lines = lengths().zip(&input.from).flat_map(|(len, &from)| {
                first += len;
                (first - len + from..first).map(|line| line as u32)
            });
            let lines = Tensor::new(lines.collect::<Vec<u32>>(), tensor.device())?;
            tensor.index_select(&lines, 0)
        };
        let logits = match outputs.logits {
            Logits::None => None,
            Logits::All => Some(self.logits(&wanted(last)?)?),
            Logits::Last if whole && lengths().all(|len| len == 1) => Some(self.logits(last)?),
            Logits::Last => {
                let mut end = 0;
                let ends = lengths().zip(wants()).filter_map(|(len, wants)| {
                    end += len;
                    wants.then(|| end as u32 - 1)
                });
                let ends = Tensor::new(ends.collect::<Vec<u32>>(), last.device())?;
                Some(self.logits(&last.index_select(&ends, 0)?)?)
            }
        };
        let layers = outputs.hidden_layers.iter().map(|&layer| {
            let state = states.get(layer).ok_or_else(|| {
                let message = format!("there is no layer {layer} among {}", states.len());
                Error::Msg(message)
            })?;
            wanted(state)
        });
        let layers: Vec<Tensor> = layers.collect::<Result<_>>()?;
        let hidden = match layers.as_slice() {
            [] => None,
            layers => Some(Tensor::cat(layers, 1)?),
        };
        Ok(StepOutput { logits, hidden })
    }

    /// Appends `x` `(tokens, hidden_size)`, laid out by `rows`, to the cache and returns the
    /// residual stream after every layer, with the final norm applied to the last:
    /// `num_hidden_layers` tensors `(tokens, hidden_size)`. The caller advances the cache.
    ///
    /// # Errors
    /// When the cache is full or a tensor operation fails.
    pub fn step(
        &self,
        x: &Tensor,
        positions: &[u32],
        rows: &[RowSpan],
        cache: &mut KvCache,
    ) -> Result<Vec<Tensor>> {
        self.run(x, positions, Regular::default(), |layer, q, k, v| {
            cache.attend(layer, &q, &k, &v, rows)
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
        mut attend: impl FnMut(usize, Tensor, Tensor, Tensor) -> Result<Tensor>,
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
        let angles = RopeAngles::new(positions, &self.rates, x.device())?;
        let mut x = drop(x, 0)?;
        let mut states = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let qkv = layer
                .qkv
                .forward(&nn::rms_norm(&x, &layer.input_norm, eps)?)?;
            let part = |from: usize, len: usize| qkv.narrow(1, from, len)?.contiguous();
            let q = nn::rope(&part(0, q_width)?, &angles)?;
            let k = nn::rope(&part(q_width, kv)?, &angles)?;
            let attended = attend(i, q, k, part(q_width + kv, kv)?)?;
            x = (x + drop(&layer.o.forward(&attended)?, 2 * i + 1)?)?;
            let normed = nn::rms_norm(&x, &layer.post_norm, eps)?;
            let inner = nn::silu_mul(&layer.gate_up.forward(&normed)?)?;
            x = (x + drop(&layer.down.forward(&inner)?, 2 * i + 2)?)?;
            states.push(x.clone());
        }
        if let Some(last) = states.last_mut() {
            *last = nn::rms_norm(last, &self.norm, eps)?;
        }
        Ok(states)
    }
}
