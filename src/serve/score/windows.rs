//! Windows for texts longer than the context: each sentence is scored with as many whole sentences
//! before it as fit.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use crate::vlm::{processor::casing::Casing, processor::tokenizer::TextTokenizer};

/// Fewest response tokens that must fit into the context besides image and prompt.
const LEAST_ROOM: usize = 16;

/// Inverse of the smallest share of a window that is newly scored, so that many short sentences do
/// not need a window each.
const PART: usize = 8;

/// Response tokens of one forward pass, of which the last are scored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoreWindow {
    pub(super) response: Vec<u32>,
    /// Number of tokens, at the end, that no earlier window scored.
    pub(super) scored: usize,
}

/// A response divided into windows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoreWindows {
    pub(super) windows: Vec<ScoreWindow>,
    /// Byte range of each token in the response; the first token of a window also covers the
    /// whitespace before it, which the model does not see.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Reasons why a response cannot be scored.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// The tokenizer failed.
    Unreadable(String),
    /// The response has this many tokens, more than allowed.
    TooLong(usize),
    /// The context leaves no room for a response.
    NoRoom,
}

/// A sentence, or a part of one that is longer than a window.
struct Unit {
    bytes: Range<usize>,
    /// Tokens after another unit.
    inner: Vec<u32>,
    /// Tokens at the start of a window, and the bytes of leading whitespace left out.
    first: Vec<u32>,
    lead: usize,
}

impl Unit {
    fn len(&self) -> usize {
        self.inner.len().max(self.first.len())
    }
}

/// Parameters for dividing responses into windows.
pub(super) struct ResponseTokenizer<'a> {
    pub(super) tokenizer: &'a TextTokenizer,
    pub(super) casing: Casing,
    /// Most response tokens of one window.
    pub(super) room: usize,
    /// Most tokens of a response.
    pub(super) max_tokens: usize,
}

impl ResponseTokenizer<'_> {
    /// Divides a response into windows; one if it fits.
    pub(super) fn windows(&self, response: &str) -> Result<ScoreWindows, Refusal> {
        let whole = self.unit(response, response, 0..response.len())?;
        if whole.first.len() <= self.room {
            return Ok(self.join(&[whole]));
        }
        if whole.first.len() > self.max_tokens {
            return Err(Refusal::TooLong(whole.first.len()));
        }
        if self.room < LEAST_ROOM {
            return Err(Refusal::NoRoom);
        }
        let shown = self.casing.apply(response);
        let mut units = Vec::new();
        for sentence in sentences(response) {
            let unit = self.unit(response, &shown, sentence)?;
            if unit.len() <= self.room {
                units.push(unit)
            } else {
                self.split(response, &shown, unit, &mut units)?
            }
        }
        Ok(self.join(&units))
    }

    fn unit(&self, response: &str, shown: &str, bytes: Range<usize>) -> Result<Unit, Refusal> {
        let encode = |text: &str| {
            self.tokenizer
                .encode_text(text)
                .map_err(|why| Refusal::Unreadable(why.to_string()))
        };
        let text = &response[bytes.clone()];
        let trimmed = text.trim_start();
        // Text of whitespace alone is kept.
        let lead = if trimmed.is_empty() {
            0
        } else {
            text.len() - trimmed.len()
        };
        let first = encode(&self.casing.apply(&text[lead..]))?;
        let inner = if shown.len() == text.len() {
            Vec::new()
        } else {
            encode(&shown[bytes.clone()])?
        };
        Ok(Unit {
            bytes,
            inner,
            first,
            lead,
        })
    }

    /// Halves a unit between words, or within a word that is too long, until two parts fit into a
    /// window.
    fn split(
        &self,
        response: &str,
        shown: &str,
        unit: Unit,
        units: &mut Vec<Unit>,
    ) -> Result<(), Refusal> {
        if unit.len() <= self.room / 2 {
            units.push(unit);
            return Ok(());
        }
        let text = &response[unit.bytes.clone()];
        let middle = text.floor_char_boundary(text.len() / 2);
        let before = text[..middle]
            .rfind(char::is_whitespace)
            .filter(|&at| !text[..at].trim().is_empty());
        let after = text[middle..]
            .find(char::is_whitespace)
            .map(|at| middle + at);
        let near = before
            .into_iter()
            .chain(after)
            .min_by_key(|at| at.abs_diff(middle));
        let first = text.chars().next().map_or(0, char::len_utf8);
        let cut = unit.bytes.start + near.unwrap_or(middle.max(first));
        for half in [unit.bytes.start..cut, cut..unit.bytes.end] {
            self.split(response, shown, self.unit(response, shown, half)?, units)?;
        }
        Ok(())
    }

    fn join(&self, units: &[Unit]) -> ScoreWindows {
        let (mut windows, mut ranges) = (Vec::new(), Vec::new());
        let mut next = 0;
        while next < units.len() {
            let (mut end, mut total) = (next + 1, units[next].len());
            let enough = if next == 0 {
                self.room
            } else {
                self.room / PART
            };
            while end < units.len() && total < enough && total + units[end].len() <= self.room {
                total += units[end].len();
                end += 1;
            }
            let mut begin = next;
            while begin > 0 && total + units[begin - 1].len() <= self.room {
                begin -= 1;
                total += units[begin].len();
            }
            let mut window = ScoreWindow {
                response: Vec::with_capacity(total),
                scored: 0,
            };
            for (i, unit) in units.iter().enumerate().take(end).skip(begin) {
                let (tokens, lead) = if i == begin {
                    (&unit.first, unit.lead)
                } else {
                    (&unit.inner, 0)
                };
                window.response.extend(tokens);
                if i >= next {
                    window.scored += tokens.len();
                    self.push_ranges(tokens, lead, unit.bytes.start, &mut ranges);
                }
            }
            windows.push(window);
            next = end;
        }
        ScoreWindows { windows, ranges }
    }

    fn push_ranges(
        &self,
        tokens: &[u32],
        lead: usize,
        start: usize,
        ranges: &mut Vec<Range<usize>>,
    ) {
        let (mut start, mut end) = (start, start + lead);
        for &id in tokens {
            end += self.tokenizer.bytes(id).len();
            ranges.push(start..end);
            start = end;
        }
    }
}

