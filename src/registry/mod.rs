//! Registry of immutable model versions, of which one is promoted to be served.
//!
//! It consists of plain files:
//!
//! ```text
//! candor-data/registry/
//!   versions/candor-mini-4f1c09ab7d23/
//!     manifest.json   the facts: files with their SHA-256, parents, data, figures
//!     card.md         the same for people
//!     bundle/         the bundle, read-only
//!   state.json        the promoted version, those before it, and the shadow
//! ```
//!
//! Versions and states are written beside their place and renamed, so that readers never see half
//! of one. Several processes may use a registry at once.

mod files;
pub mod gate;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod version;

use std::path::{Path, PathBuf};

pub use state::{RegistryState, ShadowVersion};
pub use store::Registry;
pub use version::{FileFacts, PromotionDecision, Version, VersionFacts};

use crate::bundle::BundleError;

/// Error of a registry operation.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file or folder cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// A file of the registry is malformed.
    #[error("{}: {what}", path.display())]
    Broken {
        /// Path of the file.
        path: PathBuf,
        /// Description of the problem.
        what: String,
    },
    /// The bundle to register is invalid.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The facts about a version are invalid.
    #[error("{0}")]
    Facts(String),
    /// The version does not exist.
    #[error("there is no version '{0}' in the registry; `candor models list` shows all")]
    Unknown(String),
    /// Several ids begin with the prefix.
    #[error("'{prefix}' matches several versions: {}", ids.join(", "))]
    Ambiguous {
        /// Requested prefix.
        prefix: String,
        /// Matching ids.
        ids: Vec<String>,
    },
    /// A version's files differ from those registered.
    #[error("version {id} is damaged: {file} {what}")]
    Damaged {
        /// Id of the version.
        id: String,
        /// Name of the file.
        file: String,
        /// Description of the problem.
        what: &'static str,
    },
    /// The version failed its gate and is not forced.
    #[error("version {id} was rejected ({reasons}); only --force promotes it")]
    Rejected {
        /// Id of the version.
        id: String,
        /// Reasons of the rejection.
        reasons: String,
    },
    /// No version is promoted.
    #[error("no version is promoted, so there is nothing to roll back")]
    NonePromoted,
    /// The version to roll back from is not the promoted one.
    #[error("version {requested} is not the promoted one, which is \
             {}", promoted.as_deref().unwrap_or("none"))]
    NotPromoted {
        /// Requested version.
        requested: String,
        /// Promoted version.
        promoted: Option<String>,
    },
    /// A share of the traffic is outside 0 to 1.
    #[error("a share of the traffic must be between 0 and 1, not {0}")]
    Share(f64),
}

impl RegistryError {
    /// Wraps an I/O error with its path, for `map_err`.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
