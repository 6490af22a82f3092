//! ReST (Gulcehre et al., 2023, <https://arxiv.org/abs/2308.08998>): the policy imitates its own
//! answers that score above a rising threshold.

use super::{answers::AnswerGroup, learner::Learner, log::RunMetrics, run::Alignment};
use crate::{
    train::{Tensors, TrainError},
    util::numbers::mean,
};

impl Alignment {
    /// Takes one step on the best of the answers sampled from `grown`, the policy at the beginning
    /// of the round.
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
        let mask = above_quantile(
            &scores,
            rejected_share(config.first_share, config.last_share, round, config.rounds),
        );
        let mut mask = mask.into_iter();
        let best: Vec<AnswerGroup> = groups
            .into_iter()
            .map(|group| AnswerGroup {
                answers: group
                    .answers
                    .into_iter()
                    .filter(|_| mask.next() == Some(true))
                    .collect(),
                ..group
            })
            .filter(|group| !group.answers.is_empty())
            .collect();
        let mut metrics = self.imitate(learner, &best, seed)?;
        metrics.insert(
            "score".into(),
            mean(scores.iter().map(|s| f64::from(*s))).unwrap_or(0.0),
        );
        Ok(metrics)
    }
}

/// Mask of the scores at or above the quantile `share`; a share of 0 keeps all.
fn above_quantile(scores: &[f32], share: f64) -> Vec<bool> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let threshold = sorted
        .get(((share * scores.len() as f64) as usize).min(scores.len().saturating_sub(1)))
        .copied();
    scores
        .iter()
        .map(|score| threshold.is_some_and(|threshold| *score >= threshold))
        .collect()
}

/// Rejected share in round `round` of `rounds`, rising from `first` to `last` in equal steps.
fn rejected_share(first: f64, last: f64, round: usize, rounds: usize) -> f64 {
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
    fn above_quantile_half_keeps_the_best_half() {
        assert_eq!(
            above_quantile(&[0.1, 0.9, 0.5, 0.7], 0.5),
            [false, true, false, true]
        );
        assert_eq!(above_quantile(&[0.1, 0.9], 0.0), [true, true]);
        assert_eq!(above_quantile(&[0.5, 0.5], 1.0), [true, true], "ties stay");
        assert!(above_quantile(&[], 0.5).is_empty());
    }

    #[test]
    fn rejected_share_rises_in_equal_steps() {
        assert_eq!(
            [0, 1, 2].map(|round| rejected_share(0.5, 0.9, round, 3)),
            [0.5, 0.7, 0.9]
        );
        assert_eq!(rejected_share(0.5, 0.9, 0, 1), 0.9);
    }
}
