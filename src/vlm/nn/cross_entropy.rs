//! Weighted cross-entropy with label smoothing.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{elements, exp, for_lines, with_elements};

/// Weighted cross-entropy `Σ_i weight_i · CE(logits_i, target_i)`, a scalar. `logits` are `(n,
/// vocabulary)`; the target distribution is `1 - smoothing` on the target plus `smoothing /
/// vocabulary` on every token. Weights include the normalization (`1 / n` for a mean).
///
/// # Errors
/// When the numbers of logits, targets and weights differ, a target is outside the vocabulary, or a
/// tensor operation fails.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &[u32],
    weights: &[f32],
    smoothing: f32,
) -> Result<Tensor> {
    let (n, vocab) = logits.dims2()?;
    if targets.len() != n || weights.len() != n || targets.iter().any(|&t| t as usize >= vocab) {
        bail!(
            "cross_entropy: {n} logits, {} targets, {} weights, vocabulary {vocab}",
            targets.len(),
            weights.len()
        );
    }
    if logits.device().is_cpu() {
        return logits.contiguous()?.apply_op1(CrossEntropy {
            targets: targets.to_vec(),
            weights: weights.to_vec(),
            smoothing,
        });
    }
    composed(logits, targets, weights, smoothing)
}

/// Composition of candle's basic operations for other devices.
fn composed(logits: &Tensor, targets: &[u32], weights: &[f32], smoothing: f32) -> Result<Tensor> {
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let hit = log_probs.gather(&targets, 1)?.squeeze(1)?;
    let mean = log_probs.mean(1)?;
    let target = ((hit * f64::from(1.0 - smoothing))? + (mean * f64::from(smoothing))?)?;
    (target * Tensor::new(weights, logits.device())?)?
        .sum_all()?
        .neg()
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
    smoothing: f32,
}

/// Numerically stable `ln Σ exp(x)`.
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|x| exp(x - max)).sum();
    for chunk in chunks {
        sums.iter_mut()
            .zip(chunk)
            .for_each(|(s, x)| *s += exp(x - max));
    }
    max + (sums.iter().sum::<f32>() + rest).ln()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let (_, vocab) = layout.shape().dims2()?;
        let losses: Vec<f64> = x
            .par_chunks(vocab)
            .enumerate()
            .map(|(i, x)| {
                let (hit, mean) = (
                    x[self.targets[i] as usize],
                    x.iter().sum::<f32>() / vocab as f32,
                );
                let target = (1.0 - self.smoothing) * hit + self.smoothing * mean;
                f64::from(self.weights[i] * (log_sum_exp(x) - target))
            })
            .collect();
        // Summed in order, so that the result does not depend on the threads.
        Ok((
            CpuStorage::F32(vec![losses.iter().sum::<f64>() as f32]),
            Shape::from(()),
        ))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = grad.to_scalar::<f32>()?;
        let (_, vocab) = arg.dims2()?;
        with_elements(arg, |x| {
            let mut dx = vec![0f32; x.len()];
            for_lines(&mut dx, vocab, |i, line| {
                let x = &x[i * vocab..(i + 1) * vocab];
                let (weight, total) = (scale * self.weights[i], log_sum_exp(x));
                let spread = self.smoothing / vocab as f32;
                line.iter_mut()
                    .zip(x)
                    .for_each(|(d, x)| *d = weight * (exp(x - total) - spread));
                line[self.targets[i] as usize] -= weight * (1.0 - self.smoothing);
            });
            Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::tests::{check_gradients, var};

    #[test]
    fn cross_entropy_gradients_agree_with_finite_differences() {
        let x = var(60, (3, 20), 1);
        check_gradients(std::slice::from_ref(&x), || {
            cross_entropy(&x, &[1, 19, 0], &[0.5, 1.0, 0.25], 0.1)
                .unwrap()
                .reshape(1)
                .unwrap()
        });
    }

    #[test]
    fn cross_entropy_composed_equals_fused_and_has_its_gradients() {
        let (targets, weights) = ([1, 19, 0], [0.5, 1.0, 0.25]);
        let x = var(60, (3, 20), 1);
        let values = [
            cross_entropy(&x, &targets, &weights, 0.1).unwrap(),
            composed(&x, &targets, &weights, 0.1).unwrap(),
        ];
        let [fused, composed_value] = values.map(|loss| loss.to_scalar::<f32>().unwrap());
        assert!(
            (fused - composed_value).abs() < 1e-5,
            "{fused} {composed_value}"
        );
        check_gradients(std::slice::from_ref(&x), || {
            let loss = composed(&x, &targets, &weights, 0.1).unwrap();
            loss.reshape(1).unwrap()
        });
    }

    #[test]
    fn cross_entropy_uniform_logits_is_log_vocabulary() {
        let x = Tensor::zeros((2, 20), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let loss = cross_entropy(&x, &[3, 4], &[0.5, 0.5], 0.1)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!((loss - 20f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn cross_entropy_target_outside_vocabulary_is_an_error() {
        let x = Tensor::zeros((1, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        assert!(cross_entropy(&x, &[4], &[1.0], 0.0).is_err());
    }
}
