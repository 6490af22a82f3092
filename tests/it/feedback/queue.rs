//! Annotation queue, in every store and over a real socket.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use candor::feedback::{
    queue::agreement::alpha,
    record::{Feedback, QueueDetails, Receipt, item_digest},
    store::{
        InsertOutcome, Owners, RemovalCounts, RemovalTarget, Store, StoreEntry,
        queue::{
            AnnotatorId, AnnotatorProgress, ChoiceId, Lease, LeaseRequest, LeaseReturn, QueueEntry,
            QueueLength, QueueStore, RatingSample,
        },
        sql::SqlStore,
    },
};
use serde_json::{Value, json};

use super::{
    api::post as correct,
    store::{receipt, record},
};
use crate::{
    http::{JSON, Reply, exchange, get, request},
    served::{Served, ask, eventually},
    server_clients::{python, said},
};

const NOW: u64 = 1000;

fn place(n: usize) -> ChoiceId {
    ChoiceId {
        completion_id: format!("c{n}"),
        choice: 0,
    }
}

/// Inserts answers by rank, some overlapping and some unassisted.
async fn fill(store: &dyn Store, ranks: &[f64], overlap: &[usize], unassisted: &[usize]) {
    for (n, &rank) in ranks.iter().enumerate() {
        let rows = answer(n, n, rank, overlap.contains(&n), unassisted.contains(&n));
        assert_eq!(
            store.insert(&rows).await.unwrap(),
            [InsertOutcome::New, InsertOutcome::New]
        );
    }
}

/// Rows of a completion: its receipt and queue entry. Completions of the same photograph give the
/// same answer.
fn answer(
    n: usize,
    photograph: usize,
    rank: f64,
    overlap: bool,
    unassisted: bool,
) -> [StoreEntry; 2] {
    let receipt = receipt(&format!("c{n}"), 1 + n as u64, &photograph.to_le_bytes());
    queued(receipt, rank, overlap, unassisted)
}

/// Receipt, and the queue entry of its answer.
pub(super) fn queued(
    receipt: Receipt,
    rank: f64,
    overlap: bool,
    unassisted: bool,
) -> [StoreEntry; 2] {
    let digest = item_digest(
        &receipt.owner,
        receipt.image,
        &receipt.prompt,
        &receipt.choices[0].response,
    );
    let entry = QueueEntry {
        completion_id: receipt.id.clone(),
        choice: 0,
        unassisted,
        overlap,
        rank,
        digest,
    };
    [
        StoreEntry::Receipt(Box::new(receipt)),
        StoreEntry::Queue(Box::new(entry)),
    ]
}

/// Annotator without an API key.
fn named(name: &str) -> AnnotatorId {
    AnnotatorId {
        owner: String::new(),
        name: name.to_owned(),
    }
}

fn wish(annotator: &str, now: u64, unassisted: bool) -> LeaseRequest {
    LeaseRequest {
        annotator: named(annotator),
        owners: Owners::All,
        now,
        until: now + 10,
        unassisted,
    }
}

async fn next(store: &dyn Store, annotator: &str, now: u64) -> Option<usize> {
    let lease = store.next(&wish(annotator, now, false)).await.unwrap()?;
    assert_eq!(lease.expires, now + 10);
    Some(lease.answer.completion_id[1..].parse().unwrap())
}

async fn judge(store: &dyn Store, id: usize, n: usize, annotator: &str) {
    judge_repeat(store, id, n, n, annotator).await;
}

/// Stores a judgment of a completion about a photograph.
async fn judge_repeat(store: &dyn Store, id: usize, n: usize, photograph: usize, annotator: &str) {
    let lease = store.lease(&place(n), &named(annotator)).await.unwrap();
    let receipt = receipt("", 1, &photograph.to_le_bytes());
    let judged = Feedback {
        completion_id: Some(format!("c{n}")),
        choice: Some(0),
        image: receipt.image,
        prompt: receipt.prompt,
        response: receipt.choices[0].response.clone(),
        annotator: Some(annotator.to_owned()),
        unassisted: lease.as_ref().is_some_and(|lease| lease.unassisted),
        queued: lease.map(|lease| QueueDetails {
            overlap: lease.overlap,
        }),
        ..record(id)
    };
    assert_eq!(
        store
            .insert(&[StoreEntry::Feedback(Box::new(judged), None)])
            .await
            .unwrap(),
        [InsertOutcome::New]
    );
}

