//! Raw scores to probabilities, and thresholds for given false-positive rates.

use candle_core::{Result as CandleResult, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::eval::tokens::{Scored, threshold_at_fpr};

/// A threshold and the share of good tokens that fall below it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FprThreshold {
    /// Share of good tokens that are flagged (false positives), 0 to 1.
    pub fpr: f64,
    /// Words with a reward below this are flagged.
    pub threshold: f32,
}

/// One scorer's entry in `calibration.json`: Platt scaling (Platt, 1999) of its logit, helped by how likely the policy found the token, and thresholds
/// measured on the same tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Factor on the logit; positive.
    pub slope: f32,
    /// What of the policy's log-probability of the token is added to the logit.
    #[serde(default)]
    pub log_probability: f32,
    /// Added to the scaled logit.
    pub offset: f32,
    /// The threshold served where nothing else is asked for.
    pub default_threshold: f32,
    /// Thresholds by false-positive rate, rising.
    pub thresholds: Vec<FprThreshold>,
    /// What it was fitted on, in words.
    pub fitted_on: String,
    /// How many tokens that were.
    pub tokens: usize,
}

/// False-positive rates whose thresholds are stored.
const RATES: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.30];

/// The rate whose threshold is the default.
const DEFAULT_RATE: f64 = 0.05;

impl Calibration {
    /// Fits slope and offset by Newton's method on the cross-entropy, with Platt's smoothed targets, and measures the thresholds. `None` unless there are
    /// good and bad tokens.
    pub fn fit(logits: &[f32], good: &[bool], fitted_on: &str) -> Option<Self> {
        let positives = good.iter().filter(|g| **g).count() as f64;
        let negatives = good.len() as f64 - positives;
        if positives == 0.0 || negatives == 0.0 || logits.len() != good.len() {
            return None;
        }
        let (high, low) = ((positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0));
        let (mut slope, mut offset) = (1.0f64, 0.0f64);
        for _ in 0..100 {
            let (mut g, mut h) = ([0.0; 2], [1e-6, 0.0, 1e-6]);
            for (&x, &good) in logits.iter().zip(good) {
                let x = f64::from(x);
                let p = sigmoid(slope * x + offset);
                let (error, weight) = (p - if good { high } else { low }, p * (1.0 - p));
                g[0] += error * x;
                g[1] += error;
                h[0] += weight * x * x;
                h[1] += weight * x;
                h[2] += weight;
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            let step = [(g[0] * h[2] - g[1] * h[1]) / determinant, (g[1] * h[0] - g[0] * h[1]) / determinant];
            // A full Newton step far from the optimum can overshoot; its length is bounded.
            let scale = (2.0 / (step[0].abs() + step[1].abs())).min(1.0);
            slope -= scale * step[0];
            offset -= scale * step[1];
            if step[0].abs() + step[1].abs() < 1e-9 {
                break;
            }
        }
        let mut fitted = Self {
            slope: slope.max(1e-3) as f32,
            log_probability: 0.0,
            offset: offset as f32,
            default_threshold: 0.5,
            thresholds: Vec::new(),
            fitted_on: fitted_on.to_owned(),
            tokens: logits.len(),
        };
        let scored: Vec<Scored> =
            logits.iter().zip(good).map(|(&l, &good)| Scored { reward: fitted.probability(l), good, image: 0 }).collect();
        fitted.thresholds = RATES.map(|fpr| FprThreshold { fpr, threshold: threshold_at_fpr(&scored, fpr).min(1.0) }).to_vec();
        fitted.default_threshold = fitted.threshold_for_fpr(DEFAULT_RATE);
        Some(fitted)
    }

    /// The probability that belongs to a score; it rises with it.
    pub fn probability(&self, logit: f32) -> f32 {
        sigmoid(f64::from(self.slope) * f64::from(logit) + f64::from(self.offset)) as f32
    }

    /// The reward of a raw score for a token that the policy found so likely.
    pub fn reward(&self, logit: f32, log_probability: f32) -> f32 {
        self.probability(logit + self.log_probability * log_probability)
    }

    /// [`Self::reward`] of many tokens: `logits` is `(tokens)`.
    ///
    /// # Errors
    /// When there are not as many log-probabilities.
    pub fn rewards(&self, logits: &Tensor, log_probabilities: &[f32]) -> CandleResult<Vec<f32>> {
        let logits = logits.to_vec1::<f32>()?;
        if logits.len() != log_probabilities.len() {
            bail!("{} log-probabilities for {} tokens", log_probabilities.len(), logits.len());
        }
        Ok(logits.into_iter().zip(log_probabilities).map(|(logit, lp)| self.reward(logit, *lp)).collect())
    }

    /// The threshold that flags a share `target` of the good tokens, interpolated between the stored rates and constant outside them.
    pub fn threshold_for_fpr(&self, target: f64) -> f32 {
        let after = self.thresholds.iter().position(|t| t.fpr >= target);
        match (after, self.thresholds.last()) {
            (Some(0), _) => self.thresholds[0].threshold,
            (Some(i), _) => {
                let (a, b) = (self.thresholds[i - 1], self.thresholds[i]);
                let share = ((target - a.fpr) / (b.fpr - a.fpr)) as f32;
                a.threshold + share * (b.threshold - a.threshold)
            }
            (None, Some(last)) => last.threshold,
            (None, None) => self.default_threshold,
        }
    }

    /// What is wrong with a calibration read from a file.
    ///
    /// # Errors
    /// A number that is none, a slope that would turn the scores around, or rates out of order.
    pub fn validate(&self) -> Result<(), String> {
        let finite = [self.slope, self.log_probability, self.offset, self.default_threshold].iter().all(|x| x.is_finite());
        if !finite || self.slope <= 0.0 {
            return Err(format!("slope {} and offset {} must be finite, the slope positive", self.slope, self.offset));
        }
        if !self.thresholds.windows(2).all(|w| w[0].fpr < w[1].fpr && w[0].threshold <= w[1].threshold) {
            return Err("thresholds must rise with their false-positive rates".into());
        }
        Ok(())
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits that are twice too confident and shifted by one: the truth is `sigmoid((logit - 1) / 2)`.
    fn sample() -> (Vec<f32>, Vec<bool>) {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        (0..20_000)
            .map(|_| {
                let logit = uniform() * 12.0 - 6.0;
                (logit as f32, uniform() < sigmoid((logit - 1.0) / 2.0))
            })
            .unzip()
    }

    #[test]
    fn recovers_the_truth_behind_shifted_logits() {
        let (logits, good) = sample();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        assert!((fitted.slope - 0.5).abs() < 0.03, "{}", fitted.slope);
        assert!((fitted.offset + 0.5).abs() < 0.06, "{}", fitted.offset);
        fitted.validate().unwrap();
    }

    #[test]
    fn thresholds_flag_the_share_that_they_promise() {
        let (logits, good) = sample();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        for target in [0.01, 0.05, 0.10, 0.15] {
            let threshold = fitted.threshold_for_fpr(target);
            let rewards = logits.iter().zip(&good).filter(|(_, g)| **g).map(|(l, _)| fitted.probability(*l));
            let share = rewards.clone().filter(|r| *r < threshold).count() as f64 / rewards.count() as f64;
            assert!((share - target).abs() < 0.02, "{target}: {share}");
        }
    }

    #[test]
    fn needs_both_kinds() {
        assert!(Calibration::fit(&[1.0, 2.0], &[true, true], "test").is_none());
    }
}
