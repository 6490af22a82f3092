//! Label Studio's tasks. A task has the image and the answer; the guard's doubts are its prediction, and what a person said its annotation: `error` labels
//! spans of the text, `correction` says what should stand there, `missing` what is left out, and `verdict` whether all is right. The labelling
//! configuration that goes with them is in `docs/feedback.md`.

use std::{collections::BTreeMap, fs::File, io::BufReader};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Incoming, Rows, Write,
    incoming::{Picture, said},
};
use crate::feedback::{
    record::{Feedback, Kind, Scope},
    store::StoreError,
    submission::{Judgement, Place, Submission},
};

/// Writes an array of tasks.
#[derive(Default)]
pub(super) struct Tasks {
    written: usize,
}

impl Write for Tasks {
    fn record(&mut self, record: &Feedback, image: Option<Vec<u8>>, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let Some(image) = image else { return Ok(()) };
        out.extend_from_slice(if self.written == 0 { b"[\n" } else { b",\n" });
        self.written += 1;
        serde_json::to_writer(out, &task(record, &image, self.written)).map_err(|e| StoreError::Failed(e.to_string()))
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        out.extend_from_slice(if self.written == 0 { b"[]\n" } else { b"\n]\n" });
        Ok(())
    }
}

fn task(record: &Feedback, image: &[u8], number: usize) -> Value {
    let kind = image::guess_format(image).map_or("application/octet-stream", |format| format.to_mime_type());
    let url = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(image));
    let text: Vec<char> = record.response.chars().collect();
    let slice = |start: usize, end: usize| text.get(start..end).unwrap_or_default().iter().collect::<String>();
    let doubted = record.doubted.as_deref().map(|spans| {
        let span = |(i, span): (usize, &crate::feedback::record::Extent)| {
            region(
                &format!("d{i}"),
                "error",
                "labels",
                span.start,
                span.end,
                json!({ "text": slice(span.start, span.end), "labels": ["error"] }),
            )
        };
        json!([{ "model_version": record.versions.reward, "result": spans.iter().enumerate().map(span).collect::<Vec<_>>() }])
    });
    let mut result = vec![said_of_all("verdict", "choices", json!({ "choices": [record.kind.name()] }))];
    for (i, error) in record.errors.iter().enumerate() {
        let id = format!("e{i}");
        result.push(region(&id, "error", "labels", error.start, error.end, json!({ "text": error.text, "labels": ["error"] })));
        if let Some(correction) = &error.correction {
            result.push(region(&id, "correction", "textarea", error.start, error.end, json!({ "text": [correction] })));
        }
    }
    if !record.missing.is_empty() {
        result.push(said_of_all("missing", "textarea", json!({ "text": record.missing })));
    }
    let annotation =
        json!({ "result": result, "completed_by": record.annotator.as_ref().map(|name| json!({ "email": name })), "was_cancelled": false });
    json!({
        "id": number,
        "data": { "image": url, "prompt": record.prompt, "text": record.response, "scope": record.scope, "feedback_id": record.id },
        "predictions": doubted.unwrap_or_else(|| json!([])),
        "annotations": [annotation],
    })
}

fn region(id: &str, from: &str, kind: &str, start: usize, end: usize, mut value: Value) -> Value {
    value["start"] = json!(start);
    value["end"] = json!(end);
    json!({ "id": id, "from_name": from, "to_name": "text", "type": kind, "value": value })
}

fn said_of_all(name: &str, kind: &str, value: Value) -> Value {
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
    prompt: String,
    text: String,
    #[serde(default)]
    scope: Option<Scope>,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    result: Vec<Region>,
    #[serde(default)]
    completed_by: Value,
    #[serde(default)]
    was_cancelled: bool,
}

#[derive(Deserialize)]
struct Region {
    #[serde(default)]
    id: String,
    from_name: String,
    value: Values,
}

