//! Softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{elements, exp, for_lines, with_elements};

/// Masked softmax `softmax(scores * scale + mask)` over the last dimension. `scores`: `(batch,
/// heads, queries, keys)`; `mask`: `(batch, queries, keys)` of 0 and large negative numbers,
/// constant. A fully masked row is uniform, so padding produces no NaN.
pub fn masked_softmax(scores: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    if scores.device().is_cpu() {
        let (_, heads, queries, _) = scores.dims4()?;
        return scores.contiguous()?.apply_op2(
            mask,
            MaskedSoftmax {
                heads,
                queries,
                scale: scale as f32,
            },
        );
    }
    let masked = (scores * scale)?.broadcast_add(&mask.unsqueeze(1)?)?;
    let e = masked
        .broadcast_sub(&masked.max_keepdim(D::Minus1)?)?
        .exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

struct MaskedSoftmax {
    heads: usize,
    queries: usize,
    scale: f32,
}

impl CustomOp2 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked_softmax"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, mask) = (
            elements(s1, l1, self.name())?,
            elements(s2, l2, self.name())?,
        );
        let keys = l1.dims()[3];
        let mut out = vec![0f32; x.len()];
        for_lines(&mut out, keys, |i, line| {
            let mask_line = i / (self.heads * self.queries) * self.queries + i % self.queries;
            let (x, mask) = (
                &x[i * keys..(i + 1) * keys],
                &mask[mask_line * keys..(mask_line + 1) * keys],
            );
            line.iter_mut()
                .zip(x)
                .zip(mask)
                .for_each(|((o, x), m)| *o = x * self.scale + m);
            let max = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            line.iter_mut().for_each(|o| *o = exp(*o - max));
            let sum: f32 = line.iter().sum();
            line.iter_mut().for_each(|o| *o /= sum);
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        scores: &Tensor,
        _mask: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_elements(res, |y| {
            with_elements(grad, |g| {
                let keys = scores.dim(D::Minus1)?;
                let mut dx = vec![0f32; y.len()];
                for_lines(&mut dx, keys, |i, line| {
                    let (y, g) = (&y[i * keys..(i + 1) * keys], &g[i * keys..(i + 1) * keys]);
                    let mean = super::dot(y, g);
                    line.iter_mut()
                        .zip(y)
                        .zip(g)
                        .for_each(|((d, y), g)| *d = self.scale * y * (g - mean));
                });
                Ok((
                    Some(Tensor::from_vec(dx, scores.shape(), scores.device())?),
                    None,
                ))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::{check_gradients, var};

    #[test]
    fn masked_softmax_gradients_agree_and_masked_keys_are_zero() {
        let x = var(36, (1, 2, 3, 6), 1);
        let mask: Vec<f32> = (0..18)
            .map(|i| if i % 5 == 4 { -1e9 } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(mask, (1, 3, 6), x.device()).unwrap();
        check_gradients(std::slice::from_ref(&x), || {
            masked_softmax(&x, &mask, 0.7).unwrap()
        });
        let y = masked_softmax(&x, &mask, 0.7)
            .unwrap()
            .flatten_to(2)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (i, line) in y.iter().enumerate() {
            assert!((line.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            (0..6)
                .filter(|j| (i % 3 * 6 + j) % 5 == 4)
                .for_each(|j| assert!(line[j] < 1e-37));
        }
    }
}
