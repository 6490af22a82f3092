//! What is served and how it is doing.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    app::App,
    error::{ApiError, ErrorBody},
    served::{RequestContext, ServedVersion},
};

/// A model as OpenAI lists it.
#[derive(Debug, Serialize, ToSchema)]
struct Model<'a> {
    /// Its name.
    id: &'a str,
    /// `model`
    object: &'static str,
    /// Unix time in seconds.
    created: u64,
    /// `candor`
    owned_by: &'static str,
    /// The version, as `system_fingerprint` and the metrics have it.
    version: &'a str,
}

/// OpenAI's list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelList)]
struct List<'a> {
    /// `list`
    object: &'static str,
    /// The one model.
    #[schema(value_type = Vec<Model<'a>>)]
    data: [Model<'a>; 1],
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    /// `ok`
    status: &'static str,
}

/// The server can serve, and what it is.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness<'a> {
    /// `ready`
    status: &'static str,
    /// Version of the program.
    candor: &'static str,
    /// The served model's name.
    model: &'a str,
    /// Its version.
    version: &'a str,
}

fn model_of(served: &ServedVersion) -> Model<'_> {
    Model {
        id: &served.model,
        object: "model",
        created: served.bundle.config.created,
        owned_by: "candor",
        version: &served.version,
    }
}

/// Lists the served model.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "The list.", body = List)))]
pub(crate) async fn models(RequestContext { served, .. }: RequestContext) -> Response {
    Json(List {
        object: "list",
        data: [model_of(&served)],
    })
    .into_response()
}

/// The served model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "Its name.")),
    responses(
        (status = 200, description = "The model.", body = Model),
        (status = 404, description = "It is not served here.", body = ErrorBody),
    ))]
pub(crate) async fn model(
    RequestContext { served, .. }: RequestContext,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    if *id == *served.model {
        Ok(Json(model_of(&served)).into_response())
    } else {
        Err(ApiError::unknown_model(&id, &served.model))
    }
}

/// The process answers.
#[utoipa::path(get, path = "/health/live", tag = "operation",
    responses((status = 200, description = "It does.", body = Status)))]
pub(crate) async fn live() -> Response {
    Json(Status { status: "ok" }).into_response()
}

/// Weights are loaded, a caption was written, and the engine moves.
#[utoipa::path(get, path = "/health/ready", tag = "operation", responses(
    (status = 200, description = "They are.", body = Readiness),
    (status = 503, description = "Not yet, or no longer; the message says why.", body = ErrorBody),
))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if let Some(why) = app.not_ready() {
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

/// The same as `/health/ready`, under the name that load balancers and other servers' users ask
/// for.
#[utoipa::path(get, path = "/health", tag = "operation", responses(
    (status = 200, description = "The server can serve.", body = Readiness),
    (status = 503, description = "Not yet, or no longer; the message says why.", body = ErrorBody),
))]
pub(crate) async fn health(app: State<Arc<App>>) -> Result<Response, ApiError> {
    ready(app).await
}

/// Metrics in Prometheus' text format; on another listener where `server.operations_listen` is set.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
    (status = 500, description = "They could not be written.", body = ErrorBody),
))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if let Some(corrections) = &app.corrections {
        app.metrics.set_receipt_bytes(corrections.receipt_bytes());
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
