//! Proximal policy optimization: the policy answers, a frozen scorer rewards its words, and a few
//! clipped steps follow (RLHF as in Ouyang et al., 2022, with token rewards as in Wu et al.,
//! "Fine-grained human feedback", 2023).

use std::time::Instant;

use candle_core::{Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    answers::{AT_ONCE, AnswerGroup, AnswerSampling, AnswerShard, prompt_groups, sample_answers},
    config::PpoConfig,
    learner::Learner,
    log::RunMetrics,
    reward::{self, ScoredClaim, add_terminal, claims, scored_claims},
    run::Alignment,
};
use crate::{
    train::{
        TrainError,
        labels::LabeledText,
        losses::{
            gae::{Gae, whiten},
            kl::{AdaptiveKl, Estimator},
            policy::{Clip, PolicyTokens, clipped_share, policy_loss, ratios, value_loss},
        },
    },
    util::numbers,
    vlm::decoder::Regular,
};

/// Sampled answer with its log-probabilities, values and rewards, fixed before the update.
#[derive(Debug, Clone, Default)]
pub(super) struct ScoredAnswer {
    /// Log-probabilities under the policy that wrote it, one per token; empty unless requested.
    log_probs: Vec<f32>,
    /// Value estimates before each token; empty unless requested.
    values: Vec<f32>,
    /// Log-probabilities under the reference, one per token.
    reference: Vec<f32>,
    /// Claims with the scorer's rewards.
    pub(super) claims: Vec<ScoredClaim>,
    text: String,
    image: usize,
    tokens: usize,
    ended: bool,
}

/// Rewards of an iteration's answers.
pub(super) struct IterationRewards {
    /// Token rewards of each answer, from its claims.
    pub(super) claims: Vec<Vec<f32>>,
    /// Terminal reward of each answer.
    pub(super) whole: Vec<f32>,
    metrics: RunMetrics,
}

/// Minibatch shard: groups and the rollout data of their tokens.
struct Part {
    shard: AnswerShard,
    rollout: PolicyTokens,
}

/// Returns the mean of `values`, 0 without any.
fn mean(values: impl Iterator<Item = f32>) -> f64 {
    numbers::mean(values.map(f64::from)).unwrap_or(0.0)
}

impl Alignment {
    /// Samples answers to an iteration's images from a policy with `weights`.
    pub(super) fn answers(
        &self,
        learner: &Learner,
        weights: crate::train::Tensors,
        images: &[usize],
        seed: u64,
        each: usize,
    ) -> Result<Vec<AnswerGroup>, TrainError> {
        let prompted = prompt_groups(
            &self.setup.policy,
            images,
            self.train_features.views(),
            self.config.hidden_tokens,
            seed,
        )?;
        let chunks: Vec<(usize, &[AnswerGroup])> = prompted.chunks(AT_ONCE).enumerate().collect();
        let (model, eos) = (learner.frozen(weights)?, self.setup.policy.tokenizer.eos());
        let (temperature, max_tokens) = (self.config.temperature, self.config.max_tokens);
        let sampled = self.setup.workers.map(&chunks, |(i, chunk)| {
            let seed = seed.wrapping_add((i * AT_ONCE * each) as u64);
            sample_answers(
                &model,
                &self.train_features,
                eos,
                chunk,
                AnswerSampling {
                    each,
                    temperature,
                    max_tokens,
                    seed,
                },
            )
        })?;
        Ok(sampled.into_iter().flatten().collect())
    }

