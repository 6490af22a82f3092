//! Content-addressed image files, in a directory or an S3-compatible bucket.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use object_store::{
    Certificate, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme,
    PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_rustls::rustls::crypto::ring;
use url::Url;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use super::{record::ImageHash, store::StoreError};
use crate::util::private_files;

/// Number of locks that concurrent writes and removals of images are spread over.
const LOCKS: usize = 64;
/// Longest time in which requests to a bucket are retried. Whoever waits for one is better off with
/// an error: receipts are written again later, and clients are told to retry.
const BUCKET_RETRY: Duration = Duration::from_secs(3);
const BUCKET_RETRIES: usize = 3;
/// Longest request to a bucket, and wait for its connection.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(10);
const BUCKET_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Store of image files by their SHA-256.
pub struct ImageStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Directory of the files; `None` for a bucket.
    folder: Option<PathBuf>,
    locks: [RwLock<()>; LOCKS],
}

impl ImageStore {
    /// Opens a directory, created if missing, or `s3://BUCKET/PREFIX`. A bucket is configured by
    /// the AWS variables in `env` (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `AWS_REGION`, ...).
    ///
    /// # Errors
    /// When the directory cannot be created, or the URL or a variable is invalid.
    pub fn open(
        location: &str,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, StoreError> {
        let fail =
            |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("{location}: {error}"));
        let locks = std::array::from_fn(|_| RwLock::new(()));
        if location.contains("://") {
            let url = location.parse().map_err(|e| fail(&e))?;
            let text = |(name, value): (_, _)| {
                Some((
                    OsString::into_string(name).ok()?,
                    OsString::into_string(value).ok()?,
                ))
            };
            let env = env
                .into_iter()
                .filter_map(|(name, value)| text((name.into(), value.into())));
            let options = env
                .filter(|(name, _)| name.starts_with("AWS_"))
                .map(|(name, value)| (name.to_lowercase(), value));
            let (store, prefix) = bucket(&url, options).map_err(|e| fail(&e))?;
            return Ok(Self {
                store: Arc::new(store),
                prefix,
                folder: None,
                locks,
            });
        }
        let folder = PathBuf::from(location);
        private_files::create_dir(&folder).map_err(|e| fail(&e))?;
        let folder = folder.canonicalize().map_err(|e| fail(&e))?;
        match narrow_all(&folder) {
            Ok(0) => {}
            Ok(narrowed) => {
                tracing::info!(folder = %folder.display(), narrowed, "other users could read \
                    photographs, and cannot any more")
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "other users can read \
                    photographs, and their mode cannot be changed")
            }
        }
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|e| fail(&e))?;
        Ok(Self {
            store: Arc::new(store),
            prefix: Path::default(),
            folder: Some(folder),
            locks,
        })
    }

    /// Stores a file, durably when it returns. The file is not removed while the returned guard
    /// lives; insert a reference to it before dropping the guard.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn put(
        &self,
        file: &[u8],
        hash: ImageHash,
    ) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let guard = self.keep(hash).await;
        let path = self.path(hash);
        match self.store.head(&path).await {
            Ok(meta) if meta.size == file.len() as u64 => {}
            Ok(_) | Err(Error::NotFound { .. }) => {
                self.store
                    .put(&path, PutPayload::from(file.to_vec()))
                    .await
                    .map_err(|e| self.failed(&e))?;
            }
            Err(error) => return Err(self.failed(&error)),
        }
        if let Some(folder) = &self.folder {
            let file = folder.join(path.as_ref());
            // Also for an existing file: its writer may have died before the sync.
            tokio::task::spawn_blocking(move || sync(file))
                .await
                .map_err(|e| StoreError::from_error(&e))?
                .map_err(|e| StoreError::from_error(&e))?;
        }
        Ok(guard)
    }

    /// Returns the file; `None` if there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn get(&self, hash: ImageHash) -> Result<Option<Vec<u8>>, StoreError> {
        match self.store.get(&self.path(hash)).await {
            Ok(found) => Ok(Some(
                found.bytes().await.map_err(|e| self.failed(&e))?.to_vec(),
            )),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Keeps the image from being removed while the returned guard lives.
    pub async fn keep(&self, hash: ImageHash) -> RwLockReadGuard<'_, ()> {
        self.lock(hash).read().await
    }

    /// Keeps others from storing the image or adding a reference to it while the returned guard
    /// lives.
    pub async fn hold(&self, hash: ImageHash) -> RwLockWriteGuard<'_, ()> {
        self.lock(hash).write().await
    }

    /// Removes the file if it exists.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub async fn remove(&self, hash: ImageHash) -> Result<(), StoreError> {
        match self.store.delete(&self.path(hash)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Converts an error. A bucket that cannot be reached, or that answers 5xx again and again, has
    /// no kind of its own.
    fn failed(&self, error: &Error) -> StoreError {
        match error {
            Error::Generic { .. } if self.folder.is_none() => {
                StoreError::Unavailable(error.to_string())
            }
            _ => StoreError::from_error(error),
        }
    }

    fn path(&self, hash: ImageHash) -> Path {
        let name = hash.to_string();
        self.prefix.clone().join(&name[..2]).join(name.as_str())
    }

    fn lock(&self, hash: ImageHash) -> &RwLock<()> {
        &self.locks[usize::from(hash.first_byte()) % LOCKS]
    }
}

