//! Bundle files written by training runs.

use std::{fs, path::Path};

use candle_core::{DType, Device};

use super::{Tensors, TrainError, checkpoint::write_atomically, corpus::END, tower::Tower};
use crate::{
    bundle::{Bundle, BundleConfig, BundleError},
    reward::evidence::{CONFIG_FILE, WEIGHTS_FILE},
    util::time::unix_seconds,
    vlm::{models::candor_mini::CandorMiniConfig, processor::casing::Casing},
};

/// Chat template of models trained here: single-turn, lower-case questions.
pub const CHAT_TEMPLATE: &str = include_str!("../vlm/processor/chat_template.jinja");

/// Reads a safetensors file.
///
/// # Errors
/// When the file cannot be read; the error names it.
pub fn read_weights(file: &Path) -> Result<Tensors, TrainError> {
    Ok(candle_core::safetensors::load(file, &Device::Cpu)
        .map_err(|e| e.context(file.display().to_string()))?)
}

/// Writes weights in f16, the format of bundles.
///
/// # Errors
/// When the file cannot be written.
pub fn write_weights(file: &Path, tensors: Tensors) -> Result<(), TrainError> {
    let half = tensors
        .into_iter()
        .map(|(k, t)| Ok((k, t.to_dtype(DType::F16)?)))
        .collect::<candle_core::Result<Tensors>>()?;
    candle_core::safetensors::save(&half, file)?;
    Ok(())
}

/// Writes a value as indented JSON, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(file: &Path, value: &impl serde::Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
    write_atomically(file, &json)
}

/// Copies a bundle's evidence model into `dir`, if it has one. It reads only the vision tower,
/// which training leaves unchanged.
///
/// # Errors
/// When the bundle does not exist or a file cannot be written.
pub fn copy_evidence(bundle: &str, dir: &Path) -> Result<(), TrainError> {
    let failed = |e: BundleError| TrainError::Run(e.to_string());
    let files = Bundle::files(bundle).map_err(failed)?;
    for file in [WEIGHTS_FILE, CONFIG_FILE]
        .into_iter()
        .filter(|file| files.iter().any(|name| name == file))
    {
        write_atomically(
            &dir.join(file),
            &Bundle::file(bundle, file).map_err(failed)?,
        )?;
    }
    Ok(())
}

/// Writes a bundle without scorers from the vision tower's weights (with or without a bundle's
/// prefix) and the weights `language` of projector and decoder.
///
/// # Errors
/// When a file cannot be written.
pub fn write_policy(
    dir: &Path,
    name: &str,
    version: &str,
    model: &CandorMiniConfig,
    tokenizer: &[u8],
    tower: Tensors,
    language: Tensors,
) -> Result<(), TrainError> {
    fs::create_dir_all(dir).map_err(TrainError::io(dir))?;
    let is_tower = |name: &str| !name.starts_with("connector.") && !name.starts_with("decoder.");
    let with_prefix = |name: String| {
        if name.starts_with(Tower::PREFIX) {
            name
        } else {
            format!("{}{name}", Tower::PREFIX)
        }
    };
    let mut weights: Tensors = tower
        .into_iter()
        .filter(|(k, _)| is_tower(k))
        .map(|(k, t)| (with_prefix(k), t))
        .collect();
    weights.extend(language);
    write_weights(&dir.join("model.safetensors"), weights)?;
    write_atomically(&dir.join("tokenizer.json"), tokenizer)?;
    let config = BundleConfig {
        format: 1,
        name: name.to_owned(),
        version: version.to_owned(),
        created: unix_seconds(),
        eos: END.to_owned(),
        chat_template: CHAT_TEMPLATE.to_owned(),
        casing: Casing::Sentence,
        license: None,
        model: model.clone(),
        reward: None,
    };
    write_json(&dir.join("config.json"), &config)
}
