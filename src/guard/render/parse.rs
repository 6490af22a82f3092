//! A shallow parser of captions: words, phrases and sentences, with as much grammar as rewriting
//! needs.

use std::ops::Range;

use super::english::{self, is_listed};
use crate::guard::{
    Span,
    markup::{Markup, MarkupKind},
    spans::pieces,
};

/// Role of a word in its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordTag {
    Determiner,
    Count,
    Adjective,
    /// `man's`
    Owner,
    Noun,
    Pronoun,
    Preposition,
    And,
    Subordinate,
    Be,
    Auxiliary,
    Verb,
    /// The `to` of an infinitive.
    To,
    Not,
    Yes,
    Adverb,
    /// Punctuation.
    Mark,
}

/// Word or punctuation mark.
#[derive(Debug)]
pub(super) struct ParseToken<'a> {
    /// White space and markup before it.
    pub(super) gap: &'a str,
    pub(super) text: &'a str,
    pub(super) lower: String,
    /// Start, in code points.
    pub(super) start: usize,
    /// Index of the flagged span that contains it.
    pub(super) span: Option<usize>,
    pub(super) tag: WordTag,
    /// `true` if it is markup in the place of a noun, which stays as it is.
    pub(super) atom: bool,
}

/// Role of a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PhraseKind {
    /// Noun with its determiners and attributes.
    Noun,
    /// Adjectives without a noun: `is red and white`.
    Adjective,
    /// Any other word, or a preposition of several words.
    Word(WordTag),
}

/// Phrase.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) kind: PhraseKind,
    /// Range of its tokens.
    pub(super) tokens: Range<usize>,
    /// Index of its head word.
    pub(super) head: usize,
}

/// Parsed text.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) tokens: Vec<ParseToken<'a>>,
    pub(super) chunks: Vec<Chunk>,
    /// Range of the chunks of each sentence, its final mark included.
    pub(super) sentences: Vec<Range<usize>>,
    /// White space and markup after the last token.
    pub(super) tail: &'a str,
    /// Score of each span.
    scores: Vec<f32>,
}

impl<'a> Document<'a> {
    /// Returns the hedge of a span that is an answer by itself. "Probably" requires a score of at
    /// least 0.5.
    pub(super) fn probability_word(&self, span: usize) -> &'static str {
        if self.scores.get(span).is_some_and(|&score| score >= 0.5) {
            "probably"
        } else {
            "possibly"
        }
    }

    /// Parses a text. `markup` is the inline markup in it, in order.
    pub(super) fn new(text: &'a str, markup: &[Markup], spans: &[Span]) -> Self {
        let (mut tokens, tail) = tokens(text, markup);
        mark(&mut tokens, text, spans);
        for i in 0..tokens.len() {
            tokens[i].tag = tag(&tokens, i);
        }
        let mut chunks = Vec::new();
        let mut sentences = Vec::new();
        let (mut at, mut first) = (0, 0);
        while at < tokens.len() {
            let chunk = chunk(&tokens, at, chunks.last());
            at = chunk.tokens.end;
            let ends =
                ends_sentence(&tokens[chunk.head]) && !tokens.get(at).is_some_and(ends_sentence);
            chunks.push(chunk);
            if ends {
                sentences.push(first..chunks.len());
                first = chunks.len();
            }
        }
        if first < chunks.len() {
            sentences.push(first..chunks.len());
        }
        Self {
            tokens,
            chunks,
            sentences,
            tail,
            scores: spans.iter().map(|span| span.score).collect(),
        }
    }

    /// Returns the tag of a chunk's head word, if it is not a noun or adjective phrase.
    pub(super) fn word_tag(&self, chunk: usize) -> Option<WordTag> {
        match self.chunks.get(chunk)?.kind {
            PhraseKind::Word(tag) => Some(tag),
            _ => None,
        }
    }

    pub(super) fn is_noun(&self, chunk: usize) -> bool {
        self.chunks
            .get(chunk)
            .is_some_and(|c| c.kind == PhraseKind::Noun)
    }

    /// Returns the text of a chunk in lower case, with single spaces.
    pub(super) fn lowercase(&self, chunk: usize) -> String {
        let words: Vec<&str> = self
            .chunks
            .get(chunk)
            .map_or(&[][..], |c| &self.tokens[c.tokens.clone()])
            .iter()
            .map(|t| t.lower.as_str())
            .collect();
        words.join(" ")
    }

    /// Returns the head word of a chunk in lower case.
    pub(super) fn head(&self, chunk: usize) -> &str {
        &self.tokens[self.chunks[chunk].head].lower
    }

    /// Returns the flagged tokens of a chunk, without determiners, conjunctions and marks.
    pub(super) fn flagged_tokens(&self, chunk: usize) -> impl Iterator<Item = usize> + '_ {
        let says = |t: &ParseToken<'_>| {
            !matches!(t.tag, WordTag::Determiner | WordTag::And | WordTag::Mark)
        };
        self.chunks[chunk]
            .tokens
            .clone()
            .filter(move |&i| self.tokens[i].span.is_some() && says(&self.tokens[i]))
    }

    /// Returns the span of a chunk's head word.
    pub(super) fn head_span(&self, chunk: usize) -> Option<usize> {
        self.chunks
            .get(chunk)
            .and_then(|c| self.tokens[c.head].span)
    }

    /// Returns `true` if one of the chunks has one of the tags.
    pub(super) fn has_tag(&self, chunks: Range<usize>, tags: &[WordTag]) -> bool {
        chunks
            .into_iter()
            .any(|c| self.word_tag(c).is_some_and(|tag| tags.contains(&tag)))
    }
}

