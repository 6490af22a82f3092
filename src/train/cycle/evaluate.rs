//! Evaluation of a version: greedy captions and answers on a half of the development split, and its
//! scorer on held-out corrections.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{config::EvaluationConfig, state::CycleEvaluation};
use crate::{
    eval::{
        bootstrap::Difference,
        captions::{Evaluation, FigureGroup, Measures, compare, figures},
        data::{AnnotatedImage, Hypothesis, RowPosition, flickr8k::Image},
        tokens::{Ranking, ScoredToken},
    },
    lexicon::Lexicon,
    registry::gate::MetricValues,
    reward::finish::WrittenBy,
    train::{
        TrainError,
        answers::{ImageStatement, QuestionForm, is_right, own_answers},
        compared_scorers,
        corpus::asks_for_description,
        features::Features,
        finishers::Finishers,
        reward_data::own_captions,
        scored_split::{self, ComparedText, DevelopmentHalf, dev_features},
        setup::Setup,
        snapshot::Snapshot,
        stats::CaptionStats,
    },
};

/// Seed of questions and bootstrap, fixed so that all versions are compared on the same.
const SEED: u64 = 1;

/// Outputs of a version on the evaluation images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VersionOutputs {
    /// Names of the images.
    images: Vec<String>,
    /// Captions of the images.
    captions: Vec<String>,
    /// Correctness of each answer to the questions.
    right: Vec<bool>,
}

/// Loaded version to evaluate.
pub(super) struct VersionMeasurement<'a> {
    pub(super) setup: Setup,
    features: Features,
    cache: &'a Path,
}

impl<'a> VersionMeasurement<'a> {
    /// Loads a bundle; image features are cached in `cache`.
    pub(super) fn open(
        data: &Path,
        bundle: &str,
        cache: &'a Path,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let setup = Setup::open(data, bundle, workers)?;
        let features = dev_features(&setup, cache)?;
        Ok(Self {
            setup,
            features,
            cache,
        })
    }

    fn which(&self, config: &EvaluationConfig) -> Vec<usize> {
        let most = if config.images == 0 {
            usize::MAX
        } else {
            config.images
        };
        (0..self.setup.data.dev.len())
            .filter(|&i| DevelopmentHalf::for_image(i) == config.half)
            .take(most)
            .collect()
    }

    /// Captions the images and answers questions about them.
    pub(super) fn write(&self, config: &EvaluationConfig) -> Result<VersionOutputs, TrainError> {
        let (setup, which) = (&self.setup, self.which(config));
        let images: Vec<Image> = which.iter().map(|&i| setup.data.dev[i].clone()).collect();
        let features = self.features.plain(&which);
        let captions = own_captions(setup, &images, &features, 0.0, SEED)?
            .into_iter()
            .map(|(_, text)| text.text)
            .collect();
        let stats = CaptionStats::new(&setup.data.train, Lexicon::shared());
        let form = QuestionForm {
            n: config.questions,
            temperature: 0.0,
            seed: SEED,
        };
        let answered = own_answers(setup, &images, &features, &stats, form)?;
        let right = answered
            .iter()
            .flatten()
            .map(|(answer, qa)| is_right(answer, qa))
            .collect();
        Ok(VersionOutputs {
            images: images.into_iter().map(|image| image.name).collect(),
            captions,
            right,
        })
    }

    /// Served rewards of the labeled content words in a snapshot's held-out corrections.
    pub(super) fn words(&self, snapshot: &Snapshot) -> Result<Vec<ScoredToken>, TrainError> {
        let policy = &self.setup.policy;
        let Some(reward) = &policy.config.reward else {
            return Ok(Vec::new());
        };
        let images = snapshot.images(&snapshot.held_out);
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let [_, cache] = snapshot.features(self.cache);
        let features = self.setup.features(&images, 1, &cache)?;
        let scorers = compared_scorers::from_bundle(policy)?;
        let calibrations = compared_scorers::calibrations(policy)?;
        let chosen = scorers.iter().position(|c| c.name == reward.default.name());
        let (Some(chosen), Some(calibration)) = (chosen, calibrations.get(&reward.default)) else {
            return Ok(Vec::new());
        };
        let statements = |image: &Image| -> scored_split::ImageStatements {
            let own = snapshot.held_out.iter().filter(|c| c.image == image.name);
            own.map(|c| {
                let question = (!asks_for_description(&c.prompt)).then(|| c.prompt.clone());
                (
                    ImageStatement {
                        question,
                        text: c.labeled(&policy.tokenizer, policy.config.casing),
                        ends: false,
                    },
                    None,
                )
            })
            .collect()
        };
        let texts: Vec<scored_split::ImageStatements> = images.iter().map(statements).collect();
        let finishers = Finishers::open(policy, &features)?;
        let mut scored = scored_split::score(&self.setup, &features, &scorers, &texts)?;
        for text in &mut scored {
            let answers = text.is_yes_or_no(0);
            for (i, (score, lp)) in text.scores[chosen]
                .iter_mut()
                .zip(&text.log_probabilities)
                .enumerate()
            {
                *score = calibration.for_token(answers && i == 0).reward(*score, *lp);
            }
            if let Some(finishers) = &finishers {
                finishers.finish(text, chosen, WrittenBy::Policy, policy)?;
            }
        }
        let words = |text: &ComparedText| {
            let image = text.image as u32;
            text.claims(chosen)
                .map(|(reward, good)| ScoredToken {
                    reward,
                    good,
                    image,
                })
                .collect::<Vec<_>>()
        };
        Ok(scored.iter().flat_map(words).collect())
    }
}

