//! Reading of request bodies, with checks of type, size and transfer rate, and decompression.

use std::{convert::Infallible, future::ready, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, header},
};
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};
use tower::{ServiceExt, service_fn};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

use super::{app::App, body_memory::MemoryShare, error::ApiError, pace::Pace};

/// Bytes read and discarded of a rejected body, so that clients that send it whole first still read
/// the error.
const DISCARD_BYTES: usize = 256 << 20;

/// Longest pause of a client while it sends its body.
const PAUSE: Duration = Duration::from_secs(10);

/// A received body and its share of the memory budget.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    /// Decompressed bytes.
    pub(crate) bytes: Vec<u8>,
    /// Memory share, held until the bytes and the image in them are dropped.
    pub(crate) share: MemoryShare,
}

/// Limits for receiving a body.
#[derive(Clone)]
struct Terms {
    limit: usize,
    read_timeout: Duration,
    deadline: Instant,
    pace: Pace,
}

impl Terms {
    fn new(app: &App) -> Self {
        let read_timeout = app.read_timeout();
        let pace = Pace::new(PAUSE, app.config.server.min_body_rate);
        Self {
            limit: app.config.server.max_body_bytes,
            read_timeout,
            deadline: Instant::now() + read_timeout,
            pace,
        }
    }

    fn slow_error(&self) -> ApiError {
        ApiError::slow_body(self.read_timeout.as_secs(), self.pace.rate())
    }
}

/// Reads and decompresses a JSON body.
///
/// # Errors
/// 415 for other content types or encodings; 413 above the configured size (by `content-length`
/// before reading, or by the decompressed size); 408 if it arrives too late or too slowly; 429 if
/// no memory becomes available in time; 400 if it is incomplete.
pub(crate) async fn read_json(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReceivedBody, ApiError> {
    let terms = Terms::new(app);
    check_type(headers)?;
    let encoding = encoding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > terms.limit as u64) {
        // With `Expect: 100-continue` the client has sent nothing yet.
        if !headers.contains_key(header::EXPECT) {
            discard(body, terms.read_timeout);
        }
        return Err(ApiError::too_large(terms.limit));
    }
    let share = app.body_memory.share();
    match encoding {
        None => {
            let mut bytes = Vec::new();
            // Reserved memory is untouched until data arrives, and no reallocation copies it. If
            // the reservation fails, the vector grows as usual.
            let _ = bytes.try_reserve_exact(announced.unwrap_or(0) as usize);
            receive(body, bytes, share, terms, true).await
        }
        // The rest of a body that decompresses beyond the limit is not decompressed.
        Some(encoding) => receive(
            decompress(body, &encoding).await,
            Vec::new(),
            share,
            terms,
            false,
        )
        .await
        .map_err(|error| match error.body.error.code {
            Some(INCOMPLETE_BODY) => {
                let name = encoding.to_str().unwrap_or_default();
                ApiError::invalid(
                    "invalid_content_encoding",
                    format!("the request's body is not valid {name}, or it broke off"),
                )
            }
            _ => error,
        }),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .map(|v| v.to_str().unwrap_or("?"));
    let essence = given.map(|g| {
        g.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    match essence.as_deref() {
        Some("application/json" | "text/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(ApiError::media_type(given)),
    }
}

/// Returns the content encoding; `None` if the body is not compressed.
fn encoding(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut given = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|v| v.to_str().unwrap_or("?"));
    let Some(first) = given.next() else {
        return Ok(None);
    };
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

/// Decompresses a body.
fn decompress(body: Body, encoding: &HeaderValue) -> BoxFuture<'static, Body> {
    let mut request = Request::new(body);
    request
        .headers_mut()
        .insert(header::CONTENT_ENCODING, encoding.clone());
    let decompressed = |request: Request<DecompressionBody<Body>>| {
        ready(Ok::<_, Infallible>(Response::new(Body::new(
            request.into_body(),
        ))))
    };
    let response = RequestDecompression::new(service_fn(decompressed)).oneshot(request);
    response
        .map(|Ok(response)| Body::new(response.into_body()))
        .boxed()
}

/// Error code of an incomplete body.
const INCOMPLETE_BODY: &str = "incomplete_body";

async fn receive(
    mut body: Body,
    mut bytes: Vec<u8>,
    mut share: MemoryShare,
    mut terms: Terms,
    discard_rest: bool,
) -> Result<ReceivedBody, ApiError> {
    loop {
        let until = terms.pace.wait_until(Instant::now()).min(terms.deadline);
        let Some(frame) = timeout_at(until, body.frame())
            .await
            .map_err(|_| terms.slow_error())?
        else {
            break;
        };
        let frame = frame
            .map_err(|_| ApiError::invalid(INCOMPLETE_BODY, "the request's body broke off"))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        terms.pace.record_transfer(data.len(), Instant::now());
        if data.len() > terms.limit - bytes.len() {
            if discard_rest {
                discard(body, terms.read_timeout);
            }
            return Err(ApiError::too_large(terms.limit));
        }
        if timeout_at(terms.deadline, share.grow(bytes.len() + data.len()))
            .await
            .is_err()
        {
            if discard_rest {
                discard(body, terms.read_timeout);
            }
            return Err(ApiError::busy(
                "the server's memory for request bodies is in use; retry in 1 s",
                1,
            ));
        }
        bytes.extend_from_slice(data);
    }
    Ok(ReceivedBody { bytes, share })
}

/// Reads and discards the rest of a body in the background.
pub(crate) fn discard(mut body: Body, read_timeout: Duration) {
    tokio::spawn(timeout(read_timeout, async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |d| d.len());
            if read > DISCARD_BYTES {
                break;
            }
        }
    }));
}
