//! Scores as they go out.

use std::ops::Range;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    guard::GuardReport,
    reward::scorer::TextRewards,
    serve::openai::response::{CompletionHead, Usage, Warning},
    serve::schema::guard::GuardReportSchema,
};

/// All scores of a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ScoreResponse {
    /// `score-...`, and the model that scored.
    #[serde(flatten)]
    pub(super) head: CompletionHead,
    /// An item each, in order.
    pub(super) results: Vec<ItemScores>,
    /// Tokens of all items as they were computed: the responses' are the completion's, each counted
    /// once; images, prompts and what windows read again before their own sentences are the
    /// prompt's.
    pub(super) usage: Usage,
    /// Parts of the request that had no effect; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<Warning>,
}

/// Of one text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ItemScores {
    /// Its place in the list.
    pub(super) index: usize,
    /// As it was given.
    pub(super) response: String,
    /// What the guard says about it.
    #[schema(value_type = GuardReportSchema)]
    pub(super) guard: GuardReport,
    /// In how many windows it was read; absent where it fits into the model's context as a whole.
    /// Tokens of a later window see as many whole sentences before theirs as fit into the context,
    /// and no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 2)]
    pub(super) windows: Option<usize>,
    /// Their bytes together are the response's.
    pub(super) tokens: Vec<TokenScore>,
}

/// Of one token.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct TokenScore {
    /// Its text; bytes that are no UTF-8 alone are U+FFFD.
    pub(super) token: String,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// Calibrated.
    pub(super) reward: f32,
    /// Natural logarithm of how likely the policy finds it; `-9999` stands for impossible.
    pub(super) logprob: f32,
    /// First code point of the response to which it contributes.
    pub(super) start: usize,
    /// One past the last.
    pub(super) end: usize,
    /// Its first byte in the response.
    pub(super) byte_start: usize,
    /// One past its last.
    pub(super) byte_end: usize,
}

/// The tokens that lie at `places` (in bytes, one behind the other) of `text`.
pub(super) fn token_scores(
    text: &str,
    places: &[Range<usize>],
    scored: &TextRewards,
) -> Vec<TokenScore> {
    // How many code points begin before a byte.
    let (mut begun, mut at) = (0, 0);
    let mut begun_before = |byte: usize| {
        begun += text.as_bytes()[at..byte]
            .iter()
            .filter(|&&b| !is_continuation(b))
            .count();
        at = byte;
        begun
    };
    let numbers = scored.rewards.iter().zip(&scored.log_probabilities);
    let token = |(place, (&reward, &logprob)): (&Range<usize>, (&f32, &f32))| {
        let bytes = &text.as_bytes()[place.clone()];
        // A token that begins inside a code point contributes to the one begun before it.
        let start = begun_before(place.start)
            - usize::from(bytes.first().is_some_and(|&b| is_continuation(b)));
        let end = begun_before(place.end);
        let token = String::from_utf8_lossy(bytes).into_owned();
        let logprob = logprob.max(-9999.0);
        TokenScore {
            token,
            bytes: bytes.to_vec(),
            reward,
            logprob,
            start,
            end,
            byte_start: place.start,
            byte_end: place.end,
        }
    };
    places.iter().zip(numbers).map(token).collect()
}

/// Returns `true` if a byte of UTF-8 is not the first of its code point.
fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str, ends: &[usize]) -> Vec<TokenScore> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let places: Vec<_> = starts.zip(ends).map(|(start, &end)| start..end).collect();
        let scored = TextRewards {
            rewards: vec![0.5; places.len()],
            log_probabilities: vec![f32::NEG_INFINITY; places.len()],
        };
        token_scores(text, &places, &scored)
    }

    #[test]
    fn tokens_inside_a_character_name_it() {
        let tokens = cut("é🐕x", &[1, 3, 4, 6, 7]);
        let places: Vec<_> = tokens
            .iter()
            .map(|t| (t.start, t.end, t.byte_start, t.byte_end))
            .collect();
        assert_eq!(
            places,
            [
                (0, 1, 0, 1),
                (0, 2, 1, 3),
                (1, 2, 3, 4),
                (1, 2, 4, 6),
                (2, 3, 6, 7)
            ]
        );
        assert_eq!(
            (tokens[4].token.as_str(), tokens[4].logprob),
            ("x", -9999.0)
        );
    }

    proptest! {
        #[test]
        fn code_points_are_those_that_the_bytes_touch(text in "\\PC{1,12}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut ends: Vec<usize> = cuts.iter().map(|c| 1 + c.index(text.len()))
                .chain([text.len()]).collect();
            ends.sort_unstable();
            ends.dedup();
            for t in cut(&text, &ends) {
                let touched = text.char_indices().map(|(at, c)| at < t.byte_end
                    && t.byte_start < at + c.len_utf8());
                let expected: Vec<usize> = touched.enumerate()
                    .filter_map(|(i, touched)| touched.then_some(i)).collect();
                prop_assert_eq!((t.start..t.end).collect::<Vec<_>>(), expected);
            }
        }
    }
}