/// Compares two versions by their outputs and scored words.
pub(super) fn compare_versions(
    dev: &[Image],
    baseline: (&VersionOutputs, &[ScoredToken]),
    candidate: (&VersionOutputs, &[ScoredToken]),
) -> Result<CycleEvaluation, TrainError> {
    if baseline.0.images != candidate.0.images {
        return Err(TrainError::Run(
            "the versions were measured on different images".into(),
        ));
    }
    let annotated: Vec<AnnotatedImage> = dev
        .iter()
        .filter(|image| candidate.0.images.contains(&image.name))
        .map(|image| AnnotatedImage {
            id: image.name.clone(),
            captions: image.captions.clone(),
            ..AnnotatedImage::default()
        })
        .collect();
    let hypotheses = |written: &VersionOutputs| -> Vec<Hypothesis> {
        let hypothesis = |(image, caption): (&String, &String)| Hypothesis {
            image: image.clone(),
            caption: caption.clone(),
            objects: None,
            position: RowPosition::Line(1),
        };
        written
            .images
            .iter()
            .zip(&written.captions)
            .map(hypothesis)
            .collect()
    };
    let measures = Measures {
        open: true,
        closed: None,
        description: true,
    };
    let (first, second) = (hypotheses(baseline.0), hypotheses(candidate.0));
    let first = Evaluation::new(&annotated.iter().zip(&first).collect::<Vec<_>>(), measures);
    let second = Evaluation::new(&annotated.iter().zip(&second).collect::<Vec<_>>(), measures);
    let chair = compare(&first, &second, SEED)
        .into_iter()
        .find(|(name, _)| *name == (FigureGroup::Open, "CHAIR_i"));
    let interval = |difference: Difference| difference.estimate.interval;
    Ok(CycleEvaluation {
        baseline: all(&first, baseline),
        candidate: all(&second, candidate),
        chair_interval: chair.and_then(|(_, difference)| interval(difference)),
        traffic: MetricValues::new(),
    })
}

/// Metrics of a version; undefined ones are left out.
fn all(
    evaluation: &Evaluation<'_>,
    (written, words): (&VersionOutputs, &[ScoredToken]),
) -> MetricValues {
    const CAPTION_METRICS: [(FigureGroup, &str, &str); 6] = [
        (FigureGroup::Open, "CHAIR_i", "chair_i"),
        (FigureGroup::Open, "CHAIR_s", "chair_s"),
        (FigureGroup::Open, "recall", "recall"),
        (FigureGroup::Open, "words", "words"),
        (FigureGroup::Description, "CIDEr-D", "cider_d"),
        (FigureGroup::Description, "BLEU-4", "bleu_4"),
    ];
    let named = figures(evaluation);
    let metric = |(group, figure, name): &(FigureGroup, &str, &str)| {
        let found = named.iter().find(|((g, n), _)| g == group && n == figure)?;
        Some(((*name).to_owned(), found.1))
    };
    let mut out: MetricValues = CAPTION_METRICS.iter().filter_map(metric).collect();
    let right = written.right.iter().filter(|right| **right).count() as f64;
    out.insert("vqa_accuracy".into(), right / written.right.len() as f64);
    let scorer = Ranking::new(words.to_vec()).metrics(0.5);
    for (name, value) in [
        ("scorer_auroc", scorer.auroc),
        ("scorer_map_neg", scorer.map_neg),
        ("scorer_ece", scorer.ece),
        ("scorer_bad_words", scorer.bad),
    ] {
        out.insert(name.into(), value);
    }
    out.retain(|_, value| value.is_finite());
    out
}
