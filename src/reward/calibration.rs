//! Raw scores to probabilities, and thresholds for given false-positive rates.

use serde::{Deserialize, Serialize};

use super::{
    drift::Histogram,
    logistic::logistic_regression,
    thresholds::{ScoredToken, threshold_at_fpr},
};

/// A threshold and the share of good tokens that fall below it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FprThreshold {
    /// Share of good tokens that are flagged (false positives), 0 to 1.
    pub fpr: f64,
    /// Words with a reward below this are flagged.
    pub threshold: f32,
}

/// Returns the threshold that flags a share `target` of good words: interpolated between `measured`
/// ones, which rise, and constant outside them. `None` where nothing was measured.
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

/// One scorer's entry in `calibration.json`: beta calibration (Kull et al., AISTATS 2017) of its
/// logit, helped by how likely the policy found the token, and thresholds measured on the same
/// tokens. With both slopes the same it is Platt scaling (Platt, 1999).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Factor on `ln p`, where `p` is the probability that the logit stands for; positive.
    pub slope: f32,
    /// Factor on `-ln(1 - p)`, positive; the same as [`Self::slope`] where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_slope: Option<f32>,
    /// Factor on the policy's log-probability of the token, which is added to the logit.
    #[serde(default)]
    pub log_probability: f32,
    /// Added to the scaled logit.
    pub offset: f32,
    /// The threshold served where nothing else is asked for.
    pub default_threshold: f32,
    /// Thresholds by false-positive rate, rising.
    pub thresholds: Vec<FprThreshold>,
    /// Description of the data that it was fitted on, in words.
    pub fitted_on: String,
    /// Number of tokens of that data.
    pub tokens: usize,
    /// Distribution of the rewards of the policy's own captions when it was fitted: those of later
    /// answers are compared with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Histogram>,
    /// That of texts that the policy did not write: it is more often surprised by a person's true
    /// words than by its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Box<Calibration>>,
    /// That of the yes or no that answers a question, whose truth is another matter than a thing's
    /// being there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yes_no: Option<Box<Calibration>>,
    /// Optimism of the best of several versions of a word, which looks better than it is; nothing
    /// where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<Selection>,
}

/// Effect of selection on rewards: a word that was chosen as the best of `n` has, in truth, the
/// reward whose logit is lower by `offset` times the logarithm of `n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The factor; 0 or more.
    pub offset: f32,
    /// Number of words of repairs that it was fitted on.
    pub words: usize,
}

/// A word that a repair wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenWord {
    /// Its reward.
    pub reward: f32,
    /// Among how many versions it was chosen.
    pub tried: usize,
    /// `true` if it is right.
    pub is_right: bool,
}

impl Selection {
    /// The fewest words, and the fewest of them right and wrong each, that an offset is fitted on.
    const LEAST: (usize, usize) = (50, 10);

