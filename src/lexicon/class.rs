//! Word classes, as thresholds and evaluations distinguish them.

use std::{fmt, ops::Range};

use super::{ConceptKind, Lexicon, words};

/// Class of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WordClass {
    /// Noun for people.
    Person,
    /// Noun for animals.
    Animal,
    /// Noun for another visible object.
    Object,
    /// Color, size or material.
    Attribute,
    /// Number.
    Count,
    /// Verb of action.
    Action,
    /// Spatial relation.
    Relation,
    /// Any other word.
    Other,
}

impl WordClass {
    /// All classes, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Person,
        Self::Animal,
        Self::Object,
        Self::Attribute,
        Self::Count,
        Self::Action,
        Self::Relation,
        Self::Other,
    ];
}

impl fmt::Display for WordClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Person => "person",
            Self::Animal => "animal",
            Self::Object => "other thing",
            Self::Attribute => "attribute",
            Self::Count => "count",
            Self::Action => "action",
            Self::Relation => "relation",
            Self::Other => "other word",
        })
    }
}

impl Lexicon {
    /// Returns the class of every word of a text, with its byte range.
    pub fn word_classes(&self, text: &str) -> Vec<(Range<usize>, WordClass)> {
        let words = words(text);
        let mentions = self.mentions_in(&words);
        let class = |range: &Range<usize>, word: &str| {
            if let Some(mention) = mentions
                .iter()
                .find(|m| m.range.start <= range.start && range.end <= m.range.end)
            {
                return match self.kind(mention.concept) {
                    ConceptKind::Person => WordClass::Person,
                    ConceptKind::Animal => WordClass::Animal,
                    _ => WordClass::Object,
                };
            }
            let classes = &self.classes;
            if classes.count(word).is_some() {
                WordClass::Count
            } else if classes
                .color(word)
                .or(classes.size(word))
                .or(classes.material(word))
                .is_some()
            {
                WordClass::Attribute
            } else if classes.is_relation(word) {
                WordClass::Relation
            } else if self.verbs.analyze(word).is_some() {
                WordClass::Action
            } else {
                WordClass::Other
            }
        };
        words
            .iter()
            .map(|word| (word.range.clone(), class(&word.range, &word.text)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_classes_distinguish_the_words_of_a_caption() {
        let text = "Two men in red hats jump behind a dog.";
        let found: Vec<String> = Lexicon::shared()
            .word_classes(text)
            .into_iter()
            .map(|(r, class)| format!("{} {class}", &text[r]))
            .collect();
        assert_eq!(
            found,
            [
                "Two count",
                "men person",
                "in relation",
                "red attribute",
                "hats other thing",
                "jump action",
                "behind relation",
                "a other word",
                "dog animal"
            ]
        );
    }
}
