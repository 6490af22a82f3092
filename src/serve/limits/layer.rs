//! The middleware that counts requests and says in the headers of answers what is left.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::account;
use crate::serve::{app::App, auth, body};

/// The middleware: bounds the requests of a key that make the server work, before their bodies are read. It stands behind the one that knows the keys.
pub(in crate::serve) async fn limit_rates(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
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
    app.limits.show(&account, response.headers_mut());
    response
}
