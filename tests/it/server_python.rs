//! The official Python client, unchanged, against the real server.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use image::ImageFormat;

use crate::{cli::Process, served::picture};

/// The interpreter of the virtual environment that `make test` makes, or the one that `CANDOR_TEST_PYTHON` names, if it has the module.
pub fn python_with(module: &str) -> Option<PathBuf> {
    let given = std::env::var_os("CANDOR_TEST_PYTHON").map(PathBuf::from);
    let python = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"));
    let there = Command::new(&python).args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success());
    there.then_some(python)
}

#[test]
fn the_openai_client_works_unchanged() {
    let Some(python) = python_with("openai") else {
        eprintln!("skipped: no Python with the `openai` package (`make test` installs it into .venv)");
        return;
    };
    let server = Process::serve(&[]);
    let photo = tempfile::NamedTempFile::with_suffix(".jpg").unwrap();
    std::fs::write(photo.path(), picture(5, ImageFormat::Jpeg)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let output = Command::new(python).arg(script).arg(format!("http://{}/v1", server.at)).arg(photo.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("\nOK"), "{said}");
}
