//! Calibrations from features to probabilities, and thresholds on these probabilities.

use serde::{Deserialize, Serialize};

use crate::reward::{
    calibration::{FprThreshold, threshold_for_fpr},
    drift::Histogram,
};

/// Logistic regression on standardized features: `sigmoid(offset + Σ weight (feature - mean) /
/// scale)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureCalibration {
    /// Names of the features; those of mentions are
    /// [`MentionFeatures::NAMES`](super::MentionFeatures::NAMES) and, in texts by others,
    /// [`SentenceFeatures::NAMES`](super::SentenceFeatures::NAMES).
    pub features: Vec<String>,
    /// Mean of each feature.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature, positive.
    pub scale: Vec<f64>,
    /// Weight of each feature.
    pub weights: Vec<f64>,
    /// Intercept.
    pub offset: f64,
    /// Thresholds measured on the same words.
    pub thresholds: EvidenceThresholds,
    /// Description of the data on which it was fitted.
    pub fitted_on: String,
    /// Distribution of the rewards of the policy's own captions at the time of fitting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Histogram>,
}

/// Thresholds on calibrated rewards, which replace those of `calibration.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceThresholds {
    /// Default threshold.
    pub default: f32,
    /// Thresholds by false-positive rate, rising.
    pub by_fpr: Vec<FprThreshold>,
    /// Thresholds for ranges of familiarity, the least familiar first; if empty, [`Self::by_fpr`]
    /// applies to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_familiarity: Vec<FamiliarityThresholds>,
}

/// Thresholds measured on photographs in a range of familiarity, which begins where the previous
/// range ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamiliarityThresholds {
    /// End of the range; ignored for the last range.
    pub below: f32,
    /// Thresholds by false-positive rate, rising.
    pub by_fpr: Vec<FprThreshold>,
}

impl EvidenceThresholds {
    /// Creates thresholds without measurements.
    pub fn unmeasured(default: f32) -> Self {
        Self {
            default,
            by_fpr: Vec::new(),
            by_familiarity: Vec::new(),
        }
    }

    /// Returns the threshold that flags a share `target` of the correct words about photographs of
    /// this familiarity.
    pub fn for_fpr(&self, target: f64, familiarity: f32) -> Option<f32> {
        let ranges = &self.by_familiarity;
        let range = ranges
            .iter()
            .find(|range| familiarity < range.below)
            .or(ranges.last());
        threshold_for_fpr(range.map_or(&self.by_fpr, |range| &range.by_fpr), target)
    }

    /// Checks the thresholds; the error describes the fault.
    fn validate(&self) -> Result<(), String> {
        let is_share = |x: f32| (0.0..=1.0).contains(&x);
        let all = || {
            std::iter::once(&self.by_fpr)
                .chain(self.by_familiarity.iter().map(|range| &range.by_fpr))
        };
        if !is_share(self.default)
            || all()
                .flatten()
                .any(|t| !is_share(t.threshold) || !(0.0..=1.0).contains(&t.fpr))
        {
            return Err("must lie between 0 and 1".into());
        }
        let rises = |by_fpr: &[FprThreshold]| {
            by_fpr
                .windows(2)
                .all(|w| w[0].fpr < w[1].fpr && w[0].threshold <= w[1].threshold)
        };
        if !all().all(|by_fpr| rises(by_fpr)) {
            return Err("must rise with their false-positive rates".into());
        }
        if !self
            .by_familiarity
            .windows(2)
            .all(|w| w[0].below < w[1].below)
        {
            return Err("must have ranges of familiarity that follow one another".into());
        }
        Ok(())
    }
}

impl FeatureCalibration {
    /// Returns the probability for features, whose values `value` returns by name; an unknown
    /// feature counts as its mean.
    pub fn probability(&self, value: impl Fn(&str) -> Option<f64>) -> f32 {
        let parameters = self
            .features
            .iter()
            .zip(&self.mean)
            .zip(&self.scale)
            .zip(&self.weights);
        let terms = parameters.map(|(((name, mean), scale), weight)| {
            value(name).map_or(0.0, |x| weight * (x - mean) / scale)
        });
        (1.0 / (1.0 + (-(self.offset + terms.sum::<f64>())).exp())) as f32
    }

    /// Checks the calibration; the error is the faulty key and a description.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        let n = self.features.len();
        for (key, values) in [
            ("mean", &self.mean),
            ("scale", &self.scale),
            ("weights", &self.weights),
        ] {
            if values.len() != n {
                return Err((
                    key,
                    format!("has {} numbers for {n} features", values.len()),
                ));
            }
            if values.iter().any(|x| !x.is_finite()) {
                return Err((key, "has a number that is not finite".into()));
            }
        }
        if self.scale.iter().any(|&scale| scale <= 0.0) {
            return Err(("scale", "must be positive".into()));
        }
        if !self.offset.is_finite() {
            return Err(("offset", "must be a finite number".into()));
        }
        self.thresholds
            .validate()
            .map_err(|message| ("thresholds", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_for_fpr_is_that_of_the_range_of_familiarity() {
        let by_fpr = |threshold: f32| {
            vec![
                FprThreshold {
                    fpr: 0.1,
                    threshold,
                },
                FprThreshold {
                    fpr: 0.3,
                    threshold: threshold + 0.2,
                },
            ]
        };
        let range = |below: f32, threshold: f32| FamiliarityThresholds {
            below,
            by_fpr: by_fpr(threshold),
        };
        let by_familiarity = vec![range(0.25, 0.1), range(0.5, 0.3), range(1.0, 0.5)];
        let thresholds = EvidenceThresholds {
            by_fpr: by_fpr(0.4),
            ..EvidenceThresholds::unmeasured(0.5)
        };
        let near = |found: Option<f32>, expected: f32| {
            assert!(
                (found.unwrap() - expected).abs() < 1e-6,
                "{found:?} {expected}"
            )
        };
        near(thresholds.for_fpr(0.2, 0.1), 0.5);
        let ranged = EvidenceThresholds {
            by_familiarity,
            ..thresholds
        };
        assert_eq!(ranged.validate(), Ok(()));
        for (familiarity, expected) in [(0.0, 0.2), (0.25, 0.4), (0.6, 0.6), (1.0, 0.6)] {
            near(ranged.for_fpr(0.2, familiarity), expected);
        }
        assert_eq!(EvidenceThresholds::unmeasured(0.5).for_fpr(0.1, 0.5), None);
        let turned = EvidenceThresholds {
            by_familiarity: vec![range(0.5, 0.1), range(0.25, 0.3)],
            ..ranged
        };
        assert!(
            turned
                .validate()
                .unwrap_err()
                .contains("follow one another")
        );
    }
}
