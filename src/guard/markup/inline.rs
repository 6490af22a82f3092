//! Markup within lines: tags, links, code, coordinates, emphasis, entities.

use super::{
    MarkupKind, Match, Piece, REACH, Scanner, json,
    json::JsonLevel,
    run::{atoms, entity, escaped_letter, numbered},
};

/// Elements that may be part of a sentence. Sorted.
const INLINE: [&str; 28] = [
    "a",
    "abbr",
    "b",
    "big",
    "cite",
    "del",
    "em",
    "font",
    "grounding",
    "i",
    "ins",
    "kbd",
    "label",
    "mark",
    "p",
    "phrase",
    "q",
    "ref",
    "s",
    "small",
    "span",
    "strong",
    "sub",
    "sup",
    "tt",
    "u",
    "var",
    "wbr",
];

/// Elements whose content is not text. Sorted.
const RAW: [&str; 11] = [
    "bbox", "box", "code", "math", "point", "points", "poly", "quad", "script", "style", "svg",
];

/// Prefixes of the names of tokens that carry a position.
const SIGN_NAMES: [&str; 4] = ["box", "object_ref", "point", "quad"];

/// Special tokens that models write in brackets. Sorted.
const SIGNS: [&str; 9] = [
    "/INST", "CLS", "IMG", "INST", "MASK", "PAD", "SEG", "SEP", "UNK",
];

impl Scanner {
    /// Returns the next piece of a line.
    pub(super) fn inline(&mut self, text: &str, whole: bool) -> Option<Piece> {
        let rest = &text[self.at..];
        let c = rest.chars().next()?;
        let (near, ends) = self.reach(rest, whole);
        let inline = Some(MarkupKind::Inline);
        let (found, kind) = match c {
            '\n' => return Some((1, self.line.is_marked().then_some(MarkupKind::Structure))),
            _ if c.is_whitespace() => return Some((c.len_utf8(), None)),
            '<' => tag(near, ends),
            '`' => code(near, ends),
            '[' | '{' => {
                let opened = if self.string.is_some() {
                    coordinates(near, ends)
                } else {
                    json::opens(near, false, ends)
                };
                if opened == Match::Len(1) {
                    self.json.push(if c == '[' {
                        JsonLevel::Array
                    } else {
                        JsonLevel::Key
                    });
                }
                // The braces of a LaTeX command contain text.
                let command = c == '{' && text[..self.at].ends_with(char::is_alphanumeric);
                let kind = if opened == Match::Len(1) {
                    MarkupKind::Structure
                } else {
                    MarkupKind::Inline
                };
                (
                    opened
                        .or_else(|| {
                            if command {
                                Match::No
                            } else {
                                bracket(near, ends)
                            }
                        })
                        .or_else(|| Match::Len(1)),
                    kind,
                )
            }
            ']' => (
                link_end(near, ends).or_else(|| Match::Len(1)),
                MarkupKind::Inline,
            ),
            '(' => (coordinates(near, ends), MarkupKind::Inline),
            '|' => return Some((1, Some(MarkupKind::Structure))),
            '*' | '#' | '0'..='9' if keycap(near, ends) != Match::No => {
                (keycap(near, ends), MarkupKind::Inline)
            }
            '*' | '}' => return Some((1, inline)),
            '\\' if self.string.is_none() || escaped_letter(rest).is_none() => {
                (self.escape(near, ends), MarkupKind::Inline)
            }
            '\u{1F100}'..='\u{1F1FF}' => return Some((c.len_utf8(), inline)),
            _ => (Match::No, MarkupKind::Inline),
        };
        match found {
            Match::Open => return None,
            Match::Len(len) => return Some((len, Some(kind))),
            Match::No => {}
        }
        if self.is_run(c) || escaped_letter(rest).is_some() {
            return self.run(text, whole);
        }
        Some((c.len_utf8(), None))
    }

