//! The API's description against the API.

use std::collections::BTreeSet;

use candor::serve::{METRICS, ROUTES};
use serde_json::{Value, json};

use crate::{
    http::{JSON, exchange, get, request},
    served::{Served, and, ask},
};

fn document(served: &Served) -> Value {
    let reply = get(served.at, "/openapi.json");
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json"))
    );
    reply.json()
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

#[test]
fn openapi_describes_exactly_the_routes() {
    let document = document(&Served::new());
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<_> = operations(&document)
        .map(|(method, path, _)| (method.to_uppercase(), path.to_owned()))
        .collect();
    let served: BTreeSet<_> = ROUTES
        .iter()
        .chain(METRICS)
        .map(|r| (r.method.to_owned(), r.path.to_owned()))
        .collect();
    assert_eq!(described, served);
    for (method, path, operation) in operations(&document) {
        assert!(
            operation["summary"].is_string() && operation["tags"].is_array(),
            "{method} {path}"
        );
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{method} {path}"
        );
        for (status, response) in responses {
            assert!(
                !response["description"].as_str().unwrap().is_empty(),
                "{path} {status}"
            );
            assert_eq!(
                response["headers"]["x-request-id"]["required"], true,
                "{path} {status}"
            );
            if !status.starts_with('2') {
                let schema = &response["content"]["application/json"]["schema"];
                assert_eq!(
                    schema["$ref"], "#/components/schemas/ErrorBody",
                    "{path} {status}"
                );
            }
        }
    }
}

#[test]
fn openapi_describes_statuses_and_headers_of_completions() {
    let document = document(&Served::new());
    let responses = &document["paths"]["/v1/chat/completions"]["post"]["responses"];
    let statuses: Vec<_> = responses
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        statuses,
        [
            "200", "400", "401", "403", "404", "408", "413", "415", "429", "500", "503"
        ]
    );
    assert!(responses["429"]["headers"]["retry-after"].is_object());
    for header in [
        "x-candor-verdict",
        "x-candor-score",
        "x-candor-flagged-spans",
        "x-candor-warnings",
        "x-request-id",
    ] {
        assert!(responses["200"]["headers"][header].is_object(), "{header}");
    }
    let content = responses["200"]["content"].as_object().unwrap();
    assert_eq!(
        content.keys().collect::<Vec<_>>(),
        ["application/json", "text/event-stream"]
    );
}

#[test]
fn openapi_references_resolve() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| check(item, document)),
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    assert!(
                        document
                            .pointer(reference.strip_prefix('#').unwrap())
                            .is_some(),
                        "{reference}"
                    );
                }
                fields.values().for_each(|field| check(field, document));
            }
            _ => {}
        }
    }
    let document = document(&Served::new());
    check(&document, &document);
}

/// The numbers of a schema that have both bounds: name, smallest, largest, whether whole.
fn bounded(schema: &Value) -> Vec<(&str, f64, f64, bool)> {
    let fields = schema["properties"].as_object().unwrap();
    fields
        .iter()
        .filter_map(|(name, f)| {
            Some((
                name.as_str(),
                f["minimum"].as_f64()?,
                f["maximum"].as_f64()?,
                f["type"][0] == "integer",
            ))
        })
        .collect()
}

#[test]
fn openapi_bounds_equal_the_servers() {
    let served = Served::new();
    let document = document(&served);
    let schemas = &document["components"]["schemas"];
    let (top, guard) = (
        bounded(&schemas["ChatRequest"]),
        bounded(&schemas["GuardRequest"]),
    );
    assert!(top.len() >= 9 && guard.len() >= 3, "{top:?} {guard:?}");
    let fields = top
        .into_iter()
        .map(|b| (b, false))
        .chain(guard.into_iter().map(|b| (b, true)));
    for ((name, least, most, whole), guarded) in fields {
        let number = |value: f64| {
            if whole {
                json!(value as i64)
            } else {
                json!(value)
            }
        };
        let asked = |value: f64| {
            let given = if guarded {
                json!({ "guard": { name: number(value) } })
            } else {
                json!({ name: number(value) })
            };
            // The image is last to be looked at, and missing: what is in range is refused for that.
            let body = json!({ "model": "candor-mini",
                "messages": [{ "role": "user", "content": "x" }], "logprobs": true });
            served.chat(&and(body, given)).error(400)["code"].clone()
        };
        let step = if whole { 1.0 } else { 0.001 };
        assert_eq!(
            (asked(least), asked(most)),
            (json!("image_missing"), json!("image_missing")),
            "{name}"
        );
        assert_eq!(
            (asked(least - step), asked(most + step)),
            (json!("out_of_range"), json!("out_of_range")),
            "{name}"
        );
    }
    let fewer = Served::with(|c| c.engine.max_waiting = 3);
    let request = &self::document(&fewer)["components"]["schemas"]["ChatRequest"];
    let most = request["properties"]["n"]["maximum"].as_i64().unwrap();
    assert_eq!(
        fewer
            .chat(&and(ask(1, ""), json!({ "n": most + 1 })))
            .error(400)["code"],
        "out_of_range"
    );
}

#[test]
fn openapi_examples_are_answered() {
    let served = Served::new();
    let document = document(&served);
    for path in ["/v1/chat/completions", "/v1/score"] {
        let example = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            ["example"];
        let reply = exchange(
            served.at,
            &request("POST", path, &[JSON], example.to_string().as_bytes()),
        );
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[test]
fn docs_page_loads_nothing_external() {
    let served = Served::new();
    let page = get(served.at, "/docs");
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'")
            && !policy.contains("http")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(!page.text().contains("//"), "{}", page.text());
    let loaded: Vec<&str> = page
        .text()
        .split(['"', '\''])
        .filter(|word| word.starts_with("ui/"))
        .collect();
    assert!(loaded.len() > 3, "{loaded:?}");
    for file in loaded {
        let reply = get(served.at, &format!("/{file}"));
        assert!(reply.status == 200 && reply.body.len() > 100, "{file}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    for other in [
        "/docs/index.html",
        "/docs/..%2fopenapi.json",
        "/ui/docs.html",
    ] {
        assert_eq!(get(served.at, other).error(404)["code"], "unknown_url");
    }
}
