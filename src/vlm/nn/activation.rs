//! Activation functions of vision towers and projectors.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, cpu::erf::erf_f32};

use super::{PARALLEL_ELEMENTS, elements, exp, for_lines};

/// Variant of GELU (Hendrycks & Gimpel, 2016, <https://arxiv.org/abs/1606.08415>), under the names
/// that a `config.json` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: `x Φ(x)`.
    Gelu,
    /// `gelu_pytorch_tanh`: `Φ` approximated by a hyperbolic tangent.
    GeluTanh,
    /// `quick_gelu`: `Φ` approximated by the logistic function of `1.702 x`.
    QuickGelu,
}

impl Activation {
    /// All variants by name.
    pub const NAMED: [(&str, Self); 3] = [
        ("gelu", Self::Gelu),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
    ];

    /// Applies the function to every element. Has no backward pass on the CPU.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            return x.contiguous()?.apply_op1_no_bwd(&Fused(self));
        }
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        }
    }
}

struct Fused(Activation);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let mut out = vec![0f32; x.len()];
        // The choice stands outside the loops, so that each of them vectorizes.
        match self.0 {
            Activation::Gelu => map(x, &mut out, |x| {
                0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
            }),
            // (1 + tanh(y)) / 2 is the logistic function of 2 y; the factor is 2 √(2 / π).
            Activation::GeluTanh => map(x, &mut out, |x| {
                x / (1.0 + exp(-1.595_769 * (x + 0.044_715 * x * x * x)))
            }),
            Activation::QuickGelu => map(x, &mut out, |x| x / (1.0 + exp(-1.702 * x))),
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    const WIDTH: usize = PARALLEL_ELEMENTS / 16;
    for_lines(out, WIDTH, |i, line| {
        line.iter_mut()
            .zip(&x[i * WIDTH..])
            .for_each(|(o, x)| *o = f(*x));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn activations_equal_their_definitions() {
        // More elements than one parallel chunk, and extremes whose exponentials overflow.
        let x: Vec<f32> = (0..40_000)
            .map(|i| (i as f32 - 20_000.0) / 2_000.0)
            .chain([-1e4, 1e4, 0.0])
            .collect();
        let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        let definition = |activation: Activation, x: f64| match activation {
            Activation::Gelu => {
                0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / std::f64::consts::SQRT_2))
            }
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        };
        for (name, activation) in Activation::NAMED {
            let got = activation.forward(&tensor).unwrap();
            for (x, got) in x.iter().zip(got.to_vec1::<f32>().unwrap()) {
                let want = definition(activation, f64::from(*x));
                let error = (f64::from(got) - want).abs();
                assert!(error <= 1e-6 * (1.0 + want.abs()), "{name}({x}) = {got}");
            }
        }
    }
}
