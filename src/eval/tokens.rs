//! How well token rewards separate grounded tokens from ungrounded ones.
//!
//! A reward is high for good tokens. Where a metric has a positive class it is the **bad** token (what the scorer is there to find), scored by one
//! minus its reward; ties are handled as scikit-learn does.

use serde::{Deserialize, Serialize};

/// A scored token whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Reward, or any score that grows with it.
    pub reward: f32,
    /// Whether the token is grounded.
    pub good: bool,
}

/// The figures of one set of tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenMetrics {
    /// Grounded tokens.
    pub good: usize,
    /// Ungrounded tokens.
    pub bad: usize,
    /// Area under the ROC curve.
    pub auroc: f64,
    /// Average precision with the bad tokens as positives: mAP(neg) of TLDR.
    pub map_neg: f64,
    /// Average precision with the good tokens as positives.
    pub map_pos: f64,
    /// Share of bad tokens found when 10 % of the good ones are flagged.
    pub recall_at_10_fpr: f64,
    /// The same at 5 %.
    pub recall_at_5_fpr: f64,
    /// Expected calibration error over 15 bins.
    pub ece: f64,
}

impl TokenMetrics {
    /// All figures; `None` unless there is a token of each kind.
    pub fn of(tokens: &[Scored]) -> Option<Self> {
        let bad = tokens.iter().filter(|t| !t.good).count();
        let good = tokens.len() - bad;
        (good > 0 && bad > 0).then(|| Self {
            good,
            bad,
            auroc: auroc(tokens),
            map_neg: average_precision(tokens, false),
            map_pos: average_precision(tokens, true),
            recall_at_10_fpr: recall_at_fpr(tokens, 0.10),
            recall_at_5_fpr: recall_at_fpr(tokens, 0.05),
            ece: expected_calibration_error(tokens, 15),
        })
    }
}

/// Tokens in groups of equal reward, lowest first: `(reward, good, bad)`.
fn groups(tokens: &[Scored]) -> Vec<(f32, usize, usize)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_by(|a, b| a.reward.total_cmp(&b.reward));
    let mut out: Vec<(f32, usize, usize)> = Vec::new();
    for token in sorted {
        match out.last_mut() {
            Some(group) if group.0 == token.reward => {
                group.1 += usize::from(token.good);
                group.2 += usize::from(!token.good);
            }
            _ => out.push((token.reward, usize::from(token.good), usize::from(!token.good))),
        }
    }
    out
}

/// Probability that a good token has a higher reward than a bad one, ties counting half. NaN without one of each.
pub fn auroc(tokens: &[Scored]) -> f64 {
    let (mut below, mut wins) = (0usize, 0.0);
    let (mut goods, mut bads) = (0usize, 0usize);
    for (_, good, bad) in groups(tokens) {
        wins += good as f64 * (below as f64 + 0.5 * bad as f64);
        below += bad;
        goods += good;
        bads += bad;
    }
    wins / (goods as f64 * bads as f64)
}

/// Average precision (the step-wise sum, without interpolation) of finding the good or the bad tokens. NaN without any.
pub fn average_precision(tokens: &[Scored], find_good: bool) -> f64 {
    let mut groups = groups(tokens);
    if find_good {
        groups.reverse();
    }
    let total: usize = groups.iter().map(|g| if find_good { g.1 } else { g.2 }).sum();
    let (mut found, mut seen, mut sum) = (0usize, 0usize, 0.0);
    for (_, good, bad) in groups {
        let hits = if find_good { good } else { bad };
        found += hits;
        seen += good + bad;
        sum += hits as f64 / total as f64 * (found as f64 / seen as f64);
    }
    sum
}

/// The highest threshold below which at most a share `fpr` of the good tokens falls (tokens with a reward **below** it are flagged).
pub fn threshold_at_fpr(tokens: &[Scored], fpr: f64) -> f32 {
    let goods = tokens.iter().filter(|t| t.good).count();
    let allowed = (fpr * goods as f64 + 1e-9).floor() as usize;
    let mut flagged = 0;
    for (reward, good, _) in groups(tokens) {
        flagged += good;
        if flagged > allowed {
            return reward;
        }
    }
    f32::INFINITY
}

