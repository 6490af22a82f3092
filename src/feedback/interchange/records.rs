//! Content of a file's rows in any format: whole records, submissions, and pairs of a chosen and a
//! rejected text. Also the two formats that keep whole records, JSON lines and Parquet.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use parquet::record::Row;
use serde::Serialize;
use serde_json::{Value, json};

use super::columns::{ColumnValue, field, image_value, required_text};
use crate::feedback::{
    record::{Feedback, FeedbackSource, ImageHash, JudgedPart},
    store::StoreError,
    submission::{Judgment, Submission},
};

/// Item of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum IncomingRecord {
    /// Whole record, with its image if the file has it.
    Record(Box<Feedback>, Option<Vec<u8>>),
    /// Submission that makes a record, and its image.
    Submission(Box<Submission>, RowImage),
    /// Name of something in the row that a record has no field for.
    LeftOut(String),
    /// Row that an annotator skipped.
    Skipped,
}

/// Image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowImage {
    /// The file.
    File(Vec<u8>),
    /// SHA-256 of a file that is elsewhere.
    Hash(ImageHash),
    /// Path or URL of the file.
    Path(String),
}

impl RowImage {
    /// Reads a `data:` URL, or else a path or URL.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        match text.strip_prefix("data:") {
            Some(url) => Some(Self::File(
                BASE64_STANDARD.decode(url.split_once(";base64,")?.1).ok()?,
            )),
            None => (!text.trim().is_empty()).then(|| Self::Path(text.to_owned())),
        }
    }
}

/// Submission of an imported answer, without a judgment.
pub(super) fn imported_answer(prompt: String, response: String) -> Submission {
    Submission {
        prompt: Some(prompt),
        response: Some(response),
        source: Some(FeedbackSource::Import),
        ..Submission::default()
    }
}

/// Prompt with a preferred and a rejected answer.
pub(super) struct PreferencePair {
    pub(super) prompt: String,
    pub(super) chosen: String,
    pub(super) rejected: String,
}

impl PreferencePair {
    /// Makes the pair of a record; `None` if nothing is wrong or no correction is known. If only
    /// the first error was judged, both answers end with it.
    pub(super) fn from_record(record: &Feedback) -> Option<Self> {
        let first = record.errors.first()?;
        let prompt = record.prompt.clone();
        if record.scope == Some(JudgedPart::FirstError) {
            let correction = first.correction.as_ref()?;
            let (chosen, rejected) = (
                first.partial_caption.clone() + correction,
                first.partial_caption.clone() + &first.text,
            );
            return Some(Self {
                prompt,
                chosen,
                rejected,
            });
        }
        Some(Self {
            prompt,
            chosen: record.corrected()?,
            rejected: record.response.clone(),
        })
    }

    /// Makes a submission: the words in which the answers differ are errors; equal answers are
    /// good.
    pub(super) fn into_submission(self, picture: RowImage) -> IncomingRecord {
        let submission = imported_answer(self.prompt, self.rejected);
        let same = submission.response.as_ref() == Some(&self.chosen);
        let submission = if same {
            Submission {
                label: Some(Judgment::Good),
                ..submission
            }
        } else {
            Submission {
                edit: Some(self.chosen),
                ..submission
            }
        };
        IncomingRecord::Submission(Box::new(submission), picture)
    }
}

/// Largest number of bytes in a line.
const LINE_BYTES: u64 = 16 << 20;

/// Byte-order mark, with which some Windows tools begin a file.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// Writer of JSON lines with a function that appends the line of a record, or nothing.
pub(super) struct LineWriter(pub(super) fn(&Feedback, &mut Vec<u8>) -> serde_json::Result<()>);

impl RecordWriter for LineWriter {
    fn record(
        &mut self,
        record: &Feedback,
        _: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        (self.0)(record, out).map_err(|e| StoreError::Failed(e.to_string()))
    }

