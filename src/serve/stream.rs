//! Streamed answers: server-sent events in OpenAI's framing.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    http::HeaderName,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::{Stream, StreamMap};
use tracing::Span;

use super::{
    chat::{Begun, How, Whole, best, too_slow},
    error::ApiError,
    feedback::Draft,
    limits::Admission,
    openai::response::{ChatChunk, ChunkChoice, ChunkGuard, ClosedSpans, Delta, Head, Logprobs, Usage, Warning, finish_reason},
    served::Served,
    shadow::Drawn,
};
use crate::{
    engine::{EngineError, Event, EventStream},
    telemetry::{AnswerEnd, AnswerMeter},
};

/// A comment after this long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The response that streams `begun`; the place is held until its end, or until the client leaves, which cancels the answers.
pub(super) fn respond(
    begun: Begun,
    meter: AnswerMeter,
    warnings: Vec<Warning>,
    place: Admission,
    deadline: Instant,
    timeout_s: u64,
) -> Response {
    let Begun { held, head, answers, how, draft, drawn, .. } = begun;
    let mut chunks = Chunks::new(Head { object: "chat.completion.chunk", ..head }, how, meter, answers.len(), draft, drawn);
    chunks.warnings = warnings;
    let events = Events {
        chunks,
        answers: answers.into_iter().map(|candidates| told(candidates, how)).enumerate().collect(),
        deadline: Box::pin(sleep_until(deadline)),
        timeout_s,
        span: Span::current(),
        _held: held,
        _place: place,
    };
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    (unbuffered, Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response()
}

type Told = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// A choice's events. Which of several candidates is the best is known when all are complete; then it is told as a whole.
fn told(mut candidates: Vec<EventStream>, how: How) -> Told {
    if candidates.len() == 1
        && let Some(only) = candidates.pop()
    {
        return Box::pin(only);
    }
    let events = async move {
        match best(candidates, how).await {
            Ok(Whole { text, tokens, flagged_tokens, reason, prompt_tokens, completion_tokens, guard, .. }) => {
                let spans = guard.spans.clone();
                let finished = Event::Finished { reason, prompt_tokens, completion_tokens, guard: Some(guard) };
                vec![Event::Delta { text, tokens, spans, flagged_tokens }, finished]
            }
            Err(error) => vec![Event::Failed(error)],
        }
    };
    Box::pin(futures_util::stream::once(events).flat_map(futures_util::stream::iter))
}

/// The events of a response, as the engine brings them forth.
struct Events {
    chunks: Chunks,
    answers: StreamMap<usize, Told>,
    deadline: Pin<Box<Sleep>>,
    timeout_s: u64,
    span: Span,
    /// Whoever writes the answers stays until they are complete.
    _held: Arc<Served>,
    _place: Admission,
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        loop {
            if let Some(event) = this.chunks.pending.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if this.chunks.ended {
                this.answers.clear();
                return Poll::Ready(None);
            }
            if this.deadline.as_mut().poll(cx).is_ready() {
                this.chunks.fail(too_slow(this.timeout_s));
                continue;
            }
            match Pin::new(&mut this.answers).poll_next(cx) {
                Poll::Ready(Some((index, event))) => this.chunks.take(index, event),
                // All channels closed and not all answers complete.
                Poll::Ready(None) => this.chunks.fail_engine(EngineError::ShuttingDown),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// What was said, and what is to be said next.
struct Chunks {
    head: Head,
    how: How,
    meter: AnswerMeter,
    /// The text of each answer so far.
    texts: Vec<String>,
    open: usize,
    usage: Usage,
    /// Until they are said, with the end of the last answer.
    warnings: Vec<Warning>,
    pending: VecDeque<sse::Event>,
    ended: bool,
    draft: Option<Draft>,
    drawn: Option<Drawn>,
}

impl Chunks {
    /// Begins with each answer's role.
    fn new(head: Head, how: How, meter: AnswerMeter, answers: usize, draft: Option<Draft>, drawn: Option<Drawn>) -> Self {
        let texts = vec![String::new(); answers];
        let (usage, warnings, pending) = (Usage::default(), Vec::new(), VecDeque::new());
        let mut chunks = Self { head, how, meter, texts, open: answers, usage, warnings, pending, ended: false, draft, drawn };
        for index in 0..answers {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            chunks.say(ChunkChoice { index, delta, ..ChunkChoice::default() });
        }
        chunks
    }

    fn take(&mut self, index: usize, event: Event) {
        match event {
            Event::Delta { text, tokens, spans, flagged_tokens } => {
                self.meter.count_delta(index, std::time::Instant::now(), &tokens, flagged_tokens, &spans);
                self.texts[index].push_str(&text);
                if let Some(draft) = &mut self.draft {
                    draft.wrote(index, &tokens);
                }
                let guard = (!spans.is_empty()).then_some(ChunkGuard::Closed(ClosedSpans { spans }));
                let logprobs = self.how.logprobs.then(|| Logprobs::of(tokens));
                let delta = Delta { role: None, content: Some(text) };
                self.say(ChunkChoice { index, delta, logprobs, finish_reason: None, guard });
            }
            Event::Finished { reason, prompt_tokens, completion_tokens, guard } => {
                let report = self.how.report(guard, &self.texts[index]);
                let end = AnswerEnd { reason, prompt_tokens, completion_tokens, guard: &report };
                self.meter.count_end(index, std::time::Instant::now(), end);
                if let Some(draft) = &mut self.draft {
                    draft.complete(index, &self.texts[index], &report);
                }
                let guard = Some(ChunkGuard::Summary(report));
                let finish_reason = Some(finish_reason(reason));
                self.open -= 1;
                self.say(ChunkChoice { index, finish_reason, guard, ..ChunkChoice::default() });
                self.usage.add(prompt_tokens, completion_tokens);
                if self.open == 0 {
                    self.end();
                }
            }
            Event::Failed(error) => self.fail_engine(error),
        }
    }

    fn say(&mut self, choice: ChunkChoice) {
        let usage = self.how.include_usage.then_some(None);
        let warnings = if self.open == 0 { std::mem::take(&mut self.warnings) } else { Vec::new() };
        let chunk = ChatChunk { head: self.head.clone(), choices: vec![choice], usage, warnings };
        self.push(sse::Event::default(), &chunk);
    }

    fn end(&mut self) {
        if let Some(draft) = self.draft.take() {
            draft.keep();
        }
        if let Some((drawn, text)) = self.drawn.take().zip(self.texts.first()) {
            drawn.answered(text);
        }
        if self.how.include_usage {
            let chunk = ChatChunk { head: self.head.clone(), choices: Vec::new(), usage: Some(Some(self.usage)), warnings: Vec::new() };
            self.push(sse::Event::default(), &chunk);
        }
        self.pending.push_back(sse::Event::default().data("[DONE]"));
        self.ended = true;
    }

    fn fail_engine(&mut self, error: EngineError) {
        self.meter.count_failure(&error);
        self.fail(error.into());
    }

    /// An error is the last event: a client that waits for `[DONE]` must not take the answer for complete.
    fn fail(&mut self, error: ApiError) {
        tracing::warn!(code = error.reason().code, "a stream ends with an error");
        self.push(sse::Event::default().event("error"), &error.body);
        self.ended = true;
    }

    fn push(&mut self, event: sse::Event, data: &impl Serialize) {
        match event.json_data(data) {
            Ok(event) => self.pending.push_back(event),
            Err(error) => {
                tracing::error!(%error, "a chunk could not be written");
                self.ended = true;
            }
        }
    }
}
