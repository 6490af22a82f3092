//! The annotation queue: which answers people look at next, so that their minutes go where a
//! correction teaches most.
//!
//! Every answer that is remembered gets its place in the queue when its receipt is written:
//! [`priority`] ranks it, [`novelty`] knows which things corrections have been about, and the store
//! ([`crate::feedback::store::queue`]) hands out the first with a lease. Chance has two parts in
//! it: some answers are shown without marks, for an unbiased estimate of the guard's recall, and
//! some are shown to two people, to see how far they agree. From what came of those, [`ratings`]
//! and [`agreement`] (pure) make the figures.

pub mod agreement;
pub mod item;
pub mod priority;
pub mod ratings;

use std::sync::Mutex;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use item::{QueueItem, QueueWord};
pub use priority::PriorityWeights;

use self::{
    priority::{Novelty, draws},
    ratings::{Agreement, agreement},
};
use super::{
    Corrections,
    record::{Feedback, Receipt, item_digest},
    store::{
        Owners, StoreError,
        queue::{
            AnnotatorId, AnnotatorProgress, ChoiceId, Lease, LeaseRequest, LeaseReturn, QueueEntry,
            QueueLength, RatingSample,
        },
    },
};
use crate::guard::Verdict;

/// Newest records of each sample that figures are made of.
const SAMPLE: u32 = 5000;
/// Answers whose image is gone that are passed over before somebody is told that there is nothing.
const GONE: usize = 16;

/// Settings by which the queue is filled and worked on: `[queue]` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Indicates whether answers are put in the queue.
    pub enabled: bool,
    /// Share of the answers shown to annotators that is drawn by chance and shown without marks, 0
    /// to 1.
    pub unassisted_share: f64,
    /// Share of the answers that two annotators get, 0 to 1.
    pub overlap_share: f64,
    /// Seconds that an annotator has for an answer before somebody else may get it.
    pub lease_s: u64,
    /// An answer that this many annotators have skipped is shown to nobody any more.
    pub max_skips: u32,
    /// Weights of the parts of the order.
    pub weights: PriorityWeights,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            unassisted_share: 0.1,
            overlap_share: 0.05,
            lease_s: 600,
            max_skips: 3,
            weights: PriorityWeights::default(),
        }
    }
}

/// Ranks receipts, and learns from feedback what is no longer new.
pub struct Ranker {
    /// The configuration.
    pub queue: QueueSettings,
    novelty: Mutex<Novelty>,
}

impl Ranker {
    /// To which everything is new.
    pub fn new(queue: QueueSettings) -> Self {
        Self {
            queue,
            novelty: Mutex::default(),
        }
    }

    /// Takes note of what a record is about.
    pub fn learn(&self, record: &Feedback) {
        self.novelty().learn(record);
    }

    /// The places of a receipt's answers in the queue; empty answers and abstentions, which say
    /// nothing of the photograph, have none.
    pub fn entries(&self, receipt: &Receipt) -> Vec<QueueEntry> {
        if !self.queue.enabled {
            return Vec::new();
        }
        let novelty = self.novelty();
        let entry = |(choice, answer): (usize, &super::record::RecordedChoice)| {
            let draws = draws(&receipt.id, choice);
            let unassisted = draws.unassisted < self.queue.unassisted_share;
            let rank = if unassisted {
                draws.rank
            } else {
                priority::priority(answer, &self.queue.weights, |thing| {
                    novelty.of(&receipt.owner, thing)
                })
            };
            let digest = item_digest(
                &receipt.owner,
                receipt.image,
                &receipt.prompt,
                &answer.response,
            );
            let overlap = draws.overlap < self.queue.overlap_share;
            QueueEntry {
                completion_id: receipt.id.clone(),
                choice,
                unassisted,
                overlap,
                rank,
                digest,
            }
        };
        let says_something = |answer: &super::record::RecordedChoice| {
            answer.verdict != Verdict::Abstained && !answer.response.trim().is_empty()
        };
        let written = receipt
            .choices
            .iter()
            .enumerate()
            .filter(|(_, answer)| says_something(answer));
        written.map(entry).collect()
    }

