//! Contrast of two vocabularies: effect of the choice on CHAIR over the same captions.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;
use serde::Serialize;

use super::{ChairStats, ChairVocabulary, ObjectMention, judge};

/// A caption with the annotations of its image.
#[derive(Debug, Clone, Copy)]
pub struct ContrastCaption<'a> {
    /// The caption to judge.
    pub caption: &'a str,
    /// Objects annotated in the image.
    pub instances: &'a BTreeSet<String>,
    /// Reference captions.
    pub references: &'a [String],
}

/// A word that only one of two vocabularies counts, or that they count for different objects
/// (`ball` and `tennis ball` for the same one agree).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Word or phrase in lower case.
    pub word: String,
    /// Object that it names for one of the vocabularies.
    pub object: String,
    /// Mentions that only the first vocabulary counts.
    pub first: usize,
    /// Mentions that only the second vocabulary counts.
    pub second: usize,
}

/// Judgments of the same captions by two vocabularies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    /// Counts by the first vocabulary.
    pub first: ChairStats,
    /// Counts by the second vocabulary.
    pub second: ChairStats,
    /// Words on which they differ, most frequent first.
    pub disagreements: Vec<Disagreement>,
}

/// A word in lower case and its object, and the counts of [`Disagreement`].
type Count<'v> = ((String, &'v str), [usize; 2]);
type Counts<'v> = HashMap<(String, &'v str), [usize; 2]>;
type Sums<'v> = ([ChairStats; 2], Counts<'v>);

/// Judges captions by two vocabularies, each with its own ground truth from annotations and
/// references.
pub fn contrast(
    first: &ChairVocabulary,
    second: &ChairVocabulary,
    captions: &[ContrastCaption],
) -> Contrast {
    let empty = || ([ChairStats::default(); 2], Counts::new());
    let ones = captions
        .par_iter()
        .map(|captioned| contrast_caption(first, second, captioned));
    let ([first, second], counts) = ones.fold(empty, merge).reduce(empty, merge);
    let mut disagreements: Vec<Disagreement> = counts
        .into_iter()
        .map(|((word, object), [first, second])| Disagreement {
            word,
            object: object.to_owned(),
            first,
            second,
        })
        .collect();
    disagreements.sort_by(|a, b| {
        (b.first + b.second)
            .cmp(&(a.first + a.second))
            .then_with(|| (&a.word, &a.object).cmp(&(&b.word, &b.object)))
    });
    Contrast {
        first,
        second,
        disagreements,
    }
}

/// Judges one caption by both vocabularies.
fn contrast_caption<'v>(
    first: &'v ChairVocabulary,
    second: &'v ChairVocabulary,
    captioned: &ContrastCaption,
) -> ([ChairStats; 2], Vec<Count<'v>>) {
    let [(first, by_first), (second, by_second)] = [first, second].map(|vocabulary| {
        let truth = vocabulary.objects(captioned.instances, captioned.references);
        let judgment = judge(vocabulary, captioned.caption, &truth);
        (
            judgment.stats,
            judgment
                .mentions
                .into_iter()
                .map(|(mention, _)| mention)
                .collect::<Vec<_>>(),
        )
    });
    let agree = |a: &ObjectMention, b: &ObjectMention| {
        a.object == b.object && a.range.start < b.range.end && b.range.start < a.range.end
    };
    let only = |these: &[ObjectMention<'v>],
                those: &[ObjectMention<'v>],
                count: [usize; 2]|
     -> Vec<Count<'v>> {
        let missing = these
            .iter()
            .filter(|mention| !those.iter().any(|other| agree(mention, other)));
        missing
            .map(|mention| {
                (
                    (
                        captioned.caption[mention.range.clone()].to_lowercase(),
                        mention.object,
                    ),
                    count,
                )
            })
            .collect()
    };
    (
        [first, second],
        [
            only(&by_first, &by_second, [1, 0]),
            only(&by_second, &by_first, [0, 1]),
        ]
        .concat(),
    )
}

/// Adds up the counts of disagreements.
fn merge<'v>(
    (mut stats, mut counts): Sums<'v>,
    (more, only): ([ChairStats; 2], impl IntoIterator<Item = Count<'v>>),
) -> Sums<'v> {
    stats
        .iter_mut()
        .zip(more)
        .for_each(|(sum, contrast_caption)| *sum += contrast_caption);
    for (key, [first, second]) in only {
        let count = counts.entry(key).or_default();
        count[0] += first;
        count[1] += second;
    }
    (stats, counts)
}
