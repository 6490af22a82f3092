//! Texts whose truth is known, scored by contenders: what `candor eval reward` and the calibration
//! look at.
//!
//! The development split's images are dealt out in turn: the first, third, ... tune (calibration,
//! thresholds, choices), the second, fourth, ... report.

use std::{ops::Range, path::Path};

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    TrainError,
    answers::{ImageStatement, QuestionForm, is_right, own_answers},
    compared_scorers::{self, ComparedScorer},
    features::Features,
    finishers::Finishers,
    labels::LabeledText,
    perturb::{PerturbationCounts, PerturbationKind, Perturber},
    qa::Qa,
    reward_data::{layout, own_captions},
    setup::Setup,
    text::normalize_caption,
};
use crate::{
    eval::{data::flickr8k::Image, tokens::ScoredToken},
    guard::words::is_function_word,
    reward::{calibration::Calibration, finish::WrittenBy},
};

/// Images scored at once.
const AT_ONCE: usize = 16;

/// Questions asked of an image.
const QUESTIONS: usize = 4;

/// Which half of the development split an image belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevelopmentHalf {
    /// For calibration, thresholds and choices.
    Tune,
    /// For figures.
    Report,
}

impl DevelopmentHalf {
    /// The half of image number `image` of the split.
    pub fn of(image: usize) -> Self {
        if image.is_multiple_of(2) {
            Self::Tune
        } else {
            Self::Report
        }
    }
}

/// A text about an image with every contender's raw scores.
#[derive(Debug, Clone)]
pub struct ComparedText {
    /// Number of the image in the split.
    pub image: usize,
    /// What was asked; `None` for a description.
    pub question: Option<String>,
    /// The text, and what is known about it.
    pub text: LabeledText,
    /// How it was made wrong, where it was.
    pub kind: Option<PerturbationKind>,
    /// Bytes of every token, without a leading space.
    pub tokens: Vec<Range<usize>>,
    /// What is known of every token.
    pub labels: Vec<Option<bool>>,
    /// The policy's log-probability of every token.
    pub log_probabilities: Vec<f32>,
    /// Raw scores, a contender and token; rewards once they are [calibrated](Judged::calibrate).
    pub scores: Vec<Vec<f32>>,
}

impl ComparedText {
    /// Returns `true` if token number `token` is a yes or no that answers a question.
    pub fn is_yes_or_no(&self, token: usize) -> bool {
        let said = self
            .tokens
            .get(token)
            .and_then(|range| self.text.text.get(range.clone()));
        token == 0
            && self.question.is_some()
            && said.is_some_and(|said| {
                ["yes", "no"]
                    .iter()
                    .any(|word| said.eq_ignore_ascii_case(word))
            })
    }

    /// The contender's score of a range: that of its worst token.
    pub fn worst(&self, contender: usize, range: &Range<usize>) -> Option<f32> {
        let hits = self
            .tokens
            .iter()
            .zip(&self.scores[contender])
            .filter(|(own, _)| own.start < range.end && range.start < own.end);
        hits.map(|(_, score)| *score).min_by(f32::total_cmp)
    }

    /// Every range whose truth is known, as one piece.
    pub fn ranges(
        &self,
        contender: usize,
    ) -> impl Iterator<Item = (Range<usize>, ScoredToken)> + '_ {
        self.text.ranges.iter().filter_map(move |(range, good)| {
            let reward = self.worst(contender, range)?;
            Some((
                range.clone(),
                ScoredToken {
                    reward,
                    good: (*good)?,
                    image: self.image as u32,
                },
            ))
        })
    }

    /// Every word that claims something and whose truth is known: its text, the score of its worst
    /// token and whether it is grounded.
    pub fn claims(&self, contender: usize) -> impl Iterator<Item = (f32, bool)> + '_ {
        let mut words: Vec<(Range<usize>, f32, Option<bool>)> = Vec::new();
        for ((range, label), &score) in self
            .tokens
            .iter()
            .zip(&self.labels)
            .zip(&self.scores[contender])
        {
            let letters = self
                .text
                .text
                .get(range.clone())
                .is_some_and(|piece| piece.starts_with(char::is_alphanumeric));
            match words
                .last_mut()
                .filter(|(word, ..)| letters && word.end == range.start)
            {
                Some((word, lowest, good)) => {
                    word.end = range.end;
                    *lowest = lowest.min(score);
                    *good = good.zip(*label).map(|(a, b)| a && b);
                }
                None => words.push((range.clone(), score, *label)),
            }
        }
        let claims =
            |word: &str| word.starts_with(char::is_alphanumeric) && !is_function_word(word);
        words.into_iter().filter_map(move |(word, score, good)| {
            Some((score, good?)).filter(|_| claims(&self.text.text[word]))
        })
    }

    /// Every token whose truth is known.
    pub fn pieces(
        &self,
        contender: usize,
    ) -> impl Iterator<Item = (Range<usize>, ScoredToken)> + '_ {
        self.tokens
            .iter()
            .zip(&self.labels)
            .zip(&self.scores[contender])
            .filter_map(|((range, label), &reward)| {
                Some((
                    range.clone(),
                    ScoredToken {
                        reward,
                        good: (*label)?,
                        image: self.image as u32,
                    },
                ))
            })
    }
}

