//! Separation of owners, in every store and over a real socket with keys.

use std::sync::Arc;

use candor::{
    config::{ApiKey, KeyScope, KeyScopes},
    feedback::{
        record::{Feedback, ImageHash, Receipt},
        store::{
            AnnotatorTarget, InsertOutcome, OwnerBytes, Owners, RecordFilter, RecordPage,
            RemovalCounts, RemovalTarget, Store, StoreEntry,
            queue::{
                AnnotatorId, AnnotatorProgress, ChoiceId, LeaseRequest, LeaseReturn, QueueLength,
            },
        },
    },
};
use image::ImageFormat;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    queue::queued,
    store::{ids, plain, receipt, record},
};
use crate::{
    http::{JSON, Reply, exchange, request},
    served::{Served, and, ask, data_url, eventually, picture},
};

const NOW: u64 = 1000;

fn one(owner: &str) -> Owners {
    Owners::One(owner.to_owned())
}

fn annotator(owner: &str, name: &str) -> AnnotatorId {
    AnnotatorId {
        owner: owner.to_owned(),
        name: name.to_owned(),
    }
}

fn owned(n: usize, owner: &str) -> Feedback {
    Feedback {
        owner: owner.to_owned(),
        ..record(n)
    }
}

fn owned_receipt(id: &str, owner: &str, image: &[u8]) -> Receipt {
    Receipt {
        owner: owner.to_owned(),
        ..receipt(id, 1, image)
    }
}

async fn an_owner_sees_and_removes_their_own(store: Arc<dyn Store>) {
    let of_user = |n, owner| {
        plain(Feedback {
            user: Some("ann".to_owned()),
            ..owned(n, owner)
        })
    };
    let receipt_of = |id, owner| {
        StoreEntry::Receipt(Box::new(Receipt {
            user: Some("ann".to_owned()),
            ..owned_receipt(id, owner, b"image")
        }))
    };
    let rows = [
        of_user(1, "a"),
        of_user(2, "b"),
        of_user(3, ""),
        receipt_of("c1", "a"),
        receipt_of("c2", "b"),
    ];
    store.insert(&rows).await.unwrap();
    let page = |owners| RecordPage {
        filter: RecordFilter {
            owners,
            ..RecordFilter::default()
        },
        limit: 9,
        ..RecordPage::default()
    };
    for (owners, seen) in [
        (one("a"), vec![1]),
        (one("b"), vec![2]),
        (one(""), vec![3]),
        (one("c"), vec![]),
        (Owners::All, vec![1, 2, 3]),
    ] {
        assert_eq!(ids(&*store, page(owners.clone())).await, seen, "{owners:?}");
        let stats = store.stats(&owners).await.unwrap();
        assert_eq!(
            stats.feedback.values().sum::<u64>(),
            seen.len() as u64,
            "{owners:?}"
        );
    }
    assert_eq!(
        (
            store.stats(&one("b")).await.unwrap().receipts,
            store.stats(&one("")).await.unwrap().receipts
        ),
        (1, 0)
    );
    let remove = async |target| store.remove(&target).await.unwrap();
    assert_eq!(
        remove(RemovalTarget::Feedback(record(2).id, one("a"))).await,
        RemovalCounts::default()
    );
    // Two owners have a user of the same name.
    assert_eq!(
        remove(RemovalTarget::User("ann".to_owned(), one("a"))).await,
        RemovalCounts {
            feedback: 1,
            receipts: 1,
            unnamed: 0
        }
    );
    assert_eq!(ids(&*store, page(Owners::All)).await, [2, 3]);
    assert!(
        store.receipt("c1").await.unwrap().is_none()
            && store.receipt("c2").await.unwrap().is_some()
    );
    // The other owner's receipt still refers to the image.
    assert!(store.refers(ImageHash::digest(b"image")).await.unwrap());
    assert_eq!(
        remove(RemovalTarget::User("ann".to_owned(), Owners::All)).await,
        RemovalCounts {
            feedback: 2,
            receipts: 1,
            unnamed: 0
        }
    );
    assert!(!store.refers(ImageHash::digest(b"image")).await.unwrap());
}