    /// Fits the offset on the cross-entropy of the corrected rewards; `None` where too few words
    /// are known. The rewards are those of a scorer without a correction.
    pub fn fit(words: &[ChosenWord]) -> Option<Self> {
        let right = words.iter().filter(|word| word.is_right).count();
        if words.len() < Self::LEAST.0 || right.min(words.len() - right) < Self::LEAST.1 {
            return None;
        }
        let logit = |p: f32| {
            let p = f64::from(p.clamp(1e-4, 1.0 - 1e-4));
            (p / (1.0 - p)).ln()
        };
        // The cross-entropy is convex in the offset: its slope falls through 0 once.
        let slope = |offset: f64| {
            let of = |word: &ChosenWord| {
                let weight = (word.tried.max(1) as f64).ln();
                weight
                    * (f64::from(u8::from(word.is_right))
                        - sigmoid(logit(word.reward) - offset * weight))
            };
            words.iter().map(of).sum::<f64>()
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

/// False-positive rates whose thresholds are stored.
const RATES: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.30];

/// The rate whose threshold is the default.
const DEFAULT_RATE: f64 = 0.05;

impl Calibration {
    /// Fits slopes and offset on the cross-entropy, with Platt's smoothed targets, and measures the
    /// thresholds. `None` unless there are good and bad tokens.
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
            beta(logits, &targets).or_else(|| platt(logits, &targets))?;
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

    /// The probability that belongs to a score; it rises with it.
    pub fn probability(&self, logit: f32) -> f32 {
        let [lower, upper] = sides(logit);
        let upper_slope = f64::from(self.upper_slope.unwrap_or(self.slope));
        sigmoid(f64::from(self.slope) * lower + upper_slope * upper + f64::from(self.offset)) as f32
    }

    /// The reward of a raw score for a token that the policy found so likely.
    pub fn reward(&self, logit: f32, log_probability: f32) -> f32 {
        self.probability(logit + self.log_probability * log_probability)
    }

    /// The calibration of texts that the policy did not write.
    pub fn of_others(&self) -> &Self {
        self.others.as_deref().unwrap_or(self)
    }

    /// The calibration of what may be a yes or no that answers.
    pub fn of(&self, is_yes_or_no: bool) -> &Self {
        self.yes_no
            .as_deref()
            .filter(|_| is_yes_or_no)
            .unwrap_or(self)
    }

    /// The threshold that flags a share `target` of the good tokens, interpolated between the
    /// stored rates and constant outside them.
    pub fn threshold_for_fpr(&self, target: f64) -> f32 {
        threshold_for_fpr(&self.thresholds, target).unwrap_or(self.default_threshold)
    }

    /// Checks a calibration read from a file; the error says what is wrong.
    ///
    /// # Errors
    /// A number that is none, a slope that would turn the scores around, or rates out of order.
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
        if let Some(Selection { offset, .. }) = self
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

/// Least slope: rewards rise with their scores.
const LEAST: f64 = 1e-3;

/// `ln p` and `-ln(1 - p)` of the probability that a logit stands for.
fn sides(logit: f32) -> [f64; 2] {
    let logit = f64::from(logit);
    // ln(1 + e^x), without overflow.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    [-softplus(-logit), softplus(logit)]
}

/// Both slopes and the offset; `None` where one of the slopes would turn the scores around.
fn beta(logits: &[f32], targets: &[f64]) -> Option<[f64; 3]> {
    let features: Vec<[f64; 2]> = logits.iter().map(|&logit| sides(logit)).collect();
    logistic_regression(&features, targets)
        .filter(|[lower, upper, _]| *lower >= LEAST && *upper >= LEAST)
}

/// One slope for both sides.
fn platt(logits: &[f32], targets: &[f64]) -> Option<[f64; 3]> {
    let features: Vec<[f64; 2]> = logits
        .iter()
        .map(|&logit| [f64::from(logit), 0.0])
        .collect();
    logistic_regression(&features, targets)
        .map(|[slope, _, offset]| [slope.max(LEAST), slope.max(LEAST), offset])
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits that are twice too confident and shifted by one: the truth is
    /// `sigmoid((logit - 1) / 2)`.
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
    fn recovers_the_truth_behind_shifted_logits() {
        let (logits, good) = sample();
        let fitted = Calibration::fit(&logits, &good, "test").unwrap();
        // That truth is a Platt scaling: both slopes are the same.
        assert!(
            (fitted.slope - 0.5).abs() < 0.05 && (fitted.upper_slope.unwrap() - 0.5).abs() < 0.05,
            "{fitted:?}"
        );
        assert!((fitted.offset + 0.5).abs() < 0.1, "{}", fitted.offset);
        fitted.validate().unwrap();
    }

    #[test]
    fn thresholds_flag_the_share_that_they_promise() {
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
    fn each_side_has_a_slope_of_its_own() {
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
    fn recovers_what_selection_added() {
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
                    reward: sigmoid(logit) as f32,
                    tried,
                    is_right: uniform() < truth,
                }
            };
            (0..n).map(word).collect::<Vec<_>>()
        };
        let fitted = Selection::fit(&chosen(0.6, 20_000)).unwrap();
        assert!(
            (fitted.offset - 0.6).abs() < 0.05 && fitted.words == 20_000,
            "{fitted:?}"
        );
        // A chosen word is never made better.
        assert_eq!(Selection::fit(&chosen(-0.5, 20_000)).unwrap().offset, 0.0);
        assert_eq!(Selection::fit(&chosen(0.6, 40)), None);
        assert_eq!(
            Selection::fit(
                &[ChosenWord {
                    reward: 0.6,
                    tried: 4,
                    is_right: true
                }; 100]
            ),
            None
        );
    }

    #[test]
    fn needs_both_kinds() {
        assert!(Calibration::fit(&[1.0, 2.0], &[true, true], "test").is_none());
    }
}
