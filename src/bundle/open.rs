//! Opening of any model that can be served: an embedded bundle, a bundle's folder, a checkpoint's
//! folder, a GGUF file, a repository on the Hub.

use std::{
    env, fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use candle_core::Device;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Bundle, BundleError, probe_folder};
use crate::{
    reward::RewardKind,
    util::digest::hex,
    vlm::{
        models::{ModelLicense, ModelSource, load},
        processor::casing::Casing,
        weights::{
            BlockFormat, WeightsDtype, WeightsOptions,
            hub::{Hub, HubSnapshot, RepoId},
        },
    },
};

/// Options of opening a model.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Kind of scorer to use of a bundle with several.
    pub reward: Option<RewardKind>,
    /// Bundle or folder of a probe whose scorer judges the model's texts.
    pub scorer: Option<String>,
    /// Dtype of a checkpoint's matrices. Those of a bundle are f32; if any is given, they are not
    /// rounded on the CPU.
    pub dtype: WeightsDtype,
    /// Format that a checkpoint's matrices are quantized to.
    pub quantize: Option<BlockFormat>,
}

impl OpenOptions {
    /// Returns the options for the matrices of a checkpoint on `device`.
    pub(super) fn weights(&self, device: &Device) -> WeightsOptions {
        WeightsOptions {
            device: device.clone(),
            dtype: self.dtype,
            quantize: self.quantize.map(BlockFormat::ggml),
        }
    }
}

/// Location of a model's files.
#[derive(Debug)]
pub(super) enum Location {
    /// Candor's own form, embedded or in a folder.
    Bundle,
    /// Another form.
    Checkpoint {
        source: ModelSource,
        name: String,
        version: String,
    },
}

impl Location {
    /// Finds a model by its name; `snapshot` returns the local copy of a repository.
    pub(super) fn find(
        name: &str,
        snapshot: impl FnOnce(&RepoId) -> Result<HubSnapshot, BundleError>,
    ) -> Result<Self, BundleError> {
        let path = Path::new(name);
        if Bundle::embedded().contains(&name) || is_bundle(path) {
            return Ok(Self::Bundle);
        }
        if path.exists() {
            let source = ModelSource::find(path).map_err(|error| BundleError::Checkpoint {
                name: name.to_owned(),
                error: Box::new(error),
            })?;
            let version = fingerprint(&source);
            return Ok(Self::Checkpoint {
                name: short_name(&source),
                source,
                version,
            });
        }
        let Ok(repo) = name.parse::<RepoId>() else {
            return Err(BundleError::Unknown {
                name: name.to_owned(),
                embedded: Bundle::embedded().join(", "),
            });
        };
        let snapshot = snapshot(&repo)?;
        let source = ModelSource::find(&snapshot.dir).map_err(|error| BundleError::Checkpoint {
            name: name.to_owned(),
            error: Box::new(error),
        })?;
        Ok(Self::Checkpoint {
            source,
            name: repo.name(),
            version: snapshot.revision,
        })
    }
}

/// Returns the local copy of a repository: the one that is there, or a new one.
fn snapshot(repo: &RepoId) -> Result<HubSnapshot, BundleError> {
    match downloaded(repo) {
        Ok(snapshot) => Ok(snapshot),
        Err(_) => Ok(hub()?.pull(repo, None, &mut ())?),
    }
}

/// Returns the local copy of a repository that was downloaded before.
pub(super) fn downloaded(repo: &RepoId) -> Result<HubSnapshot, BundleError> {
    Ok(hub()?.offline().pull(repo, None, &mut ())?)
}

fn hub() -> Result<Hub, BundleError> {
    Ok(Hub::from_variables(|name| env::var(name).ok())?)
}

/// Returns `true` if a folder has a bundle of Candor's own form.
fn is_bundle(folder: &Path) -> bool {
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let is_format = |config: &Value| config.get("format").is_some_and(Value::is_u64);
    serde_json::from_slice(&config).is_ok_and(|config| is_format(&config))
}

