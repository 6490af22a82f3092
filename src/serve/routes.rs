//! All routes, as data.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use tower::{
    Layer,
    util::{MapRequestLayer, option_layer},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use super::{
    admin, app::App, auth::authenticate, chat, docs, error::ApiError, feedback, info, limits::limit_rates, observe::observe, queue,
    request_url, score, ui,
};

/// One route.
pub struct Route {
    /// The method; `HEAD` goes with `GET`.
    pub method: &'static str,
    /// The path, as axum writes it.
    pub path: &'static str,
    handler: fn() -> MethodRouter<Arc<App>>,
}

/// The API. [`super::openapi`] describes each.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/chat/completions", handler: || post(chat::completions) },
    Route { method: "POST", path: "/v1/score", handler: || post(score::score) },
    Route { method: "POST", path: "/v1/feedback", handler: || post(feedback::submit) },
    Route { method: "GET", path: "/v1/feedback", handler: || get(feedback::list) },
    Route { method: "DELETE", path: "/v1/feedback", handler: || delete(feedback::remove_user) },
    Route { method: "GET", path: "/v1/feedback/export", handler: || get(feedback::export) },
    Route { method: "GET", path: "/v1/feedback/{id}", handler: || get(feedback::one) },
    Route { method: "DELETE", path: "/v1/feedback/{id}", handler: || delete(feedback::remove) },
    Route { method: "GET", path: "/v1/queue", handler: || get(queue::length) },
    Route { method: "POST", path: "/v1/queue/next", handler: || post(queue::next) },
    Route { method: "POST", path: "/v1/queue/{id}/release", handler: || post(queue::release) },
    Route { method: "POST", path: "/v1/queue/{id}/skip", handler: || post(queue::skip) },
    Route { method: "GET", path: "/v1/agreement", handler: || get(queue::agreement) },
    Route { method: "GET", path: "/v1/models", handler: || get(info::models) },
    Route { method: "GET", path: "/v1/models/{id}", handler: || get(info::model) },
    Route { method: "GET", path: "/admin/models", handler: || get(admin::models) },
    Route { method: "POST", path: "/admin/models/{id}/promote", handler: || post(admin::promote) },
    Route { method: "POST", path: "/admin/models/{id}/rollback", handler: || post(admin::rollback) },
    Route { method: "GET", path: "/health/live", handler: || get(info::live) },
    Route { method: "GET", path: "/health/ready", handler: || get(info::ready) },
    Route { method: "GET", path: "/health", handler: || get(info::health) },
    Route { method: "GET", path: "/openapi.json", handler: || get(docs::openapi) },
    Route { method: "GET", path: "/", handler: || get(ui::page) },
    Route { method: "GET", path: "/docs", handler: || get(ui::docs) },
    Route { method: "GET", path: "/ui/about.json", handler: || get(ui::about) },
    Route { method: "GET", path: "/ui/{file}", handler: || get(ui::asset) },
];

/// Beside the API, or alone on a listener of its own.
pub const METRICS: &[Route] = &[Route { method: "GET", path: "/metrics", handler: || get(info::metrics) }];

/// A router over some of them. What it does not have is answered in OpenAI's shape too.
pub(crate) fn router<'a>(app: Arc<App>, routes: impl Iterator<Item = &'a Route>) -> Router {
    let known = routes
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .fallback(async |method: Method, uri: Uri| ApiError::unknown_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), limit_rates))
        .layer(from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(from_fn(request_url::check))
        .layer(option_layer(cors(&app.config.server.cors_origins)))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app);
    // Around the routes, because a layer of theirs comes when one was found.
    Router::new().fallback_service(MapRequestLayer::new(request_url::normalize).layer(known))
}

/// A route that is asked with a method it has not. Its methods are in the header `allow`, which the router adds.
async fn other_method(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        ApiError::method(method.as_str(), uri.path()).into_response()
    }
}

/// What browsers are told about pages of other origins; `None` where none may ask.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let exact = || origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let allowed = if origins.iter().any(|origin| origin == "*") { AllowOrigin::any() } else { AllowOrigin::list(exact()) };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Clients have headers of their own beside authorization, content-type and idempotency-key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_AGE);
    (!origins.is_empty()).then_some(layer)
}

/// Headers of responses that pages of other origins may read.
const EXPOSED: [&str; 13] = [
    "x-request-id",
    "x-candor-verdict",
    "x-candor-score",
    "x-candor-flagged-spans",
    "x-candor-warnings",
    "idempotent-replayed",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// How long a browser need not ask again before a request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = what.unwrap_or("panic"), "a handler panicked");
    ApiError::internal().into_response()
}
