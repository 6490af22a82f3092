//! Traces of requests, as a collector gets them, and the ids that connect them with the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    net::TcpListener,
    sync::atomic::Ordering::SeqCst,
};

use candor::config::{ApiKey, Auto, Config};
use image::ImageFormat;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cli::{Process, candor},
    collector::{Collector, SeenSpan, SeenTrace},
    http::{JSON, Reply, exchange, get, request},
    served::{Served, about, and, ask, data_url, eventually, picture},
    store::{Store, photo},
};

const CHAT: &str = "/v1/chat/completions";
const CALLER: &str = "00f067aa0ba902b7";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// A word of clients.
const MARK: &str = "zebramarker";

/// `traceparent` of the caller; `flags` say if it is sampled.
fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

fn exporting(config: &mut Config, collector: &Collector) {
    config.tracing.otlp_endpoint = Auto::Value(collector.url());
}

fn served(collector: &Collector) -> Served {
    Served::with(|config| exporting(config, collector))
}

fn post(served: &Served, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let headers: Vec<_> = [JSON].iter().chain(headers).copied().collect();
    let raw = request("POST", path, &headers, body.to_string().as_bytes());
    exchange(served.at, &raw)
}

fn names<'a>(spans: impl IntoIterator<Item = &'a SeenSpan>) -> Vec<&'a str> {
    spans.into_iter().map(|span| span.name.as_str()).collect()
}

/// The integer of an attribute.
#[track_caller]
fn number(span: &SeenSpan, key: &str) -> i64 {
    let value = span.attributes.get(key).and_then(Value::as_i64);
    value.unwrap_or_else(|| panic!("{key}: {span:#?}"))
}

/// Checks that spans begin after the request and end after they begin, and phases of the engine lie
/// within their answer. Other requests may belong to the same trace.
fn check_times(trace: &SeenTrace) {
    for answer in trace.children(&trace.server) {
        assert!(answer.times.0 <= answer.times.1, "{answer:#?}");
        assert!(answer.times.0 >= trace.server.times.0, "{answer:#?}");
        for phase in trace.children(answer) {
            assert!(phase.times.0 <= phase.times.1, "{phase:#?}");
            let (outer, inner) = (answer.times, phase.times);
            assert!(
                outer.0 <= inner.0 && inner.1 <= outer.1,
                "{phase:#?} {answer:#?}"
            );
        }
    }
}

