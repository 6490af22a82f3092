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
use utoipa::ToSchema;

use self::query::{ExportQuery, ListQuery, UserQuery};
pub(super) use self::query::{Id, Parameters};
pub(super) use self::receipts::{Asked, Draft};
use super::{
    app::{App, StartError, blocking, unix_time},
    auth, body, chat,
    error::{ApiError, ErrorBody},
    limits::{cost::IMAGE, share},
    openai::{
        content::{Limits, picture},
        request::read,
    },
    openapi::Refusals,
    served::First,
};
use crate::{
    config::Config,
    engine::fair::Share,
    feedback::{
        Corrections,
        corrections::{SubmitError, Submitted},
        derive::{Refused, check_name},
        export as files,
        images::Images,
        record::Feedback,
        store::{Removed, StoreError, Target, sql::SqlStore},
        submission::Submission,
    },
    vlm::preprocess,
};

/// How often receipts are looked through for what has expired.
const SWEEP: Duration = Duration::from_secs(600);
/// Longest idempotency key.
const KEY_BYTES: usize = 255;

/// Opens what the configuration names; `None` where corrections are off.
pub(super) async fn open(config: &Config, first: &First) -> Result<Option<Corrections>, StartError> {
    if !config.feedback.enabled() {
        return Ok(None);
    }
    let fail = |key| move |error: StoreError| StartError::Config { key, what: error.to_string() };
    let store = SqlStore::open(&config.feedback.store).await.map_err(fail("feedback.store"))?;
    let images = Images::open(&config.feedback.images, std::env::vars_os()).map_err(fail("feedback.images"))?;
    let corrections = Corrections::start(Arc::new(store), images, first.bundle.vocabulary(), config.queue.clone());
    // Its answers can be corrected while another version is served.
    corrections.serves(first.version(), first.bundle.vocabulary());
    Ok(Some(corrections))
}

/// Removes what has expired, now and then.
pub(super) async fn sweep(app: Arc<App>) {
    let Some(corrections) = &app.corrections else { return };
    let retention = app.config.receipts.retention().as_secs();
    let mut times = tokio::time::interval(SWEEP);
    loop {
        times.tick().await;
        match corrections.sweep(unix_time().saturating_sub(retention)).await {
            Ok(0) => {}
            Ok(receipts) => tracing::info!(receipts, "receipts have expired"),
            Err(error) => tracing::warn!(%error, "receipts that have expired could not be removed"),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "corrections");
        match error {
            StoreError::Full => Self::storage_full("no space is left to keep it; nothing that was acknowledged is lost"),
            StoreError::Busy => Self::busy(error.to_string(), 1),
            // Where the store is, is for the log.
            StoreError::Unavailable(_) => Self::unavailable("store_unavailable", "the store of feedback cannot be reached; try again"),
            StoreError::Failed(_) => Self::internal(),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(Refused { field, code, message }: Refused) -> Self {
        Self::param(field, code, message)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Refused(refused) => refused.into(),
            SubmitError::UnknownCompletion(_) => Self::not_found("completion_not_found", message).at("completion_id"),
            SubmitError::KeyTaken => Self::conflict("idempotency_key_reused", message),
            SubmitError::Store(error) => error.into(),
        }
    }
}

pub(super) fn corrections(app: &App) -> Result<&Corrections, ApiError> {
    app.corrections.as_ref().ok_or_else(|| ApiError::not_found("feedback_disabled", "feedback is off on this server"))
}

/// Says what is right or wrong in an answer; the record that is made of it comes back, and is kept.
#[utoipa::path(post, path = "/v1/feedback", tag = "feedback", request_body = Submission,
    params(("idempotency-key" = Option<String>, Header, description = "A name for the request: sent again, it makes nothing new.", max_length = 255)),
    responses(
        (status = 201, description = "The record.", body = Feedback,
            headers(("idempotent-replayed" = bool, description = "There when an earlier request made the record."))),
        Refusals,
        (status = 409, description = "Another request had the same idempotency key.", body = ErrorBody),
        (status = 507, description = "No space is left; nothing that was acknowledged is lost.", body = ErrorBody),
    ))]
