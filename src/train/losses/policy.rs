//! Clipped policy and value losses of proximal policy optimization (Schulman et al., 2017,
//! <https://arxiv.org/abs/1707.06347>), per token.

use candle_core::{Device, Result, Tensor};

/// Clip ranges of an update, relative to the policy that sampled the answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Clip range `ε` of a token's probability ratio around 1.
    pub ratio: f64,
    /// Clip range of a value around the old one.
    pub value: f64,
    /// Bound on the absolute logarithm of the ratio, so that a single token cannot blow up a step.
    pub log_ratio: f64,
}

/// Rollout data of the tokens, all vectors of the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyTokens {
    /// Log-probabilities under the policy that sampled them.
    pub log_probs: Vec<f32>,
    /// Value estimates of that time.
    pub values: Vec<f32>,
    /// Advantages, whitened.
    pub advantages: Vec<f32>,
    /// Returns.
    pub returns: Vec<f32>,
    /// Weight of each token in the loss: `1 / n` for a mean over `n` tokens, 0 outside the mask.
    pub weights: Vec<f32>,
}

impl PolicyTokens {
    /// Appends the tokens of another answer.
    pub fn extend(&mut self, other: &Self) {
        let pairs = [
            (&mut self.log_probs, &other.log_probs),
            (&mut self.values, &other.values),
            (&mut self.advantages, &other.advantages),
            (&mut self.returns, &other.returns),
            (&mut self.weights, &other.weights),
        ];
        pairs
            .into_iter()
            .for_each(|(own, more)| own.extend_from_slice(more));
    }
}

fn constant(values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), &Device::Cpu)
}

/// Probability ratios `π(token) / π_old(token)`, `(n)`.
pub fn ratios(log_probs: &Tensor, rollout: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    (log_probs - constant(&rollout.log_probs)?)?
        .clamp(-clip.log_ratio, clip.log_ratio)?
        .exp()
}

/// PPO's clipped policy loss `Σ_t w_t · max(-A_t ρ_t, -A_t clip(ρ_t, 1 - ε, 1 + ε))`, a scalar;
/// `log_probs` is `(n)`.
///
/// # Errors
/// When lengths differ.
pub fn policy_loss(log_probs: &Tensor, rollout: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    let ratios = ratios(log_probs, rollout, clip)?;
    let negative_advantages = constant(&rollout.advantages)?.neg()?;
    let (unclipped, clipped) = (
        (&negative_advantages * &ratios)?,
        (&negative_advantages * ratios.clamp(1.0 - clip.ratio, 1.0 + clip.ratio)?)?,
    );
    (unclipped.maximum(&clipped)? * constant(&rollout.weights)?)?.sum_all()
}

/// Clipped value loss `½ Σ_t w_t · max((V_t - R_t)², (V_t^clipped - R_t)²)`, a scalar; `values` is
/// `(n)`.
///
/// # Errors
/// When lengths differ.
pub fn value_loss(values: &Tensor, rollout: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    let (old, returns) = (constant(&rollout.values)?, constant(&rollout.returns)?);
    let clipped = (&old + (values - &old)?.clamp(-clip.value, clip.value)?)?;
    let squared_error = (values - &returns)?
        .sqr()?
        .maximum(&(clipped - returns)?.sqr()?)?;
    (squared_error * constant(&rollout.weights)?)?.sum_all()? * 0.5
}