fn ends_sentence(token: &ParseToken<'_>) -> bool {
    matches!(token.text, "." | "!" | "?")
}

/// Cuts a text into tokens, and returns the white space at its end as well. Hyphens, apostrophes
/// and decimal points inside a word belong to it; a number is one token with its currency and unit.
fn tokens<'a>(text: &'a str, markup: &[Markup]) -> (Vec<ParseToken<'a>>, &'a str) {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let byte = |i: usize| chars.get(i).map_or(text.len(), |c| c.0);
    let is_letter = |i: usize| chars.get(i).is_some_and(|c| c.1.is_alphanumeric());
    let mut markup = markup.iter().peekable();
    let mut tokens = Vec::new();
    let (mut at, mut gap) = (0, 0);
    while at < chars.len() {
        while markup.next_if(|m| m.bytes.end <= byte(at)).is_some() {}
        let next = markup.peek().map_or(text.len(), |m| m.bytes.start);
        let inside = markup.peek().filter(|m| m.bytes.start == byte(at));
        let start = at;
        match inside {
            Some(m) => at += text[m.bytes.clone()].chars().count(),
            None => at += 1,
        }
        let skipped = match inside {
            Some(m) => m.kind != MarkupKind::Atom,
            None => chars[start].1.is_whitespace(),
        };
        if skipped {
            continue;
        }
        if inside.is_none() {
            if is_letter(start) {
                while byte(at) < next
                    && (is_letter(at)
                        || chars.get(at).is_some_and(|c| joins(c.1)) && is_letter(at + 1))
                {
                    at += 1;
                }
            }
            let end =
                number(&text[byte(start)..next.max(byte(at))]).map_or(0, |len| byte(start) + len);
            while byte(at) < end {
                at += 1;
            }
        }
        let word = &text[byte(start)..byte(at)];
        let lower = word.to_lowercase().replace('’', "'");
        let token = ParseToken {
            gap: &text[byte(gap)..byte(start)],
            text: word,
            lower,
            start,
            span: None,
            tag: WordTag::Mark,
            atom: inside.is_some(),
        };
        tokens.push(token);
        gap = at;
    }
    (tokens, &text[byte(gap)..])
}

