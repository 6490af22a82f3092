//! Comparison of texts without their typography. Texts have the same [`words`] if they differ only
//! in quotes, dashes, composition of letters, ligatures, case, punctuation, white space, invisible
//! characters or HTML entities.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, char::decompose_canonical};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
use unicode_segmentation::UnicodeSegmentation;

use crate::util::offsets::CharRange;

/// Characters, and the text that each is folded to.
const ALIKE: [(&str, &str); 9] = [
    ("‘’‚‛‹›′ʼʹʻ`´＇", "'"),
    ("−", "-"),
    ("_", " "),
    ("ﬀ", "ff"),
    ("ﬁ", "fi"),
    ("ﬂ", "fl"),
    ("ﬃ", "ffi"),
    ("ﬄ", "ffl"),
    ("ﬅﬆ", "st"),
];
/// Unicode punctuation that is read aloud and therefore counts as a symbol.
const SPOKEN: &str = "&%‰#@";
/// Code points of the longest HTML entity.
const ENTITY_CHARS: usize = 34;

/// Word, number or symbol of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedWord {
    /// The word without its typography.
    pub key: String,
    /// Its code points in the text.
    pub chars: CharRange,
}

/// Returns `true` for white space and invisible characters.
pub fn is_blank(c: char) -> bool {
    c.is_whitespace() || is_zero_width(c)
}

fn is_zero_width(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Returns `true` for punctuation that is not read aloud.
pub fn is_punctuation(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Punctuation && !SPOKEN.contains(c)
}

/// Returns `true` for characters that are neither blank nor punctuation.
pub fn is_spoken(c: char) -> bool {
    !is_blank(c) && !is_punctuation(c)
}

/// Shrinks `span` by the characters at its ends that `dropped` accepts.
pub fn trim(text: &[char], span: CharRange, dropped: fn(char) -> bool) -> CharRange {
    let inside = &text[span.range()];
    let start = inside.iter().take_while(|c| dropped(**c)).count();
    let end = inside[start..]
        .iter()
        .rev()
        .take_while(|c| dropped(**c))
        .count();
    CharRange::new(span.start + start, span.end - end)
}

/// Returns the words of a text, in order. Blanks and punctuation between them are skipped.
pub fn words(text: &str) -> Vec<FoldedWord> {
    let units = fold(text);
    let folded: String = units.iter().map(|unit| unit.letter).collect();
    let (mut words, mut at) = (Vec::new(), 0);
    for piece in folded.split_word_bounds() {
        let own = &units[at..at + piece.chars().count()];
        at += own.len();
        words.extend(split(own).filter_map(|part| {
            let (first, last) = (part.first()?, part.last()?);
            let key = part.iter().map(|unit| unit.letter).nfd().collect();
            Some(FoldedWord {
                key,
                chars: CharRange::new(first.chars.start, last.chars.end),
            })
        }));
    }
    words
}

/// Returns `true` if two texts differ in typography alone.
pub fn reads_alike(one: &str, other: &str) -> bool {
    words(one)
        .into_iter()
        .map(|word| word.key)
        .eq(words(other).into_iter().map(|word| word.key))
}

/// Character of a folded text, and the code points of the original that it stands for.
#[derive(Debug, Clone)]
struct Unit {
    letter: char,
    chars: CharRange,
}

fn fold(text: &str) -> Vec<Unit> {
    let mut units: Vec<Unit> = text
        .chars()
        .enumerate()
        .map(|(at, letter)| Unit {
            letter,
            chars: CharRange::new(at, at + 1),
        })
        .collect();
    // Some texts are escaped twice.
    for _ in 0..2 {
        if units.iter().any(|unit| unit.letter == '&') {
            units = unescape(&units);
        }
    }
    let mut folded: Vec<Unit> = Vec::with_capacity(units.len());
    for (at, &Unit { letter, chars }) in units.iter().enumerate() {
        if is_dropped(&units, at) {
            // A dropped character joins the one before, so that no word ends inside of it.
            if let Some(last) = folded.last_mut() {
                last.chars.end = chars.end;
            }
            continue;
        }
        if is_minus(&units, at) {
            folded.push(Unit {
                letter: '−', chars
            });
            continue;
        }
        let read = ALIKE
            .iter()
            .find(|(written, _)| written.contains(letter))
            .map(|(_, read)| Cow::Borrowed(*read));
        let read = read.unwrap_or_else(|| letter.to_string().into());
        for letter in read.chars().flat_map(char::to_lowercase) {
            decompose_canonical(letter, |letter| folded.push(Unit { letter, chars }));
        }
    }
    folded
}

/// Returns `true` for a dash that is the sign of a number.
fn is_minus(units: &[Unit], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| units[before].letter);
    let number = units
        .get(at + 1)
        .is_some_and(|unit| unit.letter.is_ascii_digit());
    matches!(units[at].letter, '-' | '−' | '–') && number && before.is_none_or(is_blank)
}

/// Returns `true` for invisible characters and variation selectors, except joiners within an emoji.
fn is_dropped(units: &[Unit], at: usize) -> bool {
    let drawn = |unit: Option<&Unit>| {
        unit.is_some_and(|unit| is_spoken(unit.letter) && !unit.letter.is_alphanumeric())
    };
    match units[at].letter {
        '\u{200D}' => {
            !(drawn(units.get(at + 1))
                && drawn(at.checked_sub(1).and_then(|before| units.get(before))))
        }
        letter => is_zero_width(letter) || matches!(letter, '\u{FE0E}' | '\u{FE0F}'),
    }
}

