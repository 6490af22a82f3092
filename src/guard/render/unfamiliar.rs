//! Statement about a photograph of whose caption most is low: that it is unfamiliar, and what of
//! the caption is likely.

use super::{
    RenderStyle, Rendered, english,
    parse::{Document, PhraseKind, WordTag},
    render, whole,
};
use crate::{
    guard::{Span, markup::markup, words::words},
    lexicon::Lexicon,
};

/// Words before the names of things that there is evidence of.
const LIKELY: &str = "Likely things:";

/// Sentence before the rest.
const STATEMENT: &str = "This photograph is unlike those I know.";

/// Returns what is to be said in the place of a caption in sentences of which more than half of the
/// content words are in spans; `None` of any other text.
///
/// [`RenderStyle::Hedged`] still says all of it, with its doubt; [`RenderStyle::Omitted`] names only the things
/// that no span touches. What the photograph has evidence of, whatever the caption says, follows by
/// its name: `likely`.
pub fn unfamiliar(
    text: &str,
    spans: &[Span],
    style: RenderStyle,
    likely: &[&str],
) -> Option<Rendered> {
    if style == RenderStyle::Plain
        || !markup(text).is_empty()
        || !whole::is_whole(text)
        || !is_mostly_low(text, spans)
    {
        return None;
    }
    if style == RenderStyle::Hedged {
        let rest = render(text, spans, style);
        let gap = if rest.text.starts_with(char::is_whitespace) {
            ""
        } else {
            " "
        };
        let shift = STATEMENT.chars().count() + gap.len();
        let shifted = |range: std::ops::Range<usize>| range.start + shift..range.end + shift;
        let moved = rest.moved.into_iter().map(|(old, new)| (old, shifted(new)));
        return Some(Rendered {
            text: format!(
                "{STATEMENT}{gap}{}{}",
                rest.text,
                evidence(likely, &rest.text)
            ),
            spans: rest.spans.into_iter().map(shifted).collect(),
            moved: moved.collect(),
        });
    }
    let trusted = trusted_phrases(&Document::new(text, &[], spans));
    let said = match &trusted[..] {
        [] => STATEMENT.to_owned(),
        [one] => format!("{STATEMENT} It may show {one}."),
        [more @ .., last] => format!("{STATEMENT} It may show {} and {last}.", more.join(", ")),
    };
    // What is left out stands before the full stop.
    let end = said.chars().count() - 1;
    let text = format!("{said}{}", evidence(likely, &said));
    Some(Rendered {
        text,
        spans: vec![end..end; spans.len()],
        moved: vec![(0..0, end..end)],
    })
}

/// The sentence that names what there is evidence of and `said` does not name; empty where that is
/// nothing.
fn evidence(likely: &[&str], said: &str) -> String {
    let named = Lexicon::shared().mentions(said);
    let is_new = |name: &str| {
        let concept = Lexicon::shared().concept(name);
        concept.is_none_or(|concept| {
            !named
                .iter()
                .any(|mention| Lexicon::shared().related(mention.concept, concept))
        })
    };
    let new: Vec<&str> = likely.iter().copied().filter(|name| is_new(name)).collect();
    if new.is_empty() {
        String::new()
    } else {
        format!(" {LIKELY} {}.", new.join(", "))
    }
}

/// Returns `true` if more than half of the words of a text that claim something are in spans.
fn is_mostly_low(text: &str, spans: &[Span]) -> bool {
    let found = words([text.as_bytes()], &[1.0]).1;
    let claims = found.iter().filter(|word| !word.function);
    let low = |chars: &std::ops::Range<usize>| {
        spans
            .iter()
            .any(|span| span.start < chars.end && chars.start < span.end)
    };
    let (low, all) = claims.fold((0, 0), |(n, all), word| {
        (n + usize::from(low(&word.chars)), all + 1)
    });
    2 * low > all
}

/// The things that a text names in phrases without a doubted word, each once: "a man", "grass".
pub(super) fn trusted_phrases(doc: &Document<'_>) -> Vec<String> {
    let mut likely: Vec<String> = Vec::new();
    for (i, chunk) in doc
        .chunks
        .iter()
        .enumerate()
        .filter(|(_, chunk)| chunk.kind == PhraseKind::Noun)
    {
        let tokens = &doc.tokens[chunk.tokens.clone()];
        let names = !Lexicon::shared().mentions(doc.head(i)).is_empty();
        let starts = tokens
            .first()
            .is_some_and(|token| token.tag != WordTag::Owner);
        if tokens
            .iter()
            .any(|token| token.span.is_some() || token.atom)
            || !names
            || !starts
        {
            continue;
        }
        let words: Vec<&str> = tokens.iter().map(|token| token.text).collect();
        let phrase = english::uncapitalised(&words.join(" "));
        if !likely.contains(&phrase) {
            likely.push(phrase);
        }
    }
    likely
}
