//! Calibration of logits to rewards, and thresholds for given false-positive rates.

use candle_core::{Result as CandleResult, bail};
use serde::{Deserialize, Serialize};

use super::{
    drift::Histogram,
    logistic::logistic_regression,
    thresholds::{ScoredToken, threshold_at_fpr},
};
use crate::vlm::processor::tokenizer::TextTokenizer;

/// Threshold, and the share of grounded tokens below it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FprThreshold {
    /// Share of grounded tokens that are flagged (false positives), 0 to 1.
    pub fpr: f64,
    /// Words with a score below this are flagged.
    pub threshold: f32,
}

/// Returns the threshold that flags a share `target` of grounded words: interpolated between
/// `measured` thresholds, which rise, and constant outside them. `None` if nothing was measured.
pub fn threshold_for_fpr(measured: &[FprThreshold], target: f64) -> Option<f32> {
    let last = measured.last()?;
    Some(match measured.iter().position(|t| t.fpr >= target) {
        None => last.threshold,
        Some(0) => measured[0].threshold,
        Some(i) => {
            let (a, b) = (measured[i - 1], measured[i]);
            a.threshold + ((target - a.fpr) / (b.fpr - a.fpr)) as f32 * (b.threshold - a.threshold)
        }
    })
}

/// Entry of a scorer in `calibration.json`: beta calibration (Kull et al., AISTATS 2017) of its
/// logit plus the weighted log-probability of the token under the policy, and thresholds measured
/// on the same tokens. With equal slopes it is Platt scaling (Platt, 1999).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Factor on `ln p`, where `p` is the sigmoid of the logit; positive.
    pub slope: f32,
    /// Factor on `-ln(1 - p)`, positive; equal to [`Self::slope`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_slope: Option<f32>,
    /// Factor on the token's log-probability under the policy, which is added to the logit.
    #[serde(default)]
    pub log_probability: f32,
    /// Offset, added to the scaled logit.
    pub offset: f32,
    /// Default threshold.
    pub default_threshold: f32,
    /// Thresholds by false-positive rate, rising.
    pub thresholds: Vec<FprThreshold>,
    /// Description of the data on which it was fitted.
    pub fitted_on: String,
    /// Number of tokens in that data.
    pub tokens: usize,
    /// Distribution of the rewards of the policy's own captions at the time of fitting, with which
    /// those of later answers are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Histogram>,
    /// Calibration of texts that the policy did not write: it is more often surprised by a person's
    /// true words than by its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Box<Calibration>>,
    /// Calibration of a yes or no that begins an answer, whose truth is not the presence of an
    /// object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yes_no: Option<Box<Calibration>>,
    /// Selection bias of the best of several versions; no correction if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<SelectionBias>,
}

/// Selection bias: a word chosen as the best of `n` has, in truth, the score whose logit is lower
/// by `offset` times `ln n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionBias {
    /// Factor; 0 or more.
    pub offset: f32,
    /// Number of repaired words on which it was fitted.
    pub words: usize,
}

/// Word that a repair wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenWord {
    /// Score.
    pub score: f32,
    /// Number of versions from which it was chosen.
    pub tried: usize,
    /// `true` if it is correct.
    pub is_right: bool,
}

impl SelectionBias {
    /// Minimum number of words, and of correct and wrong words each, for a fit.
    const MIN_WORDS: (usize, usize) = (50, 10);

