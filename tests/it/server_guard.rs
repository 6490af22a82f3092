//! What the guard does about words that stay doubted, and the best of several answers.

use serde_json::{Value, json};

use crate::served::{Served, and, ask};

fn chunks(served: &Served, body: &Value) -> Vec<Value> {
    let body = and(
        body.clone(),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let reply = served.chat(&body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut events: Vec<String> = reply
        .text()
        .lines()
        .filter_map(|l| l.strip_prefix("data: ").map(str::to_owned))
        .collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

/// The text and the guard's report of a choice, as a stream tells them.
fn streamed(chunks: &[Value], index: usize) -> (String, Value) {
    let of = || {
        chunks.iter().filter_map(|c| {
            c["choices"]
                .as_array()?
                .iter()
                .find(|choice| choice["index"] == index)
        })
    };
    let text = of()
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect();
    let report = of()
        .find(|choice| choice["finish_reason"].is_string())
        .unwrap()["guard"]
        .clone();
    (text, report)
}

#[test]
fn low_words_are_hedged_or_omitted_in_the_answer() {
    let served = Served::new();
    let plain = served
        .chat(&and(ask(2, ""), json!({"guard": {"threshold": 0.9}})))
        .json();
    let text = plain["choices"][0]["message"]["content"].as_str().unwrap();
    let spans = plain["choices"][0]["guard"]["spans"].as_array().unwrap();
    assert!(!spans.is_empty());
    for (on_exhausted, action, verdict, doubted) in [
        ("hedge", "hedged", "flagged", spans.len()),
        ("omit", "omitted", "repaired", 0),
    ] {
        let body = and(
            ask(2, ""),
            json!({"guard": {"threshold": 0.9, "on_exhausted": on_exhausted}}),
        );
        let reply = served.chat(&body);
        let whole = reply.json();
        let (content, guard) = (
            whole["choices"][0]["message"]["content"].as_str().unwrap(),
            &whole["choices"][0]["guard"],
        );
        assert_ne!(content, text);
        assert_eq!(
            (&guard["verdict"], guard["alt_text"].as_str()),
            (&json!(verdict), Some(content))
        );
        assert_eq!(
            reply.header("x-candor-flagged-spans").unwrap(),
            doubted.to_string()
        );
        let chars: Vec<char> = content.chars().collect();
        for (span, before) in guard["spans"].as_array().unwrap().iter().zip(spans) {
            let (start, end) = (
                span["start"].as_u64().unwrap() as usize,
                span["end"].as_u64().unwrap() as usize,
            );
            assert_eq!(
                span["text"].as_str().unwrap(),
                chars[start..end].iter().collect::<String>()
            );
            assert_eq!(
                (&span["action"], &span["original"]),
                (&json!(action), &before["text"])
            );
        }
        let (told, report) = streamed(&chunks(&served, &body), 0);
        assert_eq!((told.as_str(), &report), (content, guard));
    }
}

#[test]
fn best_candidate_is_the_same_in_a_stream() {
    let served = Served::new();
    let body = and(
        ask(3, ""),
        json!({"guard": {"candidates": 4}, "n": 2, "seed": 11, "temperature": 1.0,
            "logprobs": true}),
    );
    let whole = served.chat(&body).json();
    let told = chunks(&served, &body);
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let guard = &choice["guard"];
        assert_eq!(
            streamed(&told, index),
            (
                choice["message"]["content"].as_str().unwrap().to_owned(),
                guard.clone()
            )
        );
        let others: Vec<f64> = guard["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["score"].as_f64().unwrap())
            .collect();
        assert_eq!(others.len(), 3);
        assert!(
            others
                .iter()
                .all(|score| *score <= guard["mean_score"].as_f64().unwrap()),
            "{guard}"
        );
        assert!(others.windows(2).all(|pair| pair[0] >= pair[1]), "{guard}");
    }
    assert_eq!(told.last().unwrap()["usage"], whole["usage"]);
}

#[test]
fn class_thresholds_of_request_override_configuration() {
    let served = Served::with(|c| {
        c.guard.threshold = candor::config::Auto::Value(0.0);
        c.guard.thresholds.object = candor::config::Auto::Value(1.0);
    });
    let guard = |guard: Value| {
        served
            .chat(&and(ask(2, ""), json!({"guard": guard})))
            .json()["choices"][0]["guard"]
            .clone()
    };
    let own = guard(json!({}));
    assert_eq!(
        (&own["verdict"], &own["thresholds"]),
        (&json!("flagged"), &json!({"object": 1.0}))
    );
    assert_eq!(
        guard(json!({"thresholds": {"object": 0.0}}))["verdict"],
        "clean"
    );
    let asked = guard(json!({"threshold": 0.0}));
    assert_eq!(
        (&asked["verdict"], &asked["thresholds"]),
        (&json!("clean"), &Value::Null)
    );
}
