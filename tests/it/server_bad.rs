//! Bad input: a clear error that names the field, and a server that keeps serving.

use std::io::Write;

use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    http::{JSON, Reply, chat_raw, connect, exchange, read, request},
    served::{Served, about, and, ask, data_url, picture},
};

/// The error, and that a good request is answered after it.
#[track_caller]
fn refused(served: &Served, reply: &Reply, status: u16, param: &str, code: &str) -> String {
    let error = reply.error(status);
    let expected = if param.is_empty() {
        Value::Null
    } else {
        json!(param)
    };
    assert_eq!(
        (&error["param"], &error["code"]),
        (&expected, &json!(code)),
        "{error}"
    );
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    error["message"].as_str().unwrap().to_owned()
}

const URL: &str = "messages[0].content[1].image_url.url";

#[test]
fn invalid_image_file_is_refused() {
    let served = Served::new();
    let image = |media_type, file: &[u8]| served.chat(&about(&data_url(media_type, file), ""));
    let not = refused(
        &served,
        &image("image/png", b"#!/bin/sh\necho hello\n"),
        400,
        URL,
        "invalid_image",
    );
    assert!(not.contains("not an image"), "{not}");
    let jpeg = picture(3, ImageFormat::Jpeg);
    let cut = refused(
        &served,
        &image("image/jpeg", &jpeg[..jpeg.len() / 2]),
        400,
        URL,
        "invalid_image",
    );
    assert!(cut.contains("truncated"), "{cut}");
    refused(&served, &image("image/png", b""), 400, URL, "invalid_image");
    let svg = refused(
        &served,
        &image("image/svg+xml", b"<svg/>"),
        400,
        URL,
        "invalid_image",
    );
    assert!(svg.contains("SVG images are not supported"), "{svg}");
}

#[test]
fn decompression_bomb_image_is_refused() {
    let served = Served::new();
    let bomb = png(30_000, 30_000);
    assert!(bomb.len() < 4096);
    let message = refused(
        &served,
        &served.chat(&about(&data_url("image/png", &bomb), "")),
        400,
        URL,
        "invalid_image",
    );
    assert!(message.contains("30000x30000"), "{message}");
}

/// A PNG whose header promises this size.
fn png(width: u32, height: u32) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, &b| {
            (0..8).fold(crc ^ u32::from(b), |c, _| {
                if c & 1 == 1 {
                    c >> 1 ^ 0xEDB8_8320
                } else {
                    c >> 1
                }
            })
        })
    };
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        [
            &(data.len() as u32).to_be_bytes()[..],
            &body,
            &crc(&body).to_be_bytes(),
        ]
        .concat()
    };
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[8, 2, 0, 0, 0],
    ]
    .concat();
    let zeros = [0x78, 0x9c, 0x63, 0x60, 0x00, 0x00, 0x00, 0x02, 0x00, 0x01];
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &zeros),
        chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn invalid_image_url_is_refused() {
    let served = Served::new();
    let url = |url: &str| served.chat(&about(url, ""));
    for bad in [
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AAAAA",
        "data:image/png;base64,AA==AAAA",
    ] {
        refused(&served, &url(bad), 400, URL, "invalid_base64");
    }
    for remote in ["https://example.org/a.jpg", "http://127.0.0.1/a.jpg"] {
        assert!(refused(&served, &url(remote), 400, URL, "image_fetch_disabled").contains("off"));
    }
    refused(
        &served,
        &url("file:///etc/passwd"),
        400,
        URL,
        "invalid_image_url",
    );
}