/// Returns the sentences of a text, each with the whitespace before it.
fn sentences(text: &str) -> Vec<Range<usize>> {
    // Whitespace alone joins the next sentence or, at the end, the last one.
    let full = text
        .split_sentence_bound_indices()
        .filter(|(_, sentence)| !sentence.trim().is_empty());
    let ends = full.map(|(at, sentence)| at + sentence.trim_end().len());
    let apart = |&at: &usize| !text[..at].trim().is_empty() && !text[at..].trim().is_empty();
    let mut starts: Vec<usize> = std::iter::once(0)
        .chain(ends.filter(apart))
        .chain([text.len()])
        .collect();
    starts.dedup();
    starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn sentences_include_leading_whitespace() {
        let text = " A dog runs.  It is 3.5 m long!\n\n- a cat\n ";
        let cut: Vec<&str> = sentences(text)
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(
            cut,
            [" A dog runs.", "  It is 3.5 m long!", "\n\n- a cat\n "]
        );
        assert_eq!(sentences("\n A").len(), 1);
    }

    fn embedded() -> Arc<TextTokenizer> {
        Bundle::vocabulary_of("candor-mini").unwrap().tokenizer
    }

    /// Decodes tokens.
    fn spelled(tokenizer: &TextTokenizer, tokens: &[u32]) -> String {
        String::from_utf8(
            tokens
                .iter()
                .flat_map(|&id| tokenizer.bytes(id).to_vec())
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn windows_include_as_many_earlier_sentences_as_fit() {
        let tokenizer = embedded();
        let writer = ResponseTokenizer {
            tokenizer: &tokenizer,
            casing: Casing::Sentence,
            room: 16,
            max_tokens: 100,
        };
        let text = "A dog runs. It is Brown and white.\nTwo men sit on a bench. They smile. A red \
                    car is parked behind the house.";
        let found = writer.windows(text).unwrap();
        let shown: Vec<_> = found
            .windows
            .iter()
            .map(|window| {
                let (seen, scored) = window
                    .response
                    .split_at(window.response.len() - window.scored);
                (spelled(&tokenizer, seen), spelled(&tokenizer, scored))
            })
            .collect();
        let shown: Vec<_> = shown
            .iter()
            .map(|(seen, scored)| (seen.as_str(), scored.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("", "A dog runs. it is brown and white."),
                ("It is brown and white.", " two men sit on a bench."),
                ("Two men sit on a bench.", " they smile."),
                ("They smile.", " a red car is parked behind the house."),
            ]
        );
        assert_eq!(
            writer.windows(&"dog ".repeat(101)),
            Err(Refusal::TooLong(102))
        );
        assert_eq!(
            ResponseTokenizer { room: 12, ..writer }.windows(text),
            Err(Refusal::NoRoom)
        );
    }

    proptest! {
        #[test]
        fn windows_fit_and_cover_every_byte_once(
            pieces in proptest::collection::vec("([a-zA-Zé]{1,9}|[a-z]{20,70}|[.!?]|[ \
                                                 \n]{1,3}|犬|\\PC)", 1..60), room in 16usize..60,
        ) {
            let response = pieces.concat();
            prop_assume!(!response.trim().is_empty());
            let tokenizer = embedded();
            let found = ResponseTokenizer { tokenizer: &tokenizer, casing: Casing::Sentence, room,
                max_tokens: 10_000 }.windows(&response).unwrap();
            let mut at = 0;
            for range in &found.ranges {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > at);
                at = range.end;
            }
            prop_assert_eq!(at, response.len());
            prop_assert_eq!(found.windows.iter().map(|w| w.scored).sum::<usize>(),
                found.ranges.len());
            for window in &found.windows {
                prop_assert!(0 < window.scored && window.scored <= window.response.len()
                    && window.response.len() <= room);
            }
            prop_assert!(found.windows.len() <= 2 + 3 * PART * found.ranges.len() / room);
            let whole = tokenizer.encode_text(&Casing::Sentence.apply(response.trim_start()))
                .unwrap();
            prop_assert!(whole.len() > room || found.windows.len() == 1);
        }
    }
}
