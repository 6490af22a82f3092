//! Options and helpers that several commands share: configuration, model, guard.

use std::{
    os::unix::process::CommandExt, path::PathBuf, process::Command, thread::available_parallelism,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::{Failure, download::fetch_model, output::note};
use crate::{
    bundle::Bundle,
    config::{Config, ConfigFlag, ConfigProblems, load},
    device::DeviceChoice,
    eval::report::EvaluationReport,
    guard::{Mode, OnUnanswerable},
    serve::InitialVersion,
};

/// Style in which a guarded text is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum TextStyle {
    /// The text alone.
    Plain,
    /// Low-reward and rewritten words marked: colored on a terminal, [word?0.23] and [before → now]
    /// elsewhere.
    #[default]
    Marked,
    /// Low-reward words hedged, as a screen reader should speak them: "what may be a frisbee".
    Hedged,
    /// Low-reward words left out, where the sentence allows it.
    Omitted,
}

/// Guard options.
#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    /// Flag words whose score is below this, 0 to 1 [default: the bundle's own]
    #[arg(long, value_name = "R", value_parser = share, conflicts_with = "target_fpr")]
    threshold: Option<f64>,

    /// Use the threshold that flags this share of grounded words, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    target_fpr: Option<f64>,

    /// Style of the printed text; with --json and --out, plain, hedged and omitted set alt_text
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub(crate) render: TextStyle,
}

impl GuardArgs {
    /// Fields of a request's `guard` object.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let style = match self.render {
            TextStyle::Plain => Some("plain"),
            TextStyle::Marked => None,
            TextStyle::Hedged => Some("hedged"),
            TextStyle::Omitted => Some("omitted"),
        };
        present_fields([
            ("threshold", self.threshold.map(Value::from)),
            ("target_fpr", self.target_fpr.map(Value::from)),
            ("render", style.map(Value::from)),
        ])
    }
}

/// JSON fields that have a value.
pub(crate) fn present_fields<const N: usize>(
    fields: [(&str, Option<Value>); N],
) -> Map<String, Value> {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// Request with more fields, which replace those of the same name.
pub(crate) fn with_fields(mut request: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    request
}

/// Parses a number between 0 and 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    number_up_to(text, 1.0)
}

/// Parses a number between 0 and `most`.
pub(crate) fn number_up_to(text: &str, most: f64) -> Result<f64, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| (0.0..=most).contains(number));
    number.ok_or_else(|| format!("must be a number between 0 and {most}"))
}

/// Runs the asynchronous part of a command until it is done or Ctrl-C interrupts it.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work => done,
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Interrupted("interrupted".to_owned())),
        }
    });
    // Tasks that still run serve an answer that nobody waits for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Options of every command that loads a model.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model: name of an embedded bundle, directory of a bundle or checkpoint, .gguf file, or
    /// repository on the Hub (OWNER/MODEL[@REV]) [default: candor-mini]
    #[arg(long, value_name = "NAME|DIR|FILE|REPO")]
    model: Option<String>,

    /// Bundle, or folder of a probe, whose scorer judges the model's texts [default: the model's
    /// own scorer]
    #[arg(long, value_name = "NAME|DIR")]
    scorer: Option<String>,

    /// Number format of a checkpoint's matrices in memory: auto, f32, bf16 or f16 [default: auto,
    /// that of the files]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,

    /// Quantize a checkpoint's matrices while they are loaded: q8_0, q4_0, q4_1, q4_k, q5_k or
    /// q6_k
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<String>,

    /// Device that runs the networks: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<DeviceChoice>,

    /// Configuration file; see config/candor.toml for all options
    #[arg(long, value_name = "FILE", env = "CANDOR_CONFIG")]
    config: Option<PathBuf>,
}

impl ModelArgs {
    /// The same options for another model.
    pub(crate) fn with_model(&self, model: String) -> Self {
        Self {
            model: Some(model),
            ..self.clone()
        }
    }

