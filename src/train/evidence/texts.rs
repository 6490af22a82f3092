//! Texts by others: calibration of words without an output, and how well scores separate right
//! texts from wrong ones.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{TrainError, scored_split::ComparedText},
    EvidenceTraining, HeldOutOutputs,
    calibrate::{self, CalibrationRow, FittedCalibration},
    conclude::{NOTE, is_reported},
    figures,
    mentions::{MentionScorer, PhotographText},
    words::{LabeledWord, calibrated_classes},
};
use crate::{
    eval::{
        captions::flags::GuardMarks,
        honesty::{PhotographOrigin, ScoredOutcome, auroc, share, texts::MixedText},
        report::{Column, GoodDirection, NumberFormat, ReportTable, Section, TableRow},
        tokens::ScoredToken,
    },
    guard::{
        Mode, policy,
        words::{Word, words},
    },
    reward::thresholds::threshold_at_fpr,
    reward::{
        evidence::{Evidence, ImageEvidence, SentenceFeatures, WordFeatures},
        finish::WrittenBy,
    },
};

/// Human caption with its served score.
pub(super) struct PeopleCaption {
    /// Calibration row, right if the caption was written about the photograph.
    row: CalibrationRow,
    /// Lowest reward of its words.
    score: f64,
}

impl EvidenceTraining {
    /// Calibrates words without an output in classes with enough labeled words; `None` if there is
    /// no such class.
    pub(super) fn word_calibration(
        &self,
        words: &[LabeledWord],
        writer: WrittenBy,
        (evidence, outputs): (&[Evidence], &HeldOutOutputs),
        fitted_on: &str,
    ) -> Result<Option<(FittedCalibration, Section)>, TrainError> {
        let labeled: Vec<(&LabeledWord, CalibrationRow)> = words
            .iter()
            .filter_map(|word| Some((word, self.row(word.photograph, Vec::new(), word.truth?))))
            .collect();
        let classes = calibrated_classes(
            labeled
                .iter()
                .filter(|(_, row)| row.is_shipped)
                .map(|(word, row)| (*word, row.is_right)),
        );
        if classes.is_empty() {
            return Ok(None);
        }
        let sentence = SentenceFeatures::NAMES;
        let common: &[&str] = match writer {
            WrittenBy::Policy => &WordFeatures::NAMES,
            WrittenBy::Others => &["familiarity", "reward_logit", sentence[0], sentence[1]],
        };
        let names = [
            common,
            &classes
                .iter()
                .map(|&class| WordFeatures::class_feature(class))
                .collect::<Vec<_>>(),
        ]
        .concat();
        let with_features = |(word, row): (&LabeledWord, CalibrationRow)| {
            let image = &outputs.images[word.photograph - self.photographs.train];
            let sentence = SentenceFeatures::new(&evidence[row.fold], image, &word.sentence);
            let values = WordFeatures::new(
                word.class,
                image,
                word.reward,
                word.log_probability,
                sentence,
            );
            let features = names
                .iter()
                .map(|name| values.value(name))
                .collect::<Option<_>>()?;
            Some((word.class, CalibrationRow { features, ..row }))
        };
        let in_classes = labeled
            .into_iter()
            .filter(|(word, _)| classes.contains(&word.class));
        let (classes, rows): (Vec<_>, Vec<CalibrationRow>) =
            in_classes.filter_map(with_features).unzip();
        let fitted = calibrate::fit(&rows, &names, &self.recipe.calibration, fitted_on)?;
        let title = match writer {
            WrittenBy::Policy => "Words without an output in the policy's own captions",
            WrittenBy::Others => "Words without an output in captions by others",
        };
        let scored: Vec<figures::JudgedClass> = classes
            .into_iter()
            .zip(rows.iter().zip(&fitted.out_of_fold))
            .filter(|(_, (row, _))| is_reported(row))
            .map(|(class, (row, &score))| {
                (
                    class,
                    row.origin,
                    ScoredOutcome {
                        photograph: row.photograph,
                        score,
                        is_right: row.is_right,
                    },
                )
            })
            .collect();
        let table = figures::class_table(
            &scored,
            f64::from(fitted.calibration.thresholds.default),
            self.resampling(),
        );
        let text = vec![calibrate::description(&fitted.calibration)];
        Ok(Some((
            fitted,
            Section {
                title: title.into(),
                text,
                tables: vec![table],
                ..Section::default()
            },
        )))
    }

    /// Scores human captions as in serving.
    pub(super) fn scored_captions(
        &self,
        scorer: &MentionScorer<'_>,
        captions: &[(PhotographText, ComparedText)],
        (evidence, outputs): (&[Arc<Evidence>], &HeldOutOutputs),
    ) -> Result<Vec<PeopleCaption>, TrainError> {
        let mut found = Vec::new();
        for (written, scored) in captions {
            let row = self.row(
                written.photograph,
                Vec::new(),
                written.source == written.photograph,
            );
            let image = &outputs.images[written.photograph - self.photographs.train];
            let score = policy::judge(
                Mode::Score,
                &scorer.words_by_others(scored, &evidence[row.fold], image)?,
                true,
            )
            .1;
            found.extend(score.map(|score| PeopleCaption {
                row,
                score: score.into(),
            }));
        }
        Ok(found)
    }

