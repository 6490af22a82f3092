//! Training errors.

use std::path::{Path, PathBuf};

/// Error of a training or evaluation run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Invalid configuration file.
    #[error("{path}: {message}")]
    Config {
        /// Path of the file.
        path: PathBuf,
        /// Problem and its position.
        message: String,
    },
    /// Invalid data set.
    #[error(transparent)]
    Data(#[from] crate::eval::data::flickr8k::DatasetError),
    /// File that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Invalid run, data or bundle; the message names it.
    #[error("{0}")]
    Run(String),
    /// Metric outside its bounds, which stopped the run.
    #[error("stopped after iteration {iteration}: {why}; {kept}")]
    Stopped {
        /// Iterations done.
        iteration: usize,
        /// Metric and bound.
        why: String,
        /// Part of the run that remains usable.
        kept: String,
    },
    /// Loss that is not finite.
    #[error("step {step}: the loss is {loss}; the last good checkpoint is in the run directory")]
    Diverged {
        /// Optimizer step.
        step: usize,
        /// Loss.
        loss: f64,
    },
    /// Failed tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl TrainError {
    /// Returns a constructor of I/O errors at `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
