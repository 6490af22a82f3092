//! Detection of object mentions in a text.

use std::ops::Range;

use super::{
    ConceptId, ConceptKind, Lexicon, VerbForm,
    lemma::Noun,
    words::{TextWord, words},
};

/// Maximum length of a phrase of the tables, in words.
const LONGEST: usize = 4;

/// Mention of an object, animal or person in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Byte range in the text: the noun, or all of a compound (`hot dog`).
    pub range: Range<usize>,
    /// Noun in the singular.
    pub lemma: &'static str,
    /// Concept.
    pub concept: ConceptId,
    /// `true` if the text has the plural.
    pub plural: bool,
    /// `true` if it only modifies the noun after it (`brick` in "brick wall").
    pub modifier: bool,
}

impl Lexicon {
    /// Returns the mentions in a text, in order; nouns that only modify another are left out.
    pub fn mentions(&self, text: &str) -> Vec<Mention> {
        self.all_mentions(text)
            .into_iter()
            .filter(|m| !m.modifier)
            .collect()
    }

    /// Returns the mentions in a text, modifying nouns included.
    pub fn all_mentions(&self, text: &str) -> Vec<Mention> {
        self.mentions_in(&words(text))
    }

    /// Returns [`Self::all_mentions`] of a text that is cut into words.
    pub(super) fn mentions_in(&self, words: &[TextWord]) -> Vec<Mention> {
        let mut found: Vec<(Range<usize>, Noun)> = Vec::new();
        let mut at = 0;
        while at < words.len() {
            if let Some(skipped) = self.non_object_at(words, at) {
                at += skipped;
            } else if let Some((len, noun)) = self
                .longest_noun_at(words, at)
                .filter(|&(len, noun)| self.is_used_as_noun(words, at, len, noun, found.last()))
            {
                found.push((at..at + len, noun));
                at += len;
            } else {
                at += 1;
            }
        }
        found
            .iter()
            .enumerate()
            .map(|(i, (span, noun))| Mention {
                range: words[span.start].range.start..words[span.end - 1].range.end,
                lemma: noun.lemma,
                concept: noun.concept,
                plural: noun.plural,
                modifier: self.qualifies_next(words, span, *noun, found.get(i + 1)),
            })
            .collect()
    }

    /// Returns `true` if the noun modifies the word after it.
    fn qualifies_next(
        &self,
        words: &[TextWord],
        span: &Range<usize>,
        noun: Noun,
        after: Option<&(Range<usize>, Noun)>,
    ) -> bool {
        let Some(next) = words.get(span.end).filter(|next| next.joined) else {
            return false;
        };
        if after.is_some_and(|(after, _)| after.start == span.end) {
            return true;
        }
        let is_verb = || {
            self.verbs
                .analyze(&next.text)
                .is_some_and(|(_, form)| self.follows_as_verb(words, span, noun, form))
        };
        self.classes.is_other_noun(&next.text) && !is_verb()
    }

    /// Returns the number of words from `at` on that look like an object mention and are none (`the
    /// top`).
    fn non_object_at(&self, words: &[TextWord], at: usize) -> Option<usize> {
        if !self.classes.begins_non_object(&words[at].text) {
            return None;
        }
        (1..=LONGEST).rev().find(|&len| {
            phrase(words, at, len, " ").is_some_and(|p| self.classes.is_non_object(&p))
        })
    }

    /// Returns the longest noun from `at` on, and its length in words.
    fn longest_noun_at(&self, words: &[TextWord], at: usize) -> Option<(usize, Noun)> {
        let longest = if self.compound_starts.contains(words[at].text.as_str()) {
            LONGEST
        } else {
            1
        };
        let longer = (2..=longest).rev().find_map(|len| {
            self.noun(&phrase(words, at, len, " ")?)
                .map(|noun| (len, noun))
        });
        // "skate board" means "skateboard".
        let both_nouns = || {
            self.nouns.contains_key(words[at].text.as_str())
                && words
                    .get(at + 1)
                    .is_some_and(|w| self.noun(&w.text).is_some())
        };
        let closed = || {
            both_nouns()
                .then(|| phrase(words, at, 2, ""))?
                .and_then(|p| self.noun(&p))
                .map(|noun| (2, noun))
        };
        longer.or_else(closed).or_else(|| {
            let word = &words[at].text;
            let split = || word.rsplit_once('-').filter(|(_, last)| last.len() > 2);
            let noun = self.noun(word).or_else(|| {
                let (_, last) = split()?;
                self.noun(&word.replace('-', " "))
                    .or_else(|| self.noun(&word.replace('-', "")))
                    .or_else(|| self.noun(last))
            });
            noun.map(|noun| (1, noun))
        })
    }

