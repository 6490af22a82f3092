//! A trained policy as its run directory holds it, for the trainings that build on it.

use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::{TrainError, corpus::END, export::read_weights, sft::CHAT_TEMPLATE};
use crate::vlm::{
    llava::{LlavaConfig, PrefixDecoder},
    template::ChatTemplate,
    tokenizer::TextTokenizer,
};

/// Projector and decoder of a run, with its tokenizer and template.
pub struct Policy {
    /// Sizes, the tower's included.
    pub config: LlavaConfig,
    /// The frozen weights.
    pub model: PrefixDecoder,
    /// Its vocabulary.
    pub tokenizer: TextTokenizer,
    /// Its template.
    pub template: ChatTemplate,
}

impl Policy {
    /// Reads `model.json`, `policy.safetensors` and `tokenizer.json` of a run of `candor train sft`.
    ///
    /// # Errors
    /// When one is missing or does not fit the others; the error names it. Weights are rounded to f16, as bundles store them.
    pub fn open(run: &Path) -> Result<Self, TrainError> {
        let bad = |file: &Path, e: &dyn std::fmt::Display| TrainError::Run(format!("{}: {e}", file.display()));
        let file = run.join("model.json");
        let json = std::fs::read(&file).map_err(TrainError::io(&file))?;
        let config: LlavaConfig = serde_json::from_slice(&json).map_err(|e| bad(&file, &e))?;
        let file = run.join("tokenizer.json");
        let json = std::fs::read(&file).map_err(TrainError::io(&file))?;
        let tokenizer = TextTokenizer::from_bytes(&json, END).map_err(|e| bad(&file, &e))?;
        let template = ChatTemplate::new(CHAT_TEMPLATE).map_err(|e| TrainError::Run(e.to_string()))?;
        let weights = read_weights(&run.join("policy.safetensors"), "")?;
        let rounded =
            weights.into_iter().map(|(k, t)| Ok((k, t.to_dtype(DType::F16)?.to_dtype(DType::F32)?))).collect::<candle_core::Result<_>>()?;
        let model = PrefixDecoder::load(&config.language, VarBuilder::from_tensors(rounded, DType::F32, &Device::Cpu))?;
        Ok(Self { config, model, tokenizer, template })
    }
}
