//! Functions that several rooms need and that know nothing of models, images or HTTP.

pub mod offsets;
