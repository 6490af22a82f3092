//! candor-mini's captions, token by token with their rewards, as they were once recorded: what a
//! change of the networks' code must not move. They are exact with `--dtype f32`; served on the
//! CPU, the networks are rounded, which may hardly show.
//!
//! `CANDOR_RECORD=1` writes the file anew; that is right only for a new version of the model.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use candor::{
    bundle::{Bundle, OpenOptions},
    config::{Auto, Config},
    reward::RewardKind,
    serve::Local,
    vlm::weights::WeightsDtype,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Recorded photographs of Flickr8k's development split, from its first.
const PHOTOGRAPHS: usize = 200;

/// Largest difference of a reward.
const TOLERANCE: f64 = 1e-5;

/// Largest difference of a reward that rounding makes, in a text that it leaves as it is.
const ROUNDING: f64 = 5e-3;

/// Largest share of captions with other words by rounding.
const MOST_OTHERS: f64 = 0.02;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> Vec<PathBuf> {
    ["astronaut.jpg", "cat.jpg", "coffee.jpg", "photographer.jpg"]
        .map(|name| root().join("tests/fixtures/photos").join(name))
        .to_vec()
}

/// The first photographs of the development split; none where the data is not beside the project.
fn development() -> Vec<PathBuf> {
    let folder = root().join("../shared/data/flickr8k");
    let Ok(names) = fs::read_to_string(folder.join("dev.txt")) else {
        println!("skipped: {} is absent", folder.display());
        return Vec::new();
    };
    let names = names.lines().map(str::trim).filter(|name| !name.is_empty());
    names
        .take(PHOTOGRAPHS)
        .map(|name| folder.join("images").join(name))
        .collect()
}

/// Tokens and rewards of the greedy caption of each photograph, by file name; prompts are read in
/// parts of this size.
fn captions(
    reward: RewardKind,
    dtype: WeightsDtype,
    prefill_chunk: Auto<usize>,
    photographs: &[PathBuf],
) -> Vec<(String, Value)> {
    let options = OpenOptions {
        reward: Some(reward),
        dtype,
        ..OpenOptions::default()
    };
    let bundle = Bundle::open("candor-mini", &options, &Device::Cpu).unwrap();
    let mut config = Config::default();
    config.engine.prefill_chunk = prefill_chunk;
    let local = Local::start(config, bundle).unwrap();
    let runtime = Runtime::new().unwrap();
    let caption = |path: &PathBuf| {
        let mut request = local.request(&fs::read(path).unwrap(), "");
        request["temperature"] = json!(0);
        request["max_tokens"] = json!(48);
        request["logprobs"] = json!(true);
        request["guard"] = json!({ "mode": "score" });
        let answer = runtime.block_on(local.chat(&request)).unwrap();
        let tokens = answer["choices"][0]["logprobs"]["content"].as_array();
        let tokens = tokens.unwrap().iter();
        let (texts, rewards): (Vec<&Value>, Vec<&Value>) =
            tokens.map(|t| (&t["token"], &t["reward"])).unzip();
        let name = path.file_name().unwrap().to_str().unwrap();
        (
            name.to_owned(),
            json!({ "tokens": texts, "rewards": rewards }),
        )
    };
    photographs.iter().map(caption).collect()
}

fn check(reward: RewardKind, file: &str) {
    let file = root().join("tests/fixtures/recorded").join(file);
    let photographs = [shipped(), development()].concat();
    let got = captions(reward, WeightsDtype::F32, Auto::Auto, &photographs);
    if env::var_os("CANDOR_RECORD").is_some() {
        let lines = got
            .iter()
            .map(|(name, caption)| json!({ "photograph": name, "caption": caption }).to_string());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        return;
    }
    let recorded = fs::read_to_string(&file).unwrap();
    let recorded: Vec<Value> = recorded
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(recorded.len(), shipped().len() + PHOTOGRAPHS);
    for ((name, caption), want) in got.iter().zip(&recorded) {
        assert_eq!(want["photograph"], name.as_str());
        assert_same(name, caption, &want["caption"], TOLERANCE);
    }
    let rounded = captions(reward, WeightsDtype::Auto, Auto::Auto, &photographs);
    let pairs = || rounded.iter().zip(&got);
    let is_other = |((_, a), (_, b)): &(&(_, Value), &(_, Value))| a["tokens"] != b["tokens"];
    let others = pairs().filter(is_other).count() as f64 / got.len() as f64;
    assert!(others <= MOST_OTHERS, "{others} of the captions are others");
    for ((name, caption), (_, want)) in pairs().filter(|pair| !is_other(pair)) {
        assert_same(name, caption, want, ROUNDING);
    }
}

fn assert_same(name: &str, caption: &Value, want: &Value, tolerance: f64) {
    assert_eq!(caption["tokens"], want["tokens"], "{name}");
    let numbers = |caption: &Value| -> Vec<f64> {
        let rewards = caption["rewards"].as_array().unwrap().iter();
        rewards.map(|reward| reward.as_f64().unwrap()).collect()
    };
    for (got, want) in numbers(caption).iter().zip(numbers(want)) {
        assert!((got - want).abs() <= tolerance, "{name}: {got}, not {want}");
    }
}

#[test]
fn captions_do_not_depend_on_the_parts_in_which_prompts_are_read() {
    for reward in RewardKind::ALL {
        let sizes = [Auto::Value(1), Auto::Value(1 << 12)];
        let [parts, whole] =
            sizes.map(|size| captions(reward, WeightsDtype::Auto, size, &shipped()));
        assert_eq!(parts.len(), whole.len());
        for ((name, caption), (_, want)) in parts.iter().zip(&whole) {
            assert_same(name, caption, want, 0.0);
        }
    }
}

#[test]
fn captions_with_the_standalone_scorer_are_those_recorded() {
    check(RewardKind::Detached, "candor-mini-0.5.0-standalone.jsonl");
}

#[test]
fn captions_with_the_probe_are_those_recorded() {
    check(RewardKind::Probe, "candor-mini-0.5.0-probe.jsonl");
}
