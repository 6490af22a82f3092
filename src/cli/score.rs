//! `candor score`

use std::{
    fs,
    io::{IsTerminal, Write},
    path::PathBuf,
};

use clap::{Args as ClapArgs, builder::PossibleValuesParser};
use serde_json::Value;

use super::{
    Failure,
    caption::runtime,
    common::{ModelArgs, open_bundle},
};
use crate::{
    guard::{Report, render},
    serve::Local,
};

/// Score a text about a photograph, whoever wrote it; words that the photograph does not support are marked
///
/// On a terminal doubted words are coloured with their reward behind them; in a pipe they stand as [word?0.23].
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor score photo.jpg \"A dog catches a frisbee.\"\n  candor score photo.jpg \"Yes.\" --prompt \"Is there a dog?\" --json"
)]
pub(crate) struct Args {
    /// The photograph
    #[arg(value_name = "PHOTO")]
    photo: PathBuf,

    /// What somebody wrote about it
    text: String,

    /// The question that the text answers [default: the text is a caption]
    #[arg(long, value_name = "QUESTION", default_value = "", hide_default_value = true)]
    prompt: String,

    /// score (numbers only, see --json) or flag [default: flag]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["score", "flag"]), hide_possible_values = true)]
    guard: Option<String>,

    /// Print the API's object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.text.trim().is_empty() {
        return Err(Failure::Misused("the text is empty".into()));
    }
    let config = args.model.load(&[("--guard", "guard.mode", args.guard.clone())])?;
    let named = |e: &dyn std::fmt::Display| Failure::Failed(format!("{}: {e}", args.photo.display()));
    let photo = fs::read(&args.photo).map_err(|e| named(&e))?;
    let bundle = open_bundle(&config)?;
    let local = Local::start(config, bundle).map_err(Failure::failed)?;
    let scores = runtime()?.block_on(async {
        let scores = local.score(&local.score_request(&photo, &args.prompt, &args.text)).await;
        local.stop().await;
        scores
    });
    let scores = scores.map_err(|e| named(&e))?;
    let mut out = std::io::stdout();
    let line = if args.json { scores.to_string() } else { shown(&args.text, &scores, out.is_terminal()) };
    writeln!(out, "{line}").map_err(Failure::failed)
}

/// The text for people.
fn shown(text: &str, scores: &Value, terminal: bool) -> String {
    let report = serde_json::from_value::<Report>(scores["results"][0]["guard"].clone());
    let spans = report.map(|report| report.spans).unwrap_or_default();
    if terminal { render::ansi(text, &spans) } else { render::plain_marked(text, &spans) }
}
