//! By which names a server may be called, and what browsers are told about its responses.

use std::io::Write;

use candor::serve::{METRICS, ROUTES};

use crate::{
    http::{Reply, connect, exchange, get, read, request},
    served::Served,
};

/// The answer to a request with these lines of a head.
fn send(served: &Served, lines: &[&str]) -> Reply {
    let mut client = connect(served.at);
    client
        .write_all(format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n")).as_bytes())
        .unwrap();
    read(&mut client)
}

#[test]
fn foreign_host_on_loopback_is_refused() {
    let served = Served::new();
    let called = |host: &str| {
        send(
            &served,
            &[
                "GET /v1/feedback?annotators=true HTTP/1.1",
                &format!("host: {host}"),
            ],
        )
    };
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        &served.at.to_string(),
        "127.1.2.3:80",
        "[::1]:8080",
    ] {
        assert_eq!(called(host).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "192.168.1.1",
        "",
        "[",
    ] {
        let error = called(host).error(403);
        assert_eq!(error["code"], "host_not_allowed", "{host}");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("server.allowed_hosts"),
            "{error}"
        );
    }
    for method in [
        "POST /v1/feedback",
        "GET /",
        "GET /metrics",
        "GET /nothing",
        "OPTIONS /v1/score",
    ] {
        assert_eq!(
            send(
                &served,
                &[&format!("{method} HTTP/1.1"), "host: evil.example"]
            )
            .error(403)["code"],
            "host_not_allowed",
            "{method}"
        );
    }
    let absolute = send(
        &served,
        &[
            "GET http://evil.example/v1/models HTTP/1.1",
            "host: localhost",
        ],
    );
    assert_eq!(absolute.error(403)["code"], "host_not_allowed");
    assert_eq!(
        send(
            &served,
            &["GET http://localhost/v1/models HTTP/1.1", "host: localhost"]
        )
        .status,
        200
    );
    // Probes of load balancers have names of their own.
    assert_eq!(
        send(&served, &["GET /health HTTP/1.1", "host: probe"]).status,
        200
    );
}

#[test]
fn request_without_exactly_one_host_is_refused() {
    let served = Served::new();
    for path in ["/v1/models", "/health"] {
        let get = format!("GET {path} HTTP/1.1");
        assert_eq!(send(&served, &[&get]).error(400)["code"], "invalid_host");
        assert_eq!(
            send(&served, &[&get, "host: localhost", "host: localhost"]).error(400)["code"],
            "invalid_host"
        );
        assert_eq!(
            send(&served, &[&format!("GET {path} HTTP/1.0")]).status,
            200
        );
    }
}

#[test]
fn allowed_hosts_are_accepted() {
    let served = Served::with(|c| c.server.allowed_hosts = vec!["candor.example.org".to_owned()]);
    let called = |host: &str| {
        send(
            &served,
            &["GET /v1/models HTTP/1.1", &format!("host: {host}")],
        )
        .status
    };
    assert_eq!(
        [
            called("candor.example.org"),
            called("Candor.Example.Org:8443"),
            called("localhost"),
            called("example.org")
        ],
        [200, 200, 200, 403]
    );
    let any = Served::with(|c| c.server.allowed_hosts = vec!["*".to_owned()]);
    assert_eq!(
        send(&any, &["GET /v1/models HTTP/1.1", "host: evil.example"]).status,
        200
    );
}

#[test]
fn security_headers_are_on_every_response() {
    let served = Served::new();
    for route in ROUTES.iter().chain(METRICS) {
        let path = route.path.replace("{id}", "x").replace("{file}", "app.js");
        let reply = exchange(served.at, &request(route.method, &path, &[], b""));
        assert_eq!(
            reply.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        let policy = reply.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        let private = path.starts_with("/v1/") || path.starts_with("/admin/");
        assert_eq!(
            reply.header("cache-control") == Some("no-store"),
            private,
            "{path}"
        );
        assert_eq!(
            reply
                .headers
                .iter()
                .filter(|(name, _)| name == "content-security-policy")
                .count(),
            1,
            "{path}"
        );
    }
    assert!(
        get(served.at, "/")
            .header("content-security-policy")
            .unwrap()
            .contains("script-src 'self'")
    );
    assert_eq!(
        get(served.at, "/v1/nothing").header("cache-control"),
        Some("no-store")
    );
}

/// What requires a question of the browser first is not sent by pages of other origins; so nothing
/// that changes anything takes a body of another type.
#[test]
fn post_with_a_simple_content_type_is_refused() {
    let served = Served::new();
    for route in ROUTES
        .iter()
        .filter(|route| route.method == "POST" && route.path.starts_with("/v1/"))
    {
        let path = route.path.replace("{id}", "x");
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ] {
            let headers = [("content-type", kind), ("origin", "https://evil.example")];
            assert_eq!(
                exchange(served.at, &request("POST", &path, &headers, b"{}")).error(415)["code"],
                "unsupported_content_type",
                "{path}"
            );
        }
    }
}
