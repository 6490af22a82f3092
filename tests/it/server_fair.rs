//! Whoever asks for much does not keep others out: rates, bounds and fair shares by key.

use std::{io::Write, net::TcpStream, sync::atomic::Ordering::SeqCst};

use candor::config::{ApiKey, Auto};
use image::ImageFormat;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    http::{self, JSON, Reply, connect, exchange, read, request},
    served::{Served, and, ask, data_url, eventually, picture},
};

/// A key whose secret is its name.
fn key(name: &str) -> ApiKey {
    let key_sha256 = Sha256::digest(name)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ApiKey {
        name: name.to_owned(),
        key_sha256,
        ..ApiKey::default()
    }
}

fn raw(path: &str, key: &str, body: &Value) -> Vec<u8> {
    request(
        "POST",
        path,
        &[JSON, ("authorization", &format!("Bearer {key}"))],
        body.to_string().as_bytes(),
    )
}

fn post(served: &Served, path: &str, key: &str, body: &Value) -> Reply {
    exchange(served.at, &raw(path, key, body))
}

fn chat(served: &Served, key: &str, body: &Value) -> Reply {
    post(served, "/v1/chat/completions", key, body)
}

/// Sends a request whose answer is read later.
fn send(served: &Served, path: &str, key: &str, body: &Value) -> TcpStream {
    let mut stream = connect(served.at);
    stream.write_all(&raw(path, key, body)).unwrap();
    stream
}

fn number(reply: &Reply, header: &str) -> u64 {
    reply
        .header(header)
        .unwrap_or_else(|| panic!("no {header}: {:?}", reply.headers))
        .parse()
        .unwrap()
}

/// A request for the scores of one text about each of several pictures.
fn score(pictures: std::ops::Range<u32>) -> Value {
    let item = |seed| {
        json!({"image_url": data_url("image/png", &picture(seed, ImageFormat::Png)),
        "response": "A dog runs."})
    };
    json!({"model": "candor-mini", "items": pictures.map(item).collect::<Vec<_>>()})
}

#[test]
fn request_above_the_keys_rate_is_429_with_headers() {
    let served = Served::with(|c| {
        c.keys = vec![
            ApiKey {
                requests_per_minute: Auto::Value(1),
                ..key("slow")
            },
            key("free"),
        ];
    });
    let short = and(ask(1, ""), json!({"max_tokens": 1}));
    let first = chat(&served, "slow", &short);
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(
        (
            number(&first, "x-ratelimit-limit-requests"),
            number(&first, "x-ratelimit-remaining-requests")
        ),
        (1, 0)
    );
    let reset = first.header("x-ratelimit-reset-requests").unwrap();
    assert!(
        reset.ends_with('s')
            && (reset == "1m0s" || reset.trim_end_matches('s').parse::<f64>().unwrap() <= 60.0),
        "{reset}"
    );
    assert_eq!(first.header("x-ratelimit-limit-tokens"), None);
    for path in ["/v1/chat/completions", "/v1/score", "/v1/feedback"] {
        let refused = post(&served, path, "slow", &short);
        let error = refused.error(429);
        assert_eq!(
            (&error["code"], &error["type"], &error["param"]),
            (
                &json!("rate_limit_exceeded"),
                &json!("requests"),
                &json!(null)
            )
        );
        assert!((1..=60).contains(&number(&refused, "retry-after")));
        assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 0);
    }
    assert_eq!(
        served.metric("candor_limited_requests_total{limit=\"requests\"}"),
        3.0
    );
    let models = exchange(
        served.at,
        &request(
            "GET",
            "/v1/models",
            &[("authorization", "Bearer slow")],
            b"",
        ),
    );
    assert_eq!(
        (models.status, models.header("x-ratelimit-limit-requests")),
        (200, None)
    );
    let free = chat(&served, "free", &short);
    assert_eq!(
        (free.status, free.header("x-ratelimit-limit-requests")),
        (200, None)
    );
}

#[test]
fn address_without_key_has_the_common_rate() {
    let served = Served::with(|c| c.limits.requests_per_minute = 1);
    let short = and(ask(1, ""), json!({"max_tokens": 1}));
    assert_eq!(served.chat(&short).status, 200);
    assert_eq!(served.chat(&short).error(429)["type"], "requests");
}

