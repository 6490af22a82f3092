//! Server for tests that answers as the Hub does: a list of files at a commit, redirects of small
//! files on the same server and of weights to storage on another one, ranges, and refusals.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use sha2::{Digest, Sha256};

/// The one repository.
pub(crate) const REPO: &str = "lab/tiny";
/// Commit of its branch `main` and its tag `v1`.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a test changes about the server, and what it saw.
#[derive(Default)]
pub(crate) struct HubState {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// More names in the list of files.
    pub(crate) listed: Vec<String>,
    /// `sha` of the list, if not the commit.
    pub(crate) sha: Option<String>,
    /// Status of every answer, if it is a refusal.
    pub(crate) refusal: Option<u16>,
    /// Headers of files that replace the right ones.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Bytes of weights after which each of the coming connections is cut.
    pub(crate) cuts: Vec<usize>,
    /// Keeps the connections open that `cuts` would cut.
    pub(crate) stalls: bool,
    pub(crate) ignores_ranges: bool,
    /// Bytes sent in place of the weights.
    pub(crate) forged: Option<Vec<u8>>,
    /// Requests: server, method, path, range, authorization.
    pub(crate) seen: Vec<SeenRequest>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenRequest {
    pub(crate) storage: bool,
    pub(crate) line: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

pub(crate) struct HubServer {
    address: SocketAddr,
    state: Arc<Mutex<HubState>>,
}

impl HubServer {
    /// Starts a server whose repository has these files.
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, storage) = (listen(), listen());
        let address = hub.local_addr().unwrap();
        let elsewhere = storage.local_addr().unwrap();
        let files = files
            .iter()
            .map(|&(name, bytes)| (name.to_owned(), bytes.to_vec()));
        let state = Arc::new(Mutex::new(HubState {
            files: files.collect(),
            ..HubState::default()
        }));
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that went away is no matter of the server's.
                    thread::spawn(move || drop(answer(&stream, &state, is_storage, elsewhere)));
                }
            });
        }
        Self { address, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap()
    }

    /// Returns the requests since the last call.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.state().seen)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".bin")
}

/// Answers one request and closes the connection.
fn answer(
    stream: &TcpStream,
    state: &Mutex<HubState>,
    storage: bool,
    elsewhere: SocketAddr,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let line = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for header in lines {
        let header = header?;
        let Some((name, value)) = header.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let (method, path) = line.split_once(' ').unwrap_or_default();
    let mut state = state.lock().unwrap();
    state.seen.push(SeenRequest {
        storage,
        line: line.clone(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    });
    let mut reply = Reply {
        stream,
        head: method == "HEAD",
    };
    if let Some(status) = state.refusal {
        return reply.send(status, &[], b"refused");
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        if !["main", "v1", COMMIT].contains(&revision) {
            return reply.send(404, &[("x-error-code", "RevisionNotFound")], b"");
        }
        let names = state.files.keys().chain(&state.listed);
        let siblings: Vec<_> = names
            .map(|name| serde_json::json!({ "rfilename": name }))
            .collect();
        let sha = state.sha.as_deref().unwrap_or(COMMIT);
        let list = serde_json::json!({ "id": REPO, "sha": sha, "siblings": siblings });
        return reply.send(200, &[], list.to_string().as_bytes());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some(bytes) = state.files.get(name).cloned() else {
        return reply.send(404, &[("x-error-code", "EntryNotFound")], b"");
    };
    let size = bytes.len().to_string();
    let etag = format!("\"{}\"", sha256(&bytes));
    let small_etag = format!("\"{}\"", &sha256(&bytes)[..40]);
    let replaced = state.headers.clone();
    let with = |own: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let replaced = |name: &str| replaced.iter().find(|(other, _)| *other == name);
        own.iter()
            .map(|&(name, value)| {
                (
                    name,
                    replaced(name).map_or(value, |(_, value)| value).to_owned(),
                )
            })
            .collect()
    };
    if storage {
        let bytes = state.forged.clone().unwrap_or(bytes);
        let from = headers
            .get("range")
            .filter(|_| !state.ignores_ranges)
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            });
        let cut = (!state.cuts.is_empty()).then(|| state.cuts.remove(0));
        let stalls = state.stalls && cut.is_some();
        drop(state);
        reply.body(&bytes, from, cut)?;
        if stalls {
            // Until the client goes away.
            std::io::copy(&mut { stream }, &mut std::io::sink())?;
        }
        return Ok(());
    }
    let resolved = format!("/{REPO}/resolve/{COMMIT}/{name}");
    if path == resolved && is_large(name) {
        let location = format!("http://{elsewhere}/storage/{name}");
        let headers = with(&[
            ("location", &location),
            ("x-repo-commit", COMMIT),
            ("x-linked-etag", &etag),
            ("x-linked-size", &size),
        ]);
        reply.send(302, &borrowed(&headers), b"")
    } else if path == resolved {
        let location = format!("/api/resolve-cache/models/{REPO}/{COMMIT}/{name}");
        let headers = [("location", location.as_str()), ("x-repo-commit", COMMIT)];
        reply.send(307, &headers, b"")
    } else {
        let headers = with(&[("x-repo-commit", COMMIT), ("etag", &small_etag)]);
        reply.send(200, &borrowed(&headers), &bytes)
    }
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

struct Reply<'a> {
    stream: &'a TcpStream,
    head: bool,
}

impl Reply<'_> {
    fn head(&mut self, status: u16, headers: &[(&str, &str)], len: usize) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {len}\r\n\r\n");
        self.stream.write_all(head.as_bytes())
    }

    fn send(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
        self.head(status, headers, body.len())?;
        let body = if self.head { &[] } else { body };
        self.stream.write_all(body)
    }

    /// Sends the bytes from `from` on, all if there is none, and at most `cut` of them.
    fn body(
        &mut self,
        bytes: &[u8],
        from: Option<usize>,
        cut: Option<usize>,
    ) -> std::io::Result<()> {
        let rest = &bytes[from.unwrap_or(0)..];
        let range = format!(
            "bytes {}-{}/{}",
            bytes.len() - rest.len(),
            bytes.len() - 1,
            bytes.len()
        );
        match from {
            Some(_) => self.head(206, &[("content-range", &range)], rest.len())?,
            None => self.head(200, &[("accept-ranges", "bytes")], rest.len())?,
        }
        self.stream
            .write_all(&rest[..cut.unwrap_or(rest.len()).min(rest.len())])
    }
}
