//! Images by `https:` URL: fetched from a real server with TLS, and refused wherever a fetch could
//! lead inside.

use std::{
    thread,
    time::{Duration, Instant},
};

use candor::config::{Auto, Config};
use serde_json::json;

use crate::{
    http::{JSON, Reply, exchange, request},
    served::{Served, about, ask, data_url, eventually},
    store::{SECRET, Store, photo},
};

const URL: &str = "messages[0].content[1].image_url.url";

/// Fetching is on, and nothing private is allowed.
fn on(config: &mut Config) {
    config.fetch.enabled = true;
    config.fetch.timeout_s = 2;
}

/// Fetching is on, and the store may be asked as `localhost`.
fn served(store: &Store) -> Served {
    Served::with(|config| allowing(config, store))
}

fn allowing(config: &mut Config, store: &Store) {
    on(config);
    config.fetch.allow = vec![store.entry("localhost")];
    config.fetch.ca_file = Auto::Value(store.ca.path().to_str().unwrap().to_owned());
}

/// The error, after checking that it names the field and tells nothing of what the store answered.
#[track_caller]
fn refused(reply: &Reply, code: &str) -> String {
    let error = reply.error(400);
    assert_eq!(
        (&error["param"], &error["code"], &error["type"]),
        (&json!(URL), &json!(code), &json!("invalid_request_error")),
        "{error}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        !message.contains(SECRET) && !message.contains("127.0.0.1") && !message.contains("404"),
        "{message}"
    );
    message.to_owned()
}

