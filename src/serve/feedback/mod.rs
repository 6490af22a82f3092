//! `/v1/feedback`: corrections come in, and are listed, written out and removed.

mod query;
mod receipts;

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
pub(super) use self::receipts::{CompletionSubject, ReceiptDraft};
use super::{
    app::{App, StartError, blocking},
    auth::{self, Caller},
    body::{self, ReceivedBody},
    chat,
    error::{ApiError, ErrorBody},
    limits::{cost::IMAGE, share},
    openai::{
        content::{ImageUrlLimits, picture},
        request::read,
    },
    openapi::ErrorResponses,
    served::InitialVersion,
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
    util::time::unix_seconds,
    vlm::preprocess,
};

/// How often receipts are looked through for what has expired, at least; else ten times in the time
/// that they are kept.
const SWEEP: Duration = Duration::from_secs(600);
/// And at most.
const SWEEP_AT_MOST: Duration = Duration::from_secs(1);
/// Why no feedback is taken, and the server is not ready, since the store was found to be damaged.
pub(super) const DAMAGED: &str =
    "the store of feedback is damaged; answers go on, and the server's log has the details";
/// Longest idempotency key.
const KEY_BYTES: usize = 255;

/// Opens what the configuration names; `None` where corrections are off.
pub(super) async fn open(
    config: &Config,
    first: &InitialVersion,
) -> Result<Option<Corrections>, StartError> {
    if !config.feedback.enabled() {
        return Ok(None);
    }
    let fail = |key| {
        move |error: StoreError| StartError::Config {
            key,
            what: error.to_string(),
        }
    };
    let store = SqlStore::open(&config.feedback.store)
        .await
        .map_err(fail("feedback.store"))?;
    let images = ImageStore::open(&config.feedback.images, std::env::vars_os())
        .map_err(fail("feedback.images"))?;
    let corrections = Corrections::start(
        Arc::new(store),
        images,
        first.bundle.vocabulary(),
        config.queue.clone(),
    );
    corrections.limit_receipts(config.receipts.max_bytes);
    // Its answers can be corrected while another version is served.
    corrections.serves(first.version(), first.bundle.vocabulary());
    Ok(Some(corrections))
}

/// Removes what has expired, now and then.
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

/// Returns how often what is kept so long is looked through.
fn sweep_interval(retention: Duration) -> Duration {
    (retention / 10).clamp(SWEEP_AT_MOST, SWEEP)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "corrections");
        match error {
            StoreError::Full => Self::storage_full(
                "no space is left to keep it; nothing that was acknowledged is lost",
            ),
            StoreError::Busy => Self::busy(error.to_string(), 1),
            // Where the store is, is for the log.
            StoreError::Damaged(_) => Self::unavailable("store_damaged", DAMAGED),
            StoreError::Unavailable(_) => Self::unavailable(
                "store_unavailable",
                "the store of feedback cannot be reached; try again",
            ),
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
                Self::not_found("completion_not_found", message).at("completion_id")
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
        // Writing on would damage more.
        Some(why) => Err(StoreError::Damaged(why).into()),
        None => Ok(corrections),
    }
}

/// Says what is right or wrong in an answer; the record that is made of it comes back, and is kept.
#[utoipa::path(post, path = "/v1/feedback", tag = "feedback", request_body = SubmissionSchema,
    params(("idempotency-key" = Option<String>, Header, description = "A name for the request: \
        sent again, it makes nothing new.", max_length = 255)),
    responses(
        (status = 201, description = "The record.", body = FeedbackSchema,
            headers(("idempotent-replayed" = bool, description = "There when an earlier request \
                made the record."))),
        ErrorResponses,
        (status = 409, description = "Another request had the same idempotency \
                                      key.", body = ErrorBody),
        (status = 507, description = "No space is left; nothing that was acknowledged is \
                                      lost.", body = ErrorBody),
    ))]
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let caller = auth::caller(&app, &parts.extensions);
    let ReceivedBody {
        bytes,
        share: _share,
    } = body::read_json(&app, &parts.headers, body).await?;
    let _place = app.admit()?;
    let submission: Submission = read(&bytes, "feedback")?;
    let image = match &submission.image {
        Some(url) if submission.completion_id.is_none() => {
            Some(image(&app, &share(&auth::caller(&app, &parts.extensions)), url).await?)
        }
        _ => None,
    };
    let Submitted { mut record, before } = corrections
        .submit(submission, image, key, &caller.submitter())
        .await?;
    record.hide_names(caller.shown_names(Some(true)));
    if before {
        return Ok((
            StatusCode::CREATED,
            [(HeaderName::from_static("idempotent-replayed"), "true")],
            Json(record),
        )
            .into_response());
    }
    app.metrics.feedback(record.kind);
    Ok((StatusCode::CREATED, Json(record)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=KEY_BYTES).contains(&text.len()));
    let message = format!("the header Idempotency-Key must have 1 to {KEY_BYTES} ASCII characters");
    text.map(|text| Some(text.to_owned()))
        .ok_or_else(|| ApiError::invalid("invalid_idempotency_key", message).at("idempotency-key"))
}

