//! A collector of traces: it takes OTLP over HTTP and keeps what it is sent.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1 as otlp,
};
use prost::Message;
use serde_json::{Value, json};

use crate::served::eventually;

/// A span with its resource.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSpan {
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    pub kind: otlp::span::SpanKind,
    /// Start and end in nanoseconds.
    pub times: (u64, u64),
    pub failed: bool,
    pub state: String,
    pub attributes: BTreeMap<String, Value>,
    pub resource: BTreeMap<String, Value>,
}

#[derive(Default)]
struct Seen {
    spans: Mutex<Vec<SeenSpan>>,
    /// Request line and headers of each export.
    heads: Mutex<Vec<String>>,
    /// Exports are refused.
    refuses: AtomicBool,
    /// Exports are read and never answered.
    hangs: AtomicBool,
    stopping: AtomicBool,
}

/// The collector; dropping it stops it.
pub struct Collector {
    pub at: SocketAddr,
    seen: Arc<Seen>,
}

impl Collector {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopping.load(SeqCst) {
                    return;
                }
                let (stream, seen) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || serve(&stream, &seen));
            }
        });
        Self { at, seen }
    }

    /// For `tracing.otlp_endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Refuses exports from now on, or takes them again.
    pub fn refuse(&self, refuses: bool) {
        self.seen.refuses.store(refuses, SeqCst);
    }

    /// Leaves exports without an answer from now on.
    pub fn hang(&self) {
        self.seen.hangs.store(true, SeqCst);
    }

    pub fn spans(&self) -> Vec<SeenSpan> {
        self.seen.spans.lock().unwrap().clone()
    }

    /// Request line and headers of each export, refused ones included.
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// Waits for a server span whose attribute has this value; returns its trace.
    #[track_caller]
    pub fn trace_of(&self, attribute: &str, value: &str) -> SeenTrace {
        let find = || {
            let spans = self.spans();
            let server = spans.iter().find(|span| {
                span.kind == otlp::span::SpanKind::Server && span.attributes[attribute] == value
            })?;
            Some(server.clone())
        };
        let mut server = None;
        eventually("the trace is exported", || {
            server = find();
            server.is_some()
        });
        SeenTrace {
            server: server.unwrap(),
            spans: self.spans(),
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.seen.stopping.store(true, SeqCst);
        let _ = TcpStream::connect(self.at);
    }
}

/// One request's spans.
#[derive(Debug)]
pub struct SeenTrace {
    pub server: SeenSpan,
    spans: Vec<SeenSpan>,
}

impl SeenTrace {
    /// The children of a span of this trace, in the order of their beginnings.
    pub fn children(&self, of: &SeenSpan) -> Vec<&SeenSpan> {
        let is_child = |span: &&SeenSpan| span.trace == of.trace && span.parent == of.id;
        let mut children: Vec<_> = self.spans.iter().filter(is_child).collect();
        children.sort_by_key(|span| span.times);
        children
    }

    /// The only span with this name below a span.
    #[track_caller]
    pub fn child(&self, of: &SeenSpan, name: &str) -> &SeenSpan {
        let named: Vec<_> = self
            .children(of)
            .into_iter()
            .filter(|span| span.name == name)
            .collect();
        assert_eq!(named.len(), 1, "{name}: {named:#?}");
        named[0]
    }

    /// All spans of the request.
    pub fn all(&self) -> Vec<&SeenSpan> {
        let is_own = |span: &&SeenSpan| span.trace == self.server.trace;
        self.spans.iter().filter(is_own).collect()
    }
}

/// Answers the exports of one connection, which is kept alive.
fn serve(stream: &TcpStream, seen: &Seen) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        seen.heads.lock().unwrap().push(head);
        while seen.hangs.load(SeqCst) {
            if seen.stopping.load(SeqCst) {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = if seen.refuses.load(SeqCst) {
            "401 Unauthorized"
        } else {
            let request = ExportTraceServiceRequest::decode(&*body).unwrap();
            seen.spans.lock().unwrap().extend(spans(request));
            "200 OK"
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
        );
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<SeenSpan> {
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            found.push(SeenSpan {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind(),
                name: span.name,
                times: (span.start_time_unix_nano, span.end_time_unix_nano),
                failed: span
                    .status
                    .is_some_and(|status| status.code() == otlp::status::StatusCode::Error),
                state: span.trace_state,
                attributes: attributes(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    found
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, Value> {
    let pair = |pair: KeyValue| {
        let value = pair.value.and_then(|value| value.value);
        (pair.key, value.map_or(Value::Null, json_value))
    };
    pairs.into_iter().map(pair).collect()
}

fn json_value(value: any_value::Value) -> Value {
    match value {
        any_value::Value::StringValue(text) => json!(text),
        any_value::Value::BoolValue(is) => json!(is),
        any_value::Value::IntValue(number) => json!(number),
        any_value::Value::DoubleValue(number) => json!(number),
        any_value::Value::ArrayValue(array) => array
            .values
            .into_iter()
            .filter_map(|value| value.value.map(json_value))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