/// Share of the masked tokens whose ratio is outside the clip range.
pub fn clipped_share(ratios: &[f32], weights: &[f32], clip: &Clip) -> f64 {
    let masked = || ratios.iter().zip(weights).filter(|(_, w)| **w > 0.0);
    let outside = masked()
        .filter(|(r, _)| f64::from((**r - 1.0).abs()) > clip.ratio)
        .count();
    outside as f64 / masked().count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::{train::losses::tests::reference, vlm::nn::tests::check_gradients};

    const CLIP: Clip = Clip {
        ratio: 0.2,
        value: 0.2,
        log_ratio: 10.0,
    };

    fn rollout(advantages: &[f32]) -> PolicyTokens {
        let n = advantages.len();
        PolicyTokens {
            log_probs: vec![-1.0; n],
            values: vec![0.0; n],
            advantages: advantages.to_vec(),
            returns: vec![1.0; n],
            weights: vec![1.0 / n as f32; n],
        }
    }

    fn scalar(loss: Tensor) -> f32 {
        loss.to_scalar::<f32>().unwrap()
    }

    #[test]
    fn policy_loss_unchanged_policy_is_minus_the_mean_advantage() {
        let loss = policy_loss(
            &constant(&[-1.0, -1.0]).unwrap(),
            &rollout(&[2.0, -0.5]),
            &CLIP,
        )
        .unwrap();
        assert!((scalar(loss) + 0.75).abs() < 1e-6);
    }

    #[test]
    fn policy_loss_outside_the_clip_gains_nothing_and_costs_in_full() {
        let twice = -1.0 + 2f32.ln();
        let loss = |advantage: f32| {
            scalar(
                policy_loss(&constant(&[twice]).unwrap(), &rollout(&[advantage]), &CLIP).unwrap(),
            )
        };
        assert!((loss(1.0) + 1.2).abs() < 1e-6, "gain stops at 1 + ε");
        assert!((loss(-1.0) - 2.0).abs() < 1e-6, "loss does not");
        let var = Var::new(&[twice], &Device::Cpu).unwrap();
        let slope = |advantage: f32| {
            let loss = policy_loss(&var, &rollout(&[advantage]), &CLIP).unwrap();
            loss.backward()
                .unwrap()
                .get(&var)
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()[0]
        };
        assert_eq!(slope(1.0), 0.0);
        assert!((slope(-1.0) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn ratios_large_log_ratio_is_clamped() {
        let loss = policy_loss(&constant(&[500.0]).unwrap(), &rollout(&[-1.0]), &CLIP).unwrap();
        assert!((scalar(loss) - 10f32.exp()).abs() < 1.0);
    }

    #[test]
    fn losses_masked_tokens_have_no_effect() {
        let mut two = rollout(&[1.0, 100.0]);
        two.weights = vec![1.0, 0.0];
        let one = rollout(&[1.0]);
        let x = constant(&[-0.9, 3.0]).unwrap();
        assert_eq!(
            scalar(policy_loss(&x, &two, &CLIP).unwrap()),
            scalar(policy_loss(&constant(&[-0.9]).unwrap(), &one, &CLIP).unwrap())
        );
        assert_eq!(clipped_share(&[1.1, 9.0], &two.weights, &CLIP), 0.0);
    }

    #[test]
    fn losses_agree_with_trl() {
        let found = reference();
        let n = found.flat("log_probs").len();
        let rollout = PolicyTokens {
            log_probs: found.flat("old_log_probs"),
            values: found.flat("values"),
            advantages: found.values("advantages"),
            returns: found.flat("returns"),
            weights: vec![1.0 / n as f32; n],
        };
        let policy = policy_loss(
            &constant(&found.flat("log_probs")).unwrap(),
            &rollout,
            &CLIP,
        )
        .unwrap();
        found.assert_close("policy_loss", &[scalar(policy)]);
        let value = value_loss(
            &constant(&found.flat("new_values")).unwrap(),
            &rollout,
            &CLIP,
        )
        .unwrap();
        found.assert_close("value_loss", &[scalar(value)]);
    }

    #[test]
    fn losses_gradients_agree_with_finite_differences() {
        let rollout = PolicyTokens {
            values: vec![0.1, 0.6, -0.3],
            ..rollout(&[1.0, -2.0, 0.5])
        };
        let x = Var::new(&[-0.9f32, -1.1, -1.05], &Device::Cpu).unwrap();
        check_gradients(std::slice::from_ref(&x), || {
            policy_loss(&x, &rollout, &CLIP)
                .unwrap()
                .reshape(1)
                .unwrap()
        });
        check_gradients(std::slice::from_ref(&x), || {
            value_loss(&x, &rollout, &CLIP).unwrap().reshape(1).unwrap()
        });
    }
}
