//! Entry point of feedback: stores submissions as records and completions as receipts, in a
//! [`Store`], and their images in an [`ImageStore`].

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{RwLock, RwLockReadGuard, Semaphore, mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use uuid::Uuid;

use super::{
    derive::{
        JudgedAnswer, RecordStamp, SubmissionRefusal, abstention_refusal, check_name, derive,
    },
    images::ImageStore,
    queue::{QueueSettings, Ranker},
    receipts::{PendingReceipt, PendingReceipts, ReceiptWriter, Waiting},
    record::{Feedback, ImageHash, QueueDetails, Receipt, Versions},
    retention::{PIECE, Retention},
    store::{
        Idempotency, InsertOutcome, Owners, RecordPage, RemovalCounts, RemovalTarget, Store,
        StoreEntry, StoreError,
        queue::{AnnotatorId, ChoiceId},
        writer::StoreWriter,
    },
    submission::Submission,
    tokens::{Vocabularies, tokenize},
};
use crate::{
    vlm::processor::vocabulary::PolicyVocabulary,
    {
        guard::question::Unanswerable,
        util::{digest::HashedFile, time::unix_seconds},
    },
};

/// Receipts, and KiB of their images, that may wait for the store; completions beyond either leave
/// no receipt.
const WAITING: usize = 1024;
const WAITING_KIB: usize = 128 * 1024;
/// Longest wait of a request for its receipt. After one timeout nobody waits until the store has
/// written a receipt again.
const RECEIPT_WAIT: Duration = Duration::from_secs(2);
/// Newest records whose concepts the queue learns at start-up.
const LEARNED: u32 = 20 * PIECE;

/// Reason why a submission was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The submission is invalid.
    #[error(transparent)]
    Refused(#[from] SubmissionRefusal),
    /// The completion is unknown, or its receipt has expired.
    #[error("there is no completion `{0}`, or its receipt has expired")]
    UnknownCompletion(String),
    /// Another request was sent with the same idempotency key.
    #[error("another request was sent with this Idempotency-Key")]
    KeyTaken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Record that a submission made.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The record.
    pub record: Feedback,
    /// `true` if an earlier request with the same idempotency key made it.
    pub repeated: bool,
}

/// Sender of a submission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submitter {
    /// Owner of the API key; empty without keys.
    pub owner: String,
    /// Owners whose completions may be corrected.
    pub owners: Owners,
}

/// Records, receipts and images, and the tasks that write them.
pub struct Corrections {
    store: Arc<dyn Store>,
    images: Arc<ImageStore>,
    writer: StoreWriter,
    vocabularies: Mutex<Vocabularies>,
    pending: Arc<PendingReceipts>,
    /// Read-locked while a receipt is written; write-locked by a removal, which must see that
    /// receipt.
    writing: Arc<RwLock<()>>,
    room: Arc<Semaphore>,
    retention: Arc<Retention>,
    /// `true` if the last wait for a receipt timed out, or the store could not be reached.
    slow: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    ranker: Arc<Ranker>,
    /// Channel to the task that writes receipts, and the task; `None` once closed.
    receipt_writer: Mutex<Option<(mpsc::Sender<Waiting>, JoinHandle<()>)>>,
}

