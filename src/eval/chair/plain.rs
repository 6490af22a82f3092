//! Object matching in English: plurals, longest phrase first, nouns only.

use std::{collections::HashMap, ops::Range};

use crate::lexicon::{Lexicon, Mention, TextWord, words};

/// Name of the lines whose phrases name no object.
pub(super) const NO_OBJECT: &str = "-";

/// Meaning of a word or phrase.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Index of the object; `None` if the phrase names none.
    object: Option<usize>,
    /// `true` if the lexicon knows the word as a noun and can tell when it is used as another part
    /// of speech.
    is_noun: bool,
}

/// Words of a list in [`MatchStyle::Plain`].
#[derive(Debug)]
pub(super) struct PlainWords {
    /// Words and phrases, singular and plural.
    entries: HashMap<String, Entry>,
    /// First words of phrases, each with the number of words of its longest phrase.
    phrases: HashMap<String, usize>,
}

impl PlainWords {
    pub(super) fn new(list: Vec<(String, Option<usize>)>) -> Self {
        let lexicon = Lexicon::shared();
        let mut this = Self {
            entries: HashMap::new(),
            phrases: HashMap::new(),
        };
        // A plural never replaces a word of the list.
        let plurals = list.iter().flat_map(|(word, object)| {
            plurals(lexicon, word).map(|plural| (plural, word, *object))
        });
        let all = list
            .iter()
            .map(|(word, object)| (word.clone(), word, *object))
            .chain(plurals);
        for (word, base, object) in all {
            if let [first, _, ..] = &words(&word)[..] {
                let longest = this.phrases.entry(first.text.clone()).or_default();
                *longest = words(&word).len().max(*longest);
            }
            this.entries.entry(word).or_insert(Entry {
                object,
                is_noun: lexicon.concept(base).is_some(),
            });
        }
        this
    }

    /// Object that a word or phrase in lower case names.
    pub(super) fn object(&self, phrase: &str) -> Option<usize> {
        self.entries.get(phrase)?.object
    }

    /// Finds every mention in order: byte range and object.
    pub(super) fn find(&self, caption: &str) -> Vec<(Range<usize>, usize)> {
        let words = words(caption);
        let mut found: Vec<(Range<usize>, Entry)> = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let (length, entry) = self.longest_at(&words, at).unwrap_or((
                1,
                Entry {
                    object: None,
                    is_noun: false,
                },
            ));
            found.extend(entry.object.map(|_| (at..at + length, entry)));
            at += length;
        }
        if found.is_empty() {
            return Vec::new();
        }
        let reader = Reader {
            lexicon: Lexicon::shared(),
            nouns: Lexicon::shared().all_mentions(caption),
            words: &words,
        };
        let mentions = found
            .into_iter()
            .filter(|(span, entry)| reader.is_mention(span, entry.is_noun));
        mentions
            .filter_map(|(span, entry)| Some((bytes(&words, &span), entry.object?)))
            .collect()
    }

    /// Longest entry that begins at a word, with its number of words.
    fn longest_at(&self, words: &[TextWord], at: usize) -> Option<(usize, Entry)> {
        let word = words[at].text.as_str();
        let longest = self.phrases.get(word).copied().unwrap_or(1);
        let phrase = (2..=longest).rev().find_map(|length| {
            Some((
                length,
                *self.entries.get(&joined(words.get(at..at + length)?)?)?,
            ))
        });
        phrase.or_else(|| {
            let hyphenated = || {
                let (_, last) = word.rsplit_once('-')?;
                self.entries
                    .get(&word.replace('-', " "))
                    .or_else(|| self.entries.get(&word.replace('-', "")))
                    .or_else(|| self.entries.get(last))
            };
            self.entries
                .get(word)
                .or_else(hyphenated)
                .map(|entry| (1, *entry))
        })
    }
}

/// Word or phrase in lower case with single spaces, as entries are stored; `None` if no caption can
/// contain it.
pub(super) fn normalized(phrase: &str) -> Option<String> {
    let found = joined(&words(phrase))?;
    let plain = phrase
        .to_lowercase()
        .replace('’', "'")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    (found == plain).then_some(found)
}

/// Words joined to a phrase, if only white space separates them.
fn joined(words: &[TextWord]) -> Option<String> {
    let (first, rest) = words.split_first()?;
    let mut phrase = first.text.clone();
    for word in rest {
        if !word.joined {
            return None;
        }
        // A genitive is a token of its own after its noun.
        if word.text != "'s" {
            phrase.push(' ');
        }
        phrase.push_str(&word.text);
    }
    Some(phrase)
}

