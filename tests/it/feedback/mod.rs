//! Corrections: the stores, the images, the API and what survives.

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
