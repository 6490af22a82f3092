//! The words of an answer with what its tokens say about them.

use std::ops::Range;

use crate::{feedback::record::ResponseToken, guard::words};

/// A word.
pub(in crate::feedback) struct TokenWord {
    /// Its bytes in the answer.
    pub(in crate::feedback) bytes: Range<usize>,
    /// Its code points.
    pub(in crate::feedback) chars: Range<usize>,
    /// Indicates whether it claims nothing about the image.
    pub(in crate::feedback) function: bool,
    /// The lowest reward of its tokens; absent where one has none.
    pub(in crate::feedback) reward: Option<f32>,
    /// The probability of its unlikeliest token; absent where one has none.
    pub(in crate::feedback) probability: Option<f32>,
}

/// The words of an answer, in order.
pub(in crate::feedback) fn token_words(response: &str, tokens: &[ResponseToken]) -> Vec<TokenWord> {
    let (_, words) = words::words([response.as_bytes()], &[]);
    let lowest = |tokens: &[ResponseToken], value: fn(&ResponseToken) -> Option<f32>| {
        tokens
            .iter()
            .try_fold(f32::INFINITY, |lowest, token| {
                value(token).map(|v| lowest.min(v))
            })
            .filter(|v| v.is_finite())
    };
    let word = |word: words::Word| {
        let first = tokens.partition_point(|t| t.end <= word.chars.start);
        let last = tokens
            .partition_point(|t| t.start < word.chars.end)
            .max(first);
        let own = &tokens[first..last];
        TokenWord {
            reward: lowest(own, |t| t.reward),
            probability: lowest(own, |t| t.logprob).map(f32::exp),
            function: word.function,
            bytes: word.bytes,
            chars: word.chars,
        }
    };
    words.into_iter().map(word).collect()
}
