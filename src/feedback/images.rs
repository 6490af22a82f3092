//! Images by their content: a folder, or a bucket of an S3-compatible store.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
};

use object_store::{
    Certificate, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme,
    PutPayload,
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

/// Images that are put and removed at the same time share this many locks.
const LOCKS: usize = 64;

/// The files of images.
pub struct ImageStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Folder of the files, when they are in one.
    folder: Option<PathBuf>,
    locks: [RwLock<()>; LOCKS],
}

impl ImageStore {
    /// Opens a folder, which is made where it is missing, or `s3://BUCKET/PREFIX`; for the latter,
    /// the AWS variables of `env` say the rest (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `AWS_REGION`,
    /// ...).
    ///
    /// # Errors
    /// When the folder cannot be made, or the URL or a variable cannot be used.
    pub fn open(
        place: &str,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, StoreError> {
        let fail =
            |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("{place}: {error}"));
        let locks = std::array::from_fn(|_| RwLock::new(()));
        if place.contains("://") {
            let url = place.parse().map_err(|e| fail(&e))?;
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
        let folder = PathBuf::from(place);
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

    /// Keeps a file, durably when it returns. While the result lives, the file is not removed;
    /// refer to it before that ends.
    ///
    /// # Errors
    /// When it cannot be written.
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
                    .map_err(|e| StoreError::of(&e))?;
            }
            Err(error) => return Err(StoreError::of(&error)),
        }
        if let Some(folder) = &self.folder {
            let file = folder.join(path.as_ref());
            // Even if it was there: whoever wrote it may not have come this far.
            tokio::task::spawn_blocking(move || settle(file))
                .await
                .map_err(|e| StoreError::of(&e))?
                .map_err(|e| StoreError::of(&e))?;
        }
        Ok(guard)
    }

    /// The file; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn get(&self, hash: ImageHash) -> Result<Option<Vec<u8>>, StoreError> {
        match self.store.get(&self.path(hash)).await {
            Ok(found) => Ok(Some(
                found
                    .bytes()
                    .await
                    .map_err(|e| StoreError::of(&e))?
                    .to_vec(),
            )),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::of(&error)),
        }
    }

    /// Keeps the image from being removed while the result lives.
    pub async fn keep(&self, hash: ImageHash) -> RwLockReadGuard<'_, ()> {
        self.lock(hash).read().await
    }

    /// Keeps others from putting the image, and from referring to it, while the result lives.
    pub async fn hold(&self, hash: ImageHash) -> RwLockWriteGuard<'_, ()> {
        self.lock(hash).write().await
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, hash: ImageHash) -> Result<(), StoreError> {
        match self.store.delete(&self.path(hash)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::of(&error)),
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

/// The bucket of a URL, with options by their lowercase names, and the prefix in it.
fn bucket(
    url: &Url,
    options: impl Iterator<Item = (String, String)>,
) -> object_store::Result<(AmazonS3, Path)> {
    // The client takes the process's provider of cryptography; there may be one already.
    let _ = ring::default_provider().install_default();
    // Mozilla's certificates beside the system's, of which a bare container has none: no client
    // could be made.
    let mut client = ClientOptions::new();
    for certificate in TLS_SERVER_ROOT_CERTS {
        client = client.with_root_certificate(Certificate::from_der(certificate)?);
    }
    let builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_url(url.as_str());
    // Some variables of the same family are for other programs.
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

/// Makes a file this user's alone, and waits until it and its name are on the disk.
fn settle(file: PathBuf) -> io::Result<()> {
    // Some file systems have no modes, and what another user's server wrote is that user's.
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

/// Makes this user's alone what earlier versions left for others to read; returns how many files
/// and folders those were. A folder comes after what is in it, so that what was interrupted is done
/// again, and what is done costs a look at 256 folders.
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
