//! The API's description, and a page to read and try it. The page is Swagger UI, from this binary alone: it loads nothing from elsewhere.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, Method, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use utoipa_swagger_ui::Config;

use super::{
    app::App,
    error::{ApiError, ErrorBody},
    openapi::document,
};

const PAGE: &str = include_str!("docs/page.html");
/// Starts Swagger UI; apart from the page because the policy allows no scripts in it.
const START: &str = include_str!("docs/start.js");

/// Swagger UI writes styles and small pictures into the page itself; scripts and connections are this server's alone.
const HEADERS: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// This description, as OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = "documentation", responses((status = 200, description = "The description.", body = Object)))]
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    Json(document(&app))
}

/// A page to read and try the API.
#[utoipa::path(get, path = "/docs", tag = "documentation",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")))]
pub(crate) async fn page() -> Response {
    (HEADERS, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

/// What the page loads.
#[utoipa::path(get, path = "/docs/{file}", tag = "documentation", params(("file" = String, Path, description = "The file's name.")),
    responses(
        (status = 200, description = "The file.", content((String = "text/javascript"), (String = "text/css"))),
        (status = 404, description = "There is no such file.", body = ErrorBody),
    ))]
pub(crate) async fn asset(Path(file): Path<String>, method: Method, uri: Uri) -> Result<Response, ApiError> {
    if file == "start.js" {
        return Ok((HEADERS, [(header::CONTENT_TYPE, "text/javascript")], START).into_response());
    }
    let wanted = ["swagger-ui-bundle.js", "swagger-ui.css"].contains(&file.as_str());
    let found = if wanted { utoipa_swagger_ui::serve(&file, Arc::new(Config::from("/openapi.json"))).ok().flatten() } else { None };
    let found = found.ok_or_else(|| ApiError::unknown_route(method.as_str(), uri.path()))?;
    Ok((HEADERS, [(header::CONTENT_TYPE, found.content_type)], found.bytes.into_owned()).into_response())
}