    fn is_run(&self, c: char) -> bool {
        let ends = matches!(
            c,
            '<' | '>' | '"' | '`' | '|' | '[' | ']' | '{' | '}' | '*' | '\\'
        ) || Some(c) == self.string;
        let letter = c.is_alphanumeric() && c < '\u{2E80}'
            || matches!(c, '\u{200D}' | '\u{300}'..='\u{36F}' | '’');
        !c.is_whitespace() && !ends && (c.is_ascii() || letter)
    }

    /// Returns the next piece of a run of characters without white space, which is examined as a
    /// whole.
    fn run(&mut self, text: &str, whole: bool) -> Option<Piece> {
        let (at, rest) = (self.at, &text[self.at..]);
        if at >= self.examined {
            let mut end = 0;
            while let Some(c) = rest[end..].chars().next() {
                let escape = if self.string.is_some() {
                    escaped_letter(&rest[end..])
                } else {
                    None
                };
                let cut = c == '\\' && self.string.is_some() && rest[end..].len() < 6 && !whole;
                match escape {
                    _ if cut => return None,
                    Some(len) => end += len,
                    None if self.is_run(c) => end += c.len_utf8(),
                    None => break,
                }
            }
            if end == rest.len() && !whole {
                return None;
            }
            self.examined = at + end;
            self.atoms = atoms(&rest[..end])
                .into_iter()
                .map(|range| at + range.start..at + range.end)
                .collect();
        }
        while self.atoms.front().is_some_and(|atom| atom.start < at) {
            self.atoms.pop_front();
        }
        if let Some(atom) = self.atoms.front().filter(|atom| atom.start == at) {
            return Some((atom.len(), Some(MarkupKind::Atom)));
        }
        let limit = self.atoms.front().map_or(self.examined, |atom| atom.start);
        let run = &text[at..limit.max(at)];
        let begins = !text[..at].ends_with(char::is_alphanumeric);
        let named = |extra: &[char]| {
            run[1..]
                .find(|c: char| !c.is_alphanumeric() && !extra.contains(&c))
                .unwrap_or(run.len() - 1)
        };
        let has_letter = |len: usize| run[1..=len].contains(char::is_alphabetic);
        let inline = Some(MarkupKind::Inline);
        match run.chars().next()? {
            '&' => Some(entity(run).map_or((1, None), |len| (len + possessive(run, len), inline))),
            '_' => {
                let len = run.len() - run.trim_start_matches('_').len();
                let inside = !begins && text[at + len..].starts_with(char::is_alphanumeric);
                Some((len, if inside { None } else { inline }))
            }
            '~' if run.starts_with("~~") => Some((2, inline)),
            '!' if text[at + 1..].starts_with('[') => Some((1, inline)),
            '#' if begins && has_letter(named(&['_'])) => {
                Some((1 + named(&['_']), Some(MarkupKind::Atom)))
            }
            '@' if begins && has_letter(named(&['_', '-'])) => {
                Some((1 + named(&['_', '-']), Some(MarkupKind::Atom)))
            }
            ':' if begins
                && has_letter(named(&['_', '-', '+']))
                && run[1 + named(&['_', '-', '+'])..].starts_with(':') =>
            {
                Some((2 + named(&['_', '-', '+']), inline))
            }
            c if c.is_alphanumeric() => Some((
                run.find(|c: char| !c.is_alphanumeric())
                    .unwrap_or(run.len()),
                None,
            )),
            c => Some((c.len_utf8(), None)),
        }
    }

