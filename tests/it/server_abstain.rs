//! Questions that no photograph answers: what is said in place of an answer, and who decides.

use candor::{
    config::{ApiKey, Auto, Config},
    guard::OnUnanswerable,
};
use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    http::{JSON, exchange, get, request},
    served::{Served, about, and, ask, data_url, eventually, picture},
    server_evidence::{EVIDENCE, config, copy_with_evidence, photo, sigmoid},
};

const QUESTION: &str = "What does the sign say?";
const WORDING: &str = "I cannot read text in photographs.";

/// The text of the first answer, its report and its end, as a stream tells them, and the texts of
/// its chunks.
fn streamed(served: &Served, body: &Value) -> (Value, Vec<String>) {
    let reply = served.chat(&and(body.clone(), json!({"stream": true})));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut events: Vec<&str> = Vec::new();
    let text = reply.text();
    events.extend(text.lines().filter_map(|line| line.strip_prefix("data: ")));
    assert_eq!(events.pop(), Some("[DONE]"));
    let chunks: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let texts = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .filter(|text| !text.is_empty());
    (
        chunks.last().unwrap()["choices"][0].clone(),
        texts.map(str::to_owned).collect(),
    )
}

/// A server that abstains, as it does by default.
fn cautious(change: impl FnOnce(&mut Config)) -> Served {
    Served::with(|config| {
        config.guard.on_unanswerable = Config::default().guard.on_unanswerable;
        change(config);
    })
}

fn first(reply: &Value) -> &Value {
    &reply["choices"][0]
}

#[test]
fn unanswerable_question_gets_an_abstention_with_its_reason() {
    let served = cautious(|_| {});
    let body = and(ask(2, QUESTION), json!({"logprobs": true}));
    let reply = served.chat(&body);
    let whole = reply.json();
    let choice = first(&whole);
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(WORDING), &json!("stop"))
    );
    assert_eq!(choice["logprobs"], json!({"content": [], "refusal": null}));
    let guard = &choice["guard"];
    assert_eq!(
        (&guard["verdict"], &guard["reason"], &guard["alt_text"]),
        (&json!("abstained"), &json!("text"), &json!(WORDING))
    );
    assert_eq!(
        (&guard["spans"], &guard["extra_tokens"]),
        (&json!([]), &json!(0))
    );
    assert!(
        guard["score"].is_null()
            && guard["withheld"].is_null()
            && guard["answer_probability"].is_null(),
        "{guard}"
    );
    assert_eq!(reply.header("x-candor-verdict"), Some("abstained"));
    assert_eq!(
        (
            reply.header("x-candor-score"),
            reply.header("x-candor-flagged-spans")
        ),
        (None, Some("0"))
    );
    // The prompt is counted as if it had been read, and nothing was written.
    let answered = served
        .chat(&and(
            ask(2, QUESTION),
            json!({"guard": {"on_unanswerable": "answer"}}),
        ))
        .json();
    assert_eq!(
        whole["usage"]["prompt_tokens"],
        answered["usage"]["prompt_tokens"]
    );
    assert_eq!(
        (
            &whole["usage"]["completion_tokens"],
            &whole["usage"]["total_tokens"]
        ),
        (&json!(0), &whole["usage"]["prompt_tokens"])
    );
    let (last, texts) = streamed(&served, &body);
    assert_eq!(
        (texts, &last["guard"], &last["finish_reason"]),
        (vec![WORDING.to_owned()], guard, &json!("stop"))
    );
}

