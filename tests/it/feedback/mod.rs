//! Corrections: the stores, the images, the API and what survives.

mod api;
mod commands;
mod durable;
mod foreign;
mod images;
mod interchange;
mod postgres;
mod queue;
pub(crate) mod store;
