//! The command line: output and exit status of the binary.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{self, get},
    served::{ask, eventually},
    support::{optional, runs, send_signal},
};

pub fn candor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (Output, String, String) {
    let output = candor(args).output().unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    );
    (output, out, err)
}

/// A `candor serve` process on a free port.
pub struct Process {
    pub child: Child,
    pub at: SocketAddr,
    /// Its working directory.
    _folder: TempDir,
}

impl Process {
    pub fn serve(envs: &[(&str, &str)]) -> Self {
        Self::start(
            candor(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]),
            envs,
        )
    }

    /// Starts a command that serves.
    pub fn start(mut command: Command, envs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command
            .envs(envs.iter().copied())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let at = line
            .trim()
            .strip_prefix("listening on http://")
            .unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .unwrap();
        eventually("the server is ready", || {
            get(at, "/health/ready").status == 200
        });
        Self {
            child,
            at,
            _folder: folder,
        }
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Waits for the process; returns its exit status and log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn exit_status_is_2_for_wrong_usage_1_for_failure_0_for_help() {
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["doctor", "--help"],
        &["--version"],
    ] {
        assert_eq!(run(args).0.status.code(), Some(0), "{args:?}");
    }
    for args in [
        &[][..],
        &["dance"],
        &["serve", "--lisen", "x"],
        &["serve", "--device", "gpu"],
    ] {
        let (output, out, err) = run(args);
        assert_eq!(
            (output.status.code(), out.as_str()),
            (Some(2), ""),
            "{args:?}"
        );
        assert!(!err.is_empty());
    }
    for more in [
        &["--out", "o.jsonl"][..],
        &["--overwrite"],
        &["--out", "o.jsonl", "--overwrite"],
    ] {
        let (output, out, _) = run(&[&["caption", "cat.jpg"], more].concat());
        assert_eq!(
            (output.status.code(), out.as_str()),
            (Some(2), ""),
            "{more:?} are of a batch"
        );
    }
    let (output, _, err) = run(&["serve", "--listen", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        err,
        "candor: --listen: must be HOST:PORT, such as 127.0.0.1:8080\n"
    );
    let (output, _, err) = run(&["serve", "--model", "no-such-model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("no-such-model") && err.contains("candor-mini"),
        "{err}"
    );
}

#[test]
fn serve_on_a_port_in_use_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (output, _, err) = run(&[
        "serve",
        "--listen",
        &taken.local_addr().unwrap().to_string(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains(&taken.local_addr().unwrap().to_string()) && err.contains("server.listen"),
        "{err}"
    );
}

#[test]
fn doctor_reports_as_text_and_as_json() {
    let (output, out, _) = run(&["doctor", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(0), "{out}");
    for word in [
        "device    cpu",
        "threads",
        "memory",
        "candor-mini",
        "embedded",
        "license research-only (research use)",
        "no problems",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let json: Value = serde_json::from_str(&run(&["doctor", "--json"]).1).unwrap();
    assert_eq!(json["bundles"][0]["name"], "candor-mini");
    assert_eq!(json["bundles"][0]["license"]["permits"], "research");
    assert!(
        json["bundles"][0]["context_len"].as_u64().unwrap() > 49
            && json["cpu"]["threads"].as_u64().unwrap() > 0
    );
    let output = candor(&["doctor", "--json"])
        .env("CANDOR_SERVER__LISTNE", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &json["config_problems"][0];
    assert_eq!(
        (&problem["key"], &problem["origin"]),
        (
            &"server.listne".into(),
            &"environment variable CANDOR_SERVER__LISTNE".into()
        )
    );
}

#[test]
fn sigterm_lets_requests_finish_and_their_log_lines_have_ids() {
    let server = Process::serve(&[
        ("CANDOR_LOG__FORMAT", "json"),
        ("CANDOR_LOG__LEVEL", "debug,hyper=warn"),
    ]);
    let body = ask(1, "").to_string();
    let raw = http::request(
        "POST",
        "/v1/chat/completions",
        &[http::JSON, ("x-request-id", "trace-9")],
        body.as_bytes(),
    );
    assert_eq!(http::exchange(server.at, &raw).status, 200);
    let at = server.at;
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(std::net::TcpStream::connect(at).is_err());
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect();
    let answered = lines
        .iter()
        .find(|l| l["request_id"] == "trace-9" && l["message"] == "answered")
        .unwrap_or_else(|| panic!("{log}"));
    assert_eq!(
        (&answered["status"], &answered["path"]),
        (&200.into(), &"/v1/chat/completions".into())
    );
    assert!(
        answered["completion_id"]
            .as_str()
            .unwrap()
            .starts_with("chatcmpl-")
    );
    assert!(lines.iter().any(|l| l["message"] == "stopped"));
}

fn photo(name: &str) -> String {
    format!(
        "{}/tests/fixtures/photos/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// Command lines of all commands and subcommands.
fn commands(command: &clap::Command, typed: &str) -> Vec<String> {
    let own = command.get_subcommands().filter(|c| c.get_name() != "help");
    own.flat_map(|c| {
        let typed = format!("{typed}{}", c.get_name());
        let below = commands(c, &format!("{typed} "));
        std::iter::once(typed).chain(below)
    })
    .collect()
}

#[test]
fn help_of_any_command_shows_an_example() {
    for command in commands(&candor::cli::command(), "") {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let (output, out, _) = run(&args);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let example = out
            .split("Example")
            .nth(1)
            .unwrap_or_else(|| panic!("{command}: no example in {out}"));
        assert!(
            example.contains(&format!("candor {command}")),
            "{command}: {out}"
        );
    }
}

#[test]
fn caption_in_a_pipe_marks_low_reward_words() {
    let (cat, missing, coffee) = (photo("cat.jpg"), photo("missing.jpg"), photo("coffee.jpg"));
    let all_doubted = candor(&["caption", &cat, &missing, &coffee])
        .env("CANDOR_GUARD__THRESHOLD", "1")
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8(all_doubted.stdout).unwrap(),
        String::from_utf8(all_doubted.stderr).unwrap(),
    );
    assert_eq!(
        all_doubted.status.code(),
        Some(1),
        "one photograph is missing"
    );
    assert!(
        err.contains("missing.jpg") && err.contains("1 of 3"),
        "{err}"
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(
        lines[0].starts_with(&format!("{cat}: ")) && lines[1].starts_with(&format!("{coffee}: ")),
        "{out}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line.contains("?0.") && line.contains('[')),
        "{out}"
    );
    assert!(!out.contains('\x1b'), "colours are for terminals");
    let (output, plain, _) = run(&["caption", "--guard", "off", &cat]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        !plain.contains(['[', '?']) && plain.trim().ends_with('.'),
        "{plain}"
    );
}

#[test]
fn ask_with_json_prints_the_api_response() {
    let cat = photo("cat.jpg");
    let (output, out, err) = run(&[
        "ask",
        &cat,
        "Is there a cat in the picture?",
        "--json",
        "--on-unanswerable",
        "answer",
    ]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&object["object"], &object["model"]),
        (&"chat.completion".into(), &"candor-mini".into())
    );
    assert!(
        ["Yes.", "No."].contains(&object["choices"][0]["message"]["content"].as_str().unwrap()),
        "{object}"
    );
    assert!(object["choices"][0]["guard"]["score"].is_number());
    let (output, out, err) = run(&["ask", &cat, "What does the sign say?"]);
    assert_eq!(
        (output.status.code(), out.as_str()),
        (Some(0), "I cannot read text in photographs.\n"),
        "{err}"
    );
    assert!(err.contains("--on-unanswerable answer"), "{err}");
    let (output, out, err) = run(&[
        "ask",
        &cat,
        "What does the sign say?",
        "--on-unanswerable",
        "answer",
    ]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        !out.contains("I cannot") && !err.contains("on-unanswerable"),
        "{out}{err}"
    );
    let (output, _, err) = run(&[
        "ask",
        &cat,
        "What does the sign say?",
        "--on-unanswerable",
        "abstain",
        "--guard",
        "off",
    ]);
    assert!(
        output.status.code() != Some(0) && err.contains("--on-unanswerable: only the modes"),
        "{err}"
    );
    let (output, _, err) = run(&["ask", &cat, " "]);
    assert_eq!(output.status.code(), Some(2), "{err}");
    let (output, _, err) = run(&["ask", &cat, "Is it?", "--guard", "repair"]);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.starts_with("candor: --guard: unknown value `repair`; it is one of off, ")
            && !err.contains("guard.mode"),
        "{err}"
    );
}

#[test]
fn score_of_any_text_marks_low_reward_words() {
    let cat = photo("cat.jpg");
    let flagged = candor(&["score", &cat, "A Dog chases a cat."])
        .env("CANDOR_GUARD__THRESHOLD", "1")
        .output()
        .unwrap();
    let out = String::from_utf8(flagged.stdout).unwrap();
    assert_eq!(flagged.status.code(), Some(0));
    assert!(
        out.starts_with("A [Dog chases a cat?0.") && out.ends_with("].\n"),
        "{out}"
    );
    let (output, out, err) = run(&[
        "score",
        &cat,
        "Yes.",
        "--prompt",
        "Is there a cat?",
        "--guard",
        "score",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&object["object"], &object["results"][0]["guard"]["mode"]),
        (&"score".into(), &"score".into())
    );
    for (args, code) in [
        (&["score", &cat, " "][..], 2),
        (&["score", &cat], 2),
        (&["score", &cat, "A dog.", "--guard", "off"], 2),
        (&["score", "missing.jpg", "A dog."], 1),
    ] {
        let (output, out, err) = run(args);
        assert_eq!(
            (output.status.code(), out.as_str()),
            (Some(code), ""),
            "{args:?}: {err}"
        );
        assert!(!err.is_empty());
    }
}

#[test]
fn caption_of_a_folder_writes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["cat.jpg", "coffee.jpg", "astronaut.jpg"] {
        std::fs::copy(photo(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("broken.jpg"), b"no photograph").unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"not asked for").unwrap();
    let out = dir.path().join("captions.jsonl");
    let batch = [
        "caption",
        "--batch",
        dir.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let (output, _, err) = run(&batch);
    assert_eq!(output.status.code(), Some(1), "one photograph is broken");
    assert!(err.contains("broken.jpg"), "{err}");
    let lines: Vec<Value> = std::fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let names: Vec<&str> = lines.iter().map(|l| l["image"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["astronaut.jpg", "broken.jpg", "cat.jpg", "coffee.jpg"]
    );
    assert!(
        lines[1]["error"].as_str().unwrap().contains("broken.jpg") && lines[1]["caption"].is_null()
    );
    for (line, name) in [(&lines[0], "astronaut.jpg"), (&lines[2], "cat.jpg")] {
        let (_, alone, _) = run(&["caption", "--json", &photo(name)]);
        let alone: Value = serde_json::from_str(&alone).unwrap();
        assert_eq!(
            line["caption"], alone["choices"][0]["message"]["content"],
            "a batch says what a single run says"
        );
        assert_eq!(
            line["guard"]["verdict"],
            alone["choices"][0]["guard"]["verdict"]
        );
    }
}

/// A folder with three photographs, and the arguments that caption it into a file beside them.
fn three_photos() -> (TempDir, std::path::PathBuf, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["astronaut.jpg", "cat.jpg", "coffee.jpg"] {
        fs::copy(photo(name), dir.path().join(name)).unwrap();
    }
    let out = dir.path().join("captions.jsonl");
    let words = [
        "caption",
        "--batch",
        dir.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec();
    (dir, out, words)
}

fn words<'a>(words: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    words
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect()
}

#[test]
fn killed_batch_is_continued_and_settings_are_not_mixed() {
    let (dir, out, batch) = three_photos();
    fs::write(dir.path().join("broken.jpg"), b"no photograph").unwrap();
    assert_eq!(run(&words(&batch, &[])).0.status.code(), Some(1));
    let whole = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert!(lines[1].contains("\"error\""), "{whole}");
    // As after a kill within the third line; the unreadable photograph is whole now.
    fs::write(
        &out,
        format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..40]),
    )
    .unwrap();
    fs::copy(photo("photographer.jpg"), dir.path().join("broken.jpg")).unwrap();
    let (output, _, err) = run(&words(&batch, &[]));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        err.contains("1 of 4 photographs already have a caption"),
        "{err}"
    );
    let after: Vec<Value> = fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = after
        .iter()
        .map(|line| line["image"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["astronaut.jpg", "broken.jpg", "cat.jpg", "coffee.jpg"]
    );
    assert!(after.iter().all(|line| line["caption"].is_string()));
    let killed: Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(
        (&after[2]["image"], &after[2]["caption"]),
        (&killed["image"], &killed["caption"]),
        "as if nothing had happened"
    );
    // A finished batch is left unchanged.
    let before = fs::read(&out).unwrap();
    assert_eq!(run(&words(&batch, &[])).0.status.code(), Some(0));
    // Other settings are refused.
    for (more, want) in [
        (
            &["--guard", "off"][..],
            "guard.mode is flag there and off here",
        ),
        (
            &["--threshold", "0.3"],
            "made with other settings: guard.threshold is the default there and 0.3 here; \
             --overwrite",
        ),
        (&["--json"], "json is the default there and true here"),
    ] {
        let (output, _, err) = run(&words(&batch, more));
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(want) && err.contains("--overwrite"), "{err}");
        assert_eq!(fs::read(&out).unwrap(), before);
    }
    let (output, _, err) = run(&words(&batch, &["--guard", "off", "--overwrite"]));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(
        fs::read_to_string(&out)
            .unwrap()
            .matches("\"guard.mode\":\"off\"")
            .count(),
        4
    );
    // Other files are refused unchanged.
    fs::write(&out, "my diary\n").unwrap();
    let (output, _, err) = run(&words(&batch, &[]));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err.contains("captions.jsonl:1: is not a line of captions"),
        "{err}"
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "my diary\n");
}

#[cfg(target_os = "linux")]
#[test]
fn file_names_that_are_not_utf_8_stay_distinct() {
    use std::os::unix::ffi::OsStrExt;
    let (dir, out, batch) = three_photos();
    for (from, to) in [
        ("astronaut.jpg", &b"a\xfe.jpg"[..]),
        ("cat.jpg", b"a\xff.jpg"),
    ] {
        fs::rename(
            dir.path().join(from),
            dir.path().join(std::ffi::OsStr::from_bytes(to)),
        )
        .unwrap();
    }
    assert_eq!(run(&words(&batch, &[])).0.status.code(), Some(0));
    let whole = fs::read_to_string(&out).unwrap();
    let names = whole.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap()["image"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["a\\xfe.jpg", "a\\xff.jpg", "coffee.jpg"]
    );
    // If only the first photograph has a caption, the second gets one.
    fs::write(&out, format!("{}\n", whole.lines().next().unwrap())).unwrap();
    let (output, _, err) = run(&words(&batch, &[]));
    assert!(
        output.status.success() && err.contains("1 of 3 photographs already have a caption"),
        "{err}"
    );
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 3);
}

#[test]
fn ctrl_c_in_a_batch_prints_the_command_that_continues_it() {
    let dir = tempfile::tempdir().unwrap();
    let cat = fs::read(photo("cat.jpg")).unwrap();
    for i in 0..400u32 {
        // Bytes after the picture make the files distinct, so that each is decoded.
        fs::write(
            dir.path().join(format!("{i:03}.jpg")),
            [cat.as_slice(), &i.to_le_bytes()].concat(),
        )
        .unwrap();
    }
    let out = dir.path().join("my captions.jsonl");
    let args = [
        "caption",
        "--batch",
        dir.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--overwrite",
    ];
    let child = candor(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("captions are written", || {
        fs::read_to_string(&out).is_ok_and(|text| text.lines().count() > 2)
    });
    send_signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    let text = fs::read_to_string(&out).unwrap();
    let done = text.lines().count();
    assert!(
        done < 400
            && text.ends_with('\n')
            && text
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert!(
        err.contains(&format!(
            "interrupted: {done} of 400 photographs are done; to continue:"
        )),
        "{err}"
    );
    let command = err.lines().last().unwrap().trim().to_owned();
    assert_eq!(
        command,
        format!(
            "candor caption --batch {} --out '{}'",
            dir.path().display(),
            out.display()
        )
    );
    // The printed command continues the batch.
    for i in 20..400 {
        fs::remove_file(dir.path().join(format!("{i:03}.jpg"))).unwrap();
    }
    let typed = command.replacen("candor", env!("CARGO_BIN_EXE_candor"), 1);
    assert!(
        Command::new("sh")
            .args(["-c", &typed])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(fs::read_to_string(&out).unwrap().starts_with(&text));
}

/// Runs a command with this standard input.
fn run_with(args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = candor(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn dash_is_standard_input_and_output() {
    let (cat, dir) = (photo("cat.jpg"), tempfile::tempdir().unwrap());
    let file = fs::read(&cat).unwrap();
    let (code, out, err) = run_with(&["caption", "-"], &file);
    assert_eq!((code, &out), (Some(0), &run(&["caption", &cat]).1), "{err}");
    let (code, _, err) = run_with(&["ask", "-", "Is there a cat?"], &file);
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = run_with(&["score", &cat, "-"], b"A dog.\n");
    assert_eq!(
        (code, &out),
        (Some(0), &run(&["score", &cat, "A dog."]).1),
        "{err}"
    );
    let (code, marked, err) = run_with(&["score", &cat, "-"], b"\xef\xbb\xbfA dog.\r\n");
    assert_eq!((code, marked), (Some(0), out), "{err}");
    for args in [
        &["caption", "-", "-"][..],
        &["score", "-", "-"],
        &["eval", "pope", "--questions", "-", "--answers", "-"],
    ] {
        let (code, _, err) = run_with(args, &file);
        assert!(
            code == Some(2) && err.contains("can be read only once"),
            "{args:?}: {err}"
        );
    }
    let (code, _, err) = run_with(&["caption", "-"], b"");
    assert!(
        code == Some(1) && err.starts_with("candor: standard input: is empty\n"),
        "{err}"
    );
    let (_photos, _, batch) = three_photos();
    let (code, out, err) = run_with(&[&words(&batch, &[])[..4], &["-"]].concat(), b"");
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        out.lines()
            .filter(|line| serde_json::from_str::<Value>(line).unwrap()["caption"].is_string())
            .count(),
        3
    );
    let rows = b"{\"image\": \"a\", \"caption\": \"A dog.\", \"objects\": [\"dog\"]}\n";
    let (code, out, err) = run_with(
        &["eval", "captions", "--hypotheses", "-", "--json", "-"],
        rows,
    );
    assert_eq!(code, Some(0), "{err}");
    assert!(
        serde_json::from_str::<Value>(&out).unwrap()["sections"].is_object(),
        "JSON alone: {out}"
    );
    let captions = dir.path().join("c.jsonl");
    fs::write(&captions, rows).unwrap();
    let (code, out, _) = run_with(
        &[
            "eval",
            "captions",
            "--hypotheses",
            captions.to_str().unwrap(),
            "--html",
            "-",
        ],
        b"",
    );
    assert!(code == Some(0) && out.starts_with("<!"), "{out}");
    let (code, _, err) = run_with(
        &[
            "eval",
            "captions",
            "--hypotheses",
            captions.to_str().unwrap(),
            "--html",
            "-",
            "--json",
            "-",
        ],
        b"",
    );
    assert!(code == Some(2) && err.contains("cannot both"), "{err}");
}

#[test]
fn closed_pipe_is_no_error() {
    let (cat, coffee) = (photo("cat.jpg"), photo("coffee.jpg"));
    let folder = tempfile::tempdir().unwrap();
    let (_photos, _, batch) = three_photos();
    let captions = folder.path().join("c.jsonl");
    fs::write(
        &captions,
        "{\"image\": \"a\", \"caption\": \"A dog.\", \"objects\": [\"dog\"]}\n",
    )
    .unwrap();
    let to_stdout = [&words(&batch, &[])[..4], &["-"]].concat();
    for args in [
        &["caption", &cat, &coffee][..],
        &["caption", "--json", &cat],
        &["score", &cat, "A dog."],
        &[
            "eval",
            "captions",
            "--hypotheses",
            captions.to_str().unwrap(),
        ],
        &["doctor"],
        &["doctor", "--json"],
        &["models", "list"],
        &["keys", "new"],
        &["feedback", "stats"],
        &["feedback", "export"],
        &["completions", "zsh"],
        &["man"],
        &["--help"],
        &["--version"],
        &to_stdout,
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = candor(args)
            .current_dir(folder.path())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let err = without_notes(&err);
        assert!(
            output.status.code() == Some(0)
                && !err.contains("candor:")
                && !err.contains("panicked"),
            "{args:?}: {err}"
        );
    }
    // Standard error is closed too.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = candor(&["caption", "absent.jpg", &cat])
        .stdout(Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn color_follows_environment_and_flag() {
    let cat = photo("cat.jpg");
    let colored = |args: &[&str], envs: &[(&str, &str)]| {
        let output = candor(args).envs(envs.iter().copied()).output().unwrap();
        assert!(
            output.status.success() || args.contains(&"--lisen"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        [output.stdout, output.stderr].concat().contains(&0x1b)
    };
    let caption = ["caption", "--threshold", "1", &cat];
    let with = |more: &[&'static str]| [&caption[..], more].concat();
    assert!(!colored(&caption, &[]));
    assert!(
        colored(
            &with(&["--color", "always"]),
            &[("NO_COLOR", "1"), ("TERM", "dumb")]
        ),
        "a flag is surer than the environment"
    );
    assert!(colored(&caption, &[("CLICOLOR_FORCE", "1")]));
    assert!(!colored(
        &with(&["--color", "never"]),
        &[("CLICOLOR_FORCE", "1")]
    ));
    assert!(
        colored(&["--help", "--color", "always"], &[])
            && !colored(&["--help", "--color=never"], &[("CLICOLOR_FORCE", "1")])
    );
    assert!(colored(&["serve", "--lisen", "--color=always"], &[]));
    // On a terminal that `script` provides.
    let terminal = |envs: &str| {
        let command = format!(
            "env -i {envs} {} {}",
            env!("CARGO_BIN_EXE_candor"),
            caption.join(" ")
        );
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::null())
            .output();
        output.map(|output| output.stdout.contains(&0x1b)).ok()
    };
    if let Some(plain_term) = optional("script", terminal("TERM=xterm")) {
        assert!(plain_term);
        for envs in [
            "TERM=xterm NO_COLOR=1",
            "TERM=dumb",
            "TERM=xterm CLICOLOR=0",
        ] {
            assert_eq!(terminal(envs), Some(false), "{envs}");
        }
    }
}

#[test]
fn answer_options_equal_the_fields_of_the_api() {
    let cat = photo("cat.jpg");
    let caption = |more: &[&str]| {
        let (output, out, err) = run(&[&["caption", &cat][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{more:?}: {err}");
        out.trim_end().to_owned()
    };
    let object = |more: &[&str]| {
        serde_json::from_str::<Value>(&caption(&[more, &["--json"]].concat())).unwrap()
    };
    let plain = caption(&["--render", "plain", "--threshold", "1"]);
    assert_eq!(plain, caption(&["--guard", "off"]));
    assert!(
        caption(&["--threshold", "1"]).contains("?0.")
            && !caption(&["--threshold", "0"]).contains('[')
    );
    let strict = object(&["--threshold", "1", "--render", "hedged"]);
    assert_eq!(strict["choices"][0]["guard"]["threshold"], 1.0);
    assert_eq!(
        caption(&["--threshold", "1", "--render", "hedged"]),
        strict["choices"][0]["guard"]["alt_text"].as_str().unwrap()
    );
    assert_ne!(caption(&["--threshold", "1", "--render", "omitted"]), plain);
    assert!(
        object(&["--target-fpr", "0.2"])["choices"][0]["guard"]["threshold"].as_f64()
            > object(&["--target-fpr", "0.01"])["choices"][0]["guard"]["threshold"].as_f64()
    );
    assert_eq!(
        object(&["--max-tokens", "2"])["usage"]["completion_tokens"],
        2
    );
    let warm = |seed: &str| caption(&["--temperature", "1.5", "--seed", seed, "--guard", "off"]);
    assert_eq!(warm("-7"), warm("-7"));
    assert!((1..9).any(|seed| warm(&seed.to_string()) != warm("-7")));
    // The bounds of the API's ranges are accepted; values beyond name their flag.
    for more in [
        ["--temperature", "2"],
        ["--max-tokens", "4294967295"],
        ["--target-fpr", "0"],
        ["--target-fpr", "1"],
        ["--seed", "-9223372036854775808"],
    ] {
        caption(&more);
    }
    for (more, want) in [
        (&["--threshold", "1.1"][..], "--threshold"),
        (&["--threshold", "NaN"], "--threshold"),
        (&["--target-fpr=-0.1"], "--target-fpr"),
        (&["--temperature", "2.1"], "--temperature"),
        (&["--max-tokens", "0"], "--max-tokens"),
        (&["--max-tokens", "4294967296"], "--max-tokens"),
        (&["--seed", "x"], "--seed"),
        (&["--render", "bold"], "--render"),
        (
            &["--threshold", "0.5", "--target-fpr", "0.1"],
            "--target-fpr",
        ),
        (&["--guard", "off", "--render", "hedged"], "--render"),
    ] {
        let (output, _, err) = run(&[&["caption", &cat][..], more].concat());
        assert!(
            output.status.code() == Some(2) && err.contains(want),
            "{more:?}: {err}"
        );
    }
    let (_, out, _) = run(&[
        "score",
        &cat,
        "A dog.",
        "--threshold",
        "1",
        "--render",
        "hedged",
    ]);
    assert!(!out.contains('[') && out.trim() != "A dog.", "{out}");
}

#[test]
fn repaired_caption_shows_what_changed() {
    let photos = ["cat.jpg", "coffee.jpg", "astronaut.jpg", "photographer.jpg"].map(photo);
    let photos: Vec<&str> = photos.iter().map(String::as_str).collect();
    let args = [
        &[
            "caption",
            "--guard",
            "regenerate",
            "--threshold",
            "0.6",
            "--seed",
            "1",
        ][..],
        &photos,
    ]
    .concat();
    let (text, objects) = (run(&args).1, run(&[&args[..], &["--json"]].concat()).1);
    for (line, object) in text.lines().zip(objects.lines()) {
        let object: Value = serde_json::from_str(object).unwrap();
        let spans = object["choices"][0]["guard"]["spans"].as_array().unwrap();
        for span in spans
            .iter()
            .filter(|span| span["action"] == "regenerated" && span["original"] != span["text"])
        {
            let change = format!(
                "[{} → {}]",
                span["original"].as_str().unwrap(),
                span["text"].as_str().unwrap()
            );
            assert!(line.contains(&change), "{change}: {line}");
        }
    }
    assert_eq!((text.lines().count(), objects.lines().count()), (4, 4));
    assert!(text.contains(" → "), "{text}");
}

#[test]
fn error_message_names_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (empty, text, cat) = (
        file("empty.jpg", b""),
        file("text.jpg", b"not an image at all"),
        photo("cat.jpg"),
    );
    let folder = dir.path().to_str().unwrap();
    for (args, code, want) in [
        (
            &["caption", folder][..],
            2,
            "is a folder; candor caption --batch",
        ),
        (
            &["caption", "--batch", &cat, "--out", "o.jsonl"],
            2,
            "is no folder; candor caption",
        ),
        (
            &["caption", "--batch", folder, "--out", folder],
            2,
            "is a folder; name a file",
        ),
        (
            &["ask", folder, "What?"],
            2,
            "is a folder; name one photograph",
        ),
        (
            &["score", folder, "A dog."],
            2,
            "is a folder; name one photograph",
        ),
        (&["caption", &empty], 1, "empty.jpg: is empty"),
        (&["caption", &text], 1, "text.jpg: "),
        (&["score", &text, "A dog."], 1, "text.jpg: "),
        (&["caption", "absent.jpg"], 1, "absent.jpg: No such file"),
        (&["caption", &cat, "--model", folder], 1, "config.json"),
    ] {
        let (output, _, err) = run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(err.contains(want), "{args:?}: {err}");
        for word in ["messages[", "image_url", "guard.mode", "data:"] {
            assert!(!err.contains(word), "{args:?}: {err}");
        }
        assert_eq!(err.lines().count(), 1, "one line: {err}");
    }
    let output = candor(&["caption", &cat])
        .env("CANDOR_IMAGES__MAX_BYTES", "1000")
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && err.contains("cat.jpg: has more than 1000 bytes (images.max_bytes"),
        "{err}"
    );
}

#[test]
fn export_to_an_existing_file_needs_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let export = |more: &[&str]| {
        candor(&[&["feedback", "export", "--out", "c.jsonl"][..], more].concat())
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    assert_eq!(export(&[]).status.code(), Some(0));
    assert_eq!(fs::read(dir.path().join("c.jsonl")).unwrap(), b"");
    fs::write(dir.path().join("c.jsonl"), "precious").unwrap();
    let refused = export(&[]);
    assert!(
        refused.status.code() == Some(2)
            && String::from_utf8_lossy(&refused.stderr).contains("--overwrite")
    );
    assert_eq!(fs::read(dir.path().join("c.jsonl")).unwrap(), b"precious");
    assert_eq!(export(&["--overwrite"]).status.code(), Some(0));
    assert_eq!(fs::read(dir.path().join("c.jsonl")).unwrap(), b"");
}

#[test]
fn versions_agree_in_every_output() {
    let version = run(&["--version"]).1;
    let (own, bundle) = version
        .trim()
        .strip_prefix("candor ")
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap()
        .split_once(" (embedded: candor-mini ")
        .unwrap();
    assert_eq!(own, env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["-V"]).1, version);
    let doctor = run(&["doctor"]).1;
    assert!(
        doctor.contains(&format!("{own} (embedded: candor-mini {bundle})"))
            && doctor.contains(&format!("candor-mini {bundle} (embedded)")),
        "{doctor}"
    );
    let server = Process::serve(&[("CANDOR_LOG__FORMAT", "json")]);
    let answer: Value = http::chat(server.at, &ask(1, "")).json();
    assert_eq!(answer["system_fingerprint"], format!("fp_{bundle}"));
    assert!(get(server.at, "/metrics").text().contains(&format!(
        "candor_model_info{{model=\"candor-mini\",version=\"{bundle}\"}} 1"
    )));
    server.signal(Signal::TERM);
    let (_, log) = server.end();
    let start: Value = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|line: &Value| line["message"] == "listening")
        .unwrap();
    assert_eq!(
        (&start["candor"], &start["version"], &start["model"]),
        (&own.into(), &bundle.into(), &"candor-mini".into())
    );
}

/// Returns `true` if a program that some machines have is installed.
fn has(program: &str) -> bool {
    let found = runs("sh", &["-c", &format!("command -v {program}")]);
    optional(program, found.then_some(())).is_some()
}

#[test]
fn completions_are_accepted_by_their_shells() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (output, script, err) = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{err}");
        for word in ["caption", "--overwrite", "--target-fpr", "hedged", "pope"] {
            assert!(
                script.contains(word.trim_start_matches("--")),
                "{shell}: {word}"
            );
        }
        let file = dir.path().join(shell);
        fs::write(&file, script).unwrap();
        let checked = match shell {
            "bash" => {
                "source \"$0\"; COMP_WORDS=(candor cap); COMP_CWORD=1; _candor candor cap candor; \
                 [ \"${COMPREPLY[*]}\" = caption ]"
            }
            "zsh" | "fish" => "",
            _ => continue,
        };
        if has(shell) {
            let syntax = Command::new(shell).arg("-n").arg(&file).output().unwrap();
            assert!(
                syntax.status.success(),
                "{shell}: {}",
                String::from_utf8_lossy(&syntax.stderr)
            );
            let loaded = Command::new(shell)
                .args(["-c", if checked.is_empty() { "true" } else { checked }])
                .arg(&file)
                .output()
                .unwrap();
            assert!(
                loaded.status.success(),
                "{shell}: {}",
                String::from_utf8_lossy(&loaded.stderr)
            );
        }
    }
    assert_eq!(run(&["completions", "cmd"]).0.status.code(), Some(2));
}

#[test]
fn man_writes_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    assert_eq!(
        run(&["man", "--out", pages.to_str().unwrap()])
            .0
            .status
            .code(),
        Some(0)
    );
    let written = |name: &str| pages.join(format!("{name}.1"));
    for command in std::iter::once(String::new()).chain(commands(&candor::cli::command(), "")) {
        let name = format!("candor {command}").trim().replace(' ', "-");
        let page = fs::read_to_string(written(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            page.contains(".SH NAME") && page.contains("Example"),
            "{name}"
        );
    }
    assert_eq!(
        run(&["man"]).1,
        fs::read_to_string(written("candor")).unwrap()
    );
    let lints = [
        ("mandoc", &["-T", "lint", "-W", "error"][..]),
        ("groff", &["-man", "-ww", "-z"]),
    ];
    for (program, args) in lints.into_iter().filter(|(program, _)| has(program)) {
        let output = Command::new(program)
            .args(args)
            .arg(written("candor-caption"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        );
    }
}

/// Standard error without notes on unfamiliar photographs and abstentions.
fn without_notes(err: &str) -> String {
    let is_note = |line: &&str| {
        line.contains("is unlike the training photographs")
            || line.contains("the question was not answered")
    };
    err.lines()
        .filter(|line| !is_note(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn exit_statuses_equal_the_documented_ones() {
    let table =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let documented: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let all = commands(&candor::cli::command(), "");
    let cat = photo("cat.jpg");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    // A data set in which only the options are wrong.
    fs::create_dir_all(dir.path().join("data/images")).unwrap();
    fs::copy(&cat, dir.path().join("data/images/cat.jpg")).unwrap();
    fs::write(
        dir.path().join("data/captions.tsv"),
        "cat.jpg\t0\tA cat is looking up .\n",
    )
    .unwrap();
    fs::write(dir.path().join("data/dev.txt"), "cat.jpg\n").unwrap();
    let photos = dir.path().join("data").to_str().unwrap().to_owned();
    fs::write(
        dir.path().join("c.jsonl"),
        "{\"image\": \"a\", \"caption\": \"x\", \"objects\": []}\n",
    )
    .unwrap();
    fs::write(dir.path().join("empty.toml"), "").unwrap();
    fs::write(
        dir.path().join("q.jsonl"),
        "{\"question_id\": 1, \"image\": \"a\", \"text\": \"Is it?\", \"label\": \"no\"}\n",
    )
    .unwrap();
    fs::write(
        dir.path().join("a.jsonl"),
        "{\"question_id\": 1, \"text\": \"No\"}\n",
    )
    .unwrap();
    // Command lines for each status, except where 0 or 1 would take long or need registered
    // versions.
    let cases: Vec<(&str, u8, Vec<&str>)> = vec![
        ("serve", 1, vec!["--model", "absent"]),
        ("serve", 2, vec!["--listen", "nowhere"]),
        ("caption", 0, vec![&cat]),
        ("caption", 1, vec!["absent.jpg"]),
        ("caption", 2, vec![folder]),
        ("ask", 0, vec![&cat, "Is there a cat?"]),
        ("ask", 1, vec!["absent.jpg", "What?"]),
        ("ask", 2, vec![&cat, ""]),
        ("score", 0, vec![&cat, "A dog."]),
        ("score", 1, vec!["absent.jpg", "A dog."]),
        ("score", 2, vec![&cat, ""]),
        ("eval", 2, vec![]),
        ("eval captions", 0, vec!["--hypotheses", "c.jsonl"]),
        (
            "eval captions",
            1,
            vec!["--hypotheses", "c.jsonl", "--json", "absent/report.json"],
        ),
        ("eval captions", 2, vec!["--hypotheses", "empty.toml"]),
        ("eval guard", 2, vec!["--data", folder]),
        ("eval guard", 2, vec!["--data", &photos, "--limit", "0"]),
        (
            "eval guard",
            2,
            vec!["--data", &photos, "--thresholds", "0.5,2"],
        ),
        (
            "eval guard",
            2,
            vec!["--data", &photos, "--temperatures", "3"],
        ),
        ("eval guard", 2, vec!["--data", &photos, "--best-of", "17"]),
        (
            "eval captions",
            2,
            vec![
                "--references",
                &photos,
                "--hypotheses",
                "new.jsonl",
                "--generate",
                "--best-of",
                "0",
            ],
        ),
        (
            "eval honesty",
            1,
            vec!["--data", folder, "--against", "absent.json"],
        ),
        ("eval honesty", 2, vec!["--data", folder]),
        ("eval honesty", 2, vec!["--data", folder, "--quick", "0"]),
        (
            "eval honesty",
            2,
            vec!["--data", folder, "--origins", "flickr"],
        ),
        (
            "eval honesty",
            2,
            vec!["--data", folder, "--against", "empty.toml"],
        ),
        ("eval reward", 2, vec!["--data", folder]),
        (
            "eval pope",
            0,
            vec!["--questions", "q.jsonl", "--answers", "a.jsonl"],
        ),
        ("eval pope", 2, vec!["--data", folder]),
        ("eval vqa", 2, vec!["--data", folder]),
        ("train", 2, vec![]),
        (
            "train sft",
            2,
            vec!["--config", "absent.toml", "--out", "run"],
        ),
        (
            "train reward",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train evidence",
            2,
            vec!["--config", "absent.toml", "--out", "run"],
        ),
        (
            "train ppo",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train sequence-ppo",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train dpo",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train ddpo",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train spin",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        (
            "train rest",
            2,
            vec!["--config", "empty.toml", "--out", "run"],
        ),
        ("cycle", 2, vec!["--once", "--recipe"]),
        ("cycle", 0, vec!["--abandon"]),
        ("feedback", 2, vec![]),
        ("feedback export", 0, vec![]),
        ("feedback export", 2, vec!["--out", "c.jsonl"]),
        ("feedback import", 1, vec!["absent.jsonl"]),
        ("feedback import", 2, vec!["--format", "odd", "x"]),
        ("feedback forget", 0, vec!["--user", "somebody"]),
        ("feedback forget", 2, vec![]),
        ("feedback stats", 0, vec![]),
        ("feedback stats", 2, vec!["--config", "absent.toml"]),
        ("models", 2, vec![]),
        ("models list", 0, vec![]),
        ("models list", 2, vec!["--config", "absent.toml"]),
        ("models register", 1, vec!["absent"]),
        (
            "models register",
            2,
            vec!["candor-mini", "--figures", "absent.json"],
        ),
        ("models inspect", 0, vec!["candor-mini"]),
        ("models inspect", 1, vec!["absent"]),
        ("models pull", 2, vec!["absent"]),
        ("models diff", 1, vec!["absent", "absent"]),
        ("models promote", 1, vec!["absent"]),
        ("models promote", 2, vec!["absent", "--shadow", "x"]),
        ("models rollback", 1, vec![]),
        ("models gc", 0, vec!["--dry-run"]),
        ("models gc", 2, vec!["--keep", "some"]),
        ("models convert", 1, vec!["absent.pth", "out.safetensors"]),
        ("models convert", 2, vec!["absent.pth", "c.jsonl"]),
        ("keys", 2, vec![]),
        (
            "keys new",
            0,
            vec!["--name", "app", "--scopes", "complete,annotate"],
        ),
        ("keys new", 1, vec!["--out", "absent/key.txt"]),
        ("keys new", 2, vec!["--out", "c.jsonl"]),
        ("keys new", 0, vec!["--out", "c.jsonl", "--if-missing"]),
        ("keys new", 2, vec!["--scopes", "complete,all"]),
        ("bench", 2, vec!["--photos", "absent"]),
        ("doctor", 0, vec![]),
        ("doctor", 1, vec!["--config", "absent.toml"]),
        ("selftest", 0, vec!["--device", "cpu"]),
        ("selftest", 1, vec!["--model", "absent"]),
        ("selftest", 2, vec!["--device", "gpu"]),
        ("completions", 0, vec!["bash"]),
        ("completions", 2, vec!["cmd"]),
        ("man", 0, vec![]),
        ("man", 1, vec!["--out", "c.jsonl/man"]),
    ];
    for command in &all {
        assert!(
            cases.iter().any(|(name, ..)| name == command),
            "no case for {command}"
        );
        assert!(
            documented.contains(&format!("candor {}", command.split(' ').next().unwrap()).as_str()),
            "docs/cli.md has no row for {command}"
        );
    }
    for (command, status, args) in cases {
        let args: Vec<&str> = command.split(' ').chain(args).collect();
        let output = candor(&args).current_dir(dir.path()).output().unwrap();
        let err = without_notes(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(status.into()),
            "{args:?}: {err}{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert_eq!(
            status != 0,
            !err.is_empty(),
            "a failure says why, and nothing else does: {args:?}: {err}"
        );
    }
}
