//! What is served and how it is doing.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{app::App, error::ApiError};

/// A model as OpenAI lists it.
#[derive(Debug, Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// OpenAI's list.
#[derive(Debug, Serialize)]
struct List<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Status {
    status: &'static str,
}

fn model_of(app: &App) -> Model<'_> {
    Model { id: &app.model, object: "model", created: app.bundle.config.created, owned_by: "candor" }
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Response {
    Json(List { object: "list", data: [model_of(&app)] }).into_response()
}

pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    if *id == *app.model { Ok(Json(model_of(&app)).into_response()) } else { Err(ApiError::unknown_model(&id, &app.model)) }
}

/// The process answers.
pub(crate) async fn live() -> Response {
    Json(Status { status: "ok" }).into_response()
}

/// Weights are loaded, a caption was written, and the engine moves.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match app.not_ready() {
        None => Ok(Json(Status { status: "ready" }).into_response()),
        Some(why) => Err(ApiError::unavailable("not_ready", why)),
    }
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text().map_err(|error| {
        tracing::error!(%error, "the metrics could not be written");
        ApiError::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
