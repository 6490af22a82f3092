//! Requests to the Hub, and downloads that can be resumed.
//!
//! `hf-hub` sends the same requests, but takes the names of local files from answers, appends to a
//! partial file whatever the server sends, and compares no digest.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::api::{Progress, RepoInfo};
use sha2::{Digest, Sha256};
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, header},
};
use url::Url;

use super::{HubError, RepoId, repo::is_commit, selection::holds_weights};
use crate::util::digest::hex;

const USER_AGENT: &str = concat!("candor/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence of the server.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// What the server is asked for first, in messages.
const LISTING: &str = "the list of its files";
const MAX_REDIRECTS: usize = 10;
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Largest file that holds no weights; the largest tokenizers have some 40 MB.
const MAX_DESCRIPTION_BYTES: u64 = 256 << 20;
/// Connections for one file, as long as each brings some of it.
const MAX_CONNECTIONS: usize = 8;

/// Client of one server.
pub(super) struct HubClient {
    agent: Agent,
    endpoint: Url,
    token: Option<String>,
}

/// File that the server has.
pub(super) struct RemoteFile {
    pub(super) name: String,
    /// Identifier of its content: the SHA-256 of large files.
    pub(super) etag: String,
    pub(super) size: u64,
    url: Url,
}

impl RemoteFile {
    /// Returns the number of bytes that are in the folder, complete or partial.
    pub(super) fn stored(&self, blobs: &Path) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        size(blobs.join(&self.etag)).max(size(self.part(blobs)))
    }

    fn part(&self, blobs: &Path) -> PathBuf {
        blobs.join(format!("{}.part", self.etag))
    }

    fn is_stored(&self, blobs: &Path) -> bool {
        fs::metadata(blobs.join(&self.etag)).is_ok_and(|file| file.len() == self.size)
    }

    /// Returns the SHA-256 that the content must have, if the server says it.
    fn sha256(&self) -> Option<&str> {
        let hex = |byte: u8| byte.is_ascii_hexdigit();
        Some(self.etag.as_str()).filter(|etag| etag.len() == 64 && etag.bytes().all(hex))
    }
}

