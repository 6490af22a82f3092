//! Corrections: the stores, the images, the API and what survives.

mod api;
mod commands;
mod durable;
mod images;
mod postgres;
mod store;