async fn the_highest_comes_first_and_to_one_alone(store: Arc<dyn Store>) {
    fill(&*store, &[0.1, 0.9, 0.5], &[], &[]).await;
    assert_eq!(next(&*store, "ann", NOW).await, Some(1));
    assert_eq!(next(&*store, "bob", NOW).await, Some(2));
    // A second request returns the same answer with a longer lease.
    assert_eq!(next(&*store, "ann", NOW + 5).await, Some(1));
    assert_eq!(next(&*store, "eve", NOW).await, Some(0));
    assert_eq!(next(&*store, "joe", NOW).await, None);
    assert_eq!(
        store.length(&Owners::All, NOW).await.unwrap(),
        QueueLength {
            open: 3,
            leased: 3,
            ..QueueLength::default()
        }
    );
    // Bob's lease has ended and ann's has not; his judgment still counts.
    assert_eq!(next(&*store, "joe", NOW + 11).await, Some(2));
    judge(&*store, 1, 2, "bob").await;
    assert_eq!(
        store.length(&Owners::All, NOW + 11).await.unwrap(),
        QueueLength {
            open: 2,
            leased: 2,
            done: 1,
            ..QueueLength::default()
        }
    );
    judge(&*store, 2, 1, "ann").await;
    assert_eq!(next(&*store, "ann", NOW + 12).await, Some(0));
    assert_eq!(
        store.length(&Owners::All, NOW + 99).await.unwrap(),
        QueueLength {
            open: 1,
            leased: 0,
            done: 2,
            ..QueueLength::default()
        }
    );
}

async fn what_is_left_comes_to_others(store: Arc<dyn Store>) {
    fill(&*store, &[0.9, 0.5], &[], &[]).await;
    assert_eq!(next(&*store, "ann", NOW).await, Some(0));
    assert!(
        !store
            .leave(&place(0), &named("bob"), LeaseReturn::Release)
            .await
            .unwrap()
    );
    assert!(
        store
            .leave(&place(0), &named("ann"), LeaseReturn::Release)
            .await
            .unwrap()
    );
    assert!(
        !store
            .leave(&place(0), &named("ann"), LeaseReturn::Release)
            .await
            .unwrap()
    );
    assert_eq!(next(&*store, "bob", NOW).await, Some(0));
    assert!(
        store
            .leave(&place(0), &named("bob"), LeaseReturn::Skip(2))
            .await
            .unwrap()
    );
    assert_eq!(store.lease(&place(0), &named("bob")).await.unwrap(), None);
    assert_eq!(next(&*store, "bob", NOW).await, Some(1));
    assert_eq!(next(&*store, "ann", NOW).await, Some(0));
    assert!(
        store
            .leave(&place(0), &named("ann"), LeaseReturn::Skip(2))
            .await
            .unwrap()
    );
    assert_eq!(next(&*store, "eve", NOW).await, None);
    assert_eq!(
        store.length(&Owners::All, NOW).await.unwrap(),
        QueueLength {
            open: 1,
            leased: 1,
            skipped: 1,
            ..QueueLength::default()
        }
    );
    // Removing the receipt removes its entries and leases.
    store
        .remove(&RemovalTarget::ReceiptsBefore(NOW, 9))
        .await
        .unwrap();
    assert_eq!(
        store.length(&Owners::All, NOW).await.unwrap(),
        QueueLength::default()
    );
    let [_, entry] = answer(7, 7, 1.0, false, false);
    assert_eq!(store.insert(&[entry]).await.unwrap(), [InsertOutcome::New]);
    assert_eq!(
        store.length(&Owners::All, NOW).await.unwrap(),
        QueueLength::default()
    );
}

