//! Architectures, one file each.

pub mod candor_mini;
