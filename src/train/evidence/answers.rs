//! Short answers of the policy to questions, and the features that calibrate them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    super::{
        TrainError,
        answers::ImageStatement,
        corpus::Corpus,
        labels::LabeledText,
        qa::QaBuilder,
        rollout::{RolloutConfig, samples},
        scored_split::{ComparedText, score},
        stats::CaptionStats,
    },
    mentions::MentionScorer,
};
use crate::{
    eval::{
        honesty::{PhotographOrigin, consistency},
        pope,
        vqa::is_right,
    },
    guard::{
        abstain::{SHORT_ANSWER, WrittenAnswer},
        question::{self, QuestionKind},
        words::words,
    },
    lexicon::Lexicon,
    reward::{
        answers::{AnswerFeatures, AnswerKind},
        evidence::{Evidence, ImageEvidence},
    },
};

/// Maximum of people's questions per photograph.
const PER_PHOTOGRAPH: usize = 3;

/// Maximum of questions derived from captions per photograph, as in `candor eval vqa`.
const DERIVED_PER_PHOTOGRAPH: usize = 4;

/// Answers sampled per batch.
const AT_ONCE: usize = 16;

/// Minimum count of a pair of question kind and answer kind to become a feature.
const MIN_PAIRS: usize = 10;

/// Minimum number of answers to a kind of question for it to get features of its own.
const MIN_OF_KIND: usize = 30;

/// Question about a photograph with its right answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EvidenceQuestion {
    /// Index of the photograph.
    pub(super) photograph: usize,
    pub(super) question: String,
    pub(super) right: Vec<String>,
}

/// The policy's answer to a question.
pub(super) struct PolicyAnswer {
    pub(super) question: EvidenceQuestion,
    pub(super) answer: String,
    /// Raw scores of the bundle's scorer and log-probabilities of the policy, per token.
    scored: ComparedText,
}

impl PolicyAnswer {
    /// Kind of the question.
    pub(super) fn kind(&self) -> QuestionKind {
        question::kind(&self.question.question)
    }

    /// Returns `true` if the answer is right and may be given. No answer about a radiograph may,
    /// since a right one is a guess.
    pub(super) fn is_right(&self, origin: PhotographOrigin) -> bool {
        origin != PhotographOrigin::VqaRad && is_right(&self.answer, &self.question.right)
    }
}

impl MentionScorer<'_> {
    /// Questions about photographs outside Flickr8k's training split: derived from captions,
    /// derived from COCO's objects, and people's.
    pub(super) fn questions(&self, seed: u64) -> Vec<EvidenceQuestion> {
        let photographs = self.photographs;
        let mut questions = Vec::new();
        let stats = CaptionStats::new(&self.setup.data.train, Lexicon::shared());
        let builder = QaBuilder::new(&stats, Lexicon::shared());
        for i in photographs.indices_of(PhotographOrigin::Flickr8k) {
            let pairs = builder.pairs(
                &photographs.all[i].image,
                &mut SmallRng::seed_from_u64(seed ^ (i as u64 + 1)),
                DERIVED_PER_PHOTOGRAPH,
            );
            let closed = pairs.into_iter().filter(|qa| qa.kind.is_closed());
            questions.extend(closed.map(|qa| EvidenceQuestion {
                photograph: i,
                question: qa.question,
                right: vec![qa.answer],
            }));
        }
        let numbers: BTreeMap<&str, usize> = photographs
            .indices_of(PhotographOrigin::CocoMini)
            .map(|i| (photographs.all[i].image.name.as_str(), i))
            .collect();
        let objects: Vec<(&str, &BTreeSet<String>)> = photographs
            .indices_of(PhotographOrigin::CocoMini)
            .filter_map(|i| {
                Some((
                    photographs.all[i].image.name.as_str(),
                    photographs.all[i].objects.as_ref()?,
                ))
            })
            .collect();
        for item in pope::build(&objects, pope::Setting::Random, 1, seed) {
            let (Some(&photograph), Some(object)) =
                (numbers.get(item.image.as_str()), &item.object)
            else {
                continue;
            };
            let right = vec![if item.present { "yes" } else { "no" }.to_owned()];
            questions.push(EvidenceQuestion {
                photograph,
                question: consistency::questions(object).plain,
                right,
            });
        }
        let mut human_questions: BTreeMap<usize, Vec<EvidenceQuestion>> = BTreeMap::new();
        for (photograph, question) in &photographs.questions {
            let one = EvidenceQuestion {
                photograph: *photograph,
                question: question.question.clone(),
                right: question.answers.clone(),
            };
            human_questions.entry(*photograph).or_default().push(one);
        }
        for (photograph, mut asked) in human_questions {
            asked.shuffle(&mut SmallRng::seed_from_u64(seed ^ (photograph as u64 + 1)));
            questions.extend(asked.into_iter().take(PER_PHOTOGRAPH));
        }
        questions.retain(|item| question::kind(&item.question) != QuestionKind::Caption);
        questions.sort_by_key(|item| item.photograph);
        questions
    }

    /// Samples the policy's greedy answers and scores them. Answers too long to be withheld are
    /// dropped.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn answers(
        &self,
        questions: &[EvidenceQuestion],
    ) -> Result<Vec<PolicyAnswer>, TrainError> {
        let (policy, train) = (&self.setup.policy, self.photographs.train);
        let chunks: Vec<&[EvidenceQuestion]> = questions.chunks(AT_ONCE).collect();
        let config = RolloutConfig {
            temperature: 0.0,
            seed: 0,
            max_tokens: SHORT_ANSWER + 1,
            eos: policy.tokenizer.eos(),
        };
        let sampled = self.setup.workers.map(&chunks, |chunk| {
            let views: Vec<(usize, usize)> = chunk
                .iter()
                .map(|question| (question.photograph - train, 0))
                .collect();
            let prompt = |question: &EvidenceQuestion| {
                Corpus::prompt(&policy.tokenizer, &policy.template, &question.question)
                    .map_err(candle_core::Error::wrap)
            };
            let prompts = chunk
                .iter()
                .map(prompt)
                .collect::<candle_core::Result<Vec<_>>>()?;
            samples(
                &policy.model,
                &self.features.batch(&views)?,
                &prompts,
                1,
                config,
            )
        })?;
        let mut by_photograph: Vec<Vec<(&EvidenceQuestion, String)>> =
            vec![Vec::new(); self.photographs.all.len() - train];
        let written = questions
            .iter()
            .zip(sampled.into_iter().flatten())
            .filter(|(_, tokens)| (1..=SHORT_ANSWER).contains(&tokens.len()));
        written.for_each(|(question, tokens)| {
            by_photograph[question.photograph - train]
                .push((question, policy.tokenizer.decode(&tokens)))
        });
        let statements: Vec<Vec<_>> = by_photograph
            .iter()
            .map(|answers| {
                let statement = |(question, answer): &(&EvidenceQuestion, String)| {
                    let text = LabeledText {
                        text: answer.clone(),
                        ranges: Vec::new(),
                        rest: None,
                        recorded: None,
                    };
                    (
                        ImageStatement {
                            question: Some(question.question.clone()),
                            text,
                            ends: false,
                        },
                        None,
                    )
                };
                answers.iter().map(statement).collect()
            })
            .collect();
        let scored = score(self.setup, self.features, &self.scorer.scorer, &statements)?;
        let answered =
            |(scored, (question, answer)): (ComparedText, &(&EvidenceQuestion, String))| {
                PolicyAnswer {
                    question: (*question).clone(),
                    answer: answer.clone(),
                    scored,
                }
            };
        Ok(scored
            .into_iter()
            .zip(by_photograph.iter().flatten())
            .map(answered)
            .collect())
    }

    /// Lowest reward of an answer's tokens from the scorer alone, without evidence.
    pub(super) fn lowest(&self, answered: &PolicyAnswer) -> f32 {
        self.rewards(&answered.scored)
            .rewards
            .into_iter()
            .reduce(f32::min)
            .unwrap_or(0.0)
    }

    /// Calibration features of an answer, as in serving.
    ///
    /// # Errors
    /// When the answer cannot be tokenized.
    pub(super) fn answer_features(
        &self,
        answered: &PolicyAnswer,
        evidence: &Arc<Evidence>,
        image: &ImageEvidence,
    ) -> Result<AnswerFeatures, TrainError> {
        let (tokens, scored) = self.served(&answered.scored, evidence, image)?;
        let bytes = tokens
            .iter()
            .map(|&token| self.setup.policy.tokenizer.bytes(token));
        let (_, words) = words(bytes, &scored.rewards);
        let written = WrittenAnswer {
            text: &answered.answer,
            score: words.iter().filter_map(|word| word.score).reduce(f32::min),
            log_probability: scored.log_probabilities.iter().sum(),
        };
        Ok(AnswerFeatures::new(
            evidence,
            image,
            &answered.question.question,
            &written,
        ))
    }
}

