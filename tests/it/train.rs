//! Training through the command line: killed and resumed, it repeats an uninterrupted run exactly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A small copy of the real data: photographs with their captions.
fn small_dataset(dir: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flickr8k");
    let Ok(captions) = fs::read_to_string(source.join("captions.tsv")) else {
        println!("skipped: ../shared/data/flickr8k is not here");
        return false;
    };
    let names = |file: &str, n: usize| -> Vec<String> {
        fs::read_to_string(source.join(file)).unwrap().lines().take(n).map(str::to_owned).collect()
    };
    let (train, dev) = (names("train.txt", 12), names("dev.txt", 4));
    fs::create_dir(dir.join("images")).unwrap();
    for name in train.iter().chain(&dev) {
        fs::copy(source.join("images").join(name), dir.join("images").join(name)).unwrap();
    }
    let kept: Vec<&str> = captions.lines().filter(|l| train.iter().chain(&dev).any(|n| l.starts_with(n.as_str()))).collect();
    fs::write(dir.join("captions.tsv"), kept.join("\n") + "\n").unwrap();
    fs::write(dir.join("train.txt"), train.join("\n") + "\n").unwrap();
    fs::write(dir.join("dev.txt"), dev.join("\n") + "\n").unwrap();
    true
}

fn config(dir: &Path) -> PathBuf {
    let vision = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/candor-mini/model.safetensors");
    let text = format!(
        "data = {:?}\nvision = {vision:?}\nmid_tap = true\nvocab_size = 400\nhidden_size = 32\nintermediate_size = 64\nlayers = 2\n\
         heads = 2\nkv_heads = 1\ncontext_len = 160\nepochs = 10\nbatch_images = 6\nquestions_per_image = 2\nquestions_from_epoch = 1\n\
         dropout = 0.1\nlabel_smoothing = 0.05\nmirror = true\nseed = 3\ncheckpoint_every = 4\neval_every = 8\nworkers = 2\n\
         [optim]\nlearning_rate = 1e-3\nwarmup_steps = 4\nfinal_share = 0.1\nweight_decay = 0.05\nbeta1 = 0.9\nbeta2 = 0.98\n\
         clip_norm = 1.0\nema_decay = 0.9\n",
        dir.join("data")
    );
    let file = dir.join("sft.toml");
    fs::write(&file, text).unwrap();
    file
}

fn start(config: &Path, out: &Path, resume: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command.args(["train", "sft", "--config"]).arg(config).arg("--out").arg(out).stderr(Stdio::inherit());
    if resume {
        command.arg("--resume");
    }
    command.spawn().unwrap()
}

fn losses(run: &Path) -> Vec<String> {
    fs::read_to_string(run.join("loss.jsonl")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_killed_training_goes_on_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    if !small_dataset(&dir.path().join("data")) {
        return;
    }
    let (config, whole, broken) = (config(dir.path()), dir.path().join("whole"), dir.path().join("broken"));
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
    assert!(!start(&config, &broken, false).wait().unwrap().success(), "a run must not be overwritten without --resume");
    assert!(start(&config, &broken, true).wait().unwrap().success());
    assert_eq!(losses(&broken), want);
    let weights = |run: &Path| fs::read(run.join("policy.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&broken), "the weights differ");
    assert!(fs::read_to_string(whole.join("loss.svg")).unwrap().contains("<svg"));
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("vocab_size", "vocabulary")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["train", "sft", "--config"])
        .arg(&file)
        .args(["--out"])
        .arg(dir.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("vocabulary") && said.contains("sft.toml"), "{said}");
}