    /// Distinguishes a noun from a verb, a color or a game by the words around it.
    fn is_used_as_noun(
        &self,
        words: &[TextWord],
        at: usize,
        len: usize,
        noun: Noun,
        before: Option<&(Range<usize>, Noun)>,
    ) -> bool {
        let word = words[at].text.as_str();
        if len > 1 {
            return true;
        }
        if self.classes.color(word).is_some() {
            let follows = |w: &&str| at > 0 && words[at - 1].text == *w;
            return ["an", "the"].iter().any(follows)
                && words
                    .get(at + 1)
                    .is_none_or(|next| !next.joined || self.classes.is_function(&next.text));
        }
        if self.classes.is_game(word) && !self.has_determiner(words, at) {
            return words
                .get(at + 1)
                .is_some_and(|next| next.joined && self.noun(&next.text).is_some());
        }
        match self.verbs.analyze(word) {
            Some((base, _))
                if self.classes.is_mostly_verb(base) && !self.has_determiner(words, at) =>
            {
                false
            }
            Some((_, form)) => !self.is_verb(words, at, form, before),
            None => !(noun.lemma != "person" && self.classes.is_function(word)),
        }
    }

    /// Returns `true` if a determiner opens the phrase that ends at `at`.
    fn has_determiner(&self, words: &[TextWord], at: usize) -> bool {
        let mut i = at;
        while i > 0 && words[i].joined {
            i -= 1;
            let word = words[i].text.as_str();
            if self.classes.is_determiner(word) || word == "'s" {
                return true;
            }
            if !self.classes.is_adjective(word) {
                return false;
            }
        }
        false
    }

    /// Returns `true` if a word that may be a noun or a verb is a verb here.
    fn is_verb(
        &self,
        words: &[TextWord],
        at: usize,
        form: VerbForm,
        before: Option<&(Range<usize>, Noun)>,
    ) -> bool {
        let next_opens_phrase = || self.opens_phrase(words.get(at + 1));
        let Some(previous) = at
            .checked_sub(1)
            .map(|i| &words[i])
            .filter(|_| words[at].joined)
        else {
            return at > 0 && next_opens_phrase();
        };
        if let Some((span, noun)) = before.filter(|(span, _)| span.end == at) {
            return self.follows_as_verb(words, span, *noun, form);
        }
        match previous.text.as_str() {
            "to" => form == VerbForm::Base && !(at > 1 && words[at - 2].text == "next"),
            "who" | "that" | "which" | "he" | "she" | "they" | "it" | "we" | "others" | "ones"
            | "everyone" | "someone" | "group" | "couple" | "pair" => true,
            "and" | "or" | "while" | "as" | "then" => next_opens_phrase() || form == VerbForm::Ing,
            "is" | "are" | "was" | "were" | "being" => form == VerbForm::Ing,
            word if word.ends_with("ly") => true,
            _ => false,
        }
    }

    /// Returns `true` if a verb of perception or help precedes the subject, which then takes a verb
    /// in the base form: "watches a boy drink".
    fn is_seen_acting(&self, words: &[TextWord], subject: &Range<usize>) -> bool {
        let before = &words[subject.start.saturating_sub(4)..subject.start];
        before.iter().any(|w| {
            self.verbs
                .analyze(&w.text)
                .is_some_and(|(base, _)| ["watch", "help", "make", "see", "let"].contains(&base))
        })
    }

    /// Returns `true` if a concept is a person or an animal.
    fn is_alive(&self, concept: ConceptId) -> bool {
        matches!(
            self.kind(concept),
            ConceptKind::Person | ConceptKind::Animal
        )
    }

