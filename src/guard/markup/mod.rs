//! Markup: parts of a text that are not words. HTML and XML tags, Markdown syntax, the keys and
//! brackets of JSON and YAML, addresses, file names, and bounding boxes.
//!
//! [`Scanner`] finds it in a growing text: a word is returned only when no continuation can turn it
//! into markup. The kind of a piece depends on the text before it and on the text up to the next
//! white space, or up to [`REACH`] bytes after an opening bracket.

mod inline;
mod json;
mod kind;
mod line;
mod run;

use std::{collections::VecDeque, ops::Range};

pub use self::kind::MarkupKind;
use self::{json::JsonLevel, kind::Match};

/// Maximum length in bytes of a tag, a link or a code span.
const REACH: usize = 1024;

/// Piece of markup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup {
    /// Byte range in the text.
    pub bytes: Range<usize>,
    /// Kind.
    pub kind: MarkupKind,
}

/// Length and kind of the next piece of a text; `None` for text that is not markup.
type Piece = (usize, Option<MarkupKind>);

/// Incremental scanner for markup.
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    found: Vec<Markup>,
    at: usize,
    line: line::MarkupLine,
    /// Open brackets of JSON, the innermost last.
    json: Vec<JsonLevel>,
    /// Quotation mark that ends the JSON string at `at`.
    string: Option<char>,
    /// `true` if `at` is in a fenced code block.
    code: bool,
    /// End of the text for which [`Self::atoms`] is complete.
    examined: usize,
    atoms: VecDeque<Range<usize>>,
}

impl Scanner {
    /// Continues to scan `text`, which extends the text scanned before; a `whole` text will not
    /// grow.
    pub fn read(&mut self, text: &str, whole: bool) {
        while self.at < text.len() {
            let Some((len, kind)) = self.piece(text, whole) else {
                break;
            };
            self.line.advance(&text[self.at..self.at + len], kind);
            if let Some(kind) = kind {
                self.found.push(Markup {
                    bytes: self.at..self.at + len,
                    kind,
                });
            }
            self.at += len;
        }
    }

    /// Returns the number of bytes that are scanned.
    pub fn scanned_to(&self) -> usize {
        self.at
    }

    /// Returns the markup found so far, in order.
    pub fn found(&self) -> &[Markup] {
        &self.found
    }

    /// Returns the first piece of markup, other than literals, that overlaps a byte range.
    pub fn overlapping(&self, bytes: &Range<usize>) -> Option<&Markup> {
        let first = self.found.partition_point(|m| m.bytes.end <= bytes.start);
        self.found[first..]
            .iter()
            .take_while(|m| m.bytes.start < bytes.end)
            .find(|m| m.kind != MarkupKind::Literal)
    }

    /// Returns the next piece; `None` if more text is needed.
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

    /// Returns a line of a fenced code block.
    fn code_line(&mut self, rest: &str, whole: bool) -> Option<Piece> {
        let len = match rest.find('\n') {
            Some(end) => end + 1,
            None if whole => rest.len(),
            None => return None,
        };
        self.code = !matches!(rest[..len].trim(), "```" | "~~~");
        Some((len, Some(MarkupKind::Structure)))
    }

    /// Returns the text to which markup that begins here can extend, at most to the end of a JSON
    /// string or for [`REACH`] bytes, and `true` if that text is final.
    fn reach<'a>(&self, rest: &'a str, whole: bool) -> (&'a str, bool) {
        let near = &rest[..rest.floor_char_boundary(REACH)];
        let end = self.string.and_then(|quote| json::string_end(near, quote));
        (
            &near[..end.unwrap_or(near.len())],
            whole || end.is_some() || near.len() < rest.len(),
        )
    }
}

/// Returns the markup of a text.
pub fn markup(text: &str) -> Vec<Markup> {
    let mut scanner = Scanner::default();
    scanner.read(text, true);
    scanner.found
}

#[cfg(test)]
pub(crate) mod tests;
