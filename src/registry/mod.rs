//! The registry: models by immutable version, which of them is served, and which was before.
//!
//! Plain files and nothing else:
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
//! A version appears whole (it is written beside and renamed) or not at all, and so does a new
//! state. Several processes may use a registry at once.

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

/// Failure of an operation on a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file or folder cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file of the registry is not what it should be.
    #[error("{}: {what}", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// Description of the fault.
        what: String,
    },
    /// The bundle to be registered is none.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The facts about a version cannot be kept.
    #[error("{0}")]
    Facts(String),
    /// There is no such version.
    #[error("there is no version '{0}' in the registry; `candor models list` shows what there is")]
    Unknown(String),
    /// Several versions begin like this.
    #[error("'{prefix}' is the beginning of several versions: {}", ids.join(", "))]
    Ambiguous {
        /// Prefix that was asked for.
        prefix: String,
        /// The versions.
        ids: Vec<String>,
    },
    /// A version's files are not those that were registered.
    #[error("version {id} is damaged: {file} {what}")]
    Damaged {
        /// The version.
        id: String,
        /// The file.
        file: String,
        /// Description of the fault.
        what: &'static str,
    },
    /// The version failed its gate.
    #[error("version {id} was rejected ({reasons}); only --force promotes it")]
    Rejected {
        /// The version.
        id: String,
        /// Why it was.
        reasons: String,
    },
    /// Nothing is promoted.
    #[error("no version is promoted, so there is nothing to go back from")]
    NonePromoted,
    /// Another version is promoted than the one to leave.
    #[error("version {asked} is not the promoted one; that is \
             {}", promoted.as_deref().unwrap_or("none"))]
    NotPromoted {
        /// The one to leave.
        asked: String,
        /// The promoted one.
        promoted: Option<String>,
    },
    /// A share that is none.
    #[error("a share of the traffic is between 0 and 1, not {0}")]
    Share(f64),
}

impl RegistryError {
    /// For `map_err`.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
