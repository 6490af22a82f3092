//! Figures of the annotators' judgments: agreement on the same words, and the guard's recall. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    agreement::{AgreementFigures, figures, wilson},
    item::{TokenWord, token_words},
};
use crate::{
    feedback::record::{Correction, Feedback, JudgedPart, JudgmentKind},
    lexicon::{Lexicon, WordClass},
    util::offsets::{ByteRange, CharRange},
};

/// Kinds of claim that agreement is reported by: the guard's word classes, other words, and missing
/// content.
pub const KINDS: [&str; 7] = [
    "object",
    "attribute",
    "count",
    "action",
    "relation",
    "other",
    "missing",
];

/// Agreement of annotators on overlapping answers, and the guard's recall.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Answers judged by two annotators.
    pub items: usize,
    /// Agreement that a word is right or wrong, over all content words judged by two annotators.
    pub overall: AgreementFigures,
    /// The same by kind of claim, including missing content.
    pub by_kind: BTreeMap<&'static str, AgreementFigures>,
    /// Each annotator compared with all others.
    pub by_annotator: Vec<AnnotatorFigures>,
    /// Pairs of annotators, those with most common units first.
    pub pairs: Vec<PairFigures>,
    /// Recall of the guard.
    pub recall: GuardRecall,
}

/// Agreement of one annotator with all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorFigures {
    /// Name; `annotator 1` and so on if names are not shown.
    pub annotator: String,
    /// Answers that another annotator judged too.
    pub items: usize,
    /// Figures of agreement.
    #[serde(flatten)]
    pub figures: AgreementFigures,
}

/// Agreement of two annotators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairFigures {
    /// Names; `annotator 1` and so on if names are not shown.
    pub annotators: [String; 2],
    /// Figures of agreement.
    #[serde(flatten)]
    pub figures: AgreementFigures,
}

/// Share of all errors that the guard flags, measured on unassisted answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GuardRecall {
    /// Answers judged completely.
    pub answers: usize,
    /// Errors that annotators found in them.
    pub errors: usize,
    /// Number of those errors that the guard flagged.
    pub flagged: usize,
    /// `flagged / errors`; absent without errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// 95 % confidence interval of the recall (Wilson).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Largest number of pairs reported.
const PAIRS: usize = 100;

/// Unit of agreement: a word or missing content, and by annotator `true` if they judged it wrong.
struct Unit {
    kind: &'static str,
    judgments: BTreeMap<usize, bool>,
}

/// Name of an annotator, and the owner of their key.
type Judge<'a> = (&'a str, &'a str);

/// Computes the figures of records about overlapping answers, in any order, and about unassisted
/// ones. Annotators are named if `names` is set.
pub fn agreement(overlapping: &[Feedback], unassisted: &[Feedback], names: bool) -> Agreement {
    let mut answers: BTreeMap<(&str, usize), BTreeMap<Judge<'_>, Vec<&Feedback>>> = BTreeMap::new();
    for record in overlapping {
        let (Some(completion), Some(choice), Some(annotator)) =
            (&record.completion_id, record.choice, &record.annotator)
        else {
            continue;
        };
        answers
            .entry((completion, choice))
            .or_default()
            .entry((annotator, &record.annotator_owner))
            .or_default()
            .push(record);
    }
    answers.retain(|_, by| by.len() > 1);
    let who: BTreeSet<Judge<'_>> = answers.values().flat_map(|by| by.keys().copied()).collect();
    let index: BTreeMap<Judge<'_>, usize> = who
        .iter()
        .enumerate()
        .map(|(i, judge)| (*judge, i))
        .collect();
    let names_shown: Vec<String> = who
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            if names {
                (*name).to_owned()
            } else {
                format!("annotator {}", i + 1)
            }
        })
        .collect();
    let units: Vec<Unit> = answers.values().flat_map(|by| units(by, &index)).collect();
    let words: Vec<&Unit> = units.iter().filter(|unit| unit.kind != "missing").collect();
    let kind_figures = |kind| {
        (
            kind,
            overall_figures(units.iter().filter(|unit| unit.kind == kind)),
        )
    };
    let item_count = |i: usize| {
        answers
            .values()
            .filter(|by| by.keys().any(|name| index[name] == i))
            .count()
    };
    let by_annotator = names_shown
        .iter()
        .enumerate()
        .map(|(i, annotator)| AnnotatorFigures {
            annotator: annotator.clone(),
            items: item_count(i),
            figures: figures_with_others(&words, i),
        });
    Agreement {
        items: answers.len(),
        overall: overall_figures(words.iter().copied()),
        by_kind: KINDS
            .into_iter()
            .map(kind_figures)
            .filter(|(_, figures)| figures.units > 0)
            .collect(),
        by_annotator: by_annotator.collect(),
        pairs: pairs(&words, &names_shown),
        recall: recall(unassisted),
    }
}

fn overall_figures<'a>(units: impl Iterator<Item = &'a Unit>) -> AgreementFigures {
    figures(
        &units
            .map(|unit| unit.judgments.values().copied().collect())
            .collect::<Vec<_>>(),
    )
}

