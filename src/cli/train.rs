//! `candor train`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{
    Failure,
    common::{format_report, settle},
    output::{note, print},
};
use crate::train::{
    align::{AlignConfig, Alignment, Method},
    evidence::{EvidenceRecipe, EvidenceTraining},
    recipe,
    reward::{RewardTraining, RewardTrainingConfig},
    sft::{Sft, SftConfig},
};

/// Train a model
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor train sft --config config/sft.toml --out runs/sft\n  candor \
                  train reward --config config/reward.toml --out runs/reward --resume\n  candor \
                  train ppo --config config/align.toml --out runs/ppo"
)]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Debug, Subcommand)]
enum TrainCommand {
    /// Pre-train the captioner on photographs with captions and questions derived from them
    #[command(after_help = "Example:\n  candor train sft --config config/sft.toml --out runs/sft")]
    Sft(Run),
    /// Train the per-token scorers of a captioner, calibrate them and write a bundle
    #[command(
        after_help = "Example:\n  candor train reward --config config/reward.toml --out runs/reward"
    )]
    Reward(Reward),
    /// Train the evidence about a photograph's objects, its familiarity, and their calibration with
    /// the scorer
    #[command(
        after_help = "Example:\n  candor train evidence --config config/evidence.toml --out \
                      runs/evidence"
    )]
    Evidence(Training),
    /// Align a captioner with corrections by token-wise PPO, one reward per word
    #[command(
        after_help = "Example:\n  candor train ppo --config config/align.toml --out runs/ppo"
    )]
    Ppo(Run),
    /// Align by PPO with one reward per answer
    #[command(
        after_help = "Example:\n  candor train sequence-ppo --config config/align.toml --out \
                      runs/sequence-ppo"
    )]
    SequencePpo(Run),
    /// Align by direct preference optimization (DPO): the corrected answer against the original
    #[command(
        after_help = "Example:\n  candor train dpo --config config/align.toml --out runs/dpo"
    )]
    Dpo(Run),
    /// Align by dense DPO (RLHF-V): as DPO, with more weight on corrected tokens
    #[command(
        after_help = "Example:\n  candor train ddpo --config config/align.toml --out runs/ddpo"
    )]
    Ddpo(Run),
    /// Align by self-play (SPIN): people's captions against the policy's
    #[command(
        after_help = "Example:\n  candor train spin --config config/align.toml --out runs/spin"
    )]
    Spin(Run),
    /// Align by imitation of the policy's own best answers (ReST)
    #[command(
        after_help = "Example:\n  candor train rest --config config/align.toml --out runs/rest"
    )]
    Rest(Run),
}

#[derive(Debug, Args)]
struct Reward {
    #[command(flatten)]
    run: Run,

    /// Write only the scorers' training examples, to RUNDIR/samples.html and samples.json, for
    /// inspection
    #[arg(long)]
    data_only: bool,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    training: Training,

    /// Name of the bundle that is written
    #[arg(long, default_value = "candor-mini")]
    name: String,

    /// Version of the bundle
    #[arg(long, default_value = "0.1.0")]
    version: String,
}

#[derive(Debug, Args)]
struct Training {
    /// Configuration file of the training
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Override a key of the configuration, such as seed=32 or corrections.limit=300; may be
    /// repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Run directory for checkpoints, losses and results
    #[arg(long, value_name = "RUNDIR")]
    out: PathBuf,

    /// Continue from the last checkpoint in the run directory
    #[arg(long)]
    resume: bool,
}

