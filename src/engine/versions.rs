//! Pure functions on continuations from a given token on.

use std::ops::Range;

use super::{Sampling, partial_answer::TokenAlternatives, track::DecodingTrack};
use crate::guard::{
    Candidate,
    render::is_whole,
    repair::{RepairVersion, begins_sentence, temperature},
    sentence::{Sentence, contradicts, repeats},
    words::Word,
};

/// Returns the token before which a blocked answer ends: after the last whole sentence or line
/// before the sentence that starts with word `sentence`.
pub(super) fn block_start(lead: &DecodingTrack, sentence: usize) -> usize {
    let (text, words) = (lead.partial.text(), lead.partial.words());
    let ends_cleanly =
        |before: &str| before.trim_end_matches(' ').ends_with('\n') || is_whole(before);
    let starts = (1..=sentence.min(words.len().saturating_sub(1)))
        .rev()
        .filter(|&i| begins_sentence(text, words, i));
    let last = starts
        .filter_map(|i| words.get(i))
        .find(|word| ends_cleanly(&text[..word.bytes.start]));
    last.map_or(0, |word| word.tokens.start)
}

/// Returns the sentence of a continuation that contains word `at`; `None` if it has not ended.
pub(super) fn sentence(track: &DecodingTrack, at: usize) -> Option<Sentence<'_>> {
    Sentence::containing(
        track.partial.text(),
        track.partial.words(),
        at,
        track.complete,
    )
}

/// Returns `true` if the sentence with word `at` already repeats itself or contradicts the
/// original, whatever follows.
pub(super) fn is_beyond_repair(original_text: &str, at: usize, version: &DecodingTrack) -> bool {
    let (text, words) = (version.partial.text(), version.partial.words());
    let begun = words
        .get(at)
        .zip(words.last())
        .and_then(|(first, last)| text.get(first.bytes.start..last.bytes.end));
    let own = sentence(version, at)
        .map(|sentence| sentence.text)
        .or(begun)
        .unwrap_or_default();
    repeats(own) || contradicts(original_text, own)
}

/// Returns the continuation's text from a token and byte on with its lowest reward; `None` if it
/// has no content words.
pub(super) fn rejected_candidate(
    track: &DecodingTrack,
    (at, byte): (usize, usize),
) -> Option<Candidate> {
    let claims = version(track, at, &[]);
    let text = track
        .partial
        .text()
        .get(byte..)
        .unwrap_or_default()
        .trim()
        .to_owned();
    (!text.is_empty() && !claims.is_empty()).then(|| Candidate {
        text,
        score: claims.score(),
    })
}

/// Returns the byte range of `words`, or the empty range at `fallback` if there are none.
pub(super) fn byte_range(words: &[Word], fallback: usize) -> Range<usize> {
    words
        .first()
        .zip(words.last())
        .map_or(fallback..fallback, |(first, last)| {
            first.bytes.start..last.bytes.end
        })
}

/// Returns a view of a continuation from token `at` on. Its first word may start earlier: a hyphen
/// joins two words into one.
pub(super) fn version<'a>(
    track: &'a DecodingTrack,
    at: usize,
    log_probabilities: &'a [f32],
) -> RepairVersion<'a> {
    let words = track.partial.words();
    RepairVersion {
        words,
        from: first_word(words, at),
        log_probabilities,
    }
}

/// Returns the index of the first word that ends after token `at`.
pub(super) fn first_word(words: &[Word], at: usize) -> usize {
    words.partition_point(|word| word.tokens.end <= at)
}

/// Returns the index of the first flagged word that ends after token `at`.
pub(super) fn first_flagged(track: &DecodingTrack, at: usize) -> Option<usize> {
    track
        .partial
        .words()
        .iter()
        .position(|word| word.tokens.end > at && word.is_flagged())
}

pub(super) fn log_probability(alternatives: &TokenAlternatives, id: u32) -> f32 {
    let found = alternatives
        .likely
        .iter()
        .chain(&alternatives.ending)
        .find(|(likely, _)| *likely == id);
    found.map_or(f32::NEG_INFINITY, |(_, logprob)| *logprob)
}

/// Returns the sampling parameters of a candidate: the request's, or a higher temperature, with a
/// seed of its own.
pub(super) fn candidate_sampling(
    sampling: &Sampling,
    number: Option<usize>,
    attempt: u32,
) -> Sampling {
    let temperature = number.map_or(sampling.temperature, |number| {
        temperature(sampling.temperature, number)
    });
    let seed = sampling.seed ^ (u64::from(attempt) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Sampling {
        temperature,
        seed,
        ..sampling.clone()
    }
}