#[test]
fn token_rate_is_reserved_and_settled_at_the_end() {
    let served = Served::with(|c| {
        let limited = |name| ApiKey {
            tokens_per_minute: Auto::Value(120),
            ..key(name)
        };
        c.keys = vec![limited("whole"), limited("stream"), limited("score")];
    });
    let short = and(ask(1, ""), json!({"max_tokens": 3}));
    let whole = chat(&served, "whole", &short);
    let used = whole.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert!(used > 50 && number(&whole, "x-ratelimit-limit-tokens") == 120);
    // Two come back a second.
    let left = number(&whole, "x-ratelimit-remaining-tokens");
    assert!(
        (120 - used..120 - used + 40).contains(&left),
        "{used} used, {left} left"
    );
    let refused = chat(&served, "whole", &ask(1, ""));
    let error = refused.error(429);
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("rate_limit_exceeded"), &json!("tokens"))
    );
    assert!((1..=60).contains(&number(&refused, "retry-after")));

    // No answer can be longer than the context: all of it is taken before the first word, and most
    // comes back.
    let events = chat(
        &served,
        "stream",
        &and(
            ask(1, ""),
            json!({"stream": true, "stop": ["a", "e", "o", " "]}),
        ),
    );
    assert!(number(&events, "x-ratelimit-remaining-tokens") < 20);
    events.chunks();
    // Soon, and not by the minute's passing.
    let left = || {
        number(
            &chat(&served, "stream", &json!({})),
            "x-ratelimit-remaining-tokens",
        )
    };
    assert!(
        (0..50).any(|_| (45..90).contains(&left())),
        "what was not written is given back"
    );

    let scored = post(&served, "/v1/score", "score", &score(0..1));
    let used = scored.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert!(number(&scored, "x-ratelimit-remaining-tokens") >= 120 - used);
    assert_eq!(
        post(&served, "/v1/score", "score", &score(0..2)).error(429)["type"],
        "tokens"
    );
}

#[test]
fn choices_above_the_limit_are_refused_by_name() {
    let served = Served::with(|c| c.limits.max_choices = 6);
    for (more, param) in [
        (json!({"n": 7}), "n"),
        (
            json!({"n": 2, "guard": {"candidates": 4}}),
            "guard.candidates",
        ),
    ] {
        let error = served.chat(&and(ask(1, ""), more)).error(400);
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("out_of_range"), &json!(param))
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains('6') && message.contains("limits.max_choices"),
            "{message}"
        );
    }
    assert_eq!(
        served
            .chat(&and(ask(1, ""), json!({"n": 6, "max_tokens": 1})))
            .json()["choices"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    let default = Served::new();
    assert_eq!(
        default.chat(&and(ask(1, ""), json!({"n": 17}))).error(400)["param"],
        "n"
    );
    assert_eq!(
        default
            .chat(&and(
                ask(1, ""),
                json!({"n": 80, "guard": {"mode": "regenerate"}})
            ))
            .error(400)["param"],
        "n"
    );
}

#[test]
fn top_p_near_zero_is_greedy() {
    let served = Served::new();
    let text = |more| {
        served.chat(&and(ask(3, ""), more)).json()["choices"][0]["message"]["content"].clone()
    };
    let greedy = text(json!({"temperature": 0}));
    for top_p in [0.0, 5e-324, 1e-320, 1e-46, 1e-45, 1e-30, 1e-9] {
        for temperature in [1e-300, 1e-30, 1e-6, 0.7, 2.0] {
            assert_eq!(
                text(json!({"temperature": temperature, "top_p": top_p, "seed": 3})),
                greedy,
                "{temperature} {top_p}"
            );
        }
    }
    assert_eq!(
        text(json!({"temperature": 2, "top_p": 1e-320, "top_k": 5})),
        greedy
    );
}

#[test]
fn image_cache_is_separate_by_owner_or_salt() {
    let served = Served::with(|c| {
        c.keys = vec![
            key("a"),
            ApiKey {
                owner: Auto::Value("a".to_owned()),
                ..key("a2")
            },
            key("b"),
        ];
    });
    let hits = || served.metric("candor_image_cache_hits_total");
    let hit = |key: &str, more: Value| {
        let before = hits();
        assert_eq!(
            chat(
                &served,
                key,
                &and(ask(9, ""), and(more, json!({"max_tokens": 1})))
            )
            .status,
            200
        );
        hits() > before
    };
    assert!(!hit("a", json!({})));
    assert!(
        hit("a", json!({})) && hit("a2", json!({})),
        "keys of one owner share"
    );
    assert!(
        !hit("b", json!({})),
        "another owner's request does not tell that a sent it"
    );
    assert!(
        !hit("b", json!({"cache_salt": "a"})),
        "nor does a salt that is called like the owner"
    );
    assert!(!hit("a", json!({"cache_salt": "s"})));
    assert!(
        hit("b", json!({"cache_salt": "s"})),
        "who knows a salt shares"
    );
    assert!(hit("b", json!({"cache_salt": null})));
    let scored = post(
        &served,
        "/v1/score",
        "a",
        &and(score(9..10), json!({"cache_salt": "t"})),
    );
    assert_eq!(scored.status, 200, "{}", scored.text());
    assert!(!hit("a", json!({"cache_salt": "u"})) && hit("a", json!({"cache_salt": "t"})));
    for (salt, code) in [
        (json!(""), "invalid_value"),
        (json!("x".repeat(257)), "invalid_value"),
        (json!(3), "invalid_type"),
    ] {
        for (path, body) in [
            ("/v1/chat/completions", ask(9, "")),
            ("/v1/score", score(9..10)),
        ] {
            let error =
                post(&served, path, "a", &and(body, json!({"cache_salt": salt}))).error(400);
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!("cache_salt"), &json!(code))
            );
        }
    }
    let longest = json!({"cache_salt": "\u{e9}".repeat(256)});
    assert!(!hit("a", longest));
    // Its own file's hash is what a receipt has, whatever it is remembered with.
    let without_keys = Served::new();
    let again = || http::chat(without_keys.at, &and(ask(9, ""), json!({"max_tokens": 1}))).status;
    assert_eq!((again(), again()), (200, 200));
    assert_eq!(without_keys.metric("candor_image_cache_hits_total"), 1.0);
}

