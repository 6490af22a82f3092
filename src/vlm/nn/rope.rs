//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>), in LLaMA's
//! half-split layout.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use candle_nn::rotary_emb::rope_thd;

use super::{elements, for_lines, with_elements};

/// Cosines and sines of the angles by which tokens turn, computed once a step for all layers.
#[derive(Debug, Clone)]
pub struct RopeAngles(Arc<Angles>);

#[derive(Debug)]
struct Angles {
    /// Pairs of a head's numbers.
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The same, `(tokens, half)`, on another device than the CPU.
    on_device: Option<[Tensor; 2]>,
}

impl RopeAngles {
    /// Computes the angles of tokens at `positions` for heads whose pairs turn by `rates` a
    /// position, for use on `device`.
    ///
    /// # Errors
    /// When they cannot be copied to the device.
    pub fn new(positions: &[u32], rates: &[f64], device: &Device) -> Result<Self> {
        let angles = || {
            let one = |&p: &u32| rates.iter().map(move |rate| f64::from(p) * rate);
            positions.iter().flat_map(one)
        };
        let cos: Vec<f32> = angles().map(|angle| angle.cos() as f32).collect();
        let sin: Vec<f32> = angles().map(|angle| angle.sin() as f32).collect();
        let copy =
            |values: &Vec<f32>| Tensor::from_slice(values, (positions.len(), rates.len()), device);
        let on_device = match device {
            Device::Cpu => None,
            _ => Some([copy(&cos)?, copy(&sin)?]),
        };
        Ok(Self(Arc::new(Angles {
            half: rates.len(),
            cos,
            sin,
            on_device,
        })))
    }
}

/// Rotates every head of `x` `(tokens, heads * head_dim)` by its token's angles.
///
/// # Errors
/// When the shapes do not fit or a tensor operation fails.
pub fn rope(x: &Tensor, angles: &RopeAngles) -> Result<Tensor> {
    let Angles {
        half,
        cos,
        on_device,
        ..
    } = &*angles.0;
    let (tokens, width) = x.dims2()?;
    if tokens * half != cos.len() || !width.is_multiple_of(2 * half) {
        bail!("rope: {:?} does not fit angles of {half} pairs", x.dims());
    }
    match on_device {
        None => x.contiguous()?.apply_op1(Rope(angles.clone())),
        Some(angles) => composed(x, angles, *half),
    }
}

/// Composition of candle's operations for other devices; one of them where no gradient is wanted.
fn composed(x: &Tensor, [cos, sin]: &[Tensor; 2], half: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let heads = x.reshape((tokens, width / (2 * half), 2 * half))?;
    if !x.track_op() {
        let rotated = rope_thd(&heads.unsqueeze(0)?.contiguous()?, cos, sin)?;
        return rotated.reshape((tokens, width));
    }
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape((tokens, width))
}

struct Rope(RopeAngles);

impl Rope {
    /// Rotates by the angles times `sign`; -1 is the inverse, which the backward pass needs.
    fn rotate(&self, x: &[f32], width: usize, sign: f32) -> Vec<f32> {
        let Angles { half, cos, sin, .. } = &*self.0.0;
        let half = *half;
        let mut out = vec![0f32; x.len()];
        for_lines(&mut out, width, |t, line| {
            let (cos, sin) = (
                &cos[t * half..(t + 1) * half],
                &sin[t * half..(t + 1) * half],
            );
            for (head, x) in line
                .chunks_mut(2 * half)
                .zip(x[t * width..(t + 1) * width].chunks(2 * half))
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

    /// Angles of heads of eight numbers.
    fn angles(positions: &[u32]) -> RopeAngles {
        let rates = [1.0, 0.1, 0.01, 0.001];
        RopeAngles::new(positions, &rates, &Device::Cpu).unwrap()
    }

    #[test]
    fn rope_composed_equals_fused_with_and_without_gradients() {
        let (x, angles) = (var(48, (3, 16), 1), angles(&[3, 0, 11]));
        let tensor = |v: &[f32]| Tensor::from_slice(v, (3, 4), x.device()).unwrap();
        let on_device = [tensor(&angles.0.cos), tensor(&angles.0.sin)];
        let want = rope(&x, &angles).unwrap().to_vec2::<f32>().unwrap();
        for x in [x.as_tensor().clone(), x.detach()] {
            let got = composed(&x, &on_device, 4).unwrap();
            let got = got.to_vec2::<f32>().unwrap();
            let pairs = got.iter().flatten().zip(want.iter().flatten());
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
        }
        check_gradients(std::slice::from_ref(&x), || {
            composed(&x, &on_device, 4).unwrap()
        });
    }

    #[test]
    fn rope_gradients_agree_with_finite_differences() {
        let x = var(32, (2, 16), 1);
        check_gradients(std::slice::from_ref(&x), || {
            rope(&x, &angles(&[3, 11])).unwrap()
        });
    }

    #[test]
    fn rope_dot_products_depend_on_distance_only() {
        let (q, k) = (var(8, (1, 8), 1), var(8, (1, 8), 2));
        let score = |i: u32, j: u32| {
            let (q, k) = (
                rope(&q, &angles(&[i])).unwrap(),
                rope(&k, &angles(&[j])).unwrap(),
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
