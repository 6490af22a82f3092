//! `candor serve` as a process: what SIGHUP changes, what the log says, and which version it names.

use std::{collections::BTreeSet, fs, io::Read, path::Path};

use candor::config::ApiKey;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cli::{Process, candor},
    http::{self, JSON, exchange, get, request},
    served::{about, and, ask, data_url, eventually},
};

fn key(name: &str, secret: &str) -> String {
    let digest = ApiKey::new(name, secret).key_sha256;
    format!("[[keys]]\nname = '{name}'\nkey_sha256 = '{digest}'\n")
}

fn models(server: &Process, secret: &str) -> u16 {
    exchange(
        server.at,
        &request(
            "GET",
            "/v1/models",
            &[("authorization", &format!("Bearer {secret}"))],
            b"",
        ),
    )
    .status
}

fn reloads(server: &Process, outcome: &str) -> f64 {
    let text = get(server.at, "/metrics").text().to_owned();
    let series = format!("candor_config_reloads_total{{outcome=\"{outcome}\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&series))
        .unwrap()
        .parse()
        .unwrap()
}

/// With a configuration file.
fn configured(file: &Path) -> Process {
    let mut command = candor(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--device",
        "cpu",
        "--config",
    ]);
    command.arg(file);
    Process::start(command, &[])
}

#[test]
fn sighup_applies_keys_and_log_level_and_names_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("candor.toml");
    let write = |text: String| fs::write(&file, text).unwrap();
    write(format!(
        "[log]\nformat = 'json'\nlevel = 'warn'\n{}{}",
        key("one", "sk-one"),
        key("two", "sk-two")
    ));
    let server = configured(&file);
    assert_eq!(
        (models(&server, "sk-one"), models(&server, "sk-new")),
        (200, 401)
    );

    write(format!(
        "[server]\nmax_concurrent = 7\n[log]\nformat = 'json'\nlevel = 'info'\n{}{}",
        key("two", "sk-two"),
        key("new", "sk-new")
    ));
    server.signal(Signal::HUP);
    eventually("it is read again", || reloads(&server, "applied") == 1.0);
    assert_eq!(
        (
            models(&server, "sk-one"),
            models(&server, "sk-two"),
            models(&server, "sk-new")
        ),
        (401, 200, 200)
    );

    // Each of these is refused as a whole: the keys stay.
    for broken in [
        "[log]\nlevel = ''\n",
        "keys = 3\n",
        "no toml",
        "[servr]\nlisten = 'x'\n",
        "[[keys]]\nname = 'x'\nkey_sha256 = 'sk-secret'\n",
    ] {
        let before = reloads(&server, "refused");
        write(broken.to_owned());
        server.signal(Signal::HUP);
        eventually("it is refused", || {
            reloads(&server, "refused") == before + 1.0
        });
    }
    fs::remove_file(&file).unwrap();
    server.signal(Signal::HUP);
    eventually("a missing file is refused", || {
        reloads(&server, "refused") == 6.0
    });
    assert_eq!(
        (
            models(&server, "sk-new"),
            models(&server, "sk-two"),
            models(&server, "sk-one")
        ),
        (200, 200, 401)
    );

    write(format!(
        "[log]\nformat = 'json'\nlevel = 'info'\n[admin]\nkey_sha256 = '{}'\n",
        "0".repeat(64)
    ));
    server.signal(Signal::HUP);
    eventually("there are no keys", || reloads(&server, "applied") == 2.0);
    assert_eq!(models(&server, "sk-one"), 200);
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = lines
        .iter()
        .find(|line| line["changed"].is_string())
        .unwrap_or_else(|| panic!("{log}"));
    assert_eq!(first["changed"], "keys (added new; removed one), log.level");
    assert!(
        lines
            .iter()
            .any(|line| line["options"] == "server.max_concurrent" && line["level"] == "WARN"),
        "{log}"
    );
    let refused: Vec<&Value> = lines
        .iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    assert!(
        refused.len() == 6
            && refused
                .iter()
                .all(|line| line["why"].as_str().is_some_and(|why| !why.is_empty())),
        "{log}"
    );
    assert!(
        lines.iter().any(|line| line["message"]
            .as_str()
            .unwrap()
            .contains("anybody may use the API")),
        "{log}"
    );
    assert!(
        !log.contains("sk-") && !log.contains(&key("one", "sk-one")[36..60]),
        "{log}"
    );
}

