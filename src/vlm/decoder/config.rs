//! Sizes and options of a decoder.

use serde::{Deserialize, Serialize};

use crate::vlm::kv_cache::KvShape;

/// Sizes and options of the decoder, named as in Hugging Face's `LlamaConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
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
    /// Width of a head; `hidden_size / num_attention_heads` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Longest sequence in positions.
    pub max_position_embeddings: usize,
    /// Base of the rotary angles.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Scaling of the rotary angles for longer contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Epsilon of RMSNorm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// `true` if the output matrix is the input embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// `true` if queries, keys and values have a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// `true` if the attention's output has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub o_bias: bool,
    /// `true` if the feed-forward layers have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mlp_bias: bool,
}

/// Scaling of the rotary angles, as in Llama 3.1 (`rope_type` "llama3"): low frequencies are
/// divided by `factor`, high ones kept, those between interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// Divisor of low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high ones.
    pub high_freq_factor: f64,
    /// Context length before the scaling.
    pub original_max_position_embeddings: f64,
}

impl Default for DecoderConfig {
    /// LLaMA-7B: what the library of the reference assumes where a `config.json` is silent.
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: None,
            max_position_embeddings: 2048,
            rope_theta: default_theta(),
            rope_scaling: None,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
        }
    }
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_eps() -> f64 {
    1e-5
}

fn is_false(value: &bool) -> bool {
    !value
}

impl DecoderConfig {
    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the width of a layer's keys, equal to that of its values.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim()
    }

    /// Returns the sizes of keys and values.
    pub fn kv_shape(&self) -> KvShape {
        KvShape {
            layers: self.num_hidden_layers,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim(),
        }
    }

    /// Returns the angle that each pair of a head's numbers turns by from one position to the
    /// next, `head_dim / 2` of them.
    pub fn rotary_rates(&self) -> Vec<f64> {
        let dim = self.head_dim();
        let rate = |i: usize| self.rope_theta.powf(-2.0 * i as f64 / dim as f64);
        let rates = (0..dim / 2).map(rate);
        match self.rope_scaling {
            None => rates.collect(),
            Some(scaling) => rates.map(|rate| scaling.scale(rate)).collect(),
        }
    }
}

impl RopeScaling {
    /// Scales one rate.
    fn scale(&self, rate: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / rate;
        let turns = self.original_max_position_embeddings / wavelength;
        if turns < self.low_freq_factor {
            return rate / self.factor;
        }
        if turns > self.high_freq_factor {
            return rate;
        }
        let smooth =
            (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - smooth) * rate / self.factor + smooth * rate
    }
}
