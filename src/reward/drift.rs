//! Drift of rewards: the shift of their distribution, and the agreement of the guard's flags with
//! human corrections.

use serde::{Deserialize, Serialize};

/// Number of bins of a histogram, equal parts of `[0, 1]`.
pub const BINS: usize = 20;

/// Count added to every bin, so that an empty bin is improbable rather than impossible.
const SMOOTHING: f64 = 0.5;

/// Minimum number of rewards for a distribution to be compared.
pub const MIN_REWARDS: f64 = 500.0;

/// Histogram of rewards in [`BINS`] bins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Histogram([f64; BINS]);

impl Histogram {
    /// Counts rewards; NaN and infinities are skipped.
    pub fn from_rewards(rewards: impl IntoIterator<Item = f32>) -> Self {
        let mut counts = [0.0; BINS];
        for reward in rewards.into_iter().filter(|reward| reward.is_finite()) {
            let bin = ((reward.clamp(0.0, 1.0) * BINS as f32) as usize).min(BINS - 1);
            if let Some(count) = counts.get_mut(bin) {
                *count += 1.0;
            }
        }
        Self(counts)
    }

    /// Returns the sum of all counts.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    fn shares(&self) -> impl Iterator<Item = f64> + '_ {
        let total = self.total() + SMOOTHING * BINS as f64;
        self.0.iter().map(move |count| (count + SMOOTHING) / total)
    }

    /// Returns the population stability index of `now` against this histogram: `Σ (q - p) ln(q /
    /// p)` over the bins. Below 0.1 is insignificant, above 0.25 large. `None` if either has fewer
    /// than [`MIN_REWARDS`] rewards.
    pub fn psi(&self, now: &Self) -> Option<f64> {
        let enough = self.total() >= MIN_REWARDS && now.total() >= MIN_REWARDS;
        enough.then(|| {
            self.shares()
                .zip(now.shares())
                .map(|(p, q)| (q - p) * (q / p).ln())
                .sum()
        })
    }
}

impl TryFrom<Vec<f64>> for Histogram {
    type Error = String;

    fn try_from(counts: Vec<f64>) -> Result<Self, String> {
        if counts
            .iter()
            .any(|count| !count.is_finite() || *count < 0.0)
        {
            return Err("the counts of a histogram must be finite and not negative".into());
        }
        counts.try_into().map(Self).map_err(|counts: Vec<f64>| {
            format!("a histogram has {BINS} bins, not {}", counts.len())
        })
    }
}

impl From<Histogram> for Vec<f64> {
    fn from(histogram: Histogram) -> Self {
        histogram.0.to_vec()
    }
}

/// Returns Jaccard's index of the words that the guard flagged and those that people marked; each
/// item of `words` is (flagged, marked). `None` if neither found any. Words that neither found are
/// far too many to count.
pub fn flag_agreement(words: impl IntoIterator<Item = (bool, bool)>) -> Option<f64> {
    let (both, either) =
        words
            .into_iter()
            .fold((0u64, 0u64), |(both, either), (flagged, marked)| {
                (
                    both + u64::from(flagged && marked),
                    either + u64::from(flagged || marked),
                )
            });
    (either > 0).then(|| both as f64 / either as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn two_bins(first: usize, second: usize) -> Histogram {
        Histogram::from_rewards(
            std::iter::repeat_n(0.01, first).chain(std::iter::repeat_n(0.99, second)),
        )
    }

    #[test]
    fn psi_equals_its_closed_form() {
        let (a, b) = (two_bins(500, 500), two_bins(900, 100));
        assert_eq!(a.psi(&a), Some(0.0));
        // Both have 1,000 rewards, and each bin half a reward more: 500.5 of 1,010 and so on; the
        // empty bins are equal.
        let share = |n: f64| (n + 0.5) / 1010.0;
        let term = |p: f64, q: f64| (q - p) * (q / p).ln();
        let want = term(share(500.0), share(900.0)) + term(share(500.0), share(100.0));
        assert!(
            (a.psi(&b).unwrap() - want).abs() < 1e-12,
            "{:?} {want}",
            a.psi(&b)
        );
        assert!(
            (want - 0.869).abs() < 0.01,
            "0.4 ln 1.8 + 0.4 ln 5 = .879 without smoothing and rounding: {want}"
        );
    }

    #[test]
    fn psi_of_few_rewards_is_none_and_both_ends_are_counted() {
        assert_eq!(two_bins(100, 100).psi(&two_bins(900, 100)), None);
        let ends = Histogram::from_rewards([0.0, 1.0, 2.0, -1.0, f32::NAN, 0.05]);
        assert_eq!(
            (ends.0[0], ends.0[1], ends.0[BINS - 1], ends.total()),
            (2.0, 1.0, 2.0, 5.0)
        );
        assert!(serde_json::from_str::<Histogram>("[1.0, 2.0]").is_err());
        assert_eq!(
            serde_json::from_str::<Histogram>(&serde_json::to_string(&ends).unwrap()).unwrap(),
            ends
        );
    }

    #[test]
    fn flag_agreement_is_jaccards_index() {
        assert_eq!(
            flag_agreement([
                (true, true),
                (true, false),
                (false, true),
                (false, false),
                (true, true)
            ]),
            Some(0.5)
        );
        assert_eq!(flag_agreement([(false, false)]), None);
    }

    proptest! {
        #[test]
        fn psi_is_symmetric_and_not_negative(a in prop::collection::vec(0f32..1.0, 500..600),
            b in prop::collection::vec(0f32..1.0, 500..600)) {
            let (a, b) = (Histogram::from_rewards(a), Histogram::from_rewards(b));
            let (ab, ba) = (a.psi(&b).unwrap(), b.psi(&a).unwrap());
            prop_assert!(ab >= 0.0 && (ab - ba).abs() < 1e-9);
        }
    }
}