async fn some_are_for_two_and_some_for_chance(store: Arc<dyn Store>) {
    fill(&*store, &[0.9, 0.8, 0.7], &[0], &[1]).await;
    assert_eq!(
        (
            next(&*store, "ann", NOW).await,
            next(&*store, "bob", NOW).await
        ),
        (Some(0), Some(0))
    );
    assert_eq!(next(&*store, "eve", NOW).await, Some(2));
    let drawn = store.next(&wish("joe", NOW, true)).await.unwrap();
    assert_eq!(
        drawn,
        Some(Lease {
            answer: place(1),
            unassisted: true,
            overlap: false,
            expires: NOW + 10
        })
    );
    judge(&*store, 1, 0, "ann").await;
    judge(&*store, 2, 0, "bob").await;
    judge(&*store, 3, 1, "joe").await;
    judge(&*store, 4, 2, "eve").await;
    // A second record by the same annotator closes no further item.
    judge(&*store, 5, 0, "ann").await;
    let ids = async |sample| {
        let records = store.sample(sample, &Owners::All, 9).await.unwrap();
        records.into_iter().map(|r| r.id).collect::<BTreeSet<_>>()
    };
    assert_eq!(
        ids(RatingSample::Overlapping).await,
        [1, 2, 5].map(|n| record(n).id).into()
    );
    assert_eq!(ids(RatingSample::Unassisted).await, [record(3).id].into());
    assert_eq!(
        store
            .sample(RatingSample::Overlapping, &Owners::All, 1)
            .await
            .unwrap()[0]
            .id,
        record(5).id
    );
    assert_eq!(
        store.length(&Owners::All, NOW).await.unwrap(),
        QueueLength {
            done: 3,
            ..QueueLength::default()
        }
    );
    assert_eq!(next(&*store, "ann", NOW).await, None);
}

async fn nobody_gets_what_another_has(store: Arc<dyn Store>) {
    fill(&*store, &[0.5; 24], &[], &[]).await;
    let tasks: Vec<_> = (0..24)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { next(&*store, &format!("annotator{i}"), NOW).await })
        })
        .collect();
    let mut got = BTreeSet::new();
    for task in tasks {
        assert!(got.insert(task.await.unwrap().unwrap()));
    }
}

async fn the_same_answer_of_other_completions_is_one_item(store: Arc<dyn Store>) {
    let add = async |n, photograph, rank, overlap| {
        drop(
            store
                .insert(&answer(n, photograph, rank, overlap, false))
                .await
                .unwrap(),
        )
    };
    let length = async || store.length(&Owners::All, NOW).await.unwrap();
    for (n, rank) in [(0, 0.9), (1, 0.8), (2, 0.95)] {
        add(n, 100, rank, false).await;
    }
    assert_eq!(
        length().await,
        QueueLength {
            open: 1,
            ..QueueLength::default()
        }
    );
    assert_eq!(
        (
            next(&*store, "ann", NOW).await,
            next(&*store, "bob", NOW).await
        ),
        (Some(0), None)
    );
    // A judgment of an equal answer counts for all.
    judge_repeat(&*store, 1, 2, 100, "ann").await;
    assert_eq!(
        (
            next(&*store, "ann", NOW).await,
            next(&*store, "bob", NOW).await
        ),
        (None, None)
    );
    add(3, 100, 0.9, false).await;
    assert_eq!(
        (next(&*store, "eve", NOW).await, length().await),
        (
            None,
            QueueLength {
                done: 1,
                ..QueueLength::default()
            }
        )
    );
    // After the removal of the first receipt its judgments still count.
    store
        .remove(&RemovalTarget::ReceiptsBefore(2, 9))
        .await
        .unwrap();
    assert_eq!(
        (next(&*store, "bob", NOW).await, length().await),
        (
            None,
            QueueLength {
                done: 1,
                ..QueueLength::default()
            }
        )
    );
    // Without judgments, the next equal answer takes over.
    add(10, 200, 0.9, true).await;
    add(11, 200, 0.9, false).await;
    assert_eq!(
        (
            next(&*store, "ann", NOW).await,
            next(&*store, "bob", NOW).await,
            next(&*store, "eve", NOW).await
        ),
        (Some(10), Some(10), None)
    );
    judge_repeat(&*store, 2, 10, 200, "bob").await;
    store
        .remove(&RemovalTarget::ReceiptsBefore(12, 9))
        .await
        .unwrap();
    assert_eq!(
        (
            next(&*store, "bob", NOW).await,
            next(&*store, "ann", NOW).await
        ),
        (None, Some(11))
    );
    // Judgments from before the answer entered the queue count.
    judge_repeat(&*store, 3, 50, 50, "ann").await;
    add(50, 50, 0.9, false).await;
    add(51, 51, 0.9, false).await;
    assert_eq!(next(&*store, "eve", NOW).await, Some(51));
}

