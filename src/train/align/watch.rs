//! What a run is watched by: its averaged policy's greedy captions of the tuning half of the
//! development split, and when that is reason enough to stop.

use super::{
    answers::{AT_ONCE, AnswerGroup, AnswerSampling, AnswerShard, draw},
    config::WatchConfig,
    log::RunMetrics,
    reward::{FrozenModels, claims, scored},
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
    vlm::llava::PrefixDecoder,
};

/// What a look needs.
pub(super) struct WatchInputs<'a> {
    pub(super) setup: &'a Setup,
    pub(super) features: &'a Features,
    pub(super) judge: &'a FrozenModels,
    pub(super) config: WatchConfig,
    pub(super) max_tokens: usize,
}

/// An answer, whether it came to its end, and the scorer's rewards of the things that it names.
struct Seen {
    text: String,
    ended: bool,
    rewards: Vec<f32>,
}

impl WatchInputs<'_> {
    /// Captions the images and measures the captions.
    pub(super) fn look(&self, model: &PrefixDecoder) -> Result<RunMetrics, TrainError> {
        let images: Vec<usize> = (0..self.setup.data.dev.len())
            .filter(|&i| DevelopmentHalf::of(i) == DevelopmentHalf::Tune)
            .take(self.config.images)
            .collect();
        let policy = &self.setup.policy;
        let prompt = Corpus::prompt(&policy.tokenizer, &policy.template, "")?;
        let chunks: Vec<&[usize]> = images.chunks(AT_ONCE).collect();
        let seen = self.setup.workers.map(&chunks, |chunk| {
            let asked: Vec<AnswerGroup> = chunk
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
            let groups = draw(model, self.features, policy.tokenizer.eos(), &asked, greedy)?;
            let shard = AnswerShard::new(
                self.features,
                &groups.iter().collect::<Vec<_>>(),
                &[],
                policy.config.model.language.connector.tokens,
            )?;
            let judged = self.judge.judge(policy, &shard, 1.0)?;
            let mut first = 0;
            let seen = groups.iter().enumerate().map(|(i, group)| {
                let at = first..first + group.len();
                first = at.end;
                let tokens = &group.answers[0];
                let text = policy.tokenizer.decode(tokens);
                let labelled = LabeledText::all_good(text.clone());
                let places: Vec<_> = labelled.token_ranges(&policy.tokenizer, tokens).collect();
                let finisher = self.judge.finisher(&shard.clear.get(i)?)?;
                let rewards = judged.rewards(at, tokens, &policy.tokenizer, finisher.as_ref());
                let things = scored(&claims(&text), &places, &rewards)
                    .into_iter()
                    .filter(|c| c.thing);
                Ok(Seen {
                    rewards: things.map(|c| c.reward).collect(),
                    ended: tokens.last() == Some(&policy.tokenizer.eos()),
                    text,
                })
            });
            seen.collect::<candle_core::Result<Vec<_>>>()
        })?;
        Ok(self.metrics(&images, &seen.into_iter().flatten().collect::<Vec<_>>()))
    }

    fn metrics(&self, images: &[usize], seen: &[Seen]) -> RunMetrics {
        let dev = &self.setup.data.dev;
        let pairs: Vec<(&str, &[String])> = images
            .iter()
            .zip(seen)
            .map(|(&i, s)| (s.text.as_str(), dev[i].captions.as_slice()))
            .collect();
        let objects = ObjectScores::of(Lexicon::shared(), pairs.iter().copied());
        let figures = TextMetrics::of(&text::score(&pairs));
        let n = seen.len().max(1) as f64;
        let rewards: Vec<f32> = seen
            .iter()
            .flat_map(|s| s.rewards.iter().copied())
            .collect();
        let reward = mean(rewards.iter().map(|r| f64::from(*r))).unwrap_or(0.0);
        let chair_i = objects.chair_i().unwrap_or(0.0);
        let named = [
            ("chair_i", chair_i),
            ("chair_s", objects.chair_s().unwrap_or(0.0)),
            ("recall", objects.recall().unwrap_or(0.0)),
            ("cider_d", figures.cider_d),
            ("bleu_4", figures.bleu[3]),
            ("words", objects.mean_words().unwrap_or(0.0)),
            ("ended", seen.iter().filter(|s| s.ended).count() as f64 / n),
            ("reward", reward),
            // What the scorer believes and people do not say: it grows when the policy learns to
            // please the scorer.
            ("reward_gap", reward - (1.0 - chair_i)),
        ];
        named
            .into_iter()
            .map(|(name, value)| (format!("watch/{name}"), value))
            .collect()
    }
}

impl WatchConfig {
    /// Why a run should stop, by what was seen first and what is seen now.
    pub(super) fn broken(
        &self,
        first: impl Fn(&str) -> Option<f64>,
        now: &RunMetrics,
    ) -> Option<String> {
        let of = |name: &str| now.get(name).copied();
        let was = |name: &str| first(name).unwrap_or(f64::NAN);
        let floors = [
            (
                "watch/words",
                self.min_words * was("watch/words"),
                "the answers' length collapses",
            ),
            (
                "watch/recall",
                was("watch/recall") - self.max_recall_loss,
                "recall collapses",
            ),
            (
                "watch/cider_d",
                (1.0 - self.max_cider_loss) * was("watch/cider_d"),
                "the answers describe less",
            ),
            (
                "watch/ended",
                self.min_ended,
                "answers do not come to their end",
            ),
        ];
        let below = floors.into_iter().find_map(|(name, floor, why)| {
            let value = of(name)?;
            // A bound that is no number bounds nothing; a figure that is none breaks every bound.
            (value.is_nan() || value < floor)
                .then(|| format!("{why}: {name} is {value:.3}, below {floor:.3}"))
        });
        let far = |kl: &f64| kl.is_nan() || *kl > self.max_kl;
        below.or_else(|| {
            let kl = of("kl").filter(far)?;
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

    fn broken(change: &[(&str, f64)]) -> Option<String> {
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
        CONFIG.broken(|name| first.get(name).copied(), &now)
    }

    #[test]
    fn a_run_goes_on_while_nothing_breaks() {
        assert_eq!(broken(&[]), None);
        assert_eq!(
            broken(&[("watch/words", 7.0), ("watch/recall", 0.45), ("kl", 29.0)]),
            None
        );
    }

    #[test]
    fn each_collapse_is_named() {
        for (name, value, word) in [
            ("watch/words", 5.0, "length"),
            ("watch/recall", 0.39, "recall"),
            ("watch/cider_d", 0.3, "describe"),
            ("watch/ended", 0.5, "end"),
            ("kl", 31.0, "runs away"),
            ("watch/words", f64::NAN, "length"),
            ("kl", f64::NAN, "runs away"),
        ] {
            let why = broken(&[(name, value)]).unwrap_or_default();
            assert!(why.contains(word), "{name} {value}: {why}");
        }
    }
}
