//! What operations teams run beside the program, against the program: metrics, dashboards and
//! alerts with a real Prometheus; the image's instructions, the compose file and the Helm chart.

use crate::{
    server_clients::python,
    support::{needed, runs},
};

/// Runs a script of the tests, which must end well.
fn runs_well(package: &str, script: &str, programs: &[&str]) {
    for program in programs {
        let found = runs(program, &["--version"]) || runs(program, &["-v"]);
        if needed(program, found.then_some(())).is_none() {
            return;
        }
    }
    let Some(mut python) = python(package) else {
        return;
    };
    let output = python
        .args([script, "--candor", env!("CARGO_BIN_EXE_candor")])
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
fn prometheus_scrapes_dashboards_have_data_and_alerts_fire_when_they_should() {
    let programs = ["prometheus", "promtool"];
    runs_well("yaml", "tests/operations/prometheus.py", &programs);
}

#[test]
fn image_compose_file_and_chart_are_as_real_programs_want_them() {
    runs_well(
        "kubernetes_validate",
        "tests/deploy/check.py",
        &["promtool"],
    );
}
