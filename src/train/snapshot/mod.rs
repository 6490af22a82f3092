//! Snapshots of corrections: immutable directories that training runs refer to.
//!
//! `photographs/` holds the distinct images by their SHA-256, `corrections.jsonl` the corrections
//! to learn from, `held_out.jsonl` corrections of images that scorers are evaluated on and nothing
//! is trained on, and `snapshot.json` the counts and the SHA-256 of both files
//! ([`SnapshotManifest`]). Images are held out by their hash, so that an image stays on its side
//! from snapshot to snapshot. [`take`](Snapshot::take) exports a snapshot from a store;
//! [`judgment`] converts its records.

mod judgment;
mod take;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use take::TakeConfig;

use super::{
    TrainError,
    corrections::{self, CorrectedAnswer},
    features::{Features, VIEWS},
    setup::Setup,
};
use crate::eval::data::flickr8k::Image;

const LEARNT: &str = "corrections.jsonl";
const HELD_OUT: &str = "held_out.jsonl";
const FACTS: &str = "snapshot.json";
const PHOTOGRAPHS: &str = "photographs";

/// Reason to exclude a record from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// The record judges no token: it only names a missing object.
    NothingJudged,
    /// Prompt or response exceeds the maximum training length.
    TooLong,
    /// Prompt or response contains a special token.
    SpecialToken,
    /// The same annotator judged the same answer again.
    Superseded,
    /// Another annotator judged the same answer alike.
    Repeated,
    /// Judged differently by at least as many other annotators.
    Contradicted,
    /// Its image is no longer stored.
    NoImage,
    /// Its image is damaged or cannot be decoded.
    BadImage,
    /// Its image belongs to the evaluation data.
    Evaluated,
    /// It is older than the newest records that are read.
    TooOld,
    /// Its source is not selected.
    OtherSource,
}

/// Contents of `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of the format.
    pub format: u32,
    /// Number of records in the store.
    pub records: usize,
    /// Id of the newest record.
    pub newest: Option<String>,
    /// Number of corrections to learn from.
    pub learnt: usize,
    /// Number of corrections of held-out images.
    pub held_out: usize,
    /// Share of images held out.
    pub held_out_share: f64,
    /// Number of distinct images.
    pub photographs: usize,
    /// Excluded records by reason.
    pub left_out: BTreeMap<ExclusionReason, usize>,
    /// SHA-256 over both correction files, which name images by their hash.
    pub sha256: String,
}

/// Snapshot of corrections.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Directory.
    pub dir: PathBuf,
    /// Manifest.
    pub facts: SnapshotManifest,
    /// Corrections to learn from; `image` is the file name in `photographs/`.
    pub learnt: Vec<CorrectedAnswer>,
    /// Held-out corrections.
    pub held_out: Vec<CorrectedAnswer>,
}

impl Snapshot {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// When it is not a snapshot or was modified.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let file = dir.join(FACTS);
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        let facts: SnapshotManifest = serde_json::from_slice(&json)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
        if digest(dir)? != facts.sha256 {
            return Err(TrainError::Run(format!(
                "{}: its corrections are not those that it was made with",
                dir.display()
            )));
        }
        let read = |name: &str| corrections::read(&dir.join(name));
        Ok(Self {
            dir: dir.to_owned(),
            facts,
            learnt: read(LEARNT)?,
            held_out: read(HELD_OUT)?,
        })
    }

    /// Images of the given corrections, in order of first occurrence, captioned with their
    /// corrected descriptions.
    pub fn images(&self, corrections: &[CorrectedAnswer]) -> Vec<Image> {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut images: Vec<Image> = Vec::new();
        for correction in corrections {
            let number = *numbers.entry(&correction.image).or_insert_with(|| {
                let path = self.dir.join(PHOTOGRAPHS).join(&correction.image);
                images.push(Image {
                    name: correction.image.clone(),
                    path,
                    captions: Vec::new(),
                });
                images.len() - 1
            });
            let said = &mut images[number].captions;
            said.extend(
                correction
                    .description()
                    .map(str::to_owned)
                    .filter(|text| !said.contains(text)),
            );
        }
        images
    }

    /// Feature cache files in `dir`: of the images to learn from, and of the held-out images. They
    /// are large and useless after training.
    pub fn features(&self, dir: &Path) -> [PathBuf; 2] {
        ["snapshot", "held-out"]
            .map(|name| dir.join(format!("{name}-{}.f16", &self.facts.sha256[..12])))
    }

    /// Removes the photographs of a snapshot that is no longer trained on, since users may have had
    /// theirs removed from the store.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove_photographs(dir: &Path) -> Result<(), TrainError> {
        let photographs = dir.join(PHOTOGRAPHS);
        if photographs.exists() {
            fs::remove_dir_all(&photographs).map_err(TrainError::io(&photographs))
        } else {
            Ok(())
        }
    }

    /// Adds the images to learn from to the training images of `setup`, and their features, cached
    /// in `dir`, to `features`.
    ///
    /// # Errors
    /// When an image cannot be read or the cache cannot be written.
    pub fn join(
        &self,
        setup: &mut Setup,
        features: &mut Features,
        dir: &Path,
    ) -> Result<(), TrainError> {
        let images = self.images(&self.learnt);
        let [cache, _] = self.features(dir);
        features.append(setup.features(&images, VIEWS, &cache)?)?;
        setup.data.train.extend(images);
        Ok(())
    }
}

/// SHA-256 over both correction files, in hexadecimal.
fn digest(dir: &Path) -> Result<String, TrainError> {
    let mut hash = Sha256::new();
    for name in [LEARNT, HELD_OUT] {
        let file = dir.join(name);
        let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
