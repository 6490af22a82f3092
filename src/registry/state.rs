//! Which version is served.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Registry, RegistryError,
    files::{json, lock, read_json, replace},
};

/// Promotions that can be gone back from, one after the other.
const MOST_PREVIOUS: usize = 64;

/// Promoted version and those before it, as `state.json` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryState {
    /// The version that is served; none: the model of the configuration.
    pub promoted: Option<String>,
    /// Those before it, the last one last.
    pub previous: Vec<String>,
    /// A version that is tried beside it.
    pub shadow: Option<ShadowVersion>,
}

/// A version that answers a share of the requests too, for nobody to see but those who compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowVersion {
    /// The version.
    pub id: String,
    /// Share of the requests, 0 to 1.
    pub share: f64,
}

impl Registry {
    /// Returns the promoted version and those before it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn state(&self) -> Result<RegistryState, RegistryError> {
        Ok(read_json(&self.state_file())?.unwrap_or_default())
    }

    /// Returns the path of the file that holds [`Self::state`], for those who wait for it to
    /// change.
    pub fn state_file(&self) -> PathBuf {
        self.root().join("state.json")
    }

    /// Promotes a version, whose id may be cut short: servers that follow the registry load it, try
    /// it and serve it. Its files are not looked at ([`Self::verify`]). Where it was the shadow,
    /// there is none any more.
    ///
    /// # Errors
    /// When there is no such version, it was rejected and not `force`d, or the state cannot be
    /// written.
    pub fn promote(&self, id: &str, force: bool) -> Result<RegistryState, RegistryError> {
        let version = self.get(id)?;
        version.promotable(force)?;
        self.change(|state| {
            if state.promoted.as_ref() != Some(&version.id) {
                state.previous.extend(state.promoted.replace(version.id));
            }
            let surplus = state.previous.len().saturating_sub(MOST_PREVIOUS);
            state.previous.drain(..surplus);
            Ok(())
        })
    }

    /// Goes back to the version before the promoted one; from the first one, to the model of the
    /// configuration.
    ///
    /// # Errors
    /// When none is promoted, or the state cannot be written.
    pub fn rollback(&self) -> Result<RegistryState, RegistryError> {
        self.leave(None)
    }

    /// As [`Self::rollback`], if the promoted version is the one of that id.
    ///
    /// # Errors
    /// As there; [`RegistryError::NotPromoted`] when it is another.
    pub fn rollback_from(&self, id: &str) -> Result<RegistryState, RegistryError> {
        let version = self.get(id)?;
        self.leave(Some(&version.id))
    }

    fn leave(&self, id: Option<&str>) -> Result<RegistryState, RegistryError> {
        self.change(|state| match (&state.promoted, id) {
            (promoted, Some(id)) if promoted.as_deref() != Some(id) => {
                Err(RegistryError::NotPromoted {
                    asked: id.to_owned(),
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

    /// Tries a version beside the promoted one, on this share of the requests, in place of another,
    /// if there is one; a share of 0 ends it.
    ///
    /// # Errors
    /// When there is no such version, the share is none, or the state cannot be written.
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

    /// Tries none any more.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn clear_shadow(&self) -> Result<RegistryState, RegistryError> {
        self.change(|state| {
            state.shadow = None;
            Ok(())
        })
    }

    /// Changes the state, one after the other. It is written also where it stays the same: who
    /// follows it tries again what failed.
    fn change(
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