/// Share of the bad tokens below the threshold of [`threshold_at_fpr`].
pub fn recall_at_fpr(tokens: &[Scored], fpr: f64) -> f64 {
    let threshold = threshold_at_fpr(tokens, fpr);
    let bad = || tokens.iter().filter(|t| !t.good);
    bad().filter(|t| t.reward < threshold).count() as f64 / bad().count() as f64
}

/// Mean distance between reward and share of good tokens over `bins` equal bins of `[0, 1]`, weighted by their tokens.
pub fn expected_calibration_error(tokens: &[Scored], bins: usize) -> f64 {
    let mut sums = vec![(0usize, 0.0f64, 0usize); bins];
    for token in tokens {
        let bin = ((token.reward.clamp(0.0, 1.0) * bins as f32) as usize).min(bins - 1);
        sums[bin].0 += 1;
        sums[bin].1 += f64::from(token.reward);
        sums[bin].2 += usize::from(token.good);
    }
    sums.iter().map(|&(_, reward, good)| (reward - good as f64).abs()).sum::<f64>() / tokens.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The figures are scikit-learn's for these twelve tokens (`tests/reference/token_metrics.py`).
    fn twelve() -> Vec<Scored> {
        let rewards = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1];
        let good = [true, true, true, false, true, true, false, true, false, false, true, false];
        rewards.iter().zip(good).map(|(&reward, good)| Scored { reward, good }).collect()
    }

    #[test]
    fn agrees_with_scikit_learn() {
        let tokens = twelve();
        assert!((auroc(&tokens) - 0.757_142_857_142_857_1).abs() < 1e-12);
        assert!((average_precision(&tokens, false) - 0.697_777_777_777_777_7).abs() < 1e-12, "{}", average_precision(&tokens, false));
        assert!((average_precision(&tokens, true) - 0.852_813_852_813_852_7).abs() < 1e-12, "{}", average_precision(&tokens, true));
    }

    #[test]
    fn a_threshold_keeps_its_promise() {
        let tokens = twelve();
        assert_eq!(threshold_at_fpr(&tokens, 0.0), 0.2);
        assert_eq!(recall_at_fpr(&tokens, 0.0), 0.2);
        assert_eq!(threshold_at_fpr(&tokens, 0.15), 0.4);
        assert_eq!(recall_at_fpr(&tokens, 0.15), 0.4);
    }

    #[test]
    fn a_calibrated_scorer_has_no_error() {
        let tokens: Vec<Scored> = (0..100).map(|i| Scored { reward: 0.75, good: i % 4 != 0 }).collect();
        assert!(expected_calibration_error(&tokens, 15) < 1e-6);
    }

    proptest! {
        #[test]
        fn turning_the_scores_around_turns_the_auroc_around(rewards in prop::collection::vec((0u8..20, any::<bool>()), 2..60)) {
            let tokens: Vec<Scored> = rewards.iter().map(|&(r, good)| Scored { reward: f32::from(r) / 20.0, good }).collect();
            prop_assume!(tokens.iter().any(|t| t.good) && tokens.iter().any(|t| !t.good));
            let turned: Vec<Scored> = tokens.iter().map(|t| Scored { reward: 1.0 - t.reward, good: t.good }).collect();
            prop_assert!((auroc(&tokens) + auroc(&turned) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn no_threshold_flags_more_good_tokens_than_allowed(rewards in prop::collection::vec((0u8..20, any::<bool>()), 2..60), fpr in 0.0f64..1.0) {
            let tokens: Vec<Scored> = rewards.iter().map(|&(r, good)| Scored { reward: f32::from(r) / 20.0, good }).collect();
            prop_assume!(tokens.iter().any(|t| t.good));
            let threshold = threshold_at_fpr(&tokens, fpr);
            let good = tokens.iter().filter(|t| t.good);
            let share = good.clone().filter(|t| t.reward < threshold).count() as f64 / good.count() as f64;
            prop_assert!(share <= fpr + 1e-9);
        }
    }
}
