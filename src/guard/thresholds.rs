//! From which reward on a word is trusted: one threshold, or one for each class of words.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::words::Word;
use crate::lexicon::{Lexicon, WordClass};

/// Thresholds that differ from the common one, by class of words.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassThresholds {
    /// Words that name people, animals and things.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<f32>,
    /// Colors, sizes, materials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<f32>,
    /// Numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<f32>,
    /// Verbs of action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<f32>,
    /// Words that say where things are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<f32>,
}

impl ClassThresholds {
    /// Every class with its threshold.
    pub fn each(&self) -> [(&'static str, Option<f32>); 5] {
        [
            ("object", self.object),
            ("attribute", self.attribute),
            ("count", self.count),
            ("action", self.action),
            ("relation", self.relation),
        ]
    }

    /// These, and where there is none `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            object: self.object.or(other.object),
            attribute: self.attribute.or(other.attribute),
            count: self.count.or(other.count),
            action: self.action.or(other.action),
            relation: self.relation.or(other.relation),
        }
    }

    fn of(&self, class: WordClass) -> Option<f32> {
        match class {
            WordClass::Person | WordClass::Animal | WordClass::Thing => self.object,
            WordClass::Attribute => self.attribute,
            WordClass::Count => self.count,
            WordClass::Action => self.action,
            WordClass::Relation => self.relation,
            WordClass::Other => None,
        }
    }
}

/// From which reward on words are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholds {
    /// Of every word that no class has another for.
    pub common: f32,
    /// Of a yes or no that answers, whose reward has a calibration of its own; `None`: the common
    /// one.
    pub yes_no: Option<f32>,
    /// The exceptions.
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
    /// The threshold of a word of `text`.
    pub fn of(&self, text: &str, word: &Word) -> f32 {
        self.among(text, &self.classes(text), word)
    }

    /// Sets the thresholds of the words of a whole text, which is classified once.
    pub fn set(&self, text: &str, words: &mut [Word]) {
        let classes = self.classes(text);
        words
            .iter_mut()
            .for_each(|word| word.threshold = self.among(text, &classes, word));
    }

    /// The classes of the words of a text, where thresholds differ by class.
    fn classes(&self, text: &str) -> Vec<(Range<usize>, WordClass)> {
        if self.by_class == ClassThresholds::default() {
            Vec::new()
        } else {
            Lexicon::shared().word_classes(text)
        }
    }

    fn among(&self, text: &str, classes: &[(Range<usize>, WordClass)], word: &Word) -> f32 {
        if is_yes_or_no(text, word) {
            return self.yes_no.unwrap_or(self.common);
        }
        let class = classes
            .iter()
            .find(|(range, _)| range.start < word.bytes.end && word.bytes.start < range.end);
        class
            .and_then(|(_, class)| self.by_class.of(*class))
            .unwrap_or(self.common)
    }

    /// The threshold of an answer with these words, classes aside.
    pub fn of_answer(&self, text: &str, words: &[Word]) -> f32 {
        let answers = words.first().is_some_and(|word| is_yes_or_no(text, word));
        self.yes_no.filter(|_| answers).unwrap_or(self.common)
    }
}

/// Returns `true` if `word` is a yes or no that `text` begins with.
pub(crate) fn is_yes_or_no(text: &str, word: &Word) -> bool {
    let (before, said) = (
        text.get(..word.bytes.start),
        text.get(word.bytes.clone()).unwrap_or_default(),
    );
    before.is_some_and(|before| before.trim().is_empty())
        && ["yes", "no"]
            .iter()
            .any(|answer| said.eq_ignore_ascii_case(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::words::words;

    #[test]
    fn a_yes_or_no_that_answers_has_a_threshold_of_its_own() {
        let thresholds = Thresholds {
            yes_no: Some(0.7),
            ..0.3.into()
        };
        let of = |text: &str| {
            let (text, words) = words([text.as_bytes()], &[0.4]);
            words
                .iter()
                .map(|word| thresholds.of(&text, word))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(" No, a dog."), [0.7, 0.3, 0.3]);
        assert_eq!(of("There is no dog. Yes."), [0.3; 5]);
    }

    #[test]
    fn a_class_can_be_stricter_than_the_rest() {
        let (text, words) = words([b"two red dogs run near a zyx".as_slice()], &[0.4]);
        let by_class = ClassThresholds {
            object: Some(0.5),
            attribute: Some(0.1),
            ..ClassThresholds::default()
        };
        let doubted = |thresholds: Thresholds| {
            let doubts = |w: &&Word| {
                Word {
                    threshold: thresholds.of(&text, w),
                    ..(*w).clone()
                }
                .doubted()
            };
            words
                .iter()
                .filter(doubts)
                .map(|w| &text[w.bytes.clone()])
                .collect::<Vec<_>>()
        };
        assert_eq!(doubted(0.3.into()), Vec::<&str>::new());
        assert_eq!(
            doubted(Thresholds {
                yes_no: Some(0.9),
                ..0.3.into()
            }),
            Vec::<&str>::new()
        );
        assert_eq!(
            doubted(Thresholds {
                common: 0.3,
                by_class,
                ..Thresholds::default()
            }),
            ["dogs"]
        );
        assert_eq!(
            doubted(Thresholds {
                common: 0.45,
                by_class,
                ..Thresholds::default()
            }),
            ["two", "dogs", "run", "near", "zyx"]
        );
    }
}
