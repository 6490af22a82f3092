//! From which reward on a word is trusted: one threshold, or one for each class of words.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::Word;
use crate::lexicon::{Lexicon, WordClass};

/// Thresholds that differ from the common one, by class of words.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ByClass {
    /// Words that name people, animals and things.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub object: Option<f32>,
    /// Colours, sizes, materials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub attribute: Option<f32>,
    /// Numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub count: Option<f32>,
    /// Verbs of action.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub action: Option<f32>,
    /// Words that say where things are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub relation: Option<f32>,
}

impl ByClass {
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
    /// The exceptions.
    pub by_class: ByClass,
}

impl From<f32> for Thresholds {
    fn from(common: f32) -> Self {
        Self { common, by_class: ByClass::default() }
    }
}

impl Thresholds {
    /// The threshold of a word of `text`.
    pub fn of(&self, text: &str, word: &Word) -> f32 {
        if self.by_class == ByClass::default() {
            return self.common;
        }
        let classes = Lexicon::shared().word_classes(text);
        let class = classes.into_iter().find(|(range, _)| range.start < word.bytes.end && word.bytes.start < range.end);
        class.and_then(|(_, class)| self.by_class.of(class)).unwrap_or(self.common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::words::words;

    #[test]
    fn a_class_can_be_stricter_than_the_rest() {
        let (text, words) = words([b"two red dogs run near a zyx".as_slice()], &[0.4]);
        let by_class = ByClass { object: Some(0.5), attribute: Some(0.1), ..ByClass::default() };
        let doubted = |thresholds: Thresholds| {
            let doubts = |w: &&Word| Word { threshold: thresholds.of(&text, w), ..(*w).clone() }.doubted();
            words.iter().filter(doubts).map(|w| &text[w.bytes.clone()]).collect::<Vec<_>>()
        };
        assert_eq!(doubted(0.3.into()), Vec::<&str>::new());
        assert_eq!(doubted(Thresholds { common: 0.3, by_class }), ["dogs"]);
        assert_eq!(doubted(Thresholds { common: 0.45, by_class }), ["two", "dogs", "run", "near", "zyx"]);
    }
}
