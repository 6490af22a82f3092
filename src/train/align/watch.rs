//! Evaluation during a run: greedy captions of the tuning half of the development split by the
//! averaged policy, and the bounds that stop the run.

use super::{
    answers::{AT_ONCE, AnswerGroup, AnswerSampling, AnswerShard, sample_answers},
    config::WatchConfig,
    log::RunMetrics,
    reward::{FrozenModels, claims, scored_claims},
};
use crate::{
    eval::{
        objects::ObjectScores,
        text::{self, TextMetrics},
    },
    lexicon::Lexicon,
    train::{
        TrainError, corpus::Corpus, features::Features, labels::LabeledText,
        scored_split::DevelopmentHalf, setup::Setup,
    },
    util::numbers::mean,
    vlm::models::candor_mini::PrefixDecoder,
};

/// Inputs of an evaluation.
pub(super) struct WatchInputs<'a> {
    pub(super) setup: &'a Setup,
    pub(super) features: &'a Features,
    pub(super) judge: &'a FrozenModels,
    pub(super) config: WatchConfig,
    pub(super) max_tokens: usize,
}

/// Greedy caption, with the rewards of its object mentions.
struct WatchedCaption {
    text: String,
    ended: bool,
    rewards: Vec<f32>,
}

impl WatchInputs<'_> {
    /// Captions the images and computes the metrics.
    pub(super) fn evaluate(&self, model: &PrefixDecoder) -> Result<RunMetrics, TrainError> {
        let images: Vec<usize> = (0..self.setup.data.dev.len())
            .filter(|&i| DevelopmentHalf::for_image(i) == DevelopmentHalf::Tune)
            .take(self.config.images)
            .collect();
        let policy = &self.setup.policy;
        let prompt = Corpus::prompt(&policy.tokenizer, &policy.template, "")?;
        let chunks: Vec<&[usize]> = images.chunks(AT_ONCE).collect();
        let captions = self.setup.workers.map(&chunks, |chunk| {
            let prompted: Vec<AnswerGroup> = chunk
                .iter()
                .map(|&image| AnswerGroup {
                    image,
                    view: 0,
                    hidden: Vec::new(),
                    prompt: prompt.clone(),
                    answers: Vec::new(),
                })
                .collect();
            let greedy = AnswerSampling {
                each: 1,
                temperature: 0.0,
                max_tokens: self.max_tokens,
                seed: 0,
            };
            let groups = sample_answers(
                model,
                self.features,
                policy.tokenizer.eos(),
                &prompted,
                greedy,
            )?;
            let shard = AnswerShard::new(
                self.features,
                &groups.iter().collect::<Vec<_>>(),
                &[],
                policy.config.model.language.connector.tokens,
            )?;
            let frozen = self.judge.judge(policy, &shard, 1.0)?;
            let mut first = 0;
            let captions = groups.iter().enumerate().map(|(i, group)| {
                let range = first..first + group.len();
                first = range.end;
                let tokens = &group.answers[0];
                let text = policy.tokenizer.decode(tokens);
                let labeled = LabeledText::all_good(text.clone());
                let token_ranges: Vec<_> =
                    labeled.token_ranges(&policy.tokenizer, tokens).collect();
                let finisher = self.judge.finisher(&shard.clear.get(i)?)?;
                let rewards = frozen.rewards(range, tokens, &policy.tokenizer, finisher.as_ref());
                let objects = scored_claims(&claims(&text), &token_ranges, &rewards)
                    .into_iter()
                    .filter(|c| c.object);
                Ok(WatchedCaption {
                    rewards: objects.map(|c| c.reward).collect(),
                    ended: tokens.last() == Some(&policy.tokenizer.eos()),
                    text,
                })
            });
            captions.collect::<candle_core::Result<Vec<_>>>()
        })?;
        Ok(self.metrics(&images, &captions.into_iter().flatten().collect::<Vec<_>>()))
    }

    fn metrics(&self, images: &[usize], captions: &[WatchedCaption]) -> RunMetrics {
        let dev = &self.setup.data.dev;
        let pairs: Vec<(&str, &[String])> = images
            .iter()
            .zip(captions)
            .map(|(&i, s)| (s.text.as_str(), dev[i].captions.as_slice()))
            .collect();
        let objects = ObjectScores::judge_all(Lexicon::shared(), pairs.iter().copied());
        let figures = TextMetrics::from_scores(&text::score(&pairs));
        let n = captions.len().max(1) as f64;
        let rewards: Vec<f32> = captions
            .iter()
            .flat_map(|s| s.rewards.iter().copied())
            .collect();
        let reward = mean(rewards.iter().map(|r| f64::from(*r))).unwrap_or(0.0);
        let chair_i = objects.chair_i().unwrap_or(0.0);
        let metrics = [
            ("chair_i", chair_i),
            ("chair_s", objects.chair_s().unwrap_or(0.0)),
            ("recall", objects.recall().unwrap_or(0.0)),
            ("cider_d", figures.cider_d),
            ("bleu_4", figures.bleu[3]),
            ("words", objects.mean_words().unwrap_or(0.0)),
            (
                "ended",
                captions.iter().filter(|s| s.ended).count() as f64 / n,
            ),
            ("reward", reward),
            // Reward that the references do not bear out: it grows when the policy exploits the
            // scorer.
            ("reward_gap", reward - (1.0 - chair_i)),
        ];
        metrics
            .into_iter()
            .map(|(name, value)| (format!("watch/{name}"), value))
            .collect()
    }
}

