//! Summaries of models: what they are, what they take and what memory their weights need, by
//! configuration files and headers.

use serde::Serialize;

use super::{ModelConfig, ModelLicense, ModelLoadError, OpenedModel};
use crate::vlm::{
    decoder::DecoderConfig,
    kv_cache::KvShape,
    processor::{
        ImageOptions, Processor,
        template::{ChatTemplate, ContentForm},
        tokenizer::TextTokenizer,
    },
    weights::{FormatBytes, HeldWeights, WeightFile, Weights, WeightsOptions},
};

/// Width and height of the picture whose positions are told.
pub const EXAMPLE_SIZE: (u32, u32) = (640, 480);

/// Form in which a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelForm {
    /// Candor's own bundle.
    Bundle,
    /// Safetensors with a text model's names at the top, or those that repositories use:
    /// `language_model.model.`, `model.text_model.`.
    HuggingFace,
    /// Safetensors with the names of the modules of transformers 4.52 and later:
    /// `model.language_model.`.
    HuggingFaceModules,
    /// Safetensors as LLaVA's authors save them.
    LlavaOriginal,
    /// GGUF files of llama.cpp.
    Gguf,
}

impl ModelForm {
    /// Returns the form in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Bundle => "Candor bundle",
            Self::HuggingFace => "Hugging Face checkpoint",
            Self::HuggingFaceModules => "Hugging Face checkpoint, names of transformers' modules",
            Self::LlavaOriginal => "checkpoint in the layout of LLaVA's authors",
            Self::Gguf => "GGUF",
        }
    }

    /// Returns the form of opened files.
    fn of(weights: &Weights<'_>) -> Self {
        let is_gguf = |file: &WeightFile| file.path.extension().is_some_and(|e| e == "gguf");
        if weights.files().iter().any(is_gguf) {
            Self::Gguf
        } else if weights.has_stored("model.mm_projector.") {
            Self::LlavaOriginal
        } else if weights.has_stored("model.language_model.") {
            Self::HuggingFaceModules
        } else {
            Self::HuggingFace
        }
    }
}

/// Sizes of a text model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextSummary {
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the output matrix.
    pub vocabulary: usize,
    /// Longest sequence in positions.
    pub context: usize,
}

impl From<&DecoderConfig> for TextSummary {
    fn from(config: &DecoderConfig) -> Self {
        Self {
            layers: config.num_hidden_layers,
            width: config.hidden_size,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
        }
    }
}

/// Tower of a model that sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VisionSummary {
    /// Kind of tower.
    pub tower: &'static str,
    /// Side of the square that the tower takes, in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels; `None` for convolutions.
    pub patch_size: Option<usize>,
    /// Layers that are run; `None` for convolutions.
    pub layers: Option<usize>,
    /// Width of the tower's output.
    pub width: usize,
    /// Results for a picture of [`EXAMPLE_SIZE`], one entry a way of splitting it.
    pub example: Vec<ExampleImage>,
}

/// Result for a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExampleImage {
    /// Value of `do_image_splitting`; `None` if the model does not have it.
    pub do_image_splitting: Option<bool>,
    /// Rows and columns of tiles; `(0, 0)` if it is not split.
    pub grid: (u32, u32),
    /// Positions in the prompt, without the markers around them.
    pub positions: usize,
}

impl ExampleImage {
    /// Returns what the picture becomes, split and not, as far as the processor has it.
    ///
    /// # Errors
    /// When it does not take such a picture.
    fn all(processor: &dyn Processor) -> Result<Vec<Self>, ModelLoadError> {
        let (width, height) = EXAMPLE_SIZE;
        let layout = |do_image_splitting| {
            let options = ImageOptions {
                do_image_splitting,
                longest_edge: None,
            };
            let layout = processor.layout(width, height, &options)?;
            Ok(Self {
                do_image_splitting,
                grid: layout.grid,
                positions: layout.tokens,
            })
        };
        let both: Result<Vec<_>, ModelLoadError> =
            [Some(true), Some(false)].map(layout).into_iter().collect();
        both.or_else(|_| Ok(vec![layout(None)?]))
    }
}

/// File of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// Name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of its tensors by number format.
    pub formats: FormatBytes,
}

impl From<&WeightFile> for FileSummary {
    fn from(file: &WeightFile) -> Self {
        let tensors = file.formats.values().sum();
        Self {
            name: file.path.file_name().map_or_else(
                || file.path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            bytes: file.path.metadata().map_or(tensors, |data| data.len()),
            formats: file.formats.clone(),
        }
    }
}

/// Tokenizer of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizerSummary {
    /// `sentencepiece` or `byte_level_bpe`.
    pub kind: &'static str,
    /// Tokens, special ones included.
    pub tokens: usize,
    /// Tokens that end an answer.
    pub ends: Vec<EndToken>,
    /// Form in which the chat template reads the content of a message: `string`, `list` or
    /// `either`.
    pub content: &'static str,
}

/// Token that ends an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndToken {
    /// Its number.
    pub id: u32,
    /// Its text in the vocabulary.
    pub token: String,
}

/// Returns what a tokenizer and a template are.
pub fn tokenizer_summary(tokenizer: &TextTokenizer, template: &ChatTemplate) -> TokenizerSummary {
    let end = |&id: &u32| EndToken {
        id,
        token: tokenizer.token(id).unwrap_or_default(),
    };
    TokenizerSummary {
        kind: match tokenizer.leading_space() {
            true => "sentencepiece",
            false => "byte_level_bpe",
        },
        tokens: tokenizer.vocab_size(),
        ends: tokenizer.ends().iter().map(end).collect(),
        content: match template.content_form() {
            ContentForm::Text => "string",
            ContentForm::Parts => "list",
            ContentForm::Either => "either",
        },
    }
}

