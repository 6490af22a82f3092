//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>), in LLaMA's
//! half-split layout.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{elements, for_lines, with_elements};

/// Rotates every head of `x` `(tokens, heads * head_dim)` by its token's position; `positions` has
/// one entry per token.
pub fn rope(x: &Tensor, positions: &[u32], head_dim: usize, theta: f64) -> Result<Tensor> {
    let half = head_dim / 2;
    let angles = || {
        let rates: Vec<f64> = (0..half)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64))
            .collect();
        positions
            .iter()
            .flat_map(move |&p| rates.clone().into_iter().map(move |r| f64::from(p) * r))
            .collect::<Vec<f64>>()
    };
    let angles = angles();
    let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(Rope { head_dim, cos, sin });
    }
    let (tokens, width) = x.dims2()?;
    let rotate = |v: Vec<f32>| Tensor::from_vec(v, (tokens, 1, half), x.device());
    let (cos, sin) = (rotate(cos)?, rotate(sin)?);
    let heads = x.reshape((tokens, width / head_dim, head_dim))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((tokens, width))
}

struct Rope {
    head_dim: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Rotates by the angles times `sign`; -1 is the inverse, which the backward pass needs.
    fn rotate(&self, x: &[f32], width: usize, sign: f32) -> Vec<f32> {
        let half = self.head_dim / 2;
        let mut out = vec![0f32; x.len()];
        for_lines(&mut out, width, |t, line| {
            let (cos, sin) = (
                &self.cos[t * half..(t + 1) * half],
                &self.sin[t * half..(t + 1) * half],
            );
            for (head, x) in line
                .chunks_mut(self.head_dim)
                .zip(x[t * width..(t + 1) * width].chunks(self.head_dim))
            {
                for i in 0..half {
                    let s = sign * sin[i];
                    head[i] = x[i] * cos[i] - x[half + i] * s;
                    head[half + i] = x[half + i] * cos[i] + x[i] * s;
                }
            }
        });
        out
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let (_, width) = layout.shape().dims2()?;
        Ok((
            CpuStorage::F32(self.rotate(x, width, 1.0)),
            layout.shape().clone(),
        ))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = arg.dims2()?;
        with_elements(grad, |g| {
            Ok(Some(Tensor::from_vec(
                self.rotate(g, width, -1.0),
                arg.shape(),
                arg.device(),
            )?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::{check_gradients, var};

    #[test]
    fn rope_gradients_agree_with_finite_differences() {
        let x = var(32, (2, 16), 1);
        check_gradients(std::slice::from_ref(&x), || {
            rope(&x, &[3, 11], 8, 10_000.0).unwrap()
        });
    }

    #[test]
    fn rope_dot_products_depend_on_distance_only() {
        let (q, k) = (var(8, (1, 8), 1), var(8, (1, 8), 2));
        let score = |i: u32, j: u32| {
            let (q, k) = (
                rope(&q, &[i], 8, 10_000.0).unwrap(),
                rope(&k, &[j], 8, 10_000.0).unwrap(),
            );
            (q * k)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        assert!((score(5, 2) - score(25, 22)).abs() < 1e-4);
        assert!((score(5, 2) - score(5, 4)).abs() > 1e-3);
    }
}