    /// Fits the offset by minimizing the cross-entropy of the corrected scores; `None` if there are
    /// too few words. The scores must be uncorrected.
    pub fn fit(words: &[ChosenWord]) -> Option<Self> {
        let right = words.iter().filter(|word| word.is_right).count();
        if words.len() < Self::MIN_WORDS.0 || right.min(words.len() - right) < Self::MIN_WORDS.1 {
            return None;
        }
        let logit = |p: f32| {
            let p = f64::from(p.clamp(1e-4, 1.0 - 1e-4));
            (p / (1.0 - p)).ln()
        };
        // The cross-entropy is convex in the offset: its slope has one zero.
        let slope = |offset: f64| {
            let term = |word: &ChosenWord| {
                let weight = (word.tried.max(1) as f64).ln();
                weight
                    * (f64::from(u8::from(word.is_right))
                        - sigmoid(logit(word.score) - offset * weight))
            };
            words.iter().map(term).sum::<f64>()
        };
        let (mut low, mut high) = (0.0, 5.0);
        if slope(low) >= 0.0 {
            return Some(Self {
                offset: 0.0,
                words: words.len(),
            });
        }
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            *(if slope(middle) < 0.0 {
                &mut low
            } else {
                &mut high
            }) = middle;
        }
        Some(Self {
            offset: low as f32,
            words: words.len(),
        })
    }
}

/// Stored false-positive rates.
const RATES: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.30];

/// False-positive rate of the default threshold.
const DEFAULT_RATE: f64 = 0.05;

impl Calibration {
    /// Fits slopes and offset by minimizing the cross-entropy with Platt's smoothed targets, and
    /// measures the thresholds. `None` without both grounded and hallucinated tokens.
    pub fn fit(logits: &[f32], good: &[bool], fitted_on: &str) -> Option<Self> {
        let positives = good.iter().filter(|g| **g).count() as f64;
        let negatives = good.len() as f64 - positives;
        if positives == 0.0 || negatives == 0.0 || logits.len() != good.len() {
            return None;
        }
        let (high, low) = (
            (positives + 1.0) / (positives + 2.0),
            1.0 / (negatives + 2.0),
        );
        let targets: Vec<f64> = good
            .iter()
            .map(|&good| if good { high } else { low })
            .collect();
        let [slope, upper_slope, offset] =
            fit_beta(logits, &targets).or_else(|| fit_platt(logits, &targets))?;
        let mut fitted = Self {
            slope: slope as f32,
            upper_slope: Some(upper_slope as f32),
            log_probability: 0.0,
            offset: offset as f32,
            default_threshold: 0.5,
            thresholds: Vec::new(),
            fitted_on: fitted_on.to_owned(),
            tokens: logits.len(),
            rewards: None,
            others: None,
            yes_no: None,
            repaired: None,
        };
        let scored: Vec<ScoredToken> = logits
            .iter()
            .zip(good)
            .map(|(&l, &good)| ScoredToken {
                reward: fitted.probability(l),
                good,
                image: 0,
            })
            .collect();
        fitted.thresholds = RATES
            .map(|fpr| FprThreshold {
                fpr,
                threshold: threshold_at_fpr(&scored, fpr).min(1.0),
            })
            .to_vec();
        fitted.default_threshold = fitted.threshold_for_fpr(DEFAULT_RATE);
        Some(fitted)
    }

    /// Returns the probability for a logit; it rises with the logit.
    pub fn probability(&self, logit: f32) -> f32 {
        let [lower, upper] = sides(logit);
        let upper_slope = f64::from(self.upper_slope.unwrap_or(self.slope));
        sigmoid(f64::from(self.slope) * lower + upper_slope * upper + f64::from(self.offset)) as f32
    }

    /// Returns the reward for a logit and the log-probability of the token under the policy.
    pub fn reward(&self, logit: f32, log_probability: f32) -> f32 {
        self.probability(logit + self.log_probability * log_probability)
    }

    /// Returns the calibration of texts that the policy did not write.
    pub fn for_others(&self) -> &Self {
        self.others.as_deref().unwrap_or(self)
    }

    /// Returns the calibration of a token that may be a yes or no, or of any other.
    pub fn for_token(&self, is_yes_or_no: bool) -> &Self {
        self.yes_no
            .as_deref()
            .filter(|_| is_yes_or_no)
            .unwrap_or(self)
    }

    /// Returns the threshold that flags a share `target` of the grounded tokens, interpolated
    /// between stored rates and constant outside them.
    pub fn threshold_for_fpr(&self, target: f64) -> f32 {
        threshold_for_fpr(&self.thresholds, target).unwrap_or(self.default_threshold)
    }

