//! What a submission says, and whether it can be said of that response.

use std::{fmt::Display, ops::Range};

use unicode_segmentation::UnicodeSegmentation;

use crate::feedback::{
    diff::diff,
    record::Scope,
    submission::{Judgement, Place, Submission},
};

/// Most code points of a prompt, a response or an edit.
pub const TEXT_CHARS: usize = 16_384;
/// Most code points of a correction, of one missing thing and of a comment.
pub const NOTE_CHARS: usize = 4096;
/// Most code points of a name.
const NAME_CHARS: usize = 256;
/// Most errors, and most missing things, of one record.
const ITEMS: usize = 256;

/// A submission that makes no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The field that is wrong, as `errors[1].end`.
    pub field: String,
    /// The kind, exactly.
    pub code: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl Refused {
    /// Names the field in the message too.
    pub fn new(field: impl Into<String>, code: &'static str, what: impl Display) -> Self {
        let field = field.into();
        Self { message: format!("'{field}' {what}"), field, code }
    }
}

pub(super) fn refuse<T>(field: impl Into<String>, code: &'static str, what: impl Display) -> Result<T, Refused> {
    Err(Refused::new(field, code, what))
}

/// Which of the four things a submission says.
pub(super) enum Said<'a> {
    Good,
    /// Errors and the fields that name them.
    Errors(Vec<(String, Place)>, Scope),
    Edit(&'a str),
    Missing(Vec<String>),
}

impl<'a> Said<'a> {
    pub(super) fn of(submission: &'a Submission) -> Result<Self, Refused> {
        let Submission { label, scope, error, correction, errors, edit, missing, .. } = submission;
        let said = [
            ("label", *label == Some(Judgement::Good)),
            ("error", error.is_some()),
            ("errors", errors.is_some()),
            ("edit", edit.is_some()),
            ("missing", !missing.is_empty()),
        ];
        let mut said = said.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
        let Some(first) = said.next() else {
            let what = "must be good, or one of 'error', 'errors', 'edit' and 'missing' must say what is wrong";
            return refuse("label", "missing_required_parameter", what);
        };
        if let Some(second) = said.next() {
            let first = if first == "label" { "'label' good" } else { first };
            return refuse(second, "invalid_value", format_args!("cannot be given together with {first}; send two records"));
        }
        if correction.is_some() && error.is_none() {
            return refuse("correction", "invalid_value", "goes with 'error'; in 'errors' each has its own");
        }
        if scope.is_some() && !matches!(first, "error" | "errors") {
            return refuse("scope", "invalid_value", "goes with 'error' or 'errors'");
        }
        if let Some(error) = error {
            let mut place = error.clone();
            if correction.is_some() && place.correction.is_some() {
                return refuse("correction", "invalid_value", "cannot be given together with 'error.correction'");
            }
            place.correction = place.correction.or_else(|| correction.clone());
            return Ok(Self::Errors(vec![("error".to_owned(), place)], scope.unwrap_or(Scope::FirstError)));
        }
        if let Some(errors) = errors {
            let scope = scope.unwrap_or(Scope::AllErrors);
            check_errors(errors, scope)?;
            return Ok(Self::Errors(errors.iter().enumerate().map(|(i, p)| (format!("errors[{i}]"), p.clone())).collect(), scope));
        }
        if let Some(edit) = edit {
            return Ok(Self::Edit(edit));
        }
        Ok(if missing.is_empty() { Self::Good } else { Self::Missing(missing.clone()) })
    }
}

fn check_errors(errors: &[Place], scope: Scope) -> Result<(), Refused> {
    match errors.len() {
        0 => refuse("errors", "empty_array", "is empty; an answer without errors has 'label' good"),
        n if n > ITEMS => refuse("errors", "out_of_range", format_args!("has {n} items; at most {ITEMS} are taken")),
        n if n > 1 && scope == Scope::FirstError => {
            refuse("scope", "invalid_value", format_args!("is first_error, and 'errors' has {n}; only the first can be given"))
        }
        _ => Ok(()),
    }
}