/// Returns the bucket of a URL, configured by options with lower-case names, and the prefix within
/// it.
fn bucket(
    url: &Url,
    options: impl Iterator<Item = (String, String)>,
) -> object_store::Result<(AmazonS3, Path)> {
    // The client uses the process-wide TLS provider, which may be installed already.
    let _ = ring::default_provider().install_default();
    // Mozilla's certificates come on top of the system's: a bare container has none, and no client
    // could be built.
    let mut client = ClientOptions::new()
        .with_timeout(BUCKET_TIMEOUT)
        .with_connect_timeout(BUCKET_CONNECT_TIMEOUT);
    for certificate in TLS_SERVER_ROOT_CERTS {
        client = client.with_root_certificate(Certificate::from_der(certificate)?);
    }
    let builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_retry(RetryConfig {
            max_retries: BUCKET_RETRIES,
            retry_timeout: BUCKET_RETRY,
            ..RetryConfig::default()
        })
        .with_url(url.as_str());
    // Other `AWS_` variables are meant for other programs.
    let options =
        options.filter_map(|(name, value)| Some((name.parse::<AmazonS3ConfigKey>().ok()?, value)));
    let store = options
        .fold(builder, |builder, (key, value)| {
            builder.with_config(key, value)
        })
        .build()?;
    let (_, prefix) = ObjectStoreScheme::parse(url)?;
    Ok((store, Path::parse(prefix)?))
}

/// Restricts a file to the current user and syncs it and its directory entry.
fn sync(file: PathBuf) -> io::Result<()> {
    // Some file systems have no modes, and a file of another user cannot be changed: both are fine.
    let narrow = |path| {
        private_files::narrow(path).inspect_err(
            |error| tracing::debug!(%error, "the mode of a photograph cannot be changed"),
        )
    };
    let _ = narrow(&file);
    File::open(&file)?.sync_all()?;
    let Some(folder) = file.parent() else {
        return Ok(());
    };
    let _ = narrow(folder);
    File::open(folder)?.sync_all()
}

/// Restricts files and directories that earlier versions left readable to others; returns the
/// number of those changed. A directory is restricted after its files, so an interrupted run is
/// repeated, and a finished one costs a look at 256 directories.
fn narrow_all(folder: &std::path::Path) -> io::Result<usize> {
    let named = |entry: &fs::DirEntry, letters| {
        let name = entry.file_name();
        name.len() == letters
            && name
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit())
    };
    let mut narrowed = 0;
    for folder in fs::read_dir(folder)?
        .collect::<Result<Vec<_>, _>>()?
        .iter()
        .filter(|folder| named(folder, 2))
    {
        if private_files::is_wide(&folder.path())? {
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                narrowed += usize::from(named(&file, 64) && private_files::narrow(&file.path())?);
            }
            narrowed += usize::from(private_files::narrow(&folder.path())?);
        }
    }
    Ok(narrowed + usize::from(private_files::narrow(folder)?))
}
