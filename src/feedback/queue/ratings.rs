//! From records to figures: what annotators said of the same words, and what they found that the
//! guard had not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    agreement::{AgreementFigures, figures, wilson},
    words::token_words,
};
use crate::{
    feedback::record::{Correction, Feedback, JudgedPart, JudgmentKind},
    lexicon::{Lexicon, WordClass},
};

/// Kinds of error, by what an error is about: the guard's classes of words, other words, and what
/// is left out.
pub const KINDS: [&str; 7] = [
    "object",
    "attribute",
    "count",
    "action",
    "relation",
    "other",
    "missing",
];

/// Agreement of annotators on answers that two of them got, and how many errors the guard finds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Answers that two annotators have judged.
    pub items: usize,
    /// Agreement on whether a word is right, for all words that claim something and were judged by
    /// two.
    pub overall: AgreementFigures,
    /// The same by what the word is about, and for whether something is left out.
    pub by_kind: BTreeMap<&'static str, AgreementFigures>,
    /// Each annotator with all others taken together.
    pub by_annotator: Vec<AnnotatorFigures>,
    /// Each two of them; those with the most in common come first.
    pub pairs: Vec<PairFigures>,
    /// Recall of the guard.
    pub recall: GuardRecall,
}

/// An annotator with all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotatorFigures {
    /// Who; `annotator 1` and so on where names are not asked for.
    pub annotator: String,
    /// Answers that somebody else has judged too.
    pub items: usize,
    /// The figures.
    #[serde(flatten)]
    pub figures: AgreementFigures,
}

/// Two annotators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairFigures {
    /// Who; `annotator 1` and so on where names are not asked for.
    pub annotators: [String; 2],
    /// The figures.
    #[serde(flatten)]
    pub figures: AgreementFigures,
}

/// The share of all errors that the guard marks, from answers that were drawn by chance and shown
/// without marks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GuardRecall {
    /// Answers that were judged whole.
    pub answers: usize,
    /// Errors that people found in them.
    pub errors: usize,
    /// Of those, how many the guard had flagged.
    pub flagged: usize,
    /// `flagged / errors`; absent without errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Its 95 % interval (Wilson).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Most pairs that are listed.
const PAIRS: usize = 100;

/// Unit of agreement: its kind, and what each annotator said of it (`true`: it is wrong).
struct Unit {
    kind: &'static str,
    said: BTreeMap<usize, bool>,
}

/// An annotator's name, and the owner within which it is theirs.
type Judge<'a> = (&'a str, &'a str);

/// The figures of records about overlapping answers (any order), and of records about unassisted
/// ones. `names` says whether annotators are named.
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
    let called: Vec<String> = who
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
    let of_kind = |kind| {
        (
            kind,
            over_all(units.iter().filter(|unit| unit.kind == kind)),
        )
    };
    let items_of = |i: usize| {
        answers
            .values()
            .filter(|by| by.keys().any(|name| index[name] == i))
            .count()
    };
    let by_annotator = called
        .iter()
        .enumerate()
        .map(|(i, annotator)| AnnotatorFigures {
            annotator: annotator.clone(),
            items: items_of(i),
            figures: against_others(&words, i),
        });
    Agreement {
        items: answers.len(),
        overall: over_all(words.iter().copied()),
        by_kind: KINDS
            .into_iter()
            .map(of_kind)
            .filter(|(_, figures)| figures.units > 0)
            .collect(),
        by_annotator: by_annotator.collect(),
        pairs: pairs(&words, &called),
        recall: recall(unassisted),
    }
}

fn over_all<'a>(units: impl Iterator<Item = &'a Unit>) -> AgreementFigures {
    figures(
        &units
            .map(|unit| unit.said.values().copied().collect())
            .collect::<Vec<_>>(),
    )
}

/// The units on which annotator `i` and somebody else have spoken, each other one being a unit.
fn against_others(units: &[&Unit], i: usize) -> AgreementFigures {
    let with_other = |unit: &&Unit| -> Vec<Vec<bool>> {
        let Some(&own) = unit.said.get(&i) else {
            return Vec::new();
        };
        unit.said
            .iter()
            .filter(|(other, _)| **other != i)
            .map(|(_, &other)| vec![own, other])
            .collect()
    };
    figures(&units.iter().flat_map(with_other).collect::<Vec<_>>())
}

