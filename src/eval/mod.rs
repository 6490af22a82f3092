//! Metrics of captions and of token scores. They know captions and annotations, and no model.

pub mod bootstrap;
pub mod data;
pub mod objects;
pub mod pope;
pub mod report;
pub mod tokens;
pub mod tradeoff;
