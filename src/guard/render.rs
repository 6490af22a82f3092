//! The answer written for people: marked in a pipe, coloured on a terminal, and as a screen reader should say it.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Span, spans::pieces};

/// How an answer's doubted spans are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// As they were written.
    Plain,
    /// With the doubt: "what may be a frisbee".
    #[default]
    Hedged,
    /// Without them where the sentence allows it: "something".
    Omitted,
}

/// Every span as `[text?score]`: `A dog catches a [frisbee?0.23].`
pub fn plain_marked(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, score| write!(out, "[{piece}?{score:.2}]"))
}

/// Every span in bold red with its score behind it, in the escape codes of ECMA-48. Control characters of the text are left out, so that an
/// answer cannot command the terminal.
pub fn ansi(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, score| write!(out, "\x1b[1;31m{piece}\x1b[0m\x1b[2m?{score:.2}\x1b[0m"))
}

fn marked(text: &str, spans: &[Span], mark: impl Fn(&mut String, &str, f32) -> std::fmt::Result) -> String {
    let mut out = String::with_capacity(text.len() + 24 * spans.len());
    for (piece, span) in pieces(text, spans) {
        let piece: String = piece.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect();
        match span {
            // Writing to a string cannot fail.
            Some(span) => mark(&mut out, &piece, span.score).unwrap_or_default(),
            None => out.push_str(&piece),
        }
    }
    out
}

/// The answer as a screen reader should say it. A doubted noun is said with its article: "a frisbee" becomes "what may be a frisbee", or
/// "something"; a doubted adjective can be left out; before any other word stands "possibly", since the sentence may not stand without it.
pub fn alt_text(text: &str, spans: &[Span], style: Style) -> String {
    let mut out = String::with_capacity(text.len() + 16 * spans.len());
    let pieces = pieces(text, spans);
    for (i, &(piece, span)) in pieces.iter().enumerate() {
        let next = pieces.get(i + 1).map_or("", |p| p.0);
        match (span, style) {
            (None, _) | (_, Style::Plain) => out.push_str(piece),
            (Some(_), Style::Hedged) => hedge(&mut out, piece),
            (Some(_), Style::Omitted) => omit(&mut out, piece, next),
        }
    }
    out
}

fn hedge(out: &mut String, piece: &str) {
    let (at, hedge) = match phrase_start(out) {
        Some(at) => (at, "what may be "),
        None => (out.len(), "possibly "),
    };
    let rest = out.split_off(at) + piece;
    if starts_sentence(out) {
        out.push_str(&capitalised(hedge));
        out.push_str(&uncapitalised(&rest));
    } else {
        out.push_str(hedge);
        out.push_str(&rest);
    }
}

fn omit(out: &mut String, piece: &str, next: &str) {
    let Some(at) = phrase_start(out) else { return hedge(out, piece) };
    let noun = next.split_whitespace().next().filter(|_| next.starts_with(' ') && listed(&ADJECTIVES, piece));
    let Some(noun) = noun else {
        // "a [frisbee]": the noun goes with its article.
        out.truncate(at);
        return out.push_str(&if starts_sentence(out) { capitalised("something") } else { "something".to_owned() });
    };
    // "an [orange] cat": the adjective goes, and the article follows the noun.
    let article = match (out[at..].trim_end(), takes_an(noun)) {
        ("a" | "an", an) => Some(if an { "an" } else { "a" }),
        ("A" | "An", an) => Some(if an { "An" } else { "A" }),
        _ => None,
    };
    if let Some(article) = article {
        out.truncate(at);
        out.push_str(article);
    }
    out.truncate(out.trim_end().len());
}

/// Where the noun phrase begins that `out` ends in: at a determiner, with at most one adjective behind it.
fn phrase_start(out: &str) -> Option<usize> {
    let (at, last) = last_word(out)?;
    if listed(&DETERMINERS, last) {
        return Some(at);
    }
    let (at, before) = last_word(&out[..at]).filter(|_| listed(&ADJECTIVES, last))?;
    listed(&DETERMINERS, before).then_some(at)
}

/// The word that `text` ends in, white space aside, and where it begins.
fn last_word(text: &str) -> Option<(usize, &str)> {
    let word = text.trim_end().rsplit(char::is_whitespace).next().filter(|w| !w.is_empty())?;
    Some((text.trim_end().len() - word.len(), word))
}

