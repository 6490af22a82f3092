//! What trainings and evaluations that build on a policy share.

use std::path::Path;

use super::{TrainError, features::Features, parallel::Workers, policy::Policy};
use crate::eval::data::flickr8k::{Dataset, Image};

/// Photographs with captions, a policy that describes them, and the cores to do it on.
pub struct Setup {
    /// The photographs.
    pub data: Dataset,
    /// The policy.
    pub policy: Policy,
    /// The cores.
    pub workers: Workers,
}

impl Setup {
    /// Reads a folder in Flickr8k's layout and a bundle; `workers` 0 takes every core.
    ///
    /// # Errors
    /// When one of them is not usable.
    pub fn open(data: &Path, policy: &str, workers: usize) -> Result<Self, TrainError> {
        Self::of(Dataset::open(data)?, policy, workers)
    }

    /// The same for measuring: photographs of the training split need not be there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_evaluation(
        data: &Path,
        policy: &str,
        workers: usize,
    ) -> Result<Self, TrainError> {
        Self::of(Dataset::open_for_evaluation(data)?, policy, workers)
    }

    fn of(data: Dataset, policy: &str, workers: usize) -> Result<Self, TrainError> {
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

    /// Features of `images`, kept in the file `cache` for the next time.
    ///
    /// # Errors
    /// When an image cannot be read or the cache not be written.
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
