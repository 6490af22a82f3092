//! Policy of a bundle, loaded for training and evaluation.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::{Tensors, TrainError, tower::Tower};
use crate::{
    bundle::{Bundle, BundleConfig},
    vlm::{
        models::candor_mini::PrefixDecoder, processor::template::ChatTemplate,
        processor::tokenizer::TextTokenizer,
    },
};

/// Vision tower, projector and decoder of a bundle, with tokenizer and chat template.
pub struct Policy {
    /// Name of the embedded bundle, or the bundle's directory.
    pub name: String,
    /// The bundle's `config.json`.
    pub config: BundleConfig,
    /// Frozen projector and decoder.
    pub model: PrefixDecoder,
    /// Weights of projector and decoder by name, in f32, from which trainable copies start.
    pub weights: Tensors,
    /// Vision tower.
    pub tower: Tower,
    /// Tokenizer.
    pub tokenizer: TextTokenizer,
    /// Chat template.
    pub template: ChatTemplate,
}

impl Policy {
    /// Opens the embedded bundle `name` or, if there is none, the directory `name`.
    ///
    /// When there is no such bundle, or one of its files is missing or invalid; the error names it.
    /// it.
    pub fn open(name: &str) -> Result<Self, TrainError> {
        let bad = |file: &str, e: &dyn std::fmt::Display| {
            TrainError::Run(format!("bundle {name}: {file}: {e}"))
        };
        let read =
            |file: &str| Bundle::file(name, file).map_err(|e| TrainError::Run(e.to_string()));
        let config = Bundle::describe(name).map_err(|e| TrainError::Run(e.to_string()))?;
        let tokenizer = TextTokenizer::from_bytes(&read("tokenizer.json")?, &config.eos)
            .map_err(|e| bad("tokenizer.json", &e))?;
        let template =
            ChatTemplate::new(&config.chat_template).map_err(|e| bad("config.json", &e))?;
        let stored =
            candle_core::safetensors::load_buffer(&read("model.safetensors")?, &Device::Cpu)?;
        let (tower, language): (Tensors, Tensors) = stored
            .into_iter()
            .partition(|(name, _)| name.starts_with(Tower::PREFIX));
        let weights: Tensors = language
            .into_iter()
            .map(|(k, t)| Ok((k, t.to_dtype(DType::F32)?)))
            .collect::<candle_core::Result<_>>()?;
        let model = PrefixDecoder::load(
            &config.model.language,
            VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu),
        )?;
        let tower = Tower::load(&config.model.vision, tower)?;
        Ok(Self {
            name: name.to_owned(),
            config,
            model,
            weights,
            tower,
            tokenizer,
            template,
        })
    }
}
