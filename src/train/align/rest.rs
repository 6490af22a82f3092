//! ReST: the policy draws, the answers above a rising bar are imitated.

use super::{answers::AnswerGroup, learner::Learner, log::RunMetrics, run::Alignment};
use crate::train::{Tensors, TrainError};

impl Alignment {
    /// One step on the best of the answers that `grown`, the policy at the beginning of the round,
    /// draws.
    pub(super) fn rest(
        &self,
        learner: &mut Learner,
        grown: &Tensors,
        images: &[usize],
        seed: u64,
        round: usize,
    ) -> Result<RunMetrics, TrainError> {
        let groups = self.answers(learner, grown.clone(), images, seed, self.config.samples)?;
        let earned = self.earn(&self.assess(&groups, learner, false)?);
        let scores: Vec<f32> = earned
            .claims
            .iter()
            .zip(&earned.whole)
            .map(|(claims, whole)| claims.iter().sum::<f32>() + whole)
            .collect();
        let config = &self.config.rest;
        let kept = above_quantile(
            &scores,
            rising(config.first_share, config.last_share, round, config.rounds),
        );
        let mut kept = kept.into_iter();
        let best: Vec<AnswerGroup> = groups
            .into_iter()
            .map(|group| AnswerGroup {
                answers: group
                    .answers
                    .into_iter()
                    .filter(|_| kept.next() == Some(true))
                    .collect(),
                ..group
            })
            .filter(|group| !group.answers.is_empty())
            .collect();
        let mut metrics = self.imitate(learner, &best, seed)?;
        metrics.insert(
            "score".into(),
            scores.iter().map(|s| f64::from(*s)).sum::<f64>() / scores.len().max(1) as f64,
        );
        Ok(metrics)
    }
}

/// Which of the scores are among the best `1 - share`: at least as high as the quantile of that
/// share. A share of 0 keeps all.
fn above_quantile(scores: &[f32], share: f64) -> Vec<bool> {
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
fn rising(first: f64, last: f64, round: usize, rounds: usize) -> f64 {
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
