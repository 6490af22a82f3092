//! `candor models inspect`, `candor selftest` and `candor doctor` on checkpoints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::candor;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    fixtures.join(name)
}

fn path(name: &str) -> String {
    fixture(name).to_str().unwrap().to_owned()
}

/// Exit status, standard output and standard error of a command in an empty folder.
fn run(args: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), args)
}

fn run_in(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = candor(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn inspected(args: &[&str]) -> Value {
    let (status, out, err) = run(&[&["models", "inspect", "--json"], args].concat());
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

/// A copy of a fixture's files, but for those of the reference.
fn copy(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let from = entry.unwrap().path();
        let file = from.file_name().unwrap().to_str().unwrap();
        if from.is_file() && !file.starts_with("expected") {
            fs::copy(&from, copy.path().join(file)).unwrap();
        }
    }
    copy
}

#[test]
fn inspect_says_what_a_checkpoint_is() {
    let old = inspected(&[&path("llava-old")]);
    assert_eq!(old["form"], "hugging_face");
    assert_eq!(old["architecture"], "llava");
    assert_eq!(
        old["text"],
        json!({
            "layers": 3, "width": 48, "heads": 6, "kv_heads": 2, "head_dim": 8,
            "vocabulary": 400, "context": 512,
        })
    );
    assert_eq!(old["vision"]["image_size"], 42);
    assert_eq!(old["vision"]["example"][0]["positions"], 9);
    assert_eq!(old["vision"]["example"].as_array().unwrap().len(), 1);
    assert_eq!(old["scorer"], Value::Null);
    assert_eq!(old["tokenizer"]["content"], "list");
    assert_eq!(old["tokenizer"]["kind"], "sentencepiece");
    assert_eq!(
        old["tokenizer"]["ends"],
        json!([{ "id": 2, "token": "</s>" }])
    );
    assert_eq!(old["files"][0]["name"], "model.safetensors");
    let len = fixture("llava-old").join("model.safetensors");
    assert_eq!(old["files"][0]["bytes"], len.metadata().unwrap().len());

    let new = inspected(&[&path("llava-new")]);
    assert_eq!(new["form"], "hugging_face_modules");
    assert_eq!(new["files"].as_array().unwrap().len(), 2);
    assert_eq!(new["memory"], old["memory"], "the same weights");

    let smol = inspected(&[&path("smolvlm")]);
    let example = &smol["vision"]["example"];
    assert_eq!(
        (&example[0]["do_image_splitting"], &example[0]["positions"]),
        (&json!(true), &json!(52))
    );
    assert_eq!(
        (&example[1]["do_image_splitting"], &example[1]["positions"]),
        (&json!(false), &json!(4))
    );

    let mini = inspected(&["candor-mini"]);
    assert_eq!(
        (&mini["form"], &mini["scorer"]),
        (&json!("bundle"), &json!("detached"))
    );
    assert_eq!(mini["vision"]["example"][0]["positions"], 49);
}

#[test]
fn inspect_tells_memory_by_dtype_and_quantization() {
    let old = path("llava-old");
    let memory = |args: &[&str]| {
        let model = inspected(&[&[old.as_str()], args].concat());
        (model["weights"].clone(), model["memory"].clone())
    };
    let bytes = |value: &Value| value.as_u64().unwrap();
    let (auto, memory_of_auto) = memory(&[]);
    let matrices = bytes(&auto["matrices"]["f32"]);
    assert_eq!(bytes(&auto["mapped_bytes"]), matrices);
    // Keys and values of 3 layers, 2 heads of 8 numbers in f32; 16 sequences and 2 in reserve.
    assert_eq!(memory_of_auto["kv_token_bytes"], 2 * 3 * 2 * 8 * 4);
    assert_eq!(memory_of_auto["kv_context_bytes"], 384 * 512);
    assert_eq!(memory_of_auto["kv_cache_bytes"], 18 * 384 * 512);
    assert_eq!(
        bytes(&memory_of_auto["total_bytes"]),
        bytes(&memory_of_auto["weights_bytes"]) + 18 * 384 * 512
    );
    let (half, _) = memory(&["--dtype", "bf16"]);
    assert_eq!(2 * bytes(&half["matrices"]["bf16"]), matrices);
    assert_eq!(bytes(&half["mapped_bytes"]), 0);
    let (_, quantized) = memory(&["--quantize", "q8_0"]);
    assert!(bytes(&quantized["weights_bytes"]) < bytes(&memory_of_auto["weights_bytes"]));
    let bf16 = inspected(&[&path("idefics3")]);
    assert_eq!(
        bf16["weights"]["mapped_bytes"],
        bf16["weights"]["matrices"]["bf16"]
    );

    let (status, _, err) = run(&["models", "inspect", &old, "--dtype", "f64"]);
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("--dtype"), "{err}");
}

#[test]
fn inspect_prints_a_line_a_subject() {
    let (status, out, _) = run(&["models", "inspect", &path("smolvlm")]);
    assert_eq!(status, 0);
    for line in [
        "architecture smolvlm, supported",
        "text         3 layers of width 48",
        "             640x480 pixels: 52 positions, in 3 rows of 4 tiles",
        "             640x480 pixels: 4 positions, not split",
        "template     content a list of parts",
        "files        model.safetensors",
        "memory       ",
    ] {
        assert!(
            out.lines().any(|found| found.starts_with(line)),
            "{line}: {out}"
        );
    }
}

#[test]
fn inspect_refuses_what_cannot_be_loaded() {
    let refused = |model: &Path, parts: &[&str]| {
        let (status, out, err) = run(&["models", "inspect", model.to_str().unwrap()]);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(parts.iter().all(|part| err.contains(part)), "{err}");
    };
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["config.json", ".gguf"]);

    let unknown = copy("llava-old");
    fs::write(
        unknown.path().join("config.json"),
        r#"{"model_type": "florence2"}"#,
    )
    .unwrap();
    refused(
        unknown.path(),
        &["config.json", "model_type", "florence2", "'llava'"],
    );

    let shards = copy("llava-new");
    let second = "model-00002-of-00002.safetensors";
    fs::remove_file(shards.path().join(second)).unwrap();
    refused(shards.path(), &["model.safetensors.index.json", second]);

    let shape = copy("llava-old");
    let config = fs::read_to_string(shape.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["text_config"]["intermediate_size"] = 107.into();
    fs::write(shape.path().join("config.json"), config.to_string()).unwrap();
    refused(shape.path(), &["model.safetensors", "mlp.", "107"]);
}

#[test]
fn selftest_passes_on_every_architecture() {
    for model in [
        "candor-mini".to_owned(),
        path("llava-new"),
        path("smolvlm"),
        path("idefics3"),
    ] {
        let (status, out, err) = run(&["selftest", "--model", &model, "--device", "cpu"]);
        assert_eq!((status, err.as_str()), (0, ""), "{model}: {out}");
        for check in [
            "tokenizer",
            "features",
            "template",
            "logits",
            "token by token",
            "batch",
            "fork and rollback",
        ] {
            let line = out
                .lines()
                .find(|line| line.get(8..).is_some_and(|l| l.starts_with(check)));
            assert!(
                line.is_some_and(|line| line.starts_with("ok ")),
                "{check}: {out}"
            );
        }
    }
}

#[test]
fn selftest_compares_every_checkpoint_of_a_folder_with_the_cpu() {
    let folder = path("");
    let args = ["selftest", "--model", &folder, "--device", "cpu"];
    let more = ["--full", "--seconds", "0", "--json"];
    let (status, out, err) = run(&[&args[..], &more].concat());
    assert_eq!(status, 0, "{out}{err}");
    for part in ["llava-full", "llava-original"] {
        assert!(err.contains(part), "{err}");
    }
    let reports: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names = [
        "idefics3",
        "llava-layers",
        "llava-new",
        "llava-old",
        "smolvlm",
    ];
    assert_eq!(reports.len(), names.len());
    for (name, report) in names.iter().zip(&reports) {
        assert!(report["model"].as_str().unwrap().ends_with(name));
        assert_eq!(
            (&report["passed"], &report["speed"]),
            (&json!(true), &Value::Null)
        );
        let checks = report["checks"].as_array().unwrap();
        let other = if *name == "idefics3" { "f32" } else { "bf16" };
        for check in [
            "CPU, image: pixels",
            "CPU, image: features",
            "CPU, tall image: embeddings",
            "CPU, text: hidden states",
            "CPU, text: logits",
            "CPU, text of 65 tokens: steps",
            "CPU, q8_0, text: logits",
            &format!("CPU, {other}, image: steps"),
        ] {
            let found = checks.iter().find(|found| found["name"] == check);
            assert_eq!(found.unwrap()["passed"], true, "{name}: {check}");
            assert!(found.unwrap()["difference"].is_number());
        }
    }
}

#[test]
fn selftest_compares_scorers_and_training_and_measures_speed() {
    let args = [
        "selftest",
        "--device",
        "cpu",
        "--full",
        "--seconds",
        "1",
        "--json",
    ];
    let (status, out, err) = run(&args);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for check in [
        "CPU, image: hidden states",
        "CPU, probe scorer: rewards",
        "CPU, detached scorer: rewards",
        "CPU, training: gradients",
        "CPU, training: losses",
    ] {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|found| found["name"] == check);
        assert_eq!(found.unwrap()["passed"], true, "{check}: {out}");
    }
    let measured = report["speed"]["decoding"].as_array().unwrap().iter();
    let measured: Vec<(&str, u64)> = measured
        .map(|speed| {
            assert!(speed["tokens_per_second"].as_f64().unwrap() > 0.0);
            assert!(speed["weight_bytes_per_second"].as_f64().unwrap() > 0.0);
            let scorer = speed["scorer"].as_str().unwrap();
            (scorer, speed["batch"].as_u64().unwrap())
        })
        .collect();
    let scorers = ["off", "probe", "detached"];
    let wanted = scorers.map(|scorer| [(scorer, 1), (scorer, 16)]);
    assert_eq!(measured, wanted.concat());
    assert!(report["speed"]["memory_bytes_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn selftest_says_what_is_wrong_with_a_folder() {
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let (status, out, err) = run(&["selftest", "--model", empty]);
    assert_eq!((status, out.as_str()), (1, ""));
    for part in [empty, "config.json", ".gguf"] {
        assert!(err.contains(part), "{err}");
    }
    let (folder, reference) = (path(""), path("llava-old"));
    let args = ["selftest", "--model", &folder, "--reference", &reference];
    let (status, out, err) = run(&args);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(
        err.contains("--reference") && err.contains("has 5"),
        "{err}"
    );
}

#[test]
fn selftest_compares_with_a_recording() {
    for name in ["llava-old", "smolvlm", "idefics3"] {
        let folder = path(name);
        let args = [
            "selftest",
            "--model",
            &folder,
            "--reference",
            &folder,
            "--json",
        ];
        let (status, out, err) = run(&[&args[..], &["--device", "cpu"]].concat());
        assert_eq!((status, err.as_str()), (0, ""), "{name}: {out}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["passed"], true);
        let checks = report["checks"].as_array().unwrap();
        for check in [
            "photo: pixels",
            "photo: tokens",
            "photo: logits",
            "photo: greedy",
        ] {
            let found = checks.iter().find(|found| found["name"] == check);
            assert!(
                found.is_some_and(|found| found["passed"] == true),
                "{check}: {out}"
            );
        }
    }
}

#[test]
fn selftest_says_what_differs_from_a_recording() {
    // Its output matrix, which stands first in the file, is another one.
    let other = copy("llava-old");
    let file = other.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    bytes[20_000..60_000].fill(0);
    fs::write(&file, bytes).unwrap();
    let model = other.path().to_str().unwrap();
    let reference = path("llava-old");
    let args = [
        "selftest",
        "--model",
        model,
        "--reference",
        &reference,
        "--device",
        "cpu",
    ];
    let (status, out, err) = run(&args);
    assert_eq!(status, 1, "{out}");
    assert!(err.contains("checks failed"), "{err}");
    assert!(
        out.lines()
            .any(|line| line.starts_with("FAILED") && line.contains("photo: logits")),
        "{out}"
    );
    assert!(
        out.lines()
            .any(|line| line.starts_with("ok") && line.contains("photo: tokens")),
        "the prompt is what it was: {out}"
    );

    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    let (status, _, err) = run(&["selftest", "--reference", empty]);
    assert_eq!(status, 1);
    assert!(err.contains("record_reference.py"), "{err}");
}

#[test]
fn doctor_lists_checkpoints_with_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    std::os::unix::fs::symlink(fixture("smolvlm"), models.join("smolvlm")).unwrap();
    let (status, out, _) = run_in(folder.path(), &["doctor", "--model", &path("llava-old")]);
    assert_eq!(status, 0, "{out}");
    for part in [
        "models/smolvlm: ",
        "smolvlm, 3 layers of width 48",
        "llava, 3 layers of width 48",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let memory = out
        .lines()
        .filter(|line| line.contains("of key/value cache"));
    assert_eq!(memory.count(), 3, "one a model: {out}");

    fs::remove_file(models.join("smolvlm")).unwrap();
    let broken = copy("smolvlm");
    fs::remove_file(broken.path().join("tokenizer.json")).unwrap();
    std::os::unix::fs::symlink(broken.path(), models.join("broken")).unwrap();
    let (status, out, _) = run_in(folder.path(), &["doctor", "--json"]);
    assert_eq!(status, 1, "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let bundles = report["bundles"].as_array().unwrap();
    assert!(bundles[0]["memory"]["total_bytes"].as_u64().unwrap() > 0);
    let error = bundles[1]["error"].as_str().unwrap();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn licenses_are_told_and_may_be_required() {
    let folder = copy("llava-old");
    let path = folder.path().to_str().unwrap();
    assert_eq!(inspected(&[path])["license"]["id"], "unknown");
    fs::write(
        folder.path().join("README.md"),
        "---\nlicense: apache-2.0\n---\n# Model\n",
    )
    .unwrap();
    assert_eq!(
        inspected(&[path])["license"],
        json!({"id": "apache-2.0", "permits": "any"})
    );
    let serve = |model: &str| {
        let empty = tempfile::tempdir().unwrap();
        let output = candor(&["serve", "--listen", "127.0.0.1:0", "--model", model])
            .env("CANDOR_MODEL__REQUIRE_LICENSE", "mit,bsd-3-clause")
            .current_dir(empty.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for (model, license) in [
        ("candor-mini", "research-only (research use)"),
        (path, "apache-2.0 (any use)"),
    ] {
        let refused = serve(model);
        let why = format!("has the license {license}; allowed: mit, bsd-3-clause");
        assert!(
            refused.contains("model.require_license") && refused.contains(&why),
            "{refused}"
        );
    }
}

#[test]
fn gc_of_nothing_removes_nothing() {
    let (status, out, err) = run(&["models", "gc", "--keep", "3"]);
    assert_eq!((status, out.trim(), &*err), (0, "nothing to remove", ""));
    let (_, out, _) = run(&["models", "gc", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["bytes"], 0);
    let (status, _, err) = run(&["models", "gc", "--keep", "some"]);
    assert_eq!(status, 2);
    assert!(err.contains("--keep"), "{err}");
}