    fn end(&mut self, _: &mut Vec<u8>) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) fn line(value: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

/// Appends the whole record.
pub(super) fn whole_line(record: &Feedback, out: &mut Vec<u8>) -> serde_json::Result<()> {
    line(record, out)
}

/// Reads a line written by [`whole_line`].
pub(super) fn read_whole_line(line: &[u8]) -> Result<Vec<IncomingRecord>, String> {
    let record = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    Ok(vec![IncomingRecord::Record(Box::new(record), None)])
}

/// Returns the lines of a file, parsed; blank lines are skipped.
pub(super) fn read_lines(
    file: File,
    parse: fn(&[u8]) -> Result<Vec<IncomingRecord>, String>,
) -> NumberedRows {
    let (mut lines, mut number) = (BufReader::new(file), 0);
    let mut next = move || -> std::io::Result<Option<NumberedRow>> {
        loop {
            number += 1;
            let mut line = Vec::new();
            (&mut lines).take(LINE_BYTES).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.len() as u64 == LINE_BYTES && !line.ends_with(b"\n") {
                // Skips the rest of the line.
                while {
                    let part = lines.fill_buf()?;
                    !part.is_empty() && !part.contains(&b'\n')
                } {
                    let length = lines.buffer().len();
                    lines.consume(length);
                }
                lines.read_until(b'\n', &mut Vec::new())?;
                return Ok(Some((
                    number,
                    Err(format!("has more than {LINE_BYTES} bytes")),
                )));
            }
            let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
            if !line.trim_ascii().is_empty() {
                return Ok(Some((number, parse(line))));
            }
        }
    };
    Box::new(std::iter::from_fn(move || next().transpose()))
}

pub(super) const SCHEMA: &str = "message schema {
    OPTIONAL BINARY id (UTF8);
    OPTIONAL INT64 created;
    OPTIONAL GROUP image { OPTIONAL BINARY bytes; OPTIONAL BINARY path (UTF8); }
    OPTIONAL BINARY prompt (UTF8);
    OPTIONAL BINARY response (UTF8);
    OPTIONAL BINARY corrected (UTF8);
    OPTIONAL BINARY kind (UTF8);
    OPTIONAL BINARY record (UTF8);
}";

/// Columns that are known; all but `record` and `image` repeat parts of the record.
pub(super) const READ: &[&str] = &[
    "id",
    "created",
    "image",
    "prompt",
    "response",
    "corrected",
    "kind",
    "record",
];

pub(super) fn features() -> Value {
    let text = json!({ "dtype": "string", "_type": "Value" });
    json!({ "id": text, "created": { "dtype": "int64", "_type": "Value" },
        "image": { "_type": "Image" }, "prompt": text, "response": text,
        "corrected": text, "kind": text, "record": text })
}

pub(super) fn row(record: &Feedback, image: Vec<u8>) -> Option<Vec<ColumnValue>> {
    Some(vec![
        ColumnValue::text(&record.id),
        ColumnValue::Number(record.created as i64),
        ColumnValue::Bytes(image),
        ColumnValue::text(record.image.to_string()),
        ColumnValue::text(&record.prompt),
        ColumnValue::text(&record.response),
        record
            .corrected()
            .map_or(ColumnValue::None, ColumnValue::text),
        ColumnValue::text(record.kind.name()),
        ColumnValue::text(serde_json::to_string(record).ok()?),
    ])
}

pub(super) fn read(row: &Row) -> Result<Vec<IncomingRecord>, String> {
    let record = serde_json::from_str(&required_text(row, "record")?)
        .map_err(|e| format!("'record': {e}"))?;
    let file = match image_value(field(row, "image"), "image")? {
        RowImage::File(file) => Some(file),
        _ => None,
    };
    Ok(vec![IncomingRecord::Record(Box::new(record), file)])
}

/// Number of a row, with its items or the reason why it is invalid.
pub type NumberedRow = (usize, Result<Vec<IncomingRecord>, String>);

/// Rows of a file, up to the first that cannot be read.
pub type NumberedRows = Box<dyn Iterator<Item = std::io::Result<NumberedRow>> + Send>;

/// Writer of a file, piece by piece.
pub trait RecordWriter: Send {
    /// Writes a record and appends the bytes that are ready to `out`. `image` is set for formats
    /// with images.
    ///
    /// # Errors
    /// When the record cannot be written in this format.
    fn record(
        &mut self,
        record: &Feedback,
        image: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError>;

    /// Writes the end of the file.
    ///
    /// # Errors
    /// When the end cannot be written.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError>;
}
