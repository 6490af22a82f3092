//! Reads the judgment that a submission states and checks that it fits the response.

use std::fmt::Display;

use unicode_segmentation::UnicodeSegmentation;

use crate::{
    feedback::{
        diff::{TextChange, diff},
        fold::{is_blank, is_punctuation, is_spoken, reads_alike, trim},
        record::JudgedPart,
        submission::{ErrorSpan, Judgment, Submission},
    },
    util::offsets::CharRange,
};

/// Largest number of code points in a prompt, a response or an edit.
pub const TEXT_CHARS: usize = 16_384;
/// Largest number of code points in a correction, a `missing` text or a comment.
pub const NOTE_CHARS: usize = 4096;
/// Largest number of code points in a name.
const NAME_CHARS: usize = 256;
/// Largest number of errors, and of `missing` texts, in a record.
const ITEMS: usize = 256;

/// Reason why a submission is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SubmissionRefusal {
    /// Path of the invalid field, such as `errors[1].end`.
    pub field: String,
    /// Stable machine-readable code.
    pub code: &'static str,
    /// Message for people.
    pub message: String,
}

impl SubmissionRefusal {
    /// Makes a refusal whose message begins with the field.
    pub fn new(field: impl Into<String>, code: &'static str, what: impl Display) -> Self {
        let field = field.into();
        Self {
            message: format!("'{field}' {what}"),
            field,
            code,
        }
    }
}

pub(super) fn refuse<T>(
    field: impl Into<String>,
    code: &'static str,
    what: impl Display,
) -> Result<T, SubmissionRefusal> {
    Err(SubmissionRefusal::new(field, code, what))
}

/// Refuses a judgment of an abstention. The model did not write its words, so a judgment of them
/// teaches nothing.
pub(in crate::feedback) fn abstention_refusal(field: &str) -> SubmissionRefusal {
    let what = "is an abstention, which the model did not write: there is nothing to judge. Ask \
                again with guard.on_unanswerable 'answer' and judge that answer, \
                or send the right one with 'image', 'prompt' and 'response'";
    SubmissionRefusal::new(field, "answer_abstained", what)
}

/// The judgment that a submission states, in one of four ways.
pub(super) enum SubmittedJudgment<'a> {
    Good,
    /// Errors, each with the path of its field.
    Errors(Vec<(String, ErrorSpan)>, JudgedPart),
    Edit(&'a str),
    Missing(Vec<String>),
}

impl<'a> SubmittedJudgment<'a> {
    pub(super) fn from_submission(submission: &'a Submission) -> Result<Self, SubmissionRefusal> {
        let Submission {
            label,
            scope,
            error,
            correction,
            errors,
            edit,
            missing,
            ..
        } = submission;
        let given = [
            ("label", *label == Some(Judgment::Good)),
            ("error", error.is_some()),
            ("errors", errors.is_some()),
            ("edit", edit.is_some()),
            ("missing", !missing.is_empty()),
        ];
        let mut given = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(name, _)| *name);
        let Some(first) = given.next() else {
            let what = "must be good, or one of 'error', 'errors', 'edit' and 'missing' must say \
                        what is wrong";
            return refuse("label", "missing_required_parameter", what);
        };
        if let Some(second) = given.next() {
            let first = if first == "label" {
                "'label' good"
            } else {
                first
            };
            return refuse(
                second,
                "invalid_value",
                format_args!("cannot be given together with {first}; send two records"),
            );
        }
        if correction.is_some() && error.is_none() {
            return refuse(
                "correction",
                "invalid_value",
                "goes with 'error'; in 'errors' each has its own",
            );
        }
        if scope.is_some() && !matches!(first, "error" | "errors") {
            return refuse("scope", "invalid_value", "goes with 'error' or 'errors'");
        }
        if let Some(error) = error {
            let mut span = error.clone();
            if correction.is_some() && span.correction.is_some() {
                return refuse(
                    "correction",
                    "invalid_value",
                    "cannot be given together with 'error.correction'",
                );
            }
            span.correction = span.correction.or_else(|| correction.clone());
            return Ok(Self::Errors(
                vec![("error".to_owned(), span)],
                scope.unwrap_or(JudgedPart::FirstError),
            ));
        }
        if let Some(errors) = errors {
            let scope = scope.unwrap_or(JudgedPart::AllErrors);
            check_errors(errors, scope)?;
            return Ok(Self::Errors(
                errors
                    .iter()
                    .enumerate()
                    .map(|(i, p)| (format!("errors[{i}]"), p.clone()))
                    .collect(),
                scope,
            ));
        }
        if let Some(edit) = edit {
            return Ok(Self::Edit(edit));
        }
        Ok(if missing.is_empty() {
            Self::Good
        } else {
            Self::Missing(missing.clone())
        })
    }
}

