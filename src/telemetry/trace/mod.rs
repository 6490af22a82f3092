//! Traces: one span for each request and its phases, sent to an OpenTelemetry collector.
//!
//! A span is built when its phase has ended, with the times of its beginning and end: tokens, steps
//! and lines of the log make none. Without a collector, and for requests that are not sampled, no
//! time is taken and nothing is allocated. Nothing that clients write is in a span, except a
//! well-formed `x-request-id` and `tracestate`.

mod answer;
mod collector;
mod context;
mod export;
mod request;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags},
};
use opentelemetry_sdk::{
    Resource,
    trace::{
        IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData,
        SpanEvents, SpanLinks,
    },
};
use prometheus::IntCounter;

pub use collector::collector_url;
pub(crate) use context::TRACEPARENT;
use export::SpanQueue;
pub(crate) use request::{RequestEnd, RequestTrace};

/// Name of the service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
const SERVICE: &str = "candor";

/// Destination of traces and the share of requests that are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// URL of the collector, or `off`; `None` to take it from the environment.
    pub endpoint: Option<String>,
    /// Share of requests without a `traceparent` that are traced.
    pub sample_ratio: f64,
    /// File with headers for the collector.
    pub headers_file: Option<String>,
    /// PEM file of trusted certificates; `None` for Mozilla's.
    pub ca_file: Option<String>,
}

/// Reason why traces cannot be exported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct TraceSetupError {
    /// Option or environment variable.
    pub key: &'static str,
    /// Explanation.
    pub what: String,
}

impl TraceSetupError {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { key, what }
    }
}

/// Traces of one server.
#[derive(Debug, Clone)]
pub(crate) struct Traces(Arc<Exported>);

/// Parts that all spans share.
#[derive(Debug)]
struct Exported {
    queue: SpanQueue,
    sampler: Sampler,
    scope: InstrumentationScope,
}

impl Traces {
    /// Starts the export; `None` without a collector. `dropped` counts lost spans.
    ///
    /// # Errors
    /// When an option, a file or an environment variable is wrong.
    pub(crate) fn start(
        settings: &TraceSettings,
        dropped: IntCounter,
    ) -> Result<Option<Self>, TraceSetupError> {
        let env = |name: &str| std::env::var(name).ok();
        let Some((url, mut exporter)) = collector::exporter(settings, env)? else {
            return Ok(None);
        };
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource());
        let queue = SpanQueue::start(exporter, dropped).map_err(|error| {
            TraceSetupError::new(
                "tracing.otlp_endpoint",
                format!("no thread for the export: {error}"),
            )
        })?;
        let ratio = settings.sample_ratio;
        tracing::info!(collector = %url, ratio, "traces are exported");
        let scope = InstrumentationScope::builder(SERVICE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Some(Self(Arc::new(Exported {
            queue,
            sampler: Sampler::TraceIdRatioBased(ratio),
            scope,
        }))))
    }

    /// Begins the trace of a request. The flag of its `traceparent` decides whether it is traced,
    /// without one the configured share.
    fn begin(&self, parent: Option<SpanContext>) -> (SpanContext, bool) {
        let ids = RandomIdGenerator::default();
        let trace = parent
            .as_ref()
            .map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
        let sampled = match &parent {
            Some(parent) => parent.is_sampled(),
            None => self.0.samples(trace),
        };
        let flags = TraceFlags::default().with_sampled(sampled);
        let state = parent.map(|parent| parent.trace_state().clone());
        let own = SpanContext::new(
            trace,
            ids.new_span_id(),
            flags,
            false,
            state.unwrap_or_default(),
        );
        (own, sampled)
    }

    /// Exports what is queued, for at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        self.0.queue.flush(patience).await;
    }
}

impl Exported {
    fn samples(&self, trace: opentelemetry::TraceId) -> bool {
        let result = self
            .sampler
            .should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// Queues a span.
    fn export(&self, span: EndedSpan) {
        let EndedSpan {
            context,
            parent,
            is_parent_remote,
            kind,
            name,
            times: (start_time, end_time),
            attributes,
            status,
        } = span;
        self.queue.push(SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: is_parent_remote,
            span_kind: kind,
            name,
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// A span whose end is known.
struct EndedSpan {
    context: SpanContext,
    parent: SpanId,
    is_parent_remote: bool,
    kind: SpanKind,
    name: Cow<'static, str>,
    times: (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
    status: Status,
}

/// Properties of the server that sends spans; the standard variables override and extend them.
fn resource() -> Resource {
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
    ];
    let found = Resource::builder().build();
    let is_given = |key: &str| found.iter().any(|(found, _)| found.as_str() == key);
    let own: Vec<KeyValue> = own
        .into_iter()
        .filter(|own| !is_given(own.key.as_str()))
        .collect();
    let name = found.get(&"service.name".into());
    let is_default = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attributes(own);
    match is_default {
        true => builder.with_service_name(SERVICE).build(),
        false => builder.build(),
    }
}

/// Converts instants of one request to wall-clock times, which cannot jump against each other.
#[derive(Debug, Clone, Copy)]
struct RequestClock {
    instant: Instant,
    time: SystemTime,
}

impl RequestClock {
    fn start() -> Self {
        Self {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }

    fn time(&self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.time + after,
            None => self.time - self.instant.duration_since(instant),
        }
    }
}
