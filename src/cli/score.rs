//! `candor score`

use std::{io::Read, path::PathBuf};

use clap::{Args, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::{
    Failure,
    common::{GuardArgs, ModelArgs, TextStyle, block_on, open_bundle, settle, with_fields},
    output::{is_stdio, print},
    photo::{format_answer, name_flags, note_unfamiliar, read, shown_path},
};
use crate::{guard::Mode, serve::Local};

/// Longest text read from standard input, in bytes; more than the API accepts.
const TEXT_BYTES: u64 = 1 << 20;

/// Score a text about a photograph, whoever wrote it; words that the photograph does not support
/// are marked
///
/// On a terminal, low-reward words are colored and followed by their score; in a pipe they are
/// written as [word?0.23].
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor score photo.jpg \"A dog catches a frisbee.\"\n  candor score \
                  photo.jpg \"Yes.\" --prompt \"Is there a dog?\" --json\n  \
                  candor score photo.jpg - < caption.txt"
)]
pub(crate) struct ScoreArgs {
    /// Photograph; `-` reads it from standard input
    #[arg(value_name = "PHOTO")]
    photo: PathBuf,

    /// Text about it; `-` reads it from standard input
    text: String,

    /// Question that the text answers [default: the text is a caption]
    #[arg(
        long,
        value_name = "QUESTION",
        default_value = "",
        hide_default_value = true
    )]
    prompt: String,

    /// Guard mode: score (numbers only, see --json) or flag [default: flag]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["score", "flag"]),
        hide_possible_values = true)]
    guard: Option<String>,

    #[command(flatten)]
    judged: GuardArgs,

    /// Print the API's response as JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: ScoreArgs) -> Result<(), Failure> {
    if is_stdio(&args.photo) && args.text == "-" {
        return Err(Failure::Misused(
            "standard input (-) can be read only once: as PHOTO or as TEXT".into(),
        ));
    }
    if args.photo.is_dir() {
        return Err(Failure::Misused(format!(
            "{} is a folder; name one photograph",
            args.photo.display()
        )));
    }
    let mut config = args
        .model
        .load(&[("--guard", "guard.mode", args.guard.clone())])?;
    if matches!(args.judged.render, TextStyle::Hedged | TextStyle::Omitted)
        && config.guard.mode == Mode::Score
    {
        return Err(Failure::Misused(
            "--render hedged and omitted need flagged words; --guard score flags none".into(),
        ));
    }
    // The process may re-execute itself, so standard input is read later.
    settle(config.model.threads.value())?;
    let text = if args.text == "-" {
        text_of_stdin()?
    } else {
        args.text
    };
    if text.trim().is_empty() {
        return Err(Failure::Misused("the text is empty".into()));
    }
    let photo = read(&args.photo, config.images.max_bytes).map_err(Failure::Failed)?;
    let bundle = open_bundle(&mut config)?;
    let local = Local::start(config, bundle).map_err(Failure::failed)?;
    let mut request = local.score_request(&photo, &args.prompt, &text);
    let guard = args.judged.fields();
    if !guard.is_empty() {
        request = with_fields(request, &json!({ "guard": guard }));
    }
    let scores: Result<Value, String> = block_on(async {
        let scores = local.score(&request).await;
        local.stop().await;
        Ok(scores)
    })?;
    let scores = scores
        .map_err(|e| Failure::Failed(format!("{}: {}", shown_path(&args.photo), name_flags(&e))))?;
    if args.json {
        return print(scores);
    }
    let result = &scores["results"][0];
    note_unfamiliar(&args.photo, result);
    print(format_answer(&text, result, args.judged.render))
}

/// Reads a text without byte order mark and final line end.
fn text_of_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(TEXT_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| Failure::Failed(format!("standard input: {e}")))?;
    Ok(text
        .trim_start_matches('\u{feff}')
        .trim_end_matches(['\n', '\r'])
        .to_owned())
}
