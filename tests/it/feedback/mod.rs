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
