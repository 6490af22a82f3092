//! Hallucinated objects over a closed vocabulary: CHAIR (Rohrbach et al., "Object Hallucination in
//! Image Captioning", EMNLP 2018).
//!
//! An image's objects are those annotated in it and those that its reference captions name; a
//! mention of another object is a hallucination. CHAIR_i is the share of hallucinated **mentions**,
//! CHAIR_s the share of captions with at least one.
//!
//! A [`ChairVocabulary`] maps words to objects, and its [`MatchStyle`] decides how captions are
//! read: [`MatchStyle::Original`] reproduces the reference code with its errors, so that figures
//! compare with published ones; [`MatchStyle::Plain`], with [`ChairVocabulary::coco80`] or a list
//! of one's own, reads English. [`contrast()`] compares two vocabularies.

mod contrast;
mod original;
mod plain;
mod singularize;
mod stats;
#[cfg(test)]
mod tests;
mod tokenize;
mod vocabulary;

use std::{collections::BTreeSet, ops::Range};

pub use contrast::{Contrast, ContrastCaption, Disagreement, contrast};
pub use singularize::singularize;
pub use stats::ChairStats;
pub use vocabulary::{ChairVocabulary, MatchStyle, VocabularyError, VocabularyProblem};

use vocabulary::Words;

/// Mention of an object in a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMention<'v> {
    /// Bytes of the word or phrase.
    pub range: Range<usize>,
    /// Name of the object in the vocabulary.
    pub object: &'v str,
}

/// Object mentions and counts of one caption.
#[derive(Debug, Clone, PartialEq)]
pub struct ChairJudgment<'v> {
    /// Mentions in order, each with `true` if its object is in the image.
    pub mentions: Vec<(ObjectMention<'v>, bool)>,
    /// Counts of the caption.
    pub stats: ChairStats,
}

impl ChairVocabulary {
    /// Finds the mentions in a caption, in order and with repetitions.
    pub fn mentions(&self, caption: &str) -> Vec<ObjectMention<'_>> {
        let found = match self.words() {
            Words::Plain(words) => words.find(caption),
            Words::Original(words) => original::find(caption, words),
        };
        found
            .into_iter()
            .map(|(range, object)| ObjectMention {
                range,
                object: &self.names()[object],
            })
            .collect()
    }

    /// Objects of an image: its annotated `instances` (any word of the list; others are ignored)
    /// and those that its reference captions name.
    pub fn objects<I: AsRef<str>, R: AsRef<str>>(
        &self,
        instances: impl IntoIterator<Item = I>,
        references: impl IntoIterator<Item = R>,
    ) -> BTreeSet<String> {
        let mut objects: BTreeSet<String> = instances
            .into_iter()
            .filter_map(|name| self.object(name.as_ref()).map(str::to_owned))
            .collect();
        for reference in references {
            objects.extend(
                self.mentions(reference.as_ref())
                    .into_iter()
                    .map(|mention| mention.object.to_owned()),
            );
        }
        objects
    }
}

/// Judges a caption by the objects of its image, given by their names in the vocabulary. Objects
/// outside the vocabulary do not count as missed.
pub fn judge<'v>(
    vocabulary: &'v ChairVocabulary,
    caption: &str,
    present: &BTreeSet<String>,
) -> ChairJudgment<'v> {
    let with_presence = |mention: ObjectMention<'v>| {
        let is_present = present.contains(mention.object);
        (mention, is_present)
    };
    let mentions: Vec<(ObjectMention, bool)> = vocabulary
        .mentions(caption)
        .into_iter()
        .map(with_presence)
        .collect();
    let hallucinated = mentions
        .iter()
        .filter(|(_, is_present)| !is_present)
        .count();
    let covered = mentions
        .iter()
        .filter(|(_, is_present)| *is_present)
        .map(|(mention, _)| mention.object)
        .collect::<BTreeSet<_>>()
        .len();
    let present = present
        .iter()
        .filter(|name| vocabulary.object(name) == Some(name))
        .count();
    let stats = ChairStats {
        captions: 1,
        hallucinating: usize::from(hallucinated > 0),
        mentions: mentions.len(),
        hallucinated,
        present,
        covered,
        coverable: usize::from(present > 0),
        cover: if present > 0 {
            covered as f64 / present as f64
        } else {
            0.0
        },
        words: crate::lexicon::words(caption).len(),
    };
    ChairJudgment { mentions, stats }
}
