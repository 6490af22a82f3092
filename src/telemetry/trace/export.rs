//! Export of spans, on a thread of its own behind a bounded queue.

use std::{
    fmt,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::IntCounter;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

/// Spans that may wait for the collector; further ones are dropped.
const MAX_WAITING: usize = 8192;
/// Most spans of one export.
const BATCH: usize = 512;
/// Longest wait of a span for others to be sent with it.
const GATHER: Duration = Duration::from_secs(1);
/// Interval of attempts to put a flush into a full queue.
const AGAIN: Duration = Duration::from_millis(10);

/// Message to the exporting thread.
enum Message {
    Span(Box<SpanData>),
    /// Export what was queued before, and answer.
    Flush(oneshot::Sender<()>),
}

/// Queue of the spans that wait for export.
pub(super) struct SpanQueue {
    sender: SyncSender<Message>,
    dropped: IntCounter,
}

impl fmt::Debug for SpanQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanQueue")
    }
}

impl SpanQueue {
    /// Starts the exporting thread, which ends with the queue. `dropped` counts spans that are
    /// lost.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(exporter: SpanExporter, dropped: IntCounter) -> std::io::Result<Self> {
        let (sender, messages) = sync_channel(MAX_WAITING);
        let worker = Worker {
            exporter,
            messages,
            dropped: dropped.clone(),
            failing: false,
        };
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self { sender, dropped })
    }

    /// Queues a span; never blocks.
    pub(super) fn push(&self, span: SpanData) {
        if self.sender.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }

    /// Exports what is queued, for at most `patience`.
    pub(super) async fn flush(&self, patience: Duration) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            let mut message = Message::Flush(done);
            while let Err(TrySendError::Full(again)) = self.sender.try_send(message) {
                message = again;
                sleep(AGAIN).await;
            }
            // An error means that the thread has ended.
            let _ = flushed.await;
        };
        if timeout(patience, flush).await.is_err() {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
}

/// State of the exporting thread.
struct Worker {
    exporter: SpanExporter,
    messages: Receiver<Message>,
    dropped: IntCounter,
    /// `true` if the last export failed, so that an outage is logged once.
    failing: bool,
}

impl Worker {
    fn run(mut self) {
        while let Ok(first) = self.messages.recv() {
            let (batch, flushed) = self.gather(first);
            if !batch.is_empty() {
                self.export(batch);
            }
            if let Some(flushed) = flushed {
                // The receiver may have given up.
                let _ = flushed.send(());
            }
        }
    }

    /// Collects a batch that begins with `first`; a flush ends it.
    fn gather(&self, first: Message) -> (Vec<SpanData>, Option<oneshot::Sender<()>>) {
        let until = Instant::now() + GATHER;
        let (mut batch, mut next) = (Vec::new(), Some(first));
        while let Some(message) = next {
            match message {
                Message::Span(span) => batch.push(*span),
                Message::Flush(flushed) => return (batch, Some(flushed)),
            }
            next = Some(until.saturating_duration_since(Instant::now()))
                .filter(|_| batch.len() < BATCH)
                .and_then(|left| self.messages.recv_timeout(left).ok());
        }
        (batch, None)
    }

    fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        // The client blocks this thread, so that the future is complete at once.
        let result = self.exporter.export(batch).now_or_never();
        let failed = !matches!(result, Some(Ok(())));
        if failed {
            self.dropped.inc_by(spans);
        }
        match result {
            Some(Err(error)) if !self.failing => {
                tracing::warn!(%error, "the collector does not take traces, which are lost");
            }
            Some(Ok(())) if self.failing => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        self.failing = failed;
    }
}
