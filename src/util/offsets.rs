//! Ranges of a text in three units that must not be mixed: Unicode code points, UTF-8 bytes and
//! tokens. All are half-open and count from 0.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Defines a range of one unit with what all three have in common.
macro_rules! range_of {
    ($(#[$attribute:meta])* $name:ident, $unit:literal) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name {
            #[doc = concat!("First ", $unit, ".")]
            pub start: usize,
            #[doc = concat!("One past the last ", $unit, ".")]
            pub end: usize,
        }

        impl $name {
            /// Returns the range from `start` up to and without `end`.
            pub fn new(start: usize, end: usize) -> Self {
                Self { start, end }
            }

            /// Returns the offsets as a standard range, to slice with.
            pub fn range(self) -> Range<usize> {
                self.start..self.end
            }

            /// Returns `true` if nothing lies within the range.
            pub fn is_empty(self) -> bool {
                self.start >= self.end
            }

            /// Returns `true` if the two ranges have an offset in common.
            pub fn overlaps(self, other: Self) -> bool {
                self.start < other.end && other.start < self.end
            }
        }

        impl From<Range<usize>> for $name {
            fn from(range: Range<usize>) -> Self {
                Self::new(range.start, range.end)
            }
        }
    };
}

range_of! {
    /// Range of Unicode code points of a text.
    CharRange, "code point"
}

range_of! {
    /// Range of UTF-8 bytes of a text.
    ByteRange, "byte"
}

range_of! {
    /// Range of tokens of a tokenized text.
    TokenRange, "token"
}

impl CharRange {
    /// Returns the bytes of these code points; `None` if `text` is shorter or the range reversed.
    pub fn to_bytes(self, text: &str) -> Option<ByteRange> {
        let byte = |char: usize| {
            let ends = std::iter::once(text.len());
            text.char_indices().map(|(at, _)| at).chain(ends).nth(char)
        };
        let (start, end) = (byte(self.start)?, byte(self.end)?);
        (start <= end).then(|| ByteRange::new(start, end))
    }

    /// Returns the tokens that write these code points, given the code points of each token in
    /// order. An empty range has the empty range of tokens before the first that starts at or
    /// after it.
    pub fn to_tokens<T>(self, tokens: &[T], chars: impl Fn(&T) -> CharRange) -> TokenRange {
        if self.is_empty() {
            let at = tokens.partition_point(|token| chars(token).start < self.start);
            return TokenRange::new(at, at);
        }
        let start = tokens.partition_point(|token| chars(token).end <= self.start);
        let end = tokens.partition_point(|token| chars(token).start < self.end);
        TokenRange::new(start, end.max(start))
    }
}

impl ByteRange {
    /// Returns the code points of these bytes; `None` if an end lies outside of `text` or within a
    /// code point, or the range is reversed.
    pub fn to_chars(self, text: &str) -> Option<CharRange> {
        let start = text.get(..self.start)?.chars().count();
        let length = text.get(self.range())?.chars().count();
        Some(CharRange::new(start, start + length))
    }
}

impl TokenRange {
    /// Returns the code points that these tokens write, given the code points of each token in
    /// order; `None` if the range is empty or there are fewer tokens.
    pub fn to_chars<T>(self, tokens: &[T], chars: impl Fn(&T) -> CharRange) -> Option<CharRange> {
        let own = tokens.get(self.range())?;
        let (first, last) = (own.first()?, own.last()?);
        Some(CharRange::new(chars(first).start, chars(last).end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chars_and_bytes_convert_both_ways() {
        let text = "é 🐶.";
        for (chars, bytes) in [((0, 1), (0, 2)), ((2, 4), (3, 8)), ((4, 4), (8, 8))] {
            let chars = CharRange::new(chars.0, chars.1);
            let bytes = ByteRange::new(bytes.0, bytes.1);
            assert_eq!(chars.to_bytes(text), Some(bytes));
            assert_eq!(bytes.to_chars(text), Some(chars));
        }
    }

    #[test]
    fn offsets_outside_of_the_text_convert_to_none() {
        let text = "é.";
        assert_eq!(CharRange::new(0, 3).to_bytes(text), None);
        assert_eq!(CharRange::new(2, 1).to_bytes(text), None);
        assert_eq!(ByteRange::new(0, 4).to_chars(text), None);
        assert_eq!(ByteRange::new(0, 1).to_chars(text), None, "within é");
        assert_eq!(ByteRange::new(3, 2).to_chars(text), None);
    }

    #[test]
    fn tokens_cover_the_chars_that_they_write() {
        // "A" " dog" "."
        let tokens = [(0, 1), (1, 5), (5, 6)];
        let chars = |token: &(usize, usize)| CharRange::new(token.0, token.1);
        for (start, end, expected) in [
            (2, 5, (1, 2)),
            (0, 2, (0, 2)),
            (5, 5, (2, 2)),
            (6, 6, (3, 3)),
            (6, 9, (3, 3)),
        ] {
            let found = CharRange::new(start, end).to_tokens(&tokens, chars);
            assert_eq!(
                found,
                TokenRange::new(expected.0, expected.1),
                "{start}..{end}"
            );
        }
        assert_eq!(
            TokenRange::new(1, 3).to_chars(&tokens, chars),
            Some(CharRange::new(1, 6))
        );
        assert_eq!(TokenRange::new(1, 1).to_chars(&tokens, chars), None);
        assert_eq!(TokenRange::new(2, 4).to_chars(&tokens, chars), None);
    }

    #[test]
    fn range_is_written_as_start_and_end() {
        let json = serde_json::to_string(&CharRange::new(1, 3)).unwrap();
        assert_eq!(json, r#"{"start":1,"end":3}"#);
    }
}
