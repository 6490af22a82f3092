//! `candor cycle` from a store with corrections of real photographs to a registered version: one at
//! a time, on from where it was killed, and never served without having passed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use candor::{
    bundle::Bundle,
    feedback::{
        Corrections,
        corrections::Submitter,
        images::ImageStore,
        queue::QueueSettings,
        record::{
            Feedback, ImageHash, JudgmentKind, Receipt, RecordedChoice, ResponseToken, TokenLabel,
            Versions,
        },
        store::{Owners, Store, StoreEntry, sql::SqlStore},
        submission::{ErrorSpan, Judgment, Submission},
    },
    guard::Verdict,
    registry::{PromotionDecision, Registry},
    train::snapshot::{Snapshot, TakeConfig},
    util::offsets::CharRange,
};
use serde_json::{Value, json};

use crate::{
    align::{align_config, metrics},
    cli::candor,
    feedback::store::{receipt, record},
    http::get,
    served::{Served, eventually},
    train::small_dataset,
};

const MODEL: &str = "candor-mini";

/// Photographs that nobody trained on: the first of the real ones behind those of
/// [`small_dataset`].
fn photographs(n: usize) -> Vec<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/flickr8k");
    let names = fs::read_to_string(source.join("train.txt")).unwrap();
    names
        .lines()
        .skip(100)
        .take(n)
        .map(|name| fs::read(source.join("images").join(name)).unwrap())
        .collect()
}

fn said(response: &str) -> Submission {
    Submission {
        response: Some(response.into()),
        ..Submission::default()
    }
}

/// Corrections of twelve photographs, of every kind.
async fn correct(home: &Path) {
    let store = Arc::new(
        SqlStore::open(&format!("sqlite:{}", home.join("feedback.db").display()))
            .await
            .unwrap(),
    );
    let images =
        ImageStore::open(home.join("images").to_str().unwrap(), std::env::vars_os()).unwrap();
    let corrections = Corrections::start(
        store,
        images,
        Bundle::vocabulary_of(MODEL).unwrap(),
        QueueSettings::default(),
    );
    let photos = photographs(12);
    let by = Submitter::default();
    let keep = async |submission: Submission, photo: usize| {
        corrections
            .submit(submission, Some(photos[photo].clone()), None, &by)
            .await
            .unwrap()
    };
    for photo in 0..9 {
        let edit = Some("A black dog runs through the grass.".to_owned());
        keep(
            Submission {
                edit,
                ..said("A black dog runs through the snow with a frisbee.")
            },
            photo,
        )
        .await;
    }
    let error = ErrorSpan {
        start: 11,
        end: 18,
        text: Some("frisbee".into()),
        ..ErrorSpan::default()
    };
    keep(
        Submission {
            error: Some(error),
            correction: Some("ball".into()),
            ..said("A man in a frisbee on a beach.")
        },
        9,
    )
    .await;
    keep(
        Submission {
            label: Some(Judgment::Good),
            ..said("Two people.")
        },
        10,
    )
    .await;
    keep(
        Submission {
            label: Some(Judgment::Good),
            prompt: Some("Is there a dog?".into()),
            ..said("Yes.")
        },
        11,
    )
    .await;
    keep(
        Submission {
            missing: vec!["a hat".into()],
            ..said("Two people.")
        },
        11,
    )
    .await;
    corrections.close().await;
}

