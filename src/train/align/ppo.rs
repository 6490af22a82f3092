//! Proximal policy optimisation: the policy answers, a frozen scorer rewards its words, and a few
//! clipped steps follow (RLHF as in Ouyang et al., 2022, with a reward a token as in Wu et al.,
//! "Fine-grained human feedback", 2023).

use std::time::Instant;

use candle_core::{Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    answers::{AT_ONCE, AnswerGroup, AnswerSampling, AnswerShard, ask, draw},
    config::PpoConfig,
    learner::Learner,
    log::RunMetrics,
    reward::{self, ScoredClaim, at_the_end, claims, scored},
    run::Alignment,
};
use crate::{
    train::{
        TrainError,
        gae::{Gae, whiten},
        labels::LabeledText,
        losses::{
            kl::{AdaptiveKl, Estimator},
            policy::{Clip, PolicyTokens, clipped_share, policy_loss, ratios, value_loss},
        },
    },
    util::numbers,
    vlm::decoder::llama::Regular,
};

/// An answer with everything that is known about it before a step.
#[derive(Debug, Clone, Default)]
pub(super) struct ScoredAnswer {
    /// Under the policy that wrote it, a token each; empty where that was not asked for.
    log_probs: Vec<f32>,
    /// What was expected before each token; empty where that was not asked for.
    values: Vec<f32>,
    /// Under the reference.
    reference: Vec<f32>,
    /// Its claims and what the scorer makes of them.
    pub(super) claims: Vec<ScoredClaim>,
    text: String,
    image: usize,
    tokens: usize,
    ended: bool,
}

/// What an iteration's answers earned.
pub(super) struct IterationRewards {
    /// By their claims, a token each.
    pub(super) claims: Vec<Vec<f32>>,
    /// As a whole.
    pub(super) whole: Vec<f32>,
    metrics: RunMetrics,
}

/// What a step learns from: a shard's groups, and what was true of their tokens.
struct Part {
    shard: AnswerShard,
    written: PolicyTokens,
}

/// Returns the mean of `values`, 0 without any.
fn mean(values: impl Iterator<Item = f32>) -> f64 {
    numbers::mean(values.map(f64::from)).unwrap_or(0.0)
}

