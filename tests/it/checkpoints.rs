//! Checkpoints of other models behind the API, alone and judged by candor-mini's scorer.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use candle_core::Device;
use candor::{
    bundle::{Bundle, OpenOptions},
    config::{Auto, Config},
    guard::Mode,
    serve::Local,
};
use serde_json::{Value, json};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

struct Api {
    local: Local,
    runtime: tokio::runtime::Runtime,
    model: &'static str,
}

impl Api {
    fn start(model: &'static str, scorer: Option<&str>) -> Self {
        Self::reading(model, scorer, Auto::Auto)
    }

    /// Starts a server that reads prompts in parts of this size.
    fn reading(model: &'static str, scorer: Option<&str>, prefill_chunk: Auto<usize>) -> Self {
        let options = OpenOptions {
            scorer: scorer.map(str::to_owned),
            ..OpenOptions::default()
        };
        let bundle = Bundle::open(&format!("{MODELS}/{model}"), &options, &Device::Cpu).unwrap();
        assert_eq!(bundle.name, model);
        let mut config = Config::default();
        if scorer.is_none() {
            config.guard.mode = Mode::Off;
        }
        config.images.max_per_request = 3;
        config.engine.prefill_chunk = prefill_chunk;
        Self {
            local: Local::start(config, bundle).unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            model,
        }
    }

    fn ask(&self, messages: &Value, fields: Value) -> Result<Value, String> {
        let mut request = json!({ "model": self.model, "messages": messages, "temperature": 0,
            "max_tokens": 12 });
        for (key, value) in fields.as_object().unwrap() {
            request[key] = value.clone();
        }
        self.runtime.block_on(self.local.chat(&request))
    }
}

fn picture(path: &str) -> Value {
    let file = fs::read(Path::new(MODELS).join("..").join(path)).unwrap();
    let media = if path.ends_with("png") { "png" } else { "jpeg" };
    let url = format!("data:image/{media};base64,{}", BASE64_STANDARD.encode(file));
    json!({ "type": "image_url", "image_url": { "url": url } })
}

/// The messages of a recorded case, with its pictures.
fn messages(case: &Value) -> Value {
    let mut pictures = case["images"].as_array().into_iter().flatten();
    let mut messages = case["messages"].clone();
    for message in messages.as_array_mut().unwrap() {
        let Some(parts) = message["content"].as_array_mut() else {
            continue;
        };
        for part in parts.iter_mut().filter(|part| part["type"] == "image") {
            let name = pictures.next().unwrap().as_str().unwrap();
            *part = picture(&format!("models/images/{name}"));
        }
    }
    messages
}

fn cases(model: &str) -> Vec<Value> {
    let file = fs::read(format!("{MODELS}/{model}/expected.json")).unwrap();
    let recorded: Value = serde_json::from_slice(&file).unwrap();
    let cases = recorded["cases"].as_array().unwrap().clone();
    cases
        .into_iter()
        .filter(|case| case["messages"].is_array())
        .collect()
}

fn case(model: &str, name: &str) -> Value {
    let all = cases(model);
    let found = all.into_iter().find(|case| case["name"] == name);
    found.unwrap()
}

/// Options of a case as fields of a request.
fn options(case: &Value) -> Value {
    let given = &case["image_options"];
    let mut kwargs = serde_json::Map::new();
    if let Some(split) = given.get("do_image_splitting") {
        kwargs.insert("do_image_splitting".to_owned(), split.clone());
    }
    if let Some(edge) = given
        .get("longest_edge")
        .or(given["size"].get("longest_edge"))
    {
        kwargs.insert("size".to_owned(), json!({ "longest_edge": edge }));
    }
    match kwargs.is_empty() {
        true => json!({}),
        false => json!({ "mm_processor_kwargs": kwargs }),
    }
}

#[test]
fn prompts_through_the_api_are_as_long_as_those_of_transformers() {
    for model in [
        "llava-old",
        "llava-new",
        "llava-layers",
        "smolvlm",
        "idefics3",
    ] {
        let api = Api::start(model, None);
        // The same weights in another layout have the same recording.
        let recorded = if model == "llava-new" {
            "llava-old"
        } else {
            model
        };
        let mut seen = 0;
        for case in cases(recorded) {
            let mut fields = options(&case);
            fields["logprobs"] = json!(true);
            let answer = match api.ask(&messages(&case), fields) {
                Ok(answer) => answer,
                Err(error) => panic!("{model}, {}: {error}", case["name"]),
            };
            let usage = &answer["usage"];
            let length = case["ids"].as_array().unwrap().len();
            assert_eq!(usage["prompt_tokens"], length, "{model}, {}", case["name"]);
            assert_eq!(answer["warnings"], Value::Null, "{model}, {}", case["name"]);
            seen += 1;
        }
        assert!(seen >= 2, "{model}");
    }
}

