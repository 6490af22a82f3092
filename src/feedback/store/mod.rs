//! Durable store of records and receipts.
//!
//! [`Store`] is its interface, [`sql`] implements it on SQLite and PostgreSQL, and [`writer`]
//! groups concurrent inserts into transactions. Images are kept in [`super::images`]; the store
//! lists those without any reference left.

pub mod queue;
pub mod sql;
mod sql_queue;
mod sql_remove;
pub mod writer;

use std::{collections::BTreeMap, error::Error, io, ops::AddAssign};

use futures_util::future::BoxFuture;
use serde::Serialize;

use self::queue::{QueueEntry, QueueStore};
use super::record::{Feedback, FeedbackSource, ImageHash, JudgmentKind, Receipt};

/// Failure of the store. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space is left on the disk.
    #[error("the disk of the feedback store is full")]
    Full,
    /// Too many writes are waiting.
    #[error("too many writes to the feedback store are waiting; retry in 1 s")]
    Busy,
    /// Stored data cannot be read. Retrying does not help.
    #[error("the feedback store is damaged: {0}")]
    Damaged(String),
    /// The store cannot be reached. Retrying later may help.
    #[error("the feedback store cannot be reached: {0}")]
    Unavailable(String),
    /// Any other failure.
    #[error("the feedback store failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Converts a library's error: [`Full`](Self::Full) if it stems from a full disk.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::FileTooLarge
                )
            {
                return Self::Full;
            }
            cause = error.source();
        }
        Self::Failed(error.to_string())
    }
}

/// Idempotency key of a request, with a digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Key that the client chose.
    pub key: String,
    /// Digest of the request's content.
    pub digest: String,
}

/// Row to insert.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreEntry {
    /// Receipt; ignored if its id exists.
    Receipt(Box<Receipt>),
    /// Entry of the annotation queue; ignored without its receipt.
    Queue(Box<QueueEntry>),
    /// Record, and the idempotency key of its request.
    Feedback(Box<Feedback>, Option<Idempotency>),
}

/// Result of an insert.
#[derive(Debug, Clone, PartialEq)]
pub enum InsertOutcome {
    /// The row was inserted.
    New,
    /// The same request was stored before as this record.
    Before(Box<Feedback>),
    /// Another request has the same idempotency key.
    Conflict,
}

/// Owners whose data a caller may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Owners {
    /// All owners.
    #[default]
    All,
    /// One owner; `""` for data written without keys.
    One(String),
}

impl Owners {
    /// Returns `true` if `owner` is among them.
    pub fn contain(&self, owner: &str) -> bool {
        self.name().is_none_or(|name| name == owner)
    }

    /// Name of the only owner; `None` for all.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One(owner) => Some(owner),
        }
    }
}

/// Conditions on records, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// Owners of the records.
    pub owners: Owners,
    /// Kind of judgment.
    pub kind: Option<JudgmentKind>,
    /// Origin of the records.
    pub source: Option<FeedbackSource>,
    /// End user.
    pub user: Option<String>,
    /// Name of the annotator.
    pub annotator: Option<String>,
    /// Completion id.
    pub completion_id: Option<String>,
}

/// Request for a page of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// Conditions on the records.
    pub filter: RecordFilter,
    /// Id of the record before the page, in the page's order; `None` for the first page.
    pub after: Option<String>,
    /// Largest number of records.
    pub limit: u32,
    /// `true` for descending ids.
    pub newest_first: bool,
}

/// Data to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalTarget {
    /// One record, by id.
    Feedback(String, Owners),
    /// All records and receipts of a user.
    User(String, Owners),
    /// Records of an annotator, or their name on them.
    Annotator(AnnotatorTarget),
    /// Receipts created before a Unix time, oldest first; at most so many.
    ReceiptsBefore(u64, u32),
    /// Oldest receipts of an owner, until so many bytes are freed, and at most
    /// [`OLDEST`](sql::OLDEST) of them. Receipts with judged or leased answers go last.
    OldestReceipts(String, u64),
}

/// Annotator to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatorTarget {
    /// Name of the annotator.
    pub name: String,
    /// Owners whose records and items are affected.
    pub owners: Owners,
    /// `true` to remove the records; otherwise they stay without the name.
    pub records: bool,
    /// Largest number of records in one call.
    pub limit: u32,
}

/// Numbers of removed rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RemovalCounts {
    /// Records.
    pub feedback: u64,
    /// Receipts.
    pub receipts: u64,
    /// Records that lost their annotator's name.
    pub unnamed: u64,
}

impl AddAssign for RemovalCounts {
    fn add_assign(&mut self, more: Self) {
        self.feedback += more.feedback;
        self.receipts += more.receipts;
        self.unnamed += more.unnamed;
    }
}

/// Bytes of an owner's receipts and the images that they refer to, each image counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerBytes {
    /// Name of the owner.
    pub owner: String,
    /// Bytes of the receipts and images.
    pub bytes: u64,
}

/// Numbers of stored rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Records by kind of judgment.
    pub feedback: BTreeMap<String, u64>,
    /// Records by origin.
    pub sources: BTreeMap<String, u64>,
    /// Number of receipts.
    pub receipts: u64,
}

/// Future result of a store operation.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Storage of records and receipts. Every method is one transaction, durable when it returns.
pub trait Store: QueueStore + Send + Sync {
    /// Inserts all rows or, on an error, none.
    fn insert<'a>(&'a self, rows: &'a [StoreEntry]) -> StoreFuture<'a, Vec<InsertOutcome>>;

    /// Returns the record with an id.
    fn feedback<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Feedback>>;

    /// Returns the outcome of the earlier request with this key; `None` if there was none.
    fn find_request<'a>(&'a self, key: &'a Idempotency) -> StoreFuture<'a, Option<InsertOutcome>>;

    /// Returns the receipt of a completion.
    fn receipt<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Receipt>>;

    /// Returns the newest receipts, at most so many.
    fn receipts(&self, limit: u32) -> StoreFuture<'_, Vec<Receipt>>;

    /// Returns a page of records.
    fn page<'a>(&'a self, page: &'a RecordPage) -> StoreFuture<'a, Vec<Feedback>>;

    /// Removes a target. Images that lose a reference are listed in [`doomed`](Self::doomed).
    fn remove<'a>(&'a self, target: &'a RemovalTarget) -> StoreFuture<'a, RemovalCounts>;

    /// Returns images that lost a reference. They may have others.
    fn doomed(&self, limit: u32) -> StoreFuture<'_, Vec<ImageHash>>;

    /// Returns `true` if a record or a receipt refers to the image.
    fn refers(&self, image: ImageHash) -> StoreFuture<'_, bool>;

    /// Removes an image from the list of [`doomed`](Self::doomed) images.
    fn spare(&self, image: ImageHash) -> StoreFuture<'_, ()>;

    /// Counts the rows of some owners.
    fn stats<'a>(&'a self, owners: &'a Owners) -> StoreFuture<'a, StoreStats>;

    /// Sets the time of receipts from the future to `now`. They were written while the clock was
    /// ahead and would be kept too long.
    fn redate_receipts(&self, now: u64) -> StoreFuture<'_, ()>;

    /// Returns the bytes of receipts by owner.
    fn receipt_bytes(&self) -> StoreFuture<'_, Vec<OwnerBytes>>;

    /// Overwrites traces of removed rows in the store's files, as far as the store can.
    fn scrub(&self) -> StoreFuture<'_, ()>;

    /// Returns the damage that an operation found in the store; `None` if there is none.
    fn damage(&self) -> Option<String>;
}
