//! Final steps of a run: familiarity scale, calibration of short answers, scope, and the report.

use std::{collections::BTreeMap, sync::Arc};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use super::{
    super::{
        TrainError,
        checkpoint::write_atomically,
        export::write_json,
        report_progress,
        scored_split::{ComparedText, DevelopmentHalf},
    },
    EvidenceTraining, HeldOutOutputs, UNFITTED,
    answers::{self, PolicyAnswer},
    calibrate::{self, CalibrationConfig, CalibrationRow, FittedCalibration},
    figures::{self, OutOfFoldScore},
    labels,
    mentions::{JudgedMention, MentionScorer, PhotographText, TextSource},
    origins::{AllPhotographs, OTHERS},
    reference::StoredReference,
};
use crate::{
    eval::{
        honesty::{PhotographOrigin, Resampling, ScoredOutcome},
        report::{EvaluationReport, Section},
    },
    guard::question::QuestionKind,
    reward::{
        drift::Histogram,
        evidence::{Evidence, EvidenceConfig, FamiliarityScale},
        logistic::ridge_regression,
    },
};

/// Bootstrap resamples for the report's intervals.
const REPEATS: usize = 300;

/// Description of the data behind the calibration of short answers, recorded with it.
const ANSWERS_FITTED_ON: &str = "the policy's own short answers to questions about photographs of \
                                 all origins, with evidence out of fold";

/// Note beside metrics of the report.
pub(super) const NOTE: &str = "Out of fold; of Flickr8k the reporting half of the development \
                               split. What is below the threshold is flagged: .5 where nothing \
                               else is said.";

/// Returns `true` for origins with everyday photographs, the kind that people ask about.
fn is_everyday(origin: PhotographOrigin) -> bool {
    matches!(
        origin,
        PhotographOrigin::Flickr8k | PhotographOrigin::CocoMini | PhotographOrigin::Daquar
    )
}

/// Weights that sum to 1, with the same total for each origin.
fn equal_shares(origins: impl Iterator<Item = PhotographOrigin> + Clone) -> Vec<f64> {
    let mut counts: BTreeMap<PhotographOrigin, usize> = BTreeMap::new();
    origins
        .clone()
        .for_each(|origin| *counts.entry(origin).or_default() += 1);
    origins
        .map(|origin| 1.0 / (counts.len() * counts[&origin]) as f64)
        .collect()
}
/// Additional note beside metrics of answers.
const RADIOGRAPHS: &str = "No answer about a radiograph counts as right.";

/// Returns `true` if a row counts in the report: of Flickr8k only rows that nothing was fitted on.
pub(super) fn is_reported(row: &CalibrationRow) -> bool {
    row.origin != PhotographOrigin::Flickr8k || !row.is_tuning
}

impl EvidenceTraining {
    /// Fits the familiarity scale: the probability, from the reference cosine and the evidence of
    /// people, that the policy's greedy caption hallucinates nothing.
    pub(super) fn familiarity(
        &self,
        own: &[JudgedMention],
        cosines: &[f64],
        people: &[f64],
    ) -> FamiliarityScale {
        let mut honest: Vec<Option<bool>> = vec![None; cosines.len()];
        for mention in own
            .iter()
            .filter(|mention| mention.author == TextSource::Greedy)
        {
            let current = &mut honest[mention.photograph - self.photographs.train];
            *current = mention
                .truth
                .map_or(*current, |right| Some(current.unwrap_or(true) && right));
        }
        let labeled = honest.iter().zip(cosines.iter().zip(people)).enumerate();
        let rows: Vec<CalibrationRow> = labeled
            .filter_map(|(i, (honest, (&cosine, &people)))| {
                Some(self.row(
                    self.photographs.train + i,
                    vec![cosine, people.clamp(-8.0, 8.0)],
                    (*honest)?,
                ))
            })
            .collect();
        let rows: Vec<&CalibrationRow> = rows.iter().filter(|row| row.is_shipped).collect();
        let features: Vec<&[f64]> = rows.iter().map(|row| row.features.as_slice()).collect();
        let targets: Vec<f64> = rows
            .iter()
            .map(|row| f64::from(u8::from(row.is_right)))
            .collect();
        let fitted = ridge_regression(
            &features,
            &targets,
            &calibrate::importance(&rows, &self.recipe.calibration),
            0.0,
        );
        match fitted
            .as_ref()
            .map(|fitted| (&fitted.weights[..], fitted.offset))
        {
            Some((&[slope, people], offset)) if slope > 0.0 => FamiliarityScale {
                slope,
                people,
                offset,
            },
            _ => {
                report_progress(
                    "captions of familiar photographs are not right more often: familiarity stays \
                     on the scale of cosines",
                );
                UNFITTED
            }
        }
    }

