//! `candor doctor`

use std::{fmt::Display, fs, path::Path, time::Instant};

use clap::Args;
use serde::Serialize;

use super::{
    Failure,
    common::ModelArgs,
    models::{InspectedModel, ModelMemory},
    output::{print, write_stdout},
    version,
};
use crate::{
    bundle::{Bundle, BundleError},
    config::{Config, ConfigProblem},
    device::{self, DeviceChoice},
    vlm::models::{ModelForm, ModelLicense, ModelSource},
};

/// Check this machine and this configuration, and report problems
///
/// The exit status is 1 if there are any.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  candor doctor\n  candor doctor --config candor.toml --json")]
pub(crate) struct DoctorArgs {
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    device: Device,
    cpu: Cpu,
    memory: Memory,
    bundles: Vec<BundleFound>,
    config_problems: Vec<ConfigProblem>,
}

#[derive(Debug, Serialize)]
struct Device {
    /// Device that would be used.
    chosen: Option<String>,
    /// All kinds of devices, each with the reason if it is unavailable.
    kinds: Vec<Kind>,
}

#[derive(Debug, Serialize)]
struct Kind {
    name: String,
    unavailable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    architecture: &'static str,
    threads: usize,
    features: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Memory {
    total_bytes: Option<u64>,
    available_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct BundleFound {
    name: String,
    source: String,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum State {
    Loads {
        version: String,
        license: ModelLicense,
        context_len: usize,
        architecture: &'static str,
        scorer: Option<&'static str>,
        load_ms: u128,
        memory: ModelMemory,
    },
    /// A checkpoint, which is inspected and not loaded.
    Checkpoint {
        checkpoint: Box<InspectedModel>,
    },
    Broken {
        error: String,
    },
}

pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let (config, config_problems) = match args.model.load(&[]) {
        Ok(config) => (config, Vec::new()),
        Err(problems) => (Config::default(), problems.0),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        device: devices(config.model.device),
        cpu: cpu(&config),
        memory: memory(),
        bundles: bundles(&config),
        config_problems,
    };
    if args.json {
        print(serde_json::to_string_pretty(&report).map_err(Failure::failed)?)?;
    } else {
        write_stdout(readable(&report).as_bytes())?;
    }
    let broken = report
        .bundles
        .iter()
        .filter(|b| matches!(b.state, State::Broken { .. }))
        .count();
    let wrong = report.config_problems.len() + broken + usize::from(report.device.chosen.is_none());
    if wrong == 0 {
        Ok(())
    } else {
        Err(Failure::Failed(format!("{wrong} problem(s) found")))
    }
}

fn devices(choice: DeviceChoice) -> Device {
    let kind = |choice: DeviceChoice| Kind {
        name: choice.to_string(),
        unavailable: choice.open().err().map(|e| e.to_string()),
    };
    let kinds = [
        DeviceChoice::Cpu,
        DeviceChoice::Cuda(0),
        DeviceChoice::Metal,
    ]
    .map(kind)
    .into();
    Device {
        chosen: choice.open().ok().map(|d| device::name(&d)),
        kinds,
    }
}

fn cpu(config: &Config) -> Cpu {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Cpu {
        architecture: std::env::consts::ARCH,
        threads: config.model.threads.value().unwrap_or_else(cores),
        features: features(),
    }
}

/// Processor features that the networks' kernels use, where present.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known = [];
    known
        .into_iter()
        .filter_map(|(name, there): (&'static str, bool)| there.then_some(name))
        .collect()
}

/// Memory as Linux's /proc reports it; unknown elsewhere.
fn memory() -> Memory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |key: &str| {
        let line = info.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim_start_matches(':')
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kb| kb * 1024)
    };
    Memory {
        total_bytes: bytes("MemTotal"),
        available_bytes: bytes("MemAvailable"),
    }
}

/// Bundles that load or fail to, and checkpoints: the embedded ones, the configured one, and the
/// directories under `models/`.
fn bundles(config: &Config) -> Vec<BundleFound> {
    let mut names: Vec<String> = Bundle::embedded()
        .iter()
        .map(|&name| name.to_owned())
        .collect();
    let folders = fs::read_dir("models")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut found: Vec<String> = folders
        .filter(|p| p.join("config.json").is_file() || ModelSource::find(p).is_ok())
        .map(|p| p.display().to_string())
        .collect();
    found.sort();
    names.extend(found);
    if !names.contains(&config.model.name) {
        names.push(config.model.name.clone());
    }
    names
        .into_iter()
        .map(|name| look_at(&name, config))
        .collect()
}

fn look_at(name: &str, config: &Config) -> BundleFound {
    let source = if Bundle::embedded().contains(&name) {
        "embedded".to_owned()
    } else {
        Path::new(name).display().to_string()
    };
    let looked = match InspectedModel::open(name, config) {
        Ok(model) if model.summary.form == ModelForm::Bundle => load(name, model.memory),
        Ok(model) => {
            let checkpoint = Box::new(model);
            Ok((name.to_owned(), State::Checkpoint { checkpoint }))
        }
        Err(error) => Err(error),
    };
    let (name, state) = looked.unwrap_or_else(|error| {
        let error = error.to_string();
        (name.to_owned(), State::Broken { error })
    });
    BundleFound {
        name,
        source,
        state,
    }
}

/// Loads a bundle and returns its own name.
fn load(name: &str, memory: ModelMemory) -> Result<(String, State), BundleError> {
    let began = Instant::now();
    let bundle = Bundle::load(name, None, &candle_core::Device::Cpu)?;
    let spec = bundle.vlm.spec();
    let state = State::Loads {
        version: bundle.version.clone(),
        license: bundle.license.clone(),
        context_len: spec.context_len,
        architecture: spec.architecture,
        scorer: bundle.reward.as_ref().map(|r| r.kind()),
        load_ms: began.elapsed().as_millis(),
        memory,
    };
    Ok((bundle.name, state))
}

fn readable(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &dyn Display| out.push_str(&format!("{label:<10}{text}\n"));
    let Report {
        version: _,
        device,
        cpu,
        memory,
        bundles,
        config_problems,
    } = report;
    line("candor", &version());
    line(
        "device",
        &device.chosen.as_deref().unwrap_or("none: see below"),
    );
    for Kind { name, unavailable } in &device.kinds {
        line(
            "",
            &format_args!("{name}: {}", unavailable.as_deref().unwrap_or("available")),
        );
    }
    line(
        "cpu",
        &format_args!(
            "{}, {} threads, {}",
            cpu.architecture,
            cpu.threads,
            cpu.features.join(" ")
        ),
    );
    let mib = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |b| format!("{} MiB", b >> 20))
    };
    line(
        "memory",
        &format_args!(
            "{} available of {}",
            mib(memory.available_bytes),
            mib(memory.total_bytes)
        ),
    );
    for BundleFound {
        name,
        source,
        state,
    } in bundles
    {
        match state {
            State::Loads {
                version,
                license,
                context_len,
                architecture,
                scorer,
                load_ms,
                memory,
            } => {
                let scorer = scorer.unwrap_or("none");
                let sizes = format_args!("{architecture}, context {context_len} tokens");
                line(
                    "bundle",
                    &format_args!(
                        "{name} {version} ({source}): {sizes}, scorer {scorer}, loads in {load_ms} \
                         ms"
                    ),
                );
                line("", &memory.line());
                line("", &format_args!("license {license}"));
            }
            State::Checkpoint { checkpoint } => {
                line("model", &format_args!("{name}: {}", checkpoint.line()));
                line("", &checkpoint.memory.line());
                line("", &format_args!("license {}", checkpoint.summary.license));
            }
            State::Broken { error } => line(
                "bundle",
                &format_args!("{name} ({source}): BROKEN: {error}"),
            ),
        }
    }
    match config_problems.as_slice() {
        [] => line("config", &"no problems"),
        problems => problems
            .iter()
            .for_each(|problem| line("config", &format_args!("PROBLEM: {problem}"))),
    }
    out
}
