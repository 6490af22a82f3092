//! What a cycle begins with.

use std::{collections::BTreeMap, path::Path};

use super::{
    run::{CycleContext, registry},
    state::BaseVersion,
};
use crate::{
    bundle::Bundle,
    registry::VersionFacts,
    reward::RewardKind,
    reward::{calibration::Calibration, drift::Histogram},
    train::TrainError,
};

/// Returns how the rewards of a bundle's default scorer were distributed when it was calibrated,
/// where it says so.
pub(super) fn reference(bundle: &str) -> Result<Option<Histogram>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::Run(format!("{bundle}: {e}"));
    let config = Bundle::describe(bundle).map_err(|e| failed(&e))?;
    let Some(reward) = config.reward else {
        return Ok(None);
    };
    let file = Bundle::file(bundle, "calibration.json").map_err(|e| failed(&e))?;
    let mut all: BTreeMap<RewardKind, Calibration> =
        serde_json::from_slice(&file).map_err(|e| failed(&e))?;
    Ok(all
        .remove(&reward.default)
        .and_then(|calibration| calibration.rewards))
}

/// The version to begin with: the promoted one or, where none is, the model of the configuration,
/// which is then registered as an ancestor.
pub(super) fn base(place: &CycleContext<'_>) -> Result<BaseVersion, TrainError> {
    let promoted = place.registry.state().map_err(registry)?.promoted;
    let version = match &promoted {
        Some(id) => place.registry.get(id).map_err(registry)?,
        None => {
            // A model that is not there is the user's mistake, not the registry's.
            Bundle::describe(place.model).map_err(|e| TrainError::Run(e.to_string()))?;
            let reasons = vec!["the model that a first cycle began with".to_owned()];
            place
                .registry
                .register(
                    Path::new(place.model),
                    VersionFacts {
                        reasons,
                        ..VersionFacts::default()
                    },
                )
                .map_err(registry)?
        }
    };
    place.registry.verify(&version).map_err(registry)?;
    let bundle = place.registry.bundle_dir(&version);
    let bundle = bundle.canonicalize().map_err(TrainError::io(&bundle))?;
    Ok(BaseVersion {
        id: version.id,
        bundle,
        name: version.name,
        version: version.version,
        promoted: promoted.is_some(),
    })
}
