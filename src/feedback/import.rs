//! Records from files. A bad line is named and does not stop the others.

use std::{fs, io, io::BufRead, path::Path};

use super::{
    Corrections,
    record::{Feedback, ImageHash},
    store::StoreError,
};

/// Most bytes of a line.
const LINE_BYTES: u64 = 16 << 20;

/// What became of the lines of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that are new.
    pub taken: usize,
    /// Records that were there.
    pub known: usize,
    /// Lines that were not taken: their numbers, from 1, and why.
    pub refused: Vec<(usize, String)>,
}

/// Why an import did not go on. What was taken before stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("line {0}: {1}")]
    Read(usize, io::Error),
    /// The records cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes the records of a file that [`super::export`] wrote. Images that are not there yet come from the folder `images`, by their hash.
///
/// # Errors
/// When the file cannot be read, or the records cannot be kept.
pub async fn import(corrections: &Corrections, mut lines: impl BufRead, images: Option<&Path>) -> Result<Summary, ImportError> {
    let (mut summary, mut number) = (Summary::default(), 0);
    loop {
        number += 1;
        let mut line = Vec::new();
        io::Read::take(&mut lines, LINE_BYTES).read_until(b'\n', &mut line).map_err(|e| ImportError::Read(number, e))?;
        if line.is_empty() {
            return Ok(summary);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = serde_json::from_slice::<Feedback>(&line).map_err(|e| e.to_string()).and_then(|r| check(&r).map(|()| r));
        let record = match read {
            Ok(record) => record,
            Err(why) => {
                summary.refused.push((number, why));
                continue;
            }
        };
        match image(corrections, record.image, images).await? {
            Some(file) if corrections.keep(record, &file).await? => summary.taken += 1,
            Some(_) => summary.known += 1,
            None => summary.refused.push((number, "its image is neither kept nor in the folder of images".to_owned())),
        }
    }
}

async fn image(corrections: &Corrections, hash: ImageHash, folder: Option<&Path>) -> Result<Option<Vec<u8>>, StoreError> {
    if let Some(file) = corrections.images().get(hash).await? {
        return Ok(Some(file));
    }
    let file = folder.and_then(|folder| fs::read(folder.join(hash.to_string())).ok());
    Ok(file.filter(|file| ImageHash::of(file) == hash))
}

/// Whether the offsets of a record are of its text.
fn check(record: &Feedback) -> Result<(), String> {
    let text: Vec<char> = record.response.chars().collect();
    let reads = |start: usize, end: usize, as_it: &str| text.get(start..end).is_some_and(|part| part.iter().copied().eq(as_it.chars()));
    let tokens = record.tokens.iter().position(|t| !reads(t.start, t.end, &t.text));
    if let Some(i) = tokens {
        return Err(format!("'tokens[{i}].text' is not what stands there"));
    }
    let spanned = |e: &super::record::Correction| {
        let tokens = record.tokens.get(e.token_start..e.token_end);
        reads(e.start, e.end, &e.text) && tokens.is_some_and(|tokens| tokens.iter().map(|t| t.id).eq(e.error_tokens.iter().copied()))
    };
    if let Some(i) = record.errors.iter().position(|e| !spanned(e)) {
        return Err(format!("'errors[{i}]' is not what stands there"));
    }
    if record.errors.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err("'errors' are not in order, or one is inside of another".to_owned());
    }
    if record.id.is_empty() || record.id.len() > 64 || !record.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err("'id' is no id".to_owned());
    }
    Ok(())
}
