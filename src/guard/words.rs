//! From tokens to words: the text that a growing token sequence writes, and each word's place and
//! reward.
//!
//! A word is a word of Unicode's UAX #29 that has a letter or digit; words joined by hyphens are
//! one. What stands between words (white space, punctuation, symbols) belongs to none, nor does
//! [markup](super::markup). A word's tokens are all that write at least one of its bytes, so one
//! token can serve two words, and its reward is the lowest of theirs.

use std::ops::Range;

use unicode_segmentation::{UWordBoundIndices, UnicodeSegmentation};

use super::markup::Scanner;

/// A word of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Its bytes in the text.
    pub bytes: Range<usize>,
    /// Its Unicode code points in the text.
    pub chars: Range<usize>,
    /// The tokens that write it.
    pub tokens: Range<usize>,
    /// Lowest reward of its tokens; `None` when one of them has none.
    pub reward: Option<f32>,
    /// `true` if it only holds the sentence together ("the", "is", "of") and claims nothing about
    /// the image.
    pub function: bool,
    /// `true` if markup stands between it and the word before.
    pub after_markup: bool,
    /// The reward under which it is doubted; 0, which doubts nothing, until somebody sets it.
    pub threshold: f32,
}

impl Word {
    /// Returns `true` if the word claims something and its reward is below its threshold.
    pub fn doubted(&self) -> bool {
        !self.function && self.reward.is_some_and(|reward| reward < self.threshold)
    }
}

/// Place of a token's bytes in the text.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Start of the first code point that it contributes to.
    start: usize,
    /// One past the last byte of text that it contributes to; one more than the text had when it
    /// left a code point incomplete.
    reach: usize,
    /// Length of the text after it, when no code point was left incomplete.
    boundary: Option<usize>,
}

/// The text of a growing token sequence, and its words as they close.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    text: String,
    /// Bytes that do not make a code point yet: at most three.
    pending: Vec<u8>,
    tokens: Vec<Mark>,
    markup: Scanner,
    whole: bool,
    /// End of the last word given out, in bytes and in code points.
    scanned: (usize, usize),
    settled: usize,
}

impl Transcript {
    /// Appends one token's bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = self.text.len();
        self.pending.extend_from_slice(bytes);
        let kept = decode(&self.pending, &mut self.text);
        self.pending.drain(..self.pending.len() - kept);
        let end = self.text.len();
        self.tokens.push(Mark {
            start,
            reach: end + usize::from(kept > 0),
            boundary: (kept == 0).then_some(end),
        });
    }

    /// Ends the text, at byte `cut` where one is given: whatever is open closes. Bytes that never
    /// became a code point end as U+FFFD.
    pub fn close(&mut self, cut: Option<usize>) {
        match cut {
            Some(at) => {
                self.text.truncate(at);
                // What was cut off may have made markup of what is left.
                self.markup = Scanner::default();
            }
            None if !self.pending.is_empty() => self.text.push(char::REPLACEMENT_CHARACTER),
            None => {}
        }
        self.pending.clear();
        self.whole = true;
    }

    /// The text so far, without the bytes of an incomplete code point.
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

    /// The bytes of the text that each token contributes to; of a code point that it leaves
    /// incomplete at least the first.
    pub fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let length = self.text.len();
        self.tokens
            .iter()
            .map(move |t| t.start.min(length)..t.reach.min(length))
    }

    /// Returns the number of leading tokens that contribute to the text: after a cut, those before
    /// it.
    pub fn contributing(&self) -> usize {
        if self.whole {
            self.tokens.partition_point(|t| t.start < self.text.len())
        } else {
            self.tokens.len()
        }
    }

    /// The most tokens, at most `tokens`, that end within the first `limit` bytes of the text and
    /// at the end of a code point; and that end.
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

    /// The next word that has closed; `rewards` are those of the leading tokens. With `within`,
    /// only one that ends in that many bytes of text and has a reward: later ones wait.
    pub fn next_word(&mut self, rewards: &[f32], within: Option<usize>) -> Option<Word> {
        self.markup.read(&self.text, self.whole);
        let (word, settled) = cut(&self.text, self.scanned.0, self.whole, &self.markup);
        self.settled = settled;
        let bytes = word?;
        let first = self.tokens.partition_point(|t| t.reach <= bytes.start);
        let tokens = first..self.tokens.partition_point(|t| t.start < bytes.end);
        let reward = rewards
            .get(tokens.clone())
            .map(|r| r.iter().copied().fold(f32::INFINITY, f32::min));
        if within.is_some_and(|limit| bytes.end > limit || reward.is_none()) {
            return None;
        }
        let start = self.scanned.1 + self.text[self.scanned.0..bytes.start].chars().count();
        let text = &self.text[bytes.clone()];
        let chars = start..start + text.chars().count();
        let after_markup =
            self.scanned.0 > 0 && self.markup.within(&(self.scanned.0..bytes.start)).is_some();
        self.scanned = (bytes.end, chars.end);
        self.settled = bytes.end;
        Some(Word {
            function: is_function_word(text),
            bytes,
            chars,
            tokens,
            reward,
            after_markup,
            threshold: 0.0,
        })
    }

    /// Bytes of text that later tokens cannot make part of another word, as of the last
    /// [`Self::next_word`].
    pub fn settled(&self) -> usize {
        self.settled
    }
}

