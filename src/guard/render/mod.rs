//! The answer rendered for people: with marked spans in a pipe, colored on a terminal, and as alt
//! text for screen readers.
//!
//! `parse` finds the phrases of each sentence, `hedge` and `omit` decide what to change, and `edit`
//! applies the changes. Parts that markup separates (items of a list, strings of JSON) are rendered
//! one by one; markup itself is never changed.

mod edit;
mod english;
mod hedge;
mod omit;
mod omit_noun;
mod parse;
mod statement;
mod unfamiliar;
mod whole;

use std::{fmt::Write, ops::Range};

use self::{edit::Edits, parse::Document};
pub use self::{
    edit::Rendered, statement::statement, unfamiliar::unfamiliar_statement, whole::is_whole,
};
pub use super::RenderStyle;
use super::{
    Action, Span,
    markup::{Markup, MarkupKind, markup},
    spans::pieces,
};

/// Marks every span as `[text?score]`, or as `[before → now]` if it was rewritten (`[before →
/// now?score]` if it is still low-reward): `A dog catches a [frisbee?0.23].`
pub fn plain_marked(text: &str, spans: &[Span]) -> String {
    marked(text, spans, |out, piece, span| match rewritten(span) {
        Some(before) if span.action == Action::Flagged => {
            write!(out, "[{before} → {piece}?{:.2}]", span.score)
        }
        Some(before) => write!(out, "[{before} → {piece}]"),
        None => write!(out, "[{piece}?{:.2}]", span.score),
    })
}

/// Colors every span with the escape codes of ECMA-48: bold red with its score, or the original
/// struck out and the rewritten text in bold green. Control characters of the text are left out, so
/// that an answer cannot control the terminal.
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

/// Returns the original text of a span that was left out or rewritten, even if the new text is
/// still low-reward.
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
            // An omitted word had a space on either side.
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

/// Renders an answer for screen readers. Spans that are empty, overlap or lie outside the text are
/// skipped. The text is unchanged if it has no spans, if the style is [`RenderStyle::Plain`], or if
/// rendering would change its markup.
pub fn render(text: &str, spans: &[Span], style: RenderStyle) -> Rendered {
    let used = pieces(text, spans).iter().any(|(_, span)| span.is_some());
    if style == RenderStyle::Plain || !used {
        return unchanged(text, spans);
    }
    let found = markup(text);
    if found.is_empty() {
        return render_part(text, &[], spans, style, false)
            .unwrap_or_else(|| unchanged(text, spans));
    }
    let rendered = render_parts(text, &found, spans, style);
    let texts = |text: &str, found: &[Markup]| {
        found
            .iter()
            .map(|m| text[m.bytes.clone()].to_owned())
            .collect::<Vec<_>>()
    };
    if texts(&rendered.text, &markup(&rendered.text)) == texts(text, &found) {
        rendered
    } else {
        unchanged(text, spans)
    }
}

/// Renders text between two pieces of markup that separate it. If omission leaves nothing of a
/// `fragment`, it is hedged instead. Returns `None` if the markup does not allow a change.
fn render_part(
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
        return rendered.or_else(|| render_part(text, found, spans, RenderStyle::Hedged, fragment));
    }
    hedge::hedge(&doc, &mut edits, spans.len());
    edits.finish(&doc, spans.len())
}

/// Renders a text with markup, part by part.
fn render_parts(text: &str, found: &[Markup], spans: &[Span], style: RenderStyle) -> Rendered {
    let parting: Vec<&Markup> = found
        .iter()
        .filter(|m| matches!(m.kind, MarkupKind::Structure | MarkupKind::Literal))
        .collect();
    let mut whole = Rendered {
        text: String::with_capacity(text.len()),
        spans: Vec::new(),
        moved: Vec::new(),
    };
    let mut ranges: Vec<Option<Range<usize>>> = vec![None; spans.len()];
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
        let own_markup: Vec<Markup> = own
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
        let own_spans: Vec<Span> = spans[first_span..first_span + count]
            .iter()
            .map(shifted)
            .collect();
        let rendered = if own_spans.is_empty() {
            None
        } else {
            render_part(inside, &own_markup, &own_spans, style, !parting.is_empty())
        };
        let shifted_range = |range: Range<usize>| range.start + chars.1..range.end + chars.1;
        let piece = match rendered {
            Some(new) => {
                for (range, span) in ranges[first_span..].iter_mut().zip(new.spans) {
                    *range = Some(shifted_range(span));
                }
                whole.moved.extend(new.moved.into_iter().map(|(was, is)| {
                    (
                        was.start + old.start..was.end + old.start,
                        shifted_range(is),
                    )
                }));
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
    for (span, range) in spans.iter().zip(ranges) {
        let range = range.unwrap_or_else(|| whole.new_range(span.start..span.end));
        let start = range.start.clamp(from, chars.1.max(from));
        from = range.end.clamp(start, chars.1.max(start));
        whole.spans.push(start..from);
    }
    whole
}

/// Returns the text of [`render`].
pub fn alt_text(text: &str, spans: &[Span], style: RenderStyle) -> String {
    render(text, spans, style).text
}

fn unchanged(text: &str, spans: &[Span]) -> Rendered {
    let len = text.chars().count();
    let mut at = 0;
    let range = |span: &Span| {
        let start = span.start.clamp(at, len.max(at));
        at = span.end.clamp(start, len.max(start));
        start..at
    };
    Rendered {
        text: text.to_owned(),
        spans: spans.iter().map(range).collect(),
        moved: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
