//! Clients that leave or dawdle, crowds, failures, and the end.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering::SeqCst,
};

use serde_json::json;

use crate::{
    http::{JSON, connect, exchange, get, read, read_until, request},
    served::{Served, and, ask, eventually},
};

pub fn send(served: &Served, body: &serde_json::Value) -> TcpStream {
    let mut stream = connect(served.at);
    stream
        .write_all(&request(
            "POST",
            "/v1/chat/completions",
            &[JSON],
            body.to_string().as_bytes(),
        ))
        .unwrap();
    stream
}

/// Two clients leave in the middle of an answer, one streaming and one not. With one place in all,
/// the next is let in only once they are gone.
#[test]
fn disconnected_client_frees_its_slot() {
    let served = Served::with(|c| c.server.max_concurrent = 1);
    for stream in [true, false] {
        // Of the answer before, or of warming up: it must not be taken for the one that is to come.
        eventually("nothing runs", || {
            served.metric("candor_requests_running") == 0.0
        });
        let before = served.metric("candor_request_success_total{finished_reason=\"abort\"}");
        served.valve.allow(3);
        let mut client = send(
            &served,
            &and(
                ask(1, ""),
                json!({"stream": stream, "max_tokens": 60, "seed": 1}),
            ),
        );
        if stream {
            read_until(&mut client, "\"role\":\"assistant\"");
        }
        eventually("the answer is being written", || {
            served.metric("candor_requests_running") == 1.0
        });
        // In order, but with a question that is longer than the model's context, which is found out
        // when it has been let in.
        let long = ask(2, &"dog ".repeat(400));
        assert_eq!(served.chat(&long).error(429)["code"], "rate_limit_exceeded");
        drop(client);
        eventually("the place is free", || served.chat(&long).status == 400);
        served.valve.open();
        eventually("the slot is free", || {
            served.metric("candor_requests_running") == 0.0
        });
        let aborted = || served.metric("candor_request_success_total{finished_reason=\"abort\"}");
        eventually("it is counted", || aborted() == before + 1.0);
        assert_eq!(served.metric("candor_kv_cache_usage_ratio"), 0.0);
        assert_eq!(served.chat(&ask(1, "")).status, 200);
    }
}

#[test]
fn full_queue_is_429_with_retry_after() {
    let served = Served::with(|c| (c.engine.max_batch, c.engine.max_waiting) = (1, 1));
    served.valve.allow(0);
    let mut held = [send(&served, &ask(1, "")), send(&served, &ask(2, ""))];
    let load =
        || ["running", "waiting"].map(|what| served.metric(&format!("candor_requests_{what}")));
    eventually("the batch and the queue are full", || load() == [1.0, 1.0]);
    let reply = served.chat(&ask(3, ""));
    assert_eq!(reply.error(429)["code"], "rate_limit_exceeded");
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    served.valve.open();
    assert!(held.iter_mut().all(|client| read(client).status == 200));
    assert_eq!(served.chat(&ask(3, "")).status, 200);
}

#[test]
fn error_in_a_stream_is_its_last_event() {
    let served = Served::new();
    served.valve.allow(2);
    let mut client = send(&served, &and(ask(1, ""), json!({"stream": true})));
    read_until(&mut client, "\"role\":\"assistant\"");
    served.valve.fails.store(true, SeqCst);
    served.valve.open();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    let error = rest
        .split("event: error\ndata: ")
        .nth(1)
        .unwrap_or_else(|| panic!("{rest}"))
        .lines()
        .next()
        .unwrap();
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&json!("server_error"), &json!("internal_error"))
    );
    assert!(
        !rest.contains("[DONE]") && !rest.contains("secret"),
        "{rest}"
    );
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn model_failure_is_500_and_the_server_keeps_serving() {
    let served = Served::new();
    served.valve.fails.store(true, SeqCst);
    let reply = served.chat(&ask(1, ""));
    assert_eq!(reply.error(500)["code"], "internal_error");
    assert!(!reply.text().contains("secret"));
    served.valve.panics.store(true, SeqCst);
    assert_eq!(
        served.chat(&ask(50, "")).error(500)["code"],
        "internal_error"
    );
    assert_eq!(served.chat(&ask(50, "")).status, 200);
    assert_eq!(
        served.metric("candor_request_failure_total{reason=\"model\"}"),
        1.0
    );
}

