//! What stands between a request and tensors: chat template, tokenizer, text normalization.

pub mod casing;
pub mod template;
pub mod tokenizer;
pub mod vocabulary;
