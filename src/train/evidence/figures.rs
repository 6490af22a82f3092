//! Tables of the report.

use std::collections::BTreeMap;

use super::{calibrate::CalibrationRow, labels::class_of, learn::TrainingRows, origins::OTHERS};
use crate::{
    eval::{
        honesty::{
            PhotographOrigin, Resampling, ScoredOutcome, auroc, calibration::calibration_error,
            share,
        },
        report::{Column, GoodDirection, NumberFormat, ReportTable, TableCell, TableRow},
    },
    guard::question::QuestionKind,
    lexicon::{ConceptId, WordClass},
};

/// Classes of words that have outputs.
const CLASSES: [WordClass; 3] = [WordClass::Person, WordClass::Animal, WordClass::Object];

/// Counts of positive and negative labels of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct LabelCounts {
    pub(super) shown: usize,
    pub(super) absent: usize,
}

/// Label counts by class of word and origin.
pub(super) type Counts = BTreeMap<(WordClass, PhotographOrigin), LabelCounts>;

/// Counts the labels with positive weight in the given rows (index and origin).
pub(super) fn label_counts(
    indices: impl Iterator<Item = (usize, PhotographOrigin)>,
    rows: &TrainingRows,
    concepts: &[ConceptId],
) -> Counts {
    let mut counts = Counts::new();
    let classes: Vec<WordClass> = concepts.iter().map(|&concept| class_of(concept)).collect();
    for (i, origin) in indices {
        // Creates entries with zero counts, so that the table shows them.
        CLASSES
            .iter()
            .for_each(|&class| _ = counts.entry((class, origin)).or_default());
        let labels = classes
            .iter()
            .zip(rows.labels[i].iter().zip(&rows.weights[i]));
        for (&class, (&label, _)) in labels.filter(|(_, (_, weight))| **weight > 0.0) {
            let count = counts.entry((class, origin)).or_default();
            *(if label > 0.5 {
                &mut count.shown
            } else {
                &mut count.absent
            }) += 1;
        }
    }
    counts
}

/// Returns a class of words without negative labels, if there is one.
pub(super) fn class_without_negatives(counts: &Counts) -> Option<WordClass> {
    let absent = |class: WordClass| {
        counts
            .iter()
            .filter(|((own, _), _)| *own == class)
            .map(|(_, count)| count.absent)
            .sum::<usize>()
    };
    CLASSES.into_iter().find(|&class| absent(class) == 0)
}

/// Tables of label counts of whole photographs and, if there are any, of crops.
pub(super) fn label_tables(photographs: &Counts, crops: &Counts) -> Vec<ReportTable> {
    let whole = label_table(
        "Labels by class of word",
        "Outputs of photographs that are learned from, those that weigh nothing left out.",
        photographs,
    );
    let crops = (!crops.is_empty()).then(|| {
        label_table(
            "Labels of crops by class of word",
            "The same of crops of photographs with boxes.",
            crops,
        )
    });
    std::iter::once(whole).chain(crops).collect()
}

fn label_table(title: &str, note: &str, counts: &Counts) -> ReportTable {
    let row = |((class, origin), count): (&(WordClass, PhotographOrigin), &LabelCounts)| {
        TableRow::new(
            format!("{class}, {}", origin.name()),
            vec![count.shown.into(), count.absent.into()],
        )
    };
    ReportTable {
        title: title.into(),
        note: note.into(),
        columns: vec![
            Column::new("shown", NumberFormat::Count),
            Column::new("absent", NumberFormat::Count),
        ],
        rows: counts.iter().map(row).collect(),
    }
}

/// Table of the right and wrong mentions that a calibration was fitted on, by class of word.
pub(super) fn mention_table(title: &str, rows: &[(WordClass, &CalibrationRow)]) -> ReportTable {
    let mut counts: BTreeMap<(WordClass, PhotographOrigin), [usize; 2]> = BTreeMap::new();
    for (class, row) in rows.iter().filter(|(_, row)| row.is_shipped) {
        CLASSES
            .iter()
            .for_each(|&class| _ = counts.entry((class, row.origin)).or_default());
        counts.entry((*class, row.origin)).or_default()[usize::from(!row.is_right)] += 1;
    }
    let row = |((class, origin), [right, wrong]): (&(WordClass, PhotographOrigin), &[usize; 2])| {
        TableRow::new(
            format!("{class}, {}", origin.name()),
            vec![(*right).into(), (*wrong).into()],
        )
    };
    ReportTable {
        title: title.into(),
        note: "Mentions whose truth is known and that have an output.".into(),
        columns: vec![
            Column::new("right", NumberFormat::Count),
            Column::new("wrong", NumberFormat::Count),
        ],
        rows: counts.iter().map(row).collect(),
    }
}

