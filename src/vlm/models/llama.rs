//! Text models: LLaMA and those that share its decoder.

use candle_core::{Result, Tensor, bail};

use super::{
    causal::{CausalModel, ImageEncoder},
    config::TextModelConfig,
};
use crate::vlm::weights::Weights;

/// Encoder of a model that takes text alone.
#[derive(Debug)]
pub struct NoImages;

impl ImageEncoder for NoImages {
    fn encode(&self, _pixels: &Tensor) -> Result<Tensor> {
        bail!("this model takes text alone")
    }
}

/// Loads the decoder under `text`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load(config: &TextModelConfig, weights: &Weights<'_>) -> Result<CausalModel<NoImages>> {
    CausalModel::load(config.model_type, NoImages, config, weights)
}
