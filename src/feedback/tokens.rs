//! Tokens in their places.

use super::record::{ResponseToken, TokenLabel};
use crate::{guard::words::Transcript, vlm::vocabulary::PolicyVocabulary};

/// A text that its tokens do not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written in the model's vocabulary")]
pub struct TokenMismatch;

/// A token's vocabulary id, its bytes, its log-probability and its reward.
pub type ScoredPiece<'a> = (u32, &'a [u8], Option<f32>, Option<f32>);

/// The tokens that write `text`, and what follows it up to the end of a token, in their places.
///
/// # Errors
/// When they write something else.
pub fn place<'a>(
    text: &str,
    written: impl Iterator<Item = ScoredPiece<'a>>,
) -> Result<Vec<ResponseToken>, TokenMismatch> {
    let (mut transcript, mut tokens) = (Transcript::default(), Vec::new());
    for (id, bytes, logprob, reward) in written {
        transcript.push(bytes);
        tokens.push(ResponseToken {
            id,
            text: String::new(),
            start: 0,
            end: 0,
            logprob,
            reward,
            label: TokenLabel::None,
        });
    }
    transcript.close(None);
    if !transcript.text().starts_with(text) {
        return Err(TokenMismatch);
    }
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    for (token, bytes) in tokens.iter_mut().zip(transcript.places()) {
        // A code point belongs to all tokens that write some of its bytes.
        token.start = chars.partition_point(|&(at, c)| at + c.len_utf8() <= bytes.start);
        token.end = chars
            .partition_point(|&(at, _)| at < bytes.end)
            .max(token.start);
        token.text = chars[token.start..token.end]
            .iter()
            .map(|&(_, c)| c)
            .collect();
    }
    Ok(tokens)
}

/// The tokens of a text in their places.
///
/// # Errors
/// When it cannot be written in them.
pub fn tokenize(
    vocabulary: &PolicyVocabulary,
    text: &str,
) -> Result<Vec<ResponseToken>, TokenMismatch> {
    let ids = vocabulary.encode(text, true).ok_or(TokenMismatch)?;
    // The policy's letters lie where the text's do.
    let cased = vocabulary.casing.apply(text);
    let mut tokens = place(
        &cased,
        ids.iter()
            .map(|&id| (id, vocabulary.tokenizer.bytes(id), None, None)),
    )?;
    let chars: Vec<char> = text.chars().collect();
    tokens
        .iter_mut()
        .for_each(|token| token.text = chars[token.start..token.end].iter().collect());
    Ok(tokens)
}

/// Versions whose vocabulary is remembered.
const REMEMBERED: usize = 16;

/// The vocabularies of the versions that were served lately: what corrects an answer is written in
/// the tokens that the answer was written in.
#[derive(Debug)]
pub(super) struct Vocabularies {
    /// Of the version that is served.
    current: PolicyVocabulary,
    /// By version, the last one last.
    of: Vec<(String, PolicyVocabulary)>,
}

impl Vocabularies {
    pub(super) fn new(current: PolicyVocabulary) -> Self {
        Self {
            current,
            of: Vec::new(),
        }
    }

    pub(super) fn serves(&mut self, version: &str, vocabulary: PolicyVocabulary) {
        self.of.retain(|(known, _)| known != version);
        self.of.push((version.to_owned(), vocabulary.clone()));
        let surplus = self.of.len().saturating_sub(REMEMBERED);
        self.of.drain(..surplus);
        self.current = vocabulary;
    }

    /// Of that version of the policy, where it is remembered, else of the one that is served.
    pub(super) fn of(&self, version: Option<&str>) -> PolicyVocabulary {
        let known = self
            .of
            .iter()
            .find(|(known, _)| Some(known.as_str()) == version);
        known
            .map_or(&self.current, |(_, vocabulary)| vocabulary)
            .clone()
    }
}