/// The texts of a split, scored.
pub struct ScoredSplit {
    /// One true and one perturbed caption an image.
    pub perturbed: Vec<ComparedText>,
    /// The policy's own greedy captions, one an image.
    pub captions: Vec<ComparedText>,
    /// The policy's own greedy answers to derived questions.
    pub answers: Vec<ComparedText>,
    /// Those questions, and whether the answer was right.
    pub questions: Vec<(Qa, String, bool)>,
}

/// What is said of one image, and how it was made wrong, where it was.
pub(super) type ImageStatements = Vec<(ImageStatement, Option<PerturbationKind>)>;

/// What is said of each image.
type Texts = Vec<ImageStatements>;

impl ScoredSplit {
    /// Lets the policy describe and answer, perturbs what people wrote, and scores all of it; a
    /// function of `seed`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn of_dev(
        setup: &Setup,
        features: &Features,
        contenders: &[ComparedScorer],
        seed: u64,
    ) -> Result<Self, TrainError> {
        Self::of_some(
            setup,
            features,
            contenders,
            seed,
            &(0..setup.data.dev.len()).collect::<Vec<_>>(),
        )
    }

    /// The same with some of the development split's images, by their numbers; the others have no
    /// texts.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn of_some(
        setup: &Setup,
        features: &Features,
        contenders: &[ComparedScorer],
        seed: u64,
        which: &[usize],
    ) -> Result<Self, TrainError> {
        let perturber = Perturber::new(&setup.data.train);
        let images: &[Image] = &which
            .iter()
            .map(|&i| setup.data.dev[i].clone())
            .collect::<Vec<_>>();
        let features = &features.plain(which);
        let captions: Texts = own_captions(setup, images, features, 0.0, seed)?
            .into_iter()
            .map(|(_, text)| vec![(text.into(), None)])
            .collect();
        let ask = QuestionForm {
            n: QUESTIONS,
            temperature: 0.0,
            seed,
        };
        let mut questions = Vec::new();
        let answered = own_answers(setup, images, features, perturber.stats(), ask)?;
        let mut judge = |(answer, qa): (String, Qa)| {
            let right = is_right(&answer, &qa);
            let said = ImageStatement::answer(qa.question.clone(), answer.clone(), right);
            questions.push((qa, answer, right));
            (said, None)
        };
        let answers: Texts = answered
            .into_iter()
            .map(|of| of.into_iter().map(&mut judge).collect())
            .collect();
        let perturbed: Texts = images
            .iter()
            .enumerate()
            .map(|(i, image)| {
                let mut rng = SmallRng::seed_from_u64(seed ^ (which[i] as u64 + 1));
                let wrong =
                    perturber.perturb(image, &[], &mut rng, &mut PerturbationCounts::default());
                let first = image
                    .captions
                    .first()
                    .map(|c| LabeledText::all_good(normalize_caption(c)));
                let mut texts: Vec<(ImageStatement, Option<PerturbationKind>)> =
                    first.into_iter().map(|text| (text.into(), None)).collect();
                texts.extend(wrong.map(|p| (LabeledText::from(p.clone()).into(), Some(p.kind))));
                texts
            })
            .collect();
        let score = |texts: &Texts| {
            let mut scored = score(setup, features, contenders, texts)?;
            scored
                .iter_mut()
                .for_each(|text| text.image = which[text.image]);
            Ok::<_, TrainError>(scored)
        };
        Ok(Self {
            perturbed: score(&perturbed)?,
            captions: score(&captions)?,
            answers: score(&answers)?,
            questions,
        })
    }
}

