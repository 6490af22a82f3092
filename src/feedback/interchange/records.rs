//! Whole records in Parquet: what is often asked for in columns, the record as JSON in `record`,
//! and the image.

use parquet::record::Row;
use serde_json::{Value, json};

use super::{
    Incoming,
    columns::{Cell, field, picture, text_of},
    incoming::Picture,
};
use crate::feedback::record::Feedback;

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

/// The columns that say nothing that the record does not.
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

pub(super) fn row(record: &Feedback, image: Vec<u8>) -> Option<Vec<Cell>> {
    Some(vec![
        Cell::text(&record.id),
        Cell::Number(record.created as i64),
        Cell::Bytes(image),
        Cell::text(record.image.to_string()),
        Cell::text(&record.prompt),
        Cell::text(&record.response),
        record.corrected().map_or(Cell::None, Cell::text),
        Cell::text(record.kind.name()),
        Cell::text(serde_json::to_string(record).ok()?),
    ])
}

pub(super) fn read(row: &Row) -> Result<Vec<Incoming>, String> {
    let record =
        serde_json::from_str(&text_of(row, "record")?).map_err(|e| format!("'record': {e}"))?;
    let file = match picture(field(row, "image"), "image")? {
        Picture::File(file) => Some(file),
        _ => None,
    };
    Ok(vec![Incoming::Record(Box::new(record), file)])
}