    /// Calibrates the policy's short answers, given the finished calibrations of words; `None` if
    /// there are no answers.
    pub(super) fn answers(
        &self,
        scorer: &MentionScorer<'_>,
        evidence: &[Arc<Evidence>],
        outputs: &HeldOutOutputs,
        config: &mut EvidenceConfig,
    ) -> Result<Option<Section>, TrainError> {
        report_progress("sampling and scoring the policy's answers");
        let answered = scorer.answers(&scorer.questions(self.recipe.seed))?;
        if answered.is_empty() {
            return Ok(None);
        }
        let names = answers::names(
            answered
                .iter()
                .map(|answered| (answered.kind(), answered.answer.as_str())),
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let row = |answered: &PolicyAnswer| {
            let photograph = answered.question.photograph;
            let fold = self.photographs.all[photograph].fold;
            let features = scorer.answer_features(
                answered,
                &evidence[fold],
                &outputs.images[photograph - self.photographs.train],
            )?;
            let features = names
                .iter()
                .map(|name| features.value(name).unwrap_or(0.0))
                .collect();
            Ok(self.row(
                photograph,
                features,
                answered.is_right(self.photographs.all[photograph].origin),
            ))
        };
        let rows: Vec<CalibrationRow> = answered
            .iter()
            .map(row)
            .collect::<Result<_, TrainError>>()?;
        let own = CalibrationConfig {
            origins: self.recipe.calibration.answer_origins.clone(),
            ..self.recipe.calibration.clone()
        };
        let fitted = calibrate::fit(&rows, &names, &own, ANSWERS_FITTED_ON)?;
        let reported = rows
            .iter()
            .zip(&answered)
            .zip(&fitted.out_of_fold)
            .filter(|((row, _), _)| is_reported(row));
        let (kinds, scores): (Vec<QuestionKind>, Vec<OutOfFoldScore>) = reported
            .map(|((row, answered), &score)| {
                let outcome = ScoredOutcome {
                    photograph: row.photograph,
                    score,
                    is_right: row.is_right,
                };
                let lowest = f64::from(scorer.lowest(answered));
                (
                    answered.kind(),
                    OutOfFoldScore {
                        origin: row.origin,
                        outcome,
                        scorer: lowest,
                        is_person: false,
                    },
                )
            })
            .unzip();
        let threshold = f64::from(fitted.calibration.thresholds.default);
        let tables = vec![
            figures::figures(
                "Answers",
                &format!("{NOTE} {RADIOGRAPHS}"),
                &scores,
                threshold,
                self.resampling(),
            ),
            figures::answers_by_kind(&kinds, &scores, threshold, self.resampling()),
        ];
        let text = vec![calibrate::description(&fitted.calibration)];
        config.calibration.answers = Some(fitted.calibration);
        Ok(Some(Section {
            title: "Short answers".into(),
            text,
            tables,
            ..Section::default()
        }))
    }

    /// Distribution of served rewards in the policy's greedy captions of the tuning half of the
    /// development split.
    pub(super) fn rewards(
        &self,
        scorer: &MentionScorer<'_>,
        captions: &[(PhotographText, ComparedText)],
        evidence: &[Arc<Evidence>],
        outputs: &HeldOutOutputs,
    ) -> Result<Histogram, TrainError> {
        let AllPhotographs {
            all, train, dev, ..
        } = &self.photographs;
        let is_tuning = |written: &PhotographText| {
            written.photograph < train + dev
                && DevelopmentHalf::for_image(written.photograph - train) == DevelopmentHalf::Tune
        };
        let rewards = captions
            .iter()
            .filter(|(written, _)| is_tuning(written))
            .map(|(written, scored)| {
                let (evidence, image) = (
                    &evidence[all[written.photograph].fold],
                    &outputs.images[written.photograph - train],
                );
                scorer
                    .served(scored, evidence, image)
                    .map(|(_, scored)| scored.rewards)
            });
        Ok(Histogram::from_rewards(
            rewards.collect::<Result<Vec<_>, _>>()?.concat(),
        ))
    }

    /// Fits the scope reference on everyday photographs of all origins with equal weight: a sample
    /// of Flickr8k's training split and the shipped folds of the others.
    pub(super) fn scope(
        &self,
        pooled: &[Vec<f32>],
        channels: usize,
    ) -> Result<StoredReference, TrainError> {
        let (AllPhotographs { all, train, .. }, config) = (&self.photographs, self.recipe.scope);
        let mut drawn: Vec<usize> = (0..*train).collect();
        drawn.shuffle(&mut SmallRng::seed_from_u64(self.recipe.seed));
        drawn.truncate(config.photographs);
        let is_learned =
            |i: &usize| is_everyday(all[*i].origin) && self.recipe.parts.contains(&all[*i].fold);
        drawn.extend(
            (*train..all.len())
                .filter(|i| all[*i].origin != PhotographOrigin::Flickr8k)
                .filter(is_learned),
        );
        let rows: Vec<&[f32]> = drawn
            .iter()
            .map(|&i| &pooled[i][..channels.min(pooled[i].len())])
            .collect();
        let weights = equal_shares(drawn.iter().map(|&i| all[i].origin));
        Ok(StoredReference::weighted(
            &rows,
            &weights,
            self.recipe.reference.components,
            rows.len(),
            self.recipe.seed,
        )?)
    }

    /// Cosine below which lies the configured share of held-out everyday photographs, with equal
    /// weight of origins; `None` if no photograph has a cosine.
    pub(super) fn out_of_scope(&self, outputs: &HeldOutOutputs) -> Option<f32> {
        let AllPhotographs {
            all, train, dev, ..
        } = &self.photographs;
        let is_held_out = |i: usize| match all[i].origin {
            PhotographOrigin::Flickr8k => {
                i < train + dev && DevelopmentHalf::for_image(i - train) == DevelopmentHalf::Tune
            }
            origin => is_everyday(origin) && !self.recipe.parts.contains(&all[i].fold),
        };
        let held_out: Vec<usize> = (*train..all.len()).filter(|&i| is_held_out(i)).collect();
        let shares = equal_shares(held_out.iter().map(|&i| all[i].origin));
        let mut cosines: Vec<(f32, f64)> = held_out
            .iter()
            .zip(shares)
            .filter_map(|(&i, share)| Some((outputs.images[i - train].scope?, share)))
            .collect();
        cosines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = 0.0;
        let threshold = cosines.iter().find(|(_, share)| {
            below += share;
            below > self.recipe.scope.unanswered_share
        });
        threshold.map(|(cosine, _)| *cosine)
    }

    pub(super) fn resampling(&self) -> Resampling {
        Resampling {
            repeats: REPEATS,
            seed: self.recipe.seed,
        }
    }

    /// Section on out-of-fold probabilities of mentions.
    pub(super) fn section(
        &self,
        title: &str,
        mentions: &[(JudgedMention, CalibrationRow)],
        fitted: &FittedCalibration,
    ) -> Section {
        let score = |(mention, row): &(JudgedMention, CalibrationRow),
                     probability: f64,
                     is_right: bool| OutOfFoldScore {
            origin: row.origin,
            outcome: ScoredOutcome {
                photograph: row.photograph,
                score: probability,
                is_right,
            },
            scorer: f64::from(mention.reward),
            is_person: mention.is_person(),
        };
        let reported = || {
            mentions
                .iter()
                .zip(&fitted.out_of_fold)
                .filter(|((mention, row), _)| {
                    is_reported(row) && mention.author != TextSource::Sampled
                })
        };
        let open: Vec<OutOfFoldScore> = reported()
            .map(|(mention, &probability)| score(mention, probability, mention.1.is_right))
            .collect();
        let coco: Vec<OutOfFoldScore> = reported()
            .filter_map(|(mention, &probability)| {
                Some(score(mention, probability, mention.0.coco?))
            })
            .collect();
        let threshold = f64::from(fitted.calibration.thresholds.default);
        let classes: Vec<_> = mentions
            .iter()
            .map(|(mention, row)| (labels::class_of(mention.concept), row))
            .collect();
        Section {
            title: title.into(),
            text: vec![calibrate::description(&fitted.calibration)],
            tables: vec![
                figures::figures("Things", NOTE, &open, threshold, self.resampling()),
                figures::figures("COCO's objects", NOTE, &coco, threshold, self.resampling()),
                figures::mention_table("Mentions that the calibration is fitted on", &classes),
            ],
            ..Section::default()
        }
    }

    pub(super) fn report(
        &self,
        sections: Vec<Section>,
        config: &EvidenceConfig,
    ) -> Result<EvaluationReport, TrainError> {
        let policy = &self.setup.policy;
        let parts: Vec<String> = self.recipe.parts.iter().map(usize::to_string).collect();
        let count = |origin: PhotographOrigin| {
            format!(
                "{} {}",
                self.photographs.indices_of(origin).count(),
                origin.name()
            )
        };
        let facts = [
            ("bundle", policy.name.clone()),
            (
                "photographs",
                format!(
                    "{} to learn from, {} held out of flickr8k; {}",
                    self.photographs.train,
                    self.photographs.dev,
                    OTHERS.map(count).join(", ")
                ),
            ),
            (
                "crops",
                format!(
                    "{} of {} {} photographs",
                    self.crops.iter().count(),
                    self.crops.photographs.len(),
                    PhotographOrigin::CocoMini.name()
                ),
            ),
            ("outputs", config.concepts.len().to_string()),
            ("networks", format!("the mean of {}", self.recipe.networks)),
            ("parts of the shipped network", parts.join(", ")),
            ("familiarity", {
                let FamiliarityScale {
                    slope,
                    people,
                    offset,
                } = config.familiarity;
                format!("1 / (1 + exp(-({slope:.3} cosine {people:+.3} people {offset:+.3})))")
            }),
            ("seed", self.recipe.seed.to_string()),
        ];
        let report = EvaluationReport {
            title: format!(
                "Evidence for the words of {} \
                            {}",
                policy.config.name, policy.config.version
            ),
            command: "candor train evidence".into(),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            notes: vec![
                "The network of a part did not learn from it, and its probabilities are from \
                 calibrations that were fitted without it. The shipped network learned from fewer \
                 parts."
                    .into(),
            ],
            sections,
        };
        write_json(&self.run.file("report.json"), &report.to_json())?;
        let html = report.html().map_err(|e| TrainError::Run(e.to_string()))?;
        write_atomically(&self.run.file("report.html"), html.as_bytes())?;
        Ok(report)
    }
}
