//! API keys.

use serde::{Deserialize, Serialize};

use super::{Auto, ByClass, Guard};
use crate::guard::{self, Mode};

/// Who may use the API, and with which guard where a request does not say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Key {
    /// What logs call whoever has it.
    pub name: String,
    /// SHA-256 of the key in hex digits; the key itself stands nowhere.
    pub key_sha256: String,
    /// In place of `guard.mode`; auto: that.
    pub mode: Auto<Mode>,
    /// In place of `guard.threshold` and `guard.target_fpr`; auto: those. Not together with `target_fpr`.
    pub threshold: Auto<f32>,
    /// In place of `guard.threshold` and `guard.target_fpr`; auto: those.
    pub target_fpr: Auto<f32>,
    /// In place of `guard.thresholds`, where this table has any threshold.
    pub thresholds: ByClass,
}

impl Key {
    /// The digest, where it is one.
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest(&self.key_sha256)
    }

    /// The guard of requests with this key, where they do not say.
    pub fn guard(&self, common: &Guard) -> Guard {
        let own = self.threshold != Auto::Auto || self.target_fpr != Auto::Auto;
        let (threshold, target_fpr) = if own { (self.threshold, self.target_fpr) } else { (common.threshold, common.target_fpr) };
        let thresholds = if own || self.thresholds != ByClass::default() { self.thresholds } else { common.thresholds };
        Guard { mode: self.mode.value().unwrap_or(common.mode), threshold, target_fpr, thresholds, ..common.clone() }
    }
}

/// A SHA-256 of 64 hex digits; `None` for anything else.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}

/// What is wrong with the keys, and with which. No message repeats a digest: somebody may have put the key there.
pub(super) fn check(keys: &[Key]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let mut must = |ok: bool, option: &str, what: &str| {
            if !ok {
                found.push((format!("keys[{i}].{option}"), format!("{what} (key `{}`)", key.name)));
            }
        };
        must(!key.name.is_empty(), "name", "must not be empty");
        must(keys[..i].iter().all(|other| other.name != key.name), "name", "must not be that of another key");
        must(key.digest().is_some(), "key_sha256", "must be the 64 hex digits of the key's SHA-256");
        let known = key.digest().is_some_and(|own| keys[..i].iter().any(|other| other.digest() == Some(own)));
        must(!known, "key_sha256", "must not be that of another key");
        for (option, share) in [("threshold", key.threshold), ("target_fpr", key.target_fpr)] {
            must(share.value().is_none_or(|s| (0.0..=1.0).contains(&s)), option, "must be between 0 and 1, or \"auto\"");
        }
        for (class, share) in guard::ByClass::from(key.thresholds).each() {
            must(share.is_none_or(|s| (0.0..=1.0).contains(&s)), &format!("thresholds.{class}"), "must be between 0 and 1, or \"auto\"");
        }
        let both = key.threshold != Auto::Auto && key.target_fpr != Auto::Auto;
        must(!both, "target_fpr", "cannot be given together with threshold");
    }
    found
}
