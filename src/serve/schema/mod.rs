//! Schemas of the API's description for types of the rooms below, which know nothing of it.
//!
//! Each struct or enum here has the fields, the names and the attributes of the type whose schema
//! it is; the tests hold the two together. They are named by `value_type` and `body`, and no value
//! of them is ever made.
#![allow(dead_code, reason = "types that are described, not made")]

pub(crate) mod feedback;
pub(crate) mod guard;
pub(crate) mod queue;
pub(crate) mod registry;
#[cfg(test)]
mod tests;