fn place(id: &str) -> ChoiceId {
    ChoiceId {
        completion_id: id.to_owned(),
        choice: 0,
    }
}

async fn next(store: &dyn Store, who: &AnnotatorId, owners: Owners) -> Option<String> {
    let wish = LeaseRequest {
        annotator: who.clone(),
        owners,
        now: NOW,
        until: NOW + 10,
        unassisted: false,
    };
    Some(store.next(&wish).await.unwrap()?.answer.completion_id)
}

/// Judges the answer of a receipt.
async fn judge(store: &dyn Store, n: usize, about: Receipt, who: &AnnotatorId) {
    let judged = Feedback {
        owner: about.owner,
        completion_id: Some(about.id),
        choice: Some(0),
        image: about.image,
        prompt: about.prompt,
        response: about.choices[0].response.clone(),
        annotator: Some(who.name.clone()),
        annotator_owner: who.owner.clone(),
        ..record(n)
    };
    assert_eq!(
        store.insert(&[plain(judged)]).await.unwrap(),
        [InsertOutcome::New]
    );
}

async fn the_same_answer_of_two_owners_is_two_items(store: Arc<dyn Store>) {
    let (of_a, of_b) = (
        owned_receipt("ca", "a", b"image"),
        owned_receipt("cb", "b", b"image"),
    );
    for receipt in [&of_a, &of_b] {
        store
            .insert(&queued(receipt.clone(), 0.5, false, false))
            .await
            .unwrap();
    }
    let (ann_of_a, ann_of_b) = (annotator("a", "ann"), annotator("b", "ann"));
    let length = async |owners| store.length(&owners, NOW).await.unwrap();
    assert_eq!(
        (
            length(one("a")).await.open,
            length(one("b")).await.open,
            length(Owners::All).await.open
        ),
        (1, 1, 2)
    );
    assert_eq!(next(&*store, &ann_of_a, one("c")).await, None);
    assert_eq!(
        next(&*store, &ann_of_a, one("a")).await.as_deref(),
        Some("ca")
    );
    assert_eq!(
        next(&*store, &ann_of_b, one("b")).await.as_deref(),
        Some("cb")
    );
    assert_eq!(
        length(one("a")).await,
        QueueLength {
            open: 1,
            leased: 1,
            ..QueueLength::default()
        }
    );
    // An annotator of the same name under another owner does not share the lease.
    assert_eq!(store.lease(&place("ca"), &ann_of_b).await.unwrap(), None);
    for how in [LeaseReturn::Release, LeaseReturn::Skip(1)] {
        assert!(!store.leave(&place("ca"), &ann_of_b, how).await.unwrap());
    }
    judge(&*store, 1, of_b, &ann_of_b).await;
    assert_eq!(
        length(one("b")).await,
        QueueLength {
            done: 1,
            ..QueueLength::default()
        }
    );
    assert_eq!(
        length(one("a")).await,
        QueueLength {
            open: 1,
            leased: 1,
            ..QueueLength::default()
        },
        "what b said of it closes nothing of a"
    );
    assert!(
        store
            .leave(&place("ca"), &ann_of_a, LeaseReturn::Release)
            .await
            .unwrap()
    );
    // A reader of all owners gets all items.
    let desk = annotator("desk", "ann");
    assert_eq!(
        next(&*store, &desk, Owners::All).await.as_deref(),
        Some("ca")
    );
    judge(&*store, 2, of_a, &desk).await;
    assert_eq!(
        length(one("a")).await,
        QueueLength {
            done: 1,
            ..QueueLength::default()
        }
    );
    let progress = async |who| store.progress(who, NOW).await.unwrap().total;
    assert_eq!(
        (
            progress(&ann_of_a).await,
            progress(&ann_of_b).await,
            progress(&desk).await
        ),
        (0, 1, 1)
    );
}

