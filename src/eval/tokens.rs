//! Metrics of token rewards: how well they separate grounded tokens from ungrounded ones.
//!
//! A reward is high for grounded tokens. If a metric has a positive class it is the **ungrounded**
//! token, which the scorer has to find, scored by one minus its reward; ties are handled as in
//! scikit-learn. [`Ranking`] sorts tokens once and computes every figure in one pass, also with the
//! weights of a [`bootstrap`](super::bootstrap) over images.

use serde::{Deserialize, Serialize};

pub use crate::reward::thresholds::ScoredToken;

/// Bins of the calibration error and of the reliability diagram.
pub const BINS: usize = 15;

/// Figures of one set of tokens; NaN if a figure needs tokens of a class that is empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenMetrics {
    /// Grounded tokens.
    pub good: f64,
    /// Ungrounded tokens.
    pub bad: f64,
    /// Area under the ROC curve.
    pub auroc: f64,
    /// Average precision with ungrounded tokens as positives: mAP(neg) of TLDR.
    pub map_neg: f64,
    /// Average precision with grounded tokens as positives.
    pub map_pos: f64,
    /// Share of ungrounded tokens found when 5 % of the grounded ones are flagged.
    pub recall_at_5_fpr: f64,
    /// Share of ungrounded tokens found when 10 % of the grounded ones are flagged.
    pub recall_at_10_fpr: f64,
    /// F1 of finding ungrounded tokens at the best threshold.
    pub f1_best: f64,
    /// F1 at the threshold in use.
    pub f1: f64,
    /// Precision at the threshold in use: share of flagged tokens that are ungrounded.
    pub precision: f64,
    /// Recall at the threshold in use: share of ungrounded tokens that are flagged.
    pub recall: f64,
    /// Share of all tokens that the threshold in use classifies correctly: token-level accuracy of
    /// TLDR.
    pub accuracy: f64,
    /// Expected calibration error over [`BINS`] equal-width bins.
    pub ece: f64,
}

/// Tokens sorted by reward, lowest first.
#[derive(Debug, Clone)]
pub struct Ranking {
    tokens: Vec<ScoredToken>,
}

/// Tokens with the same reward: numbers of grounded and ungrounded ones.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    reward: f32,
    good: f64,
    bad: f64,
}

impl Ranking {
    /// Sorts tokens; NaN rewards come last.
    pub fn new(mut tokens: Vec<ScoredToken>) -> Self {
        tokens.sort_by(|a, b| a.reward.total_cmp(&b.reward));
        Self { tokens }
    }

    /// The tokens, lowest reward first.
    pub fn tokens(&self) -> &[ScoredToken] {
        &self.tokens
    }

    fn groups(&self, weight: impl Fn(&ScoredToken) -> f64) -> Vec<Group> {
        let mut out: Vec<Group> = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            let weight = weight(token);
            let (good, bad) = if token.good {
                (weight, 0.0)
            } else {
                (0.0, weight)
            };
            match out.last_mut() {
                Some(group) if group.reward == token.reward => {
                    group.good += good;
                    group.bad += bad;
                }
                _ if weight > 0.0 => out.push(Group {
                    reward: token.reward,
                    good,
                    bad,
                }),
                _ => {}
            }
        }
        out
    }

    /// Computes all figures, with tokens below `threshold` flagged.
    pub fn metrics(&self, threshold: f32) -> TokenMetrics {
        metrics(&self.groups(|_| 1.0), threshold)
    }

    /// Computes all figures when image `i` has weight `weights[i]`.
    pub fn weighted(&self, threshold: f32, weights: &[u32]) -> TokenMetrics {
        metrics(
            &self.groups(|t| f64::from(weights.get(t.image as usize).copied().unwrap_or(0))),
            threshold,
        )
    }

    /// ROC curve of finding ungrounded tokens: `(false-positive rate, true-positive rate)`, thinned
    /// to about `points`.
    pub fn roc(&self, points: usize) -> Vec<(f64, f64)> {
        self.curve(points, |found, wrong, bad, good| {
            (wrong / good, found / bad)
        })
    }

    /// Precision-recall curve of finding ungrounded tokens: `(recall, precision)`.
    pub fn precision_recall(&self, points: usize) -> Vec<(f64, f64)> {
        let mut curve = self.curve(points, |found, wrong, bad, _| {
            (
                found / bad,
                if found + wrong > 0.0 {
                    found / (found + wrong)
                } else {
                    1.0
                },
            )
        });
        // Without a flagged token there is no precision: the curve begins at the first one.
        if curve.len() > 1 {
            curve.remove(0);
        }
        curve
    }

    fn curve(
        &self,
        points: usize,
        at: impl Fn(f64, f64, f64, f64) -> (f64, f64),
    ) -> Vec<(f64, f64)> {
        let groups = self.groups(|_| 1.0);
        let (good, bad) = totals(&groups);
        if good == 0.0 || bad == 0.0 {
            return Vec::new();
        }
        let (mut found, mut wrong) = (0.0, 0.0);
        let mut curve = vec![at(0.0, 0.0, bad, good)];
        let step = groups.len().div_ceil(points.max(1));
        for (i, group) in groups.iter().enumerate() {
            found += group.bad;
            wrong += group.good;
            if (i + 1) % step == 0 || i + 1 == groups.len() {
                curve.push(at(found, wrong, bad, good));
            }
        }
        curve
    }

    /// Mean reward, share of grounded tokens and number of tokens in each of [`BINS`] bins; zeros
    /// for an empty bin.
    pub fn reliability(&self) -> Vec<(f64, f64, usize)> {
        let bin = |(n, reward, good): (f64, f64, f64)| {
            if n > 0.0 {
                (reward / n, good / n, n as usize)
            } else {
                (0.0, 0.0, 0)
            }
        };
        bins(&self.groups(|_| 1.0)).into_iter().map(bin).collect()
    }
}

