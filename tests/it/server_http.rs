//! What is around a request: its URL, its method, its origin, and how its body is packed.

use std::{io::Write, net::TcpListener};

use candor::{
    config::{ApiKey, Config},
    serve::{METRICS, ROUTES},
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    http::{JSON, Reply, chat_raw, exchange, get, request},
    served::{Served, ask},
    server_clients::said,
    server_ui::browser,
};

fn with_key(config: &mut Config) {
    let key_sha256 = Sha256::digest("sk-page")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    config.keys = vec![ApiKey {
        name: "page".to_owned(),
        key_sha256,
        ..ApiKey::default()
    }];
}

fn send(served: &Served, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    exchange(served.at, &request(method, path, headers, body))
}

#[test]
fn repeated_slashes_are_collapsed() {
    let served = Served::new();
    for path in [
        "/v1/models/",
        "//v1/models",
        "/v1//models",
        "///v1///models///",
        "/v1/models/?x=1",
    ] {
        assert_eq!(get(served.at, path).json()["object"], "list", "{path}");
    }
    assert_eq!(
        get(served.at, "/v1/models/candor-mini/").json()["id"],
        "candor-mini"
    );
    let body = ask(1, "").to_string();
    for path in [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/chat//completions/",
    ] {
        assert_eq!(
            send(&served, "POST", path, &[JSON], body.as_bytes()).status,
            200,
            "{path}"
        );
    }
    assert_eq!(get(served.at, "/health/ready/").status, 200);
    assert!(get(served.at, "//").text().contains("<html"));
    // The links of that page are relative to it.
    let moved = get(served.at, "/docs/");
    assert_eq!(
        (moved.status, moved.header("location")),
        (308, Some("../docs"))
    );
    for path in ["/v1/nothing/", "/v1", "//nothing"] {
        assert_eq!(
            get(served.at, path).error(404)["code"],
            "unknown_url",
            "{path}"
        );
    }
    let keyed = Served::with(with_key);
    assert_eq!(
        get(keyed.at, "//v1//models/").error(401)["code"],
        "invalid_api_key"
    );
}

#[test]
fn undecodable_url_is_refused() {
    let served = Served::new();
    for (path, param) in [
        ("/v1/feedback/%00", "id"),
        ("/v1/feedback?user=a%00b", "user"),
        ("/v1/feedback/%ff", "id"),
        ("/v1/models/%C3", "id"),
        ("/v1/feedback?limit=2&user=%ff", "user"),
    ] {
        assert_eq!(get(served.at, path).error(400)["param"], param, "{path}");
    }
    for path in ["/%00", "/v1/feedback?%00", "/v1/feedback?%ff=a"] {
        assert_eq!(
            get(served.at, path).error(400)["code"],
            "invalid_url",
            "{path}"
        );
    }
    for (query, param) in [
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("limit=1&limit=2", "limit"),
        ("annotators=7", "annotators"),
    ] {
        let error = get(served.at, &format!("/v1/feedback?{query}")).error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    assert_eq!(
        send(&served, "DELETE", "/v1/feedback", &[], b"").error(400)["param"],
        "user"
    );
    let long = format!("/v1/{}", "x".repeat(20_000));
    assert!(
        get(served.at, &long).error(404)["message"]
            .as_str()
            .unwrap()
            .len()
            < 300
    );
}

#[test]
fn options_lists_the_methods_of_every_route() {
    for served in [Served::new(), Served::with(with_key)] {
        for route in ROUTES.iter().chain(METRICS) {
            let path = route.path.replace("{id}", "x").replace("{file}", "x");
            let options = send(&served, "OPTIONS", &path, &[], b"");
            assert_eq!((options.status, options.body.len()), (204, 0), "{path}");
            assert!(
                options
                    .header("allow")
                    .unwrap()
                    .split(',')
                    .any(|method| method == route.method),
                "{path}"
            );
            assert_eq!(options.header("access-control-allow-origin"), None);
        }
        assert_eq!(
            send(&served, "OPTIONS", "/v1/nothing", &[], b"").error(404)["code"],
            "unknown_url"
        );
    }
    let served = Served::new();
    for path in [
        "/",
        "/v1/models",
        "/health/live",
        "/openapi.json",
        "/metrics",
    ] {
        let (head, whole) = (send(&served, "HEAD", path, &[], b""), get(served.at, path));
        assert_eq!(
            (head.status, head.body.len(), head.header("content-type")),
            (200, 0, whole.header("content-type")),
            "{path}"
        );
    }
    let head = send(&served, "HEAD", "/v1/chat/completions", &[], b"");
    assert_eq!((head.status, head.header("allow")), (405, Some("POST")));
}

/// What a browser asks before a request of a page from `origin`.
fn preflight(served: &Served, origin: &str, path: &str) -> Reply {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type,idempotency-key,x-stainless-lang",
        ),
    ];
    send(served, "OPTIONS", path, &headers, b"")
}

