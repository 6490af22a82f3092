//! `/v1/feedback` over a real socket.

use image::ImageFormat;
use serde_json::{Value, json};

use super::postgres::Postgres;
use crate::{
    http::{JSON, Reply, exchange, get, request},
    served::{Served, and, ask, data_url, picture},
};

/// Posts feedback with additional headers.
pub(super) fn post(served: &Served, body: &Value, headers: &[(&str, &str)]) -> Reply {
    let headers = [&[JSON], headers].concat();
    exchange(
        served.at,
        &request(
            "POST",
            "/v1/feedback",
            &headers,
            body.to_string().as_bytes(),
        ),
    )
}

fn delete(served: &Served, path: &str) -> Reply {
    exchange(served.at, &request("DELETE", path, &[], b""))
}

#[track_caller]
fn created(served: &Served, body: &Value) -> Value {
    let reply = post(served, body, &[]);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

/// Submission about an answer of another server.
fn alone(more: Value) -> Value {
    let image = data_url("image/png", &picture(1, ImageFormat::Png));
    and(
        json!({ "image": image, "prompt": "What is it?", "response": "A dog with a 🐶 hat." }),
        more,
    )
}

fn labels(record: &Value) -> Vec<&str> {
    record["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["label"].as_str().unwrap())
        .collect()
}

#[test]
fn completion_is_corrected_by_its_id() {
    let served = Served::new();
    let before = served.metric("candor_feedback_total{label=\"bad\"}");
    let completion = served
        .chat(&and(
            ask(1, "Is there a dog?"),
            json!({ "logprobs": true, "user": "ann" }),
        ))
        .json();
    let (choice, id) = (&completion["choices"][0], &completion["id"]);
    let text: Vec<char> = choice["message"]["content"]
        .as_str()
        .unwrap()
        .chars()
        .collect();
    let start = text
        .iter()
        .position(|c| *c == ' ')
        .map_or(0, |space| space + 1);
    let end = start
        + text[start..]
            .iter()
            .position(|c| !c.is_alphanumeric())
            .unwrap();
    let error = json!({ "start": start, "end": end });
    let record = created(
        &served,
        &json!({ "completion_id": id, "error": error, "correction": "zebra", "annotator": "bob" }),
    );
    assert_eq!(
        (&record["completion_id"], &record["choice"], &record["kind"]),
        (id, &json!(0), &json!("bad"))
    );
    assert_eq!(
        (&record["prompt"], &record["response"]),
        (&json!("Is there a dog?"), &choice["message"]["content"])
    );
    assert_eq!(
        (&record["user"], &record["annotator"], &record["unassisted"]),
        (&json!("ann"), &json!("bob"), &json!(false))
    );
    assert_eq!(record["versions"]["model"], "candor-mini");
    let digest = record["versions"]["tokenizer"].as_str();
    assert_eq!(digest.map(str::len), Some(64));
    // The record has the answer's own logprobs and rewards.
    let (tokens, told) = (
        record["tokens"].as_array().unwrap(),
        choice["logprobs"]["content"].as_array().unwrap(),
    );
    assert_eq!(tokens.len(), told.len());
    for (token, told) in tokens.iter().zip(told) {
        assert_eq!(
            (&token["logprob"], &token["reward"]),
            (&told["logprob"], &told["reward"])
        );
    }
    let wrong = &record["errors"][0];
    let first = wrong["token_start"].as_u64().unwrap() as usize;
    let bad = labels(&record).iter().position(|l| *l == "bad").unwrap();
    assert_eq!(
        (
            first,
            wrong["partial_caption"].as_str().unwrap().chars().count()
        ),
        (bad, start)
    );
    assert!(labels(&record)[..bad].iter().all(|l| *l == "good"));
    assert!(
        labels(&record)[wrong["token_end"].as_u64().unwrap() as usize..]
            .iter()
            .all(|l| *l == "none")
    );
    assert_eq!(
        served.metric("candor_feedback_total{label=\"bad\"}"),
        before + 1.0
    );
    // Names are left out unless asked for.
    let path = format!("/v1/feedback/{}", record["id"].as_str().unwrap());
    let shown = get(served.at, &path).json();
    assert_eq!(shown.get("annotator"), None);
    assert_eq!(
        get(served.at, &format!("{path}?annotators=true")).json(),
        record
    );
    assert_eq!(
        get(served.at, "/v1/feedback").json()["data"],
        json!([shown])
    );
    let exported = get(served.at, "/v1/feedback/export?format=jsonl");
    assert_eq!(exported.header("content-type"), Some("application/jsonl"));
    assert_eq!(
        exported
            .text()
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap())
            .collect::<Vec<_>>(),
        [shown]
    );
    assert_eq!(
        get(served.at, "/v1/feedback/export?annotators=true").json(),
        record
    );
}

#[test]
fn streams_choices_and_unscored_answers_leave_receipts() {
    let served = Served::new();
    let several = served
        .chat(&and(
            ask(1, ""),
            json!({ "n": 2, "temperature": 1.0, "seed": 4 }),
        ))
        .json();
    let second = created(
        &served,
        &json!({ "completion_id": several["id"], "choice": 1, "label": "good" }),
    );
    assert_eq!(
        second["response"],
        several["choices"][1]["message"]["content"]
    );
    let missing = post(
        &served,
        &json!({ "completion_id": several["id"], "choice": 2, "label": "good" }),
        &[],
    );
    assert_eq!(missing.error(400)["param"], "choice");
    let chunks = served
        .chat(&and(
            ask(1, ""),
            json!({ "stream": true, "guard": { "mode": "off" } }),
        ))
        .chunks();
    let text: String = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"]["content"].as_str())
        .collect();
    let record = created(
        &served,
        &json!({ "completion_id": chunks[0]["id"], "missing": "a child" }),
    );
    assert_eq!(
        (
            record["response"].as_str().unwrap(),
            &record["kind"],
            &record["unassisted"]
        ),
        (&*text, &json!("missing"), &json!(true))
    );
    let tokens = record["tokens"].as_array().unwrap();
    assert!(
        tokens
            .iter()
            .all(|t| t["label"] == "none" && t["logprob"].is_f64() && t.get("reward").is_none()),
        "{tokens:?}"
    );
    assert_eq!(record["versions"].get("reward"), None);
    // The tokens of a hedged answer are those of its text.
    let hedged = served
        .chat(&and(
            ask(1, ""),
            json!({ "guard": { "threshold": 1.0, "on_exhausted": "hedge" } }),
        ))
        .json();
    let record = created(
        &served,
        &json!({ "completion_id": hedged["id"], "label": "good" }),
    );
    let text: String = record["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        text,
        hedged["choices"][0]["message"]["content"].as_str().unwrap()
    );
}

#[test]
fn answer_of_another_server_is_accepted_with_its_image() {
    let served = Served::new();
    let errors = json!([{ "start": 2, "end": 5, "text": "dog", "correction": "cat" },
        { "start": 13, "end": 14, "remove": true }]);
    let record = created(
        &served,
        &alone(json!({ "errors": errors, "model": "other", "comment": "è" })),
    );
    assert_eq!(
        (&record["scope"], &record["errors"][1]["text"]),
        (&json!("all_errors"), &json!("🐶"))
    );
    assert_eq!(
        (
            &record["versions"]["model"],
            &record["errors"][0]["partial_caption"]
        ),
        (&json!("other"), &json!("A "))
    );
    let edited = created(&served, &alone(json!({ "edit": "A cat with a hat." })));
    let corrections: Vec<_> = edited["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["correction"].as_str().unwrap())
        .collect();
    assert_eq!(
        (edited["kind"].as_str(), corrections),
        (Some("bad"), vec!["cat", ""])
    );
    let kept = std::fs::read_dir(served.folder.path().join("images"))
        .unwrap()
        .count();
    assert_eq!(kept, 1, "the same image is kept once");
}

#[test]
fn repeated_request_makes_one_record() {
    let served = Served::new();
    let (body, key) = (
        alone(json!({ "label": "good" })),
        [("idempotency-key", "k 1")],
    );
    let first = post(&served, &body, &key);
    let again = post(&served, &body, &key);
    assert_eq!(
        (first.status, first.header("idempotent-replayed")),
        (201, None)
    );
    assert_eq!(
        (
            again.status,
            again.header("idempotent-replayed"),
            again.json()
        ),
        (201, Some("true"), first.json())
    );
    assert_eq!(
        post(&served, &alone(json!({ "missing": "x" })), &key).error(409)["code"],
        "idempotency_key_reused"
    );
    assert_eq!(
        post(&served, &body, &[("idempotency-key", &"k".repeat(256))]).error(400)["param"],
        "idempotency-key"
    );
    assert_eq!(
        get(served.at, "/v1/feedback").json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(served.metric("candor_feedback_total{label=\"good\"}"), 1.0);
}

#[test]
fn invalid_submission_is_refused_with_its_field() {
    let served = Served::new();
    let good = json!({ "label": "good" });
    let image = |url: &str| and(alone(good.clone()), json!({ "image": url }));
    let cases = [
        (json!({}), "image"),
        (json!({ "completion_id": "x", "label": "great" }), "label"),
        (
            json!({ "completion_id": "x", "label": "good", "corection": "x" }),
            "corection",
        ),
        (
            json!({ "completion_id": "x", "error": { "start": -1, "end": 2 } }),
            "error.start",
        ),
        (
            json!({ "completion_id": "x", "error": { "start": 1 } }),
            "error.end",
        ),
        (
            json!({ "completion_id": "x", "image": "x", "label": "good" }),
            "image",
        ),
        (
            json!({ "image": data_url("image/png", &picture(1, ImageFormat::Png)),
                "label": "good" }),
            "response",
        ),
        (image("https://example.org/x.png"), "image"),
        (image("data:image/png;base64,AAAA"), "image"),
        (
            alone(json!({ "error": { "start": 2, "end": 99 } })),
            "error.end",
        ),
        (alone(json!({ "label": "bad" })), "label"),
        (alone(json!({ "label": "good", "choice": 0 })), "choice"),
    ];
    for (body, param) in cases {
        let error = post(&served, &body, &[]).error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    let unknown = post(
        &served,
        &json!({ "completion_id": "chatcmpl-1", "label": "good" }),
        &[],
    )
    .error(404);
    assert_eq!(
        (&unknown["param"], &unknown["code"]),
        (&json!("completion_id"), &json!("completion_not_found"))
    );
    for path in [
        "?limit=0",
        "?limit=101",
        "?limit=x",
        "?kind=x",
        "/export?format=docx",
        "/export?annotators=maybe",
    ] {
        assert_eq!(
            get(served.at, &format!("/v1/feedback{path}")).error(400)["type"],
            "invalid_request_error",
            "{path}"
        );
    }
    assert_eq!(
        get(served.at, "/v1/feedback/fb_1").error(404)["code"],
        "feedback_not_found"
    );
    assert_eq!(
        delete(&served, "/v1/feedback/fb_1").error(404)["code"],
        "feedback_not_found"
    );
    assert_eq!(
        delete(&served, "/v1/feedback").error(400)["type"],
        "invalid_request_error"
    );
}

#[test]
fn offsets_written_as_decimals_are_accepted() {
    let served = Served::new();
    let record = created(
        &served,
        &alone(json!({ "error": { "start": 2.0, "end": 5e0 }, "correction": "cat" })),
    );
    assert_eq!(
        (&record["errors"][0]["start"], &record["errors"][0]["text"]),
        (&json!(2), &json!("dog"))
    );
    for bad in [json!(2.5), json!(-2), json!(-2.0), json!("2"), json!(1e300)] {
        let error = post(
            &served,
            &alone(json!({ "error": { "start": bad, "end": 5 } })),
            &[],
        )
        .error(400);
        assert_eq!(error["param"], "error.start", "{error}");
        assert!(
            error["message"].as_str().unwrap().contains("integer"),
            "{error}"
        );
    }
}

/// Invalid names are refused with their field, on SQLite and, if installed, on PostgreSQL.
#[test]
fn invalid_names_are_refused() {
    let postgres = Postgres::start();
    for store in [None, postgres.as_ref().map(Postgres::database)] {
        let served = Served::with(|c| {
            c.feedback.store = store.clone().unwrap_or_else(|| c.feedback.store.clone())
        });
        let refused = |reply: Reply, field: &str| {
            let error = reply.error(400);
            assert_eq!(error["param"], field, "{error}");
        };
        for bad in [
            "%00",
            "a%00b",
            "%1b",
            "%0a",
            "%c2%85",
            "%ff",
            "%ed%a0%80",
            "",
            &"n".repeat(257),
        ] {
            for field in ["user", "annotator", "completion_id", "after"] {
                refused(
                    get(served.at, &format!("/v1/feedback?{field}={bad}")),
                    field,
                );
            }
            refused(
                get(served.at, &format!("/v1/feedback/export?user={bad}")),
                "user",
            );
            refused(delete(&served, &format!("/v1/feedback?user={bad}")), "user");
            refused(
                get(served.at, &format!("/v1/queue?annotator={bad}")),
                "annotator",
            );
            if !bad.is_empty() {
                refused(get(served.at, &format!("/v1/feedback/{bad}")), "id");
                refused(delete(&served, &format!("/v1/feedback/{bad}")), "id");
                let leave = request(
                    "POST",
                    &format!("/v1/queue/{bad}/skip"),
                    &[JSON],
                    b"{\"annotator\": \"a\"}",
                );
                refused(exchange(served.at, &leave), "id");
            }
        }
        for bad in [
            "\u{0}",
            "a\u{0}b",
            "\u{1b}",
            "\n",
            "\u{85}",
            " ",
            &"n".repeat(257),
        ] {
            let completion = json!({ "completion_id": bad, "label": "good" });
            refused(post(&served, &completion, &[]), "completion_id");
            for field in ["user", "annotator", "model"] {
                refused(
                    post(&served, &alone(json!({ "label": "good", field: bad })), &[]),
                    field,
                );
            }
            refused(
                served.chat(&and(ask(1, ""), json!({ "user": bad }))),
                "user",
            );
            let next = request(
                "POST",
                "/v1/queue/next",
                &[JSON],
                json!({ "annotator": bad }).to_string().as_bytes(),
            );
            refused(exchange(served.at, &next), "annotator");
        }
        let lone = br#"{"completion_id": "x", "label": "good", "user": "\ud800"}"#;
        assert_eq!(
            exchange(served.at, &request("POST", "/v1/feedback", &[JSON], lone)).status,
            400
        );
        // Texts may contain anything, and records of valid names are found by them.
        created(
            &served,
            &alone(json!({ "label": "good", "comment": "\u{0}", "user": "ü\u{202E} 1 / 2" })),
        );
        assert_eq!(
            delete(&served, "/v1/feedback?user=%C3%BC%E2%80%AE%201%20%2F%202").json()["feedback"],
            1
        );
        // An empty name means none.
        let completion = served.chat(&and(ask(1, ""), json!({ "user": "" }))).json();
        assert_eq!(
            created(
                &served,
                &json!({ "completion_id": completion["id"], "label": "good" })
            )
            .get("user"),
            None
        );
    }
}

#[test]
fn double_click_labels_its_word_only() {
    let served = Served::new();
    let response = "A brown and black dog is laying in the air.";
    let bad = |record: &Value| {
        let tokens = record["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|token| token["label"] == "bad");
        tokens
            .map(|token| token["text"].as_str().unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    };
    for (start, end, text) in [(18, 22, "dog "), (17, 22, " dog"), (18, 21, "dog")] {
        let error = json!({ "start": start, "end": end, "text": text });
        let record = created(
            &served,
            &alone(json!({ "response": response, "error": error, "correction": "cat " })),
        );
        assert_eq!(
            (bad(&record), &record["errors"][0]["end"]),
            (vec!["dog".to_owned()], &json!(21))
        );
        assert_eq!(record["errors"][0]["correction"], "cat");
    }
    let white = json!({ "response": response, "error": { "start": 17, "end": 18 } });
    assert_eq!(
        post(&served, &alone(white), &[]).error(400)["param"],
        "error.start"
    );
    let typed = created(
        &served,
        &alone(
            json!({ "response": response, "edit": "a brown and black cat… is “laying” in the \
                air" }),
        ),
    );
    assert_eq!(bad(&typed), ["dog"]);
    let typed = created(
        &served,
        &alone(
            json!({ "response": response, "edit": "a brown and black dog… is laying in the air" }),
        ),
    );
    assert_eq!((&typed["kind"], bad(&typed)), (&json!("good"), vec![]));
}

#[test]
fn records_are_listed_page_by_page_and_removed() {
    let served = Served::new();
    let id = |record: &Value| record["id"].as_str().unwrap().to_owned();
    let ids: Vec<String> = (0..5)
        .map(|n| {
            id(&created(
                &served,
                &alone(json!({ "label": "good", "user": format!("u{}", n % 2) })),
            ))
        })
        .collect();
    let list = |query: &str| get(served.at, &format!("/v1/feedback?{query}")).json();
    let listed = |page: &Value| {
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(id)
            .collect::<Vec<_>>()
    };
    let first = list("order=asc&limit=2");
    assert_eq!(
        (listed(&first), &first["has_more"]),
        (ids[..2].to_vec(), &json!(true))
    );
    let last = list(&format!(
        "order=asc&limit=3&after={}",
        first["last_id"].as_str().unwrap()
    ));
    assert_eq!(
        (listed(&last), &last["has_more"]),
        (ids[2..].to_vec(), &json!(false))
    );
    assert_eq!(listed(&list("limit=1")), ids[4..]);
    assert_eq!(
        listed(&list("user=u1&order=asc")),
        [ids[1].clone(), ids[3].clone()]
    );
    assert_eq!(listed(&list("kind=bad")), [""; 0]);
    let images = || {
        std::fs::read_dir(served.folder.path().join("images"))
            .unwrap()
            .flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap())
            .count()
    };
    assert_eq!(
        delete(&served, &format!("/v1/feedback/{}", ids[0])).json()["feedback"],
        1
    );
    assert_eq!(
        delete(&served, &format!("/v1/feedback/{}", ids[0])).status,
        404
    );
    assert_eq!(
        delete(&served, "/v1/feedback?user=u0").json()["feedback"],
        2
    );
    assert_eq!(
        (listed(&list("order=asc")), images()),
        (vec![ids[1].clone(), ids[3].clone()], 1)
    );
    // Removing a user removes their receipts too.
    let completion = served
        .chat(&and(ask(1, ""), json!({ "user": "u1" })))
        .json();
    assert_eq!(
        delete(&served, "/v1/feedback?user=u1").json()["feedback"],
        2
    );
    let gone = post(
        &served,
        &json!({ "completion_id": completion["id"], "label": "good" }),
        &[],
    );
    assert_eq!(
        (gone.error(404)["code"].as_str(), images()),
        (Some("completion_not_found"), 0)
    );
}

#[test]
fn feedback_and_receipts_can_be_off() {
    let off = Served::with(|c| c.feedback.store = "off".to_owned());
    let completion = off.chat(&ask(1, "")).json();
    assert_eq!(
        post(
            &off,
            &json!({ "completion_id": completion["id"], "label": "good" }),
            &[]
        )
        .error(404)["code"],
        "feedback_disabled"
    );
    let forgetful = Served::with(|c| c.receipts.retention = "0s".to_owned());
    let completion = forgetful.chat(&ask(1, "")).json();
    let body = json!({ "completion_id": completion["id"], "label": "good" });
    assert_eq!(
        post(&forgetful, &body, &[]).error(404)["code"],
        "completion_not_found"
    );
    created(&forgetful, &alone(json!({ "label": "good" })));
}
