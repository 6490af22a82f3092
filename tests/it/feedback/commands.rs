//! `candor feedback`: export, import and removal on the command line.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use super::api::post;
use crate::{
    cli::candor,
    served::{Served, and, ask},
};

/// Runs `candor feedback` on the store in `folder`.
fn feedback(folder: &Path, args: &[&str]) -> Output {
    let mut command = candor(&[&["feedback"], args].concat());
    command
        .current_dir(folder)
        .env("CANDOR_FEEDBACK__STORE", "sqlite:feedback.db")
        .env("CANDOR_FEEDBACK__IMAGES", "images");
    command.output().unwrap()
}

#[test]
fn exported_records_can_be_imported() {
    let served = Served::new();
    for missing in ["a child", "a hat"] {
        let completion = served.chat(&ask(1, "")).json();
        let body =
            json!({ "completion_id": completion["id"], "missing": missing, "annotator": "bob" });
        assert_eq!(post(&served, &body, &[]).status, 201);
    }
    let from = served.folder.path();
    let output = feedback(
        from,
        &["export", "--out", "out.jsonl", "--images", "photos"],
    );
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let written = fs::read_to_string(from.join("out.jsonl")).unwrap();
    assert!(
        written.lines().count() == 2 && !written.contains("bob"),
        "{written}"
    );
    let (to, mut lines) = (tempfile::tempdir().unwrap(), written.clone());
    lines.insert_str(0, "{\"id\": \"fb_1\"}\n\n");
    let mut shifted: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    shifted["tokens"][0]["end"] = json!(999);
    lines += &format!("{shifted}\n");
    fs::write(to.path().join("in.jsonl"), &lines).unwrap();
    let photos = from.join("photos");
    let output = feedback(
        to.path(),
        &["import", "in.jsonl", "--images", photos.to_str().unwrap()],
    );
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(
        (output.status.code(), out.as_str()),
        (Some(1), "taken 2, there before 0, refused 2\n"),
        "{err}"
    );
    assert!(
        err.contains("in.jsonl:1: missing field") && err.contains("in.jsonl:5: 'tokens[0].text'"),
        "{err}"
    );
    assert_eq!(
        String::from_utf8(feedback(to.path(), &["export"]).stdout).unwrap(),
        written
    );
    fs::write(to.path().join("in.jsonl"), &written).unwrap();
    let output = feedback(to.path(), &["import", "in.jsonl"]);
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"taken 0, there before 2, refused 0\n"[..])
    );
    let stats: Value =
        serde_json::from_slice(&feedback(to.path(), &["stats", "--json"]).stdout).unwrap();
    assert_eq!(
        stats,
        json!({ "feedback": { "missing": 2 }, "sources": { "human": 2 }, "receipts": 0 })
    );
    // A pipe cannot be read from its end.
    for format in [
        "jsonl",
        "parquet",
        "rlhf-v",
        "trl-dpo",
        "trl-prm",
        "label-studio",
    ] {
        let out = feedback(from, &["export", "--format", format]).stdout;
        let mut import = candor(&["feedback", "import", "--format", format, "-"]);
        import
            .current_dir(to.path())
            .env("CANDOR_FEEDBACK__STORE", "sqlite:feedback.db")
            .env("CANDOR_FEEDBACK__IMAGES", "images");
        let mut child = import
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&out).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{format}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // The file or the command names the owner, and an owner's records can be exported alone.
    let owned = tempfile::tempdir().unwrap();
    fs::write(
        owned.path().join("in.jsonl"),
        written.replacen("{\"id\"", "{\"owner\":\"shop\",\"id\"", 1),
    )
    .unwrap();
    assert!(
        feedback(
            owned.path(),
            &["import", "in.jsonl", "--images", photos.to_str().unwrap()]
        )
        .status
        .success()
    );
    let count = |owner: &str| {
        let stats: Value = serde_json::from_slice(
            &feedback(owned.path(), &["stats", "--json", "--owner", owner]).stdout,
        )
        .unwrap();
        stats["feedback"]["missing"].as_u64().unwrap_or(0)
    };
    assert_eq!((count("shop"), count(""), count("other")), (1, 1, 0));
    let of_shop =
        String::from_utf8(feedback(owned.path(), &["export", "--owner", "shop"]).stdout).unwrap();
    assert!(
        of_shop.lines().count() == 1 && of_shop.contains("\"owner\":\"shop\""),
        "{of_shop}"
    );
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("in.jsonl"), &of_shop).unwrap();
    let args = [
        "import",
        "in.jsonl",
        "--owner",
        "other",
        "--images",
        photos.to_str().unwrap(),
    ];
    assert!(feedback(other.path(), &args).status.success());
    assert!(
        String::from_utf8(feedback(other.path(), &["export"]).stdout)
            .unwrap()
            .contains("\"owner\":\"other\"")
    );
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("in.jsonl"), &written).unwrap();
    let without = feedback(empty.path(), &["import", "in.jsonl"]);
    assert!(
        String::from_utf8(without.stderr)
            .unwrap()
            .contains("in.jsonl:2: its image")
    );
}

#[test]
fn forget_removes_users_and_annotators() {
    let served = Served::new();
    for (n, annotator) in [(0, "ann"), (1, "bob")] {
        let completion = served
            .chat(&and(ask(n, ""), json!({ "user": "4711" })))
            .json();
        let body = json!({ "completion_id": completion["id"], "missing": "a child",
            "annotator": annotator });
        assert_eq!(post(&served, &body, &[]).status, 201);
    }
    let folder = served.folder.path();
    let said = |args: &[&str]| {
        String::from_utf8(feedback(folder, &[&["forget"], args].concat()).stdout).unwrap()
    };
    assert_eq!(
        said(&["--annotator", "ann"]),
        "removed 0 records and 0 receipts; 1 records stay without the annotator's name\n"
    );
    let exported = String::from_utf8(feedback(folder, &["export", "--annotators"]).stdout).unwrap();
    assert!(
        exported.contains("bob") && !exported.contains("ann\""),
        "{exported}"
    );
    assert_eq!(
        said(&["--user", "4711", "--owner", "shop"]),
        "removed 0 records and 0 receipts; 0 records stay without the annotator's name\n"
    );
    assert_eq!(
        said(&["--user", "4711"]),
        "removed 2 records and 2 receipts; 0 records stay without the annotator's name\n"
    );
    assert_eq!(
        fs::read_dir(folder.join("images"))
            .unwrap()
            .flat_map(|inner| fs::read_dir(inner.unwrap().path()).unwrap())
            .count(),
        0
    );
    for args in [
        &["forget"][..],
        &["forget", "--user", "x", "--annotator", "y"],
        &["forget", "--user", "x", "--records"],
    ] {
        assert_eq!(feedback(folder, args).status.code(), Some(2), "{args:?}");
    }
}
