//! Summary of a model and its memory, for `candor models inspect` and `candor doctor`.

use std::fmt::Write as _;

use candle_core::Device;
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    bundle::{Bundle, BundleError},
    config::Config,
    engine::EngineConfig,
    serve::kv_bytes,
    vlm::{
        models::{EXAMPLE_SIZE, ExampleImage, ModelSummary, TokenizerSummary, VisionSummary},
        weights::FormatBytes,
    },
};

/// Memory that serving a model takes, without activations and images.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ModelMemory {
    /// Bytes of all weights.
    weights_bytes: u64,
    /// Those of the weights that stay in mapped files, which the system can give up.
    mapped_bytes: u64,
    /// Bytes of keys and values that a token takes, in the scorer's cache too.
    kv_token_bytes: u64,
    /// Those of one sequence as long as the context.
    kv_context_bytes: u64,
    /// Most bytes of the engine's caches.
    kv_cache_bytes: u64,
    /// Weights and caches together.
    total_bytes: u64,
}

impl ModelMemory {
    fn new(summary: &ModelSummary, config: &Config) -> Self {
        let engine = EngineConfig {
            max_batch: config.engine.max_batch,
            context_len: config.engine.context_len.value().unwrap_or(usize::MAX),
            kv_bytes: config
                .engine
                .kv_cache_bytes
                .value()
                .unwrap_or_else(|| kv_bytes(&Device::Cpu)),
            ..EngineConfig::default()
        };
        let context = summary.text.context;
        let scorer = summary.scorer.map(|_| summary.scorer_position_bytes);
        let token = summary.kv.position_bytes() as u64 + summary.scorer_position_bytes;
        let kv_cache_bytes = engine.cache_bytes(&summary.kv, context, scorer);
        let weights_bytes = summary.weights.bytes();
        Self {
            weights_bytes,
            mapped_bytes: summary.weights.mapped_bytes,
            kv_token_bytes: token,
            kv_context_bytes: token.saturating_mul(context as u64),
            kv_cache_bytes,
            total_bytes: weights_bytes.saturating_add(kv_cache_bytes),
        }
    }

    /// Returns the memory in one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} of weights + up to {} of key/value cache = {}",
            HumanBytes(self.weights_bytes),
            HumanBytes(self.kv_cache_bytes),
            HumanBytes(self.total_bytes)
        )
    }
}

/// Model with the memory that it takes under a configuration.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InspectedModel {
    /// Name as it was given.
    name: String,
    #[serde(flatten)]
    pub(crate) summary: ModelSummary,
    pub(crate) memory: ModelMemory,
}

impl InspectedModel {
    /// Inspects a model without loading its weights.
    ///
    /// # Errors
    /// See [`Bundle::inspect`].
    pub(crate) fn open(name: &str, config: &Config) -> Result<Self, BundleError> {
        let summary = Bundle::inspect(name, &config.model.open_options())?;
        Ok(Self {
            name: name.to_owned(),
            memory: ModelMemory::new(&summary, config),
            summary,
        })
    }

    pub(crate) fn json(&self) -> Value {
        json!(self)
    }

    /// Returns the model in one line.
    pub(crate) fn line(&self) -> String {
        let ModelSummary {
            form,
            architecture,
            text,
            vision,
            ..
        } = &self.summary;
        let sees = match vision {
            Some(vision) => format!("images of {0}x{0} pixels", vision.image_size),
            None => "text alone".to_owned(),
        };
        format!(
            "{}, {architecture}, {} layers of width {}, context {} tokens, {sees}",
            form.words(),
            text.layers,
            text.width,
            text.context
        )
    }

    /// Returns everything in lines.
    pub(crate) fn text(&self) -> String {
        let ModelSummary {
            form,
            architecture,
            license,
            text,
            vision,
            scorer,
            tokenizer,
            files,
            weights,
            ..
        } = &self.summary;
        let mut out = String::new();
        let mut line = |label: &str, text: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{label:<13}{text}");
        };
        line("model", &self.name);
        line("form", form.words());
        line("architecture", &format!("{architecture}, supported"));
        line("license", &license.to_string());
        line(
            "text",
            &format!(
                "{} layers of width {}, {} heads of {} ({} of keys and values), vocabulary {}, \
                 context {} tokens",
                text.layers,
                text.width,
                text.heads,
                text.head_dim,
                text.kv_heads,
                text.vocabulary,
                text.context
            ),
        );
        match vision {
            None => line("vision", "none, text alone"),
            Some(vision) => {
                line("vision", &tower_text(vision));
                vision
                    .example
                    .iter()
                    .for_each(|image| line("", &example_text(image)));
            }
        }
        line("scorer", scorer.unwrap_or("none"));
        let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0);
        for (i, file) in files.iter().enumerate() {
            let label = if i == 0 { "files" } else { "" };
            let (name, size) = (&file.name, HumanBytes(file.bytes).to_string());
            let formats = formats_text(&file.formats);
            line(label, &format!("{name:width$} {size:>12}  {formats}"));
        }
        line("template", &template_text(tokenizer));
        line("tokenizer", &tokenizer_text(tokenizer));
        let memory = &self.memory;
        line(
            "weights",
            &format!(
                "{}: matrices {}, others {}; {} stay in the files",
                HumanBytes(memory.weights_bytes),
                formats_text(&weights.matrices),
                HumanBytes(weights.others_bytes),
                HumanBytes(memory.mapped_bytes)
            ),
        );
        line(
            "keys, values",
            &format!(
                "{} a token, {} for {} tokens",
                HumanBytes(memory.kv_token_bytes),
                HumanBytes(memory.kv_context_bytes),
                text.context
            ),
        );
        line("memory", &memory.line());
        line("", "activations and images come on top");
        out
    }
}

fn tower_text(vision: &VisionSummary) -> String {
    let side = vision.image_size;
    let layers = match (vision.layers, vision.patch_size) {
        (Some(layers), Some(patch)) => {
            format!(
                "{layers} layers of width {}, patches of {patch}",
                vision.width
            )
        }
        _ => format!("{} channels", vision.width),
    };
    format!("{}, {side}x{side} pixels, {layers}", vision.tower)
}

fn example_text(image: &ExampleImage) -> String {
    let (width, height) = EXAMPLE_SIZE;
    let how = match (image.do_image_splitting, image.grid) {
        (None, _) => String::new(),
        (Some(false), _) => ", not split".to_owned(),
        (Some(true), (rows, columns)) => format!(", in {rows} rows of {columns} tiles"),
    };
    format!(
        "{width}x{height} pixels: {} positions{how}",
        image.positions
    )
}

fn template_text(tokenizer: &TokenizerSummary) -> String {
    match tokenizer.content {
        "either" => "content a string or a list of parts".to_owned(),
        "list" => "content a list of parts".to_owned(),
        other => format!("content a {other}"),
    }
}

fn tokenizer_text(tokenizer: &TokenizerSummary) -> String {
    let ends = tokenizer.ends.iter();
    let ends: Vec<String> = ends
        .map(|end| format!("{} {:?}", end.id, end.token))
        .collect();
    format!(
        "{}, {} tokens, an answer ends with {}",
        tokenizer.kind,
        tokenizer.tokens,
        ends.join(" or ")
    )
}

fn formats_text(formats: &FormatBytes) -> String {
    let formats = formats
        .iter()
        .map(|(name, bytes)| format!("{name} {}", HumanBytes(*bytes)));
    formats.collect::<Vec<_>>().join(", ")
}
