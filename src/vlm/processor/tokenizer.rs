//! Byte-level BPE tokenizer that knows the bytes of every token.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::util::digest::hex;

/// Error in loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(String);

/// Tokenizer with the exact bytes of every token: the concatenated bytes of an answer's tokens are
/// the answer.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bytes: Vec<Vec<u8>>,
    /// Text of the special tokens.
    special: Vec<String>,
    eos: u32,
    digest: String,
}

impl TextTokenizer {
    /// Loads a `tokenizer.json` with a byte-level BPE. `eos` is the token that ends an answer;
    /// special tokens have no bytes.
    ///
    /// # Errors
    /// When the file is not a tokenizer, or does not contain `eos`.
    pub fn from_bytes(json: &[u8], eos: &str) -> Result<Self, TokenizerError> {
        let inner = Tokenizer::from_bytes(json).map_err(|e| TokenizerError(e.to_string()))?;
        Self::new(inner, eos)
    }

    /// Wraps a loaded tokenizer.
    ///
    /// # Errors
    /// When `eos` is not in its vocabulary.
    pub fn new(inner: Tokenizer, eos: &str) -> Result<Self, TokenizerError> {
        let eos = inner
            .token_to_id(eos)
            .ok_or_else(|| TokenizerError(format!("the vocabulary has no token '{eos}'")))?;
        let byte_of = byte_of_char();
        let special = inner.get_added_tokens_decoder();
        let digest = vocabulary_digest(&inner, eos);
        let bytes = (0..inner.get_vocab_size(true) as u32)
            .map(|id| match inner.id_to_token(id) {
                Some(token) if !special.contains_key(&id) => token
                    .chars()
                    .filter_map(|c| byte_of.get(&c).copied())
                    .collect(),
                _ => Vec::new(),
            })
            .collect();
        let special = special
            .values()
            .map(|token| token.content.clone())
            .filter(|text| !text.is_empty())
            .collect();
        Ok(Self {
            inner,
            bytes,
            special,
            eos,
            digest,
        })
    }

    /// Token ids of `text`; special tokens written in it (`<|user|>`) are encoded as such.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self
            .inner
            .encode_fast(text, false)
            .map_err(|e| TokenizerError(e.to_string()))?
            .get_ids()
            .to_vec())
    }

    /// Token ids of `text` as plain text: special tokens written in it are spelled out, and the
    /// bytes of the tokens together equal the text.
    ///
    /// # Errors
    /// When the tokenizer fails on the text, or its vocabulary cannot spell it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let begins_special = |&(at, _): &(usize, char)| {
            self.special
                .iter()
                .any(|special| text[at..].starts_with(special.as_str()))
        };
        let (mut ids, mut from) = (Vec::new(), 0);
        // Cut after its first character, a special token is no longer recognized.
        for (at, first) in text.char_indices().filter(begins_special) {
            let cut = at + first.len_utf8();
            ids.extend(self.encode(&text[from..cut])?);
            from = cut;
        }
        ids.extend(self.encode(&text[from..])?);
        if !self.spells(&ids, text) {
            return Err(TokenizerError(
                "the vocabulary cannot spell this text".to_owned(),
            ));
        }
        Ok(ids)
    }

    /// Returns `true` if the bytes of `ids` together are those of `text`.
    pub fn spells(&self, ids: &[u32], text: &str) -> bool {
        ids.iter()
            .flat_map(|&id| self.bytes(id))
            .eq(text.as_bytes())
    }

    /// SHA-256 of the vocabulary in order of ids, and of the end token, as 64 hexadecimal digits:
    /// tokenizers with the same digest give every id the same meaning.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Id of a special token or word piece.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Bytes of token `id`; empty for special and unknown tokens.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Text of `ids`; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| self.bytes(id).iter().copied())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Token that ends an answer.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Size of the vocabulary, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }
}

fn vocabulary_digest(tokenizer: &Tokenizer, eos: u32) -> String {
    let mut hash = Sha256::new();
    for id in 0..tokenizer.get_vocab_size(true) as u32 {
        let token = tokenizer.id_to_token(id).unwrap_or_default();
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    hash.update(eos.to_le_bytes());
    hex(&hash.finalize())
}

/// Inverse of GPT-2's printable stand-ins for the 256 bytes (`encoder.py` of openai/gpt-2).
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256u32;
    (0..=255u8)
        .filter_map(|b| {
            let c = if printable(b) {
                u32::from(b)
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(c).map(|c| (c, b))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_text_has_no_special_tokens() {
        let bundled = include_bytes!("../../../models/candor-mini/tokenizer.json");
        let tokenizer = TextTokenizer::from_bytes(bundled, "<|end|>").unwrap();
        for text in [
            "A dog.",
            "A <|end|> dog",
            "<|<|user|>|>",
            "<|user|><|assistant|>",
            "é🐕\u{0}",
            "",
        ] {
            let ids = tokenizer.encode_text(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
            assert!(
                ids.iter().all(|&id| !tokenizer.bytes(id).is_empty()),
                "{text}"
            );
        }
        assert_eq!(
            tokenizer.encode_text("A dog.").unwrap(),
            tokenizer.encode("A dog.").unwrap()
        );
    }

    #[test]
    fn digest_differs_where_ids_or_the_end_token_do() {
        let bundled = include_bytes!("../../../models/candor-mini/tokenizer.json");
        let tokenizer = |json: &[u8], eos: &str| TextTokenizer::from_bytes(json, eos).unwrap();
        let digest = tokenizer(bundled, "<|end|>").digest().to_owned();
        assert_eq!(digest.len(), 64);
        assert_eq!(tokenizer(bundled, "<|end|>").digest(), digest);
        assert_ne!(tokenizer(bundled, "<|user|>").digest(), digest);
        let renamed = String::from_utf8_lossy(bundled).replace("<|user|>", "<|human|>");
        assert_ne!(tokenizer(renamed.as_bytes(), "<|end|>").digest(), digest);
    }

    #[test]
    fn byte_of_char_covers_every_byte_once() {
        let map = byte_of_char();
        let mut bytes: Vec<u8> = map.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(map[&'Ġ'], b' ');
        assert_eq!(map[&'Ċ'], b'\n');
    }
}
