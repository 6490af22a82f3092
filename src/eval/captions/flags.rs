//! Evaluation of flags: hallucinated mentions among flagged words and among those that were left.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Evaluation, JudgedCaption};
use crate::{
    eval::{
        bootstrap::{Estimate, estimates},
        report::{Column, GoodDirection, NumberFormat, ReportTable, Section, TableCell, TableRow},
        tokens::{Ranking, ScoredToken},
        tradeoff::Rewarded,
    },
    lexicon::{Lexicon, Reading},
};

/// Guard marks on one caption. Ranges are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardMarks {
    /// Flagged spans.
    pub flagged: Vec<Range<usize>>,
    /// Words with their scores, the lowest reward of their tokens.
    pub scores: Vec<(Range<usize>, f32)>,
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

impl GuardMarks {
    /// Returns `true` if a flagged span overlaps the range.
    pub fn flags(&self, range: &Range<usize>) -> bool {
        self.flagged.iter().any(|span| overlap(span, range))
    }

    /// Lowest score of the words in a range; `None` if none was scored.
    pub fn score(&self, range: &Range<usize>) -> Option<f32> {
        self.scores
            .iter()
            .filter(|(word, _)| overlap(word, range))
            .map(|w| w.1)
            .min_by(f32::total_cmp)
    }
}

/// Vocabulary whose mentions are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MentionKind {
    /// Open vocabulary, judged by reference captions.
    Open,
    /// Closed vocabulary.
    Closed,
}

impl MentionKind {
    /// Both, in the order of reports.
    pub const ALL: [Self; 2] = [Self::Open, Self::Closed];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open vocabulary",
            Self::Closed => "closed vocabulary",
        }
    }

    /// Mentions of a caption, each with `true` if it is grounded; `None` if the image lacks the
    /// annotations.
    pub fn mentions(self, caption: &JudgedCaption<'_>) -> Option<Vec<(Range<usize>, bool)>> {
        match self {
            Self::Open => caption
                .open
                .as_ref()
                .map(|judgment| judgment.mentions.clone()),
            Self::Closed => caption.closed.as_ref().map(|objects| {
                objects
                    .mentions
                    .iter()
                    .map(|m| (m.0.clone(), m.2))
                    .collect()
            }),
        }
    }

    /// Captions of an evaluation with the reward of each mention.
    pub fn rewarded_mentions(
        self,
        evaluation: &Evaluation<'_>,
        marks: &[GuardMarks],
        reward: fn(&GuardMarks, &Range<usize>) -> f32,
    ) -> Vec<Rewarded> {
        let lexicon = Lexicon::shared();
        let one = |(caption, marks): (&JudgedCaption<'_>, &GuardMarks)| match self {
            Self::Open => caption.open.as_ref().map(|_| {
                let references: Vec<Reading> = caption
                    .image
                    .captions
                    .iter()
                    .map(|c| Reading::new(lexicon, c))
                    .collect();
                let read = Reading::new(lexicon, caption.text);
                Rewarded::new(
                    lexicon,
                    &read,
                    &references.iter().collect::<Vec<_>>(),
                    |range| reward(marks, range),
                )
            }),
            Self::Closed => caption.closed.as_ref().map(|objects| Rewarded {
                mentions: objects
                    .mentions
                    .iter()
                    .map(|m| (reward(marks, &m.0), m.2))
                    .collect(),
                expected: objects
                    .present
                    .iter()
                    .map(|mentions| {
                        mentions
                            .iter()
                            .map(|range| reward(marks, range))
                            .max_by(f32::total_cmp)
                    })
                    .collect(),
            }),
        };
        evaluation
            .captions
            .iter()
            .zip(marks)
            .filter_map(one)
            .collect()
    }
}

/// Counts of one caption: mentions by truth and flag, and the caption itself.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Hallucinated mentions: all, flagged.
    wrong: [f64; 2],
    /// Supported mentions: all, flagged.
    right: [f64; 2],
    /// Captions with a hallucinated mention: all, flagged anywhere.
    hallucinating: [f64; 2],
    /// Other captions: all, flagged anywhere.
    others: [f64; 2],
}

