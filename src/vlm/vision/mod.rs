//! Vision towers: normalized pixels in, one vector of features per image token out.

mod blocked;
pub mod convert;
pub mod efficientnet_lite;
mod kernels;
pub mod vit;
