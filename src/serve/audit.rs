//! Audit log: who administered the server or deleted data, and when, a JSON object a line. Lines
//! are on the disk before the response, and unlike those of the log none is ever dropped.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use axum::http::StatusCode;
use serde::Serialize;

/// Open audit log.
pub(crate) struct AuditLog(Mutex<File>);

/// Action in the audit log.
#[derive(Debug, Serialize)]
pub(super) struct AuditEntry {
    /// Time in RFC 3339, UTC.
    time: String,
    /// Method and route of a request, or `reload`.
    action: String,
    /// Path of a request that was carried out, without its query; changed options of a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Name of the key; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// HTTP status, or `applied` or `refused` of a reload.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl AuditEntry {
    /// Returns the entry of a request that was answered with `status`; `path` is told only if it
    /// was carried out, since other paths may hold anything that a client wrote.
    pub(super) fn request(
        action: String,
        path: String,
        key: Option<String>,
        status: StatusCode,
        request_id: Option<String>,
    ) -> Self {
        Self {
            time: now(),
            action,
            target: status.is_success().then_some(path),
            key,
            outcome: status.as_u16().to_string(),
            request_id,
        }
    }

    /// Returns the entry of a reload; `changed` lists the options that were applied.
    pub(super) fn reload(outcome: &str, changed: Option<String>) -> Self {
        Self {
            time: now(),
            action: "reload".to_owned(),
            target: changed,
            key: None,
            outcome: outcome.to_owned(),
            request_id: None,
        }
    }
}

impl AuditLog {
    /// Opens a file to append to; only its owner can read a new one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes an entry to the disk. What cannot be written is in the log.
    pub(super) fn write(&self, entry: &AuditEntry) {
        let written = || {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(&line)?;
            file.sync_data()
        };
        if let Err(error) = written() {
            let entry = serde_json::to_string(entry).unwrap_or_default();
            tracing::error!(%error, entry, "the audit log could not be written");
        }
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
