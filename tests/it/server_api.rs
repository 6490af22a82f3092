//! The API's shapes, over a real socket.

use serde_json::{Value, json};

use crate::{
    http::{JSON, exchange, get, request},
    served::{Served, and, ask},
};

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn completion_has_openai_shape_and_guard_report() {
    let served = Served::new();
    let reply = served.chat(&ask(1, "What is this?"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(
        keys(&body),
        [
            "choices",
            "created",
            "id",
            "model",
            "object",
            "system_fingerprint",
            "usage"
        ]
    );
    assert_eq!(
        (&body["object"], &body["model"]),
        (&json!("chat.completion"), &json!("candor-mini"))
    );
    assert!(
        body["id"].as_str().unwrap().starts_with("chatcmpl-")
            && body["created"].as_u64().unwrap() > 1_700_000_000
    );
    let choice = &body["choices"][0];
    assert_eq!(
        keys(choice),
        ["finish_reason", "guard", "index", "logprobs", "message"]
    );
    assert_eq!(keys(&choice["message"]), ["content", "refusal", "role"]);
    assert_eq!(
        (
            &choice["index"],
            &choice["message"]["role"],
            &choice["logprobs"]
        ),
        (&json!(0), &json!("assistant"), &Value::Null)
    );
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
    let usage = &body["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
        )
    );
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 49);
    let guard = &choice["guard"];
    assert_eq!(guard["mode"], "flag");
    assert_eq!(reply.header("x-candor-verdict"), guard["verdict"].as_str());
    assert_eq!(
        reply.header("x-candor-flagged-spans").unwrap(),
        guard["spans"].as_array().unwrap().len().to_string()
    );
    assert_eq!(
        reply.header("x-candor-score").map(|s| s.parse().unwrap()),
        guard["score"].as_f64().map(|s| s as f32)
    );
    assert!(reply.header("x-request-id").is_some());
}

#[test]
fn flagged_spans_match_the_text_and_alt_text_follows_render() {
    let served = Served::new();
    // Every word is under a threshold of 1.
    let strict = |render: &str| {
        served
            .chat(&and(
                ask(2, ""),
                json!({"guard": {"threshold": 1.0, "render": render}}),
            ))
            .json()
    };
    let body = strict("plain");
    let (text, guard) = (
        body["choices"][0]["message"]["content"].as_str().unwrap(),
        &body["choices"][0]["guard"],
    );
    assert_eq!(
        (&guard["verdict"], &guard["threshold"]),
        (&json!("flagged"), &json!(1.0))
    );
    for span in guard["spans"].as_array().unwrap() {
        let (start, end) = (
            span["start"].as_u64().unwrap() as usize,
            span["end"].as_u64().unwrap() as usize,
        );
        let cut: String = text.chars().skip(start).take(end - start).collect();
        assert_eq!(
            (span["text"].as_str(), &span["action"]),
            (Some(cut.as_str()), &json!("flagged"))
        );
    }
    assert_eq!(guard["alt_text"].as_str(), Some(text));
    assert_ne!(
        strict("hedged")["choices"][0]["guard"]["alt_text"].as_str(),
        Some(text)
    );
}

#[test]
fn modes_off_and_score_are_reported() {
    let served = Served::new();
    let guard = |mode: &str| {
        served
            .chat(&and(
                ask(3, ""),
                json!({"guard": {"mode": mode, "threshold": 1.0}, "logprobs": true}),
            ))
            .json()
    };
    let off = guard("off");
    assert_eq!(off["choices"][0]["guard"]["verdict"], "unscored");
    assert_eq!(
        off["choices"][0]["logprobs"]["content"][0].get("reward"),
        None
    );
    let score = guard("score");
    assert_eq!(score["choices"][0]["guard"]["spans"], json!([]));
    assert!(score["choices"][0]["guard"]["score"].is_number());
    assert!(score["choices"][0]["logprobs"]["content"][0]["reward"].is_number());
    assert_eq!(off["choices"][0]["message"], score["choices"][0]["message"]);
}

