//! KL divergence of a policy from its reference.

use serde::{Deserialize, Serialize};

/// Estimators of `KL(π ‖ π_ref)` from one token sampled from `π`, with `d = log π - log π_ref`
/// (Schulman, 2020, "Approximating KL divergence").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// `d`: unbiased, of either sign. The penalty in token rewards.
    K1,
    /// `d² / 2`: biased, never negative.
    K2,
    /// `e^-d - 1 + d`: unbiased, never negative.
    K3,
}

impl Estimator {
    /// Estimates the KL divergence from one token.
    pub fn estimate(self, log_prob: f32, reference: f32) -> f32 {
        let d = log_prob - reference;
        match self {
            Self::K1 => d,
            Self::K2 => 0.5 * d * d,
            Self::K3 => (-d).exp_m1() + d,
        }
    }
}

/// KL coefficient that rises while the policy is further from its reference than the target and
/// falls while it is nearer (Ziegler et al., 2019, <https://arxiv.org/abs/1909.08593>).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveKl {
    /// Coefficient `β`, in reward per nat.
    pub beta: f64,
    /// Target KL in nats per answer; 0 keeps `β` constant.
    pub target: f64,
    /// Number of answers over which `β`, always raised, grows by about `e^0.2`.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// Adapts `β` to the mean KL `kl`, in nats per answer, of `answers` answers.
    pub fn update(&mut self, kl: f64, answers: usize) {
        if self.target > 0.0 {
            let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
            self.beta *= 1.0 + error * answers as f64 / self.horizon;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::losses::tests::reference;

    #[test]
    fn estimate_in_expectation_is_the_divergence() {
        // Two tokens: π = (.7, .3), reference = (.4, .6).
        let (p, q) = ([0.7f32, 0.3], [0.4f32, 0.6]);
        let expected: f32 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        for estimator in [Estimator::K1, Estimator::K3] {
            let mean: f32 = p
                .iter()
                .zip(&q)
                .map(|(p, q)| p * estimator.estimate(p.ln(), q.ln()))
                .sum();
            assert!((mean - expected).abs() < 1e-6, "{estimator:?}");
        }
        assert!(
            Estimator::K3.estimate(-1.0, -0.2) > 0.0
                && Estimator::K2.estimate(-1.0, -0.2) > 0.0
                && Estimator::K1.estimate(-1.0, -0.2) < 0.0
        );
    }

    #[test]
    fn estimators_and_controller_agree_with_trl() {
        let reference_values = reference();
        let (ours, theirs) = (
            reference_values.flat("old_log_probs"),
            reference_values.flat("reference_log_probs"),
        );
        for (name, estimator) in [
            ("k1", Estimator::K1),
            ("k2", Estimator::K2),
            ("k3", Estimator::K3),
        ] {
            let all: Vec<f32> = ours
                .iter()
                .zip(&theirs)
                .map(|(a, b)| estimator.estimate(*a, *b))
                .collect();
            reference_values.assert_close(name, &all);
        }
        let part = reference_values.part("controller");
        let mut kl = AdaptiveKl {
            beta: 0.2,
            target: 6.0,
            horizon: 10_000.0,
        };
        let betas: Vec<f32> = part
            .values("kl")
            .iter()
            .map(|k| {
                kl.update(f64::from(*k), 256);
                kl.beta as f32
            })
            .collect();
        part.assert_close("beta", &betas);
    }

    #[test]
    fn update_without_target_keeps_beta() {
        let mut kl = AdaptiveKl {
            beta: 0.1,
            target: 0.0,
            horizon: 100.0,
        };
        kl.update(50.0, 100);
        assert_eq!(kl.beta, 0.1);
    }
}