impl Counts {
    fn new(mentions: &[(Range<usize>, bool)], marks: &GuardMarks) -> Self {
        let mut counts = Self::default();
        for (range, is_right) in mentions {
            let count = if *is_right {
                &mut counts.right
            } else {
                &mut counts.wrong
            };
            count[0] += 1.0;
            count[1] += f64::from(u8::from(marks.flags(range)));
        }
        let caption = if counts.wrong[0] > 0.0 {
            &mut counts.hallucinating
        } else {
            &mut counts.others
        };
        *caption = [1.0, f64::from(u8::from(!marks.flagged.is_empty()))];
        counts
    }

    fn add(&mut self, other: &Self, weight: f64) {
        let own = [
            &mut self.wrong,
            &mut self.right,
            &mut self.hallucinating,
            &mut self.others,
        ];
        let others = [other.wrong, other.right, other.hallucinating, other.others];
        own.into_iter().zip(others).for_each(|(sum, counts)| {
            sum.iter_mut()
                .zip(counts)
                .for_each(|(s, n)| *s += weight * n)
        });
    }
}

/// Builds the section on flags in `marks`, with one row per vocabulary.
pub fn section(
    evaluation: &Evaluation<'_>,
    marks: &[GuardMarks],
    repeats: usize,
    seed: u64,
) -> Section {
    let measured =
        |kind| measure(kind, evaluation, marks, repeats, seed).map(|found| row(kind, &found));
    let rows = MentionKind::ALL.into_iter().filter_map(measured).collect();
    let share = |name: &str, help: &str| Column::new(name, NumberFormat::Percent).help(help);
    let table = ReportTable {
        title: "What flags find".into(),
        note: "Mode flag does not change the text. A mention is flagged if one of its words is. \
               AUROC is that of the mention's score, the lowest reward of its words: the \
               probability that a hallucinated mention has a lower score than a grounded one."
            .into(),
        columns: vec![
            share(
                "hallucinated mentions flagged",
                "share of hallucinated mentions that are flagged",
            )
            .better(GoodDirection::Higher),
            share(
                "right mentions flagged",
                "share of grounded mentions that are flagged",
            )
            .better(GoodDirection::Lower),
            Column::new("AUROC", NumberFormat::Decimal(3))
                .better(GoodDirection::Higher)
                .help(
                    "area under the \
                ROC curve of the mention's score",
                ),
            share(
                "hallucinated, unflagged",
                "share of all mentions that are hallucinated and not \
                                              flagged",
            )
            .better(GoodDirection::Lower),
            share("answers flagged", "share of answers with a flag"),
            share(
                "hallucinating answers flagged",
                "share of answers with a hallucinated mention that have a flag",
            )
            .better(GoodDirection::Higher),
            share(
                "other answers flagged",
                "share of the other answers that have a \
                                            flag",
            )
            .better(GoodDirection::Lower),
            Column::new("hallucinated mentions", NumberFormat::Count),
            Column::new("right mentions", NumberFormat::Count),
        ],
        rows,
    };
    Section {
        title: "Flags".into(),
        tables: vec![table],
        ..Section::default()
    }
}

/// Figures of flags on the mentions of one vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlagFigures {
    /// Share of hallucinated mentions that are flagged.
    pub wrong_flagged: Estimate,
    /// Share of grounded mentions that are flagged.
    pub right_flagged: Estimate,
    /// Probability that a hallucinated mention has a lower score than a grounded one.
    pub auroc: Estimate,
    /// Share of all mentions that are hallucinated and not flagged.
    pub wrong_unflagged: Estimate,
    /// Share of answers with a flag.
    pub answers_flagged: Estimate,
    /// Share of answers with a hallucinated mention that have a flag.
    pub hallucinating_flagged: Estimate,
    /// Share of the other answers that have a flag.
    pub others_flagged: Estimate,
    /// Hallucinated mentions.
    pub wrong: usize,
    /// Grounded mentions.
    pub right: usize,
    /// Captions whose mentions could be judged.
    pub captions: usize,
}