#[test]
fn several_images_are_several_ranges_of_the_prompt() {
    let api = Api::start("llava-old", None);
    let ask = |pictures: &[&str]| {
        let mut parts: Vec<Value> = pictures.iter().map(|name| picture(name)).collect();
        parts.push(json!({ "type": "text", "text": "What do you see?" }));
        let messages = json!([{ "role": "user", "content": parts }]);
        api.ask(&messages, json!({ "logprobs": true }))
    };
    let prompt_tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let (cat, dog) = ("photos/cat.jpg", "photos/astronaut.jpg");
    let [none, one, two] = [&[][..], &[cat], &[cat, dog]].map(|names| ask(names).unwrap());
    // Nine positions each, with what the template writes behind them.
    let lengths = [&none, &one, &two].map(prompt_tokens);
    assert!(
        lengths[1] >= lengths[0] + 9 && lengths[2] >= lengths[1] + 9,
        "{lengths:?}"
    );
    // Their order matters, and nothing of one request is left for the next.
    let logprobs = |answer: &Value| -> Vec<f64> {
        let tokens = answer["choices"][0]["logprobs"]["content"].as_array();
        let tokens = tokens.unwrap().iter();
        tokens.map(|t| t["logprob"].as_f64().unwrap()).collect()
    };
    // A prefix that is reused is multiplied in other shapes, which moves the last digits.
    let is_near = |a: &[f64], b: &[f64]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
    };
    let (first, swapped) = (logprobs(&two), logprobs(&ask(&[dog, cat]).unwrap()));
    assert!(!is_near(&first, &swapped));
    assert!(is_near(&first, &logprobs(&ask(&[cat, dog]).unwrap())));
    let error = ask(&[cat; 4]).unwrap_err();
    assert!(error.contains("at most 3 images"), "{error}");
}

#[test]
fn a_prompt_read_in_parts_gets_the_same_answer() {
    for (model, scorer) in [
        ("llava-old", None),
        ("llava-old", Some("candor-mini")),
        ("smolvlm", None),
    ] {
        // Four positions at a time while no answer is being written: images are read in parts too.
        let sizes = [Auto::Value(1), Auto::Value(1 << 12)];
        let apis = sizes.map(|size| Api::reading(model, scorer, size));
        let mut seen = 0;
        for case in cases(model) {
            let mut fields = options(&case);
            fields["logprobs"] = json!(true);
            let ask = |api: &Api| {
                let answer = api.ask(&messages(&case), fields.clone()).unwrap();
                let choice = answer["choices"][0].clone();
                let of_tokens = |name: &str| -> Vec<f64> {
                    let tokens = choice["logprobs"]["content"].as_array().unwrap().iter();
                    tokens.filter_map(|token| token[name].as_f64()).collect()
                };
                let numbers = [of_tokens("logprob"), of_tokens("reward")];
                (choice["message"]["content"].clone(), numbers.concat())
            };
            let [parts, whole] = apis.each_ref().map(ask);
            assert_eq!(parts.0, whole.0, "{model}, {}", case["name"]);
            assert_eq!(parts.1.len(), whole.1.len());
            for (a, b) in parts.1.iter().zip(&whole.1) {
                assert!((a - b).abs() < 1e-3, "{model}, {}: {a} {b}", case["name"]);
            }
            seen += parts.1.len();
        }
        assert!(seen > 0, "{model}");
    }
}