/// Out-of-fold probability of an item, with its truth.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutOfFoldScore {
    pub(super) origin: PhotographOrigin,
    pub(super) outcome: ScoredOutcome,
    /// Reward from the scorer alone.
    pub(super) scorer: f64,
    /// `true` if the item names people.
    pub(super) is_person: bool,
}

/// Table of metrics by origin, with words below `threshold` flagged.
pub(super) fn figures(
    title: &str,
    note: &str,
    judged: &[OutOfFoldScore],
    threshold: f64,
    resampling: Resampling,
) -> ReportTable {
    let mut rows = Vec::new();
    for origin in [PhotographOrigin::Flickr8k].into_iter().chain(OTHERS) {
        let own: Vec<&OutOfFoldScore> = judged
            .iter()
            .filter(|judged| judged.origin == origin)
            .collect();
        let people: Vec<&OutOfFoldScore> = own
            .iter()
            .filter(|judged| judged.is_person)
            .copied()
            .collect();
        for (name, scores) in [
            (origin.name().to_owned(), own),
            (format!("{}: people", origin.name()), people),
        ] {
            if !scores.is_empty() {
                rows.push(TableRow::new(name, cells(&scores, threshold, resampling)));
            }
        }
    }
    ReportTable {
        title: title.into(),
        note: note.into(),
        columns: columns(),
        rows,
    }
}

/// Index of the column of the scorer alone.
const SCORER_COLUMN: usize = 3;

