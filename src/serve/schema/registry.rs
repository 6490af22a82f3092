//! Schemas of versions of models.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// Registered version: the content of its `manifest.json`.
#[derive(Serialize, ToSchema)]
#[schema(as = Version)]
pub(crate) struct VersionSchema {
    /// Model name and the first digits of a hash of its files and parents: the same files from the
    /// same parents are the same version.
    pub(crate) id: String,
    /// Model name.
    pub(crate) name: String,
    /// Version stated by the bundle.
    pub(crate) version: String,
    /// Unix time of registration.
    pub(crate) created: u64,
    /// Decision of the gate.
    pub(crate) outcome: PromotionDecisionSchema,
    /// Files of the bundle by name.
    pub(crate) files: BTreeMap<String, FileFactsSchema>,
    /// Ids of the versions that it was trained from.
    pub(crate) parents: Vec<String>,
    /// Training data: names and their SHA-256.
    pub(crate) data: BTreeMap<String, String>,
    /// Quality figures by name.
    pub(crate) figures: BTreeMap<String, f64>,
    /// The predecessor's figures on the same data.
    pub(crate) baseline: BTreeMap<String, f64>,
    /// Reasons why it was made, accepted or rejected.
    pub(crate) reasons: Vec<String>,
}

/// Decision of the gate.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PromotionDecision)]
pub(crate) enum PromotionDecisionSchema {
    /// The version may be promoted.
    Registered,
    /// The version failed its gate.
    Rejected,
}

/// File of a version's bundle.
#[derive(Serialize, ToSchema)]
#[schema(as = FileFacts)]
pub(crate) struct FileFactsSchema {
    /// SHA-256 in hexadecimal.
    pub(crate) sha256: String,
    /// Length in bytes.
    pub(crate) bytes: u64,
}