/// Measures the flags in `marks`; `None` if no caption can be judged.
pub fn measure(
    kind: MentionKind,
    evaluation: &Evaluation<'_>,
    marks: &[GuardMarks],
    repeats: usize,
    seed: u64,
) -> Option<FlagFigures> {
    let (mut counts, mut scored) = (Vec::new(), Vec::new());
    for (caption, marks) in evaluation.captions.iter().zip(marks) {
        let Some(mentions) = kind.mentions(caption) else {
            continue;
        };
        let image = counts.len() as u32;
        let score = |(range, good): &(Range<usize>, bool)| {
            Some(ScoredToken {
                reward: marks.score(range)?,
                good: *good,
                image,
            })
        };
        scored.extend(mentions.iter().filter_map(score));
        counts.push(Counts::new(&mentions, marks));
    }
    if counts.is_empty() {
        return None;
    }
    let ranking = Ranking::new(scored);
    let figures = |weights: &[u32]| {
        let mut sum = Counts::default();
        counts
            .iter()
            .zip(weights)
            .for_each(|(c, &w)| sum.add(c, f64::from(w)));
        let Counts {
            wrong,
            right,
            hallucinating,
            others,
        } = sum;
        vec![
            wrong[1] / wrong[0],
            right[1] / right[0],
            ranking.weighted(0.0, weights).auroc,
            (wrong[0] - wrong[1]) / (wrong[0] + right[0]),
            (hallucinating[1] + others[1]) / (hallucinating[0] + others[0]),
            hallucinating[1] / hallucinating[0],
            others[1] / others[0],
        ]
    };
    let found = estimates(counts.len(), repeats, seed, figures);
    let [
        wrong_flagged,
        right_flagged,
        auroc,
        wrong_unflagged,
        answers_flagged,
        hallucinating_flagged,
        others_flagged,
    ] = found[..]
    else {
        return None;
    };
    let total = |of: fn(&Counts) -> f64| counts.iter().map(of).sum::<f64>() as usize;
    let (wrong, right, captions) = (total(|c| c.wrong[0]), total(|c| c.right[0]), counts.len());
    Some(FlagFigures {
        wrong_flagged,
        right_flagged,
        auroc,
        wrong_unflagged,
        answers_flagged,
        hallucinating_flagged,
        others_flagged,
        wrong,
        right,
        captions,
    })
}

