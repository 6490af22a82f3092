//! Import of records from files. An invalid row is reported and skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Component, Path},
};

use tokio::task::spawn_blocking;

use super::{
    Corrections,
    corrections::{SubmitError, Submitter},
    derive::{check_name, excerpt},
    interchange::{IncomingRecord, InterchangeFormat, records::RowImage},
    record::{Feedback, ImageHash},
    store::{Owners, StoreError},
};
use crate::vlm::preprocess::{self, ImageLimits};

/// Result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// New records.
    pub taken: usize,
    /// Records that existed already.
    pub known: usize,
    /// Rows without a judgment: an annotator skipped them.
    pub skipped: usize,
    /// Parts of rows that a record has no field for, by name, with their number.
    pub left_out: BTreeMap<String, usize>,
    /// Invalid rows: row number (for JSON lines, line number) from 1, and the reason.
    pub refused: Vec<(usize, String)>,
}

impl ImportSummary {
    fn rows(&self) -> usize {
        self.taken + self.known + self.skipped + self.refused.len()
    }
}

/// Error that ends an import. Records imported before it stay.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is not of the format.
    #[error("{0}")]
    Form(String),
    /// The file cannot be read.
    #[error("after {0} rows: {1}")]
    Read(usize, io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Imports the rows of a file. Images that are neither in the file nor stored are read from the
/// directory `images`, named by their hash. Rows of foreign formats are submitted like feedback;
/// importing a row twice makes one record. Records belong to `owner` or, without one, to the owner
/// that they name.
///
/// # Errors
/// When the file cannot be read, or the store fails.
pub async fn import(
    corrections: &Corrections,
    file: File,
    format: InterchangeFormat,
    images: Option<&Path>,
    owner: Option<&str>,
) -> Result<ImportSummary, ImportError> {
    let mut summary = ImportSummary::default();
    for row in format.read(file).map_err(ImportError::Form)? {
        let (number, row) = row.map_err(|e| ImportError::Read(summary.rows(), e))?;
        let items = match row {
            Ok(items) => items,
            Err(why) => {
                summary.refused.push((number, why));
                continue;
            }
        };
        for item in items {
            match import_item(corrections, item, images, owner).await? {
                Ok(ItemOutcome::New) => summary.taken += 1,
                Ok(ItemOutcome::Known) => summary.known += 1,
                Ok(ItemOutcome::Skipped) => summary.skipped += 1,
                Ok(ItemOutcome::LeftOut(what)) => *summary.left_out.entry(what).or_default() += 1,
                Err(why) => summary.refused.push((number, why)),
            }
        }
    }
    Ok(summary)
}

/// Outcome of one item of a row.
enum ItemOutcome {
    New,
    Known,
    Skipped,
    LeftOut(String),
}

impl ItemOutcome {
    fn stored(new: bool) -> Self {
        if new { Self::New } else { Self::Known }
    }
}

/// Imports one item of a row; returns its outcome, or the reason why it is invalid.
async fn import_item(
    corrections: &Corrections,
    item: IncomingRecord,
    images: Option<&Path>,
    owner: Option<&str>,
) -> Result<Result<ItemOutcome, String>, StoreError> {
    let no_image = || "its image is neither stored nor in the image directory".to_owned();
    match item {
        IncomingRecord::Skipped => Ok(Ok(ItemOutcome::Skipped)),
        IncomingRecord::LeftOut(what) => Ok(Ok(ItemOutcome::LeftOut(what))),
        IncomingRecord::Record(mut record, file) => {
            if let Some(owner) = owner {
                owner.clone_into(&mut record.owner);
            }
            let file = match file.filter(|file| ImageHash::digest(file) == record.image) {
                Some(file) => Some(file),
                None => image(corrections, record.image, images).await?,
            };
            match (check(&record), file) {
                (Err(why), _) => Ok(Err(why)),
                (Ok(()), None) => Ok(Err(no_image())),
                (Ok(()), Some(file)) => match decodable(file).await {
                    Ok(file) => Ok(Ok(ItemOutcome::stored(
                        corrections.keep(*record, &file).await?,
                    ))),
                    Err(why) => Ok(Err(why)),
                },
            }
        }
        IncomingRecord::Submission(submission, picture) => {
            let file = match picture {
                RowImage::File(file) => file,
                RowImage::Hash(hash) => match image(corrections, hash, images).await? {
                    Some(file) => file,
                    None => return Ok(Err(no_image())),
                },
                RowImage::Path(source) => match images.and_then(|folder| image_at(folder, &source))
                {
                    Some(file) => file,
                    None => {
                        return Ok(Err(format!(
                            "its image `{}` is not in the image directory",
                            excerpt(&source)
                        )));
                    }
                },
            };
            let mut file = match decodable(file).await {
                Ok(file) => file,
                Err(why) => return Ok(Err(why)),
            };
            file.truncate(preprocess::image_length(&file));
            let hash = ImageHash::digest(&file);
            let body = serde_json::to_string(&submission)
                .map_err(|e| StoreError::Failed(e.to_string()))?;
            let key = format!(
                "import {}",
                ImageHash::digest(format!("{hash} {body}").as_bytes())
            );
            let by = Submitter {
                owner: owner.unwrap_or_default().to_owned(),
                owners: Owners::All,
            };
            match corrections
                .submit(*submission, Some(file), Some(key), &by)
                .await
            {
                Ok(submitted) => Ok(Ok(ItemOutcome::stored(!submitted.repeated))),
                Err(SubmitError::Store(error)) => Err(error),
                Err(error) => Ok(Err(error.to_string())),
            }
        }
    }
}

/// Returns the file if it is an image that can be decoded within the limits.
async fn decodable(file: Vec<u8>) -> Result<Vec<u8>, String> {
    let check = move || preprocess::check(&file, &ImageLimits::default()).map(|()| file);
    spawn_blocking(check)
        .await
        .map_err(|e| e.to_string())?
        .map_err(|why| why.to_string())
}

async fn image(
    corrections: &Corrections,
    hash: ImageHash,
    folder: Option<&Path>,
) -> Result<Option<Vec<u8>>, StoreError> {
    if let Some(file) = corrections.images().get(hash).await? {
        return Ok(Some(file));
    }
    let file = folder.and_then(|folder| fs::read(folder.join(hash.to_string())).ok());
    Ok(file.filter(|file| ImageHash::digest(file) == hash))
}

/// Reads the file that a path or URL names from a directory: by its whole path, or by its file
/// name.
fn image_at(folder: &Path, source: &str) -> Option<Vec<u8>> {
    let source = Path::new(source.split_once("?d=").map_or(source, |(_, path)| path));
    let inside = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
            .then(|| fs::read(folder.join(path)).ok())
    };
    inside(source)
        .flatten()
        .or_else(|| inside(Path::new(source.file_name()?)).flatten())
}

