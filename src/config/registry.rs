//! Location of versions of models, and who may promote them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::keys::digest;
use crate::registry::{self, RegistryError};

/// Location of versions of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// A folder, or `off`.
    pub dir: String,
}

impl RegistrySection {
    /// The registry; `None` where it is off.
    pub fn open(&self) -> Option<Result<registry::Registry, RegistryError>> {
        (self.dir != "off").then(|| registry::Registry::open(Path::new(&self.dir)))
    }
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            dir: "candor-data/registry".to_owned(),
        }
    }
}

/// Who may promote versions over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// SHA-256 of the key in hex digits, or `off`: nobody.
    pub key_sha256: String,
}

impl AdminSection {
    /// The digest; `None` where it is off, or none.
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest(&self.key_sha256)
    }

    /// Returns `true` if it makes sense.
    pub(super) fn is_sound(&self) -> bool {
        self.key_sha256 == "off" || self.digest().is_some()
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            key_sha256: "off".to_owned(),
        }
    }
}
