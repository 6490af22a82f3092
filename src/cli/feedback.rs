//! `candor feedback`

use std::{
    fs::{self, File},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{ArgGroup, Args, Subcommand};
use futures_util::{Stream, TryStreamExt};

use super::{
    Failure,
    common::{ModelArgs, block_on},
    output::{
        ReplacementFile, failed_at, is_stdio, note, print, refuse_existing, replace, write_stdout,
    },
    photo::shown_path,
};
use crate::{
    bundle::Bundle,
    feedback::{
        Corrections,
        export::{InterchangeFormat, export},
        images::ImageStore,
        import::import,
        record::ShownNames,
        store::{
            AnnotatorTarget, Owners, RecordFilter, RecordPage, RemovalCounts, RemovalTarget, Store,
            StoreError, sql::SqlStore,
        },
    },
};

/// Export, import, count and remove corrections
///
/// Store and images are those of the configuration (feedback.store, feedback.images), as for candor
/// serve, which may be running.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor feedback stats\n  candor feedback export --out \
                  corrections.jsonl --images photos/\n  candor feedback import corrections.jsonl \
                  --images photos/"
)]
pub(crate) struct FeedbackArgs {
    #[command(subcommand)]
    command: FeedbackCommand,

    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Subcommand)]
enum FeedbackCommand {
    /// Export all records, oldest first
    #[command(
        after_help = "Example:\n  candor feedback export --out corrections.jsonl --images photos/"
    )]
    Export {
        /// Format: jsonl, parquet, rlhf-v, trl-dpo, trl-prm, label-studio
        #[arg(long, default_value = "jsonl")]
        format: InterchangeFormat,
        /// File to write [default: standard output, as `-`]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace the file if it exists
        #[arg(long, requires = "out")]
        overwrite: bool,
        /// Include the names of annotators
        #[arg(long)]
        annotators: bool,
        /// Only records of this owner of keys; '' selects records made without keys [default: all]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
        /// Folder for the images, each named by its SHA-256
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// Import the records of a file
    #[command(
        after_help = "Examples:\n  candor feedback import corrections.jsonl --images photos/\n  \
                      candor feedback import --format rlhf-v RLHF-V-Dataset.parquet"
    )]
    Import {
        /// File that candor feedback export or another tool wrote; `-` reads standard input
        file: PathBuf,
        /// Format: jsonl, parquet, rlhf-v, trl-dpo, trl-prm, label-studio
        #[arg(long, default_value = "jsonl")]
        format: InterchangeFormat,
        /// Folder with images that are not stored yet
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        /// Owner of keys to whom the records will belong [default: as the file says; '' is nobody]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// Count the records
    #[command(after_help = "Example:\n  candor feedback stats --json")]
    Stats {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Only records of this owner of keys; '' selects records made without keys [default: all]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// Remove a user's data, or an annotator's name
    ///
    /// A user's records and receipts are removed, with the images that nothing else refers to. An
    /// annotator's records stay without the name, unless --records is given.
    #[command(
        group = ArgGroup::new("person").args(["user", "annotator"]).required(true),
        after_help = "Examples:\n  candor feedback forget --user 4711\n  candor feedback forget \
                      --annotator ann --records"
    )]
    Forget {
        /// User, by the name in requests
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Annotator, by the name in feedback
        #[arg(long, value_name = "NAME")]
        annotator: Option<String>,
        /// Remove the annotator's records too
        #[arg(long, conflicts_with = "user")]
        records: bool,
        /// Only data of this owner of keys; '' selects data made without keys [default: all]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
}

/// Owners that a command selects.
fn owners(owner: Option<String>) -> Owners {
    owner.map_or(Owners::All, Owners::One)
}