    /// Threshold for texts by others: the highest, up to .5, at which no origin has a larger share
    /// of right captions flagged than configured.
    pub(super) fn text_threshold(&self, captions: &[PeopleCaption]) -> f32 {
        let mut right: BTreeMap<PhotographOrigin, Vec<ScoredToken>> = BTreeMap::new();
        for PeopleCaption { row, score } in captions
            .iter()
            .filter(|caption| caption.row.is_right && caption.row.is_shipped)
        {
            right.entry(row.origin).or_default().push(ScoredToken {
                reward: *score as f32,
                good: true,
                image: 0,
            });
        }
        let thresholds = right
            .values()
            .map(|captions| threshold_at_fpr(captions, self.recipe.matching.right_flagged));
        thresholds.fold(calibrate::DEFAULT_THRESHOLD, f32::min)
    }

    /// Section on the detection of wrong captions and of the wrong sentence in a mixed text.
    pub(super) fn texts(
        &self,
        scorer: &MentionScorer<'_>,
        captions: &[PeopleCaption],
        (mixed, texts): (
            &BTreeMap<usize, MixedText>,
            &[(PhotographText, ComparedText)],
        ),
        (evidence, outputs): (&[Arc<Evidence>], &HeldOutOutputs),
        threshold: f64,
    ) -> Result<Section, TrainError> {
        let mut found: Vec<(CalibrationRow, bool)> = Vec::new();
        for (written, scored) in texts {
            let Some(text) = mixed.get(&written.photograph) else {
                continue;
            };
            let row = self.row(written.photograph, Vec::new(), false);
            let image = &outputs.images[written.photograph - self.photographs.train];
            let words = scorer.words_by_others(scored, &evidence[row.fold], image)?;
            let claims = words.iter().filter(|word| !word.function);
            let scores = claims
                .filter_map(|word| Some((word.bytes.clone(), word.score?)))
                .collect();
            found.extend(
                text.is_found(&GuardMarks {
                    scores,
                    ..GuardMarks::default()
                })
                .map(|is_found| (row, is_found)),
            );
        }
        let resampling = self.resampling();
        let mut rows = Vec::new();
        for origin in [PhotographOrigin::Flickr8k, PhotographOrigin::CocoMini] {
            let is_of = |row: &CalibrationRow| row.origin == origin && is_reported(row);
            let own: Vec<&PeopleCaption> = captions
                .iter()
                .filter(|caption| is_of(&caption.row))
                .collect();
            if own.is_empty() {
                continue;
            }
            let outcome = |PeopleCaption { row, score }: &PeopleCaption| ScoredOutcome {
                photograph: row.photograph,
                score: *score,
                is_right: row.is_right,
            };
            let outcomes: Vec<ScoredOutcome> = own.iter().map(|caption| outcome(caption)).collect();
            let flagged = |right: bool| {
                let matching = outcomes.iter().filter(|outcome| outcome.is_right == right);
                share(
                    &matching
                        .map(|outcome| (outcome.photograph, outcome.score < threshold))
                        .collect::<Vec<_>>(),
                    resampling,
                )
            };
            let sentences: Vec<(usize, bool)> = found
                .iter()
                .filter(|(row, _)| is_of(row))
                .map(|(row, is_found)| (row.photograph, *is_found))
                .collect();
            let cells = vec![
                outcomes.len().into(),
                auroc(&outcomes, resampling).into(),
                flagged(true).into(),
                flagged(false).into(),
                sentences.len().into(),
                share(&sentences, resampling).into(),
            ];
            rows.push(TableRow::new(origin.name(), cells));
        }
        let percent = |name: &str| Column::new(name, NumberFormat::Percent);
        let table = ReportTable {
            title: "People's captions, half of them another photograph's".into(),
            note: format!(
                "{NOTE} The score of a caption is the lowest reward of its words; it is flagged \
                 where that is below {threshold:.3}."
            ),
            columns: vec![
                Column::new("captions", NumberFormat::Count),
                Column::new("AUROC", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
                percent("right flagged").better(GoodDirection::Lower),
                percent("wrong flagged").better(GoodDirection::Higher),
                Column::new("texts", NumberFormat::Count)
                    .help("Of four sentences, one of them another photograph's."),
                percent("wrong sentence is lowest").better(GoodDirection::Higher),
            ],
            rows,
        };
        Ok(Section {
            title: "Texts by others".into(),
            tables: vec![table],
            ..Section::default()
        })
    }
}

impl MentionScorer<'_> {
    /// Words of a text by others with their served rewards.
    fn words_by_others(
        &self,
        text: &ComparedText,
        evidence: &Arc<Evidence>,
        image: &ImageEvidence,
    ) -> Result<Vec<Word>, TrainError> {
        let (tokens, scored) = self.served_by(WrittenBy::Others, text, evidence, image)?;
        let bytes = tokens
            .iter()
            .map(|&token| self.setup.policy.tokenizer.bytes(token));
        Ok(words(bytes, &scored.rewards).1)
    }
}