impl WatchConfig {
    /// Describes the bound that is violated, comparing the initial and the current metrics; `None`
    /// if all hold.
    pub(super) fn violated_bound(
        &self,
        first: impl Fn(&str) -> Option<f64>,
        now: &RunMetrics,
    ) -> Option<String> {
        let current = |name: &str| now.get(name).copied();
        let initial = |name: &str| first(name).unwrap_or(f64::NAN);
        let floors = [
            (
                "watch/words",
                self.min_words * initial("watch/words"),
                "the answers' length collapses",
            ),
            (
                "watch/recall",
                initial("watch/recall") - self.max_recall_loss,
                "recall collapses",
            ),
            (
                "watch/cider_d",
                (1.0 - self.max_cider_loss) * initial("watch/cider_d"),
                "the answers describe less",
            ),
            (
                "watch/ended",
                self.min_ended,
                "answers do not come to their end",
            ),
        ];
        let below = floors.into_iter().find_map(|(name, floor, why)| {
            let value = current(name)?;
            // A NaN bound bounds nothing; a NaN metric violates every bound.
            (value.is_nan() || value < floor)
                .then(|| format!("{why}: {name} is {value:.3}, below {floor:.3}"))
        });
        let far = |kl: &f64| kl.is_nan() || *kl > self.max_kl;
        below.or_else(|| {
            let kl = current("kl").filter(far)?;
            Some(format!(
                "the policy runs away from its reference: {kl:.1} nats an answer, above {:.1}",
                self.max_kl
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: WatchConfig = WatchConfig {
        every: 1,
        images: 1,
        max_kl: 30.0,
        min_words: 0.6,
        max_recall_loss: 0.1,
        max_cider_loss: 0.3,
        min_ended: 0.9,
    };

    fn violated_bound(change: &[(&str, f64)]) -> Option<String> {
        let first = RunMetrics::from(
            [
                ("watch/words", 10.0),
                ("watch/recall", 0.5),
                ("watch/cider_d", 0.5),
                ("watch/ended", 1.0),
                ("kl", 5.0),
            ]
            .map(|(k, v)| (k.to_owned(), v)),
        );
        let mut now = first.clone();
        now.extend(change.iter().map(|(k, v)| ((*k).to_owned(), *v)));
        CONFIG.violated_bound(|name| first.get(name).copied(), &now)
    }

    #[test]
    fn violated_bound_within_bounds_is_none() {
        assert_eq!(violated_bound(&[]), None);
        assert_eq!(
            violated_bound(&[("watch/words", 7.0), ("watch/recall", 0.45), ("kl", 29.0)]),
            None
        );
    }

    #[test]
    fn violated_bound_names_each_collapse() {
        for (name, value, word) in [
            ("watch/words", 5.0, "length"),
            ("watch/recall", 0.39, "recall"),
            ("watch/cider_d", 0.3, "describe"),
            ("watch/ended", 0.5, "end"),
            ("kl", 31.0, "runs away"),
            ("watch/words", f64::NAN, "length"),
            ("kl", f64::NAN, "runs away"),
        ] {
            let why = violated_bound(&[(name, value)]).unwrap_or_default();
            assert!(why.contains(word), "{name} {value}: {why}");
        }
    }
}
