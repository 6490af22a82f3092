//! Data, policy and workers shared by training and evaluation commands.

use std::path::Path;

use super::{TrainError, features::Features, parallel::Workers, policy::Policy};
use crate::eval::data::flickr8k::{Dataset, Image};

/// Captioned images, the policy that describes them, and worker threads.
pub struct Setup {
    /// Captioned images.
    pub data: Dataset,
    /// Policy.
    pub policy: Policy,
    /// Worker threads.
    pub workers: Workers,
}

impl Setup {
    /// Opens a data set in Flickr8k's layout and a bundle; `workers` 0 uses all cores.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub fn open(data: &Path, policy: &str, workers: usize) -> Result<Self, TrainError> {
        Self::with_data(Dataset::open(data)?, policy, workers)
    }

    /// Opens them for evaluation: photographs of the training split may be missing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_evaluation(
        data: &Path,
        policy: &str,
        workers: usize,
    ) -> Result<Self, TrainError> {
        Self::with_data(Dataset::open_for_evaluation(data)?, policy, workers)
    }

    fn with_data(data: Dataset, policy: &str, workers: usize) -> Result<Self, TrainError> {
        let count = if workers == 0 {
            std::thread::available_parallelism().map_or(1, usize::from)
        } else {
            workers
        };
        Ok(Self {
            data,
            policy: Policy::open(policy)?,
            workers: Workers::new(count)?,
        })
    }

    /// Features of `images`, cached in the file `cache`.
    ///
    /// # Errors
    /// When an image cannot be read or the cache cannot be written.
    pub fn features(
        &self,
        images: &[Image],
        views: usize,
        cache: &Path,
    ) -> Result<Features, TrainError> {
        if let Some(dir) = cache.parent() {
            std::fs::create_dir_all(dir).map_err(TrainError::io(dir))?;
        }
        Features::compute(images, views, &self.policy.tower, &self.workers, cache)
    }
}
