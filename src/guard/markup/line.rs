//! Markup at the beginning of a line: list markers, headings, quotations, code fences, and keys of
//! YAML.

use super::{MarkupKind, Match};

/// Maximum number of words of a key in a text that has had keys.
const KEY_WORDS: usize = 3;

/// Maximum length in bytes of a quoted key.
const KEY_BYTES: usize = 64;

/// State of the current line.
#[derive(Debug, Clone, Default)]
pub(super) struct MarkupLine {
    /// `true` if it has more than white space and markers.
    pub(super) begun: bool,
    /// `true` if it began with a marker.
    marked: bool,
    /// `true` if it began with emphasis.
    emphasized: bool,
    /// `true` if a line precedes it.
    later: bool,
    /// `true` if a line of the text had a key.
    keyed: bool,
}

impl MarkupLine {
    /// Returns `true` if the end of this line ends a text.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }

    /// Updates the state with the next piece of the text.
    pub(super) fn advance(&mut self, piece: &str, kind: Option<MarkupKind>) {
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

/// Matches the marker of a line.
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

/// Matches `len` bytes, at most `most`, followed by white space.
fn spaced(rest: &str, len: usize, most: usize, whole: bool) -> Match {
    match rest[len..].chars().next() {
        None => Match::incomplete(whole),
        Some(' ' | '\t') if len <= most => Match::Len(len + 1),
        Some(_) => Match::No,
    }
}

/// Matches a code fence with the name of its language.
fn fence(rest: &str, mark: char, whole: bool) -> Match {
    let marks = rest.len() - rest.trim_start_matches(mark).len();
    if marks == rest.len() {
        return if marks >= 3 && whole {
            Match::Len(marks)
        } else {
            Match::incomplete(whole)
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

/// Returns `true` if a marker opens a fenced block whose content is not text.
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

/// Matches a number in a list: `2. `. At the beginning of a text only `1. ` is one; any other
/// number answers a question.
fn number(rest: &str, line: &MarkupLine, whole: bool) -> Match {
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 3 || !line.later && &rest[..digits] != "1" {
        return if digits == rest.len() && digits <= 3 {
            Match::incomplete(whole)
        } else {
            Match::No
        };
    }
    match rest[digits..].chars().next() {
        None => Match::incomplete(whole),
        Some('.' | ')') => spaced(rest, digits + 1, 4, whole),
        Some(_) => Match::No,
    }
}

/// Matches a key such as `caption:`, of at most `most` words.
fn key(rest: &str, most: usize, whole: bool) -> Match {
    let mut end = 0;
    for _ in 0..most {
        let word =
            rest[end..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-'));
        let Some(word) = word else {
            return Match::incomplete(whole);
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

/// Matches a quoted key: `"caption":`.
fn quoted_key(rest: &str, quote: char, whole: bool) -> Match {
    let near = &rest[..rest.floor_char_boundary(KEY_BYTES)];
    let line = &near[..near.find('\n').unwrap_or(near.len())];
    let Some(end) = line[1..].find(quote) else {
        return Match::incomplete(whole || line.len() < rest.len());
    };
    match rest[end + 2..].chars().next() {
        None => Match::incomplete(whole),
        Some(':') => ends_key(rest, end + 2, whole),
        Some(_) => Match::No,
    }
}

/// Matches a key up to its colon, which white space or the end of emphasis must follow.
fn ends_key(rest: &str, colon: usize, whole: bool) -> Match {
    match rest[colon + 1..].chars().next() {
        None if !whole => Match::Open,
        Some(c) if !c.is_whitespace() && !matches!(c, '*' | '_') => Match::No,
        _ => Match::Len(colon + 1),
    }
}
