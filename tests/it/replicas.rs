//! `tests/operations/replicas.py` against the program: several servers behind HAProxy with one
//! PostgreSQL and one bucket.

use std::path::Path;

use crate::{
    server_clients::python,
    support::{needed, runs},
};

/// Runs scenarios by name, all on one set of servers, and asserts that what must hold held.
fn hold(scenarios: &[&str]) {
    let haproxy = ["haproxy", "/usr/sbin/haproxy"]
        .iter()
        .any(|program| runs(program, &["-v"]));
    let postgres = runs("initdb", &["--version"]) || Path::new("/usr/lib/postgresql").is_dir();
    if needed("HAProxy", haproxy.then_some(())).is_none()
        || needed("PostgreSQL", postgres.then_some(())).is_none()
    {
        return;
    }
    let Some(mut python) = python("moto") else {
        return;
    };
    let interpreter = python.get_program().to_owned();
    let output = python
        .arg("tests/operations/replicas.py")
        .args(["--candor", env!("CARGO_BIN_EXE_candor"), "--python"])
        .arg(interpreter)
        .args(scenarios)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn replicas_agree_and_lose_nothing_when_one_is_killed_or_restarted() {
    hold(&["agreement", "promotion", "kill", "rolling-restart", "rates"]);
}

#[test]
fn replicas_answer_and_lose_nothing_while_a_store_is_away() {
    hold(&["postgres-away", "bucket-away"]);
}

#[test]
fn receipts_expire_once_whichever_replica_removes_them() {
    hold(&["retention"]);
}
