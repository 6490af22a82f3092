//! Facts about a version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RegistryError;
use crate::util::digest::hex;

/// Digits of a hash in a version's id.
const ID_DIGITS: usize = 12;

/// Facts about a bundle that are given when it is registered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionFacts {
    /// The versions that it was made from.
    pub parents: Vec<String>,
    /// Data that it was trained on: a name of each piece of data and its SHA-256.
    pub data: BTreeMap<String, String>,
    /// Figures of its quality, by name.
    pub figures: BTreeMap<String, f64>,
    /// Figures of its predecessor's quality on the same data.
    pub baseline: BTreeMap<String, f64>,
    /// Why it was made, taken or rejected, a sentence each.
    pub reasons: Vec<String>,
    /// `true` if it failed its gate: then it is kept, and not promoted.
    pub rejected: bool,
}

/// Decision on whether a version may be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionDecision {
    /// It may.
    Registered,
    /// It failed its gate.
    Rejected,
}

/// A file of a version's bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// SHA-256 of its content in hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// A version: what its `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The model's name, and the beginning of a hash of its files and parents: the same files from
    /// the same parents are the same version.
    pub id: String,
    /// The model's name.
    pub name: String,
    /// Version that the bundle itself states.
    pub version: String,
    /// Unix time of its registration.
    pub created: u64,
    /// Decision on whether it may be promoted.
    pub outcome: PromotionDecision,
    /// The bundle's files by name.
    pub files: BTreeMap<String, FileFacts>,
    /// The versions that it was made from.
    pub parents: Vec<String>,
    /// Data that it was trained on: names and SHA-256.
    pub data: BTreeMap<String, String>,
    /// Figures of its quality, by name.
    pub figures: BTreeMap<String, f64>,
    /// Figures of its predecessor's quality on the same data.
    pub baseline: BTreeMap<String, f64>,
    /// Why it was made, taken or rejected.
    pub reasons: Vec<String>,
}

impl Version {
    /// Checks that it may be promoted.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it failed its gate and is not `force`d.
    pub fn promotable(&self, force: bool) -> Result<(), RegistryError> {
        if self.outcome == PromotionDecision::Registered || force {
            return Ok(());
        }
        let reasons = if self.reasons.is_empty() {
            "no reason is given".to_owned()
        } else {
            self.reasons.join("; ")
        };
        Err(RegistryError::Rejected {
            id: self.id.clone(),
            reasons,
        })
    }

    /// The manifest of a bundle's files and what is said about them.
    pub(super) fn new(
        name: &str,
        version: &str,
        created: u64,
        files: BTreeMap<String, FileFacts>,
        facts: VersionFacts,
    ) -> Result<Self, RegistryError> {
        let VersionFacts {
            parents,
            data,
            figures,
            baseline,
            reasons,
            rejected,
        } = facts;
        if let Some((figure, value)) = figures
            .iter()
            .chain(&baseline)
            .find(|(_, value)| !value.is_finite())
        {
            return Err(RegistryError::Facts(format!(
                "the figure {figure} is {value}, which is no number to keep"
            )));
        }
        let outcome = if rejected {
            PromotionDecision::Rejected
        } else {
            PromotionDecision::Registered
        };
        let id = id(name, &files, &parents);
        Ok(Self {
            id,
            name: name.to_owned(),
            version: version.to_owned(),
            created,
            outcome,
            files,
            parents,
            data,
            figures,
            baseline,
            reasons,
        })
    }
}

fn id(name: &str, files: &BTreeMap<String, FileFacts>, parents: &[String]) -> String {
    let mut hash = Sha256::new();
    for (file, facts) in files {
        hash.update(format!("{file}\0{}\n", facts.sha256));
    }
    for parent in parents {
        hash.update(format!("parent\0{parent}\n"));
    }
    // A file's name, and a part of a URL.
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.trim_start_matches('.').chars().map(fit).collect();
    let digits = &hex(&hash.finalize())[..ID_DIGITS];
    format!("{name}-{digits}")
}
