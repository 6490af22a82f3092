//! Training through the command line: killed and resumed, it repeats an uninterrupted run exactly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::support::shared_data;

/// Copies some of the real photographs and their captions; `false` if they are missing.
pub(crate) fn small_dataset(dir: &Path, train: usize, dev: usize) -> bool {
    let Some(source) = shared_data("flickr8k") else {
        return false;
    };
    let captions = fs::read_to_string(source.join("captions.tsv")).unwrap();
    let names = |file: &str, n: usize| -> Vec<String> {
        fs::read_to_string(source.join(file))
            .unwrap()
            .lines()
            .take(n)
            .map(str::to_owned)
            .collect()
    };
    let (train, dev) = (names("train.txt", train), names("dev.txt", dev));
    fs::create_dir_all(dir.join("images")).unwrap();
    for name in train.iter().chain(&dev) {
        fs::copy(
            source.join("images").join(name),
            dir.join("images").join(name),
        )
        .unwrap();
    }
    let kept: Vec<&str> = captions
        .lines()
        .filter(|l| train.iter().chain(&dev).any(|n| l.starts_with(n.as_str())))
        .collect();
    fs::write(dir.join("captions.tsv"), kept.join("\n") + "\n").unwrap();
    fs::write(dir.join("train.txt"), train.join("\n") + "\n").unwrap();
    fs::write(dir.join("dev.txt"), dev.join("\n") + "\n").unwrap();
    true
}

pub(crate) fn config(dir: &Path) -> PathBuf {
    let vision = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/candor-mini/model.safetensors");
    let text = format!(
        "data = {:?}\nvision = {vision:?}\nmid_tap = true\nvocab_size = 400\nhidden_size = \
         32\nintermediate_size = 64\nlayers = 2\n\
         heads = 2\nkv_heads = 1\ncontext_len = 160\nepochs = 10\nbatch_images = \
         6\nquestions_per_image = 2\nquestions_from_epoch = 1\n\
         dropout = 0.1\nlabel_smoothing = 0.05\nviews = 4\nseed = 3\ncheckpoint_every = \
         4\neval_every = 8\nworkers = 2\n\
         [optim]\nlearning_rate = 1e-3\nwarmup_steps = 4\nfinal_share = 0.1\nweight_decay = \
         0.05\nbeta1 = 0.9\nbeta2 = 0.98\n\
         clip_norm = 1.0\nema_decay = 0.9\n",
        dir.join("data")
    );
    let file = dir.join("sft.toml");
    fs::write(&file, text).unwrap();
    file
}

fn start(config: &Path, out: &Path, resume: bool) -> Child {
    train("sft", config, out, resume)
}

pub(crate) fn train(what: &str, config: &Path, out: &Path, resume: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command
        .args(["train", what, "--config"])
        .arg(config)
        .arg("--out")
        .arg(out)
        .stderr(Stdio::inherit());
    if resume {
        command.arg("--resume");
    }
    command.spawn().unwrap()
}

