//! Alignment through the command line: every method runs on the same configuration; killed and
//! resumed, a run repeats an uninterrupted one exactly; a run that breaks says why and keeps the
//! last policy that passed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::train::{config, reward_config, small_dataset, train};

/// A tiny policy with scorers, and a configuration to align it by.
fn prepared(dir: &Path) -> Option<PathBuf> {
    if !small_dataset(&dir.join("data"), 24, 64) {
        return None;
    }
    let (sft, run) = (config(dir), dir.join("sft"));
    let text = fs::read_to_string(&sft).unwrap();
    fs::write(
        &sft,
        text.replace("epochs = 10", "epochs = 60")
            .replace("eval_every = 8", "eval_every = 80")
            .replace("1e-3", "5e-3"),
    )
    .unwrap();
    assert!(train("sft", &sft, &run, false).wait().unwrap().success());
    let (reward, out) = (dir.join("reward.toml"), dir.join("reward"));
    fs::write(
        &reward,
        reward_config(&dir.join("data"), &run.join("bundle"), dir),
    )
    .unwrap();
    assert!(
        train("reward", &reward, &out, false)
            .wait()
            .unwrap()
            .success()
    );
    let file = dir.join("align.toml");
    fs::write(
        &file,
        align_config(
            &dir.join("data"),
            &out.join("bundle"),
            &dir.join("features"),
        ),
    )
    .unwrap();
    Some(file)
}

pub(crate) fn align_config(data: &Path, policy: &Path, features: &Path) -> String {
    let recipe =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/align.toml"))
            .unwrap();
    let mut table: toml::Table = recipe.parse().unwrap();
    let mut set = |path: &[&str], value: toml::Value| {
        let (last, tables) = path.split_last().unwrap();
        let table = tables.iter().fold(&mut table, |table, name| {
            table[*name].as_table_mut().unwrap()
        });
        assert!(
            table.insert((*last).to_owned(), value).is_some(),
            "{path:?}"
        );
    };
    for (name, path) in [("data", data), ("policy", policy), ("features", features)] {
        set(&[name], path.to_str().unwrap().into());
    }
    for (name, n) in [
        ("batch_images", 8),
        ("iterations", 8),
        ("samples", 2),
        ("max_tokens", 16),
        ("workers", 2),
    ] {
        set(&[name], n.into());
    }
    set(&["corrections", "iterations"], 2.into());
    set(&["watch", "every"], 3.into());
    set(&["watch", "images"], 8.into());
    // So little data says nothing of collapses.
    for (name, bound) in [
        ("max_kl", 1e9),
        ("min_words", 0.0),
        ("max_recall_loss", 1.0),
        ("max_cider_loss", 1e9),
        ("min_ended", 0.0),
    ] {
        set(&["watch", name], bound.into());
    }
    table.to_string()
}

/// The log without what a clock measured.
pub(crate) fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let line = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).ok()?;
        let object = value.as_object_mut().unwrap();
        object.retain(|name, _| {
            name != "time" && !name.ends_with("seconds") && name != "peak_memory_mib"
        });
        Some(value)
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn every_method_runs_and_a_killed_run_goes_on_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    let Some(file) = prepared(dir.path()) else {
        return;
    };
    let weights = |run: &Path| fs::read(run.join("bundle/model.safetensors")).unwrap();
    for method in ["ppo", "spin"] {
        let (whole, broken) = (
            dir.path().join(method),
            dir.path().join(format!("{method}-killed")),
        );
        assert!(
            train(method, &file, &whole, false)
                .wait()
                .unwrap()
                .success()
        );
        let want = metrics(&whole);
        assert_eq!(want.len(), 11, "what was seen first, and ten iterations");
        let mut child = train(method, &file, &broken, false);
        let begun = Instant::now();
        // The first look that is passed leaves a checkpoint after three iterations.
        while metrics(&broken).len() < 6 && begun.elapsed() < Duration::from_secs(120) {
            sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            !train(method, &file, &broken, false)
                .wait()
                .unwrap()
                .success(),
            "a run must not be overwritten without --resume"
        );
        assert!(
            train(method, &file, &broken, true)
                .wait()
                .unwrap()
                .success()
        );
        assert_eq!(metrics(&broken), want, "{method}");
        assert!(
            weights(&whole) == weights(&broken),
            "{method}: the weights differ"
        );
    }
    for method in ["sequence-ppo", "dpo", "ddpo", "rest"] {
        let run = dir.path().join(method);
        assert!(
            train(method, &file, &run, false).wait().unwrap().success(),
            "{method}"
        );
        assert!(metrics(&run).last().unwrap()["loss"].is_number());
        assert!(
            weights(&run) != weights(&dir.path().join("ppo")),
            "{method}"
        );
    }
    let run = dir.path().join("ppo");
    let begun: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
    assert!(
        begun["config"]["seed"].is_number()
            && begun["version"].is_string()
            && begun["hashes"]["model.safetensors"].is_string(),
        "{begun}"
    );
    assert!(
        fs::read_to_string(run.join("metrics.svg"))
            .unwrap()
            .contains("<svg")
    );
    assert!(
        fs::metadata(run.join("events.out.tfevents.0.candor"))
            .unwrap()
            .len()
            > 1000
    );
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg");
    let mut caption = Command::new(env!("CARGO_BIN_EXE_candor"));
    let said = caption
        .args(["caption", "--json", "--model"])
        .arg(run.join("bundle"))
        .arg(photo)
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    stops_and_says_why(dir.path(), &file);
}

fn stops_and_says_why(dir: &Path, file: &Path) {
    let strict = dir.join("strict.toml");
    fs::write(
        &strict,
        fs::read_to_string(file)
            .unwrap()
            .replace("min_ended = 0.0", "min_ended = 2.0"),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    let output = command
        .args(["train", "rest", "--config"])
        .arg(&strict)
        .arg("--out")
        .arg(dir.join("strict"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("stopped after iteration 3") && said.contains("do not come to their end"),
        "{said}"
    );
}
