//! Checkpoints in safetensors files, whole or in shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use candle_core::quantized::GgmlDType;
use serde::{Deserialize, de::IgnoredAny};

use super::{WeightsError, checkpoint::StoredTensor, mapped::map_file};
use crate::vlm::nn::{RowOrder, SharedBytes};

/// Name of a checkpoint in one file.
const WHOLE: &str = "model.safetensors";

/// Name of the index of a checkpoint in shards.
const INDEX: &str = "model.safetensors.index.json";

/// Most bytes of an index: some hundred thousand tensors.
const MOST_INDEX_BYTES: u64 = 1 << 26;

/// Most bytes of a file's header, as in the reference.
const MOST_HEADER_BYTES: usize = 100_000_000;

/// Index of shards.
#[derive(Deserialize)]
struct ShardIndex {
    /// File of every tensor.
    weight_map: BTreeMap<String, String>,
}

/// Opens a folder's checkpoint or one file, and returns its tensors by their names in the files.
pub(super) fn open(path: &Path) -> Result<Vec<StoredTensor>, WeightsError> {
    if !path.is_dir() {
        return open_file(path);
    }
    let (whole, index) = (path.join(WHOLE), path.join(INDEX));
    if whole.exists() {
        open_file(&whole)
    } else if index.exists() {
        open_shards(path, &index)
    } else {
        Err(WeightsError::NoTensors {
            folder: path.to_owned(),
        })
    }
}

/// Opens the shards that an index names, and checks that they hold what it says.
fn open_shards(folder: &Path, index: &Path) -> Result<Vec<StoredTensor>, WeightsError> {
    let ShardIndex { weight_map } = read_index(index)?;
    for (tensor, shard) in &weight_map {
        let plain = Path::new(shard).file_name().and_then(|name| name.to_str());
        if plain != Some(shard) || shard.contains('\\') || !is_safetensors(Path::new(shard)) {
            return Err(WeightsError::ShardName {
                index: index.to_owned(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
    }
    let shards: BTreeSet<&String> = weight_map.values().collect();
    let mut tensors = Vec::new();
    for shard in shards {
        let file = folder.join(shard);
        if !file.exists() {
            return Err(WeightsError::MissingShard {
                index: index.to_owned(),
                shard: shard.clone(),
            });
        }
        let opened = open_file(&file)?;
        let held: BTreeSet<&str> = opened.iter().map(|tensor| tensor.name.as_str()).collect();
        let mut said = weight_map.iter().filter(|(_, file)| *file == shard);
        if let Some((tensor, _)) = said.find(|(tensor, _)| !held.contains(tensor.as_str())) {
            return Err(WeightsError::NotInShard {
                index: index.to_owned(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
        tensors.extend(opened);
    }
    Ok(tensors)
}

fn read_index(index: &Path) -> Result<ShardIndex, WeightsError> {
    let error = |source| WeightsError::File {
        file: index.to_owned(),
        source,
    };
    let malformed = |reason| WeightsError::Malformed {
        file: index.to_owned(),
        reason,
    };
    let file = fs::File::open(index).map_err(error)?;
    let mut text = Vec::new();
    file.take(MOST_INDEX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(error)?;
    if text.len() as u64 > MOST_INDEX_BYTES {
        return Err(malformed(format!("more than {MOST_INDEX_BYTES} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))
}

fn is_safetensors(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "safetensors")
}

/// Maps a file and returns its tensors.
fn open_file(path: &Path) -> Result<Vec<StoredTensor>, WeightsError> {
    let file: PathBuf = path.to_owned();
    if !path.exists() {
        let source = io::ErrorKind::NotFound.into();
        return Err(WeightsError::File { file, source });
    }
    if !is_safetensors(path) {
        return Err(WeightsError::FileType { file });
    }
    let bytes = map_file(path)?;
    read_tensors(&bytes, path).map_err(|reason| WeightsError::Malformed {
        file,
        reason: format!("no valid safetensors file: {reason}"),
    })
}

/// Header of a file: its tensors by name, which stand one behind the other in the data.
#[derive(Deserialize)]
struct Header {
    /// Notes of the writer.
    #[serde(rename = "__metadata__")]
    _notes: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorHeader>,
}

#[derive(Deserialize)]
struct TensorHeader {
    dtype: String,
    shape: Vec<usize>,
    /// First byte in the data and the one behind the last.
    data_offsets: (usize, usize),
}

/// Reads a file's header; the error says what is wrong with it.
pub(super) fn read_tensors(bytes: &SharedBytes, file: &Path) -> Result<Vec<StoredTensor>, String> {
    let all = bytes.as_ref();
    let (len, rest) = all
        .split_first_chunk()
        .ok_or_else(|| format!("{} bytes, expected 8 or more", all.len()))?;
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    let (header, data) = match rest.split_at_checked(len) {
        Some(parts) if len <= MOST_HEADER_BYTES => parts,
        _ => {
            return Err(format!(
                "a header of {len} bytes in a file of {}",
                all.len()
            ));
        }
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|error| format!("in the header: {error}"))?;
    let mut tensors: Vec<(String, TensorHeader)> = header.tensors.into_iter().collect();
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut last_end = 0;
    let mut stored = Vec::with_capacity(tensors.len());
    for (
        name,
        TensorHeader {
            dtype,
            shape,
            data_offsets: (start, end),
        },
    ) in tensors
    {
        if start != last_end || end < start {
            return Err(format!(
                "{name} at {start}..{end}, expected from {last_end} on"
            ));
        }
        last_end = end;
        let encoding = match dtype.as_str() {
            "F32" => Ok(GgmlDType::F32),
            "F16" => Ok(GgmlDType::F16),
            "BF16" => Ok(GgmlDType::BF16),
            _ => Err(dtype.clone()),
        };
        if let Ok(encoding) = encoding {
            let mut sizes = shape.iter().copied();
            let expected = sizes.try_fold(encoding.type_size(), usize::checked_mul);
            if expected != Some(end - start) {
                let found = end - start;
                return Err(format!(
                    "{name} has {found} bytes for {dtype} values of {shape:?}"
                ));
            }
        }
        let first = all.len() - data.len();
        let bytes = first
            .checked_add(end)
            .and_then(|end| bytes.slice(first + start..end));
        let bytes = bytes.ok_or_else(|| {
            format!(
                "{name} at {start}..{end}, but the data end at {}",
                data.len()
            )
        })?;
        stored.push(StoredTensor {
            file: file.to_owned(),
            name,
            shape,
            encoding,
            order: RowOrder::Straight,
            bytes,
        });
    }
    if last_end != data.len() {
        return Err(format!(
            "tensors up to {last_end}, but the data end at {}",
            data.len()
        ));
    }
    Ok(stored)
}
