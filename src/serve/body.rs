//! Reading a request's body: its type, its size and its pace are checked before and while it
//! arrives, and a compressed one is unpacked.

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

/// What is read and thrown away of a body that is too large, so that a client that sends all of it
/// first still reads the error.
const DISCARD_BYTES: usize = 256 << 20;

/// How long a client that sends its body may pause.
const PAUSE: Duration = Duration::from_secs(10);

/// The body of a request, and the memory that it has.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    /// Its bytes, unpacked.
    pub(crate) bytes: Vec<u8>,
    /// Their share of the memory for bodies, to be held until they, and the image in them, are
    /// gone.
    pub(crate) share: MemoryShare,
}

/// What a body is held to.
#[derive(Clone)]
struct Terms {
    limit: usize,
    patience: Duration,
    deadline: Instant,
    pace: Pace,
}

impl Terms {
    fn of(app: &App) -> Self {
        let patience = app.read_timeout();
        let pace = Pace::new(PAUSE, app.config.server.min_body_rate);
        Self {
            limit: app.config.server.max_body_bytes,
            patience,
            deadline: Instant::now() + patience,
            pace,
        }
    }

    fn slow(&self) -> ApiError {
        ApiError::slow_body(self.patience.as_secs(), self.pace.rate())
    }
}

/// The whole body of a JSON request, unpacked.
///
/// # Errors
/// 415 for other types and encodings, 413 over the configured size (by the announced length before
/// anything is read, and by what is unpacked), 408 when it does not come in time or hardly moves,
/// 429 when there is no memory for it in time, 400 when it breaks off.
pub(crate) async fn read_json(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReceivedBody, ApiError> {
    let terms = Terms::of(app);
    check_type(headers)?;
    let encoding = encoding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > terms.limit as u64) {
        // A client that asks first has sent nothing yet, and need not.
        if !headers.contains_key(header::EXPECT) {
            discard(body, terms.patience);
        }
        return Err(ApiError::too_large(terms.limit));
    }
    let share = app.body_memory.share();
    match encoding {
        None => {
            let mut bytes = Vec::new();
            // What is announced is not touched before it comes, and then never copied. Where that
            // cannot be had, it grows.
            let _ = bytes.try_reserve_exact(announced.unwrap_or(0) as usize);
            collect(body, bytes, share, terms, true).await
        }
        // What is left of a body that unpacks to too much is not unpacked.
        Some(encoding) => collect(
            unpack(body, &encoding).await,
            Vec::new(),
            share,
            terms,
            false,
        )
        .await
        .map_err(|error| match error.body.error.code {
            Some(BROKEN_OFF) => {
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

/// Returns how the body is compressed; `None` where it is not.
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

/// The body as it was before it was compressed in this known way.
fn unpack(body: Body, encoding: &HeaderValue) -> BoxFuture<'static, Body> {
    let mut request = Request::new(body);
    request
        .headers_mut()
        .insert(header::CONTENT_ENCODING, encoding.clone());
    let unpacked = |request: Request<DecompressionBody<Body>>| {
        ready(Ok::<_, Infallible>(Response::new(Body::new(
            request.into_body(),
        ))))
    };
    let response = RequestDecompression::new(service_fn(unpacked)).oneshot(request);
    response
        .map(|Ok(response)| Body::new(response.into_body()))
        .boxed()
}

/// The code of the error of a body that ends early.
const BROKEN_OFF: &str = "incomplete_body";

async fn collect(
    mut body: Body,
    mut bytes: Vec<u8>,
    mut share: MemoryShare,
    mut terms: Terms,
    read_on: bool,
) -> Result<ReceivedBody, ApiError> {
    loop {
        let until = terms.pace.wait_until(Instant::now()).min(terms.deadline);
        let Some(frame) = timeout_at(until, body.frame())
            .await
            .map_err(|_| terms.slow())?
        else {
            break;
        };
        let frame =
            frame.map_err(|_| ApiError::invalid(BROKEN_OFF, "the request's body broke off"))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        terms.pace.moved(data.len(), Instant::now());
        if data.len() > terms.limit - bytes.len() {
            if read_on {
                discard(body, terms.patience);
            }
            return Err(ApiError::too_large(terms.limit));
        }
        if timeout_at(terms.deadline, share.grow(bytes.len() + data.len()))
            .await
            .is_err()
        {
            if read_on {
                discard(body, terms.patience);
            }
            return Err(ApiError::busy(
                "the server receives as many large requests as it has memory for; retry in 1 s",
                1,
            ));
        }
        bytes.extend_from_slice(data);
    }
    Ok(ReceivedBody { bytes, share })
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