    /// Checks a calibration read from a file; the error describes the fault.
    ///
    /// # Errors
    /// When a number is not finite, a slope is not positive, or rates are out of order.
    pub fn validate(&self) -> Result<(), String> {
        let upper_slope = self.upper_slope.unwrap_or(self.slope);
        let finite = [
            self.slope,
            upper_slope,
            self.log_probability,
            self.offset,
            self.default_threshold,
        ]
        .iter()
        .all(|x| x.is_finite());
        if !finite || self.slope <= 0.0 || upper_slope <= 0.0 {
            return Err(format!(
                "slopes {}, {upper_slope} and offset {} must be finite, the slopes positive",
                self.slope, self.offset
            ));
        }
        if let Some(SelectionBias { offset, .. }) = self
            .repaired
            .filter(|selection| !(0.0..=10.0).contains(&selection.offset))
        {
            return Err(format!(
                "repaired: offset {offset} must be between 0 and 10"
            ));
        }
        for (name, special) in [("others", &self.others), ("yes_no", &self.yes_no)] {
            special
                .as_ref()
                .map_or(Ok(()), |own| own.validate())
                .map_err(|what| format!("{name}: {what}"))?;
        }
        if !self
            .thresholds
            .windows(2)
            .all(|w| w[0].fpr < w[1].fpr && w[0].threshold <= w[1].threshold)
        {
            return Err("thresholds must rise with their false-positive rates".into());
        }
        Ok(())
    }
}

/// Calibration with the tokens that may be a yes or no at the beginning of an answer.
pub struct Calibrator {
    calibration: Calibration,
    yes_or_no: Vec<u32>,
}

impl Calibrator {
    /// Creates a calibrator for the tokens of `tokenizer`: a yes or no without a leading space can
    /// only begin a text.
    pub fn new(calibration: Calibration, tokenizer: &TextTokenizer) -> Self {
        let is_yes_or_no = |id: &u32| {
            ["yes", "no"]
                .iter()
                .any(|word| tokenizer.bytes(*id).eq_ignore_ascii_case(word.as_bytes()))
        };
        Self {
            calibration,
            yes_or_no: (0..tokenizer.vocab_size() as u32)
                .filter(is_yes_or_no)
                .collect(),
        }
    }

    /// Returns the rewards of `tokens`, whose logits are `logits` and whose log-probabilities under
    /// the policy are `log_probabilities`.
    ///
    /// # Errors
    /// When their numbers differ.
    pub fn rewards(
        &self,
        tokens: &[u32],
        logits: &[f32],
        log_probabilities: &[f32],
    ) -> CandleResult<Vec<f32>> {
        if logits.len() != tokens.len() || log_probabilities.len() != tokens.len() {
            bail!(
                "{} logits and {} log-probabilities for {} tokens",
                logits.len(),
                log_probabilities.len(),
                tokens.len()
            );
        }
        let reward = |((id, &logit), &lp): ((&u32, &f32), &f32)| {
            self.calibration
                .for_token(self.yes_or_no.contains(id))
                .reward(logit, lp)
        };
        Ok(tokens
            .iter()
            .zip(logits)
            .zip(log_probabilities)
            .map(reward)
            .collect())
    }
}

/// Minimum slope, so that rewards rise with logits.
const MIN_SLOPE: f64 = 1e-3;

/// Returns `ln p` and `-ln(1 - p)`, where `p` is the sigmoid of a logit.
fn sides(logit: f32) -> [f64; 2] {
    let logit = f64::from(logit);
    // ln(1 + e^x), without overflow.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    [-softplus(-logit), softplus(logit)]
}

/// Fits both slopes and the offset; `None` if a slope is not positive.
fn fit_beta(logits: &[f32], targets: &[f64]) -> Option<[f64; 3]> {
    let features: Vec<[f64; 2]> = logits.iter().map(|&logit| sides(logit)).collect();
    logistic_regression(&features, targets)
        .filter(|[lower, upper, _]| *lower >= MIN_SLOPE && *upper >= MIN_SLOPE)
}