    /// Returns `true` if a word can follow a verb but not a modifying noun: an article, `on`,
    /// `with`.
    fn opens_phrase(&self, word: Option<&TextWord>) -> bool {
        let opens = |text: &str| {
            let classes = &self.classes;
            classes.is_determiner(text)
                || classes.is_relation(text)
                || ["with", "to", "from", "for", "together", "as", "while"].contains(&text)
        };
        word.is_some_and(|w| w.joined && opens(&w.text))
    }

    /// Returns `true` if a form agrees, as a verb, with the noun directly before it: `dogs race`,
    /// `the dog races`, but `a dog bowl`, `ski boots`.
    fn follows_as_verb(
        &self,
        words: &[TextWord],
        subject: &Range<usize>,
        noun: Noun,
        form: VerbForm,
    ) -> bool {
        if !self.is_alive(noun.concept) {
            // "a boy in a green shirt swings on a pole"
            let agrees = form == VerbForm::ThirdPerson && !noun.plural
                || form == VerbForm::Base && noun.plural;
            return agrees && self.opens_phrase(words.get(subject.end + 1));
        }
        let and = (subject.start.saturating_sub(3)..subject.start)
            .rev()
            .find(|&i| words[i].text == "and");
        let coordinated = and
            .and_then(|i| self.noun(&words[i.checked_sub(1)?].text))
            .is_some_and(|other| self.is_alive(other.concept));
        match form {
            VerbForm::Ing => true,
            VerbForm::ThirdPerson => !noun.plural,
            // "watches a boy drink from a bottle"
            VerbForm::Base => noun.plural || coordinated || self.is_seen_acting(words, subject),
        }
    }
}

/// Returns `len` words from `at` on, joined by `glue`, if only white space separates them.
fn phrase(words: &[TextWord], at: usize, len: usize, glue: &str) -> Option<String> {
    let span = words.get(at..at + len)?;
    span[1..]
        .iter()
        .all(|w| w.joined && w.text != "'s")
        .then(|| {
            span.iter()
                .map(|w| w.text.as_str())
                .collect::<Vec<_>>()
                .join(glue)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lemmas(text: &str) -> Vec<&'static str> {
        Lexicon::shared()
            .mentions(text)
            .into_iter()
            .map(|m| m.lemma)
            .collect()
    }

    #[test]
    fn mentions_of_captions_are_found() {
        for (text, want) in [
            (
                "A black dog is running after a white dog in the snow.",
                &["dog", "dog", "snow"][..],
            ),
            (
                "Two women eat hot dogs near a fire hydrant.",
                &["woman", "hot dog", "fire hydrant"],
            ),
            (
                "A man in an orange shirt holds an orange.",
                &["man", "shirt", "orange"],
            ),
            (
                "People in front of a brick wall.",
                &["people", "brick wall"],
            ),
            ("A tennis match; a boy plays football.", &["boy"]),
            ("A boy kicks a football.", &["boy", "football"]),
            (
                "A man stands on a skate board at the top.",
                &["man", "skateboard"],
            ),
            ("Two dogs race past a race car.", &["dog", "race car"]),
            ("The man waves and rocks the baby.", &["man", "baby"]),
            (
                "A surfer rides waves by the rocks.",
                &["surfer", "wave", "rock"],
            ),
            ("Children slide down a slide.", &["child", "slide"]),
            ("A dog's bowl and a dog bowl.", &["dog", "bowl", "bowl"]),
            (
                "The boy in the green shirt swings with one arm on the pole.",
                &["boy", "shirt", "arm", "pole"],
            ),
            (
                "A girl smiles at the camera while a man holds a camera.",
                &["girl", "man", "camera"],
            ),
            ("Two boys in soccer uniforms.", &["boy", "uniform"]),
            (
                "A man and a woman ski to the water.",
                &["man", "woman", "water"],
            ),
            ("", &[]),
        ] {
            assert_eq!(lemmas(text), want, "{text}");
        }
    }

    #[test]
    fn mention_range_covers_the_text_as_written() {
        let text = "A CAFÉ table — two Hot  Dogs.";
        let found: Vec<&str> = Lexicon::shared()
            .mentions(text)
            .into_iter()
            .map(|m| &text[m.range])
            .collect();
        assert_eq!(found, ["table", "Hot  Dogs"]);
    }
}
