//! Handle to the engine: submit requests, read events, check health, drain.

use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tracing::Span;

use super::{
    EngineError, Event, FinishReason, Request,
    fair::{Pool, PoolError, PoolPermit, Share, SharedPool},
    phases::PhaseRecorder,
    sequence::AdmittedRequest,
};
use crate::{
    guard::{GuardReport, policy, question::Unanswerable},
    reward::TokenReward,
    vlm::{Spec, prompt::Prompt},
};

/// Messages to the engine's thread.
pub(crate) enum Command {
    Submit(Box<AdmittedRequest>),
    /// Finish accepted requests until the deadline. The sender is dropped when none is left.
    Drain(Instant, oneshot::Sender<()>),
}

/// State shared by the engine's thread and its handles.
pub(crate) struct Shared {
    pub(crate) spec: Spec,
    /// Most positions of a sequence.
    pub(crate) context: usize,
    pub(crate) has_scorer: bool,
    /// `true` if the scorer reads texts with a model of its own.
    pub(crate) reads_text: bool,
    pub(crate) slots: usize,
    /// Admission permits, one for each running or waiting request.
    pub(crate) admissions: SharedPool,
    pub(crate) running: AtomicUsize,
    pub(crate) kv_usage: AtomicU64,
    pub(crate) idle: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the end of the last step.
    last_step: AtomicU64,
    /// Moving average of a request's time in the batch, in milliseconds.
    service_time: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        spec: Spec,
        context: usize,
        reward: Option<&dyn TokenReward>,
        slots: usize,
        max_waiting: usize,
    ) -> Self {
        // The reserve admits competitors below their share above the bound, up to one batch.
        let admissions = Pool::new((slots + max_waiting) as u64, slots as u64);
        Self {
            spec,
            context,
            has_scorer: reward.is_some(),
            reads_text: reward.is_some_and(TokenReward::reads_text),
            slots,
            admissions: SharedPool::new(admissions),
            running: AtomicUsize::new(0),
            kv_usage: AtomicU64::new(0),
            idle: AtomicBool::new(true),
            started: Instant::now(),
            last_step: AtomicU64::new(0),
            service_time: AtomicU64::new(0),
        }
    }

    pub(crate) fn record_step(&self) {
        self.last_step
            .store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// Updates the average service time with a request that left the batch after `time`.
    pub(crate) fn record_service_time(&self, time: Duration) {
        let (old, new) = (self.service_time.load(Relaxed), time.as_millis() as u64);
        self.service_time
            .store(if old == 0 { new } else { (7 * old + new) / 8 }, Relaxed);
    }

    fn waiting(&self) -> usize {
        (self.admissions.used() as usize).saturating_sub(self.running.load(Relaxed))
    }

    /// Returns the error for a full queue; the retry time is estimated from the average service
    /// time.
    fn queue_full(&self) -> EngineError {
        let waiting = self.waiting();
        let rounds = (waiting + 1).div_ceil(self.slots) as u64;
        let retry_after_s = (rounds * self.service_time.load(Relaxed))
            .div_ceil(1000)
            .clamp(1, 60);
        EngineError::QueueFull {
            waiting,
            retry_after_s,
        }
    }
}

/// Load of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Sequences in the batch.
    pub running: usize,
    /// Requests admitted and not in the batch yet.
    pub waiting: usize,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: f64,
}

/// Reads the load of an engine without keeping it alive.
pub struct LoadReader(pub(crate) Weak<Shared>);

impl LoadReader {
    /// Returns the load now; `None` once the engine has ended.
    pub fn load(&self) -> Option<Load> {
        let shared = self.0.upgrade()?;
        Some(Load {
            running: shared.running.load(Relaxed),
            waiting: shared.waiting(),
            kv_usage: f64::from_bits(shared.kv_usage.load(Relaxed)),
        })
    }
}

/// State of the engine for health checks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Sequences in the batch.
    pub running: usize,
    /// Requests admitted and not in the batch yet.
    pub waiting: usize,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: f64,
    /// End of the last step; time of the start before the first step.
    pub last_step: Instant,
    /// `true` if nothing runs or waits; the last step may then be long ago.
    pub idle: bool,
    /// `true` if the engine's thread is alive and accepts requests.
    pub accepting: bool,
}

impl Health {
    /// Returns `true` if requests are accepted and the last step of a running batch ended within
    /// `limit`.
    pub fn is_ready(&self, limit: Duration) -> bool {
        self.accepting && (self.idle || self.last_step.elapsed() < limit)
    }
}

