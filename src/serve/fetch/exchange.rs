//! One HTTP request for an image. Only the file or a redirect of the response is used; nothing else
//! of it is revealed to the client.

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::client::TlsStream;

use super::{FetchError, link::HttpsUrl};

/// Most bytes of the response's status line and headers.
const HEADER_BYTES: usize = 32 * 1024;

/// Reply of the image's server.
pub(super) enum FetchReply {
    /// The file.
    File(Vec<u8>),
    /// A redirect to this location, as the server wrote it.
    Redirect(String),
}

/// Requests the URL over a connection that is then closed.
pub(super) async fn exchange(
    link: &HttpsUrl,
    stream: TlsStream<TcpStream>,
    max_bytes: usize,
) -> Result<FetchReply, FetchError> {
    let broken = |error: hyper::Error| {
        tracing::debug!(host = %link.host(), %error, "an image's server broke off");
        FetchError::Failed("its server did not send a complete answer")
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // The connection task ends with this function, also when it is canceled.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender
        .send_request(build_request(link)?)
        .await
        .map_err(broken)?;
    let status = response.status();
    match status {
        StatusCode::OK => Ok(FetchReply::File(read(response, max_bytes, broken).await?)),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|l| std::str::from_utf8(l.as_bytes()).ok());
            Ok(FetchReply::Redirect(
                location
                    .ok_or(FetchError::Failed(
                        "its server redirects without a location",
                    ))?
                    .to_owned(),
            ))
        }
        _ => {
            tracing::debug!(host = %link.host(), %status, "an image's server answered with another \
                status");
            Err(FetchError::Failed(
                "its server did not answer with status 200",
            ))
        }
    }
}

/// Builds the request; nothing of the client's own request is in it.
fn build_request(link: &HttpsUrl) -> Result<Request<Empty<Bytes>>, FetchError> {
    let invalid = || FetchError::Failed("the URL cannot be asked for");
    let request = Request::builder()
        .uri(link.target().ok_or_else(invalid)?)
        .header(HOST, link.authority())
        .header(USER_AGENT, concat!("candor/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "image/*")
        // Compressed content is not decompressed, so that few bytes cannot become many.
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close");
    request.body(Empty::new()).map_err(|_| invalid())
}

/// Reads a body of at most `max_bytes`, and nothing of one announced as larger.
async fn read(
    response: Response<Incoming>,
    max_bytes: usize,
    broken: impl Fn(hyper::Error) -> FetchError,
) -> Result<Vec<u8>, FetchError> {
    let mut body = response.into_body();
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(FetchError::TooLarge(max_bytes));
    }
    let mut file = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(&broken)?.into_data() else {
            continue;
        };
        if file.len() + data.len() > max_bytes {
            return Err(FetchError::TooLarge(max_bytes));
        }
        file.extend_from_slice(&data);
    }
    Ok(file)
}
