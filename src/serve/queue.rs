//! `/v1/queue` and `/v1/agreement`: the annotation queue and agreement between annotators.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    app::App,
    auth, body,
    caller::Caller,
    error::{ApiError, ErrorBody},
    feedback::{Parameters, PathId, corrections},
    openai::request::read,
    responses::ErrorResponses,
};
use crate::{
    feedback::{
        derive::check_name,
        store::{
            Owners, StoreError,
            queue::{AnnotatorId, AnnotatorProgress, ChoiceId, QueueLength},
        },
    },
    serve::schema::queue::{
        AgreementSchema, AnnotatorProgressSchema, QueueItemSchema, QueueLengthSchema,
    },
    util::time::unix_seconds,
};

/// Interval between updates of the queue's metrics.
const UPDATE_INTERVAL: Duration = Duration::from_secs(60);

/// Annotator who makes the request.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QueueRequest)]
pub(super) struct QueueCaller {
    /// Name of the annotator, as in the field `annotator` of feedback.
    #[schema(min_length = 1, max_length = 256)]
    annotator: String,
}

/// Parameters of the agreement report.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AgreementQuery {
    /// Includes the annotators' names.
    annotators: Option<bool>,
}

async fn read_annotator(app: &App, request: Request) -> Result<(Caller, AnnotatorId), ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read_json(app, &parts.headers, body).await?;
    let QueueCaller { annotator } = read(&body.bytes, "an annotator")?;
    check_name("annotator", &annotator)?;
    let caller = auth::caller(app, &parts.extensions);
    let annotator = caller.annotator(annotator);
    Ok((caller, annotator))
}

/// Parameters of the queue's state.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QueueQuery {
    /// Annotator whose own progress is included.
    annotator: Option<String>,
}

/// State of the annotation queue, and an annotator's progress.
#[derive(Debug, Serialize, ToSchema)]
struct QueueState {
    #[serde(flatten)]
    #[schema(value_type = QueueLengthSchema)]
    length: QueueLength,
    /// Progress of the requested annotator; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AnnotatorProgressSchema>)]
    annotator: Option<AnnotatorProgress>,
}

/// Returns the number of queued answers by state.
#[utoipa::path(get, path = "/v1/queue", tag = "queue", params(QueueQuery), responses(
    (status = 200, description = "Numbers of items by state.", body = QueueState),
    (status = 400, description = "The annotator's name is invalid.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn length(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<QueueQuery>,
) -> Result<Response, ApiError> {
    let (corrections, now) = (corrections(&app)?, unix_seconds());
    let annotator = match query.annotator {
        Some(annotator) => {
            check_name("annotator", &annotator)?;
            Some(
                corrections
                    .annotator_progress(&caller.annotator(annotator), now)
                    .await?,
            )
        }
        None => None,
    };
    let length = corrections.queue_length(&caller.owners(), now).await?;
    if caller.reads_all() {
        app.metrics.set_queue_length(&length);
    }
    Ok(Json(QueueState { length, annotator }).into_response())
}

/// Leases the next answer to an annotator.
///
/// Returns the annotator's current lease if there is one, otherwise the answer whose correction is
/// expected to help training most. `POST /v1/feedback` with the same `completion_id`, `choice` and
/// `annotator` closes the item.
#[utoipa::path(post, path = "/v1/queue/next", tag = "queue", request_body = QueueCaller, responses(
    (status = 200, description = "The leased answer.", body = QueueItemSchema),
    (status = 204, description = "No answer is available for this annotator."),
    ErrorResponses,
    (status = 507, description = "No disk space is left.", body = ErrorBody),
))]
pub(super) async fn next(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (caller, annotator) = read_annotator(&app, request).await?;
    let _place = app.admit()?;
    match corrections
        .next(&annotator, &caller.owners(), unix_seconds())
        .await?
    {
        Some(item) => Ok(Json(item).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Releases a leased answer, so that any annotator can get it.
#[utoipa::path(post, path = "/v1/queue/{id}/release", tag = "queue",
    params(("id" = String, Path, description = "Id of the queue item.")),
    request_body = QueueCaller, responses(
        (status = 204, description = "The lease is released."),
        ErrorResponses,
    ))]
pub(super) async fn release(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (choice, annotator) = read_lease(&app, &id, request).await?;
    lease_response(corrections.release(&choice, &annotator).await)
}

/// Skips an answer.
///
/// It stays available to other annotators, until enough of them have skipped it.
#[utoipa::path(post, path = "/v1/queue/{id}/skip", tag = "queue",
    params(("id" = String, Path, description = "Id of the queue item.")),
    request_body = QueueCaller, responses(
        (status = 204, description = "The item is skipped."),
        ErrorResponses,
    ))]
pub(super) async fn skip(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (choice, annotator) = read_lease(&app, &id, request).await?;
    lease_response(corrections.skip(&choice, &annotator).await)
}

async fn read_lease(
    app: &App,
    id: &str,
    request: Request,
) -> Result<(ChoiceId, AnnotatorId), ApiError> {
    let (_, annotator) = read_annotator(app, request).await?;
    Ok((id.parse().map_err(|_| lease_not_found())?, annotator))
}

fn lease_response(found: Result<bool, StoreError>) -> Result<Response, ApiError> {
    if found? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(lease_not_found())
    }
}

fn lease_not_found() -> ApiError {
    ApiError::not_found(
        "lease_not_found",
        "the annotator holds no lease on this queue item, or it has expired",
    )
}

/// Reports agreement between annotators.
///
/// By annotator and by kind of error, with the guard's recall estimated from randomly drawn items.
#[utoipa::path(get, path = "/v1/agreement", tag = "queue", params(AgreementQuery), responses(
    (status = 200, description = "The agreement report.", body = AgreementSchema),
    (status = 400, description = "A parameter is invalid.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn agreement(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<AgreementQuery>,
) -> Result<Response, ApiError> {
    let agreement = corrections(&app)?
        .agreement(&caller.owners(), query.annotators.unwrap_or(false))
        .await?;
    if caller.reads_all() {
        app.metrics.set_agreement(&agreement);
    }
    Ok(Json(agreement).into_response())
}

/// Keeps the queue's metrics up to date.
pub(super) async fn watch(app: Arc<App>) {
    let Some(corrections) = &app.corrections else {
        return;
    };
    let mut times = tokio::time::interval(UPDATE_INTERVAL);
    loop {
        times.tick().await;
        let update = async {
            app.metrics.set_queue_length(
                &corrections
                    .queue_length(&Owners::All, unix_seconds())
                    .await?,
            );
            app.metrics
                .set_agreement(&corrections.agreement(&Owners::All, false).await?);
            Ok::<_, StoreError>(())
        };
        if let Err(error) = update.await {
            tracing::warn!(%error, "the metrics of the annotation queue could not be updated");
        }
    }
}
