//! RMSNorm (Zhang & Sennrich, 2019, <https://arxiv.org/abs/1910.07467>) and layer norm (Ba et al.,
//! 2016, <https://arxiv.org/abs/1607.06450>).

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{dot, elements, for_lines, with_elements};

/// RMSNorm `x / sqrt(mean(x²) + eps) * weight` over the last dimension. `x`: `(..., width)`,
/// `weight`: `(width)`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x
            .contiguous()?
            .apply_op2(weight, RmsNorm { eps: eps as f32 });
    }
    let scale = (x.sqr()?.mean_keepdim(candle_core::D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn scale(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (
            elements(s1, l1, self.name())?,
            elements(s2, l2, self.name())?,
        );
        let mut out = vec![0f32; x.len()];
        for_lines(&mut out, w.len(), |i, line| {
            let x = &x[i * w.len()..(i + 1) * w.len()];
            let scale = self.scale(x);
            line.iter_mut()
                .zip(x)
                .zip(w)
                .for_each(|((o, x), w)| *o = x * scale * w);
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_elements(x, |xs| {
            with_elements(w, |ws| {
                with_elements(grad, |gs| {
                    let width = ws.len();
                    let mut dx = vec![0f32; xs.len()];
                    for_lines(&mut dx, width, |i, line| {
                        let (x, g) = (
                            &xs[i * width..(i + 1) * width],
                            &gs[i * width..(i + 1) * width],
                        );
                        let scale = self.scale(x);
                        let along: f32 = x.iter().zip(g).zip(ws).map(|((x, g), w)| x * g * w).sum();
                        let back = scale * scale * scale * along / width as f32;
                        for (j, d) in line.iter_mut().enumerate() {
                            *d = scale * ws[j] * g[j] - back * x[j];
                        }
                    });
                    let mut dw = vec![0f32; width];
                    for (x, g) in xs.chunks(width).zip(gs.chunks(width)) {
                        let scale = self.scale(x);
                        dw.iter_mut()
                            .zip(x)
                            .zip(g)
                            .for_each(|((d, x), g)| *d += x * g * scale);
                    }
                    Ok((
                        Some(Tensor::from_vec(dx, x.shape(), x.device())?),
                        Some(Tensor::from_vec(dw, w.shape(), w.device())?),
                    ))
                })
            })
        })
    }
}

/// Layer norm `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` over the last dimension.
/// `x`: `(..., width)`, `weight` and `bias`: `(width)`. Has no backward pass on the CPU.
///
/// # Errors
/// When the shapes do not fit or a tensor operation fails.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        let norm = LayerNorm { eps: eps as f32 };
        return x.contiguous()?.apply_op3_no_bwd(weight, bias, &norm);
    }
    candle_nn::ops::layer_norm_slow(x, weight, bias, eps as f32)
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (x, w, b) = (
            elements(s1, l1, name)?,
            elements(s2, l2, name)?,
            elements(s3, l3, name)?,
        );
        let width = w.len();
        if l1.dims().last() != Some(&width) || b.len() != width {
            bail!("{name}: {:?} does not fit a weight of {width}", l1.dims());
        }
        let mut out = vec![0f32; x.len()];
        for_lines(&mut out, width, |i, line| {
            let x = &x[i * width..(i + 1) * width];
            let mean = x.iter().sum::<f32>() / width as f32;
            // Centered before it is squared: a large mean would cancel otherwise.
            line.iter_mut().zip(x).for_each(|(o, x)| *o = x - mean);
            let scale = 1.0 / (dot(line, line) / width as f32 + self.eps).sqrt();
            line.iter_mut()
                .zip(w)
                .zip(b)
                .for_each(|((o, w), b)| *o = *o * scale * w + b);
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::{check_gradients, var};

    #[test]
    fn rms_norm_gradients_agree_with_finite_differences() {
        let (x, w) = (var(24, (3, 8), 1), var(8, 8, 2));
        check_gradients(&[x.clone(), w.clone()], || rms_norm(&x, &w, 1e-5).unwrap());
    }

    #[test]
    fn rms_norm_fused_equals_composed() {
        let (x, w) = (var(24, (3, 8), 3), var(8, 8, 4));
        let scale = (x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5)
            .unwrap()
            .sqrt()
            .unwrap();
        let want = x
            .broadcast_div(&scale)
            .unwrap()
            .broadcast_mul(&w)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let got = rms_norm(&x, &w, 1e-5).unwrap().to_vec2::<f32>().unwrap();
        want.iter()
            .flatten()
            .zip(got.iter().flatten())
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    }

    #[test]
    fn layer_norm_fused_equals_composed() {
        let (x, w, b) = (var(24, (3, 8), 3), var(8, 8, 4), var(8, 8, 5));
        // A mean that is large beside the deviations.
        let x = (x.as_tensor() + 100.0).unwrap();
        let want = candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5).unwrap();
        let got = layer_norm(&x, &w, &b, 1e-5).unwrap();
        let (want, got) = (
            want.to_vec2::<f32>().unwrap(),
            got.to_vec2::<f32>().unwrap(),
        );
        want.iter()
            .flatten()
            .zip(got.iter().flatten())
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4));
        assert!(layer_norm(&x, &w.narrow(0, 0, 4).unwrap(), &b, 1e-5).is_err());
    }
}