impl ScoredSplit {
    /// Turns every raw score into a reward.
    pub fn calibrate(&mut self, calibrations: &[Calibration]) {
        let own = self
            .captions
            .iter_mut()
            .chain(&mut self.answers)
            .map(|text| (text, false));
        for (text, others) in self
            .perturbed
            .iter_mut()
            .map(|text| (text, true))
            .chain(own)
        {
            let answers = text.is_yes_or_no(0);
            for (scores, calibration) in text.scores.iter_mut().zip(calibrations) {
                let calibration = if others {
                    calibration.for_others()
                } else {
                    calibration
                };
                for (i, (score, lp)) in scores.iter_mut().zip(&text.log_probabilities).enumerate() {
                    *score = calibration.for_token(answers && i == 0).reward(*score, *lp);
                }
            }
        }
    }
}

impl ScoredSplit {
    /// Turns one contender's [calibrated](Self::calibrate) rewards into those that are served with
    /// evidence of what the images show.
    ///
    /// # Errors
    /// When a text cannot be cut into tokens.
    pub fn finish(
        &mut self,
        contender: usize,
        finishers: &Finishers,
        setup: &Setup,
    ) -> Result<(), TrainError> {
        let own = self
            .captions
            .iter_mut()
            .chain(&mut self.answers)
            .map(|text| (text, WrittenBy::Policy));
        let mut all = self
            .perturbed
            .iter_mut()
            .map(|text| (text, WrittenBy::Others))
            .chain(own);
        all.try_for_each(|(text, writer)| finishers.finish(text, contender, writer, &setup.policy))
    }
}

/// Features of the development split's images as they are, kept in `dir`.
///
/// # Errors
/// When an image cannot be read or the cache not be written.
pub fn dev_features(setup: &Setup, dir: &Path) -> Result<Features, TrainError> {
    setup.features(&setup.data.dev, 1, &dir.join("dev.f16"))
}

/// Scores what is said of each of the images that `features` are of.
pub(super) fn score(
    setup: &Setup,
    features: &Features,
    contenders: &[ComparedScorer],
    texts: &[ImageStatements],
) -> Result<Vec<ComparedText>, TrainError> {
    let images: Vec<usize> = (0..texts.len()).filter(|&i| !texts[i].is_empty()).collect();
    let chunks: Vec<&[usize]> = images.chunks(AT_ONCE).collect();
    let policy = &setup.policy;
    let parts = setup.workers.map(&chunks, |chunk| {
        let rows = chunk
            .iter()
            .map(|&i| texts[i].iter().map(|(t, _)| t.clone()).collect())
            .collect();
        // The prompt that captions are asked for with by default.
        let (batch, _) = layout(policy, rows, None).map_err(candle_core::Error::wrap)?;
        let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
        let (scores, log_probabilities) =
            compared_scorers::score(policy, contenders, &features.batch(&views)?, &batch)?;
        let (mut first, mut out) = (0, Vec::new());
        for &image in *chunk {
            for (ImageStatement { question, text, .. }, kind) in &texts[image] {
                let tokens = text
                    .tokens(&policy.tokenizer)
                    .map_err(candle_core::Error::wrap)?;
                let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                let own = first..first + tokens.len();
                first = own.end;
                out.push(ComparedText {
                    image,
                    question: question.clone(),
                    kind: *kind,
                    labels: tokens.iter().map(|token| token.good).collect(),
                    tokens: text.token_ranges(&policy.tokenizer, &ids).collect(),
                    text: text.clone(),
                    log_probabilities: log_probabilities[own.clone()].to_vec(),
                    scores: scores.iter().map(|s| s[own.clone()].to_vec()).collect(),
                });
            }
        }
        Ok(out)
    })?;
    Ok(parts.into_iter().flatten().collect())
}