/// Fits one slope for both sides.
fn fit_platt(logits: &[f32], targets: &[f64]) -> Option<[f64; 3]> {
    let features: Vec<[f64; 2]> = logits
        .iter()
        .map(|&logit| [f64::from(logit), 0.0])
        .collect();
    logistic_regression(&features, targets)
        .map(|[slope, _, offset]| [slope.max(MIN_SLOPE), slope.max(MIN_SLOPE), offset])
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns logits that are too confident by a factor of two and shifted by one, with labels of
    /// which the true probability is `sigmoid((logit - 1) / 2)`.
    fn sample() -> (Vec<f32>, Vec<bool>) {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
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
    fn fit_recovers_the_calibration_of_shifted_logits() {
        let (logits, good) = sample();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        // The true calibration is a Platt scaling, with equal slopes.
        assert!(
            (fitted.slope - 0.5).abs() < 0.05 && (fitted.upper_slope.unwrap() - 0.5).abs() < 0.05,
            "{fitted:?}"
        );
        assert!((fitted.offset + 0.5).abs() < 0.1, "{}", fitted.offset);
        fitted.validate().unwrap();
    }

    #[test]
    fn threshold_for_fpr_flags_that_share() {
        let (logits, good) = sample();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        for target in [0.01, 0.05, 0.10, 0.15] {
            let threshold = fitted.threshold_for_fpr(target);
            let rewards = logits
                .iter()
                .zip(&good)
                .filter(|(_, g)| **g)
                .map(|(l, _)| fitted.probability(*l));
            let share =
                rewards.clone().filter(|r| *r < threshold).count() as f64 / rewards.count() as f64;
            assert!((share - target).abs() < 0.02, "{target}: {share}");
        }
    }

    #[test]
    fn fit_recovers_a_slope_for_each_side() {
        // Certain when high, unsure when low.
        let (logits, _) = sample();
        let truth = |l: f32| sigmoid(0.3 * sides(l)[0] + 1.5 * sides(l)[1] - 0.4);
        let good: Vec<bool> = logits
            .iter()
            .enumerate()
            .map(|(i, &l)| (i as f64 * 0.754_877_666).fract() < truth(l))
            .collect();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        let worst = (-50..=50)
            .map(|i| i as f32 / 10.0)
            .map(|l| (f64::from(fitted.probability(l)) - truth(l)).abs())
            .fold(0.0, f64::max);
        assert!(worst < 0.02, "{worst}: {fitted:?}");
        assert!(
            (-100..100).all(|i| fitted.probability(i as f32 / 10.0)
                <= fitted.probability((i + 1) as f32 / 10.0)),
            "rewards rise"
        );
    }

    #[test]
    fn fit_recovers_the_selection_bias() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let mut chosen = |offset: f64, n: usize| {
            let word = |i: usize| {
                let (tried, logit) = (1 + i % 12, uniform() * 6.0 - 3.0);
                let truth = sigmoid(logit - offset * (tried as f64).ln());
                ChosenWord {
                    score: sigmoid(logit) as f32,
                    tried,
                    is_right: uniform() < truth,
                }
            };
            (0..n).map(word).collect::<Vec<_>>()
        };
        let fitted = SelectionBias::fit(&chosen(0.6, 20_000)).unwrap();
        assert!(
            (fitted.offset - 0.6).abs() < 0.05 && fitted.words == 20_000,
            "{fitted:?}"
        );
        // The correction never raises a score.
        assert_eq!(
            SelectionBias::fit(&chosen(-0.5, 20_000)).unwrap().offset,
            0.0
        );
        assert_eq!(SelectionBias::fit(&chosen(0.6, 40)), None);
        assert_eq!(
            SelectionBias::fit(
                &[ChosenWord {
                    score: 0.6,
                    tried: 4,
                    is_right: true
                }; 100]
            ),
            None
        );
    }

    #[test]
    fn fit_without_both_labels_is_none() {
        assert!(Calibration::fit(&[1.0, 2.0], &[true, true], "test").is_none());
    }
}
