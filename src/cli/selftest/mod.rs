//! `candor selftest`

mod checks;
mod models;
mod reference;
mod report;
mod scorers;
mod speed;
mod stages;
mod subject;
mod training;

use std::path::PathBuf;

use candle_core::Device;
use clap::Args;

use self::{
    reference::Reference,
    report::{CheckResult, SelftestReport, SpeedReport},
    subject::Subject,
};
use super::{
    Failure,
    common::{ModelArgs, settle},
    download::fetch_model,
    models::InspectedModel,
    output::{print, write_stdout},
};
use crate::{
    bundle::{Bundle, OpenOptions},
    config::Config,
    device,
    reward::RewardKind,
    vlm::weights::{BlockFormat, FormatBytes, WeightsDtype},
};

/// Numbers of sequences in the steps whose speed is measured.
const BATCHES: [usize; 2] = [1, 16];

/// Difference that is allowed in f32.
const EXACT: f64 = 1e-4;

/// Number formats in which a checkpoint is compared with the CPU beside its own: the first two
/// always.
const FORMATS: [(&str, WeightsDtype, Option<BlockFormat>); 5] = [
    ("f32", WeightsDtype::F32, None),
    ("bf16", WeightsDtype::Bf16, None),
    ("f16", WeightsDtype::F16, None),
    ("q8_0", WeightsDtype::Auto, Some(BlockFormat::Q8_0)),
    ("q4_1", WeightsDtype::Auto, Some(BlockFormat::Q4_1)),
];

/// Check on this machine that a model computes what it should
///
/// Without a reference, the model is compared with itself: a prompt in one pass with the same
/// prompt token by token, a batch with its prompts alone, a sequence with its forks. With the
/// recording of a reference on the same weights, it is compared with that, too;
/// tools/record_reference.py makes one with transformers. On a GPU every stage is also compared
/// with the CPU, a bundle's scorers and training steps as well, and speed is measured.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor selftest --model models/llava-1.5-7b-hf --dtype bf16\n  \
                  candor selftest --model models/llava-1.5-7b-hf --reference llava-reference\n  \
                  candor selftest --device cuda:0 --model tests/fixtures/models"
)]
pub(crate) struct SelftestArgs {
    /// Folder with the recording of a reference: reference.json and reference.safetensors
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,

    /// Compare more prompts and number formats, and on the CPU, too, what is compared on a GPU
    #[arg(long)]
    full: bool,

    /// Seconds of each measurement of speed; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 3)]
    seconds: u64,

    /// Print the result as JSON, an object and a line for each model
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: SelftestArgs) -> Result<(), Failure> {
    let config = args.model.load(&[])?;
    let reference = args.reference.as_deref().map(Reference::read).transpose();
    let reference = reference.map_err(Failure::Failed)?;
    settle(config.model.threads.value())?;
    let device = config.model.device.open().map_err(Failure::failed)?;
    let models = models::models(&config.model.name);
    if reference.is_some() && models.len() > 1 {
        return Err(Failure::Misused(format!(
            "--reference is a recording of one model, and {} has {}",
            config.model.name,
            models.len()
        )));
    }
    let (mut failed, mut all) = (0, 0);
    for name in &models {
        fetch_model(name)?;
        let inspected = InspectedModel::open(name, &config).map_err(Failure::failed)?;
        let test = ModelTest {
            name,
            config: &config,
            device: &device,
            formats: &inspected.summary.weights.matrices,
            full: args.full,
            seconds: args.seconds,
        };
        let report = test.run(reference.as_ref())?;
        failed += report.failed();
        all += report.checks.len();
        if args.json {
            print(serde_json::to_string(&report).map_err(Failure::failed)?)?;
        } else {
            write_stdout(report.readable(&inspected.line()).as_bytes())?;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{failed} of {all} checks failed"))),
    }
}

/// Test of one model.
struct ModelTest<'a> {
    name: &'a str,
    config: &'a Config,
    device: &'a Device,
    /// Bytes of the matrices by number format.
    formats: &'a FormatBytes,
    full: bool,
    seconds: u64,
}

