//! The binary: what it prints and how it ends.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{self, get},
    served::{ask, eventually},
};

pub fn candor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (Output, String, String) {
    let output = candor(args).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap());
    (output, out, err)
}

/// `candor serve` as a process of its own, on a free port.
pub struct Process {
    pub child: Child,
    pub at: SocketAddr,
    /// Where it is and what it keeps.
    _folder: TempDir,
}

impl Process {
    pub fn serve(envs: &[(&str, &str)]) -> Self {
        Self::start(candor(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]), envs)
    }

    /// With a command that serves.
    pub fn start(mut command: Command, envs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            command.envs(envs.iter().copied()).current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        eventually("the server is ready", || get(at, "/health/ready").status == 200);
        Self { child, at, _folder: folder }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Its exit status and what it logged.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
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
fn misuse_is_2_failure_1_and_help_0() {
    for args in [&["--help"][..], &["serve", "--help"], &["doctor", "--help"], &["--version"]] {
        assert_eq!(run(args).0.status.code(), Some(0), "{args:?}");
    }
    for args in [&[][..], &["dance"], &["serve", "--lisen", "x"], &["serve", "--device", "gpu"]] {
        let (output, out, err) = run(args);
        assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{args:?}");
        assert!(!err.is_empty());
    }
    let (output, _, err) = run(&["serve", "--listen", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err.contains("server.listen: must be HOST:PORT") && err.contains("(flag --listen)"), "{err}");
    let (output, _, err) = run(&["serve", "--model", "no-such-model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("no-such-model") && err.contains("candor-mini"), "{err}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (output, _, err) = run(&["serve", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains(&taken.local_addr().unwrap().to_string()) && err.contains("server.listen"), "{err}");
}

#[test]
fn doctor_reports_for_people_and_for_programs() {
    let (output, out, _) = run(&["doctor", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(0), "{out}");
    for word in ["device    cpu", "threads", "memory", "candor-mini", "embedded", "no problems"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let json: Value = serde_json::from_str(&run(&["doctor", "--json"]).1).unwrap();
    assert_eq!(json["bundles"][0]["name"], "candor-mini");
    assert!(json["bundles"][0]["context_len"].as_u64().unwrap() > 49 && json["cpu"]["threads"].as_u64().unwrap() > 0);
    let output = candor(&["doctor", "--json"]).env("CANDOR_SERVER__LISTNE", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &json["config_problems"][0];
    assert_eq!((&problem["key"], &problem["origin"]), (&"server.listne".into(), &"environment variable CANDOR_SERVER__LISTNE".into()));
}

#[test]
fn sigterm_ends_it_well_and_every_line_of_a_request_has_its_id() {
    let server = Process::serve(&[("CANDOR_LOG__FORMAT", "json"), ("CANDOR_LOG__LEVEL", "debug,hyper=warn")]);
    let body = ask(1, "").to_string();
    let raw = http::request("POST", "/v1/chat/completions", &[http::JSON, ("x-request-id", "trace-9")], body.as_bytes());
    assert_eq!(http::exchange(server.at, &raw).status, 200);
    let at = server.at;
    server.signal("-TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(std::net::TcpStream::connect(at).is_err());
    let lines: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let answered = lines.iter().find(|l| l["span"]["id"] == "trace-9" && l["message"] == "answered").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&answered["status"], &answered["span"]["path"]), (&200.into(), &"/v1/chat/completions".into()));
    assert!(answered["span"]["completion"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(lines.iter().any(|l| l["message"] == "stopped"));
}

fn photo(name: &str) -> String {
    format!("{}/tests/fixtures/photos/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_help_shows_an_example() {
    let commands = [
        "serve",
        "caption",
        "ask",
        "score",
        "train",
        "train sft",
        "train reward",
        "models",
        "models list",
        "models register",
        "models inspect",
        "models diff",
        "models promote",
        "models rollback",
        "models convert",
        "bench",
        "doctor",
    ];
    for command in commands {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let (output, out, _) = run(&args);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let example = out.split("Example").nth(1).unwrap_or_else(|| panic!("{command}: no example in {out}"));
        assert!(example.contains(&format!("candor {command}")), "{command}: {out}");
    }
}

#[test]
fn photographs_are_captioned_and_marked_in_a_pipe() {
    let (cat, missing, coffee) = (photo("cat.jpg"), photo("missing.jpg"), photo("coffee.jpg"));
    let all_doubted = candor(&["caption", &cat, &missing, &coffee]).env("CANDOR_GUARD__THRESHOLD", "1").output().unwrap();
    let (out, err) = (String::from_utf8(all_doubted.stdout).unwrap(), String::from_utf8(all_doubted.stderr).unwrap());
    assert_eq!(all_doubted.status.code(), Some(1), "one photograph is missing");
    assert!(err.contains("missing.jpg") && err.contains("1 of 3"), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].starts_with(&format!("{cat}: ")) && lines[1].starts_with(&format!("{coffee}: ")), "{out}");
    assert!(lines.iter().all(|line| line.contains("?0.") && line.contains('[')), "{out}");
    assert!(!out.contains('\x1b'), "colours are for terminals");
    let (output, plain, _) = run(&["caption", "--guard", "off", &cat]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!plain.contains(['[', '?']) && plain.trim().ends_with('.'), "{plain}");
}

#[test]
fn questions_are_answered_and_json_is_the_apis_object() {
    let cat = photo("cat.jpg");
    let (output, out, err) = run(&["ask", &cat, "Is there a cat in the picture?", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&object["object"], &object["model"]), (&"chat.completion".into(), &"candor-mini".into()));
    assert!(["Yes.", "No."].contains(&object["choices"][0]["message"]["content"].as_str().unwrap()), "{object}");
    assert!(object["choices"][0]["guard"]["score"].is_number());
    let (output, _, err) = run(&["ask", &cat, " "]);
    assert_eq!(output.status.code(), Some(2), "{err}");
    let (output, _, err) = run(&["ask", &cat, "Is it?", "--guard", "repair"]);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("guard.mode") && err.contains("--guard"), "{err}");
}

#[test]
fn a_text_of_anybody_is_scored_and_marked() {
    let cat = photo("cat.jpg");
    let doubted = candor(&["score", &cat, "A Dog chases a cat."]).env("CANDOR_GUARD__THRESHOLD", "1").output().unwrap();
    let out = String::from_utf8(doubted.stdout).unwrap();
    assert_eq!(doubted.status.code(), Some(0));
    assert!(out.starts_with("A [Dog chases a cat?0.") && out.ends_with("].\n"), "{out}");
    let (output, out, err) = run(&["score", &cat, "Yes.", "--prompt", "Is there a cat?", "--guard", "score", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{err}");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&object["object"], &object["results"][0]["guard"]["mode"]), (&"score".into(), &"score".into()));
    for (args, code) in [
        (&["score", &cat, " "][..], 2),
        (&["score", &cat], 2),
        (&["score", &cat, "A dog.", "--guard", "off"], 2),
        (&["score", "missing.jpg", "A dog."], 1),
        (&["score", &cat, &"dog ".repeat(300)], 1),
    ] {
        let (output, out, err) = run(args);
        assert_eq!((output.status.code(), out.as_str()), (Some(code), ""), "{args:?}: {err}");
        assert!(!err.is_empty());
    }
}

#[test]
fn a_folder_is_captioned_into_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["cat.jpg", "coffee.jpg", "astronaut.jpg"] {
        std::fs::copy(photo(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("broken.jpg"), b"no photograph").unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"not asked for").unwrap();
    let out = dir.path().join("captions.jsonl");
    let (output, _, err) = run(&["caption", "--batch", dir.path().to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "one photograph is broken");
    assert!(err.contains("broken.jpg"), "{err}");
    let lines: Vec<Value> = std::fs::read_to_string(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|l| l["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["astronaut.jpg", "broken.jpg", "cat.jpg", "coffee.jpg"]);
    assert!(lines[1]["error"].as_str().unwrap().contains("broken.jpg") && lines[1]["caption"].is_null());
    for (line, name) in [(&lines[0], "astronaut.jpg"), (&lines[2], "cat.jpg")] {
        let (_, alone, _) = run(&["caption", "--json", &photo(name)]);
        let alone: Value = serde_json::from_str(&alone).unwrap();
        assert_eq!(line["caption"], alone["choices"][0]["message"]["content"], "a batch says what a single run says");
        assert_eq!(line["guard"]["verdict"], alone["choices"][0]["guard"]["verdict"]);
    }
}
