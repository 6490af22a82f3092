//! Which mentions other texts of the same image support.

use std::collections::HashSet;

use super::{ConceptId, Lexicon, Mention, words};

/// How far the references support a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// Nothing speaks for it.
    None,
    /// No reference names it, but one lets it be expected (`skier`: skis).
    Expected,
    /// A reference names it, a synonym, or something more general or more special.
    Named,
}

/// What a set of texts about one image names.
#[derive(Debug, Clone)]
pub struct References<'a> {
    lexicon: &'a Lexicon,
    named: HashSet<ConceptId>,
    expected: HashSet<ConceptId>,
    /// Every word, as it stands and as noun and verb in their base form.
    words: HashSet<String>,
}

impl<'a> References<'a> {
    /// Gathers what the texts name.
    pub fn new<S: AsRef<str>>(lexicon: &'a Lexicon, texts: impl IntoIterator<Item = S>) -> Self {
        let mut this = Self { lexicon, named: HashSet::new(), expected: HashSet::new(), words: HashSet::new() };
        for text in texts {
            this.add(text.as_ref());
        }
        this
    }

    fn add(&mut self, text: &str) {
        let lexicon = self.lexicon;
        self.named.extend(lexicon.all_mentions(text).iter().map(|m| m.concept));
        for word in words(text) {
            for part in std::iter::once(word.text.as_str()).chain(word.text.split('-')) {
                let noun = lexicon.noun(part).map(|n| n.lemma);
                let verb = lexicon.verbs.analyze(part).map(|(base, _)| base);
                for form in [Some(part), noun, verb].into_iter().flatten() {
                    self.expected.extend(lexicon.entails.get(form).into_iter().flatten());
                    self.words.insert(form.to_owned());
                }
            }
        }
    }

    /// How far the texts support a concept.
    pub fn support(&self, concept: ConceptId) -> Support {
        let related = |set: &HashSet<ConceptId>| set.iter().any(|&other| self.lexicon.related(concept, other));
        if self.named.contains(&concept) || related(&self.named) {
            Support::Named
        } else if related(&self.expected) || self.lexicon.synonyms(concept).iter().any(|&word| self.words.contains(word)) {
            Support::Expected
        } else {
            Support::None
        }
    }

    /// How far the texts support a mention: its concept, or its very word.
    pub fn supports(&self, mention: &Mention) -> Support {
        if self.words.contains(mention.lemma) { Support::Named } else { self.support(mention.concept) }
    }

    /// Whether a text has the word in some form.
    pub fn has_word(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// The concepts that the texts name.
    pub fn named(&self) -> impl Iterator<Item = ConceptId> {
        self.named.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn support(noun: &str, references: &[&str]) -> Support {
        let lexicon = Lexicon::shared();
        References::new(lexicon, references).support(lexicon.concept(noun).unwrap())
    }

    #[test]
    fn follows_the_rule() {
        let references = ["A poodle jumps for a red toy .", "Someone on a couch ."];
        for noun in ["poodle", "dog", "animal", "ball pit", "sofa", "seat"] {
            let want = if noun == "ball pit" { Support::None } else { Support::Named };
            assert_eq!(support(noun, &references), want, "{noun}");
        }
        assert_eq!(support("frisbee", &references), Support::Named, "a frisbee is a toy");
        assert_eq!(support("cat", &references), Support::None);
    }

    #[test]
    fn expects_what_follows() {
        assert_eq!(support("ski", &["A skier on a hill ."]), Support::Expected);
        assert_eq!(support("racket", &["Two girls play tennis ."]), Support::Expected);
        assert_eq!(support("racket", &["Two girls play chess ."]), Support::None);
    }
}