fn check_errors(errors: &[ErrorSpan], scope: JudgedPart) -> Result<(), SubmissionRefusal> {
    match errors.len() {
        0 => refuse(
            "errors",
            "empty_array",
            "is empty; an answer without errors has 'label' good",
        ),
        n if n > ITEMS => refuse(
            "errors",
            "out_of_range",
            format_args!("has {n} items; at most {ITEMS} are taken"),
        ),
        n if n > 1 && scope == JudgedPart::FirstError => refuse(
            "scope",
            "invalid_value",
            format_args!("is first_error, and 'errors' has {n}; only the first can be given"),
        ),
        _ => Ok(()),
    }
}

/// Checks the lengths and names of a submission's texts.
pub(in crate::feedback) fn check_notes(submission: &Submission) -> Result<(), SubmissionRefusal> {
    let Submission {
        annotator,
        user,
        comment,
        edit,
        missing,
        prompt,
        response,
        model,
        ..
    } = submission;
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
        if most == NAME_CHARS {
            check_name(name, text)?;
        }
        check_length(name, text, most)?;
    }
    if missing.len() > ITEMS {
        return refuse(
            "missing",
            "out_of_range",
            format_args!("has {} items; at most {ITEMS} are taken", missing.len()),
        );
    }
    for (i, text) in missing.iter().enumerate() {
        check_length(&format!("missing[{i}]"), text, NOTE_CHARS)?;
        if text.chars().all(is_blank) {
            return refuse(format!("missing[{i}]"), "invalid_value", "is empty");
        }
    }
    Ok(())
}

/// Refuses names and ids that the store could not look up or a URL not carry.
///
/// # Errors
/// When the name is blank, longer than 256 code points, or contains control characters.
pub fn check_name(field: &str, name: &str) -> Result<(), SubmissionRefusal> {
    check_length(field, name, NAME_CHARS)?;
    if name.chars().all(is_blank) || name.chars().any(char::is_control) {
        return refuse(
            field,
            "invalid_value",
            "is empty or has control characters in it",
        );
    }
    Ok(())
}

fn check_length(field: &str, text: &str, most: usize) -> Result<(), SubmissionRefusal> {
    match text.chars().count() {
        n if n > most => refuse(
            field,
            "out_of_range",
            format_args!("has {n} characters; at most {most} are taken"),
        ),
        _ => Ok(()),
    }
}

/// Part of the response that is wrong, and its correction.
pub(super) struct MarkedError {
    pub(super) field: String,
    pub(super) chars: CharRange,
    pub(super) correction: Option<String>,
}

pub(super) fn check_error(
    field: &str,
    span: &ErrorSpan,
    response: &str,
    text: &[char],
) -> Result<MarkedError, SubmissionRefusal> {
    let ErrorSpan {
        start,
        end,
        text: expected,
        correction,
        remove,
    } = span;
    let path = |name: &str| format!("{field}.{name}");
    if *end > text.len() {
        return refuse(
            path("end"),
            "out_of_range",
            format_args!("is {end}; the response has {} code points", text.len()),
        );
    }
    if start >= end {
        let what = format_args!(
            "is {end} and 'start' is {start}; the span must have at least one code point"
        )
        .to_string();
        return refuse(path("end"), "out_of_range", what);
    }
    let span = trim_span(response, text, CharRange::new(*start, *end));
    if span.is_empty() {
        return refuse(
            path("start"),
            "invalid_value",
            "begins a span of white space alone",
        );
    }
    for (name, offset) in [("start", span.start), ("end", span.end)] {
        if !is_boundary(response, offset) {
            return refuse(
                path(name),
                "invalid_value",
                format_args!("is {offset}, which is inside a character of several code points"),
            );
        }
    }
    let stands: String = text[*start..*end].iter().collect();
    let stands = stands.trim_matches(is_blank);
    if let Some(expected) = expected
        .as_ref()
        .filter(|expected| expected.trim_matches(is_blank) != stands)
    {
        let what = format!(
            "is `{}`, but the response has `{}` there; offsets count Unicode code points",
            excerpt(expected),
            excerpt(stands)
        );
        return refuse(path("text"), "text_mismatch", what);
    }
    let correction = check_correction(field, correction.as_deref(), *remove)?;
    let correction = correction
        .map(|correction| trim_correction(correction, text, CharRange::new(*start, *end), span));
    let stands: String = text[span.range()].iter().collect();
    if correction
        .as_ref()
        .is_some_and(|correction| !correction.is_empty() && reads_alike(correction, &stands))
    {
        return refuse(
            path("correction"),
            "invalid_value",
            "equals the text of the error",
        );
    }
    Ok(MarkedError {
        field: field.to_owned(),
        chars: span,
        correction,
    })
}

