//! Learning from corrections: `candor cycle` works where the server looks.

use serde::{Deserialize, Serialize};

/// Location of cycles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CycleSection {
    /// A folder.
    pub dir: String,
}

impl Default for CycleSection {
    fn default() -> Self {
        Self {
            dir: "candor-data/cycles".to_owned(),
        }
    }
}
