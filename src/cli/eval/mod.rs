//! `candor eval`

mod answering;
mod captions;
mod facts;
mod guard;
mod honesty;
mod pope;
mod reward;
mod vqa;

use std::{ops::RangeInclusive, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Failure,
    common::shown,
    output::{command_line, is_stdio, note, one_stdin, print, write_file},
};
use crate::{eval::report::EvaluationReport, train::scored_split::DevelopmentHalf};

/// Measure captions, scorers and answers, without a model as a judge
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  candor eval captions --hypotheses captions.jsonl --references \
                  ../shared/data/flickr8k --html report.html"
)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Captions(captions::EvalCaptionsArgs),
    Guard(guard::EvalGuardArgs),
    Honesty(honesty::EvalHonestyArgs),
    Reward(reward::EvalRewardArgs),
    Pope(pope::EvalPopeArgs),
    Vqa(vqa::EvalVqaArgs),
}

/// The API's range of `guard.candidates`.
const CANDIDATES: RangeInclusive<u64> = 1..=16;

/// Which of a split's images: they are dealt out in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every second image, from the second: for figures.
    Report,
    /// The others: for calibration and choices.
    Tune,
    All,
}

impl Part {
    fn has(self, image: usize) -> bool {
        match self {
            Self::All => true,
            Self::Report => DevelopmentHalf::for_image(image) == DevelopmentHalf::Report,
            Self::Tune => DevelopmentHalf::for_image(image) == DevelopmentHalf::Tune,
        }
    }
}

/// Where a report goes beside the terminal.
#[derive(Debug, Args)]
struct Output {
    /// Also write the figures as JSON; - is standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write one self-contained page with plots and captions; - is standard output, in place
    /// of the tables
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Prints a report and writes it where it was asked for.
    fn show(&self, report: &EvaluationReport) -> Result<(), Failure> {
        let on_stdout = |file: &Option<PathBuf>| file.as_ref().is_some_and(|file| is_stdio(file));
        if on_stdout(&self.json) && on_stdout(&self.html) {
            return Err(Failure::Misused(
                "--json and --html cannot both go to standard output (-)".into(),
            ));
        }
        // Files first: whoever reads the tables may leave early.
        if let Some(file) = &self.json {
            let json = serde_json::to_string_pretty(&report.to_json()).map_err(Failure::failed)?;
            write_file(file, format!("{json}\n").as_bytes())?;
        }
        if let Some(file) = &self.html {
            write_file(file, report.html().map_err(Failure::failed)?.as_bytes())?;
        }
        if on_stdout(&self.json) || on_stdout(&self.html) {
            return Ok(());
        }
        print(shown(report))?;
        self.html
            .iter()
            .for_each(|file| note(format_args!("plots and captions: {}", file.display())));
        Ok(())
    }
}

/// The command line as it was typed, for the report to be made again.
fn command() -> String {
    command_line(&[])
}

pub(crate) fn run(args: EvalArgs) -> Result<(), Failure> {
    match args.what {
        What::Captions(args) => captions::run(args),
        What::Guard(args) => guard::run(args),
        What::Honesty(args) => honesty::run(args),
        What::Reward(args) => reward::run(args),
        What::Pope(args) => pope::run(args),
        What::Vqa(args) => vqa::run(args),
    }
}
