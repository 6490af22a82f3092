//! Configuration files of checkpoints, brought to one form.
//!
//! A `config.json` is not trusted: every value is checked before memory is taken for it. What a
//! file leaves out is the default of the class that `transformers` reads it with.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::vlm::{
    decoder::{DecoderConfig, RopeScaling},
    nn::Activation,
    processor::processor_config::{ConfigSection, ProcessorFileError},
    vision::vit::VitConfig,
};

/// Most layers of a network.
const LAYERS: RangeInclusive<usize> = 1..=1000;

/// Widths of a network.
const WIDTHS: RangeInclusive<usize> = 1..=65_536;

/// Widths of feed-forward layers.
const INNER_WIDTHS: RangeInclusive<usize> = 1..=1_048_576;

/// Sizes of a vocabulary.
const VOCABULARIES: RangeInclusive<usize> = 1..=4_000_000;

/// Longest sequences.
const CONTEXTS: RangeInclusive<usize> = 1..=16_777_216;

/// Sides of a picture in pixels.
const IMAGE_SIDES: RangeInclusive<usize> = 1..=8192;

/// Most patches of a picture.
const PATCHES: usize = 16_384;

/// Most entries of a list of tokens or layers.
const MOST_LISTED: usize = 64;

/// Values within bounds.
impl ConfigSection {
    /// Returns the whole number `key` within `range`.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn size(
        &self,
        key: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ProcessorFileError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, expected, |value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            range.contains(&size).then_some(size)
        })
    }

    /// Returns the number `key` within `range`.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn number_within(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ProcessorFileError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.read(key, expected, |value| {
            value.as_f64().filter(|number| range.contains(number))
        })
    }

    /// Returns what `named` calls `key`, or `default` if it is missing.
    ///
    /// # Errors
    /// When it is another name.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &str,
        named: &[(&str, T)],
        default: &str,
    ) -> Result<T, ProcessorFileError> {
        let name = self.text(key)?.unwrap_or(default);
        let found = named.iter().find(|(known, _)| *known == name);
        found.map(|&(_, choice)| choice).ok_or_else(|| {
            let known: Vec<String> = named.iter().map(|(name, _)| format!("'{name}'")).collect();
            self.wrong(key, known.join(" or "), &Value::from(name))
        })
    }

    /// Returns what `parse` makes of every entry of the list `key`, or of a single value.
    ///
    /// # Errors
    /// When it refuses one, the list is empty or longer than 64.
    pub(crate) fn one_or_more<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ProcessorFileError> {
        let expected = format!("{expected} or a list of 1 to {MOST_LISTED}");
        self.read(key, expected, |value| match value {
            Value::Array(list) if (1..=MOST_LISTED).contains(&list.len()) => {
                list.iter().map(&parse).collect()
            }
            one => parse(one).map(|one| vec![one]),
        })
    }

    /// Returns the placeholder of image positions, under either of its names.
    ///
    /// # Errors
    /// When it is not a token's number.
    pub(crate) fn image_token(&self) -> Result<Option<u32>, ProcessorFileError> {
        match self.integer("image_token_id")? {
            Some(id) => Ok(Some(id)),
            None => self.integer("image_token_index"),
        }
    }
}

/// Text model of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TextModelConfig {
    /// `llama` or `qwen2`.
    pub model_type: &'static str,
    /// Sizes and options; `tie_word_embeddings` as far as the file says.
    pub decoder: DecoderConfig,
    /// `false` if the file does not say whether the output matrix is the input embedding.
    pub tie_is_known: bool,
}

impl TextModelConfig {
    /// Reads the text model of type `model_type` in `section`, whose words on
    /// `tie_word_embeddings` may also stand in `root`.
    ///
    /// # Errors
    /// When the type is not supported, or a value is outside its bounds.
    pub fn read(section: &ConfigSection, root: &ConfigSection) -> Result<Self, ProcessorFileError> {
        let named = [("llama", "llama"), ("qwen2", "qwen2")];
        let model_type = section.choice("model_type", &named, "llama")?;
        Self::read_as(model_type, section, root)
    }

