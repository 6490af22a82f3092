//! Facts about this server for its web page: retention and access to data.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::serve::{
    openai::{check::guard_params, request::GuardRequest},
    served::RequestContext,
};

/// Public facts about this server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = About)]
struct About<'a> {
    /// Version of the server.
    version: &'static str,
    /// Name of the served model.
    model: &'a str,
    /// Version of the served model.
    model_version: &'a str,
    /// `true` if `/v1/` requires an API key.
    keys: bool,
    /// `true` if corrections are accepted; they are stored with their images until they are
    /// deleted.
    feedback: bool,
    /// Seconds for which an answer and its image are stored; 0 if they are not.
    retention_s: u64,
    /// `true` if stored answers and their images are shown to annotators.
    queue: bool,
    /// Default reward below which words of a caption are flagged; absent if the model has no
    /// scorer.
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
}

/// Returns public facts about this server: data retention, and whether a key is required.
#[utoipa::path(get, path = "/ui/about.json", tag = "page",
    responses((status = 200, description = "Facts about this server.", body = About)))]
pub(crate) async fn about(RequestContext { app, served, .. }: RequestContext) -> Response {
    let config = &app.config;
    let feedback = config.feedback.enabled();
    let retention_s = if feedback {
        config.receipts.retention().as_secs()
    } else {
        0
    };
    let calibration = served.bundle.calibration.as_ref();
    let guard = guard_params(&GuardRequest::default(), &app.guard, calibration).ok();
    Json(About {
        version: env!("CARGO_PKG_VERSION"),
        model: &served.model,
        model_version: &served.version,
        keys: app.access().needs_key(),
        feedback,
        retention_s,
        queue: retention_s > 0 && config.queue.enabled,
        threshold: guard
            .filter(|_| calibration.is_some())
            .map(|guard| guard.thresholds.common),
    })
    .into_response()
}
