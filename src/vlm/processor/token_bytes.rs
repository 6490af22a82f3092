//! Bytes of tokens.

use std::collections::HashMap;

use tokenizers::Tokenizer;

use super::tokenizer::{TokenizerError, failed};

/// Way in which a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Printable stand-ins for bytes (GPT-2).
    ByteLevel,
    /// `▁` for a space, `<0x0A>` for a byte.
    SentencePiece,
}

impl Spelling {
    /// Returns a tokenizer's way, told by its decoder.
    ///
    /// # Errors
    /// When it is neither.
    pub(super) fn of(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let decoder = serde_json::to_string(&tokenizer.get_decoder()).map_err(failed)?;
        let steps = serde_json::to_string(&tokenizer.get_pre_tokenizer()).map_err(failed)?;
        if decoder.contains("\"ByteLevel\"") || steps.contains("\"ByteLevel\"") {
            Ok(Self::ByteLevel)
        } else if decoder.contains('▁') {
            Ok(Self::SentencePiece)
        } else {
            Err(TokenizerError(
                "its decoder is neither that of a byte-level BPE nor of SentencePiece".to_owned(),
            ))
        }
    }

    /// Returns the bytes of a token.
    pub(super) fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let byte_of = byte_of_char();
                let byte = |c| byte_of.get(&c).copied();
                token.chars().filter_map(byte).collect()
            }
            Self::SentencePiece => match byte_piece(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// Byte that a piece such as `<0x0A>` stands for.
fn byte_piece(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
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
    fn byte_of_char_covers_every_byte_once() {
        let map = byte_of_char();
        let mut bytes: Vec<u8> = map.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(map[&'Ġ'], b' ');
        assert_eq!(map[&'Ċ'], b'\n');
    }
}
