//! `candor train`

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args as ClapArgs, Subcommand};
use serde::de::DeserializeOwned;

use super::Failure;
use crate::train::{
    reward::{RewardConfig, RewardTraining},
    sft::{Sft, SftConfig},
};

/// Train a model
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor train sft --config config/sft.toml --out runs/sft\n  candor train reward --config config/reward.toml --out runs/reward --resume"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Pre-train the captioner on photographs with captions and questions derived from them
    #[command(after_help = "Example:\n  candor train sft --config config/sft.toml --out runs/sft")]
    Sft(Run),
    /// Train the per-token scorers of a captioner, calibrate them and write a bundle
    #[command(after_help = "Example:\n  candor train reward --config config/reward.toml --out runs/reward")]
    Reward(Reward),
}

#[derive(Debug, ClapArgs)]
struct Run {
    /// What to train on, and how
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Run directory: checkpoints, losses, results
    #[arg(long, value_name = "RUNDIR")]
    out: PathBuf,

    /// Go on where the run directory's last checkpoint stands
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, ClapArgs)]
struct Reward {
    #[command(flatten)]
    run: Run,

    /// Name of the bundle that the run writes
    #[arg(long, default_value = "candor-mini")]
    name: String,

    /// Its version
    #[arg(long, default_value = "0.1.0")]
    version: String,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    one_thread_each()?;
    match args.what {
        What::Sft(run) => {
            let config: SftConfig = read(&run.config)?;
            Sft::prepare(config, &run.out, run.resume).and_then(|sft| sft.train()).map_err(Failure::failed)
        }
        What::Reward(reward) => {
            let config: RewardConfig = read(&reward.run.config)?;
            let training = RewardTraining::prepare(config, &reward.run.out, reward.run.resume).map_err(Failure::failed)?;
            let scorers = training.train().map_err(Failure::failed)?;
            let report = training.finish(&scorers, &reward.name, &reward.version).map_err(Failure::failed)?;
            println!("{report}");
            Ok(())
        }
    }
}

fn read<C: DeserializeOwned>(file: &Path) -> Result<C, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure::Misused(format!("{}: {e}", file.display())))?;
    toml::from_str(&text).map_err(|e| Failure::Misused(format!("{}: {e}", file.display())))
}

/// Training splits a batch over the cores itself. candle's own threads, which wait by spinning, would only be in the way; they can be had off before the process
/// starts alone, so the process starts again. The allocator is told to keep what it has: every step needs the same again.
fn one_thread_each() -> Result<(), Failure> {
    const MARK: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .env("MALLOC_MMAP_THRESHOLD_", "4000000000")
        .env("MALLOC_TRIM_THRESHOLD_", "4000000000")
        .exec();
    Err(Failure::failed(error))
}
