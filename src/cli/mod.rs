//! The command line, one file a subcommand. Exit status: 0 done, 1 failed, 2 misused.

mod bench;
mod caption;
mod common;
mod cycle;
mod doctor;
mod eval;
mod feedback;
mod models;
mod score;
mod serve;
mod train;

use std::{fmt::Display, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::Problems;

/// Captions photographs and answers questions about them, and says which of its words it can stand behind.
#[derive(Parser)]
#[command(name = "candor", version, arg_required_else_help = true, after_help = "Example:\n  candor serve --listen 127.0.0.1:8080")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Caption(caption::CaptionArgs),
    Ask(caption::AskArgs),
    Score(score::Args),
    Eval(eval::Args),
    Train(train::Args),
    Cycle(cycle::Args),
    Feedback(feedback::Args),
    Models(models::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
}

/// Why a command did not do what it was asked; says which exit status that is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was asked wrongly: 2.
    #[error("{0}")]
    Misused(String),
    /// It went wrong: 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// For `map_err` where the error itself says what went wrong.
    pub(crate) fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Misused(problems.to_string())
    }
}

/// Parses the process's arguments, does what they say and returns the exit status.
pub fn run() -> ExitCode {
    // Prints help, versions and mistakes itself, and ends the process with 0, 0 and 2.
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Caption(args) => caption::caption(args),
        Command::Ask(args) => caption::ask(args),
        Command::Score(args) => score::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Train(args) => train::run(args),
        Command::Cycle(args) => cycle::run(args),
        Command::Feedback(args) => feedback::run(args),
        Command::Models(args) => models::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("candor: {failure}");
            ExitCode::from(match failure {
                Failure::Misused(_) => 2,
                Failure::Failed(_) => 1,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_shows_an_example() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        let missing = |c: &mut clap::Command| !c.render_long_help().to_string().contains("Example");
        assert!(!missing(&mut cli));
        let own = cli.get_subcommands_mut().filter(|c| c.get_name() != "help");
        let without: Vec<_> = own.filter_map(|c| missing(c).then(|| c.get_name().to_owned())).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
