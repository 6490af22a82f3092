//! What the report of a run says.

use std::collections::BTreeMap;

use super::{calibrate::Row, labels::class_of, learn::Rows, origins::OTHERS};
use crate::{
    eval::{
        honesty::{Origin, Outcome, Resampling, auroc, calibration::calibration_error, share},
        report::{Better, Cell, Column, Format, Table, TableRow},
    },
    lexicon::{ConceptId, WordClass},
};

/// Classes of words that have outputs.
const CLASSES: [WordClass; 3] = [WordClass::Person, WordClass::Animal, WordClass::Thing];

/// How often things of a class are shown, and absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct LabelCounts {
    pub(super) shown: usize,
    pub(super) absent: usize,
}

/// Counts by class of word and origin.
pub(super) type Counts = BTreeMap<(WordClass, Origin), LabelCounts>;

/// Counts labels that weigh something in numbered rows of origins.
pub(super) fn label_counts(of: impl Iterator<Item = (usize, Origin)>, rows: &Rows, concepts: &[ConceptId]) -> Counts {
    let mut counts = Counts::new();
    let classes: Vec<WordClass> = concepts.iter().map(|&concept| class_of(concept)).collect();
    for (i, origin) in of {
        // A row that stays empty is seen.
        CLASSES.iter().for_each(|&class| _ = counts.entry((class, origin)).or_default());
        let of = classes.iter().zip(rows.labels[i].iter().zip(&rows.weights[i]));
        for (&class, (&label, _)) in of.filter(|(_, (_, weight))| **weight > 0.0) {
            let count = counts.entry((class, origin)).or_default();
            *(if label > 0.5 { &mut count.shown } else { &mut count.absent }) += 1;
        }
    }
    counts
}

/// The class of words without a negative, where there is one.
pub(super) fn class_without_negatives(counts: &Counts) -> Option<WordClass> {
    let absent = |class: WordClass| counts.iter().filter(|((own, _), _)| *own == class).map(|(_, count)| count.absent).sum::<usize>();
    CLASSES.into_iter().find(|&class| absent(class) == 0)
}

/// The tables of label counts, of whole photographs and, where there are some, of crops.
pub(super) fn label_tables(photographs: &Counts, crops: &Counts) -> Vec<Table> {
    let whole = label_table(
        "Labels by class of word",
        "Outputs of photographs that are learned from, those that weigh nothing left out.",
        photographs,
    );
    let crops =
        (!crops.is_empty()).then(|| label_table("Labels of crops by class of word", "The same of crops of photographs with boxes.", crops));
    std::iter::once(whole).chain(crops).collect()
}

fn label_table(title: &str, note: &str, counts: &Counts) -> Table {
    let row = |((class, origin), count): (&(WordClass, Origin), &LabelCounts)| {
        TableRow::new(format!("{class}, {}", origin.name()), vec![count.shown.into(), count.absent.into()])
    };
    Table {
        title: title.into(),
        note: note.into(),
        columns: vec![Column::new("shown", Format::Count), Column::new("absent", Format::Count)],
        rows: counts.iter().map(row).collect(),
    }
}

/// A table of mentions by class of word: right and wrong ones that a calibration was fitted on.
pub(super) fn mention_table(title: &str, rows: &[(WordClass, &Row)]) -> Table {
    let mut counts: BTreeMap<(WordClass, Origin), [usize; 2]> = BTreeMap::new();
    for (class, row) in rows.iter().filter(|(_, row)| row.is_shipped) {
        CLASSES.iter().for_each(|&class| _ = counts.entry((class, row.origin)).or_default());
        counts.entry((*class, row.origin)).or_default()[usize::from(!row.is_right)] += 1;
    }
    let row = |((class, origin), [right, wrong]): (&(WordClass, Origin), &[usize; 2])| {
        TableRow::new(format!("{class}, {}", origin.name()), vec![(*right).into(), (*wrong).into()])
    };
    Table {
        title: title.into(),
        note: "Mentions whose truth is known and that have an output.".into(),
        columns: vec![Column::new("right", Format::Count), Column::new("wrong", Format::Count)],
        rows: counts.iter().map(row).collect(),
    }
}

/// Something with its probability out of fold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    pub(super) origin: Origin,
    pub(super) outcome: Outcome,
    /// The same with what the scorer alone says.
    pub(super) scorer: f64,
    /// Whether it names people.
    pub(super) is_person: bool,
}

