//! `tools/attack` against the program: what does not depend on time. Its figures for a polite
//! client are for people to look at.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{needed, runs};

/// Runs attacks by name and asserts that each went as it should and took no more memory than it
/// may.
fn withstands(names: &[&str]) {
    let found = runs("python3", &["--version"]);
    if needed("python3", found.then_some(())).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("rows.json");
    let attack = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/attack");
    let output = Command::new("python3")
        .arg(attack)
        .args([
            "--quick",
            "--candor",
            env!("CARGO_BIN_EXE_candor"),
            "--json",
        ])
        .arg(&report)
        .args(names)
        .envs([
            ("PYTHONDONTWRITEBYTECODE", "1".as_ref()),
            ("TMPDIR", folder.path().as_os_str()),
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(&report).unwrap_or_default())
        .unwrap_or_else(|error| {
            panic!("{error}: {told}{}", String::from_utf8_lossy(&output.stderr))
        });
    assert!(rows.len() >= names.len(), "{told}");
    for row in rows {
        // An attack that cannot be tried here says so.
        assert_ne!(row["expected"], false, "{row:#}");
        let missed = row["missed"].as_array().unwrap();
        assert!(
            !missed.iter().any(|bar| bar == "memory" || bar == "outcome"),
            "{row:#}"
        );
    }
}

#[test]
fn images_that_ask_for_much_or_are_broken_are_refused_in_little_memory() {
    withstands(&["image_bombs", "mutated_images"]);
}

#[test]
fn odd_requests_and_extreme_values_are_answered_as_they_should_be() {
    withstands(&["http_shapes", "api_extremes"]);
}

#[test]
fn no_url_reaches_into_this_machine_or_unpacks_into_its_memory() {
    withstands(&["ssrf", "hostile_sites"]);
}

#[test]
fn a_key_does_not_reach_what_belongs_to_another() {
    withstands(&["tenants"]);
}

#[test]
fn no_acknowledged_correction_is_lost_when_the_server_is_killed() {
    withstands(&["kills"]);
}
