//! `candor selftest`

mod checks;
mod reference;
mod subject;

use std::{fmt::Display, path::PathBuf};

use clap::Args;
use serde::Serialize;

use self::{reference::Reference, subject::Subject};
use super::{
    Failure,
    common::{ModelArgs, settle},
    download::fetch_model,
    models::InspectedModel,
    output::{print, write_stdout},
};
use crate::{
    bundle::Bundle,
    device,
    vlm::{models::ModelSummary, weights::FormatBytes},
};

/// Check on this machine that a model computes what it should
///
/// Without a reference, the model is compared with itself: a prompt in one pass with the same
/// prompt token by token, a batch with its prompts alone, a sequence with its forks. With the
/// recording of a reference on the same weights, it is compared with that, too;
/// tools/record_reference.py makes one with transformers.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor selftest --model models/llava-1.5-7b-hf --dtype bf16\n  \
                  candor selftest --model models/llava-1.5-7b-hf --reference llava-reference"
)]
pub(crate) struct SelftestArgs {
    /// Folder with the recording of a reference: reference.json and reference.safetensors
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,

    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Result of one check.
#[derive(Debug, Serialize)]
struct CheckResult {
    name: String,
    passed: bool,
    /// Observation with its numbers.
    detail: String,
    /// Largest difference, relative to the largest number; `None` if nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<f64>,
}

impl CheckResult {
    /// Returns a check that passed, or that failed with an error.
    fn of(name: impl Into<String>, outcome: Result<String, String>) -> Self {
        let passed = outcome.is_ok();
        Self {
            name: name.into(),
            passed,
            detail: outcome.unwrap_or_else(|error| error),
            difference: None,
        }
    }

    /// Returns a check on a difference that may be `most`.
    fn within(name: impl Into<String>, difference: Result<f64, String>, most: f64) -> Self {
        match difference {
            Ok(difference) => Self {
                name: name.into(),
                passed: difference <= most,
                detail: format!("differs by {difference:.1e} (at most {most:.0e})"),
                difference: Some(difference),
            },
            Err(error) => Self::of(name, Err(error)),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    /// Largest relative difference that passes.
    tolerance: f64,
    passed: bool,
    checks: Vec<CheckResult>,
}

pub(crate) fn run(args: SelftestArgs) -> Result<(), Failure> {
    let config = args.model.load(&[])?;
    let reference = args.reference.as_deref().map(Reference::read).transpose();
    let reference = reference.map_err(Failure::Failed)?;
    settle(config.model.threads.value())?;
    let name = &config.model.name;
    let device = config.model.device.open().map_err(Failure::failed)?;
    fetch_model(name)?;
    let inspected = InspectedModel::open(name, &config).map_err(Failure::failed)?;
    let options = config.model.open_options();
    let bundle = Bundle::open(name, &options, &device).map_err(Failure::failed)?;

    let tolerance = tolerance(&inspected.summary);
    let subject = Subject {
        vlm: bundle.vlm.as_ref(),
        processor: bundle.processor.as_ref(),
        casing: bundle.casing,
        tolerance,
    };
    let mut checks = checks::all(&subject);
    if let Some(reference) = &reference {
        checks.extend(reference.compare(&subject));
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    let report = Report {
        model: name.clone(),
        device: device::name(&device),
        tolerance,
        passed: failed == 0,
        checks,
    };
    if args.json {
        print(serde_json::to_string_pretty(&report).map_err(Failure::failed)?)?;
    } else {
        write_stdout(readable(&report, &inspected.line()).as_bytes())?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!(
            "{failed} of {} checks failed",
            report.checks.len()
        ))),
    }
}

/// Returns the largest relative difference that passes, by the least exact of the formats that
/// matrices are kept in: a batch is not multiplied in the order of a single row.
fn tolerance(summary: &ModelSummary) -> f64 {
    let held: &FormatBytes = &summary.weights.matrices;
    let of_format = |format: &String| match format.as_str() {
        "f32" => 1e-3,
        "bf16" | "f16" => 2e-2,
        _ => 1e-1,
    };
    held.keys().map(of_format).fold(1e-3, f64::max)
}

fn readable(report: &Report, what: &str) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &dyn Display| out.push_str(&format!("{label:<8}{text}\n"));
    line("model", &format_args!("{}: {what}", report.model));
    line("device", &report.device);
    let names = report.checks.iter().map(|check| check.name.len());
    let width = names.max().unwrap_or(0);
    for CheckResult {
        name,
        passed,
        detail,
        ..
    } in &report.checks
    {
        let label = if *passed { "ok" } else { "FAILED" };
        line(label, &format_args!("{name:width$}  {detail}"));
    }
    out
}
