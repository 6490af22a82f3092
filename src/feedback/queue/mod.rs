//! Annotation queue: picks the answers whose correction would teach most.
//!
//! Every answer enters the queue when its receipt is written: [`priority`] ranks it, by novelty of
//! its concepts among other things, and the store ([`crate::feedback::store::queue`]) leases the
//! first. Two random samples are set aside: unassisted answers, shown without marks, estimate the
//! guard's recall without bias, and overlapping answers, shown to two annotators, measure
//! agreement. [`ratings`] and [`agreement`] (pure) compute the figures of both.

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

/// Newest records of each sample that figures are computed from.
const SAMPLE: u32 = 5000;
/// Answers without an image that are skipped before the queue is reported as empty.
const GONE: usize = 16;

/// Settings of the queue: `[queue]` in the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// `true` if answers enter the queue.
    pub enabled: bool,
    /// Share of the items that are unassisted: drawn at random and shown without marks, 0 to 1.
    pub unassisted_share: f64,
    /// Share of the answers that two annotators judge, 0 to 1.
    pub overlap_share: f64,
    /// Seconds of a lease.
    pub lease_s: u64,
    /// Skips after which an answer is shown to nobody.
    pub max_skips: u32,
    /// Weights of the components of an answer's priority.
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

/// Ranks answers, and learns from feedback which concepts are no longer new.
pub struct Ranker {
    /// Settings of the queue.
    pub queue: QueueSettings,
    novelty: Mutex<Novelty>,
}

impl Ranker {
    /// Ranker to which every concept is new.
    pub fn new(queue: QueueSettings) -> Self {
        Self {
            queue,
            novelty: Mutex::default(),
        }
    }

    /// Counts the concepts of a record.
    pub fn learn(&self, record: &Feedback) {
        self.novelty().learn(record);
    }

    /// Queue entries of a receipt's answers. Empty answers and abstentions have none, since they
    /// claim nothing about the photograph.
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
                priority::priority(answer, &self.queue.weights, |concept| {
                    novelty.bonus(&receipt.owner, concept)
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
    /// Leases the next answer of some owners to an annotator at this Unix time; `None` if there is
    /// none. Until the lease ends, the annotator gets the same answer again.
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
            // Nobody can judge an answer without its image.
            self.store()
                .leave(&lease.answer, annotator, LeaseReturn::Skip(1))
                .await?;
        }
        Ok(None)
    }

    async fn item(&self, lease: &Lease) -> Result<Option<QueueItem>, StoreError> {
        let Some(receipt) = self.store().receipt(&lease.answer.completion_id).await? else {
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
        if lease.answer.choice >= choices.len() {
            return Ok(None);
        }
        let answer = choices.swap_remove(lease.answer.choice);
        let kind = image::guess_format(&file)
            .map_or("application/octet-stream", |format| format.to_mime_type());
        let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(&file));
        Ok(Some(QueueItem::new(lease, created, prompt, answer, url)))
    }

    /// Returns an answer to the queue, for anybody. `true` if the annotator held its lease.
    ///
    /// # Errors
    /// The store's.
    pub async fn release(
        &self,
        answer: &ChoiceId,
        annotator: &AnnotatorId,
    ) -> Result<bool, StoreError> {
        self.store()
            .leave(answer, annotator, LeaseReturn::Release)
            .await
    }

    /// Returns an answer to the queue, for other annotators. `true` if the annotator held its
    /// lease.
    ///
    /// # Errors
    /// The store's.
    pub async fn skip(
        &self,
        answer: &ChoiceId,
        annotator: &AnnotatorId,
    ) -> Result<bool, StoreError> {
        self.store()
            .leave(answer, annotator, LeaseReturn::Skip(self.queue().max_skips))
            .await
    }

    /// Returns the number of waiting and finished items of some owners at this Unix time.
    ///
    /// # Errors
    /// The store's.
    pub async fn queue_length(&self, owners: &Owners, now: u64) -> Result<QueueLength, StoreError> {
        self.store().length(owners, now).await
    }

    /// Returns the number of records of an annotator by this Unix time.
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

    /// Computes the annotators' agreement and the guard's recall from the newest records of some
    /// owners. Annotators are named if `names` is set.
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
