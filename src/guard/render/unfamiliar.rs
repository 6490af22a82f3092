//! Statement about an unfamiliar photograph, most of whose caption is low-reward.

use super::{
    RenderStyle, Rendered, english,
    parse::{Document, PhraseKind, WordTag},
    render, whole,
};
use crate::{
    guard::{Span, markup::markup, words::words},
    lexicon::Lexicon,
};

/// Introduction to the names of likely objects.
const LIKELY_OBJECTS: &str = "Likely things:";

/// First sentence of the statement.
const STATEMENT: &str = "This photograph is unlike those I know.";

/// Returns the statement that replaces a caption of complete sentences of whose content words more
/// than half are in spans; `None` for any other text.
///
/// [`RenderStyle::Hedged`] keeps the caption, hedged; [`RenderStyle::Omitted`] names only the
/// objects that no span touches. Objects of `likely`, of which the photograph has evidence, are
/// listed after it.
pub fn unfamiliar_statement(
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
    let text = match &trusted[..] {
        [] => STATEMENT.to_owned(),
        [one] => format!("{STATEMENT} It may show {one}."),
        [more @ .., last] => format!("{STATEMENT} It may show {} and {last}.", more.join(", ")),
    };
    // Omitted spans are placed before the full stop.
    let end = text.chars().count() - 1;
    let text = format!("{text}{}", evidence(likely, &text));
    Some(Rendered {
        text,
        spans: vec![end..end; spans.len()],
        moved: vec![(0..0, end..end)],
    })
}

/// Returns the sentence that lists the objects of `likely` that `text` does not name; empty if
/// there are none.
fn evidence(likely: &[&str], text: &str) -> String {
    let named = Lexicon::shared().mentions(text);
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
        format!(" {LIKELY_OBJECTS} {}.", new.join(", "))
    }
}

/// Returns `true` if more than half of the content words of a text are in spans.
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

/// Returns the object mentions in phrases without a flagged word, each once: "a man", "grass".
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
        let phrase = english::uncapitalized(&words.join(" "));
        if !likely.contains(&phrase) {
            likely.push(phrase);
        }
    }
    likely
}
