//! What a person is told before choosing a photograph: what is kept, for how long, and who can see
//! it.

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

/// What the page says of this server. No key is needed for it, and no secret is in it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = About)]
struct About<'a> {
    /// The version of the program.
    version: &'static str,
    /// The served model's name.
    model: &'a str,
    /// The served model's version.
    model_version: &'a str,
    /// Indicates whether `/v1/` needs an API key.
    keys: bool,
    /// Indicates whether corrections are taken, and kept with their photographs until they are
    /// deleted.
    feedback: bool,
    /// Seconds that an answer is remembered with its photograph; 0: it is not.
    retention_s: u64,
    /// Indicates whether remembered answers are shown, with their photographs, to annotators.
    queue: bool,
    /// The reward below which a word of a caption is flagged where a request says nothing else;
    /// absent where the model has no scorer.
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
}

/// What this server keeps, for how long, and whether a key is needed.
#[utoipa::path(get, path = "/ui/about.json", tag = "page",
    responses((status = 200, description = "What the page says of this server.", body = About)))]
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