fn losses(run: &Path) -> Vec<String> {
    fs::read_to_string(run.join("loss.jsonl"))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_killed_training_goes_on_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 12, 4) {
        return;
    }
    let (config, whole, broken) = (
        config(dir.path()),
        dir.path().join("whole"),
        dir.path().join("broken"),
    );
    assert!(start(&config, &whole, false).wait().unwrap().success());
    let want = losses(&whole);
    assert_eq!(want.len(), 20 + 3, "20 steps and three evaluations");

    let mut child = start(&config, &broken, false);
    let begun = Instant::now();
    while losses(&broken).len() < 7 && begun.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(5));
    }
    // SIGKILL: nothing is flushed, nothing is said.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !start(&config, &broken, false).wait().unwrap().success(),
        "a run must not be overwritten without --resume"
    );
    assert!(start(&config, &broken, true).wait().unwrap().success());
    assert_eq!(losses(&broken), want);
    let weights = |run: &Path| fs::read(run.join("policy.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&broken), "the weights differ");
    assert!(
        fs::read_to_string(whole.join("loss.svg"))
            .unwrap()
            .contains("<svg")
    );
}

#[test]
fn scorers_are_trained_calibrated_and_served_from_the_bundle_that_they_end_in() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 24, 64) {
        return;
    }
    // Long enough that the policy names things.
    let (sft, run) = (config(dir.path()), dir.path().join("sft"));
    fs::write(
        &sft,
        fs::read_to_string(&sft)
            .unwrap()
            .replace("epochs = 10", "epochs = 120")
            .replace("eval_every = 8", "eval_every = 80")
            .replace("1e-3", "5e-3"),
    )
    .unwrap();
    assert!(start(&sft, &run, false).wait().unwrap().success());
    let (file, out) = (dir.path().join("reward.toml"), dir.path().join("reward"));
    fs::write(
        &file,
        reward_config(&dir.path().join("data"), &run.join("bundle"), dir.path()),
    )
    .unwrap();
    assert!(
        train("reward", &file, &out, false)
            .wait()
            .unwrap()
            .success()
    );
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    let report = read("report.json");
    let table = &report["sections"]["Scorers"]["tables"]["Every token of true and perturbed \
        captions"]["rows"];
    for scorer in [
        "probe",
        "detached",
        "similarity",
        "log-probability",
        "entropy",
    ] {
        let auroc = table[scorer]["AUROC"]["value"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&auroc), "{table:#}");
    }
    let sample = fs::read_to_string(out.join("samples.html")).unwrap();
    assert!(
        sample.contains("true captions") && sample.contains("hallucinated"),
        "the sample page shows labelled captions"
    );
    for (_, calibration) in read("bundle/calibration.json").as_object().unwrap() {
        let rates: Vec<f64> = calibration["thresholds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["fpr"].as_f64().unwrap())
            .collect();
        assert!(
            [0.01, 0.05, 0.10].iter().all(|rate| rates.contains(rate)),
            "{calibration}"
        );
    }
    // Asked to go on, a finished run says the same again: only the clock differs.
    assert!(train("reward", &file, &out, true).wait().unwrap().success());
    assert_eq!(without_times(read("report.json")), without_times(report));
    evaluates_bundle_and_run(dir.path(), &out);
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg");
    let said = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["caption", "--json", "--model"])
        .arg(out.join("bundle"))
        .arg(photo)
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let answer: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(
        answer["choices"][0]["guard"]["score"].is_number(),
        "{answer}"
    );
}

pub(crate) fn reward_config(data: &Path, policy: &Path, dir: &Path) -> String {
    let optim = "learning_rate = 1e-3\nwarmup_steps = 2\nfinal_share = 0.1\nweight_decay = \
                 0.01\nbeta1 = 0.9\nbeta2 = 0.98\nclip_norm = 1.0\nema_decay = 0.9\n";
    let probe = |name: &str, hidden: usize, similarity: bool| {
        format!(
            "[scorers.{name}]\nkind = \"probe\"\nlayers = 2\nhidden = {hidden}\nsimilarity = \
             {similarity}\nseed = 1\n[scorers.{name}.optim]\n{optim}"
        )
    };
    let detached = |name: &str, language: f64, shuffled: bool| {
        format!(
            "[scorers.{name}]\nkind = \"detached\"\nlanguage_weight = {language:?}\nshuffled = \
             {shuffled}\ndropout = 0.1\nseed = 1\n[scorers.{name}.optim]\n{optim}"
        )
    };
    format!(
        "data = {data:?}\npolicy = {policy:?}\nfeatures = {:?}\nepochs = 2\nbatch_images = 6\nseed \
         = 5\ncheckpoint_every = 4\nworkers = 2\n\
         [examples]\ntrue_captions = 1\nperturbed_captions = 2\nown_captions = 1\nforeign_captions \
         = 1\nanswers = 2\nown_answers = 2\n\
         temperature = 1.0\nrest_weight = 0.3\n{}{}{}{}{}",
        dir.join("features"),
        probe("probe", 16, false),
        probe("linear", 0, false),
        probe("similarity", 8, true),
        detached("detached", 0.5, false),
        detached("language", 0.0, true),
    )
}

/// The report without what a clock measured.
fn without_times(mut report: serde_json::Value) -> serde_json::Value {
    report["sections"]["Scorers"]["tables"]
        .as_object_mut()
        .unwrap()
        .remove("Cost");
    report
}