    fn escape(&self, near: &str, ends: bool) -> Match {
        let behind = &near[1..];
        let Some(next) = behind.chars().next() else {
            return Match::incomplete(ends).or_else(|| Match::Len(1));
        };
        if self.string.is_some() {
            let digits = behind.get(1..behind.len().min(5)).filter(|_| next == 'u');
            let code = digits.is_some_and(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
            return match code {
                true if behind.len() < 5 => Match::incomplete(ends).or_else(|| Match::Len(2)),
                true => Match::Len(6),
                false => Match::Len(1 + next.len_utf8()),
            };
        }
        match behind.find(|c: char| !c.is_ascii_alphabetic()) {
            None => Match::incomplete(ends).or_else(|| Match::Len(near.len())),
            Some(0) => Match::Len(if next.is_ascii_punctuation() { 2 } else { 1 }),
            Some(letters) => Match::Len(1 + letters),
        }
    }
}

/// Returns the length of the letters that an apostrophe, written as an entity, joins to the word
/// before it.
fn possessive(run: &str, len: usize) -> usize {
    let apostrophe = matches!(&run[..len], "&apos;" | "&rsquo;")
        || matches!(numbered(&run[..len]), Some('\'' | '’'));
    let letters = run[len..]
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(run.len() - len);
    if apostrophe { letters } else { 0 }
}

/// Matches a tag, a comment, a special token such as `<|end|>`, or an address in angle brackets; an
/// element without text is matched as a whole.
fn tag(near: &str, ends: bool) -> (Match, MarkupKind) {
    let inside = &near[1..];
    let upto = |end: &str, kind| {
        (
            near.find(end)
                .map_or(Match::incomplete(ends), |at| Match::Len(at + end.len())),
            kind,
        )
    };
    if inside.starts_with("!--") {
        return upto("-->", MarkupKind::Structure);
    }
    if inside.starts_with('|') {
        let located = SIGN_NAMES.iter().any(|name| inside[1..].starts_with(name));
        return upto(
            "|>",
            if located {
                MarkupKind::Inline
            } else {
                MarkupKind::Structure
            },
        );
    }
    let name = inside.trim_start_matches(['/', '!', '?']);
    match name.chars().next() {
        None => return (Match::incomplete(ends), MarkupKind::Structure),
        Some(c) if c.is_ascii_alphabetic() && inside.len() - name.len() <= 1 => {}
        Some(_) if "!--".starts_with(inside) => {
            return (Match::incomplete(ends), MarkupKind::Structure);
        }
        Some(_) => return (Match::No, MarkupKind::Structure),
    }
    let len = match tag_len(near, ends) {
        Match::Len(len) => len,
        other => return (other, MarkupKind::Structure),
    };
    let name = &name[..name
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(name.len())]
        .to_ascii_lowercase();
    if near[..len].contains("://") && !near[..len].contains(char::is_whitespace)
        || near[..len].contains('@') && !near[..len].contains('=')
    {
        return (Match::Len(len), MarkupKind::Atom);
    }
    let opens =
        inside.starts_with(|c: char| c.is_ascii_alphabetic()) && !near[..len].ends_with("/>");
    if opens && RAW.binary_search(&name.as_str()).is_ok() {
        let kind = match name.as_str() {
            "code" => MarkupKind::Atom,
            "script" | "style" | "svg" => MarkupKind::Structure,
            _ => MarkupKind::Inline,
        };
        let closing = near[len..]
            .match_indices("</")
            .map(|(at, _)| len + at + 2)
            .find_map(|at| {
                let behind = near
                    .get(at..at + name.len())
                    .filter(|behind| behind.eq_ignore_ascii_case(name))?;
                near[at + behind.len()..]
                    .starts_with('>')
                    .then_some(at + behind.len() + 1)
            });
        return closing.map_or(
            (
                Match::incomplete(ends).or_else(|| Match::Len(len)),
                MarkupKind::Structure,
            ),
            |end| (Match::Len(end), kind),
        );
    }
    (
        Match::Len(len),
        if INLINE.binary_search(&name.as_str()).is_ok() {
            MarkupKind::Inline
        } else {
            MarkupKind::Structure
        },
    )
}

/// Matches a tag up to its end; attribute values in quotation marks may contain `>`.
fn tag_len(near: &str, ends: bool) -> Match {
    let (mut quote, mut before) = (None, '<');
    for (at, c) in near.char_indices().skip(1) {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if before == '=' => quote = Some(c),
            (None, '<') => return Match::No,
            (None, '>') => return Match::Len(at + 1),
            (None, _) => {}
        }
        before = if c.is_whitespace() { before } else { c };
    }
    Match::incomplete(ends)
}

