//! Options of `candor eval honesty`.

use std::path::PathBuf;

use clap::{Args, builder::RangedU64ValueParser};

use crate::{
    cli::common::ModelArgs,
    eval::{bootstrap::REPEATS, honesty::PhotographOrigin},
};

/// Measure whether a model can be trusted on photographs of any kind: invented people, flags,
/// repairs, answers, abstentions and calibration by origin
///
/// The data folder contains any of flickr8k, coco-mini, daquar and vqa-rad in the layouts that
/// their READMEs describe; documents and drawings are generated. Every figure is shown beside its
/// bar.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor eval honesty --data ../shared/data --report runs/honesty\n  \
                  candor eval honesty --data ../shared/data --quick 20\n  \
                  candor eval honesty --data ../shared/data --model runs/next/bundle --report \
                  runs/next-honesty --against runs/honesty/report.json"
)]
pub(in crate::cli::eval) struct EvalHonestyArgs {
    /// Folder with the origins flickr8k, coco-mini, daquar and vqa-rad; missing ones are skipped
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,

    /// Only these origins: flickr8k, coco-mini, daquar, vqa-rad, documents, drawings, re-encoded
    /// [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", value_parser = origin)]
    pub(super) origins: Vec<PhotographOrigin>,

    /// Use at most N photographs of each origin, drawn by the seed, for a quick run
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(super) quick: Option<usize>,

    /// Maximum number of questions per image
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) per_image: usize,

    /// Number of documents, of drawings and of re-encoded photographs to generate
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(super) made: usize,

    /// Folder with bundles 0 to 4 to use instead of one model: each photograph is answered by the
    /// bundle of its own fold, which was trained without it
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub(super) folds: Option<PathBuf>,

    /// Folder for a page with photographs (index.html), the figures (report.json) and every answer
    /// (answers.jsonl); an interrupted run continues
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,

    /// Discard the answers in that folder
    #[arg(long, requires = "report")]
    pub(super) overwrite: bool,

    /// Figures (report.json) of an earlier run, to show beside these
    #[arg(long, value_name = "FILE.json")]
    pub(super) against: Option<PathBuf>,

    /// Also write the figures as JSON; `-` writes them to standard output instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Number of bootstrap resamples
    #[arg(long, default_value_t = REPEATS)]
    pub(super) resamples: usize,

    /// Seed of samples and bootstrap
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,

    #[command(flatten)]
    pub(super) model: ModelArgs,
}

fn origin(name: &str) -> Result<PhotographOrigin, String> {
    let names = || PhotographOrigin::ALL.map(PhotographOrigin::name).join(", ");
    PhotographOrigin::ALL
        .into_iter()
        .find(|origin| origin.name() == name)
        .ok_or_else(|| format!("expected one of {}", names()))
}

impl EvalHonestyArgs {
    pub(super) fn is_wanted(&self, origin: PhotographOrigin) -> bool {
        self.origins.is_empty() || self.origins.contains(&origin)
    }
}