#[test]
fn abstention_wording_depends_on_the_reason() {
    let served = cautious(|_| {});
    let mut wordings = Vec::new();
    for (question, reason) in [
        ("What time is it?", "time"),
        ("What is written on the sign?", "text"),
        ("Who is this man?", "identity"),
        ("Is it safe to cross the street?", "advice"),
        ("How much does it cost?", "price"),
        ("Was ist auf dem Bild?", "language"),
        ("Why is he sad?", "beyond"),
    ] {
        let answer = served.chat(&ask(2, question)).json();
        let choice = first(&answer).clone();
        assert_eq!(
            (&choice["guard"]["verdict"], &choice["guard"]["reason"]),
            (&json!("abstained"), &json!(reason)),
            "{question}"
        );
        wordings.push(choice["message"]["content"].as_str().unwrap().to_owned());
    }
    wordings.sort();
    wordings.dedup();
    assert_eq!(wordings.len(), 7);
    for question in [
        "",
        "Describe it.",
        "What is this?",
        "Is there no dog?",
        "What color is the sign?",
        "How many people are there?",
    ] {
        let answer = served.chat(&ask(2, question)).json();
        // The picture may be too unfamiliar to say anything of it; the question is not in the way.
        let reason = first(&answer)["guard"]["reason"].as_str();
        assert!(
            reason.is_none_or(|reason| ["unfamiliar", "unsure"].contains(&reason)),
            "{question}: {reason:?}"
        );
    }
    // It is the last question that is asked.
    let mut turns = ask(2, "What time is it?");
    let messages = turns["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": "I cannot tell."}));
    messages.push(json!({"role": "user", "content": "Is there a dog?"}));
    assert_ne!(
        first(&served.chat(&turns).json())["guard"]["reason"],
        "time"
    );
}

#[test]
fn abstention_decodes_nothing_but_checks_the_image() {
    let served = cautious(|_| {});
    served.valve.allow(0);
    for more in [
        json!({}),
        json!({"n": 2}),
        json!({"guard": {"candidates": 4}}),
        json!({"guard": {"mode": "regenerate"}}),
    ] {
        let answer = served.chat(&and(ask(2, QUESTION), more.clone())).json();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), more["n"].as_u64().unwrap_or(1) as usize);
        for choice in choices {
            assert_eq!(
                (&choice["message"]["content"], &choice["guard"]["verdict"]),
                (&json!(WORDING), &json!("abstained"))
            );
            assert!(choice["guard"]["candidates"].is_null(), "{more}");
        }
    }
    assert!(
        !served
            .valve
            .stands
            .load(std::sync::atomic::Ordering::SeqCst),
        "a step was asked for"
    );
    served.valve.open();
    let mut bad = ask(2, QUESTION);
    bad["messages"][0]["content"][1]["image_url"]["url"] = json!("data:image/png;base64,AAAA");
    assert_eq!(served.chat(&bad).error(400)["code"], "invalid_image");
}

#[test]
fn abstention_is_counted_and_has_a_receipt() {
    let served = cautious(|_| {});
    let of = |name: &str| served.metric(name);
    let before = [
        of("candor_request_success_total{finished_reason=\"stop\"}"),
        of("candor_generation_tokens_total"),
    ];
    let completion = served.chat(&ask(2, QUESTION)).json();
    assert_eq!(of("candor_responses_total{verdict=\"abstained\"}"), 1.0);
    let after = [
        of("candor_request_success_total{finished_reason=\"stop\"}"),
        of("candor_generation_tokens_total"),
    ];
    assert_eq!((after[0] - before[0], after[1] - before[1]), (1.0, 0.0));
    let judged = json!({"completion_id": completion["id"], "label": "good"});
    let reply = exchange(
        served.at,
        &request(
            "POST",
            "/v1/feedback",
            &[JSON],
            judged.to_string().as_bytes(),
        ),
    );
    assert_eq!(
        reply.error(400)["code"],
        "answer_abstained",
        "its receipt says what it was"
    );
}

/// It says nothing of the photograph that somebody could correct.
#[test]
fn abstention_is_not_queued() {
    let served = cautious(|config| config.queue.overlap_share = 0.0);
    served.chat(&ask(2, QUESTION));
    let completion = served
        .chat(&and(
            ask(1, "Is there a dog?"),
            json!({"guard": {"on_unanswerable": "answer"}}),
        ))
        .json();
    eventually("the answer is in the queue", || {
        get(served.at, "/v1/queue").json()["open"].as_u64() > Some(0)
    });
    assert_eq!(get(served.at, "/v1/queue").json()["open"], 1);
    let next = exchange(
        served.at,
        &request(
            "POST",
            "/v1/queue/next",
            &[JSON],
            json!({"annotator": "ann"}).to_string().as_bytes(),
        ),
    );
    assert_eq!(next.json()["completion_id"], completion["id"]);
}

