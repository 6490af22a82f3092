//! What a request means: what is honored, refused by name, warned of, or ignored.

use image::ImageFormat;
use serde_json::{Value, json};

use candor::config::OnUnsupported;

use crate::{
    http::{JSON, Reply, exchange, get, request},
    served::{Served, and, ask, data_url, picture},
};

fn post(served: &Served, path: &str, body: &Value) -> Reply {
    exchange(
        served.at,
        &request("POST", path, &[JSON], body.to_string().as_bytes()),
    )
}

fn image(seed: u32) -> String {
    data_url("image/png", &picture(seed, ImageFormat::Png))
}

#[track_caller]
fn content(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn unsupported_field_that_changes_the_answer_is_refused_by_name() {
    let served = Served::new();
    let score = json!({"model": "candor-mini", "image_url": image(1), "response": "A dog."});
    for (field, value, instead) in [
        (
            "extra_body",
            json!({"guard": {"mode": "block"}}),
            "top level of the request",
        ),
        ("Guard", json!({"mode": "block"}), "guard"),
        ("gaurd", json!({"mode": "block"}), "guard"),
        ("guard_mode", json!("block"), "guard"),
        ("tools", json!([{"type": "function"}]), ""),
        ("tool_choice", json!("required"), "\"auto\""),
        ("tool_choice", json!({"type": "function"}), ""),
        ("functions", json!([{}]), ""),
        ("function_call", json!({"name": "f"}), ""),
        ("audio", json!({"voice": "alloy"}), ""),
        ("modalities", json!(["text", "audio"]), "plain text"),
        (
            "response_format",
            json!({"type": "json_object"}),
            "plain text",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}),
            "plain text",
        ),
        ("logit_bias", json!({"50256": -100}), ""),
        ("web_search_options", json!({}), ""),
        ("prediction", json!({"type": "content", "content": "x"}), ""),
        ("reasoning_effort", json!("high"), "reason"),
        ("guided_json", json!({"type": "object"}), "plain text"),
        ("guided_choice", json!(["yes", "no"]), "plain text"),
        ("guided_whatever_comes_next", json!("x"), "plain text"),
        (
            "structured_outputs",
            json!({"choice": ["yes"]}),
            "plain text",
        ),
        ("grammar", json!("root ::= \"yes\""), "plain text"),
        ("json_schema", json!({"type": "object"}), "plain text"),
        ("continue_final_message", json!(true), "last message"),
        ("add_generation_prompt", json!(false), "last message"),
        ("prefix", json!(true), "last message"),
        ("chat_template", json!("{{ messages }}"), "template"),
        ("documents", json!([{"text": "x"}]), "message"),
        ("mm_processor_kwargs", json!({"num_crops": 4}), ""),
        ("lora", json!([{"id": 0, "scale": 1}]), "model"),
        ("adapter", json!("x"), "model"),
        ("repetition_penalty", json!(1.1), "frequency_penalty"),
        ("repeat_penalty", json!(1.1), "frequency_penalty"),
        ("length_penalty", json!(2), ""),
        ("dry_multiplier", json!(0.8), ""),
        ("bad_words", json!(["dog"]), ""),
        ("logits_processors", json!(["x"]), ""),
        ("min_p", json!(0.05), "top_p"),
        ("typical_p", json!(0.9), "top_p"),
        ("mirostat", json!(2), "top_p"),
        ("best_of", json!(3), "guard.candidates"),
        ("use_beam_search", json!(true), ""),
        ("min_tokens", json!(10), ""),
        ("ignore_eos", json!(true), ""),
        ("stop_token_ids", json!([2]), "strings"),
        ("max_new_tokens", json!(5), "max_completion_tokens"),
        ("prompt_logprobs", json!(0), "/v1/score"),
        ("echo", json!(true), ""),
    ] {
        for (path, body) in [
            ("/v1/chat/completions", ask(1, "")),
            ("/v1/score", score.clone()),
        ] {
            let error = post(&served, path, &and(body, json!({field: value}))).error(400);
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!(field), &json!("unsupported_parameter")),
                "{path}: {error}"
            );
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains(field) && message.contains(instead),
                "{message}"
            );
        }
    }
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn default_values_and_ineffective_fields_are_accepted() {
    let served = Served::new();
    let plain = content(&served.chat(&ask(2, "")));
    let neutral = json!({
        "repetition_penalty": 1.0, "repeat_penalty": 1, "length_penalty": 1, "min_p": 0,
        "min_tokens": 0, "best_of": 1, "typical_p": 1,
        "ignore_eos": false, "echo": false, "use_beam_search": false,
        "continue_final_message": false, "add_generation_prompt": true,
        "skip_special_tokens": true, "mirostat": 0, "dry_multiplier": 0.0, "stop_token_ids": [],
        "bad_words": null, "guided_json": null,
        "guided_choice": [], "response_format": {"type": "text"}, "modalities": ["text"],
        "tools": [], "tool_choice": "auto",
        "parallel_tool_calls": false, "function_call": "none", "logit_bias": {}, "extra_body": {},
        "documents": [], "prompt_logprobs": null,
        "reasoning_effort": "none", "chat_template_kwargs": {}, "logits_processors": [],
        "structured_outputs": null,
    });
    assert_eq!(content(&served.chat(&and(ask(2, ""), neutral))), plain);
    let harmless = json!({
        "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k",
        "x-extra": 1, "no_such_field": [[[[1]]]], "priority": 3, "request_id": "r",
    });
    let reply = served.chat(&and(ask(2, ""), harmless));
    assert_eq!(
        (content(&reply), reply.header("x-candor-warnings")),
        (plain.clone(), None)
    );
    let spelled = json!({
        "stop": [], "max_tokens": null, "n": 1.0, "top_k": 0, "seed": 2e0, "top_logprobs": 0,
        "logprobs": false, "stream": null,
        "stream_options": null, "guard": {"window": 3.0, "max_attempts": 5e1},
    });
    assert_eq!(content(&served.chat(&and(ask(2, ""), spelled))), plain);
    for (field, value) in [
        ("max_tokens", json!(2.0)),
        (
            "max_completion_tokens",
            serde_json::from_str("0.2e1").unwrap(),
        ),
    ] {
        let answer = served.chat(&and(ask(2, ""), json!({field: value}))).json();
        assert_eq!(answer["usage"]["completion_tokens"], 2, "{field}");
    }
    assert_eq!(
        content(&served.chat(&and(ask(2, ""), json!({"top_k": -1, "temperature": 0})))),
        plain
    );
}

