//! Label Studio tasks. A task carries the image and the answer; flagged spans are its prediction,
//! and a person's judgment is its annotation: `error` labels spans of the text, `correction`
//! replaces them, `missing` names omitted content, and `verdict` judges the whole. The matching
//! labeling configuration is in `docs/feedback.md`.

use std::{collections::BTreeMap, fs::File, io::Read};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    IncomingRecord, NumberedRows, RecordWriter,
    records::{BYTE_ORDER_MARK, RowImage, imported_answer},
};
use crate::{
    feedback::{
        fold::{is_blank, trim},
        record::{Feedback, JudgedPart, JudgmentKind},
        store::StoreError,
        submission::{ErrorSpan, Judgment, Submission},
    },
    util::offsets::CharRange,
};

/// Writer of a JSON array of tasks.
#[derive(Default)]
pub(super) struct TaskWriter {
    written: usize,
}

impl RecordWriter for TaskWriter {
    fn record(
        &mut self,
        record: &Feedback,
        image: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let Some(image) = image else { return Ok(()) };
        out.extend_from_slice(if self.written == 0 { b"[\n" } else { b",\n" });
        self.written += 1;
        serde_json::to_writer(out, &task(record, &image, self.written))
            .map_err(|e| StoreError::Failed(e.to_string()))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        out.extend_from_slice(if self.written == 0 { b"[]\n" } else { b"\n]\n" });
        Ok(())
    }
}

fn task(record: &Feedback, image: &[u8], number: usize) -> Value {
    let kind = image::guess_format(image)
        .map_or("application/octet-stream", |format| format.to_mime_type());
    let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(image));
    let text: Vec<char> = record.response.chars().collect();
    let slice = |start: usize, end: usize| {
        text.get(start..end)
            .unwrap_or_default()
            .iter()
            .collect::<String>()
    };
    let flagged = record.flagged.as_deref().map(|spans| {
        let span = |(i, span): (usize, &CharRange)| {
            region(
                &format!("d{i}"),
                "error",
                "labels",
                *span,
                json!({ "text": slice(span.start, span.end), "labels": ["error"] }),
            )
        };
        json!([{ "model_version": record.versions.reward, "result": spans.iter().enumerate()
            .map(span).collect::<Vec<_>>() }])
    });
    let mut result = vec![whole_text_result(
        "verdict",
        "choices",
        json!({ "choices": [record.kind.name()] }),
    )];
    for (i, error) in record.errors.iter().enumerate() {
        let id = format!("e{i}");
        result.push(region(
            &id,
            "error",
            "labels",
            error.chars(),
            json!({ "text": error.text, "labels": ["error"] }),
        ));
        if let Some(correction) = &error.correction {
            result.push(region(
                &id,
                "correction",
                "textarea",
                error.chars(),
                json!({ "text": [correction] }),
            ));
        }
    }
    if !record.missing.is_empty() {
        result.push(whole_text_result(
            "missing",
            "textarea",
            json!({ "text": record.missing }),
        ));
    }
    let annotation = json!({ "result": result, "completed_by": record.annotator.as_ref()
            .map(|name| json!({ "email": name })), "was_cancelled": false });
    json!({
        "id": number,
        "data": { "image": url, "prompt": record.prompt, "text": record.response,
            "scope": record.scope, "feedback_id": record.id },
        "predictions": flagged.unwrap_or_else(|| json!([])),
        "annotations": [annotation],
    })
}

fn region(id: &str, from: &str, kind: &str, chars: CharRange, mut value: Value) -> Value {
    value["start"] = json!(chars.start);
    value["end"] = json!(chars.end);
    json!({ "id": id, "from_name": from, "to_name": "text", "type": kind, "value": value })
}

fn whole_text_result(name: &str, kind: &str, value: Value) -> Value {
    json!({ "id": name, "from_name": name, "to_name": "text", "type": kind, "value": value })
}

