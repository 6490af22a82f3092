//! Streaming completions: server-sent events in OpenAI's format.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    http::HeaderName,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream, StreamMap};
use tracing::Instrument;

use super::{
    app::App,
    chat::{AnswerForm, FinishedAnswer, RunningAnswers, best, too_slow},
    connections::ClientLink,
    error::ApiError,
    openai::response::{
        ChatChunk, ChunkChoice, ChunkGuard, ClosedSpans, CompletionHead, Delta, Logprobs, Usage,
        Warning, finish_reason,
    },
    receipts::ReceiptDraft,
    shadow::ShadowRequest,
};
use crate::{
    engine::{EngineError, Event, EventStream},
    guard::Verdict,
    telemetry::{AnswerEnd, AnswerMeter, RequestTrace},
};

/// Interval of keep-alive comments, so that proxies keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bytes that a client may lag behind before they count against the shared memory.
const FREE_BYTES: usize = 64 * 1024;

/// Returns the streaming response. Decoding does not wait for the client; `held` is dropped when
/// the answers are complete, time out, or the client disconnects, which cancels them.
pub(super) fn respond(
    app: &App,
    running: RunningAnswers,
    meter: AnswerMeter,
    warnings: Vec<Warning>,
    held: impl Send + 'static,
    deadline: Instant,
    client: Option<ClientLink>,
) -> Response {
    let RunningAnswers {
        served,
        head,
        answers,
        form,
        receipt,
        shadow_request,
        trace,
        ..
    } = running;
    let mut chunks = Chunks::new(
        CompletionHead {
            object: "chat.completion.chunk",
            ..head
        },
        form,
        meter,
        answers.len(),
        receipt,
        shadow_request,
    );
    chunks.warnings = warnings;
    chunks.trace = trace;
    let answers = answers
        .into_iter()
        .map(|candidates| choice_events(candidates, form))
        .enumerate()
        .collect();
    let (sender, queue) = mpsc::unbounded_channel();
    let queued_bytes = Arc::<AtomicUsize>::default();
    let outbox = Outbox {
        sender,
        queued_bytes: Arc::clone(&queued_bytes),
        memory: Arc::clone(&app.unread_bytes),
    };
    let timeout_s = app.config.server.request_timeout_s;
    let write = write(chunks, answers, deadline, timeout_s, outbox, (served, held));
    tokio::spawn(write.in_current_span());
    let half_closed = client.map(|client| client.wait_half_closed().boxed());
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    let events = Events {
        queue,
        queued_bytes,
        half_closed,
    };
    (
        unbuffered,
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)),
    )
        .into_response()
}

/// Writes the answers' chunks as the engine generates them, until they end or the client
/// disconnects; holds `held` until then.
async fn write(
    mut chunks: Chunks,
    mut answers: StreamMap<usize, ChoiceEvents>,
    deadline: Instant,
    timeout_s: u64,
    outbox: Outbox,
    held: impl Send + 'static,
) {
    let mut held = Some(held);
    loop {
        if chunks.ended {
            // Before the client sees the end and sends its next request.
            drop(held.take());
        }
        while let Some(event) = chunks.pending.pop_front() {
            if let Err(error) = outbox.queue_event(event) {
                chunks.fail(error);
                if let Some(last) = chunks.pending.pop_back() {
                    outbox.queue_last(last);
                }
                return;
            }
        }
        if chunks.ended {
            return;
        }
        if let Some(stored) = chunks.stored.take() {
            stored.await;
            chunks
                .pending
                .push_back((sse::Event::default().data("[DONE]"), 0));
            chunks.ended = true;
            continue;
        }
        tokio::select! {
            biased;
            () = outbox.sender.closed() => return,
            () = sleep_until(deadline) => chunks.fail(too_slow(timeout_s)),
            next = answers.next() => match next {
                Some((index, event)) => chunks.handle_event(index, event),
                // All channels closed before all answers were complete.
                None => chunks.fail_engine(EngineError::ShuttingDown),
            },
        }
    }
}

/// A queued event, its size and, above the free amount, its share of memory.
struct Waiting {
    event: sse::Event,
    bytes: usize,
    _counted: Option<OwnedSemaphorePermit>,
}

/// Queue of a client's events. It is unbounded in number, but bytes beyond [`FREE_BYTES`] count
/// against memory shared by all clients.
struct Outbox {
    sender: mpsc::UnboundedSender<Waiting>,
    /// Bytes in the queue.
    queued_bytes: Arc<AtomicUsize>,
    memory: Arc<Semaphore>,
}

