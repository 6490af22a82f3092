//! Versions of an answer, looked at from some place on: pure functions of their tracks.

use std::ops::Range;

use super::{Sampling, partial_answer::TokenAlternatives, track::DecodingTrack};
use crate::guard::{
    Candidate,
    render::is_whole,
    repair::{RepairVersion, begins_sentence, temperature},
    sentence::{Sentence, contradicts, repeats},
    words::Word,
};

/// The token before which a blocked answer ends: the last whole sentence, or line, before the one
/// with word `sentence` ends there.
pub(super) fn block_at(lead: &DecodingTrack, sentence: usize) -> usize {
    let (text, words) = (lead.draft.text(), lead.draft.words());
    let stands = |before: &str| before.trim_end_matches(' ').ends_with('\n') || is_whole(before);
    let starts = (1..=sentence.min(words.len().saturating_sub(1)))
        .rev()
        .filter(|&i| begins_sentence(text, words, i));
    let last = starts
        .filter_map(|i| words.get(i))
        .find(|word| stands(&text[..word.bytes.start]));
    last.map_or(0, |word| word.tokens.start)
}

/// The sentence of a version with word `at`; `None` where it may go on.
pub(super) fn sentence(track: &DecodingTrack, at: usize) -> Option<Sentence<'_>> {
    Sentence::containing(track.draft.text(), track.draft.words(), at, track.complete)
}

/// Returns whether whatever a version says next, its sentence with word `at` repeats itself or says
/// the opposite of the first one.
pub(super) fn is_hopeless(first_text: &str, at: usize, version: &DecodingTrack) -> bool {
    let (text, words) = (version.draft.text(), version.draft.words());
    let begun = words
        .get(at)
        .zip(words.last())
        .and_then(|(first, last)| text.get(first.bytes.start..last.bytes.end));
    let own = sentence(version, at)
        .map(|sentence| sentence.text)
        .or(begun)
        .unwrap_or_default();
    repeats(own) || contradicts(first_text, own)
}

/// Returns what a version says from some token and byte on, with its lowest reward; `None` where it
/// claims nothing.
pub(super) fn candidate(track: &DecodingTrack, (at, byte): (usize, usize)) -> Option<Candidate> {
    let claims = version(track, at, &[]);
    let text = track
        .draft
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

/// The bytes of words, or those behind what stands before them where there are none.
pub(super) fn span_of(words: &[Word], behind: usize) -> Range<usize> {
    words
        .first()
        .zip(words.last())
        .map_or(behind..behind, |(first, last)| {
            first.bytes.start..last.bytes.end
        })
}

/// A track from token `at` on. Its first word may begin before: a hyphen makes one word of two.
pub(super) fn version<'a>(
    track: &'a DecodingTrack,
    at: usize,
    log_probabilities: &'a [f32],
) -> RepairVersion<'a> {
    let words = track.draft.words();
    RepairVersion {
        words,
        from: first_word(words, at),
        log_probabilities,
    }
}

/// The first word that token `at` or a later one writes.
pub(super) fn first_word(words: &[Word], at: usize) -> usize {
    words.partition_point(|word| word.tokens.end <= at)
}

/// The first doubted word that token `at` or a later one writes.
pub(super) fn first_doubted(track: &DecodingTrack, at: usize) -> Option<usize> {
    track
        .draft
        .words()
        .iter()
        .position(|word| word.tokens.end > at && word.is_flagged())
}

pub(super) fn log_probability(menu: &TokenAlternatives, id: u32) -> f32 {
    let found = menu
        .likely
        .iter()
        .chain(&menu.ending)
        .find(|(likely, _)| *likely == id);
    found.map_or(f32::NEG_INFINITY, |(_, logprob)| *logprob)
}

/// Returns how a version is sampled: as the answer is, or warmer, from a seed that no other version
/// has.
pub(super) fn warmed(sampling: &Sampling, number: Option<usize>, attempt: u32) -> Sampling {
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
