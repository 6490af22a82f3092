//! Short answers of the policy, right and wrong, and what calibrations read of them.

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

/// Questions of people about a photograph.
const PER_PHOTOGRAPH: usize = 3;

/// Questions that captions settle about a photograph: as many as `candor eval vqa` asks.
const DERIVED_PER_PHOTOGRAPH: usize = 4;

/// Answers written at once.
const AT_ONCE: usize = 16;

/// How often a kind of question must have a kind of answer for the pair to be a feature.
const LEAST_PAIRS: usize = 10;

/// How many answers to a kind of question there must be for features of its own.
const LEAST_OF_KIND: usize = 30;

/// A question with its right answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EvidenceQuestion {
    /// Number of the photograph.
    pub(super) photograph: usize,
    pub(super) question: String,
    pub(super) right: Vec<String>,
}

/// What the policy answered.
pub(super) struct PolicyAnswer {
    pub(super) asked: EvidenceQuestion,
    pub(super) answer: String,
    /// The bundle's raw scores of its tokens, and the policy's log-probabilities.
    scored: ComparedText,
}

impl PolicyAnswer {
    /// Returns what the question asks for.
    pub(super) fn kind(&self) -> QuestionKind {
        question::kind(&self.asked.question)
    }

    /// Returns `true` if it is right and may be given. None about a radiograph may: what is right
    /// there is a guess.
    pub(super) fn is_right(&self, origin: PhotographOrigin) -> bool {
        origin != PhotographOrigin::VqaRad && is_right(&self.answer, &self.asked.right)
    }
}

