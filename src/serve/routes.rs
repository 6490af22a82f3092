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
    auth::{self, PermissionLookup, authenticate},
    chat, docs,
    error::ApiError,
    feedback,
    hosts::{self, OwnNames},
    info,
    limits::limit_rates,
    observe::{audit, observe},
    permission::Permission::{self, Admin, AnyKey, Metrics, OneOf, Open},
    queue, request_url, score, ui,
};
use crate::config::KeyScope;

/// A route of the API.
pub struct Route {
    /// HTTP method; `GET` includes `HEAD`.
    pub method: &'static str,
    /// Path in axum's notation.
    pub path: &'static str,
    /// Required permission.
    pub needs: Permission,
    handler: fn() -> MethodRouter<Arc<App>>,
}

/// Access to records of the key's owner; `feedback:read` extends it to all owners.
const OWN_RECORDS: Permission = OneOf(&[KeyScope::FeedbackWrite, KeyScope::FeedbackRead]);

/// Routes of the API, described by [`super::openapi`].
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

/// Metrics route, served along with the API or on a listener of its own.
pub const METRICS: &[Route] = &[Route {
    method: "GET",
    path: "/metrics",
    needs: Metrics,
    handler: || get(info::metrics),
}];

/// Returns the permission of a request's route; without a matching route, the one of that part of
/// the API.
pub(super) fn permission(method: &Method, route: Option<&str>, path: &str) -> Permission {
    let method = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    match route.and_then(|route| route_permission(method, route)) {
        Some(permission) => permission,
        None if path.starts_with("/admin/") => Admin,
        None if path.starts_with("/v1/") => AnyKey,
        None => Open,
    }
}

/// Returns the permission of the route with this method and path.
pub(super) fn route_permission(method: &str, path: &str) -> Option<Permission> {
    ROUTES
        .iter()
        .chain(METRICS)
        .find(|route| route.path == path && route.method == method)
        .map(|route| route.needs)
}

/// Builds the router with all middleware. Unknown routes get an error in OpenAI's format.
///
/// `names` are the allowed host names; `None` without remote clients.
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
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panic_response))
        .layer(from_fn_with_state(Arc::clone(&app), limit_rates))
        .layer(from_fn_with_state(Arc::clone(&app), audit))
        .layer(from_fn_with_state(
            (Arc::clone(&app), permission as PermissionLookup),
            authenticate,
        ))
        .layer(from_fn(request_url::check))
        .layer(option_layer(
            names.map(|names| from_fn_with_state(names, hosts::check)),
        ))
        .layer(option_layer(cors(&app.config.server.cors_origins)))
        .layer(from_fn(set_security_headers))
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app);
    // Wraps the router, because axum runs a router's own layers after matching.
    Router::new().fallback_service(MapRequestLayer::new(request_url::normalize).layer(known))
}

/// Responds to an unsupported method of a known route. The router adds the header `allow`.
async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        ApiError::method_not_allowed(method.as_str(), uri.path()).into_response()
    }
}

/// Middleware that adds security headers: no MIME sniffing, no framing, no caching of private data.
async fn set_security_headers(request: Request, next: Next) -> Response {
    let is_private = ["/v1/", "/admin/"]
        .iter()
        .any(|prefix| request.uri().path().starts_with(prefix));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Pages set their own policies.
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(nothing);
    if is_private {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Returns the CORS layer; `None` without allowed origins.
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
        // Clients send headers of their own besides authorization, content-type and
        // idempotency-key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_AGE);
    (!origins.is_empty()).then_some(layer)
}

/// Response headers that cross-origin pages may read.
const EXPOSED: [&str; 14] = [
    "x-request-id",
    "traceparent",
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

/// Time for which browsers may cache a preflight response.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    let what = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = what.unwrap_or("panic"), "a handler panicked");
    ApiError::internal().into_response()
}
