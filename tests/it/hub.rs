//! `candor models pull` against a local server that answers as the Hub does.

#[allow(dead_code)]
#[path = "../../src/vlm/weights/hub/test_server.rs"]
mod test_server;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use self::test_server::{COMMIT, HubServer, REPO, sha256};
use crate::{cli::candor, served::eventually, support::send_signal};

fn command(server: &HubServer, home: &Path, args: &[&str]) -> Command {
    let mut command = candor(&["models", "pull"]);
    command.args(args).current_dir(home).envs([
        ("HF_ENDPOINT", server.endpoint().as_str()),
        ("HF_HOME", home.to_str().unwrap()),
        ("HF_TOKEN", "hf_secret"),
    ]);
    command
}

fn pull(server: &HubServer, home: &Path, args: &[&str]) -> Output {
    command(server, home, args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn small() -> HubServer {
    HubServer::start(&[
        ("config.json", b"{}"),
        ("model.safetensors", &[7; 3000]),
        ("pytorch_model.bin", b"pickle"),
    ])
}

#[test]
fn pull_prints_the_snapshot() {
    let (server, home) = (small(), tempfile::tempdir().unwrap());
    let output = pull(&server, home.path(), &[REPO]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    let dir = Path::new(lines[0]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), [7; 3000]);
    assert_eq!(lines[1], format!("revision {COMMIT}"));
    assert_eq!(lines.len(), 5, "two files and their size: {out}");
    assert_eq!(
        err.lines().collect::<Vec<_>>(),
        ["config.json (2 B)", "model.safetensors (2.93 KiB)"],
        "a line a file, since this is no terminal"
    );

    let output = pull(&server, home.path(), &[REPO, "--json", "--offline"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["repo"], REPO);
    assert_eq!(json["revision"], COMMIT);
    assert_eq!(json["dir"], lines[0]);
    assert_eq!(json["size"], 3002);
    assert_eq!(json["files"][1]["name"], "model.safetensors");
    assert_eq!(text(&output.stderr), "", "nothing is downloaded again");
}

#[test]
fn failed_pull_says_why() {
    let (server, home) = (small(), tempfile::tempdir().unwrap());
    let failed = |args: &[&str], status: i32, parts: &[&str]| {
        let output = pull(&server, home.path(), args);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{err}");
        assert!(parts.iter().all(|part| err.contains(part)), "{err}");
        assert!(!err.contains("hf_secret"), "{err}");
        assert_eq!(text(&output.stdout), "");
    };
    failed(&["llava"], 2, &["OWNER/MODEL"]);
    fs::create_dir_all(home.path().join("runs/bundle")).unwrap();
    failed(&["runs/bundle"], 2, &["runs/bundle", "exists"]);
    failed(&[REPO, "--offline"], 1, &["candor models pull lab/tiny"]);
    failed(&["lab/tiny@v9"], 1, &["lab/tiny", "v9", "404"]);
    server.state().refusal = Some(403);
    failed(&[REPO], 1, &["403", "HF_TOKEN", "license"]);
}

#[test]
fn interrupted_pull_goes_on() {
    let (server, home) = (small(), tempfile::tempdir().unwrap());
    server.state().cuts = vec![1000];
    server.state().stalls = true;
    let child = command(&server, home.path(), &[REPO])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let blobs = home.path().join("hub/models--lab--tiny/blobs");
    let part = blobs.join(format!("{}.part", sha256(&[7; 3000])));
    let stored = || fs::metadata(&part).map_or(0, |part| part.len());
    eventually("the first bytes are stored", || stored() == 1000);
    send_signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("the same command goes on"), "{err}");
    assert_eq!(stored(), 1000);

    server.seen();
    let output = pull(&server, home.path(), &[REPO]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let seen = server.seen().into_iter().filter(|request| request.storage);
    let ranges: Vec<_> = seen.filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=1000-"]);
}