fn starts_sentence(before: &str) -> bool {
    before.trim_end().is_empty() || before.trim_end().ends_with(['.', '!', '?'])
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn uncapitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// Whether "an" stands before `word`: by its first sound, as far as spelling tells.
fn takes_an(word: &str) -> bool {
    let word = word.to_lowercase();
    let consonant = ["uni", "use", "usu", "one", "eu"].iter().any(|p| word.starts_with(p));
    (word.starts_with(['a', 'e', 'i', 'o', 'u']) && !consonant) || word.starts_with("hour") || word.starts_with("honest")
}

fn listed(words: &[&str], word: &str) -> bool {
    words.binary_search(&word.to_lowercase().as_str()).is_ok()
}

/// Words that open a noun phrase. Sorted.
const DETERMINERS: [&str; 33] = [
    "a", "an", "another", "any", "each", "eight", "few", "five", "four", "her", "his", "its", "many", "my", "nine", "one", "our", "seven",
    "several", "six", "some", "ten", "that", "the", "their", "these", "this", "those", "three", "two", "what", "which", "your",
];

/// Common adjectives between a determiner and its noun. Sorted.
const ADJECTIVES: [&str; 26] = [
    "big", "black", "blond", "blue", "bright", "brown", "dark", "gray", "green", "grey", "large", "little", "long", "old", "orange",
    "other", "pink", "purple", "red", "short", "small", "tall", "tan", "white", "yellow", "young",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Action;
    use proptest::prelude::*;

    /// Reads "a [frisbee] here" as a text with a span of reward 0.23.
    fn example(marked: &str) -> (String, Vec<Span>) {
        let (mut text, mut spans, mut start) = (String::new(), Vec::new(), 0);
        for c in marked.chars() {
            match c {
                '[' => start = text.chars().count(),
                ']' => {
                    let inside = text.chars().skip(start).collect();
                    spans.push(Span { start, end: text.chars().count(), text: inside, score: 0.23, action: Action::Flagged });
                }
                c => text.push(c),
            }
        }
        (text, spans)
    }

    #[test]
    fn marks_and_colours() {
        let (text, spans) = example("A dog \x1b[catches] a [red frisbee].");
        assert_eq!(plain_marked(&text, &spans), "A dog [catches?0.23] a [red frisbee?0.23].");
        assert_eq!(ansi(&text, &spans[1..]), "A dog catches a \x1b[1;31mred frisbee\x1b[0m\x1b[2m?0.23\x1b[0m.");
    }

    #[test]
    fn alt_text_reads_as_english() {
        let cases = [
            ("A dog catches a [frisbee].", "A dog catches what may be a frisbee.", "A dog catches something."),
            ("A [frisbee] lies on grass.", "What may be a frisbee lies on grass.", "Something lies on grass."),
            ("A dog with the red [frisbee] in it", "A dog with what may be the red frisbee in it", "A dog with something in it"),
            ("An [orange] cat sits.", "What may be an orange cat sits.", "A cat sits."),
            ("A man sees a [big] elephant", "A man sees what may be a big elephant", "A man sees an elephant"),
            ("He holds his [red] hat", "He holds what may be his red hat", "He holds his hat"),
            ("The dog is [jumping].", "The dog is possibly jumping.", "The dog is possibly jumping."),
            (
                "Run. [Dogs] and a [cat] sleep.",
                "Run. Possibly dogs and what may be a cat sleep.",
                "Run. Possibly dogs and something sleep.",
            ),
            ("No doubt.", "No doubt.", "No doubt."),
            ("", "", ""),
        ];
        for (marked, hedged, omitted) in cases {
            let (text, spans) = example(marked);
            assert_eq!(alt_text(&text, &spans, Style::Plain), text);
            assert_eq!(alt_text(&text, &spans, Style::Hedged), hedged);
            assert_eq!(alt_text(&text, &spans, Style::Omitted), omitted);
        }
    }

    #[test]
    fn the_lists_are_sorted_for_the_search() {
        assert!(DETERMINERS.is_sorted() && ADJECTIVES.is_sorted());
    }

    proptest! {
        #[test]
        fn any_text_with_any_spans_renders(text in "\\PC{0,12}", ends in proptest::collection::vec((0usize..14, 0usize..14), 0..3)) {
            let spans: Vec<Span> = ends.iter()
                .map(|&(start, end)| Span { start, end, text: String::new(), score: 0.5, action: Action::Flagged }).collect();
            for style in [Style::Hedged, Style::Omitted] {
                alt_text(&text, &spans, style);
            }
            let unmarked = plain_marked(&text, &spans).replace("?0.50]", "");
            prop_assert_eq!(unmarked.replace('[', ""), text.replace('[', ""));
        }
    }
}
