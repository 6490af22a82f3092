//! Preference optimization: DPO and dense DPO on corrected answers, SPIN on human captions against
//! the policy's own.

use candle_core::{Device, Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    answers::{AnswerGroup, AnswerShard, prompt_groups},
    learner::Learner,
    log::RunMetrics,
    run::Alignment,
};
use crate::{
    train::{
        Tensors, TrainError,
        corrections::changed,
        losses::preference::{TokenWeighting, answer_log_probs, dpo},
        text::normalize_caption,
    },
    util::numbers::mean,
    vlm::{decoder::Regular, models::candor_mini::PrefixDecoder},
};

/// Shard of groups with two answers each, the better one first.
struct Pairs {
    shard: AnswerShard,
    weights: Vec<f32>,
    lengths: Vec<usize>,
}

impl Pairs {
    fn new(shard: AnswerShard, groups: &[&AnswerGroup], weighting: TokenWeighting) -> Self {
        let (mut weights, mut lengths) = (Vec::new(), Vec::new());
        for group in groups {
            let [better, worse] = &group.answers[..] else {
                continue;
            };
            let (changed_better, changed_worse) = changed(better, worse);
            weights.extend(weighting.weights(&changed_better));
            weights.extend(weighting.weights(&changed_worse));
            lengths.extend([better.len(), worse.len()]);
        }
        Self {
            shard,
            weights,
            lengths,
        }
    }

    /// Log-probabilities of the better and of the worse answers, `(pairs)` each.
    fn log_probs(&self, model: &PrefixDecoder, states: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let tokens = self.shard.log_probs(model, states, &self.shard.own, 1.0)?;
        let sums = answer_log_probs(&tokens, &self.weights, &self.lengths)?;
        let every_second = |first: u32| {
            let which: Vec<u32> = (0..self.lengths.len() as u32 / 2)
                .map(|i| 2 * i + first)
                .collect();
            sums.index_select(&Tensor::new(which, &Device::Cpu)?, 0)
        };
        Ok((every_second(0)?, every_second(1)?))
    }
}

impl Alignment {
    /// Takes one optimizer step on the DPO loss of groups with two answers.
    fn prefer(
        &self,
        learner: &mut Learner,
        reference: &PrefixDecoder,
        groups: &[AnswerGroup],
        weighting: TokenWeighting,
        beta: f64,
        seed: u64,
    ) -> Result<RunMetrics, TrainError> {
        let chosen: Vec<&AnswerGroup> = groups.iter().collect();
        let part = chosen.len().div_ceil(self.setup.workers.count()).max(1);
        let shards = self
            .shards(&chosen, seed)?
            .into_iter()
            .zip(chosen.chunks(part));
        let pairs: Vec<Pairs> = shards
            .map(|(shard, groups)| Pairs::new(shard, groups, weighting))
            .collect();
        let human = pairs.iter().map(|p| p.shard.human.len()).sum();
        let margins = std::sync::Mutex::new(Vec::new());
        let (loss, gradients) =
            self.setup
                .workers
                .gradients(&pairs, &learner.optim.vars(), |pairs| {
                    let model = learner.model()?;
                    let states = pairs.shard.states(&model, Regular::default())?;
                    let (better, worse) = pairs.log_probs(&model, &states)?;
                    let (reference_better, reference_worse) = pairs.log_probs(
                        reference,
                        &pairs.shard.states(reference, Regular::default())?,
                    )?;
                    let (reference_better, reference_worse) =
                        (reference_better.detach(), reference_worse.detach());
                    let shard_margins = ((&better - &worse)?
                        - (&reference_better - &reference_worse)?)?
                        .to_vec1::<f32>()?;
                    margins
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .extend(shard_margins);
                    let loss = (dpo(&better, &worse, &reference_better, &reference_worse, beta)?
                        .sum_all()?
                        * (1.0 / groups.len().max(1) as f64))?;
                    match self.human_loss(&pairs.shard, &model, &states, human)? {
                        Some(human) => loss + human,
                        None => Ok(loss),
                    }
                })?;
        let norm = learner.apply(gradients)?;
        let mut margins = margins
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        margins.sort_by(f32::total_cmp);
        let n = margins.len().max(1) as f64;
        let metrics = [
            ("loss", loss),
            ("gradient_norm", norm),
            (
                "margin",
                mean(margins.iter().map(|m| f64::from(*m))).unwrap_or(0.0),
            ),
            (
                "preferred",
                margins.iter().filter(|m| **m > 0.0).count() as f64 / n,
            ),
        ];
        Ok(metrics
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    /// Takes one step on a batch of corrections that mark an error; `dense` weighs changed tokens
    /// more.
    pub(super) fn dpo(
        &self,
        learner: &mut Learner,
        iteration: usize,
        seed: u64,
        dense: bool,
    ) -> Result<RunMetrics, TrainError> {
        let config = &self.config.preference;
        let (weighting, beta) = match dense {
            true => (
                TokenWeighting::Dense {
                    gamma: config.ddpo_gamma,
                },
                config.ddpo_beta,
            ),
            false => (TokenWeighting::Sum, config.dpo_beta),
        };
        let wrong: Vec<usize> = (0..self.corrected.len())
            .filter(|&i| self.corrected[i].worse.is_some())
            .collect();
        let groups = self.corrected_groups(&wrong, iteration, seed)?;
        self.prefer(
            learner,
            &self.setup.policy.model,
            &groups,
            weighting,
            beta,
            seed,
        )
    }

    /// Takes one step of self-play: human captions are preferred to the opponent's answers.
    pub(super) fn spin(
        &self,
        learner: &mut Learner,
        opponent: &Tensors,
        images: &[usize],
        seed: u64,
    ) -> Result<RunMetrics, TrainError> {
        let policy = &self.setup.policy;
        let sampled = self.answers(learner, opponent.clone(), images, seed, 1)?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let pair = |group: AnswerGroup| {
            let human = self.setup.data.train[group.image]
                .captions
                .choose(&mut rng)
                .map(|c| normalize_caption(c))
                .unwrap_or_default();
            let mut better = policy
                .tokenizer
                .encode(&human)
                .map_err(|e| TrainError::Run(e.to_string()))?;
            better.push(policy.tokenizer.eos());
            Ok(AnswerGroup {
                answers: std::iter::once(better).chain(group.answers).collect(),
                ..group
            })
        };
        let groups: Vec<AnswerGroup> = sampled
            .into_iter()
            .map(pair)
            .collect::<Result<_, TrainError>>()?;
        self.prefer(
            learner,
            &learner.frozen(opponent.clone())?,
            &groups,
            TokenWeighting::Sum,
            self.config.preference.spin_lambda,
            seed,
        )
    }

    /// Groups of the corrections `which` for one iteration: a batch, in a new random order each
    /// pass.
    pub(super) fn corrected_groups(
        &self,
        which: &[usize],
        iteration: usize,
        seed: u64,
    ) -> Result<Vec<AnswerGroup>, TrainError> {
        let chosen = self.batch(which.len(), iteration, 0x5eed);
        let images: Vec<usize> = chosen
            .iter()
            .map(|&i| self.corrected[which[i]].image)
            .collect();
        let prompted = prompt_groups(
            &self.setup.policy,
            &images,
            self.train_features.views(),
            self.config.hidden_tokens,
            seed,
        )?;
        Ok(chosen
            .iter()
            .zip(&prompted)
            .map(|(&i, prompted)| self.corrected[which[i]].group(prompted))
            .collect())
    }
}
