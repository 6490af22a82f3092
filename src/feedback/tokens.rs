//! Tokens in their places.

use super::record::{Label, Token};
use crate::{guard::words::Transcript, vlm::tokenizer::TextTokenizer};

/// A text that its tokens do not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text cannot be written in the model's vocabulary (special tokens cannot stand in it)")]
pub struct NotWritten;

/// A token's vocabulary id, its bytes, its log-probability and its reward.
pub type Written<'a> = (u32, &'a [u8], Option<f32>, Option<f32>);

/// The tokens that write `text`, and what follows it up to the end of a token, in their places.
///
/// # Errors
/// When they write something else.
pub fn place<'a>(text: &str, written: impl Iterator<Item = Written<'a>>) -> Result<Vec<Token>, NotWritten> {
    let (mut transcript, mut tokens) = (Transcript::default(), Vec::new());
    for (id, bytes, logprob, reward) in written {
        transcript.push(bytes);
        tokens.push(Token { id, text: String::new(), start: 0, end: 0, logprob, reward, label: Label::None });
    }
    transcript.close(None);
    if !transcript.text().starts_with(text) {
        return Err(NotWritten);
    }
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    for (token, bytes) in tokens.iter_mut().zip(transcript.places()) {
        // A code point belongs to all tokens that write some of its bytes.
        token.start = chars.partition_point(|&(at, c)| at + c.len_utf8() <= bytes.start);
        token.end = chars.partition_point(|&(at, _)| at < bytes.end).max(token.start);
        token.text = chars[token.start..token.end].iter().map(|&(_, c)| c).collect();
    }
    Ok(tokens)
}

/// Cuts a text that nobody here wrote into the model's tokens.
///
/// # Errors
/// When it cannot be written in them.
pub fn tokenize(tokenizer: &TextTokenizer, text: &str) -> Result<Vec<Token>, NotWritten> {
    let ids = tokenizer.encode(text).map_err(|_| NotWritten)?;
    // A special token would be cut out of the text without a trace.
    if ids.iter().any(|&id| tokenizer.bytes(id).is_empty()) {
        return Err(NotWritten);
    }
    place(text, ids.iter().map(|&id| (id, tokenizer.bytes(id), None, None)))
}
