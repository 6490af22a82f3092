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
