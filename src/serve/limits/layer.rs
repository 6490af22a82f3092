//! The middleware that counts requests and says in the headers of answers what is left.

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

/// How long the refusal of a request takes, where there were too many from the same client.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// The middleware: bounds the requests of a key that make the server work, before their bodies are
/// read. It stands behind the one that knows the keys.
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
            // So that a client that sends its whole body first still reads the error.
            body::discard(request.into_body(), app.read_timeout());
            error.into_response()
        }
    };
    if response.status() == StatusCode::TOO_MANY_REQUESTS && app.limits.is_pressing(&account) {
        // Whoever does not wait before asking again waits here, with nothing held, so that refusing
        // them takes little from others.
        sleep(REFUSAL_DELAY).await;
    }
    app.limits.show(&account, response.headers_mut());
    response
}
