//! Cycle: learns from the corrections in the store and promotes the result only if it is better.
//!
//! Snapshot → reward → policy → re-fit of the scorers → evaluation → gate → registry → promotion.
//! Each step is an entry of the cycle's `state.json` ([`state`]). An interrupted training resumes
//! from its checkpoint, any other step starts over. [`config`] holds the budgets, [`evaluate`]
//! measures a version, and [`gate`](crate::registry::gate) decides.

mod base;
pub mod config;
mod evaluate;
mod run;
pub mod state;

pub use config::Recipe;
pub use run::{CycleContext, CycleRun, waiting};