/// `candor eval reward` on the bundle, with the run's other scorers and a mean of two.
fn evaluates_bundle_and_run(dir: &Path, run: &Path) {
    let json = dir.join("eval.json");
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args([
            "eval",
            "reward",
            "--scorers",
            "log-probability,detached,language,detached+language",
            "--data",
        ])
        .arg(dir.join("data"))
        .arg("--features")
        .arg(dir.join("features"))
        .arg("--model")
        .arg(run.join("bundle"))
        .arg("--run")
        .arg(run)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let rows = &report["sections"]["Scorers"]["tables"]["Cost"]["rows"];
    let bytes = |name: &str| {
        rows[name]["bytes"]["value"]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {rows:#}"))
    };
    assert_eq!(
        bytes("detached+language"),
        bytes("detached") + bytes("language")
    );
    assert_eq!(bytes("other image"), bytes("detached"));
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    fs::write(
        &file,
        fs::read_to_string(&file)
            .unwrap()
            .replace("vocab_size", "vocabulary"),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["train", "sft", "--config"])
        .arg(&file)
        .args(["--out"])
        .arg(dir.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("vocabulary") && said.contains("sft.toml"),
        "{said}"
    );
}

/// The first `n` photographs' questions of an origin, with its photographs in place.
fn some_questions(origin: &Path, to: &Path, n: usize) {
    fs::create_dir_all(to).unwrap();
    std::os::unix::fs::symlink(origin.join("images"), to.join("images")).unwrap();
    let questions = fs::read_to_string(origin.join("questions.jsonl")).unwrap();
    let image = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut images: Vec<String> = questions.lines().map(image).collect();
    images.sort();
    images.dedup();
    images.truncate(n);
    let kept: Vec<&str> = questions
        .lines()
        .filter(|line| images.contains(&image(line)))
        .collect();
    fs::write(to.join("questions.jsonl"), kept.join("\n") + "\n").unwrap();
}

/// Some photographs of every origin; false where they are not here.
fn all_origins(data: &Path) -> bool {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !small_dataset(&data.join("flickr8k"), 40, 60) {
        return false;
    }
    std::os::unix::fs::symlink(
        fs::canonicalize(shared.join("coco-mini")).unwrap(),
        data.join("coco-mini"),
    )
    .unwrap();
    for origin in ["daquar", "vqa-rad"] {
        some_questions(
            &fs::canonicalize(shared.join(origin)).unwrap(),
            &data.join(origin),
            30,
        );
    }
    true
}

#[test]
fn a_scorer_goes_on_from_a_bundle_with_wrong_people_on_every_origin() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    if !all_origins(&data) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = root.join("models/candor-mini");
    let mut recipe: toml::Table = fs::read_to_string(root.join("config/reward.toml"))
        .unwrap()
        .parse()
        .unwrap();
    recipe["data"] = data.join("flickr8k").to_str().unwrap().into();
    recipe["origins"]["data"] = data.to_str().unwrap().into();
    recipe["policy"] = bundle.to_str().unwrap().into();
    recipe["features"] = dir.path().join("features").to_str().unwrap().into();
    recipe.insert("init".into(), bundle.to_str().unwrap().into());
    recipe.insert("frozen".into(), vec!["probe"].into());
    recipe.insert("steps".into(), 2.into());
    recipe["examples"]["own_answers"] = 1.into();
    let (file, out) = (dir.path().join("reward.toml"), dir.path().join("out"));
    fs::write(&file, recipe.to_string()).unwrap();
    assert!(
        train("reward", &file, &out, false)
            .wait()
            .unwrap()
            .success()
    );

    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let words = &report["sections"]["What the scorers learned from"]["tables"]["Negatives by class \
        of word"]["rows"];
    for origin in ["flickr8k", "coco-mini", "daquar", "vqa-rad"] {
        let wrong = words[format!("person, {origin}")]["wrong"]["value"].as_f64();
        assert!(
            wrong.is_some_and(|wrong| wrong > 0.0),
            "{origin}: {words:#}"
        );
    }
    assert_eq!(
        words["person, vqa-rad"]["right"]["value"].as_f64(),
        Some(0.0),
        "nobody is on a radiograph"
    );
    let (_, closely) = report["sections"]
        .as_object()
        .unwrap()
        .iter()
        .find(|(title, _)| title.ends_with(" closely"))
        .unwrap();
    let people = &closely["tables"]["By class of word"]["rows"]["person"]["bad"]["value"];
    assert!(people.as_f64().is_some_and(|bad| bad > 0.0), "{closely:#}");

    let weights = |dir: &Path| {
        candle_core::safetensors::load(dir.join("reward.safetensors"), &candle_core::Device::Cpu)
            .unwrap()
    };
    let (before, after) = (weights(&bundle), weights(&out.join("bundle")));
    let numbers = |tensor: &candle_core::Tensor| {
        tensor
            .to_dtype(candle_core::DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let changed = |scorer: &str| {
        before.iter().any(|(name, tensor)| {
            name.starts_with(scorer) && numbers(tensor) != numbers(&after[name])
        })
    };
    assert_eq!(before.len(), after.len());
    assert!(
        changed("detached.") && !changed("probe."),
        "the probe stays, and the detached scorer goes on"
    );
}

/// The shipped recipe of scorers on some photographs, with a single scorer, `probe`.
fn probe_recipe(dir: &Path, layers: impl Into<toml::Value>) -> toml::Table {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut recipe: toml::Table = fs::read_to_string(root.join("config/reward.toml"))
        .unwrap()
        .parse()
        .unwrap();
    recipe.remove("origins");
    recipe["data"] = dir.join("data").to_str().unwrap().into();
    recipe["policy"] = root.join("models/candor-mini").to_str().unwrap().into();
    recipe["features"] = dir.join("features").to_str().unwrap().into();
    // Steps enough for scores that can be calibrated.
    recipe["batch_images"] = 6.into();
    recipe["epochs"] = 10.into();
    recipe["examples"]["own_answers"] = 1.into();
    let scorers = recipe["scorers"].as_table_mut().unwrap();
    scorers.retain(|name, _| name == "probe");
    scorers["probe"]["layers"] = layers.into();
    scorers["probe"]["optim"]["warmup_steps"] = 2.into();
    recipe
}

#[test]
fn a_probe_reads_the_layers_listed_or_those_that_rank_best_on_tuning_photographs() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 24, 64) {
        return;
    }
    let run = |name: &str, recipe: &toml::Table| -> PathBuf {
        let file = dir.path().join(format!("{name}.toml"));
        let out = dir.path().join(name);
        fs::write(&file, recipe.to_string()).unwrap();
        assert!(
            train("reward", &file, &out, false)
                .wait()
                .unwrap()
                .success()
        );
        out
    };
    let read = |file: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    };
    let served = |run: &Path| read(run.join("bundle/config.json"))["reward"]["probe"].clone();

    let mut recipe = probe_recipe(dir.path(), vec![1, 3]);
    let mut linear = recipe["scorers"]["probe"].clone();
    linear["layers"] = "validation".into();
    linear["hidden"] = 0.into();
    recipe["scorers"]
        .as_table_mut()
        .unwrap()
        .insert("linear".into(), linear);
    let listed = run("listed", &recipe);
    assert_eq!(served(&listed)["layers"], serde_json::json!([1, 3]));
    assert_eq!(served(&listed)["features"], 512);
    let sections = &read(listed.join("report.json"))["sections"];
    let table = &sections["Layers that the probes read"]["tables"]["Candidates"]["rows"];
    for candidate in ["layer 0", "layer 1", "layer 2", "layer 3", "all"] {
        let auroc = table[candidate]["AUROC"]["value"].as_f64();
        assert!(
            auroc.is_some_and(|auroc| (0.0..=1.0).contains(&auroc)),
            "{candidate}: {table:#}"
        );
    }
    let json = dir.path().join("eval.json");
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["eval", "reward", "--scorers", "probe", "--data"])
        .arg(dir.path().join("data"))
        .arg("--features")
        .arg(dir.path().join("features"))
        .arg("--model")
        .arg(listed.join("bundle"))
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let own_mentions = |report: serde_json::Value| {
        report["sections"]["Scorers"]["tables"]["Things named in the policy's own captions"]["rows"]
            ["probe"]["AUROC"]["value"]
            .as_f64()
            .unwrap()
    };
    assert_eq!(
        own_mentions(read(json)),
        own_mentions(read(listed.join("report.json"))),
        "the bundle's probe reads the layers that it was trained on"
    );

    let mut recipe = probe_recipe(dir.path(), "validation");
    recipe.insert("quiet".into(), true.into());
    let chosen = run("chosen", &recipe);
    let (first, second) = (
        read(listed.join("taps.json")),
        read(chosen.join("taps.json")),
    );
    assert_eq!(
        first["candidates"], second["candidates"],
        "the measurement depends on the data, the policy and the seed alone"
    );
    let taps = second["scorers"]["probe"].as_array().unwrap();
    assert_eq!(second["scorers"]["probe"], first["scorers"]["linear"]);
    let probe = served(&chosen);
    assert_eq!(probe["features"], 256 * taps.len());
    match probe.get("layers") {
        Some(layers) => assert_eq!(layers, &second["scorers"]["probe"]),
        None => assert_eq!(taps.len(), 4, "all layers"),
    }
    for run in [listed, chosen] {
        let said = Command::new(env!("CARGO_BIN_EXE_candor"))
            .args(["caption", "--json", "--model"])
            .arg(run.join("bundle"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg"))
            .output()
            .unwrap();
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        let answer: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        assert!(
            answer["choices"][0]["guard"]["score"].is_number(),
            "{answer}"
        );
    }
}

#[test]
fn layers_of_a_probe_that_the_policy_lacks_are_refused_before_the_run_begins() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 2, 2) {
        return;
    }
    let (file, out) = (dir.path().join("reward.toml"), dir.path().join("out"));
    for (layers, why) in [
        (
            vec![1, 4].into(),
            "scorers.probe.layers: there is no layer 4; the policy has 4",
        ),
        (vec![3, 1].into(), "scorers.probe.layers: must ascend"),
        (
            toml::Value::from("test"),
            "layers: must be a number of last layers, a list of layers from 0, or \"validation\"",
        ),
    ] {
        fs::write(&file, probe_recipe(dir.path(), layers).to_string()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_candor"))
            .args(["train", "reward", "--config"])
            .arg(&file)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
        assert!(!out.exists(), "no run directory is left behind");
    }
}

