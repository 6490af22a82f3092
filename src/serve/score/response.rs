//! Responses of scoring.

use std::ops::Range;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    guard::GuardReport,
    reward::scorer::TextRewards,
    serve::openai::response::{CompletionHead, Usage, Warning},
    serve::schema::guard::GuardReportSchema,
};

/// Scores of all items.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ScoreResponse {
    /// Id `score-…`, and the model.
    #[serde(flatten)]
    pub(super) head: CompletionHead,
    /// One result per item, in order.
    pub(super) results: Vec<ItemScores>,
    /// Token counts. Responses count as completion, each token once; images, prompts and text that
    /// is read again as context of later windows count as prompt.
    pub(super) usage: Usage,
    /// Parts of the request that had no effect; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<Warning>,
}

/// Scores of one text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ItemScores {
    /// Index of the item, from 0.
    pub(super) index: usize,
    /// Text, as given.
    pub(super) response: String,
    /// Guard report.
    #[schema(value_type = GuardReportSchema)]
    pub(super) guard: GuardReport,
    /// Number of windows in which the text was read; absent if it fits into the model's context. In
    /// later windows, tokens see only as many whole sentences before theirs as fit into the
    /// context.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 2)]
    pub(super) windows: Option<usize>,
    /// Tokens; their bytes concatenate to the text.
    pub(super) tokens: Vec<TokenScore>,
}

/// Scores of one token.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct TokenScore {
    /// Text of the token; bytes that are not valid UTF-8 alone become U+FFFD.
    pub(super) token: String,
    /// Bytes of the token.
    pub(super) bytes: Vec<u8>,
    /// Calibrated reward, 0 to 1.
    pub(super) reward: f32,
    /// Natural-log probability under the policy; `-9999` for impossible tokens.
    pub(super) logprob: f32,
    /// First code point of the text that the token contributes to.
    pub(super) start: usize,
    /// End of its code points, exclusive.
    pub(super) end: usize,
    /// First byte of the token in the text.
    pub(super) byte_start: usize,
    /// End of its bytes, exclusive.
    pub(super) byte_end: usize,
}

/// Returns the tokens at the consecutive byte `ranges` of `text` with their scores.
pub(super) fn token_scores(
    text: &str,
    ranges: &[Range<usize>],
    scored: &TextRewards,
) -> Vec<TokenScore> {
    // Number of code points that start before a byte.
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
    let token = |(range, (&reward, &logprob)): (&Range<usize>, (&f32, &f32))| {
        let bytes = &text.as_bytes()[range.clone()];
        // A token that starts inside a code point contributes to that one.
        let start = begun_before(range.start)
            - usize::from(bytes.first().is_some_and(|&b| is_continuation(b)));
        let end = begun_before(range.end);
        let token = String::from_utf8_lossy(bytes).into_owned();
        let logprob = logprob.max(-9999.0);
        TokenScore {
            token,
            bytes: bytes.to_vec(),
            reward,
            logprob,
            start,
            end,
            byte_start: range.start,
            byte_end: range.end,
        }
    };
    ranges.iter().zip(numbers).map(token).collect()
}

/// Returns `true` for a UTF-8 continuation byte.
fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn truncate(text: &str, ends: &[usize]) -> Vec<TokenScore> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let ranges: Vec<_> = starts.zip(ends).map(|(start, &end)| start..end).collect();
        let scored = TextRewards {
            rewards: vec![0.5; ranges.len()],
            log_probabilities: vec![f32::NEG_INFINITY; ranges.len()],
        };
        token_scores(text, &ranges, &scored)
    }

    #[test]
    fn a_token_inside_a_character_covers_it() {
        let tokens = truncate("é🐕x", &[1, 3, 4, 6, 7]);
        let ranges: Vec<_> = tokens
            .iter()
            .map(|t| (t.start, t.end, t.byte_start, t.byte_end))
            .collect();
        assert_eq!(
            ranges,
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
        fn code_point_ranges_cover_the_bytes(text in "\\PC{1,12}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut ends: Vec<usize> = cuts.iter().map(|c| 1 + c.index(text.len()))
                .chain([text.len()]).collect();
            ends.sort_unstable();
            ends.dedup();
            for t in truncate(&text, &ends) {
                let touched = text.char_indices().map(|(at, c)| at < t.byte_end
                    && t.byte_start < at + c.len_utf8());
                let expected: Vec<usize> = touched.enumerate()
                    .filter_map(|(i, touched)| touched.then_some(i)).collect();
                prop_assert_eq!((t.start..t.end).collect::<Vec<_>>(), expected);
            }
        }
    }
}