pub(super) async fn submit(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let _place = app.admit()?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    // Keys of different callers are different.
    let key = key.map(|key| match auth::caller(&app, &parts.extensions).name {
        Some(caller) => format!("{caller}\n{key}"),
        None => key,
    });
    let body = body::read_json(&parts.headers, body, app.config.server.max_body_bytes, app.read_timeout()).await?;
    let submission: Submission = read(&body, "feedback")?;
    let image = match &submission.image {
        Some(url) if submission.completion_id.is_none() => Some(image(&app, &share(&auth::caller(&app, &parts.extensions)), url).await?),
        _ => None,
    };
    let Submitted { record, before } = corrections.submit(submission, image, key).await?;
    if before {
        return Ok((StatusCode::CREATED, [(HeaderName::from_static("idempotent-replayed"), "true")], Json(record)).into_response());
    }
    app.metrics.feedback(record.kind);
    Ok((StatusCode::CREATED, Json(record)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=KEY_BYTES).contains(&text.len()));
    let message = format!("the header Idempotency-Key must have 1 to {KEY_BYTES} ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(|| ApiError::invalid("invalid_idempotency_key", message).at("idempotency-key"))
}

/// The image's file, which is one.
async fn image(app: &Arc<App>, share: &Share, url: &str) -> Result<Vec<u8>, ApiError> {
    let _held = app.limits.hold(share, IMAGE)?;
    let file = chat::file(app, share, picture(url, "image".to_owned(), Limits::of(&app.config))?).await?;
    let (app, turn) = (Arc::clone(app), app.served().images.turn(share, file.len()).await);
    blocking(move || {
        // Held until the work ends, also when nobody waits for it any more.
        let _turn = turn;
        match preprocess::decode(&file, &app.image_limits()) {
            Ok(_) => Ok(file.to_vec()),
            Err(why) => Err(ApiError::param("image", "invalid_image", format!("'image': {why}"))),
        }
    })
    .await?
}

/// Some records.
#[derive(Serialize, ToSchema)]
struct FeedbackList {
    /// `list`
    object: &'static str,
    /// The records.
    data: Vec<Feedback>,
    /// The id of the first.
    first_id: Option<String>,
    /// The id of the last: `after` of the next page.
    last_id: Option<String>,
    /// Whether there are more.
    has_more: bool,
}

/// Lists records, page by page.
#[utoipa::path(get, path = "/v1/feedback", tag = "feedback", params(ListQuery), responses(
    (status = 200, description = "A page.", body = FeedbackList),
    (status = 400, description = "A parameter is wrong or out of range.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn list(State(app): State<Arc<App>>, Parameters(query): Parameters<ListQuery>) -> Result<Response, ApiError> {
    let (mut page, annotators) = query.page()?;
    let limit = page.limit as usize;
    page.limit += 1;
    let mut data = corrections(&app)?.store().page(&page).await?;
    let has_more = data.len() > limit;
    data.truncate(limit);
    data.iter_mut().for_each(|record| unname(record, annotators));
    let id = |record: Option<&Feedback>| record.map(|record| record.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(FeedbackList { object: "list", data, first_id, last_id, has_more }).into_response())
}

fn unname(record: &mut Feedback, annotators: bool) {
    if !annotators {
        record.annotator = None;
    }
}

/// A record.
#[utoipa::path(get, path = "/v1/feedback/{id}", tag = "feedback", params(("id" = String, Path, description = "Its id."), query::OneQuery), responses(
    (status = 200, description = "The record.", body = Feedback),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of them.", body = ErrorBody),
    (status = 404, description = "There is none; or feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Parameters(query): Parameters<query::OneQuery>,
) -> Result<Response, ApiError> {
    let mut record = corrections(&app)?.store().feedback(&id).await?.ok_or_else(unknown)?;
    unname(&mut record, query.annotators.unwrap_or(false));
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
    removed: Removed,
}

fn deleted(removed: Removed) -> Response {
    Json(Deleted { object: "feedback.deleted", deleted: true, removed }).into_response()
}

/// Removes a record. Where it had closed an item of the annotation queue, that waits again, unless enough others have judged it; where not, the receipt
/// of its completion goes too, and the image unless somebody else refers to it.
#[utoipa::path(delete, path = "/v1/feedback/{id}", tag = "feedback", params(("id" = String, Path, description = "Its id.")), responses(
    (status = 200, description = "It is removed.", body = Deleted),
    (status = 400, description = "The id is none.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of them.", body = ErrorBody),
    (status = 404, description = "There is none; or feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn remove(State(app): State<Arc<App>>, Id(id): Id) -> Result<Response, ApiError> {
    match corrections(&app)?.remove(Target::Feedback(id)).await? {
        Removed { feedback: 0, .. } => Err(unknown()),
        removed => Ok(deleted(removed)),
    }
}

/// Removes all records and receipts of a user, and the images that nobody else refers to.
#[utoipa::path(delete, path = "/v1/feedback", tag = "feedback", params(UserQuery), responses(
    (status = 200, description = "They are removed, if there were any.", body = Deleted),
    (status = 400, description = "The user is not named.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn remove_user(
    State(app): State<Arc<App>>,
    Parameters(UserQuery { user }): Parameters<UserQuery>,
) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    check_name("user", &user)?;
    Ok(deleted(corrections.remove(Target::User(user)).await?))
}

/// Writes records out as a file, oldest first.
#[utoipa::path(get, path = "/v1/feedback/export", tag = "feedback", params(ExportQuery), responses(
    (status = 200, description = "The file.", body = String, content_type = "application/jsonl"),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    (status = 401, description = "The server has keys, and the request has none of them.", body = ErrorBody),
    (status = 404, description = "Feedback is off.", body = ErrorBody),
    (status = 503, description = "The store cannot be reached.", body = ErrorBody),
))]
pub(super) async fn export(State(app): State<Arc<App>>, Parameters(query): Parameters<ExportQuery>) -> Result<Response, ApiError> {
    let corrections = corrections(&app)?;
    let (store, images) = (Arc::clone(corrections.store()), Arc::clone(corrections.images()));
    let format = query.format.as_deref().unwrap_or("jsonl").parse::<files::Format>();
    let format = format.map_err(|why| ApiError::param("format", "invalid_value", format!("'format': {why}")))?;
    let mut pieces = Box::pin(files::export(store, images, query.filter()?, format, query.annotators.unwrap_or(false)));
    // What goes wrong at once is an error; what goes wrong later breaks the file off.
    let first = pieces.try_next().await?;
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(pieces));
    Ok(([(header::CONTENT_TYPE, format.media_type())], body).into_response())
}