#[test]
fn logprobs_cover_the_answers_tokens() {
    let served = Served::new();
    let body = served
        .chat(&and(
            ask(4, ""),
            json!({"logprobs": true, "top_logprobs": 3}),
        ))
        .json();
    let choice = &body["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(
        tokens.len() as u64,
        body["usage"]["completion_tokens"].as_u64().unwrap()
    );
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|t| t["bytes"].as_array().unwrap())
        .map(|b| b.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        choice["message"]["content"].as_str().unwrap()
    );
    for token in tokens {
        assert_eq!(
            keys(token),
            ["bytes", "logprob", "reward", "token", "top_logprobs"]
        );
        let top = token["top_logprobs"].as_array().unwrap();
        // Greedy: the token is the likeliest.
        assert_eq!(
            (top.len(), &top[0]["token"], &top[0]["logprob"]),
            (3, &token["token"], &token["logprob"])
        );
        assert!((0.0..=1.0).contains(&token["reward"].as_f64().unwrap()));
    }
}

/// The same but for the last bits of numbers: a known image is read in a step of another shape,
/// which rounds otherwise.
fn alike(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            a.iter().for_each(|(key, a)| alike(a, &b[key]));
        }
        (Value::Number(a), Value::Number(b)) => assert!(
            (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4,
            "{a} {b}"
        ),
        _ => assert_eq!(a, b),
    }
}