#[test]
fn completion_about_an_image_by_url_has_a_span_for_each_phase() {
    let (store, collector) = (Store::new(), Collector::new());
    let served = Served::with(|config| {
        exporting(config, &collector);
        config.fetch.enabled = true;
        config.fetch.allow = vec![store.entry("localhost")];
        config.fetch.ca_file = Auto::Value(store.ca.path().to_str().unwrap().to_owned());
    });
    let url = store.url("localhost", &format!("/photo.jpg?{MARK}"));
    for (number_of, stream) in [false, true].into_iter().enumerate() {
        let body = and(
            about(&url, &format!("What is {MARK}?")),
            json!({"stream": stream, "stream_options": {"include_usage": true},
                "user": MARK, "cache_salt": format!("{number_of}")}),
        );
        let body = if stream {
            body
        } else {
            without(body, "stream_options")
        };
        let id = format!("request-{number_of}");
        let headers = [
            ("traceparent", &*parent("01")),
            ("tracestate", "vendor=value"),
            ("x-request-id", &*id),
        ];
        let reply = post(&served, CHAT, &headers, &body);
        let (completion, usage) = match stream {
            false => (reply.json()["id"].clone(), reply.json()["usage"].clone()),
            true => {
                let last = reply.chunks().pop().unwrap();
                (last["id"].clone(), last["usage"].clone())
            }
        };
        let trace = collector.trace_of("candor.request_id", &id);
        let server = &trace.server;
        // The answer to the client names the server's span.
        assert_eq!(
            reply.header("traceparent"),
            Some(&*format!("00-{TRACE}-{}-01", server.id))
        );
        assert_eq!(
            (
                &*server.trace,
                &*server.parent,
                &*server.state,
                &*server.name,
                server.failed
            ),
            (
                TRACE,
                CALLER,
                "vendor=value",
                &*format!("POST {CHAT}"),
                false
            )
        );
        let expected = json!({
            "http.request.method": "POST", "http.route": CHAT, "http.response.status_code": 200,
            "url.scheme": "http", "candor.request_id": id, "gen_ai.operation.name": "chat",
            "gen_ai.response.id": completion, "gen_ai.response.model": "candor-mini",
            "candor.version": server.attributes["candor.version"],
        });
        assert_eq!(json!(server.attributes), expected);
        assert_eq!(server.resource["service.name"], "candor");
        assert_eq!(
            server.resource["service.version"],
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(
            names(trace.children(server)),
            [
                "image.fetch",
                "image.decode",
                "image.encode",
                "answer",
                "store"
            ]
        );
        let fetch = trace.child(server, "image.fetch");
        assert_eq!(
            (fetch.kind, number(fetch, "candor.bytes")),
            (SpanKind::Client, photo().len() as i64)
        );
        let answer = trace.child(server, "answer");
        let (read, written) = (&usage["prompt_tokens"], &usage["completion_tokens"]);
        assert_eq!(
            (
                &answer.attributes["gen_ai.usage.input_tokens"],
                &answer.attributes["gen_ai.usage.output_tokens"],
                &answer.attributes["gen_ai.response.finish_reasons"],
                &answer.attributes["candor.answer.index"],
            ),
            (read, written, &json!(["stop"]), &json!(0)),
        );
        assert!(answer.attributes["candor.verdict"].is_string());
        let phases = trace.children(answer);
        let sorted: BTreeSet<&str> = names(phases.iter().copied()).into_iter().collect();
        assert_eq!(
            sorted,
            BTreeSet::from(["decode", "prefill", "queue", "score"])
        );
        assert_eq!(phases.len(), 4);
        let prefill = trace.child(answer, "prefill");
        assert_eq!(&prefill.attributes["candor.prompt_tokens"], read);
        let decode = trace.child(answer, "decode");
        assert_eq!(&decode.attributes["candor.tokens"], written);
        // The first token is sampled at the end of the prompt.
        assert!(number(decode, "candor.steps") + 1 >= written.as_i64().unwrap());
        assert!(trace.child(answer, "score").attributes["candor.busy_ms"].as_f64() > Some(0.0));
        check_times(&trace);
        let exported = format!("{:?}", trace.all());
        assert!(!exported.to_lowercase().contains(MARK), "{exported}");
        assert!(!exported.contains("localhost"), "{exported}");
    }
    // The image's server learns nothing of the trace.
    for seen in store.requests() {
        assert!(!seen.contains("trace") && !seen.contains(TRACE), "{seen}");
    }
}

fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().unwrap().remove(field);
    body
}

