//! What people corrected, as it stood at one time: a directory that does not change any more, which
//! trainings name.
//!
//! `photographs/` holds the distinct images by their SHA-256, `corrections.jsonl` what may be
//! learnt from, `held_out.jsonl` corrections of the images that scorers are measured on and nothing
//! is trained on, and `snapshot.json` the counts and the SHA-256 of both files
//! ([`SnapshotManifest`]). Images are held out by their hash, so that one stays on its side from
//! snapshot to snapshot.
//! [`take`](Snapshot::take) makes one of a store, [`judgment`] says what a record is worth.

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

const LEARNT: &str = "corrections.jsonl";
const HELD_OUT: &str = "held_out.jsonl";
const FACTS: &str = "snapshot.json";
const PHOTOGRAPHS: &str = "photographs";

/// Why a record is not in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// It names what is missing, and no text that has it: no token is judged.
    NothingJudged,
    /// Prompt or response are longer than what is trained on.
    TooLong,
    /// Prompt or response spell a special token.
    SpecialToken,
    /// The same annotator judged the same answer again.
    Superseded,
    /// Somebody else judged the same answer in the same way.
    Repeated,
    /// Others judged the same answer in another way, and as many or more of them.
    Contradicted,
    /// Its image is not kept any more.
    NoImage,
    /// Its image is damaged, or cannot be decoded.
    BadImage,
    /// Its image is one that models are evaluated on.
    Evaluated,
    /// It is older than the most that is read.
    TooOld,
    /// It comes from where records are not taken from.
    OtherSource,
}

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of this format.
    pub format: u32,
    /// Records in the store.
    pub records: usize,
    /// The newest of them.
    pub newest: Option<String>,
    /// Corrections to learn from.
    pub learnt: usize,
    /// Corrections of images that are held out.
    pub held_out: usize,
    /// Share of the images that is held out.
    pub held_out_share: f64,
    /// Distinct images.
    pub photographs: usize,
    /// Records that are not in it, by why.
    pub left_out: BTreeMap<ExclusionReason, usize>,
    /// SHA-256 over both files of corrections, which name the images by theirs.
    pub sha256: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its directory.
    pub dir: PathBuf,
    /// What is in it.
    pub facts: SnapshotManifest,
    /// Corrections to learn from; the image is the file's name in `photographs/`.
    pub learnt: Vec<CorrectedAnswer>,
    /// Corrections that nothing is trained on.
    pub held_out: Vec<CorrectedAnswer>,
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// When it is none, or was changed.
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

    /// The images of some of its corrections, in their order, each with what people say that it
    /// shows.
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

    /// The files in `dir` for the features of its images: of those that are learnt from, and of
    /// those held out. They are large, and of no use when the trainings on it are done.
    pub fn features(&self, dir: &Path) -> [PathBuf; 2] {
        ["snapshot", "held-out"]
            .map(|name| dir.join(format!("{name}-{}.f16", &self.facts.sha256[..12])))
    }

    /// Removes the photographs of a snapshot that nothing is trained on any more: people may since
    /// have had theirs removed from the store.
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

    /// Adds the images that may be learnt from to the training images of `setup`, and their
    /// features, which are kept in `dir`, to `features`.
    ///
    /// # Errors
    /// When an image cannot be read or the features cannot be kept.
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

/// SHA-256 over both files of corrections, in hexadecimal.
fn digest(dir: &Path) -> Result<String, TrainError> {
    let mut hash = Sha256::new();
    for name in [LEARNT, HELD_OUT] {
        let file = dir.join(name);
        let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}
