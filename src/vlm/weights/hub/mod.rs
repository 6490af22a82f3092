//! Models from the Hugging Face Hub, in the cache that its other clients use.
//!
//! The cache has a folder a repository: `refs/REVISION` holds a commit, `snapshots/COMMIT/` links
//! its files to `blobs/ETAG`, and `.no_exist/COMMIT/` has an empty file for each name that the
//! commit is known to lack. A download in progress is `blobs/ETAG.part`. Layout: `huggingface_hub`,
//! "Manage huggingface_hub cache-system".

mod error;
mod fetch;
mod repo;
mod selection;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use url::Url;

pub use hf_hub::api::Progress;

pub use self::{error::HubError, repo::RepoId};
use self::{
    fetch::{HubClient, RemoteFile},
    repo::is_commit,
    selection::{INDEX, fixed_names, gguf_models, select, top_files},
};
use crate::util::disk::free_bytes;

const ENDPOINT: &str = "https://huggingface.co";
/// Longest index of shards; those of the largest models have some 200 kB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Local copy of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSnapshot {
    /// Folder of the files. It may have more files than those listed.
    pub dir: PathBuf,
    /// Commit, 40 hexadecimal digits.
    pub revision: String,
    /// Files that the model is loaded from; its weights last.
    pub files: Vec<SnapshotFile>,
}

/// File of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Name within the folder.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// The Hub and its local cache.
pub struct Hub {
    cache: Cache,
    client: HubClient,
    offline: bool,
}

