//! Group commit: a single task writes, and rows that arrive during a transaction share the next
//! one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{InsertOutcome, Store, StoreEntry, StoreError};

/// Rows that may wait; further ones are refused.
const WAITING: usize = 2048;
/// Largest number of rows in a transaction.
const TOGETHER: usize = 256;

type Reply = oneshot::Sender<Result<InsertOutcome, StoreError>>;

/// Handle to the writing task, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct StoreWriter(mpsc::Sender<(StoreEntry, Reply)>);

impl StoreWriter {
    /// Starts the task on the current Tokio runtime.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let (sender, rows) = mpsc::channel(WAITING);
        tokio::spawn(write(store, rows));
        Self(sender)
    }

    /// Inserts a row, durably when it returns.
    ///
    /// # Errors
    /// The store's error; [`StoreError::Busy`] if too many rows wait; [`StoreError::Unavailable`]
    /// if the task has ended.
    pub async fn insert(&self, row: StoreEntry) -> Result<InsertOutcome, StoreError> {
        let stopped = || StoreError::Unavailable("it is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.0.try_send((row, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn write(store: Arc<dyn Store>, mut waiting: mpsc::Receiver<(StoreEntry, Reply)>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
        let (rows, replies): (Vec<StoreEntry>, Vec<Reply>) = batch.drain(..).unzip();
        for (reply, result) in replies.into_iter().zip(insert(&*store, &rows).await) {
            // The sender may have given up waiting.
            let _ = reply.send(result);
        }
    }
}

/// Inserts all rows in one transaction; if a row makes that fail, each in its own.
async fn insert(store: &dyn Store, rows: &[StoreEntry]) -> Vec<Result<InsertOutcome, StoreError>> {
    match store.insert(rows).await {
        Ok(inserted) => inserted.into_iter().map(Ok).collect(),
        Err(StoreError::Failed(_)) if rows.len() > 1 => {
            let mut results = Vec::with_capacity(rows.len());
            for row in rows {
                let one = store.insert(std::slice::from_ref(row)).await;
                results.push(
                    one.map(|mut inserted| inserted.pop().unwrap_or(InsertOutcome::Conflict)),
                );
            }
            results
        }
        Err(error) => rows.iter().map(|_| Err(error.clone())).collect(),
    }
}