async fn what_is_taken_back_waits_again(store: Arc<dyn Store>) {
    fill(&*store, &[0.9, 0.5], &[1], &[]).await;
    let remove = async |id| {
        store
            .remove(&RemovalTarget::Feedback(record(id).id, Owners::All))
            .await
            .unwrap()
    };
    let length = async || store.length(&Owners::All, NOW).await.unwrap();
    assert_eq!(next(&*store, "ann", NOW).await, Some(0));
    judge(&*store, 1, 0, "ann").await;
    judge(&*store, 2, 0, "ann").await;
    // Her other record still judges it.
    assert_eq!(
        remove(2).await,
        RemovalCounts {
            feedback: 1,
            ..RemovalCounts::default()
        }
    );
    assert_eq!(
        length().await,
        QueueLength {
            open: 1,
            done: 1,
            ..QueueLength::default()
        }
    );
    assert_eq!(
        remove(1).await,
        RemovalCounts {
            feedback: 1,
            ..RemovalCounts::default()
        }
    );
    assert_eq!(
        length().await,
        QueueLength {
            open: 2,
            ..QueueLength::default()
        }
    );
    assert_eq!(next(&*store, "ann", NOW).await, Some(0));
    judge(&*store, 3, 0, "ann").await;
    // Another annotator judged it too.
    judge(&*store, 4, 0, "bob").await;
    remove(3).await;
    assert_eq!(
        length().await,
        QueueLength {
            open: 1,
            done: 1,
            ..QueueLength::default()
        }
    );
    // An overlapping item needs one more judgment.
    assert_eq!(
        (
            next(&*store, "eve", NOW).await,
            next(&*store, "joe", NOW).await
        ),
        (Some(1), Some(1))
    );
    judge(&*store, 5, 1, "eve").await;
    judge(&*store, 6, 1, "joe").await;
    assert_eq!(
        length().await,
        QueueLength {
            done: 2,
            ..QueueLength::default()
        }
    );
    remove(5).await;
    assert_eq!(
        (
            next(&*store, "joe", NOW).await,
            next(&*store, "eve", NOW).await
        ),
        (None, Some(1))
    );
}

async fn progress_is_told(store: Arc<dyn Store>) {
    let day = 24 * 60 * 60;
    // The ids come from a clock that was ahead.
    let judged = |at: u64| Feedback {
        id: format!("fb_{:012x}{at:020x}", at * 9000),
        created: at,
        annotator: Some("ann".to_owned()),
        ..record(0)
    };
    let rows: Vec<StoreEntry> = [day, 2 * day - 1, 2 * day, 2 * day + 9]
        .map(|at| StoreEntry::Feedback(Box::new(judged(at)), None))
        .into();
    store.insert(&rows).await.unwrap();
    assert_eq!(
        store.progress(&named("ann"), 2 * day + 100).await.unwrap(),
        AnnotatorProgress { total: 4, today: 2 }
    );
    assert_eq!(
        store.progress(&named("bob"), 2 * day).await.unwrap(),
        AnnotatorProgress::default()
    );
}

/// Runs the tests on one store.
pub(super) async fn every_check<S: Store + 'static>(open: impl AsyncFn() -> Arc<S>) {
    the_highest_comes_first_and_to_one_alone(open().await).await;
    what_is_left_comes_to_others(open().await).await;
    some_are_for_two_and_some_for_chance(open().await).await;
    nobody_gets_what_another_has(open().await).await;
    the_same_answer_of_other_completions_is_one_item(open().await).await;
    what_is_taken_back_waits_again(open().await).await;
    progress_is_told(open().await).await;
}

fn post(served: &Served, path: &str, body: &Value) -> Reply {
    exchange(
        served.at,
        &request("POST", path, &[JSON], body.to_string().as_bytes()),
    )
}

