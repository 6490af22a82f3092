//! Feedback: stores, images, API, formats, and durability.

mod api;
mod commands;
mod durable;
mod foreign;
mod images;
mod interchange;
mod owners;
mod postgres;
mod queue;
mod retention;
pub(crate) mod store;

/// A file in memory, as completions hold it.
fn hashed(content: &[u8]) -> std::sync::Arc<candor::util::digest::HashedFile> {
    std::sync::Arc::new(candor::util::digest::HashedFile::new(content.to_vec()))
}
