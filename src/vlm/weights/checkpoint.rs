//! Tensors of opened files by canonical name.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::PathBuf,
};

use candle_core::{Device, Result, Tensor, quantized::GgmlDType};

use super::{HeldWeights, WeightFile, WeightsDtype, WeightsError};
use crate::vlm::nn::{Linear, PackedMatrix, RowOrder, SharedBytes};

/// Options for the matrices of a checkpoint.
#[derive(Debug, Clone)]
pub struct WeightsOptions {
    /// Device of all tensors.
    pub device: Device,
    /// Dtype of matrices that are not quantized.
    pub dtype: WeightsDtype,
    /// Encoding to quantize matrices to as they are loaded, those aside whose rows are no whole
    /// number of its blocks. Matrices that are quantized in the file stay as they are.
    pub quantize: Option<GgmlDType>,
}

impl Default for WeightsOptions {
    /// Everything as it is in the files, on the CPU.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: WeightsDtype::Auto,
            quantize: None,
        }
    }
}

impl WeightsOptions {
    /// Returns the encoding in which a matrix with rows of `cols` values is kept.
    pub(super) fn encoding(&self, stored: GgmlDType, cols: usize) -> GgmlDType {
        if stored.block_size() > 1 {
            return stored;
        }
        match (self.quantize, self.dtype) {
            (Some(quantized), _) if cols.is_multiple_of(quantized.block_size()) => quantized,
            (_, WeightsDtype::Auto) => stored,
            (_, WeightsDtype::F32) => GgmlDType::F32,
            (_, WeightsDtype::Bf16) => GgmlDType::BF16,
            (_, WeightsDtype::F16) => GgmlDType::F16,
        }
    }
}

/// Tensor in a mapped file.
#[derive(Debug)]
pub(super) struct StoredTensor {
    pub(super) file: PathBuf,
    /// Name in the file.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Encoding, or the name of a type that is not read.
    pub(super) encoding: std::result::Result<GgmlDType, String>,
    pub(super) order: RowOrder,
    pub(super) bytes: SharedBytes,
}

impl StoredTensor {
    /// Returns the tensor as a matrix of rows along its first dimension.
    fn matrix(&self) -> Result<PackedMatrix> {
        let encoding = self.encoding.clone().map_err(|found| WeightsError::Type {
            file: self.file.clone(),
            tensor: self.name.clone(),
            found,
        })?;
        let (rows, cols) = match self.shape.as_slice() {
            [] => (1, 1),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        PackedMatrix::new(self.bytes.clone(), encoding, self.order, (rows, cols)).map_err(|error| {
            let reason = format!("{}: {error}", self.name);
            let file = self.file.clone();
            WeightsError::Malformed { file, reason }.into()
        })
    }
}

/// Opened files.
#[derive(Debug)]
pub(super) struct Checkpoint {
    tensors: HashMap<String, StoredTensor>,
    pub(super) files: Vec<WeightFile>,
    pub(super) options: WeightsOptions,
}

impl Checkpoint {
    /// Collects the tensors that have a canonical name.
    ///
    /// # Errors
    /// When two have the same.
    pub(super) fn new(
        tensors: impl IntoIterator<Item = (Option<String>, StoredTensor)>,
        options: WeightsOptions,
    ) -> std::result::Result<Self, WeightsError> {
        let mut named = HashMap::new();
        let mut files = BTreeMap::new();
        for (name, tensor) in tensors {
            files
                .entry(tensor.file.clone())
                .or_insert_with(|| WeightFile::new(&tensor.file))
                .add(&tensor);
            let Some(name) = name else { continue };
            match named.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(tensor);
                }
                Entry::Occupied(entry) => {
                    let other: &StoredTensor = entry.get();
                    return Err(WeightsError::Ambiguous {
                        name: entry.key().clone(),
                        tensors: [other.name.clone(), tensor.name],
                        files: [other.file.clone(), tensor.file],
                    });
                }
            }
        }
        Ok(Self {
            tensors: named,
            files: files.into_values().collect(),
            options,
        })
    }

    /// Gives the memory of all files back, which they fill again as they are read.
    pub(super) fn give_back(&self) {
        let tensors = self.tensors.values();
        let of_files: HashMap<&PathBuf, &SharedBytes> = tensors
            .map(|tensor| (&tensor.file, &tensor.bytes))
            .collect();
        of_files.values().for_each(|bytes| bytes.give_back());
    }

    /// Returns the canonical names of all tensors.
    #[cfg(test)]
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub(super) fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// Returns the bytes of all tensors whose names begin with `prefix`, as they are in the files.
    pub(super) fn bytes(&self, prefix: &str) -> usize {
        let below = self
            .tensors
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        below.map(|(_, tensor)| tensor.bytes.as_ref().len()).sum()
    }

    /// Returns the memory that the tensors take when they are loaded with `options`.
    pub(super) fn held(&self, options: &WeightsOptions) -> HeldWeights {
        let mut held = HeldWeights::default();
        for (name, tensor) in &self.tensors {
            held.add(name, tensor, options);
        }
        held
    }

    /// Returns `true` if the name of a tensor in the files begins with `prefix`.
    pub(super) fn has_stored(&self, prefix: &str) -> bool {
        let mut tensors = self.tensors.values();
        tensors.any(|tensor| tensor.name.starts_with(prefix))
    }

    /// Returns a tensor that must have a shape.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<&StoredTensor> {
        let missing = || WeightsError::MissingTensor {
            name: name.to_owned(),
            files: self.files.iter().map(|file| file.path.clone()).collect(),
        };
        let tensor = self.get(name).ok_or_else(missing)?;
        if tensor.shape != shape {
            return Err(WeightsError::Shape {
                file: tensor.file.clone(),
                tensor: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected: shape.to_vec(),
            }
            .into());
        }
        Ok(tensor)
    }

    /// Loads a tensor in f32.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let matrix = self.expect(name, shape)?.matrix()?;
        Tensor::from_vec(matrix.decode_all(), shape, &self.options.device)
    }

    /// Loads a matrix `(out, input)` with its bias.
    pub(super) fn linear(
        &self,
        weight: &str,
        shape: [usize; 2],
        bias: Option<Tensor>,
    ) -> Result<Linear> {
        let matrix = self.expect(weight, &shape)?.matrix()?;
        let encoding = self.options.encoding(matrix.encoding(), matrix.cols());
        Linear::packed(matrix.encode(encoding)?, bias, &self.options.device)
    }
}
