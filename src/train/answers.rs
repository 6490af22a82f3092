//! Right and wrong short answers to questions derived from captions, for training and evaluating
//! scorers.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    TrainError,
    corpus::Corpus,
    features::Features,
    labels::LabeledText,
    qa::{Qa, QaBuilder, QaKind},
    reward_data::judged,
    rollout::{self, RolloutConfig},
    setup::Setup,
    stats::CaptionStats,
    text::normalize_caption,
};
use crate::eval::data::flickr8k::Image;
use crate::lexicon::Lexicon;

/// Longest sampled answer in tokens.
const MAX_TOKENS: usize = 12;

/// Number of images whose questions fill the pool of wrong answers.
const POOL: usize = 1000;

/// Labeled text about an image: an answer to a question, or a description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageStatement {
    /// Question, or `None` for a description.
    pub(super) question: Option<String>,
    /// Text with its labels.
    pub(super) text: LabeledText,
    /// `true` if the end token belongs to the text, so that a language model may learn from it.
    pub(super) ends: bool,
}

impl From<LabeledText> for ImageStatement {
    fn from(text: LabeledText) -> Self {
        Self {
            question: None,
            text,
            ends: false,
        }
    }
}

impl ImageStatement {
    /// Creates an answer that is right or wrong as a whole.
    pub(super) fn answer(question: String, answer: String, right: bool) -> Self {
        let words = 0..answer.trim_end_matches('.').len();
        Self {
            question: Some(question),
            text: LabeledText {
                text: answer,
                ranges: vec![(words, Some(right))],
                rest: None,
                recorded: None,
            },
            ends: false,
        }
    }
}

/// Returns `true` if an answer equals the captions' own, ignoring case.
pub(super) fn is_right(answer: &str, qa: &Qa) -> bool {
    answer.eq_ignore_ascii_case(&qa.answer)
}

/// Sampling parameters of derived questions and their answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuestionForm {
    /// Maximum questions per image.
    pub(super) n: usize,
    /// Sampling temperature; 0 is greedy.
    pub(super) temperature: f32,
    /// Seed of questions and answers.
    pub(super) seed: u64,
}

/// Samples the policy's answers to derived closed questions about each image, with the questions.
pub(super) fn own_answers(
    setup: &Setup,
    images: &[Image],
    features: &Features,
    stats: &CaptionStats,
    QuestionForm {
        n,
        temperature,
        seed,
    }: QuestionForm,
) -> Result<Vec<Vec<(String, Qa)>>, TrainError> {
    let builder = QaBuilder::new(stats, Lexicon::shared());
    let questions = |i: usize, rng: &mut SmallRng| {
        let pairs = builder.pairs(&images[i], rng, n);
        pairs
            .into_iter()
            .filter(|qa| qa.kind.is_closed())
            .map(|qa| (qa.question.clone(), qa))
            .collect()
    };
    sample_answers(setup, features, temperature, seed, questions)
}

/// Samples the policy's answers to questions about each image of `features`, each with the payload
/// of its question. `questions` draws the questions of an image.
pub(super) fn sample_answers<Q: Send>(
    setup: &Setup,
    features: &Features,
    temperature: f32,
    seed: u64,
    questions: impl Fn(usize, &mut SmallRng) -> Vec<(String, Q)> + Sync,
) -> Result<Vec<Vec<(String, Q)>>, TrainError> {
    let policy = &setup.policy;
    let all: Vec<usize> = (0..features.len()).collect();
    let answered = setup.workers.map(&all, |&i| {
        let seed = seed ^ (i as u64 + 1) << 20;
        let features = features.batch(&[(i, 0)])?;
        let config = RolloutConfig {
            temperature,
            seed,
            max_tokens: MAX_TOKENS,
            eos: policy.tokenizer.eos(),
        };
        let answer = |(question, payload): (String, Q)| {
            let prompt = Corpus::prompt(&policy.tokenizer, &policy.template, &question)
                .map_err(candle_core::Error::wrap)?;
            let tokens = rollout::answers(&policy.model, &features, &prompt, config)?.concat();
            Ok((policy.tokenizer.decode(&tokens), payload))
        };
        questions(i, &mut SmallRng::seed_from_u64(seed))
            .into_iter()
            .map(answer)
            .collect::<candle_core::Result<Vec<_>>>()
    })?;
    Ok(answered)
}

