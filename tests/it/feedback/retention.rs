//! Expiry, privacy and removal of stored data.

use std::{
    fs::{self, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use candor::feedback::{
    images::ImageStore,
    record::{Feedback, ImageHash, Receipt},
    store::{Owners, RemovalTarget, Store, sql::SqlStore},
};
use rustix::process::Signal;
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    api::post,
    images::{NO_ENV, corrections, files},
    store::{plain, receipt, record},
};
use crate::{
    cli::candor,
    http::get,
    served::{Served, and, ask, eventually},
    support::send_signal,
};

/// Marker that occurs nowhere by chance.
const MARK: &str = "zebra crossing 7f3a";

/// Bytes of the database and its side files.
fn database(folder: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm"]
        .map(|suffix| folder.join(format!("feedback.db{suffix}")))
        .into_iter()
        .filter(|file| file.exists())
        .collect()
}

fn has_mark(folder: &Path) -> bool {
    database(folder).iter().any(|file| {
        fs::read(file)
            .unwrap()
            .windows(MARK.len())
            .any(|bytes| bytes == MARK.as_bytes())
    })
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn url(folder: &Path) -> String {
    format!("sqlite:{}/feedback.db", folder.display())
}

#[test]
fn removed_data_leaves_no_trace_in_database() {
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        let corrections = corrections(folder.path()).await;
        let marked = |n: usize| Feedback {
            // Some texts are longer than a database page.
            comment: Some(MARK.repeat(1 + n * 100)),
            annotator: n.is_multiple_of(2).then(|| MARK.to_owned()),
            user: Some(MARK.to_owned()),
            ..record(n)
        };
        for n in 0..20 {
            corrections.keep(marked(n), b"image").await.unwrap();
        }
        let asked = Receipt {
            prompt: MARK.to_owned(),
            ..receipt("chatcmpl-1", 1, b"image")
        };
        corrections
            .remember(asked, super::hashed(b"image"))
            .unwrap()
            .await;
        assert!(has_mark(folder.path()));
        corrections
            .remove(RemovalTarget::User(MARK.to_owned(), Owners::All))
            .await
            .unwrap();
        assert!(has_mark(folder.path()), "the receipt has it");
        assert_eq!(corrections.sweep(2).await.unwrap(), 1);
        assert!(!has_mark(folder.path()));
        assert!(files(&folder.path().join("images")).is_empty());
    });
}

#[test]
fn free_pages_of_earlier_versions_are_overwritten() {
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        SqlStore::open(&url(folder.path()))
            .await
            .unwrap()
            .close()
            .await;
        let mut connection = SqliteConnection::connect(&url(folder.path()))
            .await
            .unwrap();
        let left = format!(
            "PRAGMA secure_delete = OFF; PRAGMA user_version = 0; CREATE TABLE t (x TEXT); \
             INSERT INTO t VALUES ('{}'); DROP TABLE t; PRAGMA wal_checkpoint(TRUNCATE)",
            MARK.repeat(1000)
        );
        connection.execute(left.as_str()).await.unwrap();
        connection.close().await.unwrap();
        assert!(has_mark(folder.path()));
        let store = SqlStore::open(&url(folder.path())).await.unwrap();
        assert!(!has_mark(folder.path()));
        store.close().await;
    });
}

#[test]
fn stored_files_are_private_to_the_servers_user() {
    let served = Served::new();
    served.chat(&ask(1, ""));
    eventually("a photograph is kept", || {
        files(&served.folder.path().join("images")).len() == 1
    });
    let images = served.folder.path().join("images");
    let folder = fs::read_dir(&images)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let photograph = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    eventually("it is settled", || {
        (mode(&images), mode(&folder), mode(&photograph)) == (0o700, 0o700, 0o600)
    });
    let database = database(served.folder.path());
    assert_eq!(database.len(), 3);
    database
        .iter()
        .for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
}

#[test]
fn readable_files_are_made_private_at_startup() {
    let folder = TempDir::new().unwrap();
    let (images, hash) = (
        folder.path().join("images"),
        ImageHash::digest(b"image").to_string(),
    );
    let (inner, foreign) = (images.join(&hash[..2]), images.join("foreign"));
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir(&foreign).unwrap();
    fs::write(inner.join(&hash), b"image").unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for path in [&images, &inner, &foreign] {
        set(path, 0o755);
    }
    set(&inner.join(&hash), 0o644);
    let file = folder.path().join("feedback.db");
    fs::write(&file, b"").unwrap();
    set(&file, 0o664);
    Runtime::new().unwrap().block_on(async {
        let images_at = ImageStore::open(images.to_str().unwrap(), NO_ENV).unwrap();
        assert_eq!(
            images_at
                .get(ImageHash::digest(b"image"))
                .await
                .unwrap()
                .unwrap(),
            b"image"
        );
        SqlStore::open(&url(folder.path()))
            .await
            .unwrap()
            .close()
            .await;
    });
    assert_eq!(
        (
            mode(&images),
            mode(&inner),
            mode(&inner.join(&hash)),
            mode(&file)
        ),
        (0o700, 0o700, 0o600, 0o600)
    );
    assert_eq!(mode(&foreign), 0o755, "what is not ours stays as it is");
}