impl Alignment {
    /// Draws answers to an iteration's images from the present policy, or from `weights`.
    pub(super) fn answers(
        &self,
        learner: &Learner,
        weights: crate::train::Tensors,
        images: &[usize],
        seed: u64,
        each: usize,
    ) -> Result<Vec<AnswerGroup>, TrainError> {
        let asked = ask(
            &self.setup.policy,
            images,
            self.train_features.views(),
            self.config.hidden_tokens,
            seed,
        )?;
        let chunks: Vec<(usize, &[AnswerGroup])> = asked.chunks(AT_ONCE).enumerate().collect();
        let (model, eos) = (learner.frozen(weights)?, self.setup.policy.tokenizer.eos());
        let (temperature, max_tokens) = (self.config.temperature, self.config.max_tokens);
        let drawn = self.setup.workers.map(&chunks, |(i, chunk)| {
            let seed = seed.wrapping_add((i * AT_ONCE * each) as u64);
            draw(
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
        Ok(drawn.into_iter().flatten().collect())
    }

    /// Returns what is known about answers, in the groups' order; with `own`, also under the policy
    /// that wrote them.
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
            let judged = self.judge.judge(policy, &shard, temperature)?;
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
                    let at = first..first + tokens.len();
                    first = at.end;
                    let text = policy.tokenizer.decode(tokens);
                    let labelled = LabeledText::all_good(text.clone());
                    let places: Vec<_> = labelled.token_ranges(&policy.tokenizer, tokens).collect();
                    let rewards =
                        judged.rewards(at.clone(), tokens, &policy.tokenizer, finisher.as_ref());
                    let of = |values: &[f32]| {
                        values
                            .get(at.clone())
                            .map(<[f32]>::to_vec)
                            .unwrap_or_default()
                    };
                    out.push(ScoredAnswer {
                        log_probs: of(&log_probs),
                        values: of(&values),
                        reference: of(&judged.reference),
                        claims: scored(&claims(&text), &places, &rewards),
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

    /// Returns what answers earn.
    pub(super) fn earn(&self, answers: &[ScoredAnswer]) -> IterationRewards {
        let shape = &self.config.reward;
        let things = || {
            answers
                .iter()
                .flat_map(|a| &a.claims)
                .filter(|c| c.thing)
                .map(|c| c.reward)
        };
        let centre = shape.centre.unwrap_or_else(|| {
            mean(answers.iter().flat_map(|a| &a.claims).map(|c| c.reward)) as f32
        });
        let complete: Vec<f32> = answers
            .iter()
            .map(|a| reward::completeness(&a.text, &self.readings[a.image]))
            .collect();
        let said: Vec<(usize, &str)> = answers.iter().map(|a| (a.image, a.text.as_str())).collect();
        let consensus = self
            .consensus
            .as_ref()
            .map_or_else(|| vec![0.0; said.len()], |c| c.cider_d(&said));
        let written = |image: usize| {
            self.setup.data.train[image]
                .captions
                .iter()
                .map(String::as_str)
        };
        let short: Vec<f32> = answers
            .iter()
            .map(|a| reward::shortness(&a.text, written(a.image)))
            .collect();
        let parts = answers
            .iter()
            .zip(complete.iter().zip(&consensus).zip(&short));
        let n = answers.len().max(1) as f64;
        let named = [
            ("reward", mean(things())),
            ("completeness", mean(complete.iter().copied())),
            ("consensus", consensus.iter().sum::<f64>() / n),
            ("shortness", mean(short.iter().copied())),
            ("tokens", mean(answers.iter().map(|a| a.tokens as f32))),
            ("things", things().count() as f64 / n),
            (
                "ended",
                answers.iter().filter(|a| a.ended).count() as f64 / n,
            ),
        ];
        IterationRewards {
            claims: answers
                .iter()
                .map(|a| shape.of_claims(&a.claims, centre, a.tokens))
                .collect(),
            whole: parts
                .map(|(a, ((c, d), short))| shape.of_answer(*c, *d as f32, *short, a.ended))
                .collect(),
            metrics: named
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// One iteration; with `sequence`, what the claims earn is paid as a sum at the end.
    pub(super) fn ppo(
        &self,
        learner: &mut Learner,
        kl: &mut AdaptiveKl,
        images: &[usize],
        seed: u64,
        sequence: bool,
    ) -> Result<RunMetrics, TrainError> {
        let begun = Instant::now();
        let groups = self.answers(
            learner,
            learner.weights()?,
            images,
            seed,
            self.config.samples,
        )?;
        let drawn = begun.elapsed().as_secs_f64();
        let answers = self.assess(&groups, learner, true)?;
        let earned = self.earn(&answers);
        let mut metrics = earned.metrics.clone();
        metrics.extend([
            ("rollout_seconds".to_owned(), drawn),
            (
                "assess_seconds".to_owned(),
                begun.elapsed().as_secs_f64() - drawn,
            ),
        ]);
        let written = written(
            &answers,
            &earned,
            &self.config.ppo,
            kl.beta as f32,
            sequence,
            self.config.samples,
        );
        let distance = |estimator: Estimator| {
            let tokens = answers
                .iter()
                .flat_map(|a| a.log_probs.iter().zip(&a.reference));
            tokens
                .map(|(own, reference)| f64::from(estimator.of(*own, *reference)))
                .sum::<f64>()
                / answers.len().max(1) as f64
        };
        // In the mean over so many tokens the estimate is steady enough; K3 explodes on a single
        // token that the reference all but excludes.
        let nats = distance(Estimator::K1);
        metrics.extend([("kl".to_owned(), nats), ("kl_beta".to_owned(), kl.beta)]);
        kl.update(nats, answers.len());
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
                    &written,
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

    /// One optimiser step on some of the groups, whose answers are written down in their order.
    fn ppo_step(
        &self,
        learner: &mut Learner,
        groups: &[AnswerGroup],
        written: &[PolicyTokens],
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
                groups.iter().for_each(|&group| all.extend(&written[group]));
                all.weights = vec![1.0 / total.max(1) as f32; all.log_probs.len()];
                Part {
                    shard,
                    written: all,
                }
            })
            .collect();
        let config = &self.config.ppo;
        let clip = Clip {
            ratio: config.clip,
            value: config.value_clip,
            log_ratio: config.log_ratio,
        };
        let seen = std::sync::Mutex::new(Vec::new());
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
                    let policy = policy_loss(&own, &part.written, &clip)?;
                    let values = select(&learner.value()?.values(&states)?, &part.shard.own)?;
                    let value = value_loss(&values, &part.written, &clip)?;
                    let share = clipped_share(
                        &ratios(&own, &part.written, &clip)?.to_vec1::<f32>()?,
                        &part.written.weights,
                        &clip,
                    );
                    let figures = (
                        f64::from(policy.to_scalar::<f32>()?),
                        f64::from(value.to_scalar::<f32>()?),
                        share,
                    );
                    seen.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push(figures);
                    let loss = (policy + (value * config.value_weight)?)?;
                    match self.human_loss(&part.shard, &model, &states, human)? {
                        Some(human) => loss + human,
                        None => Ok(loss),
                    }
                })?;
        let norm = learner.apply(gradients)?;
        let mut seen = seen
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // The workers end in any order, and sums of floats depend on theirs.
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sum = |of: fn(&(f64, f64, f64)) -> f64| seen.iter().map(of).sum::<f64>();
        let named = [
            ("loss", loss),
            ("policy_loss", sum(|f| f.0)),
            ("value_loss", sum(|f| f.1)),
            ("clipped", sum(|f| f.2) / seen.len().max(1) as f64),
            ("gradient_norm", norm),
        ];
        Ok(named
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

fn select(values: &Tensor, which: &[u32]) -> CandleResult<Tensor> {
    values.index_select(&Tensor::new(which, values.device())?, 0)
}

/// Rewards, advantages (whitened over all tokens) and returns of every group's answers, `each` a
/// group, behind one another.
fn written(
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
        at_the_end(&mut rewards, end);
        let charged = answer.log_probs.iter().zip(&answer.reference);
        rewards
            .iter_mut()
            .zip(charged)
            .for_each(|(r, (own, reference))| *r -= beta * Estimator::K1.of(*own, *reference));
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
    for written in &mut all {
        let (own, after) = rest.split_at(written.advantages.len());
        written.advantages.copy_from_slice(own);
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
    fn the_score_of_an_answer_is_paid_on_its_end_and_distance_on_every_token() {
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
        // Distance costs .25 a token.
        let tokens = written(&answers, &earned, &config, 0.5, false, 2);
        assert_eq!(tokens.len(), 1, "both answers belong to one image");
        assert_eq!(
            tokens[0].returns,
            [2.25, 2.5, 1.75, 6.5, 6.75],
            "the second token earned one, the last one two, and the second answer its own"
        );
        let whole = written(&answers, &earned, &config, 0.5, true, 2);
        assert_eq!(
            whole[0].returns,
            [2.25, 2.5, 2.75, 6.5, 6.75],
            "as a sequence, all of it is earned at the end"
        );
        assert!(tokens[0].advantages.iter().sum::<f32>().abs() < 1e-5);
    }
}