    fn novelty(&self) -> std::sync::MutexGuard<'_, Novelty> {
        self.novelty
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Corrections {
    /// The next of some owners' answers for an annotator at this Unix time; `None` when there is
    /// none. They have it until the lease ends, and get the same one until then.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(
        &self,
        annotator: &AnnotatorId,
        owners: &Owners,
        now: u64,
    ) -> Result<Option<QueueItem>, StoreError> {
        let queue = self.queue();
        let unassisted = rand::random::<f64>() < queue.unassisted_share;
        let until = now.saturating_add(queue.lease_s);
        let wish = LeaseRequest {
            annotator: annotator.clone(),
            owners: owners.clone(),
            now,
            until,
            unassisted,
        };
        for _ in 0..GONE {
            let Some(lease) = self.store().next(&wish).await? else {
                return Ok(None);
            };
            if let Some(item) = self.item(&lease).await? {
                return Ok(Some(item));
            }
            // Nobody can judge it.
            self.store()
                .leave(&lease.place, annotator, LeaseReturn::Skip(1))
                .await?;
        }
        Ok(None)
    }

    async fn item(&self, lease: &Lease) -> Result<Option<QueueItem>, StoreError> {
        let Some(receipt) = self.store().receipt(&lease.place.completion_id).await? else {
            return Ok(None);
        };
        let Receipt {
            created,
            image,
            prompt,
            mut choices,
            ..
        } = receipt;
        let Some(file) = self.images().get(image).await? else {
            return Ok(None);
        };
        if lease.place.choice >= choices.len() {
            return Ok(None);
        }
        let answer = choices.swap_remove(lease.place.choice);
        let kind = image::guess_format(&file)
            .map_or("application/octet-stream", |format| format.to_mime_type());
        let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(&file));
        Ok(Some(QueueItem::new(lease, created, prompt, answer, url)))
    }

    /// Gives an answer back for anybody to have. Whether the annotator had it.
    ///
    /// # Errors
    /// The store's.
    pub async fn release(
        &self,
        place: &ChoiceId,
        annotator: &AnnotatorId,
    ) -> Result<bool, StoreError> {
        self.store()
            .leave(place, annotator, LeaseReturn::Release)
            .await
    }

    /// Leaves an answer to others. Whether the annotator had it.
    ///
    /// # Errors
    /// The store's.
    pub async fn skip(
        &self,
        place: &ChoiceId,
        annotator: &AnnotatorId,
    ) -> Result<bool, StoreError> {
        self.store()
            .leave(place, annotator, LeaseReturn::Skip(self.queue().max_skips))
            .await
    }

    /// Returns how much there is to do of some owners' answers at this Unix time.
    ///
    /// # Errors
    /// The store's.
    pub async fn queue_length(&self, owners: &Owners, now: u64) -> Result<QueueLength, StoreError> {
        self.store().length(owners, now).await
    }

    /// Returns how much an annotator has done by this Unix time.
    ///
    /// # Errors
    /// The store's.
    pub async fn annotator_progress(
        &self,
        annotator: &AnnotatorId,
        now: u64,
    ) -> Result<AnnotatorProgress, StoreError> {
        self.store().progress(annotator, now).await
    }

    /// Returns how far annotators agree, and what the guard finds, by the newest records of some
    /// owners. `names` says whether annotators are named.
    ///
    /// # Errors
    /// The store's.
    pub async fn agreement(&self, owners: &Owners, names: bool) -> Result<Agreement, StoreError> {
        let overlapping = self
            .store()
            .sample(RatingSample::Overlapping, owners, SAMPLE)
            .await?;
        let unassisted = self
            .store()
            .sample(RatingSample::Unassisted, owners, SAMPLE)
            .await?;
        let figures = spawn_blocking(move || agreement(&overlapping, &unassisted, names));
        figures.await.map_err(|e| StoreError::Failed(e.to_string()))
    }
}
