//! All routes, as data.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn, from_fn_with_state},
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
    admin,
    app::App,
    auth::{self, authenticate},
    chat, docs,
    error::ApiError,
    feedback,
    hosts::{self, OwnNames},
    info,
    limits::limit_rates,
    observe::observe,
    permission::Permission::{self, Admin, AnyKey, Metrics, OneOf, Open},
    queue, request_url, score, ui,
};
use crate::config::KeyScope;

/// One route.
pub struct Route {
    /// The method; `HEAD` goes with `GET`.
    pub method: &'static str,
    /// The path, as axum writes it.
    pub path: &'static str,
    /// What a request needs.
    pub needs: Permission,
    handler: fn() -> MethodRouter<Arc<App>>,
}

/// The owner's own records; those of any owner with the latter.
const OWN_RECORDS: Permission = OneOf(&[KeyScope::FeedbackWrite, KeyScope::FeedbackRead]);

/// The API. [`super::openapi`] describes each.
pub const ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: "/v1/chat/completions",
        needs: OneOf(&[KeyScope::Complete]),
        handler: || post(chat::completions),
    },
    Route {
        method: "POST",
        path: "/v1/score",
        needs: OneOf(&[KeyScope::Score]),
        handler: || post(score::score),
    },
    Route {
        method: "POST",
        path: "/v1/feedback",
        needs: OneOf(&[KeyScope::FeedbackWrite]),
        handler: || post(feedback::submit),
    },
    Route {
        method: "GET",
        path: "/v1/feedback",
        needs: OWN_RECORDS,
        handler: || get(feedback::list),
    },
    Route {
        method: "DELETE",
        path: "/v1/feedback",
        needs: OWN_RECORDS,
        handler: || delete(feedback::remove_user),
    },
    Route {
        method: "GET",
        path: "/v1/feedback/export",
        needs: OWN_RECORDS,
        handler: || get(feedback::export),
    },
    Route {
        method: "GET",
        path: "/v1/feedback/{id}",
        needs: OWN_RECORDS,
        handler: || get(feedback::one),
    },
    Route {
        method: "DELETE",
        path: "/v1/feedback/{id}",
        needs: OWN_RECORDS,
        handler: || delete(feedback::remove),
    },
    Route {
        method: "GET",
        path: "/v1/queue",
        needs: OneOf(&[KeyScope::Annotate]),
        handler: || get(queue::length),
    },
    Route {
        method: "POST",
        path: "/v1/queue/next",
        needs: OneOf(&[KeyScope::Annotate]),
        handler: || post(queue::next),
    },
    Route {
        method: "POST",
        path: "/v1/queue/{id}/release",
        needs: OneOf(&[KeyScope::Annotate]),
        handler: || post(queue::release),
    },
    Route {
        method: "POST",
        path: "/v1/queue/{id}/skip",
        needs: OneOf(&[KeyScope::Annotate]),
        handler: || post(queue::skip),
    },
    Route {
        method: "GET",
        path: "/v1/agreement",
        needs: OneOf(&[KeyScope::FeedbackRead]),
        handler: || get(queue::agreement),
    },
    Route {
        method: "GET",
        path: "/v1/key",
        needs: AnyKey,
        handler: || get(auth::key),
    },
    Route {
        method: "GET",
        path: "/v1/models",
        needs: AnyKey,
        handler: || get(info::models),
    },
    Route {
        method: "GET",
        path: "/v1/models/{id}",
        needs: AnyKey,
        handler: || get(info::model),
    },
    Route {
        method: "GET",
        path: "/admin/models",
        needs: Admin,
        handler: || get(admin::models),
    },
    Route {
        method: "POST",
        path: "/admin/models/{id}/promote",
        needs: Admin,
        handler: || post(admin::promote),
    },
    Route {
        method: "POST",
        path: "/admin/models/{id}/rollback",
        needs: Admin,
        handler: || post(admin::rollback),
    },
    Route {
        method: "GET",
        path: "/health/live",
        needs: Open,
        handler: || get(info::live),
    },
    Route {
        method: "GET",
        path: "/health/ready",
        needs: Open,
        handler: || get(info::ready),
    },
    Route {
        method: "GET",
        path: "/health",
        needs: Open,
        handler: || get(info::health),
    },
    Route {
        method: "GET",
        path: "/openapi.json",
        needs: Open,
        handler: || get(docs::openapi),
    },
    Route {
        method: "GET",
        path: "/",
        needs: Open,
        handler: || get(ui::page),
    },
    Route {
        method: "GET",
        path: "/docs",
        needs: Open,
        handler: || get(ui::docs),
    },
    Route {
        method: "GET",
        path: "/ui/about.json",
        needs: Open,
        handler: || get(ui::about),
    },
    Route {
        method: "GET",
        path: "/ui/{file}",
        needs: Open,
        handler: || get(ui::asset),
    },
];

/// Beside the API, or on a listener of its own.
pub const METRICS: &[Route] = &[Route {
    method: "GET",
    path: "/metrics",
    needs: Metrics,
    handler: || get(info::metrics),
}];

/// Returns what a request needs: what its route does or, where there is none of this method, what
/// belongs to that part of the API.
pub(super) fn permission(method: &Method, route: Option<&str>, path: &str) -> Permission {
    let method = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    match route.and_then(|route| needs(method, route)) {
        Some(permission) => permission,
        None if path.starts_with("/admin/") => Admin,
        None if path.starts_with("/v1/") => AnyKey,
        None => Open,
    }
}

/// Returns what a request needs by the route of this method and path, if there is one.
pub(super) fn needs(method: &str, path: &str) -> Option<Permission> {
    ROUTES
        .iter()
        .chain(METRICS)
        .find(|route| route.path == path && route.method == method)
        .map(|route| route.needs)
}

/// A router over some of them. What it does not have is answered in OpenAI's shape too.
///
/// `names`: those that requests may call the server by; `None` where nobody comes from outside.
pub(crate) fn router<'a>(
    app: Arc<App>,
    routes: impl Iterator<Item = &'a Route>,
    names: Option<OwnNames>,
) -> Router {
    let known = routes
        .fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
        .fallback(async |method: Method, uri: Uri| {
            ApiError::unknown_route(method.as_str(), uri.path())
        })
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), limit_rates))
        .layer(from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(from_fn(request_url::check))
        .layer(option_layer(
            names.map(|names| from_fn_with_state(names, hosts::check)),
        ))
        .layer(option_layer(cors(&app.config.server.cors_origins)))
        .layer(from_fn(protect))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app);
    // Around the routes, because a layer of theirs comes when one was found.
    Router::new().fallback_service(MapRequestLayer::new(request_url::normalize).layer(known))
}

/// A route that is asked with a method it has not. Its methods are in the header `allow`, which the
/// router adds.
async fn other_method(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        ApiError::method(method.as_str(), uri.path()).into_response()
    }
}

/// The middleware: tells browsers to take a response for what it says it is, to show none in a
/// frame, and to keep nothing of what is somebody's.
async fn protect(request: Request, next: Next) -> Response {
    let is_private = ["/v1/", "/admin/"]
        .iter()
        .any(|prefix| request.uri().path().starts_with(prefix));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Pages have policies of their own.
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(nothing);
    if is_private {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Returns what browsers are told about pages of other origins; `None` where none may ask.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let exact = || {
        origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok())
    };
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(exact())
    };
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
    let what = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = what.unwrap_or("panic"), "a handler panicked");
    ApiError::internal().into_response()
}