#[test]
fn configured_origin_is_allowed_by_cors() {
    let app = "https://app.example.org";
    let served = Served::with(|config| {
        with_key(config);
        config.server.cors_origins = vec![app.to_owned(), "capacitor://localhost".to_owned()];
    });
    for path in [
        "/v1/chat/completions",
        "/v1/score",
        "/v1/models",
        "/v1/feedback",
        "/v1/chat/completions/",
    ] {
        let reply = preflight(&served, app, path);
        assert!(
            [200, 204].contains(&reply.status),
            "{path}: {}",
            reply.status
        );
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some(app),
            "{path}"
        );
        let headers = reply
            .header("access-control-allow-headers")
            .unwrap()
            .to_lowercase();
        assert!(
            ["authorization", "content-type", "idempotency-key"]
                .iter()
                .all(|name| headers.contains(name)),
            "{headers}"
        );
        assert!(
            reply
                .header("access-control-allow-methods")
                .unwrap()
                .contains("POST")
        );
    }
    assert_eq!(
        preflight(&served, "capacitor://localhost", "/v1/score")
            .header("access-control-allow-origin"),
        Some("capacitor://localhost")
    );
    for other in [
        "https://evil.example.org",
        "http://app.example.org",
        "https://app.example.org:8443",
        "null",
    ] {
        assert_eq!(
            preflight(&served, other, "/v1/score").header("access-control-allow-origin"),
            None,
            "{other}"
        );
    }
    let body = ask(1, "").to_string();
    let asked = |headers: &[(&str, &str)]| {
        send(
            &served,
            "POST",
            "/v1/chat/completions",
            headers,
            body.as_bytes(),
        )
    };
    let reply = asked(&[JSON, ("origin", app), ("authorization", "Bearer sk-page")]);
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, Some(app))
    );
    let exposed = reply.header("access-control-expose-headers").unwrap();
    for name in [
        "x-request-id",
        "x-candor-verdict",
        "x-candor-score",
        "x-candor-flagged-spans",
        "x-candor-warnings",
    ] {
        assert!(exposed.split(',').any(|header| header == name), "{exposed}");
    }
    // Without a key the page can read why.
    let reply = asked(&[JSON, ("origin", app)]);
    assert_eq!(
        (
            reply.error(401)["code"].as_str(),
            reply.header("access-control-allow-origin")
        ),
        (Some("invalid_api_key"), Some(app))
    );
}

#[test]
fn wildcard_origin_allows_all_and_default_allows_none() {
    let any = Served::with(|config| config.server.cors_origins = vec!["*".to_owned()]);
    assert_eq!(
        preflight(&any, "https://a.example", "/v1/score").header("access-control-allow-origin"),
        Some("*")
    );
    assert_eq!(
        preflight(&any, "null", "/v1/score").header("access-control-allow-origin"),
        Some("*")
    );
    let none = Served::with(with_key);
    let reply = preflight(&none, "https://a.example", "/v1/score");
    assert_eq!(
        (
            reply.status,
            reply.header("access-control-allow-origin"),
            reply.header("allow")
        ),
        (204, None, Some("POST"))
    );
}