async fn annotators_are_forgotten(store: Arc<dyn Store>) {
    let receipts: Vec<Receipt> = (0..4)
        .map(|n| owned_receipt(&format!("c{n}"), ["a", "b"][n % 2], &[n as u8]))
        .collect();
    for receipt in &receipts {
        store
            .insert(&queued(receipt.clone(), 0.5, false, false))
            .await
            .unwrap();
    }
    let (ann_of_a, ann_of_b) = (annotator("a", "ann"), annotator("b", "ann"));
    judge(&*store, 0, receipts[0].clone(), &ann_of_a).await;
    judge(&*store, 1, receipts[1].clone(), &ann_of_b).await;
    assert_eq!(
        next(&*store, &ann_of_a, one("a")).await.as_deref(),
        Some("c2")
    );
    let forget = async |owners, records| {
        let target = AnnotatorTarget {
            name: "ann".to_owned(),
            owners,
            records,
            limit: 9,
        };
        store
            .remove(&RemovalTarget::Annotator(target))
            .await
            .unwrap()
    };
    assert_eq!(
        forget(one("a"), false).await,
        RemovalCounts {
            unnamed: 1,
            ..RemovalCounts::default()
        }
    );
    let unnamed = store.feedback(&record(0).id).await.unwrap().unwrap();
    assert_eq!(
        (
            unnamed.annotator,
            unnamed.annotator_owner.as_str(),
            unnamed.owner.as_str()
        ),
        (None, "", "a")
    );
    let named = |name: &str| RecordPage {
        filter: RecordFilter {
            annotator: Some(name.to_owned()),
            ..RecordFilter::default()
        },
        limit: 9,
        ..RecordPage::default()
    };
    assert_eq!(ids(&*store, named("ann")).await, [1], "b's stays");
    assert_eq!(
        store.progress(&ann_of_a, NOW).await.unwrap(),
        AnnotatorProgress::default()
    );
    // Their leased items are open again; judged items stay judged.
    assert_eq!(
        store.length(&one("a"), NOW).await.unwrap(),
        QueueLength {
            open: 1,
            done: 1,
            ..QueueLength::default()
        }
    );
    assert_eq!(
        next(&*store, &annotator("a", "bob"), one("a"))
            .await
            .as_deref(),
        Some("c2")
    );
    // Removing the records reopens the items that they judged.
    assert_eq!(
        forget(Owners::All, true).await,
        RemovalCounts {
            feedback: 1,
            ..RemovalCounts::default()
        }
    );
    assert_eq!(
        store.length(&one("b"), NOW).await.unwrap(),
        QueueLength {
            open: 2,
            ..QueueLength::default()
        }
    );
    assert_eq!(forget(Owners::All, true).await, RemovalCounts::default());
}

async fn the_oldest_of_an_owner_go_first(store: Arc<dyn Store>) {
    let image = vec![7; 1000];
    let row = |n: u64, owner: &str, image: &[u8]| {
        StoreEntry::Receipt(Box::new(Receipt {
            owner: owner.to_owned(),
            ..receipt(&format!("c{n}"), n, image)
        }))
    };
    store
        .insert(&[
            row(1, "a", &image),
            row(2, "a", &image),
            row(3, "a", b"other"),
            row(4, "b", &image),
        ])
        .await
        .unwrap();
    let judged = Feedback {
        completion_id: Some("c1".to_owned()),
        ..owned(1, "a")
    };
    store.insert(&[plain(judged)]).await.unwrap();
    let held = async || {
        let mut held = store.receipt_bytes().await.unwrap();
        held.sort_by(|one, other| one.owner.cmp(&other.owner));
        held
    };
    let body = |of_a: u64| {
        serde_json::to_string(&Receipt {
            owner: "a".into(),
            ..receipt("c1", 1, &vec![7; of_a as usize])
        })
        .unwrap()
        .len() as u64
    };
    // An owner's image counts once for all receipts that refer to it.
    let of_a = OwnerBytes {
        owner: "a".to_owned(),
        bytes: 2 * body(1000) + 1000 + body(5) + 5,
    };
    assert_eq!(
        held().await,
        [
            of_a,
            OwnerBytes {
                owner: "b".to_owned(),
                bytes: body(1000) + 1000
            }
        ]
    );
    let there = async |n: u64| store.receipt(&format!("c{n}")).await.unwrap().is_some();
    let remove = async |bytes| {
        store
            .remove(&RemovalTarget::OldestReceipts("a".to_owned(), bytes))
            .await
            .unwrap()
            .receipts
    };
    assert_eq!(remove(1).await, 1);
    assert_eq!(
        (there(1).await, there(2).await, there(3).await),
        (true, false, true),
        "what was judged goes last"
    );
    assert_eq!(
        (
            remove(1_000_000).await,
            remove(1_000_000).await,
            remove(1_000_000).await
        ),
        (1, 1, 0)
    );
    assert!(there(4).await && store.feedback(&record(1).id).await.unwrap().is_some());
}

