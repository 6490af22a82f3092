//! Log-probabilities of given tokens.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{cross_entropy::log_sum_exp, elements, exp, for_lines, with_elements};

/// Log-probability `log softmax(logits_i)[target_i]` of every row: `(n, vocabulary)` to `(n)`.
///
/// # Errors
/// When the numbers of logits and targets differ, a target is outside the vocabulary, or a tensor
/// operation fails.
pub fn log_probs(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (n, vocab) = logits.dims2()?;
    if targets.len() != n || targets.iter().any(|&t| t as usize >= vocab) {
        bail!(
            "log_probs: {n} logits, {} targets, vocabulary {vocab}",
            targets.len()
        );
    }
    if logits.device().is_cpu() {
        return logits.contiguous()?.apply_op1(LogProbs {
            targets: targets.to_vec(),
        });
    }
    composed(logits, targets)
}

/// Composition of candle's basic operations for other devices.
fn composed(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    candle_nn::ops::log_softmax(logits, D::Minus1)?
        .gather(&targets, 1)?
        .squeeze(1)
}

struct LogProbs {
    targets: Vec<u32>,
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log_probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let (n, vocab) = layout.shape().dims2()?;
        let out = x
            .par_chunks(vocab)
            .zip(&self.targets)
            .map(|(x, &target)| x[target as usize] - log_sum_exp(x));
        Ok((CpuStorage::F32(out.collect()), Shape::from(n)))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, vocab) = arg.dims2()?;
        let (grad, log_probs) = (grad.to_vec1::<f32>()?, res.to_vec1::<f32>()?);
        with_elements(arg, |x| {
            let mut dx = vec![0f32; x.len()];
            for_lines(&mut dx, vocab, |i, line| {
                // Tokens without gradient are skipped; often only a few tokens are learned.
                if grad[i] == 0.0 {
                    return;
                }
                let x = &x[i * vocab..(i + 1) * vocab];
                let total = x[self.targets[i] as usize] - log_probs[i];
                line.iter_mut()
                    .zip(x)
                    .for_each(|(d, x)| *d = -grad[i] * exp(x - total));
                line[self.targets[i] as usize] += grad[i];
            });
            Ok(Some(Tensor::from_vec(dx, arg.shape(), arg.device())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::{
        cross_entropy,
        tests::{check_gradients, var},
    };

    #[test]
    fn log_probs_gradients_agree_with_finite_differences() {
        let x = var(60, (3, 20), 1);
        check_gradients(std::slice::from_ref(&x), || {
            log_probs(&x, &[1, 19, 0]).unwrap()
        });
    }

    #[test]
    fn log_probs_composed_equal_fused_and_have_their_gradients() {
        let (x, targets) = (var(60, (3, 20), 3), [4, 0, 19]);
        let [fused, plain] = [log_probs(&x, &targets), composed(&x, &targets)]
            .map(|values| values.unwrap().to_vec1::<f32>().unwrap());
        assert!(fused.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5));
        check_gradients(std::slice::from_ref(&x), || composed(&x, &targets).unwrap());
    }

    #[test]
    fn log_probs_mean_is_the_negative_cross_entropy() {
        let (x, targets) = (var(60, (3, 20), 2), [4, 0, 19]);
        let mean = -log_probs(&x, &targets)
            .unwrap()
            .mean_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        let loss = cross_entropy(&x, &targets, &[1.0 / 3.0; 3], 0.0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!((mean - loss).abs() < 1e-6, "{mean} {loss}");
    }

    #[test]
    fn log_probs_target_outside_vocabulary_is_an_error() {
        let x = Tensor::zeros((1, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        assert!(log_probs(&x, &[4]).is_err());
    }
}
