//! Options, output and facts that the evaluations share.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        Failure,
        common::format_report,
        output::{command_line, is_stdio, note, print, write_file},
    },
    eval::{bootstrap::REPEATS, report::EvaluationReport},
    train::scored_split::DevelopmentHalf,
};

/// Range of `guard.candidates` in the API.
pub(super) const CANDIDATES: RangeInclusive<u64> = 1..=16;

/// Part of a split's images, which are dealt out in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Every second image, from the second, for reporting.
    Report,
    /// The other images, for calibration and choices.
    Tune,
    All,
}

impl Part {
    pub(super) fn has(self, image: usize) -> bool {
        match self {
            Self::All => true,
            Self::Report => DevelopmentHalf::for_image(image) == DevelopmentHalf::Report,
            Self::Tune => DevelopmentHalf::for_image(image) == DevelopmentHalf::Tune,
        }
    }
}

/// Output options of reports.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Also write the figures as JSON; `-` writes them to standard output instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Also write one self-contained page with plots and captions; `-` writes it to standard output
    /// instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

impl Output {
    /// Prints a report and writes the requested files.
    pub(super) fn show(&self, report: &EvaluationReport) -> Result<(), Failure> {
        let on_stdout = |file: &Option<PathBuf>| file.as_ref().is_some_and(|file| is_stdio(file));
        if on_stdout(&self.json) && on_stdout(&self.html) {
            return Err(Failure::Misused(
                "--json and --html cannot both go to standard output (-)".into(),
            ));
        }
        // Files first: the reader of the tables may close standard output early.
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
        print(format_report(report))?;
        self.html
            .iter()
            .for_each(|file| note(format_args!("plots and captions: {}", file.display())));
        Ok(())
    }
}

/// Facts about a run that every report states.
pub(super) struct RunFacts<'a> {
    /// Name and version of the model; `None` if captions or answers were read from a file.
    pub(super) model: Option<(String, String)>,
    pub(super) data: Option<&'a Path>,
    pub(super) photographs: usize,
    pub(super) seed: u64,
    pub(super) resamples: usize,
}

impl RunFacts<'_> {
    /// Name and value of each fact.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let (model, version) = self.model.clone().unzip();
        [
            ("model", model),
            ("model version", version),
            ("data", self.data.map(|data| data.display().to_string())),
            ("photographs", Some(self.photographs.to_string())),
            ("seed", Some(self.seed.to_string())),
            ("resamples", Some(self.resamples.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

impl Default for RunFacts<'_> {
    fn default() -> Self {
        Self {
            model: None,
            data: None,
            photographs: 0,
            seed: 1,
            resamples: REPEATS,
        }
    }
}

/// Command line as typed, so that the report can be reproduced.
pub(super) fn command() -> String {
    command_line(&[])
}