/// The image's file, which is one.
async fn image(app: &Arc<App>, share: &Share, url: &str) -> Result<Vec<u8>, ApiError> {
    let _admitted = app.limits.hold(share, IMAGE)?;
    let file = chat::file(
        app,
        share,
        picture(url, "image".to_owned(), ImageUrlLimits::of(&app.config))?,
    )
    .await?;
    let (limits, bytes) = (app.image_limits(), Arc::clone(&file));
    let refused = |why| ApiError::param("image", "invalid_image", format!("'image': {why}"));
    let header = blocking(move || preprocess::inspect(&bytes, &limits))
        .await?
        .map_err(refused)?;
    let turn = app.served().images.turn(share, file.len()).await;
    let memory = app.decode_memory.hold(header.memory(0)).await;
    let bytes = Arc::clone(&file);
    let checked = blocking(move || {
        // Held until the work ends, also when nobody waits for it any more.
        let _held = (turn, memory);
        preprocess::check(&bytes, &limits)
    });
    checked.await?.map_err(refused)?;
    Ok(file.to_vec())
}

/// Some records.
#[derive(Serialize, ToSchema)]
struct FeedbackList {
    /// `list`
    object: &'static str,
    /// The records.
    #[schema(value_type = Vec<FeedbackSchema>)]
    data: Vec<Feedback>,
    /// The id of the first.
    first_id: Option<String>,
    /// The id of the last: `after` of the next page.
    last_id: Option<String>,
    /// Indicates whether there are more.
    has_more: bool,
}

/// Lists records, page by page.
#[utoipa::path(get, path = "/v1/feedback", tag = "feedback", params(ListQuery), responses(
    (status = 200, description = "A page.", body = FeedbackList),
    (status = 400, description = "A parameter is wrong or out of range.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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

/// A record.
#[utoipa::path(get, path = "/v1/feedback/{id}", tag = "feedback",
    params(("id" = String, Path, description = "Its id."), query::OneQuery), responses(
    (status = 200, description = "The record.", body = FeedbackSchema),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "There is none; or feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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
        .ok_or_else(unknown)?;
    record.hide_names(caller.shown_names(query.annotators));
    Ok(Json(record).into_response())
}

fn unknown() -> ApiError {
    ApiError::not_found("feedback_not_found", "there is no feedback of this id")
}

/// What was removed.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// `feedback.deleted`
    object: &'static str,
    /// `true`
    deleted: bool,
    /// How much.
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

/// Removes a record, and its image unless something else refers to that. Where it had closed an
/// item of the annotation queue, that waits again, unless enough others have judged it. The receipt
/// of its completion stays as long as others do.
#[utoipa::path(delete, path = "/v1/feedback/{id}", tag = "feedback",
    params(("id" = String, Path, description = "Its id.")), responses(
    (status = 200, description = "It is removed.", body = Deleted),
    (status = 400, description = "The id is none.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "There is none; or feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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
        RemovalCounts { feedback: 0, .. } => Err(unknown()),
        removed => Ok(deleted(removed)),
    }
}

/// Forgets a person: all records and receipts of a user, and the images that nobody else refers to;
/// or the name of an annotator, whose records stay without it unless `records` says that they go
/// too.
#[utoipa::path(delete, path = "/v1/feedback", tag = "feedback", params(PersonQuery), responses(
    (status = 200, description = "They are forgotten, if there was anything.", body = Deleted),
    (status = 400, description = "Nobody is named, or a user and an annotator.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn remove_user(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<PersonQuery>,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    Ok(deleted(corrections.remove(query.target(&caller)?).await?))
}

/// Writes records out as a file, oldest first.
#[utoipa::path(get, path = "/v1/feedback/export", tag = "feedback", params(ExportQuery), responses(
    (status = 200, description = "The file.", body = String, content_type = "application/jsonl"),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of \
                                  them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
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
    // What goes wrong at once is an error; what goes wrong later breaks the file off.
    let first = pieces.try_next().await?;
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(pieces));
    Ok(([(header::CONTENT_TYPE, format.media_type())], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_a_moment_is_looked_through_often() {
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
