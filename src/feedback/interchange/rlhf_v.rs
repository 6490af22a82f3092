//! RLHF-V's data set of segment-level corrections (Yu et al., arXiv:2312.00849): Parquet with the
//! image, and a JSON object of question, chosen and rejected in `text`. RLAIF-V has those three as
//! columns; both are written, and either is read.

use std::iter::once;

use parquet::record::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    IncomingRecord,
    columns::{ColumnValue, field, image_value, required_text, text},
    records::PreferencePair,
};
use crate::feedback::record::Feedback;

pub(super) const SCHEMA: &str = "message schema {
    OPTIONAL BINARY ds_name (UTF8);
    OPTIONAL GROUP image { OPTIONAL BINARY bytes; OPTIONAL BINARY path (UTF8); }
    OPTIONAL BINARY text (UTF8);
    OPTIONAL BINARY question (UTF8);
    OPTIONAL BINARY chosen (UTF8);
    OPTIONAL BINARY rejected (UTF8);
    OPTIONAL BINARY origin_dataset (UTF8);
    OPTIONAL BINARY origin_split (UTF8);
    OPTIONAL BINARY idx (UTF8);
    OPTIONAL BINARY image_path (UTF8);
}";

pub(super) fn features() -> Value {
    let text = json!({ "dtype": "string", "_type": "Value" });
    json!({ "ds_name": text, "image": { "_type": "Image" }, "text": text, "question": text,
        "chosen": text, "rejected": text,
        "origin_dataset": text, "origin_split": text, "idx": text, "image_path": text })
}

#[derive(Serialize, Deserialize)]
struct Text {
    question: String,
    chosen: String,
    rejected: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Columns that a record is made from.
pub(super) const READ: &[&str] = &["image", "text", "question", "chosen", "rejected"];

pub(super) fn row(record: &Feedback, image: Vec<u8>) -> Option<Vec<ColumnValue>> {
    let PreferencePair {
        prompt,
        chosen,
        rejected,
    } = PreferencePair::from_record(record)?;
    let text = Text {
        question: prompt,
        chosen,
        rejected,
        others: Map::new(),
    };
    let json = serde_json::to_string(&text).ok()?;
    let path = record.image.to_string();
    Some(vec![
        ColumnValue::text("candor"),
        ColumnValue::Bytes(image),
        ColumnValue::text(&path),
        ColumnValue::text(json),
        ColumnValue::text(text.question),
        ColumnValue::text(text.chosen),
        ColumnValue::text(text.rejected),
        ColumnValue::text("candor"),
        // Author of the rejected text.
        ColumnValue::text(record.versions.model.clone().unwrap_or_default()),
        ColumnValue::text(&record.id),
        ColumnValue::text(path),
    ])
}

pub(super) fn read(row: &Row) -> Result<Vec<IncomingRecord>, String> {
    let picture = image_value(field(row, "image"), "image")?;
    let columns = ["question", "chosen", "rejected"];
    let Text {
        question,
        chosen,
        rejected,
        others,
    } = match field(row, "text").and_then(text) {
        Some(text) => serde_json::from_str(&text).map_err(|e| format!("'text': {e}"))?,
        None => {
            let [question, chosen, rejected] = columns.map(|name| required_text(row, name));
            Text {
                question: question?,
                chosen: chosen?,
                rejected: rejected?,
                others: Map::new(),
            }
        }
    };
    for (name, expected) in columns.into_iter().zip([&question, &chosen, &rejected]) {
        if field(row, name)
            .and_then(text)
            .is_some_and(|column| column != *expected)
        {
            return Err(format!("'{name}' differs from 'text.{name}'"));
        }
    }
    let left_out = others
        .into_iter()
        .map(|(name, _)| IncomingRecord::LeftOut(format!("'text.{name}'")));
    Ok(once(
        PreferencePair {
            prompt: question,
            chosen,
            rejected,
        }
        .into_submission(picture),
    )
    .chain(left_out)
    .collect())
}
