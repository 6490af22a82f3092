//! Candor: an OpenAI-compatible image captioning and visual question answering server that knows
//! which of its own words it can stand behind.
//!
//! The map of the house; arrows point one way, `cli → serve → engine → guard, reward → vlm`:
//!
//! - [`cli`]: one file a subcommand; [`config`]: file < environment < flags, validated before
//!   anything starts
//! - [`vlm`]: the networks; [`bundle`]: a directory (or the binary itself) with one servable model
//! - [`reward`]: the per-token scorer; [`guard`]: what to do about words that it doubts
//! - [`engine`]: one task owns the running batch; [`serve`]: HTTP in OpenAI's shapes
//! - [`feedback`]: corrections, from a click to a token-level training record
//! - [`registry`]: immutable versions of models, and which one is served
//! - [`train`]: pre-training and reward training; [`eval`]: metrics of captions and scores, and
//!   their reports; [`lexicon`]: words and what kind of thing they name
//! - [`telemetry`]: every metric name declared once; tracing

pub mod bundle;
pub mod cli;
pub mod config;
pub mod device;
pub mod engine;
pub mod eval;
pub mod feedback;
pub mod guard;
pub mod lexicon;
pub mod registry;
pub mod reward;
pub mod serve;
pub mod telemetry;
pub mod train;
pub mod util;
pub mod vlm;
