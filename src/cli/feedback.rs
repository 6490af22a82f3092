//! `candor feedback`

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args as ClapArgs, Subcommand};
use futures_util::TryStreamExt;
use tokio::runtime::Runtime;

use super::{Failure, common::ModelArgs};
use crate::{
    bundle::Bundle,
    feedback::{
        Corrections,
        export::{Format, export},
        images::Images,
        import::import,
        store::{Filter, Page, Store, sql::SqlStore},
    },
};

/// Write corrections out, take them in, count them
///
/// Where they are says the configuration (feedback.store, feedback.images), as for `candor serve`, which may be running.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor feedback stats\n  candor feedback export --out corrections.jsonl --images photos/\n  candor feedback import corrections.jsonl --images photos/"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All records, oldest first
    #[command(after_help = "Example:\n  candor feedback export --out corrections.jsonl --images photos/")]
    Export {
        /// How they are written: jsonl, parquet, rlhf-v, trl-dpo, trl-prm, label-studio
        #[arg(long, default_value = "jsonl")]
        format: Format,
        /// Where to [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Name annotators
        #[arg(long)]
        annotators: bool,
        /// Folder for the images, each by its SHA-256
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// Records of a file
    #[command(
        after_help = "Examples:\n  candor feedback import corrections.jsonl --images photos/\n  candor feedback import --format rlhf-v RLHF-V-Dataset.parquet"
    )]
    Import {
        /// What `export` wrote, or a file of another tool
        file: PathBuf,
        /// How it is written: jsonl, parquet, rlhf-v, trl-dpo, trl-prm, label-studio
        #[arg(long, default_value = "jsonl")]
        format: Format,
        /// Folder with the images that are not kept yet
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// How many there are
    #[command(after_help = "Example:\n  candor feedback stats --json")]
    Stats {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = args.model.load(&[])?;
    if !config.feedback.enabled() {
        return Err(Failure::Misused("feedback.store is off".to_owned()));
    }
    Runtime::new().map_err(Failure::failed)?.block_on(async {
        let store = Arc::new(SqlStore::open(&config.feedback.store).await.map_err(Failure::failed)?);
        let images = Images::open(&config.feedback.images, std::env::vars_os()).map_err(Failure::failed)?;
        match args.what {
            What::Export { format, out, annotators, images: folder } => {
                let images = Arc::new(images);
                write_records(Arc::clone(&store), Arc::clone(&images), format, out.as_deref(), annotators).await?;
                match folder {
                    Some(folder) => write_images(&store, &images, &folder).await,
                    None => Ok(()),
                }
            }
            What::Import { file, format, images: folder } => {
                let vocabulary = Bundle::vocabulary_of(&config.model.name).map_err(Failure::failed)?;
                take(&Corrections::start(store, images, vocabulary, config.queue.clone()), &file, format, folder.as_deref()).await
            }
            What::Stats { json } => stats(&store, json).await,
        }
    })
}

fn named(file: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", file.display()))
}

async fn write_records(
    store: Arc<SqlStore>,
    images: Arc<Images>,
    format: Format,
    out: Option<&Path>,
    annotators: bool,
) -> Result<(), Failure> {
    let mut file: Box<dyn Write> = match out {
        Some(out) => Box::new(BufWriter::new(File::create(out).map_err(named(out))?)),
        None => Box::new(std::io::stdout()),
    };
    let mut pieces = Box::pin(export(store, images, Filter::default(), format, annotators));
    while let Some(piece) = pieces.try_next().await.map_err(Failure::failed)? {
        file.write_all(&piece).map_err(Failure::failed)?;
    }
    file.flush().map_err(Failure::failed)
}

/// The images of all records, each in a file that has its hash for a name.
async fn write_images(store: &SqlStore, images: &Images, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(named(folder))?;
    let mut page = Page { limit: 256, ..Page::default() };
    loop {
        let records = store.page(&page).await.map_err(Failure::failed)?;
        for record in &records {
            let path = folder.join(record.image.to_string());
            if !path.exists()
                && let Some(image) = images.get(record.image).await.map_err(Failure::failed)?
            {
                fs::write(&path, image).map_err(named(&path))?;
            }
        }
        let Some(last) = records.last() else { return Ok(()) };
        page.after = Some(last.id.clone());
    }
}

async fn take(corrections: &Corrections, file: &Path, format: Format, images: Option<&Path>) -> Result<(), Failure> {
    let rows = File::open(file).map_err(named(file))?;
    let summary = import(corrections, rows, format, images).await.map_err(Failure::failed)?;
    summary.refused.iter().for_each(|(line, why)| eprintln!("{}:{line}: {why}", file.display()));
    let skipped = if summary.skipped > 0 { format!(", skipped {}", summary.skipped) } else { String::new() };
    println!("taken {}, there before {}, refused {}{skipped}", summary.taken, summary.known, summary.refused.len());
    summary.left_out.iter().for_each(|(what, rows)| eprintln!("{}: left out {what} ({rows} times)", file.display()));
    if summary.refused.is_empty() { Ok(()) } else { Err(Failure::Failed("not every row was taken".to_owned())) }
}

async fn stats(store: &SqlStore, json: bool) -> Result<(), Failure> {
    let stats = store.stats().await.map_err(Failure::failed)?;
    if json {
        println!("{}", serde_json::to_string(&stats).map_err(Failure::failed)?);
        return Ok(());
    }
    for (what, counts) in [("", &stats.feedback), ("from ", &stats.sources)] {
        counts.iter().for_each(|(name, n)| println!("{n:>9}  {what}{name}"));
    }
    println!("{:>9}  receipts", stats.receipts);
    Ok(())
}
