//! Receipts between the end of a completion and their place in the store.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::try_join_all};
use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, mpsc, oneshot},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    images::ImageStore,
    queue::Ranker,
    record::Receipt,
    retention::Retention,
    store::{Owners, StoreEntry, StoreError, writer::StoreWriter},
};
use crate::util::digest::HashedFile;

/// Receipts that are written concurrently.
const CONCURRENT: usize = 16;
/// Pause before a receipt is written again after the store could not be reached.
const RETRY: Duration = Duration::from_secs(1);

/// Receipt with its image, if that is in memory.
#[derive(Debug, Clone)]
pub(super) struct PendingReceipt {
    pub(super) receipt: Receipt,
    pub(super) image: Option<Arc<HashedFile>>,
}

/// Receipts that are not in the store yet, by completion id.
#[derive(Default)]
pub(super) struct PendingReceipts(Mutex<HashMap<String, PendingReceipt>>);

impl PendingReceipts {
    pub(super) fn insert(&self, receipt: Receipt, image: Arc<HashedFile>) {
        self.map().insert(
            receipt.id.clone(),
            PendingReceipt {
                receipt,
                image: Some(image),
            },
        );
    }

    pub(super) fn get(&self, id: &str) -> Option<PendingReceipt> {
        self.map().get(id).cloned()
    }

    pub(super) fn remove(&self, id: &str) {
        self.map().remove(id);
    }

    /// Removes the receipts of a user that belong to some owners.
    pub(super) fn remove_user(&self, user: &str, owners: &Owners) {
        let belongs_to_user = |receipt: &Receipt| {
            receipt.user.as_deref() == Some(user) && owners.contain(&receipt.owner)
        };
        self.map()
            .retain(|_, remembered| !belongs_to_user(&remembered.receipt));
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, PendingReceipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Id of a waiting receipt, its share of the memory bound, and the channel that reports it written.
pub(super) type Waiting = (String, OwnedSemaphorePermit, oneshot::Sender<()>);

/// Task that writes receipts to the store.
pub(super) struct ReceiptWriter {
    pub(super) pending: Arc<PendingReceipts>,
    pub(super) writing: Arc<RwLock<()>>,
    pub(super) images: Arc<ImageStore>,
    pub(super) writer: StoreWriter,
    pub(super) ranker: Arc<Ranker>,
    pub(super) retention: Arc<Retention>,
    pub(super) slow: Arc<AtomicBool>,
    /// `true` if the server is stopping: then a store that cannot be reached is not waited for.
    pub(super) closing: Arc<AtomicBool>,
    /// `true` if the store could not be reached since: nothing more is tried.
    pub(super) given_up: AtomicBool,
}

impl ReceiptWriter {
    /// Writes receipts, several at a time, until the channel closes.
    pub(super) async fn run(self, waiting: mpsc::Receiver<Waiting>) {
        let write_one = |(id, permit, written): Waiting| {
            let receipt_writer = &self;
            async move {
                let _room = permit;
                let bytes = receipt_writer.write_until_stored(&id).await;
                drop(written);
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!(completion_id = id, %error, "a receipt was not stored");
                        return;
                    }
                };
                receipt_writer.slow.store(false, Relaxed);
                if let Err(error) = receipt_writer.retention.count_receipt(bytes).await {
                    tracing::warn!(%error, "receipts beyond receipts.max_bytes could not be \
                                            removed");
                }
            }
        };
        ReceiverStream::new(waiting)
            .for_each_concurrent(CONCURRENT, write_one)
            .await;
    }

    /// Writes a receipt, again and again while the store cannot be reached, and returns its bytes.
    /// Receipts that wait are bounded in number and bytes by whoever adds them.
    async fn write_until_stored(&self, id: &str) -> Result<u64, StoreError> {
        let written = loop {
            if self.given_up.load(Relaxed) {
                break Err(StoreError::Unavailable("the server is stopping".to_owned()));
            }
            match self.write_one(id).await {
                Err(StoreError::Unavailable(_)) if !self.closing.load(Relaxed) => {
                    self.slow.store(true, Relaxed);
                    sleep(RETRY).await;
                }
                written => break written,
            }
        };
        if matches!(written, Err(StoreError::Unavailable(_))) {
            self.given_up.store(true, Relaxed);
        }
        self.pending.remove(id);
        written
    }

    /// Writes a receipt and returns its bytes; 0 if it was removed meanwhile.
    async fn write_one(&self, id: &str) -> Result<u64, StoreError> {
        let _lock = self.writing.read().await;
        match self.pending.get(id) {
            Some(PendingReceipt {
                receipt,
                image: Some(file),
            }) => self.write(receipt, &file).await,
            _ => Ok(0),
        }
    }

    /// Writes a receipt with its queue entries and returns its bytes.
    async fn write(&self, receipt: Receipt, file: &[u8]) -> Result<u64, StoreError> {
        let _guard = self.images.put(file, receipt.image).await?;
        let entries = self.ranker.entries(&receipt);
        let bytes = (file.len() + serde_json::to_vec(&receipt).map_or(0, |body| body.len())) as u64;
        self.writer
            .insert(StoreEntry::Receipt(Box::new(receipt)))
            .await?;
        try_join_all(
            entries
                .into_iter()
                .map(|entry| self.writer.insert(StoreEntry::Queue(Box::new(entry)))),
        )
        .await?;
        Ok(bytes)
    }
}
