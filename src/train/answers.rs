//! Short answers to derived questions, right and wrong, for the scorers to learn from and to be
//! judged on.

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

/// Longest answer in a rollout, in tokens.
const MAX_TOKENS: usize = 12;

/// Images whose questions fill the pool of answers.
const POOL: usize = 1000;

/// Something said about an image: an answer to a question, or a description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageStatement {
    /// What was asked; `None` for a description.
    pub(super) question: Option<String>,
    /// What was said, and what is known about it.
    pub(super) text: LabeledText,
    /// Indicates whether the token that ends an answer belongs to it: a language model may learn
    /// it.
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
    /// An answer that is right or wrong as a whole.
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

/// Returns `true` if an answer is the captions' own.
pub(super) fn is_right(answer: &str, qa: &Qa) -> bool {
    answer.eq_ignore_ascii_case(&qa.answer)
}

/// How derived questions are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuestionForm {
    /// Most questions an image.
    pub(super) n: usize,
    /// 0 answers greedily.
    pub(super) temperature: f32,
    /// Seed of questions and answers.
    pub(super) seed: u64,
}

/// The policy's own answers to derived questions about each image whose answers the captions
/// settle.
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
    answers_to(setup, features, temperature, seed, questions)
}

/// The policy's own answers to questions about each image that `features` are of, each with what
/// else is known of its question. `questions` draws those of an image.
pub(super) fn answers_to<Q: Send>(
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
        let answer = |(question, known): (String, Q)| {
            let prompt = Corpus::prompt(&policy.tokenizer, &policy.template, &question)
                .map_err(candle_core::Error::wrap)?;
            let tokens = rollout::answers(&policy.model, &features, &prompt, config)?.concat();
            Ok((policy.tokenizer.decode(&tokens), known))
        };
        questions(i, &mut SmallRng::seed_from_u64(seed))
            .into_iter()
            .map(answer)
            .collect::<candle_core::Result<Vec<_>>>()
    })?;
    Ok(answered)
}

/// Makes right and wrong answers in the manner of a training split.
pub(super) struct AnswerGenerator {
    /// What is answered to questions of a kind; common answers stand there more often.
    pool: BTreeMap<QaKind, Vec<String>>,
}

impl AnswerGenerator {
    /// Gathers answers to questions about some of `images`.
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

    /// Answers to at most `n` questions about an image, half of them changed. Where the captions
    /// settle the answer the change is wrong; other answers come from another image and are judged
    /// by what they name.
    pub(super) fn of(
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
        let mut said = Vec::new();
        for qa in builder.pairs(image, rng, n) {
            let change = rng.random_bool(0.5);
            let other = if change { self.other(&qa, rng) } else { None };
            if change && other.is_none() {
                continue;
            }
            let answer = other.unwrap_or_else(|| qa.answer.clone());
            said.push(if qa.kind.is_closed() {
                ImageStatement::answer(qa.question, answer, !change)
            } else {
                ImageStatement {
                    question: Some(qa.question),
                    text: judged(answer, &references),
                    ends: false,
                }
            });
        }
        said
    }

    /// Another answer to the same question.
    fn other(&self, qa: &Qa, rng: &mut impl Rng) -> Option<String> {
        if let Some(yes) = qa.yes() {
            return Some(if yes { "No." } else { "Yes." }.to_owned());
        }
        let bare = |answer: &str| answer.trim_end_matches('.').to_lowercase();
        let (right, other) = (bare(&qa.answer), self.pool.get(&qa.kind)?.choose(rng)?);
        // "Brown" is not wrong where "brown and white" is right.
        let differs = !right.contains(&bare(other)) && !bare(other).contains(&right);
        differs.then(|| other.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::stats::tests::image;

    #[test]
    fn half_of_the_answers_are_wrong_and_say_so() {
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
        let said: Vec<ImageStatement> = (0..200)
            .flat_map(|_| answers.of(&builder, &black, 4, &mut rng))
            .collect();
        let colours: Vec<_> = said
            .iter()
            .filter(|s| s.question.as_deref() == Some("What color is the dog?"))
            .collect();
        let right =
            |s: &&&ImageStatement| s.text.ranges == [(0..s.text.text.len() - 1, Some(true))];
        assert!(
            colours
                .iter()
                .all(|s| right(&s) == (s.text.text == "Black.")),
            "{colours:?}"
        );
        let n = colours.iter().filter(right).count();
        assert!(n > 0 && n < colours.len(), "{n} of {}", colours.len());
        assert!(said.iter().any(|s| s.text.text == "No."));
    }
}