pub(crate) fn run(args: TrainArgs) -> Result<(), Failure> {
    settle(None)?;
    match args.command {
        TrainCommand::Sft(run) => {
            let config: SftConfig = run.training.config()?;
            Sft::prepare(config, &run.training.out, run.training.resume)
                .and_then(|sft| sft.train(&run.name, &run.version))
                .map_err(Failure::failed)
        }
        TrainCommand::Reward(Reward { run, data_only }) => {
            let config: RewardTrainingConfig = run.training.config()?;
            let training = RewardTraining::prepare(config, &run.training.out, run.training.resume)
                .map_err(Failure::failed)?;
            if data_only {
                return training.look_at_data().map_err(Failure::failed);
            }
            training.train().map_err(Failure::failed)?;
            if training.is_quiet() {
                return training
                    .calibrate(&run.name, &run.version)
                    .map_err(Failure::failed);
            }
            let report = training
                .finish(&run.name, &run.version)
                .map_err(Failure::failed)?;
            print(format_report(&report))
        }
        TrainCommand::Evidence(run) => {
            let recipe: EvidenceRecipe = run.config()?;
            let training =
                EvidenceTraining::prepare(recipe, &run.out, run.resume).map_err(Failure::failed)?;
            print(format_report(&training.train().map_err(Failure::failed)?))
        }
        TrainCommand::Ppo(run) => align(Method::Ppo, &run),
        TrainCommand::SequencePpo(run) => align(Method::SequencePpo, &run),
        TrainCommand::Dpo(run) => align(Method::Dpo, &run),
        TrainCommand::Ddpo(run) => align(Method::Ddpo, &run),
        TrainCommand::Spin(run) => align(Method::Spin, &run),
        TrainCommand::Rest(run) => align(Method::Rest, &run),
    }
}

fn align(method: Method, run: &Run) -> Result<(), Failure> {
    let config: AlignConfig = run.training.config()?;
    let alignment = Alignment::prepare(method, config, &run.training.out, run.training.resume)
        .map_err(Failure::failed)?;
    alignment
        .train(&run.name, &run.version)
        .map_err(Failure::failed)
}

impl Training {
    /// Reads the configuration file and applies `--set`.
    fn config<C: DeserializeOwned>(&self) -> Result<C, Failure> {
        let misused = |e: &dyn std::fmt::Display| {
            Failure::Misused(format!(
                "{}: {}",
                self.config.display(),
                e.to_string().trim_end()
            ))
        };
        let text = std::fs::read_to_string(&self.config).map_err(|e| misused(&e))?;
        let mut warn = |warning: String| {
            note(format_args!("candor: {}: {warning}", self.config.display()));
        };
        // Parsed directly, errors name their line.
        if self.set.is_empty() {
            return recipe::parse(&text, &mut warn).map_err(|e| misused(&e));
        }
        let mut table: Table = toml::from_str(&text).map_err(|e| misused(&e))?;
        self.set.iter().try_for_each(|change| {
            set(&mut table, change).map_err(|e| Failure::Misused(format!("--set {change}: {e}")))
        })?;
        recipe::rename_keys(&mut table, &mut warn);
        table.try_into().map_err(|e| {
            Failure::Misused(format!(
                "{} with --set {}: {e}",
                self.config.display(),
                self.set.join(" --set ")
            ))
        })
    }
}

/// Sets one value of a configuration. `change` is a dotted key, `=`, and a TOML value; anything
/// else is taken as a string.
fn set(table: &mut Table, change: &str) -> Result<(), String> {
    let (key, value) = change.split_once('=').ok_or("expected KEY=VALUE")?;
    let text = || Value::String(value.trim().to_owned());
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(text);
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut at = table;
    for name in path {
        let inner = at.entry(name).or_insert_with(|| Value::Table(Table::new()));
        at = inner
            .as_table_mut()
            .ok_or_else(|| format!("{name} is not a table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_of_a_dotted_key_changes_only_that_key() {
        let mut table: Table =
            toml::from_str("seed = 1\n[ppo]\nclip = 0.2\n[ppo.kl]\nbeta = 0.1").unwrap();
        for change in [
            "seed=32",
            "ppo.kl.beta = 0",
            "data=../photographs",
            "corrections.limit=300",
        ] {
            set(&mut table, change).unwrap();
        }
        let want = "seed = 32\ndata = \"../photographs\"\n[ppo]\nclip = 0.2\n[ppo.kl]\nbeta = \
                    0\n[corrections]\nlimit = 300";
        assert_eq!(table, toml::from_str::<Table>(want).unwrap());
        assert!(set(&mut table, "seed").unwrap_err().contains("KEY=VALUE"));
        assert!(
            set(&mut table, "seed.x=1")
                .unwrap_err()
                .contains("seed is not a table")
        );
    }
}