#[test]
fn on_unanswerable_of_request_overrides_key_and_configuration() {
    let answering = Served::with(|config| {
        config.guard.on_unanswerable = OnUnanswerable::Answer;
        let strict = ApiKey {
            on_unanswerable: Auto::Value(OnUnanswerable::Abstain),
            ..ApiKey::new("strict", "sk-strict")
        };
        config.keys = vec![ApiKey::new("plain", "sk-plain"), strict];
    });
    let verdict = |secret: &str, guard: Value| {
        let body = and(ask(2, QUESTION), json!({"guard": guard, "seed": 1})).to_string();
        let authorization = format!("Bearer {secret}");
        let headers = [JSON, ("authorization", authorization.as_str())];
        let reply = exchange(
            answering.at,
            &request("POST", "/v1/chat/completions", &headers, body.as_bytes()),
        );
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        (
            body["choices"][0]["message"].clone(),
            body["choices"][0]["guard"].clone(),
        )
    };
    let plain = verdict("sk-plain", json!({}));
    assert_ne!(plain.1["verdict"], "abstained");
    assert_eq!(verdict("sk-strict", json!({})).1["verdict"], "abstained");
    assert_eq!(
        verdict("sk-plain", json!({"on_unanswerable": "abstain"})).1["verdict"],
        "abstained"
    );
    assert_eq!(
        verdict("sk-strict", json!({"on_unanswerable": "answer"})),
        plain
    );
    let abstaining = cautious(|_| {});
    let answered = abstaining
        .chat(&and(
            ask(2, QUESTION),
            json!({"guard": {"on_unanswerable": "answer"}, "seed": 1}),
        ))
        .json();
    assert_eq!(
        (&first(&answered)["message"], &first(&answered)["guard"]),
        (&plain.0, &plain.1)
    );
}

#[test]
fn modes_off_and_score_never_abstain() {
    let served = cautious(|_| {});
    for mode in ["off", "score"] {
        let answer = served
            .chat(&and(ask(2, QUESTION), json!({"guard": {"mode": mode}})))
            .json();
        assert_ne!(first(&answer)["guard"]["verdict"], "abstained", "{mode}");
        let asked = and(
            ask(2, QUESTION),
            json!({"guard": {"mode": mode, "on_unanswerable": "abstain"}}),
        );
        assert_eq!(
            served.chat(&asked).error(400)["param"],
            "guard.on_unanswerable",
            "{mode}"
        );
        let allowed = and(
            ask(2, QUESTION),
            json!({"guard": {"mode": mode, "on_unanswerable": "answer", "show_withheld": true}}),
        );
        assert_eq!(served.chat(&allowed).status, 200, "{mode}");
    }
    let wrong = and(
        ask(2, QUESTION),
        json!({"guard": {"on_unanswerable": "maybe"}}),
    );
    assert_eq!(
        served.chat(&wrong).error(400)["param"],
        "guard.on_unanswerable"
    );
    // A text that is there is scored, whatever it answers.
    let image = &ask(2, "")["messages"][0]["content"][1]["image_url"]["url"];
    let score = |guard: Value| {
        let body = json!({"model": "candor-mini", "image_url": image, "prompt": QUESTION,
            "response": "Stop.", "guard": guard});
        exchange(
            served.at,
            &request("POST", "/v1/score", &[JSON], body.to_string().as_bytes()),
        )
    };
    let scores = score(json!({}));
    assert_eq!(scores.status, 200, "{}", scores.text());
    assert_ne!(scores.json()["results"][0]["guard"]["verdict"], "abstained");
    assert_eq!(
        score(json!({"on_unanswerable": "abstain"})).error(400)["param"],
        "guard.on_unanswerable"
    );
    assert_eq!(
        score(json!({"show_withheld": true})).error(400)["param"],
        "guard.show_withheld"
    );
}

#[test]
fn openapi_describes_abstentions() {
    let served = cautious(|_| {});
    let schemas = get(served.at, "/openapi.json").json()["components"]["schemas"].clone();
    let has =
        |schema: &str, word: &str| schemas[schema].to_string().contains(&format!("\"{word}\""));
    assert!(
        has("Verdict", "abstained")
            && has("OnUnanswerable", "abstain")
            && has("Unanswerable", "unfamiliar")
    );
    for field in ["on_unanswerable", "show_withheld"] {
        assert!(
            schemas["GuardRequest"]["properties"][field].is_object(),
            "{field}"
        );
    }
    for field in ["reason", "withheld", "answer_probability"] {
        assert!(
            schemas["GuardReport"]["properties"][field].is_object(),
            "{field}"
        );
    }
}

