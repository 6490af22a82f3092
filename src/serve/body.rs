//! Reading a request's body: its type, its size and its pace are checked before and while it arrives, and a compressed one is unpacked.

use std::{convert::Infallible, future::ready, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, header},
};
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{ServiceExt, service_fn};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

use super::error::ApiError;

/// What is read and thrown away of a body that is too large, so that a client that sends all of it first still reads the error.
const DISCARD_BYTES: usize = 256 << 20;

/// The whole body of a JSON request, unpacked.
///
/// # Errors
/// 415 for other types and encodings, 413 over `limit` bytes (by the announced length before anything is read, and by what is unpacked), 408 after
/// `patience`, 400 when it breaks off.
pub(crate) async fn read_json(headers: &HeaderMap, body: Body, limit: usize, patience: Duration) -> Result<Vec<u8>, ApiError> {
    check_type(headers)?;
    let encoding = encoding(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        // A client that asks first has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            discard(body, patience);
        }
        return Err(ApiError::too_large(limit));
    }
    let read = async {
        match encoding {
            None => collect(body, limit, patience, true).await,
            // What is left of a body that unpacks to too much is not unpacked.
            Some(encoding) => {
                collect(unpack(body, &encoding).await, limit, patience, false).await.map_err(|error| match error.body.error.code {
                    Some(BROKEN_OFF) => {
                        let name = encoding.to_str().unwrap_or_default();
                        ApiError::invalid("invalid_content_encoding", format!("the request's body is not valid {name}, or it broke off"))
                    }
                    _ => error,
                })
            }
        }
    };
    timeout(patience, read).await.unwrap_or_else(|_| Err(ApiError::slow_body(patience.as_secs())))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("?"));
    let essence = given.map(|g| g.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json" | "text/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(ApiError::media_type(given)),
    }
}

/// How the body is compressed; `None` where it is not.
fn encoding(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut given = headers.get_all(header::CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?"));
    let Some(first) = given.next() else { return Ok(None) };
    let name = first.trim().to_ascii_lowercase();
    match name.as_str() {
        _ if given.next().is_some() => Err(ApiError::content_encoding("several")),
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(HeaderValue::from_static("gzip"))),
        "deflate" => Ok(Some(HeaderValue::from_static("deflate"))),
        "br" => Ok(Some(HeaderValue::from_static("br"))),
        "zstd" => Ok(Some(HeaderValue::from_static("zstd"))),
        _ => Err(ApiError::content_encoding(first)),
    }
}

/// The body as it was before it was compressed in this known way.
fn unpack(body: Body, encoding: &HeaderValue) -> BoxFuture<'static, Body> {
    let mut request = Request::new(body);
    request.headers_mut().insert(header::CONTENT_ENCODING, encoding.clone());
    let unpacked = |request: Request<DecompressionBody<Body>>| ready(Ok::<_, Infallible>(Response::new(Body::new(request.into_body()))));
    let response = RequestDecompression::new(service_fn(unpacked)).oneshot(request);
    response.map(|Ok(response)| Body::new(response.into_body())).boxed()
}

/// The code of the error of a body that ends early.
const BROKEN_OFF: &str = "incomplete_body";

async fn collect(mut body: Body, limit: usize, patience: Duration, read_on: bool) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid(BROKEN_OFF, "the request's body broke off"))?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit - bytes.len() {
            if read_on {
                discard(body, patience);
            }
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