    /// Scores answers in the groups' order; with `own`, also computes log-probabilities and values
    /// under the learner.
    pub(super) fn assess(
        &self,
        groups: &[AnswerGroup],
        learner: &Learner,
        own: bool,
    ) -> Result<Vec<ScoredAnswer>, TrainError> {
        let policy = &self.setup.policy;
        let chunks: Vec<&[AnswerGroup]> = groups.chunks(AT_ONCE).collect();
        let model = learner.frozen(learner.weights()?)?;
        let value = own.then(|| learner.value()).transpose()?;
        let temperature = self.config.temperature;
        let assessed = self.setup.workers.map(&chunks, |chunk| {
            let image_tokens = policy.config.model.language.connector.tokens;
            let shard = AnswerShard::new(
                &self.train_features,
                &chunk.iter().collect::<Vec<_>>(),
                &[],
                image_tokens,
            )?;
            let frozen = self.judge.judge(policy, &shard, temperature)?;
            let (mut log_probs, mut values) = (Vec::new(), Vec::new());
            if let Some(value) = &value {
                let states = shard.states(&model, Regular::default())?;
                log_probs = shard
                    .log_probs(&model, &states, &shard.own, temperature)?
                    .to_vec1()?;
                values = value.values(&states)?.to_vec1()?;
            }
            let mut first = 0;
            let mut out = Vec::new();
            for (i, group) in chunk.iter().enumerate() {
                let finisher = self.judge.finisher(&shard.clear.get(i)?)?;
                for tokens in &group.answers {
                    let range = first..first + tokens.len();
                    first = range.end;
                    let text = policy.tokenizer.decode(tokens);
                    let labeled = LabeledText::all_good(text.clone());
                    let token_ranges: Vec<_> =
                        labeled.token_ranges(&policy.tokenizer, tokens).collect();
                    let rewards =
                        frozen.rewards(range.clone(), tokens, &policy.tokenizer, finisher.as_ref());
                    let slice = |values: &[f32]| {
                        values
                            .get(range.clone())
                            .map(<[f32]>::to_vec)
                            .unwrap_or_default()
                    };
                    out.push(ScoredAnswer {
                        log_probs: slice(&log_probs),
                        values: slice(&values),
                        reference: slice(&frozen.reference),
                        claims: scored_claims(&claims(&text), &token_ranges, &rewards),
                        text,
                        image: group.image,
                        tokens: tokens.len(),
                        ended: tokens.last() == Some(&policy.tokenizer.eos()),
                    });
                }
            }
            Ok(out)
        })?;
        Ok(assessed.into_iter().flatten().collect())
    }