impl MentionScorer<'_> {
    /// Questions about photographs behind the training split: those that captions and COCO's
    /// objects settle, and people's.
    pub(super) fn questions(&self, seed: u64) -> Vec<EvidenceQuestion> {
        let photographs = self.photographs;
        let mut asked = Vec::new();
        let stats = CaptionStats::new(&self.setup.data.train, Lexicon::shared());
        let builder = QaBuilder::new(&stats, Lexicon::shared());
        for i in photographs.of(PhotographOrigin::Flickr8k) {
            let pairs = builder.pairs(
                &photographs.all[i].image,
                &mut SmallRng::seed_from_u64(seed ^ (i as u64 + 1)),
                DERIVED_PER_PHOTOGRAPH,
            );
            let closed = pairs.into_iter().filter(|qa| qa.kind.is_closed());
            asked.extend(closed.map(|qa| EvidenceQuestion {
                photograph: i,
                question: qa.question,
                right: vec![qa.answer],
            }));
        }
        let numbers: BTreeMap<&str, usize> = photographs
            .of(PhotographOrigin::CocoMini)
            .map(|i| (photographs.all[i].image.name.as_str(), i))
            .collect();
        let objects: Vec<(&str, &BTreeSet<String>)> = photographs
            .of(PhotographOrigin::CocoMini)
            .filter_map(|i| {
                Some((
                    photographs.all[i].image.name.as_str(),
                    photographs.all[i].objects.as_ref()?,
                ))
            })
            .collect();
        for built in pope::build(&objects, pope::Setting::Random, 1, seed) {
            let (Some(&photograph), Some(object)) =
                (numbers.get(built.image.as_str()), &built.object)
            else {
                continue;
            };
            let right = vec![if built.present { "yes" } else { "no" }.to_owned()];
            asked.push(EvidenceQuestion {
                photograph,
                question: consistency::questions(object).plain,
                right,
            });
        }
        let mut of_people: BTreeMap<usize, Vec<EvidenceQuestion>> = BTreeMap::new();
        for (photograph, question) in &photographs.questions {
            let one = EvidenceQuestion {
                photograph: *photograph,
                question: question.question.clone(),
                right: question.answers.clone(),
            };
            of_people.entry(*photograph).or_default().push(one);
        }
        for (photograph, mut questions) in of_people {
            questions.shuffle(&mut SmallRng::seed_from_u64(seed ^ (photograph as u64 + 1)));
            asked.extend(questions.into_iter().take(PER_PHOTOGRAPH));
        }
        asked.retain(|asked| question::kind(&asked.question) != QuestionKind::Caption);
        asked.sort_by_key(|asked| asked.photograph);
        asked
    }

    /// Lets the policy answer, and scores the answers; those that are too long to be withheld are
    /// left out.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn answers(
        &self,
        asked: &[EvidenceQuestion],
    ) -> Result<Vec<PolicyAnswer>, TrainError> {
        let (policy, train) = (&self.setup.policy, self.photographs.train);
        let chunks: Vec<&[EvidenceQuestion]> = asked.chunks(AT_ONCE).collect();
        let config = RolloutConfig {
            temperature: 0.0,
            seed: 0,
            max_tokens: SHORT_ANSWER + 1,
            eos: policy.tokenizer.eos(),
        };
        let written = self.setup.workers.map(&chunks, |chunk| {
            let views: Vec<(usize, usize)> = chunk
                .iter()
                .map(|asked| (asked.photograph - train, 0))
                .collect();
            let prompt = |asked: &EvidenceQuestion| {
                Corpus::prompt(&policy.tokenizer, &policy.template, &asked.question)
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
        let written = asked
            .iter()
            .zip(written.into_iter().flatten())
            .filter(|(_, tokens)| (1..=SHORT_ANSWER).contains(&tokens.len()));
        written.for_each(|(asked, tokens)| {
            by_photograph[asked.photograph - train].push((asked, policy.tokenizer.decode(&tokens)))
        });
        let said: Vec<Vec<_>> = by_photograph
            .iter()
            .map(|of| {
                let bare = |(asked, answer): &(&EvidenceQuestion, String)| {
                    let text = LabeledText {
                        text: answer.clone(),
                        ranges: Vec::new(),
                        rest: None,
                        recorded: None,
                    };
                    (
                        ImageStatement {
                            question: Some(asked.question.clone()),
                            text,
                            ends: false,
                        },
                        None,
                    )
                };
                of.iter().map(bare).collect()
            })
            .collect();
        let scored = score(self.setup, self.features, &self.scorer.contender, &said)?;
        let answered = |(scored, (asked, answer)): (ComparedText, &(&EvidenceQuestion, String))| {
            PolicyAnswer {
                asked: (*asked).clone(),
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

    /// The lowest reward of an answer's tokens by the scorer alone.
    pub(super) fn lowest(&self, answered: &PolicyAnswer) -> f32 {
        self.rewards(&answered.scored)
            .rewards
            .into_iter()
            .reduce(f32::min)
            .unwrap_or(0.0)
    }

    /// Returns what a calibration reads of an answer, as it is served.
    ///
    /// # Errors
    /// When the answer cannot be cut into tokens.
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
            &answered.asked.question,
            &written,
        ))
    }
}

/// Names of the features of answers: those that always are; what yes and no claim by kind of
/// question, and how familiar the photograph is by each other kind; and the pairs of a kind of
/// question and a kind of answer. Of these there are those that occur often enough. All features
/// share one ridge, so that a kind has weights of its own as far as its answers ask for them, and
/// else those of all kinds.
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
    let own = kinds
        .into_iter()
        .filter(|&(_, count)| count >= LEAST_OF_KIND)
        .map(|(kind, _)| kind);
    let claims = own.flat_map(|kind| {
        let features: &[&str] = if kind.is_yes_no() {
            &AnswerFeatures::CLAIMS
        } else {
            &["familiarity"]
        };
        features
            .iter()
            .map(move |name| format!("{}:{name}", kind.name()))
    });
    let often = pairs
        .into_iter()
        .filter(|&(_, count)| count >= LEAST_PAIRS)
        .map(|(pair, _)| pair);
    AnswerFeatures::NAMES
        .into_iter()
        .map(str::to_owned)
        .chain(claims)
        .chain(often)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_occur_often_have_features_of_their_own() {
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
