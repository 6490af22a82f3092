//! Metrics of captions and of token scores.

pub mod objects;
pub mod tokens;