#[test]
fn tiles_follow_the_request() {
    let api = Api::start("smolvlm", None);
    let case = case("smolvlm", "photo");
    let tokens = |kwargs: Value| {
        let fields = json!({ "mm_processor_kwargs": kwargs });
        api.ask(&messages(&case), fields)
            .map(|answer| answer["usage"]["prompt_tokens"].as_u64().unwrap())
    };
    let split = tokens(json!({})).unwrap();
    let whole = tokens(json!({ "do_image_splitting": false })).unwrap();
    let smaller = tokens(json!({ "size": { "longest_edge": 64 } })).unwrap();
    assert!(
        whole < smaller && smaller < split,
        "{whole} {smaller} {split}"
    );
    for (kwargs, word) in [
        (json!({ "size": { "longest_edge": 0 } }), "longest_edge"),
        (
            json!({ "size": { "longest_edge": 1_000_000 } }),
            "longest_edge",
        ),
        (json!({ "num_crops": 4 }), "num_crops"),
        (json!({ "do_image_splitting": "yes" }), "do_image_splitting"),
    ] {
        let error = tokens(kwargs.clone()).unwrap_err();
        assert!(error.contains(word), "{kwargs}: {error}");
    }
    let llava = Api::start("llava-old", None);
    let fields = json!({ "mm_processor_kwargs": { "do_image_splitting": false } });
    let error = llava.ask(&messages(&case), fields).unwrap_err();
    assert!(error.contains("do_image_splitting"), "{error}");
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let api = Api::start("llava-old", None);
    let long = "word ".repeat(2000);
    let messages = json!([{ "role": "user", "content": long }]);
    let error = api.ask(&messages, json!({})).unwrap_err();
    assert!(error.contains("512"), "{error}");
}

#[test]
fn any_policy_is_judged_by_the_scorer_of_another_bundle() {
    let api = Api::start("llava-old", Some("candor-mini"));
    let question = json!([{ "role": "user", "content": [
        picture("photos/cat.jpg"),
        { "type": "text", "text": "Describe the photograph." }] }]);
    for mode in ["score", "flag", "regenerate", "block"] {
        let fields = json!({ "guard": { "mode": mode }, "logprobs": true, "max_tokens": 24 });
        let answer = api.ask(&question, fields).unwrap();
        let choice = &answer["choices"][0];
        assert_eq!(choice["guard"]["mode"], mode);
        assert_ne!(choice["guard"]["verdict"], "unscored", "{choice}");
        assert!(choice["guard"]["familiarity"].is_number());
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        let rewards: Vec<f64> = tokens.iter().filter_map(|t| t["reward"].as_f64()).collect();
        assert_eq!(rewards.len(), tokens.len(), "{mode}: every token is judged");
        assert!(rewards.iter().all(|reward| (0.0..=1.0).contains(reward)));
    }
    // The same text has the same rewards when it is scored whole.
    let fields = json!({ "guard": { "mode": "score" }, "logprobs": true });
    let answer = api.ask(&question, fields).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    if !text.trim().is_empty() && !text.contains('\u{fffd}') {
        let request = json!({ "model": "llava-old", "messages": question, "response": text,
            "author": "other" });
        let scored = api.runtime.block_on(api.local.score(&request)).unwrap();
        assert!(
            scored["results"][0]["guard"]["score"].is_number(),
            "{scored}"
        );
    }
    // About two images it says nothing: by itself unscored, and refused if it is asked for.
    let two = json!([{ "role": "user", "content": [
        picture("photos/cat.jpg"),
        picture("photos/astronaut.jpg"),
        { "type": "text", "text": "Compare." }] }]);
    let answer = api.ask(&two, json!({})).unwrap();
    assert_eq!(answer["choices"][0]["guard"]["verdict"], "unscored");
    assert_eq!(answer["warnings"][0]["code"], "unscored");
    let error = api
        .ask(&two, json!({ "guard": { "mode": "flag" } }))
        .unwrap_err();
    assert!(error.contains("exactly one image"), "{error}");
}

#[test]
fn a_scorer_that_has_none_and_models_that_are_none_are_refused_by_name() {
    let open = |name: &str, scorer: Option<&str>| {
        let options = OpenOptions {
            scorer: scorer.map(str::to_owned),
            ..OpenOptions::default()
        };
        match Bundle::open(name, &options, &Device::Cpu) {
            Ok(_) => panic!("{name} was opened"),
            Err(error) => error.to_string(),
        }
    };
    let llava = format!("{MODELS}/llava-old");
    let error = open("nowhere", None);
    assert!(
        error.contains("nowhere") && error.contains("candor-mini"),
        "{error}"
    );
    let error = open(MODELS, None);
    assert!(error.contains("config.json"), "{error}");
    let error = open(&llava, Some("nowhere"));
    assert!(error.contains("nowhere"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "gpt9"}"#).unwrap();
    let error = open(dir.path().to_str().unwrap(), None);
    assert!(error.contains("gpt9") && error.contains("llava"), "{error}");
}
