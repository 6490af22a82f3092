//! Model list, health probes and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{feedback::store::sql::failures, util::disk::free_bytes, vlm::models::PermittedUse};

use super::{
    app::App,
    error::{ApiError, ErrorBody},
    served::{RequestContext, ServedVersion},
};

/// A model, as in OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
struct Model<'a> {
    /// Name of the model.
    id: &'a str,
    /// Always `model`.
    object: &'static str,
    /// Creation time, Unix seconds.
    created: u64,
    /// Always `candor`.
    owned_by: &'static str,
    /// Version, as in `system_fingerprint` and the metrics.
    version: &'a str,
    /// License of the weights: an SPDX identifier in lower case, the name that the model's files
    /// give, or `unknown`.
    license: &'a str,
    /// What the license allows: `any` use, `research` alone, or `unknown`.
    #[schema(value_type = String)]
    permitted_use: PermittedUse,
}

/// List of models, as in OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelList)]
struct List<'a> {
    /// Always `list`.
    object: &'static str,
    /// The served model.
    #[schema(value_type = Vec<Model<'a>>)]
    data: [Model<'a>; 1],
}

/// Liveness response.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    /// Always `ok`.
    status: &'static str,
}

/// Readiness response.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness<'a> {
    /// Always `ready`.
    status: &'static str,
    /// Version of the server.
    candor: &'static str,
    /// Name of the served model.
    model: &'a str,
    /// Version of the served model.
    version: &'a str,
}

fn describe_model(served: &ServedVersion) -> Model<'_> {
    Model {
        id: &served.model,
        object: "model",
        created: served.bundle.created,
        owned_by: "candor",
        version: &served.version,
        license: &served.bundle.license.id,
        permitted_use: served.bundle.license.permits,
    }
}

/// Lists the served model.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "The list of models.", body = List)))]
pub(crate) async fn models(RequestContext { served, .. }: RequestContext) -> Response {
    Json(List {
        object: "list",
        data: [describe_model(&served)],
    })
    .into_response()
}

/// Returns the served model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "Name of the model.")),
    responses(
        (status = 200, description = "The model.", body = Model),
        (status = 404, description = "The model is not served.", body = ErrorBody),
    ))]
pub(crate) async fn model(
    RequestContext { served, .. }: RequestContext,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    if *id == *served.model {
        Ok(Json(describe_model(&served)).into_response())
    } else {
        Err(ApiError::unknown_model(&id, &served.model))
    }
}

/// Liveness probe: the process responds.
#[utoipa::path(get, path = "/health/live", tag = "operation",
    responses((status = 200, description = "The process responds.", body = Status)))]
pub(crate) async fn live() -> Response {
    Json(Status { status: "ok" }).into_response()
}

/// Readiness probe: the model is loaded and warmed up, and the engine makes progress.
#[utoipa::path(get, path = "/health/ready", tag = "operation", responses(
    (status = 200, description = "The server is ready.", body = Readiness),
    (status = 503, description = "The server is not ready; the message has the \
                                  reason.", body = ErrorBody),
))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if let Some(why) = app.readiness_problem() {
        return Err(ApiError::unavailable("not_ready", why));
    }
    let served = app.served();
    let (model, version) = (&*served.model, &*served.version);
    Ok(Json(Readiness {
        status: "ready",
        candor: env!("CARGO_PKG_VERSION"),
        model,
        version,
    })
    .into_response())
}

/// Readiness probe, the same as `/health/ready`, under the path that load balancers commonly use.
#[utoipa::path(get, path = "/health", tag = "operation", responses(
    (status = 200, description = "The server is ready.", body = Readiness),
    (status = 503, description = "The server is not ready; the message has the \
                                  reason.", body = ErrorBody),
))]
pub(crate) async fn health(app: State<Arc<App>>) -> Result<Response, ApiError> {
    ready(app).await
}

/// Returns metrics in Prometheus' text format.
///
/// They move to a listener of their own if `server.operations_listen` is set.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
    (status = 500, description = "The metrics could not be encoded.", body = ErrorBody),
))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if let Some(corrections) = &app.corrections {
        app.metrics.set_receipt_bytes(corrections.receipt_bytes());
    }
    app.metrics.set_store_failures(failures());
    app.metrics
        .set_image_cache_bytes(app.served().images.used());
    let folders = app.config.data_folders().into_iter();
    if let Some(free) = folders.filter_map(free_bytes).min() {
        app.metrics.set_store_free_bytes(free);
    }
    let text = app.metrics.text().map_err(|error| {
        tracing::error!(%error, "the metrics could not be written");
        ApiError::internal()
    })?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response())
}