/// Figures of the units that annotator `i` and another one judged, one unit for each other
/// annotator.
fn figures_with_others(units: &[&Unit], i: usize) -> AgreementFigures {
    let with_other = |unit: &&Unit| -> Vec<Vec<bool>> {
        let Some(&own) = unit.judgments.get(&i) else {
            return Vec::new();
        };
        unit.judgments
            .iter()
            .filter(|(other, _)| **other != i)
            .map(|(_, &other)| vec![own, other])
            .collect()
    };
    figures(&units.iter().flat_map(with_other).collect::<Vec<_>>())
}

fn pairs(units: &[&Unit], names_shown: &[String]) -> Vec<PairFigures> {
    let mut found: BTreeMap<(usize, usize), Vec<Vec<bool>>> = BTreeMap::new();
    for unit in units {
        for (&first, &a) in &unit.judgments {
            for (&second, &b) in unit.judgments.range(first + 1..) {
                found.entry((first, second)).or_default().push(vec![a, b]);
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, units)| std::cmp::Reverse(units.len()));
    let pair = |((first, second), units): ((usize, usize), Vec<Vec<bool>>)| PairFigures {
        annotators: [names_shown[first].clone(), names_shown[second].clone()],
        figures: figures(&units),
    };
    found.into_iter().take(PAIRS).map(pair).collect()
}

/// Units of an answer: its content words, and missing content.
fn units(
    by: &BTreeMap<Judge<'_>, Vec<&Feedback>>,
    index: &BTreeMap<Judge<'_>, usize>,
) -> Vec<Unit> {
    let Some(any) = by.values().flatten().next() else {
        return Vec::new();
    };
    let kinds = claim_kinds(&any.response);
    let words = token_words(&any.response, &any.tokens)
        .into_iter()
        .filter(|word| !word.function);
    let word_unit = |word: TokenWord| {
        let judgments = by
            .iter()
            .filter_map(|(name, records)| Some((index[name], marks_wrong(records, word.chars)?)));
        let kind = kinds.iter().find(|(range, _)| range.overlaps(word.bytes));
        Unit {
            kind: kind.map_or("other", |(_, kind)| *kind),
            judgments: judgments.collect(),
        }
    };
    let mut units: Vec<Unit> = words.map(word_unit).collect();
    let judgments = by
        .iter()
        .filter_map(|(name, records)| Some((index[name], names_missing(records)?)));
    units.push(Unit {
        kind: "missing",
        judgments: judgments.collect(),
    });
    units
}

fn claim_kinds(response: &str) -> Vec<(ByteRange, &'static str)> {
    let name = |class| match class {
        WordClass::Person | WordClass::Animal | WordClass::Object => "object",
        WordClass::Attribute => "attribute",
        WordClass::Count => "count",
        WordClass::Action => "action",
        WordClass::Relation => "relation",
        WordClass::Other => "other",
    };
    Lexicon::shared()
        .word_classes(response)
        .into_iter()
        .map(|(range, class)| (range.into(), name(class)))
        .collect()
}

/// Returns `true` if one annotator's records mark the word as wrong; `None` if none judged it.
fn marks_wrong(records: &[&Feedback], word: CharRange) -> Option<bool> {
    let judgments = records.iter().filter_map(|record| {
        let scope = record.scope?;
        let bad = record
            .errors
            .iter()
            .any(|error| error.chars().overlaps(word));
        let judged = scope == JudgedPart::AllErrors
            || record
                .errors
                .first()
                .is_some_and(|first| word.start < first.end);
        judged.then_some(bad)
    });
    judgments.reduce(|a, b| a || b)
}

/// Returns `true` if one annotator's records name missing content; `None` if they stopped at the
/// first error.
fn names_missing(records: &[&Feedback]) -> Option<bool> {
    let judgments = records.iter().filter_map(|record| {
        let adds = record.errors.iter().any(|error| error.chars().is_empty());
        match (record.kind, record.scope) {
            (JudgmentKind::Missing, _) => Some(true),
            (_, Some(JudgedPart::AllErrors)) => Some(adds),
            _ => None,
        }
    });
    judgments.reduce(|a, b| a || b)
}

/// Computes the guard's recall on unassisted answers. Only answers judged completely count: first
/// errors would favor errors that are easy to see.
pub fn recall(unassisted: &[Feedback]) -> GuardRecall {
    let whole: Vec<&Feedback> = unassisted
        .iter()
        .filter(|record| record.scope == Some(JudgedPart::AllErrors))
        .collect();
    let flagged = |record: &&Feedback| {
        let spans = record.flagged.as_deref()?;
        let hit = |error: &Correction| spans.iter().any(|span| span.overlaps(error.chars()));
        Some(
            record
                .errors
                .iter()
                .filter(|error| !error.chars().is_empty())
                .map(hit)
                .collect::<Vec<bool>>(),
        )
    };
    let errors: Vec<bool> = whole.iter().filter_map(flagged).flatten().collect();
    let flagged = errors.iter().filter(|flagged| **flagged).count();
    GuardRecall {
        answers: whole.len(),
        errors: errors.len(),
        flagged,
        recall: (!errors.is_empty()).then(|| flagged as f64 / errors.len() as f64),
        interval: wilson(flagged, errors.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{
        queue::priority::draws,
        record::{FeedbackSource, ImageHash, Versions},
    };

    const TEXT: &str = "Two dogs run on a red sofa.";

    fn record(
        annotator: &str,
        item: usize,
        scope: Option<JudgedPart>,
        errors: &[(usize, usize)],
    ) -> Feedback {
        let error = |&(start, end): &(usize, usize)| Correction {
            start,
            end,
            text: TEXT[start..end].to_owned(),
            correction: None,
            partial_caption: TEXT[..start].to_owned(),
            token_start: 0,
            token_end: 0,
            error_tokens: Vec::new(),
            corrected_tokens: None,
        };
        Feedback {
            id: format!("fb_{item}"),
            created: 0,
            owner: String::new(),
            completion_id: Some(format!("c{item}")),
            choice: Some(0),
            image: ImageHash::digest(b""),
            prompt: String::new(),
            response: TEXT.to_owned(),
            tokens: Vec::new(),
            kind: if scope.is_none() {
                JudgmentKind::Missing
            } else {
                JudgmentKind::Bad
            },
            scope,
            errors: errors.iter().map(error).collect(),
            missing: Vec::new(),
            flagged: Some(vec![CharRange { start: 4, end: 8 }]),
            versions: Versions::default(),
            unassisted: true,
            queued: None,
            annotator: Some(annotator.to_owned()),
            annotator_owner: String::new(),
            user: None,
            comment: None,
            source: FeedbackSource::Human,
        }
    }

    #[test]
    fn agreement_compares_words_judged_by_two() {
        let all = Some(JudgedPart::AllErrors);
        // Both mark dogs, Ann alone red. Bob stopped at dogs in the second answer; Eve judged
        // alone.
        let records = [
            record("ann", 1, all, &[(4, 8), (18, 21)]),
            record("bob", 1, all, &[(4, 8)]),
            record("ann", 2, all, &[]),
            record("bob", 2, Some(JudgedPart::FirstError), &[(4, 8)]),
            record("eve", 3, all, &[]),
            // A second record by Ann about the first answer, which names missing content.
            record("ann", 1, None, &[]),
        ];
        let found = agreement(&records, &[], false);
        assert_eq!(found.items, 2);
        // Two, dogs, run, red and sofa; of the second answer Two and dogs.
        assert_eq!(found.overall.units, 7);
        assert!((found.overall.observed.unwrap() - 5.0 / 7.0).abs() < 1e-9);
        assert_eq!(found.by_kind["attribute"].observed, Some(0.0));
        assert_eq!(
            (
                found.by_kind["object"].units,
                found.by_kind["object"].observed
            ),
            (3, Some(2.0 / 3.0))
        );
        assert_eq!(
            (
                found.by_kind["missing"].units,
                found.by_kind["missing"].observed
            ),
            (1, Some(0.0))
        );
        let names: Vec<&str> = found
            .by_annotator
            .iter()
            .map(|a| a.annotator.as_str())
            .collect();
        assert_eq!(names, ["annotator 1", "annotator 2"]);
        assert_eq!((found.pairs.len(), found.pairs[0].figures.units), (1, 7));
        assert_eq!(
            agreement(&records, &[], true).pairs[0].annotators,
            ["ann", "bob"]
        );
        assert_eq!(agreement(&[], &[], true), Agreement::default());
    }

    #[test]
    fn recall_counts_completely_judged_answers_only() {
        let all = Some(JudgedPart::AllErrors);
        let records = [
            record("ann", 1, all, &[(4, 8), (18, 21)]),
            record("ann", 2, Some(JudgedPart::FirstError), &[(18, 21)]),
            record("bob", 3, all, &[]),
        ];
        let found = recall(&records);
        assert_eq!(
            (found.answers, found.errors, found.flagged, found.recall),
            (2, 2, 1, Some(0.5))
        );
        let [low, high] = found.interval.unwrap();
        assert!(low < 0.1 && high > 0.9);
        let mut unscored = record("ann", 1, all, &[(4, 8)]);
        unscored.flagged = None;
        assert_eq!(recall(&[unscored]).recall, None);
    }

    /// Simulation: the random share estimates a recall that the order by priority would distort.
    #[test]
    fn recall_of_random_sample_is_unbiased() {
        let flagged = |i: usize| i.is_multiple_of(3);
        let answers: Vec<Feedback> = (0..6000)
            .map(|i| {
                record(
                    "ann",
                    i,
                    Some(JudgedPart::AllErrors),
                    if flagged(i) { &[(4, 8)] } else { &[(18, 21)] },
                )
            })
            .collect();
        let drawn: Vec<Feedback> = answers
            .iter()
            .filter(|r| draws(r.completion_id.as_deref().unwrap(), 0).unassisted < 0.1)
            .cloned()
            .collect();
        let [low, high] = recall(&drawn).interval.unwrap();
        assert!(
            low < 1.0 / 3.0 && 1.0 / 3.0 < high && high - low < 0.1,
            "{low} {high}"
        );
    }
}
