//! Words: the text of a growing token sequence, and the offsets and score of each word.
//!
//! A word is a word of Unicode's UAX #29 that has a letter or digit; words joined by hyphens are
//! one. White space, punctuation and symbols between words belong to none, nor does
//! [markup](super::markup). A word's tokens are all that contribute at least one of its bytes, so
//! one token can serve two words; its score is the lowest reward of these tokens.

use std::ops::Range;

use unicode_segmentation::{UWordBoundIndices, UnicodeSegmentation};

use super::markup::Scanner;

/// A word of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Byte range in the text.
    pub bytes: Range<usize>,
    /// Range in the text, in Unicode code points.
    pub chars: Range<usize>,
    /// Range of the tokens that contribute to it.
    pub tokens: Range<usize>,
    /// Score: the lowest reward of its tokens; `None` if one of them has none.
    pub score: Option<f32>,
    /// `true` for a function word ("the", "is", "of"), which claims nothing about the image.
    pub function: bool,
    /// `true` if markup separates it from the previous word.
    pub after_markup: bool,
    /// Score below which it is flagged; 0 (never) until set.
    pub threshold: f32,
}

impl Word {
    /// Returns `true` if the word is a content word whose score is below its threshold.
    pub fn is_flagged(&self) -> bool {
        !self.function && self.score.is_some_and(|reward| reward < self.threshold)
    }
}

/// Extent of a token's bytes in the text.
#[derive(Debug, Clone, Copy)]
struct TokenExtent {
    /// Start of the first code point to which it contributes.
    start: usize,
    /// End of the text to which it contributes; one more than the length of the text if it leaves a
    /// code point incomplete.
    reach: usize,
    /// Length of the text after it, if no code point is incomplete.
    boundary: Option<usize>,
}

/// Text of a growing token sequence, and its words as they close.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    text: String,
    /// Bytes of an incomplete code point: at most three.
    pending: Vec<u8>,
    tokens: Vec<TokenExtent>,
    markup: Scanner,
    whole: bool,
    /// End of the last word returned, in bytes and in code points.
    scanned: (usize, usize),
    settled: usize,
}

impl Transcript {
    /// Appends the bytes of a token.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = self.text.len();
        self.pending.extend_from_slice(bytes);
        let incomplete = decode(&self.pending, &mut self.text);
        self.pending.drain(..self.pending.len() - incomplete);
        let end = self.text.len();
        self.tokens.push(TokenExtent {
            start,
            reach: end + usize::from(incomplete > 0),
            boundary: (incomplete == 0).then_some(end),
        });
    }

    /// Ends the text, at byte `cut` if given, and closes open words. Bytes of an incomplete code
    /// point become U+FFFD.
    pub fn close(&mut self, cut: Option<usize>) {
        match cut {
            Some(at) => {
                self.text.truncate(at);
                // The remaining text may be markup now.
                self.markup = Scanner::default();
            }
            None if !self.pending.is_empty() => self.text.push(char::REPLACEMENT_CHARACTER),
            None => {}
        }
        self.pending.clear();
        self.whole = true;
    }

    /// Returns the text so far, without an incomplete code point.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns `true` if there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns the byte range of the text to which each token contributes; for a token that leaves
    /// a code point incomplete, at least the first byte.
    pub fn token_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let length = self.text.len();
        self.tokens
            .iter()
            .map(move |t| t.start.min(length)..t.reach.min(length))
    }

    /// Returns the number of leading tokens that contribute to the text; after a cut, those before
    /// it.
    pub fn contributing(&self) -> usize {
        if self.whole {
            self.tokens.partition_point(|t| t.start < self.text.len())
        } else {
            self.tokens.len()
        }
    }

    /// Returns the largest number of tokens, up to `tokens`, that end within the first `limit`
    /// bytes of the text and at the end of a code point, and the byte where they end.
    pub fn boundary(&self, tokens: usize, limit: usize) -> (usize, usize) {
        let ends = self.tokens[..tokens.min(self.tokens.len())]
            .iter()
            .enumerate()
            .rev();
        ends.filter_map(|(i, t)| {
            t.boundary
                .filter(|&end| end <= limit)
                .map(|end| (i + 1, end))
        })
        .next()
        .unwrap_or((0, 0))
    }

    /// Returns the next closed word. `rewards` are those of the leading tokens. With a limit
    /// `within`, only a scored word that ends in so many bytes of text is returned; later ones
    /// wait.
    pub fn next_word(&mut self, rewards: &[f32], within: Option<usize>) -> Option<Word> {
        self.markup.read(&self.text, self.whole);
        let (word, settled) =
            next_closed_word(&self.text, self.scanned.0, self.whole, &self.markup);
        self.settled = settled;
        let bytes = word?;
        let first = self.tokens.partition_point(|t| t.reach <= bytes.start);
        let tokens = first..self.tokens.partition_point(|t| t.start < bytes.end);
        let score = rewards
            .get(tokens.clone())
            .map(|r| r.iter().copied().fold(f32::INFINITY, f32::min));
        if within.is_some_and(|limit| bytes.end > limit || score.is_none()) {
            return None;
        }
        let start = self.scanned.1 + self.text[self.scanned.0..bytes.start].chars().count();
        let text = &self.text[bytes.clone()];
        let chars = start..start + text.chars().count();
        let after_markup = self.scanned.0 > 0
            && self
                .markup
                .overlapping(&(self.scanned.0..bytes.start))
                .is_some();
        self.scanned = (bytes.end, chars.end);
        self.settled = bytes.end;
        Some(Word {
            function: is_function_word(text),
            bytes,
            chars,
            tokens,
            score,
            after_markup,
            threshold: 0.0,
        })
    }

    /// Returns the number of bytes that later tokens cannot make part of another word, as of the
    /// last [`Self::next_word`].
    pub fn settled(&self) -> usize {
        self.settled
    }
}

