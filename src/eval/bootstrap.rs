//! Percentile bootstrap over images (Efron, 1979): confidence intervals of figures and of
//! differences.
//!
//! Captions of one image are not independent, so whole images are drawn with replacement. A figure
//! is a function of how often each image was drawn. Several figures of one resample are computed
//! together, and so are those of two compared runs, which makes the comparison paired.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Default number of resamples.
pub const REPEATS: usize = 1000;

/// A figure with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Value on all images.
    pub value: f64,
    /// The 2.5th and 97.5th percentiles of the resamples; `None` if the figure is undefined on too
    /// many of them.
    pub interval: Option<(f64, f64)>,
}

/// Paired difference of a figure between two runs on the same images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Second run's figure minus the first's.
    pub estimate: Estimate,
    /// Two-sided p-value: twice the share of resamples on the other side of zero, and at least one
    /// resample's share.
    pub p: f64,
}

impl Difference {
    /// Returns `true` if the difference is significant at 5 %.
    pub fn is_significant(&self) -> bool {
        self.p < 0.05
    }
}

/// Values of `statistic`, a function of the image weights, on all images and on `repeats` resamples
/// (one line each).
fn resamples(
    images: usize,
    repeats: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Vec<f64> + Sync,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let whole = statistic(&vec![1; images]);
    let draw = |repeat: usize| {
        let mut rng = SmallRng::seed_from_u64(
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(repeat as u64),
        );
        let mut weights = vec![0u32; images];
        (0..images).for_each(|_| weights[rng.random_range(0..images)] += 1);
        statistic(&weights)
    };
    (
        whole,
        if images == 0 {
            Vec::new()
        } else {
            (0..repeats).into_par_iter().map(draw).collect()
        },
    )
}

/// Finite values of one figure over the resamples, sorted.
fn column(lines: &[Vec<f64>], figure: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = lines
        .iter()
        .map(|line| figure(line))
        .filter(|x| x.is_finite())
        .collect();
    values.sort_by(f64::total_cmp);
    values
}

fn estimate(value: f64, sorted: &[f64], repeats: usize) -> Estimate {
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    // If many resamples lack the figure, the others are a biased sample of it.
    let enough = value.is_finite() && sorted.len() * 10 >= repeats * 9 && sorted.len() >= 40;
    Estimate {
        value,
        interval: enough.then(|| (at(0.025), at(0.975))),
    }
}

/// Computes several figures with their intervals. `statistic` receives the weight of each image.
pub fn estimates(
    images: usize,
    repeats: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Vec<f64> + Sync,
) -> Vec<Estimate> {
    let (whole, lines) = resamples(images, repeats, seed, statistic);
    whole
        .iter()
        .enumerate()
        .map(|(i, &value)| estimate(value, &column(&lines, |line| line[i]), repeats))
        .collect()
}

/// Computes the paired differences between the figures of two runs over the same images.
pub fn differences(
    images: usize,
    repeats: usize,
    seed: u64,
    first: impl Fn(&[u32]) -> Vec<f64> + Sync,
    second: impl Fn(&[u32]) -> Vec<f64> + Sync,
) -> Vec<Difference> {
    let both = |weights: &[u32]| {
        first(weights)
            .iter()
            .zip(second(weights))
            .map(|(a, b)| b - a)
            .collect()
    };
    let (whole, lines) = resamples(images, repeats, seed, both);
    let difference = |(i, &value): (usize, &f64)| {
        let sorted = column(&lines, |line| line[i]);
        let (low, high) = (
            sorted.iter().filter(|x| **x <= 0.0).count(),
            sorted.iter().filter(|x| **x >= 0.0).count(),
        );
        let tail = low.min(high).max(1) as f64 / sorted.len().max(1) as f64;
        Difference {
            estimate: estimate(value, &sorted, repeats),
            p: (2.0 * tail).min(1.0),
        }
    };
    whole.iter().enumerate().map(difference).collect()
}

/// Corrects the p-values of one family of tests by Holm's step-down method (Scandinavian Journal of
/// Statistics 6, 1979): the chance of any false discovery stays below the level. NaN stays NaN and
/// does not count as a test.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut corrected = vec![f64::NAN; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((p[i] * (order.len() - rank) as f64).min(1.0));
        corrected[i] = largest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> impl Fn(&[u32]) -> Vec<f64> + Sync + '_ {
        |weights| {
            let n: u32 = weights.iter().sum();
            vec![
                values
                    .iter()
                    .zip(weights)
                    .map(|(v, w)| v * f64::from(*w))
                    .sum::<f64>()
                    / f64::from(n),
            ]
        }
    }

    /// Standard normal quantiles, so that the sample's moments are known.
    fn sample(n: usize, shift: f64) -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(7);
        (0..n)
            .map(|_| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0 + shift)
            .collect()
    }

    #[test]
    fn interval_of_a_mean_has_the_theoretical_width() {
        let values = sample(400, 0.0);
        let [found] = estimates(values.len(), 2000, 1, mean(&values))[..] else {
            panic!()
        };
        let (low, high) = found.interval.unwrap();
        // ±1.96 standard errors of a mean over 400 deviates.
        assert!(
            ((high - low) / (2.0 * 1.96 / 20.0) - 1.0).abs() < 0.12,
            "{low} {high}"
        );
        assert!(low < found.value && found.value < high);
    }

    #[test]
    fn paired_difference_is_significant_despite_overlapping_intervals() {
        let first = sample(200, 0.0);
        let second: Vec<f64> = first
            .iter()
            .enumerate()
            .map(|(i, v)| v + 0.02 + 0.01 * f64::from(i as u32 % 2))
            .collect();
        let [shifted] = differences(200, 1000, 1, mean(&first), mean(&second))[..] else {
            panic!()
        };
        assert!(
            shifted.is_significant() && (shifted.estimate.value - 0.025).abs() < 1e-9,
            "{shifted:?}"
        );
        let [same] = differences(200, 1000, 1, mean(&first), mean(&first))[..] else {
            panic!()
        };
        assert!(!same.is_significant(), "{same:?}");
        let noise: Vec<f64> = (0..200).map(|i| first[(i * 7 + 3) % 200]).collect();
        let [noisy] = differences(200, 1000, 1, mean(&first), mean(&noise))[..] else {
            panic!()
        };
        assert!(!noisy.is_significant(), "{noisy:?}");
    }

    #[test]
    fn holm_equals_r() {
        let close = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            found.iter().zip(wanted).for_each(|(a, b)| {
                assert!(
                    (a - b).abs() < 1e-12 || a.is_nan() && b.is_nan(),
                    "{found:?} {wanted:?}"
                )
            });
        };
        // p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        close(holm(&[0.01, 0.04, 0.03, 0.005]), &[0.03, 0.06, 0.06, 0.02]);
        close(holm(&[0.4, f64::NAN, 0.6]), &[0.8, f64::NAN, 0.8]);
        close(holm(&[0.02]), &[0.02]);
        close(holm(&[]), &[]);
    }

    #[test]
    fn estimate_depends_on_the_seed_and_has_no_interval_without_images() {
        let values = sample(50, 0.0);
        assert_eq!(
            estimates(50, 200, 3, mean(&values)),
            estimates(50, 200, 3, mean(&values))
        );
        assert_ne!(
            estimates(50, 200, 3, mean(&values)),
            estimates(50, 200, 4, mean(&values))
        );
        let [nothing] = estimates(0, 200, 3, |_| vec![f64::NAN])[..] else {
            panic!()
        };
        assert!(nothing.interval.is_none());
    }
}