    /// Computes the token rewards and the terminal reward of each answer.
    pub(super) fn earn(&self, answers: &[ScoredAnswer]) -> IterationRewards {
        let shape = &self.config.reward;
        let object_rewards = || {
            answers
                .iter()
                .flat_map(|a| &a.claims)
                .filter(|c| c.object)
                .map(|c| c.reward)
        };
        let baseline = shape.center.unwrap_or_else(|| {
            mean(answers.iter().flat_map(|a| &a.claims).map(|c| c.reward)) as f32
        });
        let complete: Vec<f32> = answers
            .iter()
            .map(|a| reward::completeness(&a.text, &self.readings[a.image]))
            .collect();
        let texts: Vec<(usize, &str)> =
            answers.iter().map(|a| (a.image, a.text.as_str())).collect();
        let consensus = self
            .consensus
            .as_ref()
            .map_or_else(|| vec![0.0; texts.len()], |c| c.cider_d(&texts));
        let references = |image: usize| {
            self.setup.data.train[image]
                .captions
                .iter()
                .map(String::as_str)
        };
        let short: Vec<f32> = answers
            .iter()
            .map(|a| reward::shortness(&a.text, references(a.image)))
            .collect();
        let parts = answers
            .iter()
            .zip(complete.iter().zip(&consensus).zip(&short));
        let n = answers.len().max(1) as f64;
        let metrics = [
            ("reward", mean(object_rewards())),
            ("completeness", mean(complete.iter().copied())),
            ("consensus", consensus.iter().sum::<f64>() / n),
            ("shortness", mean(short.iter().copied())),
            ("tokens", mean(answers.iter().map(|a| a.tokens as f32))),
            ("things", object_rewards().count() as f64 / n),
            (
                "ended",
                answers.iter().filter(|a| a.ended).count() as f64 / n,
            ),
        ];
        IterationRewards {
            claims: answers
                .iter()
                .map(|a| shape.token_rewards(&a.claims, baseline, a.tokens))
                .collect(),
            whole: parts
                .map(|(a, ((c, d), short))| shape.terminal(*c, *d as f32, *short, a.ended))
                .collect(),
            metrics: metrics
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// Runs one PPO iteration; `sequence` pays the sum of the token rewards at the end.
    pub(super) fn ppo(
        &self,
        learner: &mut Learner,
        kl: &mut AdaptiveKl,
        images: &[usize],
        seed: u64,
        sequence: bool,
    ) -> Result<RunMetrics, TrainError> {
        let start = Instant::now();
        let groups = self.answers(
            learner,
            learner.weights()?,
            images,
            seed,
            self.config.samples,
        )?;
        let rollout_seconds = start.elapsed().as_secs_f64();
        let answers = self.assess(&groups, learner, true)?;
        let earned = self.earn(&answers);
        let mut metrics = earned.metrics.clone();
        metrics.extend([
            ("rollout_seconds".to_owned(), rollout_seconds),
            (
                "assess_seconds".to_owned(),
                start.elapsed().as_secs_f64() - rollout_seconds,
            ),
        ]);
        let rollouts = rollouts(
            &answers,
            &earned,
            &self.config.ppo,
            kl.beta as f32,
            sequence,
            self.config.samples,
        );
        let kl_per_answer = |estimator: Estimator| {
            let tokens = answers
                .iter()
                .flat_map(|a| a.log_probs.iter().zip(&a.reference));
            tokens
                .map(|(own, reference)| f64::from(estimator.estimate(*own, *reference)))
                .sum::<f64>()
                / answers.len().max(1) as f64
        };
        // K1, because its mean over so many tokens is steady, while one token that the reference
        // all but excludes makes K3 explode.
        let kl_estimate = kl_per_answer(Estimator::K1);
        metrics.extend([
            ("kl".to_owned(), kl_estimate),
            ("kl_beta".to_owned(), kl.beta),
        ]);
        kl.update(kl_estimate, answers.len());
        let mut order: Vec<usize> = (0..groups.len()).collect();
        let mut steps: Vec<RunMetrics> = Vec::new();
        for epoch in 0..self.config.ppo.epochs {
            order.shuffle(&mut SmallRng::seed_from_u64(
                seed ^ (epoch as u64 + 1) << 48,
            ));
            for batch in order.chunks(groups.len().div_ceil(self.config.ppo.minibatches).max(1)) {
                steps.push(self.ppo_step(
                    learner,
                    &groups,
                    &rollouts,
                    batch,
                    seed ^ steps.len() as u64,
                )?);
            }
        }
        for name in steps.first().into_iter().flat_map(|m| m.keys()) {
            metrics.insert(
                name.clone(),
                steps.iter().filter_map(|s| s.get(name)).sum::<f64>() / steps.len() as f64,
            );
        }
        Ok(metrics)
    }

    /// Takes one optimizer step on the groups `batch`.
    fn ppo_step(
        &self,
        learner: &mut Learner,
        groups: &[AnswerGroup],
        rollouts: &[PolicyTokens],
        batch: &[usize],
        seed: u64,
    ) -> Result<RunMetrics, TrainError> {
        let chosen: Vec<&AnswerGroup> = batch.iter().map(|&i| &groups[i]).collect();
        let shards = self.shards(&chosen, seed)?;
        let (total, human): (usize, usize) = (
            shards.iter().map(|s| s.own.len()).sum(),
            shards.iter().map(|s| s.human.len()).sum(),
        );
        let part = chosen.len().div_ceil(self.setup.workers.count()).max(1);
        let parts: Vec<Part> = shards
            .into_iter()
            .zip(batch.chunks(part))
            .map(|(shard, groups)| {
                let mut all = PolicyTokens::default();
                groups
                    .iter()
                    .for_each(|&group| all.extend(&rollouts[group]));
                all.weights = vec![1.0 / total.max(1) as f32; all.log_probs.len()];
                Part {
                    shard,
                    rollout: all,
                }
            })
            .collect();
        let config = &self.config.ppo;
        let clip = Clip {
            ratio: config.clip,
            value: config.value_clip,
            log_ratio: config.log_ratio,
        };
        let figures = std::sync::Mutex::new(Vec::new());
        let (loss, gradients) =
            self.setup
                .workers
                .gradients(&parts, &learner.optim.vars(), |part| {
                    let model = learner.model()?;
                    let states = part.shard.states(&model, Regular::default())?;
                    let own = part.shard.log_probs(
                        &model,
                        &states,
                        &part.shard.own,
                        self.config.temperature,
                    )?;
                    let policy = policy_loss(&own, &part.rollout, &clip)?;
                    let values = select(&learner.value()?.values(&states)?, &part.shard.own)?;
                    let value = value_loss(&values, &part.rollout, &clip)?;
                    let share = clipped_share(
                        &ratios(&own, &part.rollout, &clip)?.to_vec1::<f32>()?,
                        &part.rollout.weights,
                        &clip,
                    );
                    let shard_figures = (
                        f64::from(policy.to_scalar::<f32>()?),
                        f64::from(value.to_scalar::<f32>()?),
                        share,
                    );
                    figures
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push(shard_figures);
                    let loss = (policy + (value * config.value_weight)?)?;
                    match self.human_loss(&part.shard, &model, &states, human)? {
                        Some(human) => loss + human,
                        None => Ok(loss),
                    }
                })?;
        let norm = learner.apply(gradients)?;
        let mut figures = figures
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Workers finish in any order, and a floating-point sum depends on it.
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sum = |part: fn(&(f64, f64, f64)) -> f64| figures.iter().map(part).sum::<f64>();
        let metrics = [
            ("loss", loss),
            ("policy_loss", sum(|f| f.0)),
            ("value_loss", sum(|f| f.1)),
            ("clipped", sum(|f| f.2) / figures.len().max(1) as f64),
            ("gradient_norm", norm),
        ];
        Ok(metrics
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

fn select(values: &Tensor, which: &[u32]) -> CandleResult<Tensor> {
    values.index_select(&Tensor::new(which, values.device())?, 0)
}

/// Rollout tokens of each group (`each` answers a group): rewards with KL penalty, advantages
/// (whitened over all tokens) and returns.
fn rollouts(
    answers: &[ScoredAnswer],
    earned: &IterationRewards,
    config: &PpoConfig,
    beta: f32,
    sequence: bool,
    each: usize,
) -> Vec<PolicyTokens> {
    let gae = Gae {
        gamma: config.gamma,
        lambda: config.lambda,
    };
    let mut all: Vec<PolicyTokens> = Vec::with_capacity(answers.len());
    for ((answer, claims), whole) in answers.iter().zip(&earned.claims).zip(&earned.whole) {
        let (mut rewards, end) = match sequence {
            true => (vec![0.0; claims.len()], claims.iter().sum::<f32>() + whole),
            false => (claims.clone(), *whole),
        };
        add_terminal(&mut rewards, end);
        let log_prob_pairs = answer.log_probs.iter().zip(&answer.reference);
        rewards
            .iter_mut()
            .zip(log_prob_pairs)
            .for_each(|(r, (own, reference))| {
                *r -= beta * Estimator::K1.estimate(*own, *reference)
            });
        let (advantages, returns) = gae.advantages(&rewards, &answer.values);
        all.push(PolicyTokens {
            log_probs: answer.log_probs.clone(),
            values: answer.values.clone(),
            advantages,
            returns,
            weights: Vec::new(),
        });
    }
    let mut flat: Vec<f32> = all
        .iter()
        .flat_map(|w| w.advantages.iter().copied())
        .collect();
    let mask = vec![true; flat.len()];
    whiten(&mut flat, &mask);
    let mut rest = flat.as_slice();
    for rollout in &mut all {
        let (own, after) = rest.split_at(rollout.advantages.len());
        rollout.advantages.copy_from_slice(own);
        rest = after;
    }
    let group = |answers: &[PolicyTokens]| {
        let mut whole = PolicyTokens::default();
        answers.iter().for_each(|answer| whole.extend(answer));
        whole
    };
    all.chunks(each.max(1)).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollouts_sequence_pays_claims_at_the_end_and_kl_on_every_token() {
        let config = PpoConfig {
            epochs: 1,
            minibatches: 1,
            clip: 0.2,
            value_clip: 0.2,
            log_ratio: 10.0,
            value_weight: 0.5,
            value_hidden: 4,
            gamma: 1.0,
            lambda: 1.0,
            kl: AdaptiveKl {
                beta: 0.5,
                target: 0.0,
                horizon: 1.0,
            },
        };
        let answer = |n: usize| ScoredAnswer {
            log_probs: vec![-1.0; n],
            values: vec![0.0; n],
            reference: vec![-1.5; n],
            tokens: n,
            ..ScoredAnswer::default()
        };
        let answers = [answer(3), answer(2)];
        let earned = IterationRewards {
            claims: vec![vec![0.0, 1.0, 0.0], vec![0.0; 2]],
            whole: vec![2.0, 7.0],
            metrics: RunMetrics::new(),
        };
        // The KL penalty is .25 per token.
        let tokens = rollouts(&answers, &earned, &config, 0.5, false, 2);
        assert_eq!(tokens.len(), 1, "both answers belong to one image");
        assert_eq!(
            tokens[0].returns,
            [2.25, 2.5, 1.75, 6.5, 6.75],
            "the second token earned one, the last one two, and the second answer its own"
        );
        let whole = rollouts(&answers, &earned, &config, 0.5, true, 2);
        assert_eq!(
            whole[0].returns,
            [2.25, 2.5, 2.75, 6.5, 6.75],
            "as a sequence, all of it is earned at the end"
        );
        assert!(tokens[0].advantages.iter().sum::<f32>().abs() < 1e-5);
    }
}