fn pairs(units: &[&Unit], called: &[String]) -> Vec<PairFigures> {
    let mut found: BTreeMap<(usize, usize), Vec<Vec<bool>>> = BTreeMap::new();
    for unit in units {
        for (&first, &a) in &unit.said {
            for (&second, &b) in unit.said.range(first + 1..) {
                found.entry((first, second)).or_default().push(vec![a, b]);
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, units)| std::cmp::Reverse(units.len()));
    let pair = |((first, second), units): ((usize, usize), Vec<Vec<bool>>)| PairFigures {
        annotators: [called[first].clone(), called[second].clone()],
        figures: figures(&units),
    };
    found.into_iter().take(PAIRS).map(pair).collect()
}

/// The words of an answer that claim something, and whether something is left out.
fn units(
    by: &BTreeMap<Judge<'_>, Vec<&Feedback>>,
    index: &BTreeMap<Judge<'_>, usize>,
) -> Vec<Unit> {
    let Some(any) = by.values().flatten().next() else {
        return Vec::new();
    };
    let kinds = kinds(&any.response);
    let words = token_words(&any.response, &any.tokens)
        .into_iter()
        .filter(|word| !word.function);
    let of_word = |word: super::words::TokenWord| {
        let said = by.iter().filter_map(|(name, records)| {
            Some((
                index[name],
                wrong(records, word.chars.start, word.chars.end)?,
            ))
        });
        let kind = kinds
            .iter()
            .find(|(range, _)| range.start < word.bytes.end && word.bytes.start < range.end);
        Unit {
            kind: kind.map_or("other", |(_, kind)| *kind),
            said: said.collect(),
        }
    };
    let mut units: Vec<Unit> = words.map(of_word).collect();
    let said = by
        .iter()
        .filter_map(|(name, records)| Some((index[name], misses(records)?)));
    units.push(Unit {
        kind: "missing",
        said: said.collect(),
    });
    units
}

fn kinds(response: &str) -> Vec<(std::ops::Range<usize>, &'static str)> {
    let name = |class| match class {
        WordClass::Person | WordClass::Animal | WordClass::Thing => "object",
        WordClass::Attribute => "attribute",
        WordClass::Count => "count",
        WordClass::Action => "action",
        WordClass::Relation => "relation",
        WordClass::Other => "other",
    };
    Lexicon::shared()
        .word_classes(response)
        .into_iter()
        .map(|(range, class)| (range, name(class)))
        .collect()
}

/// Decides by one person's records whether a word is wrong; nothing where none of them judged it.
fn wrong(records: &[&Feedback], start: usize, end: usize) -> Option<bool> {
    let said = records.iter().filter_map(|record| {
        let scope = record.scope?;
        let bad = record
            .errors
            .iter()
            .any(|error| error.start < end && start < error.end);
        let judged = scope == JudgedPart::AllErrors
            || record.errors.first().is_some_and(|first| start < first.end);
        judged.then_some(bad)
    });
    said.reduce(|a, b| a || b)
}

/// Decides whether one person says that something is left out; nothing where they stopped at the
/// first error.
fn misses(records: &[&Feedback]) -> Option<bool> {
    let said = records.iter().filter_map(|record| {
        let adds = record.errors.iter().any(|error| error.start == error.end);
        match (record.kind, record.scope) {
            (JudgmentKind::Missing, _) => Some(true),
            (_, Some(JudgedPart::AllErrors)) => Some(adds),
            _ => None,
        }
    });
    said.reduce(|a, b| a || b)
}

/// Measures recall in answers that were drawn by chance. First errors would favor what is easy to
/// see, so that only answers judged whole count.
pub fn recall(unassisted: &[Feedback]) -> GuardRecall {
    let whole: Vec<&Feedback> = unassisted
        .iter()
        .filter(|record| record.scope == Some(JudgedPart::AllErrors))
        .collect();
    let flagged = |record: &&Feedback| {
        let doubted = record.doubted.as_deref()?;
        let hit = |error: &Correction| {
            doubted
                .iter()
                .any(|span| span.start < error.end && error.start < span.end)
        };
        Some(
            record
                .errors
                .iter()
                .filter(|error| error.start < error.end)
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
        record::{CharRange, FeedbackSource, ImageHash, Versions},
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
            image: ImageHash::of(b""),
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
            doubted: Some(vec![CharRange { start: 4, end: 8 }]),
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
    fn words_that_two_judged_are_compared() {
        let all = Some(JudgedPart::AllErrors);
        // Both: dogs wrong. Ann alone: red wrong. Bob stopped at dogs in the second answer; eve has
        // judged alone.
        let records = [
            record("ann", 1, all, &[(4, 8), (18, 21)]),
            record("bob", 1, all, &[(4, 8)]),
            record("ann", 2, all, &[]),
            record("bob", 2, Some(JudgedPart::FirstError), &[(4, 8)]),
            record("eve", 3, all, &[]),
            // A second record of ann's about the first answer: she also misses something.
            record("ann", 1, None, &[]),
        ];
        let found = agreement(&records, &[], false);
        assert_eq!(found.items, 2);
        // Two, dogs, run, red, sofa; and of the second answer Two and dogs.
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
    fn recall_counts_answers_that_were_judged_whole() {
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
        unscored.doubted = None;
        assert_eq!(recall(&[unscored]).recall, None);
    }

    /// By simulation: the share drawn by chance estimates the recall that the order by priority
    /// would get wrong.
    #[test]
    fn what_is_drawn_by_chance_is_unbiased() {
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
