//! What files of tensors hold, and the memory that their tensors take, by headers alone.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::quantized::GgmlDType;
use serde::Serialize;

use super::{
    WeightsError, WeightsOptions, checkpoint::StoredTensor, format::BlockFormat, safetensors,
};
use crate::vlm::nn::SharedBytes;

/// Bytes by number format.
pub type FormatBytes = BTreeMap<String, u64>;

/// File of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Path, or name of an embedded file.
    pub path: PathBuf,
    /// Bytes of its tensors by number format.
    pub formats: FormatBytes,
    /// Number of values in all tensors.
    pub values: u64,
}

/// Memory of a checkpoint's tensors once they are loaded on the CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeldWeights {
    /// Bytes of the matrices by number format.
    pub matrices: FormatBytes,
    /// Bytes of the matrices that stay in the mapped files, part of [`Self::matrices`].
    pub mapped_bytes: u64,
    /// Bytes of norms, biases and embeddings of positions, which are kept in `f32`.
    pub others_bytes: u64,
}

impl HeldWeights {
    /// Returns the bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.matrices.values().sum::<u64>() + self.others_bytes
    }

    /// Adds a tensor by its canonical name.
    pub(super) fn add(&mut self, name: &str, tensor: &StoredTensor, options: &WeightsOptions) {
        let stored = tensor.bytes.as_ref().len() as u64;
        let is_matrix = tensor.shape.len() == 2 && !name.ends_with("position_embedding.weight");
        match (&tensor.encoding, tensor.shape.as_slice()) {
            (Ok(from), &[rows, cols]) if is_matrix => {
                let to = options.encoding(*from, cols);
                let bytes = if to == *from {
                    self.mapped_bytes += stored;
                    stored
                } else {
                    let row = cols / to.block_size() * to.type_size();
                    (rows as u64).saturating_mul(row as u64)
                };
                *self.matrices.entry(format_name(to)).or_default() += bytes;
            }
            _ => self.others_bytes += values(tensor).saturating_mul(4),
        }
    }
}

impl WeightFile {
    /// Reads the header of a safetensors file in memory.
    ///
    /// # Errors
    /// When it is no valid safetensors file.
    pub fn of_bytes(name: &str, bytes: Cow<'static, [u8]>) -> Result<Self, WeightsError> {
        let path = Path::new(name);
        let tensors = safetensors::read_tensors(&SharedBytes::new(Arc::new(bytes)), path);
        let tensors = tensors.map_err(|reason| WeightsError::Malformed {
            file: path.to_owned(),
            reason: format!("no valid safetensors file: {reason}"),
        })?;
        let mut file = Self::new(path);
        tensors.iter().for_each(|tensor| file.add(tensor));
        Ok(file)
    }

    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            formats: FormatBytes::new(),
            values: 0,
        }
    }

    pub(super) fn add(&mut self, tensor: &StoredTensor) {
        let format = match &tensor.encoding {
            Ok(encoding) => format_name(*encoding),
            Err(unread) => unread.to_lowercase(),
        };
        *self.formats.entry(format).or_default() += tensor.bytes.as_ref().len() as u64;
        self.values = self.values.saturating_add(values(tensor));
    }
}

/// Returns the number of values of a tensor, whose shape a file of an unread type may make up.
fn values(tensor: &StoredTensor) -> u64 {
    let sizes = tensor.shape.iter().map(|&size| size as u64);
    sizes.fold(1, u64::saturating_mul)
}

/// Returns the name of a number format, as `--dtype` and `--quantize` spell it.
fn format_name(encoding: GgmlDType) -> String {
    let named = BlockFormat::ALL
        .into_iter()
        .find(|(format, _)| format.ggml() == encoding);
    named.map_or_else(
        || format!("{encoding:?}").to_lowercase(),
        |(_, name)| name.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::{
        processor::fixtures,
        weights::{Weights, WeightsDtype, canonical_name},
    };

    fn open(name: &str) -> Weights<'static> {
        let folder = fixtures().join("models").join(name);
        Weights::open(&[folder], canonical_name, WeightsOptions::default()).unwrap()
    }

    fn total(weights: &Weights<'_>) -> u64 {
        let files = weights.files();
        files.iter().flat_map(|file| file.formats.values()).sum()
    }

    #[test]
    fn files_are_told_with_their_formats() {
        let weights = open("llava-new");
        let names: Vec<_> = weights
            .files()
            .iter()
            .map(|file| {
                file.path
                    .file_name()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let shard = |i| format!("model-0000{i}-of-00002.safetensors");
        assert_eq!(names, [shard(1), shard(2)]);
        for file in weights.files() {
            assert_eq!(file.formats["f32"], 4 * file.values);
            assert!(file.formats["f32"] < file.path.metadata().unwrap().len());
        }
        let idefics3 = open("idefics3");
        let formats = &idefics3.files()[0].formats;
        assert_eq!(formats.keys().collect::<Vec<_>>(), ["bf16"]);
    }

    #[test]
    fn held_weights_follow_the_options() {
        let weights = open("llava-old");
        let auto = weights.held(&WeightsOptions::default());
        assert_eq!(auto.bytes(), total(&weights), "f32 stays f32");
        assert_eq!(auto.mapped_bytes, auto.matrices["f32"]);

        let half = WeightsOptions {
            dtype: WeightsDtype::Bf16,
            ..WeightsOptions::default()
        };
        let half = weights.held(&half);
        assert_eq!(2 * half.matrices["bf16"], auto.matrices["f32"]);
        assert_eq!(
            (half.mapped_bytes, half.others_bytes),
            (0, auto.others_bytes)
        );

        let quantized = WeightsOptions {
            quantize: Some(GgmlDType::Q8_0),
            ..WeightsOptions::default()
        };
        let held = weights.held(&quantized);
        let formats: Vec<&str> = held.matrices.keys().map(String::as_str).collect();
        assert_eq!(formats, ["f32", "q8_0"], "rows of 48 are no whole blocks");
        assert!(held.bytes() < auto.bytes());

        let bf16 = open("idefics3");
        let held = bf16.held(&WeightsOptions::default());
        assert_eq!(held.mapped_bytes + held.others_bytes / 2, total(&bf16));
    }
}