impl Hub {
    /// Configures access by the environment variables of the Hub's other clients: `HF_ENDPOINT`,
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HUB_OFFLINE`. `variable`
    /// returns the value of one.
    ///
    /// # Errors
    /// When a value cannot be used, or there is no place for the cache.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(folder("HOME")?.join(".cache/huggingface")))
            .ok_or(HubError::Variable {
                name: "HF_HOME",
                why: "set it to the folder for downloaded models, since HOME is not set",
            })?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = Url::parse(endpoint.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or(HubError::Variable {
                name: "HF_ENDPOINT",
                why: "it is no http:// or https:// address",
            })?;
        let token_path = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = set("HF_TOKEN")
            .or_else(|| fs::read_to_string(token_path).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        if token
            .iter()
            .any(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(HubError::Variable {
                name: "HF_TOKEN",
                why: "the token has characters that no token has",
            });
        }
        let yes = ["1", "on", "yes", "true"];
        Ok(Self {
            cache: Cache::new(folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"))),
            client: HubClient::new(endpoint, token),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| yes.contains(&value.trim().to_ascii_lowercase().as_str())),
        })
    }

    /// Uses the cache alone.
    pub fn offline(self) -> Self {
        Self {
            offline: true,
            ..self
        }
    }

    /// Resolves a repository to local files, and downloads those that are missing. `gguf` names
    /// the file to take of a repository with several GGUF files.
    ///
    /// A revision is resolved to its commit by the server, unless it is one whose files are all
    /// there.
    ///
    /// # Errors
    /// When the repository cannot be read, has no model of a kind that is read, or its files
    /// cannot be stored. What was downloaded stays, and the next call goes on from it.
    pub fn pull(
        &self,
        repo: &RepoId,
        gguf: Option<&str>,
        progress: &mut dyn Progress,
    ) -> Result<HubSnapshot, HubError> {
        let mut folder = RepoFolder::new(&self.cache, repo);
        if self.offline {
            return folder.cached(gguf);
        }
        if let Some(commit) = repo.commit()
            && folder.is_settled(commit)
            && let Ok(snapshot) = folder.cached(gguf)
        {
            return Ok(snapshot);
        }
        let info = self.client.info(repo)?;
        let names = top_files(repo, info.siblings.into_iter().map(|file| file.rfilename))?;
        folder.commit = info.sha;
        let wanted = select(repo, &names, gguf, || {
            self.fetch(&folder, &[INDEX.to_owned()], progress)?;
            folder.read_index()
        })?;
        let missing: Vec<String> = wanted
            .iter()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        if missing.iter().any(|name| name.ends_with(".gguf")) {
            return Err(HubError::Choice {
                repo: repo.to_string(),
                named: gguf.map(str::to_owned),
                choices: gguf_models(&names),
            });
        }
        if !missing.is_empty() {
            return Err(HubError::Incomplete {
                repo: repo.to_string(),
                missing: missing.join(", "),
            });
        }
        self.fetch(&folder, &wanted, progress)?;
        folder.settle(&names)?;
        folder.snapshot(&wanted)
    }

    /// Downloads those of the files that the snapshot lacks.
    fn fetch(
        &self,
        folder: &RepoFolder<'_>,
        names: &[String],
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let absent = names.iter().filter(|name| !folder.file(name).exists());
        let absent: Vec<RemoteFile> = absent
            .map(|name| self.client.describe(folder.repo, &folder.commit, name))
            .collect::<Result<_, _>>()?;
        if absent.is_empty() {
            return Ok(());
        }
        let blobs = folder.root.join("blobs");
        fs::create_dir_all(&blobs).map_err(HubError::at(&blobs))?;
        let to_come = |file: &RemoteFile| file.size.saturating_sub(file.stored(&blobs));
        check_space(&blobs, absent.iter().map(to_come).sum())?;
        for file in &absent {
            self.client.download(folder.repo, file, &blobs, progress)?;
            folder.link(file)?;
        }
        Ok(())
    }
}

/// Folder of a repository in the cache, and the commit that is used.
struct RepoFolder<'a> {
    repo: &'a RepoId,
    cached: CacheRepo,
    cache: PathBuf,
    root: PathBuf,
    commit: String,
}

impl<'a> RepoFolder<'a> {
    /// Opens the folder at the commit that the cache has for the revision, if it has one.
    fn new(cache: &Cache, repo: &'a RepoId) -> Self {
        let revision = repo.revision().to_owned();
        let own = Repo::with_revision(repo.name(), RepoType::Model, revision);
        let root = cache.path().join(own.folder_name());
        let known = || {
            let known = fs::read_to_string(root.join("refs").join(repo.revision())).ok()?;
            Some(known.trim().to_owned()).filter(|known| is_commit(known))
        };
        Self {
            repo,
            commit: repo
                .commit()
                .map(str::to_owned)
                .or_else(known)
                .unwrap_or_default(),
            cached: cache.repo(own),
            cache: cache.path().clone(),
            root,
        }
    }

    fn dir(&self) -> PathBuf {
        self.cached.pointer_path(&self.commit)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Returns `true` if it is known of every fixed name that the commit has it, and then it is
    /// here, or that it lacks it.
    fn is_settled(&self, commit: &str) -> bool {
        let (here, lacking) = (self.dir(), self.root.join(".no_exist").join(commit));
        fixed_names().all(|name| here.join(name).exists() || lacking.join(name).exists())
    }

    /// Records which of the fixed names the commit lacks, and the revision's commit, last: whoever
    /// finds that finds all files.
    fn settle(&self, names: &BTreeSet<String>) -> Result<(), HubError> {
        let lacking = self.root.join(".no_exist").join(&self.commit);
        fs::create_dir_all(&lacking).map_err(HubError::at(&lacking))?;
        for name in fixed_names().filter(|&name| !names.contains(name)) {
            let path = lacking.join(name);
            fs::write(&path, b"").map_err(HubError::at(&path))?;
        }
        if self.repo.commit().is_none() {
            self.cached
                .create_ref(&self.commit)
                .map_err(HubError::at(&self.root.join("refs")))?;
        }
        Ok(())
    }

    /// Returns the snapshot from what is here.
    fn cached(&self, gguf: Option<&str>) -> Result<HubSnapshot, HubError> {
        let lacks = |missing: String| HubError::Offline {
            repo: self.repo.to_string(),
            cache: self.cache.clone(),
            missing,
            command: match gguf {
                Some(gguf) => format!("candor models pull {} --file {gguf}", self.repo),
                None => format!("candor models pull {}", self.repo),
            },
        };
        if self.commit.is_empty() {
            return Err(lacks(format!("revision {}", self.repo.revision())));
        }
        let listed: Vec<String> = match fs::read_dir(self.dir()) {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| self.file(name).is_file())
                .collect(),
            Err(_) => return Err(lacks(format!("revision {}", self.commit))),
        };
        let names = top_files(self.repo, listed)?;
        let wanted = match select(self.repo, &names, gguf, || self.read_index()) {
            Err(HubError::NoWeights { .. }) => return Err(lacks("weights".to_owned())),
            selected => selected?,
        };
        let missing: Vec<String> = wanted
            .iter()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(lacks(missing.join(", ")));
        }
        self.snapshot(&wanted)
    }

    fn read_index(&self) -> Result<Vec<u8>, HubError> {
        let path = self.file(INDEX);
        let size = fs::metadata(&path).map_err(HubError::at(&path))?.len();
        if size > MAX_INDEX_BYTES {
            return Err(HubError::Malformed {
                repo: self.repo.to_string(),
                what: INDEX.to_owned(),
                why: format!("{size} bytes are too many for an index"),
            });
        }
        fs::read(&path).map_err(HubError::at(&path))
    }

    fn snapshot(&self, names: &[String]) -> Result<HubSnapshot, HubError> {
        let file = |name: &String| {
            let path = self.file(name);
            Ok(SnapshotFile {
                name: name.clone(),
                size: fs::metadata(&path).map_err(HubError::at(&path))?.len(),
            })
        };
        Ok(HubSnapshot {
            dir: self.dir(),
            revision: self.commit.clone(),
            files: names.iter().map(file).collect::<Result<_, HubError>>()?,
        })
    }

    /// Links a downloaded file into the snapshot.
    fn link(&self, file: &RemoteFile) -> Result<(), HubError> {
        let (dir, link) = (self.dir(), self.file(&file.name));
        fs::create_dir_all(&dir).map_err(HubError::at(&dir))?;
        if !link.exists() {
            // A link whose blob was deleted.
            let _ = fs::remove_file(&link);
        }
        match symlink(Path::new("../../blobs").join(&file.etag), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(HubError::at(&link)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Compares the free space of a folder's file system with what is to be written.
fn check_space(dir: &Path, needed: u64) -> Result<(), HubError> {
    let Some(free) = free_bytes(dir) else {
        return Ok(());
    };
    if needed > free {
        return Err(HubError::DiskFull {
            dir: dir.to_owned(),
            free,
            needed,
        });
    }
    Ok(())
}
