//! JSON: its strings are text, all the rest is markup.

use super::{MarkupKind, Match, Piece, Scanner, inline::coordinates};

/// Open bracket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonLevel {
    Array,
    /// Object, before a key.
    Key,
    /// Object, after a key.
    Value,
}

/// Step of reading JSON.
pub(super) enum JsonStep {
    Open,
    Piece(Piece),
    /// Not JSON, or not any more.
    Ended,
}

impl Scanner {
    /// Returns the next piece between the strings of JSON.
    pub(super) fn json(&mut self, rest: &str, whole: bool) -> JsonStep {
        let Some(c) = rest.chars().next() else {
            return JsonStep::Open;
        };
        let structure = |len| JsonStep::Piece((len, Some(MarkupKind::Structure)));
        let level = self.json.last().copied();
        match c {
            _ if c.is_whitespace() => return JsonStep::Piece((c.len_utf8(), None)),
            '"' | '\'' if level == Some(JsonLevel::Key) => match self.key(rest, c, whole) {
                Match::Open => return JsonStep::Open,
                Match::Len(len) => return structure(len),
                Match::No => {}
            },
            '"' | '\'' => {
                self.string = Some(c);
                return structure(1);
            }
            '[' | '{' => match opens(rest, true, whole) {
                Match::Open => return JsonStep::Open,
                Match::Len(len) => {
                    if len == 1 {
                        self.json.push(if c == '[' {
                            JsonLevel::Array
                        } else {
                            JsonLevel::Key
                        });
                    }
                    return structure(len);
                }
                Match::No => {}
            },
            ']' | '}' => {
                self.json.pop();
                return structure(1);
            }
            ':' | ',' => {
                if let Some(level @ (JsonLevel::Key | JsonLevel::Value)) = self.json.last_mut() {
                    *level = if c == ':' {
                        JsonLevel::Value
                    } else {
                        JsonLevel::Key
                    };
                }
                return structure(1);
            }
            _ => match literal(rest, whole) {
                Match::Open => return JsonStep::Open,
                Match::Len(len) if level != Some(JsonLevel::Key) => {
                    return JsonStep::Piece((len, Some(MarkupKind::Literal)));
                }
                _ => {}
            },
        }
        self.json.clear();
        JsonStep::Ended
    }

    fn key(&self, rest: &str, quote: char, whole: bool) -> Match {
        let (near, ends) = self.reach(rest, whole);
        let Some(end) = string_end(&near[1..], quote) else {
            return Match::incomplete(ends);
        };
        match rest[end + 2..].trim_start().chars().next() {
            None if !whole => Match::Open,
            None | Some(':') => Match::Len(end + 2),
            Some(_) => Match::No,
        }
    }
}

/// Returns the offset of the quotation mark that ends a string.
pub(super) fn string_end(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    let ends = |&(_, c): &(usize, char)| {
        let free = !std::mem::take(&mut escaped);
        escaped = free && c == '\\';
        free && c == quote
    };
    text.char_indices().find(ends).map(|(at, _)| at)
}

/// Matches the beginning of JSON: its bracket, or all of a bounding box. Within JSON, every bracket
/// matches.
pub(super) fn opens(rest: &str, within: bool, whole: bool) -> Match {
    let inside = rest[1..].trim_start();
    let array = rest.starts_with('[');
    coordinates(rest, whole).or_else(|| match inside.chars().next() {
        _ if within => Match::Len(1),
        None => Match::incomplete(whole),
        Some('"' | '\'') => Match::Len(1),
        Some('{' | '[') if array => Match::Len(1),
        Some(_) => Match::No,
    })
}

/// Matches a literal of JSON or Python.
fn literal(rest: &str, whole: bool) -> Match {
    let len = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(rest.len());
    let word = &rest[..len];
    match word {
        _ if len == rest.len() && !whole => Match::Open,
        "true" | "false" | "null" | "True" | "False" | "None" | "NaN" => Match::Len(len),
        _ if word.parse::<f64>().is_ok() => Match::Len(len),
        _ => Match::No,
    }
}