fn totals(groups: &[Group]) -> (f64, f64) {
    groups
        .iter()
        .fold((0.0, 0.0), |(good, bad), g| (good + g.good, bad + g.bad))
}

/// Number of tokens, sum of their rewards and number of grounded ones, per bin.
fn bins(groups: &[Group]) -> Vec<(f64, f64, f64)> {
    let mut bins = vec![(0.0, 0.0, 0.0); BINS];
    for Group { reward, good, bad } in groups {
        let bin = &mut bins[((reward.clamp(0.0, 1.0) * BINS as f32) as usize).min(BINS - 1)];
        bin.0 += good + bad;
        bin.1 += f64::from(*reward) * (good + bad);
        bin.2 += good;
    }
    bins
}

fn metrics(groups: &[Group], threshold: f32) -> TokenMetrics {
    let (good, bad) = totals(groups);
    let (mut below_good, mut below_bad) = (0.0, 0.0);
    let (mut wins, mut map_neg, mut f1_best) = (0.0, 0.0, 0.0f64);
    let mut recall_at = [(0.05, f64::NAN), (0.10, f64::NAN)];
    let (mut flagged_good, mut flagged_bad) = (0.0, 0.0);
    for group in groups {
        wins += group.good * (below_bad + 0.5 * group.bad);
        // A threshold at this group's reward flags the tokens below it.
        for (fpr, recall) in &mut recall_at {
            if recall.is_nan() && below_good + group.good > *fpr * good + 1e-9 {
                *recall = below_bad / bad;
            }
        }
        below_good += group.good;
        below_bad += group.bad;
        if group.bad > 0.0 {
            map_neg += group.bad / bad * (below_bad / (below_good + below_bad));
        }
        f1_best = f1_best.max(2.0 * below_bad / (below_good + below_bad + bad));
        if group.reward < threshold {
            (flagged_good, flagged_bad) = (below_good, below_bad);
        }
    }
    let (mut above_good, mut above, mut map_pos) = (0.0, 0.0, 0.0);
    for group in groups.iter().rev() {
        above_good += group.good;
        above += group.good + group.bad;
        if group.good > 0.0 {
            map_pos += group.good / good * (above_good / above);
        }
    }
    let all_found = |recall: f64| {
        if recall.is_nan() && bad > 0.0 {
            1.0
        } else {
            recall
        }
    };
    let or_nan = |figure: f64| if bad > 0.0 { figure } else { f64::NAN };
    let total = good + bad;
    TokenMetrics {
        good,
        bad,
        auroc: wins / (good * bad),
        map_neg: or_nan(map_neg),
        map_pos: if good > 0.0 { map_pos } else { f64::NAN },
        recall_at_5_fpr: all_found(recall_at[0].1),
        recall_at_10_fpr: all_found(recall_at[1].1),
        f1_best: or_nan(f1_best),
        f1: or_nan(2.0 * flagged_bad / (flagged_good + flagged_bad + bad)),
        precision: flagged_bad / (flagged_good + flagged_bad),
        recall: flagged_bad / bad,
        accuracy: (flagged_bad + good - flagged_good) / total,
        ece: bins(groups)
            .iter()
            .map(|&(_, reward, good)| (reward - good).abs())
            .sum::<f64>()
            / total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::thresholds::threshold_at_fpr;
    use proptest::prelude::*;

    fn tokens(rewards: &[(f32, bool)]) -> Vec<ScoredToken> {
        rewards
            .iter()
            .zip(0..)
            .map(|(&(reward, good), image)| ScoredToken {
                reward,
                good,
                image,
            })
            .collect()
    }

    /// The figures are scikit-learn's for these twelve tokens (`tests/reference/token_metrics.py`).
    fn twelve() -> Vec<ScoredToken> {
        let rewards = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1];
        let good = [
            true, true, true, false, true, true, false, true, false, false, true, false,
        ];
        tokens(&rewards.into_iter().zip(good).collect::<Vec<_>>())
    }

    #[test]
    fn metrics_equal_scikit_learn() {
        let found = Ranking::new(twelve()).metrics(0.45);
        assert!((found.auroc - 0.757_142_857_142_857_1).abs() < 1e-12);
        assert!(
            (found.map_neg - 0.697_777_777_777_777_7).abs() < 1e-12,
            "{}",
            found.map_neg
        );
        assert!(
            (found.map_pos - 0.852_813_852_813_852_7).abs() < 1e-12,
            "{}",
            found.map_pos
        );
        assert!(
            (found.f1 - 0.6).abs() < 1e-12
                && (found.precision - 0.6).abs() < 1e-12
                && (found.recall - 0.6).abs() < 1e-12
        );
        assert!((found.accuracy - 8.0 / 12.0).abs() < 1e-12);
        assert!(
            (found.f1_best - 8.0 / 11.0).abs() < 1e-12,
            "{}",
            found.f1_best
        );
    }

    #[test]
    fn threshold_at_fpr_flags_at_most_that_share() {
        let tokens = twelve();
        assert_eq!(threshold_at_fpr(&tokens, 0.0), 0.2);
        assert_eq!(threshold_at_fpr(&tokens, 0.15), 0.4);
        let many: Vec<(f32, bool)> = (0..100).map(|i| (i as f32 / 100.0, i % 10 != 0)).collect();
        let found = Ranking::new(self::tokens(&many)).metrics(0.5);
        // 4 of the 90 grounded ones may be flagged, .01 to .04, and one ungrounded one lies below
        // .05; or 9, .01 to .09, and two ungrounded ones lie below .11.
        assert_eq!((found.recall_at_5_fpr, found.recall_at_10_fpr), (0.1, 0.2));
    }

    #[test]
    fn calibrated_scorer_has_no_calibration_error() {
        let tokens = tokens(&(0..100).map(|i| (0.75, i % 4 != 0)).collect::<Vec<_>>());
        let ranking = Ranking::new(tokens);
        assert!(ranking.metrics(0.5).ece < 1e-6);
        let bins = ranking.reliability();
        assert_eq!((bins.len(), bins[11]), (BINS, (0.75, 0.75, 100)));
    }

    #[test]
    fn metrics_of_a_single_class_are_nan() {
        let found = Ranking::new(tokens(&[(0.5, true), (0.6, true)])).metrics(0.55);
        assert!(
            found.auroc.is_nan()
                && found.map_neg.is_nan()
                && found.f1.is_nan()
                && found.recall_at_10_fpr.is_nan()
        );
        assert_eq!(found.accuracy, 0.5);
        assert!(Ranking::new(vec![]).roc(10).is_empty());
    }

    proptest! {
        #[test]
        fn reversed_scores_reverse_the_auroc(
            rewards in prop::collection::vec((0u8..20, any::<bool>()), 2..60),
        ) {
            let scored: Vec<(f32, bool)> = rewards.iter()
                .map(|&(r, good)| (f32::from(r) / 20.0, good)).collect();
            prop_assume!(scored.iter().any(|t| t.1) && scored.iter().any(|t| !t.1));
            let turned: Vec<(f32, bool)> = scored.iter().map(|&(r, good)| (1.0 - r, good))
                .collect();
            let auroc = |of: &[(f32, bool)]| Ranking::new(tokens(of)).metrics(0.5).auroc;
            prop_assert!((auroc(&scored) + auroc(&turned) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn weight_equals_repetition(rewards in prop::collection::vec((0u8..10, any::<bool>(),
            0u32..4), 1..40)) {
            let scored: Vec<(f32, bool)> = rewards.iter()
                .map(|&(r, good, _)| (f32::from(r) / 10.0, good)).collect();
            let weights: Vec<u32> = rewards.iter().map(|r| r.2).collect();
            let repeated: Vec<(f32, bool)> = scored.iter().zip(&weights)
                .flat_map(|(&t, &w)| (0..w).map(move |_| t)).collect();
            prop_assume!(repeated.iter().any(|t| t.1) && repeated.iter().any(|t| !t.1));
            let (a, b) = (Ranking::new(tokens(&scored)).weighted(0.35, &weights),
                Ranking::new(tokens(&repeated)).metrics(0.35));
            let figures = |m: TokenMetrics| [m.good, m.bad, m.auroc, m.map_neg, m.map_pos,
                m.recall_at_5_fpr, m.recall_at_10_fpr, m.f1_best, m.f1, m.accuracy, m.ece];
            for (a, b) in figures(a).into_iter().zip(figures(b)) {
                prop_assert!((a - b).abs() < 1e-9, "{} {}", a, b);
            }
        }

        #[test]
        fn threshold_at_any_fpr_flags_no_more_than_allowed(
            rewards in prop::collection::vec((0u8..20, any::<bool>()), 2..60), fpr in 0.0f64..1.0,
        ) {
            let scored = tokens(&rewards.iter()
                .map(|&(r, good)| (f32::from(r) / 20.0, good)).collect::<Vec<_>>());
            prop_assume!(scored.iter().any(|t| t.good));
            let threshold = threshold_at_fpr(&scored, fpr);
            let good = scored.iter().filter(|t| t.good);
            let share = good.clone().filter(|t| t.reward < threshold)
                .count() as f64 / good.count() as f64;
            prop_assert!(share <= fpr + 1e-9);
        }
    }
}
