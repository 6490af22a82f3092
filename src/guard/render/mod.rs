//! The answer written for people: marked in a pipe, coloured on a terminal, and as a screen reader should say it.
//!
//! `parse` finds the phrases of the sentences, `hedge` and `omit` decide what to change, and `edit` writes it.

mod edit;
mod english;
mod hedge;
mod omit;
mod omit_verb;
mod parse;
mod something;

use std::{fmt::Write, ops::Range};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::{edit::Edits, parse::Document};
use super::{Action, Span, spans::pieces};

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

/// Every span as `[text?score]`, or `[before → now]` where it was written again: `A dog catches a [frisbee?0.23].`
pub fn plain_marked(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, span| match rewritten(span) {
        Some(before) => write!(out, "[{before} → {piece}]"),
        None => write!(out, "[{piece}?{:.2}]", span.score),
    })
}

/// Every span in bold red with its score behind it, or what was written again struck out with what stands there now behind it in bold green, in the
/// escape codes of ECMA-48. Control characters of the text are left out, so that an answer cannot command the terminal.
pub fn ansi(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, span| match rewritten(span) {
        Some(before) => write!(out, "\x1b[2;9m{before}\x1b[0m → \x1b[1;32m{piece}\x1b[0m"),
        None => write!(out, "\x1b[1;31m{piece}\x1b[0m\x1b[2m?{:.2}\x1b[0m", span.score),
    })
}

/// What stood in the place of a span that was written again.
fn rewritten(span: &Span) -> Option<String> {
    span.original.as_deref().filter(|_| span.action == Action::Regenerated).map(|original| original.chars().filter(printable).collect())
}

fn printable(c: &char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

fn marked(text: &str, spans: &[Span], mark: impl Fn(&mut String, &str, &Span) -> std::fmt::Result) -> String {
    let chars: Vec<char> = text.chars().collect();
    let piece = |range: Range<usize>| chars[range].iter().filter(|c| printable(c)).collect::<String>();
    let mut out = String::with_capacity(text.len() + 24 * spans.len());
    let mut at = 0;
    for span in spans {
        let fits = (at..=span.end).contains(&span.start) && span.end <= chars.len();
        if fits && (span.start < span.end || rewritten(span).is_some()) {
            out.push_str(&piece(at..span.start));
            // Writing to a string cannot fail.
            mark(&mut out, &piece(span.start..span.end), span).unwrap_or_default();
            at = span.end;
        }
    }
    out + &piece(at..chars.len())
}

/// A text as people should hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The new text.
    pub text: String,
    /// For each input span, in order, the Unicode code points of the new text that now stand for it, its doubt included; empty where it was
    /// left out.
    pub spans: Vec<Range<usize>>,
    /// Where each word was and is, in order; none where nothing changed.
    moved: Vec<(Range<usize>, Range<usize>)>,
}

impl Rendered {
    /// Where what stood at these code points is now; empty where it was left out.
    pub fn place(&self, range: Range<usize>) -> Range<usize> {
        let of = |at: usize, is_end: bool| {
            let before = self.moved.partition_point(|(old, _)| if is_end { old.start < at } else { old.start <= at });
            match before.checked_sub(1).map(|i| &self.moved[i]) {
                Some((old, new)) if at >= old.end && is_end => new.end,
                Some((old, new)) => (new.start + at - old.start).min(new.end),
                None => at,
            }
        };
        let start = of(range.start, false);
        start..of(range.end, true).max(start)
    }
}

/// The answer as a screen reader should say it, and where its spans are now. Spans that are empty, overlap or lie outside of the text are
/// skipped; a text without spans, or in [`Style::Plain`], stays as it is.
pub fn render(text: &str, spans: &[Span], style: Style) -> Rendered {
    let used = pieces(text, spans).iter().any(|(_, span)| span.is_some());
    if style == Style::Plain || !used {
        return unchanged(text, spans);
    }
    let doc = Document::new(text, spans);
    let mut edits = Edits::new(doc.tokens.len());
    match style {
        Style::Omitted => omit::omit(&doc, &mut edits),
        _ => hedge::hedge(&doc, &mut edits, spans.len()),
    }
    if doc.tokens.iter().all(|t| t.span.is_none()) { unchanged(text, spans) } else { edits.finish(&doc, spans.len()) }
}

/// The answer as a screen reader should say it: the text of [`render`].
pub fn alt_text(text: &str, spans: &[Span], style: Style) -> String {
    render(text, spans, style).text
}

fn unchanged(text: &str, spans: &[Span]) -> Rendered {
    let len = text.chars().count();
    let mut at = 0;
    let place = |span: &Span| {
        let start = span.start.clamp(at, len.max(at));
        at = span.end.clamp(start, len.max(start));
        start..at
    };
    Rendered { text: text.to_owned(), spans: spans.iter().map(place).collect(), moved: Vec::new() }
}

#[cfg(test)]
mod tests;
