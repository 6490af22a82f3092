//! State of the registry: the promoted version, its predecessors and the shadow.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Registry, RegistryError,
    files::{json, lock, read_json, replace},
};

/// Maximum number of promotions that can be rolled back.
const MAX_PREVIOUS: usize = 64;

/// Promoted version, its predecessors and the shadow: the content of `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryState {
    /// Promoted version; without one, the configured model is served.
    pub promoted: Option<String>,
    /// Versions promoted before it, most recent last.
    pub previous: Vec<String>,
    /// Version that is compared with it on live requests.
    pub shadow: Option<ShadowVersion>,
}

/// Version that also answers a share of the requests; its answers are compared, never returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowVersion {
    /// Id of the version.
    pub id: String,
    /// Share of the requests, 0 to 1.
    pub share: f64,
}

impl Registry {
    /// Reads the state.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn state(&self) -> Result<RegistryState, RegistryError> {
        Ok(read_json(&self.state_file())?.unwrap_or_default())
    }

    /// Returns the path of the state's file, for watching it.
    pub fn state_file(&self) -> PathBuf {
        self.root().join("state.json")
    }

    /// Promotes the version with this id or unique prefix. Servers that follow the registry then
    /// load, try and serve it. Its files are not verified ([`Self::verify`]). If it was the shadow,
    /// the shadow ends.
    ///
    /// # Errors
    /// Returns an error if the version does not exist, was rejected and is not `force`d, or the
    /// state cannot be written.
    pub fn promote(&self, id: &str, force: bool) -> Result<RegistryState, RegistryError> {
        let version = self.get(id)?;
        version.check_promotable(force)?;
        self.change(|state| {
            if state.promoted.as_ref() != Some(&version.id) {
                state.previous.extend(state.promoted.replace(version.id));
            }
            let surplus = state.previous.len().saturating_sub(MAX_PREVIOUS);
            state.previous.drain(..surplus);
            Ok(())
        })
    }

    /// Rolls back to the version promoted before, or from the first one to the configured model.
    ///
    /// # Errors
    /// Returns an error if no version is promoted or the state cannot be written.
    pub fn rollback(&self) -> Result<RegistryState, RegistryError> {
        self.roll_back(None)
    }

    /// Rolls back like [`Self::rollback`], provided that the version with this id is the promoted
    /// one.
    ///
    /// # Errors
    /// Returns [`RegistryError::NotPromoted`] if another version is promoted, and the errors of
    /// [`Self::rollback`].
    pub fn rollback_from(&self, id: &str) -> Result<RegistryState, RegistryError> {
        let version = self.get(id)?;
        self.roll_back(Some(&version.id))
    }

    fn roll_back(&self, id: Option<&str>) -> Result<RegistryState, RegistryError> {
        self.change(|state| match (&state.promoted, id) {
            (promoted, Some(id)) if promoted.as_deref() != Some(id) => {
                Err(RegistryError::NotPromoted {
                    requested: id.to_owned(),
                    promoted: promoted.clone(),
                })
            }
            (None, _) => Err(RegistryError::NonePromoted),
            (Some(_), _) => {
                state.promoted = state.previous.pop();
                Ok(())
            }
        })
    }

    /// Makes a version the shadow for this share of the requests, 0 to 1, in place of any other; 0
    /// ends the shadow.
    ///
    /// # Errors
    /// Returns an error if the version does not exist, the share is outside 0 to 1, or the state
    /// cannot be written.
    pub fn set_shadow(&self, id: &str, share: f64) -> Result<RegistryState, RegistryError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(RegistryError::Share(share));
        }
        let version = self.get(id)?;
        self.change(|state| {
            state.shadow = (share > 0.0).then_some(ShadowVersion {
                id: version.id,
                share,
            });
            Ok(())
        })
    }

    /// Ends the shadow.
    ///
    /// # Errors
    /// Returns an error if the state cannot be written.
    pub fn clear_shadow(&self) -> Result<RegistryState, RegistryError> {
        self.change(|state| {
            state.shadow = None;
            Ok(())
        })
    }

    /// Changes the state under a lock. An unchanged state is written too, so that servers retry a
    /// version that failed to load.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&mut RegistryState) -> Result<(), RegistryError>,
    ) -> Result<RegistryState, RegistryError> {
        std::fs::create_dir_all(self.root()).map_err(RegistryError::io(self.root()))?;
        let _changing = lock(&self.root().join(".state.lock"))?;
        let mut state = self.state()?;
        change(&mut state)?;
        if state
            .shadow
            .as_ref()
            .is_some_and(|shadow| Some(&shadow.id) == state.promoted.as_ref())
        {
            state.shadow = None;
        }
        replace(&self.state_file(), &json(&state)?)?;
        Ok(state)
    }
}
