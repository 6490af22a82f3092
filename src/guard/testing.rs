//! Notation of the guard's cases, for tests.
//!
//! Cases are lines of the files in `src/guard/cases/`, which explain their notation: an input, an
//! arrow, and the expected output. In the rewards of words (`A black:0.3 dog:0.2 runs.`) a word
//! without a number has [`TRUSTED`]; in flagged spans (`A [black dog:0.2] runs.`) a span without a
//! score has [`UNDECIDED`].

use std::ops::Range;

use super::{
    Action, Span,
    words::{Word, with_threshold, words},
};

/// Threshold of all words.
const THRESHOLD: f32 = 0.5;

/// Reward of a word without a number.
const TRUSTED: f32 = 0.9;

/// Score of a span without a number.
const UNDECIDED: f32 = 0.5;

/// One input with its expected output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Line of the expected output in the file.
    line: usize,
    /// Heading of the section.
    pub(crate) section: &'static str,
    /// Input, escaped.
    input: &'static str,
    /// View of the input that is expected; empty if a file has one view only.
    pub(crate) view: &'static str,
    /// Expected output, escaped.
    pub(crate) expected: &'static str,
}

impl Case {
    /// Returns the input.
    pub(crate) fn input(&self) -> String {
        let mut text = String::with_capacity(self.input.len());
        let mut chars = self.input.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some('n') => text.push('\n'),
                    Some(escaped) => text.push(escaped),
                    None => panic!("line {}: nothing is escaped", self.line),
                },
                c => text.push(c),
            }
        }
        text
    }
}

/// Returns the cases of a file: `input → expected`, or an input with indented lines
/// `view → expected` below it. A line with `==` is the heading of a section, one with `#` is a
/// comment.
pub(crate) fn cases(file: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    let (mut section, mut input) = ("", "");
    for (i, line) in file.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let sides = line.split_once('→');
        match (line.strip_prefix("== "), sides) {
            (Some(heading), _) => section = heading,
            (None, None) => input = line,
            (None, Some((left, expected))) => {
                let left = left.trim();
                let (input, view) = if line.starts_with(' ') {
                    (input, left)
                } else {
                    (left, "")
                };
                cases.push(Case {
                    line: i + 1,
                    section,
                    input,
                    view,
                    expected: expected.trim(),
                });
            }
        }
    }
    cases
}

/// Asserts that `output` returns what every case of a file expects, of which there are at least
/// `least`. The failure lists the file, line, expected and actual output of each wrong case.
#[track_caller]
pub(crate) fn check_cases(
    path: &str,
    file: &'static str,
    least: usize,
    output: impl Fn(&Case) -> String,
) {
    let cases = cases(file);
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let got = output(case).replace('\\', "\\\\").replace('\n', "\\n");
            let Case {
                line,
                input,
                view,
                expected,
                ..
            } = case;
            (got != *expected).then(|| {
                format!("{path}:{line}: {input} {view}\n  expected: {expected}\n       got: {got}")
            })
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    assert!(cases.len() >= least, "{path} has {} cases", cases.len());
}

/// Returns a text and its words from the notation `A black:0.3 dog:0.2 runs.`
pub(crate) fn scored_words(notation: &str) -> (String, Vec<Word>) {
    let mut tokens: Vec<(&str, f32)> = Vec::new();
    for piece in notation.split_inclusive(' ') {
        match scored_word(piece) {
            Some((word, reward, rest)) => tokens.extend([(word, reward), (rest, TRUSTED)]),
            None => tokens.push((piece, TRUSTED)),
        }
    }
    tokens.retain(|(token, _)| !token.is_empty());
    let rewards: Vec<f32> = tokens.iter().map(|(_, reward)| *reward).collect();
    let (text, words) = words(tokens.iter().map(|(token, _)| token.as_bytes()), &rewards);
    (text, with_threshold(words, THRESHOLD))
}

/// Returns the word, its reward and the rest of a piece such as `dog:0.2.`
fn scored_word(piece: &str) -> Option<(&str, f32, &str)> {
    let (word, behind) = piece.split_once(':')?;
    let end = behind
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(behind.len());
    let number = behind[..end].trim_end_matches('.');
    let reward = number.parse().ok().filter(|_| number.contains('.'))?;
    Some((word, reward, &behind[number.len()..]))
}

/// Returns a text and its spans from the notation `A [black dog:0.2] runs.`, or with `⟦` and `⟧` if
/// the text has square brackets itself.
pub(crate) fn flagged_text(notation: &str) -> (String, Vec<Span>) {
    let brackets = if notation.contains('⟦') {
        ['⟦', '⟧']
    } else {
        ['[', ']']
    };
    let (mut text, mut spans) = (String::new(), Vec::new());
    for (i, piece) in notation.split(brackets).enumerate() {
        if i % 2 == 0 {
            text.push_str(piece);
            continue;
        }
        let scored = piece.rsplit_once(':').and_then(|(inside, number)| {
            let score = number.parse().ok().filter(|_| number.contains('.'))?;
            Some((inside, score))
        });
        let (inside, score) = scored.unwrap_or((piece, UNDECIDED));
        let start = text.chars().count();
        text.push_str(inside);
        let end = text.chars().count();
        spans.push(Span::new(start..end, inside, score, Action::Flagged));
    }
    (text, spans)
}

/// Returns the notation of a text with spans, by their offsets and scores.
pub(crate) fn flagged_notation(text: &str, spans: &[Span]) -> String {
    bracketed(
        text,
        spans
            .iter()
            .map(|span| (span.start..span.end, format!(":{:?}", span.score))),
    )
}

/// Returns a text with brackets around ranges of code points, each with a suffix inside.
pub(crate) fn bracketed(
    text: &str,
    ranges: impl IntoIterator<Item = (Range<usize>, String)>,
) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut notation, mut at) = (String::new(), 0);
    for (range, suffix) in ranges {
        notation.extend(&chars[at..range.start]);
        notation.push('[');
        notation.extend(&chars[range.start..range.end]);
        notation.push_str(&suffix);
        notation.push(']');
        at = range.end;
    }
    notation.extend(&chars[at..]);
    notation
}

#[test]
fn notation_of_flagged_text_round_trips() {
    for notation in [
        "A [black dog:0.25] at 5:30 [runs:0.5].",
        "é [🐕 dog:0.1]",
        "",
    ] {
        let (text, spans) = flagged_text(notation);
        assert_eq!(flagged_notation(&text, &spans), notation);
        assert!(!text.contains(['[', ']']));
    }
    let (text, spans) = flagged_text("[a](https://x.org) ⟦dog⟧");
    assert_eq!(
        (text.as_str(), spans[0].start),
        ("[a](https://x.org) dog", 19)
    );
    assert_eq!((spans[0].text.as_str(), spans[0].score), ("dog", UNDECIDED));
}

#[test]
fn notation_of_words_gives_each_word_its_reward() {
    let (text, words) = scored_words("A black:0.25 dog:0.5, at 5:30.");
    assert_eq!(text, "A black dog, at 5:30.");
    let scores: Vec<f32> = words.iter().filter_map(|word| word.score).collect();
    assert_eq!(scores, [TRUSTED, 0.25, 0.5, TRUSTED, TRUSTED, TRUSTED]);
}
