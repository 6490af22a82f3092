//! Bounds on what one client may ask for.

use serde::{Deserialize, Serialize};

/// Most that a rate can be.
pub(super) const MAX_RATE: u64 = 1_000_000_000;

/// Most that [`LimitsSection::max_choices`] can be: OpenAI's bound on `n`.
pub(super) const MAX_CHOICES: usize = 128;

/// Bounds on what one client may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Most answers that one request has written: `n` times `guard.candidates`.
    pub max_choices: usize,
    /// `POST` requests a minute of a key that does not say or, without keys, of a client's address;
    /// 0: any number.
    pub requests_per_minute: u64,
    /// Tokens a minute, read and written, likewise.
    pub tokens_per_minute: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            max_choices: 16,
            requests_per_minute: 0,
            tokens_per_minute: 0,
        }
    }
}
