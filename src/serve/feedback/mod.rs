//! `/v1/feedback`: submit, list, export and delete feedback.

mod query;

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use utoipa::ToSchema;

use self::query::{ExportQuery, ListQuery, PersonQuery};
pub(super) use self::query::{Parameters, PathId};
use super::{
    app::{App, StartError, blocking},
    auth,
    body::{self, ReceivedBody},
    caller::Caller,
    error::{ApiError, DAMAGED, ErrorBody},
    images::request_file,
    limits::{cost::IMAGE_WORK, share},
    openai::{
        content::{ImageUrlLimits, parse_image_url},
        request::read,
    },
    responses::ErrorResponses,
    served::{InitialVersion, trace_of},
};
use crate::{
    config::Config,
    engine::fair::Share,
    feedback::{
        Corrections,
        corrections::{SubmitError, Submitted},
        derive::SubmissionRefusal,
        export as files,
        images::ImageStore,
        record::Feedback,
        store::{RemovalCounts, RemovalTarget, StoreError, sql::SqlStore},
        submission::Submission,
    },
    serve::schema::feedback::{FeedbackSchema, RemovalCountsSchema, SubmissionSchema},
    telemetry::RequestTrace,
    util::time::unix_seconds,
    vlm::preprocess,
};

/// Longest interval between sweeps of expired receipts; otherwise a tenth of the retention.
const MAX_SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Shortest interval between sweeps.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// `retry-after` while the store cannot be reached, in seconds.
const STORE_RETRY_S: u64 = 5;
/// Longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Opens the configured feedback store; `None` if feedback is disabled.
pub(super) async fn open(
    config: &Config,
    first: &InitialVersion,
) -> Result<Option<Corrections>, StartError> {
    if !config.feedback.enabled() {
        return Ok(None);
    }
    let config_error = |key| {
        move |error: StoreError| StartError::Config {
            key,
            what: error.to_string(),
        }
    };
    let store = SqlStore::open(&config.feedback.store)
        .await
        .map_err(config_error("feedback.store"))?;
    let images = ImageStore::open(&config.feedback.images, std::env::vars_os())
        .map_err(config_error("feedback.images"))?;
    let corrections = Corrections::start(
        Arc::new(store),
        images,
        first.bundle.vocabulary(),
        config.queue.clone(),
    );
    corrections.limit_receipts(config.receipts.max_bytes);
    // Its answers can be corrected while another version is served.
    corrections.set_served(first.version(), first.bundle.vocabulary());
    Ok(Some(corrections))
}

/// Deletes expired receipts periodically.
pub(super) async fn sweep(app: Arc<App>) {
    let Some(corrections) = &app.corrections else {
        return;
    };
    let retention = app.config.receipts.retention();
    let mut times = tokio::time::interval(sweep_interval(retention));
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        match corrections
            .sweep(unix_seconds().saturating_sub(retention.as_secs()))
            .await
        {
            Ok(0) => {}
            Ok(receipts) => tracing::info!(receipts, "receipts have expired"),
            Err(error) => tracing::warn!(%error, "receipts that have expired could not be removed"),
        }
    }
}

/// Returns the interval between sweeps for a retention.
fn sweep_interval(retention: Duration) -> Duration {
    (retention / 10).clamp(MIN_SWEEP_INTERVAL, MAX_SWEEP_INTERVAL)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "corrections");
        match error {
            StoreError::Full => Self::storage_full(
                "no disk space is left to store it; acknowledged records are not affected",
            ),
            StoreError::Busy => Self::busy(error.to_string(), 1),
            // The store's location is only logged.
            StoreError::Damaged(_) => Self::unavailable("store_damaged", DAMAGED),
            StoreError::Unavailable(_) => Self::unavailable(
                "store_unavailable",
                "the feedback store cannot be reached; try again",
            )
            .with_retry_after(STORE_RETRY_S),
            StoreError::Failed(_) => Self::internal(),
        }
    }
}

impl From<SubmissionRefusal> for ApiError {
    fn from(
        SubmissionRefusal {
            field,
            code,
            message,
        }: SubmissionRefusal,
    ) -> Self {
        Self::param(field, code, message)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Refused(refused) => refused.into(),
            SubmitError::UnknownCompletion(_) => {
                Self::not_found("completion_not_found", message).with_param("completion_id")
            }
            SubmitError::KeyTaken => Self::conflict("idempotency_key_reused", message),
            SubmitError::Store(error) => error.into(),
        }
    }
}

pub(super) fn corrections(app: &App) -> Result<&Corrections, ApiError> {
    let corrections = app.corrections.as_ref();
    let corrections = corrections.ok_or_else(|| {
        ApiError::not_found("feedback_disabled", "feedback is off on this server")
    })?;
    match corrections.store().damage() {
        // Further writes could increase the damage.
        Some(why) => Err(StoreError::Damaged(why).into()),
        None => Ok(corrections),
    }
}