#[test]
fn receipts_stay_within_max_bytes_for_every_owner() {
    const MOST: u64 = 200_000;
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        let corrections = corrections(folder.path()).await;
        corrections.limit_receipts(MOST);
        let remember = async |n: u64, owner: &str| {
            let image = n.to_le_bytes().repeat(1250);
            let receipt = Receipt {
                owner: owner.to_owned(),
                ..receipt(&format!("chatcmpl-{owner}-{n}"), n, &image)
            };
            corrections
                .remember(receipt, super::hashed(&image))
                .unwrap()
                .await;
        };
        for n in 0..3 {
            remember(n, "quiet").await;
        }
        for n in 10..70 {
            remember(n, "loud").await;
        }
        corrections.close().await;
        let held: u64 = corrections
            .store()
            .receipt_bytes()
            .await
            .unwrap()
            .iter()
            .map(|owner| owner.bytes)
            .sum();
        assert!(
            (MOST / 2..=MOST).contains(&held) && corrections.receipt_bytes() <= MOST,
            "{held}"
        );
        let images: usize = files(&folder.path().join("images"))
            .values()
            .map(Vec::len)
            .sum();
        assert!(images as u64 <= MOST, "{images}");
        for n in 0..3 {
            assert!(
                corrections
                    .store()
                    .receipt(&format!("chatcmpl-quiet-{n}"))
                    .await
                    .unwrap()
                    .is_some(),
                "{n}"
            );
        }
        let loud = async |n: u64| {
            corrections
                .store()
                .receipt(&format!("chatcmpl-loud-{n}"))
                .await
                .unwrap()
                .is_some()
        };
        assert!(!loud(10).await && loud(69).await, "the oldest go");
    });
}

#[test]
fn receipts_expire_after_their_retention() {
    let served = Served::with(|c| c.receipts.retention = "5s".to_owned());
    served.chat(&ask(1, ""));
    let open = || get(served.at, "/v1/queue").json()["open"].clone();
    eventually("the answer is kept", || {
        served.metric("candor_receipts_kept_bytes") > 0.0
    });
    eventually("its time is over", || {
        open() == 0 && served.metric("candor_receipts_kept_bytes") == 0.0
    });
    assert!(files(&served.folder.path().join("images")).is_empty());
}

/// The receipt is stored before the answer ends, so any server can take the correction.
#[test]
fn correction_at_another_server_on_the_same_store_is_accepted() {
    let first = Served::new();
    let second = Served::with(|c| {
        c.feedback.store = url(first.folder.path());
        c.feedback.images = first.folder.path().join("images").display().to_string();
    });
    for n in 0..10 {
        let id = match n % 2 {
            0 => first.chat(&ask(n, "")).json()["id"].clone(),
            _ => first
                .chat(&and(ask(n, ""), json!({ "stream": true })))
                .chunks()[0]["id"]
                .clone(),
        };
        let reply = post(
            &second,
            &json!({ "completion_id": id, "label": "good" }),
            &[],
        );
        assert_eq!(reply.status, 201, "{n}: {}", reply.text());
    }
}

#[test]
fn damaged_database_makes_server_unready_and_answers_go_on() {
    let folder = TempDir::new().unwrap();
    Runtime::new().unwrap().block_on(async {
        let store = SqlStore::open(&url(folder.path())).await.unwrap();
        for n in 0..50 {
            store
                .insert(&[plain(Feedback {
                    response: MARK.repeat(20),
                    tokens: Vec::new(),
                    ..record(n)
                })])
                .await
                .unwrap();
        }
        store.scrub().await.unwrap();
        store.close().await;
    });
    let file = folder.path().join("feedback.db");
    let bytes = fs::read(&file).unwrap();
    let mut database = fs::File::options().write(true).open(&file).unwrap();
    for (page, _) in bytes.chunks(4096).enumerate().filter(|(_, page)| {
        page.windows(MARK.len())
            .any(|bytes| bytes == MARK.as_bytes())
    }) {
        database.seek(SeekFrom::Start(page as u64 * 4096)).unwrap();
        database.write_all(&[0xFF; 4096]).unwrap();
    }
    drop(database);
    let served = Served::unready(|c| c.feedback.store = url(folder.path()));
    eventually("the damage is found", || {
        let _ = get(served.at, "/v1/feedback");
        get(served.at, "/health/ready").text().contains("damaged")
    });
    assert_eq!(
        get(served.at, "/health/ready").error(503)["code"],
        "not_ready"
    );
    assert_eq!(get(served.at, "/health/live").status, 200);
    let completion = served.chat(&ask(1, ""));
    assert_eq!(completion.status, 200, "{}", completion.text());
    let refused = post(
        &served,
        &json!({ "completion_id": completion.json()["id"], "label": "good" }),
        &[],
    );
    assert_eq!(refused.error(503)["code"], "store_damaged");
    assert!(
        !refused.text().contains(folder.path().to_str().unwrap()),
        "where the store is, is for the log"
    );
}

#[test]
fn server_waiting_for_its_store_can_be_stopped() {
    // Accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("postgres://candor@{}/none", silent.local_addr().unwrap());
    let folder = TempDir::new().unwrap();
    let mut command = candor(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]);
    command
        .current_dir(folder.path())
        .env("CANDOR_FEEDBACK__STORE", store)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut connection, _) = silent.accept().unwrap();
    send_signal(&child, Signal::TERM);
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let _ = connection.read(&mut [0; 64]);
}
