//! Markup: what stands in a text and is none of its words. HTML and XML tags, Markdown's marks, the
//! keys and brackets of JSON and YAML, addresses, file names, boxes of coordinates.
//!
//! [`Scanner`] finds it in a text that still grows: a word is given out only when nothing that
//! follows can make markup of it. What a piece of text is depends on what stands before it and on
//! what follows up to the next white space, or up to [`REACH`] bytes behind a bracket.

mod inline;
mod json;
mod line;
mod run;

use std::{collections::VecDeque, ops::Range};

use self::json::JsonLevel;

/// Most bytes that a tag, a link or a span of code can have.
const REACH: usize = 1024;

/// Effect of a piece of markup on the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkupKind {
    /// Parts two texts that have nothing to do with each other: a list's marker, a table's bar,
    /// JSON's punctuation and keys, `<td>`.
    Structure,
    /// Stands within a sentence that goes on as if it were not there: `**`, `<b>`,
    /// `](https://example.org)`, `&amp;`.
    Inline,
    /// Stands in a sentence as a word would, and is none: `https://example.org`, `photo.jpg`,
    /// `#dog`, a span of code.
    Atom,
    /// A number or a truth value in JSON: a word that can be judged, in a place where no other
    /// words can stand.
    Literal,
}

/// A piece of markup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup {
    /// Its bytes in the text.
    pub bytes: Range<usize>,
    /// Its effect on the text around it.
    pub kind: MarkupKind,
}

/// Result of matching the beginning of a text with some piece of markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    /// It may become one.
    Open,
    No,
    /// Its length in bytes.
    Len(usize),
}

impl Match {
    /// Of a text that ended too early.
    fn cut(whole: bool) -> Self {
        if whole { Self::No } else { Self::Open }
    }

    /// This, or what is tried when it is none.
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        if self == Self::No { other() } else { self }
    }
}

/// The next piece of a text: its length and what it is; `None` for text that is no markup.
type Piece = (usize, Option<MarkupKind>);

/// Finds the markup of a growing text.
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    found: Vec<Markup>,
    at: usize,
    line: line::MarkupLine,
    /// Open brackets of JSON, innermost last.
    json: Vec<JsonLevel>,
    /// The quotation mark that ends the JSON string at `at`.
    string: Option<char>,
    /// `true` if `at` is within a fence of code.
    code: bool,
    /// Up to where [`Self::atoms`] is complete.
    examined: usize,
    atoms: VecDeque<Range<usize>>,
}

impl Scanner {
    /// Reads on in `text`, which begins as it did before; a `whole` one will not grow.
    pub fn read(&mut self, text: &str, whole: bool) {
        while self.at < text.len() {
            let Some((len, kind)) = self.piece(text, whole) else {
                break;
            };
            self.line.pass(&text[self.at..self.at + len], kind);
            if let Some(kind) = kind {
                self.found.push(Markup {
                    bytes: self.at..self.at + len,
                    kind,
                });
            }
            self.at += len;
        }
    }

    /// Bytes of the text whose markup is found.
    pub fn read_to(&self) -> usize {
        self.at
    }

    /// The markup found so far, in order.
    pub fn found(&self) -> &[Markup] {
        &self.found
    }

    /// The first piece that is no word and reaches into these bytes.
    pub fn within(&self, bytes: &Range<usize>) -> Option<&Markup> {
        let first = self.found.partition_point(|m| m.bytes.end <= bytes.start);
        self.found[first..]
            .iter()
            .take_while(|m| m.bytes.start < bytes.end)
            .find(|m| m.kind != MarkupKind::Literal)
    }

    /// The next piece; `None`: more text decides.
    fn piece(&mut self, text: &str, whole: bool) -> Option<Piece> {
        let rest = &text[self.at..];
        if self.code {
            return self.code_line(rest, whole);
        }
        if self.string.is_none() && !self.json.is_empty() {
            match self.json(rest, whole) {
                json::JsonStep::Open => return None,
                json::JsonStep::Piece(piece) => return Some(piece),
                json::JsonStep::Ended => {}
            }
        }
        if self.string.is_none() && self.json.is_empty() && !self.line.begun {
            match line::marker(rest, &self.line, whole) {
                Match::Open => return None,
                Match::Len(len) => {
                    self.code = line::opens_code(rest, len);
                    return Some((len, Some(MarkupKind::Structure)));
                }
                Match::No => {}
            }
        }
        if self.string.is_some_and(|quote| rest.starts_with(quote)) {
            self.string = None;
            return Some((1, Some(MarkupKind::Structure)));
        }
        self.inline(text, whole)
    }

    /// A line of a fence of code.
    fn code_line(&mut self, rest: &str, whole: bool) -> Option<Piece> {
        let len = match rest.find('\n') {
            Some(end) => end + 1,
            None if whole => rest.len(),
            None => return None,
        };
        self.code = !matches!(rest[..len].trim(), "```" | "~~~");
        Some((len, Some(MarkupKind::Structure)))
    }

    /// Returns the text that can belong to markup that begins here: not beyond a JSON string, nor
    /// more than [`REACH`] bytes; and `true` if that is all there will be.
    fn reach<'a>(&self, rest: &'a str, whole: bool) -> (&'a str, bool) {
        let near = &rest[..rest.floor_char_boundary(REACH)];
        let end = self.string.and_then(|quote| json::string_end(near, quote));
        (
            &near[..end.unwrap_or(near.len())],
            whole || end.is_some() || near.len() < rest.len(),
        )
    }
}

/// The markup of a text.
pub fn markup(text: &str) -> Vec<Markup> {
    let mut scanner = Scanner::default();
    scanner.read(text, true);
    scanner.found
}

#[cfg(test)]
pub(crate) mod tests;