/// Cloneable handle to the engine, which stops when the last handle is dropped and nothing runs.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    /// Submits a request. Dropping the stream cancels it.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] or [`EngineError::ShuttingDown`] immediately;
    /// [`EngineError::Invalid`] or [`EngineError::PromptTooLong`] for requests that can never run.
    pub fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        self.reserve(&request.share)?.submit(request)
    }

    /// Reserves admission for a competitor before expensive work on a request (decoding and
    /// encoding its image). Counts as waiting; dropping it releases the reservation.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::ShuttingDown`].
    pub fn reserve(&self, share: &Share) -> Result<Reservation, EngineError> {
        match self.shared.admissions.take(share, 1) {
            Ok(permit) => Ok(Reservation {
                permit,
                handle: self.clone(),
            }),
            Err(PoolError::Full) => Err(self.shared.queue_full()),
            Err(PoolError::Closed) => Err(EngineError::ShuttingDown),
        }
    }

    /// Stops admission and waits until accepted requests are finished or `deadline` has passed;
    /// unfinished requests then fail with [`EngineError::ShuttingDown`].
    pub async fn drain(&self, deadline: Duration) {
        self.shared.admissions.close();
        let (done, drained) = oneshot::channel();
        let until = Instant::now() + deadline;
        if self
            .commands
            .send(Command::Drain(until, done))
            .await
            .is_ok()
        {
            // The engine checks the deadline between steps; the extra second bounds a step that
            // does not end.
            let _ = tokio::time::timeout(deadline + Duration::from_secs(1), drained).await;
        }
    }

    /// Returns a snapshot of the engine's state.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        Health {
            running: shared.running.load(Relaxed),
            waiting: shared.waiting(),
            kv_usage: f64::from_bits(shared.kv_usage.load(Relaxed)),
            last_step: shared.started + Duration::from_millis(shared.last_step.load(Relaxed)),
            idle: shared.idle.load(Relaxed),
            accepting: !self.commands.is_closed() && !shared.admissions.is_closed(),
        }
    }

    /// Returns the most positions of a sequence, image included.
    pub fn context_len(&self) -> usize {
        self.shared.context
    }

    /// Returns `true` if there is a scorer, which guard modes other than `off` need.
    pub fn has_scorer(&self) -> bool {
        self.shared.has_scorer
    }
}

/// Admission of one request that is not submitted yet.
pub struct Reservation {
    permit: PoolPermit,
    handle: EngineHandle,
}

impl Reservation {
    /// Submits the request.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`], without [`EngineError::QueueFull`].
    pub fn submit(self, mut request: Request) -> Result<EventStream, EngineError> {
        let shared = &self.handle.shared;
        let prompt_tokens = request.prompt.tokens.len();
        validate(&request, shared)?;
        let room = shared.context.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(EngineError::PromptTooLong {
                prompt_tokens,
                context_len: shared.context,
            });
        }
        if let Some(reason) = request.unanswerable {
            return Ok(EventStream::from_abstention(
                &request,
                prompt_tokens,
                reason,
            ));
        }
        let budget = request.max_tokens.min(room);
        // At most one delta a token, one at the end, and `Finished`.
        let (events, stream) = mpsc::channel(budget + 2);
        let phases = request
            .observer
            .take()
            .map(|observer| Box::new(PhaseRecorder::new(observer, request.rank, prompt_tokens)));
        let job = AdmittedRequest {
            request,
            prompt_tokens,
            budget,
            events,
            order: 0,
            slot: None,
            _admission: self.permit,
            phases,
            span: Span::current(),
        };
        match self
            .handle
            .commands
            .try_send(Command::Submit(Box::new(job)))
        {
            Ok(()) => Ok(EventStream(stream)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(shared.queue_full()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(EngineError::ShuttingDown),
        }
    }
}

/// Rejects requests that would fail in the batch, and fail others with them.
fn validate(request: &Request, shared: &Shared) -> Result<(), EngineError> {
    let invalid = |why: String| Err(EngineError::Invalid(why));
    match request.guard.mode {
        mode if policy::scores(mode) && !shared.has_scorer => {
            return invalid("the model has no scorer: guard mode must be off".to_owned());
        }
        _ => {}
    }
    if policy::scores(request.guard.mode) && shared.reads_text && request.reader.is_none() {
        return invalid("the scorer needs an image and a prompt of its own".to_owned());
    }
    if request.max_tokens == 0 || request.prompt.tokens.is_empty() {
        return invalid("max_tokens and the prompt must not be empty".to_owned());
    }
    let Prompt { tokens, images } = &*request.prompt;
    let mut at = 0;
    for span in images {
        let rows = request
            .images
            .get(span.image)
            .map_or(0, |image| image.features.dim(0).unwrap_or(0));
        let fits = at <= span.range.start
            && span.range.start < span.range.end
            && span.range.end <= tokens.len()
            && span.range.len() == span.rows.len()
            && span.rows.end <= rows;
        if !fits {
            return invalid(format!(
                "the prompt shows the rows {:?} of image {} at the positions {:?}; the image has \
                 {rows} rows, the prompt {} positions",
                span.rows,
                span.image,
                span.range,
                tokens.len()
            ));
        }
        at = span.range.end;
    }
    let is_text = |position: &usize| !images.iter().any(|span| span.range.contains(position));
    let beyond = (0..tokens.len())
        .filter(is_text)
        .find(|&position| tokens[position] as usize >= shared.spec.vocab_size);
    match beyond {
        None => Ok(()),
        Some(position) => invalid(format!(
            "the prompt has token {}, the vocabulary has {}",
            tokens[position], shared.spec.vocab_size
        )),
    }
}

/// Events of one request. Dropping it cancels the request before the next step.
#[derive(Debug)]
pub struct EventStream(mpsc::Receiver<Event>);

impl EventStream {
    /// Returns the complete stream of an abstention, for which nothing is decoded.
    fn from_abstention(request: &Request, prompt_tokens: usize, reason: Unanswerable) -> Self {
        let guard = Some(GuardReport::abstained(
            request.guard.mode,
            request.guard.thresholds,
            reason,
        ));
        let text = Event::Delta {
            text: reason.wording().to_owned(),
            tokens: Vec::new(),
            spans: Vec::new(),
            flagged_tokens: 0,
        };
        let end = Event::Finished {
            reason: FinishReason::Stop,
            prompt_tokens,
            completion_tokens: 0,
            guard,
        };
        let (events, stream) = mpsc::channel(2);
        // The channel has capacity for both.
        [text, end]
            .into_iter()
            .for_each(|event| drop(events.try_send(event)));
        Self(stream)
    }

    /// Returns the next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// Blocking form of [`Self::next`], for threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.0.blocking_recv()
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(cx)
    }
}