#[test]
fn stream_equals_the_whole_answer() {
    let served = Served::new();
    let body = and(
        ask(5, "What is it?"),
        json!({"guard": {"threshold": 1.0}, "logprobs": true, "n": 2, "temperature": 1.0,
            "seed": 7}),
    );
    let whole = served.chat(&body).json();
    let reply = served.chat(&and(
        body,
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    ));
    let chunks = reply.chunks();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]),
        (&json!([]), &whole["usage"])
    );
    for chunk in chunks {
        assert_eq!(
            keys(chunk),
            [
                "choices",
                "created",
                "id",
                "model",
                "object",
                "system_fingerprint",
                "usage"
            ]
        );
        assert_eq!(
            (&chunk["object"], &chunk["usage"], &chunk["id"]),
            (
                &json!("chat.completion.chunk"),
                &Value::Null,
                &chunks[0]["id"]
            )
        );
    }
    for index in 0..2 {
        let of: Vec<&Value> = chunks
            .iter()
            .map(|c| &c["choices"][0])
            .filter(|c| c["index"] == index)
            .collect();
        assert_eq!(of[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String = of
            .iter()
            .filter_map(|c| c["delta"]["content"].as_str())
            .collect();
        let choice = &whole["choices"][index];
        assert_eq!(choice["message"]["content"], json!(text));
        let (last, others) = of.split_last().unwrap();
        assert_eq!(
            (&last["finish_reason"], &last["delta"]),
            (&choice["finish_reason"], &json!({}))
        );
        alike(&last["guard"], &choice["guard"]);
        assert!(others.iter().all(|c| c["finish_reason"].is_null()));
        let spans: Vec<_> = others
            .iter()
            .filter_map(|c| c["guard"]["spans"].as_array())
            .flatten()
            .cloned()
            .collect();
        alike(&json!(spans), &choice["guard"]["spans"]);
        let logprobs: Vec<_> = others
            .iter()
            .filter_map(|c| c["logprobs"]["content"].as_array())
            .flatten()
            .cloned()
            .collect();
        alike(&json!(logprobs), &choice["logprobs"]["content"]);
    }
}

#[test]
fn stream_without_include_usage_has_no_usage() {
    let served = Served::new();
    let chunks = served
        .chat(&and(ask(5, ""), json!({"stream": true})))
        .chunks();
    assert!(
        chunks
            .iter()
            .all(|c| c.get("usage").is_none() && c["choices"].as_array().unwrap().len() == 1)
    );
}

#[test]
fn several_choices_equal_single_answers_by_seed() {
    let served = Served::new();
    let sampled = |seed: i64, n: usize| {
        served
            .chat(&and(
                ask(6, ""),
                json!({"n": n, "seed": seed, "temperature": 1.5}),
            ))
            .json()
    };
    let three = sampled(40, 3);
    for i in 0..3 {
        assert_eq!(
            three["choices"][i]["message"],
            sampled(40 + i as i64, 1)["choices"][0]["message"],
            "answer {i}"
        );
        assert_eq!(three["choices"][i]["index"], i);
    }
    let sum: u64 = (0..3)
        .map(|i| {
            sampled(40 + i, 1)["usage"]["completion_tokens"]
                .as_u64()
                .unwrap()
        })
        .sum();
    assert_eq!(three["usage"]["completion_tokens"], sum);
}

#[test]
fn max_tokens_and_stop_strings_end_the_answer() {
    let served = Served::new();
    for field in ["max_tokens", "max_completion_tokens"] {
        let body = served.chat(&and(ask(7, ""), json!({field: 2}))).json();
        assert_eq!(
            (
                &body["choices"][0]["finish_reason"],
                &body["usage"]["completion_tokens"]
            ),
            (&json!("length"), &json!(2))
        );
    }
    let whole = served.chat(&ask(7, "")).json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let word = text.split(' ').nth(2).unwrap();
    let cut = served.chat(&and(ask(7, ""), json!({"stop": word}))).json();
    assert_eq!(
        cut["choices"][0]["message"]["content"].as_str().unwrap(),
        &text[..text.find(word).unwrap()]
    );
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn message_roles_parts_and_image_details_are_accepted() {
    let served = Served::new();
    let mut body = ask(8, "What is it?");
    let image = body["messages"][0]["content"][1].clone();
    let plain = served.chat(&body).json()["choices"][0]["message"]["content"].clone();
    body["messages"] = json!([
        {"role": "system", "content": "Be brief.", "name": "x"},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": "A thing."},
        {"role": "user", "content": "What is it?"},
    ]);
    body["messages"][2]["content"][0]["image_url"]["detail"] = json!("high");
    let reply = served.chat(&body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    // The embedded model's template asks the last question.
    assert_eq!(reply.json()["choices"][0]["message"]["content"], plain);
}

#[test]
fn models_route_lists_the_model() {
    let served = Served::new();
    let list = get(served.at, "/v1/models").json();
    assert_eq!(
        (
            &list["object"],
            &list["data"][0]["id"],
            &list["data"][0]["object"]
        ),
        (&json!("list"), &json!("candor-mini"), &json!("model"))
    );
    assert_eq!(
        get(served.at, "/v1/models/candor-mini").json(),
        list["data"][0]
    );
    assert_eq!(
        (
            &list["data"][0]["license"],
            &list["data"][0]["permitted_use"]
        ),
        (&json!("research-only"), &json!("research"))
    );
    assert_eq!(
        get(served.at, "/v1/models/gpt-4o").error(404)["code"],
        "model_not_found"
    );
}

#[test]
fn unknown_route_or_method_is_refused_in_openai_shape() {
    let served = Served::new();
    assert_eq!(
        get(served.at, "/v1/nothing").error(404)["code"],
        "unknown_url"
    );
    let reply = get(served.at, "/v1/chat/completions");
    assert_eq!(reply.error(405)["code"], "method_not_supported");
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = exchange(served.at, &request("DELETE", "/v1/models", &[], b""));
    assert_eq!(reply.error(405)["code"], "method_not_supported");
}

#[test]
fn request_id_is_generated_or_echoed() {
    let served = Served::new();
    let with = |id| {
        exchange(
            served.at,
            &request("GET", "/health/live", &[("x-request-id", id)], b""),
        )
    };
    assert_eq!(with("trace-77").header("x-request-id"), Some("trace-77"));
    let odd = with("a b<c>");
    assert_eq!(odd.header("x-request-id").unwrap().len(), 36);
    assert_ne!(
        get(served.at, "/health/live").header("x-request-id"),
        get(served.at, "/health/live").header("x-request-id")
    );
    let error = exchange(
        served.at,
        &request(
            "POST",
            "/v1/chat/completions",
            &[JSON, ("x-request-id", "trace-78")],
            b"{}",
        ),
    );
    assert_eq!(
        (error.status, error.header("x-request-id")),
        (400, Some("trace-78"))
    );
}
