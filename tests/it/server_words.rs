//! Errors speak the API's words and quote little, whatever is sent in whichever field.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    http::{JSON, Reply, exchange, get, request},
    served::{Served, and, ask},
};

/// Words of the language that the server is written in.
const FORBIDDEN: &[&str] = &[
    "i8",
    "i16",
    "i32",
    "i64",
    "isize",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "f32",
    "f64",
    "sequence",
    "map",
    "struct",
    "enum",
    "variant",
    "unit",
    "tuple",
    "newtype",
    "identifier",
    "Option",
    "serde",
    "deserialize",
    "boolean",
    "floating",
];

/// Longest message of a refusal, whatever was sent.
const LONGEST: usize = 1200;

#[track_caller]
fn check(reply: &Reply, about: &str) {
    assert!(reply.status < 500, "{about}: {}", reply.text());
    if reply.status < 400 {
        return;
    }
    let error = reply.error(reply.status);
    let message = error["message"].as_str().unwrap();
    assert!(
        reply.body.len() < 2 * LONGEST && message.len() < LONGEST,
        "{about}: {} bytes",
        reply.body.len()
    );
    let word = message
        .split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| FORBIDDEN.contains(word));
    assert_eq!(word, None, "{about}: {message}");
}

/// A route that reads JSON, and all fields of what it reads: keys of objects, numbers of lists.
struct Body {
    path: String,
    base: Value,
    fields: Vec<Vec<Value>>,
}

/// All places in a schema, a few levels deep.
fn places(schema: &Value, document: &Value, at: &[Value], found: &mut Vec<Vec<Value>>) {
    if at.len() > 6 {
        return;
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return places(
            document.pointer(&reference[1..]).unwrap(),
            document,
            at,
            found,
        );
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        schema[key]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|one| places(one, document, at, found));
    }
    let mut within = |key: Value, schema: &Value| {
        let at = [at, &[key]].concat();
        places(schema, document, &at, found);
        if !found.contains(&at) {
            found.push(at);
        }
    };
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .for_each(|(key, schema)| within(json!(key), schema));
    if schema["items"].is_object() {
        within(json!(0), &schema["items"]);
    }
}

/// `body` with `value` in this place; what is not on the way there is made.
fn with(body: &Value, place: &[Value], value: Value) -> Value {
    let Some((first, rest)) = place.split_first() else {
        return value;
    };
    match first.as_str() {
        Some(key) => {
            let mut object = body.as_object().cloned().unwrap_or_else(Map::new);
            object.insert(key.to_owned(), with(&body[key], rest, value));
            Value::Object(object)
        }
        None => {
            let mut list = body
                .as_array()
                .cloned()
                .filter(|list| !list.is_empty())
                .unwrap_or_else(|| vec![Value::Null]);
            list[0] = with(&list[0], rest, value);
            Value::Array(list)
        }
    }
}

fn bodies(served: &Served) -> Vec<Body> {
    let document = get(served.at, "/openapi.json").json();
    let mut bodies = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let mut fields = Vec::new();
        places(schema, &document, &[], &mut fields);
        let base = match path.as_str() {
            "/v1/chat/completions" => ask(1, "What is it?"),
            "/v1/score" => and(
                json!({"model": "candor-mini", "response": "A dog."}),
                json!({"messages": ask(1, "")["messages"]}),
            ),
            "/v1/feedback" => {
                json!({"image": ask(1, "")["messages"][0]["content"][1]["image_url"]["url"],
                    "response": "A dog.", "label": "good"})
            }
            "/admin/models/{id}/promote" => json!({}),
            _ => json!({"annotator": "ann"}),
        };
        bodies.push(Body {
            path: path.replace("{id}", "x"),
            base,
            fields,
        });
    }
    assert!(bodies.len() >= 5 && bodies.iter().map(|body| body.fields.len()).sum::<usize>() > 150);
    bodies
}

