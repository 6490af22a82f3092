//! Calibrations on named features: logistic regressions evaluated and thresholded out of fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::TrainError;
use crate::{
    eval::{
        honesty::{FOLDS, PhotographOrigin},
        tokens::ScoredToken,
    },
    reward::thresholds::threshold_at_fpr,
    reward::{
        calibration::FprThreshold,
        evidence::{EvidenceThresholds, FamiliarityThresholds, FeatureCalibration},
        logistic::ridge_regression,
    },
};

/// False-positive rates with stored thresholds.
const RATES: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.30];

/// Default threshold: flags what is likelier wrong than right.
pub(super) const DEFAULT_THRESHOLD: f32 = 0.5;

/// Number of familiarity ranges with thresholds of their own.
const RANGES: usize = 3;

/// Minimum number of right rows per familiarity range.
const MIN_IN_RANGE: usize = 50;

/// Floor added to every standard deviation.
const MIN_SCALE: f64 = 1e-6;

/// Settings of the calibrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationConfig {
    /// L2 penalty: factor on half the squared norm of the weights.
    pub ridge: f64,
    /// Default serving threshold for the policy's own texts.
    pub default_threshold: f32,
    /// Total weight of each origin by name, regardless of its number of rows.
    pub origins: BTreeMap<String, f64>,
    /// Total weights of the origins for short answers.
    pub answer_origins: BTreeMap<String, f64>,
}

/// Scored item with features and truth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CalibrationRow {
    pub(super) origin: PhotographOrigin,
    /// Index of the photograph.
    pub(super) photograph: usize,
    /// Fold of the photograph.
    pub(super) fold: usize,
    /// `true` if calibrations may be fitted on the row; other rows are only evaluated.
    pub(super) is_tuning: bool,
    /// `true` if the shipped calibration may be fitted on the row.
    pub(super) is_shipped: bool,
    pub(super) features: Vec<f64>,
    pub(super) is_right: bool,
}

/// Fitted calibration with out-of-fold probabilities of all rows.
#[derive(Debug, Clone)]
pub(super) struct FittedCalibration {
    pub(super) calibration: FeatureCalibration,
    /// Calibrations fitted without each fold.
    pub(super) parts: Vec<FeatureCalibration>,
    pub(super) out_of_fold: Vec<f64>,
}

/// Fits a calibration on the shipped rows, and one without each fold for evaluation.
///
/// # Errors
/// When a fit lacks right or wrong rows.
pub(super) fn fit(
    rows: &[CalibrationRow],
    names: &[&str],
    config: &CalibrationConfig,
    fitted_on: &str,
) -> Result<FittedCalibration, TrainError> {
    let fit = |chosen: &dyn Fn(&CalibrationRow) -> bool| {
        let chosen: Vec<&CalibrationRow> = rows.iter().filter(|row| chosen(row)).collect();
        regression(&chosen, names, config, fitted_on).ok_or_else(|| {
            TrainError::Run(format!(
                "calibration: there are not both right and wrong {fitted_on}"
            ))
        })
    };
    let parts: Vec<FeatureCalibration> = (0..FOLDS)
        .map(|fold| fit(&|row: &CalibrationRow| row.is_tuning && row.fold != fold))
        .collect::<Result<_, _>>()?;
    let out_of_fold: Vec<f64> = rows
        .iter()
        .map(|row| probability(&parts[row.fold], &row.features))
        .collect();
    let mut calibration = fit(&|row: &CalibrationRow| row.is_shipped)?;
    let shipped: Vec<(&CalibrationRow, f64)> = rows
        .iter()
        .zip(out_of_fold.iter().copied())
        .filter(|(row, _)| row.is_shipped)
        .collect();
    calibration.thresholds.by_fpr = thresholds(shipped.iter().copied());
    if let Some(column) = names.iter().position(|&name| name == "familiarity") {
        calibration.thresholds.by_familiarity = by_familiarity(&shipped, column);
    }
    Ok(FittedCalibration {
        calibration,
        parts,
        out_of_fold,
    })
}

/// Thresholds at [`RATES`] for rows with their probabilities.
fn thresholds<'r>(rows: impl Iterator<Item = (&'r CalibrationRow, f64)>) -> Vec<FprThreshold> {
    let scored: Vec<ScoredToken> = rows
        .map(|(row, p)| ScoredToken {
            reward: p as f32,
            good: row.is_right,
            image: 0,
        })
        .collect();
    RATES
        .map(|fpr| FprThreshold {
            fpr,
            threshold: threshold_at_fpr(&scored, fpr).min(1.0),
        })
        .to_vec()
}

