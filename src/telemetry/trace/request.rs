//! The trace of one request, and the spans of its phases.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::http::{HeaderMap, HeaderValue};
use opentelemetry::{
    KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status},
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use super::{EndedSpan, Exported, RequestClock, Traces, context};

/// Trace of one request. Without a collector it holds the caller's span at most, and for a request
/// that is not sampled only its own id: spans then cost nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestTrace {
    /// The request's own span or, without a collector, the caller's.
    context: Option<Arc<SpanContext>>,
    /// `None` if the request is not sampled.
    recorder: Option<Arc<Recorder>>,
}

/// Recorder of a sampled request.
#[derive(Debug)]
pub(super) struct Recorder {
    exported: Arc<Exported>,
    context: SpanContext,
    /// Caller's span.
    parent: SpanId,
    clock: RequestClock,
    /// Attributes of the request's own span.
    attributes: Mutex<Vec<KeyValue>>,
    failure: Mutex<Option<&'static str>>,
}

/// End of a request, for its span.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestEnd<'a> {
    /// Method, or `other`.
    pub(crate) method: &'static str,
    /// Route; `None` if there is none for the path.
    pub(crate) route: Option<&'a str>,
    /// Status of the response; `None` if there was none.
    pub(crate) status: Option<u16>,
    /// Code of the error in the response.
    pub(crate) code: Option<&'static str>,
    /// `true` if the client received the whole response.
    pub(crate) complete: bool,
}

impl RequestTrace {
    /// Begins with a request's headers; without `traces` spans are not exported.
    pub(crate) fn begin(traces: Option<&Traces>, headers: &HeaderMap) -> Self {
        let parent = context::read(headers);
        let Some(traces) = traces else {
            return Self {
                context: parent.map(Arc::new),
                recorder: None,
            };
        };
        let parent_span = parent.as_ref().map(SpanContext::span_id);
        let (context, sampled) = traces.begin(parent);
        let recorder = sampled.then(|| {
            Arc::new(Recorder {
                exported: Arc::clone(&traces.0),
                context: context.clone(),
                parent: parent_span.unwrap_or(SpanId::INVALID),
                clock: RequestClock::start(),
                attributes: Mutex::default(),
                failure: Mutex::default(),
            })
        });
        Self {
            context: Some(Arc::new(context)),
            recorder,
        }
    }

    /// Returns the span that names this request, for the log.
    pub(crate) fn context(&self) -> Option<&SpanContext> {
        self.context.as_deref()
    }

