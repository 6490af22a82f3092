//! The rows of TRL's trainers: preferences for DPO, with images, and stepwise supervision for process reward models (PRM).

use std::iter::once;

use parquet::record::{Field, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Incoming,
    columns::{Cell, field, image, text, text_of},
    incoming::{Picture, said},
    lines::line,
    pairs::Pair,
};
use crate::feedback::{
    record::{Feedback, ImageHash, Label, Scope},
    submission::{Judgement, Place, Submission},
};

/// Lists of one item each: TRL takes several images and turns.
pub(super) const SCHEMA: &str = "message schema {
    OPTIONAL GROUP images (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY bytes; OPTIONAL BINARY path (UTF8); } } }
    OPTIONAL GROUP prompt (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY role (UTF8); OPTIONAL BINARY content (UTF8); } } }
    OPTIONAL GROUP chosen (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY role (UTF8); OPTIONAL BINARY content (UTF8); } } }
    OPTIONAL GROUP rejected (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { OPTIONAL BINARY role (UTF8); OPTIONAL BINARY content (UTF8); } } }
}";

pub(super) fn features() -> Value {
    let text = json!({ "dtype": "string", "_type": "Value" });
    let messages = json!({ "feature": { "role": text, "content": text }, "_type": "List" });
    json!({ "images": { "feature": { "_type": "Image" }, "_type": "List" }, "prompt": messages, "chosen": messages, "rejected": messages })
}

pub(super) fn row(record: &Feedback, image: Vec<u8>) -> Option<Vec<Cell>> {
    let Pair { prompt, chosen, rejected } = Pair::of(record)?;
    let messages = [("user", prompt), ("assistant", chosen), ("assistant", rejected)];
    let messages = messages.into_iter().flat_map(|(role, content)| [Cell::text(role), Cell::text(content)]);
    Some([Cell::Bytes(image), Cell::text(record.image.to_string())].into_iter().chain(messages).collect())
}

/// Texts may stand in place of messages of one turn, as TRL's own data sets have them.
pub(super) fn read(row: &Row) -> Result<Vec<Incoming>, String> {
    let images = match field(row, "images").or_else(|| field(row, "image")) {
        Some(Field::ListInternal(list)) => list.elements().first(),
        one => one,
    };
    let turn = |name: &str| match field(row, name) {
        Some(Field::ListInternal(list)) => match list.elements() {
            [Field::Group(message)] => {
                content(field(message, "content")).ok_or_else(|| format!("'{name}[0].content' is missing or no text"))
            }
            turns => Err(format!("'{name}' has {} turns; one is taken", turns.len())),
        },
        _ => text_of(row, name),
    };
    let pair = Pair { prompt: turn("prompt")?, chosen: turn("chosen")?, rejected: turn("rejected")? };
    Ok(vec![pair.said(image(images, "images[0]")?)])
}

/// A message's text, or that of its parts.
fn content(field: Option<&Field>) -> Option<String> {
    match field? {
        Field::ListInternal(parts) => {
            let part = |part: &Field| match part {
                Field::Group(part) => self::field(part, "text").and_then(text),
                _ => None,
            };
            Some(parts.elements().iter().filter_map(part).collect())
        }
        one => text(one),
    }
}

/// A row of stepwise supervision. TRL joins the steps; here nothing stands between them.
#[derive(Serialize, Deserialize)]
struct Steps {
    prompt: String,
    completions: Vec<String>,
    labels: Vec<bool>,
    /// The image's SHA-256.
    image: ImageHash,
}

/// The response cut where its labels change; what nobody judged is left out.
pub(super) fn steps(record: &Feedback, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let Some(scope) = record.scope else { return Ok(()) };
    let text: Vec<char> = record.response.chars().collect();
    let judged = match (scope, record.errors.first()) {
        (Scope::FirstError, Some(first)) => first.end,
        _ => text.len(),
    };
    let (mut completions, mut labels, mut at) = (Vec::new(), Vec::new(), 0);
    let errors = record.errors.iter().filter(|error| error.start < error.end).map(|error| (error.start, error.end));
    for (start, end) in errors.chain(once((judged, judged))).filter(|(_, end)| *end <= judged) {
        for (range, label) in [(at..start, true), (start..end, false)] {
            if !range.is_empty() {
                completions.push(text[range].iter().collect());
                labels.push(label);
            }
        }
        at = end;
    }
    if labels.is_empty() || record.tokens.iter().all(|token| token.label == Label::None) {
        return Ok(());
    }
    line(&Steps { prompt: record.prompt.clone(), completions, labels, image: record.image }, out)
}

/// Steps that are wrong are errors without a correction.
pub(super) fn read_steps(line: &[u8]) -> Result<Vec<Incoming>, String> {
    let Steps { prompt, completions, labels, image } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if completions.len() != labels.len() {
        return Err(format!("'labels' has {} items and 'completions' {}", labels.len(), completions.len()));
    }
    let (mut errors, mut at) = (Vec::new(), 0);
    for (step, right) in completions.iter().zip(&labels) {
        let (start, end) = (at + step.chars().take_while(|c| c.is_whitespace()).count(), at + step.chars().count());
        if !right {
            errors.push(Place { start, end, ..Place::default() });
        }
        at = end;
    }
    let submission = said(prompt, completions.concat());
    let submission = if errors.is_empty() {
        Submission { label: Some(Judgement::Good), ..submission }
    } else {
        Submission { errors: Some(errors), ..submission }
    };
    Ok(vec![Incoming::Said(Box::new(submission), Picture::Named(image))])
}
