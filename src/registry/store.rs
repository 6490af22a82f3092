//! Versions in their folders.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    FileFacts, RegistryError, Version, VersionFacts,
    card::card,
    files::{digest_of, json, lock, read_json, sync_dir, write_final},
};
use crate::{bundle::Bundle, util::digest::sha256_hex, util::time::unix_seconds};

/// Prefix of folders of versions that are being written.
const UNFINISHED: &str = ".new-";

/// A registry in a folder.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

impl Registry {
    /// The registry in a folder. What does not exist is made when something is written to it.
    ///
    /// # Errors
    /// When there is something else at the path.
    pub fn open(root: &Path) -> Result<Self, RegistryError> {
        if root.exists() && !root.is_dir() {
            return Err(RegistryError::Broken {
                path: root.to_owned(),
                what: "is no folder".to_owned(),
            });
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Returns its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps a copy of the bundle in a directory (or of that name, embedded in the program) with
    /// what is said about it. Registered again, from the same parents, it is the version that it
    /// was.
    ///
    /// # Errors
    /// When it is no bundle, a figure is not finite, or a file cannot be written; then there is no
    /// new version.
    pub fn register(&self, bundle: &Path, facts: VersionFacts) -> Result<Version, RegistryError> {
        let Some(source) = bundle.to_str() else {
            return Err(RegistryError::Facts(format!(
                "{} is no path in Unicode",
                bundle.display()
            )));
        };
        let config = Bundle::describe(source)?;
        fs::create_dir_all(self.versions_dir()).map_err(RegistryError::io(&self.root))?;
        let _registering = lock(&self.root.join(".register.lock"))?;
        self.sweep()?;
        let fresh = self
            .versions_dir()
            .join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
        let registered = self.write(&fresh, source, &config.name, &config.version, facts);
        if fresh.exists() {
            // Written in vain, for it was there, or for something failed.
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
        let place = self.version_dir(&version.id);
        if let Some(before) = read_json(&place.join("manifest.json"))? {
            return Ok(before);
        }
        write_final(&fresh.join("manifest.json"), &json(&version)?)?;
        write_final(&fresh.join("card.md"), card(&version).as_bytes())?;
        sync_dir(&copy)?;
        sync_dir(fresh)?;
        fs::rename(fresh, &place).map_err(RegistryError::io(&place))?;
        sync_dir(&self.versions_dir())?;
        Ok(version)
    }

    /// Removes what processes left behind that were killed while they registered. Whoever calls
    /// this holds the lock.
    fn sweep(&self) -> Result<(), RegistryError> {
        for name in self.folders()? {
            if name.starts_with(UNFINISHED) {
                let left = self.version_dir(&name);
                fs::remove_dir_all(&left).map_err(RegistryError::io(&left))?;
            }
        }
        Ok(())
    }

    /// All versions, oldest first.
    ///
    /// # Errors
    /// When a manifest cannot be read.
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

    /// The version of that id, or the only one whose id begins like this.
    ///
    /// # Errors
    /// When there is none, or several; or a manifest cannot be read.
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

    /// The directory of a version's bundle, for [`Bundle::load`].
    pub fn bundle_dir(&self, version: &Version) -> PathBuf {
        self.version_dir(&version.id).join("bundle")
    }

    /// A version's card.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn card(&self, version: &Version) -> Result<String, RegistryError> {
        let path = self.version_dir(&version.id).join("card.md");
        fs::read_to_string(&path).map_err(RegistryError::io(&path))
    }

    /// Checks that a version's files are those that were registered.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], which names the first that is not; or one cannot be read.
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

    fn versions_dir(&self) -> PathBuf {
        self.root.join("versions")
    }

    fn version_dir(&self, id: &str) -> PathBuf {
        self.versions_dir().join(id)
    }

    /// Names in the folder of versions.
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
