//! What ReST (Gulcehre et al., 2023, <https://arxiv.org/abs/2308.08998>) learns from: of the
//! answers that a policy drew, those that score high enough. The bar rises from one improvement to
//! the next.

/// Which of the scores are among the best `1 - share`: at least as high as the quantile of that
/// share. A share of 0 keeps all.
pub fn above_quantile(scores: &[f32], share: f64) -> Vec<bool> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let bar = sorted
        .get(((share * scores.len() as f64) as usize).min(scores.len().saturating_sub(1)))
        .copied();
    scores
        .iter()
        .map(|score| bar.is_some_and(|bar| *score >= bar))
        .collect()
}

/// The share below the bar at improvement number `round` of `rounds`: from `first` to `last` in
/// equal steps.
pub fn rising(first: f64, last: f64, round: usize, rounds: usize) -> f64 {
    let progress = if rounds > 1 {
        round.min(rounds - 1) as f64 / (rounds - 1) as f64
    } else {
        1.0
    };
    first + (last - first) * progress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_best() {
        assert_eq!(
            above_quantile(&[0.1, 0.9, 0.5, 0.7], 0.5),
            [false, true, false, true]
        );
        assert_eq!(above_quantile(&[0.1, 0.9], 0.0), [true, true]);
        assert_eq!(above_quantile(&[0.5, 0.5], 1.0), [true, true], "ties stay");
        assert!(above_quantile(&[], 0.5).is_empty());
    }

    #[test]
    fn the_bar_rises_in_equal_steps() {
        assert_eq!(
            [0, 1, 2].map(|round| rising(0.5, 0.9, round, 3)),
            [0.5, 0.7, 0.9]
        );
        assert_eq!(rising(0.5, 0.9, 0, 1), 0.9);
    }
}
