//! Probes in folders of their own: scorers of policies that are no bundles.
//!
//! Files: `config.json` ([`ProbeFolderConfig`]), `reward.safetensors` and `calibration.json`, both
//! as in a bundle.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::{Bundle, BundleError};
use crate::reward::{
    RewardKind, TokenReward,
    calibration::{Calibration, Calibrator},
    probe::{Probe, ProbeConfig, ProbeNet},
};

/// Version of the format that is read.
const FORMAT: u32 = 1;

/// Content of the `config.json` of a probe's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeFolderConfig {
    /// Version of the format.
    pub format: u32,
    /// Architecture of the policy, as its [`Spec`](crate::vlm::Spec) names it.
    pub architecture: String,
    /// Digest of the policy's tokenizer.
    pub tokenizer: String,
    /// The probe.
    pub probe: ProbeConfig,
}

/// Returns `true` if a folder has a probe alone.
pub(super) fn is_probe(folder: &Path) -> bool {
    fs::read(folder.join("config.json")).is_ok_and(|config| {
        serde_json::from_slice::<serde_json::Value>(&config)
            .is_ok_and(|config| config.get("probe").is_some())
    })
}

/// Attaches the probe in a folder to the policy that it was trained on.
pub(super) fn attach(mut bundle: Bundle, folder: &Path) -> Result<Bundle, BundleError> {
    let fail = |file: &str, message: String| BundleError::File {
        bundle: folder.display().to_string(),
        file: file.to_owned(),
        message,
    };
    let read = |file: &str| fs::read(folder.join(file)).map_err(|e| fail(file, e.to_string()));
    let config: ProbeFolderConfig = serde_json::from_slice(&read("config.json")?)
        .map_err(|e| fail("config.json", e.to_string()))?;
    if config.format != FORMAT {
        let message = format!("format: is {}; this version reads {FORMAT}", config.format);
        return Err(fail("config.json", message));
    }
    let spec = bundle.vlm.spec();
    if config.architecture != spec.architecture {
        let message = format!(
            "architecture: the probe reads a {}; {} is a {}",
            config.architecture, bundle.name, spec.architecture
        );
        return Err(fail("config.json", message));
    }
    if config.tokenizer != bundle.tokenizer().digest() {
        let message = format!(
            "tokenizer: the probe was trained with another tokenizer than that of {}",
            bundle.name
        );
        return Err(fail("config.json", message));
    }
    let taps = config
        .probe
        .taps(spec.layers, spec.width)
        .map_err(|e| fail("config.json", format!("probe: {e}")))?;
    let calibration =
        serde_json::from_slice::<BTreeMap<RewardKind, Calibration>>(&read("calibration.json")?)
            .map_err(|e| fail("calibration.json", e.to_string()))?
            .remove(&RewardKind::Probe)
            .ok_or_else(|| fail("calibration.json", "has no entry 'probe'".to_owned()))?;
    calibration
        .validate()
        .map_err(|e| fail("calibration.json", e))?;
    let file = "reward.safetensors";
    let tensors = candle_core::safetensors::load_buffer(&read(file)?, &Device::Cpu)
        .map_err(|e| fail(file, e.to_string()))?;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            Ok((
                name,
                tensor.to_dtype(DType::F32)?.to_device(&bundle.device)?,
            ))
        })
        .collect::<candle_core::Result<_>>()
        .map_err(|e| fail(file, e.to_string()))?;
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &bundle.device);
    let net = ProbeNet::load(&config.probe, weights.pp(RewardKind::Probe.name()))
        .and_then(ProbeNet::folded)
        .map_err(|e| fail(file, e.to_string()))?;
    let net = Arc::new(net);
    let scorer = |calibration: &Calibration| -> Arc<dyn TokenReward> {
        let calibrator = Calibrator::new(calibration.clone(), bundle.tokenizer());
        Arc::new(Probe::new(Arc::clone(&net), taps.clone(), calibrator))
    };
    let others = calibration.for_others().clone();
    let (own, reader) = (scorer(&calibration), scorer(&others));
    bundle.reader = Some((reader, others));
    bundle.reward = Some(own);
    bundle.calibration = Some(calibration);
    Ok(bundle)
}
