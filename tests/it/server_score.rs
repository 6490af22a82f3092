//! `POST /v1/score`, on photographs, with the embedded model.

use image::ImageFormat;
use serde_json::{Value, json};

use candor::vlm::weights::WeightsDtype;

use crate::{
    http::{JSON, Reply, exchange, request},
    served::{Served, about, and, ask, data_url, picture},
    server_evidence::copy_to,
};

fn score(served: &Served, body: &Value) -> Reply {
    exchange(
        served.at,
        &request("POST", "/v1/score", &[JSON], body.to_string().as_bytes()),
    )
}

fn photo(name: &str) -> String {
    data_url(
        "image/jpeg",
        &std::fs::read(format!(
            "{}/tests/fixtures/photos/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap(),
    )
}

fn item(url: &str, response: &str) -> Value {
    json!({"image_url": url, "response": response})
}

fn alone(url: &str, response: &str) -> Value {
    and(item(url, response), json!({"model": "candor-mini"}))
}

fn listed(items: &[Value]) -> Value {
    json!({"model": "candor-mini", "items": items})
}

/// The error's field and code.
#[track_caller]
fn refused(reply: &Reply, param: &str, code: &str) -> String {
    let error = reply.error(400);
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!(param), &json!(code)),
        "{error}"
    );
    error["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn near(a: &Value, b: &Value, what: &str) {
    let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
    assert!((a - b).abs() < 1e-4, "{what}: {a} and {b}");
}

/// What the tokens say about `response` holds together.
#[track_caller]
fn check_tokens(result: &Value, response: &str) {
    assert_eq!(result["response"], response);
    let chars: Vec<char> = response.chars().collect();
    let (mut bytes, mut end) = (Vec::new(), 0);
    for token in result["tokens"].as_array().unwrap() {
        let at = |field: &str| token[field].as_u64().unwrap() as usize;
        let own: Vec<u8> = token["bytes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b.as_u64().unwrap() as u8)
            .collect();
        assert_eq!(
            (at("byte_start"), at("byte_end")),
            (bytes.len(), bytes.len() + own.len())
        );
        assert!(
            !own.is_empty() && at("start") < at("end") && at("start") <= end && at("end") >= end
        );
        if let Ok(text) = std::str::from_utf8(&own) {
            assert_eq!(
                (
                    token["token"].as_str().unwrap(),
                    &chars[at("start")..at("end")].iter().collect::<String>()
                ),
                (text, &text.to_owned())
            );
        }
        assert!(
            (0.0..=1.0).contains(&token["reward"].as_f64().unwrap())
                && token["logprob"].as_f64().unwrap() <= 1e-4
        );
        bytes.extend(own);
        end = at("end");
    }
    assert_eq!(
        (String::from_utf8(bytes).unwrap().as_str(), end),
        (response, chars.len())
    );
    for span in result["guard"]["spans"].as_array().unwrap() {
        let place =
            span["start"].as_u64().unwrap() as usize..span["end"].as_u64().unwrap() as usize;
        assert_eq!(span["text"], chars[place].iter().collect::<String>());
    }
}

#[test]
fn own_answer_scores_as_when_it_was_written() {
    let served = Served::new();
    let (mut items, mut written) = (Vec::new(), Vec::new());
    for (name, prompt) in [
        ("cat.jpg", ""),
        ("coffee.jpg", ""),
        ("astronaut.jpg", "What color is the suit?"),
        ("cat.jpg", "Is there a dog?"),
    ] {
        for temperature in [0.0, 1.0] {
            let how = json!({"logprobs": true, "guard": {"mode": "score"},
                "temperature": temperature, "seed": 3, "max_tokens": 24});
            let body = served.chat(&and(about(&photo(name), prompt), how)).json();
            items.push(json!({"image_url": photo(name), "prompt": prompt,
                "response": body["choices"][0]["message"]["content"]}));
            written.push(body);
        }
    }
    let body = score(
        &served,
        &and(
            listed(&items),
            json!({"guard": {"mode": "score"}, "author": "model"}),
        ),
    )
    .json();
    let (mut prompts, mut same) = (0, 0);
    for (result, chat) in body["results"].as_array().unwrap().iter().zip(&written) {
        let choice = &chat["choices"][0];
        check_tokens(result, choice["message"]["content"].as_str().unwrap());
        prompts += chat["usage"]["prompt_tokens"].as_u64().unwrap();
        let (tokens, before) = (
            result["tokens"].as_array().unwrap(),
            choice["logprobs"]["content"].as_array().unwrap(),
        );
        let texts = |tokens: &[Value]| {
            tokens
                .iter()
                .map(|t| t["token"].clone())
                .collect::<Vec<_>>()
        };
        if texts(tokens) != texts(before) {
            // A sampled answer may be cut otherwise than the tokenizer cuts its text.
            continue;
        }
        same += 1;
        for (token, before) in tokens.iter().zip(before) {
            near(&token["reward"], &before["reward"], "reward");
            near(&token["logprob"], &before["logprob"], "log-probability");
        }
        near(
            &result["guard"]["score"],
            &choice["guard"]["score"],
            "score",
        );
        for field in [
            "mode",
            "verdict",
            "threshold",
            "spans",
            "attempts",
            "extra_tokens",
        ] {
            assert_eq!(result["guard"][field], choice["guard"][field], "{field}");
        }
    }
    assert!(
        same >= 4,
        "greedy answers are cut as they were written: {same}"
    );
    assert_eq!(body["usage"]["prompt_tokens"], prompts);
}

#[test]
fn flagged_text_has_the_answers_spans_and_headers() {
    let served = Served::new();
    let chat = served.chat(&about(&photo("cat.jpg"), "")).json();
    let (text, guard) = (
        chat["choices"][0]["message"]["content"].as_str().unwrap(),
        &chat["choices"][0]["guard"],
    );
    let reply = score(
        &served,
        &and(alone(&photo("cat.jpg"), text), json!({"author": "model"})),
    );
    let body = reply.json();
    assert_eq!(reply.status, 200, "{body}");
    let keys: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "created",
            "id",
            "model",
            "object",
            "results",
            "system_fingerprint",
            "usage"
        ]
    );
    assert!(
        body["id"].as_str().unwrap().starts_with("score-")
            && body["object"] == "score"
            && body["results"][0]["index"] == 0
    );
    let own = &body["results"][0]["guard"];
    assert_eq!(
        own.as_object().unwrap().keys().collect::<Vec<_>>(),
        guard.as_object().unwrap().keys().collect::<Vec<_>>()
    );
    for field in ["mode", "verdict", "threshold", "alt_text"] {
        assert_eq!(own[field], guard[field], "{field}");
    }
    let places = |guard: &Value| {
        guard["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (s["start"].clone(), s["text"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(own), places(guard));
    assert_eq!(body["usage"]["total_tokens"], chat["usage"]["total_tokens"]);
    assert_eq!(reply.header("x-candor-verdict"), guard["verdict"].as_str());
    assert_eq!(
        reply.header("x-candor-flagged-spans").unwrap(),
        places(guard).len().to_string()
    );
    near(
        &json!(
            reply
                .header("x-candor-score")
                .unwrap()
                .parse::<f64>()
                .unwrap()
        ),
        &own["score"],
        "header",
    );
    assert!(
        served.metric("candor_scored_texts_total{verdict=\"flagged\"}")
            + served.metric("candor_scored_texts_total{verdict=\"clean\"}")
            == 1.0
    );
    assert_eq!(
        served.metric("candor_responses_total{verdict=\"unscored\"}"),
        0.0
    );
}

#[test]
fn batch_equals_single_items_and_encodes_an_image_once() {
    let served = Served::with(|c| c.images.cache_bytes = 0);
    let texts = [
        "A dog is running on the beach.",
        "A cat.",
        "Two men are playing football in a field of green grass.",
        "A",
    ];
    let urls = [photo("cat.jpg"), photo("coffee.jpg")];
    let items: Vec<Value> = (0..40)
        .map(|i| item(&urls[i / 2 % 2], texts[i % 4]))
        .collect();
    let before = served.metric("candor_image_cache_queries_total");
    let body = score(&served, &listed(&items)).json();
    assert_eq!(
        served.metric("candor_image_cache_queries_total"),
        before + 2.0
    );
    assert_eq!(body["results"].as_array().unwrap().len(), 40);
    for i in [0, 1, 2, 3, 17, 39] {
        let single = score(
            &served,
            &and(items[i].clone(), json!({"model": "candor-mini"})),
        )
        .json();
        let (result, single) = (&body["results"][i], &single["results"][0]);
        check_tokens(result, texts[i % 4]);
        assert_eq!(
            (&result["index"], &result["guard"]["verdict"]),
            (&json!(i), &single["guard"]["verdict"])
        );
        for (a, b) in result["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .zip(single["tokens"].as_array().unwrap())
        {
            near(&a["reward"], &b["reward"], "reward");
            near(&a["logprob"], &b["logprob"], "log-probability");
        }
    }
}

#[test]
fn token_offsets_cut_any_text_exactly() {
    let served = Served::new();
    let texts = [
        "A cat 🐈\u{200D}⬛ sits on a cafe\u{301} chair — naïvely, 犬 said.",
        "  \n A Dog\tand\r\na cat  ",
        "ZOË’s İzmir \u{212A}elvin STRAẞE",
        "A <|end|> dog <|user|> is <| end |>.",
        "🐕",
        "\u{301}",
        "e\u{301}\u{302}",
    ];
    let items: Vec<Value> = texts
        .iter()
        .map(|text| item(&photo("cat.jpg"), text))
        .collect();
    let body = score(
        &served,
        &and(listed(&items), json!({"guard": {"threshold": 1.0}})),
    )
    .json();
    for (i, text) in texts.iter().enumerate() {
        check_tokens(&body["results"][i], text);
    }
    assert_eq!(
        body["results"][4]["guard"]["verdict"], "unscored",
        "a text without a word claims nothing"
    );
    // Letters of a case that the model does not write are scored as it writes them.
    let cases = [
        "A dog is running.",
        "a DOG Is rUNNING.",
        " A dog\nis running.",
    ]
    .map(|text| item(&photo("cat.jpg"), text));
    let body = score(&served, &listed(&cases)).json();
    let rewards = |i: usize| {
        body["results"][i]["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["reward"].clone())
            .collect::<Vec<_>>()
    };
    for i in 1..3 {
        rewards(0)
            .iter()
            .zip(&rewards(i))
            .for_each(|(a, b)| near(a, b, "reward"));
        assert_eq!(rewards(0).len(), rewards(i).len());
    }
}

#[test]
fn messages_replace_image_and_prompt() {
    let served = Served::new();
    let question = "Is there a dog in the picture?";
    let long = json!({"model": "candor-mini", "image_url": {"url": photo("cat.jpg"),
        "detail": "low"}, "prompt": question, "response": "Yes."});
    let messages = and(
        about(&photo("cat.jpg"), question),
        json!({"response": "Yes."}),
    );
    let (a, b) = (
        score(&served, &long).json(),
        score(&served, &messages).json(),
    );
    assert_eq!(a["usage"], b["usage"]);
    near(
        &a["results"][0]["tokens"][0]["reward"],
        &b["results"][0]["tokens"][0]["reward"],
        "reward",
    );
    let other = score(&served, &and(long, json!({"prompt": ""}))).json();
    assert_ne!(other["usage"]["prompt_tokens"], a["usage"]["prompt_tokens"]);
}

#[test]
fn invalid_item_is_named_and_nothing_is_scored() {
    let served = Served::new();
    let url = data_url("image/png", &picture(1, ImageFormat::Png));
    let good = item(&url, "A dog.");
    let third = |bad: Value| {
        score(
            &served,
            &listed(&[good.clone(), good.clone(), good.clone(), bad]),
        )
    };
    refused(&third(item(&url, "")), "items[3].response", "invalid_value");
    refused(
        &third(item(&url, " \n")),
        "items[3].response",
        "invalid_value",
    );
    refused(
        &third(json!({"image_url": url})),
        "items[3].response",
        "missing_required_parameter",
    );
    refused(
        &third(json!({"image_url": url, "response": 3})),
        "items[3].response",
        "invalid_type",
    );
    refused(
        &third(json!({"image_url": 3, "response": "x"})),
        "items[3].image_url",
        "invalid_type",
    );
    refused(
        &third(json!({"image_url": {}, "response": "x"})),
        "items[3].image_url.url",
        "missing_required_parameter",
    );
    refused(
        &third(json!({"response": "x"})),
        "items[3].image_url",
        "missing_required_parameter",
    );
    refused(&third(json!("x")), "items[3]", "invalid_type");
    refused(
        &third(item("ftp://x", "x")),
        "items[3].image_url",
        "invalid_image_url",
    );
    refused(
        &third(item(&data_url("image/png", b"no picture"), "x")),
        "items[3].image_url",
        "invalid_image",
    );
    refused(
        &third(and(good.clone(), json!({"guard": {"threshold": 0.1}}))),
        "items[3].guard",
        "unsupported_parameter",
    );
    refused(
        &third(and(good.clone(), json!({"messages": []}))),
        "items[3].messages",
        "invalid_value",
    );
    refused(
        &third(json!({"messages": [{"role": "user"}], "response": "x"})),
        "items[3].messages[0].content",
        "missing_required_parameter",
    );
    refused(
        &third(json!({"messages": [{"role": "user", "content": "x"}], "response": "x"})),
        "items[3].messages",
        "image_missing",
    );
    let message = refused(
        &third(item(&url, &"dog ".repeat(5000))),
        "items[3].response",
        "context_length_exceeded",
    );
    assert!(
        message.starts_with("items[3]: ") && message.contains("4096 are scored (score.max_tokens)"),
        "{message}"
    );
    let asked = and(
        item(&url, &"dog ".repeat(60)),
        json!({"prompt": "word ".repeat(100)}),
    );
    let message = refused(&third(asked), "items[3].prompt", "context_length_exceeded");
    assert!(
        message.starts_with("items[3]: ")
            && message.contains("the prompt has 251 tokens, image included")
            && message.contains("160"),
        "{message}"
    );
    refused(
        &score(
            &served,
            &and(
                listed(std::slice::from_ref(&good)),
                json!({"response": "x"}),
            ),
        ),
        "response",
        "invalid_value",
    );
    refused(&score(&served, &listed(&[])), "items", "empty_array");
    let much = score(
        &served,
        &listed(&vec![
            and(
                good.clone(),
                json!({"prompt": "word ".repeat(1000)})
            );
            64
        ]),
    )
    .error(400);
    assert_eq!(much["code"], "context_length_exceeded");
    let many = refused(
        &score(&served, &listed(&vec![good.clone(); 65])),
        "items",
        "invalid_value",
    );
    assert!(many.contains("65") && many.contains("64"), "{many}");
    for (guard, param) in [
        (json!({"mode": "off"}), "guard.mode"),
        (json!({"mode": "block"}), "guard.mode"),
        (json!({"thresh": 1}), "guard.thresh"),
    ] {
        let reply = score(&served, &and(alone(&url, "x"), json!({"guard": guard})));
        assert_eq!(reply.error(400)["param"], param);
    }
    assert_eq!(
        score(&served, &and(alone(&url, "x"), json!({"model": "gpt-4o"}))).error(404)["code"],
        "model_not_found"
    );
    refused(
        &score(&served, &json!({"image_url": url, "response": "x"})),
        "model",
        "missing_required_parameter",
    );
    assert_eq!(
        score(&served, &json!([])).error(400)["code"],
        "invalid_type"
    );
    assert_eq!(
        served.metric("candor_scored_texts_total{verdict=\"clean\"}")
            + served.metric("candor_scored_texts_total{verdict=\"flagged\"}"),
        0.0
    );
    assert_eq!(
        score(&served, &listed(&vec![good; 64])).json()["results"]
            .as_array()
            .unwrap()
            .len(),
        64
    );
}

#[test]
fn network_failure_is_500_without_details() {
    let served = Served::new();
    let body = alone(
        &data_url("image/png", &picture(2, ImageFormat::Png)),
        "A dog.",
    );
    served
        .valve
        .fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let error = score(&served, &body).error(500);
    assert!(
        !error["message"].as_str().unwrap().contains("secret"),
        "{error}"
    );
    assert_eq!(score(&served, &body).status, 200);
    assert_eq!(served.chat(&ask(2, "")).status, 200);
}

#[test]
fn author_selects_the_calibration() {
    // By the scorer alone: evidence knows the photograph better than either calibration.
    let dir = tempfile::tempdir().unwrap();
    copy_to(dir.path());
    let served = Served::with(|c| c.model.name = dir.path().display().to_string());
    let text = "A tabby cat looks into the camera.";
    let of = |author: &str| {
        let body = json!({"model": "candor-mini", "image_url": photo("cat.jpg"), "response": text,
            "author": author, "guard": {"target_fpr": 0.05}});
        score(&served, &body).json()["results"][0].clone()
    };
    let (model, other) = (of("model"), of("other"));
    let plain = score(
        &served,
        &json!({"model": "candor-mini", "image_url": photo("cat.jpg"), "response": text,
                "guard": {"target_fpr": 0.05}}),
    )
    .json()["results"][0]
        .clone();
    assert_eq!(plain, other);
    let rewards = |result: &Value| {
        result["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["reward"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let (mine, theirs) = (rewards(&model), rewards(&other));
    assert!(
        mine.iter().zip(&theirs).all(|(mine, theirs)| mine < theirs),
        "a person's words surprise the model more: {mine:?} {theirs:?}"
    );
    let order = |rewards: &[f64]| {
        let mut order: Vec<usize> = (0..rewards.len()).collect();
        order.sort_by(|&a, &b| rewards[a].total_cmp(&rewards[b]));
        order
    };
    assert_eq!(order(&mine), order(&theirs));
    assert!(other["guard"]["threshold"].as_f64() > model["guard"]["threshold"].as_f64());
    score(
        &served,
        &json!({"model": "candor-mini", "image_url": photo("cat.jpg"), "response": text,
            "author": "nobody"}),
    )
    .error(400);
}

/// The numbers of a field of all tokens.
fn numbers(result: &Value, field: &str) -> Vec<f64> {
    result["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token[field].as_f64().unwrap())
        .collect()
}

#[test]
fn text_within_the_context_scores_as_recorded() {
    // By the scorer alone, whatever evidence the bundle has.
    let dir = tempfile::tempdir().unwrap();
    copy_to(dir.path());
    let served = Served::with(|c| {
        c.model.name = dir.path().display().to_string();
        // Not rounded.
        c.model.dtype = WeightsDtype::F32;
    });
    let recorded: Vec<Value> =
        serde_json::from_str(include_str!("../fixtures/scores.json")).unwrap();
    assert_eq!(recorded.len(), 24);
    for case in &recorded {
        let text = json!({"image_url": photo(case["photo"].as_str().unwrap()),
            "prompt": case["prompt"], "response": case["response"]});
        let result = score(
            &served,
            &and(
                text,
                json!({"model": "candor-mini", "author": case["author"]}),
            ),
        )
        .json()["results"][0]
            .clone();
        check_tokens(&result, case["response"].as_str().unwrap());
        assert_eq!(result.get("windows"), None);
        for (field, name) in [
            ("reward", "rewards"),
            ("logprob", "logprobs"),
            ("byte_end", "ends"),
        ] {
            let (found, expected) = (numbers(&result, field), case[name].as_array().unwrap());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (found - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                    "{name}: {found} and {expected} in {}",
                    case["response"]
                );
            }
        }
        assert_eq!(result["guard"]["verdict"], case["verdict"]);
        let spans: Vec<Value> = result["guard"]["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| json!([s["start"], s["end"]]))
            .collect();
        assert_eq!(json!(spans), case["spans"]);
    }
}

const LONG: [&str; 12] = [
    "A cat is lying on a couch.",
    " Its fur is brown and black.",
    " It looks into the camera.",
    " Behind it is a white wall with a picture.",
    "\n\nOn the floor lies a red ball.",
    " Two men are playing football.",
    " Nobody is in the kitchen.",
    " A dog runs through the grass near the house.",
    " The cat's name is Zo\u{eb}.",
    " A woman in a blue dress is holding a cup of coffee \u{1F431}.",
    " It is raining outside.",
    " The end of the day is near.",
];

#[test]
fn text_above_the_context_is_scored_in_windows() {
    let served = Served::new();
    let text = LONG.concat();
    let body = score(
        &served,
        &and(
            alone(&photo("cat.jpg"), &text),
            json!({"guard": {"threshold": 1.0}}),
        ),
    )
    .json();
    let result = &body["results"][0];
    check_tokens(result, &text);
    let windows = result["windows"].as_u64().unwrap();
    assert!((2..=LONG.len() as u64).contains(&windows), "{windows}");
    let rewards = numbers(result, "reward");
    assert_eq!(body["usage"]["completion_tokens"], rewards.len());
    assert!(
        body["usage"]["prompt_tokens"].as_u64().unwrap() > windows * 55,
        "images, prompts and what is read again count"
    );
    let lowest = rewards.iter().copied().fold(1.0, f64::min);
    assert!(result["guard"]["score"].as_f64().unwrap() >= lowest);
    let last_span = result["guard"]["spans"].as_array().unwrap().last().unwrap();
    assert_eq!(
        last_span["end"],
        text.chars().count() - 1,
        "offsets are those of the whole text"
    );
    // What fits has the scores that it has alone, and the last sentence those that it has behind as
    // many whole sentences as fit.
    let alone_of =
        |text: &str| score(&served, &alone(&photo("cat.jpg"), text)).json()["results"][0].clone();
    let first = alone_of(&LONG[..4].concat());
    for field in ["reward", "logprob", "start"] {
        numbers(&first, field)
            .iter()
            .zip(numbers(result, field))
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{field}: {a} and {b}"));
    }
    let last = LONG[LONG.len() - 1].split_whitespace().count();
    let seen = (0..LONG.len())
        .map(|from| alone_of(LONG[from..].concat().trim()))
        .find(|result| result.get("windows").is_none())
        .unwrap();
    for field in ["reward", "logprob"] {
        let (seen, found) = (numbers(&seen, field), numbers(result, field));
        seen.iter()
            .rev()
            .zip(found.iter().rev())
            .take(last)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{field}: {a} and {b}"));
    }
}

#[test]
fn sentence_above_the_context_and_long_lists_are_scored() {
    let served = Served::new();
    let endless = "a big dog and a cat ".repeat(40);
    let unbroken = "dog".repeat(300);
    let texts = [
        LONG.concat(),
        "A cat.".to_owned(),
        endless,
        unbroken,
        "犬が走る。".repeat(60),
        "A. ".repeat(120),
    ];
    let items: Vec<Value> = texts
        .iter()
        .map(|text| item(&photo("cat.jpg"), text))
        .collect();
    let body = score(&served, &listed(&items)).json();
    let windows: Vec<bool> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| {
            check_tokens(&body["results"][i], text);
            let single = score(&served, &alone(&photo("cat.jpg"), text)).json();
            numbers(&single["results"][0], "reward")
                .iter()
                .zip(numbers(&body["results"][i], "reward"))
                .for_each(|(a, b)| assert!((a - b).abs() < 1e-4));
            body["results"][i].get("windows").is_some()
        })
        .collect();
    assert_eq!(windows, [true, false, true, true, true, true]);
    let small = data_url("image/png", &picture(1, ImageFormat::Png));
    let much = vec![item(&small, &"A dog runs. ".repeat(330)); 64];
    let message = score(&served, &listed(&much)).error(400)["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("262144"), "{message}");
    let limited = Served::with(|c| c.score.max_tokens = 170);
    refused(
        &score(
            &limited,
            &alone(&photo("cat.jpg"), &LONG.concat().repeat(3)),
        ),
        "response",
        "context_length_exceeded",
    );
    assert_eq!(
        score(&limited, &alone(&photo("cat.jpg"), &LONG.concat())).status,
        200
    );
}

#[test]
fn markup_is_neither_flagged_nor_broken() {
    let served = Served::new();
    let text = "{\"caption\": \"A **zebra** at <b>https://example.org/zebra.jpg</b>\", \
                \"objects\": [\"piano\", \"submarine\"]}";
    let result = score(
        &served,
        &and(
            alone(&photo("cat.jpg"), text),
            json!({"guard": {"threshold": 1.0}}),
        ),
    )
    .json()["results"][0]
        .clone();
    check_tokens(&result, text);
    let spans: Vec<&str> = result["guard"]["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["text"].as_str().unwrap())
        .collect();
    assert_eq!(spans, ["zebra", "piano", "submarine"]);
    let alt: Value = serde_json::from_str(result["guard"]["alt_text"].as_str().unwrap()).unwrap();
    assert_eq!(
        alt["caption"],
        "What may be a **zebra** at <b>https://example.org/zebra.jpg</b>"
    );
    assert_eq!(alt["objects"].as_array().unwrap().len(), 2);
}
