//! Markup at the beginning of a line: markers of lists, headings and quotations, fences of code,
//! keys of YAML.

use super::{MarkupKind, Match};

/// Most words of a key, where the text has had others.
const KEY_WORDS: usize = 3;

/// Most bytes of a key in quotation marks.
const KEY_BYTES: usize = 64;

/// The line that is being read.
#[derive(Debug, Clone, Default)]
pub(super) struct MarkupLine {
    /// `true` if more than white space and markers stands on it.
    pub(super) begun: bool,
    /// `true` if it began with a marker.
    marked: bool,
    /// `true` if it began with emphasis.
    emphasized: bool,
    /// `true` if there was a line before it.
    later: bool,
    /// `true` if a line of the text had a key.
    keyed: bool,
}

impl MarkupLine {
    /// Returns `true` if the end of this line ends what is said.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }

    /// Goes over the next piece of the text.
    pub(super) fn pass(&mut self, piece: &str, kind: Option<MarkupKind>) {
        if piece.ends_with('\n') {
            *self = Self {
                later: true,
                keyed: self.keyed,
                ..Self::default()
            };
        } else if !self.begun {
            let key = kind == Some(MarkupKind::Structure) && piece.ends_with(':');
            self.keyed |= key;
            self.marked |= kind == Some(MarkupKind::Structure);
            self.emphasized |= kind == Some(MarkupKind::Inline);
            let emphasis =
                kind == Some(MarkupKind::Inline) && piece.trim_matches(['*', '_']).is_empty();
            self.begun = key
                || !(piece.trim().is_empty() || kind == Some(MarkupKind::Structure) || emphasis);
        }
    }
}

/// The marker that `rest`, at the beginning of a line, begins with.
pub(super) fn marker(rest: &str, line: &MarkupLine, whole: bool) -> Match {
    let Some(first) = rest.chars().next() else {
        return Match::No;
    };
    match first {
        '`' | '~' => fence(rest, first, whole),
        '#' => spaced(
            rest,
            rest.len() - rest.trim_start_matches('#').len(),
            6,
            whole,
        ),
        '-' | '*' | '+' | '•' | '–' => spaced(rest, first.len_utf8(), first.len_utf8(), whole),
        '>' => Match::Len(1),
        '0'..='9' => number(rest, line, whole),
        '"' | '\'' => quoted_key(rest, first, whole),
        'A'..='Z' | 'a'..='z' | '_' => key(
            rest,
            if line.keyed || line.emphasized {
                KEY_WORDS
            } else {
                1
            },
            whole,
        ),
        _ => Match::No,
    }
}

/// `len` bytes, at most `most`, with white space behind them.
fn spaced(rest: &str, len: usize, most: usize, whole: bool) -> Match {
    match rest[len..].chars().next() {
        None => Match::cut(whole),
        Some(' ' | '\t') if len <= most => Match::Len(len + 1),
        Some(_) => Match::No,
    }
}

/// A fence of code with the name of its language.
fn fence(rest: &str, mark: char, whole: bool) -> Match {
    let marks = rest.len() - rest.trim_start_matches(mark).len();
    if marks == rest.len() {
        return if marks >= 3 && whole {
            Match::Len(marks)
        } else {
            Match::cut(whole)
        };
    }
    if marks < 3 {
        return Match::No;
    }
    let name =
        rest[marks..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '+' | '-'));
    name.map_or(
        if whole {
            Match::Len(rest.len())
        } else {
            Match::Open
        },
        |end| Match::Len(marks + end),
    )
}

/// Returns `true` if a marker opens a fence of something that is no text.
pub(super) fn opens_code(rest: &str, marker: usize) -> bool {
    let (marker, behind) = rest.split_at(marker);
    let name = marker.trim_start_matches(['`', '~']);
    let text = [
        "json",
        "jsonc",
        "jsonl",
        "yaml",
        "yml",
        "markdown",
        "md",
        "text",
        "txt",
        "plain",
        "plaintext",
        "html",
        "xml",
    ];
    let alone = behind.is_empty() || behind.starts_with(['\n', '\r', ' ']);
    marker.starts_with(['`', '~'])
        && alone
        && !name.is_empty()
        && !text.iter().any(|t| name.eq_ignore_ascii_case(t))
}

/// `2. ` in a list; at the beginning of the text it is the answer to a question, unless it is
/// `1. `.
fn number(rest: &str, line: &MarkupLine, whole: bool) -> Match {
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 3 || !line.later && &rest[..digits] != "1" {
        return if digits == rest.len() && digits <= 3 {
            Match::cut(whole)
        } else {
            Match::No
        };
    }
    match rest[digits..].chars().next() {
        None => Match::cut(whole),
        Some('.' | ')') => spaced(rest, digits + 1, 4, whole),
        Some(_) => Match::No,
    }
}

/// `caption:`, of at most so many words.
fn key(rest: &str, most: usize, whole: bool) -> Match {
    let mut end = 0;
    for _ in 0..most {
        let word =
            rest[end..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-'));
        let Some(word) = word else {
            return Match::cut(whole);
        };
        end += word;
        match rest[end..].chars().next() {
            Some(':') => return ends_key(rest, end, whole),
            Some(' ') if word > 0 => end += 1,
            _ => return Match::No,
        }
    }
    Match::No
}

/// `"caption":`
fn quoted_key(rest: &str, quote: char, whole: bool) -> Match {
    let near = &rest[..rest.floor_char_boundary(KEY_BYTES)];
    let line = &near[..near.find('\n').unwrap_or(near.len())];
    let Some(end) = line[1..].find(quote) else {
        return Match::cut(whole || line.len() < rest.len());
    };
    match rest[end + 2..].chars().next() {
        None => Match::cut(whole),
        Some(':') => ends_key(rest, end + 2, whole),
        Some(_) => Match::No,
    }
}

/// A key up to its colon, with white space or the end of emphasis behind it.
fn ends_key(rest: &str, colon: usize, whole: bool) -> Match {
    match rest[colon + 1..].chars().next() {
        None if !whole => Match::Open,
        Some(c) if !c.is_whitespace() && !matches!(c, '*' | '_') => Match::No,
        _ => Match::Len(colon + 1),
    }
}
