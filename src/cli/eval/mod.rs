//! `candor eval`

mod answering;
mod captions;
mod common;
mod guard;
mod honesty;
mod pope;
mod reward;
mod vqa;

use clap::{Args, Subcommand};

use self::common::{CANDIDATES, Output, Part, RunFacts, command};
use super::{Failure, output::refuse_shared_stdin};

/// Measure captions, scorers and answers, without a model as a judge
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  candor eval captions --hypotheses captions.jsonl --references \
                  ../shared/data/flickr8k --html report.html"
)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    Captions(captions::EvalCaptionsArgs),
    Guard(guard::EvalGuardArgs),
    Honesty(honesty::EvalHonestyArgs),
    Reward(reward::EvalRewardArgs),
    Pope(pope::EvalPopeArgs),
    Vqa(vqa::EvalVqaArgs),
}

pub(crate) fn run(args: EvalArgs) -> Result<(), Failure> {
    match args.command {
        EvalCommand::Captions(args) => captions::run(args),
        EvalCommand::Guard(args) => guard::run(args),
        EvalCommand::Honesty(args) => honesty::run(args),
        EvalCommand::Reward(args) => reward::run(args),
        EvalCommand::Pope(args) => pope::run(args),
        EvalCommand::Vqa(args) => vqa::run(args),
    }
}
