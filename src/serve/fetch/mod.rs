//! Fetching of images by `https:` URL, from the public internet only.
//!
//! Since anybody may trigger a fetch, a host is resolved once, all its addresses are checked, and
//! the connection goes to one of them, so that no second lookup can differ (DNS rebinding).
//! Redirects are followed here, each target checked like the first. Bytes, time and concurrent
//! fetches are bounded. Nothing of a server's response but the file is revealed to the client: the
//! server may be the operator's own.

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

/// Reasons why an image was not fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// An address of the host is not public.
    #[error("the image's host, or the target of a redirect, is not on the public internet")]
    Forbidden,
    /// The file is larger than this many bytes.
    #[error("the image has more than the {0} bytes allowed")]
    TooLarge(usize),
    /// The fetch took longer than this many seconds.
    #[error("the image was not fetched within {0} s")]
    TooSlow(u64),
    /// Any other failure.
    #[error("the image could not be fetched: {0}")]
    Failed(&'static str),
}

impl Fetcher {
    /// Creates a fetcher.
    ///
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

    /// Fetches the file at `link`. Waits for its turn; waiters hold an admission permit, so their
    /// number is bounded too.
    pub(crate) async fn fetch(&self, share: &Share, link: HttpsUrl) -> Result<Vec<u8>, FetchError> {
        let _turn = self.turns.take(share, 1).await;
        let deadline = Instant::now() + Duration::from_secs(self.timeout_s);
        timeout_at(deadline, self.fetch_with_redirects(link, deadline))
            .await
            .unwrap_or(Err(FetchError::TooSlow(self.timeout_s)))
    }

    async fn fetch_with_redirects(
        &self,
        mut link: HttpsUrl,
        deadline: Instant,
    ) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=self.max_redirects {
            let addresses = connect::resolve(&link, &self.allow).await?;
            let stream = connect::connect(&link, &addresses, &self.tls, deadline).await?;
            match exchange::exchange(&link, stream, self.max_bytes).await? {
                FetchReply::File(file) => return Ok(file),
                FetchReply::Redirect(location) => {
                    link = link.join(&location).map_err(|why| {
                        tracing::debug!(host = %link.host(), why, "an image's server redirects to \
                            what is not fetched");
                        FetchError::Failed("its server redirects to a URL that is not allowed")
                    })?
                }
            }
        }
        Err(FetchError::Failed("its server redirects too often"))
    }
}

impl FetchError {
    /// Returns the label in metrics.
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::TooLarge(_) => "too_large",
            Self::TooSlow(_) => "timeout",
            Self::Failed(_) => "failed",
        }
    }

    /// Converts to an API error about the field at `path`.
    pub(crate) fn into_api_error(self, path: &str) -> ApiError {
        let code = match self {
            Self::Forbidden => "image_address_forbidden",
            Self::TooLarge(_) => "image_too_large",
            Self::TooSlow(_) | Self::Failed(_) => "image_fetch_failed",
        };
        ApiError::param(path, code, format!("'{path}': {self}"))
    }
}
