//! Connectors: vision features in, the decoder's input embeddings for the image out.

pub mod mlp;
