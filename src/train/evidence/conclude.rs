//! What a run concludes from its networks: the scale of familiarity, the calibration of short answers, and the report.

use std::sync::Arc;

use super::{
    super::{
        TrainError,
        checkpoint::write_atomically,
        export::write_json,
        judged::{Half, ScoredText},
        tell,
    },
    EvidenceTraining, Seen, UNFITTED,
    answers::{self, Answered},
    calibrate::{self, Fitted, Row},
    figures::{self, Judged},
    labels,
    mentions::{Author, Judge, JudgedMention, Written},
    origins::{OTHERS, Photographs},
};
use crate::{
    eval::{
        honesty::{Origin, Outcome, Resampling},
        report::{Report, Section},
    },
    reward::{
        drift::Histogram,
        evidence::{Evidence, EvidenceConfig},
        familiarity::FamiliarityScale,
        logistic::ridge_regression,
    },
};

/// Resamples of the report's intervals.
const REPEATS: usize = 300;

/// What that of short answers is fitted on.
const ANSWERS_FITTED_ON: &str = "the policy's own short answers to questions about photographs of all origins, with evidence out of fold";

/// What a reader of figures must know.
const NOTE: &str = "Out of fold; of Flickr8k the reporting half of the development split. What is below .5 is flagged.";

/// Returns `true` if figures are of a row: of Flickr8k's only those that nothing was fitted on.
fn is_reported(row: &Row) -> bool {
    row.origin != Origin::Flickr8k || !row.is_tuning
}

impl EvidenceTraining {
    /// From cosines to the probability that the policy's likeliest caption invents nothing.
    pub(super) fn familiarity(&self, own: &[JudgedMention], cosines: &[f64]) -> FamiliarityScale {
        let mut honest: Vec<Option<bool>> = vec![None; cosines.len()];
        for mention in own.iter().filter(|mention| mention.author == Author::Greedy) {
            let place = &mut honest[mention.photograph - self.photographs.train];
            *place = mention.truth.map_or(*place, |right| Some(place.unwrap_or(true) && right));
        }
        let known = honest.iter().zip(cosines).enumerate();
        let rows: Vec<Row> =
            known.filter_map(|(i, (honest, &cosine))| Some(self.row(self.photographs.train + i, vec![cosine], (*honest)?))).collect();
        let rows: Vec<&Row> = rows.iter().filter(|row| row.is_shipped).collect();
        let features: Vec<&[f64]> = rows.iter().map(|row| row.features.as_slice()).collect();
        let targets: Vec<f64> = rows.iter().map(|row| f64::from(u8::from(row.is_right))).collect();
        let fitted = ridge_regression(&features, &targets, &calibrate::importance(&rows, &self.recipe.calibration), 0.0);
        match fitted.as_ref().and_then(|fitted| Some((*fitted.weights.first()?, fitted.offset))) {
            Some((slope, offset)) if slope > 0.0 => FamiliarityScale { slope, offset },
            _ => {
                tell("captions of familiar photographs are no more often right: familiarity stays on the scale of cosines");
                UNFITTED
            }
        }
    }

    /// Calibrates short answers, where the policy gave some, with the finished calibrations of words.
    pub(super) fn answers(
        &self,
        judge: &Judge<'_>,
        evidence: &[Arc<Evidence>],
        seen: &Seen,
        config: &mut EvidenceConfig,
    ) -> Result<Option<Section>, TrainError> {
        tell("the policy answers questions, and the answers are scored");
        let answered = judge.answers(&judge.questions(self.recipe.seed))?;
        if answered.is_empty() {
            return Ok(None);
        }
        let names = answers::names(&answered);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let row = |answered: &Answered| {
            let photograph = answered.asked.photograph;
            let fold = self.photographs.all[photograph].fold;
            let known = judge.answer_features(answered, &evidence[fold], &seen.images[photograph - self.photographs.train])?;
            let features = names.iter().map(|name| known.value(name).unwrap_or(0.0)).collect();
            Ok(self.row(photograph, features, answered.is_right()))
        };
        let rows: Vec<Row> = answered.iter().map(row).collect::<Result<_, TrainError>>()?;
        let fitted = calibrate::fit(&rows, &names, &self.recipe.calibration, ANSWERS_FITTED_ON)?;
        let of = rows.iter().zip(&answered).zip(&fitted.out_of_fold).filter(|((row, _), _)| is_reported(row));
        let judged: Vec<Judged> = of
            .map(|((row, answered), &score)| Judged {
                origin: row.origin,
                outcome: Outcome { photograph: row.photograph, score, is_right: row.is_right },
                scorer: f64::from(judge.lowest(answered)),
                is_person: false,
            })
            .collect();
        let table = figures::figures("Answers", NOTE, &judged, f64::from(fitted.calibration.thresholds.default), self.resampling());
        let text = vec![calibrate::described(&fitted.calibration)];
        config.calibration.answers = Some(fitted.calibration);
        Ok(Some(Section { title: "Short answers".into(), text, tables: vec![table], ..Section::default() }))
    }