#[derive(Deserialize)]
struct Task {
    data: Data,
    #[serde(default)]
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Data {
    image: String,
    #[serde(default)]
    prompt: Option<String>,
    text: Texts,
    #[serde(default)]
    scope: Option<JudgedPart>,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    result: Vec<Value>,
    #[serde(default)]
    completed_by: Value,
    #[serde(default)]
    was_cancelled: bool,
}

/// Result of an annotation, of any type.
#[derive(Deserialize)]
struct Region {
    #[serde(default)]
    id: String,
    #[serde(default)]
    from_name: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    value: Value,
}

impl Region {
    /// Returns the name of the control in the labeling configuration; `None` for a foreign one,
    /// which says nothing about errors.
    fn part(&self) -> Option<&str> {
        let kinds: &[&str] = match self.from_name.as_deref()? {
            "error" => &["labels", "hypertextlabels"],
            "correction" | "missing" => &["textarea"],
            "verdict" => &["choices"],
            _ => return None,
        };
        let known = self
            .r#type
            .as_deref()
            .is_none_or(|kind| kinds.contains(&kind));
        self.from_name.as_deref().filter(|_| known)
    }
}

#[derive(Default, Deserialize)]
struct Values {
    #[serde(default)]
    start: Value,
    #[serde(default)]
    end: Value,
    /// Offsets in the plain text, for texts with markup.
    #[serde(default, rename = "globalOffsets")]
    global: Option<CharRange>,
    #[serde(default)]
    text: Option<Texts>,
    #[serde(default)]
    choices: Vec<String>,
}

impl Values {
    fn offsets(&self) -> Option<CharRange> {
        // Tables write whole numbers as 18.0.
        let whole = |value: &Value| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && (0.0..1e9).contains(number))
                .map(|number| number as u64)
        };
        let number = |value: &Value| {
            value
                .as_u64()
                .or_else(|| whole(value))
                .and_then(|number| usize::try_from(number).ok())
        };
        let own = || Some(CharRange::new(number(&self.start)?, number(&self.end)?));
        self.global.or_else(own)
    }
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }

    /// Returns the only text.
    fn one(self) -> Result<String, String> {
        let mut texts = self.all();
        match (texts.pop(), texts.len()) {
            (text, 0) => Ok(text.unwrap_or_default()),
            (_, others) => Err(format!("has {} texts where one is read", others + 1)),
        }
    }
}

/// Reads a whole file of tasks, exported as `JSON` or `JSON-MIN`.
pub(super) fn read(mut file: File) -> Result<NumberedRows, String> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let tasks = serde_json::from_slice(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes));
    let tasks: Vec<Value> = tasks.map_err(|e| format!("not an array of tasks: {e}"))?;
    Ok(Box::new(
        tasks
            .into_iter()
            .enumerate()
            .map(|(i, value)| Ok((i + 1, read_task(value)))),
    ))
}

fn read_task(task: Value) -> Result<Vec<IncomingRecord>, String> {
    let Task { data, annotations } =
        serde_json::from_value(expand_min(task)).map_err(|e| e.to_string())?;
    let Data {
        image,
        prompt,
        text,
        scope,
    } = data;
    let text = text.one().map_err(|why| format!("'data.text' {why}"))?;
    let plain = imported_answer(prompt.unwrap_or_default(), text);
    let picture =
        RowImage::from_text(&image).ok_or("'data.image' is neither a data: URL nor a path")?;
    let (cancelled, annotations): (Vec<Annotation>, Vec<_>) = annotations
        .into_iter()
        .partition(|annotation| annotation.was_cancelled);
    if annotations.is_empty() {
        return Ok(vec![IncomingRecord::Skipped]);
    }
    let mut all: Vec<IncomingRecord> = cancelled
        .iter()
        .map(|_| IncomingRecord::LeftOut("annotations that were skipped".to_owned()))
        .collect();
    for (i, annotation) in annotations.into_iter().enumerate() {
        let (judgments, left_out) = submissions(&plain, scope, annotation)
            .map_err(|why| format!("'annotations[{i}]' {why}"))?;
        all.extend(
            judgments.into_iter().map(|submission| {
                IncomingRecord::Submission(Box::new(submission), picture.clone())
            }),
        );
        all.extend(left_out.into_iter().map(IncomingRecord::LeftOut));
    }
    Ok(all)
}