#[test]
fn annotator_works_through_queue() {
    // By default, one answer in twenty goes to a second annotator.
    let served = Served::with(|c| c.queue.overlap_share = 0.0);
    let ann = json!({ "annotator": "ann" });
    assert_eq!(post(&served, "/v1/queue/next", &ann).status, 204);
    let completion = served.chat(&ask(1, "Is there a dog?")).json();
    eventually("the answer is in the queue", || {
        get(served.at, "/v1/queue").json()["open"] == 1
    });
    let reply = post(&served, "/v1/queue/next", &ann);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let item = reply.json();
    assert_eq!(
        (&item["completion_id"], &item["choice"], &item["prompt"]),
        (&completion["id"], &json!(0), &json!("Is there a dog?"))
    );
    assert_eq!(
        item["response"],
        completion["choices"][0]["message"]["content"]
    );
    assert!(
        item["image"]
            .as_str()
            .unwrap()
            .starts_with("data:image/png;base64,")
    );
    let word = &item["words"][0];
    let text: Vec<char> = item["response"].as_str().unwrap().chars().collect();
    let (start, end) = (
        word["start"].as_u64().unwrap() as usize,
        word["end"].as_u64().unwrap() as usize,
    );
    assert_eq!(
        json!(text[start..end].iter().collect::<String>()),
        word["text"]
    );
    assert_eq!(
        item["unassisted"].as_bool().unwrap(),
        word.get("reward").is_none()
    );
    assert_eq!(
        post(&served, "/v1/queue/next", &json!({ "annotator": "bob" })).status,
        204
    );
    let path = format!("/v1/queue/{}/release", item["id"].as_str().unwrap());
    assert_eq!(
        post(&served, &path, &json!({ "annotator": "bob" })).error(404)["code"],
        "lease_not_found"
    );
    assert_eq!(post(&served, &path, &ann).status, 204);
    assert_eq!(post(&served, "/v1/queue/nonsense/skip", &ann).status, 404);
    assert_eq!(
        post(&served, "/v1/queue/next", &json!({ "annotator": "" })).error(400)["param"],
        "annotator"
    );
    assert_eq!(
        post(&served, "/v1/queue/next", &ann).json()["id"],
        item["id"]
    );
    let judged = json!({ "completion_id": item["completion_id"], "choice": 0, "label": "good",
        "annotator": "ann" });
    let record = correct(&served, &judged, &[]).json();
    assert_eq!(record["unassisted"], item["unassisted"]);
    assert!(record["queued"]["overlap"].is_boolean(), "{record}");
    let length = get(served.at, "/v1/queue").json();
    assert_eq!(
        (&length["leased"], length.get("annotator")),
        (&json!(0), None)
    );
    assert_eq!(
        get(served.at, "/v1/queue?annotator=ann").json()["annotator"],
        json!({ "total": 1, "today": 1 })
    );
    assert_eq!(
        served.metric("candor_annotation_queue_length{state=\"leased\"}"),
        0.0
    );
    let agreement = get(served.at, "/v1/agreement?annotators=true").json();
    assert_eq!(agreement["items"], 0);
}

#[test]
fn answer_judged_elsewhere_is_not_leased_again() {
    let served = Served::with(|c| {
        c.queue.unassisted_share = 1.0;
        c.queue.overlap_share = 0.0;
    });
    let completion = served.chat(&ask(1, "Is there a dog?")).json();
    eventually("the answer is in the queue", || {
        get(served.at, "/v1/queue").json()["open"] == 1
    });
    let judged = json!({ "completion_id": completion["id"], "choice": 0, "label": "good",
        "annotator": "ann" });
    for _ in 0..2 {
        // It was not drawn at random and is not part of the recall sample.
        assert!(
            correct(&served, &judged, &[])
                .json()
                .get("queued")
                .is_none()
        );
        let length = get(served.at, "/v1/queue").json();
        assert_eq!((&length["open"], &length["done"]), (&json!(0), &json!(1)));
    }
    for annotator in ["ann", "bob"] {
        assert_eq!(
            post(
                &served,
                "/v1/queue/next",
                &json!({ "annotator": annotator })
            )
            .status,
            204
        );
    }
}

