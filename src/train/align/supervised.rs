//! Imitation: the cross-entropy of given answers, and of what people wrote.

use candle_core::{Device, Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng};

use super::{
    answers::{AnswerGroup, AnswerShard, choose},
    learner::Learner,
    log::RunMetrics,
    run::Alignment,
};
use crate::{
    lexicon::Lexicon,
    train::{TrainError, corpus::Corpus, qa::QaBuilder, rows::ResponseBranch},
    vlm::{decoder::Regular, llava::PrefixDecoder, ops},
};

impl Alignment {
    /// Returns what people wrote about the groups' images, to be learnt beside the method's own
    /// answers; a function of the seed.
    pub(super) fn human(
        &self,
        groups: &[&AnswerGroup],
        seed: u64,
    ) -> Result<Vec<Vec<ResponseBranch>>, TrainError> {
        if self.config.human_weight == 0.0
            || self.config.human_captions + self.config.human_answers == 0
        {
            return Ok(Vec::new());
        }
        let policy = &self.setup.policy;
        let questions = QaBuilder::new(&self.stats, Lexicon::shared());
        let corpus = Corpus::new(
            &policy.tokenizer,
            &policy.template,
            &questions,
            self.config.human_answers,
        );
        let mut rng = SmallRng::seed_from_u64(seed);
        let of = |group: &&AnswerGroup| {
            let row = corpus.row(
                &self.setup.data.train[group.image],
                seed ^ group.image as u64,
            )?;
            Ok(choose(row, self.config.human_captions, &mut rng))
        };
        groups.iter().map(of).collect()
    }

    /// `human_weight` times the mean cross-entropy of what people wrote, a part of `total` such
    /// tokens; `None` where there is none.
    pub(super) fn human_loss(
        &self,
        shard: &AnswerShard,
        model: &PrefixDecoder,
        states: &Tensor,
        total: usize,
    ) -> CandleResult<Option<Tensor>> {
        let weight = self.config.human_weight / total.max(1) as f32;
        (!shard.human.is_empty())
            .then(|| imitation(shard, model, states, &shard.human, weight))
            .transpose()
    }

    /// One step of imitation of all answers of the groups.
    pub(super) fn imitate(
        &self,
        learner: &mut Learner,
        groups: &[AnswerGroup],
        seed: u64,
    ) -> Result<RunMetrics, TrainError> {
        let shards = self.shards(&groups.iter().collect::<Vec<_>>(), seed)?;
        let (own, human) = (
            shards.iter().map(|s| s.own.len()).sum::<usize>(),
            shards.iter().map(|s| s.human.len()).sum(),
        );
        let (loss, gradients) =
            self.setup
                .workers
                .gradients(&shards, &learner.optim.vars(), |shard| {
                    let model = learner.model()?;
                    let states = shard.states(&model, Regular::default())?;
                    let loss =
                        imitation(shard, &model, &states, &shard.own, 1.0 / own.max(1) as f32)?;
                    match self.human_loss(shard, &model, &states, human)? {
                        Some(human) => loss + human,
                        None => Ok(loss),
                    }
                })?;
        let norm = learner.apply(gradients)?;
        Ok(RunMetrics::from([
            ("loss".to_owned(), loss),
            ("gradient_norm".to_owned(), norm),
        ]))
    }

    /// Groups with what people wrote, dealt out to the workers.
    pub(super) fn shards(
        &self,
        groups: &[&AnswerGroup],
        seed: u64,
    ) -> Result<Vec<AnswerShard>, TrainError> {
        let human = self.human(groups, seed)?;
        let part = groups.len().div_ceil(self.setup.workers.count()).max(1);
        let image_tokens = self.setup.policy.config.model.language.connector.tokens;
        let of = |(i, groups): (usize, &[&AnswerGroup])| {
            let human = human
                .get(i * part..(i * part + groups.len()).min(human.len()))
                .unwrap_or_default();
            Ok(AnswerShard::new(
                &self.train_features,
                groups,
                human,
                image_tokens,
            )?)
        };
        groups.chunks(part).enumerate().map(of).collect()
    }
}

fn imitation(
    shard: &AnswerShard,
    model: &PrefixDecoder,
    states: &Tensor,
    which: &[u32],
    weight: f32,
) -> CandleResult<Tensor> {
    let logits = model
        .llama()
        .logits(&states.index_select(&Tensor::new(which, &Device::Cpu)?, 0)?)?;
    let targets: Vec<u32> = which
        .iter()
        .map(|&i| shard.batch.targets[i as usize])
        .collect();
    ops::cross_entropy(&logits, &targets, &vec![weight; targets.len()], 0.0)
}
