//! A bundle with evidence of what photographs show, over HTTP: the embedded one, and beside it a
//! network that sees no dog anywhere.

use std::{collections::HashMap, fs, path::Path};

use candle_core::Device;
use candor::bundle::Bundle;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use crate::{
    http::{JSON, exchange, request},
    served::{Served, about, and, data_url},
};

/// Channels of the embedded model's tower.
const CHANNELS: usize = 1728;

/// Evidence of dogs and of people, and how likely each is.
pub(crate) const EVIDENCE: [f32; 2] = [-4.0, 3.0];
const PRIOR: [f32; 2] = [-1.0, -1.0];

pub(crate) fn config() -> Value {
    let thresholds = json!({"default": 0.3, "by_fpr": [{"fpr": 0.05, "threshold": 0.2},
            {"fpr": 0.1, "threshold": 0.6}]});
    json!({
        "format": 1, "concepts": ["dog.n", "person.n"], "k": 1,
        "familiarity": {"slope": 1.0, "offset": 0.0},
        "calibration": {
            "own": {
                "features": ["evidence", "reward_logit", "log_probability"],
                "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0],
                "weights": [0.5, 1.0, 0.25], "offset": 1.0, "thresholds": thresholds,
                "fitted_on": "nothing",
            },
            "others": {
                "features": ["evidence_minus_prior"], "mean": [0.0], "scale": [1.0],
                "weights": [1.0], "offset": 0.0,
                "thresholds": thresholds, "fitted_on": "nothing",
            },
        },
    })
}