impl HubClient {
    pub(super) fn new(endpoint: Url, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .user_agent(USER_AGENT)
            // Sizes are those of the files.
            .accept_encoding("identity")
            .http_status_as_error(false)
            // Redirects are followed here: the token is for the endpoint alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(endpoint.scheme() == "https")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        Self {
            agent: config.build().into(),
            endpoint,
            token,
        }
    }

    /// Returns the commit of a repository's revision, and its files.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or names no commit.
    pub(super) fn info(&self, repo: &RepoId) -> Result<RepoInfo, HubError> {
        let [owner, model] = repo.parts();
        let url = self.url(&["api", "models", owner, model, "revision", repo.revision()]);
        let mut response = self.get(url, None)?;
        self.check(repo, LISTING, &response)?;
        let wrong = |why: String| HubError::Malformed {
            repo: repo.to_string(),
            what: LISTING.to_owned(),
            why,
        };
        let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES);
        let body = body.read_to_vec().map_err(|e| wrong(e.to_string()))?;
        let info: RepoInfo = serde_json::from_slice(&body).map_err(|e| wrong(e.to_string()))?;
        if !is_commit(&info.sha) || repo.commit().is_some_and(|commit| commit != info.sha) {
            return Err(wrong(format!("`sha` {:?} is not its commit", info.sha)));
        }
        Ok(info)
    }

    /// Asks for identifier and size of a file at a commit.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or does not say them.
    pub(super) fn describe(
        &self,
        repo: &RepoId,
        commit: &str,
        name: &str,
    ) -> Result<RemoteFile, HubError> {
        let response = self.head(self.file_url(repo, commit, name))?;
        if !response.status().is_redirection() {
            self.check(repo, name, &response)?;
        }
        let wrong = |why: &str| HubError::Malformed {
            repo: repo.to_string(),
            what: format!("the server's answer for {name}"),
            why: why.to_owned(),
        };
        let headers = response.headers();
        if text(headers, "x-repo-commit").is_some_and(|other| other != commit) {
            return Err(wrong("it is of another commit"));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag = etag.unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        // It becomes the name of a file.
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(usable) {
            return Err(wrong("it has no usable `etag`"));
        }
        let size = text(headers, "x-linked-size").or_else(|| {
            text(headers, "content-length").filter(|_| !response.status().is_redirection())
        });
        let size = size
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| wrong("it does not say the file's size"))?;
        if size > MAX_DESCRIPTION_BYTES && !holds_weights(name) {
            return Err(wrong(&format!("{size} bytes are too many for this file")));
        }
        Ok(RemoteFile {
            name: name.to_owned(),
            etag: etag.to_owned(),
            size,
            url: self.file_url(repo, commit, name),
        })
    }

    /// Downloads a file to the folder, under its identifier. What came of it before is kept.
    ///
    /// # Errors
    /// When the connection breaks, the file cannot be written, or its content is not the announced
    /// one.
    pub(super) fn download(
        &self,
        repo: &RepoId,
        file: &RemoteFile,
        blobs: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        if file.is_stored(blobs) {
            return Ok(());
        }
        let mut part = PartFile::open(file.part(blobs))?;
        // Another process may have completed it meanwhile.
        if file.is_stored(blobs) {
            return Ok(());
        }
        if part.len > file.size {
            part.restart()?;
        }
        let total = usize::try_from(file.size).unwrap_or(usize::MAX);
        progress.init(total, &file.name);
        progress.update(usize::try_from(part.len).unwrap_or(usize::MAX));
        for connection in 1.. {
            let before = part.len;
            match self.receive(repo, file, &mut part, progress) {
                Err(HubError::BrokeOff { .. })
                    if part.len > before && connection < MAX_CONNECTIONS => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        progress.finish();
        part.complete(repo, file, &blobs.join(&file.etag))
    }

    /// Receives the rest of a file over one connection.
    fn receive(
        &self,
        repo: &RepoId,
        file: &RemoteFile,
        part: &mut PartFile,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        if part.len == file.size {
            return Ok(());
        }
        let response = self.get(file.url.clone(), Some(part.len).filter(|&from| from > 0))?;
        self.check(repo, &file.name, &response)?;
        let range = format!("bytes {}-", part.len);
        let continues = response.status() == 206
            && text(response.headers(), "content-range").is_some_and(|r| r.starts_with(&range));
        if part.len > 0 && !continues {
            part.restart()?;
            progress.init(usize::try_from(file.size).unwrap_or(usize::MAX), &file.name);
        }
        // One byte more tells a longer file.
        let rest = (file.size - part.len).saturating_add(1);
        let mut body = response.into_body().into_reader().take(rest);
        let mut buffer = vec![0; 1 << 16];
        let broke_off = |part: &PartFile, why: String| HubError::BrokeOff {
            repo: repo.to_string(),
            name: file.name.clone(),
            at: part.len,
            size: file.size,
            why,
        };
        loop {
            match body.read(&mut buffer) {
                Ok(0) if part.len < file.size => {
                    return Err(broke_off(part, "the server closed it".to_owned()));
                }
                Ok(0) => return Ok(()),
                Ok(read) => {
                    part.append(buffer.get(..read).unwrap_or_default())?;
                    progress.update(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broke_off(part, error.to_string())),
            }
        }
    }

    /// Fails unless the answer is a success.
    fn check(&self, repo: &RepoId, what: &str, response: &Response<Body>) -> Result<(), HubError> {
        let status = response.status().as_u16();
        let (id, page) = (repo.to_string(), self.url(&repo.parts()).to_string());
        Err(match status {
            200..=299 => return Ok(()),
            401 | 403 => HubError::Denied {
                repo: id,
                status,
                page,
            },
            404 if what == LISTING => HubError::NotFound {
                repo: repo.name(),
                revision: repo.revision().to_owned(),
            },
            _ => HubError::Status {
                repo: id,
                what: what.to_owned(),
                status,
            },
        })
    }

    /// Requests a file, from a byte on.
    fn get(&self, url: Url, from: Option<u64>) -> Result<Response<Body>, HubError> {
        self.follow(url, true, |url, authorization| {
            let mut request = self.agent.get(url.as_str());
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            request.call()
        })
    }

    /// Requests the headers of a file. Those that matter are the endpoint's: it redirects to
    /// storage elsewhere.
    fn head(&self, url: Url) -> Result<Response<Body>, HubError> {
        self.follow(url, false, |url, authorization| {
            let mut request = self.agent.head(url.as_str());
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            request.call()
        })
    }

    /// Sends a request and follows its redirects, to other servers if `abroad` and then without
    /// the token.
    fn follow(
        &self,
        mut url: Url,
        abroad: bool,
        send: impl Fn(&Url, Option<String>) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, HubError> {
        let unreachable = |why: String| HubError::Unreachable {
            endpoint: self.endpoint.to_string(),
            why,
        };
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == self.endpoint.origin();
            let token = self.token.as_ref().filter(|_| own);
            let answer = send(&url, token.map(|token| format!("Bearer {token}")))
                .map_err(|error| unreachable(error.to_string()))?;
            let target =
                text(answer.headers(), "location").filter(|_| answer.status().is_redirection());
            let Some(target) = target else {
                return Ok(answer);
            };
            let next = url.join(target).map_err(|error| {
                unreachable(format!("it redirects to a wrong address: {error}"))
            })?;
            if !abroad && next.origin() != self.endpoint.origin() {
                return Ok(answer);
            }
            url = next;
        }
        Err(unreachable("it redirects without end".to_owned()))
    }

    fn file_url(&self, repo: &RepoId, commit: &str, name: &str) -> Url {
        let [owner, model] = repo.parts();
        self.url(&[owner, model, "resolve", commit, name])
    }

    /// Returns the address of a path below the endpoint; parts are escaped.
    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Partial download, which one process writes at a time.
struct PartFile {
    path: PathBuf,
    file: File,
    len: u64,
    digest: Sha256,
}

impl PartFile {
    /// Opens or creates the file, and waits until no other process writes it.
    fn open(path: PathBuf) -> Result<Self, HubError> {
        let at = HubError::at(&path);
        let mut options = File::options();
        options.create(true).append(true).read(true);
        let mut file = options.open(&path).map_err(&at)?;
        file.lock().map_err(&at)?;
        let mut digest = Sha256::new();
        let len = io::copy(&mut file, &mut digest).map_err(&at)?;
        drop(at);
        Ok(Self {
            path,
            file,
            len,
            digest,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let written = self.file.write_all(bytes);
        written.map_err(HubError::at(&self.path))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::at(&self.path))?;
        (self.len, self.digest) = (0, Sha256::new());
        Ok(())
    }

    /// Compares the content with what was announced and gives it its name, or deletes it.
    fn complete(self, repo: &RepoId, file: &RemoteFile, blob: &Path) -> Result<(), HubError> {
        let at = HubError::at(&self.path);
        let digest = hex(&self.digest.finalize());
        let mismatch = |announced: String, found: String| HubError::Mismatch {
            repo: repo.to_string(),
            name: file.name.clone(),
            announced,
            found,
        };
        let wrong = match file.sha256() {
            _ if self.len > file.size => Some(mismatch(
                format!("{} bytes", file.size),
                "more bytes".to_owned(),
            )),
            Some(sha256) if !sha256.eq_ignore_ascii_case(&digest) => Some(mismatch(
                format!("SHA-256 {sha256}"),
                format!("SHA-256 {digest}"),
            )),
            _ => None,
        };
        if let Some(wrong) = wrong {
            fs::remove_file(&self.path).map_err(at)?;
            return Err(wrong);
        }
        self.file.sync_all().map_err(&at)?;
        fs::rename(&self.path, blob).map_err(at)
    }
}
