//! A small HTTP/1.1 client over a plain socket, so that tests can send what no well-behaved client
//! would.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The answer in `raw`, without the interim one that may stand before it.
    pub fn parse(raw: &[u8]) -> Self {
        let raw = raw
            .strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            .unwrap_or(raw);
        let end = raw
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no HTTP: {:?}", String::from_utf8_lossy(raw)));
        let head = std::str::from_utf8(&raw[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<_> = lines
            .map(|l| l.split_once(": ").unwrap())
            .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
            .collect();
        let chunked = headers
            .iter()
            .any(|(k, v)| k == "transfer-encoding" && v == "chunked");
        let body = if chunked {
            dechunk(&raw[end + 4..])
        } else {
            raw[end + 4..].to_vec()
        };
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The error, after checking that it has OpenAI's shape and the status.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.header("content-type"), Some("application/json"));
        let error = self.json()["error"].clone();
        let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(self.header("x-request-id").is_some());
        error
    }

    /// The data of all events of a stream, `[DONE]` included; an event with another name than the
    /// default has it in front.
    pub fn events(&self) -> Vec<String> {
        assert_eq!(
            (self.status, self.header("content-type")),
            (200, Some("text/event-stream")),
            "{}",
            self.text()
        );
        let event = |block: &str| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|l| l.strip_prefix(name))
                    .map(str::trim_start)
            };
            let (name, data) = (field("event:"), field("data:")?);
            Some(name.map_or_else(|| data.to_owned(), |name| format!("{name}: {data}")))
        };
        self.text().split("\n\n").filter_map(event).collect()
    }

    /// The chunks of a stream that ended well.
    pub fn chunks(&self) -> Vec<Value> {
        let events = self.events();
        let (done, chunks) = events.split_last().unwrap();
        assert_eq!(done, "[DONE]");
        chunks
            .iter()
            .map(|c| serde_json::from_str(c).unwrap())
            .collect()
    }
}

fn dechunk(mut raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = raw.windows(2).position(|w| w == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        out.extend(&raw[end + 2..end + 2 + length]);
        raw = &raw[end + 2 + length + 2..];
    }
    out
}

/// A connection. Reading from it gives up after a minute, so that a server that hangs is a failure.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

/// Sends `raw` and reads until the server closes.
pub fn exchange(to: SocketAddr, raw: &[u8]) -> Reply {
    let mut stream = connect(to);
    stream.write_all(raw).unwrap();
    read(&mut stream)
}

/// Reads until the server closes.
pub fn read(stream: &mut TcpStream) -> Reply {
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    Reply::parse(&raw)
}

/// Sends `raw` to a server that may go at any time: `None` unless the whole answer comes.
pub fn try_exchange(to: SocketAddr, raw: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    stream.write_all(raw).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_lowercase();
    let length: usize = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))?
        .parse()
        .ok()?;
    (answer.len() == end + 4 + length).then(|| Reply::parse(&answer))
}

/// Reads until `what` has come.
pub fn read_until(stream: &mut TcpStream, what: &str) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if text.contains(what) {
            return text;
        }
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the server closed before {what:?}: {text:?}");
        seen.extend(&buffer[..n]);
    }
}

/// A request's bytes; the connection is closed after it.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut raw = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n")
        .into_bytes();
    for (name, value) in headers {
        raw.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    if !body.is_empty() {
        raw.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    raw.extend(b"\r\n");
    raw.extend(body);
    raw
}

pub fn get(to: SocketAddr, path: &str) -> Reply {
    exchange(to, &request("GET", path, &[], b""))
}

pub const JSON: (&str, &str) = ("content-type", "application/json");

/// Posts a chat completion request.
pub fn chat(to: SocketAddr, body: &Value) -> Reply {
    chat_raw(to, body.to_string().as_bytes())
}

/// Posts these bytes as one.
pub fn chat_raw(to: SocketAddr, body: &[u8]) -> Reply {
    exchange(to, &request("POST", "/v1/chat/completions", &[JSON], body))
}
