//! Snapshot of people's corrections: an immutable directory that training runs refer to.
//!
//! `photographs/` holds the images by their SHA-256, `corrections.jsonl` the training corrections,
//! `held_out.jsonl` the corrections of images reserved for measuring scorers, and `snapshot.json`
//! the counts and the SHA-256 of both files ([`SnapshotManifest`]). Images are held out by their
//! hash, so that each stays on its side from snapshot to snapshot. [`take`](Snapshot::take) takes a
//! snapshot of a store; [`judgment`] converts records to corrections.

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
use crate::{eval::data::flickr8k::Image, util::digest::hex};

const LEARNED: &str = "corrections.jsonl";
const HELD_OUT: &str = "held_out.jsonl";
const FACTS: &str = "snapshot.json";
const PHOTOGRAPHS: &str = "photographs";

/// Reason why a record is not in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// It names missing content without an edited text, which judges no token.
    NothingJudged,
    /// Its prompt or response exceeds the length limits of training.
    TooLong,
    /// Its prompt or response contains the spelling of a special token.
    SpecialToken,
    /// The same annotator judged the answer again later.
    Superseded,
    /// Another annotator gave the same judgment of the answer.
    Repeated,
    /// At least as many annotators judged the answer differently.
    Contradicted,
    /// Its image is not stored any more.
    NoImage,
    /// Its image cannot be decoded.
    BadImage,
    /// Its image belongs to an evaluation set.
    Evaluated,
    /// It is older than the newest records that are read.
    TooOld,
    /// Its source is excluded.
    OtherSource,
}

/// Content of `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of the format.
    pub format: u32,
    /// Number of records in the store.
    pub records: usize,
    /// Id of the newest record.
    pub newest: Option<String>,
    /// Training corrections.
    pub learnt: usize,
    /// Corrections of held-out images.
    pub held_out: usize,
    /// Share of the images that are held out, 0 to 1.
    pub held_out_share: f64,
    /// Number of distinct images.
    pub photographs: usize,
    /// Numbers of records left out, by reason.
    pub left_out: BTreeMap<ExclusionReason, usize>,
    /// SHA-256 over both files of corrections, which refer to images by their SHA-256.
    pub sha256: String,
}

/// Snapshot that was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Directory of the snapshot.
    pub dir: PathBuf,
    /// Content of its `snapshot.json`.
    pub facts: SnapshotManifest,
    /// Training corrections; `image` is a file name in `photographs/`.
    pub learnt: Vec<CorrectedAnswer>,
    /// Corrections of held-out images.
    pub held_out: Vec<CorrectedAnswer>,
}

impl Snapshot {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// When the directory is no snapshot, or was changed.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let file = dir.join(FACTS);
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        let facts: SnapshotManifest = serde_json::from_slice(&json)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
        if digest(dir)? != facts.sha256 {
            return Err(TrainError::Run(format!(
                "{}: its corrections were changed after it was taken",
                dir.display()
            )));
        }
        let read = |name: &str| corrections::read(&dir.join(name));
        Ok(Self {
            dir: dir.to_owned(),
            facts,
            learnt: read(LEARNED)?,
            held_out: read(HELD_OUT)?,
        })
    }

    /// Returns the images of some corrections, in order, each with its corrected descriptions as
    /// captions.
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
            let captions = &mut images[number].captions;
            captions.extend(
                correction
                    .description()
                    .map(str::to_owned)
                    .filter(|text| !captions.contains(text)),
            );
        }
        images
    }

    /// Paths in `dir` for the cached features of training and held-out images. The files are large
    /// and of no use after training.
    pub fn features(&self, dir: &Path) -> [PathBuf; 2] {
        ["snapshot", "held-out"]
            .map(|name| dir.join(format!("{name}-{}.f16", &self.facts.sha256[..12])))
    }

    /// Removes the photographs of a snapshot after training: people may since have had theirs
    /// removed from the store.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn remove_photographs(dir: &Path) -> Result<(), TrainError> {
        let photographs = dir.join(PHOTOGRAPHS);
        if photographs.exists() {
            fs::remove_dir_all(&photographs).map_err(TrainError::io(&photographs))
        } else {
            Ok(())
        }
    }

    /// Adds the training images to those of `setup`, and their features, cached in `dir`, to
    /// `features`.
    ///
    /// # Errors
    /// When an image cannot be read or the features cannot be cached.
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
    for name in [LEARNED, HELD_OUT] {
        let file = dir.join(name);
        let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}