impl Corrections {
    /// Starts the writing tasks on the current Tokio runtime. `vocabulary` tokenizes texts that
    /// were written elsewhere.
    pub fn start(
        store: Arc<dyn Store>,
        images: ImageStore,
        vocabulary: PolicyVocabulary,
        queue: QueueSettings,
    ) -> Self {
        let ranker = Arc::new(Ranker::new(queue));
        tokio::spawn(learn(Arc::clone(&store), Arc::clone(&ranker)));
        let (writer, images, pending) = (
            StoreWriter::start(Arc::clone(&store)),
            Arc::new(images),
            Arc::new(PendingReceipts::default()),
        );
        let (sender, waiting) = mpsc::channel(WAITING);
        let writing = Arc::default();
        let retention = Arc::new(Retention::new(Arc::clone(&store), Arc::clone(&images)));
        let (slow, closing) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let receipt_writer = ReceiptWriter {
            pending: Arc::clone(&pending),
            writing: Arc::clone(&writing),
            images: Arc::clone(&images),
            writer: writer.clone(),
            ranker: Arc::clone(&ranker),
            retention: Arc::clone(&retention),
            slow: Arc::clone(&slow),
            closing: Arc::clone(&closing),
            given_up: AtomicBool::new(false),
        };
        let receipt_writer = tokio::spawn(receipt_writer.run(waiting));
        let room = Arc::new(Semaphore::new(WAITING_KIB));
        Self {
            store,
            images,
            writer,
            vocabularies: Mutex::new(Vocabularies::new(vocabulary)),
            pending,
            writing,
            room,
            retention,
            slow,
            closing,
            ranker,
            receipt_writer: Mutex::new(Some((sender, receipt_writer))),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Switches to the vocabulary of the policy version that is served from now on.
    pub fn set_served(&self, version: &str, vocabulary: PolicyVocabulary) {
        self.vocabularies().set_served(version, vocabulary);
    }

    fn vocabularies(&self) -> MutexGuard<'_, Vocabularies> {
        self.vocabularies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Settings of the annotation queue.
    pub fn queue(&self) -> &QueueSettings {
        &self.ranker.queue
    }

    /// The images.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// Bounds the bytes of receipts and their images. Beyond it the oldest receipts of the largest
    /// owners are removed.
    pub fn limit_receipts(&self, max_bytes: u64) {
        self.retention.set_max_bytes(max_bytes);
    }

    /// Approximate bytes of receipts and their images.
    pub fn receipt_bytes(&self) -> u64 {
        self.retention.kept_bytes()
    }

    /// Queues the receipt of a completion for writing. Feedback about it is accepted by this
    /// process at once, and by others on the same store when the returned future is ready, after
    /// two seconds at most. `None` if too many receipts are waiting.
    pub fn remember(
        &self,
        receipt: Receipt,
        image: Arc<HashedFile>,
    ) -> Option<BoxFuture<'static, ()>> {
        let size = u32::try_from(image.len() / 1024 + 1).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return None;
        };
        let receipt_writer = self
            .receipt_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (sender, _) = receipt_writer.as_ref()?;
        let id = receipt.id.clone();
        self.pending.insert(receipt, image);
        let (written, ready) = oneshot::channel();
        let sent = sender.try_send((id, permit, written));
        if let Err(
            mpsc::error::TrySendError::Full((id, ..)) | mpsc::error::TrySendError::Closed((id, ..)),
        ) = &sent
        {
            self.pending.remove(id);
        }
        sent.ok()?;
        let slow = Arc::clone(&self.slow);
        let wait = async move {
            if !slow.load(Relaxed) && timeout(RECEIPT_WAIT, ready).await.is_err() {
                slow.store(true, Relaxed);
            }
        };
        Some(wait.boxed())
    }

    /// Stores a submission as a record, durably when it returns. `image` is the file that comes
    /// with a submission about an answer of another server.
    ///
    /// Idempotency keys of different owners are different keys.
    ///
    /// # Errors
    /// [`SubmitError`]: the submission is invalid, or the store failed.
    pub async fn submit(
        &self,
        submission: Submission,
        image: Option<Vec<u8>>,
        key: Option<String>,
        by: &Submitter,
    ) -> Result<Submitted, SubmitError> {
        let owned = |key: String| {
            if by.owner.is_empty() {
                key
            } else {
                format!("{}\n{key}", by.owner)
            }
        };
        let key = key.map(|key| Idempotency {
            digest: digest(&submission, image.as_deref()),
            key: owned(key),
        });
        if let Some(key) = &key
            && let Some(inserted) = self.store.find_request(key).await?
        {
            return submitted(None, inserted);
        }
        // The lock keeps the image from being removed before the record refers to it.
        let (mut subject, _guard) = match &submission.completion_id {
            Some(id) => self.completion_answer(id, &submission, by).await?,
            None => self.submitted_answer(&submission, image, by).await?,
        };
        self.apply_lease(&mut subject, submission.annotator.as_deref(), by)
            .await?;
        let vocabulary = self.vocabularies().get(&subject.versions);
        let stamp = stamp(by.owner.clone());
        let derived = spawn_blocking(move || {
            derive(subject, &submission, stamp, |text, begins| {
                vocabulary.encode(text, begins)
            })
        });
        let record = derived
            .await
            .map_err(|e| StoreError::Failed(e.to_string()))??;
        let inserted = self
            .writer
            .insert(StoreEntry::Feedback(Box::new(record.clone()), key))
            .await?;
        if inserted == InsertOutcome::New {
            self.ranker.learn(&record);
        }
        submitted(Some(record), inserted)
    }