#[test]
fn answers_and_repairs_have_spans_of_their_own() {
    let collector = Collector::new();
    let served = served(&collector);
    let body = and(
        ask(3, ""),
        json!({"n": 2, "temperature": 1.0, "seed": 5,
            "guard": {"mode": "regenerate", "threshold": 1.0}}),
    );
    let reply = post(&served, CHAT, &[("x-request-id", "repairs")], &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let trace = collector.trace_of("candor.request_id", "repairs");
    assert_eq!(trace.server.parent, "");
    let answers: BTreeMap<i64, &SeenSpan> = trace
        .children(&trace.server)
        .into_iter()
        .filter(|span| span.name == "answer")
        .map(|answer| (number(answer, "candor.answer.index"), answer))
        .collect();
    assert_eq!(answers.len(), 2);
    for (choice, answer) in reply.json()["choices"].as_array().unwrap().iter().zip(0..) {
        let answer = (choice, answers[&answer]);
        let repairs: Vec<_> = trace
            .children(answer.1)
            .into_iter()
            .filter(|span| span.name == "repair")
            .collect();
        let tokens: i64 = repairs.iter().map(|r| number(r, "candor.tokens")).sum();
        let extra = answer.0["guard"]["extra_tokens"].as_i64().unwrap();
        assert!(!repairs.is_empty() && repairs.len() <= 16, "{repairs:#?}");
        // Tokens of an accepted candidate are the answer's, all others are extra.
        assert!(tokens > 0 && extra > 0, "{tokens} {extra}");
        assert_eq!(
            answer.1.attributes["candor.verdict"],
            answer.0["guard"]["verdict"]
        );
    }
    check_times(&trace);
}

#[test]
fn scores_and_corrections_have_spans() {
    let collector = Collector::new();
    let served = served(&collector);
    let url = data_url("image/png", &picture(1, ImageFormat::Png));
    let score = and(
        about(&url, "What is it?"),
        json!({"response": "A dog runs."}),
    );
    let reply = post(&served, "/v1/score", &[("x-request-id", "score")], &score);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let trace = collector.trace_of("candor.request_id", "score");
    assert_eq!(
        names(trace.children(&trace.server)),
        ["image.decode", "image.encode", "score"]
    );
    let completion = served.chat(&ask(1, "")).json()["id"].clone();
    let correction = json!({"completion_id": completion, "label": "good"});
    for (id, body) in [
        ("right", correction.clone()),
        (
            "wrong",
            and(correction, json!({"completion_id": "chatcmpl-none"})),
        ),
    ] {
        post(&served, "/v1/feedback", &[("x-request-id", id)], &body);
        let trace = collector.trace_of("candor.request_id", id);
        let store = trace.child(&trace.server, "store");
        assert_eq!(store.failed, id == "wrong", "{store:#?}");
        // A refusal is the client's failure.
        assert!(!trace.server.failed);
    }
    let wrong = collector.trace_of("candor.request_id", "wrong").server;
    assert_eq!(
        (
            &wrong.attributes["http.response.status_code"],
            &wrong.attributes["candor.error_code"]
        ),
        (&json!(404), &json!("completion_not_found"))
    );
    assert!(!wrong.attributes.contains_key("error.type"));
}

#[test]
fn failing_request_has_an_error_status() {
    let collector = Collector::new();
    let served = served(&collector);
    for (id, stream) in [("whole", false), ("stream", true)] {
        served.valve.fails.store(true, SeqCst);
        let body = and(ask(1, ""), json!({"stream": stream}));
        let reply = post(&served, CHAT, &[("x-request-id", id)], &body);
        let status = if stream { 200 } else { 500 };
        assert_eq!(reply.status, status, "{}", reply.text());
        let trace = collector.trace_of("candor.request_id", id);
        let (server, answer) = (&trace.server, trace.child(&trace.server, "answer"));
        assert!(server.failed && answer.failed, "{trace:#?}");
        assert_eq!(
            number(server, "http.response.status_code"),
            i64::from(status)
        );
        assert!(server.attributes["error.type"].is_string());
        assert_eq!(answer.attributes["error.type"], "model");
        assert_eq!(names(trace.children(answer)), ["queue", "prefill"]);
        let exported = format!("{:?}", trace.all());
        assert!(!exported.contains("a secret of the model"), "{exported}");
    }
}

#[test]
fn client_that_leaves_ends_its_spans() {
    let collector = Collector::new();
    let served = served(&collector);
    served.valve.allow(3);
    let body = and(ask(1, ""), json!({"stream": true})).to_string();
    let headers = [JSON, ("x-request-id", "left")];
    let mut client = crate::http::connect(served.at);
    std::io::Write::write_all(
        &mut client,
        &request("POST", CHAT, &headers, body.as_bytes()),
    )
    .unwrap();
    eventually("it stands", || served.valve.stands.load(SeqCst));
    drop(client);
    let trace = collector.trace_of("candor.request_id", "left");
    assert_eq!(trace.server.attributes["candor.client_left"], true);
    assert!(!trace.server.failed);
    served.valve.open();
    let find = || {
        let trace = collector.trace_of("candor.request_id", "left");
        let spans = trace.children(&trace.server);
        let answer = spans.into_iter().find(|span| span.name == "answer")?;
        Some(answer.clone())
    };
    eventually("the answer ends", || find().is_some());
    assert_eq!(find().unwrap().attributes["candor.canceled"], true);
}

#[test]
fn flag_of_the_caller_or_the_share_decides() {
    let collector = Collector::new();
    for (ratio, flags, traced) in [
        (0.0, None, false),
        (0.0, Some("00"), false),
        (0.0, Some("01"), true),
        (1.0, None, true),
        (1.0, Some("00"), false),
        (1.0, Some("01"), true),
    ] {
        let before = collector.spans().len();
        let mut served = Served::with(|config| {
            exporting(config, &collector);
            config.tracing.sample_ratio = ratio;
        });
        let given = flags.map(parent);
        let headers: Vec<_> = given
            .iter()
            .map(|given| ("traceparent", &**given))
            .collect();
        let reply = post(&served, CHAT, &headers, &ask(1, ""));
        assert_eq!(reply.status, 200);
        let returned = reply.header("traceparent").unwrap().to_owned();
        assert!(
            returned.ends_with(if traced { "-01" } else { "-00" }),
            "{returned}"
        );
        assert_eq!(returned.contains(TRACE), flags.is_some());
        assert!(!returned.contains(CALLER), "{returned}");
        // Whatever there is was sent when the server has stopped.
        served.join();
        let exported = collector.spans().len() > before;
        assert_eq!(exported, traced, "{ratio} {flags:?}");
    }
}

#[test]
fn invalid_parent_is_ignored_and_probes_are_not_traced() {
    let collector = Collector::new();
    let mut served = served(&collector);
    for bad in [format!("00-{TRACE}-{CALLER}"), parent("01").to_uppercase()] {
        let headers = [("traceparent", &*bad), ("x-request-id", "bad")];
        let reply = post(&served, CHAT, &headers, &ask(1, ""));
        assert!(!reply.header("traceparent").unwrap().contains(TRACE));
    }
    let sampled = parent("01");
    for path in [
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/v1/models",
        "/nothing",
    ] {
        exchange(
            served.at,
            &request("GET", path, &[("traceparent", &sampled)], b""),
        );
    }
    served.join();
    let spans = collector.spans();
    let servers: Vec<_> = spans
        .iter()
        .filter(|s| s.kind == SpanKind::Server)
        .collect();
    let post = format!("POST {CHAT}");
    assert_eq!(
        names(servers.iter().copied()),
        [&*post, &*post, "GET /v1/models", "GET"]
    );
    assert!(servers[..2].iter().all(|server| server.parent.is_empty()));
    assert!(servers[2..].iter().all(|server| server.parent == CALLER));
}

#[test]
fn without_export_the_caller_is_still_named() {
    let served = Served::new();
    let given = parent("01");
    let reply = post(&served, CHAT, &[("traceparent", &given)], &ask(1, ""));
    assert_eq!(reply.header("traceparent"), Some(&*given));
    assert_eq!(served.chat(&ask(1, "")).header("traceparent"), None);
    assert_eq!(served.metric("candor_trace_spans_dropped_total"), 0.0);
}

#[test]
fn collector_that_is_away_costs_spans_alone() {
    // Nobody listens any more at this address.
    let at = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut served = Served::with(|config| {
        config.tracing.otlp_endpoint = Auto::Value(format!("http://{at}"));
    });
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    eventually("the spans are counted", || {
        served.metric("candor_trace_spans_dropped_total") >= 6.0
    });
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    served.join();
}

#[test]
fn collector_that_refuses_or_hangs_costs_spans_alone() {
    let collector = Collector::new();
    let served = served(&collector);
    let dropped = || served.metric("candor_trace_spans_dropped_total");
    collector.refuse(true);
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    eventually("the spans are counted", || dropped() >= 6.0);
    let lost = dropped();
    collector.refuse(false);
    let reply = post(&served, CHAT, &[("x-request-id", "back")], &ask(1, ""));
    assert_eq!(reply.status, 200);
    collector.trace_of("candor.request_id", "back");
    assert_eq!(dropped(), lost);
    // Answers are complete while an export hangs.
    collector.hang();
    let exports = collector.heads().len();
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    eventually("an export hangs", || collector.heads().len() > exports);
    for _ in 0..3 {
        assert_eq!(served.chat(&ask(1, "")).status, 200);
    }
    assert_eq!(collector.heads().len(), exports + 1);
}

#[test]
fn last_spans_are_sent_at_shutdown() {
    let collector = Collector::new();
    let mut served = served(&collector);
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    served.join();
    let spans = collector.spans();
    let roots = spans.iter().filter(|span| span.kind == SpanKind::Server);
    assert_eq!(names(roots), [format!("POST {CHAT}")]);
    assert!(names(&spans).contains(&"decode"));
}

/// Runs a server process at the most talkative level, and returns its log.
fn log_of(
    config: &str,
    envs: &[(&str, &str)],
    work: impl FnOnce(&Process),
) -> (String, Vec<Value>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config).unwrap();
    let mut command = candor(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--device",
        "cpu",
        "--config",
    ]);
    command.arg(file.path());
    let mut server = Process::start(command, envs);
    let mut stderr = server.child.stderr.take().unwrap();
    // It is read while it is written: lines that nobody reads are dropped.
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    work(&server);
    server.signal(Signal::TERM);
    assert!(server.child.wait().unwrap().success());
    let log = log.join().unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    (log, lines)
}