/// Runs the tests on one store.
pub(super) async fn every_check<S: Store + 'static>(open: impl AsyncFn() -> Arc<S>) {
    an_owner_sees_and_removes_their_own(open().await).await;
    the_same_answer_of_two_owners_is_two_items(open().await).await;
    annotators_are_forgotten(open().await).await;
    the_oldest_of_an_owner_go_first(open().await).await;
}

/// Server with two owners, and a key that reads both.
fn tenants() -> Served {
    const TENANT: [KeyScope; 4] = [
        KeyScope::Complete,
        KeyScope::Score,
        KeyScope::FeedbackWrite,
        KeyScope::Annotate,
    ];
    let key = |name: &str, scopes: &[KeyScope]| ApiKey {
        name: name.to_owned(),
        key_sha256: Sha256::digest(name)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        scopes: KeyScopes::new(scopes.iter().copied()),
        ..ApiKey::default()
    };
    Served::with(|c| {
        c.keys = vec![
            key("a", &TENANT),
            key("b", &TENANT),
            key("desk", &[&TENANT[..], &[KeyScope::FeedbackRead]].concat()),
        ];
        c.queue.overlap_share = 0.0;
    })
}

fn send(served: &Served, key: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
    send_with(served, key, method, path, body, &[])
}

fn send_with(
    served: &Served,
    key: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
    more: &[(&str, &str)],
) -> Reply {
    let authorization = format!("Bearer {key}");
    let headers: Vec<_> = [("authorization", authorization.as_str()), JSON]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let body = body.map(Value::to_string).unwrap_or_default();
    exchange(served.at, &request(method, path, &headers, body.as_bytes()))
}

fn listed(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["id"].as_str().unwrap().to_owned())
        .collect()
}