#[test]
fn messages_need_exactly_one_image() {
    let served = Served::new();
    let messages =
        |messages: Value| served.chat(&json!({"model": "candor-mini", "messages": messages}));
    refused(
        &served,
        &messages(json!([])),
        400,
        "messages",
        "empty_array",
    );
    refused(
        &served,
        &messages(json!([{"role": "user", "content": "Hello"}])),
        400,
        "messages",
        "image_missing",
    );
    let content = ask(1, "")["messages"][0]["content"].clone();
    let two = json!([{"role": "user", "content": content}, {"role": "user", "content": content}]);
    refused(&served, &messages(two), 400, "messages", "too_many_images");
    refused(
        &served,
        &messages(json!([{"role": "system", "content": content}])),
        400,
        "messages[0].content[1]",
        "invalid_value",
    );
    refused(
        &served,
        &messages(json!([{"role": "user"}])),
        400,
        "messages[0].content",
        "missing_required_parameter",
    );
    refused(
        &served,
        &messages(json!([{"content": "x"}])),
        400,
        "messages[0].role",
        "missing_required_parameter",
    );
    refused(
        &served,
        &messages(json!([{"role": "robot", "content": "x"}])),
        400,
        "messages[0].role",
        "invalid_value",
    );
    refused(
        &served,
        &messages(json!([{"role": "tool", "content": "x"}])),
        400,
        "messages[0].role",
        "unsupported_parameter",
    );
    refused(
        &served,
        &messages(json!([{"role": "user", "content": 3}])),
        400,
        "messages[0].content",
        "invalid_type",
    );
    let audio = json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]);
    refused(
        &served,
        &messages(audio),
        400,
        "messages[0].content[0].type",
        "unsupported_parameter",
    );
    let long = "word ".repeat(4000);
    refused(
        &served,
        &served.chat(&ask(1, &long)),
        400,
        "messages",
        "context_length_exceeded",
    );
}

#[test]
fn unknown_model_is_refused() {
    let served = Served::new();
    let model = |model: Value| served.chat(&and(ask(1, ""), json!({"model": model})));
    assert!(
        refused(
            &served,
            &model(json!("gpt-4o")),
            404,
            "model",
            "model_not_found"
        )
        .contains("gpt-4o")
    );
    refused(
        &served,
        &model(Value::Null),
        400,
        "model",
        "missing_required_parameter",
    );
    refused(&served, &model(json!(7)), 400, "model", "invalid_type");
}

#[test]
fn invalid_field_value_is_refused_by_name() {
    let served = Served::new();
    for (field, value, code) in [
        ("temperature", json!(9), "out_of_range"),
        ("temperature", json!(-0.1), "out_of_range"),
        ("temperature", json!("hot"), "invalid_type"),
        ("top_p", json!(1.1), "out_of_range"),
        ("top_k", json!(-2), "out_of_range"),
        ("n", json!(0), "out_of_range"),
        ("n", json!(1000), "out_of_range"),
        ("n", json!(1.5), "invalid_type"),
        ("max_tokens", json!(0), "out_of_range"),
        ("max_completion_tokens", json!(-1), "out_of_range"),
        ("presence_penalty", json!(2.5), "out_of_range"),
        ("frequency_penalty", json!(-2.5), "out_of_range"),
        ("top_logprobs", json!(21), "out_of_range"),
        ("top_logprobs", json!(1), "invalid_value"),
        ("logprobs", json!("yes"), "invalid_type"),
        ("stop", json!(["a", "b", "c", "d", "e"]), "invalid_value"),
        ("stop", json!(""), "invalid_value"),
        ("seed", json!("s"), "invalid_type"),
        ("stream", json!("true"), "invalid_type"),
        (
            "stream_options",
            json!({"include_usage": true}),
            "invalid_value",
        ),
        ("user", json!(5), "invalid_type"),
        ("messages", json!("hello"), "invalid_type"),
    ] {
        let error = served
            .chat(&and(ask(1, ""), json!({field: value})))
            .error(400);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(field), &json!(code)),
            "{field}: {error}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(field),
            "{error}"
        );
    }
    let both = served
        .chat(&and(
            ask(1, ""),
            json!({"max_tokens": 5, "max_completion_tokens": 5}),
        ))
        .error(400);
    assert_eq!(both["param"], "max_completion_tokens");
    assert_eq!(served.chat(&ask(1, "")).status, 200);
}