#[test]
fn image_is_accepted_in_every_common_shape() {
    let served = Served::new();
    let plain = content(&served.chat(&ask(3, "What is it?")));
    let url = image(3);
    for part in [
        json!({"type": "image_url", "image_url": {"url": url}}),
        json!({"type": "image_url", "image_url": {"url": url, "detail": "original"}}),
        json!({"type": "image_url", "image_url": {"url": url, "detail": null}}),
        json!({"type": "image_url", "image_url": url}),
        json!({"type": "input_image", "image_url": url, "detail": "auto"}),
        json!({"type": "input_image", "image_url": {"url": url}}),
        json!({"type": "image", "image": url}),
        json!({"type": "image", "image": {"url": url}}),
    ] {
        for kind in ["text", "input_text"] {
            let content = json!([{"type": kind, "text": "What is it?"}, part]);
            let reply = served.chat(&json!({"model": "candor-mini",
                "messages": [{"role": "user", "content": content}]}));
            assert_eq!(self::content(&reply), plain, "{}", part["type"]);
        }
    }
    for (part, param) in [
        (
            json!({"type": "image_url", "image_url": "nonsense"}),
            "messages[0].content[0].image_url",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "nonsense"}}),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({"type": "image", "image": "nonsense"}),
            "messages[0].content[0].image",
        ),
        (
            json!({"type": "input_image", "file_id": "f"}),
            "messages[0].content[0].image_url",
        ),
        (
            json!({"type": "image_url", "image_url": 7}),
            "messages[0].content[0].image_url",
        ),
    ] {
        let reply = served.chat(
            &json!({"model": "candor-mini", "messages": [{"role": "user", "content": [part]}]}),
        );
        assert_eq!(reply.error(400)["param"], param);
    }
}

