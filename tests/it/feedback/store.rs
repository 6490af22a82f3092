//! Contract of every store, on SQLite and on PostgreSQL.

use std::{collections::BTreeSet, sync::Arc};

use candor::{
    feedback::{
        record::{
            Feedback, FeedbackSource, ImageHash, JudgmentKind, Receipt, RecordedChoice,
            ResponseToken, TokenLabel, Versions,
        },
        store::{
            Idempotency, InsertOutcome, Owners, RecordFilter, RecordPage, RemovalCounts,
            RemovalTarget, Store, StoreEntry, StoreError, sql::SqlStore, writer::StoreWriter,
        },
    },
    guard::Verdict,
};
use sqlx::{AnyConnection, Connection, Executor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{owners, postgres::Postgres, queue};

/// Record with awkward texts.
pub(crate) fn record(n: usize) -> Feedback {
    let token = ResponseToken {
        id: 7,
        text: " 🐶\"\u{0}\\".to_owned(),
        start: 0,
        end: 5,
        logprob: Some(-0.5),
        reward: None,
        label: TokenLabel::Bad,
    };
    Feedback {
        id: format!("fb_{n:032x}"),
        created: 1_000 + n as u64,
        owner: String::new(),
        completion_id: None,
        choice: None,
        image: ImageHash::digest(b"image"),
        prompt: "Was ist das? 'x'; DROP TABLE feedback; --".to_owned(),
        response: " 🐶\"\u{0}\\".to_owned(),
        tokens: vec![token],
        kind: JudgmentKind::Bad,
        scope: None,
        errors: Vec::new(),
        missing: Vec::new(),
        versions: Versions::default(),
        flagged: None,
        queued: None,
        unassisted: false,
        annotator: None,
        annotator_owner: String::new(),
        user: None,
        comment: Some("\u{0}\u{1F469}\u{200D}\u{1F680}".to_owned()),
        source: FeedbackSource::Human,
    }
}

pub(crate) fn receipt(id: &str, created: u64, image: &[u8]) -> Receipt {
    let answer = RecordedChoice {
        response: "A dog.".to_owned(),
        tokens: Vec::new(),
        verdict: Verdict::Clean,
        threshold: 0.5,
        spans: Vec::new(),
        familiarity: None,
    };
    Receipt {
        id: id.to_owned(),
        created,
        versions: Versions {
            model: Some("candor-mini".to_owned()),
            ..Versions::default()
        },
        owner: String::new(),
        image: ImageHash::digest(image),
        image_bytes: image.len() as u64,
        prompt: String::new(),
        user: None,
        unassisted: true,
        choices: vec![answer],
    }
}

pub(super) fn plain(record: Feedback) -> StoreEntry {
    StoreEntry::Feedback(Box::new(record), None)
}

fn keyed(record: Feedback, key: &str, digest: &str) -> StoreEntry {
    StoreEntry::Feedback(
        Box::new(record),
        Some(Idempotency {
            key: key.to_owned(),
            digest: digest.to_owned(),
        }),
    )
}

pub(super) async fn ids(store: &dyn Store, page: RecordPage) -> Vec<usize> {
    let records = store.page(&page).await.unwrap();
    records
        .iter()
        .map(|r| usize::from_str_radix(r.id.trim_start_matches("fb_"), 16).unwrap())
        .collect()
}

async fn what_is_kept_comes_back(store: Arc<dyn Store>) {
    let (wanted, kept) = (record(1), receipt("chatcmpl-1", 5, b"image"));
    let rows = [
        plain(wanted.clone()),
        StoreEntry::Receipt(Box::new(kept.clone())),
    ];
    assert_eq!(
        store.insert(&rows).await.unwrap(),
        [InsertOutcome::New, InsertOutcome::New]
    );
    assert_eq!(store.feedback(&wanted.id).await.unwrap(), Some(wanted));
    assert_eq!(store.receipt("chatcmpl-1").await.unwrap(), Some(kept));
    assert_eq!(store.feedback("fb_").await.unwrap(), None);
    assert_eq!(store.receipt("'").await.unwrap(), None);
    assert_eq!(store.insert(&[]).await.unwrap(), []);
    // A record is never overwritten.
    assert_eq!(
        store.insert(&rows[..1]).await.unwrap(),
        [InsertOutcome::Conflict]
    );
    let stats = store.stats(&Owners::All).await.unwrap();
    assert_eq!(
        (
            stats.feedback["bad"],
            stats.sources["human"],
            stats.receipts
        ),
        (1, 1, 1)
    );
}

async fn a_request_that_is_sent_again_makes_nothing_new(store: Arc<dyn Store>) {
    let rows = [
        keyed(record(1), "k", "said"),
        keyed(record(2), "k", "said"),
        keyed(record(3), "k", "said otherwise"),
    ];
    let before = InsertOutcome::Before(Box::new(record(1)));
    assert_eq!(
        store.insert(&rows).await.unwrap(),
        [InsertOutcome::New, before.clone(), InsertOutcome::Conflict]
    );
    assert_eq!(
        store.insert(&rows[1..]).await.unwrap(),
        [before.clone(), InsertOutcome::Conflict]
    );
    let key = |key: &str, digest: &str| Idempotency {
        key: key.to_owned(),
        digest: digest.to_owned(),
    };
    assert_eq!(
        store.find_request(&key("k", "said")).await.unwrap(),
        Some(before)
    );
    assert_eq!(
        store.find_request(&key("k", "?")).await.unwrap(),
        Some(InsertOutcome::Conflict)
    );
    assert_eq!(store.find_request(&key("K", "said")).await.unwrap(), None);
    assert_eq!(
        ids(
            &*store,
            RecordPage {
                limit: 9,
                ..RecordPage::default()
            }
        )
        .await,
        [1]
    );
}

async fn pages_are_in_order_and_filtered(store: Arc<dyn Store>) {
    let make = |n: usize| Feedback {
        kind: if n.is_multiple_of(2) {
            JudgmentKind::Good
        } else {
            JudgmentKind::Missing
        },
        user: Some(format!("user{}", n % 3)),
        annotator: Some("Å".to_owned()),
        completion_id: (n == 7).then(|| "chatcmpl-7".to_owned()),
        source: if n < 5 {
            FeedbackSource::Import
        } else {
            FeedbackSource::Simulated
        },
        ..record(n)
    };
    let rows: Vec<StoreEntry> = (1..=20).rev().map(|n| plain(make(n))).collect();
    store.insert(&rows).await.unwrap();
    let id = |n: usize| Some(record(n).id);
    let page = |filter, after, newest_first| RecordPage {
        filter,
        after,
        limit: 4,
        newest_first,
    };
    assert_eq!(
        ids(&*store, page(RecordFilter::default(), None, false)).await,
        [1, 2, 3, 4]
    );
    assert_eq!(
        ids(&*store, page(RecordFilter::default(), None, true)).await,
        [20, 19, 18, 17]
    );
    assert_eq!(
        ids(&*store, page(RecordFilter::default(), id(4), false)).await,
        [5, 6, 7, 8]
    );
    assert_eq!(
        ids(&*store, page(RecordFilter::default(), id(4), true)).await,
        [3, 2, 1]
    );
    let filter = RecordFilter {
        kind: Some(JudgmentKind::Good),
        user: Some("user1".to_owned()),
        ..RecordFilter::default()
    };
    assert_eq!(ids(&*store, page(filter, None, false)).await, [4, 10, 16]);
    let filter = RecordFilter {
        source: Some(FeedbackSource::Import),
        annotator: Some("Å".to_owned()),
        ..RecordFilter::default()
    };
    assert_eq!(ids(&*store, page(filter, id(2), false)).await, [3, 4]);
    let filter = RecordFilter {
        completion_id: Some("chatcmpl-7".to_owned()),
        ..RecordFilter::default()
    };
    assert_eq!(ids(&*store, page(filter, None, false)).await, [7]);
    let filter = RecordFilter {
        annotator: Some("' OR 1 = 1 --".to_owned()),
        ..RecordFilter::default()
    };
    assert!(ids(&*store, page(filter, None, false)).await.is_empty());
}

async fn what_is_removed_dooms_its_image(store: Arc<dyn Store>) {
    let (shared, alone) = (ImageHash::digest(b"shared"), ImageHash::digest(b"alone"));
    let about = |n: usize, image, completion: Option<&str>, user: Option<&str>| Feedback {
        image,
        completion_id: completion.map(str::to_owned),
        user: user.map(str::to_owned),
        ..record(n)
    };
    let rows = [
        plain(about(1, shared, Some("chatcmpl-1"), None)),
        plain(about(2, shared, None, Some("ann"))),
        plain(about(3, alone, None, Some("ann"))),
        StoreEntry::Receipt(Box::new(receipt("chatcmpl-1", 1, b"shared"))),
        StoreEntry::Receipt(Box::new(Receipt {
            user: Some("ann".to_owned()),
            ..receipt("chatcmpl-2", 1, b"alone")
        })),
    ];
    store.insert(&rows).await.unwrap();
    let remove = async |target| store.remove(&target).await.unwrap();
    assert_eq!(
        remove(RemovalTarget::Feedback(record(9).id, Owners::All)).await,
        RemovalCounts::default()
    );
    assert_eq!(store.doomed(9).await.unwrap(), []);
    assert_eq!(
        remove(RemovalTarget::Feedback(record(1).id, Owners::All)).await,
        RemovalCounts {
            feedback: 1,
            ..RemovalCounts::default()
        }
    );
    assert!(
        store.receipt("chatcmpl-1").await.unwrap().is_some(),
        "another may say something of the answer"
    );
    assert_eq!(store.doomed(9).await.unwrap(), [shared]);
    assert!(store.refers(shared).await.unwrap());
    assert_eq!(
        remove(RemovalTarget::User("ann".to_owned(), Owners::All)).await,
        RemovalCounts {
            feedback: 2,
            receipts: 1,
            unnamed: 0
        }
    );
    assert!(store.refers(shared).await.unwrap() && !store.refers(alone).await.unwrap());
    assert_eq!(
        remove(RemovalTarget::ReceiptsBefore(2, 9)).await.receipts,
        1
    );
    assert!(!store.refers(shared).await.unwrap() && !store.refers(alone).await.unwrap());
    assert_eq!(
        store
            .doomed(9)
            .await
            .unwrap()
            .into_iter()
            .collect::<BTreeSet<_>>(),
        [shared, alone].into()
    );
    store.spare(shared).await.unwrap();
    assert_eq!(store.doomed(9).await.unwrap(), [alone]);
}

async fn receipts_expire_in_pieces(store: Arc<dyn Store>) {
    let rows: Vec<StoreEntry> = (0..10)
        .map(|n| {
            StoreEntry::Receipt(Box::new(receipt(
                &format!("chatcmpl-{n}"),
                100 + n,
                b"image",
            )))
        })
        .collect();
    store.insert(&rows).await.unwrap();
    let remove = async |target| store.remove(&target).await.unwrap().receipts;
    assert_eq!(remove(RemovalTarget::ReceiptsBefore(107, 4)).await, 4);
    assert_eq!(remove(RemovalTarget::ReceiptsBefore(107, 4)).await, 3);
    assert_eq!(remove(RemovalTarget::ReceiptsBefore(107, 4)).await, 0);
    assert!(
        store.receipt("chatcmpl-6").await.unwrap().is_none()
            && store.receipt("chatcmpl-7").await.unwrap().is_some()
    );
}

async fn receipts_of_a_clock_that_was_ahead_expire_with_others(store: Arc<dyn Store>) {
    let rows = [("chatcmpl-1", 100), ("chatcmpl-2", 9_000)]
        .map(|(id, created)| StoreEntry::Receipt(Box::new(receipt(id, created, b"image"))));
    store.insert(&rows).await.unwrap();
    store.redate_receipts(200).await.unwrap();
    let remove = async |time| {
        store
            .remove(&RemovalTarget::ReceiptsBefore(time, 9))
            .await
            .unwrap()
            .receipts
    };
    assert_eq!((remove(200).await, remove(201).await), (1, 1));
}

async fn many_at_once_are_each_there_once(store: Arc<dyn Store>) {
    let writer = StoreWriter::start(Arc::clone(&store));
    let client = |client: usize| {
        let writer = writer.clone();
        async move {
            for n in 0..40 {
                // Every request is sent twice.
                let (n, key) = (client * 1000 + n * 2, format!("{client}/{n}"));
                assert_eq!(
                    writer.insert(keyed(record(n), &key, "")).await.unwrap(),
                    InsertOutcome::New
                );
                assert_eq!(
                    writer.insert(keyed(record(n + 1), &key, "")).await.unwrap(),
                    InsertOutcome::Before(Box::new(record(n)))
                );
            }
        }
    };
    let clients: Vec<_> = (0..32).map(|c| tokio::spawn(client(c))).collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(
        store.stats(&Owners::All).await.unwrap().feedback["bad"],
        32 * 40
    );
}

async fn every_check(url: impl Fn() -> String) {
    let open = async || Arc::new(SqlStore::open(&url()).await.unwrap());
    what_is_kept_comes_back(open().await).await;
    a_request_that_is_sent_again_makes_nothing_new(open().await).await;
    pages_are_in_order_and_filtered(open().await).await;
    what_is_removed_dooms_its_image(open().await).await;
    receipts_expire_in_pieces(open().await).await;
    receipts_of_a_clock_that_was_ahead_expire_with_others(open().await).await;
    many_at_once_are_each_there_once(open().await).await;
    owners::every_check(&open).await;
    queue::every_check(open).await;
    it_is_there_when_opened_again(&url()).await;
}

async fn it_is_there_when_opened_again(url: &str) {
    let store = SqlStore::open(url).await.unwrap();
    store.insert(&[plain(record(1))]).await.unwrap();
    store.close().await;
    let store = SqlStore::open(url).await.unwrap();
    assert_eq!(
        store.feedback(&record(1).id).await.unwrap(),
        Some(record(1))
    );
    // A schema of a later version is not touched.
    let mut connection = AnyConnection::connect(url).await.unwrap();
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                 execution_time) VALUES (99, 'later', TRUE, 'x', 0)";
    connection.execute(later).await.unwrap();
    let refused = SqlStore::open(url).await.err().unwrap().to_string();
    assert!(
        refused.contains("a later version of Candor") && refused.contains("99"),
        "{refused}"
    );
}

