//! Metrics of what flagged spans are about. Labels come from fixed lists, never from answers.

use std::{collections::HashMap, sync::LazyLock};

use prometheus::{Error, IntCounterVec, Registry};

use super::register::counters;
use crate::lexicon::{ConceptId, Lexicon, WordClass};

/// Metrics of flagged spans by what they are about.
pub(super) struct FlaggedWordMetrics {
    classes: IntCounterVec,
    names: IntCounterVec,
}

impl FlaggedWordMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            classes: counters(
                r,
                "flagged_class_spans_total",
                "Low-reward spans by the classes of their words; one span may have several",
                "class",
                &CLASSES,
            )?,
            names: counters(
                r,
                "flagged_name_spans_total",
                "Low-reward spans that name one of a fixed list of things, or a kind of it",
                "name",
                &NAMES,
            )?,
        })
    }

    /// Counts a span by the text that the model wrote.
    pub(super) fn count(&self, text: &str) {
        for class in classes(text) {
            self.classes.with_label_values(&[class]).inc();
        }
        for name in names(text) {
            self.names.with_label_values(&[name]).inc();
        }
    }
}

/// Returns the classes of a span's words; `other` only if there is no better one.
fn classes(text: &str) -> Vec<&'static str> {
    let words = Lexicon::shared().word_classes(text);
    let is_there = |class: &&str| words.iter().any(|&(_, word)| class_name(word) == *class);
    let (found, [other]) = CLASSES.split_at(CLASSES.len() - 1) else {
        return Vec::new();
    };
    let found: Vec<&str> = found.iter().copied().filter(is_there).collect();
    if found.is_empty() {
        vec![*other]
    } else {
        found
    }
}

/// Returns the names of the list that a span's nouns are, or are kinds of.
fn names(text: &str) -> Vec<&'static str> {
    static LISTED: LazyLock<HashMap<ConceptId, &str>> = LazyLock::new(|| {
        let concept = |&name: &&'static str| Some((Lexicon::shared().concept(name)?, name));
        NAMES.iter().filter_map(concept).collect()
    });
    let lexicon = Lexicon::shared();
    let mentions = lexicon.mentions(text).into_iter();
    let listed = |concept| lexicon.nearest(concept, |id| LISTED.get(&id).copied());
    let mut found: Vec<&str> = mentions.filter_map(|m| listed(m.concept)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Returns the class's label: that of the threshold for it.
fn class_name(class: WordClass) -> &'static str {
    match class {
        WordClass::Person | WordClass::Animal | WordClass::Object => "object",
        WordClass::Attribute => "attribute",
        WordClass::Count => "count",
        WordClass::Action => "action",
        WordClass::Relation => "relation",
        WordClass::Other => "other",
    }
}

const CLASSES: [&str; 6] = [
    "object",
    "attribute",
    "count",
    "action",
    "relation",
    "other",
];

/// Things that photographs and captions often show.
const NAMES: [&str; 50] = [
    "airplane",
    "bag",
    "ball",
    "beach",
    "bed",
    "bench",
    "bicycle",
    "bird",
    "boat",
    "book",
    "bottle",
    "bowl",
    "building",
    "bus",
    "cake",
    "car",
    "cat",
    "chair",
    "clock",
    "couch",
    "cow",
    "cup",
    "dog",
    "flower",
    "food",
    "glasses",
    "grass",
    "hat",
    "horse",
    "knife",
    "laptop",
    "motorcycle",
    "mountain",
    "person",
    "phone",
    "pizza",
    "plate",
    "sheep",
    "shirt",
    "shoe",
    "sign",
    "snow",
    "street",
    "table",
    "television",
    "train",
    "tree",
    "truck",
    "umbrella",
    "water",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_different_things_of_the_lexicon() {
        let concepts: HashMap<ConceptId, &str> = NAMES
            .into_iter()
            .map(|name| (Lexicon::shared().concept(name).expect(name), name))
            .collect();
        assert_eq!(concepts.len(), NAMES.len(), "{concepts:?}");
    }

    #[test]
    fn spans_are_told_by_class_and_name() {
        assert_eq!(classes("two red poodles"), ["object", "attribute", "count"]);
        assert_eq!(names("two red poodles"), ["dog"]);
        assert_eq!(names("a man beside a jeep and a car"), ["car", "person"]);
        assert_eq!(classes("jumping"), ["action"]);
        assert_eq!(classes("perhaps"), ["other"]);
        assert_eq!(names("a secret of Ms. Smith-Jones"), [""; 0]);
    }
}
