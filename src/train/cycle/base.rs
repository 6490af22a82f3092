//! Base version of a cycle.

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

/// Reward histogram of a bundle's default scorer from its calibration, if it has one.
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

/// Base version: the promoted one or else the configured model, which is then registered as an
/// ancestor.
pub(super) fn base(context: &CycleContext<'_>) -> Result<BaseVersion, TrainError> {
    let promoted = context.registry.state().map_err(registry)?.promoted;
    let version = match &promoted {
        Some(id) => context.registry.get(id).map_err(registry)?,
        None => {
            // Checked first, since a missing model is the user's mistake and not the registry's.
            Bundle::describe(context.model).map_err(|e| TrainError::Run(e.to_string()))?;
            let reasons = vec!["base model of the first cycle".to_owned()];
            context
                .registry
                .register(
                    Path::new(context.model),
                    VersionFacts {
                        reasons,
                        ..VersionFacts::default()
                    },
                )
                .map_err(registry)?
        }
    };
    context.registry.verify(&version).map_err(registry)?;
    let bundle = context.registry.bundle_dir(&version);
    let bundle = bundle.canonicalize().map_err(TrainError::io(&bundle))?;
    Ok(BaseVersion {
        id: version.id,
        bundle,
        name: version.name,
        version: version.version,
        promoted: promoted.is_some(),
    })
}
