//! Tokens as `nltk.word_tokenize` cuts them, which CHAIR's reference code uses.
//!
//! That tokenizer cuts text into sentences (Punkt; Kiss and Strunk, 2006) and sentences into words
//! (Penn Treebank conventions). Here a full stop ends a sentence wherever Punkt considers it, so
//! abbreviations lose theirs, and contractions without an apostrophe (`cannot`) stay whole. Neither
//! affects a word that names an object.

use std::ops::Range;

/// Characters that are always tokens.
const ALONE: &str = ";@#$%&?!*[](){}<>\"«»“”‘’„\u{2012}\u{2013}\u{2014}\u{2015}";
/// Characters that may follow a period directly for Punkt to consider it, besides white space and
/// the end of the text.
const AFTER_STOP: &str = ")\";}]*:@'({[?!«»“”‘’";
/// Endings that are cut from a word unless an apostrophe precedes them.
const CLITICS: [&str; 8] = ["'", "'s", "'m", "'d", "'ll", "'re", "'ve", "n't"];
/// Texts that may follow an opening apostrophe that is part of its word (`'s`, but `' dog`).
const AFTER_APOSTROPHE: [&str; 7] = ["re", "ve", "ll", "m", "t", "s", "d"];

/// Byte range of every token of a text, in order.
pub(super) fn tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::with_capacity(text.len() / 5);
    for chunk in text.split_whitespace() {
        let start = chunk.as_ptr() as usize - text.as_ptr() as usize;
        cut_chunk(text, start..start + chunk.len(), &mut found);
    }
    found
}

/// Cuts text without white space into tokens.
fn cut_chunk(text: &str, chunk: Range<usize>, found: &mut Vec<Range<usize>>) {
    let mut start = chunk.start;
    let mut at = chunk.start;
    let mut after_separator = false;
    while at < chunk.end {
        let alone = alone(
            &text[at..chunk.end],
            text[chunk.start..at].chars().next_back(),
            &mut after_separator,
        );
        if alone == 0 {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        cut_word(text, start..at, found);
        found.push(at..at + alone);
        at += alone;
        start = at;
    }
    cut_word(text, start..at, found);
}

/// Length in bytes of a token at the beginning of `rest` that is cut in any context; `before` is
/// the character before it.
fn alone(rest: &str, before: Option<char>, after_separator: &mut bool) -> usize {
    let mut chars = rest.chars();
    let Some(first) = chars.next() else { return 0 };
    let run = rest.len() - rest.trim_start_matches(first).len();
    let next = chars.next();
    let separates =
        matches!(first, ',' | ':') && !*after_separator && next.is_none_or(|c| !c.is_numeric());
    // The reference's expression consumes the character after a comma, which cannot be the next
    // match.
    *after_separator = separates && matches!(next, Some(',' | ':'));
    match first {
        ',' | ':' if separates || next.is_none() => 1,
        '.' if run > 1 => run,
        '.' if next.is_none_or(|c| AFTER_STOP.contains(c)) => 1,
        '`' => run,
        '-' | '\'' if run > 1 => 2,
        '\'' => usize::from(opens_quotation(&rest[1..], before)),
        c if ALONE.contains(c) => c.len_utf8(),
        _ => 0,
    }
}

/// Returns `true` if an apostrophe between `before` and `rest` opens a quotation.
fn opens_quotation(rest: &str, before: Option<char>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
    before.is_none_or(|c| !is_word(c))
        && !word.is_empty()
        && !AFTER_APOSTROPHE
            .iter()
            .any(|end| word.eq_ignore_ascii_case(end))
}

/// Cuts clitics from the end of a word.
fn cut_word(text: &str, word: Range<usize>, found: &mut Vec<Range<usize>>) {
    let bytes = &text.as_bytes()[word.clone()];
    let body = CLITICS.iter().find_map(|end| {
        let body = bytes
            .len()
            .checked_sub(end.len())
            .filter(|&body| body > 0 && bytes[body - 1] != b'\'')?;
        bytes[body..]
            .eq_ignore_ascii_case(end.as_bytes())
            .then_some(word.start + body)
    });
    if let Some(body) = body {
        cut_word(text, word.start..body, found);
        found.push(body..word.end);
    } else if !word.is_empty() {
        found.push(word);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_equal_those_of_nltk() {
        for (text, want) in [
            (
                "A man's dog. The cat, too!",
                "A|man|'s|dog|.|The|cat|,|too|!",
            ),
            (
                "the dogs' bowls (and cups).",
                "the|dogs|'|bowls|(|and|cups|)|.",
            ),
            (
                "they can't see 3,000 birds: cats",
                "they|ca|n't|see|3,000|birds|:|cats",
            ),
            ("a t-shirt -- red--blue...", "a|t-shirt|--|red|--|blue|..."),
            ("\"dog.\" 'cat' it's", "\"|dog|.|\"|'|cat|'|it|'s"),
            (
                "dog.cat tv/monitor dog,,cat dog,5",
                "dog.cat|tv/monitor|dog|,|,cat|dog,5",
            ),
            ("the dog’s bowl—red “cup”", "the|dog|’|s|bowl|—|red|“|cup|”"),
            ("dog.)cat dog.,", "dog|.|)|cat|dog.|,"),
            ("caf\u{e9}.\n\nbus.", "café|.|bus|."),
            ("", ""),
        ] {
            let found: Vec<&str> = tokens(text).into_iter().map(|range| &text[range]).collect();
            assert_eq!(found.join("|"), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn tokens_lose_only_white_space(text in "[a-z.,:;'\"`()!?é’ 0-9-]{0,30}") {
            let found: String = tokens(&text).into_iter().map(|range| text[range].to_owned())
                .collect();
            prop_assert_eq!(found, text.split_whitespace().collect::<String>());
        }

        #[test]
        fn tokens_of_any_text_are_in_order(text in "\\PC{0,40}") {
            let mut last = 0;
            for range in tokens(&text) {
                prop_assert!(last <= range.start && range.start < range.end
                    && text.get(range.clone()).is_some());
                last = range.end;
            }
        }
    }
}