#[test]
fn sqlite() {
    let folder = TempDir::new().unwrap();
    let count = std::cell::Cell::new(0);
    let url = || {
        count.set(count.get() + 1);
        format!("sqlite:{}/new/{}.db", folder.path().display(), count.get())
    };
    Runtime::new().unwrap().block_on(every_check(url));
}

#[test]
fn postgres() {
    let Some(server) = Postgres::start() else {
        return;
    };
    Runtime::new().unwrap().block_on(every_check(|| {
        std::thread::scope(|s| s.spawn(|| server.database()).join().unwrap())
    }));
}

#[test]
fn store_that_cannot_be_opened_names_the_reason() {
    let open = |url: &str| {
        Runtime::new()
            .unwrap()
            .block_on(SqlStore::open(url))
            .err()
            .unwrap()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        b"this is no database, and long enough to tell that it is none".repeat(99),
    )
    .unwrap();
    let messages = [
        open(&format!("sqlite:{}", file.path().display())),
        open(&format!("sqlite:{}/x/y.db", file.path().display())),
        open("postgres://candor@127.0.0.1:1/none"),
        open("mongodb://x"),
    ];
    // Reports the cause at once, not a timeout.
    let (name, why) = (file.path().to_str().unwrap(), messages[0].to_string());
    assert!(
        why.contains(name) && why.contains("not a database"),
        "{why}"
    );
    for error in messages {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}
