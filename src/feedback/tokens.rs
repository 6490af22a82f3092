//! Tokens in their places.

use super::record::{ResponseToken, TokenLabel, Versions};
use crate::{guard::words::Transcript, vlm::processor::vocabulary::PolicyVocabulary};

/// A text that its tokens do not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written in the model's vocabulary")]
pub struct TokenMismatch;

/// A token's vocabulary id, its bytes, its log-probability and its reward.
pub type ScoredPiece<'a> = (u32, &'a [u8], Option<f32>, Option<f32>);

/// Returns the tokens that write `text` with their positions in it. The last of them may write
/// more.
///
/// # Errors
/// When the tokens write another text.
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
    for (token, bytes) in tokens.iter_mut().zip(transcript.token_ranges()) {
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

/// Number of versions whose vocabulary is kept.
const REMEMBERED: usize = 16;

/// Vocabularies of recently served versions: corrections are tokenized like the answer that they
/// correct.
#[derive(Debug)]
pub(super) struct Vocabularies {
    /// Vocabulary of the version that is served.
    current: PolicyVocabulary,
    /// Vocabularies by version, most recent last.
    by_version: Vec<(String, PolicyVocabulary)>,
}

impl Vocabularies {
    pub(super) fn new(current: PolicyVocabulary) -> Self {
        Self {
            current,
            by_version: Vec::new(),
        }
    }

    pub(super) fn set_served(&mut self, version: &str, vocabulary: PolicyVocabulary) {
        self.by_version.retain(|(known, _)| known != version);
        self.by_version
            .push((version.to_owned(), vocabulary.clone()));
        let surplus = self.by_version.len().saturating_sub(REMEMBERED);
        self.by_version.drain(..surplus);
        self.current = vocabulary;
    }

    /// Returns the vocabulary of the version that is served.
    pub(super) fn served(&self) -> PolicyVocabulary {
        self.current.clone()
    }

    /// Returns the vocabulary of the policy version that wrote an answer; if it is not kept, one
    /// with the same tokenizer, or else that of the version that is served.
    pub(super) fn get(&self, written_by: &Versions) -> PolicyVocabulary {
        type Known = (String, PolicyVocabulary);
        let same_version =
            |(version, _): &&Known| Some(version.as_str()) == written_by.policy.as_deref();
        let same_tokenizer = |(_, vocabulary): &&Known| {
            Some(vocabulary.tokenizer.digest()) == written_by.tokenizer.as_deref()
        };
        let newest_first = self.by_version.iter().rev();
        newest_first
            .clone()
            .find(same_version)
            .or_else(|| newest_first.clone().find(same_tokenizer))
            .map_or(&self.current, |(_, vocabulary)| vocabulary)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::Bundle, vlm::processor::tokenizer::TextTokenizer};

    #[test]
    fn vocabulary_of_unknown_version_has_the_tokenizer_of_the_answer() {
        let bundled = Bundle::vocabulary_of("candor-mini").unwrap();
        let json = Bundle::file("candor-mini", "tokenizer.json").unwrap();
        // Another end token makes another vocabulary.
        let other = PolicyVocabulary {
            tokenizer: TextTokenizer::from_bytes(&json, "<|user|>").unwrap().into(),
            ..bundled.clone()
        };
        let mut vocabularies = Vocabularies::new(bundled.clone());
        vocabularies.set_served("one", bundled.clone());
        vocabularies.set_served("two", other.clone());
        let found = |policy: &str, tokenizer: &PolicyVocabulary| {
            let versions = Versions {
                policy: Some(policy.to_owned()),
                tokenizer: Some(tokenizer.tokenizer.digest().to_owned()),
                ..Versions::default()
            };
            vocabularies.get(&versions).tokenizer.digest().to_owned()
        };
        assert_eq!(found("one", &bundled), bundled.tokenizer.digest());
        assert_eq!(found("gone", &bundled), bundled.tokenizer.digest());
        assert_eq!(found("gone", &other), other.tokenizer.digest());
        let none = vocabularies.get(&Versions::default());
        assert_eq!(
            none.tokenizer.digest(),
            vocabularies.served().tokenizer.digest()
        );
    }
}