const TRACE_LOG: &str = "[log]\nformat = 'json'\nlevel = 'trace'\n";

#[test]
fn lines_of_a_request_have_its_ids() {
    let given = parent("01");
    let (_, lines) = log_of(TRACE_LOG, &[], |server| {
        let headers = [JSON, ("x-request-id", "known"), ("traceparent", &given)];
        let body = ask(1, "").to_string();
        let raw = request("POST", CHAT, &headers, body.as_bytes());
        assert_eq!(exchange(server.at, &raw).status, 200);
        get(server.at, "/v1/models");
    });
    let answered = |line: &&Value| line["message"] == "answered";
    let known: Vec<_> = lines
        .iter()
        .filter(|line| line["request_id"] == "known")
        .collect();
    let line = known.iter().copied().find(answered).unwrap();
    assert!(
        line["completion_id"]
            .as_str()
            .unwrap()
            .starts_with("chatcmpl-")
    );
    assert_eq!(
        (
            &line["trace_id"],
            &line["span_id"],
            &line["path"],
            &line["status"]
        ),
        (&json!(TRACE), &json!(CALLER), &json!(CHAT), &json!(200))
    );
    assert!(
        known.iter().all(|line| line["trace_id"] == TRACE),
        "{known:#?}"
    );
    let other = lines
        .iter()
        .find(|line| line["path"] == "/v1/models" && answered(line))
        .unwrap();
    assert!(other["request_id"].is_string());
    assert_eq!(
        (other.get("trace_id"), other.get("completion_id")),
        (None, None)
    );
}