impl Outbox {
    /// Queues an event.
    ///
    /// # Errors
    /// 503 if the client lags far behind and the shared memory is used up.
    fn queue_event(&self, (event, bytes): (sse::Event, usize)) -> Result<(), ApiError> {
        let memory_permit = if self.queued_bytes.load(Relaxed) + bytes > FREE_BYTES {
            let size = u32::try_from(bytes).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.memory).try_acquire_many_owned(size);
            Some(permit.map_err(|_| {
                ApiError::unavailable("slow_client", "the client reads the stream too slowly")
            })?)
        } else {
            None
        };
        self.send(event, bytes, memory_permit);
        Ok(())
    }

    /// Queues the error that ends a stream, whatever the memory.
    fn queue_last(&self, (event, bytes): (sse::Event, usize)) {
        self.send(event, bytes, None);
    }

    fn send(&self, event: sse::Event, bytes: usize, memory_permit: Option<OwnedSemaphorePermit>) {
        self.queued_bytes.fetch_add(bytes, Relaxed);
        // A disconnect is detected before the next event.
        let _ = self.sender.send(Waiting {
            event,
            bytes,
            _counted: memory_permit,
        });
    }
}

/// Event stream of a response, polled by its connection.
struct Events {
    queue: mpsc::UnboundedReceiver<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
    half_closed: Option<BoxFuture<'static, ()>>,
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(next) = self.queue.poll_recv(cx) {
            return Poll::Ready(next.map(
                |Waiting {
                     event,
                     bytes,
                     _counted,
                 }| {
                    self.queued_bytes.fetch_sub(bytes, Relaxed);
                    Ok(event)
                },
            ));
        }
        if let Some(half_closed) = &mut self.half_closed {
            ready!(half_closed.poll_unpin(cx));
            self.half_closed = None;
            // An empty comment reveals whether the client has disconnected.
            return Poll::Ready(Some(Ok(sse::Event::default().comment(""))));
        }
        Poll::Pending
    }
}

type ChoiceEvents = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Returns a choice's events. The best of several candidates is only known when all are complete;
/// it is then sent as a whole.
fn choice_events(mut candidates: Vec<EventStream>, form: AnswerForm) -> ChoiceEvents {
    if candidates.len() == 1
        && let Some(only) = candidates.pop()
    {
        return Box::pin(only);
    }
    let events = async move {
        match best(candidates, form).await {
            Ok(FinishedAnswer {
                text,
                tokens,
                flagged_tokens,
                reason,
                prompt_tokens,
                completion_tokens,
                guard,
                ..
            }) => {
                let spans = guard.spans.clone();
                let finished = Event::Finished {
                    reason,
                    prompt_tokens,
                    completion_tokens,
                    guard: Some(guard),
                };
                vec![
                    Event::Delta {
                        text,
                        tokens,
                        spans,
                        flagged_tokens,
                    },
                    finished,
                ]
            }
            Err(error) => vec![Event::Failed(error)],
        }
    };
    Box::pin(futures_util::stream::once(events).flat_map(futures_util::stream::iter))
}

/// State of a streamed completion.
struct Chunks {
    head: CompletionHead,
    form: AnswerForm,
    meter: AnswerMeter,
    /// Text of each answer so far.
    texts: Vec<String>,
    open: usize,
    usage: Usage,
    /// Warnings, sent with the end of the last answer.
    warnings: Vec<Warning>,
    /// Queued events with their sizes in bytes.
    pending: VecDeque<(sse::Event, usize)>,
    ended: bool,
    receipt: Option<ReceiptDraft>,
    /// Set after the last chunk: the stream ends once the receipt is stored.
    stored: Option<BoxFuture<'static, ()>>,
    shadow_request: Option<ShadowRequest>,
    trace: RequestTrace,
}

