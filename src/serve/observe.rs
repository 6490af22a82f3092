//! Middleware for observability: request id, span of the log, trace, access log and metrics.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tracing::{
    Instrument, Span,
    field::{Empty, display},
    info_span,
};
use uuid::Uuid;

use super::{
    app::{App, blocking},
    audit::AuditEntry,
    caller::Caller,
    error::ErrorReason,
    openapi::known_path,
};
use crate::telemetry::{HttpExchange, RequestEnd, RequestTrace, TRACEPARENT};

/// Label of requests without a route.
const NO_ROUTE: &str = "none";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Id of a request.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Middleware that records a request. Client input (path, query, body) never enters the log: the
/// route is logged instead of the path.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = matched.unwrap_or_else(|| NO_ROUTE.to_owned());
    let method = method_name(request.method());
    // Probes and scrapes would outnumber all other traces.
    let traces = app.traces.as_ref().filter(|_| !is_probe(&route));
    let trace = RequestTrace::begin(traces, request.headers());
    let span = info_span!(
        "request",
        request_id = id,
        method,
        path = route,
        completion_id = Empty,
        key = Empty,
        trace_id = Empty,
        span_id = Empty
    );
    if let Some(context) = trace.context() {
        span.record("trace_id", display(context.trace_id()));
        span.record("span_id", display(context.span_id()));
        trace.set("candor.request_id", || id.clone().into());
    }
    // The body of a HEAD response is removed after this middleware.
    let is_head = request.method() == Method::HEAD;
    let received = Arc::<AtomicU64>::default();
    let exchange = HttpExchange::new(&app.metrics, route, method);
    let mut record = RequestRecord {
        exchange,
        trace: trace.clone(),
        span: span.clone(),
        received: Arc::clone(&received),
        sent: 0,
        status: None,
        reason: None,
        ended: is_head,
    };
    let mut request =
        request.map(|body| Body::new(body.map_frame(move |frame| count_frame(frame, &received))));
    request.extensions_mut().insert(RequestId(id.clone()));
    request.extensions_mut().insert(trace.clone());
    let mut response = next.run(request).instrument(span).await;
    record.record_response(&response);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(parent) = trace.header() {
        response.headers_mut().insert(TRACEPARENT, parent);
    }
    response.map(|body| Body::new(RecordedBody { body, record }))
}

/// Middleware that records requests that administer the server or delete data in the audit log.
pub(super) async fn audit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let is_audited = *method == Method::DELETE || (changes && path.starts_with("/admin/"));
    if app.audit.is_none() || !is_audited {
        return next.run(request).await;
    }
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>();
    let action = format!("{method} {}", route.map_or("none", MatchedPath::as_str));
    let path = path.to_owned();
    let caller = extensions.get::<Caller>();
    let key = caller.and_then(|caller| caller.name.as_deref().map(str::to_owned));
    let request_id = extensions.get::<RequestId>().map(|id| id.0.clone());
    let response = next.run(request).await;
    let entry = AuditEntry::request(action, path, key, response.status(), request_id);
    let writer = Arc::clone(&app);
    // An error means that the server stops; the entry was logged.
    let _ = blocking(move || {
        if let Some(log) = &writer.audit {
            log.write(&entry);
        }
    })
    .await;
    response
}

fn count_frame(frame: Frame<Bytes>, bytes: &AtomicU64) -> Frame<Bytes> {
    bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
    frame
}

/// Record of a request, written on drop: at the end of its response, or when its client
/// disconnects.
struct RequestRecord {
    exchange: HttpExchange,
    trace: RequestTrace,
    span: Span,
    received: Arc<AtomicU64>,
    sent: u64,
    status: Option<u16>,
    reason: Option<ErrorReason>,
    ended: bool,
}

impl RequestRecord {
    fn record_response(&mut self, response: &Response) {
        let status = response.status().as_u16();
        self.exchange.count_status(status);
        self.status = Some(status);
        self.reason = response.extensions().get::<ErrorReason>().cloned();
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let Self {
            exchange,
            trace,
            span,
            received,
            sent,
            status,
            reason,
            ended,
        } = &*self;
        exchange.count_bytes(received.load(Relaxed), *sent);
        trace.end(RequestEnd {
            method: exchange.method(),
            route: Some(exchange.route()).filter(|route| *route != NO_ROUTE),
            status: *status,
            code: reason.as_ref().map(|reason| reason.code),
            complete: *ended && status.is_some(),
        });
        let _entered = span.enter();
        let (ms, bytes, status) = (exchange.elapsed_ms(), *sent, status.unwrap_or_default());
        if let Some(ErrorReason { code, param }) = reason {
            // Other names may be client input.
            let param = param.as_deref().map(known_path);
            tracing::info!(status, code, param, ms, "answered");
        } else if status == 0 || !ended {
            tracing::info!(ms, bytes, "the client left before the end of the answer");
        } else if status < 400 && !exchange.route().starts_with("/v1/") {
            // Frequent probes and scrapes are only logged at debug level.
            tracing::debug!(status, ms, bytes, "answered");
        } else {
            tracing::info!(status, ms, bytes, "answered");
        }
    }
}

/// Response body that updates its record.
struct RecordedBody {
    body: Body,
    record: RequestRecord,
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.record.ended = true,
            Poll::Ready(Some(Ok(frame))) => {
                self.record.sent += frame.data_ref().map_or(0, Bytes::len) as u64
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RecordedBody {
    fn drop(&mut self) {
        // A complete body need not be polled to its end.
        self.record.ended |= self.body.is_end_stream();
    }
}

/// Returns `true` for the routes of health probes and metrics.
fn is_probe(route: &str) -> bool {
    route.starts_with("/health") || route == "/metrics"
}

/// Returns a standard method's name, or `other`: clients may send any method.
fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    KNOWN
        .into_iter()
        .find(|known| method.as_str() == *known)
        .unwrap_or("other")
}

/// Returns the client's request id if it is safe in logs and headers, otherwise a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let is_safe = |id: &&str| {
        (1..=128).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    given
        .filter(is_safe)
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_request_ids_are_kept() {
        let with =
            |id: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())]);
        assert_eq!(request_id(&with("trace-1.a:B_2")), "trace-1.a:B_2");
        for id in ["", "a b", "<script>", &"x".repeat(129)] {
            let new = request_id(&with(id));
            assert!(new != id && new.len() == 36, "{new}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn unknown_methods_are_named_other() {
        assert_eq!(method_name(&Method::DELETE), "DELETE");
        assert_eq!(
            method_name(&Method::from_bytes(b"MY-SECRET").unwrap()),
            "other"
        );
    }
}