/// The text and the words of a whole answer.
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

/// The same words, each doubted below `threshold`.
pub fn doubting(mut words: Vec<Word>, threshold: f32) -> Vec<Word> {
    words.iter_mut().for_each(|word| word.threshold = threshold);
    words
}

/// Appends what `bytes` say to `text`, as [`String::from_utf8_lossy`] would, and returns how many
/// bytes at the end may still become a code point.
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

/// The first word at or after byte `from` that no later text can change, and up to where the text
/// is settled otherwise.
///
/// Words of markup are none, and a word that later text may take into markup is open.
fn cut(
    text: &str,
    mut from: usize,
    whole: bool,
    markup: &Scanner,
) -> (Option<Range<usize>>, usize) {
    loop {
        let (word, settled) = cut_prose(text, from, whole);
        let Some(word) = word else {
            return (None, settled.min(markup.read_to()));
        };
        if word.end > markup.read_to() {
            return (None, word.start.min(markup.read_to()));
        }
        match markup.within(&word) {
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

/// The same where nothing is markup.
///
/// UAX #29 looks one segment ahead ("dog" and "'" become one word when "s" follows) and our hyphens
/// do too, so a word is closed by the two segments after it, or by the end of a `whole` text.
fn cut_prose(text: &str, from: usize, whole: bool) -> (Option<Range<usize>>, usize) {
    let mut settled = from;
    let mut rest = text[from..].split_word_bound_indices();
    while let Some((at, segment)) = rest.next() {
        if is_word(segment) {
            let word = joined(rest, at + segment.len(), whole);
            return (word.map(|end| from + at..from + end), from + at);
        }
        if whole || rest.clone().next().is_some() {
            settled = from + at + segment.len();
        }
    }
    (None, settled)
}

/// Returns the end of the word that ends before `rest`, hyphens joined; `None` while it is open.
fn joined(mut rest: UWordBoundIndices<'_>, mut end: usize, whole: bool) -> Option<usize> {
    loop {
        let mut ahead = rest.clone();
        let (Some((_, first)), Some((at, second))) = (ahead.next(), ahead.next()) else {
            return whole.then_some(end);
        };
        if !matches!(first, "-" | "\u{2010}" | "\u{2011}") {
            return Some(end);
        }
        if !is_word(second) {
            // "_" can still grow into "_a", which is a word.
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

/// Returns `true` if `word` holds the sentence together and claims nothing about the image.
pub fn is_function_word(word: &str) -> bool {
    let lower = word.to_lowercase();
    FUNCTION_WORDS.binary_search(&lower.as_str()).is_ok()
}

/// English articles, pronouns, auxiliaries, conjunctions, and the prepositions that say little
/// about where things are. Sorted.
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
    fn words_leave_punctuation_and_keep_apostrophes_hyphens_and_decimals() {
        assert_eq!(
            found("A man's \"t-shirt\", 3.5 m -- wet - not well-."),
            ["A", "man's", "t-shirt", "3.5", "m", "wet", "not", "well"]
        );
        assert_eq!(found("... !? 🐕"), Vec::<String>::new());
        assert_eq!(found("naïve café 犬と"), ["naïve", "café", "犬", "と"]);
    }

    #[test]
    fn a_word_takes_the_lowest_reward_of_all_tokens_that_write_it() {
        let tokens: [&[u8]; 5] = [b" fri", b"sbee. A d", b"og", b" ", b"\xF0\x9F"];
        let (text, words) = words(tokens, &[0.9, 0.4, 0.6, 0.1, 0.0]);
        assert_eq!(text, " frisbee. A dog \u{FFFD}");
        let seen: Vec<_> = words
            .iter()
            .map(|w| (&text[w.bytes.clone()], w.tokens.clone(), w.reward))
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
    fn a_letter_split_over_tokens_belongs_to_each_of_them() {
        let (text, words) = words([b"caf\xC3".as_slice(), b"\xA9 x"], &[0.2, 0.8]);
        assert_eq!(text, "café x");
        assert_eq!(words[0].tokens, 0..2);
        assert_eq!(words[1].tokens, 1..2);
        assert_eq!((words[1].chars.clone(), words[1].reward), (5..6, Some(0.8)));
    }

    #[test]
    fn a_word_waits_for_its_end_and_for_its_rewards() {
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
        assert_eq!(t.next_word(&[0.9], None).map(|w| w.reward), Some(None));
    }

    #[test]
    fn a_cut_leaves_only_the_tokens_before_it() {
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
    fn function_words_are_sorted_for_the_search() {
        assert!(FUNCTION_WORDS.is_sorted());
        assert!(is_function_word("The") && !is_function_word("yes") && !is_function_word("under"));
    }

    /// Text with what words are made of, and anything else.
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
        fn bytes_in_any_pieces_make_the_same_text(bytes in proptest::collection::vec(any::<u8>(),
            0..40), size in 1usize..5) {
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
        fn a_growing_text_has_the_words_of_the_whole_one(text in any_text(), size in 1usize..5) {
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
