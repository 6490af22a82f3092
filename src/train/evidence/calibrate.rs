//! Calibrations on named features: logistic regressions whose figures and thresholds are out of
//! fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::TrainError;
use crate::{
    eval::{
        honesty::{PhotographOrigin, folds::FOLDS},
        tokens::ScoredToken,
    },
    reward::thresholds::threshold_at_fpr,
    reward::{
        calibration::FprThreshold,
        evidence::{EvidenceThresholds, FamiliarityThresholds, FeatureCalibration},
        logistic::ridge_regression,
    },
};

/// False-positive rates whose thresholds are stored.
const RATES: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.30];

/// What is flagged where nothing else is said: what is rather wrong than right.
pub(super) const DEFAULT_THRESHOLD: f32 = 0.5;

/// Ranges of familiarity that have thresholds of their own.
const RANGES: usize = 3;

/// Right rows of each without which there are none.
const FEWEST_IN_RANGE: usize = 50;

/// Added to every standard deviation.
const LEAST_SCALE: f64 = 1e-6;

/// How calibrations are fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationConfig {
    /// Factor on half the squared norm of the weights.
    pub ridge: f64,
    /// The threshold for the policy's own texts that is served where nothing else is asked for.
    pub default_threshold: f32,
    /// How much each origin counts, however many rows it has; by its name.
    pub origins: BTreeMap<String, f64>,
    /// The same of short answers.
    pub answer_origins: BTreeMap<String, f64>,
}

/// Something that was scored and is right or wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CalibrationRow {
    pub(super) origin: PhotographOrigin,
    /// Number of the photograph.
    pub(super) photograph: usize,
    /// Its part.
    pub(super) fold: usize,
    /// Indicates whether calibrations may be fitted on it; of other rows there are figures alone.
    pub(super) is_tuning: bool,
    /// Indicates whether a calibration that is shipped may be fitted on it.
    pub(super) is_shipped: bool,
    pub(super) features: Vec<f64>,
    pub(super) is_right: bool,
}

/// A calibration with the probability that each row has from one that was fitted without its part.
#[derive(Debug, Clone)]
pub(super) struct FittedCalibration {
    pub(super) calibration: FeatureCalibration,
    /// Those that were fitted without each part.
    pub(super) parts: Vec<FeatureCalibration>,
    pub(super) out_of_fold: Vec<f64>,
}

/// Fits a calibration on the rows that it may be fitted on.
///
/// # Errors
/// When there are not both right and wrong ones in every part's complement.
pub(super) fn fit(
    rows: &[CalibrationRow],
    names: &[&str],
    config: &CalibrationConfig,
    fitted_on: &str,
) -> Result<FittedCalibration, TrainError> {
    let of = |chosen: &dyn Fn(&CalibrationRow) -> bool| {
        let chosen: Vec<&CalibrationRow> = rows.iter().filter(|row| chosen(row)).collect();
        regression(&chosen, names, config, fitted_on).ok_or_else(|| {
            TrainError::Run(format!(
                "calibration: there are not both right and wrong {fitted_on}"
            ))
        })
    };
    let parts: Vec<FeatureCalibration> = (0..FOLDS)
        .map(|fold| of(&|row: &CalibrationRow| row.is_tuning && row.fold != fold))
        .collect::<Result<_, _>>()?;
    let out_of_fold: Vec<f64> = rows
        .iter()
        .map(|row| probability(&parts[row.fold], &row.features))
        .collect();
    let mut calibration = of(&|row: &CalibrationRow| row.is_shipped)?;
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

/// The thresholds of [`RATES`] on rows with their probabilities.
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

/// The thresholds within ranges of familiarity, which is in this column of features. Each range has
/// as many right rows; none where these are too few.
fn by_familiarity(rows: &[(&CalibrationRow, f64)], column: usize) -> Vec<FamiliarityThresholds> {
    let of = |row: &CalibrationRow| row.features[column] as f32;
    let mut right: Vec<f32> = rows
        .iter()
        .filter(|(row, _)| row.is_right)
        .map(|(row, _)| of(row))
        .collect();
    right.sort_by(f32::total_cmp);
    if right.len() < RANGES * FEWEST_IN_RANGE {
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
            .filter(|(row, _)| of(row) >= from && (is_last || of(row) < below));
        FamiliarityThresholds {
            below,
            by_fpr: thresholds(within),
        }
    };
    ends.iter().enumerate().map(range).collect()
}

/// The probability of features in the calibration's order.
pub(super) fn probability(calibration: &FeatureCalibration, features: &[f64]) -> f64 {
    let place = |name: &str| calibration.features.iter().position(|own| own == name);
    f64::from(calibration.probability(|name| features.get(place(name)?).copied()))
}

/// Weights of the standardized features, for the reader.
pub(super) fn described(calibration: &FeatureCalibration) -> String {
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
        (column(j).map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() + LEAST_SCALE
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

/// Returns how much each row counts: an origin as much as the configuration says, all rows together
/// as much as they are.
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
    fn origins_count_as_much_as_they_are_given() {
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
    fn rises_with_what_tells_right_from_wrong_and_ignores_what_never_changes() {
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
    fn rates_hold_within_ranges_of_familiarity() {
        // The less familiar, the lower the probabilities of right rows.
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
    fn a_row_has_its_probability_from_the_other_parts_and_only_shipped_ones_are_shipped() {
        let mut all = rows();
        let before = fit(&all, &["evidence", "constant"], &config(), "test").unwrap();
        // Whatever is wrong in a part changes nothing about its own rows.
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
        // A part without rows is fitted all the same.
        let kept: Vec<CalibrationRow> = rows().into_iter().filter(|row| row.fold != 2).collect();
        let alone = fit(&kept, &["evidence", "constant"], &config(), "test").unwrap();
        assert_eq!(alone.calibration.weights, after.calibration.weights);
        assert!(fit(&kept[..1], &["evidence", "constant"], &config(), "test").is_err());
    }
}