/// `candor eval reward` measures what a bundle with evidence serves beside its scorer alone.
fn evaluates_finished_rewards(dir: &Path, evidence: &Path) {
    let (bundle, json) = (dir.join("bundle"), dir.join("rewards.json"));
    fs::create_dir_all(&bundle).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/candor-mini"))
        .unwrap()
        .flatten()
    {
        if file.path().is_file() {
            fs::copy(file.path(), bundle.join(file.file_name())).unwrap();
        }
    }
    for file in ["evidence.safetensors", "evidence.json"] {
        fs::copy(evidence.join(file), bundle.join(file)).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["eval", "reward", "--data"])
        .arg(dir.join("data/flickr8k"))
        .arg("--features")
        .arg(dir.join("features"))
        .arg("--model")
        .arg(&bundle)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let table = &report["sections"]["Scorers"]["tables"]["Things named in the policy's own \
        captions"]["rows"];
    let figures = |name: &str| {
        table[name]
            .as_object()
            .unwrap_or_else(|| panic!("{name}: {table:#}"))
            .clone()
    };
    assert_ne!(
        figures("detached")["ECE"],
        figures("detached, with evidence")["ECE"],
        "{table:#}"
    );
    let closely = &report["sections"]["detached, with evidence closely"]["tables"];
    let closely = &closely["By class of word"]["rows"];
    assert!(
        closely["person"]["bad"]["value"]
            .as_f64()
            .is_some_and(|bad| bad > 0.0),
        "{closely:#}"
    );
    assert!(
        report.to_string().contains("as served"),
        "the report says which rewards it looks at"
    );
}

