//! Dropout whose mask is a function of a seed, so that a resumed training run is reproducible.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{elements, for_lines, with_elements};

/// Zeroes a share `p` of the elements and scales the others by `1 / (1 - p)`; the identity for `p
/// == 0`. The mask is the same on all devices.
///
/// # Errors
/// When a tensor operation fails.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.clone());
    }
    let dropout = Dropout { p, seed };
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(dropout);
    }
    let mask = dropout.mask(&vec![1.0; x.elem_count()]);
    x * Tensor::from_vec(mask, x.shape(), x.device())?
}

struct Dropout {
    p: f32,
    seed: u64,
}

impl Dropout {
    fn mask(&self, x: &[f32]) -> Vec<f32> {
        let keep = 1.0 / (1.0 - self.p);
        let bound = (f64::from(self.p) * f64::from(u32::MAX)) as u32;
        let base = (self.seed ^ (self.seed >> 32)) as u32;
        let mut out = vec![0f32; x.len()];
        const LINE: usize = 1024;
        for_lines(&mut out, LINE, |i, line| {
            for (j, o) in line.iter_mut().enumerate() {
                let index = i * LINE + j;
                // Finalizer of lowbias32 (Wellons) over a counter.
                let mut h = (index as u32).wrapping_add(base.wrapping_mul(0x9E37_79B9));
                h = (h ^ (h >> 16)).wrapping_mul(0x21F0_AAAD);
                h = (h ^ (h >> 15)).wrapping_mul(0x735A_2D97);
                h ^= h >> 15;
                *o = if h < bound { 0.0 } else { x[index] * keep };
            }
        });
        out
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((
            CpuStorage::F32(self.mask(elements(storage, layout, self.name())?)),
            layout.shape().clone(),
        ))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_elements(grad, |g| {
            Ok(Some(Tensor::from_vec(
                self.mask(g),
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
    fn dropout_keeps_the_mean_and_is_deterministic() {
        let x = Tensor::ones(100_000, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let y = dropout(&x, 0.1, 7).unwrap().to_vec1::<f32>().unwrap();
        let zeros = y.iter().filter(|v| **v == 0.0).count();
        assert!((9_500..10_500).contains(&zeros), "{zeros}");
        assert!((y.iter().sum::<f32>() / 100_000.0 - 1.0).abs() < 0.01);
        assert_eq!(y, dropout(&x, 0.1, 7).unwrap().to_vec1::<f32>().unwrap());
        assert_ne!(y, dropout(&x, 0.1, 8).unwrap().to_vec1::<f32>().unwrap());
    }

    #[test]
    fn dropout_gradients_agree_with_finite_differences() {
        let x = var(24, (2, 12), 1);
        check_gradients(std::slice::from_ref(&x), || dropout(&x, 0.3, 3).unwrap());
    }
}