/// Submits feedback on an answer.
///
/// Stores a correction or a judgment and returns the record.
#[utoipa::path(post, path = "/v1/feedback", tag = "feedback", request_body = SubmissionSchema,
    params(("idempotency-key" = Option<String>, Header, description = "Unique key of the \
          request; repeating a request with the same key returns its record.", max_length = 255)),
    responses(
        (status = 201, description = "The record.", body = FeedbackSchema,
            headers(("idempotent-replayed" = bool, description = "Present if an earlier request \
                                                                  created the record."))),
        ErrorResponses,
        (status = 409, description = "The idempotency key was used for a different \
                                      request.", body = ErrorBody),
        (status = 507, description = "No disk space is left; acknowledged records are not \
                                      affected.", body = ErrorBody),
    ))]
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let caller = auth::caller(&app, &parts.extensions);
    let trace = trace_of(&parts.extensions);
    let ReceivedBody {
        bytes,
        share: _share,
    } = body::read_json(&app, &parts.headers, body).await?;
    let _permit = app.admit()?;
    let submission: Submission = read(&bytes, "feedback")?;
    let image = match &submission.image {
        Some(url) if submission.completion_id.is_none() => {
            Some(load_image(&app, &share(&caller), &trace, url).await?)
        }
        _ => None,
    };
    let Submitted {
        mut record,
        repeated,
    } = {
        let mut phase = trace.phase("store");
        let submitter = caller.submitter();
        corrections
            .submit(submission, image, key, &submitter)
            .await
            .inspect_err(|error| phase.fail(failure_code(error)))?
    };
    record.hide_names(caller.shown_names(Some(true)));
    if repeated {
        return Ok((
            StatusCode::CREATED,
            [(HeaderName::from_static("idempotent-replayed"), "true")],
            Json(record),
        )
            .into_response());
    }
    app.metrics.count_feedback(record.kind);
    Ok((StatusCode::CREATED, Json(record)).into_response())
}

/// Returns the name of a failure, for the trace.
fn failure_code(error: &SubmitError) -> &'static str {
    match error {
        SubmitError::Refused(refused) => refused.code,
        SubmitError::UnknownCompletion(_) => "completion_not_found",
        SubmitError::KeyTaken => "idempotency_key_reused",
        SubmitError::Store(_) => "store",
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=MAX_KEY_BYTES).contains(&text.len()));
    let message =
        format!("the header Idempotency-Key must have 1 to {MAX_KEY_BYTES} ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        ApiError::invalid("invalid_idempotency_key", message).with_param("idempotency-key")
    })
}

/// Returns the file of a submitted image, once it has been decoded as a check.
async fn load_image(
    app: &Arc<App>,
    share: &Share,
    trace: &RequestTrace,
    url: &str,
) -> Result<Vec<u8>, ApiError> {
    let _admitted = app.limits.admit_work(share, IMAGE_WORK)?;
    let file = request_file(
        app,
        share,
        trace,
        parse_image_url(url, "image".to_owned(), ImageUrlLimits::new(&app.config))?,
    )
    .await?;
    let (limits, bytes) = (app.image_limits(), Arc::clone(&file));
    let refused = |why| ApiError::param("image", "invalid_image", format!("'image': {why}"));
    let header = blocking(move || preprocess::inspect(&bytes, &limits))
        .await?
        .map_err(refused)?;
    let turn = app.served().images.turn(share, file.len()).await;
    let memory = app.decode_memory.acquire(header.memory(0)).await;
    let bytes = Arc::clone(&file);
    let checked = blocking(move || {
        // Held until the work ends, even if the request was canceled.
        let _held = (turn, memory);
        preprocess::check(&bytes, &limits)
    });
    checked.await?.map_err(refused)?;
    Ok(file.to_vec())
}

/// A page of feedback records.
#[derive(Serialize, ToSchema)]
struct FeedbackList {
    /// Always `list`.
    object: &'static str,
    /// Records of this page.
    #[schema(value_type = Vec<FeedbackSchema>)]
    data: Vec<Feedback>,
    /// Id of the first record; `null` on an empty page.
    first_id: Option<String>,
    /// Id of the last record: the parameter `after` of the next page.
    last_id: Option<String>,
    /// `true` if more records follow.
    has_more: bool,
}