    /// Returns the value of the response's `traceparent`.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.context().and_then(context::header)
    }

    /// Returns the recorder of a sampled request.
    pub(super) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.as_ref()
    }

    /// Sets an attribute of the request's span.
    pub(crate) fn set(&self, key: &'static str, value: impl FnOnce() -> Value) {
        if let Some(recorder) = &self.recorder {
            lock(&recorder.attributes).push(KeyValue::new(key, value()));
        }
    }

    /// Marks the request as failed although its response has a good status: a stream that breaks
    /// off.
    pub(crate) fn fail(&self, code: &'static str) {
        if let Some(recorder) = &self.recorder {
            *lock(&recorder.failure) = Some(code);
        }
    }

    /// Begins the span of a phase, which ends when it is dropped.
    pub(crate) fn phase(&self, name: &'static str) -> PhaseSpan {
        self.phase_of_kind(name, SpanKind::Internal)
    }

    /// Begins the span of a request to another server.
    pub(crate) fn client_phase(&self, name: &'static str) -> PhaseSpan {
        self.phase_of_kind(name, SpanKind::Client)
    }

    fn phase_of_kind(&self, name: &'static str, kind: SpanKind) -> PhaseSpan {
        PhaseSpan(self.recorder.as_ref().map(|recorder| PhaseRecord {
            recorder: Arc::clone(recorder),
            name,
            kind,
            began: Instant::now(),
            attributes: Vec::new(),
            status: Status::Unset,
        }))
    }

    /// Records the span of a phase that has ended.
    pub(crate) fn record(&self, name: &'static str, times: Range<Instant>) {
        if let Some(recorder) = &self.recorder {
            recorder.child(name, times, Vec::new());
        }
    }

    /// Ends the request's own span, by the semantic conventions for HTTP servers. The path and the
    /// client's address are left out: they are the client's.
    pub(crate) fn end(&self, end: RequestEnd<'_>) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let RequestEnd {
            method,
            route,
            status,
            code,
            complete,
        } = end;
        let method = if method == "other" { "_OTHER" } else { method };
        let named = if method == "_OTHER" { "HTTP" } else { method };
        let name = route.map_or_else(|| named.to_owned(), |route| format!("{named} {route}"));
        let mut attributes = std::mem::take(&mut *lock(&recorder.attributes));
        attributes.extend([
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.scheme", "http"),
        ]);
        if let Some(route) = route {
            attributes.push(KeyValue::new("http.route", route.to_owned()));
        }
        if let Some(status) = status {
            attributes.push(KeyValue::new(
                "http.response.status_code",
                i64::from(status),
            ));
        }
        if !complete {
            attributes.push(KeyValue::new("candor.client_left", true));
        }
        let broken = *lock(&recorder.failure);
        let failed = broken.or_else(|| code.filter(|_| status.is_some_and(|s| s >= 500)));
        // A refusal (4xx) is the client's error and not this span's.
        if let Some(code) = broken.or(code) {
            attributes.push(KeyValue::new("candor.error_code", code));
        }
        if let Some(code) = failed {
            attributes.push(KeyValue::new("error.type", code));
        }
        recorder.exported.export(EndedSpan {
            context: recorder.context.clone(),
            parent: recorder.parent,
            is_parent_remote: recorder.parent != SpanId::INVALID,
            kind: SpanKind::Server,
            name: name.into(),
            times: recorder.times(recorder.clock.instant..Instant::now()),
            attributes,
            status: failed.map_or(Status::Unset, Status::error),
        });
    }
}

impl Recorder {
    fn times(&self, times: Range<Instant>) -> (std::time::SystemTime, std::time::SystemTime) {
        (self.clock.time(times.start), self.clock.time(times.end))
    }

    /// Exports a child of the request's span and returns its id.
    fn child(
        &self,
        name: &'static str,
        times: Range<Instant>,
        attributes: Vec<KeyValue>,
    ) -> SpanId {
        let kind = SpanKind::Internal;
        self.descendant(
            self.context.span_id(),
            name,
            kind,
            times,
            attributes,
            Status::Unset,
        )
    }

    /// Exports a child of the span `parent` of this request and returns its id.
    pub(super) fn descendant(
        &self,
        parent: SpanId,
        name: &'static str,
        kind: SpanKind,
        times: Range<Instant>,
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanId {
        let span = RandomIdGenerator::default().new_span_id();
        let own = &self.context;
        self.exported.export(EndedSpan {
            context: SpanContext::new(
                own.trace_id(),
                span,
                own.trace_flags(),
                false,
                own.trace_state().clone(),
            ),
            parent,
            is_parent_remote: false,
            kind,
            name: name.into(),
            times: self.times(times),
            attributes,
            status,
        });
        span
    }

    /// Returns the id of the request's span.
    pub(super) fn span_id(&self) -> SpanId {
        self.context.span_id()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Span of a phase, which ends when it is dropped.
#[derive(Debug)]
#[must_use = "the span ends when it is dropped"]
pub(crate) struct PhaseSpan(Option<PhaseRecord>);

#[derive(Debug)]
struct PhaseRecord {
    recorder: Arc<Recorder>,
    name: &'static str,
    kind: SpanKind,
    began: Instant,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl PhaseSpan {
    /// Sets an attribute.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(phase) = &mut self.0 {
            phase.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Marks the phase as failed.
    pub(crate) fn fail(&mut self, code: &'static str) {
        self.set("error.type", code);
        if let Some(phase) = &mut self.0 {
            phase.status = Status::error(code);
        }
    }
}

impl Drop for PhaseSpan {
    fn drop(&mut self) {
        if let Some(phase) = self.0.take() {
            let PhaseRecord {
                recorder,
                name,
                kind,
                began,
                attributes,
                status,
            } = phase;
            let times = began..Instant::now();
            recorder.descendant(recorder.span_id(), name, kind, times, attributes, status);
        }
    }
}
