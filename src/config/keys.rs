//! API keys.

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Auto, ClassThresholdsSection, GuardSection, sections::MAX_RATE};
use crate::{
    guard::{self, Mode, OnUnanswerable},
    util::digest::sha256_hex,
};

/// Largest [`ApiKey::weight`].
const MAX_WEIGHT: u32 = 1000;

/// API key: its owner, scopes, rates and guard defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKey {
    /// Name shown in logs.
    pub name: String,
    /// Tenant that owns the receipts, records and images made with the key; auto: `name`. Keys of
    /// the same owner share them.
    pub owner: Auto<String>,
    /// Actions that the key permits.
    pub scopes: KeyScopes,
    /// Weight of the key's owner when the engine is shared among owners.
    pub weight: u32,
    /// `POST` requests a minute; auto: `limits.requests_per_minute`; 0: unlimited.
    pub requests_per_minute: Auto<u64>,
    /// Prompt and completion tokens a minute; auto: `limits.tokens_per_minute`; 0: unlimited.
    pub tokens_per_minute: Auto<u64>,
    /// SHA-256 of the key in hex digits; the key itself is not stored.
    pub key_sha256: String,
    /// Override of `guard.mode`; auto: none.
    pub mode: Auto<Mode>,
    /// Override of `guard.threshold` and `guard.target_fpr`; auto: none. Excludes `target_fpr`.
    pub threshold: Auto<f32>,
    /// Override of `guard.threshold` and `guard.target_fpr`; auto: none.
    pub target_fpr: Auto<f32>,
    /// Override of `guard.on_unanswerable`; auto: none.
    pub on_unanswerable: Auto<OnUnanswerable>,
    /// Override of `guard.thresholds`, if any threshold is set.
    pub thresholds: ClassThresholdsSection,
}

impl Default for ApiKey {
    fn default() -> Self {
        Self {
            name: String::new(),
            owner: Auto::Auto,
            scopes: KeyScopes::default(),
            weight: 1,
            requests_per_minute: Auto::Auto,
            tokens_per_minute: Auto::Auto,
            key_sha256: String::new(),
            mode: Auto::Auto,
            threshold: Auto::Auto,
            target_fpr: Auto::Auto,
            on_unanswerable: Auto::Auto,
            thresholds: ClassThresholdsSection::default(),
        }
    }
}

/// Permission of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyScope {
    /// Chat completions.
    #[serde(rename = "complete")]
    Complete,
    /// Scoring of texts.
    #[serde(rename = "score")]
    Score,
    /// Submitting corrections; listing, exporting and deleting records of the key's owner.
    #[serde(rename = "feedback:write")]
    FeedbackWrite,
    /// Listing, exporting and deleting records of any owner; with `feedback:write` and `annotate`,
    /// correcting and annotating answers of any owner.
    #[serde(rename = "feedback:read")]
    FeedbackRead,
    /// Annotation queue: the owner's items and, with `feedback:read`, those of all owners.
    #[serde(rename = "annotate")]
    Annotate,
    /// Routes under `/admin/`, and `/metrics` if it is not open to everyone.
    #[serde(rename = "admin")]
    Admin,
}

impl KeyScope {
    /// All scopes.
    pub const ALL: [Self; 6] = [
        Self::Complete,
        Self::Score,
        Self::FeedbackWrite,
        Self::FeedbackRead,
        Self::Annotate,
        Self::Admin,
    ];

