//! From a run directory to a bundle.

use std::path::Path;

use candle_core::{DType, Device};

use super::{Tensors, TrainError, checkpoint::write_atomically};

/// Reads a safetensors file into tensors with a prefix before their names.
///
/// # Errors
/// When the file cannot be read; the error names it.
pub fn read_weights(file: &Path, prefix: &str) -> Result<Tensors, TrainError> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).map_err(|e| e.context(file.display().to_string()))?;
    Ok(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect())
}

/// Writes weights in f16, as bundles hold them.
///
/// # Errors
/// When the file cannot be written.
pub fn write_weights(file: &Path, tensors: Tensors) -> Result<(), TrainError> {
    let half = tensors.into_iter().map(|(k, t)| Ok((k, t.to_dtype(DType::F16)?))).collect::<candle_core::Result<Tensors>>()?;
    candle_core::safetensors::save(&half, file)?;
    Ok(())
}

/// Writes a value as pretty JSON, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(file: &Path, value: &impl serde::Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(value).map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
    write_atomically(file, &json)
}
