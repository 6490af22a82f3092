//! Versions, their facts and their cards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RegistryError;
use crate::util::digest::hex;

/// Number of hex digits in a version's id.
const ID_DIGITS: usize = 12;

/// Facts given when a bundle is registered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionFacts {
    /// Ids of the versions that it was trained from.
    pub parents: Vec<String>,
    /// Training data: names and their SHA-256.
    pub data: BTreeMap<String, String>,
    /// Quality figures by name.
    pub figures: BTreeMap<String, f64>,
    /// The predecessor's figures on the same data.
    pub baseline: BTreeMap<String, f64>,
    /// Reasons why it was made, accepted or rejected, one sentence each.
    pub reasons: Vec<String>,
    /// `true` if it failed its gate: it is registered but promoted only by force.
    pub rejected: bool,
}

/// Decision of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionDecision {
    /// The version may be promoted.
    Registered,
    /// The version failed its gate.
    Rejected,
}

/// File of a version's bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Registered version: the content of its `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Model name and the first digits of a hash of its files and parents: the same files from the
    /// same parents are the same version.
    pub id: String,
    /// Model name.
    pub name: String,
    /// Version stated by the bundle.
    pub version: String,
    /// Unix time of registration.
    pub created: u64,
    /// Decision of the gate.
    pub outcome: PromotionDecision,
    /// Files of the bundle by name.
    pub files: BTreeMap<String, FileFacts>,
    /// Ids of the versions that it was trained from.
    pub parents: Vec<String>,
    /// Training data: names and their SHA-256.
    pub data: BTreeMap<String, String>,
    /// Quality figures by name.
    pub figures: BTreeMap<String, f64>,
    /// The predecessor's figures on the same data.
    pub baseline: BTreeMap<String, f64>,
    /// Reasons why it was made, accepted or rejected.
    pub reasons: Vec<String>,
}

impl Version {
    /// Checks that the version may be promoted.
    ///
    /// # Errors
    /// Returns [`RegistryError::Rejected`] if it failed its gate and is not `force`d.
    pub fn check_promotable(&self, force: bool) -> Result<(), RegistryError> {
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

    /// Creates the manifest of a bundle's files and facts.
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
                "figure {figure} is {value}; figures must be finite"
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
    // The id must be valid as a file name and in a URL.
    let sanitize = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = name.trim_start_matches('.').chars().map(sanitize).collect();
    let digits = &hex(&hash.finalize())[..ID_DIGITS];
    format!("{name}-{digits}")
}

/// Renders the version's card in Markdown.
pub(super) fn render_card(version: &Version) -> String {
    let Version {
        id,
        name,
        version: own,
        created,
        outcome,
        files,
        parents,
        data,
        figures,
        baseline,
        reasons,
    } = version;
    let mut out = String::new();
    let mut push_line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    push_line(format_args!("# {id}\n"));
    let when =
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(*created));
    let decision = match outcome {
        PromotionDecision::Registered => "registered",
        PromotionDecision::Rejected => "**rejected**",
    };
    push_line(format_args!(
        "Model {name}, bundle version {own}, {decision} {when}.\n"
    ));
    match parents.as_slice() {
        [] => push_line(format_args!("It has no parents in the registry.")),
        parents => push_line(format_args!("Made from {}.", parents.join(", "))),
    }
    if !reasons.is_empty() {
        push_line(format_args!("\n## Why\n"));
        reasons
            .iter()
            .for_each(|reason| push_line(format_args!("- {reason}")));
    }
    let names: BTreeSet<&String> = figures.keys().chain(baseline.keys()).collect();
    if !names.is_empty() {
        push_line(format_args!(
            "\n## Figures\n\n| figure | this version | before | difference |\n|---|---|---|---|"
        ));
    }
    for name in names {
        let (now, before) = (figures.get(name), baseline.get(name));
        let shown =
            |value: Option<&f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        let difference = now
            .zip(before)
            .map_or_else(String::new, |(now, before)| format!("{:+.4}", now - before));
        push_line(format_args!(
            "| {name} | {} | {} | {difference} |",
            shown(now),
            shown(before)
        ));
    }
    if !data.is_empty() {
        push_line(format_args!("\n## Data\n\n| data | SHA-256 |\n|---|---|"));
        data.iter()
            .for_each(|(name, hash)| push_line(format_args!("| {name} | {hash} |")));
    }
    push_line(format_args!(
        "\n## Files\n\n| file | bytes | SHA-256 |\n|---|---|---|"
    ));
    files.iter().for_each(|(name, file)| {
        push_line(format_args!(
            "| {name} | {} | {} |",
            file.bytes, file.sha256
        ))
    });
    if files.contains_key("card.md") {
        push_line(format_args!("\nThe bundle's own card is `bundle/card.md`."));
    }
    out
}
