//! The answer written for people: marked in a pipe, coloured on a terminal, and as a screen reader
//! should say it.
//!
//! `parse` finds the phrases of the sentences, `hedge` and `omit` decide what to change, and `edit`
//! writes it. What markup parts (items of a list, strings of JSON) is rendered part by part; markup
//! itself stays to the letter.

mod edit;
mod english;
mod hedge;
mod omit;
mod omit_verb;
mod parse;
mod something;
mod statement;
mod unfamiliar;
mod whole;

use std::{fmt::Write, ops::Range};

use serde::{Deserialize, Serialize};

use self::{edit::Edits, parse::Document};
pub use self::{statement::statement, unfamiliar::unfamiliar, whole::is_whole};
use super::{
    Action, Span,
    markup::{Markup, MarkupKind, markup},
    spans::pieces,
};

/// Style in which an answer's flagged spans are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenderStyle {
    /// As they were written.
    Plain,
    /// With the doubt: "what may be a frisbee".
    #[default]
    Hedged,
    /// Without them where the sentence allows it: "something".
    Omitted,
}

/// Every span as `[text?score]`, or `[before → now]` where it was written again
/// (`[before → now?score]` where that is low as well): `A dog catches a [frisbee?0.23].`
pub fn plain_marked(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, span| match rewritten(span) {
        Some(before) if span.action == Action::Flagged => {
            write!(out, "[{before} → {piece}?{:.2}]", span.score)
        }
        Some(before) => write!(out, "[{before} → {piece}]"),
        None => write!(out, "[{piece}?{:.2}]", span.score),
    })
}

/// Every span in bold red with its score behind it, or what was written again struck out with what
/// stands there now behind it in bold green, in the escape codes of ECMA-48. Control characters of
/// the text are left out, so that an answer cannot command the terminal.
pub fn ansi(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, span| match rewritten(span) {
        Some(before) if span.action == Action::Flagged => {
            write!(
                out,
                "\x1b[2;9m{before}\x1b[0m → \x1b[1;31m{piece}\x1b[0m\x1b[2m?{:.2}\x1b[0m",
                span.score
            )
        }
        Some(before) => write!(out, "\x1b[2;9m{before}\x1b[0m → \x1b[1;32m{piece}\x1b[0m"),
        None => write!(
            out,
            "\x1b[1;31m{piece}\x1b[0m\x1b[2m?{:.2}\x1b[0m",
            span.score
        ),
    })
}

/// Returns the text that stood in the place of a span that was left out, or written again, whether
/// it passes now or is still low.
fn rewritten(span: &Span) -> Option<String> {
    span.original
        .as_deref()
        .filter(|_| {
            matches!(
                span.action,
                Action::Regenerated | Action::Flagged | Action::Omitted
            )
        })
        .map(|original| original.trim().chars().filter(printable).collect())
}

fn printable(c: &char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

fn marked(
    text: &str,
    spans: &[Span],
    mark: impl Fn(&mut String, &str, &Span) -> std::fmt::Result,
) -> String {
    let chars: Vec<char> = text.chars().collect();
    let piece = |range: Range<usize>| {
        chars[range]
            .iter()
            .filter(|c| printable(c))
            .collect::<String>()
    };
    let mut out = String::with_capacity(text.len() + 24 * spans.len());
    let mut at = 0;
    for span in spans {
        let fits = (at..=span.end).contains(&span.start) && span.end <= chars.len();
        if fits && (span.start < span.end || rewritten(span).is_some()) {
            out.push_str(&piece(at..span.start));
            // What was taken out stood between words, with a space on either side.
            let gap = span.start == span.end;
            if gap && out.ends_with(|c: char| !c.is_whitespace()) {
                out.push(' ');
            }
            // Writing to a string cannot fail.
            mark(&mut out, &piece(span.start..span.end), span).unwrap_or_default();
            at = span.end;
            if gap && chars.get(at).is_some_and(|c| c.is_alphanumeric()) {
                out.push(' ');
            }
        }
    }
    out + &piece(at..chars.len())
}

/// A text as people should hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The new text.
    pub text: String,
    /// For each input span, in order, the Unicode code points of the new text that now stand for
    /// it, its doubt included; empty where it was left out.
    pub spans: Vec<Range<usize>>,
    /// Old and new place of each word, in order; none where nothing changed.
    moved: Vec<(Range<usize>, Range<usize>)>,
}

