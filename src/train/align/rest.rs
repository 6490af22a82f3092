//! ReST: the policy draws, the answers above a rising bar are imitated.

use super::{answers::AnswerGroup, learner::Learner, log::RunMetrics, run::Alignment};
use crate::{
    train::{
        Tensors, TrainError,
        losses::filter::{above_quantile, rising},
    },
    util::numbers::mean,
};

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
            mean(scores.iter().map(|s| f64::from(*s))).unwrap_or(0.0),
        );
        Ok(metrics)
    }
}
