//! Arrays of a safetensors file, each checked against the expected shape. Signed bytes are
//! supported, which candle does not read.

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::files::EvidenceError;

/// Opened safetensors file.
pub(super) struct TensorFile<'a> {
    file: &'static str,
    tensors: SafeTensors<'a>,
}

impl<'a> TensorFile<'a> {
    /// Opens the contents of a file; `file` is its name in errors.
    pub(super) fn parse(file: &'static str, bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let failed = |e: safetensors::SafeTensorError| EvidenceError {
            file,
            key: String::new(),
            message: e.to_string(),
        };
        Ok(Self {
            file,
            tensors: SafeTensors::deserialize(bytes).map_err(failed)?,
        })
    }

    /// Creates an error about an array.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> EvidenceError {
        EvidenceError {
            file: self.file,
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn tensor(&self, key: &str) -> Result<TensorView<'_>, EvidenceError> {
        self.tensors
            .tensor(key)
            .map_err(|_| self.error(key, "is missing"))
    }

    fn shaped(&self, key: &str, shape: &[usize]) -> Result<TensorView<'_>, EvidenceError> {
        let tensor = self.tensor(key)?;
        if tensor.shape() != shape {
            return Err(self.error(
                key,
                format!("has shape {:?}; {shape:?} is expected", tensor.shape()),
            ));
        }
        Ok(tensor)
    }

    /// Returns the length of a vector, at least 1.
    pub(super) fn length(&self, key: &str) -> Result<usize, EvidenceError> {
        match *self.tensor(key)?.shape() {
            [length] if length > 0 => Ok(length),
            ref shape => Err(self.error(key, format!("has shape {shape:?}; a vector is expected"))),
        }
    }

    /// Returns the rows and columns of a matrix, at least 1 each.
    pub(super) fn sides(&self, key: &str) -> Result<(usize, usize), EvidenceError> {
        match *self.tensor(key)?.shape() {
            [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
            ref shape => Err(self.error(key, format!("has shape {shape:?}; a matrix is expected"))),
        }
    }

    /// Returns an array of finite numbers stored as f32 or f16.
    pub(super) fn floats(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, EvidenceError> {
        let tensor = self.shaped(key, shape)?;
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => tensor
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
            Dtype::F16 => tensor
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                .collect(),
            other => {
                return Err(self.error(
                    key,
                    format!(
                        "is of type {other:?}; F32 or F16 is \
                    expected"
                    ),
                ));
            }
        };
        if values.iter().any(|x| !x.is_finite()) {
            return Err(self.error(key, "has a number that is not finite"));
        }
        Ok(values)
    }

    /// Returns an array of signed bytes.
    pub(super) fn bytes(&self, key: &str, shape: &[usize]) -> Result<Vec<i8>, EvidenceError> {
        let tensor = self.shaped(key, shape)?;
        match tensor.dtype() {
            Dtype::I8 => Ok(tensor
                .data()
                .iter()
                .map(|&byte| i8::from_le_bytes([byte]))
                .collect()),
            other => Err(self.error(key, format!("is of type {other:?}; I8 is expected"))),
        }
    }
}