/// Replaces HTML entities by the characters that they encode.
fn unescape(units: &[Unit]) -> Vec<Unit> {
    let (mut out, mut at) = (Vec::with_capacity(units.len()), 0);
    while let Some(unit) = units.get(at) {
        let ahead = &units[at..units.len().min(at + ENTITY_CHARS)];
        let end = ahead
            .iter()
            .position(|unit| unit.letter == ';')
            .filter(|_| unit.letter == '&');
        let entity: String = ahead[..end.map_or(0, |end| end + 1)]
            .iter()
            .map(|unit| unit.letter)
            .collect();
        match (end, html_escape::decode_html_entities(&entity)) {
            (Some(end), decoded) if decoded != entity && decoded.chars().count() <= 2 => {
                let chars = CharRange::new(unit.chars.start, ahead[end].chars.end);
                out.extend(decoded.chars().map(|letter| Unit { letter, chars }));
                at += end + 1;
            }
            _ => {
                out.push(unit.clone());
                at += 1;
            }
        }
    }
    out
}

/// Splits a UAX #29 word at punctuation: "sofa.The" has two parts, "it's" and "3.5" have one.
fn split(word: &[Unit]) -> impl Iterator<Item = &[Unit]> {
    let digit = |at: Option<usize>| {
        at.and_then(|at| word.get(at))
            .is_some_and(|unit| unit.letter.is_numeric())
    };
    let parts = move |at: usize| match word[at].letter {
        '\'' => word.len() == 1,
        letter if is_punctuation(letter) => !(digit(at.checked_sub(1)) && digit(Some(at + 1))),
        letter => is_blank(letter) && letter != '\u{200D}',
    };
    let bounds: Vec<usize> = (0..word.len()).filter(|&at| parts(at)).collect();
    let starts = std::iter::once(0).chain(bounds.clone().into_iter().map(|at| at + 1));
    let ends = bounds.into_iter().chain(std::iter::once(word.len()));
    starts
        .zip(ends)
        .map(|(start, end)| &word[start..end])
        .filter(|part| part.iter().any(|unit| is_spoken(unit.letter)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs that differ in typography alone.
    const SAME: [(&str, &str); 26] = [
        ("Pages 3-5.", "Pages 3–5."),
        ("It is -5 degrees.", "It is –5 degrees."),
        ("A man's dog.", "A man’s dog."),
        ("A man's dog.", "A man&#39;s dog."),
        ("A man's dog.", "A man&amp;#39;s dog."),
        ("A man's dog.", "A man&rsquo;s dog."),
        ("A \"stop\" sign.", "A “stop” sign."),
        ("A \"stop\" sign.", "A &quot;stop&quot; sign."),
        ("A stop sign.", "A «stop» sign."),
        ("Café.", "Cafe\u{301}."),
        ("ọ\u{302}", "o\u{302}\u{323}"),
        ("Wait... what?", "Wait… what?"),
        ("Wait... what?", "Wait . . . what?"),
        ("A dog — big.", "A dog - big."),
        ("A dog — big.", "A dog–big."),
        ("A well-known dog.", "A well\u{2011}known dog."),
        ("A dog at −5 °.", "A dog at -5 °."),
        ("A dog.", "A dog"),
        ("A dog.", "a dog"),
        ("A dog. It runs.", "A dog.It runs."),
        ("A dog.", "\u{FEFF}A\u{A0}do\u{AD}g\u{200B}.  \n"),
        ("A ﬁeld of oﬃces.", "A field of offices."),
        ("A **dog**, running.", "A dog running."),
        ("Salt &amp; pepper.", "Salt & pepper."),
        ("A ❤\u{FE0F}.", "A ❤."),
        ("A \u{200D}dog\u{200C}.", "A dog."),
    ];

    /// Pairs that differ in more.
    const OTHER: [(&str, &str); 10] = [
        ("It is -5 degrees.", "It is 5 degrees."),
        ("−5", "5"),
        ("A dog.", "A dogs."),
        ("A 3.5 m tree.", "A 35 m tree."),
        ("Salt & pepper.", "Salt pepper."),
        ("A 🐶.", "A 🐱."),
        ("An 👩\u{200D}🚀.", "An 👩🚀."),
        ("50 % off.", "50 off."),
        ("It's.", "Its."),
        ("naïve", "naive"),
    ];

    #[test]
    fn texts_that_differ_in_typography_read_alike() {
        for (one, other) in SAME {
            assert!(
                reads_alike(one, other),
                "{one:?} {other:?} {:?} {:?}",
                words(one),
                words(other)
            );
        }
        for (one, other) in OTHER {
            assert!(!reads_alike(one, other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn words_of_typographic_text_have_its_offsets() {
        let stands = |text: &str| {
            let chars: Vec<char> = text.chars().collect();
            words(text)
                .into_iter()
                .map(|word| chars[word.chars.range()].iter().collect())
                .collect::<Vec<String>>()
        };
        assert_eq!(
            stands("“A man&#39;s”, do\u{AD}g…"),
            ["A", "man&#39;s", "do\u{AD}g"]
        );
        assert_eq!(
            stands("Cafe\u{301} oﬃce ❤\u{FE0F} 👩\u{200D}🚀!"),
            ["Cafe\u{301}", "oﬃce", "❤\u{FE0F}", "👩\u{200D}🚀"]
        );
        assert_eq!(stands(" — … ?"), [""; 0]);
        assert_eq!(stands("&nbsp;&unknown; 5&"), ["&", "unknown", "5", "&"]);
    }
}
