//! The vocabulary as sampling sees it.

use std::sync::Arc;

use super::Alternative;
use crate::vlm::processor::tokenizer::TextTokenizer;

/// Tokenizer and size of the vocabulary, with the tokens that sampling treats specially.
pub(crate) struct SamplingVocabulary {
    pub(crate) tokenizer: Arc<TextTokenizer>,
    pub(crate) size: usize,
    /// Tokens that write nothing and do not end the answer, sorted: never chosen.
    pub(crate) masked: Vec<u32>,
    /// Tokens with which an answer may end: the end-of-sequence token and full stops.
    pub(crate) endings: Vec<u32>,
}

impl SamplingVocabulary {
    pub(crate) fn new(tokenizer: Arc<TextTokenizer>, size: usize) -> Self {
        let ids = || 0..size as u32;
        let masked = ids()
            .filter(|&id| !tokenizer.is_end(id) && tokenizer.bytes(id).is_empty())
            .collect();
        let endings = ids()
            .filter(|&id| tokenizer.is_end(id) || matches!(tokenizer.bytes(id), b"." | b" ."))
            .collect();
        Self {
            tokenizer,
            size,
            masked,
            endings,
        }
    }

    pub(crate) fn alternative(&self, id: u32, logprob: f32) -> Alternative {
        Alternative {
            id,
            bytes: self.tokenizer.bytes(id).to_vec(),
            logprob,
        }
    }
}
