//! Corrections and what is remembered for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Storage of corrections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackSection {
    /// `sqlite:PATH`, `postgres://USER:PASSWORD@HOST/DATABASE`, or `off`.
    pub store: String,
    /// A folder, or `s3://BUCKET/PREFIX`.
    pub images: String,
}

impl FeedbackSection {
    /// Returns `true` if corrections are taken.
    pub fn enabled(&self) -> bool {
        self.store != "off"
    }
}

impl Default for FeedbackSection {
    fn default() -> Self {
        Self {
            store: "sqlite:candor-data/feedback.db".to_owned(),
            images: "candor-data/images".to_owned(),
        }
    }
}

/// Receipts: records of completions that are remembered for a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiptsSection {
    /// Time that they are kept: `7d`, `12h`; `0s`: nothing is remembered.
    pub retention: String,
    /// Most bytes of receipts and their images.
    pub max_bytes: u64,
}

impl ReceiptsSection {
    /// Returns the time that they are kept, of a configuration that was checked.
    pub fn retention(&self) -> Duration {
        humantime::parse_duration(&self.retention).unwrap_or_default()
    }
}

impl Default for ReceiptsSection {
    fn default() -> Self {
        Self {
            retention: "7d".to_owned(),
            max_bytes: 4 << 30,
        }
    }
}
