//! How far a policy has moved from its reference.

use serde::{Deserialize, Serialize};

/// Estimators of `KL(π ‖ π_ref)` from one token that `π` drew, by `d = log π - log π_ref`
/// (Schulman, 2020, "Approximating KL divergence").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// `d`: unbiased, of either sign. What a token's reward is charged with.
    K1,
    /// `d² / 2`: biased, never negative.
    K2,
    /// `e^-d - 1 + d`: unbiased and never negative. What is reported.
    K3,
}

impl Estimator {
    /// The estimate of one token.
    pub fn of(self, log_prob: f32, reference: f32) -> f32 {
        let d = log_prob - reference;
        match self {
            Self::K1 => d,
            Self::K2 => 0.5 * d * d,
            Self::K3 => (-d).exp_m1() + d,
        }
    }
}

/// Raises the price of distance while the policy is further from its reference than wanted, and
/// lowers it while it is nearer (Ziegler et al., 2019, <https://arxiv.org/abs/1909.08593>).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveKl {
    /// The price `β` of one nat a token.
    pub beta: f64,
    /// Wanted distance in nats an answer; 0 keeps the price as it is.
    pub target: f64,
    /// Answers after which a price that is always raised has grown by about `e^0.2`.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// Adapts the price to the distance of `answers` answers, `kl` nats each in the mean.
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
    fn estimators_agree_in_expectation() {
        // Two tokens: π = (.7, .3), reference = (.4, .6).
        let (p, q) = ([0.7f32, 0.3], [0.4f32, 0.6]);
        let expected: f32 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        for estimator in [Estimator::K1, Estimator::K3] {
            let mean: f32 = p
                .iter()
                .zip(&q)
                .map(|(p, q)| p * estimator.of(p.ln(), q.ln()))
                .sum();
            assert!((mean - expected).abs() < 1e-6, "{estimator:?}");
        }
        assert!(
            Estimator::K3.of(-1.0, -0.2) > 0.0
                && Estimator::K2.of(-1.0, -0.2) > 0.0
                && Estimator::K1.of(-1.0, -0.2) < 0.0
        );
    }

    #[test]
    fn agrees_with_trl() {
        let found = reference();
        let (ours, theirs) = (
            found.flat("old_log_probs"),
            found.flat("reference_log_probs"),
        );
        for (name, estimator) in [
            ("k1", Estimator::K1),
            ("k2", Estimator::K2),
            ("k3", Estimator::K3),
        ] {
            let all: Vec<f32> = ours
                .iter()
                .zip(&theirs)
                .map(|(a, b)| estimator.of(*a, *b))
                .collect();
            found.assert_close(name, &all);
        }
        let part = found.part("controller");
        let mut kl = AdaptiveKl {
            beta: 0.2,
            target: 6.0,
            horizon: 10_000.0,
        };
        let betas: Vec<f32> = part
            .of("kl")
            .iter()
            .map(|k| {
                kl.update(f64::from(*k), 256);
                kl.beta as f32
            })
            .collect();
        part.assert_close("beta", &betas);
    }

    #[test]
    fn without_a_target_the_price_stays() {
        let mut kl = AdaptiveKl {
            beta: 0.1,
            target: 0.0,
            horizon: 100.0,
        };
        kl.update(50.0, 100);
        assert_eq!(kl.beta, 0.1);
    }
}
