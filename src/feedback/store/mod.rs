//! Store of records and receipts: durable when an insert returns.
//!
//! [`Store`] is what the rest of the program sees, [`sql`] keeps it in SQLite or PostgreSQL, and
//! [`writer`] gathers what arrives at the same time into one transaction. Images are kept elsewhere
//! ([`super::images`]); the store says which of them nobody refers to any more.

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

/// Why the store did not do what it was asked. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space is left.
    #[error("no space is left where feedback is kept")]
    Full,
    /// More is waiting to be written than may wait.
    #[error("more feedback is waiting to be written than may wait; retry in 1 s")]
    Busy,
    /// Data that it has written cannot be read: trying again does not help.
    #[error("the store of feedback is damaged: {0}")]
    Damaged(String),
    /// The store cannot be reached; trying again later may help.
    #[error("the store of feedback cannot be reached: {0}")]
    Unavailable(String),
    /// Something else.
    #[error("the store of feedback failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// For what libraries report: looks for what the operating system said.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
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

/// A client's name for a request that it may send again, and what the request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The name.
    pub key: String,
    /// A digest of what was said.
    pub digest: String,
}

/// Something to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreEntry {
    /// A receipt; one of the same id is left as it is.
    Receipt(Box<Receipt>),
    /// An answer's place in the annotation queue; none without its receipt.
    Queue(Box<QueueEntry>),
    /// A record.
    Feedback(Box<Feedback>, Option<Idempotency>),
}

/// Outcome of the insertion of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum InsertOutcome {
    /// It is kept.
    New,
    /// The same request was kept before, and made this record.
    Before(Box<Feedback>),
    /// Another request had the same key.
    Conflict,
}

/// The tenants whose receipts, records and items somebody may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Owners {
    /// Every one.
    #[default]
    All,
    /// One alone; `""` has what was made without keys.
    One(String),
}

impl Owners {
    /// Returns whether `owner` is among them.
    pub fn contain(&self, owner: &str) -> bool {
        self.name().is_none_or(|name| name == owner)
    }

    /// Returns the one, where it is not all.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::One(owner) => Some(owner),
        }
    }
}

/// Which records; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// Whose they are.
    pub owners: Owners,
    /// Kind of judgment that they state.
    pub kind: Option<JudgmentKind>,
    /// Origin of the records.
    pub source: Option<FeedbackSource>,
    /// Whom they belong to.
    pub user: Option<String>,
    /// Who judged.
    pub annotator: Option<String>,
    /// Which completion they are about.
    pub completion_id: Option<String>,
}

/// A page of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// Which.
    pub filter: RecordFilter,
    /// Only those after the one with this id, in the order of the page.
    pub after: Option<String>,
    /// Most records.
    pub limit: u32,
    /// Newest first.
    pub newest_first: bool,
}

/// Target of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalTarget {
    /// A record.
    Feedback(String, Owners),
    /// All records and receipts of a user.
    User(String, Owners),
    /// An annotator.
    Annotator(AnnotatorTarget),
    /// At most this many of the receipts that were made before this Unix time, the oldest first.
    ReceiptsBefore(u64, u32),
    /// The oldest of an owner's receipts, until they held so many bytes, and at most
    /// [`OLDEST`](sql::OLDEST) of them. Those that somebody judges or has judged go when there are
    /// no others.
    OldestReceipts(String, u64),
}

/// An annotator who is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatorTarget {
    /// Their name.
    pub name: String,
    /// Whose records and items.
    pub owners: Owners,
    /// Indicates whether their records go; else these stay without the name.
    pub records: bool,
    /// Most records at once.
    pub limit: u32,
}

/// Result of a removal, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RemovalCounts {
    /// Records.
    pub feedback: u64,
    /// Receipts.
    pub receipts: u64,
    /// Records that stay without their annotator's name.
    pub unnamed: u64,
}

impl AddAssign for RemovalCounts {
    fn add_assign(&mut self, more: Self) {
        self.feedback += more.feedback;
        self.receipts += more.receipts;
        self.unnamed += more.unnamed;
    }
}

/// Bytes of an owner's receipts with the images that they refer to, each image once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerBytes {
    /// The owner.
    pub owner: String,
    /// The bytes.
    pub bytes: u64,
}

/// Numbers of records and receipts that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Records by what they say.
    pub feedback: BTreeMap<String, u64>,
    /// Records by where they come from.
    pub sources: BTreeMap<String, u64>,
    /// Receipts.
    pub receipts: u64,
}

/// The answer of a store, when it comes.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Keeps records and receipts. Every method is a transaction, and durable when it has returned.
pub trait Store: QueueStore + Send + Sync {
    /// Keeps all rows or, on an error, none.
    fn insert<'a>(&'a self, rows: &'a [StoreEntry]) -> StoreFuture<'a, Vec<InsertOutcome>>;

    /// A record by its id.
    fn feedback<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Feedback>>;

    /// The record that a request with this key made.
    fn by_key<'a>(&'a self, key: &'a Idempotency) -> StoreFuture<'a, Option<InsertOutcome>>;

    /// A receipt by its completion's id.
    fn receipt<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Receipt>>;

    /// The newest receipts, at most so many.
    fn receipts(&self, limit: u32) -> StoreFuture<'_, Vec<Receipt>>;

    /// Some records.
    fn page<'a>(&'a self, page: &'a RecordPage) -> StoreFuture<'a, Vec<Feedback>>;

    /// Removes; images that lose a reference by it are [`doomed`](Self::doomed).
    fn remove<'a>(&'a self, target: &'a RemovalTarget) -> StoreFuture<'a, RemovalCounts>;

    /// Images that lost a reference, and whether they have others.
    fn doomed(&self, limit: u32) -> StoreFuture<'_, Vec<ImageHash>>;

    /// Returns `true` if a record or a receipt refers to the image.
    fn refers(&self, image: ImageHash) -> StoreFuture<'_, bool>;

    /// Takes the image off the list of the doomed.
    fn spare(&self, image: ImageHash) -> StoreFuture<'_, ()>;

    /// Returns the numbers of what is kept of these owners.
    fn stats<'a>(&'a self, owners: &'a Owners) -> StoreFuture<'a, StoreStats>;

    /// Gives receipts that were made after this Unix time, when the clock was ahead, that time:
    /// else they would be kept for longer than others.
    fn redate_receipts(&self, now: u64) -> StoreFuture<'_, ()>;

    /// Returns how many bytes receipts take, by owner.
    fn receipt_bytes(&self) -> StoreFuture<'_, Vec<OwnerBytes>>;

    /// Overwrites what removed rows have left in the store's files, as far as those are the store's
    /// to write.
    fn scrub(&self) -> StoreFuture<'_, ()>;

    /// Returns why the store is not to be relied on, since some answer showed it; `None` while all
    /// is well.
    fn damage(&self) -> Option<String>;
}
