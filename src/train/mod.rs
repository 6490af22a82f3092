//! Training: data sets, losses and training loops.

pub mod align;
mod answers;
pub mod calibrate;
pub mod checkpoint;
pub mod compared_scorers;
pub mod corpus;
pub mod corrections;
pub mod curve;
pub mod cycle;
mod error;
pub mod evidence;
pub mod export;
pub mod features;
pub mod finishers;
pub mod labels;
pub mod losses;
pub mod optim;
pub mod origins;
pub mod parallel;
pub mod perturb;
pub mod policy;
pub mod qa;
pub mod recipe;
pub mod reward;
mod reward_data;
mod reward_finish;
pub mod reward_report;
pub mod rollout;
pub mod rows;
mod samples;
pub mod scored_split;
pub mod scorers;
pub mod setup;
pub mod sft;
pub mod snapshot;
pub mod stats;
pub mod taps;
pub mod text;
pub mod tower;

pub use error::TrainError;

use std::collections::HashMap;

use candle_core::Tensor;
use indicatif::{ProgressBar, ProgressStyle};

/// Tensors by name.
pub type Tensors = HashMap<String, Tensor>;

/// Prints progress to standard error; a closed stream is ignored.
fn report_progress(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Progress bar of a training loop.
fn progress(total: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} {bar:40} step {pos}/{len}, {elapsed} gone, {eta} to go",
    );
    let bar = ProgressBar::new(total as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(done as u64);
    bar.reset_eta();
    bar
}
