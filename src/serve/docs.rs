//! API description.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::Value;

use super::{app::App, openapi::document};

/// Returns this API description as OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = "documentation",
    responses((status = 200, description = "The OpenAPI document.", body = Object)))]
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    Json(document(&app))
}