    /// Reads LLaMA's values at the top of a file of another type.
    ///
    /// # Errors
    /// When a value is outside its bounds.
    pub fn read_flat(root: &ConfigSection) -> Result<Self, ProcessorFileError> {
        Self::read_as("llama", root, root)
    }

    fn read_as(
        model_type: &'static str,
        section: &ConfigSection,
        root: &ConfigSection,
    ) -> Result<Self, ProcessorFileError> {
        let is_qwen = model_type == "qwen2";
        section.choice("hidden_act", &[("silu", ())], "silu")?;
        if is_qwen && section.flag("use_sliding_window")? == Some(true) {
            return Err(section.wrong("use_sliding_window", "false", &Value::from(true)));
        }
        let base = match is_qwen {
            false => DecoderConfig::default(),
            true => DecoderConfig {
                vocab_size: 151_936,
                intermediate_size: 22_016,
                max_position_embeddings: 32_768,
                ..DecoderConfig::default()
            },
        };
        let (hidden, heads) = (
            section
                .size("hidden_size", WIDTHS)?
                .unwrap_or(base.hidden_size),
            section
                .size("num_attention_heads", 1..=4096)?
                .unwrap_or(base.num_attention_heads),
        );
        let kv_heads = section.size("num_key_value_heads", 1..=heads)?;
        // Qwen2's class has its own number, LLaMA's as many as queries.
        let kv_heads = kv_heads.unwrap_or(if is_qwen {
            base.num_key_value_heads
        } else {
            heads
        });
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of the {heads} query heads");
            return Err(section.wrong("num_key_value_heads", expected, &kv_heads.into()));
        }
        let head_dim = section.size("head_dim", 2..=1024)?;
        if head_dim.is_none() && !hidden.is_multiple_of(heads) {
            let expected = format!("a multiple of the {heads} heads");
            return Err(section.wrong("hidden_size", expected, &hidden.into()));
        }
        let width = head_dim.unwrap_or(hidden / heads);
        if !width.is_multiple_of(2) {
            return Err(section.wrong("head_dim", "an even number", &width.into()));
        }
        let (rope_theta, rope_scaling) = rope(section)?;
        let attention_bias = !is_qwen && section.flag("attention_bias")? == Some(true);
        let mlp_bias = !is_qwen && section.flag("mlp_bias")? == Some(true);
        let (own, outer) = (
            section.flag("tie_word_embeddings")?,
            root.flag("tie_word_embeddings")?,
        );
        let decoder = DecoderConfig {
            vocab_size: section
                .size("vocab_size", VOCABULARIES)?
                .unwrap_or(base.vocab_size),
            hidden_size: hidden,
            intermediate_size: section
                .size("intermediate_size", INNER_WIDTHS)?
                .unwrap_or(base.intermediate_size),
            num_hidden_layers: section
                .size("num_hidden_layers", LAYERS)?
                .unwrap_or(base.num_hidden_layers),
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            max_position_embeddings: section
                .size("max_position_embeddings", CONTEXTS)?
                .unwrap_or(base.max_position_embeddings),
            rope_theta,
            rope_scaling,
            rms_norm_eps: section
                .number_within("rms_norm_eps", 0.0..=1.0)?
                .unwrap_or(base.rms_norm_eps),
            tie_word_embeddings: own == Some(true) || outer == Some(true),
            qkv_bias: is_qwen || attention_bias,
            o_bias: attention_bias,
            mlp_bias,
        };
        Ok(Self {
            model_type,
            decoder,
            tie_is_known: own.or(outer).is_some(),
        })
    }
}

