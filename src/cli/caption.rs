//! `candor caption` and `candor ask`

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use clap::{Args, builder::PossibleValuesParser};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Failure,
    common::{
        GuardArgs, ModelArgs, TextStyle, block_on, number_up_to, open_bundle, present_fields,
        settle, with_fields,
    },
    lines::{LineFile, settings},
    output::{command_line, is_stdio, note, print, progress, refuse_shared_stdin},
    photo::{format_answer, list_photographs, name_flags, note_unfamiliar, read, shown_path},
};
use crate::{config::Config, guard::Mode, serve::Local};

/// Photographs of a batch that are answered concurrently.
const AT_ONCE: usize = 16;

/// Caption photographs; low-reward words are marked
///
/// On a terminal, low-reward words are colored and followed by their score; in a pipe they are
/// written as [word?0.23]. Words that --guard regenerate replaced are written as [before → now].
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor caption photo.jpg\n  candor caption --guard flag --json \
                  photo.jpg\n  curl -s https://example.org/photo.jpg | candor caption -\n  \
                  candor caption --batch photos/ --out captions.jsonl   # interrupted, it goes on \
                  when typed again"
)]
pub(crate) struct CaptionArgs {
    /// Photographs to caption; `-` reads one from standard input
    #[arg(required_unless_present = "batch", value_name = "PHOTO")]
    photos: Vec<PathBuf>,

    /// Folder whose photographs are all captioned
    #[arg(long, value_name = "DIR", requires = "out", conflicts_with = "photos")]
    batch: Option<PathBuf>,

    /// File for a batch's captions, one JSON object per line; `-` is standard output. A file that
    /// an earlier run with the same settings left is continued
    #[arg(
        long,
        value_name = "FILE.jsonl",
        requires = "batch",
        conflicts_with = "photos"
    )]
    out: Option<PathBuf>,

    /// Replace the batch's file, whatever it contains
    #[arg(long, requires = "out", conflicts_with = "photos")]
    overwrite: bool,

    #[command(flatten)]
    answer: AnswerArgs,
}

/// Ask a question about a photograph
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor ask photo.jpg \"What is the dog doing?\"\n  candor ask \
                  photo.jpg \"What does the sign say?\" --on-unanswerable answer"
)]
pub(crate) struct AskArgs {
    /// Photograph; `-` reads it from standard input
    #[arg(value_name = "PHOTO")]
    photo: PathBuf,

    /// Question to answer
    question: String,

    /// Treatment of questions that no photograph answers (text in it, times, names, advice) and of
    /// answers that are likely wrong: abstain or answer [default: abstain]
    #[arg(long, value_name = "WHAT",
        value_parser = PossibleValuesParser::new(["abstain", "answer"]),
        hide_possible_values = true)]
    on_unanswerable: Option<String>,

    #[command(flatten)]
    answer: AnswerArgs,
}

/// Options for decoding and printing an answer.
#[derive(Debug, Args)]
struct AnswerArgs {
    /// Guard mode: off, score, flag, regenerate or block [default: flag]
    #[arg(long, value_name = "MODE")]
    guard: Option<String>,

    #[command(flatten)]
    judged: GuardArgs,

    /// Maximum number of tokens in an answer [default: what the context leaves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,

    /// Sampling temperature, 0 to 2; 0 always takes the likeliest token [default: 0]
    #[arg(long, value_name = "T", value_parser = |text: &str| number_up_to(text, 2.0))]
    temperature: Option<f64>,

    /// Seed for sampling; the same seed gives the same answer
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,

    /// Print the API's response as JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl AnswerArgs {
    fn config(&self) -> Result<Config, Failure> {
        let config = self
            .model
            .load(&[("--guard", "guard.mode", self.guard.clone())])?;
        let reworded = matches!(self.judged.render, TextStyle::Hedged | TextStyle::Omitted);
        if reworded && matches!(config.guard.mode, Mode::Off | Mode::Score) {
            return Err(Failure::Misused(
                "--render hedged and omitted need flagged words; --guard off and --guard score \
                 flag none"
                    .into(),
            ));
        }
        Ok(config)
    }