pub(crate) fn run(args: FeedbackArgs) -> Result<(), Failure> {
    let config = args.model.load(&[])?;
    if !config.feedback.enabled() {
        return Err(Failure::Misused("feedback.store is off".to_owned()));
    }
    if let FeedbackCommand::Export {
        out: Some(out),
        overwrite,
        ..
    } = &args.command
    {
        refuse_existing(out, *overwrite)?;
    }
    block_on(async {
        let store = Arc::new(
            SqlStore::open(&config.feedback.store)
                .await
                .map_err(Failure::failed)?,
        );
        let images = ImageStore::open(&config.feedback.images, std::env::vars_os())
            .map_err(Failure::failed)?;
        match args.command {
            FeedbackCommand::Export {
                format,
                out,
                overwrite: _,
                annotators,
                images: folder,
                owner,
            } => {
                let images = Arc::new(images);
                let filter = RecordFilter {
                    owners: owners(owner),
                    ..RecordFilter::default()
                };
                let shown = ShownNames {
                    annotators,
                    owners: true,
                };
                let pieces = export(
                    Arc::clone(&store) as _,
                    Arc::clone(&images),
                    filter.clone(),
                    format,
                    shown,
                );
                write_pieces(pieces, out.as_deref()).await?;
                match folder {
                    Some(folder) => write_images(&store, &images, filter, &folder).await,
                    None => Ok(()),
                }
            }
            FeedbackCommand::Import {
                file,
                format,
                images: folder,
                owner,
            } => {
                let vocabulary =
                    Bundle::vocabulary_of(&config.model.name).map_err(Failure::failed)?;
                let corrections =
                    Corrections::start(store, images, vocabulary, config.queue.clone());
                import_file(
                    &corrections,
                    &file,
                    format,
                    folder.as_deref(),
                    owner.as_deref(),
                )
                .await
            }
            FeedbackCommand::Stats { json, owner } => stats(&store, &owners(owner), json).await,
            FeedbackCommand::Forget {
                user,
                annotator,
                records,
                owner,
            } => {
                let (owners, limit) = (owners(owner), FORGOTTEN_AT_ONCE);
                let user = user.map(|user| RemovalTarget::User(user, owners.clone()));
                let annotator = annotator.map(|name| {
                    RemovalTarget::Annotator(AnnotatorTarget {
                        name,
                        owners,
                        records,
                        limit,
                    })
                });
                let Some(target) = user.or(annotator) else {
                    return Ok(());
                };
                let vocabulary =
                    Bundle::vocabulary_of(&config.model.name).map_err(Failure::failed)?;
                let corrections =
                    Corrections::start(store, images, vocabulary, config.queue.clone());
                let RemovalCounts {
                    feedback,
                    receipts,
                    unnamed,
                } = corrections.remove(target).await.map_err(Failure::failed)?;
                print(format_args!(
                    "removed {feedback} records and {receipts} receipts; {unnamed} records stay \
                     without the annotator's name"
                ))
            }
        }
    })
}

/// Records that are changed per transaction.
const FORGOTTEN_AT_ONCE: u32 = 512;

async fn write_pieces(
    pieces: impl Stream<Item = Result<Vec<u8>, StoreError>>,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let mut file = match out.filter(|out| !is_stdio(out)) {
        Some(out) => Some((out, ReplacementFile::create(out).map_err(failed_at(out))?)),
        None => None,
    };
    let mut pieces = Box::pin(pieces);
    while let Some(piece) = pieces.try_next().await.map_err(Failure::failed)? {
        match &mut file {
            Some((out, file)) => file.write_all(&piece).map_err(failed_at(out))?,
            None => write_stdout(&piece)?,
        }
    }
    file.map_or(Ok(()), |(out, file)| file.commit().map_err(failed_at(out)))
}

/// Writes the images of all records, each to a file named by its hash.
async fn write_images(
    store: &SqlStore,
    images: &ImageStore,
    filter: RecordFilter,
    folder: &Path,
) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(failed_at(folder))?;
    let mut page = RecordPage {
        filter,
        limit: 256,
        ..RecordPage::default()
    };
    loop {
        let records = store.page(&page).await.map_err(Failure::failed)?;
        for record in &records {
            let path = folder.join(record.image.to_string());
            if !path.exists()
                && let Some(image) = images.get(record.image).await.map_err(Failure::failed)?
            {
                replace(&path, &image).map_err(failed_at(&path))?;
            }
        }
        let Some(last) = records.last() else {
            return Ok(());
        };
        page.after = Some(last.id.clone());
    }
}

/// Copies standard input to a temporary file: Parquet is read from its end, and a pipe cannot seek.
fn stdin_file() -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.rewind()?;
    Ok(file)
}

async fn import_file(
    corrections: &Corrections,
    file: &Path,
    format: InterchangeFormat,
    images: Option<&Path>,
    owner: Option<&str>,
) -> Result<(), Failure> {
    let name = shown_path(file);
    let open = if is_stdio(file) {
        tokio::task::spawn_blocking(stdin_file)
            .await
            .map_err(Failure::failed)?
    } else {
        File::open(file)
    };
    let rows = open.map_err(|e| Failure::Failed(format!("{name}: {e}")))?;
    let summary = import(corrections, rows, format, images, owner)
        .await
        .map_err(|e| Failure::Failed(format!("{name}: {e}")))?;
    summary
        .refused
        .iter()
        .for_each(|(line, why)| note(format_args!("{name}:{line}: {why}")));
    summary
        .left_out
        .iter()
        .for_each(|(what, rows)| note(format_args!("{name}: left out {what} ({rows} times)")));
    let skipped = if summary.skipped > 0 {
        format!(", skipped {}", summary.skipped)
    } else {
        String::new()
    };
    print(format_args!(
        "taken {}, there before {}, refused {}{skipped}",
        summary.taken,
        summary.known,
        summary.refused.len()
    ))?;
    if summary.refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed("not every row was taken".to_owned()))
    }
}

async fn stats(store: &SqlStore, owners: &Owners, json: bool) -> Result<(), Failure> {
    let stats = store.stats(owners).await.map_err(Failure::failed)?;
    if json {
        return print(serde_json::to_string(&stats).map_err(Failure::failed)?);
    }
    for (what, counts) in [("", &stats.feedback), ("from ", &stats.sources)] {
        counts
            .iter()
            .try_for_each(|(name, n)| print(format_args!("{n:>9}  {what}{name}")))?;
    }
    print(format_args!("{:>9}  receipts", stats.receipts))
}
