//! Corrections: the stores, the images, the API and what survives.

mod images;
mod postgres;
mod store;
