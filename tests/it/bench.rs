//! `candor bench` with tiny settings: the form of its figures and plots, and what it refuses.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::candor;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

const QUICK: [&str; 9] = [
    "bench",
    "--device",
    "cpu",
    "--captions",
    "1",
    "--repeats",
    "1",
    "--max-tokens",
    "2",
];

fn fixture(path: &str) -> String {
    format!("{FIXTURES}/{path}")
}

/// A model of text alone: the decoder of a fixture, with more context.
fn text_model() -> TempDir {
    let model = tempfile::tempdir().unwrap();
    for file in [
        "chat_template.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let from = fixture(&format!("models/smolvlm/{file}"));
        fs::copy(from, model.path().join(file)).unwrap();
    }
    let config = fs::read(fixture("models/smolvlm/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let mut text = config["text_config"].clone();
    text["max_position_embeddings"] = 4096.into();
    fs::write(model.path().join("config.json"), text.to_string()).unwrap();
    model
}

/// Exit status, standard output and standard error of a run in an empty folder.
fn run(args: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = candor(&[&QUICK, args].concat())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn figures(args: &[&str]) -> Value {
    let photos = fixture("photos");
    let more = ["--json", "-", "--photos", &photos];
    let (status, out, err) = run(&[&more, args].concat());
    assert_eq!(status, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

#[test]
fn each_mode_is_measured_with_each_scorer_and_against_off() {
    let scorers = ["--scorers", "probe,detached", "--guard", "off,flag/6"];
    let found = figures(&[&scorers[..], &["--concurrency", "1,2"]].concat());
    assert_eq!(found["model"], "candor-mini");
    let mut expected = Vec::new();
    for (guard, scorer) in [
        ("off", Value::Null),
        ("flag/6", "probe".into()),
        ("flag/6", "detached".into()),
    ] {
        for concurrency in [1, 2] {
            for photographs in ["known", "new"] {
                expected.push(json!([guard, scorer, concurrency, photographs]));
            }
        }
    }
    let keys = ["guard", "scorer", "concurrency", "photographs"];
    let rows = list(&found["rows"]).iter();
    let key = |row: &Value| Value::from(keys.map(|key| row[key].clone()).to_vec());
    assert_eq!(rows.clone().map(key).collect::<Vec<_>>(), expected);
    for row in rows {
        for figure in ["tokens_per_second", "answers_per_second", "latency_p50_ms"] {
            assert!(is_positive(&row[figure]), "{figure}: {row}");
        }
        let is_off = row["guard"] == "off";
        assert_eq!(row["against_off"].is_null(), is_off, "{row}");
        assert!(is_off || is_positive(&row["against_off"]), "{row}");
    }
    for absent in ["growth", "second_question", "stall"] {
        assert!(found.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn model_without_a_scorer_is_measured_without_one() {
    let smolvlm = fixture("models/smolvlm");
    let found = figures(&["--model", &smolvlm, "--concurrency", "1"]);
    let rows = list(&found["rows"]).iter();
    let kinds: Vec<(&Value, &Value)> = rows.map(|r| (&r["guard"], &r["photographs"])).collect();
    let off = &json!("off");
    assert_eq!(kinds, [(off, &json!("known")), (off, &json!("new"))]);
}

#[test]
fn model_of_text_alone_is_asked_in_text_and_needs_no_photographs() {
    let model = text_model();
    let model = model.path().to_str().unwrap();
    let (status, out, err) = run(&["--model", model, "--photos", "absent", "--json", "-"]);
    assert_eq!(status, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let rows = list(&found["rows"]);
    assert_eq!(rows.len(), 3, "a row a concurrency: {out}");
    for row in rows {
        assert_eq!(row["photographs"], "none");
        assert!(is_positive(&row["tokens_per_second"]));
    }
    // Two tokens end an answer that has no end of its own.
    let (_, longer, _) = run(&["--model", model, "--stall", "--json", "-"]);
    let stall = serde_json::from_str::<Value>(&longer).unwrap()["stall"].clone();
    let tokens = stall["prompt_tokens"].as_u64().unwrap();
    assert!((1_976..=2_024).contains(&tokens), "{tokens}");
    for figure in [
        "gap_p95_ms",
        "gap_p95_while_reading_ms",
        "first_token_alone_ms",
        "first_token_beside_stream_ms",
    ] {
        assert!(is_positive(&stall[figure]), "{figure}: {stall}");
    }
}

#[test]
fn second_question_is_measured_in_place_of_the_table() {
    let found = figures(&["--second-question"]);
    for figure in ["first_ms", "second_ms", "against_first"] {
        assert!(is_positive(&found["second_question"][figure]), "{figure}");
    }
    assert!(found.get("rows").is_none());
}

/// Number of marks in a plot.
fn marks(folder: &Path, axis: &str) -> usize {
    let svg = fs::read_to_string(folder.join(format!("growth-{axis}.svg"))).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    svg.matches("<circle").count()
}

/// Number of points of a curve at which these figures are numbers.
fn numbers(points: &[Value], figures: &[&str]) -> usize {
    let of = |figure: &&str| points.iter().filter(|p| p[*figure].is_number()).count();
    figures.iter().map(of).sum()
}

fn sizes(points: &[Value]) -> Vec<u64> {
    points.iter().map(|p| p["at"].as_u64().unwrap()).collect()
}

#[test]
fn growth_has_a_point_a_size_in_figures_and_plots() {
    let folder = tempfile::tempdir().unwrap();
    let (plots, model) = (folder.path().join("plots"), text_model());
    let args = ["--plot", plots.to_str().unwrap(), "--growth"];
    let text = ["--model", model.path().to_str().unwrap()];
    let found = figures(&[&args[..], &["clients,prompt"], &text].concat());
    assert!(found.get("rows").is_none());
    let curves = list(&found["growth"]);
    assert_eq!(
        (&curves[0]["against"], &curves[1]["against"], curves.len()),
        (&json!("clients"), &json!("prompt"), 2)
    );
    let points = list(&curves[0]["points"]);
    assert_eq!(sizes(points), [1, 2, 4, 8, 16, 32, 64]);
    let drawn = numbers(points, &["tokens_per_second", "resident_mib"]);
    assert!(drawn >= 7 && drawn == marks(&plots, "clients"), "{drawn}");
    let points = list(&curves[1]["points"]);
    let wanted = [100u64, 250, 500, 1_000, 2_000, 4_000];
    for (wanted, found) in wanted.into_iter().zip(sizes(points)) {
        assert!(wanted.abs_diff(found) <= 24, "{found} for {wanted}");
    }
    assert_eq!(points.len(), wanted.len());
    let drawn = numbers(points, &["first_word_p50_ms", "stream_tokens_per_second"]);
    assert_eq!(drawn, marks(&plots, "prompt"));

    let smolvlm = fixture("models/smolvlm");
    let found = figures(&[&args[..], &["images", "--model", &smolvlm]].concat());
    let points = list(&found["growth"][0]["points"]);
    assert_eq!(sizes(points), [1, 2, 3, 4, 6, 8]);
    let drawn = numbers(points, &["first_word_p50_ms", "resident_mib"]);
    assert_eq!(drawn, marks(&plots, "images"));
}

#[test]
fn longer_prompts_than_the_context_are_left_out_and_named() {
    let (model, photos) = (fixture("models/smolvlm"), fixture("photos"));
    let args = ["--model", &model, "--photos", &photos, "--json", "-"];
    let (status, out, err) = run(&[&args[..], &["--growth", "prompt"]].concat());
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("from 1000 tokens on"), "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list(&found["growth"][0]["points"]).len(), 3);
}

#[test]
fn misuse_is_refused_by_the_flag_it_is_about() {
    let (smolvlm, photos, text) = (fixture("models/smolvlm"), fixture("photos"), text_model());
    let text = text.path().to_str().unwrap();
    for (args, named) in [
        (vec!["--guard", "flags"], "'flags'"),
        (vec!["--guard", "flag/x"], "'x'"),
        (vec!["--scorers", "fast"], "probe or detached"),
        (vec!["--scorers", "probe", "--guard", "off"], "--scorers"),
        (vec!["--max-tokens", "0"], "--max-tokens"),
        (vec!["--plot", "plots"], "--growth"),
        (vec!["--growth", "words"], "words"),
        (vec!["--growth", "images"], "--growth images: candor-mini"),
        (vec!["--growth", "prompt"], "--growth prompt: candor-mini"),
        (vec!["--stall"], "--stall: candor-mini"),
        (vec!["--photos", "absent"], "--photos absent"),
        (
            vec!["--model", &smolvlm, "--guard", "off,regenerate"],
            "--guard regenerate: smolvlm has no scorer",
        ),
        (vec!["--model", &smolvlm, "--stall"], "2048 are needed"),
        (
            vec!["--model", text, "--growth", "images"],
            "takes text alone",
        ),
        (
            vec!["--model", text, "--second-question"],
            "--second-question",
        ),
        (
            vec![
                "--model",
                text,
                "--scorer",
                "candor-mini",
                "--guard",
                "flag",
            ],
            "--guard flag",
        ),
    ] {
        let mut args = args;
        if !args.contains(&"--photos") {
            args.extend(["--photos", photos.as_str()]);
        }
        let (status, out, err) = run(&args);
        assert_eq!((status, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(named), "{args:?}: {err}");
    }
    let (status, _, err) = run(&["--model", &smolvlm, "--scorers", "probe"]);
    assert_eq!(status, 1);
    assert!(err.contains("has no scorer"), "{err}");
}
