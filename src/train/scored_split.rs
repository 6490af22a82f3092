//! Labeled texts of the development split, scored by several scorers, for `candor eval reward` and
//! for calibration.
//!
//! The images alternate: the first, third, ... are for tuning (calibration, thresholds, choices),
//! the second, fourth, ... for reporting.

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

/// Images per chunk of one worker.
const AT_ONCE: usize = 16;

/// Questions per image.
const QUESTIONS: usize = 4;

/// Half of the development split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DevelopmentHalf {
    /// Images for calibration, thresholds and choices.
    Tune,
    /// Images for reported metrics.
    Report,
}

impl DevelopmentHalf {
    /// Half of the image with index `image` in the split.
    pub fn for_image(image: usize) -> Self {
        if image.is_multiple_of(2) {
            Self::Tune
        } else {
            Self::Report
        }
    }
}

/// Text about an image with the scores of every scorer.
#[derive(Debug, Clone)]
pub struct ComparedText {
    /// Index of the image in the split.
    pub image: usize,
    /// Question, or `None` for a description.
    pub question: Option<String>,
    /// Text with its labels.
    pub text: LabeledText,
    /// Kind of perturbation, for perturbed captions.
    pub kind: Option<PerturbationKind>,
    /// Byte range of every token, without a leading space.
    pub tokens: Vec<Range<usize>>,
    /// Label of every token.
    pub labels: Vec<Option<bool>>,
    /// The policy's log-probability of every token.
    pub log_probabilities: Vec<f32>,
    /// Raw scores, by scorer and token; rewards after [calibration](ScoredSplit::calibrate).
    pub scores: Vec<Vec<f32>>,
}

impl ComparedText {
    /// Returns `true` if token `token` is a yes or no that answers a question.
    pub fn is_yes_or_no(&self, token: usize) -> bool {
        let word = self
            .tokens
            .get(token)
            .and_then(|range| self.text.text.get(range.clone()));
        token == 0
            && self.question.is_some()
            && word.is_some_and(|word| {
                ["yes", "no"]
                    .iter()
                    .any(|expected| word.eq_ignore_ascii_case(expected))
            })
    }

    /// Lowest score of the tokens in a byte range.
    pub fn worst(&self, scorer: usize, range: &Range<usize>) -> Option<f32> {
        let hits = self
            .tokens
            .iter()
            .zip(&self.scores[scorer])
            .filter(|(own, _)| own.start < range.end && range.start < own.end);
        hits.map(|(_, score)| *score).min_by(f32::total_cmp)
    }

    /// Labeled ranges with their lowest scores.
    pub fn ranges(&self, scorer: usize) -> impl Iterator<Item = (Range<usize>, ScoredToken)> + '_ {
        self.text.ranges.iter().filter_map(move |(range, good)| {
            let reward = self.worst(scorer, range)?;
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

    /// Labeled content words: lowest token score, and whether the word is grounded.
    pub fn claims(&self, scorer: usize) -> impl Iterator<Item = (f32, bool)> + '_ {
        let mut words: Vec<(Range<usize>, f32, Option<bool>)> = Vec::new();
        for ((range, label), &score) in self
            .tokens
            .iter()
            .zip(&self.labels)
            .zip(&self.scores[scorer])
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

    /// Labeled tokens with their scores.
    pub fn pieces(&self, scorer: usize) -> impl Iterator<Item = (Range<usize>, ScoredToken)> + '_ {
        self.tokens
            .iter()
            .zip(&self.labels)
            .zip(&self.scores[scorer])
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

/// Scored texts of a split.
pub struct ScoredSplit {
    /// One true and one perturbed caption per image.
    pub perturbed: Vec<ComparedText>,
    /// The policy's greedy captions, one per image.
    pub captions: Vec<ComparedText>,
    /// The policy's greedy answers to derived questions.
    pub answers: Vec<ComparedText>,
    /// The derived questions with the policy's answers, and whether they are right.
    pub questions: Vec<(Qa, String, bool)>,
}

/// Statements about one image, with the kind of perturbation if perturbed.
pub(super) type ImageStatements = Vec<(ImageStatement, Option<PerturbationKind>)>;

/// Statements about each image.
type Texts = Vec<ImageStatements>;

impl ScoredSplit {
    /// Scores the policy's captions and answers and true and perturbed human captions of the
    /// development split; deterministic in `seed`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn from_development(
        setup: &Setup,
        features: &Features,
        scorers: &[ComparedScorer],
        seed: u64,
    ) -> Result<Self, TrainError> {
        Self::from_images(
            setup,
            features,
            scorers,
            seed,
            &(0..setup.data.dev.len()).collect::<Vec<_>>(),
        )
    }

    /// Does the same for the images `which` of the development split.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn from_images(
        setup: &Setup,
        features: &Features,
        scorers: &[ComparedScorer],
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
        let form = QuestionForm {
            n: QUESTIONS,
            temperature: 0.0,
            seed,
        };
        let mut questions = Vec::new();
        let answered = own_answers(setup, images, features, perturber.stats(), form)?;
        let mut judge = |(answer, qa): (String, Qa)| {
            let right = is_right(&answer, &qa);
            let statement = ImageStatement::answer(qa.question.clone(), answer.clone(), right);
            questions.push((qa, answer, right));
            (statement, None)
        };
        let answers: Texts = answered
            .into_iter()
            .map(|answers| answers.into_iter().map(&mut judge).collect())
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
            let mut scored = score(setup, features, scorers, texts)?;
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
    /// Replaces every raw score with its calibrated reward.
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
    /// Replaces one scorer's [calibrated](Self::calibrate) rewards with the final rewards, which
    /// use evidence from the images.
    ///
    /// # Errors
    /// When a text cannot be tokenized.
    pub fn finish(
        &mut self,
        scorer: usize,
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
        all.try_for_each(|(text, writer)| finishers.finish(text, scorer, writer, &setup.policy))
    }
}

/// Features of the development split's images, cached in `dir`.
///
/// # Errors
/// When an image cannot be read or the cache cannot be written.
pub fn dev_features(setup: &Setup, dir: &Path) -> Result<Features, TrainError> {
    setup.features(&setup.data.dev, 1, &dir.join("dev.f16"))
}

/// Scores the statements about each image of `features`.
pub(super) fn score(
    setup: &Setup,
    features: &Features,
    scorers: &[ComparedScorer],
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
        // `None` selects the default caption prompt.
        let (batch, _) = layout(policy, rows, None).map_err(candle_core::Error::wrap)?;
        let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
        let (scores, log_probabilities) =
            compared_scorers::score(policy, scorers, &features.batch(&views)?, &batch)?;
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
