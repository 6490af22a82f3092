//! Metrics of captions and of token scores. They know captions and annotations, and no model.

pub mod bootstrap;
pub mod captions;
pub mod chair;
pub mod data;
pub mod honesty;
pub mod objects;
pub mod pope;
pub mod report;
pub mod text;
pub mod tokens;
pub mod tradeoff;
pub mod vqa;
