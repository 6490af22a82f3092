//! Image store in a directory, and in a bucket of a real S3-compatible server.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
};

use candor::{
    bundle::Bundle,
    feedback::{
        Corrections,
        corrections::Submitter,
        images::ImageStore,
        queue::QueueSettings,
        record::ImageHash,
        store::{Owners, RemovalTarget, sql::SqlStore},
        submission::{Judgment, Submission},
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::store::receipt;
use crate::{
    http::{exchange, request},
    served::eventually,
    server_clients::python,
};

pub(super) const NO_ENV: [(&str, &str); 0] = [];

async fn files_are_kept_and_removed(images: ImageStore) {
    let (file, hash) = (
        b"an image".repeat(1000),
        ImageHash::digest(&b"an image".repeat(1000)),
    );
    assert_eq!(images.get(hash).await.unwrap(), None);
    for _ in 0..2 {
        drop(images.put(&file, hash).await.unwrap());
    }
    assert_eq!(images.get(hash).await.unwrap().as_ref(), Some(&file));
    images.remove(hash).await.unwrap();
    images.remove(hash).await.unwrap();
    assert_eq!(images.get(hash).await.unwrap(), None);
}

#[test]
fn in_a_folder() {
    let folder = TempDir::new().unwrap();
    let images =
        ImageStore::open(folder.path().join("new/images").to_str().unwrap(), NO_ENV).unwrap();
    Runtime::new()
        .unwrap()
        .block_on(files_are_kept_and_removed(images));
}

#[test]
fn in_a_bucket() {
    let Some(server) = Moto::start() else { return };
    let env = [
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", server.port)),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("PATH", "not for us".to_owned()),
    ];
    let images = ImageStore::open("s3://photos/of/candor", env).unwrap();
    Runtime::new()
        .unwrap()
        .block_on(files_are_kept_and_removed(images));
}

/// S3 server of PyPI's `moto`.
struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    fn start() -> Option<Self> {
        let mut python = python("moto")?;
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = python
            .args([
                "-m",
                "moto.server",
                "-H",
                "127.0.0.1",
                "-p",
                &port.port().to_string(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            port: port.port(),
        };
        eventually("the server of S3 answers", || {
            std::net::TcpStream::connect(port).is_ok()
        });
        assert_eq!(
            exchange(port, &request("PUT", "/photos", &[], b"")).status,
            200
        );
        Some(server)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of the files in a directory.
pub(super) fn files(folder: &Path) -> HashMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path());
    let below = entries.map(|path| match path.is_dir() {
        true => files(&path),
        false => [(
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        )]
        .into(),
    });
    below.flatten().collect()
}

/// Empty [`Corrections`] in a directory.
pub(super) async fn corrections(folder: &Path) -> Corrections {
    let store = SqlStore::open(&format!("sqlite:{}/feedback.db", folder.display()))
        .await
        .unwrap();
    let images = ImageStore::open(folder.join("images").to_str().unwrap(), NO_ENV).unwrap();
    Corrections::start(
        Arc::new(store),
        images,
        Bundle::vocabulary_of("candor-mini").unwrap(),
        QueueSettings::default(),
    )
}

#[test]
fn image_stays_while_referred_to() {
    let folder = TempDir::new().unwrap();
    let left = || files(&folder.path().join("images")).len();
    Runtime::new().unwrap().block_on(async {
        let corrections = corrections(folder.path()).await;
        let by = Submitter::default();
        let good = |id: Option<&str>| Submission {
            completion_id: id.map(str::to_owned),
            response: id.is_none().then(|| "A dog.".to_owned()),
            label: Some(Judgment::Good),
            ..Submission::default()
        };
        assert!(
            corrections
                .remember(receipt("chatcmpl-1", 100, b"one"), super::hashed(b"one"))
                .is_some()
        );
        assert!(
            corrections
                .remember(receipt("chatcmpl-2", 200, b"two"), super::hashed(b"two"))
                .is_some()
        );
        // Accepted even before the receipt is in the store.
        let first = corrections
            .submit(good(Some("chatcmpl-1")), None, None, &by)
            .await
            .unwrap()
            .record;
        let second = corrections
            .submit(good(None), Some(b"one".to_vec()), None, &by)
            .await
            .unwrap()
            .record;
        corrections.close().await;
        assert!(
            corrections
                .remember(
                    receipt("chatcmpl-3", 100, b"three"),
                    super::hashed(b"three")
                )
                .is_none(),
            "it is closed"
        );
        assert_eq!(left(), 2);
        assert_eq!(
            corrections
                .images()
                .get(first.image)
                .await
                .unwrap()
                .unwrap(),
            b"one"
        );
        // Receipts expire; images of records stay.
        assert_eq!(corrections.sweep(150).await.unwrap(), 1);
        assert_eq!((left(), corrections.sweep(150).await.unwrap()), (2, 0));
        let unknown = corrections
            .submit(good(Some("chatcmpl-1")), None, None, &by)
            .await
            .unwrap_err();
        assert!(unknown.to_string().contains("chatcmpl-1"), "{unknown}");
        assert_eq!(corrections.sweep(250).await.unwrap(), 1);
        assert_eq!(left(), 1);
        corrections
            .remove(RemovalTarget::Feedback(first.id, Owners::All))
            .await
            .unwrap();
        assert_eq!(left(), 1);
        corrections
            .remove(RemovalTarget::Feedback(second.id, Owners::All))
            .await
            .unwrap();
        assert_eq!(left(), 0);
    });
}