    /// Sets `queued` and `unassisted` if the annotation queue leased the answer to this annotator.
    async fn apply_lease(
        &self,
        subject: &mut JudgedAnswer,
        annotator: Option<&str>,
        by: &Submitter,
    ) -> Result<(), StoreError> {
        let (Some((completion_id, choice)), Some(annotator)) = (&subject.completion, annotator)
        else {
            return Ok(());
        };
        let answer = ChoiceId {
            completion_id: completion_id.clone(),
            choice: *choice,
        };
        let annotator = AnnotatorId {
            owner: by.owner.clone(),
            name: annotator.to_owned(),
        };
        if let Some(lease) = self.store.lease(&answer, &annotator).await? {
            subject.unassisted = lease.unassisted;
            subject.queued = Some(QueueDetails {
                overlap: lease.overlap,
            });
        }
        Ok(())
    }

    /// Stores a record unchanged and returns `true`, or returns `false` if its id exists.
    ///
    /// # Errors
    /// The store's.
    pub async fn keep(&self, record: Feedback, image: &[u8]) -> Result<bool, StoreError> {
        let _guard = self.images.put(image, record.image).await?;
        Ok(self
            .writer
            .insert(StoreEntry::Feedback(Box::new(record), None))
            .await?
            == InsertOutcome::New)
    }

    async fn completion_answer(
        &self,
        id: &str,
        submission: &Submission,
        by: &Submitter,
    ) -> Result<(JudgedAnswer, RwLockReadGuard<'_, ()>), SubmitError> {
        let Submission {
            choice,
            image,
            prompt,
            response,
            model,
            ..
        } = submission;
        let own = [
            ("image", image),
            ("prompt", prompt),
            ("response", response),
            ("model", model),
        ];
        if let Some((field, _)) = own.iter().find(|(_, given)| given.is_some()) {
            return Err(SubmissionRefusal::new(
                *field,
                "invalid_value",
                "cannot be given together with 'completion_id', which says it",
            )
            .into());
        }
        check_name("completion_id", id)?;
        let unknown = || {
            if self.slow.load(Relaxed) {
                // Its receipt may be waiting in another process, as they do in this one.
                let why = "receipts of answers are waiting to be written";
                return SubmitError::Store(StoreError::Unavailable(why.to_owned()));
            }
            SubmitError::UnknownCompletion(id.chars().take(64).collect())
        };
        let found = self.receipt(id).await?;
        let seen = found.filter(|remembered| by.owners.contain(&remembered.receipt.owner));
        let PendingReceipt { receipt, image } = seen.ok_or_else(unknown)?;
        let subject = JudgedAnswer::from_receipt(receipt, choice.unwrap_or(0))?;
        let guard = match &image {
            Some(file) => self.images.put(file, subject.image).await?,
            None => {
                let guard = self.images.keep(subject.image).await;
                // The receipt, and with it the image, may have been removed before the lock was
                // taken.
                self.store.receipt(id).await?.ok_or_else(unknown)?;
                guard
            }
        };
        Ok((subject, guard))
    }

    async fn receipt(&self, id: &str) -> Result<Option<PendingReceipt>, StoreError> {
        match self.pending.get(id) {
            Some(remembered) => Ok(Some(remembered)),
            None => Ok(self.store.receipt(id).await?.map(|receipt| PendingReceipt {
                receipt,
                image: None,
            })),
        }
    }