/// Summary of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelSummary {
    /// Form in which it is stored.
    pub form: ModelForm,
    /// Name of the architecture, as `model_type` in a `config.json`.
    pub architecture: &'static str,
    /// License of the weights.
    pub license: ModelLicense,
    /// Text model.
    pub text: TextSummary,
    /// Vision tower; `None` if the model takes text alone.
    pub vision: Option<VisionSummary>,
    /// Scorer that is used by default; `None` if it has none.
    pub scorer: Option<&'static str>,
    /// Tokenizer and template.
    pub tokenizer: TokenizerSummary,
    /// Files of weights.
    pub files: Vec<FileSummary>,
    /// Weights in memory.
    pub weights: HeldWeights,
    /// Sizes of keys and values.
    #[serde(skip)]
    pub kv: KvShape,
    /// Bytes that a position takes in a scorer's own key/value cache.
    #[serde(skip)]
    pub scorer_position_bytes: u64,
}

impl ModelSummary {
    /// Returns what a checkpoint is, and its memory with `options`.
    ///
    /// # Errors
    /// When its processor does not take an ordinary picture.
    pub fn of_checkpoint(
        opened: &OpenedModel,
        license: ModelLicense,
        options: &WeightsOptions,
    ) -> Result<Self, ModelLoadError> {
        let OpenedModel {
            config,
            processor,
            weights,
        } = opened;
        let decoder = &config.text().decoder;
        let vision = config.vision().map(|vision| {
            Ok::<_, ModelLoadError>(VisionSummary {
                tower: match config {
                    ModelConfig::Idefics3(_) => "siglip",
                    _ => "clip",
                },
                image_size: vision.image_size,
                patch_size: Some(vision.patch_size),
                layers: Some(vision.layers),
                width: vision.hidden_size,
                example: ExampleImage::all(processor)?,
            })
        });
        Ok(Self {
            license,
            form: ModelForm::of(weights),
            architecture: config.architecture(),
            text: TextSummary::from(decoder),
            vision: vision.transpose()?,
            scorer: None,
            tokenizer: tokenizer_summary(processor.tokenizer(), processor.template()),
            files: weights.files().iter().map(FileSummary::from).collect(),
            weights: weights.held(options),
            kv: decoder.kv_shape(),
            scorer_position_bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::{models::ModelSource, processor::fixtures};

    fn summary(name: &str) -> ModelSummary {
        let folder = fixtures().join("models").join(name);
        let options = WeightsOptions::default();
        let source = ModelSource::find(&folder).unwrap();
        let opened = OpenedModel::open(&source, &options).unwrap();
        let license = ModelLicense::of_checkpoint(&source);
        ModelSummary::of_checkpoint(&opened, license, &options).unwrap()
    }

    #[test]
    fn llava_is_summarized_in_either_layout() {
        let old = summary("llava-old");
        assert_eq!(
            (old.form, old.architecture),
            (ModelForm::HuggingFace, "llava")
        );
        assert_eq!(
            (old.text.layers, old.text.width, old.text.context),
            (3, 48, 512)
        );
        assert_eq!(
            (old.text.heads, old.text.kv_heads, old.text.head_dim),
            (6, 2, 8)
        );
        // Keys and values of 3 layers, 2 heads of 8 numbers in f32.
        assert_eq!(old.kv.position_bytes(), 2 * 3 * 2 * 8 * 4);
        let vision = old.vision.clone().unwrap();
        assert_eq!(
            (vision.tower, vision.image_size, vision.patch_size),
            ("clip", 42, Some(14))
        );
        let example = ExampleImage {
            do_image_splitting: None,
            grid: (0, 0),
            positions: 9,
        };
        assert_eq!(vision.example, [example]);
        assert_eq!(
            (old.tokenizer.kind, old.tokenizer.content),
            ("sentencepiece", "list")
        );
        let end = EndToken {
            id: 2,
            token: "</s>".to_owned(),
        };
        assert_eq!(old.tokenizer.ends, [end]);
        assert_eq!(old.files.len(), 1);
        assert!(old.weights.bytes() < old.files[0].bytes);

        let new = summary("llava-new");
        assert_eq!(new.form, ModelForm::HuggingFaceModules);
        assert_eq!(new.files.len(), 2);
        let same = |s: &ModelSummary| (s.text.clone(), s.vision.clone(), s.weights.clone());
        assert_eq!(same(&new), same(&old));
    }

    #[test]
    fn splitting_is_told_where_there_is_a_choice() {
        let smol = summary("smolvlm");
        assert_eq!(
            (smol.architecture, smol.tokenizer.kind),
            ("smolvlm", "byte_level_bpe")
        );
        let example = smol.vision.unwrap().example;
        let image = |split, grid, positions| ExampleImage {
            do_image_splitting: Some(split),
            grid,
            positions,
        };
        // 128 by 96 pixels: 3 rows of 4 tiles and the whole picture, 4 positions each.
        assert_eq!(example, [image(true, (3, 4), 52), image(false, (0, 0), 4)]);
        assert!(smol.tokenizer.ends.len() > 1);
    }
}