/// Irregular (or rarely spelled: `busses`) and regular plural of a phrase. Its head ends before
/// `of` (`glasses of wine`).
fn plurals(lexicon: &Lexicon, phrase: &str) -> [String; 2] {
    let (head, rest) = phrase
        .find(" of ")
        .map_or((phrase, ""), |at| phrase.split_at(at));
    let hisses = ["s", "x", "z", "ch", "sh"]
        .iter()
        .any(|end| head.ends_with(end));
    [
        lexicon.plural(head),
        format!("{head}{}", if hisses { "es" } else { "s" }),
    ]
    .map(|plural| plural + rest)
}

/// Byte range of a span of words.
fn bytes(words: &[TextWord], span: &Range<usize>) -> Range<usize> {
    words[span.start].range.start..words[span.end - 1].range.end
}

/// A caption read by the lexicon.
struct Reader<'a> {
    lexicon: &'a Lexicon,
    /// Object mentions that the lexicon finds, in order.
    nouns: Vec<Mention>,
    words: &'a [TextWord],
}

impl Reader<'_> {
    /// Returns `true` if words that match an entry name an object here: they do not modify the noun
    /// after them (`bus stop`), and are not a verb, color or game. Words that the lexicon does not
    /// know as nouns always do.
    fn is_mention(&self, span: &Range<usize>, is_noun: bool) -> bool {
        match self.noun_at(span) {
            Some(noun) if noun.range.end > bytes(self.words, span).end => false,
            // A plural does not modify: before a noun it is a genitive without its apostrophe, or
            // the lexicon takes a verb for a noun.
            Some(noun) => !noun.modifier || noun.plural || self.is_before_participle(span.end),
            None => span.len() > 1 || !is_noun || self.is_noun_by_context(span.start),
        }
    }

    /// Mention that the lexicon finds at the end of a span of words.
    fn noun_at(&self, span: &Range<usize>) -> Option<&Mention> {
        let bytes = bytes(self.words, span);
        let after = self
            .nouns
            .partition_point(|noun| noun.range.end < bytes.end);
        self.nouns
            .get(after)
            .filter(|noun| noun.range.start < bytes.end)
    }

    /// Returns `true` if a participle with its complement follows (`a vase filled with flowers`),
    /// which the lexicon takes for a noun.
    fn is_before_participle(&self, at: usize) -> bool {
        let is_participle = |word: &TextWord| {
            word.joined && (word.text.ends_with("ed") || word.text.ends_with("ing"))
        };
        self.words.get(at).is_some_and(is_participle)
            && self
                .words
                .get(at + 1)
                .is_some_and(|next| next.joined && self.is_closed(&next.text))
    }

    /// Returns `true` if the word before shows that a word is a noun. Without an article the
    /// lexicon may take it for a verb.
    fn is_noun_by_context(&self, at: usize) -> bool {
        let classes = self.lexicon.classes();
        let word = &self.words[at];
        if classes.color(&word.text).is_some() || self.lexicon.verbs().analyze(&word.text).is_none()
        {
            return false;
        }
        let next = self
            .words
            .get(at + 1)
            .filter(|next| next.joined)
            .map(|next| next.text.as_str());
        let Some(before) = at.checked_sub(1).filter(|_| word.joined) else {
            // After a comma a verb is as likely ("runs, ducks under a bar"); a text begins with its
            // subject.
            return at == 0
                || next.is_none_or(|next| matches!(next, "and" | "or") || !self.is_closed(next));
        };
        let takes_object = next.is_some_and(|next| classes.is_determiner(next));
        match self.words[before].text.as_str() {
            "and" | "or" => {
                before > 0 && self.noun_at(&(before - 1..before)).is_some() && !takes_object
            }
            "of" | "with" | "from" | "for" => true,
            text if classes.is_adjective(text)
                || classes.is_determiner(text)
                || classes.is_relation(text) =>
            {
                true
            }
            text => {
                (text.starts_with(|c: char| c.is_ascii_digit())
                    || text.ends_with("ing")
                    || self.is_verb(before))
                    && !takes_object
            }
        }
    }

    /// Returns `true` if a word can be a verb and the lexicon finds no noun there.
    fn is_verb(&self, at: usize) -> bool {
        self.lexicon.verbs().analyze(&self.words[at].text).is_some()
            && self.noun_at(&(at..at + 1)).is_none()
    }

    /// Returns `true` if a word is a function word.
    fn is_closed(&self, word: &str) -> bool {
        let classes = self.lexicon.classes();
        classes.is_function(word) || classes.is_relation(word) || classes.is_determiner(word)
    }
}