fn row(kind: MentionKind, found: &FlagFigures) -> TableRow {
    let figures = [
        found.wrong_flagged,
        found.right_flagged,
        found.auroc,
        found.wrong_unflagged,
        found.answers_flagged,
        found.hallucinating_flagged,
        found.others_flagged,
    ];
    let cells = figures
        .into_iter()
        .map(TableCell::from)
        .chain([found.wrong.into(), found.right.into()]);
    TableRow::new(kind.name(), cells.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{
        captions::Measures,
        chair::ChairVocabulary,
        data::{AnnotatedImage, Hypothesis, RowPosition},
        report::EvaluationReport,
    };

    /// Captions of one photograph of a dog on grass, with flags and every word's score.
    fn flagged(
        captions: &[(&str, &[&str])],
        score: fn(&str) -> f32,
        check: impl FnOnce(&Evaluation<'_>, &[GuardMarks]),
    ) {
        let image = AnnotatedImage {
            id: "1.jpg".into(),
            captions: ["A dog on grass.", "A dog in the grass."]
                .map(str::to_owned)
                .into(),
            objects: Some(["dog".to_owned()].into()),
            ..AnnotatedImage::default()
        };
        let hypotheses: Vec<Hypothesis> = captions
            .iter()
            .map(|(text, _)| Hypothesis {
                image: image.id.clone(),
                caption: (*text).into(),
                objects: None,
                position: RowPosition::File,
            })
            .collect();
        let marks: Vec<GuardMarks> = captions
            .iter()
            .map(|(text, flagged)| GuardMarks {
                flagged: flagged
                    .iter()
                    .map(|word| text.find(word).map(|at| at..at + word.len()).unwrap())
                    .collect(),
                scores: crate::lexicon::words(text)
                    .into_iter()
                    .map(|w| (w.range.clone(), score(&text[w.range])))
                    .collect(),
            })
            .collect();
        let pairs: Vec<_> = hypotheses.iter().map(|h| (&image, h)).collect();
        let measures = Measures {
            open: true,
            closed: Some(ChairVocabulary::coco80()),
            ..Measures::default()
        };
        check(&Evaluation::new(&pairs, measures), &marks);
    }

    #[test]
    fn flags_are_counted_by_truth_of_their_mentions() {
        let score = |word: &str| match word {
            "frisbee" => 0.1,
            "cat" => 0.6,
            "dog" => 0.9,
            _ => 0.5,
        };
        let captions: [(&str, &[&str]); 3] = [
            ("A dog with a frisbee on the grass.", &["frisbee"]),
            ("A cat on the grass.", &["grass"]),
            ("A dog.", &[]),
        ];
        flagged(&captions, score, |evaluation, marks| {
            let report = EvaluationReport {
                sections: vec![section(evaluation, marks, 100, 1)],
                ..EvaluationReport::default()
            }
            .to_json();
            let figure = |row: &str, column: &str| {
                let tables = &report["sections"]["Flags"]["tables"];
                tables["What flags find"]["rows"][row][column]["value"]
                    .as_f64()
                    .unwrap()
            };
            for (column, wanted) in [
                ("hallucinated mentions flagged", 0.5),
                ("right mentions flagged", 0.25),
                // Of frisbee and cat against dog, grass, grass and dog: 4 + 2 of 8 pairs.
                ("AUROC", 0.75),
                ("hallucinated, unflagged", 1.0 / 6.0),
                ("answers flagged", 2.0 / 3.0),
                ("hallucinating answers flagged", 1.0),
                ("other answers flagged", 0.0),
                ("hallucinated mentions", 2.0),
                ("right mentions", 4.0),
            ] {
                assert!(
                    (figure("open vocabulary", column) - wanted).abs() < 1e-9,
                    "{column}: {}",
                    figure("open vocabulary", column)
                );
            }
            assert_eq!(
                figure("closed vocabulary", "hallucinated mentions flagged"),
                0.5,
                "frisbee of frisbee and cat"
            );
            assert_eq!(figure("closed vocabulary", "right mentions flagged"), 0.0);
            // Without flagged words, one hallucinated cat and two grounded dogs in three
            // photographs are left.
            let left = |vocabulary: MentionKind| {
                let rewarded = vocabulary.rewarded_mentions(evaluation, marks, |m, range| {
                    if m.flags(range) { 0.0 } else { 1.0 }
                });
                crate::eval::tradeoff::curve(&rewarded, &[0.5])[0]
            };
            assert_eq!(
                (
                    left(MentionKind::Closed).chair_i,
                    left(MentionKind::Closed).recall
                ),
                (1.0 / 3.0, 2.0 / 3.0)
            );
            assert_eq!(left(MentionKind::Open).chair_i, 0.25);
        });
    }

    #[test]
    fn photographs_without_references_are_left_out_of_flag_figures() {
        let image = AnnotatedImage {
            id: "1.jpg".into(),
            ..AnnotatedImage::default()
        };
        let caption = Hypothesis {
            image: "1.jpg".into(),
            caption: "A dog.".into(),
            objects: None,
            position: RowPosition::File,
        };
        let evaluation = Evaluation::new(
            &[(&image, &caption)],
            Measures {
                open: true,
                ..Measures::default()
            },
        );
        assert!(
            section(&evaluation, &[GuardMarks::default()], 100, 1).tables[0]
                .rows
                .is_empty()
        );
    }
}
