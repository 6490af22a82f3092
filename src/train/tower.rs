//! Frozen vision tower of a training run.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use sha2::{Digest, Sha256};

use super::{Tensors, TrainError};
use crate::vlm::vision::efficientnet_lite::{EfficientNetLite, EfficientNetLiteConfig};

/// Vision tower with a digest of its weights, which identifies features computed by it.
pub struct Tower {
    /// Network.
    pub net: EfficientNetLite,
    /// SHA-256 of names and weights.
    pub digest: [u8; 32],
}

impl Tower {
    /// Prefix of the tower's tensors in a bundle.
    pub const PREFIX: &'static str = "vision.";

    /// Loads the tower from a bundle's weights, or from a file without the prefix.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(config: &EfficientNetLiteConfig, weights: Tensors) -> Result<Self, TrainError> {
        let in_bundle = weights.keys().any(|k| k.starts_with(Self::PREFIX));
        let tower_name = |name: String| {
            if in_bundle {
                name.strip_prefix(Self::PREFIX).map(str::to_owned)
            } else {
                Some(name)
            }
        };
        let weights = weights
            .into_iter()
            .filter_map(|(k, t)| Some((tower_name(k)?, t.to_dtype(DType::F32))));
        let weights: Tensors = weights
            .map(|(k, t)| Ok((k, t?)))
            .collect::<candle_core::Result<_>>()?;
        let mut names: Vec<&String> = weights.keys().collect();
        names.sort();
        let mut hash = Sha256::new();
        for name in names {
            hash.update(name);
            weights[name]
                .flatten_all()?
                .to_vec1::<f32>()?
                .iter()
                .for_each(|x| hash.update(x.to_le_bytes()));
        }
        let digest = hash.finalize().into();
        Ok(Self {
            net: EfficientNetLite::load(
                config,
                VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
            )?,
            digest,
        })
    }
}
