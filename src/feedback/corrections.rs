//! The whole of it: records and receipts in a [`Store`], their images in [`ImageStore`], and what
//! happens to both.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, try_join_all},
};
use tokio::{
    sync::{OwnedSemaphorePermit, RwLock, RwLockReadGuard, Semaphore, mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::{
    derive::{JudgedAnswer, RecordStamp, SubmissionRefusal, abstained, check_name, derive},
    images::ImageStore,
    pending::{PendingReceipt, PendingReceipts},
    queue::{QueueSettings, Ranker},
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
    vlm::vocabulary::PolicyVocabulary,
    {guard::question::Unanswerable, util::time::unix_seconds},
};

/// Receipts that may wait to be kept, and bytes of their images; of completions beyond that none is
/// kept.
const WAITING: usize = 1024;
const WAITING_KIB: usize = 128 * 1024;
/// Longest wait for a receipt; a store that is slower than that, or cannot be reached, then holds
/// up nobody until it has kept one again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Receipts that are kept at once.
const TOGETHER: usize = 16;
/// Earlier records that are looked at for what they are about.
const LEARNT: u32 = 20 * PIECE;

/// Why a submission made no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It cannot be made.
    #[error(transparent)]
    Refused(#[from] SubmissionRefusal),
    /// No such completion, or not any more.
    #[error("there is no completion `{0}`, or its receipt has expired")]
    UnknownCompletion(String),
    /// Something else was submitted with the same key.
    #[error("another request was sent with this Idempotency-Key")]
    KeyTaken,
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A record that was made of a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The record.
    pub record: Feedback,
    /// Indicates whether it was made by an earlier request with the same key.
    pub before: bool,
}

/// Who hands in a submission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submitter {
    /// The owner of their key; empty without keys.
    pub owner: String,
    /// Whose completions they may correct.
    pub owners: Owners,
}

/// Records, receipts and images.
pub struct Corrections {
    store: Arc<dyn Store>,
    images: Arc<ImageStore>,
    writer: StoreWriter,
    vocabularies: Mutex<Vocabularies>,
    pending: Arc<PendingReceipts>,
    /// Held while a receipt is being kept, and alone by who removes what may be among them.
    keeping: Arc<RwLock<()>>,
    room: Arc<Semaphore>,
    retention: Arc<Retention>,
    /// Indicates whether the last receipt that somebody waited for took too long.
    slow: Arc<AtomicBool>,
    ranker: Arc<Ranker>,
    /// Until it is closed: the way to the task that keeps receipts, and the task.
    keeper: Mutex<Option<(mpsc::Sender<Waiting>, JoinHandle<()>)>>,
}

/// A receipt's id, its share of the room, and who waits until it is kept.
type Waiting = (String, OwnedSemaphorePermit, oneshot::Sender<()>);

impl Corrections {
    /// Starts the tasks that write, in the runtime that this is called in. `vocabulary` cuts texts
    /// that were written elsewhere.
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
        let keeping = Arc::default();
        let retention = Arc::new(Retention::new(Arc::clone(&store), Arc::clone(&images)));
        let slow = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            pending: Arc::clone(&pending),
            keeping: Arc::clone(&keeping),
            images: Arc::clone(&images),
            writer: writer.clone(),
            ranker: Arc::clone(&ranker),
            retention: Arc::clone(&retention),
            slow: Arc::clone(&slow),
        };
        let keeper = tokio::spawn(keeper.keep(waiting));
        let room = Arc::new(Semaphore::new(WAITING_KIB));
        Self {
            store,
            images,
            writer,
            vocabularies: Mutex::new(Vocabularies::new(vocabulary)),
            pending,
            keeping,
            room,
            retention,
            slow,
            ranker,
            keeper: Mutex::new(Some((sender, keeper))),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// From now on another version of the policy is served, with this vocabulary.
    pub fn serves(&self, version: &str, vocabulary: PolicyVocabulary) {
        self.vocabularies().serves(version, vocabulary);
    }

    fn vocabularies(&self) -> MutexGuard<'_, Vocabularies> {
        self.vocabularies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the settings of the annotation queue.
    pub fn queue(&self) -> &QueueSettings {
        &self.ranker.queue
    }

    /// The images.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// Bounds the bytes of receipts and their images; where there are too many, the oldest go, of
    /// the owners that hold most.
    pub fn limit_receipts(&self, max_bytes: u64) {
        self.retention.set_max_bytes(max_bytes);
    }

    /// Returns how many bytes receipts and their images take, about.
    pub fn receipt_bytes(&self) -> u64 {
        self.retention.kept_bytes()
    }

    /// Remembers a completion, soon; feedback about it can come to this process at once, and to
    /// others on the same store when the result is ready, which takes two seconds at most. `None`
    /// where there is no room for it.
    pub fn remember(&self, receipt: Receipt, image: Arc<[u8]>) -> Option<BoxFuture<'static, ()>> {
        let size = u32::try_from(image.len() / 1024 + 1).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return None;
        };
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, _) = keeper.as_ref()?;
        let id = receipt.id.clone();
        self.pending.insert(receipt, image);
        let (kept, ready) = oneshot::channel();
        let sent = sender.try_send((id, permit, kept));
        if let Err(
            mpsc::error::TrySendError::Full((id, ..)) | mpsc::error::TrySendError::Closed((id, ..)),
        ) = &sent
        {
            self.pending.remove(id);
        }
        sent.ok()?;
        let slow = Arc::clone(&self.slow);
        let wait = async move {
            if !slow.load(Relaxed) && timeout(PATIENCE, ready).await.is_err() {
                slow.store(true, Relaxed);
            }
        };
        Some(wait.boxed())
    }

    /// Makes a record of a submission and keeps it, durably when it returns. `image` is the file of
    /// a submission about an answer of another server.
    ///
    /// The same key of two owners is two.
    ///
    /// # Errors
    /// [`SubmitError`]: what is wrong with the submission, or the store's error.
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
            && let Some(inserted) = self.store.by_key(key).await?
        {
            return submitted(None, inserted);
        }
        // Until the record refers to the image, nobody removes it.
        let (mut subject, _guard) = match &submission.completion_id {
            Some(id) => self.of_completion(id, &submission, by).await?,
            None => self.of_text(&submission, image, by).await?,
        };
        self.queued(&mut subject, submission.annotator.as_deref(), by)
            .await?;
        let vocabulary = self.vocabularies().of(subject.versions.policy.as_deref());
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

    /// Sets the subject's `queued` and `unassisted` if the queue gave the answer to this annotator.
    async fn queued(
        &self,
        subject: &mut JudgedAnswer,
        annotator: Option<&str>,
        by: &Submitter,
    ) -> Result<(), StoreError> {
        let (Some((completion_id, choice)), Some(annotator)) = (&subject.completion, annotator)
        else {
            return Ok(());
        };
        let place = ChoiceId {
            completion_id: completion_id.clone(),
            choice: *choice,
        };
        let annotator = AnnotatorId {
            owner: by.owner.clone(),
            name: annotator.to_owned(),
        };
        if let Some(lease) = self.store.lease(&place, &annotator).await? {
            subject.unassisted = lease.unassisted;
            subject.queued = Some(QueueDetails {
                overlap: lease.overlap,
            });
        }
        Ok(())
    }

    /// Keeps a record as it is, unless there is one of its id; returns whether it is new.
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

    async fn of_completion(
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
        let unknown = || SubmitError::UnknownCompletion(id.chars().take(64).collect());
        let found = self.receipt(id).await?;
        let seen = found.filter(|remembered| by.owners.contain(&remembered.receipt.owner));
        let PendingReceipt { receipt, image } = seen.ok_or_else(unknown)?;
        let subject = JudgedAnswer::of(receipt, choice.unwrap_or(0))?;
        let guard = match &image {
            Some(file) => self.images.put(file, subject.image).await?,
            None => {
                let guard = self.images.keep(subject.image).await;
                // It may have gone while nobody kept it.
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

    async fn of_text(
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
            return Err(abstained("response").into());
        }
        super::derive::check_notes(submission)?;
        let (vocabulary, text) = (self.vocabularies().of(None), response.clone());
        let tokens = spawn_blocking(move || tokenize(&vocabulary, &text))
            .await
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        let tokens = tokens.map_err(|e| SubmissionRefusal::new("response", "invalid_value", e))?;
        let hash = ImageHash::of(&image);
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
                ..Versions::default()
            },
            unassisted: false,
            doubted: None,
            queued: None,
            user: None,
        };
        Ok((subject, guard))
    }

    /// Removes what `target` says, and images that nobody refers to any more.
    ///
    /// # Errors
    /// The store's. What was not done is done by the next [`Self::sweep`].
    pub async fn remove(&self, target: RemovalTarget) -> Result<RemovalCounts, StoreError> {
        if let RemovalTarget::User(user, owners) = &target {
            self.pending.remove_user(user, owners);
        }
        // Receipts that are being kept are there after this, and removed with the others.
        drop(self.keeping.write().await);
        self.retention.remove(&target).await
    }

    /// Removes receipts that were made before this Unix time or take too many bytes, and images
    /// that nobody refers to any more. Returns how many receipts were too old.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, before: u64) -> Result<u64, StoreError> {
        self.retention.expire(before).await
    }

    /// Keeps the receipts that wait, and takes no more.
    pub async fn close(&self) {
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((sender, task)) = keeper {
            drop(sender);
            let _ = task.await;
        }
    }
}

