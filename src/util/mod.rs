//! Functions that several rooms need and that know nothing of models, images or HTTP.

pub mod digest;
pub(crate) mod disk;
pub mod jsonl;
pub mod numbers;
pub mod offsets;
pub(crate) mod pages;
pub mod private_files;
pub mod team;
pub mod time;
