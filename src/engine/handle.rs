//! The engine from outside: handing requests in, reading events, watching and stopping it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;

use super::{
    EngineError, Event, FinishReason, Request,
    fair::{Pool, PoolError, PoolPermit, Share, SharedPool},
    sequence::AdmittedRequest,
};
use crate::{
    guard::{GuardReport, policy, question::Unanswerable},
    vlm::Spec,
};

/// What handles tell the engine's thread.
pub(crate) enum Command {
    Submit(Box<AdmittedRequest>),
    /// Finish what was accepted, until the deadline. The sender is dropped when nothing is left.
    Drain(Instant, oneshot::Sender<()>),
}

/// What the engine's thread and its handles both see.
pub(crate) struct Shared {
    pub(crate) spec: Spec,
    /// Positions that a sequence can have.
    pub(crate) context: usize,
    pub(crate) scores: bool,
    pub(crate) slots: usize,
    /// One for each request that may run or wait.
    pub(crate) places: SharedPool,
    pub(crate) running: AtomicUsize,
    pub(crate) kv_usage: AtomicU64,
    pub(crate) idle: AtomicBool,
    began: Instant,
    /// Milliseconds from `began` to the end of the last step.
    last_step: AtomicU64,
    /// Moving average of a request's time in the batch, in milliseconds.
    service: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        spec: Spec,
        context: usize,
        scores: bool,
        slots: usize,
        max_waiting: usize,
    ) -> Self {
        // As many as run at once may come in above the bound, of competitors that have less than
        // their share.
        let places = Pool::new((slots + max_waiting) as u64, slots as u64);
        Self {
            spec,
            context,
            scores,
            slots,
            places: SharedPool::new(places),
            running: AtomicUsize::new(0),
            kv_usage: AtomicU64::new(0),
            idle: AtomicBool::new(true),
            began: Instant::now(),
            last_step: AtomicU64::new(0),
            service: AtomicU64::new(0),
        }
    }

    pub(crate) fn stepped(&self) {
        self.last_step
            .store(self.began.elapsed().as_millis() as u64, Relaxed);
    }

    /// A request left the batch after `time` in it.
    pub(crate) fn served(&self, time: Duration) {
        let (old, new) = (self.service.load(Relaxed), time.as_millis() as u64);
        self.service
            .store(if old == 0 { new } else { (7 * old + new) / 8 }, Relaxed);
    }

    fn waiting(&self) -> usize {
        (self.places.used() as usize).saturating_sub(self.running.load(Relaxed))
    }

    /// When one of the requests that now wait will have left the queue, going by how long requests
    /// took.
    fn queue_full(&self) -> EngineError {
        let waiting = self.waiting();
        let rounds = (waiting + 1).div_ceil(self.slots) as u64;
        let retry_after_s = (rounds * self.service.load(Relaxed))
            .div_ceil(1000)
            .clamp(1, 60);
        EngineError::QueueFull {
            waiting,
            retry_after_s,
        }
    }
}

/// How the engine is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Sequences in the batch.
    pub running: usize,
    /// Requests that were let in and are not in the batch yet.
    pub waiting: usize,
    /// Share of the key/value cache in use, 0 to 1.
    pub kv_usage: f64,
    /// End of the last step (of the start, before the first).
    pub last_step: Instant,
    /// Indicates whether nothing runs: the last step may then be long ago.
    pub idle: bool,
    /// Indicates whether the engine's thread is there and takes requests.
    pub accepting: bool,
}

impl Health {
    /// Returns `true` if requests are taken and the batch, if there is one, moved within `limit`.
    pub fn is_ready(&self, limit: Duration) -> bool {
        self.accepting && (self.idle || self.last_step.elapsed() < limit)
    }
}

