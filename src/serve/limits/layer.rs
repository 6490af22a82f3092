//! Middleware that enforces request rates and reports them in response headers.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::sleep;

use super::account;
use crate::serve::{app::App, auth, body};

/// Delay of rejections for a client that keeps retrying without waiting.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// Middleware that limits a key's POST requests under `/v1/` before their bodies are read. Runs
/// after authentication.
pub(in crate::serve) async fn limit_rates(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST || !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let account = account(&auth::caller(&app, request.extensions()));
    let mut response = match app.limits.count_request(&account) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            // Lets clients that send the whole body first still read the error.
            body::discard(request.into_body(), app.read_timeout());
            error.into_response()
        }
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS
        && app.limits.is_retrying_too_fast(&account)
    {
        // Clients that retry without waiting are delayed while holding no resources, so that
        // rejecting them costs others little.
        sleep(REFUSAL_DELAY).await;
    }
    app.limits.write_headers(&account, response.headers_mut());
    response
}