fn administrated() -> Served {
    Served::with(|config| {
        config.admin.key_sha256 = Sha256::digest("sk-admin")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}

fn send(served: &Served, path: &str, body: &[u8]) -> Reply {
    exchange(
        served.at,
        &request(
            "POST",
            path,
            &[JSON, ("authorization", "Bearer sk-admin")],
            body,
        ),
    )
}

#[test]
fn wrong_type_in_any_field_is_named_as_in_the_api() {
    let served = administrated();
    let values = [
        json!(null),
        json!(true),
        json!(5),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!("x"),
        json!("\u{0}\u{7f}\""),
        json!([]),
        json!([[1]]),
        json!([{"a": 1}]),
        json!({}),
        json!({"flag": null}),
        json!({"k": {"k": [1]}}),
    ];
    for Body { path, base, fields } in bodies(&served) {
        for field in &fields {
            for value in &values {
                let body = with(&base, field, value.clone());
                check(
                    &send(&served, &path, body.to_string().as_bytes()),
                    &format!("{path} {field:?} {value}"),
                );
            }
        }
        for value in &values {
            check(
                &send(&served, &path, value.to_string().as_bytes()),
                &format!("{path} {value}"),
            );
        }
    }
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn long_value_is_quoted_shortened() {
    let served = administrated();
    // A stand-in, so that large numbers and deep lists can be written that no JSON library has.
    let mark = json!("<here>");
    let long = "x".repeat(1_500_000);
    let odd = "\\u0000é\\\"".repeat(100_000);
    let digits = "9".repeat(10_000);
    let written = [
        format!("\"{long}\""),
        format!("\"{odd}\""),
        format!("{{\"{long}\": 1}}"),
        format!("[{}1]", "1,".repeat(100_000)),
        format!("[\"{long}\"]"),
        digits.clone(),
        format!("-{digits}.{digits}"),
        "1e999".to_owned(),
        format!("0.{}1", "0".repeat(10_000)),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
    ];
    for Body { path, base, fields } in bodies(&served) {
        for field in &fields {
            let body = with(&base, field, mark.clone()).to_string();
            let (before, after) = body.split_once("\"<here>\"").unwrap();
            // Long values of every kind at the top, a few of them in what is nested.
            let few = if field.len() == 1 { written.len() } else { 5 };
            for value in written.iter().take(few) {
                let reply = send(&served, &path, [before, value, after].concat().as_bytes());
                check(&reply, &format!("{path} {field:?} {value:.40}"));
            }
        }
        let unknown = and(base, json!({long.as_str(): 1}));
        check(&send(&served, &path, unknown.to_string().as_bytes()), &path);
    }
    // As large as a body may be.
    let huge = "A".repeat(15_000_000);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": huge})),
        (
            "/v1/chat/completions",
            json!({"model": "candor-mini", "messages": huge}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "candor-mini", "messages": [{"role": huge, "content": "x"}]}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "candor-mini",
                "messages": [{"role": "user", "content": [{"type": huge}]}]}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "candor-mini",
                "messages": [{"role": "user",
                    "content": [{"type": "image_url", "image_url": huge}]}]}),
        ),
        (
            "/v1/chat/completions",
            and(ask(1, ""), json!({"guard": {huge.as_str(): 1}})),
        ),
        (
            "/v1/chat/completions",
            and(ask(1, ""), json!({"guard": {"mode": huge}})),
        ),
        (
            "/v1/chat/completions",
            and(ask(1, ""), json!({"temperature": huge})),
        ),
        (
            "/v1/score",
            json!({"model": "candor-mini", "response": "A dog.", "image_url": huge}),
        ),
        ("/v1/score", json!({"model": "candor-mini", "author": huge})),
        ("/v1/feedback", json!({huge.as_str(): 1})),
        (
            "/v1/feedback",
            json!({"completion_id": huge, "label": "good"}),
        ),
        ("/v1/feedback", json!({"label": huge})),
        ("/v1/queue/next", json!({"annotator": huge})),
    ] {
        let reply = send(&served, path, body.to_string().as_bytes());
        assert!(reply.status >= 400, "{path}");
        check(&reply, path);
    }
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn number_out_of_range_is_not_called_malformed_json() {
    let served = Served::new();
    for (field, number) in [
        ("seed", "9".repeat(400)),
        ("temperature", "1e999".to_owned()),
        ("n", "-1e999".to_owned()),
    ] {
        let body = format!(r#"{{"model": "candor-mini", "{field}": {number}}}"#);
        let error = send(&served, "/v1/chat/completions", body.as_bytes()).error(400);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(field), &json!("out_of_range")),
            "{error}"
        );
    }
    let error = served
        .chat(&and(ask(1, ""), json!({"guard": {"mode": 5}})))
        .error(400);
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("guard.mode"), &json!("invalid_type")),
        "{error}"
    );
    let error = served
        .chat(&and(ask(1, ""), json!({"guard": {"threshold": 1e300}})))
        .error(400);
    assert_eq!(
        error["message"],
        "'guard.threshold' is out of range; it must be between 0 and 1"
    );
    let twice = br#"{"model": "candor-mini", "n": 1, "n": 2}"#;
    let error = send(&served, "/v1/chat/completions", twice).error(400);
    assert_eq!(
        (&error["param"], error["message"].as_str()),
        (&json!("n"), Some("'n' is given twice"))
    );
}