fn columns() -> Vec<Column> {
    let percent = |name: &str| Column::new(name, NumberFormat::Percent);
    vec![
        Column::new("n", NumberFormat::Count),
        percent("wrong"),
        Column::new("AUROC", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
        Column::new("AUROC, scorer", NumberFormat::Decimal(3)),
        Column::new("ECE", NumberFormat::Decimal(3))
            .better(GoodDirection::Lower)
            .help("In ten bins of equal mass, less what it would be by chance."),
        percent("right flagged").better(GoodDirection::Lower),
        percent("wrong flagged").better(GoodDirection::Higher),
        percent("wrong unflagged")
            .better(GoodDirection::Lower)
            .help("As a share of all."),
    ]
}

/// Word without an output: class, origin of its photograph, and out-of-fold outcome.
pub(super) type JudgedClass = (WordClass, PhotographOrigin, ScoredOutcome);

/// Table of metrics by class of word and origin, with words below `threshold` flagged.
pub(super) fn class_table(
    judged: &[JudgedClass],
    threshold: f64,
    resampling: Resampling,
) -> ReportTable {
    let mut by_class: BTreeMap<(WordClass, PhotographOrigin), Vec<OutOfFoldScore>> =
        BTreeMap::new();
    for &(class, origin, outcome) in judged {
        by_class
            .entry((class, origin))
            .or_default()
            .push(OutOfFoldScore {
                origin,
                outcome,
                scorer: 0.0,
                is_person: false,
            });
    }
    let row =
        |((class, origin), scores): (&(WordClass, PhotographOrigin), &Vec<OutOfFoldScore>)| {
            let mut cells = cells(&scores.iter().collect::<Vec<_>>(), threshold, resampling);
            cells.remove(SCORER_COLUMN);
            TableRow::new(format!("{class}, {}", origin.name()), cells)
        };
    let mut columns = columns();
    columns.remove(SCORER_COLUMN);
    let note = "Out of fold; of Flickr8k the reporting half of the development split.".into();
    ReportTable {
        title: "Words by class".into(),
        note,
        columns,
        rows: by_class.iter().map(row).collect(),
    }
}

fn cells(judged: &[&OutOfFoldScore], threshold: f64, resampling: Resampling) -> Vec<TableCell> {
    let outcomes: Vec<ScoredOutcome> = judged.iter().map(|judged| judged.outcome).collect();
    let by_scorer: Vec<ScoredOutcome> = judged
        .iter()
        .map(|judged| ScoredOutcome {
            score: judged.scorer,
            ..judged.outcome
        })
        .collect();
    let is_flagged = |outcome: &ScoredOutcome| outcome.score < threshold;
    let flagged = |right: bool| {
        let matching = outcomes.iter().filter(|outcome| outcome.is_right == right);
        let rows: Vec<(usize, bool)> = matching
            .map(|outcome| (outcome.photograph, is_flagged(outcome)))
            .collect();
        TableCell::from(share(&rows, resampling))
    };
    let wrong: Vec<(usize, bool)> = outcomes
        .iter()
        .map(|outcome| (outcome.photograph, !outcome.is_right))
        .collect();
    let missed: Vec<(usize, bool)> = outcomes
        .iter()
        .map(|outcome| {
            (
                outcome.photograph,
                !outcome.is_right && !is_flagged(outcome),
            )
        })
        .collect();
    vec![
        outcomes.len().into(),
        share(&wrong, resampling).into(),
        auroc(&outcomes, resampling).into(),
        auroc(&by_scorer, resampling).into(),
        calibration_error(&outcomes, resampling).excess.into(),
        flagged(true),
        flagged(false),
        share(&missed, resampling).into(),
    ]
}

/// Table of answers by origin and kind of question; `kinds` runs parallel to `judged`. Answers at
/// or above `threshold` are given.
pub(super) fn answers_by_kind(
    kinds: &[QuestionKind],
    judged: &[OutOfFoldScore],
    threshold: f64,
    resampling: Resampling,
) -> ReportTable {
    let mut groups: BTreeMap<(PhotographOrigin, Option<QuestionKind>), Vec<ScoredOutcome>> =
        BTreeMap::new();
    for (&kind, judged) in kinds.iter().zip(judged) {
        // `None` sorts first: all kinds together.
        [None, Some(kind)].into_iter().for_each(|kind| {
            groups
                .entry((judged.origin, kind))
                .or_default()
                .push(judged.outcome)
        });
    }
    let row = |((origin, kind), outcomes): (
        &(PhotographOrigin, Option<QuestionKind>),
        &Vec<ScoredOutcome>,
    )| {
        let name = kind.map_or(origin.name().to_owned(), |kind| {
            format!("{}: {}", origin.name(), kind.name())
        });
        TableRow {
            emphasis: kind.is_none(),
            ..TableRow::new(name, answer_cells(outcomes, threshold, resampling))
        }
    };
    let percent = |name: &str| Column::new(name, NumberFormat::Percent);
    ReportTable {
        title: "Answers by kind of question".into(),
        note: format!(
            "Coverage: the share with a probability of at least {threshold}. Risk: how many of \
             these are wrong."
        ),
        columns: vec![
            Column::new("n", NumberFormat::Count),
            percent("right"),
            Column::new("AUROC", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
            percent("coverage"),
            percent("risk").better(GoodDirection::Lower),
            percent("right given")
                .better(GoodDirection::Higher)
                .help("As a share of the right ones."),
        ],
        rows: groups.iter().map(row).collect(),
    }
}

fn answer_cells(
    outcomes: &[ScoredOutcome],
    threshold: f64,
    resampling: Resampling,
) -> Vec<TableCell> {
    let is_given = |outcome: &ScoredOutcome| outcome.score >= threshold;
    let shares = |condition: &dyn Fn(&ScoredOutcome) -> bool,
                  holds: &dyn Fn(&ScoredOutcome) -> bool| {
        let rows: Vec<(usize, bool)> = outcomes
            .iter()
            .filter(|o| condition(o))
            .map(|o| (o.photograph, holds(o)))
            .collect();
        TableCell::from(share(&rows, resampling))
    };
    vec![
        outcomes.len().into(),
        shares(&|_| true, &|outcome| outcome.is_right),
        auroc(outcomes, resampling).into(),
        shares(&|_| true, &is_given),
        shares(&is_given, &|outcome| !outcome.is_right),
        shares(&|outcome| outcome.is_right, &is_given),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_without_negatives_finds_class_never_absent() {
        let count = |absent| LabelCounts { shown: 3, absent };
        let mut counts = BTreeMap::from([
            ((WordClass::Person, PhotographOrigin::Flickr8k), count(0)),
            ((WordClass::Person, PhotographOrigin::Daquar), count(5)),
            ((WordClass::Animal, PhotographOrigin::Flickr8k), count(2)),
            ((WordClass::Object, PhotographOrigin::VqaRad), count(1)),
        ]);
        assert_eq!(class_without_negatives(&counts), None);
        counts.insert((WordClass::Person, PhotographOrigin::Daquar), count(0));
        assert_eq!(class_without_negatives(&counts), Some(WordClass::Person));
    }

    #[test]
    fn figures_list_origins_and_people_separately() {
        let judged = |origin, photograph, score, is_right, is_person| OutOfFoldScore {
            origin,
            outcome: ScoredOutcome {
                photograph,
                score,
                is_right,
            },
            scorer: 1.0 - score,
            is_person,
        };
        let all = [
            judged(PhotographOrigin::Flickr8k, 1, 0.9, true, false),
            judged(PhotographOrigin::Flickr8k, 2, 0.4, true, false),
            judged(PhotographOrigin::Flickr8k, 3, 0.3, false, false),
            judged(PhotographOrigin::Flickr8k, 4, 0.6, false, false),
            judged(PhotographOrigin::Daquar, 5, 0.2, false, true),
        ];
        let table = figures(
            "t",
            "",
            &all,
            0.5,
            Resampling {
                repeats: 10,
                seed: 1,
            },
        );
        let names: Vec<&str> = table.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["flickr8k", "daquar", "daquar: people"]);
        let value = |row: usize, column: usize| match &table.rows[row].cells[column] {
            TableCell::Value(estimate) => estimate.value,
            other => panic!("{other:?}"),
        };
        // Of four pairs, .9 ranks above both wrong ones and .4 above one.
        assert_eq!(
            (value(0, 0), value(0, 1), value(0, 2), value(0, 3)),
            (4.0, 0.5, 0.75, 0.25)
        );
        assert_eq!((value(0, 5), value(0, 6), value(0, 7)), (0.5, 0.5, 0.25));
        assert_eq!((value(1, 1), value(1, 6), value(1, 7)), (1.0, 1.0, 0.0));
    }

    #[test]
    fn answers_by_kind_lists_risk_and_coverage() {
        let judged = |origin, photograph, score, is_right| OutOfFoldScore {
            origin,
            outcome: ScoredOutcome {
                photograph,
                score,
                is_right,
            },
            scorer: 0.5,
            is_person: false,
        };
        let all = [
            judged(PhotographOrigin::Daquar, 9, 0.1, false),
            judged(PhotographOrigin::Flickr8k, 1, 0.9, true),
            judged(PhotographOrigin::Flickr8k, 2, 0.5, false),
            judged(PhotographOrigin::Flickr8k, 3, 0.4, true),
            judged(PhotographOrigin::Flickr8k, 3, 0.8, true),
        ];
        let (presence, color) = (QuestionKind::Presence, QuestionKind::Color);
        let table = answers_by_kind(
            &[color, presence, color, color, presence],
            &all,
            0.5,
            Resampling {
                repeats: 10,
                seed: 1,
            },
        );
        let names: Vec<&str> = table.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "flickr8k",
                "flickr8k: color",
                "flickr8k: presence",
                "daquar",
                "daquar: color"
            ]
        );
        let values = |row: usize| {
            let value = |cell: &TableCell| match cell {
                TableCell::Value(estimate) => estimate.value,
                other => panic!("{other:?}"),
            };
            table.rows[row]
                .cells
                .iter()
                .map(value)
                .collect::<Vec<f64>>()
        };
        // Given are .9, .8 and the wrong .5; of three pairs only .4 ranks below the wrong one.
        let flickr = values(0);
        let want = [4.0, 0.75, 2.0 / 3.0, 0.75, 1.0 / 3.0, 2.0 / 3.0];
        assert!(
            flickr
                .iter()
                .zip(want)
                .all(|(found, want)| (found - want).abs() < 1e-9),
            "{flickr:?}"
        );
        assert_eq!(values(1), [2.0, 0.5, 0.0, 0.5, 1.0, 0.0]);
        // No answer is given, so risk is undefined.
        let daquar = values(4);
        assert!(
            daquar[3] == 0.0 && daquar[4].is_nan() && daquar[5].is_nan(),
            "{daquar:?}"
        );
    }
}