/// Bytes at both ends of a file by which its content is told.
const SAMPLE: u64 = 1 << 16;

/// Returns a version of a source: the beginning of a SHA-256 over the names, sizes and both ends of
/// its files, since hashing all weights would take longer than loading them.
fn fingerprint(source: &ModelSource) -> String {
    let mut hash = Sha256::new();
    let paths: Vec<PathBuf> = match source {
        ModelSource::Folder(folder) => {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths
        }
        ModelSource::Gguf { text, vision } => vision.iter().chain([text]).cloned().collect(),
    };
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        hash.update(name.as_bytes());
        // What cannot be read is refused when it is loaded.
        let _ = sample(&path, &mut hash);
    }
    hex(&hash.finalize()[..6])
}

/// Hashes the size and both ends of a file.
fn sample(path: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    hash.update(size.to_le_bytes());
    let mut bytes = Vec::new();
    (&mut file).take(SAMPLE).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(size.saturating_sub(SAMPLE)))?;
    file.take(SAMPLE).read_to_end(&mut bytes)?;
    hash.update(&bytes);
    Ok(())
}

/// Returns the name of a model by its files.
fn short_name(source: &ModelSource) -> String {
    let name = match source {
        ModelSource::Folder(folder) => folder
            .canonicalize()
            .ok()
            .and_then(|folder| Some(folder.file_name()?.to_owned())),
        ModelSource::Gguf { text, .. } => text.file_stem().map(ToOwned::to_owned),
    };
    name.map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Returns the Unix time at which the model's main file was written; 0 if it is unknown.
fn created(source: &ModelSource) -> u64 {
    let path = match source {
        ModelSource::Folder(folder) => folder.join("config.json"),
        ModelSource::Gguf { text, .. } => text.clone(),
    };
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    let since = modified
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |time| time.as_secs())
}

impl Bundle {
    /// Opens the model called `name`: an embedded bundle, the folder of a bundle or a checkpoint, a
    /// GGUF file, or a repository on the Hub (`owner/model[@revision]`), which is downloaded if
    /// it is not there.
    ///
    /// # Errors
    /// When there is no such model, a file is missing or invalid, or the scorer does not fit.
    pub fn open(name: &str, options: &OpenOptions, device: &Device) -> Result<Self, BundleError> {
        let bundle = match Location::find(name, snapshot)? {
            Location::Bundle => Self::load_as(name, options.reward, options.dtype, device)?,
            Location::Checkpoint {
                source,
                name,
                version,
            } => Self::load_checkpoint(&source, name, version, options, device)?,
        };
        match &options.scorer {
            None => Ok(bundle),
            Some(scorer) if probe_folder::is_probe(Path::new(scorer)) => {
                probe_folder::attach(bundle, Path::new(scorer))
            }
            Some(scorer) => {
                let scorer = Self::load_as(scorer, options.reward, options.dtype, device)?;
                bundle.with_scorer(scorer)
            }
        }
    }

    fn load_checkpoint(
        source: &ModelSource,
        name: String,
        version: String,
        options: &OpenOptions,
        device: &Device,
    ) -> Result<Self, BundleError> {
        if options.reward.is_some() && options.scorer.is_none() {
            return Err(BundleError::NoScorer { bundle: name });
        }
        let weights = options.weights(device);
        let (vlm, processor) = load(source, &weights).map_err(|error| BundleError::Checkpoint {
            name: name.clone(),
            error: Box::new(error),
        })?;
        Ok(Self {
            name,
            version,
            created: created(source),
            license: ModelLicense::of_checkpoint(source),
            casing: Casing::Mixed,
            device: device.clone(),
            vlm,
            processor,
            reward: None,
            calibration: None,
            reader: None,
            evidence: None,
            scorer: None,
        })
    }
}