#[test]
fn evidence_is_trained_on_all_origins_and_a_lost_network_is_trained_again_alike() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    if !all_origins(&data) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = fs::read_to_string(root.join("config/evidence.toml")).unwrap();
    let mut recipe: toml::Table = recipe.parse().unwrap();
    recipe["data"] = data.to_str().unwrap().into();
    recipe["policy"] = root.join("models/candor-mini").to_str().unwrap().into();
    recipe["features"] = dir.path().join("features").to_str().unwrap().into();
    recipe["vocabulary"]["flickr8k"] = 3.into();
    recipe["crops"] = 2.into();
    recipe["networks"] = 2.into();
    for (stage, steps) in [("first", 30), ("second", 12)] {
        recipe[stage]["steps"] = steps.into();
    }
    for (stage, steps) in [("first", 10), ("second", 4)] {
        recipe["match"][stage]["steps"] = steps.into();
    }
    recipe["reference"]["photographs"] = 30.into();
    recipe["scope"]["photographs"] = 10.into();
    let (file, out) = (dir.path().join("evidence.toml"), dir.path().join("out"));
    fs::write(&file, recipe.to_string()).unwrap();
    assert!(
        train("evidence", &file, &out, false)
            .wait()
            .unwrap()
            .success()
    );

    let evidence = candor::reward::evidence::Evidence::load(&out)
        .unwrap()
        .unwrap();
    let config = evidence.config();
    assert!(
        config.concepts.len() > 80 && config.concepts.contains(&"person.n".to_owned()),
        "{:?}",
        config.concepts
    );
    let own: Vec<&str> = config
        .calibration
        .own
        .features
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(own, candor::reward::evidence::MentionFeatures::NAMES);
    assert!(
        !config
            .calibration
            .others
            .features
            .contains(&"log_probability".to_owned())
    );
    assert!(
        config
            .calibration
            .others
            .features
            .contains(&"match".to_owned())
    );
    let words = &config.matching.as_ref().unwrap().words;
    assert!(
        words.contains(&"run".to_owned()) && !words.contains(&"running".to_owned()),
        "{words:?}"
    );
    let other_words = config.calibration.other_words.as_ref().unwrap();
    assert!(
        other_words.features.contains(&"is_action".to_owned()),
        "{:?}",
        other_words.features
    );
    let answers = config.calibration.answers.as_ref().unwrap();
    assert!(
        answers.features.iter().any(|name| name.contains('>'))
            && answers
                .features
                .contains(&"asked_evidence_claimed".to_owned())
    );
    assert!(
        config
            .scope
            .is_some_and(|scope| (-1.0..1.0).contains(&scope.abstain_below)),
        "{:?}",
        config.scope
    );
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let labels = &report["sections"]["Labels"]["tables"]["Labels by class of word"]["rows"];
    for origin in ["flickr8k", "coco-mini", "daquar", "vqa-rad"] {
        for class in ["person", "animal", "other thing"] {
            let absent = labels[format!("{class}, {origin}")]["absent"]["value"].as_f64();
            assert!(
                absent.is_some_and(|absent| absent > 0.0),
                "{class}, {origin}: {labels:#}"
            );
        }
    }
    let crops = &report["sections"]["Labels"]["tables"]["Labels of crops by class of word"]["rows"]
        ["person, coco-mini"];
    assert!(
        ["shown", "absent"].iter().all(|count| crops[count]["value"]
            .as_f64()
            .is_some_and(|count| count > 20.0)),
        "{crops:#}"
    );
    let figures =
        &report["sections"]["The policy's own captions"]["tables"]["Things"]["rows"]["coco-mini"];
    let auroc = figures["AUROC"]["value"]
        .as_f64()
        .unwrap_or_else(|| panic!("{figures:#}"));
    assert!((0.0..=1.0).contains(&auroc), "{auroc}");
    let figures = &report["sections"]["Texts by others"]["tables"]["People's captions, half of \
        them another photograph's"]["rows"];
    for origin in ["flickr8k", "coco-mini"] {
        for column in [
            "AUROC",
            "right flagged",
            "wrong flagged",
            "wrong sentence is lowest",
        ] {
            let share = figures[origin][column]["value"].as_f64();
            assert!(
                share.is_some_and(|share| (0.0..=1.0).contains(&share)),
                "{origin}, {column}: {figures:#}"
            );
        }
    }
    evaluates_finished_rewards(dir.path(), &out);

    let by_kind =
        &report["sections"]["Short answers"]["tables"]["Answers by kind of question"]["rows"];
    assert_eq!(
        by_kind["vqa-rad"]["right"]["value"].as_f64(),
        Some(0.0),
        "{by_kind:#}"
    );
    assert!(
        by_kind["coco-mini: presence"]["coverage"]["value"]
            .as_f64()
            .is_some_and(|share| (0.0..=1.0).contains(&share)),
        "{by_kind:#}"
    );

    let files = ["evidence.safetensors", "evidence.json", "report.json"]
        .map(|name| (name, fs::read(out.join(name)).unwrap()));
    for lost in ["part-3", "shipped", "match-1-part-2", "match-2-shipped"] {
        fs::remove_file(out.join(format!("{lost}.safetensors"))).unwrap();
    }
    files
        .iter()
        .for_each(|(name, _)| fs::remove_file(out.join(name)).unwrap());
    assert!(
        train("evidence", &file, &out, true)
            .wait()
            .unwrap()
            .success()
    );
    for (name, bytes) in &files {
        assert!(
            &fs::read(out.join(name)).unwrap() == bytes,
            "{name} differs"
        );
    }
}
