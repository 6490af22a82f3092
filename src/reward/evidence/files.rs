//! Names of the two files of the evidence, and the error about them.

/// Name of the file with the weights.
pub const WEIGHTS_FILE: &str = "evidence.safetensors";

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "evidence.json";

/// Error about an evidence file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{message}", prefix(.key))]
pub struct EvidenceError {
    /// File.
    pub file: &'static str,
    /// Key in it; empty if the error concerns the file as a whole.
    pub key: String,
    /// Description of the fault.
    pub message: String,
}

fn prefix(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("{key}: ")
    }
}

impl EvidenceError {
    pub(super) fn config(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: CONFIG_FILE,
            key: key.into(),
            message: message.into(),
        }
    }
}