#[test]
fn browser_reads_a_cross_origin_answer() {
    let Some(mut python) = browser() else { return };
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let served = Served::with(|config| {
        with_key(config);
        config.server.cors_origins = vec![format!("http://{free}")];
    });
    python.args([
        "tests/e2e/cors.py",
        &free.port().to_string(),
        &format!("http://{}", served.at),
        "sk-page",
    ]);
    said(python, "");
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Brotli with the data as they are (RFC 7932, section 9.2): a window of 64 KiB, one uncompressed
/// block of at most 64 KiB, an empty last one.
fn brotli(data: &[u8]) -> Vec<u8> {
    let head = ((data.len() as u32 - 1) << 4) | 1 << 20;
    [&head.to_le_bytes()[..3], data, &[0b11]].concat()
}

/// Zstandard (RFC 8878) with a window of 1 MiB and these blocks: size, whether one byte is
/// repeated, data.
fn zstd(blocks: &[(usize, bool, &[u8])]) -> Vec<u8> {
    let mut out = vec![0x28, 0xB5, 0x2F, 0xFD, 0, 10 << 3];
    for (i, (size, repeated, data)) in blocks.iter().enumerate() {
        let head =
            u32::from(i + 1 == blocks.len()) | u32::from(*repeated) << 1 | (*size as u32) << 3;
        out.extend(&head.to_le_bytes()[..3]);
        out.extend(*data);
    }
    out
}

fn packed(served: &Served, encoding: &str, body: &[u8]) -> Reply {
    send(
        served,
        "POST",
        "/v1/chat/completions",
        &[JSON, ("content-encoding", encoding)],
        body,
    )
}

#[test]
fn compressed_body_is_decompressed() {
    let served = Served::new();
    let body = ask(1, "").to_string().into_bytes();
    let plain = chat_raw(served.at, &body).json()["choices"][0]["message"].clone();
    let halves = body.split_at(body.len() / 2);
    let zstd = zstd(&[
        (halves.0.len(), false, halves.0),
        (halves.1.len(), false, halves.1),
    ]);
    let of = [
        ("gzip", gzip(&body)),
        ("x-gzip", gzip(&body)),
        ("GZIP", gzip(&body)),
        ("deflate", deflate(&body)),
        ("zstd", zstd),
    ];
    for (encoding, packed) in of
        .into_iter()
        .chain([("br", brotli(&body)), ("identity", body.clone())])
    {
        let reply = self::packed(&served, encoding, &packed);
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text());
        assert_eq!(reply.json()["choices"][0]["message"], plain, "{encoding}");
    }
    let score = json!({"model": "candor-mini"}).to_string();
    let reply = send(
        &served,
        "POST",
        "/v1/score",
        &[JSON, ("content-encoding", "gzip")],
        &gzip(score.as_bytes()),
    );
    assert_eq!(reply.error(400)["code"], "missing_required_parameter");
    for encoding in ["compress", "snappy", "gzip, gzip", "gzip,br"] {
        let error = packed(&served, encoding, &gzip(&body)).error(415);
        assert_eq!(error["code"], "unsupported_content_encoding", "{error}");
    }
    let cut = gzip(&body);
    for bad in [&body[..], &cut[..cut.len() / 2], b"\x1f\x8b", b"x"] {
        assert_eq!(
            packed(&served, "gzip", bad).error(400)["code"],
            "invalid_content_encoding"
        );
    }
    for encoding in ["deflate", "br", "zstd"] {
        assert_eq!(
            packed(&served, encoding, b"{\"model\": \"candor-mini\"}").error(400)["code"],
            "invalid_content_encoding",
            "{encoding}"
        );
    }
}

#[test]
fn decompression_bomb_body_is_refused() {
    let served = Served::with(|config| {
        config.images.max_bytes = 1 << 20;
        config.server.max_body_bytes = 2 << 20;
    });
    let spaces = |mib: usize| vec![b' '; mib << 20];
    // 8 GiB of spaces in 256 KiB.
    let block: (usize, bool, &[u8]) = (128 << 10, true, b" ");
    let bombs = [
        ("gzip", gzip(&spaces(64))),
        ("deflate", deflate(&spaces(64))),
        ("zstd", zstd(&vec![block; 64 << 10])),
    ];
    for (encoding, bomb) in bombs {
        assert!(bomb.len() < 1 << 20, "{encoding}: {}", bomb.len());
        assert_eq!(
            packed(&served, encoding, &bomb).error(413)["code"],
            "request_too_large",
            "{encoding}"
        );
    }
    // Up to the limit a body is taken, however it is packed.
    let body = [ask(1, "").to_string().into_bytes(), spaces(1)].concat();
    assert_eq!(packed(&served, "gzip", &gzip(&body)).status, 200);
}

#[test]
fn json_content_types_are_accepted_and_others_refused() {
    let served = Served::new();
    let body = ask(1, "").to_string();
    let typed = |kind: &str| {
        send(
            &served,
            "POST",
            "/v1/chat/completions",
            &[("content-type", kind)],
            body.as_bytes(),
        )
    };
    for kind in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "text/json; charset=utf-8",
        "application/problem+json",
    ] {
        assert_eq!(typed(kind).status, 200, "{kind}");
    }
    let form = typed("application/x-www-form-urlencoded").error(415);
    assert!(
        form["message"]
            .as_str()
            .unwrap()
            .contains("-H 'content-type: application/json'"),
        "{form}"
    );
    assert!(
        !typed("text/plain").error(415)["message"]
            .as_str()
            .unwrap()
            .contains("curl")
    );
    let marked = [b"\xEF\xBB\xBF", body.as_bytes()].concat();
    assert_eq!(chat_raw(served.at, &marked).status, 200);
    let wide: Vec<u8> = [0xFEFFu16]
        .into_iter()
        .chain(body.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(
        chat_raw(served.at, &wide).error(400)["message"]
            .as_str()
            .unwrap()
            .contains("UTF-16")
    );
}
