//! Interface of the store to the annotation queue: entries, leases and judgments.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{Owners, StoreFuture};
use crate::feedback::record::Feedback;

/// Id of an answer, written `COMPLETION.CHOICE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceId {
    /// Completion id.
    pub completion_id: String,
    /// Index of the answer among the completion's choices.
    pub choice: usize,
}

impl fmt::Display for ChoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.completion_id, self.choice)
    }
}

/// Error of a text that is not a [`ChoiceId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an item of the queue is named COMPLETION.CHOICE")]
pub struct InvalidChoiceId;

impl FromStr for ChoiceId {
    type Err = InvalidChoiceId;

    fn from_str(text: &str) -> Result<Self, InvalidChoiceId> {
        let (completion_id, choice) = text
            .rsplit_once('.')
            .filter(|(id, _)| !id.is_empty())
            .ok_or(InvalidChoiceId)?;
        Ok(Self {
            completion_id: completion_id.to_owned(),
            choice: choice.parse().map_err(|_| InvalidChoiceId)?,
        })
    }
}

/// Answer that waits for annotators.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueEntry {
    /// Completion id. Its receipt must exist; it determines the owner, and its removal removes the
    /// entry.
    pub completion_id: String,
    /// Index of the answer among the completion's choices.
    pub choice: usize,
    /// `true` if the answer was drawn at random to be shown without marks. Such answers are a queue
    /// of their own.
    pub unassisted: bool,
    /// `true` if two annotators are to judge it.
    pub overlap: bool,
    /// Position in its queue; the highest rank comes first.
    pub rank: f64,
    /// Digest shared by equal answers of other completions:
    /// [`item_digest`](crate::feedback::record::item_digest).
    pub digest: String,
}

/// Annotator, unique within the owner of their API key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotatorId {
    /// Owner of the API key.
    pub owner: String,
    /// Name of the annotator.
    pub name: String,
}

/// Temporary assignment of an answer to an annotator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Leased answer.
    pub answer: ChoiceId,
    /// `true` if it is shown without marks.
    pub unassisted: bool,
    /// `true` if a second annotator judges it too.
    pub overlap: bool,
    /// Unix time at which the lease ends.
    pub expires: u64,
}

/// Request for the next answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Annotator who asks.
    pub annotator: AnnotatorId,
    /// Owners whose answers they may see.
    pub owners: Owners,
    /// Current Unix time.
    pub now: u64,
    /// Unix time at which the lease is to end.
    pub until: u64,
    /// `true` to look into the queue of unassisted answers first.
    pub unassisted: bool,
}

/// Return of an answer without a judgment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseReturn {
    /// For anybody, including the annotator.
    Release,
    /// For other annotators; after so many skips for nobody.
    Skip(u32),
}

/// Numbers of items in the queue, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueLength {
    /// Waiting or leased.
    pub open: u64,
    /// Open items with a running lease, counted once for each lease.
    pub leased: u64,
    /// Open items that are shown without marks.
    pub unassisted: u64,
    /// Completely judged. Equal answers of several completions are one item.
    pub done: u64,
    /// Skipped too often to be shown again.
    pub skipped: u64,
}

/// Number of an annotator's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AnnotatorProgress {
    /// All records.
    pub total: u64,
    /// Records since midnight UTC.
    pub today: u64,
}

/// Sample of the judged answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatingSample {
    /// Answers given to two annotators.
    Overlapping,
    /// Answers drawn at random and shown without marks.
    Unassisted,
}

/// Storage of the queue. Equal answers of an owner's completions are one item: a judgment of one
/// counts for all. [`super::StoreEntry::Queue`] adds entries; a record with
/// [`queued`](crate::feedback::record::Feedback::queued) set ends its annotator's lease.
pub trait QueueStore {
    /// Leases the next answer: the one that the annotator has leased already, or the first that
    /// they neither judged nor skipped and that needs another annotator. `None` if there is none.
    fn next<'a>(&'a self, wish: &'a LeaseRequest) -> StoreFuture<'a, Option<Lease>>;

    /// Returns the annotator's lease of an answer, even after it ended or the answer was judged.
    fn lease<'a>(
        &'a self,
        answer: &'a ChoiceId,
        annotator: &'a AnnotatorId,
    ) -> StoreFuture<'a, Option<Lease>>;

    /// Ends a lease. `true` if there was one.
    fn leave<'a>(
        &'a self,
        answer: &'a ChoiceId,
        annotator: &'a AnnotatorId,
        end: LeaseReturn,
    ) -> StoreFuture<'a, bool>;

    /// Counts the items of some owners at this Unix time.
    fn length<'a>(&'a self, owners: &'a Owners, now: u64) -> StoreFuture<'a, QueueLength>;

    /// Counts the records of an annotator by this Unix time.
    fn progress<'a>(
        &'a self,
        annotator: &'a AnnotatorId,
        now: u64,
    ) -> StoreFuture<'a, AnnotatorProgress>;

    /// Returns the newest records of a sample.
    fn sample<'a>(
        &'a self,
        sample: RatingSample,
        owners: &'a Owners,
        limit: u32,
    ) -> StoreFuture<'a, Vec<Feedback>>;
}