#[derive(Default, Deserialize)]
struct Values {
    #[serde(default)]
    start: Option<usize>,
    #[serde(default)]
    end: Option<usize>,
    #[serde(default)]
    text: Option<Texts>,
    #[serde(default)]
    choices: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// The tasks of a file, which is read as a whole.
pub(super) fn read(file: File) -> Result<Rows, String> {
    let tasks: Vec<Value> = serde_json::from_reader(BufReader::new(file)).map_err(|e| format!("no array of tasks: {e}"))?;
    Ok(Box::new(tasks.into_iter().enumerate().map(|(i, value)| Ok((i + 1, taken(value))))))
}

fn taken(task: Value) -> Result<Vec<Incoming>, String> {
    let Task { data, annotations } = serde_json::from_value(task).map_err(|e| e.to_string())?;
    let file = data.image.split_once(";base64,").filter(|(head, _)| head.starts_with("data:"));
    let file = file.and_then(|(_, base64)| BASE64_STANDARD.decode(base64).ok()).ok_or("'data.image' is no data: URL")?;
    let annotations: Vec<Annotation> = annotations.into_iter().filter(|annotation| !annotation.was_cancelled).collect();
    if annotations.is_empty() {
        return Err("'annotations' has none that was not cancelled".to_owned());
    }
    let mut all = Vec::new();
    for (i, annotation) in annotations.into_iter().enumerate() {
        let said = submissions(&data, annotation).map_err(|why| format!("'annotations[{i}]' {why}"))?;
        all.extend(said.into_iter().map(|submission| Incoming::Said(Box::new(submission), Picture::File(file.clone()))));
    }
    Ok(all)
}

/// What an annotation says: errors or that there are none, and what is left out.
fn submissions(data: &Data, annotation: Annotation) -> Result<Vec<Submission>, String> {
    let annotator = match &annotation.completed_by {
        Value::Object(user) => user.get("email").and_then(Value::as_str).map(str::to_owned),
        Value::Number(id) => Some(id.to_string()),
        Value::String(name) => Some(name.clone()),
        _ => None,
    };
    let plain = Submission { annotator, ..said(data.prompt.clone(), data.text.clone()) };
    let (mut errors, mut corrections, mut missing, mut good) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), false);
    // Where something is only added, and what.
    let mut adds: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for Region { id, from_name, value } in annotation.result {
        match (from_name.as_str(), value.text, value.start.zip(value.end)) {
            ("error", _, Some((start, end))) if start == end => drop(adds.insert(id, (start, String::new()))),
            ("error", Some(Texts::One(text)), Some((start, end))) => drop(errors.insert(id, place(&data.text, start, end, text)?)),
            ("error", None, Some((start, end))) => drop(errors.insert(id, Place { start, end, ..Place::default() })),
            ("correction", Some(texts), _) => drop(corrections.insert(id, texts.joined())),
            ("missing", Some(Texts::One(text)), _) => missing.push(text),
            ("missing", Some(Texts::Many(texts)), _) => missing.extend(texts),
            ("verdict", _, _) => good |= value.choices.iter().any(|choice| choice == Kind::Good.name()),
            _ => {}
        }
    }
    for (id, correction) in corrections {
        if let Some(place) = errors.get_mut(&id) {
            place.remove = correction.is_empty();
            place.correction = Some(correction).filter(|text| !text.is_empty());
        } else if let Some((_, text)) = adds.get_mut(&id) {
            *text = correction;
        }
    }
    let mut all = Vec::new();
    if !adds.is_empty() {
        // What is only added has no span: the whole text says it.
        all.push(Submission { edit: Some(edit(&data.text, errors.into_values(), adds.into_values())?), ..plain.clone() });
    } else if !errors.is_empty() {
        all.push(Submission { errors: Some(errors.into_values().collect()), scope: data.scope, ..plain.clone() });
    } else if good {
        all.push(Submission { label: Some(Judgement::Good), ..plain.clone() });
    }
    if !missing.is_empty() {
        all.push(Submission { missing, ..plain });
    }
    if all.is_empty() { Err("says neither 'error', 'missing' nor 'verdict' good".to_owned()) } else { Ok(all) }
}

impl Texts {
    fn joined(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Many(texts) => texts.join("\n"),
        }
    }
}

/// The span whose text stands there. Label Studio's page counts UTF-16 units where its library counts code points.
fn place(response: &str, start: usize, end: usize, text: String) -> Result<Place, String> {
    let points: Vec<char> = response.chars().collect();
    if points.get(start..end).is_some_and(|span| span.iter().copied().eq(text.chars())) {
        return Ok(Place { start, end, text: Some(text), ..Place::default() });
    }
    let units: Vec<u16> = response.encode_utf16().collect();
    let before = |unit: usize| String::from_utf16(units.get(..unit)?).ok().map(|text| text.chars().count());
    match (before(start), before(end)) {
        (Some(start), Some(end)) if points.get(start..end).is_some_and(|span| span.iter().copied().eq(text.chars())) => {
            Ok(Place { start, end, text: Some(text), ..Place::default() })
        }
        _ => Err(format!("has an 'error' at {start} to {end} whose text does not stand there")),
    }
}

fn edit(response: &str, errors: impl Iterator<Item = Place>, adds: impl Iterator<Item = (usize, String)>) -> Result<String, String> {
    let replace = |place: Place| match place.correction {
        Some(correction) => Ok((place.start, place.end, correction)),
        None if place.remove => Ok((place.start, place.end, String::new())),
        None => Err("adds to the text and has an error without a correction; the two cannot be one record".to_owned()),
    };
    let mut changes = errors.map(replace).collect::<Result<Vec<_>, _>>()?;
    changes.extend(adds.map(|(at, text)| (at, at, text)));
    changes.sort_by_key(|(start, ..)| *start);
    let (points, mut text, mut at) = (response.chars().collect::<Vec<_>>(), String::new(), 0);
    for (start, end, new) in changes {
        text.extend(points.get(at..start).ok_or("has spans over each other")?);
        text += &new;
        at = end;
    }
    text.extend(points.get(at..).unwrap_or_default());
    Ok(text)
}