#[test]
fn assistant_prefill_is_refused() {
    let served = Served::new();
    let mut body = ask(1, "Describe it.");
    body["messages"]
        .as_array_mut()
        .unwrap()
        .push(json!({"role": "assistant", "content": "A brown"}));
    let error = served.chat(&body).error(400);
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("messages[1]"), &json!("unsupported_parameter")),
        "{error}"
    );
    let score = json!({"model": "candor-mini",
        "items": [{"messages": body["messages"], "response": "A dog."}]});
    assert_eq!(
        post(&served, "/v1/score", &score).error(400)["param"],
        "items[0].messages[1]"
    );
    for (field, value) in [
        ("prefix", json!(true)),
        ("tool_calls", json!([{}])),
        ("function_call", json!({"name": "f"})),
    ] {
        let mut body = ask(1, "Describe it.");
        let turns = body["messages"].as_array_mut().unwrap();
        turns.insert(
            0,
            json!({"role": "assistant", "content": "A brown", field: value}),
        );
        assert_eq!(
            served.chat(&body).error(400)["param"],
            format!("messages[0].{field}")
        );
    }
}

/// A system message, an earlier question with the image, what was answered, and a question.
fn conversation(seed: u32) -> Value {
    let image = ask(seed, "Describe it.")["messages"][0].clone();
    json!({"model": "candor-mini", "messages": [
        {"role": "system", "content": "Answer in French."},
        image,
        {"role": "assistant", "content": "A thing."},
        {"role": "assistant", "content": null, "refusal": null},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot say."}]},
        {"role": "user", "content": "What is it?"},
    ]})
}

#[test]
fn unused_messages_are_listed_as_warnings() {
    let served = Served::new();
    let reply = served.chat(&conversation(4));
    assert_eq!(
        content(&reply),
        content(&served.chat(&ask(4, "What is it?")))
    );
    let warnings = reply.json()["warnings"].clone();
    let params: Vec<_> = warnings
        .as_array()
        .unwrap()
        .iter()
        .map(|w| (w["code"].as_str().unwrap(), w["param"].as_str().unwrap()))
        .collect();
    let ignored = |i| {
        (
            "ignored",
            [
                "messages[0]",
                "messages[1]",
                "messages[2]",
                "",
                "messages[4]",
            ][i],
        )
    };
    assert_eq!(
        params,
        [ignored(0), ignored(1), ignored(2), ignored(4)],
        "{warnings}"
    );
    assert!(
        warnings[0]["message"].as_str().unwrap().contains("system"),
        "{warnings}"
    );
    assert_eq!(reply.header("x-candor-warnings"), Some("4"));
    // A stream has them once, with the end of the last answer.
    let streamed = served.chat(&and(
        conversation(4),
        json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}}),
    ));
    assert_eq!(streamed.header("x-candor-warnings"), Some("4"));
    let chunks = streamed.chunks();
    let with: Vec<_> = chunks
        .iter()
        .filter(|chunk| chunk.get("warnings").is_some())
        .collect();
    assert_eq!((with.len(), &with[0]["warnings"]), (1, &warnings));
    let last = chunks
        .iter()
        .rfind(|chunk| !chunk["choices"][0]["finish_reason"].is_null())
        .unwrap();
    assert_eq!(last, with[0]);
    // Nothing is said where everything has reached the model.
    for text in ["", "What is it?"] {
        let reply = served.chat(&ask(4, text));
        assert_eq!(
            (
                reply.json().get("warnings"),
                reply.header("x-candor-warnings")
            ),
            (None, None)
        );
    }
    let mut score = json!({"model": "candor-mini", "response": "A dog."});
    score["messages"] = conversation(4)["messages"].clone();
    let reply = post(&served, "/v1/score", &score);
    assert_eq!(
        (&reply.json()["warnings"], reply.header("x-candor-warnings")),
        (&warnings, Some("4")),
        "{}",
        reply.text()
    );
    let item = json!({"messages": score["messages"], "response": "A dog."});
    let listed = json!({"model": "candor-mini",
        "items": [{"image_url": image(4), "response": "A cat."}, item]});
    let reply = post(&served, "/v1/score", &listed).json();
    assert_eq!(
        (
            reply["warnings"].as_array().unwrap().len(),
            &reply["warnings"][0]["param"]
        ),
        (4, &json!("items[1].messages[0]"))
    );
}