fn exported(served: &Served, key: &str, query: &str) -> Vec<Value> {
    let reply = send(
        served,
        key,
        "GET",
        &format!("/v1/feedback/export{query}"),
        None,
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn key_of_one_owner_reaches_nothing_of_another() {
    let served = tenants();
    let completion = send(
        &served,
        "a",
        "POST",
        "/v1/chat/completions",
        Some(&and(ask(1, ""), json!({ "user": "ann" }))),
    )
    .json();
    let correct = |key: &str, id: &Value| {
        send(
            &served,
            key,
            "POST",
            "/v1/feedback",
            Some(&json!({ "completion_id": id, "missing": "a hat", "annotator": "ann" })),
        )
    };
    // Answered like an unknown id.
    let (others, none) = (
        correct("b", &completion["id"]),
        correct("b", &json!("chatcmpl-none")),
    );
    assert_eq!(
        (others.status, &others.error(404)["code"]),
        (none.status, &json!("completion_not_found"))
    );
    assert_eq!(
        others
            .text()
            .replace(completion["id"].as_str().unwrap(), "chatcmpl-none"),
        none.text()
    );
    let own = correct("a", &completion["id"]);
    assert_eq!(own.status, 201, "{}", own.text());
    let (record, id) = (own.json(), own.json()["id"].as_str().unwrap().to_owned());
    assert_eq!(
        (
            record.get("owner"),
            record.get("annotator_owner"),
            &record["annotator"]
        ),
        (None, None, &json!("ann"))
    );
    let path = format!("/v1/feedback/{id}");
    for method in ["GET", "DELETE"] {
        let (others, none) = (
            send(&served, "b", method, &path, None),
            send(&served, "b", method, "/v1/feedback/fb_none", None),
        );
        assert_eq!(
            (others.status, others.text()),
            (404, none.text()),
            "{method}"
        );
    }
    for query in [
        "",
        "?user=ann",
        "?annotator=ann",
        "?annotators=true",
        &format!("?completion_id={}", completion["id"].as_str().unwrap()),
    ] {
        assert_eq!(
            listed(&send(
                &served,
                "b",
                "GET",
                &format!("/v1/feedback{query}"),
                None
            )),
            [""; 0],
            "{query}"
        );
        assert_eq!(
            listed(&send(
                &served,
                "a",
                "GET",
                &format!("/v1/feedback{query}"),
                None
            )),
            [id.as_str()],
            "{query}"
        );
    }
    assert!(exported(&served, "b", "").is_empty());
    for person in ["user=ann", "annotator=ann", "annotator=ann&records=true"] {
        let removed = send(
            &served,
            "b",
            "DELETE",
            &format!("/v1/feedback?{person}"),
            None,
        )
        .json();
        assert_eq!(
            (
                &removed["feedback"],
                &removed["receipts"],
                &removed["unnamed"]
            ),
            (&json!(0), &json!(0), &json!(0)),
            "{person}"
        );
    }
    for (method, path) in [
        ("GET", "/v1/feedback"),
        ("GET", "/v1/feedback/export"),
        ("DELETE", "/v1/feedback"),
    ] {
        let error = send(
            &served,
            "b",
            method,
            &format!("{path}?user=ann&owner=a"),
            None,
        )
        .error(403);
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("insufficient_scope"), &json!("owner")),
            "{method} {path}"
        );
        assert!(
            error["message"].as_str().unwrap().contains("feedback:read"),
            "{error}"
        );
    }
    assert_eq!(
        listed(&send(&served, "a", "GET", "/v1/feedback?owner=a", None)),
        [id.as_str()]
    );
    let shown = exported(&served, "a", "?annotators=true");
    assert_eq!(
        (shown.len(), shown[0].get("owner"), &shown[0]["annotator"]),
        (1, None, &json!("ann"))
    );
    // A reader of all owners sees the owner.
    let shown = exported(&served, "desk", "?annotators=true");
    assert_eq!(
        (&shown[0]["owner"], &shown[0]["annotator_owner"]),
        (&json!("a"), &json!("a"))
    );
    assert_eq!(
        exported(&served, "desk", "")
            .first()
            .unwrap()
            .get("annotator_owner"),
        None
    );
    assert_eq!(
        (
            exported(&served, "desk", "?owner=a").len(),
            exported(&served, "desk", "?owner=b").len()
        ),
        (1, 0)
    );
    assert_eq!(exported(&served, "desk", "?owner=").len(), 0);
    // Records of others' answers belong to the answers' owner.
    assert_eq!(correct("desk", &completion["id"]).json()["owner"], "a");
    assert_eq!(
        listed(&send(&served, "a", "GET", "/v1/feedback", None)).len(),
        2
    );
    assert_eq!(
        send(
            &served,
            "desk",
            "DELETE",
            "/v1/feedback?user=ann&owner=b",
            None
        )
        .json()["feedback"],
        0
    );
    assert_eq!(
        send(&served, "desk", "DELETE", "/v1/feedback?user=ann", None).json()["feedback"],
        2
    );
}