#[test]
fn removed_correction_reopens_its_item() {
    let served = Served::with(|c| c.queue.overlap_share = 0.0);
    // The same question about the same photograph, twice.
    for _ in 0..2 {
        served.chat(&ask(1, "Is there a dog?"));
    }
    eventually("both are kept", || {
        served.metric("candor_receipts_dropped_total") == 0.0
            && get(served.at, "/v1/queue").json()["open"] == 1
    });
    let ann = json!({ "annotator": "ann" });
    let item = post(&served, "/v1/queue/next", &ann).json();
    let judged = json!({ "completion_id": item["completion_id"], "choice": 0, "missing": "a hat",
        "annotator": "ann" });
    let record = correct(&served, &judged, &[]).json();
    assert_eq!(post(&served, "/v1/queue/next", &ann).status, 204);
    let mine = get(served.at, "/v1/feedback?annotator=ann&limit=1").json();
    assert_eq!(
        (&mine["data"][0]["id"], &mine["has_more"]),
        (&record["id"], &json!(false))
    );
    assert_eq!(
        get(served.at, "/v1/feedback?annotator=an").json()["data"],
        json!([])
    );
    let path = format!("/v1/feedback/{}", record["id"].as_str().unwrap());
    let removed = exchange(served.at, &request("DELETE", &path, &[], b"")).json();
    assert_eq!(
        (&removed["feedback"], &removed["receipts"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(
        post(&served, "/v1/queue/next", &ann).json()["id"],
        item["id"]
    );
    assert_eq!(correct(&served, &judged, &[]).status, 201);
}

/// Time to lease the next of a million answers in SQLite:
/// `cargo test --release --test it -- --ignored --nocapture a_million`.
#[test]
#[ignore = "takes minutes"]
fn queue_of_a_million_answers_is_fast() {
    let folder = tempfile::TempDir::new().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = SqlStore::open(&format!("sqlite:{}/feedback.db", folder.path().display()))
            .await
            .unwrap();
        for piece in 0..1000 {
            let row = |i: usize| {
                let n = piece * 1000 + i;
                let rank = (n * 7919 % 1_000_003) as f64 / 1e6;
                answer(n, n, rank, n % 20 == 1, n.is_multiple_of(10))
            };
            store
                .insert(&(0..1000).flat_map(row).collect::<Vec<_>>())
                .await
                .unwrap();
        }
        let (mut nexts, mut lengths) = (Vec::new(), Vec::new());
        for i in 0..400 {
            let begun = Instant::now();
            let lease = store
                .next(&wish(
                    &format!("annotator{}", i % 40),
                    NOW + 20 * i,
                    i % 10 == 0,
                ))
                .await
                .unwrap()
                .unwrap();
            store
                .receipt(&lease.answer.completion_id)
                .await
                .unwrap()
                .unwrap();
            nexts.push(begun.elapsed());
        }
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(
                store.length(&Owners::All, NOW).await.unwrap().open,
                1_000_000
            );
            lengths.push(begun.elapsed());
        }
        for (what, mut times) in [("next", nexts), ("length", lengths)] {
            times.sort();
            println!(
                "{what}: median {:?}, 99th percentile {:?}",
                times[times.len() / 2],
                times[times.len() * 99 / 100]
            );
        }
    });
}

/// Compares with PyPI's `krippendorff`.
#[test]
fn alpha_matches_krippendorff_package() {
    let Some(mut python) = python("krippendorff") else {
        return;
    };
    // Four annotators, five values, a quarter of the judgments missing.
    let said_of = |unit: usize, person: usize| match unit * 31 + person * 17 + unit * person {
        n if n % 4 == 3 => None,
        n if n % 3 > 0 => Some(unit % 5),
        n => Some(n % 5),
    };
    let table: Vec<Vec<Option<usize>>> = (0..4)
        .map(|person| (0..50).map(|unit| said_of(unit, person)).collect())
        .collect();
    let units: Vec<Vec<usize>> = (0..50)
        .map(|unit| (0..4).filter_map(|person| said_of(unit, person)).collect())
        .collect();
    let script = "import json, sys, krippendorff as k; t = json.load(sys.stdin); \
                  print(k.alpha([[float('nan') if v is None else v for v in row] for row in t], \
                  level_of_measurement='nominal'))";
    python.args(["-c", script]);
    let theirs: f64 = said(python, &serde_json::to_string(&table).unwrap())
        .trim()
        .parse()
        .unwrap();
    let ours = alpha(&units).unwrap();
    assert!(
        (ours - theirs).abs() < 1e-9 && ours < 0.95,
        "{ours} {theirs}"
    );
}
