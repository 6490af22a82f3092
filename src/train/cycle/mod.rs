//! A cycle: Candor learns from the corrections in its store, and what it has learnt is served only
//! if it is better.
//!
//! Snapshot → reward → policy → re-fit of the scorers → evaluation → gate → registry → promotion.
//! Every step is a line in the cycle's `state.json` ([`state`]) and is either done or goes on where
//! it died: the trainings by their own checkpoints, all others by beginning anew. [`config`] says
//! what is done and how much of it, [`evaluate`] what a version is worth,
//! [`gate`](crate::registry::gate) whether that is enough.

mod base;
pub mod config;
mod evaluate;
mod run;
pub mod state;

pub use config::Recipe;
pub use run::{CycleContext, CycleRun, waiting};