/// Thresholds within ranges of familiarity, read from the feature `column`. Ranges hold equally
/// many right rows; empty if these are too few.
fn by_familiarity(rows: &[(&CalibrationRow, f64)], column: usize) -> Vec<FamiliarityThresholds> {
    let familiarity = |row: &CalibrationRow| row.features[column] as f32;
    let mut right: Vec<f32> = rows
        .iter()
        .filter(|(row, _)| row.is_right)
        .map(|(row, _)| familiarity(row))
        .collect();
    right.sort_by(f32::total_cmp);
    if right.len() < RANGES * MIN_IN_RANGE {
        return Vec::new();
    }
    let mut ends: Vec<f32> = (1..RANGES)
        .map(|i| right[right.len() * i / RANGES])
        .collect();
    ends.push(1.0);
    ends.dedup();
    let range = |(i, &below): (usize, &f32)| {
        let (from, is_last) = (
            if i == 0 {
                f32::NEG_INFINITY
            } else {
                ends[i - 1]
            },
            i + 1 == ends.len(),
        );
        let within = rows
            .iter()
            .copied()
            .filter(|(row, _)| familiarity(row) >= from && (is_last || familiarity(row) < below));
        FamiliarityThresholds {
            below,
            by_fpr: thresholds(within),
        }
    };
    ends.iter().enumerate().map(range).collect()
}

/// Calibrated probability of features given in the calibration's order.
pub(super) fn probability(calibration: &FeatureCalibration, features: &[f64]) -> f64 {
    let index = |name: &str| calibration.features.iter().position(|own| own == name);
    f64::from(calibration.probability(|name| features.get(index(name)?).copied()))
}

/// Description of a calibration's weights, offset and threshold for reports.
pub(super) fn description(calibration: &FeatureCalibration) -> String {
    let weight = |(name, weight): (&String, &f64)| format!("{name} {weight:+.2}");
    let weights: Vec<String> = calibration
        .features
        .iter()
        .zip(&calibration.weights)
        .map(weight)
        .collect();
    format!(
        "Weights of the standardized features: {}; offset {:+.2}; threshold {:.2}.",
        weights.join(", "),
        calibration.offset,
        calibration.thresholds.default
    )
}

fn regression(
    rows: &[&CalibrationRow],
    names: &[&str],
    config: &CalibrationConfig,
    fitted_on: &str,
) -> Option<FeatureCalibration> {
    let right = rows.iter().filter(|row| row.is_right).count();
    if right == 0 || right == rows.len() {
        return None;
    }
    let n = rows.len() as f64;
    let column = |j: usize| rows.iter().map(move |row| row.features[j]);
    let mean: Vec<f64> = (0..names.len())
        .map(|j| column(j).sum::<f64>() / n)
        .collect();
    let deviation = |(j, mean): (usize, &f64)| {
        (column(j).map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() + MIN_SCALE
    };
    let scale: Vec<f64> = mean.iter().enumerate().map(deviation).collect();
    let standardized: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            row.features
                .iter()
                .zip(mean.iter().zip(&scale))
                .map(|(x, (mean, scale))| (x - mean) / scale)
                .collect()
        })
        .collect();
    let targets: Vec<f64> = rows
        .iter()
        .map(|row| f64::from(u8::from(row.is_right)))
        .collect();
    let fitted = ridge_regression(
        &standardized,
        &targets,
        &importance(rows, config),
        config.ridge,
    )?;
    Some(FeatureCalibration {
        features: names.iter().map(|&name| name.to_owned()).collect(),
        mean,
        scale,
        weights: fitted.weights,
        offset: fitted.offset,
        thresholds: EvidenceThresholds::unmeasured(DEFAULT_THRESHOLD),
        fitted_on: fitted_on.to_owned(),
        rewards: None,
    })
}

