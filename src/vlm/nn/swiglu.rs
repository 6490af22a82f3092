//! The gated half of SwiGLU (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::{elements, exp, for_lines, with_elements};

/// Gated activation `silu(gate) * up`, where `gate` and `up` are the halves of the last dimension:
/// `(..., 2 * width)` to `(..., width)`.
pub fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    if gate_up.device().is_cpu() {
        return gate_up.contiguous()?.apply_op1(SiluMul);
    }
    let halves = gate_up.chunk(2, D::Minus1)?;
    halves[0].silu()? * &halves[1]
}

struct SiluMul;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp1 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let mut dims = layout.dims().to_vec();
        let width = dims.last().copied().unwrap_or(0) / 2;
        if let Some(last) = dims.last_mut() {
            *last = width;
        }
        let mut out = vec![0f32; x.len() / 2];
        for_lines(&mut out, width, |i, line| {
            let (gate, up) = x[2 * i * width..2 * (i + 1) * width].split_at(width);
            line.iter_mut()
                .zip(gate)
                .zip(up)
                .for_each(|((o, g), u)| *o = g * sigmoid(*g) * u);
        });
        Ok((CpuStorage::F32(out), dims.into()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_elements(arg, |x| {
            with_elements(grad, |grad| {
                let width = arg.dim(D::Minus1)? / 2;
                let mut dx = vec![0f32; x.len()];
                for_lines(&mut dx, 2 * width, |i, line| {
                    let (gate, up) = x[2 * i * width..2 * (i + 1) * width].split_at(width);
                    let grad = &grad[i * width..(i + 1) * width];
                    let (dgate, dup) = line.split_at_mut(width);
                    for j in 0..width {
                        let s = sigmoid(gate[j]);
                        dup[j] = grad[j] * gate[j] * s;
                        dgate[j] = grad[j] * up[j] * s * (1.0 + gate[j] * (1.0 - s));
                    }
                });
                Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::{check_gradients, var};

    #[test]
    fn silu_mul_gradients_agree_with_finite_differences() {
        let x = var(24, (2, 12), 1);
        check_gradients(std::slice::from_ref(&x), || silu_mul(&x).unwrap());
    }

    #[test]
    fn silu_mul_fused_equals_composed() {
        let x = var(24, (2, 12), 5);
        let halves = x.chunk(2, 1).unwrap();
        let want = (halves[0].silu().unwrap() * &halves[1])
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let got = silu_mul(&x).unwrap().to_vec2::<f32>().unwrap();
        want.iter()
            .flatten()
            .zip(got.iter().flatten())
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    }
}
