//! Support of mentions by reference texts about the same image.

use std::borrow::Cow;

use super::{ConceptId, Lexicon, Mention, Phrase, words};

/// Degree to which references support a concept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// No reference supports it.
    None,
    /// No reference names it, but one implies it (`skier`: skis).
    Expected,
    /// A reference names it, a synonym, a hypernym or a hyponym.
    Named,
}

/// Reference text, parsed: the concepts that it names, and its words.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Mentions with their phrases; nouns that only modify another are left out.
    pub phrases: Vec<Phrase>,
    /// Length in words.
    pub words: usize,
    /// Concepts that it names, modifying nouns included; sorted.
    named: Vec<ConceptId>,
    /// Concepts that its words imply; sorted.
    expected: Vec<ConceptId>,
    /// Every word, as written and in its base form as a noun and as a verb; sorted.
    forms: Vec<String>,
}

impl Reading {
    /// Parses a text.
    pub fn new(lexicon: &Lexicon, text: &str) -> Self {
        let words = words(text);
        let mentions = lexicon.mentions_in(&words);
        let mut this = Self {
            phrases: lexicon.phrases_in(&words, &mentions),
            words: words.len(),
            ..Self::default()
        };
        this.named.extend(mentions.iter().map(|m| m.concept));
        for word in &words {
            this.add(lexicon, &word.text);
            if word.text.contains('-') {
                word.text
                    .split('-')
                    .for_each(|part| this.add(lexicon, part));
            }
        }
        for set in [&mut this.named, &mut this.expected] {
            set.sort_unstable();
            set.dedup();
        }
        this.forms.sort_unstable();
        this.forms.dedup();
        this
    }

    fn add(&mut self, lexicon: &Lexicon, word: &str) {
        let noun = lexicon.noun(word).map(|n| n.lemma).filter(|&n| n != word);
        let verb = lexicon
            .verbs
            .analyze(word)
            .map(|(base, _)| base)
            .filter(|&v| v != word);
        for form in [Some(word), noun, verb].into_iter().flatten() {
            self.expected
                .extend(lexicon.entails.get(form).into_iter().flatten());
            self.forms.push(form.to_owned());
        }
    }

    fn has_word(&self, word: &str) -> bool {
        self.forms
            .binary_search_by(|form| form.as_str().cmp(word))
            .is_ok()
    }

    /// Returns the degree to which the text supports a concept.
    pub fn support(&self, lexicon: &Lexicon, concept: ConceptId) -> Support {
        let related = |set: &[ConceptId]| set.iter().any(|&other| lexicon.related(concept, other));
        if related(&self.named) {
            Support::Named
        } else if related(&self.expected)
            || lexicon
                .synonyms(concept)
                .iter()
                .any(|word| self.has_word(word))
        {
            Support::Expected
        } else {
            Support::None
        }
    }
}

/// Reference texts about one image.
#[derive(Debug, Clone)]
pub struct ReferenceTexts<'a> {
    lexicon: &'a Lexicon,
    readings: Vec<Cow<'a, Reading>>,
}

impl<'a> ReferenceTexts<'a> {
    /// Parses the texts.
    pub fn new<S: AsRef<str>>(lexicon: &'a Lexicon, texts: impl IntoIterator<Item = S>) -> Self {
        Self {
            lexicon,
            readings: texts
                .into_iter()
                .map(|text| Cow::Owned(Reading::new(lexicon, text.as_ref())))
                .collect(),
        }
    }

    /// Creates references from parsed texts.
    pub fn from_readings(
        lexicon: &'a Lexicon,
        readings: impl IntoIterator<Item = &'a Reading>,
    ) -> Self {
        Self {
            lexicon,
            readings: readings.into_iter().map(Cow::Borrowed).collect(),
        }
    }

    /// Returns the parsed texts.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.readings.iter().map(AsRef::as_ref)
    }

    /// Returns the highest degree to which a text supports a concept.
    pub fn support(&self, concept: ConceptId) -> Support {
        self.readings()
            .map(|r| r.support(self.lexicon, concept))
            .max()
            .unwrap_or(Support::None)
    }

    /// Returns the degree to which the texts support a mention: its lemma, or else its concept.
    pub fn supports(&self, mention: &Mention) -> Support {
        if self.has_word(mention.lemma) {
            Support::Named
        } else {
            self.support(mention.concept)
        }
    }

    /// Returns `true` if a text contains a form of the word.
    pub fn has_word(&self, word: &str) -> bool {
        self.readings().any(|r| r.has_word(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn support(noun: &str, references: &[&str]) -> Support {
        let lexicon = Lexicon::shared();
        ReferenceTexts::new(lexicon, references).support(lexicon.concept(noun).unwrap())
    }

    #[test]
    fn support_of_a_related_noun_is_named() {
        let references = ["A poodle jumps for a red toy .", "Someone on a couch ."];
        for noun in ["poodle", "dog", "animal", "ball pit", "sofa", "seat"] {
            let want = if noun == "ball pit" {
                Support::None
            } else {
                Support::Named
            };
            assert_eq!(support(noun, &references), want, "{noun}");
        }
        assert_eq!(
            support("frisbee", &references),
            Support::Named,
            "a frisbee is a toy"
        );
        assert_eq!(support("cat", &references), Support::None);
    }

    #[test]
    fn support_of_an_implied_noun_is_expected() {
        assert_eq!(support("ski", &["A skier on a hill ."]), Support::Expected);
        assert_eq!(
            support("racket", &["Two girls play tennis ."]),
            Support::Expected
        );
        assert_eq!(
            support("racket", &["Two girls play chess ."]),
            Support::None
        );
    }
}
