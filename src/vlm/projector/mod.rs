//! Projector between vision tower and decoder: a two-layer perceptron as in LLaVA-1.5 ("Improved
//! Baselines with Visual Instruction Tuning", Liu et al. 2023, <https://arxiv.org/abs/2310.03744>),
//! with a layer norm before it and a learned position for every image token. Those of other
//! architectures are in files of their own.

pub mod pixel_shuffle;
pub mod two_layer;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::vlm::nn::affine;

/// Epsilon of the layer norm, PyTorch's default.
const EPS: f64 = 1e-5;

/// Sizes of the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Features per image token from the vision tower.
    pub in_features: usize,
    /// Hidden size of the decoder.
    pub width: usize,
    /// Number of image tokens.
    pub tokens: usize,
}

/// Projector `pos + fc2(gelu(fc1(norm(x))))`, differentiable throughout.
#[derive(Debug)]
pub struct Mlp {
    norm: (Tensor, Tensor),
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
    pos: Tensor,
}

impl Mlp {
    /// Loads `norm`, `fc1`, `fc2` (each `weight` and `bias`) and `pos (tokens, width)`; variables
    /// missing from a `VarMap` are initialized.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &MlpConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let &MlpConfig {
            in_features,
            width,
            tokens,
        } = config;
        let norm = vb.pp("norm");
        Ok(Self {
            norm: (
                norm.get_with_hints(in_features, "weight", Init::Const(1.))?,
                norm.get_with_hints(in_features, "bias", Init::Const(0.))?,
            ),
            fc1: linear(in_features, width, vb.pp("fc1"))?,
            fc2: linear(width, width, vb.pp("fc2"))?,
            pos: vb.get_with_hints(
                (tokens, width),
                "pos",
                Init::Randn {
                    mean: 0.,
                    stdev: 0.02,
                },
            )?,
        })
    }

    /// Projects `(batch, tokens, in_features)` to `(batch, tokens, width)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, features) = x.dims3()?;
        if (tokens, features) != (self.pos.dim(0)?, self.norm.0.dim(0)?) {
            bail!(
                "mlp: expected (batch, {}, {}), got {:?}",
                self.pos.dim(0)?,
                self.norm.0.dim(0)?,
                x.shape()
            );
        }
        // One matrix of all tokens: a batched product would copy the weight for every image.
        let x = x.reshape((batch * tokens, features))?;
        let hidden =
            affine(&layer_norm(&x, &self.norm)?, &self.fc1.0, Some(&self.fc1.1))?.gelu_erf()?;
        affine(&hidden, &self.fc2.0, Some(&self.fc2.1))?
            .reshape((batch, tokens, ()))?
            .broadcast_add(&self.pos)
    }
}

/// Linear layer with weight `(output, input)` of variance 1 / input and bias 0.
fn linear(input: usize, output: usize, vb: VarBuilder<'_>) -> Result<(Tensor, Tensor)> {
    let init = Init::Randn {
        mean: 0.,
        stdev: (input as f64).powf(-0.5),
    };
    Ok((
        vb.get_with_hints((output, input), "weight", init)?,
        vb.get_with_hints(output, "bias", Init::Const(0.))?,
    ))
}

/// Layer norm over the last dimension from differentiable operations: candle's fused form has no
/// backward pass.
fn layer_norm(x: &Tensor, (w, b): &(Tensor, Tensor)) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    centered
        .broadcast_div(&(variance + EPS)?.sqrt()?)?
        .broadcast_mul(w)?
        .broadcast_add(b)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candle_nn::VarMap;

    use super::*;

    const CONFIG: MlpConfig = MlpConfig {
        in_features: 6,
        width: 4,
        tokens: 3,
    };

    fn fresh() -> (VarMap, Mlp) {
        let vars = VarMap::new();
        let mlp = Mlp::load(
            &CONFIG,
            VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu),
        )
        .unwrap();
        (vars, mlp)
    }

    #[test]
    fn forward_gradients_agree_with_finite_differences() {
        let (vars, mlp) = fresh();
        let x = Tensor::randn(0f64, 1., (2, 3, 6), &Device::Cpu).unwrap();
        let target = Tensor::randn(0f64, 1., (2, 3, 4), &Device::Cpu).unwrap();
        let loss = || {
            (mlp.forward(&x).unwrap() - &target)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let grads = loss().backward().unwrap();
        let data = vars.data().lock().unwrap();
        assert_eq!(data.len(), 7);
        for (name, var) in data.iter() {
            let grad = grads
                .get(var)
                .unwrap_or_else(|| panic!("{name} has no gradient"))
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap();
            assert!(
                grad.iter().any(|g| g.abs() > 1e-6),
                "{name} has a zero gradient"
            );
            let at = grad.len() / 2;
            let measured = finite_difference(var, at, || loss().to_scalar::<f64>().unwrap());
            assert!(
                (measured - grad[at]).abs() < 1e-5 * (1. + measured.abs()),
                "{name}: {measured} against {}",
                grad[at]
            );
        }
    }

    fn finite_difference(var: &Var, at: usize, loss: impl Fn() -> f64) -> f64 {
        let original = var.as_tensor().copy().unwrap();
        let step = 1e-5;
        let at_shift = |by: f64| {
            let mut values = original.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            values[at] += by;
            var.set(&Tensor::from_vec(values, original.shape(), &Device::Cpu).unwrap())
                .unwrap();
            loss()
        };
        let slope = (at_shift(step) - at_shift(-step)) / (2. * step);
        var.set(&original).unwrap();
        slope
    }

    #[test]
    fn forward_equal_tokens_differ_by_position() {
        let (_, mlp) = fresh();
        let y = mlp
            .forward(&Tensor::ones((1, 3, 6), DType::F64, &Device::Cpu).unwrap())
            .unwrap()
            .to_vec3::<f64>()
            .unwrap();
        assert_ne!(y[0][0], y[0][1]);
    }

    #[test]
    fn forward_wrong_shape_is_an_error_naming_the_expected_one() {
        let (_, mlp) = fresh();
        let err = mlp
            .forward(&Tensor::ones((1, 2, 6), DType::F64, &Device::Cpu).unwrap())
            .unwrap_err();
        assert!(err.to_string().contains("(batch, 3, 6)"), "{err}");
    }
}
