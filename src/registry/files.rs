//! File operations that are durable when they return.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::util::digest::hex;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::RegistryError;

/// Returns a file's SHA-256 in hexadecimal and its length in bytes.
pub(super) fn digest_of(path: &Path) -> std::io::Result<(String, u64)> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let bytes = std::io::copy(&mut file, &mut hash)?;
    Ok((hex(&hash.finalize()), bytes))
}

/// Writes a new read-only file.
pub(super) fn write_final(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions)?;
        file.sync_all()
    };
    write().map_err(RegistryError::io(path))
}

/// Replaces a file atomically: readers see either the old or the new content.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(RegistryError::io(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Flushes a folder's entries to disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), RegistryError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(RegistryError::io(dir))
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec_pretty(value).map_err(|e| RegistryError::Facts(e.to_string()))
}

/// Reads a JSON file; `None` if it does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RegistryError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RegistryError::io(path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| RegistryError::Broken {
            path: path.to_owned(),
            what: e.to_string(),
        })
}

/// Waits for an exclusive lock, which is released when the returned file is closed or the process
/// dies.
pub(super) fn lock(path: &Path) -> Result<File, RegistryError> {
    let take = || {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(RegistryError::io(path))
}
