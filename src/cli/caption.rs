//! `candor caption` and `candor ask`

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Args as ClapArgs;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Failure,
    common::{ModelArgs, open_bundle},
};
use crate::{
    guard::{Report, Span, render},
    serve::Local,
};

/// Photographs that are answered at once in a batch.
const AT_ONCE: usize = 16;

/// Caption photographs; words that the model cannot stand behind are marked
///
/// On a terminal doubted words are coloured with their reward behind them; in a pipe they stand as [word?0.23].
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor caption photo.jpg\n  candor caption --guard flag --json photo.jpg\n  candor caption --batch photos/ --out captions.jsonl"
)]
pub(crate) struct CaptionArgs {
    /// Photographs
    #[arg(required_unless_present = "batch", value_name = "PHOTO")]
    photos: Vec<PathBuf>,

    /// Caption every photograph of a folder
    #[arg(long, value_name = "DIR", requires = "out", conflicts_with = "photos")]
    batch: Option<PathBuf>,

    /// Where a batch's captions go, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl", requires = "batch")]
    out: Option<PathBuf>,

    #[command(flatten)]
    how: How,
}

/// Ask a question about a photograph
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  candor ask photo.jpg \"What is the dog doing?\"")]
pub(crate) struct AskArgs {
    /// The photograph
    #[arg(value_name = "PHOTO")]
    photo: PathBuf,

    /// The question
    question: String,

    #[command(flatten)]
    how: How,
}

#[derive(Debug, ClapArgs)]
struct How {
    /// off, score, flag, regenerate or block [default: flag]
    #[arg(long, value_name = "MODE")]
    guard: Option<String>,

    /// Print the API's object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn caption(args: CaptionArgs) -> Result<(), Failure> {
    let local = start(&args.how)?;
    runtime()?.block_on(async {
        let done = match (&args.batch, &args.out) {
            (Some(dir), Some(out)) => batch(&local, dir, out, &args.how).await,
            _ => each(&local, &args.photos, "", &args.how).await,
        };
        local.stop().await;
        done
    })
}

pub(crate) fn ask(args: AskArgs) -> Result<(), Failure> {
    if args.question.trim().is_empty() {
        return Err(Failure::Misused("the question is empty".into()));
    }
    let local = start(&args.how)?;
    runtime()?.block_on(async {
        let done = each(&local, std::slice::from_ref(&args.photo), &args.question, &args.how).await;
        local.stop().await;
        done
    })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(Failure::failed)
}

fn start(how: &How) -> Result<Local, Failure> {
    let config = how.model.load(&[("--guard", "guard.mode", how.guard.clone())])?;
    let bundle = open_bundle(&config)?;
    Local::start(config, bundle).map_err(Failure::failed)
}

async fn answer(local: &Local, photo: &Path, prompt: &str) -> Result<Value, String> {
    let file = fs::read(photo).map_err(|e| format!("{}: {e}", photo.display()))?;
    local.chat(&local.request(&file, prompt)).await.map_err(|e| format!("{}: {e}", photo.display()))
}

/// One answer a photograph; a photograph that cannot be answered is reported and does not stop the others.
async fn each(local: &Local, photos: &[PathBuf], prompt: &str, how: &How) -> Result<(), Failure> {
    let mut failed = 0;
    let mut out = std::io::stdout();
    for photo in photos {
        match answer(local, photo, prompt).await {
            Ok(object) => {
                let line =
                    if how.json { object.to_string() } else { shown(&object, (photos.len() > 1).then_some(photo), out.is_terminal()) };
                writeln!(out, "{line}").map_err(Failure::failed)?;
            }
            Err(message) => {
                eprintln!("candor: {message}");
                failed += 1;
            }
        }
    }
    if failed > 0 { Err(Failure::Failed(format!("{failed} of {} photographs failed", photos.len()))) } else { Ok(()) }
}

/// The answer for people, behind its file's name when there are several.
fn shown(object: &Value, photo: Option<&PathBuf>, terminal: bool) -> String {
    let choice = &object["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap_or_default();
    let mut spans = serde_json::from_value::<Report>(choice["guard"].clone()).map(|report| report.spans).unwrap_or_default();
    spans.retain(Span::is_doubted);
    let marked = if terminal { render::ansi(text, &spans) } else { render::plain_marked(text, &spans) };
    photo.map_or(marked.clone(), |photo| format!("{}: {marked}", photo.display()))
}

async fn batch(local: &Local, dir: &Path, out: &Path, how: &How) -> Result<(), Failure> {
    let photos = photographs(dir)?;
    let mut file = fs::File::create(out).map_err(|e| Failure::Failed(format!("{}: {e}", out.display())))?;
    let bar = ProgressBar::new(photos.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} photographs, {per_sec}, {eta} to go").map_err(Failure::failed)?);
    let mut failed = 0;
    let mut answers = stream::iter(&photos).map(|photo| async move { (photo, answer(local, photo, "").await) }).buffered(AT_ONCE);
    while let Some((photo, answer)) = answers.next().await {
        bar.inc(1);
        let name = photo.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        let line = match answer {
            Ok(object) if how.json => json!({ "image": name, "response": object }),
            Ok(object) => {
                json!({ "image": name, "caption": object["choices"][0]["message"]["content"], "guard": object["choices"][0]["guard"] })
            }
            Err(message) => {
                failed += 1;
                bar.suspend(|| eprintln!("candor: {message}"));
                json!({ "image": name, "error": message })
            }
        };
        writeln!(file, "{line}").map_err(|e| Failure::Failed(format!("{}: {e}", out.display())))?;
    }
    bar.finish();
    if failed > 0 {
        Err(Failure::Failed(format!("{failed} of {} photographs failed; {} says why", photos.len(), out.display())))
    } else {
        Ok(())
    }
}

/// The image files of a folder, by name.
fn photographs(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |e: std::io::Error| Failure::Misused(format!("{}: {e}", dir.display()));
    let mut photos = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png" | "gif" | "webp" | "bmp")) {
            photos.push(path);
        }
    }
    if photos.is_empty() {
        return Err(Failure::Misused(format!("{}: no photographs (jpg, jpeg, png, gif, webp, bmp)", dir.display())));
    }
    photos.sort();
    Ok(photos)
}
