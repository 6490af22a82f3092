//! Whole records in Parquet: what is often asked for in columns, the record as JSON in `record`,
//! and the image.

use parquet::record::Row;
use serde_json::{Value, json};

use super::{
    IncomingRecord,
    columns::{ColumnValue, field, picture, text_of},
    incoming::RowImage,
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
    let record =
        serde_json::from_str(&text_of(row, "record")?).map_err(|e| format!("'record': {e}"))?;
    let file = match picture(field(row, "image"), "image")? {
        RowImage::File(file) => Some(file),
        _ => None,
    };
    Ok(vec![IncomingRecord::Record(Box::new(record), file)])
}