    /// Request fields that the options set.
    fn fields(&self) -> Value {
        let guard = self.judged.fields();
        present_fields([
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
            ("guard", (!guard.is_empty()).then(|| guard.into())),
        ])
        .into()
    }
}

pub(crate) fn caption(args: CaptionArgs) -> Result<(), Failure> {
    if let (Some(dir), Some(out)) = (&args.batch, &args.out) {
        return caption_folder(dir, out, args.overwrite, &args.answer);
    }
    if let Some(dir) = args.photos.iter().find(|photo| photo.is_dir()) {
        let how = format!(
            "{0} is a folder; candor caption --batch {0} --out captions.jsonl captions all \
             photographs in it",
            dir.display()
        );
        return Err(Failure::Misused(how));
    }
    let inputs: Vec<(&str, Option<&PathBuf>)> = args
        .photos
        .iter()
        .map(|photo| ("a PHOTO", Some(photo)))
        .collect();
    refuse_shared_stdin(&inputs)?;
    answer_photographs(&args.photos, "", args.answer.fields(), &args.answer)
}

pub(crate) fn ask(args: AskArgs) -> Result<(), Failure> {
    if args.question.trim().is_empty() {
        return Err(Failure::Misused("the question is empty".into()));
    }
    if args.photo.is_dir() {
        return Err(Failure::Misused(format!(
            "{} is a folder; name one photograph",
            args.photo.display()
        )));
    }
    let mut fields = args.answer.fields();
    if let Some(what) = args.on_unanswerable {
        fields["guard"]["on_unanswerable"] = what.into();
    }
    answer_photographs(
        std::slice::from_ref(&args.photo),
        &args.question,
        fields,
        &args.answer,
    )
}

/// A running model and the request fields that all requests of a command share.
struct AnswerClient<'a> {
    local: Local,
    most_bytes: usize,
    prompt: &'a str,
    fields: Value,
}

impl<'a> AnswerClient<'a> {
    fn start(mut config: Config, prompt: &'a str, fields: Value) -> Result<Self, Failure> {
        let (bundle, most_bytes) = (open_bundle(&mut config)?, config.images.max_bytes);
        Ok(Self {
            local: Local::start(config, bundle).map_err(Failure::failed)?,
            most_bytes,
            prompt,
            fields,
        })
    }

    async fn answer(&self, photo: &Path) -> Result<Value, String> {
        let (path, most_bytes) = (photo.to_owned(), self.most_bytes);
        // Reading standard input blocks, and Ctrl-C must still work.
        let file = tokio::task::spawn_blocking(move || read(&path, most_bytes))
            .await
            .map_err(|e| e.to_string())??;
        let request = self.local.request(&file, self.prompt);
        let answer = self.local.chat(&with_fields(request, &self.fields)).await;
        answer.map_err(|e| format!("{}: {}", shown_path(photo), name_flags(&e)))
    }
}

/// Answers every photograph in turn. A photograph that cannot be answered is reported and does not
/// stop the others.
fn answer_photographs(
    photos: &[PathBuf],
    prompt: &str,
    fields: Value,
    args: &AnswerArgs,
) -> Result<(), Failure> {
    let answering = AnswerClient::start(args.config()?, prompt, fields)?;
    let failed = block_on(async {
        let mut failed = 0;
        for photo in photos {
            match answering.answer(photo).await {
                Ok(object) if args.json => print(object)?,
                Ok(object) => {
                    let choice = &object["choices"][0];
                    note_unfamiliar(photo, choice);
                    let text = format_answer(
                        choice["message"]["content"].as_str().unwrap_or_default(),
                        choice,
                        args.judged.render,
                    );
                    match photos {
                        [_] => print(text)?,
                        _ => print(format_args!("{}: {text}", shown_path(photo)))?,
                    }
                    if choice["guard"]["verdict"] == "abstained" {
                        note(
                            "candor: the question was not answered; --on-unanswerable answer \
                             forces an answer",
                        );
                    }
                }
                Err(message) if photos.len() == 1 => return Err(Failure::Failed(message)),
                Err(message) => {
                    note(format_args!("candor: {message}"));
                    failed += 1;
                }
            }
        }
        answering.local.stop().await;
        Ok(failed)
    })?;
    if failed > 0 {
        Err(Failure::Failed(format!(
            "{failed} of {} photographs failed",
            photos.len()
        )))
    } else {
        Ok(())
    }
}

