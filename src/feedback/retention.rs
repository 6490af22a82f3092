//! Removal of records and receipts, on request or because they are too old or too many, and of
//! images that lose their last reference.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Mutex;

use super::{
    images::ImageStore,
    store::{AnnotatorTarget, OwnerBytes, RemovalCounts, RemovalTarget, Store, StoreError},
};
use crate::util::time::unix_seconds;

/// Rows removed in a transaction, and images checked in a batch.
pub(super) const PIECE: u32 = 512;

/// Removes data and bounds the bytes of receipts.
pub(super) struct Retention {
    store: Arc<dyn Store>,
    images: Arc<ImageStore>,
    max_bytes: AtomicU64,
    /// Approximate bytes of receipts and their images: the store's total plus what was written
    /// since, counting an image with each of its receipts.
    kept_bytes: AtomicU64,
    trimming: Mutex<()>,
}

impl Retention {
    /// Retention without a bound.
    pub(super) fn new(store: Arc<dyn Store>, images: Arc<ImageStore>) -> Self {
        Self {
            store,
            images,
            max_bytes: AtomicU64::new(u64::MAX),
            kept_bytes: AtomicU64::new(0),
            trimming: Mutex::default(),
        }
    }

    /// Bounds the bytes of receipts and their images.
    pub(super) fn set_max_bytes(&self, bytes: u64) {
        self.max_bytes.store(bytes, Relaxed);
    }

    /// Approximate bytes of receipts and their images.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Relaxed)
    }

    /// Removes a target in batches, images without any reference left, and their traces in the
    /// store's files.
    pub(super) async fn remove(&self, target: &RemovalTarget) -> Result<RemovalCounts, StoreError> {
        let removed = self.remove_rows(target).await?;
        if removed != RemovalCounts::default() {
            self.remove_doomed_images().await?;
        }
        Ok(removed)
    }

    /// Removes receipts created before this Unix time, and finishes interrupted removals. Returns
    /// the number of receipts.
    pub(super) async fn expire(&self, before: u64) -> Result<u64, StoreError> {
        self.store.redate_receipts(unix_seconds()).await?;
        let removed = self
            .remove_rows(&RemovalTarget::ReceiptsBefore(before, PIECE))
            .await?;
        self.remove_doomed_images().await?;
        self.measure().await?;
        self.trim().await?;
        Ok(removed.receipts)
    }

    async fn remove_rows(&self, target: &RemovalTarget) -> Result<RemovalCounts, StoreError> {
        let mut all = RemovalCounts::default();
        loop {
            let removed = self.store.remove(target).await?;
            all += removed;
            let more = match target {
                RemovalTarget::ReceiptsBefore(_, limit) => removed.receipts >= (*limit).into(),
                RemovalTarget::Annotator(AnnotatorTarget { limit, .. }) => {
                    removed.feedback + removed.unnamed >= (*limit).into()
                }
                _ => false,
            };
            if !more {
                return Ok(all);
            }
        }
    }

    async fn remove_doomed_images(&self) -> Result<(), StoreError> {
        loop {
            let doomed = self.store.doomed(PIECE).await?;
            for &image in &doomed {
                let _nobody_refers_meanwhile = self.images.hold(image).await;
                if !self.store.refers(image).await? {
                    self.images.remove(image).await?;
                }
                self.store.spare(image).await?;
            }
            if doomed.len() < PIECE as usize {
                return self.store.scrub().await;
            }
        }
    }

    /// Counts a new receipt with its image, and removes the oldest receipts beyond the bound. The
    /// caller must not hold an image, which may be removed.
    pub(super) async fn count_receipt(&self, bytes: u64) -> Result<(), StoreError> {
        self.kept_bytes.fetch_add(bytes, Relaxed);
        self.trim().await
    }

    async fn measure(&self) -> Result<Vec<OwnerBytes>, StoreError> {
        let held = self.store.receipt_bytes().await?;
        self.kept_bytes.store(total(&held), Relaxed);
        Ok(held)
    }

    /// Removes the oldest receipts of the largest owners if the bytes exceed the bound; 10 % more
    /// than needed, so that it runs seldom.
    async fn trim(&self) -> Result<(), StoreError> {
        let max = self.max_bytes.load(Relaxed);
        if self.kept_bytes() <= max {
            return Ok(());
        }
        let _alone = self.trimming.lock().await;
        if self.kept_bytes() <= max {
            return Ok(());
        }
        let (mut held, mut receipts) = (self.measure().await?, 0);
        // Shared images make the measured total smaller than the count. A total just below the
        // bound is trimmed too: it would be measured again with every receipt.
        if total(&held) > max - max / 20 {
            while let Some((owner, bytes)) = excess(&held, max - max / 10) {
                match self
                    .store
                    .remove(&RemovalTarget::OldestReceipts(owner.to_owned(), bytes))
                    .await?
                    .receipts
                {
                    0 => break,
                    removed => receipts += removed,
                }
                held = self.measure().await?;
            }
        }
        if receipts > 0 {
            tracing::info!(
                receipts,
                "receipts were removed early to stay within receipts.max_bytes"
            );
            self.remove_doomed_images().await?;
        }
        Ok(())
    }
}

fn total(held: &[OwnerBytes]) -> u64 {
    held.iter().map(|owner| owner.bytes).sum()
}

/// Returns the owner to remove receipts of next, and the bytes, on the way to a total of `goal`:
/// the largest owner, down to the size of the second.
fn excess(held: &[OwnerBytes], goal: u64) -> Option<(&str, u64)> {
    let excess = total(held).checked_sub(goal).filter(|&excess| excess > 0)?;
    let most = held.iter().max_by_key(|owner| owner.bytes)?;
    let next = held
        .iter()
        .filter(|owner| owner.owner != most.owner)
        .map(|owner| owner.bytes)
        .max()
        .unwrap_or(0);
    // Owners of equal size take turns.
    Some((
        &most.owner,
        excess.min((most.bytes - next).max(excess / 8).max(1)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(owners: &[(&str, u64)]) -> Vec<OwnerBytes> {
        owners
            .iter()
            .map(|(owner, bytes)| OwnerBytes {
                owner: (*owner).to_owned(),
                bytes: *bytes,
            })
            .collect()
    }

    #[test]
    fn excess_takes_from_largest_owner_first() {
        for (owners, goal, gives) in [
            (&[("a", 100), ("b", 900)][..], 1000, None),
            (&[("a", 100), ("b", 900)], 900, Some(("b", 100))),
            (&[("a", 400), ("b", 900)], 100, Some(("b", 500))),
            (&[("a", 400), ("b", 400)], 0, Some(("b", 100))),
            (&[("a", 800)], 0, Some(("a", 800))),
            (&[("a", 1), ("b", 1)], 1, Some(("b", 1))),
            (&[], 0, None),
        ] {
            assert_eq!(excess(&held(owners), goal), gives, "{owners:?} {goal}");
        }
    }
}