    /// How the rewards of the policy's likeliest captions of the development split's tuning half are distributed, as they are served.
    pub(super) fn rewards(
        &self,
        judge: &Judge<'_>,
        captions: &[(Written, ScoredText)],
        evidence: &[Arc<Evidence>],
        seen: &Seen,
    ) -> Result<Histogram, TrainError> {
        let Photographs { all, train, dev, .. } = &self.photographs;
        let is_tuning = |written: &Written| written.photograph < train + dev && Half::of(written.photograph - train) == Half::Tune;
        let rewards = captions.iter().filter(|(written, _)| is_tuning(written)).map(|(written, scored)| {
            let (evidence, image) = (&evidence[all[written.photograph].fold], &seen.images[written.photograph - train]);
            judge.served(scored, evidence, image).map(|(_, scored)| scored.rewards)
        });
        Ok(Histogram::of(rewards.collect::<Result<Vec<_>, _>>()?.concat()))
    }

    /// The familiarity below which lies the configured share of the development split's tuning half.
    pub(super) fn unfamiliar(&self, seen: &Seen) -> Option<f32> {
        let tuning = seen.images.iter().take(self.photographs.dev).enumerate().filter(|(i, _)| Half::of(*i) == Half::Tune);
        let mut known: Vec<f32> = tuning.map(|(_, image)| image.familiarity).collect();
        known.sort_by(f32::total_cmp);
        known.get((self.recipe.reference.unanswered_share * known.len() as f64) as usize).copied()
    }

    fn resampling(&self) -> Resampling {
        Resampling { repeats: REPEATS, seed: self.recipe.seed }
    }

    /// Figures of mentions that no calibration was fitted on, or none of their part.
    pub(super) fn section(&self, title: &str, mentions: &[(JudgedMention, Row)], fitted: &Fitted) -> Section {
        let judged = |(mention, row): &(JudgedMention, Row), score: f64, is_right: bool| Judged {
            origin: row.origin,
            outcome: Outcome { photograph: row.photograph, score, is_right },
            scorer: f64::from(mention.reward),
            is_person: mention.is_person(),
        };
        let reported =
            || mentions.iter().zip(&fitted.out_of_fold).filter(|((mention, row), _)| is_reported(row) && mention.author != Author::Sampled);
        let open: Vec<Judged> = reported().map(|(mention, &score)| judged(mention, score, mention.1.is_right)).collect();
        let coco: Vec<Judged> = reported().filter_map(|(mention, &score)| Some(judged(mention, score, mention.0.coco?))).collect();
        let threshold = f64::from(fitted.calibration.thresholds.default);
        let classes: Vec<_> = mentions.iter().map(|(mention, row)| (labels::class_of(mention.concept), row)).collect();
        Section {
            title: title.into(),
            text: vec![calibrate::described(&fitted.calibration)],
            tables: vec![
                figures::figures("Things", NOTE, &open, threshold, self.resampling()),
                figures::figures("COCO's objects", NOTE, &coco, threshold, self.resampling()),
                figures::mention_table("Mentions that the calibration is fitted on", &classes),
            ],
            ..Section::default()
        }
    }

    pub(super) fn report(&self, sections: Vec<Section>, config: &EvidenceConfig) -> Result<Report, TrainError> {
        let policy = &self.setup.policy;
        let parts: Vec<String> = self.recipe.parts.iter().map(usize::to_string).collect();
        let of = |origin: Origin| format!("{} {}", self.photographs.of(origin).count(), origin.name());
        let facts = [
            ("bundle", policy.name.clone()),
            (
                "photographs",
                format!(
                    "{} to learn from, {} held out of flickr8k; {}",
                    self.photographs.train,
                    self.photographs.dev,
                    OTHERS.map(of).join(", ")
                ),
            ),
            ("crops", format!("{} of {} {} photographs", self.crops.iter().count(), self.crops.photographs.len(), Origin::CocoMini.name())),
            ("outputs", config.concepts.len().to_string()),
            ("networks", format!("the mean of {}", self.recipe.networks)),
            ("parts of the shipped network", parts.join(", ")),
            ("familiarity", format!("1 / (1 + exp(-({:.3} cosine {:+.3})))", config.familiarity.slope, config.familiarity.offset)),
            ("seed", self.recipe.seed.to_string()),
        ];
        let report = Report {
            title: format!("Evidence for the words of {} {}", policy.config.name, policy.config.version),
            command: "candor train evidence".into(),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            notes: vec![
                "The network of a part did not learn from it, and its probabilities are from calibrations that were fitted without it. The shipped network learned from fewer parts."
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
