//! Projector of LLaVA-1.5: two layers with an activation between them.

use candle_core::{Result, Tensor};

use crate::vlm::{
    nn::{Activation, Linear},
    weights::Weights,
};

/// Projector `linear_2(activation(linear_1(x)))`; `LlavaMultiModalProjector` of
/// `modeling_llava.py`.
#[derive(Debug)]
pub struct TwoLayerProjector {
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl TwoLayerProjector {
    /// Loads `linear_1` and `linear_2`, which bring `input` channels to `width`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        (input, width): (usize, usize),
        bias: bool,
        activation: Activation,
        weights: &Weights<'_>,
    ) -> Result<Self> {
        Ok(Self {
            linear_1: weights.linear("linear_1", width, input, bias)?,
            activation,
            linear_2: weights.linear("linear_2", width, width, bias)?,
        })
    }

    /// Projects `(rows, input)` to `(rows, width)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.activation.forward(&self.linear_1.forward(x)?)?;
        self.linear_2.forward(&hidden)
    }
}
