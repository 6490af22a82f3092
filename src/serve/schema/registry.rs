//! Schemas of versions of models.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// A version: what its `manifest.json` says.
#[derive(Serialize, ToSchema)]
#[schema(as = Version)]
pub(crate) struct VersionSchema {
    /// The model's name, and the beginning of a hash of its files and parents: the same files from
    /// the same parents are the same version.
    pub(crate) id: String,
    /// The model's name.
    pub(crate) name: String,
    /// Version that the bundle itself states.
    pub(crate) version: String,
    /// Unix time of its registration.
    pub(crate) created: u64,
    /// Decision on whether it may be promoted.
    pub(crate) outcome: PromotionDecisionSchema,
    /// The bundle's files by name.
    pub(crate) files: BTreeMap<String, FileFactsSchema>,
    /// The versions that it was made from.
    pub(crate) parents: Vec<String>,
    /// Data that it was trained on: names and SHA-256.
    pub(crate) data: BTreeMap<String, String>,
    /// Figures of its quality, by name.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Figures of its predecessor's quality on the same data.
    pub(crate) baseline: BTreeMap<String, f64>,
    /// Why it was made, taken or rejected.
    pub(crate) reasons: Vec<String>,
}

/// Decision on whether a version may be promoted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PromotionDecision)]
pub(crate) enum PromotionDecisionSchema {
    /// It may.
    Registered,
    /// It failed its gate.
    Rejected,
}

/// A file of a version's bundle.
#[derive(Serialize, ToSchema)]
#[schema(as = FileFacts)]
pub(crate) struct FileFactsSchema {
    /// SHA-256 of its content in hexadecimal.
    pub(crate) sha256: String,
    /// Its length.
    pub(crate) bytes: u64,
}