impl Rendered {
    /// Returns the new place of the text that stood at these code points; empty where it was left
    /// out.
    pub fn place(&self, range: Range<usize>) -> Range<usize> {
        let of = |at: usize, is_end: bool| {
            let before = self.moved.partition_point(|(old, _)| {
                if is_end {
                    old.start < at
                } else {
                    old.start <= at
                }
            });
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

/// The answer as a screen reader should say it, and where its spans are now. Spans that are empty,
/// overlap or lie outside of the text are skipped; a text without spans, or in [`RenderStyle::Plain`],
/// stays as it is, and so does one whose markup would not.
pub fn render(text: &str, spans: &[Span], style: RenderStyle) -> Rendered {
    let used = pieces(text, spans).iter().any(|(_, span)| span.is_some());
    if style == RenderStyle::Plain || !used {
        return unchanged(text, spans);
    }
    let found = markup(text);
    if found.is_empty() {
        return part(text, &[], spans, style, false).unwrap_or_else(|| unchanged(text, spans));
    }
    let rendered = parts(text, &found, spans, style);
    let kept = |text: &str, found: &[Markup]| {
        found
            .iter()
            .map(|m| text[m.bytes.clone()].to_owned())
            .collect::<Vec<_>>()
    };
    if kept(&rendered.text, &markup(&rendered.text)) == kept(text, &found) {
        rendered
    } else {
        unchanged(text, spans)
    }
}

/// A text between two pieces of markup that part it. What is left out of a `fragment` must leave
/// something; else its doubt is said. `None` where nothing can be said for its markup.
fn part(
    text: &str,
    found: &[Markup],
    spans: &[Span],
    style: RenderStyle,
    fragment: bool,
) -> Option<Rendered> {
    let doc = Document::new(text, found, spans);
    if doc.tokens.iter().all(|token| token.span.is_none()) {
        return None;
    }
    let mut edits = Edits::new(doc.tokens.len());
    if style == RenderStyle::Omitted {
        let stands = omit::omit(&doc, &mut edits);
        let rendered = if stands || !fragment {
            edits.finish(&doc, spans.len())
        } else {
            None
        };
        return rendered.or_else(|| part(text, found, spans, RenderStyle::Hedged, fragment));
    }
    hedge::hedge(&doc, &mut edits, spans.len());
    edits.finish(&doc, spans.len())
}

/// A text with markup, part by part.
fn parts(text: &str, found: &[Markup], spans: &[Span], style: RenderStyle) -> Rendered {
    let parting: Vec<&Markup> = found
        .iter()
        .filter(|m| matches!(m.kind, MarkupKind::Structure | MarkupKind::Literal))
        .collect();
    let mut whole = Rendered {
        text: String::with_capacity(text.len()),
        spans: Vec::new(),
        moved: Vec::new(),
    };
    let mut places: Vec<Option<Range<usize>>> = vec![None; spans.len()];
    let (mut at, mut chars) = (0, (0, 0));
    let (mut first_markup, mut first_span) = (0, 0);
    let ends = parting
        .iter()
        .map(|m| m.bytes.clone())
        .chain(std::iter::once(text.len()..text.len()));
    for end in ends {
        let inside = &text[at..end.start];
        let old = chars.0..chars.0 + inside.chars().count();
        while found.get(first_markup).is_some_and(|m| m.bytes.start < at) {
            first_markup += 1;
        }
        let count = found[first_markup..]
            .iter()
            .take_while(|m| m.bytes.end <= end.start)
            .count();
        let own = found[first_markup..first_markup + count]
            .iter()
            .filter(|m| m.kind != MarkupKind::Literal);
        let own: Vec<Markup> = own
            .map(|m| Markup {
                bytes: m.bytes.start - at..m.bytes.end - at,
                kind: m.kind,
            })
            .collect();
        while spans
            .get(first_span)
            .is_some_and(|span| span.start < old.start)
        {
            first_span += 1;
        }
        let count = spans[first_span..]
            .iter()
            .take_while(|span| span.end <= old.end)
            .count();
        let shifted = |span: &Span| Span {
            start: span.start - old.start,
            end: span.end.saturating_sub(old.start),
            ..span.clone()
        };
        let these: Vec<Span> = spans[first_span..first_span + count]
            .iter()
            .map(shifted)
            .collect();
        let rendered = if these.is_empty() {
            None
        } else {
            part(inside, &own, &these, style, !parting.is_empty())
        };
        let to = |range: Range<usize>| range.start + chars.1..range.end + chars.1;
        let piece = match rendered {
            Some(new) => {
                for (place, span) in places[first_span..].iter_mut().zip(new.spans) {
                    *place = Some(to(span));
                }
                whole.moved.extend(
                    new.moved
                        .into_iter()
                        .map(|(was, is)| (was.start + old.start..was.end + old.start, to(is))),
                );
                new.text
            }
            None => {
                whole
                    .moved
                    .push((old.clone(), chars.1..chars.1 + old.len()));
                inside.to_owned()
            }
        };
        let (length, mark) = (piece.chars().count(), &text[end.clone()]);
        let marked = mark.chars().count();
        whole.moved.push((
            old.end..old.end + marked,
            chars.1 + length..chars.1 + length + marked,
        ));
        whole.text.push_str(&piece);
        whole.text.push_str(mark);
        chars = (old.end + marked, chars.1 + length + marked);
        (at, first_span) = (end.end, first_span + count);
    }
    let mut from = 0;
    for (span, place) in spans.iter().zip(places) {
        let place = place.unwrap_or_else(|| whole.place(span.start..span.end));
        let start = place.start.clamp(from, chars.1.max(from));
        from = place.end.clamp(start, chars.1.max(start));
        whole.spans.push(start..from);
    }
    whole
}

/// The answer as a screen reader should say it: the text of [`render`].
pub fn alt_text(text: &str, spans: &[Span], style: RenderStyle) -> String {
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
    Rendered {
        text: text.to_owned(),
        spans: spans.iter().map(place).collect(),
        moved: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
