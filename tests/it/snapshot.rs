//! Snapshots of API responses, reports and command output, kept in `tests/it/snapshots/`.
//!
//! A missing or different snapshot fails its test and leaves a `.snap.new` file beside it. Accept
//! new ones with `INSTA_UPDATE=always cargo nextest run --release --test it snapshot`, and review
//! them with `git diff`.

use std::{fs, path::Path};

use insta::Settings;
use serde_json::{Number, Value, json};

use crate::{
    cli::candor,
    http::{JSON, exchange, get, request},
    served::{Served, about, and, ask},
    server_evidence::photo,
};

/// Decimals that numbers are rounded to: the networks' results differ slightly between processors.
const DECIMALS: i32 = 2;

/// Top-level fields that differ between runs or releases, with what is written instead.
const REDACTED: [(&str, &str); 3] = [
    ("id", "[id]"),
    ("created", "[time]"),
    ("candor", "[version]"),
];

/// Replaces the top-level fields of [`REDACTED`].
fn redact(mut value: Value) -> Value {
    for (name, shown) in REDACTED {
        if let Some(field) = value.get_mut(name) {
            *field = shown.into();
        }
    }
    value
}

/// Rounds every floating-point number of a JSON value to [`DECIMALS`].
fn round(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let unit = 10f64.powi(DECIMALS);
            // Adding 0 turns -0 into 0.
            let rounded = number
                .as_f64()
                .map(|number| (number * unit).round() / unit + 0.0);
            rounded
                .and_then(Number::from_f64)
                .map_or(Value::Null, Value::Number)
        }
        Value::Array(items) => items.into_iter().map(round).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, round(value)))
            .collect(),
        other => other,
    }
}

fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_sort_maps(true);
    settings
}

/// Compares a JSON value with the snapshot `NAME.snap`.
fn check_json(name: &str, value: Value) {
    settings().bind(|| insta::assert_json_snapshot!(name, round(redact(value))));
}

/// Compares a text with the snapshot `NAME.snap`.
fn check_text(name: &str, text: &str) {
    settings().bind(|| insta::assert_snapshot!(name, text));
}

/// Runs a command in a folder, requires success and returns its standard output.
fn output(folder: &Path, args: &[&str]) -> String {
    let output = candor(args).current_dir(folder).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn api_responses_equal_their_snapshots() {
    let served = Served::new();
    let sampling = json!({ "temperature": 0, "seed": 1 });
    let completion = and(about(&photo("cat.jpg"), ""), sampling);
    let completion = and(completion, json!({ "guard": { "mode": "flag" } }));
    let text = json!({ "model": "candor-mini", "image_url": photo("cat.jpg"),
        "response": "A dog chases a cat." });
    let score = request("POST", "/v1/score", &[JSON], text.to_string().as_bytes());
    let unknown = and(ask(1, ""), json!({ "model": "no-such-model" }));
    for (name, status, reply) in [
        ("models", 200, get(served.at, "/v1/models")),
        ("health", 200, get(served.at, "/health")),
        ("chat_completion", 200, served.chat(&completion)),
        ("score", 200, exchange(served.at, &score)),
        ("error_unknown_model", 404, served.chat(&unknown)),
    ] {
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
        check_json(name, reply.json());
    }
}

#[test]
fn eval_captions_report_equals_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let images = [
        (
            ["A dog runs on the grass.", "A brown dog is running."],
            &["dog"][..],
            "A dog with a frisbee on the grass.",
        ),
        (
            ["Two cats sleep on a sofa.", "Cats on a couch."],
            &["cat", "couch"],
            "Two cats on a sofa.",
        ),
        (
            ["A man rides a bicycle.", "A man on a bike in a street."],
            &["person", "bicycle"],
            "A man rides a horse in a street.",
        ),
        (
            ["A boat on a lake.", "A small boat in the water."],
            &["boat"],
            "A boat on the water.",
        ),
    ];
    let (mut references, mut hypotheses) = (String::new(), String::new());
    for (number, (captions, objects, caption)) in images.into_iter().enumerate() {
        let reference = json!({ "image_id": number, "captions": captions, "objects": objects });
        references += &format!("{reference}\n");
        hypotheses += &format!("{}\n", json!({ "image_id": number, "caption": caption }));
    }
    fs::write(folder.path().join("references.jsonl"), references).unwrap();
    fs::write(folder.path().join("hypotheses.jsonl"), hypotheses).unwrap();
    let args = [
        "eval",
        "captions",
        "--hypotheses",
        "hypotheses.jsonl",
        "--references",
        "references.jsonl",
        "--json",
        "report.json",
    ];
    check_text("eval_captions_terminal", &output(folder.path(), &args));
    let report = fs::read(folder.path().join("report.json")).unwrap();
    check_json("eval_captions", serde_json::from_slice(&report).unwrap());
}

#[test]
fn models_list_equals_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let text = output(folder.path(), &["models", "list"]);
    check_text("models_list_terminal", &text);
    let json = output(folder.path(), &["models", "list", "--json"]);
    check_json("models_list", serde_json::from_str(&json).unwrap());
}

#[test]
fn round_keeps_integers_and_rounds_floats() {
    let value = json!({ "a": [0.126, -0.001, 7], "b": { "c": 2.0 }, "d": null });
    let want = json!({ "a": [0.13, 0.0, 7], "b": { "c": 2.0 }, "d": null });
    assert_eq!(round(value), want);
}