/// Trims white space and punctuation off the ends of a span; of a span of punctuation alone only
/// white space.
fn trim_span(response: &str, text: &[char], span: CharRange) -> CharRange {
    let spoken = trim(text, span, |c| !is_spoken(c));
    if !spoken.is_empty()
        && is_boundary(response, spoken.start)
        && is_boundary(response, spoken.end)
    {
        return spoken;
    }
    trim(text, span, is_blank)
}

/// Drops punctuation from the ends of a correction where the response keeps its own.
fn trim_correction(correction: String, text: &[char], given: CharRange, span: CharRange) -> String {
    let signs = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|chars| chars.iter().copied().any(is_punctuation))
    };
    let (before, after) = (
        given.start.min(span.start.saturating_sub(1)),
        given.end.max(span.end + 1).min(text.len()),
    );
    let mut kept = correction.as_str();
    if signs(before..span.start) {
        kept = kept.trim_start_matches(|c| !is_spoken(c));
    }
    if signs(span.end..after) {
        kept = kept.trim_end_matches(|c| !is_spoken(c));
    }
    if kept.is_empty() {
        correction
    } else {
        kept.to_owned()
    }
}

fn check_correction(
    field: &str,
    correction: Option<&str>,
    remove: bool,
) -> Result<Option<String>, SubmissionRefusal> {
    let path = || format!("{field}.correction");
    let Some(correction) = correction else {
        return Ok(remove.then(String::new));
    };
    if remove {
        return refuse(
            path(),
            "invalid_value",
            "cannot be given together with 'remove'",
        );
    }
    let trimmed = correction.trim_matches(is_blank);
    if trimmed.is_empty() {
        let what = "is empty; leave it out where you do not know better, or set 'remove' where \
                    nothing should stand there";
        return refuse(path(), "invalid_value", what);
    }
    check_length(&path(), trimmed, NOTE_CHARS)?;
    Ok(Some(trimmed.to_owned()))
}

/// Returns `true` if the offset splits no grapheme cluster. Invisible code points may follow it.
fn is_boundary(text: &str, offset: usize) -> bool {
    let mut at = 0;
    for grapheme in text.graphemes(true) {
        let end = at + grapheme.chars().count();
        if offset < end {
            return at == offset || grapheme.chars().skip(offset - at).all(is_blank);
        }
        at = end;
    }
    at == offset
}

/// Beginning of a text, to quote in a message.
pub(in crate::feedback) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Sorts errors by offset and refuses overlaps.
pub(super) fn sort_errors(
    mut spans: Vec<MarkedError>,
) -> Result<Vec<MarkedError>, SubmissionRefusal> {
    spans.sort_by_key(|span| span.chars.start);
    match spans
        .windows(2)
        .find(|pair| pair[1].chars.start < pair[0].chars.end)
    {
        None => Ok(spans),
        Some(pair) => refuse(
            format!("{}.start", pair[1].field),
            "invalid_value",
            format_args!("overlaps '{}'", pair[0].field),
        ),
    }
}

/// Returns the words that an edit changes; none if it changes typography alone.
pub(super) fn edit_errors(
    response: &str,
    edit: &str,
) -> Result<Vec<MarkedError>, SubmissionRefusal> {
    if edit.chars().all(is_blank) {
        return refuse(
            "edit",
            "invalid_value",
            "is empty; it must be the whole answer as it should read",
        );
    }
    if edit == response {
        return refuse(
            "edit",
            "invalid_value",
            "equals the response; an answer without errors has 'label' good",
        );
    }
    let text: Vec<char> = response.chars().collect();
    let marked = |change: TextChange| MarkedError {
        field: "edit".to_owned(),
        chars: trim(&text, change.chars, is_blank),
        correction: Some(change.new),
    };
    Ok(diff(response, edit).into_iter().map(marked).collect())
}
