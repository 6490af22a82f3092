//! Storage of versions as folders.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    FileFacts, RegistryError, Version, VersionFacts,
    files::{digest_of, json, lock, read_json, sync_dir, write_final},
    version::render_card,
};
use crate::{bundle::Bundle, util::digest::sha256_hex, util::time::unix_seconds};

/// Prefix of folders that are still being written.
const UNFINISHED: &str = ".new-";

/// Registry in a folder.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

impl Registry {
    /// Opens the registry in a folder, which is created on the first write.
    ///
    /// # Errors
    /// Returns an error if the path is not a folder.
    pub fn open(root: &Path) -> Result<Self, RegistryError> {
        if root.exists() && !root.is_dir() {
            return Err(RegistryError::Broken {
                path: root.to_owned(),
                what: "is not a folder".to_owned(),
            });
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Returns the registry's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Registers a copy of a bundle, given by directory or embedded name, as a version with these
    /// facts. The same files from the same parents are the same version, which is returned
    /// unchanged.
    ///
    /// # Errors
    /// Returns an error, and registers nothing, if the bundle is invalid, a figure is not finite,
    /// or a file cannot be written.
    pub fn register(&self, bundle: &Path, facts: VersionFacts) -> Result<Version, RegistryError> {
        let Some(source) = bundle.to_str() else {
            return Err(RegistryError::Facts(format!(
                "{}: the path is not valid Unicode",
                bundle.display()
            )));
        };
        let config = Bundle::describe(source)?;
        fs::create_dir_all(self.versions_dir()).map_err(RegistryError::io(&self.root))?;
        let _registering = lock(&self.root.join(".register.lock"))?;
        self.remove_unfinished()?;
        let fresh = self
            .versions_dir()
            .join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
        let registered = self.write(&fresh, source, &config.name, &config.version, facts);
        if fresh.exists() {
            // The version existed already, or an error occurred.
            fs::remove_dir_all(&fresh).map_err(RegistryError::io(&fresh))?;
        }
        registered
    }

    fn write(
        &self,
        fresh: &Path,
        source: &str,
        name: &str,
        own: &str,
        facts: VersionFacts,
    ) -> Result<Version, RegistryError> {
        let copy = fresh.join("bundle");
        fs::create_dir_all(&copy).map_err(RegistryError::io(&copy))?;
        let mut files = BTreeMap::new();
        for file in Bundle::files(source)? {
            let bytes = Bundle::file(source, &file)?;
            write_final(&copy.join(&file), &bytes)?;
            files.insert(
                file,
                FileFacts {
                    sha256: sha256_hex(&bytes),
                    bytes: bytes.len() as u64,
                },
            );
        }
        let created = unix_seconds();
        let version = Version::new(name, own, created, files, facts)?;
        let target = self.version_dir(&version.id);
        if let Some(existing) = read_json(&target.join("manifest.json"))? {
            return Ok(existing);
        }
        write_final(&fresh.join("manifest.json"), &json(&version)?)?;
        write_final(&fresh.join("card.md"), render_card(&version).as_bytes())?;
        sync_dir(&copy)?;
        sync_dir(fresh)?;
        fs::rename(fresh, &target).map_err(RegistryError::io(&target))?;
        sync_dir(&self.versions_dir())?;
        Ok(version)
    }

    /// Removes folders left by processes that were killed while registering. The caller must hold
    /// the lock.
    fn remove_unfinished(&self) -> Result<(), RegistryError> {
        for name in self.folders()? {
            if name.starts_with(UNFINISHED) {
                let left = self.version_dir(&name);
                fs::remove_dir_all(&left).map_err(RegistryError::io(&left))?;
            }
        }
        Ok(())
    }

    /// Returns all versions, oldest first.
    ///
    /// # Errors
    /// Returns an error if a manifest cannot be read.
    pub fn versions(&self) -> Result<Vec<Version>, RegistryError> {
        let names = self
            .folders()?
            .into_iter()
            .filter(|name| !name.starts_with('.'));
        let read =
            names.map(|name| read_json::<Version>(&self.version_dir(&name).join("manifest.json")));
        let mut versions: Vec<Version> = read
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        versions.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(versions)
    }

    /// Returns the version with this id, or the only one whose id has this prefix.
    ///
    /// # Errors
    /// Returns an error if no version or several match, or a manifest cannot be read.
    pub fn get(&self, id: &str) -> Result<Version, RegistryError> {
        let mut found: Vec<Version> = self
            .versions()?
            .into_iter()
            .filter(|version| !id.is_empty() && version.id.starts_with(id))
            .collect();
        if let Some(exact) = found.iter().position(|version| version.id == id) {
            return Ok(found.swap_remove(exact));
        }
        match (found.pop(), found.as_slice()) {
            (Some(only), []) => Ok(only),
            (None, _) => Err(RegistryError::Unknown(id.chars().take(128).collect())),
            (Some(last), others) => {
                let ids = others
                    .iter()
                    .chain([&last])
                    .map(|version| version.id.clone())
                    .collect();
                Err(RegistryError::Ambiguous {
                    prefix: id.to_owned(),
                    ids,
                })
            }
        }
    }

    /// Returns the directory of a version's bundle, for [`Bundle::load`].
    pub fn bundle_dir(&self, version: &Version) -> PathBuf {
        self.version_dir(&version.id).join("bundle")
    }

    /// Reads a version's card in Markdown.
    ///
    /// # Errors
    /// Returns an error if the card cannot be read.
    pub fn card(&self, version: &Version) -> Result<String, RegistryError> {
        let path = self.version_dir(&version.id).join("card.md");
        fs::read_to_string(&path).map_err(RegistryError::io(&path))
    }

    /// Checks a version's files against their registered lengths and SHA-256.
    ///
    /// # Errors
    /// Returns [`RegistryError::Damaged`] with the first file that differs, or an error if one
    /// cannot be read.
    pub fn verify(&self, version: &Version) -> Result<(), RegistryError> {
        let dir = self.bundle_dir(version);
        let damaged = |file: &str, what| {
            Err(RegistryError::Damaged {
                id: version.id.clone(),
                file: file.to_owned(),
                what,
            })
        };
        for (name, facts) in &version.files {
            let path = dir.join(name);
            if !path.is_file() {
                return damaged(name, "is missing");
            }
            let (sha256, bytes) = digest_of(&path).map_err(RegistryError::io(&path))?;
            if (&sha256, bytes) != (&facts.sha256, facts.bytes) {
                return damaged(name, "has another content");
            }
        }
        Ok(())
    }

    /// Returns the versions, oldest first, that are not in use and older than `keep` others: not
    /// the promoted one, its shadow, the `keep` versions promoted last before it, or the `keep`
    /// newest ones. Nothing is surplus if `keep` is 0.
    ///
    /// # Errors
    /// Returns an error if the state or a manifest cannot be read.
    pub fn surplus(&self, keep: usize) -> Result<Vec<Version>, RegistryError> {
        if keep == 0 {
            return Ok(Vec::new());
        }
        let (state, mut versions) = (self.state()?, self.versions()?);
        versions.truncate(versions.len().saturating_sub(keep));
        let shadow = state.shadow.map(|shadow| shadow.id);
        let before = state.previous.into_iter().rev().take(keep);
        let used: Vec<String> = before.chain(state.promoted).chain(shadow).collect();
        versions.retain(|version| !used.contains(&version.id));
        Ok(versions)
    }

    /// Removes versions; one that is promoted or the shadow by now stays. They can no longer be
    /// rolled back to.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be removed or the state cannot be written.
    pub fn remove(&self, ids: &[&str]) -> Result<(), RegistryError> {
        if ids.is_empty() {
            return Ok(());
        }
        let _registering = lock(&self.root.join(".register.lock"))?;
        self.change(|state| {
            let shadow = state.shadow.as_ref().map(|shadow| &shadow.id);
            let used = [state.promoted.as_ref(), shadow];
            for id in ids {
                let dir = self.version_dir(id);
                if used.contains(&Some(&(*id).to_owned())) || !dir.exists() {
                    continue;
                }
                // Renamed first, so that a version is there whole or not at all.
                let going = self.version_dir(&format!("{UNFINISHED}{id}"));
                fs::rename(&dir, &going).map_err(RegistryError::io(&dir))?;
                fs::remove_dir_all(&going).map_err(RegistryError::io(&going))?;
            }
            state.previous.retain(|id| !ids.contains(&&**id));
            Ok(())
        })?;
        Ok(())
    }

    fn versions_dir(&self) -> PathBuf {
        self.root.join("versions")
    }

    /// Returns the folder of a version.
    pub fn version_dir(&self, id: &str) -> PathBuf {
        self.versions_dir().join(id)
    }

    /// Returns the names in the folder of versions.
    fn folders(&self) -> Result<Vec<String>, RegistryError> {
        let dir = self.versions_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RegistryError::io(&dir)(error)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names
            .filter_map(std::io::Result::transpose)
            .collect::<std::io::Result<_>>()
            .map_err(RegistryError::io(&dir))
    }
}