/// Checks that a record's offsets fit its text, that its tokens fit its errors, and that its names
/// are valid.
fn check(record: &Feedback) -> Result<(), String> {
    let names = [
        ("annotator", &record.annotator),
        ("user", &record.user),
        ("completion_id", &record.completion_id),
    ];
    let names = names.map(|(field, name)| (field, name.as_deref()));
    let owners = [
        ("owner", &record.owner),
        ("annotator_owner", &record.annotator_owner),
    ]
    .map(|(field, name)| (field, Some(name.as_str())));
    for (field, name) in names.into_iter().chain(
        owners
            .into_iter()
            .filter(|(_, name)| name.is_some_and(|name| !name.is_empty())),
    ) {
        name.map_or(Ok(()), |name| check_name(field, name))
            .map_err(|refused| refused.message)?;
    }
    let text: Vec<char> = record.response.chars().collect();
    let reads = |start: usize, end: usize, as_it: &str| {
        text.get(start..end)
            .is_some_and(|part| part.iter().copied().eq(as_it.chars()))
    };
    let tokens = record
        .tokens
        .iter()
        .position(|t| !reads(t.start, t.end, &t.text));
    if let Some(i) = tokens {
        return Err(format!(
            "'tokens[{i}].text' is not the response's text at its offsets"
        ));
    }
    let spanned = |e: &super::record::Correction| {
        let tokens = record.tokens.get(e.token_start..e.token_end);
        reads(e.start, e.end, &e.text)
            && tokens.is_some_and(|tokens| {
                tokens
                    .iter()
                    .map(|t| t.id)
                    .eq(e.error_tokens.iter().copied())
            })
    };
    if let Some(i) = record.errors.iter().position(|e| !spanned(e)) {
        return Err(format!(
            "'errors[{i}]' does not match the response and its tokens"
        ));
    }
    if record
        .errors
        .windows(2)
        .any(|pair| pair[1].start < pair[0].end)
    {
        return Err("'errors' are not in order, or overlap".to_owned());
    }
    if record.id.is_empty()
        || record.id.len() > 64
        || !record
            .id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Err("'id' is not a valid id".to_owned());
    }
    Ok(())
}