    /// Name in the configuration and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Score => "score",
            Self::FeedbackWrite => "feedback:write",
            Self::FeedbackRead => "feedback:read",
            Self::Annotate => "annotate",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for KeyScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| {
            format!(
                "unknown scope; it is one of {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

/// Set of scopes, ordered as in [`KeyScope::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyScopes(BTreeSet<KeyScope>);

impl KeyScopes {
    /// Collects scopes into a set.
    pub fn new(scopes: impl IntoIterator<Item = KeyScope>) -> Self {
        Self(scopes.into_iter().collect())
    }

    /// Returns `true` if the set contains `scope`.
    pub fn contains(&self, scope: KeyScope) -> bool {
        self.0.contains(&scope)
    }

    /// Returns `true` if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for KeyScopes {
    /// Returns the scopes of an application that shows answers and submits corrections.
    fn default() -> Self {
        Self::new([KeyScope::Complete, KeyScope::Score, KeyScope::FeedbackWrite])
    }
}

impl ApiKey {
    /// Creates a key with this name and secret, and the default scopes.
    pub fn new(name: &str, secret: &str) -> Self {
        Self {
            name: name.to_owned(),
            key_sha256: sha256_hex(secret),
            ..Self::default()
        }
    }

    /// Returns the tenant that owns the data made with the key.
    pub fn owner(&self) -> &str {
        match &self.owner {
            Auto::Auto => &self.name,
            Auto::Value(owner) => owner,
        }
    }

    /// Returns the digest; `None` if it is malformed.
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest(&self.key_sha256)
    }

    /// Returns the guard defaults of requests with this key: `common` with the key's overrides.
    pub fn guard(&self, common: &GuardSection) -> GuardSection {
        let own = self.threshold != Auto::Auto || self.target_fpr != Auto::Auto;
        let (threshold, target_fpr) = if own {
            (self.threshold, self.target_fpr)
        } else {
            (common.threshold, common.target_fpr)
        };
        let thresholds = if own || self.thresholds != ClassThresholdsSection::default() {
            self.thresholds
        } else {
            common.thresholds
        };
        let on_unanswerable = self
            .on_unanswerable
            .value()
            .unwrap_or(common.on_unanswerable);
        GuardSection {
            mode: self.mode.value().unwrap_or(common.mode),
            threshold,
            target_fpr,
            thresholds,
            on_unanswerable,
            ..common.clone()
        }
    }
}

/// Parses a SHA-256 of 64 hex digits; `None` for anything else.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}

/// Validates the keys and returns a list of (option, problem). Messages never repeat a digest,
/// because a user may have written the secret in its place.
pub(super) fn check(keys: &[ApiKey]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let mut must = |ok: bool, option: &str, what: &str| {
            if !ok {
                found.push((
                    format!("keys[{i}].{option}"),
                    format!("{what} (key `{}`)", key.name),
                ));
            }
        };
        must(!key.name.is_empty(), "name", "must not be empty");
        must(
            !key.owner().is_empty() || key.name.is_empty(),
            "owner",
            "must not be empty",
        );
        must(!key.scopes.is_empty(), "scopes", "must name at least one");
        must(
            (1..=MAX_WEIGHT).contains(&key.weight),
            "weight",
            "must be between 1 and 1000",
        );
        for (option, rate) in [
            ("requests_per_minute", key.requests_per_minute),
            ("tokens_per_minute", key.tokens_per_minute),
        ] {
            must(
                rate.value().is_none_or(|rate| rate <= MAX_RATE),
                option,
                "must be at most 1000000000",
            );
        }
        must(
            keys[..i].iter().all(|other| other.name != key.name),
            "name",
            "must not be that of another key",
        );
        must(
            key.digest().is_some(),
            "key_sha256",
            "must be the 64 hex digits of the key's SHA-256",
        );
        let known = key
            .digest()
            .is_some_and(|own| keys[..i].iter().any(|other| other.digest() == Some(own)));
        must(!known, "key_sha256", "must not be that of another key");
        for (option, share) in [("threshold", key.threshold), ("target_fpr", key.target_fpr)] {
            must(
                share.value().is_none_or(|s| (0.0..=1.0).contains(&s)),
                option,
                "must be between 0 and 1, or \"auto\"",
            );
        }
        for (class, share) in guard::ClassThresholds::from(key.thresholds).entries() {
            must(
                share.is_none_or(|s| (0.0..=1.0).contains(&s)),
                &format!("thresholds.{class}"),
                "must be between 0 and 1, or \"auto\"",
            );
        }
        let both = key.threshold != Auto::Auto && key.target_fpr != Auto::Auto;
        must(
            !both,
            "target_fpr",
            "cannot be given together with threshold",
        );
    }
    found
}