/// A server whose model calibrates short answers by the evidence for what they claim, withheld
/// below a probability.
fn calibrated(dir: &std::path::Path, below: f32) -> Served {
    let mut evidence = config();
    evidence["calibration"]["answers"] = json!({
        "features": ["asked_evidence_claimed"], "mean": [0.0], "scale": [1.0], "weights": [1.0],
        "offset": 0.0,
        "thresholds": {"default": 0.5, "by_fpr": []}, "fitted_on": "nothing",
    });
    copy_with_evidence(dir, &evidence);
    cautious(|c| {
        c.model.name = dir.display().to_string();
        c.guard.abstain_below = below;
    })
}

#[test]
fn unlikely_short_answer_is_withheld_unless_requested() {
    let dir = tempfile::tempdir().unwrap();
    let served = calibrated(dir.path(), 0.5);
    let strict_dir = tempfile::tempdir().unwrap();
    let strict = calibrated(strict_dir.path(), 1.0);
    let [dog, person] = EVIDENCE.map(f64::from);
    for (question, evidence) in [
        ("Is there a dog in the picture?", dog),
        ("Is there no dog in the picture?", -dog),
        ("Is there a man in the picture?", person),
        ("Are there no people in the picture?", -person),
    ] {
        let body = and(
            about(&photo("cat.jpg"), question),
            json!({"logprobs": true}),
        );
        let of = |served: &Served, guard: Value| {
            served
                .chat(&and(body.clone(), json!({"guard": guard})))
                .json()
        };
        let raw = of(&served, json!({"mode": "score"}));
        let text = first(&raw)["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned();
        let claim = match text.as_str() {
            "Yes." => 1.0,
            "No." => -1.0,
            _ => panic!("{question}: {text}"),
        };
        let probability = first(&raw)["guard"]["answer_probability"].as_f64().unwrap();
        assert!(
            (probability - sigmoid(claim * evidence)).abs() < 1e-5,
            "{question} {text}: {probability}"
        );
        let given = of(&served, json!({}));
        assert_eq!(
            first(&given)["guard"]["answer_probability"],
            first(&raw)["guard"]["answer_probability"],
            "{question}"
        );
        let is_withheld = probability < 0.5;
        assert_eq!(
            first(&given)["guard"]["verdict"] == "abstained",
            is_withheld,
            "{question}"
        );
        if !is_withheld {
            assert_eq!(first(&given)["message"]["content"], text);
        }
        // Nothing is sure enough for this server.
        let reply = strict.chat(&and(
            body.clone(),
            json!({"guard": {"show_withheld": true}}),
        ));
        let whole = reply.json();
        let choice = first(&whole);
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (
                &json!("I cannot tell from this photograph."),
                &json!("stop")
            )
        );
        let guard = &choice["guard"];
        assert_eq!(
            (&guard["verdict"], &guard["reason"], &guard["withheld"]),
            (&json!("abstained"), &json!("unsure"), &json!(text))
        );
        assert_eq!(
            (
                reply.header("x-candor-verdict"),
                &choice["logprobs"]["content"]
            ),
            (Some("abstained"), &json!([]))
        );
        assert_eq!(
            (&guard["extra_tokens"], &whole["usage"]["completion_tokens"]),
            (&raw["usage"]["completion_tokens"], &json!(0))
        );
        let (last, texts) = streamed(
            &strict,
            &and(body.clone(), json!({"guard": {"show_withheld": true}})),
        );
        assert_eq!(
            (texts.len(), &last["guard"], &last["finish_reason"]),
            (1, guard, &json!("stop"))
        );
        assert!(
            first(&of(&strict, json!({})))["guard"]["withheld"].is_null(),
            "only where it is asked for"
        );
        let answered = of(&strict, json!({"on_unanswerable": "answer"}));
        assert_eq!(
            (
                &first(&answered)["message"]["content"],
                first(&answered)["guard"]["withheld"].is_null()
            ),
            (&json!(text), true)
        );
        // The same of an answer that is given to be scored.
        let scored = json!({"model": "candor-mini", "image_url": photo("cat.jpg"),
            "prompt": question, "response": text, "author": "model"});
        let scores = exchange(
            served.at,
            &request("POST", "/v1/score", &[JSON], scored.to_string().as_bytes()),
        )
        .json();
        let of_scored = scores["results"][0]["guard"]["answer_probability"]
            .as_f64()
            .unwrap();
        assert!((of_scored - probability).abs() < 1e-5, "{of_scored}");
    }
    // A description is no answer to a question.
    let caption = strict.chat(&about(&photo("cat.jpg"), "")).json();
    assert!(
        first(&caption)["guard"]["verdict"] != "abstained"
            && first(&caption)["guard"]["answer_probability"].is_null()
    );
}

