//! Vision towers: normalised pixels in, one line of features per image token out.

mod blocked;
pub mod efficientnet_lite;
mod kernels;