/// Names of the features of answers: common ones; yes/no claims (or familiarity) by kind of
/// question; and pairs of question kind and answer kind. Kinds and pairs are included if frequent
/// enough. All features share one ridge penalty, so a kind gets weights of its own only as far as
/// its answers support them.
pub(super) fn names<'a>(
    answered: impl IntoIterator<Item = (QuestionKind, &'a str)>,
) -> Vec<String> {
    let mut kinds: BTreeMap<QuestionKind, usize> = BTreeMap::new();
    let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, answer) in answered {
        *kinds.entry(kind).or_default() += 1;
        *pairs
            .entry(format!(
                "{}>{}",
                kind.name(),
                AnswerKind::classify(answer).name()
            ))
            .or_default() += 1;
    }
    let frequent_kinds = kinds
        .into_iter()
        .filter(|&(_, count)| count >= MIN_OF_KIND)
        .map(|(kind, _)| kind);
    let claims = frequent_kinds.flat_map(|kind| {
        let features: &[&str] = if kind.is_yes_no() {
            &AnswerFeatures::CLAIMS
        } else {
            &["familiarity"]
        };
        features
            .iter()
            .map(move |name| format!("{}:{name}", kind.name()))
    });
    let frequent = pairs
        .into_iter()
        .filter(|&(_, count)| count >= MIN_PAIRS)
        .map(|(pair, _)| pair);
    AnswerFeatures::NAMES
        .into_iter()
        .map(str::to_owned)
        .chain(claims)
        .chain(frequent)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_frequent_kinds_get_their_own_features() {
        let times = |n: usize, kind, answer| std::iter::repeat_n((kind, answer), n);
        let answered = times(30, QuestionKind::Presence, "Yes.")
            .chain(times(29, QuestionKind::YesNo, "No."))
            .chain(times(9, QuestionKind::Count, "Two."))
            .chain(times(50, QuestionKind::Color, "Red."));
        let found = names(answered);
        let own = &found[AnswerFeatures::NAMES.len()..];
        let want = [
            "color:familiarity",
            "presence:asked_evidence_claimed",
            "presence:asked_evidence_minus_prior_claimed",
            "presence:claim",
            "color>color",
            "presence>yes_no",
            "yes_no>yes_no",
        ];
        assert_eq!(own, want);
        assert!(found.iter().all(|name| AnswerFeatures::is_known(name)));
        assert_eq!(names([]), AnswerFeatures::NAMES);
    }
}