#[test]
fn invalid_guard_option_is_refused_by_name() {
    let served = Served::new();
    for (guard, param) in [
        (json!({"mode": "repair"}), "guard.mode"),
        (json!({"window": -1}), "guard.window"),
        (
            json!({"thresholds": {"object": 2.0}}),
            "guard.thresholds.object",
        ),
        (json!({"candidates": 0}), "guard.candidates"),
        (json!({"candidates": 2, "mode": "off"}), "guard.candidates"),
        (json!({"mode": "strict"}), "guard.mode"),
        (json!({"on_exhausted": "shrug"}), "guard.on_exhausted"),
        (
            json!({"on_exhausted": "hedge", "mode": "block"}),
            "guard.on_exhausted",
        ),
        (
            json!({"on_exhausted": "omit", "mode": "score"}),
            "guard.on_exhausted",
        ),
        (json!({"threshold": 1.5}), "guard.threshold"),
        (
            json!({"threshold": 0.5, "target_fpr": 0.05}),
            "guard.target_fpr",
        ),
        (json!({"target_fpr": -1}), "guard.target_fpr"),
        (json!({"max_attempts": -1}), "guard.max_attempts"),
        (json!({"render": "bold"}), "guard.render"),
        (json!({"treshold": 0.5}), "guard.treshold"),
        (json!("flag"), "guard"),
    ] {
        let error = served
            .chat(&and(ask(1, ""), json!({"guard": guard})))
            .error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    let rewritten = served
        .chat(&and(
            ask(1, ""),
            json!({"guard": {"on_exhausted": "omit"}, "logprobs": true}),
        ))
        .error(400);
    assert_eq!(rewritten["param"], "logprobs", "{rewritten}");
    assert_eq!(
        served
            .chat(&and(
                ask(1, ""),
                json!({"guard": {"mode": "flag", "max_attempts": 5, "on_exhausted": "flag"}})
            ))
            .status,
        200
    );
}

#[test]
fn malformed_json_body_is_refused() {
    let served = Served::new();
    let raw = |body: &[u8]| chat_raw(served.at, body);
    refused(
        &served,
        &raw(b"{\"model\": \"candor-mini\", \"user\": \"\xff\xfe\"}"),
        400,
        "",
        "invalid_utf8",
    );
    refused(
        &served,
        &raw(b"{\"model\": \"\\ud800\"}"),
        400,
        "",
        "invalid_json",
    );
    refused(&served, &raw(b"{\"model\": "), 400, "", "invalid_json");
    refused(&served, &raw(b"{} trailing"), 400, "", "invalid_json");
    refused(&served, &raw(b"[]"), 400, "", "invalid_type");
    refused(&served, &raw(b"null"), 400, "", "invalid_type");
    refused(
        &served,
        &raw(br#"["candor-mini", [["user", "x"]]]"#),
        400,
        "",
        "invalid_type",
    );
    refused(
        &served,
        &raw(br#"{"model": "candor-mini", "messages": [["user", "x"]]}"#),
        400,
        "messages[0]",
        "invalid_type",
    );
    refused(
        &served,
        &exchange(
            served.at,
            &request("POST", "/v1/chat/completions", &[JSON], b""),
        ),
        400,
        "",
        "invalid_json",
    );
    let deep = |n| {
        format!(
            "{{\"model\": \"candor-mini\", \"messages\": {}{}}}",
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    refused(
        &served,
        &raw(deep(100_000).as_bytes()),
        400,
        "messages[0]",
        "invalid_type",
    );
    let ignored = format!(
        "{{\"metadata\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refused(
        &served,
        &raw(ignored.as_bytes()),
        400,
        "model",
        "missing_required_parameter",
    );
    let many = json!({"model": "candor-mini",
        "messages": vec![json!({"role": "user", "content": "x"}); 300]});
    refused(
        &served,
        &served.chat(&many),
        400,
        "messages",
        "invalid_value",
    );
}

#[test]
fn wrong_content_type_is_refused() {
    let served = Served::new();
    let body = ask(1, "").to_string();
    let typed = |headers: &[(&str, &str)]| {
        exchange(
            served.at,
            &request("POST", "/v1/chat/completions", headers, body.as_bytes()),
        )
    };
    refused(&served, &typed(&[]), 415, "", "unsupported_content_type");
    refused(
        &served,
        &typed(&[("content-type", "text/plain")]),
        415,
        "",
        "unsupported_content_type",
    );
    assert_eq!(
        typed(&[("content-type", "application/json; charset=utf-8")]).status,
        200
    );
}

#[test]
fn oversized_body_is_refused_in_any_transfer() {
    const SIZE: usize = 100_000_000;
    let served = Served::new();
    let head = |how: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: \
             close\r\ncontent-type: application/json\r\n{how}\r\n\r\n"
        )
    };
    // All of it, before the answer is read.
    let mut all = connect(served.at);
    all.write_all(head(&format!("content-length: {SIZE}")).as_bytes())
        .unwrap();
    let block = vec![b' '; 1 << 20];
    for at in (0..SIZE).step_by(block.len()) {
        all.write_all(&block[..block.len().min(SIZE - at)]).unwrap();
    }
    let message = refused(&served, &read(&mut all), 413, "", "request_too_large");
    assert!(
        message.contains("an image in it may have at most 15728640"),
        "{message}"
    );
    // Announced, and nothing sent.
    let mut asked = connect(served.at);
    asked
        .write_all(head(&format!("content-length: {SIZE}\r\nexpect: 100-continue")).as_bytes())
        .unwrap();
    refused(&served, &read(&mut asked), 413, "", "request_too_large");
    // Without an announcement.
    let mut chunked = connect(served.at);
    chunked
        .write_all(head("transfer-encoding: chunked").as_bytes())
        .unwrap();
    for _ in 0..SIZE.div_ceil(block.len()) {
        chunked
            .write_all(format!("{:x}\r\n", block.len()).as_bytes())
            .unwrap();
        chunked.write_all(&block).unwrap();
        chunked.write_all(b"\r\n").unwrap();
    }
    chunked.write_all(b"0\r\n\r\n").unwrap();
    refused(&served, &read(&mut chunked), 413, "", "request_too_large");
}

#[test]
fn largest_image_fits_in_a_request() {
    let served = Served::new();
    // What stands behind the end of a JPEG does not matter.
    let mut file = picture(3, ImageFormat::Jpeg);
    file.resize(15 << 20, 0);
    assert_eq!(
        served
            .chat(&about(&data_url("image/jpeg", &file), ""))
            .status,
        200
    );
    file.push(0);
    let message = refused(
        &served,
        &served.chat(&about(&data_url("image/jpeg", &file), "")),
        400,
        URL,
        "image_too_large",
    );
    assert!(
        message.contains("15728641 bytes, more than the 15728640 allowed"),
        "{message}"
    );
}

#[test]
fn image_format_is_detected_from_bytes() {
    let served = Served::new();
    let data = data_url("x", &picture(3, ImageFormat::Jpeg))
        .split_once(',')
        .unwrap()
        .1
        .to_owned();
    let lines: String = data
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line).into_owned() + "\r\n")
        .collect();
    for url in [
        format!("data:image/png;base64,{data}"),
        format!("data:;base64,{data}"),
        format!("data:application/octet-stream;base64,{data}"),
        format!("data:image/jpeg;charset=utf-8;base64,{data}"),
        format!("DATA:IMAGE/PJPEG;BASE64,{data}"),
        format!("data:image/jpeg;base64,{lines}"),
        format!("data:image/jpeg;base64,{}", data.trim_end_matches('=')),
        format!(
            "data:image/jpeg;base64,{}",
            data.replace('+', "-").replace('/', "_")
        ),
        format!(
            "data:image/jpeg;base64,{}",
            data.replace('+', "%2B")
                .replace('/', "%2F")
                .replace('=', "%3D")
        ),
    ] {
        assert_eq!(served.chat(&about(&url, "")).status, 200, "{}", &url[..60]);
    }
}

#[test]
fn image_above_the_size_limit_is_refused() {
    let served = Served::with(|c| c.images.max_bytes = 40_000);
    let noise: Vec<u8> = (0..60_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let reply = served.chat(&about(&data_url("image/png", &noise), ""));
    assert_eq!(reply.error(400)["code"], "image_too_large");
}

#[test]
fn concurrent_requests_do_not_affect_each_other() {
    let served = Served::new();
    let body = |seed: u32| {
        and(
            ask(
                seed,
                ["", "What color is it?", "Is there a dog?"][seed as usize % 3],
            ),
            json!({"temperature": 1.0, "seed": seed}),
        )
    };
    let said = |body: &Value| served.chat(body).json()["choices"][0]["message"]["content"].clone();
    let alone: Vec<_> = (0..12).map(|seed| said(&body(seed))).collect();
    std::thread::scope(|scope| {
        let together: Vec<_> = (0..12)
            .map(|seed| scope.spawn(move || said(&body(seed))))
            .collect();
        // Bad ones in between.
        for bad in [
            "data:image/png;base64,AAAA",
            "data:image/png;base64,@",
            "https://x",
        ] {
            scope.spawn(|| assert_eq!(served.chat(&about(bad, "")).status, 400));
        }
        for (seed, answer) in together.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap(), alone[seed], "request {seed}");
        }
    });
}
