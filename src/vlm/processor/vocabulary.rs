//! The tokens that the policy writes.

use std::sync::Arc;

use super::{casing::Casing, tokenizer::TextTokenizer};

/// Tokenizer and casing of a policy: together they cut a text that others wrote into the tokens
/// that the policy would have written.
#[derive(Debug, Clone)]
pub struct PolicyVocabulary {
    /// Text to tokens and back.
    pub tokenizer: Arc<TextTokenizer>,
    /// Letters that the policy writes.
    pub casing: Casing,
}

impl PolicyVocabulary {
    /// Returns the tokens of a text that `begins` an answer or continues one; `None` where the
    /// tokenizer cannot write it.
    pub fn encode(&self, text: &str, begins: bool) -> Option<Vec<u32>> {
        // Only a first letter is a capital in some casings: a letter before it makes it another.
        let cased = if begins {
            self.casing.apply(text)
        } else {
            self.casing.apply(&format!("x{text}")).split_off(1)
        };
        self.tokenizer.encode_text(&cased).ok()
    }
}