/// Converts a `JSON-MIN` task, which has data and results side by side, to the `JSON` form.
fn expand_min(task: Value) -> Value {
    let Value::Object(mut min) = task else {
        return task;
    };
    if min.contains_key("data") || !min.contains_key("text") {
        return Value::Object(min);
    }
    let mut result = Vec::new();
    for (name, kind, alone) in [
        ("error", "labels", ""),
        ("correction", "textarea", "text"),
        ("missing", "textarea", "text"),
        ("verdict", "choices", "choices"),
    ] {
        let values = match min.remove(name) {
            Some(Value::Array(values)) if values.iter().any(Value::is_object) => values,
            Some(Value::Array(texts)) => vec![json!({ alone: texts })],
            Some(value @ Value::Object(_)) => vec![value],
            Some(value @ Value::String(_)) => vec![json!({ alone: [value] })],
            _ => continue,
        };
        // Results of one region share its offsets.
        let region = |value: Value| {
            json!({ "id": format!("{} {}", value["start"], value["end"]),
            "from_name": name, "type": kind, "value": value })
        };
        result.extend(values.into_iter().map(region));
    }
    let annotator = min.remove("annotator").unwrap_or_default();
    json!({ "data": min, "annotations": [{ "completed_by": annotator, "result": result }] })
}

/// Returns the submissions that an annotation makes (errors or a good answer; missing content), and
/// the names of results without a counterpart.
fn submissions(
    plain: &Submission,
    scope: Option<JudgedPart>,
    annotation: Annotation,
) -> Result<(Vec<Submission>, Vec<String>), String> {
    let annotator = match &annotation.completed_by {
        Value::Object(user) => user.get("email").and_then(Value::as_str).map(str::to_owned),
        Value::Number(id) => Some(id.to_string()),
        Value::String(name) => Some(name.clone()),
        _ => None,
    };
    let plain = Submission {
        annotator,
        ..plain.clone()
    };
    let response = plain.response.as_deref().unwrap_or_default();
    let (mut errors, mut corrections, mut missing, mut good) =
        (BTreeMap::new(), BTreeMap::new(), Vec::new(), false);
    // Insertions by region id: offset and text.
    let mut adds: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (i, result) in annotation.result.into_iter().enumerate() {
        let invalid = |why: String| format!("has a 'result[{i}]' that {why}");
        let region: Region =
            serde_json::from_value(result).map_err(|e| invalid(format!("cannot be read: {e}")))?;
        let Some(part) = region.part() else {
            let kind = region
                .r#type
                .or(region.from_name)
                .unwrap_or_else(|| "unknown".to_owned());
            left_out.push(format!("results of the type '{kind}'"));
            continue;
        };
        let values: Values = serde_json::from_value(region.value.clone())
            .map_err(|e| invalid(format!("cannot be read: {e}")))?;
        let (offsets, text, id) = (values.offsets(), values.text, region.id.clone());
        match (part, offsets) {
            ("error", Some(chars)) if chars.start == chars.end => {
                drop(adds.insert(id, (chars.start, String::new())))
            }
            ("error", Some(chars)) => {
                let text = text.map(Texts::one).transpose().map_err(invalid)?;
                drop(errors.insert(id, error_span(response, chars, text)?));
            }
            ("error", None) => return Err(invalid("has no offsets".to_owned())),
            ("correction", _) => drop(
                corrections.insert(
                    id,
                    text.map(Texts::one)
                        .transpose()
                        .map_err(invalid)?
                        .unwrap_or_default(),
                ),
            ),
            ("missing", _) => missing.extend(text.map(Texts::all).unwrap_or_default()),
            _ => {
                good |= values
                    .choices
                    .iter()
                    .any(|choice| choice == JudgmentKind::Good.name())
            }
        }
    }
    for (id, correction) in corrections {
        if let Some(error) = errors.get_mut(&id) {
            error.remove = correction.is_empty();
            error.correction = Some(correction).filter(|text| !text.is_empty());
        } else if let Some((_, text)) = adds.get_mut(&id) {
            *text = correction;
        } else {
            return Err("has a 'correction' that belongs to no 'error'".to_owned());
        }
    }
    let mut all = Vec::new();
    if !adds.is_empty() {
        // An insertion has no span, so the edited text states all changes.
        all.push(Submission {
            edit: Some(edit(response, errors.into_values(), adds.into_values())?),
            ..plain.clone()
        });
    } else if !errors.is_empty() {
        all.push(Submission {
            errors: Some(errors.into_values().collect()),
            scope,
            ..plain.clone()
        });
    } else if good {
        all.push(Submission {
            label: Some(Judgment::Good),
            ..plain.clone()
        });
    }
    if !missing.is_empty() {
        all.push(Submission { missing, ..plain });
    }
    if all.is_empty() {
        Err("has neither 'error', 'missing' nor a good 'verdict'".to_owned())
    } else {
        Ok((all, left_out))
    }
}