#[test]
fn answer_above_the_timeout_is_aborted() {
    let served = Served::with(|c| c.server.request_timeout_s = 1);
    served.valve.allow(2);
    let mut streamed = send(&served, &and(ask(1, ""), json!({"stream": true})));
    let reply = served.chat(&ask(2, ""));
    assert_eq!(reply.error(503)["code"], "request_timeout");
    let events = read(&mut streamed).events();
    let last = events.last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains("request_timeout"),
        "{last}"
    );
    served.valve.open();
    eventually("the slots are free", || {
        served.metric("candor_requests_running") == 0.0
    });
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn slow_client_times_out() {
    let served = Served::with(|c| (c.server.read_timeout_s, c.server.max_connections) = (1, 8));
    // Headers that never end: closed, whatever is said.
    let mut slow: Vec<_> = (0..2).map(|_| connect(served.at)).collect();
    slow.iter_mut().for_each(|s| {
        s.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-a")
            .unwrap()
    });
    // A body that never ends.
    let mut body = connect(served.at);
    body.write_all(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
                     application/json\r\ncontent-length: 1000\r\nconnection: \
                     close\r\n\r\n{",
    )
    .unwrap();
    assert_eq!(read(&mut body).error(408)["code"], "request_timeout");
    for client in &mut slow {
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert!(!said.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn connection_is_kept_alive() {
    let served = Served::new();
    let mut client = connect(served.at);
    for _ in 0..3 {
        client
            .write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
        assert!(read_until(&mut client, "{\"status\":\"ok\"}").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn malformed_http_is_refused() {
    let served = Served::new();
    for raw in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\nnonsense\r\n\r\n",
    ] {
        let mut client = connect(served.at);
        client.write_all(raw).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert!(
            said.is_empty() || said.starts_with(b"HTTP/1.1 400"),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    let long = format!("/{}", "x".repeat(100_000));
    assert_eq!(
        exchange(served.at, &request("GET", &long, &[], b"")).status / 100,
        4
    );
    assert_eq!(get(served.at, "/health/ready").status, 200);
}

#[test]
fn readiness_follows_warm_up_and_engine_progress() {
    let served = Served::with(|c| c.engine.stall_after_s = 1);
    assert_eq!(get(served.at, "/health/ready").json()["status"], "ready");
    assert_eq!(
        get(served.at, "/health/live").json(),
        json!({"status": "ok"})
    );
    served.valve.allow(1);
    let mut client = send(&served, &ask(1, ""));
    eventually("the engine is seen to stall", || {
        get(served.at, "/health/ready").status == 503
    });
    assert_eq!(get(served.at, "/health").error(503)["code"], "not_ready");
    assert!(
        get(served.at, "/health/ready").error(503)["message"]
            .as_str()
            .unwrap()
            .contains("not completed a step")
    );
    assert_eq!(get(served.at, "/health/live").status, 200);
    served.valve.open();
    assert_eq!(read(&mut client).status, 200);
    assert_eq!(get(served.at, "/health/ready").status, 200);
}

#[test]
fn shutdown_finishes_running_answers() {
    let mut served = Served::with(|c| c.server.drain_deadline_s = 60);
    served.valve.allow(2);
    let mut streamed = send(&served, &and(ask(1, ""), json!({"stream": true})));
    read_until(&mut streamed, "\"role\":\"assistant\"");
    eventually("the answer is being written", || {
        served.metric("candor_requests_running") == 1.0
    });
    let mut idle = connect(served.at);
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    read_until(&mut idle, "ok");
    served.stop();
    // Kept connections are closed, new ones refused; what runs goes on.
    assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0);
    eventually("new connections are refused", || {
        TcpStream::connect(served.at).is_err()
    });
    served.valve.open();
    let mut rest = String::new();
    streamed.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    served.join();
}

#[test]
fn shutdown_aborts_answers_at_the_deadline() {
    let mut served = Served::with(|c| c.server.drain_deadline_s = 1);
    served.valve.allow(2);
    let mut streamed = send(&served, &and(ask(1, ""), json!({"stream": true})));
    let mut whole = send(&served, &ask(2, ""));
    read_until(&mut streamed, "\"role\":\"assistant\"");
    eventually("both answers are being written", || {
        served.metric("candor_requests_running") + served.metric("candor_requests_waiting") == 2.0
    });
    served.stop();
    // The engine is in the middle of a step that does not end before the deadline.
    let valve = std::sync::Arc::clone(&served.valve);
    let late = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(1200));
        valve.allow(1);
    });
    let mut rest = String::new();
    streamed.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("event: error") && rest.contains("shutting_down"),
        "{rest}"
    );
    assert_eq!(read(&mut whole).error(503)["code"], "shutting_down");
    late.join().unwrap();
    served.join();
}

#[test]
fn metrics_count_served_answers() {
    let served = Served::new();
    let before = |name: &str| served.metric(name);
    let (tokens, images, hits) = (
        before("candor_generation_tokens_total"),
        before("candor_image_cache_queries_total"),
        before("candor_image_cache_hits_total"),
    );
    let flagged = before("candor_flagged_spans_total{action=\"flagged\"}");
    let strict = and(ask(1, ""), json!({"guard": {"threshold": 1.0}}));
    let body = served.chat(&strict).json();
    assert_eq!(
        served.chat(&strict).json()["choices"][0]["message"],
        body["choices"][0]["message"]
    );
    assert_eq!(served.chat(&json!({})).status, 400);
    let written = 2.0 * body["usage"]["completion_tokens"].as_f64().unwrap();
    assert_eq!(before("candor_generation_tokens_total"), tokens + written);
    assert_eq!(
        (
            before("candor_image_cache_queries_total"),
            before("candor_image_cache_hits_total")
        ),
        (images + 2.0, hits + 1.0)
    );
    assert_eq!(
        before("candor_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}"),
        2.0
    );
    assert_eq!(
        before("candor_http_requests_total{route=\"/v1/chat/completions\",status=\"400\"}"),
        1.0
    );
    let spans = 2.0
        * body["choices"][0]["guard"]["spans"]
            .as_array()
            .unwrap()
            .len() as f64;
    assert!(spans > 0.0);
    assert_eq!(
        before("candor_flagged_spans_total{action=\"flagged\"}"),
        flagged + spans
    );
    for name in [
        "time_to_first_token_seconds_count",
        "e2e_request_latency_seconds_count",
        "inter_token_latency_seconds_count",
        "score_seconds_count",
        "token_reward_count",
        "scored_tokens_total",
        "flagged_tokens_total",
        "prompt_tokens_total",
    ] {
        assert!(before(&format!("candor_{name}")) > 0.0, "{name}");
    }
    let text = get(served.at, "/metrics");
    assert!(
        text.header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(
        text.text()
            .contains("candor_model_info{model=\"candor-mini\"")
    );
}

#[test]
fn metrics_listener_is_separate() {
    let served =
        Served::with(|c| c.metrics.listen = candor::config::Auto::Value("127.0.0.1:0".to_owned()));
    assert_eq!(get(served.metrics_at.unwrap(), "/metrics").status, 200);
    assert_eq!(
        get(served.metrics_at.unwrap(), "/v1/models").error(404)["code"],
        "unknown_url"
    );
    assert_eq!(get(served.at, "/metrics").error(404)["code"], "unknown_url");
}