#[test]
fn sighup_without_a_file_changes_nothing() {
    let server = Process::serve(&[("CANDOR_LOG__LEVEL", "info")]);
    for time in 1..=3 {
        server.signal(Signal::HUP);
        eventually("it is read again", || {
            reloads(&server, "applied") == f64::from(time)
        });
    }
    assert_eq!(http::chat(server.at, &ask(1, "")).status, 200);
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("nothing has changed"), "{log}");
}

/// A photograph, a prompt, a name, a header: whatever a client writes, in a good request or in a
/// bad one, at the most talkative level.
#[test]
fn log_contains_no_client_text() {
    const MARK: &str = "zebramarker";
    let mut server = Process::serve(&[
        ("CANDOR_LOG__LEVEL", "trace"),
        ("CANDOR_LOG__FORMAT", "json"),
    ]);
    // It is read while it is written: lines that nobody reads are dropped.
    let mut stderr = server.child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    let photo =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/cat.jpg"))
            .unwrap();
    let url = data_url("image/jpeg", &photo);
    let good = and(
        about(&url, &format!("What is {MARK}?")),
        json!({"user": MARK, "stop": [MARK], "metadata": {MARK: MARK}, "max_tokens": 8}),
    );
    let mut refused = BTreeSet::new();
    let mut send = |method: &str, path: &str, headers: &[(&str, &str)], body: &Value| {
        let headers: Vec<_> = [JSON].iter().chain(headers).copied().collect();
        let reply = exchange(
            server.at,
            &request(method, path, &headers, body.to_string().as_bytes()),
        );
        if reply.status >= 400 {
            refused.insert((
                u64::from(reply.status),
                reply.json()["error"]["code"].as_str().unwrap().to_owned(),
            ));
        }
        reply
    };
    let chat = "/v1/chat/completions";
    let first = send(
        "POST",
        chat,
        &[
            ("authorization", "Bearer sk-zebramarker"),
            ("user-agent", MARK),
        ],
        &good,
    );
    assert_eq!(first.status, 200, "{}", first.text());
    let id = first.json()["id"].clone();
    send(
        "POST",
        chat,
        &[],
        &and(
            good.clone(),
            json!({"stream": true, "n": 2, "guard": {"threshold": 1.0, "mode": "regenerate"}}),
        ),
    );
    for bad in [
        json!({"model": MARK}),
        json!({"temperature": MARK}),
        json!({"temperature": 9, "user": MARK}),
        json!({"guard": {MARK: 1}}),
        json!({"guard": {"mode": MARK}}),
        json!({MARK: {MARK: MARK}, "n": 0}),
        json!({"stop": [MARK, 7]}),
        json!({"tools": [{"type": MARK}]}),
        json!({"messages": [{"role": MARK, "content": MARK}]}),
        json!({"messages": MARK}),
        json!({"messages": [{"role": "user", "content": [{"type": MARK, MARK: MARK}]}]}),
        about(&format!("data:image/{MARK};base64,{MARK}"), MARK),
        about(&format!("https://{MARK}.example/{MARK}?{MARK}"), MARK),
        about(
            &data_url("image/png", format!("{MARK}{MARK}").as_bytes()),
            MARK,
        ),
        and(
            good.clone(),
            json!({"messages": [{"role": "user", "content": MARK.repeat(200)},
                good["messages"][0]]}),
        ),
    ] {
        send("POST", chat, &[], &and(good.clone(), bad));
    }
    send(
        "POST",
        "/v1/score",
        &[],
        &and(about(&url, MARK), json!({"response": format!("A {MARK}.")})),
    );
    send(
        "POST",
        "/v1/score",
        &[],
        &and(
            about(&url, MARK),
            json!({"response": MARK.repeat(500), MARK: MARK}),
        ),
    );
    send(
        "POST",
        "/v1/feedback",
        &[],
        &json!({"completion_id": id, "annotator": MARK, "label": "bad", "note": MARK,
            "correction": format!("A {MARK}.")}),
    );
    send(
        "POST",
        "/v1/feedback",
        &[],
        &json!({"completion_id": MARK, "label": MARK}),
    );
    send(
        "GET",
        &format!("/v1/feedback?user={MARK}&{MARK}={MARK}"),
        &[],
        &Value::Null,
    );
    send(
        "DELETE",
        &format!("/v1/feedback?user={MARK}"),
        &[],
        &Value::Null,
    );
    send("POST", "/v1/queue/next", &[], &json!({"annotator": MARK}));
    send(
        "POST",
        &format!("/v1/queue/{MARK}/skip"),
        &[],
        &json!({"annotator": MARK}),
    );
    send(
        "GET",
        &format!("/v1/models/{MARK}"),
        &[("x-request-id", "a zebramarker")],
        &Value::Null,
    );
    send("GET", &format!("/{MARK}/{MARK}?{MARK}"), &[], &Value::Null);
    send("ZEBRAMARKER", "/v1/models", &[], &Value::Null);
    send("POST", chat, &[("content-type", MARK)], &Value::Null);
    http::chat_raw(server.at, format!("{{\"{MARK}\": ").as_bytes());
    server.signal(Signal::TERM);
    assert!(server.child.wait().unwrap().success());
    let log = log.join().unwrap();
    let lower = log.to_lowercase();
    let at = lower.find(MARK);
    assert!(
        at.is_none(),
        "…{}…",
        &log[at.unwrap().saturating_sub(400)..(at.unwrap() + 200).min(log.len())]
    );
    let base64 = url.split(',').nth(1).unwrap();
    assert!(!log.contains(&base64[..32]) && !log.contains(&base64[1000..1032]));
    // And yet every refusal says why.
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let logged: BTreeSet<(u64, String)> = lines
        .iter()
        .filter(|line| line["message"] == "answered" && line["code"].is_string())
        .map(|line| {
            (
                line["status"].as_u64().unwrap(),
                line["code"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert!(
        refused.len() > 8 && refused.is_subset(&logged),
        "{refused:?} {logged:?}"
    );
    let params: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line["param"].as_str())
        .collect();
    assert!(
        params.contains("temperature") && params.contains("model") && params.contains("guard.mode"),
        "{params:?}"
    );
}

#[test]
fn version_is_the_same_everywhere() {
    let server = Process::serve(&[("CANDOR_LOG__FORMAT", "json")]);
    let ready = get(server.at, "/health/ready").json();
    let (candor, model, version) = (
        ready["candor"].as_str().unwrap(),
        ready["model"].as_str().unwrap(),
        ready["version"].as_str().unwrap(),
    );
    assert_eq!(
        (ready["status"].as_str(), candor, model),
        (Some("ready"), env!("CARGO_PKG_VERSION"), "candor-mini")
    );
    assert_eq!(get(server.at, "/health").json(), ready);
    let head = exchange(server.at, &request("HEAD", "/health", &[], b""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    let listed = get(server.at, "/v1/models").json()["data"][0].clone();
    assert_eq!(
        (listed["id"].as_str(), listed["version"].as_str()),
        (Some(model), Some(version))
    );
    assert_eq!(
        http::chat(server.at, &ask(1, "")).json()["system_fingerprint"],
        format!("fp_{version}")
    );
    let metrics = get(server.at, "/metrics").text().to_owned();
    for line in [
        format!("candor_build_info{{version=\"{candor}\"}} 1"),
        format!("candor_model_info{{model=\"{model}\",version=\"{version}\"}} 1"),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
    assert_eq!(
        get(server.at, "/openapi.json").json()["info"]["version"],
        candor
    );
    server.signal(Signal::TERM);
    let (_, log) = server.end();
    let line = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["message"] == "listening")
        .unwrap();
    assert_eq!(
        (
            line["candor"].as_str(),
            line["model"].as_str(),
            line["version"].as_str()
        ),
        (Some(candor), Some(model), Some(version))
    );
}