fn weights() -> Vec<u8> {
    let floats = |values: &[f32]| {
        values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut arrays: HashMap<&str, (Vec<u8>, Dtype, Vec<usize>)> = HashMap::from([
        (
            "mean",
            (floats(&[0.0; CHANNELS]), Dtype::F32, vec![CHANNELS]),
        ),
        (
            "scale",
            (floats(&[1.0; CHANNELS]), Dtype::F32, vec![CHANNELS]),
        ),
        (
            "fc1.weight",
            (floats(&[0.0; CHANNELS]), Dtype::F32, vec![1, CHANNELS]),
        ),
        ("fc1.bias", (floats(&[0.0]), Dtype::F32, vec![1])),
        ("fc2.weight", (floats(&[0.0; 2]), Dtype::F32, vec![2, 1])),
        ("fc2.bias", (floats(&EVIDENCE), Dtype::F32, vec![2])),
        ("prior", (floats(&PRIOR), Dtype::F32, vec![2])),
        ("reference.center", (floats(&[0.0; 8]), Dtype::F32, vec![8])),
        (
            "reference.basis",
            (
                floats(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
                Dtype::F32,
                vec![1, 8],
            ),
        ),
        ("reference.points", (vec![100], Dtype::I8, vec![1, 1])),
        ("reference.scale", (floats(&[0.01]), Dtype::F32, vec![1])),
    ]);
    for (scope, reference) in [
        ("scope.center", "reference.center"),
        ("scope.basis", "reference.basis"),
        ("scope.points", "reference.points"),
        ("scope.scale", "reference.scale"),
    ] {
        arrays.insert(scope, arrays[reference].clone());
    }
    let views = arrays.iter().map(|(name, (bytes, dtype, shape))| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// A copy of the embedded bundle in a directory, with evidence that a configuration of its own says
/// what to make of.
pub(crate) fn copy_with_evidence(dir: &Path, config: &Value) {
    copy_to(dir);
    fs::write(dir.join("evidence.json"), config.to_string()).unwrap();
    fs::write(dir.join("evidence.safetensors"), weights()).unwrap();
}

/// A copy of the embedded bundle in a directory, without its evidence.
pub(crate) fn copy_to(dir: &Path) {
    for file in Bundle::files("candor-mini").unwrap() {
        if !file.starts_with("evidence.") {
            fs::write(dir.join(&file), Bundle::file("candor-mini", &file).unwrap()).unwrap();
        }
    }
}

pub(crate) fn photo(name: &str) -> String {
    data_url(
        "image/jpeg",
        &fs::read(format!(
            "{}/tests/fixtures/photos/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap(),
    )
}

/// Token, reward and log-probability of each token of a choice.
fn tokens(choice: &Value) -> Vec<(String, f64, f64)> {
    let number = |token: &Value, field: &str| token[field].as_f64().unwrap();
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    tokens
        .iter()
        .map(|t| {
            (
                t["token"].as_str().unwrap().to_owned(),
                number(t, "reward"),
                number(t, "logprob"),
            )
        })
        .collect()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[track_caller]
fn near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() < 1e-4, "{what}: {a} and {b}");
}

#[test]
fn words_without_evidence_have_low_rewards_in_every_response() {
    let dir = tempfile::tempdir().unwrap();
    copy_to(dir.path());
    let without = Served::with(|c| c.model.name = dir.path().display().to_string());
    let seeing = tempfile::tempdir().unwrap();
    copy_with_evidence(seeing.path(), &config());
    let with = Served::with(|c| c.model.name = seeing.path().display().to_string());

    let ask = and(
        about(&photo("cat.jpg"), ""),
        json!({"logprobs": true, "seed": 7, "guard": {"mode": "flag"}}),
    );
    let (before, after) = (
        without.chat(&ask).json()["choices"][0].clone(),
        with.chat(&ask).json()["choices"][0].clone(),
    );
    let text = after["message"]["content"].as_str().unwrap();
    assert!(
        before["message"]["content"] == text && text.contains(" dog"),
        "{text}"
    );
    let mut dogs = 0;
    for ((token, reward, logprob), (_, scorers, _)) in
        tokens(&after).into_iter().zip(tokens(&before))
    {
        if token.trim() == "dog" {
            let scorers = scorers.clamp(1e-4, 1.0 - 1e-4);
            near(
                reward,
                sigmoid(1.0 - 2.0 + (scorers / (1.0 - scorers)).ln() + 0.25 * logprob.max(-12.0)),
                "dog",
            );
            dogs += 1;
        } else {
            near(reward, scorers, &token);
        }
    }
    assert!(dogs > 0, "{text}");

    // The photograph's familiarity, and the thresholds that go with these rewards.
    let guard = &after["guard"];
    let familiarity = guard["familiarity"].as_f64().unwrap();
    assert!(
        (sigmoid(-1.0)..=sigmoid(1.0)).contains(&familiarity),
        "{guard}"
    );
    assert_eq!(before["guard"].get("familiarity"), None);
    near(
        guard["threshold"].as_f64().unwrap(),
        0.3,
        "the default threshold",
    );
    let strict = with
        .chat(&and(ask.clone(), json!({"guard": {"target_fpr": 0.1}})))
        .json()["choices"][0]["guard"]
        .clone();
    near(
        strict["threshold"].as_f64().unwrap(),
        0.6,
        "the threshold for a rate",
    );
    let off = with
        .chat(&and(
            about(&photo("cat.jpg"), ""),
            json!({"guard": {"mode": "off"}}),
        ))
        .json()["choices"][0]["guard"]
        .clone();
    assert_eq!(
        (&off["verdict"], &off["familiarity"]),
        (&json!("unscored"), &guard["familiarity"])
    );
    assert_eq!(
        (
            with.metric("candor_familiarity_count"),
            without.metric("candor_familiarity_count")
        ),
        (3.0, 0.0)
    );

    // A stream tells the same, in every mode.
    for mode in ["score", "flag", "regenerate", "block"] {
        let ask = and(ask.clone(), json!({"guard": {"mode": mode}}));
        let whole = with.chat(&ask).json()["choices"][0].clone();
        let chunks = with.chat(&and(ask, json!({"stream": true}))).chunks();
        let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
        let text: String = choices
            .iter()
            .filter_map(|choice| choice["delta"]["content"].as_str())
            .collect();
        assert_eq!(
            (text.as_str(), &choices.last().unwrap()["guard"]),
            (
                whole["message"]["content"].as_str().unwrap(),
                &whole["guard"]
            )
        );
        let told: Vec<_> = choices
            .iter()
            .filter(|choice| choice["logprobs"].is_object())
            .flat_map(|choice| tokens(choice))
            .collect();
        assert_eq!(told, tokens(&whole), "{mode}");
    }

    // And so does a text that is scored.
    let score = |author: &str| {
        let body = json!({"model": "candor-mini", "image_url": photo("cat.jpg"), "response": text,
            "author": author});
        exchange(
            with.at,
            &request("POST", "/v1/score", &[JSON], body.to_string().as_bytes()),
        )
        .json()["results"][0]
            .clone()
    };
    let own = score("model");
    let rewards = |result: &Value| {
        result["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["reward"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let written = tokens(&after);
    assert_eq!(rewards(&own).len(), written.len());
    rewards(&own)
        .iter()
        .zip(&written)
        .for_each(|(reward, (token, told, _))| near(*reward, *told, token));
    for field in ["verdict", "threshold", "familiarity", "alt_text"] {
        assert_eq!(own["guard"][field], guard[field], "{field}");
    }
    let others = score("other");
    let dog = others["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["token"] == " dog")
        .unwrap();
    near(
        dog["reward"].as_f64().unwrap(),
        sigmoid(-3.0),
        "dog by somebody else",
    );
    assert_eq!(others["guard"]["familiarity"], guard["familiarity"]);
}

#[test]
fn bundle_with_invalid_evidence_is_refused_by_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    copy_to(dir.path());
    let load = || match Bundle::load(&dir.path().display().to_string(), None, &Device::Cpu) {
        Ok(bundle) => Ok(bundle.evidence.is_some()),
        Err(error) => Err(error.to_string()),
    };
    assert_eq!(load(), Ok(false));
    let of =
        |file: &str, what: &str| Err(format!("bundle {}: {file}: {what}", dir.path().display()));
    fs::write(dir.path().join("evidence.json"), config().to_string()).unwrap();
    assert_eq!(
        load(),
        of("evidence.safetensors", "is missing beside evidence.json")
    );
    fs::write(dir.path().join("evidence.safetensors"), weights()).unwrap();
    assert_eq!(load(), Ok(true));
    let mut other = config();
    other["concepts"] = json!(["dog.n"]);
    fs::write(dir.path().join("evidence.json"), other.to_string()).unwrap();
    assert_eq!(
        load(),
        of(
            "evidence.safetensors",
            "fc2.weight: has shape [2, 1]; [1, 1] is expected"
        )
    );
    other["concepts"] = json!(["dog.n", "dogness.n"]);
    fs::write(dir.path().join("evidence.json"), other.to_string()).unwrap();
    assert_eq!(
        load(),
        of(
            "evidence.json",
            "concepts[1]: 'dogness' is not a noun of the lexicon"
        )
    );
}
