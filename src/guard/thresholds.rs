//! Thresholds below which a word's score flags it: one for all words, or one for each class.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::words::Word;
use crate::lexicon::{Lexicon, WordClass};

/// Thresholds of classes of words that differ from the common threshold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassThresholds {
    /// Words that name people, animals and objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<f32>,
    /// Colors, sizes and materials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<f32>,
    /// Numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<f32>,
    /// Verbs of action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<f32>,
    /// Spatial relations: `behind`, `next to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<f32>,
}

impl ClassThresholds {
    /// Returns each class by name with its threshold.
    pub fn entries(&self) -> [(&'static str, Option<f32>); 5] {
        [
            ("object", self.object),
            ("attribute", self.attribute),
            ("count", self.count),
            ("action", self.action),
            ("relation", self.relation),
        ]
    }

    /// Returns these thresholds, completed by those of `other`.
    pub fn with_fallback(self, other: Self) -> Self {
        Self {
            object: self.object.or(other.object),
            attribute: self.attribute.or(other.attribute),
            count: self.count.or(other.count),
            action: self.action.or(other.action),
            relation: self.relation.or(other.relation),
        }
    }

    fn for_class(&self, class: WordClass) -> Option<f32> {
        match class {
            WordClass::Person | WordClass::Animal | WordClass::Object => self.object,
            WordClass::Attribute => self.attribute,
            WordClass::Count => self.count,
            WordClass::Action => self.action,
            WordClass::Relation => self.relation,
            WordClass::Other => None,
        }
    }
}

/// Thresholds in force for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholds {
    /// Threshold of words whose class has none of its own.
    pub common: f32,
    /// Threshold of a yes or no that begins an answer, whose reward has its own calibration;
    /// `None`: the common threshold.
    pub yes_no: Option<f32>,
    /// Thresholds by class of words.
    pub by_class: ClassThresholds,
}

impl From<f32> for Thresholds {
    fn from(common: f32) -> Self {
        Self {
            common,
            ..Self::default()
        }
    }
}

impl Thresholds {
    /// Returns the threshold of a word of `text`.
    pub fn for_word(&self, text: &str, word: &Word) -> f32 {
        self.for_classified_word(text, &self.classes(text), word)
    }

    /// Sets the threshold of each word of a complete text, which is classified once.
    pub fn apply(&self, text: &str, words: &mut [Word]) {
        let classes = self.classes(text);
        words
            .iter_mut()
            .for_each(|word| word.threshold = self.for_classified_word(text, &classes, word));
    }

    /// Returns the class of each word, or nothing if thresholds do not differ by class.
    fn classes(&self, text: &str) -> Vec<(Range<usize>, WordClass)> {
        if self.by_class == ClassThresholds::default() {
            Vec::new()
        } else {
            Lexicon::shared().word_classes(text)
        }
    }

    fn for_classified_word(
        &self,
        text: &str,
        classes: &[(Range<usize>, WordClass)],
        word: &Word,
    ) -> f32 {
        if is_yes_or_no(text, word) {
            return self.yes_no.unwrap_or(self.common);
        }
        let class = classes
            .iter()
            .find(|(range, _)| range.start < word.bytes.end && word.bytes.start < range.end);
        class
            .and_then(|(_, class)| self.by_class.for_class(*class))
            .unwrap_or(self.common)
    }

    /// Returns the threshold of an answer as a whole, irrespective of classes.
    pub fn for_answer(&self, text: &str, words: &[Word]) -> f32 {
        let answers = words.first().is_some_and(|word| is_yes_or_no(text, word));
        self.yes_no.filter(|_| answers).unwrap_or(self.common)
    }
}

/// Returns `true` if `word` is a yes or no with which `text` begins.
pub(crate) fn is_yes_or_no(text: &str, word: &Word) -> bool {
    let (before, written) = (
        text.get(..word.bytes.start),
        text.get(word.bytes.clone()).unwrap_or_default(),
    );
    before.is_some_and(|before| before.trim().is_empty())
        && ["yes", "no"]
            .iter()
            .any(|answer| written.eq_ignore_ascii_case(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::words::words;

    #[test]
    fn threshold_of_yes_or_no_at_the_beginning_is_its_own() {
        let thresholds = Thresholds {
            yes_no: Some(0.7),
            ..0.3.into()
        };
        let thresholds_of = |text: &str| {
            let (text, words) = words([text.as_bytes()], &[0.4]);
            words
                .iter()
                .map(|word| thresholds.for_word(&text, word))
                .collect::<Vec<_>>()
        };
        assert_eq!(thresholds_of(" No, a dog."), [0.7, 0.3, 0.3]);
        assert_eq!(thresholds_of("There is no dog. Yes."), [0.3; 5]);
    }

    #[test]
    fn threshold_of_class_overrides_the_common_one() {
        let (text, words) = words([b"two red dogs run near a zyx".as_slice()], &[0.4]);
        let by_class = ClassThresholds {
            object: Some(0.5),
            attribute: Some(0.1),
            ..ClassThresholds::default()
        };
        let flagged = |thresholds: Thresholds| {
            let is_flagged = |w: &&Word| {
                Word {
                    threshold: thresholds.for_word(&text, w),
                    ..(*w).clone()
                }
                .is_flagged()
            };
            words
                .iter()
                .filter(is_flagged)
                .map(|w| &text[w.bytes.clone()])
                .collect::<Vec<_>>()
        };
        assert_eq!(flagged(0.3.into()), Vec::<&str>::new());
        assert_eq!(
            flagged(Thresholds {
                yes_no: Some(0.9),
                ..0.3.into()
            }),
            Vec::<&str>::new()
        );
        assert_eq!(
            flagged(Thresholds {
                common: 0.3,
                by_class,
                ..Thresholds::default()
            }),
            ["dogs"]
        );
        assert_eq!(
            flagged(Thresholds {
                common: 0.45,
                by_class,
                ..Thresholds::default()
            }),
            ["two", "dogs", "run", "near", "zyx"]
        );
    }
}
