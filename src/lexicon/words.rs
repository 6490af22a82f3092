//! Tokenization into words, and the closed word classes of `words.txt`.

use std::ops::Range;

use super::tables::{Map, Set};

/// Word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWord {
    /// Byte range in the text.
    pub range: Range<usize>,
    /// Text in lower case.
    pub text: String,
    /// `true` if only white space separates it from the word before.
    pub joined: bool,
}

/// Cuts a text into words: runs of letters and digits with inner hyphens and apostrophes. A final
/// `'s` is a separate word.
pub fn words(text: &str) -> Vec<TextWord> {
    let mut found: Vec<TextWord> = Vec::new();
    let mut push = |range: Range<usize>, joined: bool| {
        let mut text = text[range.clone()].to_lowercase();
        if text.contains('’') {
            text = text.replace('’', "'");
        }
        found.push(TextWord {
            range,
            text,
            joined,
        });
    };
    let mut at = 0;
    let mut joined = false;
    while let Some(c) = text[at..].chars().next() {
        if !c.is_alphanumeric() {
            joined &= c.is_whitespace();
            at += c.len_utf8();
            continue;
        }
        let end = at + word_len(&text[at..]);
        let body = text[at..end]
            .strip_suffix("'s")
            .or_else(|| text[at..end].strip_suffix("’s"))
            .map_or(end, |body| at + body.len());
        if body > at {
            push(at..body, joined);
        }
        if body < end {
            push(body..end, true);
        }
        (at, joined) = (end, true);
    }
    found
}

/// Returns the length in bytes of the word with which `text` begins.
fn word_len(text: &str) -> usize {
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        let inside = matches!(c, '-' | '\'' | '’')
            && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        if !(c.is_alphanumeric() || inside) {
            break;
        }
        end = i + c.len_utf8();
    }
    end
}

/// The closed word classes.
#[derive(Debug, Default)]
pub struct Classes {
    /// Classes of each word, with the line of the word in each class.
    classes: Map<&'static str, Vec<(&'static str, usize)>>,
    /// Lines of each class.
    lines: Map<&'static str, Vec<Vec<&'static str>>>,
    phrases: Map<&'static str, Set<&'static str>>,
}