#[test]
fn lines_have_the_ids_of_exported_spans() {
    let collector = Collector::new();
    let config = format!(
        "{TRACE_LOG}[tracing]\notlp_endpoint = '{}'\n",
        collector.url()
    );
    let names = [
        ("OTEL_SERVICE_NAME", "captions"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ];
    let (_, lines) = log_of(&config, &names, |server| {
        let headers = [JSON, ("x-request-id", "known")];
        let body = ask(1, "").to_string();
        let raw = request("POST", CHAT, &headers, body.as_bytes());
        assert_eq!(exchange(server.at, &raw).status, 200);
    });
    let server = collector.trace_of("candor.request_id", "known").server;
    let line = lines
        .iter()
        .find(|line| line["request_id"] == "known" && line["message"] == "answered")
        .unwrap();
    assert_eq!(
        (&line["trace_id"], &line["span_id"], &line["completion_id"]),
        (
            &json!(server.trace),
            &json!(server.id),
            &server.attributes["gen_ai.response.id"]
        )
    );
    assert_eq!(server.resource["service.name"], "captions");
    assert_eq!(server.resource["deployment.environment.name"], "test");
}

/// Keys, images by URL, questions, texts to score and corrections, in good requests and bad ones,
/// and the key of the collector.
#[test]
fn log_has_no_key_no_url_and_no_correction_at_any_level() {
    // Letters that also show in a dump of sixteen bytes a line.
    const COLLECTOR_KEY: &str = "QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ";
    const RIGHT: &str = "sk-right-zebramarker-0123456789";
    let (store, collector) = (Store::new(), Collector::new());
    let headers = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        headers.path(),
        format!("authorization: Bearer {COLLECTOR_KEY}\n"),
    )
    .unwrap();
    let config = format!(
        "{TRACE_LOG}[fetch]\nenabled = true\nallow = ['{}']\nca_file = '{}'\n[tracing]\n\
         otlp_endpoint = '{}'\nheaders_file = '{}'\n[[keys]]\nname = 'app'\nkey_sha256 = '{}'\n\
         scopes = ['complete', 'score', 'feedback:write', 'feedback:read', 'annotate']\n",
        store.entry("localhost"),
        store.ca.path().display(),
        collector.url(),
        headers.path().display(),
        ApiKey::new("app", RIGHT).key_sha256,
    );
    let mut statuses = BTreeSet::new();
    let (log, lines) = log_of(&config, &[], |server| {
        let mut send = |method: &str, path: &str, key: &str, body: &Value| {
            let key = format!("Bearer {key}");
            let headers = [
                JSON,
                ("authorization", &*key),
                ("cookie", MARK),
                ("tracestate", "zebra=zebramarker"),
                ("baggage", "zebra=zebramarker"),
            ];
            let body = body.to_string();
            let reply = exchange(server.at, &request(method, path, &headers, body.as_bytes()));
            statuses.insert(reply.status);
            reply
        };
        let url = |path: &str| store.url("localhost", path);
        let good = url(&format!("/photo.jpg?{MARK}"));
        let question = format!("Is there a {MARK} in it?");
        let whole = about(&good, &question);
        let stream = and(whole.clone(), json!({"stream": true}));
        let id = send("POST", CHAT, RIGHT, &whole).json()["id"].clone();
        send("POST", CHAT, RIGHT, &stream);
        for key in ["sk-wrong-zebramarker", MARK, ""] {
            send("POST", CHAT, key, &whole);
        }
        for path in [
            "/status?404 zebramarker",
            // Lines of level debug name the hosts of images.
            "/to?https://elsewhere.example/",
            "/text",
            "/cut",
        ] {
            send("POST", CHAT, RIGHT, &about(&url(path), &question));
        }
        for bad in [
            format!("https://localhost:1/{MARK}?{MARK}"),
            format!("https://10.0.0.1/{MARK}?{MARK}"),
            format!("ftp://localhost/{MARK}"),
        ] {
            send("POST", CHAT, RIGHT, &about(&bad, &question));
        }
        let scored = |response: &str| and(whole.clone(), json!({"response": response}));
        send(
            "POST",
            "/v1/score",
            RIGHT,
            &scored(&format!("A {MARK} runs.")),
        );
        send("POST", "/v1/score", RIGHT, &scored(""));
        let correction = json!({"completion_id": id, "label": "bad", "annotator": MARK,
            "note": format!("It is no {MARK}."), "correction": format!("A {MARK}.")});
        send("POST", "/v1/feedback", RIGHT, &correction);
        send(
            "POST",
            "/v1/feedback",
            RIGHT,
            &and(correction, json!({"label": MARK})),
        );
        let foreign = json!({"image": good, "prompt": question, "label": "good",
            "response": format!("A {MARK}."), "user": MARK});
        send("POST", "/v1/feedback", RIGHT, &foreign);
        send(
            "GET",
            &format!("/v1/feedback?user={MARK}"),
            RIGHT,
            &Value::Null,
        );
        send("POST", "/v1/queue/next", RIGHT, &json!({"annotator": MARK}));
        send("GET", "/v1/feedback/export", RIGHT, &Value::Null);
        send(
            "DELETE",
            &format!("/v1/feedback?user={MARK}"),
            RIGHT,
            &Value::Null,
        );
    });
    assert!(
        [200, 201, 400, 401]
            .iter()
            .all(|status| statuses.contains(status)),
        "{statuses:?}"
    );
    let lower = log.to_lowercase();
    for hidden in [MARK, &COLLECTOR_KEY.to_lowercase()[..8]] {
        let around = lower.find(hidden).map(|at| {
            let (from, to) = (at.saturating_sub(400), (at + 200).min(lower.len()));
            lower.get(from..to).unwrap_or_default()
        });
        assert_eq!(around, None, "{hidden}");
    }
    // The collector has its key, and what it got has no text of clients either.
    assert!(
        collector
            .heads()
            .iter()
            .any(|head| head.contains(COLLECTOR_KEY))
    );
    let spans: Vec<String> = collector
        .spans()
        .into_iter()
        .map(|span| {
            format!(
                "{:?}",
                SeenSpan {
                    state: String::new(),
                    ..span
                }
            )
        })
        .collect();
    assert!(spans.len() > 20);
    let found = spans.iter().find(|span| span.to_lowercase().contains(MARK));
    assert_eq!(found, None);
    assert!(lines.iter().any(|line| line["level"] == "DEBUG"));
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let missing = "/no/such/file";
    for (config, envs, key) in [
        (
            "otlp_endpoint = 'localhost:4318'",
            &[][..],
            "tracing.otlp_endpoint",
        ),
        (
            "otlp_endpoint = 'http://me:secret@host'",
            &[],
            "tracing.otlp_endpoint",
        ),
        ("sample_ratio = 2", &[], "tracing.sample_ratio"),
        ("headers_file = ''", &[], "tracing.headers_file"),
        (
            "otlp_endpoint = 'http://localhost:1'\nheaders_file = '/no/such/file'",
            &[],
            "tracing.headers_file",
        ),
        (
            "otlp_endpoint = 'https://localhost:1'\nca_file = '/no/such/file'",
            &[],
            "tracing.ca_file",
        ),
        (
            "",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")],
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("[tracing]\n{config}\n")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = candor(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]);
        let out = command
            .arg("--config")
            .arg(file.path())
            .envs(envs.iter().copied())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success() && said.contains(key),
            "{config}: {said}"
        );
        assert!(!said.contains("secret"), "{said}");
        assert_eq!(said.contains(missing), config.contains(missing), "{said}");
    }
}
