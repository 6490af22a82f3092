//! Preference of one answer to another: DPO and dense DPO on corrected answers, SPIN on what people
//! wrote against what the policy did.

use candle_core::{Device, Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    answers::{AnswerGroup, AnswerShard, ask},
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
    vlm::{decoder::llama::Regular, llava::PrefixDecoder},
};

/// A shard of groups with two answers each, the better one first.
struct Pairs {
    shard: AnswerShard,
    weights: Vec<f32>,
    lengths: Vec<usize>,
}

impl Pairs {
    fn new(shard: AnswerShard, groups: &[&AnswerGroup], weighing: TokenWeighting) -> Self {
        let (mut weights, mut lengths) = (Vec::new(), Vec::new());
        for group in groups {
            let [better, worse] = &group.answers[..] else {
                continue;
            };
            let (of_better, of_worse) = changed(better, worse);
            weights.extend(weighing.weights(&of_better));
            weights.extend(weighing.weights(&of_worse));
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
    /// One step of DPO's loss on groups of two answers.
    fn prefer(
        &self,
        learner: &mut Learner,
        reference: &PrefixDecoder,
        groups: &[AnswerGroup],
        weighing: TokenWeighting,
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
            .map(|(shard, groups)| Pairs::new(shard, groups, weighing))
            .collect();
        let human = pairs.iter().map(|p| p.shard.human.len()).sum();
        let seen = std::sync::Mutex::new(Vec::new());
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
                    let margins = ((&better - &worse)? - (&reference_better - &reference_worse)?)?
                        .to_vec1::<f32>()?;
                    seen.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .extend(margins);
                    let loss = (dpo(&better, &worse, &reference_better, &reference_worse, beta)?
                        .sum_all()?
                        * (1.0 / groups.len().max(1) as f64))?;
                    match self.human_loss(&pairs.shard, &model, &states, human)? {
                        Some(human) => loss + human,
                        None => Ok(loss),
                    }
                })?;
        let norm = learner.apply(gradients)?;
        let mut margins = seen
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        margins.sort_by(f32::total_cmp);
        let n = margins.len().max(1) as f64;
        let named = [
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
        Ok(named
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    /// One step on some of the corrections that mark an error; with `dense`, what was corrected
    /// weighs more.
    pub(super) fn dpo(
        &self,
        learner: &mut Learner,
        iteration: usize,
        seed: u64,
        dense: bool,
    ) -> Result<RunMetrics, TrainError> {
        let config = &self.config.preference;
        let (weighing, beta) = match dense {
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
            weighing,
            beta,
            seed,
        )
    }

    /// One step of self-play: the opponent answers, a person's caption is to be preferred.
    pub(super) fn spin(
        &self,
        learner: &mut Learner,
        opponent: &Tensors,
        images: &[usize],
        seed: u64,
    ) -> Result<RunMetrics, TrainError> {
        let policy = &self.setup.policy;
        let drawn = self.answers(learner, opponent.clone(), images, seed, 1)?;
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
        let groups: Vec<AnswerGroup> = drawn
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

    /// The corrections of an iteration among those that `which` names, each behind its image; a
    /// batch of them an iteration, shuffled anew every pass.
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
        let asked = ask(
            &self.setup.policy,
            &images,
            self.train_features.views(),
            self.config.hidden_tokens,
            seed,
        )?;
        Ok(chosen
            .iter()
            .zip(&asked)
            .map(|(&i, asked)| self.corrected[which[i]].group(asked))
            .collect())
    }
}
