//! Losses on pairs of a better and a worse answer: DPO (Rafailov et al., NeurIPS 2023,
//! <https://arxiv.org/abs/2305.18290>), dense DPO (RLHF-V, Yu et al., CVPR 2024,
//! <https://arxiv.org/abs/2312.00849>) and SPIN (Chen et al., ICML 2024,
//! <https://arxiv.org/abs/2401.01335>).
//!
//! All three use DPO's loss. In SPIN the better answer is human and the worse one sampled from the
//! reference, which is the opponent; dense DPO weighs the tokens in which the two answers differ.

use candle_core::{Device, Result, Tensor};

/// Weights of tokens in the log-probability of their answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenWeighting {
    /// Unweighted sum: the log-probability of the answer.
    Sum,
    /// `(Σ_unchanged + γ Σ_changed) / (|unchanged| + γ |changed|)`.
    Dense {
        /// Weight `γ` of changed tokens.
        gamma: f32,
    },
}

impl TokenWeighting {
    /// Weights of one answer's tokens, where `changed` marks those that the other answer does not
    /// have.
    pub fn weights(self, changed: &[bool]) -> Vec<f32> {
        match self {
            Self::Sum => vec![1.0; changed.len()],
            Self::Dense { gamma } => {
                let weight = |changed: bool| if changed { gamma } else { 1.0 };
                let total: f32 = changed.iter().map(|&c| weight(c)).sum();
                changed.iter().map(|&c| weight(c) / total).collect()
            }
        }
    }
}

/// Weighted sums of token log-probabilities per answer: `log_probs` `(n)` and `n` weights, in
/// answers of the given lengths, to `(answers)`.
///
/// # Errors
/// When the lengths do not add up to `n`.
pub fn answer_log_probs(log_probs: &Tensor, weights: &[f32], lengths: &[usize]) -> Result<Tensor> {
    let n = weights.len();
    if lengths.iter().sum::<usize>() != n {
        candle_core::bail!(
            "answers of {} tokens in {n} weights",
            lengths.iter().sum::<usize>()
        );
    }
    let mut select = vec![0f32; lengths.len() * n];
    let mut first = 0;
    for (row, &len) in lengths.iter().enumerate() {
        select[row * n + first..row * n + first + len]
            .copy_from_slice(&weights[first..first + len]);
        first += len;
    }
    Tensor::from_vec(select, (lengths.len(), n), &Device::Cpu)?
        .matmul(&log_probs.reshape((n, 1))?)?
        .squeeze(1)
}

/// DPO loss `-log σ(β ((log π_w - log ref_w) - (log π_l - log ref_l)))` of each pair; arguments and
/// result are `(pairs)`.
///
/// # Errors
/// When lengths differ.
pub fn dpo(
    better: &Tensor,
    worse: &Tensor,
    reference_better: &Tensor,
    reference_worse: &Tensor,
    beta: f64,
) -> Result<Tensor> {
    let margin = (((better - worse)? - (reference_better - reference_worse)?)? * beta)?;
    // -log σ(x) = max(-x, 0) + log(1 + e^-|x|).
    margin.neg()?.relu()? + (margin.abs()?.neg()?.exp()? + 1.0)?.log()?
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::{train::losses::tests::reference, vlm::nn::tests::check_gradients};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    #[test]
    fn dpo_policy_equal_to_reference_is_log_two() {
        let (w, l) = (tensor(&[-3.0, -50.0]), tensor(&[-9.0, -1.0]));
        for loss in dpo(&w, &l, &w, &l, 0.1).unwrap().to_vec1::<f32>().unwrap() {
            assert!((loss - 2f32.ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn dpo_and_spin_agree_with_trl() {
        let found = reference().part("pairs");
        let values = |name: &str| tensor(&found.values(name));
        let [w, l, rw, rl] = ["better", "worse", "reference_better", "reference_worse"].map(values);
        found.assert_close(
            "dpo",
            &dpo(&w, &l, &rw, &rl, 0.1).unwrap().to_vec1().unwrap(),
        );
        // SPIN's logistic loss is DPO's with λ for β.
        found.assert_close(
            "spin",
            &dpo(&w, &l, &rw, &rl, 5.0).unwrap().to_vec1().unwrap(),
        );
    }

    #[test]
    fn answer_log_probs_dense_agree_with_rlhf_v() {
        let found = reference();
        let changed: Vec<Vec<bool>> = found
            .sequences()
            .iter()
            .map(|s| s.values("changed").iter().map(|&c| c > 0.0).collect())
            .collect();
        let weights: Vec<f32> = changed
            .iter()
            .flat_map(|c| TokenWeighting::Dense { gamma: 5.0 }.weights(c))
            .collect();
        let lengths: Vec<usize> = changed.iter().map(Vec::len).collect();
        let dense =
            answer_log_probs(&tensor(&found.flat("log_probs")), &weights, &lengths).unwrap();
        found.assert_close("dense_log_probs", &dense.to_vec1().unwrap());
        let sums = answer_log_probs(
            &tensor(&found.flat("log_probs")),
            &vec![1.0; weights.len()],
            &lengths,
        )
        .unwrap();
        found.assert_close("sum_log_probs", &sums.to_vec1().unwrap());
    }

    #[test]
    fn weights_dense_all_changed_is_a_mean() {
        assert_eq!(
            TokenWeighting::Dense { gamma: 5.0 }.weights(&[true, true]),
            [0.5, 0.5]
        );
        assert_eq!(
            TokenWeighting::Dense { gamma: 3.0 }.weights(&[true, false]),
            [0.75, 0.25]
        );
        assert_eq!(TokenWeighting::Sum.weights(&[true, false]), [1.0, 1.0]);
    }

    #[test]
    fn dpo_gradients_agree_with_finite_differences() {
        let x = Var::new(&[-1.0f32, -2.0, -0.5, -0.7], &Device::Cpu).unwrap();
        let lengths = [1, 3];
        check_gradients(std::slice::from_ref(&x), || {
            let sums = answer_log_probs(&x, &[1.0, 0.5, 0.2, 0.3], &lengths).unwrap();
            let row = |i: usize| sums.narrow(0, i, 1).unwrap();
            dpo(&row(0), &row(1), &tensor(&[-1.2]), &tensor(&[-2.0]), 0.5).unwrap()
        });
    }
}