/// Returns the error span whose text matches, surrounding white space aside. Label Studio's page
/// counts UTF-16 units where its library counts code points, and writes a line break as `\n`.
fn error_span(response: &str, given: CharRange, text: Option<String>) -> Result<ErrorSpan, String> {
    let CharRange { start, end } = given;
    let Some(text) = text else {
        return Ok(ErrorSpan {
            start,
            end,
            ..ErrorSpan::default()
        });
    };
    let points: Vec<char> = response.chars().collect();
    let units: Vec<u16> = response.encode_utf16().collect();
    let char_offset = |unit: usize| {
        String::from_utf16(units.get(..unit)?)
            .ok()
            .map(|text| text.chars().count())
    };
    let broken = text.replace("\\n", "\n");
    let stands = |chars: &CharRange| {
        let span = points
            .get(chars.range())
            .map(|span| span.iter().collect::<String>());
        span.is_some_and(|span| {
            [&text, &broken]
                .iter()
                .any(|text| text.trim_matches(is_blank) == span.trim_matches(is_blank))
        })
    };
    let in_utf16 = || Some(CharRange::new(char_offset(start)?, char_offset(end)?));
    let found = [Some(given), in_utf16()]
        .into_iter()
        .flatten()
        .find(stands)
        .ok_or_else(|| {
            format!("has an 'error' at {start} to {end} whose text is not in the response there")
        })?;
    let span = trim(&points, found, is_blank);
    Ok(ErrorSpan {
        start: span.start,
        end: span.end,
        ..ErrorSpan::default()
    })
}

fn edit(
    response: &str,
    errors: impl Iterator<Item = ErrorSpan>,
    adds: impl Iterator<Item = (usize, String)>,
) -> Result<String, String> {
    let replace = |error: ErrorSpan| match error.correction {
        Some(correction) => Ok((error.start, error.end, correction)),
        None if error.remove => Ok((error.start, error.end, String::new())),
        None => Err(
            "inserts text beside an error without a correction; one record cannot state both"
                .to_owned(),
        ),
    };
    let mut changes = errors.map(replace).collect::<Result<Vec<_>, _>>()?;
    changes.extend(adds.map(|(at, text)| (at, at, text)));
    changes.sort_by_key(|(start, ..)| *start);
    let (points, mut text, mut at) = (response.chars().collect::<Vec<_>>(), String::new(), 0);
    for (start, end, new) in changes {
        text.extend(points.get(at..start).ok_or("has overlapping spans")?);
        text += &new;
        at = end;
    }
    text.extend(points.get(at..).unwrap_or_default());
    Ok(text)
}