/// Weights of rows: each origin's total follows the configuration, and all sum to the number of
/// rows.
pub(super) fn importance(rows: &[&CalibrationRow], config: &CalibrationConfig) -> Vec<f64> {
    let mut counts: BTreeMap<PhotographOrigin, usize> = BTreeMap::new();
    rows.iter()
        .for_each(|row| *counts.entry(row.origin).or_default() += 1);
    let weight =
        |origin: PhotographOrigin| config.origins.get(origin.name()).copied().unwrap_or(1.0);
    let total: f64 = counts.keys().map(|&origin| weight(origin)).sum();
    rows.iter()
        .map(|row| weight(row.origin) / total * rows.len() as f64 / counts[&row.origin] as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CalibrationConfig {
        CalibrationConfig {
            ridge: 1.0,
            default_threshold: 0.5,
            answer_origins: BTreeMap::new(),
            origins: BTreeMap::from([("flickr8k".to_owned(), 1.0), ("daquar".to_owned(), 0.5)]),
        }
    }

    fn row(
        i: usize,
        origin: PhotographOrigin,
        features: Vec<f64>,
        is_right: bool,
    ) -> CalibrationRow {
        CalibrationRow {
            origin,
            photograph: i,
            fold: i % FOLDS,
            is_tuning: true,
            is_shipped: true,
            features,
            is_right,
        }
    }

    fn rows() -> Vec<CalibrationRow> {
        (0..400)
            .map(|i| {
                let x = (i as f64 * 0.618_033_988).fract() * 6.0 - 3.0;
                let is_right = (i as f64 * 0.754_877_666).fract() < 1.0 / (1.0 + (-1.5 * x).exp());
                row(
                    i,
                    if i % 4 == 0 {
                        PhotographOrigin::Daquar
                    } else {
                        PhotographOrigin::Flickr8k
                    },
                    vec![x, 5.0],
                    is_right,
                )
            })
            .collect()
    }

    #[test]
    fn importance_follows_configured_origin_weights() {
        let rows: Vec<CalibrationRow> = (0..10)
            .map(|i| {
                row(
                    i,
                    if i < 8 {
                        PhotographOrigin::Flickr8k
                    } else {
                        PhotographOrigin::Daquar
                    },
                    vec![],
                    true,
                )
            })
            .collect();
        let found = importance(&rows.iter().collect::<Vec<_>>(), &config());
        assert!((found.iter().sum::<f64>() - 10.0).abs() < 1e-9);
        assert!(
            (found[..8].iter().sum::<f64>() - 20.0 / 3.0).abs() < 1e-9,
            "two thirds of it"
        );
        assert!((found[9] - 10.0 / 6.0).abs() < 1e-9);
    }

    #[test]
    fn fit_uses_informative_features_and_ignores_constant_ones() {
        let fitted = fit(&rows(), &["evidence", "constant"], &config(), "test").unwrap();
        let FeatureCalibration {
            weights,
            thresholds,
            features,
            ..
        } = &fitted.calibration;
        assert!(weights[0] > 1.0 && weights[1].abs() < 1e-6, "{weights:?}");
        assert_eq!(features, &["evidence", "constant"]);
        assert!(
            thresholds
                .by_fpr
                .windows(2)
                .all(|w| w[0].threshold <= w[1].threshold),
            "{thresholds:?}"
        );
        let threshold = f64::from(thresholds.by_fpr[4].threshold);
        let right = rows()
            .iter()
            .zip(&fitted.out_of_fold)
            .filter(|(row, _)| row.is_right)
            .map(|(_, p)| *p)
            .collect::<Vec<_>>();
        let flagged = right.iter().filter(|&&p| p < threshold).count() as f64 / right.len() as f64;
        assert!((0.07..=0.1).contains(&flagged), "{flagged}");
    }

    #[test]
    fn by_familiarity_rates_hold_within_ranges() {
        // Right rows get lower probabilities the less familiar they are.
        let rows: Vec<CalibrationRow> = (0..900)
            .map(|i| {
                row(
                    i,
                    PhotographOrigin::Flickr8k,
                    vec![(i / 3) as f64 / 300.0],
                    i % 10 < 7,
                )
            })
            .collect();
        let scored: Vec<(&CalibrationRow, f64)> = rows
            .iter()
            .map(|row| {
                (
                    row,
                    row.features[0] * 0.5 + (row.photograph % 7) as f64 * 0.05,
                )
            })
            .collect();
        let found = by_familiarity(&scored, 0);
        assert_eq!(found.len(), 3);
        assert!(
            found.windows(2).all(|w| w[0].below < w[1].below) && found[2].below == 1.0,
            "{found:?}"
        );
        for (i, range) in found.iter().enumerate() {
            let from = if i == 0 {
                0.0
            } else {
                f64::from(found[i - 1].below)
            };
            let right = scored.iter().filter(|(row, _)| {
                row.is_right && row.features[0] >= from && row.features[0] < f64::from(range.below)
            });
            let right: Vec<f64> = right.map(|(_, p)| *p).collect();
            let FprThreshold { fpr, threshold } = range.by_fpr[4];
            let flagged = right.iter().filter(|&&p| p < f64::from(threshold)).count() as f64
                / right.len() as f64;
            assert!(
                right.len() > 150 && (flagged - fpr).abs() < 0.03,
                "range {i}: {flagged} of {}",
                right.len()
            );
        }
        assert!(found[0].by_fpr[4].threshold < found[2].by_fpr[4].threshold);
        assert_eq!(by_familiarity(&scored[..100], 0), []);
    }

    #[test]
    fn fit_probabilities_are_out_of_fold_and_only_shipped_rows_ship() {
        let mut all = rows();
        let before = fit(&all, &["evidence", "constant"], &config(), "test").unwrap();
        // Errors within a fold do not change the probabilities of its own rows.
        all.iter_mut().filter(|row| row.fold == 2).for_each(|row| {
            row.is_right = !row.is_right;
            row.is_shipped = false;
        });
        let after = fit(&all, &["evidence", "constant"], &config(), "test").unwrap();
        for (row, (old, new)) in all
            .iter()
            .zip(before.out_of_fold.iter().zip(&after.out_of_fold))
        {
            assert_eq!(row.fold == 2, old == new, "part {}", row.fold);
        }
        // A fold without rows is fitted all the same.
        let kept: Vec<CalibrationRow> = rows().into_iter().filter(|row| row.fold != 2).collect();
        let alone = fit(&kept, &["evidence", "constant"], &config(), "test").unwrap();
        assert_eq!(alone.calibration.weights, after.calibration.weights);
        assert!(fit(&kept[..1], &["evidence", "constant"], &config(), "test").is_err());
    }
}