/// Hands requests to the engine. Clones share the engine; it ends when the last is dropped and
/// nothing runs.
#[derive(Clone)]
pub struct EngineHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    /// Hands in a request. Dropping the stream cancels it.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] and [`EngineError::ShuttingDown`] at once;
    /// [`EngineError::Invalid`] and [`EngineError::PromptTooLong`] for requests that could never
    /// run.
    pub fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        self.reserve(&request.share)?.submit(request)
    }

    /// A place in the queue for a competitor, to be had before work is put into a request (its
    /// image decoded and encoded). Counts as waiting; dropping it gives it back.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::ShuttingDown`].
    pub fn reserve(&self, share: &Share) -> Result<Reservation, EngineError> {
        match self.shared.places.take(share, 1) {
            Ok(permit) => Ok(Reservation {
                permit,
                handle: self.clone(),
            }),
            Err(PoolError::Full) => Err(self.shared.queue_full()),
            Err(PoolError::Closed) => Err(EngineError::ShuttingDown),
        }
    }

    /// Takes no more requests, and waits until the accepted ones are finished or `deadline` has
    /// passed; what is left then fails with [`EngineError::ShuttingDown`].
    pub async fn drain(&self, deadline: Duration) {
        self.shared.places.close();
        let (done, drained) = oneshot::channel();
        let until = Instant::now() + deadline;
        if self
            .commands
            .send(Command::Drain(until, done))
            .await
            .is_ok()
        {
            // The engine keeps the deadline itself, between steps; the second is for a step that
            // does not end.
            let _ = tokio::time::timeout(deadline + Duration::from_secs(1), drained).await;
        }
    }

    /// Returns how the engine is doing.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        Health {
            running: shared.running.load(Relaxed),
            waiting: shared.waiting(),
            kv_usage: f64::from_bits(shared.kv_usage.load(Relaxed)),
            last_step: shared.began + Duration::from_millis(shared.last_step.load(Relaxed)),
            idle: shared.idle.load(Relaxed),
            accepting: !self.commands.is_closed() && !shared.places.is_closed(),
        }
    }

    /// Positions that a sequence can have, image included.
    pub fn context_len(&self) -> usize {
        self.shared.context
    }

    /// Returns `true` if modes other than `off` are possible.
    pub fn scores(&self) -> bool {
        self.shared.scores
    }
}

/// A place in the queue.
pub struct Reservation {
    permit: PoolPermit,
    handle: EngineHandle,
}

impl Reservation {
    /// Hands in the request that the place was held for.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`], without [`EngineError::QueueFull`].
    pub fn submit(self, request: Request) -> Result<EventStream, EngineError> {
        let shared = &self.handle.shared;
        let prompt_tokens = shared.spec.image_tokens + request.prompt.len();
        validate(&request, shared)?;
        let room = shared.context.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(EngineError::PromptTooLong {
                prompt_tokens,
                context_len: shared.context,
            });
        }
        if let Some(reason) = request.unanswerable {
            return Ok(EventStream::of_abstention(&request, prompt_tokens, reason));
        }
        let budget = request.max_tokens.min(room);
        // A delta a token at most, one when it ends, and the end itself.
        let (events, stream) = mpsc::channel(budget + 2);
        let job = AdmittedRequest {
            request,
            prompt_tokens,
            budget,
            events,
            order: 0,
            slot: None,
            _place: self.permit,
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

/// Refuses what would fail later, and its neighbours in the batch with it.
fn validate(request: &Request, shared: &Shared) -> Result<(), EngineError> {
    let invalid = |why: String| Err(EngineError::Invalid(why));
    match request.guard.mode {
        mode if policy::scores(mode) && !shared.scores => {
            return invalid("the model has no scorer: guard mode must be off".to_owned());
        }
        _ => {}
    }
    if request.max_tokens == 0 || request.prompt.is_empty() {
        return invalid("max_tokens and the prompt must not be empty".to_owned());
    }
    if let Some(id) = request
        .prompt
        .iter()
        .find(|&&id| id as usize >= shared.spec.vocab_size)
    {
        return invalid(format!(
            "the prompt has token {id}, the vocabulary has {}",
            shared.spec.vocab_size
        ));
    }
    match request.image.dims() {
        [positions, _] if *positions == shared.spec.image_tokens => Ok(()),
        dims => invalid(format!(
            "an encoded image of {dims:?}, the model takes {} positions",
            shared.spec.image_tokens
        )),
    }
}

/// What the engine says about one request. Dropping it cancels the request before the next step.
#[derive(Debug)]
pub struct EventStream(mpsc::Receiver<Event>);

impl EventStream {
    /// Returns what is said about a request for which nothing is written.
    fn of_abstention(request: &Request, prompt_tokens: usize, reason: Unanswerable) -> Self {
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
        // There is room for both.
        [text, end]
            .into_iter()
            .for_each(|event| drop(events.try_send(event)));
        Self(stream)
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// As [`Self::next`], for threads outside an async runtime.
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
