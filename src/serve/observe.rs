//! Around every request: its id, its span in the log, its count in the metrics.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, field::Empty, info_span};
use uuid::Uuid;

use super::app::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The middleware.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (began, id) = (Instant::now(), request_id(request.headers()));
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    let span = info_span!("request", id, method = %request.method(), path = request.uri().path(), completion = Empty, key = Empty);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    app.metrics.http(&route, status);
    let ms = began.elapsed().as_millis() as u64;
    // Probes and scrapes come by the minute and say nothing new.
    let quiet = status < 400 && !route.starts_with("/v1/");
    span.in_scope(|| if quiet { tracing::debug!(status, ms, "answered") } else { tracing::info!(status, ms, "answered") });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The client's own id where it is fit for logs and headers, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    given.filter(sane).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_taken_over() {
        let with = |id: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())]);
        assert_eq!(request_id(&with("trace-1.a:B_2")), "trace-1.a:B_2");
        for id in ["", "a b", "<script>", &"x".repeat(129)] {
            let new = request_id(&with(id));
            assert!(new != id && new.len() == 36, "{new}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