/// Reads base and scaling of the rotary angles: `rope_parameters`, or `rope_theta` and
/// `rope_scaling` of older files.
fn rope(section: &ConfigSection) -> Result<(f64, Option<RopeScaling>), ProcessorFileError> {
    let scaling = match section.section("rope_parameters")? {
        Some(parameters) => parameters,
        None => section.section_or_empty("rope_scaling")?,
    };
    let bases = 1.0..=1e12;
    let theta = match scaling.number_within("rope_theta", bases.clone())? {
        Some(theta) => theta,
        None => section
            .number_within("rope_theta", bases)?
            .unwrap_or(10_000.0),
    };
    for place in [section, &scaling] {
        let key = "partial_rotary_factor";
        if let Some(value) = place.value(key).filter(|value| value.as_f64() != Some(1.0)) {
            return Err(place.wrong(key, "1", value));
        }
    }
    // Older files call it `type`, and some have both.
    let key = match scaling.value("rope_type") {
        Some(_) => "rope_type",
        None => "type",
    };
    let scaled = scaling.choice(key, &[("default", false), ("llama3", true)], "default")?;
    if !scaled {
        return Ok((theta, None));
    }
    let needed = |key: &str, range: RangeInclusive<f64>| {
        let number = scaling.number_within(key, range)?;
        number.ok_or_else(|| scaling.error(key, "is missing"))
    };
    let low_freq_factor = needed("low_freq_factor", 1e-3..=1e6)?;
    Ok((
        theta,
        Some(RopeScaling {
            factor: needed("factor", 1.0..=1e6)?,
            low_freq_factor,
            // A larger one: the interpolation divides by their difference.
            high_freq_factor: needed("high_freq_factor", low_freq_factor + 1e-3..=1e7)?,
            original_max_position_embeddings: needed(
                "original_max_position_embeddings",
                1.0..=1e9,
            )?,
        }),
    ))
}

/// Sizes that a class of vision towers takes where a file is silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TowerDefaults {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    pub(crate) activation: &'static str,
    pub(crate) eps: f64,
}

impl TowerDefaults {
    /// Reads the sizes of a vision transformer without a class token, bias or outer norms.
    ///
    /// # Errors
    /// When a value is outside its bounds.
    pub(crate) fn read(&self, section: &ConfigSection) -> Result<VitConfig, ProcessorFileError> {
        if let Some(channels) = section.size("num_channels", 0..=usize::MAX)?
            && channels != 3
        {
            return Err(section.wrong("num_channels", "3", &channels.into()));
        }
        let size = |key: &str, range: RangeInclusive<usize>, default: usize| {
            Ok::<_, ProcessorFileError>(section.size(key, range)?.unwrap_or(default))
        };
        let hidden_size = size("hidden_size", WIDTHS, self.hidden_size)?;
        let heads = size("num_attention_heads", 1..=4096, self.heads)?;
        if !hidden_size.is_multiple_of(heads) {
            let expected = format!("a multiple of the {heads} heads");
            return Err(section.wrong("hidden_size", expected, &hidden_size.into()));
        }
        let image_size = size("image_size", IMAGE_SIDES, self.image_size)?;
        let patch_size = size("patch_size", 1..=image_size, self.patch_size)?;
        let config = VitConfig {
            hidden_size,
            intermediate_size: size("intermediate_size", INNER_WIDTHS, self.intermediate_size)?,
            layers: size("num_hidden_layers", LAYERS, self.layers)?,
            heads,
            image_size,
            patch_size,
            activation: section.choice("hidden_act", &Activation::NAMED, self.activation)?,
            eps: section
                .number_within("layer_norm_eps", 0.0..=1.0)?
                .unwrap_or(self.eps),
            class_token: false,
            patch_bias: false,
            pre_norm: false,
            post_norm: false,
        };
        if config.side() * config.side() > PATCHES {
            let expected = format!("at least {image_size} / 128: a picture has {PATCHES} patches");
            return Err(section.wrong("patch_size", expected, &patch_size.into()));
        }
        Ok(config)
    }
}

/// Reads the tokens that end an answer: of `generation_config.json`, else of `config.json` and the
/// text model in it. Empty if none of them says.
///
/// # Errors
/// When an entry is not a token's number or a list of them.
pub(crate) fn end_tokens(
    generation: Option<&ConfigSection>,
    config: &ConfigSection,
) -> Result<Vec<u32>, ProcessorFileError> {
    let text = config.section_or_empty("text_config")?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    for place in generation.into_iter().chain([config, &text]) {
        if let Some(ids) = place.one_or_more("eos_token_id", "a token's number", id)? {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests;