/// Returns the text and words of a complete answer.
pub fn words<'a>(
    tokens: impl IntoIterator<Item = &'a [u8]>,
    rewards: &[f32],
) -> (String, Vec<Word>) {
    let mut transcript = Transcript::default();
    tokens.into_iter().for_each(|t| transcript.push(t));
    transcript.close(None);
    let words = std::iter::from_fn(|| transcript.next_word(rewards, None)).collect();
    (transcript.text, words)
}

/// Returns the words with their threshold set to `threshold`.
pub fn with_threshold(mut words: Vec<Word>, threshold: f32) -> Vec<Word> {
    words.iter_mut().for_each(|word| word.threshold = threshold);
    words
}

/// Appends the text of `bytes`, decoded as by [`String::from_utf8_lossy`], and returns the number
/// of trailing bytes that may still become a code point.
fn decode(bytes: &[u8], text: &mut String) -> usize {
    let mut left = bytes.len();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        left -= chunk.valid().len() + chunk.invalid().len();
        let incomplete =
            std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if left == 0 && incomplete {
            return chunk.invalid().len();
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    0
}

/// Returns the first word at or after byte `from` that later text cannot change, and the byte up to
/// which the text is settled.
///
/// Markup has no words, and a word that later text may turn into markup is open.
fn next_closed_word(
    text: &str,
    mut from: usize,
    whole: bool,
    markup: &Scanner,
) -> (Option<Range<usize>>, usize) {
    loop {
        let (word, settled) = next_prose_word(text, from, whole);
        let Some(word) = word else {
            return (None, settled.min(markup.scanned_to()));
        };
        if word.end > markup.scanned_to() {
            return (None, word.start.min(markup.scanned_to()));
        }
        match markup.overlapping(&word) {
            None => return (Some(word), settled),
            Some(inside)
                if inside.bytes.start > word.start
                    && is_word(&text[word.start..inside.bytes.start]) =>
            {
                let before = text[word.start..inside.bytes.start]
                    .trim_end_matches(['-', '\u{2010}', '\u{2011}', '_']);
                return (Some(word.start..word.start + before.len()), settled);
            }
            Some(inside) => from = inside.bytes.end,
        }
    }
}

/// Does the same for text without markup.
///
/// UAX #29 looks one segment ahead ("dog" and "'" become one word if "s" follows) and so do
/// hyphens: a word is closed by the two segments after it, or by the end of a `whole` text.
fn next_prose_word(text: &str, from: usize, whole: bool) -> (Option<Range<usize>>, usize) {
    let mut settled = from;
    let mut rest = text[from..].split_word_bound_indices();
    while let Some((at, segment)) = rest.next() {
        if is_word(segment) {
            let word = hyphenated_end(rest, at + segment.len(), whole);
            return (word.map(|end| from + at..from + end), from + at);
        }
        if whole || rest.clone().next().is_some() {
            settled = from + at + segment.len();
        }
    }
    (None, settled)
}

/// Returns the end of the word before `rest`, with hyphenated words joined; `None` while it is
/// open.
fn hyphenated_end(mut rest: UWordBoundIndices<'_>, mut end: usize, whole: bool) -> Option<usize> {
    loop {
        let mut ahead = rest.clone();
        let (Some((_, first)), Some((at, second))) = (ahead.next(), ahead.next()) else {
            return whole.then_some(end);
        };
        if !matches!(first, "-" | "\u{2010}" | "\u{2011}") {
            return Some(end);
        }
        if !is_word(second) {
            // "_" may still become "_a", which is a word.
            return (whole || ahead.next().is_some()).then_some(end);
        }
        end = at + second.len();
        rest = ahead;
    }
}

/// Returns `true` if a segment of UAX #29 is a word.
fn is_word(segment: &str) -> bool {
    segment.chars().any(char::is_alphanumeric)
}

/// Returns `true` if `word` is a function word: it claims nothing about the image.
pub fn is_function_word(word: &str) -> bool {
    let lower = word.to_lowercase();
    FUNCTION_WORDS.binary_search(&lower.as_str()).is_ok()
}

/// English articles, pronouns, auxiliaries, conjunctions, and prepositions that say little about
/// positions. Sorted.
const FUNCTION_WORDS: [&str; 83] = [
    "a", "about", "also", "am", "an", "and", "another", "any", "are", "as", "at", "be", "been",
    "being", "but", "by", "can", "could", "did", "do", "does", "each", "for", "from", "had", "has",
    "have", "he", "her", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "itself", "may", "me", "might", "my", "nor", "of", "on", "onto", "or", "other", "our", "shall",
    "she", "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there",
    "these", "they", "this", "those", "to", "us", "very", "was", "we", "were", "what", "which",
    "while", "who", "will", "with", "you", "your",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<String> {
        let (text, words) = words([text.as_bytes()], &[1.0]);
        words
            .iter()
            .map(|w| text[w.bytes.clone()].to_owned())
            .collect()
    }

    #[test]
    fn words_exclude_punctuation_and_keep_apostrophes_hyphens_and_decimals() {
        assert_eq!(
            found("A man's \"t-shirt\", 3.5 m -- wet - not well-."),
            ["A", "man's", "t-shirt", "3.5", "m", "wet", "not", "well"]
        );
        assert_eq!(found("... !? 🐕"), Vec::<String>::new());
        assert_eq!(found("naïve café 犬と"), ["naïve", "café", "犬", "と"]);
    }

    #[test]
    fn score_of_word_is_lowest_reward_of_its_tokens() {
        let tokens: [&[u8]; 5] = [b" fri", b"sbee. A d", b"og", b" ", b"\xF0\x9F"];
        let (text, words) = words(tokens, &[0.9, 0.4, 0.6, 0.1, 0.0]);
        assert_eq!(text, " frisbee. A dog \u{FFFD}");
        let seen: Vec<_> = words
            .iter()
            .map(|w| (&text[w.bytes.clone()], w.tokens.clone(), w.score))
            .collect();
        assert_eq!(
            seen,
            [
                ("frisbee", 0..2, Some(0.4)),
                ("A", 1..2, Some(0.4)),
                ("dog", 1..3, Some(0.4))
            ]
        );
    }

    #[test]
    fn letter_split_over_tokens_belongs_to_each() {
        let (text, words) = words([b"caf\xC3".as_slice(), b"\xA9 x"], &[0.2, 0.8]);
        assert_eq!(text, "café x");
        assert_eq!(words[0].tokens, 0..2);
        assert_eq!(words[1].tokens, 1..2);
        assert_eq!((words[1].chars.clone(), words[1].score), (5..6, Some(0.8)));
    }

    #[test]
    fn next_word_waits_for_its_end_and_its_rewards() {
        let mut t = Transcript::default();
        t.push(b"A dog");
        assert_eq!(t.next_word(&[0.9], Some(9)).map(|w| w.bytes), Some(0..1));
        assert_eq!(t.next_word(&[0.9], Some(9)), None);
        assert_eq!(t.settled(), 2);
        t.push(b" is");
        assert_eq!(t.next_word(&[], Some(9)), None);
        assert_eq!(t.next_word(&[0.9], Some(4)), None);
        assert_eq!(t.next_word(&[0.9], Some(9)).map(|w| w.bytes), Some(2..5));
        t.close(None);
        assert_eq!(t.next_word(&[0.9], None).map(|w| w.score), Some(None));
    }

    #[test]
    fn tokens_after_a_cut_do_not_contribute() {
        let mut t = Transcript::default();
        for token in [b"a do".as_slice(), b"g ST", b"OP"] {
            t.push(token);
        }
        t.close(Some(4));
        assert_eq!((t.text(), t.contributing()), ("a do", 1));
        t.close(Some(3));
        assert_eq!((t.text(), t.contributing()), ("a d", 1));
    }

    #[test]
    fn function_words_are_sorted_for_binary_search() {
        assert!(FUNCTION_WORDS.is_sorted());
        assert!(is_function_word("The") && !is_function_word("yes") && !is_function_word("under"));
    }

    /// Generates text from parts of words and arbitrary characters.
    pub(crate) fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-z]{1,4}",
            "[ -_'.,]",
            "\\PC",
            Just("\u{301}".to_owned()),
            Just("\u{200D}".to_owned()),
            Just("é".to_owned())
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|p| p.concat())
    }

    proptest! {
        #[test]
        fn text_of_bytes_is_the_same_for_any_token_lengths(
            bytes in proptest::collection::vec(any::<u8>(), 0..40), size in 1usize..5,
        ) {
            let mut t = Transcript::default();
            let mut seen = String::new();
            for piece in bytes.chunks(size) {
                t.push(piece);
                prop_assert!(t.text().starts_with(&seen));
                seen = t.text().to_owned();
                let (tokens, end) = t.boundary(t.len(), t.text().len());
                prop_assert_eq!(String::from_utf8_lossy(&bytes[..(tokens * size).min(bytes.len())]),
                    &t.text()[..end]);
            }
            t.close(None);
            prop_assert_eq!(t.text(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn words_of_growing_text_equal_those_of_the_whole(text in any_text(), size in 1usize..5) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let rewards: Vec<f32> = (0..pieces.len()).map(|i| i as f32 / 64.0).collect();
            let mut t = Transcript::default();
            let mut grown = Vec::new();
            let mut settled = 0;
            for (i, piece) in pieces.iter().enumerate() {
                t.push(piece);
                while let Some(word) = t.next_word(&rewards[..i], Some(usize::MAX)) {
                    prop_assert!(word.bytes.start >= settled, "settled text became part of a word");
                    grown.push(word);
                }
                settled = t.settled();
            }
            t.close(None);
            grown.extend(std::iter::from_fn(|| t.next_word(&rewards, None)));
            let (whole, expected) = words(pieces.iter().copied(), &rewards);
            prop_assert_eq!(&whole, &text);
            prop_assert_eq!(&grown, &expected);
            for w in &expected {
                prop_assert_eq!(text.chars().skip(w.chars.start)
                    .take(w.chars.len()).collect::<String>(), &text[w.bytes.clone()]);
                prop_assert_eq!(&w.tokens, &(w.bytes.start / size..(w.bytes.end - 1) / size + 1),
                    "token range of {:?}", &text[w.bytes.clone()]);
            }
        }
    }
}
