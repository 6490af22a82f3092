//! Imitation: cross-entropy on given answers and on human texts.

use candle_core::{Device, Result as CandleResult, Tensor};
use rand::{SeedableRng, rngs::SmallRng};

use super::{
    answers::{AnswerGroup, AnswerShard, subsample_captions},
    learner::Learner,
    log::RunMetrics,
    run::Alignment,
};
use crate::{
    lexicon::Lexicon,
    train::{TrainError, corpus::Corpus, qa::QaBuilder, rows::ResponseBranch},
    vlm::{decoder::Regular, models::candor_mini::PrefixDecoder, nn},
};

impl Alignment {
    /// Human captions and question-answer pairs of the groups' images, for the loss beside the
    /// method's own; deterministic in `seed`.
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
        let branches = |group: &&AnswerGroup| {
            let row = corpus.row(
                &self.setup.data.train[group.image],
                seed ^ group.image as u64,
            )?;
            Ok(subsample_captions(
                row,
                self.config.human_captions,
                &mut rng,
            ))
        };
        groups.iter().map(branches).collect()
    }

    /// Weighted cross-entropy on the shard's human texts, normalized by `total` such tokens of the
    /// batch; `None` if the shard has none.
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

    /// Takes one cross-entropy step on all answers of the groups.
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

    /// Splits groups and their human texts into one shard per worker.
    pub(super) fn shards(
        &self,
        groups: &[&AnswerGroup],
        seed: u64,
    ) -> Result<Vec<AnswerShard>, TrainError> {
        let human = self.human(groups, seed)?;
        let part = groups.len().div_ceil(self.setup.workers.count()).max(1);
        let image_tokens = self.setup.policy.config.model.language.connector.tokens;
        let shard = |(i, groups): (usize, &[&AnswerGroup])| {
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
        groups.chunks(part).enumerate().map(shard).collect()
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
    nn::cross_entropy(&logits, &targets, &vec![weight; targets.len()], 0.0)
}