#[test]
fn full_queue_of_one_key_admits_others() {
    let served = Served::with(|c| {
        (c.engine.max_batch, c.engine.max_waiting) = (1, 1);
        c.keys = vec![key("greedy"), key("polite")];
    });
    served.valve.allow(0);
    let path = "/v1/chat/completions";
    let mut held = [1, 2].map(|seed| send(&served, path, "greedy", &ask(seed, "")));
    eventually("the engine is full", || {
        served.metric("candor_admitted_requests") == 2.0
    });
    assert_eq!(
        chat(&served, "greedy", &ask(3, "")).error(429)["code"],
        "rate_limit_exceeded"
    );
    assert_eq!(
        served.metric("candor_request_failure_total{reason=\"queue_full\"}"),
        1.0
    );
    let mut polite = send(&served, path, "polite", &ask(4, ""));
    eventually("it was let in", || {
        served.metric("candor_admitted_requests") == 3.0
    });
    served.valve.open();
    assert_eq!(read(&mut polite).status, 200);
    assert!(held.iter_mut().all(|client| read(client).status == 200));
}

#[test]
fn key_at_its_concurrency_limit_admits_others() {
    let served = Served::with(|c| {
        c.server.max_concurrent = 2;
        c.keys = vec![key("greedy"), key("polite")];
    });
    served.valve.allow(0);
    let mut held =
        [1, 2].map(|seed| send(&served, "/v1/chat/completions", "greedy", &ask(seed, "")));
    eventually("as many as are allowed are in progress", || {
        served.metric("candor_admitted_requests") == 2.0
    });
    assert_eq!(
        chat(&served, "greedy", &ask(3, "")).error(429)["code"],
        "rate_limit_exceeded"
    );
    assert_eq!(
        served.metric("candor_limited_requests_total{limit=\"concurrency\"}"),
        1.0
    );
    let mut polite = send(&served, "/v1/chat/completions", "polite", &ask(4, ""));
    eventually("it was let in", || {
        served.metric("candor_admitted_requests") == 3.0
    });
    served.valve.open();
    assert_eq!(read(&mut polite).status, 200);
    assert!(held.iter_mut().all(|client| read(client).status == 200));
}

#[test]
fn score_requests_are_admitted_by_their_work() {
    let served = Served::with(|c| {
        (c.engine.max_batch, c.engine.max_waiting) = (1, 1);
        c.keys = vec![key("greedy"), key("polite")];
    });
    served.valve.allow(0);
    let mut large = send(&served, "/v1/score", "greedy", &score(0..12));
    eventually("its texts are about to be scored", || {
        served.valve.stands.load(SeqCst)
    });
    let refused = post(&served, "/v1/score", "greedy", &score(0..12));
    assert_eq!(refused.error(429)["code"], "rate_limit_exceeded");
    assert!(number(&refused, "retry-after") >= 1);
    assert_eq!(
        served.metric("candor_limited_requests_total{limit=\"work\"}"),
        1.0
    );
    let mut polite = send(&served, "/v1/score", "polite", &score(20..21));
    served.valve.open();
    assert_eq!(read(&mut polite).status, 200);
    assert_eq!(
        read(&mut large).json()["results"].as_array().unwrap().len(),
        12
    );
    assert_eq!(
        post(&served, "/v1/score", "greedy", &score(0..12)).status,
        200
    );
}
