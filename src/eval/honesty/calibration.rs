//! Calibration of scores as probabilities, corrected for the error that small samples show by
//! chance.

use std::f64::consts::FRAC_2_PI;

use super::{Estimate, PhotographNumbers, Resampling, ScoredOutcome, estimate};

/// Number of equal-mass bins.
pub const BINS: usize = 10;

/// Outcomes with the same score.
#[derive(Debug, Clone, Copy, Default)]
struct Tie {
    mass: f64,
    /// Sum of the scores.
    expected: f64,
    /// Number of right outcomes.
    right: f64,
    /// Variance of the number of right outcomes if scores were probabilities.
    variance: f64,
}

/// Expected calibration error over [`BINS`] equal-mass bins, and its expectation if every score
/// were the probability of being right.
///
/// Outcomes with the same score share a bin: the one that contains the middle of their mass. The
/// second figure takes the sum of a bin to be normal, whose mean absolute deviation is √(2/π)
/// standard deviations. An outcome with weight `w` is one outcome, not `w`.
fn errors(ties: &[Tie]) -> (f64, f64) {
    let total: f64 = ties.iter().map(|tie| tie.mass).sum();
    let mut bins = [Tie::default(); BINS];
    let mut before = 0.0;
    for tie in ties {
        let middle = (before + 0.5 * tie.mass) / total;
        before += tie.mass;
        let bin = &mut bins[((middle * BINS as f64) as usize).min(BINS - 1)];
        bin.mass += tie.mass;
        bin.expected += tie.expected;
        bin.right += tie.right;
        bin.variance += tie.variance;
    }
    let error: f64 = bins
        .iter()
        .map(|bin| (bin.right - bin.expected).abs())
        .sum();
    let by_chance: f64 = bins
        .iter()
        .map(|bin| (FRAC_2_PI * bin.variance).sqrt())
        .sum();
    (error / total, by_chance / total)
}

/// Outcomes in the order of their scores.
struct SortedOutcomes(Vec<ScoredOutcome>);

impl SortedOutcomes {
    fn new(rows: &[ScoredOutcome], numbers: &PhotographNumbers) -> Self {
        let mut rows: Vec<ScoredOutcome> = rows
            .iter()
            .map(|row| ScoredOutcome {
                photograph: numbers.get(row.photograph),
                score: row.score.clamp(0.0, 1.0),
                ..*row
            })
            .collect();
        rows.sort_by(|a, b| a.score.total_cmp(&b.score));
        Self(rows)
    }

    fn errors(&self, weight: impl Fn(usize) -> f64) -> (f64, f64) {
        let mut ties: Vec<(f64, Tie)> = Vec::with_capacity(self.0.len());
        for row in &self.0 {
            let weight = weight(row.photograph);
            let one = Tie {
                mass: weight,
                expected: weight * row.score,
                right: if row.is_right { weight } else { 0.0 },
                variance: weight * weight * row.score * (1.0 - row.score),
            };
            match ties.last_mut() {
                Some((score, tie)) if *score == row.score => {
                    tie.mass += one.mass;
                    tie.expected += one.expected;
                    tie.right += one.right;
                    tie.variance += one.variance;
                }
                _ => ties.push((row.score, one)),
            }
        }
        errors(&ties.into_iter().map(|(_, tie)| tie).collect::<Vec<_>>())
    }
}

/// Calibration error of scores that claim to be probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationError {
    /// The expected calibration error.
    pub error: f64,
    /// Expectation of the error if the scores were calibrated.
    pub by_chance: f64,
    /// Error minus its expectation; 0 or slightly below is calibrated.
    pub excess: Estimate,
}

/// Measures the calibration of outcomes' scores.
pub fn calibration_error(rows: &[ScoredOutcome], resampling: Resampling) -> CalibrationError {
    let numbers = PhotographNumbers::new(rows.iter().map(|row| row.photograph));
    let sorted = SortedOutcomes::new(rows, &numbers);
    let (error, by_chance) = sorted.errors(|_| 1.0);
    let excess = estimate(numbers.len(), resampling, |weights| {
        let (error, by_chance) = sorted.errors(|photograph| f64::from(weights[photograph]));
        error - by_chance
    });
    CalibrationError {
        error,
        by_chance,
        excess,
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    const RESAMPLING: Resampling = Resampling {
        repeats: 100,
        seed: 1,
    };

    fn outcomes(rows: &[(f64, bool)]) -> Vec<ScoredOutcome> {
        rows.iter()
            .enumerate()
            .map(|(photograph, &(score, is_right))| ScoredOutcome {
                photograph,
                score,
                is_right,
            })
            .collect()
    }

    #[test]
    fn calibration_error_uses_equal_mass_bins() {
        // Two tied groups of ten: middles of mass at 1/4 and 3/4. Errors |8 - 5| and |9 - 9| of 20.
        let rows: Vec<(f64, bool)> = (0..10)
            .map(|i| (0.5, i < 8))
            .chain((0..10).map(|i| (0.9, i < 9)))
            .collect();
        let found = calibration_error(&outcomes(&rows), RESAMPLING);
        assert!((found.error - 0.15).abs() < 1e-9, "{found:?}");
        // √(2/π) (√(10 × .25) + √(10 × .09)) / 20 = .797885 (1.581139 + .948683) / 20
        assert!((found.by_chance - 0.100_925).abs() < 1e-5, "{found:?}");
        assert!((found.excess.value - (found.error - found.by_chance)).abs() < 1e-12);
        // Twenty distinct scores: two per bin. Those with odd numbers are right.
        let rows: Vec<(f64, bool)> = (0..20).map(|i| (f64::from(i) / 20.0, i % 2 == 1)).collect();
        // Bin b holds 2b/20 and (2b+1)/20, one of them right: |1 - (4b + 1)/20|, and 1 - (4b +
        // 1)/20 changes its sign between b = 4 and 5.
        let wanted: f64 = (0..10)
            .map(|b| (1.0 - (4.0 * f64::from(b) + 1.0) / 20.0).abs())
            .sum::<f64>()
            / 20.0;
        assert!((calibration_error(&outcomes(&rows), RESAMPLING).error - wanted).abs() < 1e-9);
    }

    #[test]
    fn excess_of_few_calibrated_scores_is_about_zero() {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut mean = 0.0;
        for _ in 0..200 {
            let rows: Vec<(f64, bool)> = (0..60)
                .map(|_| {
                    let score: f64 = rng.random_range(0.1..0.9);
                    (score, rng.random::<f64>() < score)
                })
                .collect();
            let found = calibration_error(
                &outcomes(&rows),
                Resampling {
                    repeats: 1,
                    seed: 1,
                },
            );
            assert!(
                found.error > 0.02,
                "few things never look calibrated: {found:?}"
            );
            mean += found.excess.value / 200.0;
        }
        assert!(mean.abs() < 0.01, "{mean}");
        let wrong: Vec<(f64, bool)> = (0..400).map(|i| (0.9, i % 2 == 0)).collect();
        let found = calibration_error(&outcomes(&wrong), RESAMPLING);
        let (low, high) = found.excess.interval.unwrap();
        assert!(
            low > 0.3 && high < 0.45 && (found.error - 0.4).abs() < 1e-9,
            "{found:?}"
        );
    }
}
