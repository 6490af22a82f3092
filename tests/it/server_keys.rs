//! API keys.

use candor::config::{ApiKey, Auto};
use serde_json::json;

use crate::{
    http::{self, JSON, Reply, exchange, get, request},
    served::{Served, and, ask},
};

fn served() -> Served {
    Served::with(|c| {
        let strict = ApiKey {
            threshold: Auto::Value(1.0),
            ..ApiKey::new("strict", "sk-strict")
        };
        let quiet = ApiKey {
            mode: Auto::Value(candor::guard::Mode::Score),
            target_fpr: Auto::Value(0.1),
            ..ApiKey::new("quiet", "sk-quiet")
        };
        c.guard.threshold = Auto::Value(0.25);
        c.keys = vec![ApiKey::new("plain", "sk-plain"), strict, quiet];
    })
}

fn post(
    served: &Served,
    path: &str,
    authorization: Option<&str>,
    body: &serde_json::Value,
) -> Reply {
    let with = authorization.map(|value| ("authorization", value));
    let headers: Vec<_> = [JSON].into_iter().chain(with).collect();
    exchange(
        served.at,
        &request("POST", path, &headers, body.to_string().as_bytes()),
    )
}

#[test]
fn request_without_known_key_is_401_except_health() {
    let served = served();
    let chat = |authorization| post(&served, "/v1/chat/completions", authorization, &ask(1, ""));
    for wrong in [
        None,
        Some("Bearer sk-none"),
        Some("Bearer"),
        Some("sk-plain"),
        Some("Basic sk-plain"),
        Some("Bearer sk-plainer"),
    ] {
        let reply = chat(wrong);
        let error = reply.error(401);
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("invalid_api_key"), &json!("invalid_request_error")),
            "{wrong:?}"
        );
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert!(!reply.text().contains("sk-"), "{}", reply.text());
    }
    for path in ["/v1/models", "/v1/models/candor-mini", "/v1/nothing"] {
        assert_eq!(
            get(served.at, path).error(401)["code"],
            "invalid_api_key",
            "{path}"
        );
    }
    assert_eq!(
        post(&served, "/v1/score", None, &json!({})).error(401)["code"],
        "invalid_api_key"
    );
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(get(served.at, path).status, 200, "{path}");
    }
    assert_eq!(chat(Some("Bearer sk-plain")).status, 200);
    assert_eq!(chat(Some("bearer sk-plain")).status, 200);
    let models = exchange(
        served.at,
        &request(
            "GET",
            "/v1/models",
            &[("authorization", "Bearer sk-quiet")],
            b"",
        ),
    );
    assert_eq!(models.status, 200);
}

#[test]
fn guard_of_the_key_is_overridden_by_the_request() {
    let served = served();
    let guard = |secret: &str, more| {
        let body = post(
            &served,
            "/v1/chat/completions",
            Some(&format!("Bearer {secret}")),
            &and(ask(2, ""), more),
        )
        .json();
        body["choices"][0]["guard"].clone()
    };
    let plain = guard("sk-plain", json!({}));
    assert_eq!(
        (&plain["mode"], &plain["threshold"]),
        (&json!("flag"), &json!(0.25))
    );
    let strict = guard("sk-strict", json!({}));
    assert_eq!(
        (&strict["mode"], &strict["threshold"], &strict["verdict"]),
        (&json!("flag"), &json!(1.0), &json!("flagged"))
    );
    let quiet = guard("sk-quiet", json!({}));
    assert_eq!(
        (&quiet["mode"], &quiet["spans"]),
        (&json!("score"), &json!([]))
    );
    assert!(
        quiet["threshold"] != json!(0.25),
        "target_fpr stands in for the threshold"
    );
    assert_eq!(
        guard("sk-strict", json!({"guard": {"threshold": 0.5}}))["threshold"],
        0.5
    );
    let image = ask(2, "")["messages"].clone();
    let scored = |secret: &str| {
        let body = json!({"model": "candor-mini", "messages": image, "response": "A dog."});
        post(
            &served,
            "/v1/score",
            Some(&format!("Bearer {secret}")),
            &body,
        )
        .json()["results"][0]["guard"]
            .clone()
    };
    assert_eq!(
        (
            &scored("sk-strict")["threshold"],
            &scored("sk-quiet")["mode"]
        ),
        (&json!(1.0), &json!("score"))
    );
}

#[test]
fn server_without_keys_ignores_authorization() {
    let served = Served::new();
    for value in ["Bearer unused", "Basic eA==", ""] {
        assert_eq!(
            post(&served, "/v1/chat/completions", Some(value), &ask(1, "")).status,
            200
        );
    }
}

#[test]
fn large_body_without_key_gets_the_error() {
    let served = served();
    let body = vec![b' '; 8 << 20];
    let reply = http::exchange(
        served.at,
        &request("POST", "/v1/chat/completions", &[JSON], &body),
    );
    assert_eq!(reply.error(401)["code"], "invalid_api_key");
}