/// Matches a code span, or only its marks.
fn code(near: &str, ends: bool) -> (Match, MarkupKind) {
    let marks = near.len() - near.trim_start_matches('`').len();
    let mut at = marks;
    let paragraph = near.find("\n\n").unwrap_or(near.len());
    while let Some(found) = near[at..paragraph].find('`') {
        let start = at + found;
        at = paragraph - near[start..paragraph].trim_start_matches('`').len();
        if at == near.len() && !ends {
            return (Match::Open, MarkupKind::Atom);
        }
        if at - start == marks {
            return (Match::Len(at), MarkupKind::Atom);
        }
    }
    let is_final = ends || paragraph < near.len();
    (
        Match::incomplete(is_final).or_else(|| Match::Len(marks)),
        MarkupKind::Inline,
    )
}

/// Matches a bracket whose content is not text: `[1]`, `[^note]`, `[x] `, `[SEG]`, `{name}`.
fn bracket(near: &str, ends: bool) -> Match {
    let (open, close) = if near.starts_with('[') {
        ('[', ']')
    } else {
        ('{', '}')
    };
    let inside = near.trim_start_matches(open);
    let depth = near.len() - inside.len();
    let ident =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '^' | '/' | '_' | '-' | '.' | ' ');
    let Some(len) = inside.find(|c: char| !ident(c)) else {
        return Match::incomplete(ends);
    };
    let name = &inside[..len];
    let number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let sign = number
        || name.starts_with('^')
        || matches!(name, "x" | "X" | " ")
        || SIGNS.binary_search(&name).is_ok();
    let fits = inside[len..].starts_with(close)
        && if open == '[' {
            sign && depth == 1
        } else {
            !name.contains(' ') && !name.is_empty()
        };
    if fits {
        Match::Len(depth + len + 1)
    } else {
        Match::No
    }
}

/// Matches the end of the text of a link: `](https://example.org "title")`, `][note]`.
fn link_end(near: &str, ends: bool) -> Match {
    let line = &near[..near.find('\n').unwrap_or(near.len())];
    let cut = || Match::incomplete(ends || line.len() < near.len());
    match line[1..].chars().next() {
        None => cut(),
        Some('(') => {
            let (mut depth, mut quoted) = (0usize, false);
            for (at, c) in line.char_indices().skip(1) {
                match c {
                    '"' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted && depth == 1 => return Match::Len(at + 1),
                    ')' if !quoted => depth -= 1,
                    ' ' if !quoted && !line[at + 1..].trim_start().starts_with(['"', ')']) => {
                        return if line[at + 1..].trim_start().is_empty() {
                            cut()
                        } else {
                            Match::No
                        };
                    }
                    _ => {}
                }
            }
            cut()
        }
        Some('[') => match line[2..].find(['[', ']']) {
            Some(end) if line[2 + end..].starts_with(']') => Match::Len(end + 3),
            Some(_) => Match::No,
            None => cut(),
        },
        Some(_) => Match::No,
    }
}

/// Matches two or more numbers in brackets.
pub(super) fn coordinates(near: &str, ends: bool) -> Match {
    let (near, ends) = (
        &near[..near.floor_char_boundary(REACH)],
        ends || near.len() > REACH,
    );
    let close = match near.chars().next() {
        Some('(') => ')',
        Some('[') => ']',
        _ => return Match::No,
    };
    let len =
        near[1..].find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',' | '-' | ' ' | '\n'));
    let Some(len) = len else {
        return Match::incomplete(ends);
    };
    let numbers = near[1..=len]
        .split([',', ' ', '\n'])
        .filter(|number| !number.is_empty());
    let fits =
        numbers.clone().count() > 1 && numbers.clone().all(|number| number.parse::<f64>().is_ok());
    if fits && near[1 + len..].starts_with(close) {
        Match::Len(len + 2)
    } else {
        Match::No
    }
}

/// Matches a keycap emoji.
fn keycap(near: &str, ends: bool) -> Match {
    let behind = &near[1..];
    let (behind, sign) = behind
        .strip_prefix('\u{FE0F}')
        .map_or((behind, 0), |behind| (behind, 3));
    match behind.chars().next() {
        None => Match::incomplete(ends),
        Some('\u{20E3}') => Match::Len(4 + sign),
        Some(_) => Match::No,
    }
}
