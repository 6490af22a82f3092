//! Metrics of captions, answers and token rewards. They read captions and annotations and run no
//! model.

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