    async fn submitted_answer(
        &self,
        submission: &Submission,
        image: Option<Vec<u8>>,
        by: &Submitter,
    ) -> Result<(JudgedAnswer, RwLockReadGuard<'_, ()>), SubmitError> {
        let missing = |field| {
            SubmissionRefusal::new(
                field,
                "missing_required_parameter",
                "is missing; without 'completion_id' it is needed",
            )
        };
        if submission.choice.is_some() {
            return Err(SubmissionRefusal::new(
                "choice",
                "invalid_value",
                "goes with 'completion_id'",
            )
            .into());
        }
        let image = image.ok_or_else(|| missing("image"))?;
        let response = submission
            .response
            .clone()
            .ok_or_else(|| missing("response"))?;
        if Unanswerable::is_wording(&response) {
            return Err(abstention_refusal("response").into());
        }
        super::derive::check_notes(submission)?;
        let (vocabulary, text) = (self.vocabularies().served(), response.clone());
        let tokenizer = vocabulary.tokenizer.digest().to_owned();
        let tokens = spawn_blocking(move || tokenize(&vocabulary, &text))
            .await
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        let tokens = tokens.map_err(|e| SubmissionRefusal::new("response", "invalid_value", e))?;
        let hash = ImageHash::digest(&image);
        let guard = self.images.put(&image, hash).await?;
        let subject = JudgedAnswer {
            owner: by.owner.clone(),
            completion: None,
            image: hash,
            prompt: submission.prompt.clone().unwrap_or_default(),
            response,
            tokens,
            versions: Versions {
                model: submission.model.clone(),
                tokenizer: Some(tokenizer),
                ..Versions::default()
            },
            unassisted: false,
            flagged: None,
            queued: None,
            user: None,
        };
        Ok((subject, guard))
    }

    /// Removes a target, and images without any reference left.
    ///
    /// # Errors
    /// The store's. The next [`Self::sweep`] finishes what was left undone.
    pub async fn remove(&self, target: RemovalTarget) -> Result<RemovalCounts, StoreError> {
        if let RemovalTarget::User(user, owners) = &target {
            self.pending.remove_user(user, owners);
        }
        // Waits for receipts that are being written, so that they are removed too.
        drop(self.writing.write().await);
        self.retention.remove(&target).await
    }

    /// Removes receipts created before this Unix time or beyond the byte limit, and images without
    /// any reference left. Returns the number of expired receipts.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, before: u64) -> Result<u64, StoreError> {
        self.retention.expire(before).await
    }

    /// Writes the waiting receipts, once each, and accepts no more.
    pub async fn close(&self) {
        self.closing.store(true, Relaxed);
        let receipt_writer = self
            .receipt_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((sender, task)) = receipt_writer {
            drop(sender);
            let _ = task.await;
        }
    }
}

/// Teaches the ranker the concepts of the newest records, which then no longer count as new.
async fn learn(store: Arc<dyn Store>, ranker: Arc<Ranker>) {
    let mut page = RecordPage {
        limit: PIECE,
        newest_first: true,
        ..RecordPage::default()
    };
    for _ in 0..LEARNED / PIECE {
        match store.page(&page).await {
            Ok(records) => {
                records.iter().for_each(|record| ranker.learn(record));
                let Some(last) = records.into_iter().nth(PIECE as usize - 1) else {
                    return;
                };
                page.after = Some(last.id);
            }
            Err(error) => {
                return tracing::warn!(%error, "the queue could not learn the concepts of earlier \
                                               corrections");
            }
        }
    }
}

fn submitted(record: Option<Feedback>, inserted: InsertOutcome) -> Result<Submitted, SubmitError> {
    match (inserted, record) {
        (InsertOutcome::New, Some(record)) => Ok(Submitted {
            record,
            repeated: false,
        }),
        (InsertOutcome::Before(record), _) => Ok(Submitted {
            record: *record,
            repeated: true,
        }),
        (InsertOutcome::Conflict | InsertOutcome::New, _) => Err(SubmitError::KeyTaken),
    }
}

/// Returns a new record id and the current time. Ids grow even within a millisecond and while the
/// clock is set back.
fn stamp(annotator_owner: String) -> RecordStamp {
    RecordStamp {
        id: format!("fb_{}", Uuid::now_v7().simple()),
        created: unix_seconds(),
        annotator_owner,
    }
}

/// Digest of a submission's content, whatever its JSON looked like.
fn digest(submission: &Submission, image: Option<&[u8]>) -> String {
    let body = serde_json::to_vec(&Submission {
        image: None,
        ..submission.clone()
    })
    .unwrap_or_default();
    let image = image
        .map(|file| ImageHash::digest(file).to_string())
        .unwrap_or_default();
    ImageHash::digest(&[body, image.into_bytes()].concat()).to_string()
}
