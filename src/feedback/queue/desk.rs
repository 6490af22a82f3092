//! Work of annotators at the queue: they take the next answer, and leave one.

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::task::spawn_blocking;

use super::{QueueItem, ratings::Agreement, ratings::agreement};
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

/// Newest records of each sample that figures are made of.
const SAMPLE: u32 = 5000;
/// Answers whose image is gone that are passed over before somebody is told that there is nothing.
const GONE: usize = 16;

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