/// A recipe of the smallest budgets that reach every step.
fn recipe(dir: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (data, features) = (dir.join("data"), dir.join("features"));
    fs::write(
        dir.join("align.toml"),
        align_config(&data, Path::new(MODEL), &features),
    )
    .unwrap();
    let text = |path: &Path| toml::Value::from(path.to_str().unwrap());
    let mut reward: toml::Table = fs::read_to_string(root.join("config/reward.toml"))
        .unwrap()
        .parse()
        .unwrap();
    for (key, value) in [
        ("data", text(&data)),
        ("features", text(&features)),
        ("workers", 2.into()),
        ("checkpoint_every", 1.into()),
    ] {
        reward.insert(key.into(), value);
    }
    let examples = reward["examples"].as_table_mut().unwrap();
    [
        "true_captions",
        "perturbed_captions",
        "own_captions",
        "answers",
        "own_answers",
    ]
    .iter()
    .for_each(|name| drop(examples.insert((*name).into(), 1.into())));
    fs::write(dir.join("reward.toml"), reward.to_string()).unwrap();
    let mut cycle: toml::Table = fs::read_to_string(root.join("config/cycle.toml"))
        .unwrap()
        .parse()
        .unwrap();
    cycle.insert("align".into(), text(&dir.join("align.toml")));
    cycle.insert("reward".into(), text(&dir.join("reward.toml")));
    let mut set = |table: &str, key: &str, value: toml::Value| {
        assert!(
            cycle[table]
                .as_table_mut()
                .unwrap()
                .insert(key.into(), value)
                .is_some(),
            "{table}.{key}"
        );
    };
    for step in ["scorer", "refit"] {
        [("steps", 2), ("batch_images", 4), ("images", 8)]
            .into_iter()
            .for_each(|(key, n)| set(step, key, n.into()));
    }
    [("supervised", 2), ("iterations", 7)]
        .into_iter()
        .for_each(|(key, n)| set("policy", key, n.into()));
    set("evaluation", "questions", 1.into());
    set("snapshot", "held_out", 0.3.into());
    // Nothing halves hallucination in nine iterations.
    set("gate", "min_chair_fall", 0.9.into());
    let file = dir.join("cycle.toml");
    fs::write(&file, cycle.to_string()).unwrap();
    file
}

fn cycle(home: &Path, recipe: &Path, args: &[&str]) -> Command {
    let mut command = candor(&[&["cycle"], args].concat());
    command
        .arg("--recipe")
        .arg(recipe)
        .current_dir(home)
        .env("CANDOR_FEEDBACK__STORE", "sqlite:feedback.db");
    command
        .env("CANDOR_FEEDBACK__IMAGES", "images")
        .env("CANDOR_REGISTRY__DIR", "registry")
        .env("CANDOR_CYCLE__DIR", "cycles");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat();
    (output.status.code(), text)
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
        .unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &place)
        } else {
            assert!(fs::copy(entry.path(), place).is_ok())
        }
    }
}

/// A cycle that stands behind a step, as a process leaves it that was killed there.
fn stands_behind(home: &Path, step: &str, change: impl FnOnce(&mut Value)) {
    let file = home.join("cycles/0001/state.json");
    let mut state = read(&file);
    let order = [
        "snapshot", "reward", "policy", "refit", "evaluate", "gate", "register", "promote",
    ];
    let keep = order.iter().position(|name| *name == step).unwrap();
    order[keep + 1..]
        .iter()
        .for_each(|name| drop(state["steps"].as_object_mut().unwrap().remove(*name)));
    ["outcome", "finished", "version"]
        .iter()
        .for_each(|key| state[key] = Value::Null);
    change(&mut state);
    fs::write(file, state.to_string()).unwrap();
    let _ = fs::remove_file(home.join("cycles/last.json"));
    order[keep + 1..]
        .iter()
        .for_each(|name| drop(fs::remove_dir_all(home.join("cycles/0001").join(name))));
}

