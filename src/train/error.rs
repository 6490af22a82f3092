//! What can go wrong in a training.

use std::path::{Path, PathBuf};

/// A training that could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration file is not usable.
    #[error("{path}: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The data are not usable.
    #[error(transparent)]
    Data(#[from] crate::eval::data::flickr8k::DatasetError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The run directory does not fit what was asked.
    #[error("{0}")]
    Run(String),
    /// A figure left its bounds.
    #[error("stopped after iteration {iteration}: {why}; {kept}")]
    Stopped {
        /// After how many.
        iteration: usize,
        /// Which figure.
        why: String,
        /// What is left of the run.
        kept: String,
    },
    /// The loss stopped being a number.
    #[error("step {step}: the loss is {loss}; the last good checkpoint is in the run directory")]
    Diverged {
        /// The step.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl TrainError {
    /// An I/O error at `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
