//! The clipped losses of proximal policy optimisation (Schulman et al., 2017,
//! <https://arxiv.org/abs/1707.06347>), a token each.

use candle_core::{Device, Result, Tensor};

/// How far a step may leave the policy that wrote the answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Largest change of a token's probability ratio from 1 that still earns anything.
    pub ratio: f64,
    /// Largest change of a value that still counts as an improvement.
    pub value: f64,
    /// The logarithm of the ratio is clamped to plus and minus this, so that no single token can
    /// blow up a step.
    pub log_ratio: f64,
}

/// What was true of the tokens when they were written, all of the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyTokens {
    /// Log-probabilities under the policy that wrote them.
    pub log_probs: Vec<f32>,
    /// Values expected then.
    pub values: Vec<f32>,
    /// Advantages, whitened.
    pub advantages: Vec<f32>,
    /// Returns.
    pub returns: Vec<f32>,
    /// What each token counts: `1 / n` for a mean over `n` tokens, 0 outside the mask.
    pub weights: Vec<f32>,
}

impl PolicyTokens {
    /// Adds the tokens of another answer.
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

/// The probability ratios `π(token) / π_old(token)`, `(n)`.
pub fn ratios(log_probs: &Tensor, written: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    (log_probs - constant(&written.log_probs)?)?
        .clamp(-clip.log_ratio, clip.log_ratio)?
        .exp()
}

/// `Σ_t w_t · max(-A_t ρ_t, -A_t clip(ρ_t, 1 - ε, 1 + ε))`, a scalar; `log_probs` is `(n)`.
///
/// # Errors
/// When lengths differ.
pub fn policy_loss(log_probs: &Tensor, written: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    let ratios = ratios(log_probs, written, clip)?;
    let losing = constant(&written.advantages)?.neg()?;
    let (free, clipped) = (
        (&losing * &ratios)?,
        (&losing * ratios.clamp(1.0 - clip.ratio, 1.0 + clip.ratio)?)?,
    );
    (free.maximum(&clipped)? * constant(&written.weights)?)?.sum_all()
}

/// `½ Σ_t w_t · max((V_t - R_t)², (V_t^clipped - R_t)²)`, a scalar; `values` is `(n)`.
///
/// # Errors
/// When lengths differ.
pub fn value_loss(values: &Tensor, written: &PolicyTokens, clip: &Clip) -> Result<Tensor> {
    let (old, returns) = (constant(&written.values)?, constant(&written.returns)?);
    let clipped = (&old + (values - &old)?.clamp(-clip.value, clip.value)?)?;
    let worse = (values - &returns)?
        .sqr()?
        .maximum(&(clipped - returns)?.sqr()?)?;
    (worse * constant(&written.weights)?)?.sum_all()? * 0.5
}

/// Share of the tokens under the mask whose ratio left the clip.
pub fn clipped_share(ratios: &[f32], weights: &[f32], clip: &Clip) -> f64 {
    let taken = || ratios.iter().zip(weights).filter(|(_, w)| **w > 0.0);
    let out = taken()
        .filter(|(r, _)| f64::from((**r - 1.0).abs()) > clip.ratio)
        .count();
    out as f64 / taken().count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::{train::losses::tests::reference, vlm::ops::tests::check_gradients};

    const CLIP: Clip = Clip {
        ratio: 0.2,
        value: 0.2,
        log_ratio: 10.0,
    };

    fn written(advantages: &[f32]) -> PolicyTokens {
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
    fn an_unchanged_policy_loses_minus_the_mean_advantage() {
        let loss = policy_loss(
            &constant(&[-1.0, -1.0]).unwrap(),
            &written(&[2.0, -0.5]),
            &CLIP,
        )
        .unwrap();
        assert!((scalar(loss) + 0.75).abs() < 1e-6);
    }

    #[test]
    fn what_lies_beyond_the_clip_earns_nothing_more_and_costs_in_full() {
        let twice = -1.0 + 2f32.ln();
        let of = |advantage: f32| {
            scalar(
                policy_loss(&constant(&[twice]).unwrap(), &written(&[advantage]), &CLIP).unwrap(),
            )
        };
        assert!((of(1.0) + 1.2).abs() < 1e-6, "gain stops at 1 + ε");
        assert!((of(-1.0) - 2.0).abs() < 1e-6, "loss does not");
        let var = Var::new(&[twice], &Device::Cpu).unwrap();
        let slope = |advantage: f32| {
            let loss = policy_loss(&var, &written(&[advantage]), &CLIP).unwrap();
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
    fn a_runaway_log_ratio_is_clamped() {
        let loss = policy_loss(&constant(&[500.0]).unwrap(), &written(&[-1.0]), &CLIP).unwrap();
        assert!((scalar(loss) - 10f32.exp()).abs() < 1.0);
    }

    #[test]
    fn tokens_outside_the_mask_count_for_nothing() {
        let mut two = written(&[1.0, 100.0]);
        two.weights = vec![1.0, 0.0];
        let one = written(&[1.0]);
        let x = constant(&[-0.9, 3.0]).unwrap();
        assert_eq!(
            scalar(policy_loss(&x, &two, &CLIP).unwrap()),
            scalar(policy_loss(&constant(&[-0.9]).unwrap(), &one, &CLIP).unwrap())
        );
        assert_eq!(clipped_share(&[1.1, 9.0], &two.weights, &CLIP), 0.0);
    }

    #[test]
    fn agrees_with_trl() {
        let found = reference();
        let n = found.flat("log_probs").len();
        let written = PolicyTokens {
            log_probs: found.flat("old_log_probs"),
            values: found.flat("values"),
            advantages: found.of("advantages"),
            returns: found.flat("returns"),
            weights: vec![1.0 / n as f32; n],
        };
        let policy = policy_loss(
            &constant(&found.flat("log_probs")).unwrap(),
            &written,
            &CLIP,
        )
        .unwrap();
        found.assert_close("policy_loss", &[scalar(policy)]);
        let value = value_loss(
            &constant(&found.flat("new_values")).unwrap(),
            &written,
            &CLIP,
        )
        .unwrap();
        found.assert_close("value_loss", &[scalar(value)]);
    }

    #[test]
    fn gradients_agree_with_differences() {
        let written = PolicyTokens {
            values: vec![0.1, 0.6, -0.3],
            ..written(&[1.0, -2.0, 0.5])
        };
        let x = Var::new(&[-0.9f32, -1.1, -1.05], &Device::Cpu).unwrap();
        check_gradients(std::slice::from_ref(&x), || {
            policy_loss(&x, &written, &CLIP)
                .unwrap()
                .reshape(1)
                .unwrap()
        });
        check_gradients(std::slice::from_ref(&x), || {
            value_loss(&x, &written, &CLIP).unwrap().reshape(1).unwrap()
        });
    }
}