/// Units that may follow a number, with or without a space. Sorted.
const UNITS: [&str; 36] = [
    "am", "cm", "f", "ft", "g", "gb", "ghz", "hz", "kb", "kg", "kg/m", "khz", "km", "km/h", "kph",
    "kw", "l", "lb", "lbs", "m", "m/s", "mb", "mg", "mi", "ml", "mm", "mph", "oz", "pm", "px", "s",
    "sq", "tb", "v", "w", "yd",
];

/// Returns the length of a number with its currency and unit, if text begins with one: `$5`, `20
/// %`, `5:30 pm`, `3,5 km`.
fn number(text: &str) -> Option<usize> {
    let digit = |at: usize| text[at..].starts_with(|c: char| c.is_ascii_digit());
    let sign = text
        .chars()
        .next()
        .filter(|c| matches!(c, '$' | '€' | '£' | '¥'))
        .map_or(0, char::len_utf8);
    if !digit(sign) {
        return None;
    }
    let digits = |at: usize| {
        text[at..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(text.len(), |len| at + len)
    };
    let mut end = digits(sign);
    while text[end..].starts_with([':', '/', ',', '.', '×', '-', '–']) {
        let next = end + text[end..].chars().next().map_or(0, char::len_utf8);
        if !digit(next) {
            break;
        }
        end = digits(next);
    }
    let behind = &text[end..];
    let unit = behind.strip_prefix([' ', '\u{A0}']).unwrap_or(behind);
    let space = behind.len() - unit.len();
    let symbol = unit
        .chars()
        .next()
        .filter(|c| matches!(c, '%' | '°' | '‰' | '€' | '£'));
    let len = match symbol {
        Some('°') => 2 + usize::from(unit['°'.len_utf8()..].starts_with(['C', 'F'])),
        Some(symbol) => symbol.len_utf8(),
        None => {
            let len = unit
                .find(|c: char| !c.is_alphanumeric() && c != '/')
                .unwrap_or(unit.len());
            if UNITS
                .binary_search(&unit[..len].to_ascii_lowercase().as_str())
                .is_ok()
            {
                len
            } else {
                0
            }
        }
    };
    let apart = unit[len..].starts_with(char::is_alphanumeric);
    Some(if len > 0 && !apart {
        end + space + len
    } else {
        end
    })
}

/// Returns `true` if a character between two letters belongs to the word.
fn joins(c: char) -> bool {
    // Combining marks and joiners belong to a word as well.
    matches!(
        c,
        '-' | '\'' | '’' | '.' | '\u{2010}' | '\u{2011}' | '\u{200D}' | '\u{300}'..='\u{36F}'
    )
}

/// Sets the span of every token. Spans that do not fit are skipped.
fn mark(tokens: &mut [ParseToken<'_>], text: &str, spans: &[Span]) {
    let used: Vec<usize> = pieces(text, spans)
        .iter()
        .filter_map(|(_, span)| {
            span.and_then(|span| spans.iter().position(|s| std::ptr::eq(s, span)))
        })
        .collect();
    let mut used = used.into_iter().peekable();
    for token in tokens {
        let end = token.start + token.text.chars().count();
        while used.next_if(|&s| spans[s].end <= token.start).is_some() {}
        token.span = used
            .peek()
            .copied()
            .filter(|&s| !token.atom && spans[s].start < end);
    }
}

fn tag(tokens: &[ParseToken<'_>], i: usize) -> WordTag {
    let word = tokens[i].lower.as_str();
    let before = i.checked_sub(1).map(|p| &tokens[p]);
    let last = before.map_or(WordTag::Mark, |t| t.tag);
    let next = tokens.get(i + 1);
    let starts = before.is_none_or(ends_sentence);
    if tokens[i].atom {
        return WordTag::Noun;
    }
    if !word.chars().any(char::is_alphanumeric) {
        return WordTag::Mark;
    }
    if matches!(word, "yes" | "no")
        && starts
        && next.is_none_or(|t| !t.text.chars().any(char::is_alphanumeric))
    {
        return WordTag::Yes;
    }
    match word {
        "and" | "or" => return WordTag::And,
        "not" => return WordTag::Not,
        "to" if next
            .is_some_and(|t| is_listed("verb", &t.lower) && !english::is_person(&t.lower)) =>
        {
            return WordTag::To;
        }
        _ => {}
    }
    let closed = [
        ("be", WordTag::Be),
        ("auxiliary", WordTag::Auxiliary),
        ("pronoun", WordTag::Pronoun),
        ("determiner", WordTag::Determiner),
        ("subordinate", WordTag::Subordinate),
        ("count", WordTag::Count),
        ("preposition", WordTag::Preposition),
    ];
    if let Some((_, tag)) = closed.iter().find(|(class, _)| is_listed(class, word)) {
        return *tag;
    }
    if number(word) == Some(word.len()) {
        return WordTag::Count;
    }
    if word.ends_with("'s") || word.ends_with("s'") {
        return WordTag::Owner;
    }
    if is_listed("adverb", word) && !matches!(last, WordTag::Determiner)
        || word.ends_with("ly") && word.len() > 4 && !noun_ly(word)
    {
        return WordTag::Adverb;
    }
    let does = word.ends_with("ing")
        && matches!(
            last,
            WordTag::Be
                | WordTag::Noun
                | WordTag::And
                | WordTag::Not
                | WordTag::Pronoun
                | WordTag::Adverb
        );
    if is_listed("adjective", word) && !does {
        return WordTag::Adjective;
    }
    verb_or_noun(tokens, i, last)
}

fn noun_ly(word: &str) -> bool {
    matches!(
        word,
        "family"
            | "butterfly"
            | "belly"
            | "jelly"
            | "friendly"
            | "elderly"
            | "lonely"
            | "lovely"
            | "curly"
            | "hilly"
            | "assembly"
    )
}

/// Returns the tag of an open-class word, by its ending and the word before it.
fn verb_or_noun(tokens: &[ParseToken<'_>], i: usize, last: WordTag) -> WordTag {
    let word = tokens[i].lower.as_str();
    let in_noun = matches!(
        last,
        WordTag::Determiner | WordTag::Adjective | WordTag::Count | WordTag::Owner
    );
    let noun_follows = tokens.get(i + 1).is_some_and(|t| {
        let class = |class| is_listed(class, &t.lower);
        t.text.chars().any(char::is_alphanumeric)
            && ![
                "be",
                "auxiliary",
                "pronoun",
                "determiner",
                "subordinate",
                "count",
                "preposition",
                "adverb",
            ]
            .iter()
            .any(|c| class(c))
            && !matches!(t.lower.as_str(), "and" | "or" | "not" | "to")
    });
    let participle = word.ends_with("ing") && word.len() > 4 && !is_listed("noun in -ing", word)
        || word.ends_with("ed")
            && word.len() > 3
            && !matches!(
                word,
                "sled" | "shed" | "seed" | "weed" | "breed" | "bunkbed"
            )
        || is_listed("participle", word);
    if participle {
        return match in_noun {
            true if noun_follows => WordTag::Adjective,
            true => WordTag::Noun,
            false => WordTag::Verb,
        };
    }
    if last == WordTag::To || last == WordTag::Auxiliary {
        return WordTag::Verb;
    }
    if !english::is_finite_verb(word) || in_noun {
        return WordTag::Noun;
    }
    let sentence = tokens[..i].iter().rev().take_while(|t| !ends_sentence(t));
    let (mut joined, mut verbs) = (false, false);
    for token in sentence {
        joined |= token.tag == WordTag::And;
        verbs |= token.tag == WordTag::Verb;
    }
    let base = is_listed("verb", word);
    let subject = i.checked_sub(1).map_or("", |p| tokens[p].lower.as_str());
    match last {
        WordTag::Noun if !base || joined || english::is_plural(subject) => WordTag::Verb,
        WordTag::Pronoun | WordTag::Adverb => WordTag::Verb,
        WordTag::And if verbs => WordTag::Verb,
        _ => WordTag::Noun,
    }
}

/// Returns the chunk that begins at a token.
fn chunk(tokens: &[ParseToken<'_>], at: usize, before: Option<&Chunk>) -> Chunk {
    let long = english::longest_phrase("preposition phrases", |i, word| {
        tokens.get(at + i).is_some_and(|t| t.lower == word)
    });
    if let Some(len) = long {
        // In "in front of", "front" is the head.
        let head = (at..at + len)
            .find(|&i| tokens[i].tag == WordTag::Noun)
            .unwrap_or(at);
        return Chunk {
            kind: PhraseKind::Word(WordTag::Preposition),
            tokens: at..at + len,
            head,
        };
    }
    noun_phrase(tokens, at, before).unwrap_or_else(|| Chunk {
        kind: PhraseKind::Word(tokens[at].tag),
        tokens: at..at + 1,
        head: at,
    })
}

fn noun_phrase(tokens: &[ParseToken<'_>], start: usize, before: Option<&Chunk>) -> Option<Chunk> {
    if tokens.get(start).is_some_and(|token| token.atom) {
        // An address is not part of the phrase after it: a hedge would be put before both.
        return Some(Chunk {
            kind: PhraseKind::Noun,
            tokens: start..start + 1,
            head: start,
        });
    }
    let tag = |i: usize| tokens.get(i).map(|t| t.tag);
    let (mut at, mut noun) = (start, None);
    loop {
        let fits = match tag(at) {
            Some(WordTag::Determiner) => at == start || tag(at - 1) == Some(WordTag::Determiner),
            Some(WordTag::Count) => noun.is_none(),
            Some(WordTag::Adjective | WordTag::Owner) => {
                noun.is_none()
                    || tag(at + 1) == Some(WordTag::Noun)
                    || tag(at) == Some(WordTag::Owner)
            }
            Some(WordTag::Noun) => true,
            _ => false,
        };
        if fits {
            noun = if tag(at) == Some(WordTag::Noun) {
                Some(at)
            } else {
                noun
            };
            at += 1;
        } else if let Some(len) = joint(tokens, at)
            .filter(|_| at > start && noun.is_none() && tag(at - 1) == Some(WordTag::Adjective))
        {
            at += len;
        } else {
            break;
        }
    }
    let last = tag(at.checked_sub(1).filter(|&i| i >= start)?)?;
    let kind = match (noun, last) {
        (Some(_), _) | (None, WordTag::Count | WordTag::Owner) => PhraseKind::Noun,
        (None, WordTag::Adjective) if tag(start) == Some(WordTag::Adjective) => {
            let after = before.is_some_and(|b| b.kind == PhraseKind::Word(WordTag::Preposition));
            if after {
                PhraseKind::Noun
            } else {
                PhraseKind::Adjective
            }
        }
        (None, WordTag::Adjective) => PhraseKind::Noun,
        _ => PhraseKind::Word(WordTag::Pronoun),
    };
    Some(Chunk {
        kind,
        tokens: start..at,
        head: noun.unwrap_or(at - 1),
    })
}

/// Returns the number of tokens that join the adjective before `at` to another after them: "and", a
/// comma, or both.
fn joint(tokens: &[ParseToken<'_>], at: usize) -> Option<usize> {
    let comma = usize::from(tokens.get(at)?.text == ",");
    let and = usize::from(tokens.get(at + comma)?.tag == WordTag::And);
    let len = comma + and;
    (len > 0 && tokens.get(at + len)?.tag == WordTag::Adjective).then_some(len)
}