#[test]
fn unfamiliar_photograph_is_described_but_questions_abstain() {
    let dir = tempfile::tempdir().unwrap();
    let mut evidence = config();
    evidence["scope"] = json!({"k": 1, "abstain_below": 1.0});
    copy_with_evidence(dir.path(), &evidence);
    let served = cautious(|c| c.model.name = dir.path().display().to_string());
    let of = |question: &str, guard: Value| {
        first(
            &served
                .chat(&and(
                    about(&photo("cat.jpg"), question),
                    json!({"guard": guard}),
                ))
                .json(),
        )["guard"]
            .clone()
    };
    let question = of("Is there a dog?", json!({}));
    assert_eq!(
        (&question["verdict"], &question["reason"]),
        (&json!("abstained"), &json!("unfamiliar"))
    );
    assert!(question["familiarity"].as_f64() < Some(1.0), "{question}");
    assert_eq!(
        of("What time is it?", json!({}))["reason"],
        "time",
        "what the question says comes first"
    );
    for (question, guard) in [
        ("", json!({})),
        ("Describe it.", json!({})),
        ("Is there a dog?", json!({"on_unanswerable": "answer"})),
        ("Is there a dog?", json!({"mode": "score"})),
    ] {
        assert_ne!(of(question, guard)["verdict"], "abstained", "{question}");
    }
}

#[test]
fn correction_of_an_abstention_is_refused() {
    let served = cautious(|_| {});
    let completion = served.chat(&and(ask(2, QUESTION), json!({"n": 2}))).json();
    assert_eq!(first(&completion)["guard"]["verdict"], "abstained");
    let post = |body: Value| {
        exchange(
            served.at,
            &request("POST", "/v1/feedback", &[JSON], body.to_string().as_bytes()),
        )
    };
    for said in [
        json!({"label": "good"}),
        json!({"label": "good", "choice": 1}),
        json!({"error": {"start": 0, "end": 1}, "correction": "It says stop"}),
        json!({"edit": "It says stop."}),
        json!({"missing": "the sign says stop"}),
    ] {
        let error = post(and(
            json!({"completion_id": completion["id"]}),
            said.clone(),
        ))
        .error(400);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("completion_id"), &json!("answer_abstained")),
            "{said}"
        );
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("guard.on_unanswerable"),
            "{error}"
        );
    }
    // The same words without the completion's id.
    let image = data_url("image/png", &picture(2, ImageFormat::Png));
    let alone = |response: &str| {
        post(json!({"image": image, "prompt": QUESTION, "response": response, "label": "good"}))
    };
    assert_eq!(
        (
            alone(WORDING).error(400)["param"].as_str(),
            alone(WORDING).error(400)["code"].as_str()
        ),
        (Some("response"), Some("answer_abstained"))
    );
    assert_eq!(get(served.at, "/v1/feedback").json()["data"], json!([]));
    assert_eq!(alone("It says stop.").status, 201);
    // What the model says when it has to is its own.
    let answered = served
        .chat(&and(
            ask(2, QUESTION),
            json!({"guard": {"on_unanswerable": "answer"}}),
        ))
        .json();
    assert_eq!(
        post(json!({"completion_id": answered["id"], "label": "good"})).status,
        201
    );
}