/// The texts beside the judgement.
pub(in crate::feedback) fn check_notes(submission: &Submission) -> Result<(), Refused> {
    let Submission { annotator, user, comment, edit, missing, prompt, response, model, .. } = submission;
    let texts = [
        ("annotator", annotator, NAME_CHARS),
        ("user", user, NAME_CHARS),
        ("model", model, NAME_CHARS),
        ("comment", comment, NOTE_CHARS),
        ("prompt", prompt, TEXT_CHARS),
        ("response", response, TEXT_CHARS),
        ("edit", edit, TEXT_CHARS),
    ];
    for (name, text, most) in texts {
        let Some(text) = text else { continue };
        within(name, text, most)?;
        if most == NAME_CHARS && (text.trim().is_empty() || text.chars().any(char::is_control)) {
            return refuse(name, "invalid_value", "is empty or has control characters in it");
        }
    }
    if missing.len() > ITEMS {
        return refuse("missing", "out_of_range", format_args!("has {} items; at most {ITEMS} are taken", missing.len()));
    }
    for (i, text) in missing.iter().enumerate() {
        within(&format!("missing[{i}]"), text, NOTE_CHARS)?;
        if text.trim().is_empty() {
            return refuse(format!("missing[{i}]"), "invalid_value", "is empty");
        }
    }
    Ok(())
}

fn within(field: &str, text: &str, most: usize) -> Result<(), Refused> {
    match text.chars().count() {
        n if n > most => refuse(field, "out_of_range", format_args!("has {n} characters; at most {most} are taken")),
        _ => Ok(()),
    }
}

/// A part of the response and what should stand there.
pub(super) struct Marked {
    pub(super) field: String,
    pub(super) chars: Range<usize>,
    pub(super) correction: Option<String>,
}

pub(super) fn check_place(field: &str, place: &Place, response: &str, text: &[char]) -> Result<Marked, Refused> {
    let Place { start, end, text: expected, correction, remove } = place;
    let at = |name: &str| format!("{field}.{name}");
    if *end > text.len() {
        return refuse(at("end"), "out_of_range", format_args!("is {end}; the response has {} code points", text.len()));
    }
    if start >= end {
        let what = format_args!("is {end} and 'start' is {start}; the span must have at least one code point").to_string();
        return refuse(at("end"), "out_of_range", what);
    }
    for (name, offset) in [("start", *start), ("end", *end)] {
        if !is_boundary(response, offset) {
            return refuse(at(name), "invalid_value", format_args!("is {offset}, which is inside of a character of several code points"));
        }
    }
    let stands: String = text[*start..*end].iter().collect();
    if stands.trim().is_empty() {
        return refuse(at("start"), "invalid_value", "begins a span of nothing but white space");
    }
    if let Some(expected) = expected.as_ref().filter(|expected| **expected != stands) {
        let what = format!("is `{}`, and `{}` stands there; offsets count Unicode code points", brief(expected), brief(&stands));
        return refuse(at("text"), "text_mismatch", what);
    }
    let correction = check_correction(field, correction.as_deref(), *remove, &stands)?;
    Ok(Marked { field: field.to_owned(), chars: *start..*end, correction })
}

fn check_correction(field: &str, correction: Option<&str>, remove: bool, stands: &str) -> Result<Option<String>, Refused> {
    let at = || format!("{field}.correction");
    let Some(correction) = correction else { return Ok(remove.then(String::new)) };
    if remove {
        return refuse(at(), "invalid_value", "cannot be given together with 'remove'");
    }
    if correction.trim().is_empty() {
        let what = "is empty; leave it out where you do not know better, or set 'remove' where nothing should stand there";
        return refuse(at(), "invalid_value", what);
    }
    within(&at(), correction, NOTE_CHARS)?;
    if correction == stands {
        return refuse(at(), "invalid_value", "is what stands there already");
    }
    Ok(Some(correction.to_owned()))
}

/// Whether no character as people see it goes across this offset.
fn is_boundary(text: &str, offset: usize) -> bool {
    let mut at = 0;
    for grapheme in text.graphemes(true) {
        if at >= offset {
            break;
        }
        at += grapheme.chars().count();
    }
    at == offset
}

fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Sorted, and none over another.
pub(super) fn in_order(mut spans: Vec<Marked>) -> Result<Vec<Marked>, Refused> {
    spans.sort_by_key(|span| span.chars.start);
    match spans.windows(2).find(|pair| pair[1].chars.start < pair[0].chars.end) {
        None => Ok(spans),
        Some(pair) => refuse(format!("{}.start", pair[1].field), "invalid_value", format_args!("is inside of '{}'", pair[0].field)),
    }
}

pub(super) fn edited(response: &str, edit: &str) -> Result<Vec<Marked>, Refused> {
    if edit.trim().is_empty() {
        return refuse("edit", "invalid_value", "is empty; it must be the whole answer as it should read");
    }
    let changes = diff(response, edit);
    if changes.is_empty() {
        return refuse("edit", "invalid_value", "reads as the response does; an answer without errors has 'label' good");
    }
    Ok(changes.into_iter().map(|c| Marked { field: "edit".to_owned(), chars: c.chars, correction: Some(c.new) }).collect())
}