impl Chunks {
    /// Creates the state and queues each choice's role.
    fn new(
        head: CompletionHead,
        form: AnswerForm,
        meter: AnswerMeter,
        answers: usize,
        receipt: Option<ReceiptDraft>,
        shadow_request: Option<ShadowRequest>,
    ) -> Self {
        let texts = vec![String::new(); answers];
        let (usage, warnings, pending) = (Usage::default(), Vec::new(), VecDeque::new());
        let mut chunks = Self {
            head,
            form,
            meter,
            texts,
            open: answers,
            usage,
            warnings,
            pending,
            ended: false,
            receipt,
            stored: None,
            shadow_request,
            trace: RequestTrace::default(),
        };
        for index in 0..answers {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
            };
            chunks.push_choice(ChunkChoice {
                index,
                delta,
                ..ChunkChoice::default()
            });
        }
        chunks
    }

    fn handle_event(&mut self, index: usize, event: Event) {
        match event {
            Event::Delta {
                text,
                tokens,
                spans,
                flagged_tokens,
            } => {
                self.meter.count_delta(
                    index,
                    std::time::Instant::now(),
                    &tokens,
                    flagged_tokens,
                    &spans,
                );
                self.texts[index].push_str(&text);
                if let Some(receipt) = &mut self.receipt {
                    receipt.add_tokens(index, &tokens);
                }
                let guard =
                    (!spans.is_empty()).then_some(ChunkGuard::Closed(ClosedSpans { spans }));
                let logprobs = self.form.logprobs.then(|| Logprobs::from_tokens(tokens));
                let delta = Delta {
                    role: None,
                    content: Some(text),
                };
                self.push_choice(ChunkChoice {
                    index,
                    delta,
                    logprobs,
                    finish_reason: None,
                    guard,
                });
            }
            Event::Finished {
                reason,
                prompt_tokens,
                completion_tokens,
                guard,
            } => {
                let report = self.form.report(guard, &self.texts[index]);
                let end = AnswerEnd {
                    reason,
                    prompt_tokens,
                    completion_tokens,
                    guard: &report,
                };
                self.meter.count_end(index, std::time::Instant::now(), end);
                if let Some(receipt) = &mut self.receipt {
                    receipt.complete(index, &self.texts[index], &report);
                }
                // An abstention is not the policy's text.
                if index == 0 && report.verdict == Verdict::Abstained {
                    self.shadow_request = None;
                }
                let guard = Some(ChunkGuard::Summary(report));
                let finish_reason = Some(finish_reason(reason));
                self.open -= 1;
                self.push_choice(ChunkChoice {
                    index,
                    finish_reason,
                    guard,
                    ..ChunkChoice::default()
                });
                self.usage.add(prompt_tokens, completion_tokens);
                if self.open == 0 {
                    self.end();
                }
            }
            Event::Failed(error) => self.fail_engine(error),
        }
    }

    fn push_choice(&mut self, choice: ChunkChoice) {
        let usage = self.form.include_usage.then_some(None);
        let warnings = if self.open == 0 {
            std::mem::take(&mut self.warnings)
        } else {
            Vec::new()
        };
        let chunk = ChatChunk {
            head: self.head.clone(),
            choices: vec![choice],
            usage,
            warnings,
        };
        self.push(sse::Event::default(), &chunk);
    }

    fn end(&mut self) {
        self.stored = Some(
            self.receipt
                .take()
                .map_or_else(|| async {}.boxed(), ReceiptDraft::store),
        );
        if let Some((shadow_request, text)) = self.shadow_request.take().zip(self.texts.first()) {
            shadow_request.submit_answer(text);
        }
        if self.form.include_usage {
            let chunk = ChatChunk {
                head: self.head.clone(),
                choices: Vec::new(),
                usage: Some(Some(self.usage)),
                warnings: Vec::new(),
            };
            self.push(sse::Event::default(), &chunk);
        }
    }

    fn fail_engine(&mut self, error: EngineError) {
        self.meter.count_failure(&error);
        self.fail(error.into());
    }

    /// Ends the stream with an error instead of `[DONE]`, so that clients do not take the answer
    /// for complete.
    fn fail(&mut self, error: ApiError) {
        let code = error.reason().code;
        tracing::warn!(code, "a stream ends with an error");
        self.trace.fail(code);
        self.push(sse::Event::default().event("error"), &error.body);
        self.ended = true;
    }

    fn push(&mut self, event: sse::Event, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(data) => self.pending.push_back((event.data(&data), data.len())),
            Err(error) => {
                tracing::error!(%error, "a chunk could not be written");
                self.ended = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_output_is_bounded_across_clients() {
        let memory = Arc::new(Semaphore::new(100 * 1024));
        let stream = || {
            let (sender, queue) = mpsc::unbounded_channel();
            let queued_bytes = Arc::<AtomicUsize>::default();
            let events = Events {
                queue,
                queued_bytes: Arc::clone(&queued_bytes),
                half_closed: None,
            };
            (
                Outbox {
                    sender,
                    queued_bytes,
                    memory: Arc::clone(&memory),
                },
                events,
            )
        };
        let fill = |outbox: &Outbox| {
            (0..1000)
                .take_while(|_| outbox.queue_event((sse::Event::default(), 1024)).is_ok())
                .count()
        };
        let ((first, unread), (second, mut read)) = (stream(), stream());
        assert_eq!((fill(&first), fill(&second)), (64 + 100, 64));
        let taken = (0..64)
            .filter(|_| read.next().now_or_never().is_some())
            .count();
        assert_eq!((taken, fill(&second)), (64, 64));
        drop(unread);
        assert_eq!(fill(&second), 100);
    }
}
