//! Durability: an acknowledged record survives kills and full disks.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use image::ImageFormat;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::postgres::Postgres;
use crate::{
    cli::{Process, candor},
    http::{JSON, Reply, get, request, try_exchange},
    served::{ask, data_url, eventually, picture},
};

const CLIENTS: usize = 32;
const KILLS: usize = 20;

/// Number of corrections: `CANDOR_TEST_CORRECTIONS` or 10,000.
fn corrections() -> usize {
    std::env::var("CANDOR_TEST_CORRECTIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000)
}

/// Server that can be killed and restarted at the same address.
struct Mortal {
    at: SocketAddr,
    store: String,
    images: String,
}

impl Mortal {
    fn start(&self) -> Process {
        let command = candor(&["serve", "--listen", &self.at.to_string(), "--device", "cpu"]);
        let envs = [
            ("CANDOR_FEEDBACK__STORE", self.store.as_str()),
            ("CANDOR_FEEDBACK__IMAGES", self.images.as_str()),
            ("CANDOR_LOG__LEVEL", "off"),
        ];
        Process::start(command, &envs)
    }
}

fn post(at: SocketAddr, body: &Value, key: &str) -> Option<Reply> {
    try_exchange(
        at,
        &request(
            "POST",
            "/v1/feedback",
            &[JSON, ("idempotency-key", key)],
            body.to_string().as_bytes(),
        ),
    )
}

/// The `n`th correction, by completion id or with its own image and text.
fn correction(n: usize, completions: &[String], image: &str) -> Value {
    match n % 2 {
        0 => {
            json!({ "completion_id": completions[n / 2 % completions.len()],
                "missing": format!("thing {n}") })
        }
        _ => {
            json!({ "image": image, "response": "A dog with a \
                                                 hat.", "error": { "start": 2, "end": 5 },
                                                 "correction": format!("cat {n}") })
        }
    }
}

fn survives(store: String) {
    let folder = TempDir::new().unwrap();
    let at = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mortal = Mortal {
        at,
        store,
        images: folder.path().join("images").display().to_string(),
    };
    let mut server = mortal.start();
    let chat = |seed| {
        crate::http::chat(at, &ask(seed, "")).json()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let completions: Vec<String> = (0..8).map(chat).collect();
    // Receipts survive too; one that a restarted server lists was written.
    server.child.kill().unwrap_or_default();
    drop(server);
    let mut server = mortal.start();
    let completions: Vec<String> = completions
        .into_iter()
        .filter(|id| {
            post(at, &json!({ "completion_id": id, "label": "good" }), id)
                .is_some_and(|reply| reply.status == 201)
        })
        .collect();
    assert!(!completions.is_empty());
    let (count, image) = (
        corrections(),
        data_url("image/png", &picture(1, ImageFormat::Png)),
    );
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, SeqCst);
                    if n >= count {
                        return;
                    }
                    let body = correction(n, &completions, &image);
                    let reply = loop {
                        match post(at, &body, &format!("key {n}")) {
                            Some(reply) if reply.status == 201 => break reply,
                            Some(reply) => {
                                assert!(matches!(reply.status, 429 | 503), "{}", reply.text())
                            }
                            None => thread::sleep(Duration::from_millis(20)),
                        }
                        assert!(
                            began.elapsed() < Duration::from_secs(600),
                            "correction {n} is never acknowledged"
                        );
                    };
                    let id = reply.json()["id"].as_str().unwrap().to_owned();
                    assert_eq!(acknowledged.lock().unwrap().insert(id, n), None);
                }
            });
        }
        let mut rng = SmallRng::seed_from_u64(7);
        let mut kills: Vec<usize> = (0..KILLS)
            .map(|_| rng.random_range(0..count * 19 / 20))
            .collect();
        kills.sort_unstable();
        for at_least in kills {
            while acknowledged.lock().unwrap().len() < at_least {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(rng.random_range(0..20)));
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            server = mortal.start();
        }
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    eprintln!(
        "{count} corrections, {KILLS} kills: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    drop(server);
    let _server = mortal.start();
    let exported = get(at, "/v1/feedback/export");
    let records: Vec<Value> = exported
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let corrections: Vec<&Value> = records
        .iter()
        .filter(|record| record["kind"] != "good")
        .collect();
    assert_eq!((acknowledged.len(), corrections.len()), (count, count));
    for record in corrections {
        let n = acknowledged[record["id"].as_str().unwrap()];
        let said = if n % 2 == 0 {
            &record["missing"][0]
        } else {
            &record["errors"][0]["correction"]
        };
        assert!(
            said.as_str().unwrap().ends_with(&format!(" {n}")),
            "{n}: {record}"
        );
    }
}

#[test]
fn nothing_acknowledged_is_lost_on_sqlite() {
    let folder = TempDir::new().unwrap();
    survives(format!("sqlite:{}/feedback.db", folder.path().display()));
}

#[test]
fn nothing_acknowledged_is_lost_on_postgres() {
    let Some(server) = Postgres::start() else {
        return;
    };
    survives(server.database());
}

#[test]
fn full_disk_is_507_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let store = format!("sqlite:{}/feedback.db", folder.path().display());
    let images = folder.path().join("images").display().to_string();
    let envs = [
        ("CANDOR_FEEDBACK__STORE", store.as_str()),
        ("CANDOR_FEEDBACK__IMAGES", images.as_str()),
        ("CANDOR_LOG__LEVEL", "off"),
    ];
    // Limit of file size, in blocks of 512 or 1024 bytes; exceeding it is an error, not a signal.
    let mut command = Command::new("sh");
    command.env_clear().stdin(Stdio::null()).args([
        "-c",
        "trap '' XFSZ; ulimit -f 400; exec \"$@\"",
        "sh",
    ]);
    command.args([
        env!("CARGO_BIN_EXE_candor"),
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--device",
        "cpu",
    ]);
    let server = Process::start(command, &envs);
    let image = data_url("image/png", &picture(1, ImageFormat::Png));
    let (mut acknowledged, mut full) = (Vec::new(), 0);
    // Sends on after the first refusal: some still fit and must be stored.
    for n in 1..2000 {
        let reply = post(
            server.at,
            &correction(2 * n + 1, &[], &image),
            &n.to_string(),
        )
        .unwrap();
        match reply.status {
            201 => acknowledged.push(reply.json()["id"].as_str().unwrap().to_owned()),
            _ => {
                assert_eq!(reply.error(507)["code"], "storage_full");
                full += 1;
            }
        }
        if full > 0 && n % 100 == 0 {
            break;
        }
    }
    assert!(
        full > 0 && !acknowledged.is_empty(),
        "{full} {}",
        acknowledged.len()
    );
    let there = |at| {
        let exported = get(at, "/v1/feedback/export");
        let ids = exported.text().lines().map(|l| {
            serde_json::from_str::<Value>(l).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        ids.collect::<Vec<_>>()
    };
    assert_eq!(there(server.at), acknowledged);
    // With space again, refused corrections are accepted.
    drop(server);
    let server = Process::start(
        candor(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]),
        &envs,
    );
    assert_eq!(there(server.at), acknowledged);
    eventually("a correction is taken", || {
        post(server.at, &correction(1, &[], &image), "again")
            .unwrap()
            .status
            == 201
    });
    assert_eq!(there(server.at).len(), acknowledged.len() + 1);
}
