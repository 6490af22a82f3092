//! Images by `https:` URL: fetched for whoever may send requests, and so only from where anybody
//! could fetch them.
//!
//! A host is looked up once, all its addresses are checked, and the connection goes to one of
//! those, so that no second lookup can say something else. Redirections are followed here, each
//! target checked like the first. There are bounds on bytes, time and fetches at once. What a
//! server answers, beside a file, is not told to the client: it may be the operator's own.

mod address;
mod connect;
mod exchange;
mod link;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use url::Host;

pub use link::HttpsUrl;

use super::error::ApiError;
use crate::{
    config::{Config, host_port},
    engine::fair::{Share, Turns},
};
use exchange::FetchReply;

/// Fetches images.
pub(crate) struct Fetcher {
    tls: TlsConnector,
    allow: Vec<(Host, u16)>,
    max_redirects: usize,
    max_bytes: usize,
    timeout_s: u64,
    turns: Turns,
}

/// Why an image was not fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// An address of the host is not for everybody.
    #[error("the image's host, or one that it redirects to, is not on the public internet")]
    Forbidden,
    /// More bytes than allowed.
    #[error("the image has more than the {0} bytes allowed")]
    TooLarge(usize),
    /// More seconds than allowed.
    #[error("the image was not fetched within {0} s")]
    TooSlow(u64),
    /// Anything else.
    #[error("the image could not be fetched: {0}")]
    Failed(&'static str),
}

impl Fetcher {
    /// # Errors
    /// When the file of certificates cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let fetch = &config.fetch;
        Ok(Self {
            tls: connect::tls(fetch.ca_file.as_ref().map(String::as_str))?,
            allow: fetch
                .allow
                .iter()
                .filter_map(|entry| host_port(entry))
                .collect(),
            max_redirects: fetch.max_redirects,
            max_bytes: config.images.max_bytes,
            timeout_s: fetch.timeout_s,
            turns: Turns::with_reserve(fetch.max_concurrent, fetch.max_concurrent.div_ceil(8)),
        })
    }

    /// The file at `link`. Waits for others where there are too many; who waits holds a place among
    /// the admitted requests, so that those are a bounded number too.
    pub(crate) async fn fetch(&self, share: &Share, link: HttpsUrl) -> Result<Vec<u8>, FetchError> {
        let _turn = self.turns.take(share, 1).await;
        let deadline = Instant::now() + Duration::from_secs(self.timeout_s);
        timeout_at(deadline, self.follow(link, deadline))
            .await
            .unwrap_or(Err(FetchError::TooSlow(self.timeout_s)))
    }

    async fn follow(&self, mut link: HttpsUrl, deadline: Instant) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=self.max_redirects {
            let addresses = connect::resolve(&link, &self.allow).await?;
            let stream = connect::connect(&link, &addresses, &self.tls, deadline).await?;
            match exchange::exchange(&link, stream, self.max_bytes).await? {
                FetchReply::File(file) => return Ok(file),
                FetchReply::Elsewhere(location) => {
                    link = link.join(&location).map_err(|why| {
                        tracing::debug!(host = %link.host(), why, "an image's server redirects to \
                            what is not fetched");
                        FetchError::Failed("its server redirects to what is not a plain https: URL")
                    })?
                }
            }
        }
        Err(FetchError::Failed("its server redirects too often"))
    }
}

impl FetchError {
    /// For the metric.
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::TooLarge(_) => "too_large",
            Self::TooSlow(_) => "timeout",
            Self::Failed(_) => "failed",
        }
    }

    /// As the API says it about the field at `path`.
    pub(crate) fn at(self, path: &str) -> ApiError {
        let code = match self {
            Self::Forbidden => "image_address_forbidden",
            Self::TooLarge(_) => "image_too_large",
            Self::TooSlow(_) | Self::Failed(_) => "image_fetch_failed",
        };
        ApiError::param(path, code, format!("'{path}': {self}"))
    }
}
