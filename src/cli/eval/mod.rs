//! `candor eval`

mod answering;
mod captions;
mod facts;
mod guard;
mod pope;
mod reward;
mod vqa;

use std::{fs, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{Failure, common::shown};
use crate::{eval::report::Report, train::judged::Half};

/// Measure captions, scorers and answers, without a model as a judge
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  candor eval captions --hypotheses captions.jsonl --references ../shared/data/flickr8k --html report.html"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Captions(captions::Args),
    Guard(guard::Args),
    Reward(reward::Args),
    Pope(pope::Args),
    Vqa(vqa::Args),
}

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
            Self::Report => Half::of(image) == Half::Report,
            Self::Tune => Half::of(image) == Half::Tune,
        }
    }
}

/// Where a report goes beside the terminal.
#[derive(Debug, ClapArgs)]
struct Output {
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write one self-contained page with plots and captions
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Prints a report and writes it where it was asked for.
    fn show(&self, report: &Report) -> Result<(), Failure> {
        let write = |file: &PathBuf, text: String| fs::write(file, text).map_err(|e| Failure::Failed(format!("{}: {e}", file.display())));
        println!("{}", shown(report));
        if let Some(file) = &self.json {
            write(file, serde_json::to_string_pretty(&report.to_json()).map_err(Failure::failed)?)?;
        }
        if let Some(file) = &self.html {
            write(file, report.html().map_err(Failure::failed)?)?;
            eprintln!("plots and captions: {}", file.display());
        }
        Ok(())
    }
}

/// The command line as it was typed, for the report to be made again.
fn command() -> String {
    let words = std::env::args()
        .skip(1)
        .map(|word| if word.contains([' ', '"', '\'', '$']) { format!("'{}'", word.replace('\'', "'\\''")) } else { word });
    format!("candor {}", words.collect::<Vec<_>>().join(" "))
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Captions(args) => captions::run(args),
        What::Guard(args) => guard::run(args),
        What::Reward(args) => reward::run(args),
        What::Pope(args) => pope::run(args),
        What::Vqa(args) => vqa::run(args),
    }
}