impl Classes {
    /// Parses `words.txt`: `[class]` headings, then one group of synonyms per line; in classes of
    /// phrases, each line is one phrase.
    pub(super) fn parse(text: &'static str) -> Self {
        let mut this = Self::default();
        let mut class = "";
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                class = name;
                continue;
            }
            this.phrases.entry(class).or_default().insert(line);
            let lines = this.lines.entry(class).or_default();
            let words: Vec<&str> = line.split(' ').collect();
            for &word in &words {
                let word_classes = this.classes.entry(word).or_default();
                if word_classes.iter().all(|(other, _)| *other != class) {
                    word_classes.push((class, lines.len()));
                }
            }
            lines.push(words);
        }
        this
    }

    /// Returns the group of `word` in `class`; words of one group are synonyms.
    fn group(&self, class: &str, word: &str) -> Option<usize> {
        self.classes
            .get(word)?
            .iter()
            .find(|(of, _)| *of == class)
            .map(|(_, line)| *line)
    }

    fn has_phrase(&self, class: &str, phrase: &str) -> bool {
        self.phrases
            .get(class)
            .is_some_and(|phrases| phrases.contains(phrase))
    }

    pub(super) fn verbs(&self) -> impl Iterator<Item = &'static str> {
        self.lines
            .get("verb")
            .into_iter()
            .flatten()
            .flatten()
            .copied()
    }

    /// Returns the groups of a class, in the order of the file.
    pub fn groups(&self, class: &str) -> &[Vec<&'static str>] {
        self.lines.get(class).map_or(&[], Vec::as_slice)
    }

    /// Returns the group of a color: `gray` and `grey` are in one.
    pub fn color(&self, word: &str) -> Option<usize> {
        self.group("color", word)
    }

    /// Returns the number that a word states.
    pub fn count(&self, word: &str) -> Option<usize> {
        self.group("count", word).map(|line| line + 1)
    }

    /// Returns `true` if a word is a vague count: `several`.
    pub fn is_vague_count(&self, word: &str) -> bool {
        self.group("vague count", word).is_some()
    }

    /// Returns the group of a size.
    pub fn size(&self, word: &str) -> Option<usize> {
        self.group("size", word)
    }

    /// Returns the group of a material.
    pub fn material(&self, word: &str) -> Option<usize> {
        self.group("material", word)
    }

    /// Returns `true` if a word may stand between an article and its noun.
    pub fn is_adjective(&self, word: &str) -> bool {
        ["adjective", "color", "color modifier", "size", "material"]
            .iter()
            .any(|class| self.group(class, word).is_some() && word != "and")
    }

    /// Returns `true` if a word may begin a noun phrase.
    pub fn is_determiner(&self, word: &str) -> bool {
        self.group("determiner", word).is_some() || self.group("count", word).is_some()
    }

    /// Returns `true` if a word, or a phrase such as `next to`, is a spatial relation.
    pub fn is_relation(&self, phrase: &str) -> bool {
        self.has_phrase("relation", phrase)
    }

    /// Returns `true` if a noun names a small object: worn, held or lying around.
    pub fn is_small_object(&self, noun: &str) -> bool {
        self.group("small object", noun).is_some()
    }

    /// Returns `true` if a word is a function word.
    pub fn is_function(&self, word: &str) -> bool {
        self.group("function", word).is_some()
    }

    /// Returns `true` if a phrase looks like an object mention and is none (`the top`).
    pub(super) fn is_non_object(&self, phrase: &str) -> bool {
        self.has_phrase("not objects", phrase)
    }

    /// Returns `true` if a word may begin such a phrase.
    pub(super) fn begins_non_object(&self, word: &str) -> bool {
        self.group("not objects", word).is_some()
    }

    /// Returns `true` if a word without a determiner names a game (`plays football`).
    pub(super) fn is_game(&self, word: &str) -> bool {
        self.group("game", word).is_some()
    }

    /// Returns `true` if a word is a verb unless a determiner or adjective precedes it.
    pub(super) fn is_mostly_verb(&self, word: &str) -> bool {
        self.group("mostly verb", word).is_some()
    }

    /// Returns `true` if a word is a noun that names no object and may follow one that does (`a
    /// tennis match`).
    pub(super) fn is_other_noun(&self, word: &str) -> bool {
        self.group("other noun", word).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_cut_at_punctuation_and_possessives() {
        let text = "A man's T-shirt, \"red\" — the dogs' café.";
        let found: Vec<(String, bool)> = words(text)
            .into_iter()
            .map(|w| (w.text, w.joined))
            .collect();
        let want = [
            ("a", false),
            ("man", true),
            ("'s", true),
            ("t-shirt", true),
            ("red", false),
            ("the", false),
            ("dogs", true),
            ("café", false),
        ];
        assert_eq!(found, want.map(|(w, j)| (w.to_owned(), j)));
    }

    #[test]
    fn classes_of_common_words_are_known() {
        let classes = Classes::parse(include_str!("words.txt"));
        assert_eq!(classes.color("gray"), classes.color("grey"));
        assert_ne!(classes.color("gray"), classes.color("brown"));
        assert_eq!(classes.count("two"), Some(2));
        assert!(
            classes.is_relation("next to")
                && classes.is_determiner("the")
                && classes.is_function("while")
        );
        assert!(!classes.is_adjective("dog"));
    }

    proptest! {
        #[test]
        fn word_ranges_are_ordered_and_cover_their_text(text in "\\PC{0,40}") {
            let mut last = 0;
            for word in words(&text) {
                prop_assert!(word.range.start >= last && word.range.end > word.range.start);
                prop_assert_eq!(text[word.range.clone()].to_lowercase().replace('’', "'"),
                    word.text);
                last = word.range.end;
            }
        }
    }
}