#[test]
fn what_was_corrected_becomes_a_version_that_is_served_only_if_it_is_better() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 24, 24) {
        return;
    }
    let (home, recipe) = (dir.path().join("home"), recipe(dir.path()));
    fs::create_dir(&home).unwrap();
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(correct(&home));
    let waits = cycle(&home, &recipe, &["--once", "--min-feedback", "500"])
        .output()
        .unwrap();
    assert_eq!(
        told(&waits),
        (Some(0), "waiting: 13 of 500 new corrections\n".to_owned())
    );

    let output = cycle(&home, &recipe, &["--once"]).output().unwrap();
    let (code, text) = told(&output);
    assert!(
        code == Some(0) && text.contains("cycle 1: rejected candor-mini-"),
        "{text}"
    );
    let state = read(&home.join("cycles/0001/state.json"));
    assert_eq!(state["steps"].as_object().unwrap().len(), 8, "{state}");
    let facts = read(&home.join("cycles/0001/snapshot/snapshot.json"));
    assert_eq!(
        (
            facts["learnt"].as_u64().unwrap() + facts["held_out"].as_u64().unwrap(),
            &facts["records"]
        ),
        (12, &json!(13))
    );
    assert_eq!(facts["left_out"], json!({ "nothing_judged": 1 }));
    let registry = Registry::open(&home.join("registry")).unwrap();
    let [first, candidate] = &registry.versions().unwrap()[..] else {
        panic!("{text}")
    };
    assert_eq!(
        (candidate.outcome, &candidate.parents[..]),
        (PromotionDecision::Rejected, &[first.id.clone()][..])
    );
    assert!(
        candidate
            .reasons
            .iter()
            .any(|reason| reason.starts_with("chair_i is")),
        "{:?}",
        candidate.reasons
    );
    assert_eq!(
        candidate.data["snapshot"],
        facts["sha256"].as_str().unwrap()
    );
    assert_eq!(candidate.version, format!("{}+cycle.1", first.version));
    assert!(
        candidate.figures.contains_key("scorer_auroc")
            && candidate.baseline.contains_key("chair_i"),
        "{candidate:?}"
    );
    assert_eq!(
        registry.state().unwrap().promoted,
        None,
        "what was rejected is not served"
    );
    let last = read(&home.join("cycles/last.json"));
    assert_eq!(
        (&last["outcomes"], &last["records"]),
        (&json!({ "rejected": 1 }), &json!(13))
    );
    let waits = cycle(&home, &recipe, &["--once"]).output().unwrap();
    assert_eq!(
        told(&waits),
        (Some(0), "waiting: 0 of 1 new corrections\n".to_owned())
    );

    killed_in_the_policy_step(dir.path(), &home, &recipe);
    passes(dir.path(), &home, &recipe);
}

/// Killed with -9 while it aligns, a cycle goes on there and ends where the uninterrupted one did;
/// meanwhile no other runs.
fn killed_in_the_policy_step(dir: &Path, home: &Path, recipe: &Path) {
    let broken = dir.join("broken");
    copy(home, &broken);
    stands_behind(&broken, "reward", |_| {});
    let run = broken.join("cycles/0001/policy");
    let mut child = cycle(&broken, recipe, &["--once"]).spawn().unwrap();
    let begun = Instant::now();
    while metrics(&run).len() < 6 && begun.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(5));
    }
    let (code, refused) = told(&cycle(&broken, recipe, &["--once"]).output().unwrap());
    assert_eq!(code, Some(1), "{refused}");
    assert!(
        refused.contains("another cycle is running: process")
            && refused.contains(&child.id().to_string()),
        "{refused}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let steps = |home: &Path| {
        read(&home.join("cycles/0001/state.json"))["steps"]
            .as_object()
            .unwrap()
            .len()
    };
    assert_eq!(steps(&broken), 2, "it died in the policy step");
    let (code, text) = told(
        &cycle(&broken, recipe, &["--once", "--min-feedback", "500"])
            .output()
            .unwrap(),
    );
    assert!(
        code == Some(0) && text.contains("cycle 1: starts with policy"),
        "{text}"
    );
    for file in [
        "policy/bundle/model.safetensors",
        "refit/bundle/reward.safetensors",
        "candidate.json",
    ] {
        let of = |home: &Path| fs::read(home.join("cycles/0001").join(file)).unwrap();
        assert!(of(home) == of(&broken), "{file} differs");
    }
    assert_eq!(metrics(&run), metrics(&home.join("cycles/0001/policy")));
    let verdict = |home: &Path| read(&home.join("cycles/0001/state.json"))["verdict"].clone();
    assert_eq!(verdict(home), verdict(&broken));
}

