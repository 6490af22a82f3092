//! Decoders.

pub mod llama;