/// A table of figures by origin, with words below `threshold` flagged.
pub(super) fn figures(title: &str, note: &str, judged: &[Judged], threshold: f64, resampling: Resampling) -> Table {
    let mut rows = Vec::new();
    for origin in [Origin::Flickr8k].into_iter().chain(OTHERS) {
        let own: Vec<&Judged> = judged.iter().filter(|judged| judged.origin == origin).collect();
        let people: Vec<&Judged> = own.iter().filter(|judged| judged.is_person).copied().collect();
        for (name, of) in [(origin.name().to_owned(), own), (format!("{}: people", origin.name()), people)] {
            if !of.is_empty() {
                rows.push(TableRow::new(name, cells(&of, threshold, resampling)));
            }
        }
    }
    let percent = |name: &str| Column::new(name, Format::Percent);
    let columns = vec![
        Column::new("n", Format::Count),
        percent("wrong"),
        Column::new("AUROC", Format::Decimal(3)).better(Better::Higher),
        Column::new("AUROC, scorer", Format::Decimal(3)),
        Column::new("ECE", Format::Decimal(3)).better(Better::Lower).help("In ten bins of equal mass, less what it would be by chance."),
        percent("right flagged").better(Better::Lower),
        percent("wrong flagged").better(Better::Higher),
        percent("wrong unflagged").better(Better::Lower).help("As a share of all."),
    ];
    Table { title: title.into(), note: note.into(), columns, rows }
}

fn cells(judged: &[&Judged], threshold: f64, resampling: Resampling) -> Vec<Cell> {
    let outcomes: Vec<Outcome> = judged.iter().map(|judged| judged.outcome).collect();
    let by_scorer: Vec<Outcome> = judged.iter().map(|judged| Outcome { score: judged.scorer, ..judged.outcome }).collect();
    let is_flagged = |outcome: &Outcome| outcome.score < threshold;
    let flagged = |right: bool| {
        let of = outcomes.iter().filter(|outcome| outcome.is_right == right);
        let rows: Vec<(usize, bool)> = of.map(|outcome| (outcome.photograph, is_flagged(outcome))).collect();
        Cell::from(share(&rows, resampling))
    };
    let wrong: Vec<(usize, bool)> = outcomes.iter().map(|outcome| (outcome.photograph, !outcome.is_right)).collect();
    let missed: Vec<(usize, bool)> =
        outcomes.iter().map(|outcome| (outcome.photograph, !outcome.is_right && !is_flagged(outcome))).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_never_absent_is_found() {
        let count = |absent| LabelCounts { shown: 3, absent };
        let mut counts = BTreeMap::from([
            ((WordClass::Person, Origin::Flickr8k), count(0)),
            ((WordClass::Person, Origin::Daquar), count(5)),
            ((WordClass::Animal, Origin::Flickr8k), count(2)),
            ((WordClass::Thing, Origin::VqaRad), count(1)),
        ]);
        assert_eq!(class_without_negatives(&counts), None);
        counts.insert((WordClass::Person, Origin::Daquar), count(0));
        assert_eq!(class_without_negatives(&counts), Some(WordClass::Person));
    }

    #[test]
    fn figures_are_by_origin_and_of_people_apart() {
        let judged = |origin, photograph, score, is_right, is_person| Judged {
            origin,
            outcome: Outcome { photograph, score, is_right },
            scorer: 1.0 - score,
            is_person,
        };
        let all = [
            judged(Origin::Flickr8k, 1, 0.9, true, false),
            judged(Origin::Flickr8k, 2, 0.4, true, false),
            judged(Origin::Flickr8k, 3, 0.3, false, false),
            judged(Origin::Flickr8k, 4, 0.6, false, false),
            judged(Origin::Daquar, 5, 0.2, false, true),
        ];
        let table = figures("t", "", &all, 0.5, Resampling { repeats: 10, seed: 1 });
        let names: Vec<&str> = table.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["flickr8k", "daquar", "daquar: people"]);
        let value = |row: usize, column: usize| match &table.rows[row].cells[column] {
            Cell::Value(estimate) => estimate.value,
            other => panic!("{other:?}"),
        };
        // Of four pairs, .9 is above both wrong ones and .4 above one.
        assert_eq!((value(0, 0), value(0, 1), value(0, 2), value(0, 3)), (4.0, 0.5, 0.75, 0.25));
        assert_eq!((value(0, 5), value(0, 6), value(0, 7)), (0.5, 0.5, 0.25));
        assert_eq!((value(1, 1), value(1, 6), value(1, 7)), (1.0, 1.0, 0.0));
    }
}