#[test]
fn unused_messages_are_refused_if_configured() {
    let served = Served::with(|config| config.server.on_unsupported = OnUnsupported::Reject);
    let error = served.chat(&conversation(4)).error(400);
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("messages[0]"), &json!("unsupported_parameter")),
        "{error}"
    );
    let item = json!({"messages": conversation(4)["messages"], "response": "A dog."});
    let error = post(
        &served,
        "/v1/score",
        &json!({"model": "candor-mini", "items": [item]}),
    )
    .error(400);
    assert_eq!(error["param"], "items[0].messages[0]", "{error}");
    assert_eq!(served.chat(&ask(4, "What is it?")).status, 200);
}

#[test]
fn user_with_control_characters_or_too_long_is_refused() {
    let served = Served::new();
    for user in ["a\u{0}b", "a\nb", &"x".repeat(257)] {
        assert_eq!(
            served
                .chat(&and(ask(1, ""), json!({"user": user})))
                .error(400)["param"],
            "user"
        );
    }
    let longest = "é".repeat(256);
    let completion = served
        .chat(&and(ask(1, ""), json!({"user": longest})))
        .json();
    let found = "%C3%A9".repeat(256);
    assert_eq!(
        exchange(
            served.at,
            &request("DELETE", &format!("/v1/feedback?user={found}"), &[], b"")
        )
        .status,
        200
    );
    // Nothing is remembered of it, whether its receipt was on the disk yet or not.
    let correction = json!({"completion_id": completion["id"], "label": "good"}).to_string();
    assert_eq!(
        exchange(
            served.at,
            &request("POST", "/v1/feedback", &[JSON], correction.as_bytes())
        )
        .status,
        404
    );
}

#[test]
fn refused_fields_are_documented_and_described() {
    let served = Served::new();
    let document = get(served.at, "/openapi.json").json();
    let page = include_str!("../../docs/api.md");
    let properties = document["components"]["schemas"]["ChatRequest"]["properties"]
        .as_object()
        .unwrap();
    let refused: Vec<_> = properties
        .iter()
        .filter(|(_, schema)| schema.get("enum").is_some())
        .collect();
    assert!(refused.len() > 60, "{}", refused.len());
    for (field, schema) in refused {
        assert!(
            page.contains(&format!("`{field}`")),
            "docs/api.md has no `{field}`"
        );
        // The image is last to be looked at, and missing: what is taken is refused for that.
        let asked = |value: &Value| {
            let body = json!({"model": "candor-mini",
                "messages": [{"role": "user", "content": "x"}], field: value});
            served.chat(&body).error(400)["code"].clone()
        };
        for value in schema["enum"].as_array().unwrap() {
            assert_eq!(asked(value), "image_missing", "{field}: {value}");
        }
        for value in [
            json!("something"),
            json!(7),
            json!([[]]),
            json!({"a": {"b": {}}}),
            json!("x".repeat(100_000)),
        ] {
            assert_eq!(asked(&value), "unsupported_parameter", "{field}");
        }
    }
}
