//! `candor train`

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use serde::de::DeserializeOwned;

use super::{Failure, common::settle};
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
    settle(None)?;
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
