//! Annotators' work on the queue: leases, releases, and the figures of their agreement.

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::task::spawn_blocking;

use super::{
    QueueItem,
    ratings::{Agreement, agreement},
};
use crate::feedback::{
    Corrections,
    record::Receipt,
    store::{
        Owners, StoreError,
        queue::{
            AnnotatorId, AnnotatorProgress, ChoiceId, Lease, LeaseRequest, LeaseReturn,
            QueueLength, RatingSample,
        },
    },
};

/// Newest records of each sample that figures are computed from.
const SAMPLE: u32 = 5000;

/// Answers without an image that are skipped before the queue is reported as empty.
const GONE: usize = 16;

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