    /// Loads the configuration from file, environment, these options, and `more` (flag, key,
    /// value).
    pub(crate) fn load(
        &self,
        more: &[(&'static str, &'static str, Option<String>)],
    ) -> Result<Config, ConfigProblems> {
        let device = self.device.map(|d| d.to_string());
        let own = [
            ("--model", "model.name", self.model.clone()),
            ("--scorer", "model.scorer", self.scorer.clone()),
            ("--dtype", "model.dtype", self.dtype.clone()),
            ("--quantize", "model.quantize", self.quantize.clone()),
            ("--device", "model.device", device),
        ];
        let flags = own.iter().chain(more).filter_map(|(name, key, value)| {
            Some(ConfigFlag {
                name,
                key,
                value: value.clone()?,
            })
        });
        load(
            self.config.as_deref(),
            variables(),
            &flags.collect::<Vec<_>>(),
        )
    }
}

/// Environment variables. Those that are not Unicode are skipped.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(text)
}

fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Sets thread counts and allocator options that have to be set before the process starts; it
/// therefore re-executes itself once.
///
/// candle's threads wait by spinning, which slows rayon's and a training's workers down. Without
/// the variable, candle asks the system for the number of cores in every matrix product. The
/// allocator keeps freed memory, since every step allocates the same again.
pub(crate) fn settle(threads: Option<usize>) -> Result<(), Failure> {
    const MARK: &str = "CANDLE_NUM_THREADS";
    const KEPT_BYTES: &str = "1073741824";
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe().map_err(Failure::failed)?);
    again
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .env("MALLOC_MMAP_THRESHOLD_", KEPT_BYTES)
        .env("MALLOC_TRIM_THRESHOLD_", KEPT_BYTES);
    if threads.is_some() || std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let threads = threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
        again.env("RAYON_NUM_THREADS", threads.to_string());
    }
    Err(Failure::failed(again.exec()))
}

/// Sets the thread counts and loads the version that a server with this configuration serves first:
/// the registry's, or the configured bundle.
pub(crate) fn open_first(config: &mut Config) -> Result<InitialVersion, Failure> {
    settle(config.model.threads.value())?;
    let device = config.model.device.open().map_err(Failure::failed)?;
    fetch_model(&config.model.name)?;
    let first = InitialVersion::choose(config, &device).map_err(Failure::failed)?;
    fit_guard(config, first.bundle());
    Ok(first)
}

/// Sets the thread counts and loads the configured bundle.
pub(crate) fn open_bundle(config: &mut Config) -> Result<Bundle, Failure> {
    settle(config.model.threads.value())?;
    let device = config.model.device.open().map_err(Failure::failed)?;
    fetch_model(&config.model.name)?;
    let bundle = Bundle::open(&config.model.name, &config.model.open_options(), &device)
        .map_err(Failure::failed)?;
    fit_guard(config, &bundle);
    Ok(bundle)
}

/// Fits the default guard to a checkpoint: off without a scorer, which it says, and no questions
/// refused.
fn fit_guard(config: &mut Config, bundle: &Bundle) {
    if !bundle.is_checkpoint() {
        return;
    }
    let default = Config::default().guard;
    // The questions that candor-mini cannot answer are no guide to those of another model.
    if config.guard.on_unanswerable == default.on_unanswerable {
        config.guard.on_unanswerable = OnUnanswerable::Answer;
    }
    if bundle.reward.is_none() && config.guard.mode == default.mode {
        config.guard.mode = Mode::Off;
        note(format_args!(
            "{} has no scorer, so its answers are not scored; --scorer candor-mini, for example, \
             lets another model's scorer judge them",
            bundle.name
        ));
    }
}

/// Report rendered for the width and colors of this terminal.
pub(crate) fn format_report(report: &EvaluationReport) -> String {
    let out = console::Term::stdout();
    let width = if out.is_term() {
        usize::from(out.size().1)
    } else {
        160
    };
    report.terminal(width, console::colors_enabled())
}