/// A candidate that passes is promoted, unless somebody has promoted another one meanwhile.
fn passes(dir: &Path, home: &Path, recipe: &Path) {
    let passed = |state: &mut Value| {
        state["verdict"] = json!({ "passed": true, "reasons": [], "held": ["chair_i is lower"] })
    };
    for meanwhile in [false, true] {
        let other = dir.join(format!("passed-{meanwhile}"));
        copy(home, &other);
        fs::remove_dir_all(other.join("registry")).unwrap();
        stands_behind(&other, "gate", passed);
        let registry = Registry::open(&other.join("registry")).unwrap();
        if meanwhile {
            let version = registry
                .register(Path::new(MODEL), candor::registry::VersionFacts::default())
                .unwrap();
            registry.promote(&version.id, false).unwrap();
        }
        let (code, text) = told(&cycle(&other, recipe, &["--once"]).output().unwrap());
        let state = read(&other.join("cycles/0001/state.json"));
        let ended = if meanwhile { "outdated" } else { "promoted" };
        assert!(
            code == Some(0) && state["outcome"] == ended && text.contains(ended),
            "{text}"
        );
        assert_eq!(
            registry.state().unwrap().promoted.as_deref() == state["version"].as_str(),
            !meanwhile
        );
        assert_eq!(
            read(&other.join("cycles/last.json"))["outcomes"],
            json!({ ended: 1 })
        );
    }
}

#[test]
fn a_snapshot_is_the_same_whenever_it_is_taken_and_leaves_nothing_out_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    if !small_dataset(&dir.path().join("data"), 1, 1) {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let home = dir.path();
        correct(home).await;
        let store = SqlStore::open(&format!("sqlite:{}", home.join("feedback.db").display()))
            .await
            .unwrap();
        let images =
            ImageStore::open(home.join("images").to_str().unwrap(), std::env::vars_os()).unwrap();
        let photos = photographs(12);
        let config = TakeConfig {
            held_out: 0.3,
            most: 1000,
            sources: vec![Default::default()],
        };
        let take = async |name: &str, config: &TakeConfig, never: &[usize]| {
            let never = never
                .iter()
                .map(|&i| ImageHash::digest(&photos[i]))
                .collect();
            Snapshot::take(&store, &images, &home.join(name), config, &never)
                .await
                .unwrap()
        };
        let first = take("a", &config, &[]).await;
        let again = take("b", &config, &[]).await;
        assert_eq!((&first.facts, &first.learnt), (&again.facts, &again.learnt));
        assert_eq!((first.facts.records, first.facts.photographs), (13, 12));
        let named = |snapshot: &Snapshot| {
            snapshot
                .images(&snapshot.learnt)
                .into_iter()
                .map(|i| i.name)
                .collect::<Vec<_>>()
        };
        assert!(
            first
                .held_out
                .iter()
                .all(|c| !named(&first).contains(&c.image)),
            "an image is on one side"
        );
        // What is held out once is held out always, whatever else there is.
        images.remove(ImageHash::digest(&photos[0])).await.unwrap();
        fs::write(path_of(home, &photos[1]), b"no image").unwrap();
        let later = take("c", &config, &[2, 3]).await;
        let reasons = serde_json::to_value(&later.facts.left_out).unwrap();
        assert_eq!(
            reasons,
            json!({ "nothing_judged": 1, "no_image": 1, "bad_image": 1, "evaluated": 2 })
        );
        assert!(
            later.held_out.iter().all(|c| first.held_out.contains(c))
                && later.learnt.iter().all(|c| first.learnt.contains(c))
        );
        let few = take(
            "d",
            &TakeConfig {
                most: 4,
                ..config.clone()
            },
            &[],
        )
        .await;
        assert_eq!(
            serde_json::to_value(&few.facts.left_out).unwrap(),
            json!({ "nothing_judged": 1, "too_old": 9 })
        );
        let none = take(
            "e",
            &TakeConfig {
                sources: vec![],
                ..config.clone()
            },
            &[],
        )
        .await;
        assert_eq!(
            serde_json::to_value(&none.facts.left_out).unwrap(),
            json!({ "other_source": 13 })
        );
        fs::write(home.join("a/corrections.jsonl"), "").unwrap();
        assert!(
            Snapshot::open(&home.join("a"))
                .unwrap_err()
                .to_string()
                .contains("were changed after it was taken")
        );
        assert_eq!(
            store
                .stats(&Owners::All)
                .await
                .unwrap()
                .feedback
                .values()
                .sum::<u64>(),
            13
        );
    });
}