#[test]
fn queue_leases_own_answers_to_each_owner() {
    let served = tenants();
    for key in ["a", "b"] {
        // Both owners get the same answer.
        assert_eq!(
            send(
                &served,
                key,
                "POST",
                "/v1/chat/completions",
                Some(&ask(1, ""))
            )
            .status,
            200
        );
    }
    let open = |key: &str| send(&served, key, "GET", "/v1/queue", None).json()["open"].clone();
    eventually("both are in the queue", || open("desk") == 2);
    assert_eq!((open("a"), open("b")), (json!(1), json!(1)));
    let ann = json!({ "annotator": "ann" });
    let next = |key: &str| send(&served, key, "POST", "/v1/queue/next", Some(&ann));
    let (of_a, of_b) = (next("a").json(), next("b").json());
    assert_ne!(of_a["id"], of_b["id"]);
    for action in ["release", "skip"] {
        let path = format!("/v1/queue/{}/{action}", of_a["id"].as_str().unwrap());
        assert_eq!(
            send(&served, "b", "POST", &path, Some(&ann)).error(404)["code"],
            "lease_not_found"
        );
    }
    let judge = |key: &str, item: &Value| {
        let judged = json!({ "completion_id": item["completion_id"], "choice": 0, "label": "good",
            "annotator": "ann" });
        send(&served, key, "POST", "/v1/feedback", Some(&judged))
    };
    assert_eq!(judge("b", &of_a).error(404)["code"], "completion_not_found");
    assert_eq!(judge("a", &of_a).status, 201);
    assert_eq!((open("a"), open("b")), (json!(0), json!(1)));
    assert_eq!(
        (next("a").status, next("b").json()["id"].clone()),
        (204, of_b["id"].clone())
    );
    let today = |key: &str| {
        send(&served, key, "GET", "/v1/queue?annotator=ann", None).json()["annotator"]["today"]
            .clone()
    };
    assert_eq!((today("a"), today("b")), (json!(1), json!(0)));
}

#[test]
fn image_of_two_owners_stays_until_both_remove_it() {
    let served = tenants();
    let body = json!({ "image": data_url("image/png", &picture(1, ImageFormat::Png)),
        "response": "A dog.", "label": "good" });
    let kept = |key: &str| {
        let reply = send_with(
            &served,
            key,
            "POST",
            "/v1/feedback",
            Some(&body),
            &[("idempotency-key", "k")],
        );
        assert_eq!(
            (reply.status, reply.header("idempotent-replayed")),
            (201, None),
            "the key is the owner's: {}",
            reply.text()
        );
        format!("/v1/feedback/{}", reply.json()["id"].as_str().unwrap())
    };
    let (of_a, of_b) = (kept("a"), kept("b"));
    let images = || super::images::files(&served.folder.path().join("images")).len();
    assert_eq!(images(), 1);
    assert_eq!(send(&served, "a", "DELETE", &of_a, None).status, 200);
    assert_eq!(images(), 1);
    assert_eq!(send(&served, "b", "GET", &of_b, None).status, 200);
    assert_eq!(send(&served, "b", "DELETE", &of_b, None).status, 200);
    assert_eq!(images(), 0);
}

#[test]
fn forget_without_name_is_refused() {
    let served = tenants();
    let body = |annotator: &str| {
        let image = data_url("image/png", &picture(1, ImageFormat::Png));
        json!({ "image": image, "response": "A dog.", "missing": "a hat", "annotator": annotator })
    };
    for name in ["ann", "bob"] {
        assert_eq!(
            send(&served, "a", "POST", "/v1/feedback", Some(&body(name))).status,
            201
        );
    }
    let forget = |query: &str| {
        send(
            &served,
            "a",
            "DELETE",
            &format!("/v1/feedback?{query}"),
            None,
        )
    };
    for (query, param) in [
        ("", "user"),
        ("owner=a", "user"),
        ("user=x&annotator=ann", "annotator"),
        ("user=x&records=true", "records"),
        ("annotator=", "annotator"),
    ] {
        assert_eq!(forget(query).error(400)["param"], param, "{query}");
    }
    let removed = forget("annotator=ann").json();
    assert_eq!(
        (&removed["unnamed"], &removed["feedback"]),
        (&json!(1), &json!(0))
    );
    let names = || {
        exported(&served, "a", "?annotators=true")
            .iter()
            .map(|record| record.get("annotator").cloned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), [None, Some(json!("bob"))]);
    assert_eq!(forget("annotator=bob&records=true").json()["feedback"], 1);
    assert_eq!(names(), [None]);
}