fn said(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn fetched_image_is_answered_like_a_sent_one() {
    let store = Store::new();
    let served = served(&store);
    let sent = said(&served.chat(&about(&data_url("image/jpeg", &photo()), "")));
    for path in [
        "/photo.jpg",
        "/chunked",
        "/close",
        "/photo.jpg?size=1#part",
        "/hops?0",
        "/hops?1",
        "/hops?3",
    ] {
        assert_eq!(
            said(&served.chat(&about(&store.url("localhost", path), ""))),
            sent,
            "{path}"
        );
    }
    assert_eq!(
        said(&served.chat(&about(&store.url("LOCALHOST.", "/photo.jpg"), ""))),
        sent
    );
    assert_eq!(
        served.metric("candor_image_fetches_total{outcome=\"fetched\"}"),
        8.0
    );
    let mut stream = about(&store.url("localhost", "/photo.jpg"), "");
    stream["stream"] = json!(true);
    let chunks = served.chat(&stream).chunks();
    assert_eq!(
        chunks
            .iter()
            .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
            .collect::<String>(),
        sent
    );
}

#[test]
fn fetch_forwards_no_client_headers() {
    let store = Store::new();
    let served = served(&store);
    let body = about(&store.url("localhost", "/photo.jpg?a=b#c"), "").to_string();
    let own = [
        JSON,
        ("authorization", "Bearer secret"),
        ("cookie", "a=b"),
        ("x-request-id", "trace-1"),
        ("user-agent", "client"),
    ];
    assert_eq!(
        exchange(
            served.at,
            &request("POST", "/v1/chat/completions", &own, body.as_bytes())
        )
        .status,
        200
    );
    let seen = store.requests();
    let mut lines: Vec<_> = seen[0]
        .trim_end()
        .split("\r\n")
        .map(str::to_owned)
        .collect();
    assert_eq!(
        (seen.len(), lines.remove(0)),
        (1, "GET /photo.jpg?a=b HTTP/1.1".to_owned())
    );
    lines.sort();
    let expected = [
        "accept-encoding: identity".to_owned(),
        "accept: image/*".to_owned(),
        "connection: close".to_owned(),
        format!("host: localhost:{}", store.at.port()),
        format!("user-agent: candor/{}", env!("CARGO_PKG_VERSION")),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn fetch_is_off_by_default() {
    let store = Store::new();
    let served = Served::with(|config| {
        allowing(config, &store);
        config.fetch.enabled = false;
    });
    for url in [
        store.url("localhost", "/photo.jpg"),
        "https://".to_owned(),
        "http://example.org/".to_owned(),
    ] {
        assert!(refused(&served.chat(&about(&url, "")), "image_fetch_disabled").contains("off"));
    }
    assert_eq!(store.connections(), 0);
}

#[test]
fn fetch_refuses_other_urls_than_https() {
    let store = Store::new();
    let served = served(&store);
    for (url, why) in [
        ("http://localhost/photo.jpg".to_owned(), "https: URLs only"),
        (store.url("user:pw@localhost", "/photo.jpg"), "no user name"),
        (store.url("user@localhost", "/photo.jpg"), "no user name"),
        ("https://".to_owned(), "valid URL"),
        ("https://[::1".to_owned(), "valid URL"),
        ("https://256.256.256.256/".to_owned(), "valid URL"),
        ("file:///etc/passwd".to_owned(), "neither"),
        ("ftp://localhost/photo.jpg".to_owned(), "neither"),
        ("ftp:".to_owned(), "neither"),
        ("/photo.jpg".to_owned(), "neither"),
    ] {
        let message = refused(&served.chat(&about(&url, "")), "invalid_image_url");
        assert!(
            message.contains(why) && !message.contains("pw"),
            "{url}: {message}"
        );
    }
    assert_eq!(store.connections(), 0);
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn fetch_refuses_private_addresses_in_any_spelling() {
    let store = Store::new();
    let served = Served::with(on);
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "100.100.100.200",
        "255.255.255.255",
        "224.0.0.1",
        "localhost",
        "LocalHost.",
        "ⓛocalhost",
        "%6cocalhost",
    ];
    for host in hosts {
        let message = refused(
            &served.chat(&about(&store.url(host, "/photo.jpg"), "")),
            "image_address_forbidden",
        );
        assert!(message.contains("public internet"), "{host}: {message}");
    }
    assert_eq!(store.connections(), 0);
    assert_eq!(
        served.metric("candor_image_fetches_total{outcome=\"forbidden\"}"),
        hosts.len() as f64
    );
    refused(
        &served.chat(&about("https://no-such-host.invalid/", "")),
        "image_fetch_failed",
    );
}

#[test]
fn fetch_allowance_is_one_host_and_port() {
    let (store, other) = (Store::new(), Store::new());
    let served = served(&store);
    // The same server by another name, and another server by the same name.
    for url in [
        store.url("127.0.0.1", "/photo.jpg"),
        other.url("localhost", "/photo.jpg"),
        "https://localhost/".to_owned(),
    ] {
        refused(&served.chat(&about(&url, "")), "image_address_forbidden");
    }
    assert_eq!((store.connections(), other.connections()), (0, 0));
    let by_address = Served::with(|config| {
        allowing(config, &store);
        config.fetch.allow = vec![store.entry("127.0.0.1")];
    });
    assert_eq!(
        by_address
            .chat(&about(&store.url("127.1", "/photo.jpg"), ""))
            .status,
        200
    );
    refused(
        &by_address.chat(&about(&store.url("localhost", "/photo.jpg"), "")),
        "image_address_forbidden",
    );
}

#[test]
fn fetch_checks_redirects_like_the_first_url() {
    let (store, other) = (Store::new(), Store::new());
    let served = served(&store);
    let to = |target: &str| {
        served.chat(&about(
            &store.url("localhost", &format!("/to?{target}")),
            "",
        ))
    };
    said(&to(&store.url("localhost", "/photo.jpg")));
    said(&to("/photo.jpg"));
    for inner in [
        other.url("localhost", "/photo.jpg"),
        other.url("127.0.0.1", "/"),
        other.url("[::ffff:127.0.0.1]", "/"),
        "//169.254.169.254/".to_owned(),
    ] {
        refused(&to(&inner), "image_address_forbidden");
    }
    for plain in [
        "http://localhost/photo.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "https://u:p@localhost/",
        "https://",
    ] {
        assert!(
            refused(&to(plain), "image_fetch_failed").contains("redirects"),
            "{plain}"
        );
    }
    assert!(
        refused(
            &served.chat(&about(&store.url("localhost", "/nowhere"), "")),
            "image_fetch_failed"
        )
        .contains("redirects")
    );
    assert_eq!(other.connections(), 0);
}

#[test]
fn fetch_follows_at_most_three_redirects() {
    let store = Store::new();
    let with = |most: usize| {
        Served::with(|config| {
            allowing(config, &store);
            config.fetch.max_redirects = most;
        })
    };
    let hops = |served: &Served, n: u32| {
        served.chat(&about(&store.url("localhost", &format!("/hops?{n}")), ""))
    };
    let served = with(3);
    said(&hops(&served, 3));
    assert_eq!(store.requests().len(), 4);
    assert!(refused(&hops(&served, 4), "image_fetch_failed").contains("redirects too often"));
    // The fourth redirection's target was not asked.
    assert_eq!(store.requests().len(), 8);
    let served = with(0);
    said(&hops(&served, 0));
    refused(&hops(&served, 1), "image_fetch_failed");
}

#[test]
fn fetched_file_above_the_size_limit_is_refused() {
    let store = Store::new();
    let served = Served::with(|config| {
        allowing(config, &store);
        config.fetch.timeout_s = 15;
        config.images.max_bytes = photo().len() - 1;
    });
    let began = Instant::now();
    for path in [
        "/photo.jpg",
        "/chunked",
        "/close",
        "/announced",
        "/endless-chunked",
        "/endless",
    ] {
        let message = refused(
            &served.chat(&about(&store.url("localhost", path), "")),
            "image_too_large",
        );
        assert!(
            message.contains(&(photo().len() - 1).to_string()),
            "{path}: {message}"
        );
    }
    // It is not waited for what was announced.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        served.metric("candor_image_fetches_total{outcome=\"too_large\"}"),
        6.0
    );
    eventually("the connections are closed", || store.open() <= 1);
}

#[test]
fn fetch_from_a_slow_server_times_out() {
    let store = Store::new();
    let served = Served::with(|config| {
        allowing(config, &store);
        config.fetch.timeout_s = 1;
    });
    for path in ["/drip", "/silent"] {
        let began = Instant::now();
        assert!(
            refused(
                &served.chat(&about(&store.url("localhost", path), "")),
                "image_fetch_failed"
            )
            .contains("within 1 s"),
            "{path}"
        );
        assert!(
            (1.0..10.0).contains(&began.elapsed().as_secs_f64()),
            "{path}: {:?}",
            began.elapsed()
        );
    }
    assert_eq!(
        served.metric("candor_image_fetches_total{outcome=\"timeout\"}"),
        2.0
    );
    // The request's own deadline holds too.
    let hurried = Served::with(|config| {
        allowing(config, &store);
        config.fetch.timeout_s = 10;
        config.server.request_timeout_s = 2;
    });
    assert_eq!(
        hurried
            .chat(&about(&store.url("localhost", "/drip"), ""))
            .error(503)["code"],
        "request_timeout"
    );
}

#[test]
fn failed_or_incomplete_fetch_is_refused() {
    let store = Store::new();
    let served = served(&store);
    let chat = |path: &str| served.chat(&about(&store.url("localhost", path), ""));
    for path in [
        "/status?404",
        "/status?500",
        "/status?204",
        "/status?206",
        "/status?304",
        "/status?401",
        "/status?300",
        "/no-such-thing",
    ] {
        refused(&chat(path), "image_fetch_failed");
    }
    for path in ["/cut", "/headers"] {
        refused(&chat(path), "image_fetch_failed");
    }
    assert_eq!(
        served.metric("candor_image_fetches_total{outcome=\"failed\"}"),
        10.0
    );
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn fetched_file_that_is_no_image_is_refused() {
    let store = Store::new();
    let served = served(&store);
    for path in ["/text", "/packed", "/empty"] {
        let error = served
            .chat(&about(&store.url("localhost", path), ""))
            .error(400);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(URL), &json!("invalid_image")),
            "{path}: {error}"
        );
        assert!(
            !error["message"].as_str().unwrap().contains(SECRET),
            "{error}"
        );
    }
}

#[test]
fn fetch_with_untrusted_certificate_is_refused() {
    let (store, other) = (Store::new(), Store::new());
    // Another authority's, and Mozilla's list alone.
    for ca_file in [
        Auto::Value(other.ca.path().to_str().unwrap().to_owned()),
        Auto::Auto,
    ] {
        let served = Served::with(|config| {
            allowing(config, &store);
            config.fetch.ca_file = ca_file;
        });
        assert!(
            refused(
                &served.chat(&about(&store.url("localhost", "/photo.jpg"), "")),
                "image_fetch_failed"
            )
            .contains("TLS")
        );
    }
    assert!(store.requests().is_empty());
}

#[test]
fn concurrent_fetches_are_limited() {
    let store = Store::new();
    let served = Served::with(|config| {
        allowing(config, &store);
        config.fetch.max_concurrent = 2;
        config.fetch.timeout_s = 20;
    });
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| said(&served.chat(&about(&store.url("localhost", "/slow"), ""))));
        }
    });
    assert_eq!(
        (
            store.connections(),
            served.metric("candor_image_fetches_total{outcome=\"fetched\"}")
        ),
        (6, 6.0)
    );
    // One that is done may still be closing.
    assert!(store.most_open() <= 4, "{}", store.most_open());
}
