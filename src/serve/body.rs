//! Reading a request's body: its type, its size and its pace are checked before and while it arrives.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::error::ApiError;

/// What is read and thrown away of a body that is too large, so that a client that sends all of it first still reads the error.
const DISCARD_BYTES: usize = 256 << 20;

/// The whole body of a JSON request.
///
/// # Errors
/// 415 for other types, 413 over `limit` bytes (by the announced length before anything is read), 408 after `patience`, 400 when it breaks off.
pub(crate) async fn read_json(headers: &HeaderMap, body: Body, limit: usize, patience: Duration) -> Result<Vec<u8>, ApiError> {
    check_type(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        // A client that asks first has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            discard(body, patience);
        }
        return Err(ApiError::too_large(limit));
    }
    timeout(patience, collect(body, limit, patience)).await.unwrap_or_else(|_| Err(ApiError::slow_body(patience.as_secs())))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("?"));
    let essence = given.map(|g| g.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(ApiError::media_type(given)),
    }
}

async fn collect(mut body: Body, limit: usize, patience: Duration) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("incomplete_body", "the request's body broke off"))?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit - bytes.len() {
            discard(body, patience);
            return Err(ApiError::too_large(limit));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Reads on in the background, beside the answer.
pub(crate) fn discard(mut body: Body, patience: Duration) {
    tokio::spawn(timeout(patience, async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |d| d.len());
            if read > DISCARD_BYTES {
                break;
            }
        }
    }));
}