/// Lists feedback, page by page.
#[utoipa::path(get, path = "/v1/feedback", tag = "feedback", params(ListQuery), responses(
    (status = 200, description = "A page of records.", body = FeedbackList),
    (status = 400, description = "A parameter is invalid or out of range.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<ListQuery>,
) -> Result<Response, ApiError> {
    let (mut page, shown) = query.page(&caller)?;
    let limit = page.limit as usize;
    page.limit += 1;
    let mut data = corrections(&app)?.store().page(&page).await?;
    let has_more = data.len() > limit;
    data.truncate(limit);
    data.iter_mut().for_each(|record| record.hide_names(shown));
    let id = |record: Option<&Feedback>| record.map(|record| record.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(FeedbackList {
        object: "list",
        data,
        first_id,
        last_id,
        has_more,
    })
    .into_response())
}

/// Returns a feedback record.
#[utoipa::path(get, path = "/v1/feedback/{id}", tag = "feedback",
    params(("id" = String, Path, description = "Id of the record."), query::OneQuery), responses(
    (status = 200, description = "The record.", body = FeedbackSchema),
    (status = 400, description = "A parameter is invalid.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Unknown record, or feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn one(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
    Parameters(query): Parameters<query::OneQuery>,
) -> Result<Response, ApiError> {
    let record = corrections(&app)?.store().feedback(&id).await?;
    let mut record = record
        .filter(|record| caller.owners().contain(&record.owner))
        .ok_or_else(not_found_error)?;
    record.hide_names(caller.shown_names(query.annotators));
    Ok(Json(record).into_response())
}

fn not_found_error() -> ApiError {
    ApiError::not_found("feedback_not_found", "there is no feedback with this id")
}

/// Result of a deletion.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// Always `feedback.deleted`.
    object: &'static str,
    /// Always `true`.
    deleted: bool,
    /// Numbers of deleted objects.
    #[serde(flatten)]
    #[schema(value_type = RemovalCountsSchema)]
    removed: RemovalCounts,
}

fn deleted(removed: RemovalCounts) -> Response {
    Json(Deleted {
        object: "feedback.deleted",
        deleted: true,
        removed,
    })
    .into_response()
}

/// Deletes a feedback record.
///
/// Its image is deleted too unless something else refers to it. If the record had closed an item of
/// the annotation queue, the item is open again unless enough other annotators have judged it. The
/// completion's receipt is kept as long as others.
#[utoipa::path(delete, path = "/v1/feedback/{id}", tag = "feedback",
    params(("id" = String, Path, description = "Id of the record.")), responses(
    (status = 200, description = "The record is deleted.", body = Deleted),
    (status = 400, description = "The id is invalid.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Unknown record, or feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Response, ApiError> {
    match corrections(&app)?
        .remove(RemovalTarget::Feedback(id, caller.owners()))
        .await?
    {
        RemovalCounts { feedback: 0, .. } => Err(not_found_error()),
        removed => Ok(deleted(removed)),
    }
}

/// Deletes a person's data.
///
/// With `user`: all records and receipts of that user, and images that nothing else refers to. With
/// `annotator`: the annotator's name; their records are kept without it unless `records` is true.
#[utoipa::path(delete, path = "/v1/feedback", tag = "feedback", params(PersonQuery), responses(
    (status = 200, description = "The data is deleted, if there was any.", body = Deleted),
    (status = 400, description = "Neither a user nor an annotator is named, or \
                                  both.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn remove_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<PersonQuery>,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    Ok(deleted(corrections.remove(query.target(&caller)?).await?))
}

/// Exports feedback as a file, oldest first.
#[utoipa::path(get, path = "/v1/feedback/export", tag = "feedback", params(ExportQuery), responses(
    (status = 200, description = "The file.", body = String, content_type = "application/jsonl"),
    (status = 400, description = "A parameter is invalid.", body = ErrorBody),
    (status = 401, description = "The API key is missing or unknown.", body = ErrorBody),
    (status = 404, description = "Feedback is disabled.", body = ErrorBody),
    (status = 503, description = "The feedback store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn export(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<ExportQuery>,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (store, images) = (
        Arc::clone(corrections.store()),
        Arc::clone(corrections.images()),
    );
    let format = query
        .format
        .as_deref()
        .unwrap_or("jsonl")
        .parse::<files::InterchangeFormat>();
    let format = format
        .map_err(|why| ApiError::param("format", "invalid_value", format!("'format': {why}")))?;
    let (filter, shown) = (query.filter(&caller)?, caller.shown_names(query.annotators));
    let mut pieces = Box::pin(files::export(store, images, filter, format, shown));
    // Errors before the first piece become an error response; later ones abort the download.
    let first = pieces.try_next().await?;
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(pieces));
    Ok(([(header::CONTENT_TYPE, format.media_type())], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_retention_is_swept_often() {
        for (retention, interval) in [
            (0, 1),
            (5, 1),
            (60, 6),
            (3600, 360),
            (6000, 600),
            (7 * 86400, 600),
        ] {
            assert_eq!(
                sweep_interval(Duration::from_secs(retention)),
                Duration::from_secs(interval),
                "{retention}"
            );
        }
    }
}
