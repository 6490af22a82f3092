//! Architectures, one file each, and what loads them from a checkpoint.

pub mod candor_mini;
pub mod causal;
pub mod config;
mod gguf;
pub mod idefics3;
mod license;
pub mod llama;
pub mod llava;
mod load;
#[cfg(test)]
mod parity;
mod summary;

pub use license::{ModelLicense, PermittedUse};
pub use load::{LoadedModel, ModelLoadError, ModelSource, OpenedModel, load};
pub use summary::{
    EXAMPLE_SIZE, EndToken, ExampleImage, FileSummary, ModelForm, ModelSummary, TextSummary,
    TokenizerSummary, VisionSummary, tokenizer_summary,
};

use std::sync::Arc;

use candle_core::Result;

use super::{
    VisionLanguageModel,
    processor::{
        checkpoint::ImageProcessor,
        processor_config::{ConfigSection, ProcessorFileError, ProcessorFiles},
    },
    vision::vit::VitConfig,
    weights::Weights,
};
use config::TextModelConfig;
use idefics3::Idefics3Config;
use llava::LlavaConfig;

/// Values of `model_type` that are read.
const MODEL_TYPES: &str = "'idefics3', 'llama', 'llava', 'llava_llama', 'qwen2' or 'smolvlm'";

/// Sizes of a model, by architecture.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// LLaVA.
    Llava(LlavaConfig),
    /// Idefics3 and SmolVLM.
    Idefics3(Idefics3Config),
    /// Text alone.
    Text(TextModelConfig),
}

impl ModelConfig {
    /// Reads a `config.json`. `tower` returns that of a tower in a folder of its own, if it is in
    /// one, by its name.
    ///
    /// # Errors
    /// When the architecture is not supported or a value is outside its bounds.
    pub fn read<E: From<ProcessorFileError>>(
        root: &ConfigSection,
        tower: impl FnOnce(&str) -> std::result::Result<Option<ConfigSection>, E>,
    ) -> std::result::Result<Self, E> {
        let model_type = root.needed("model_type", root.text("model_type")?)?;
        Ok(match model_type {
            "llava" | "llava_llama" => Self::Llava(match root.text("mm_vision_tower")? {
                None => LlavaConfig::read(root)?,
                Some(name) => LlavaConfig::read_original(root, tower(name)?.as_ref())?,
            }),
            "idefics3" | "smolvlm" => Self::Idefics3(Idefics3Config::read(root)?),
            "llama" | "qwen2" => Self::Text(TextModelConfig::read(root, root)?),
            other => return Err(root.wrong("model_type", MODEL_TYPES, &other.into()).into()),
        })
    }

    /// Returns the text model.
    pub fn text(&self) -> &TextModelConfig {
        match self {
            Self::Llava(config) => &config.text,
            Self::Idefics3(config) => &config.text,
            Self::Text(config) => config,
        }
    }

    /// Returns the name of the architecture, as `model_type` in a `config.json`.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Llava(_) => "llava",
            Self::Idefics3(config) => config.model_type,
            Self::Text(config) => config.model_type,
        }
    }

    /// Returns the vision tower; `None` if the model takes text alone.
    pub fn vision(&self) -> Option<&VitConfig> {
        match self {
            Self::Llava(config) => Some(&config.vision),
            Self::Idefics3(config) => Some(&config.vision),
            Self::Text(_) => None,
        }
    }

    /// Returns the placeholder of image positions, if the configuration names one.
    pub fn image_token(&self) -> Option<u32> {
        match self {
            Self::Llava(config) => config.image_token,
            Self::Idefics3(config) => config.image_token,
            Self::Text(_) => None,
        }
    }

    /// Reads the image processor that goes with the model; `None` if it takes text alone.
    ///
    /// # Errors
    /// When a file is missing or does not go with the model.
    pub fn image_processor<E: From<ProcessorFileError>>(
        &self,
        files: impl FnOnce() -> std::result::Result<ProcessorFiles, E>,
    ) -> std::result::Result<Option<Box<dyn ImageProcessor>>, E> {
        Ok(match self {
            Self::Llava(config) => Some(Box::new(llava::image_processor(config, &files()?)?)),
            Self::Idefics3(config) => Some(Box::new(idefics3::image_processor(config, &files()?)?)),
            Self::Text(_) => None,
        })
    }

    /// Loads the model.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(&self, weights: &Weights<'_>) -> Result<Arc<dyn VisionLanguageModel>> {
        Ok(match self {
            Self::Llava(config) => Arc::new(llava::load(config, weights)?),
            Self::Idefics3(config) => Arc::new(idefics3::load(config, weights)?),
            Self::Text(config) => Arc::new(llama::load(config, weights)?),
        })
    }
}