#[test]
fn what_recent_answers_corrections_and_cycles_say_is_in_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let (database, version) = (
        format!("sqlite:{}", dir.path().join("feedback.db").display()),
        Bundle::describe(MODEL).unwrap().version,
    );
    let versions = || Versions {
        policy: Some(version.clone()),
        ..Versions::default()
    };
    let token = |start: usize, text: &str, reward: f32, label: TokenLabel| ResponseToken {
        id: 1,
        text: text.to_owned(),
        start,
        end: start + text.len(),
        logprob: Some(-1.0),
        reward: Some(reward),
        label,
    };
    let rows = (0..40).flat_map(|n| {
        // Every second frisbee is flagged.
        let tokens = vec![
            token(0, "Dog", 0.9, TokenLabel::Good),
            token(3, " frisbee", 0.1, TokenLabel::Bad),
        ];
        let flagged = Some(if n % 2 == 0 {
            vec![CharRange { start: 4, end: 11 }]
        } else {
            vec![]
        });
        let record = Feedback {
            tokens,
            flagged,
            response: "Dog frisbee".into(),
            versions: versions(),
            kind: JudgmentKind::Bad,
            ..record(n)
        };
        let answer = RecordedChoice {
            response: "Dog".repeat(15),
            tokens: (0..15)
                .map(|i| token(3 * i, "Dog", i as f32 / 15.0, TokenLabel::None))
                .collect(),
            verdict: Verdict::Clean,
            threshold: 0.5,
            spans: Vec::new(),
            familiarity: None,
        };
        let receipt = Receipt {
            versions: versions(),
            choices: vec![answer],
            ..receipt(&format!("chatcmpl-{n}"), u64::MAX >> 2, b"image")
        };
        [
            StoreEntry::Receipt(Box::new(receipt)),
            StoreEntry::Feedback(Box::new(record), None),
        ]
    });
    let rows: Vec<StoreEntry> = rows.collect();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        SqlStore::open(&database)
            .await
            .unwrap()
            .insert(&rows)
            .await
            .unwrap()
    });
    let cycles = dir.path().join("cycles");
    fs::create_dir(&cycles).unwrap();
    fs::write(
        cycles.join("last.json"),
        r#"{"number": 3, "last_success": 1700000000, "outcomes": {"promoted": 2, "rejected": 1}}"#,
    )
    .unwrap();
    let served = Served::with(|config| {
        config.feedback.store.clone_from(&database);
        config.cycle.dir = cycles.display().to_string();
    });
    let lines = [
        "candor_reward_auroc 1",
        "candor_flag_agreement_ratio 0.5",
        "candor_cycle_last_success_timestamp_seconds 1700000000",
        "candor_cycle_outcome_total{outcome=\"promoted\"} 2",
        "candor_cycle_outcome_total{outcome=\"rejected\"} 1",
        "candor_cycle_outcome_total{outcome=\"failed\"} 0",
    ];
    let metrics = || get(served.at, "/metrics").text().to_owned();
    eventually("the metrics of learning are there", || {
        let text = metrics();
        lines.iter().all(|line| text.lines().any(|l| l == *line))
    });
    let figure = |name: &str| {
        metrics()
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .unwrap()
    };
    let (ece, psi) = (
        figure("candor_reward_ece "),
        figure("candor_reward_drift_psi "),
    );
    assert!((ece - 0.1).abs() < 1e-6, "{ece}");
    assert!(
        psi > 0.5 && psi.is_finite(),
        "{psi}: as many low rewards as high ones are not what the scorer was calibrated on"
    );
}

fn path_of(home: &Path, photo: &[u8]) -> PathBuf {
    let name = ImageHash::digest(photo).to_string();
    home.join("images").join(&name[..2]).join(name)
}
