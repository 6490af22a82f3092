//! Candor is an OpenAI-compatible server that captions photographs and answers questions about
//! them, and scores every word of its answers by a trained per-token reward model.
//!
//! A vision-language model, the policy, writes the answer. A scorer gives each token a reward: the
//! calibrated probability that the image supports it. The guard flags, rewrites or blocks words
//! with a low reward. Corrections of answers become token labels, from which the scorer and the
//! policy are trained again.
//!
//! Modules depend on each other in one direction: `cli → serve → engine → guard, reward →
//! vlm`.
//! `ARCHITECTURE.md` describes each module, the path of a request and of a correction, and which
//! file to open for a task. Programs that use the library start at [`serve::Local`] (the API
//! without a socket), [`guard::report::report`] (the guard without a model) or [`eval`] (metrics);
//! `examples/` has a program for each.

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
