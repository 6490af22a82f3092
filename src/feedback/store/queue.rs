//! The part of the store that keeps the annotation queue: who has which answer until when.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{Owners, StoreFuture};
use crate::feedback::record::Feedback;

/// An answer of a completion; written `COMPLETION.CHOICE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceId {
    /// The completion.
    pub completion_id: String,
    /// Which of its answers.
    pub choice: usize,
}

impl fmt::Display for ChoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.completion_id, self.choice)
    }
}

/// A text that names no [`ChoiceId`].
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

/// An answer that waits for annotators.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueEntry {
    /// The completion; its receipt is there already, which says whose the entry is, and the entry
    /// goes with it.
    pub completion_id: String,
    /// Which of its answers.
    pub choice: usize,
    /// Indicates whether it is one of those drawn by chance, to be shown without marks. They are a
    /// queue of their own.
    pub unassisted: bool,
    /// Indicates whether two annotators are to judge it.
    pub overlap: bool,
    /// Its place in its queue; the highest comes first.
    pub rank: f64,
    /// Digest that it shares with the same answer of other completions:
    /// [`item_digest`](crate::feedback::record::item_digest).
    pub digest: String,
}

/// Somebody who judges: a name within the owner of the key that they work with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotatorId {
    /// The owner.
    pub owner: String,
    /// The name.
    pub name: String,
}

/// Answer that an annotator has for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The answer.
    pub place: ChoiceId,
    /// Indicates whether it is shown without marks.
    pub unassisted: bool,
    /// Indicates whether somebody else judges it too.
    pub overlap: bool,
    /// Unix time after which somebody else may get it.
    pub expires: u64,
}

/// An annotator's wish for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who.
    pub annotator: AnnotatorId,
    /// Whose answers they may see.
    pub owners: Owners,
    /// The Unix time.
    pub now: u64,
    /// Until when the lease is to last.
    pub until: u64,
    /// Which of the two queues is asked first.
    pub unassisted: bool,
}

/// Return of an answer by an annotator who does not judge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseReturn {
    /// For anybody to have, themselves too.
    Release,
    /// For others; where so many have done so, for nobody.
    Skip(u32),
}

/// Numbers of answers in the queue, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueLength {
    /// Waiting, or in work.
    pub open: u64,
    /// Of the open: leased to somebody now. One that two have counts twice.
    pub leased: u64,
    /// Of the open: drawn by chance, to be shown without marks.
    pub unassisted: u64,
    /// Judged by all who had to; the same answer of several completions counts once here and
    /// elsewhere.
    pub done: u64,
    /// Skipped by too many to be shown again.
    pub skipped: u64,
}

/// Progress of an annotator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AnnotatorProgress {
    /// Their records.
    pub total: u64,
    /// Those since midnight, in UTC.
    pub today: u64,
}

/// Which records of judged answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatingSample {
    /// About answers that two annotators got.
    Overlapping,
    /// About answers that were drawn by chance and shown without marks.
    Unassisted,
}

/// Keeps the queue. The same answer of several completions of one owner is one item: whoever has
/// judged one has judged all. Entries come with [`super::StoreEntry::Queue`]; a record that is
/// [`Queued`](crate::feedback::record::Queued) ends its annotator's lease.
pub trait QueueStore {
    /// Leases the next answer: the one that the annotator has already, or the first that they have
    /// neither judged nor skipped and that not enough others have. `None` when there is none.
    fn next<'a>(&'a self, wish: &'a LeaseRequest) -> StoreFuture<'a, Option<Lease>>;

    /// Returns the lease that the annotator was given, also when the time is over and when they
    /// have judged the answer already.
    fn lease<'a>(
        &'a self,
        place: &'a ChoiceId,
        annotator: &'a AnnotatorId,
    ) -> StoreFuture<'a, Option<Lease>>;

    /// Ends a lease. Whether there was one.
    fn leave<'a>(
        &'a self,
        place: &'a ChoiceId,
        annotator: &'a AnnotatorId,
        how: LeaseReturn,
    ) -> StoreFuture<'a, bool>;

    /// Returns the length of these owners' queue at this Unix time.
    fn length<'a>(&'a self, owners: &'a Owners, now: u64) -> StoreFuture<'a, QueueLength>;

    /// Returns how much an annotator has done by this Unix time.
    fn progress<'a>(
        &'a self,
        annotator: &'a AnnotatorId,
        now: u64,
    ) -> StoreFuture<'a, AnnotatorProgress>;

    /// The newest records of a sample.
    fn sample<'a>(
        &'a self,
        sample: RatingSample,
        owners: &'a Owners,
        limit: u32,
    ) -> StoreFuture<'a, Vec<Feedback>>;
}