/// Generator of right and wrong answers in the style of a training split.
pub(super) struct AnswerGenerator {
    /// Answers by kind of question; frequent answers are listed more often.
    pool: BTreeMap<QaKind, Vec<String>>,
}

impl AnswerGenerator {
    /// Collects answers to questions about some of `images`.
    pub(super) fn new(images: &[Image], stats: &CaptionStats) -> Self {
        let builder = QaBuilder::new(stats, Lexicon::shared());
        let mut pool: BTreeMap<QaKind, Vec<String>> = BTreeMap::new();
        for (i, image) in images.iter().take(POOL).enumerate() {
            for qa in builder.pairs(image, &mut SmallRng::seed_from_u64(i as u64), 4) {
                pool.entry(qa.kind).or_default().push(qa.answer);
            }
        }
        Self { pool }
    }

    /// Answers to at most `n` questions about an image, half of them replaced. A replaced answer to
    /// a closed question is wrong; other replacements come from another image and are judged by the
    /// object mentions in them.
    pub(super) fn answers(
        &self,
        builder: &QaBuilder<'_>,
        image: &Image,
        n: usize,
        rng: &mut impl Rng,
    ) -> Vec<ImageStatement> {
        let references: Vec<String> = image
            .captions
            .iter()
            .map(|c| normalize_caption(c))
            .collect();
        let mut statements = Vec::new();
        for qa in builder.pairs(image, rng, n) {
            let change = rng.random_bool(0.5);
            let other = if change { self.other(&qa, rng) } else { None };
            if change && other.is_none() {
                continue;
            }
            let answer = other.unwrap_or_else(|| qa.answer.clone());
            statements.push(if qa.kind.is_closed() {
                ImageStatement::answer(qa.question, answer, !change)
            } else {
                ImageStatement {
                    question: Some(qa.question),
                    text: judged(answer, &references),
                    ends: false,
                }
            });
        }
        statements
    }

    /// Different answer to the same question; `None` if the drawn one overlaps with the right one.
    fn other(&self, qa: &Qa, rng: &mut impl Rng) -> Option<String> {
        if let Some(yes) = qa.yes() {
            return Some(if yes { "No." } else { "Yes." }.to_owned());
        }
        let normalized = |answer: &str| answer.trim_end_matches('.').to_lowercase();
        let (right, other) = (
            normalized(&qa.answer),
            self.pool.get(&qa.kind)?.choose(rng)?,
        );
        // "Brown" is not wrong where "brown and white" is right.
        let differs = !right.contains(&normalized(other)) && !normalized(other).contains(&right);
        differs.then(|| other.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::stats::tests::image;

    #[test]
    fn answers_about_half_are_wrong_and_labeled_so() {
        let black = image(&[
            "A black dog runs through the grass .",
            "A black dog on grass .",
            "The black dog .",
        ]);
        let white = image(&[
            "Two white cats on a sofa .",
            "Two white cats on a couch .",
            "Two white cats .",
        ]);
        let images: Vec<Image> = (0..20)
            .flat_map(|_| [black.clone(), white.clone()])
            .collect();
        let stats = CaptionStats::new(&images, Lexicon::shared());
        let (answers, builder) = (
            AnswerGenerator::new(&images, &stats),
            QaBuilder::new(&stats, Lexicon::shared()),
        );
        let mut rng = SmallRng::seed_from_u64(7);
        let statements: Vec<ImageStatement> = (0..200)
            .flat_map(|_| answers.answers(&builder, &black, 4, &mut rng))
            .collect();
        let colors: Vec<_> = statements
            .iter()
            .filter(|s| s.question.as_deref() == Some("What color is the dog?"))
            .collect();
        let right =
            |s: &&&ImageStatement| s.text.ranges == [(0..s.text.text.len() - 1, Some(true))];
        assert!(
            colors
                .iter()
                .all(|s| right(&s) == (s.text.text == "Black.")),
            "{colors:?}"
        );
        let n = colors.iter().filter(right).count();
        assert!(n > 0 && n < colors.len(), "{n} of {}", colors.len());
        assert!(statements.iter().any(|s| s.text.text == "No."));
    }
}
