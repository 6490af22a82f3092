//! `/v1/queue` and `/v1/agreement`: what annotators look at next, and how far they agree.

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
    auth::{self, Caller},
    body,
    error::{ApiError, ErrorBody},
    feedback::{Parameters, PathId, corrections},
    openai::request::read,
    openapi::ErrorResponses,
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

/// How often the metrics of the queue are brought up to date.
const WATCH: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QueueRequest)]
pub(super) struct QueueCaller {
    /// The annotator's name, as `annotator` of feedback.
    #[schema(min_length = 1, max_length = 256)]
    annotator: String,
}

/// How figures are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AgreementQuery {
    /// Whether annotators are named.
    annotators: Option<bool>,
}

async fn who(app: &App, request: Request) -> Result<(Caller, AnnotatorId), ApiError> {
    let (parts, body) = request.into_parts();
    let body = body::read_json(app, &parts.headers, body).await?;
    let QueueCaller { annotator } = read(&body.bytes, "an annotator")?;
    check_name("annotator", &annotator)?;
    let caller = auth::caller(app, &parts.extensions);
    let annotator = caller.annotator(annotator);
    Ok((caller, annotator))
}

/// Whose progress is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QueueQuery {
    /// The annotator whose own progress is told too.
    annotator: Option<String>,
}

/// The annotation queue by state, and an annotator's part in it.
#[derive(Debug, Serialize, ToSchema)]
struct QueueState {
    #[serde(flatten)]
    #[schema(value_type = QueueLengthSchema)]
    length: QueueLength,
    /// What the annotator has done; there where one is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AnnotatorProgressSchema>)]
    annotator: Option<AnnotatorProgress>,
}

/// How many answers wait for annotators.
#[utoipa::path(get, path = "/v1/queue", tag = "queue", params(QueueQuery), responses(
    (status = 200, description = "By state.", body = QueueState),
    (status = 400, description = "The annotator is no name.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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
        app.metrics.queue(&length);
    }
    Ok(Json(QueueState { length, annotator }).into_response())
}

/// Leases the next answer to an annotator: the one that they have already, or the one whose
/// correction would teach most. `POST /v1/feedback` with the same `completion_id`, `choice` and
/// `annotator` closes it.
#[utoipa::path(post, path = "/v1/queue/next", tag = "queue", request_body = QueueCaller, responses(
    (status = 200, description = "The answer.", body = QueueItemSchema),
    (status = 204, description = "There is none for this annotator."),
    ErrorResponses,
    (status = 507, description = "No space is left.", body = ErrorBody),
))]
pub(super) async fn next(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (caller, annotator) = who(&app, request).await?;
    let _place = app.admit()?;
    match corrections
        .next(&annotator, &caller.owners(), unix_seconds())
        .await?
    {
        Some(item) => Ok(Json(item).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Gives an answer back, for anybody to have.
#[utoipa::path(post, path = "/v1/queue/{id}/release", tag = "queue",
    params(("id" = String, Path, description = "The item's `id`.")),
    request_body = QueueCaller, responses(
        (status = 204, description = "It is given back."),
        ErrorResponses,
    ))]
pub(super) async fn release(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (place, annotator) = left(&app, &id, request).await?;
    done(corrections.release(&place, &annotator).await)
}

/// Leaves an answer to others; one that many have left is shown to nobody any more.
#[utoipa::path(post, path = "/v1/queue/{id}/skip", tag = "queue",
    params(("id" = String, Path, description = "The item's `id`.")),
    request_body = QueueCaller, responses(
        (status = 204, description = "It is left."),
        ErrorResponses,
    ))]
pub(super) async fn skip(
    State(app): State<Arc<App>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (place, annotator) = left(&app, &id, request).await?;
    done(corrections.skip(&place, &annotator).await)
}

async fn left(app: &App, id: &str, request: Request) -> Result<(ChoiceId, AnnotatorId), ApiError> {
    let (_, annotator) = who(app, request).await?;
    Ok((id.parse().map_err(|_| nothing())?, annotator))
}

fn done(left: Result<bool, StoreError>) -> Result<Response, ApiError> {
    if left? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(nothing())
    }
}

fn nothing() -> ApiError {
    ApiError::not_found(
        "lease_not_found",
        "the annotator has no such item of the queue, or not any more",
    )
}

/// How far annotators agree, by annotator and by kind of error, and the guard's recall by what was
/// drawn by chance.
#[utoipa::path(get, path = "/v1/agreement", tag = "queue", params(AgreementQuery), responses(
    (status = 200, description = "The figures.", body = AgreementSchema),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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
        app.metrics.agreement(&agreement);
    }
    Ok(Json(agreement).into_response())
}

/// Keeps the metrics of the queue up to date.
pub(super) async fn watch(app: Arc<App>) {
    let Some(corrections) = &app.corrections else {
        return;
    };
    let mut times = tokio::time::interval(WATCH);
    loop {
        times.tick().await;
        let told = async {
            app.metrics.queue(
                &corrections
                    .queue_length(&Owners::All, unix_seconds())
                    .await?,
            );
            app.metrics
                .agreement(&corrections.agreement(&Owners::All, false).await?);
            Ok::<_, StoreError>(())
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, "the metrics of the annotation queue are old");
        }
    }
}