/// Teaches the ranker what the newest records are about, so that it no longer counts as new.
async fn learn(store: Arc<dyn Store>, ranker: Arc<Ranker>) {
    let mut page = RecordPage {
        limit: PIECE,
        newest_first: true,
        ..RecordPage::default()
    };
    for _ in 0..LEARNT / PIECE {
        match store.page(&page).await {
            Ok(records) => {
                records.iter().for_each(|record| ranker.learn(record));
                let Some(last) = records.into_iter().nth(PIECE as usize - 1) else {
                    return;
                };
                page.after = Some(last.id);
            }
            Err(error) => {
                return tracing::warn!(%error, "the queue does not know what earlier corrections \
                                               were about");
            }
        }
    }
}

/// Task that keeps receipts.
struct Keeper {
    pending: Arc<PendingReceipts>,
    keeping: Arc<RwLock<()>>,
    images: Arc<ImageStore>,
    writer: StoreWriter,
    ranker: Arc<Ranker>,
    retention: Arc<Retention>,
    slow: Arc<AtomicBool>,
}

impl Keeper {
    /// Keeps them, some at once, until no more can come.
    async fn keep(self, waiting: mpsc::Receiver<Waiting>) {
        let keep_one = |(id, permit, kept): Waiting| {
            let keeper = &self;
            async move {
                let _room = permit;
                let bytes = keeper.keep_one(&id).await;
                drop(kept);
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        return tracing::error!(completion = id, %error, "a receipt could not be \
                            kept");
                    }
                };
                keeper.slow.store(false, Relaxed);
                if let Err(error) = keeper.retention.count(bytes).await {
                    tracing::warn!(%error, "receipts beyond receipts.max_bytes could not be \
                                            removed");
                }
            }
        };
        ReceiverStream::new(waiting)
            .for_each_concurrent(TOGETHER, keep_one)
            .await;
    }

    /// Returns how many bytes it takes; nothing where it was removed meanwhile.
    async fn keep_one(&self, id: &str) -> Result<u64, StoreError> {
        let _keeping = self.keeping.read().await;
        let written = match self.pending.get(id) {
            Some(PendingReceipt {
                receipt,
                image: Some(file),
            }) => self.write(receipt, &file).await,
            _ => Ok(0),
        };
        self.pending.remove(id);
        written
    }

    /// Returns how many bytes it takes.
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

fn submitted(record: Option<Feedback>, inserted: InsertOutcome) -> Result<Submitted, SubmitError> {
    match (inserted, record) {
        (InsertOutcome::New, Some(record)) => Ok(Submitted {
            record,
            before: false,
        }),
        (InsertOutcome::Before(record), _) => Ok(Submitted {
            record: *record,
            before: true,
        }),
        (InsertOutcome::Conflict | InsertOutcome::New, _) => Err(SubmitError::KeyTaken),
    }
}

/// A name and the time. Names grow with the time, also within a millisecond and while the clock is
/// set back; the time is the clock's.
fn stamp(annotator_owner: String) -> RecordStamp {
    RecordStamp {
        id: format!("fb_{}", Uuid::now_v7().simple()),
        created: unix_seconds(),
        annotator_owner,
    }
}

/// Of what was said: the same whatever the JSON looked like.
fn digest(submission: &Submission, image: Option<&[u8]>) -> String {
    let said = serde_json::to_vec(&Submission {
        image: None,
        ..submission.clone()
    })
    .unwrap_or_default();
    let image = image
        .map(|file| ImageHash::of(file).to_string())
        .unwrap_or_default();
    ImageHash::of(&[said, image.into_bytes()].concat()).to_string()
}