/// Captions the photographs of a folder that have no caption in the file yet.
fn caption_folder(
    dir: &Path,
    out: &Path,
    overwrite: bool,
    args: &AnswerArgs,
) -> Result<(), Failure> {
    let (config, mut fields) = (args.config()?, args.fields());
    settle(config.model.threads.value())?;
    let photos = list_photographs(dir)?;
    let mut settings = settings(&config, &fields)?;
    if args.json {
        settings["json"] = true.into();
    }
    let (mut file, rows) = LineFile::open(out, overwrite, settings)?;
    let name = |photo: &Path| photo.file_name().map(name_in_json).unwrap_or_default();
    let done: std::collections::HashSet<&str> = rows
        .iter()
        .filter_map(|row| row["image"].as_str())
        .collect();
    let open: Vec<&PathBuf> = photos
        .iter()
        .filter(|photo| !done.contains(name(photo).as_str()))
        .collect();
    let (total, before) = (photos.len(), photos.len() - open.len());
    if before == 0 && !done.is_empty() {
        let what = format!(
            "{} has captions of photographs that are not in {}; --overwrite replaces it",
            out.display(),
            dir.display()
        );
        return Err(Failure::Misused(what));
    }
    if before > 0 {
        note(format_args!(
            "candor: {before} of {total} photographs already have a caption in {}",
            out.display()
        ));
    }
    if open.is_empty() {
        return Ok(());
    }
    let answering = AnswerClient::start(config, "", fields.take())?;
    let bar = progress(
        total,
        "{bar:40} {pos}/{len} photographs, {per_sec}, {eta} to go",
    )
    .with_position(before as u64);
    let (mut written, mut failed) = (before, 0);
    let run = block_on(async {
        let answer = async |photo: &PathBuf| (name(photo), answering.answer(photo).await);
        let answers = stream::iter(&open).map(|photo| answer(photo));
        let mut answers = std::pin::pin!(answers.buffered(AT_ONCE));
        while let Some((image, answer)) = answers.next().await {
            bar.inc(1);
            file.push(match answer {
                Ok(object) if args.json => json!({ "image": image, "response": object }),
                Ok(object) => {
                    let choice = &object["choices"][0];
                    json!({ "image": image, "caption": choice["message"]["content"],
                        "guard": choice["guard"] })
                }
                Err(message) => {
                    failed += 1;
                    bar.suspend(|| note(format_args!("candor: {message}")));
                    json!({ "image": image, "error": message })
                }
            })?;
            written += 1;
        }
        answering.local.stop().await;
        Ok(())
    });
    bar.finish_and_clear();
    match run {
        Err(Failure::Interrupted(_)) => Err(interruption(written - failed, total, &file)),
        Err(other) => Err(other),
        Ok(()) if failed > 0 => {
            let why = if is_stdio(out) {
                String::new()
            } else {
                format!(
                    "; {} has the reasons, and the same command tries them again",
                    out.display()
                )
            };
            Err(Failure::Failed(format!(
                "{failed} of {total} photographs failed{why}"
            )))
        }
        Ok(()) => Ok(()),
    }
}

/// File name as a JSON string. Bytes that are not UTF-8 are escaped, so that two different names
/// never look alike.
fn name_in_json(name: &OsStr) -> String {
    name.to_str().map_or_else(
        || name.as_encoded_bytes().escape_ascii().to_string(),
        str::to_owned,
    )
}

/// Failure of a run that Ctrl-C ended: says how far it came and how to continue.
pub(super) fn interruption(done: usize, total: usize, file: &LineFile) -> Failure {
    let on = if file.is_resumable() {
        format!("; to continue:\n  {}", command_line(&["--overwrite"]))
    } else {
        String::new()
    };
    Failure::Interrupted(format!(
        "interrupted: {done} of {total} photographs are done{on}"
    ))
}