impl ModelTest<'_> {
    /// Runs all checks.
    fn run(&self, reference: Option<&Reference>) -> Result<SelftestReport, Failure> {
        // A batch is not multiplied in the order of a single row.
        let tolerance = largest(self.formats.keys(), [1e-3, 2e-2, 1e-1]);
        let options = self.config.model.open_options();
        let bundle = Bundle::open(self.name, &options, self.device).map_err(Failure::failed)?;
        let subject = Subject::of(&bundle, tolerance);
        let mut checks = checks::all(&subject);
        if let Some(reference) = reference {
            checks.extend(reference.compare(&subject));
        }
        let mut speed = None;
        if self.full || !self.device.is_cpu() {
            self.compare_with_cpu(&bundle, &mut checks);
            if self.seconds > 0 {
                match self.measure(&bundle) {
                    Ok(measured) => speed = Some(measured),
                    Err(error) => checks.push(CheckResult::of("speed", Err(error))),
                }
            }
        }
        let mut report = SelftestReport {
            model: self.name.to_owned(),
            device: device::name(self.device),
            tolerance,
            passed: true,
            checks,
            speed,
        };
        report.passed = report.failed() == 0;
        Ok(report)
    }

    /// Compares the model with itself on the CPU: every stage in several number formats, a bundle's
    /// scorers, and training.
    fn compare_with_cpu(&self, bundle: &Bundle, checks: &mut Vec<CheckResult>) {
        let own = OpenOptions {
            scorer: None,
            ..self.config.model.open_options()
        };
        self.compare_stages("CPU", self.formats.keys(), &own, checks);
        let is_given = own.dtype != WeightsDtype::Auto || own.quantize.is_some();
        let others = match (bundle.is_checkpoint() && !is_given, self.full) {
            (false, _) => &[],
            (true, false) => &FORMATS[..2],
            (true, true) => &FORMATS[..],
        };
        for &(format, dtype, quantize) in others {
            if self.formats.keys().eq([format]) {
                continue;
            }
            let options = OpenOptions {
                dtype,
                quantize,
                ..OpenOptions::default()
            };
            self.compare_stages(&format!("CPU, {format}"), [format], &options, checks);
        }
        if bundle.is_checkpoint() {
            return;
        }
        for kind in self.kinds(bundle) {
            checks.push(match scorers::open(self.name, kind, self.device) {
                Ok(bundle) => scorers::compare(self.name, kind, &bundle),
                Err(error) => CheckResult::of(format!("CPU, {}", kind.name()), Err(error)),
            });
        }
        checks.extend(training::compare(self.name, self.device));
    }

    /// Compares the stages of the model, opened with `options` on both devices.
    fn compare_stages(
        &self,
        label: &str,
        formats: impl IntoIterator<Item = impl AsRef<str>>,
        options: &OpenOptions,
        checks: &mut Vec<CheckResult>,
    ) {
        // Of two bytes a number, a GPU rounds the activations too.
        let most = largest(formats, [EXACT, 1e-2, 5e-2]);
        // A bundle in f32 is rounded on the CPU unless its dtype is given.
        let mut options = options.clone();
        if most <= EXACT {
            options.dtype = WeightsDtype::F32;
        }
        let open = |device: &Device| Bundle::open(self.name, &options, device);
        match open(self.device).and_then(|opened| Ok((opened, open(&Device::Cpu)?))) {
            Ok((opened, on_cpu)) => {
                let [subject, on_cpu] = [&opened, &on_cpu].map(|b| Subject::of(b, most));
                let stages = stages::compare(label, &subject, &on_cpu, most, self.full);
                checks.extend(stages);
            }
            Err(error) => checks.push(CheckResult::of(label, Err(error.to_string()))),
        }
    }

    /// Returns the kinds of scorers of its own that the model has.
    fn kinds(&self, bundle: &Bundle) -> Vec<RewardKind> {
        match bundle.is_checkpoint() || bundle.scorer.is_some() {
            true => Vec::new(),
            false => scorers::kinds(self.name).unwrap_or_default(),
        }
    }

    /// Measures decoding without a scorer and with each that the model has.
    fn measure(&self, bundle: &Bundle) -> Result<SpeedReport, String> {
        let mut decoding = Vec::new();
        let mut measure = |bundle: &Bundle, scored: bool| {
            for batch in BATCHES {
                decoding.push(speed::measure(bundle, scored, batch, self.seconds)?);
            }
            Ok::<_, String>(())
        };
        measure(bundle, false)?;
        let kinds = self.kinds(bundle);
        if kinds.is_empty() && bundle.reward.is_some() {
            measure(bundle, true)?;
        }
        for kind in kinds {
            measure(&scorers::open(self.name, kind, self.device)?, true)?;
        }
        Ok(SpeedReport {
            memory_bytes_per_second: speed::memory_bandwidth(self.device)?,
            decoding,
        })
    }
}

/// Returns the largest relative difference that passes, by the least exact of the formats that
/// matrices are kept in: `f32`, two bytes a number, or quantized.
fn largest(
    formats: impl IntoIterator<Item = impl AsRef<str>>,
    [single, half, quantized]: [f64; 3],
) -> f64 {
    let of_format = |format: &str| match format {
        "f32" => single,
        "bf16" | "f16" => half,
        _ => quantized,
    };
    let each = formats.into_iter().map(|format| of_format(format.as_ref()));
    each.fold(single, f64::max)
}
