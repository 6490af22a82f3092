//! Photographs named on the command line, and messages about them.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Failure,
    common::TextStyle,
    output::{is_stdio, note},
};
use crate::{
    eval::data::EXTENSIONS,
    guard::{Action, GuardReport, Span, render},
};

/// Familiarity below which a note says that the photograph is unlike the training photographs.
const UNFAMILIAR: f64 = 0.5;

/// Reads the file of a photograph; `-` is standard input.
///
/// # Errors
/// The reason, with the file's name.
pub(super) fn read(path: &Path, most_bytes: usize) -> Result<Vec<u8>, String> {
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", shown_path(path));
    let mut file = Vec::new();
    let most = most_bytes as u64 + 1;
    let read = match is_stdio(path) {
        true => io::stdin().lock().take(most).read_to_end(&mut file),
        false if path.is_dir() => return Err(named(&"is a folder, not a photograph")),
        false => File::open(path).and_then(|open| open.take(most).read_to_end(&mut file)),
    };
    match read {
        Err(error) => Err(named(&error)),
        Ok(0) => Err(named(&"is empty")),
        Ok(bytes) if bytes > most_bytes => Err(named(&format_args!(
            "has more than {most_bytes} bytes (images.max_bytes in the configuration)"
        ))),
        Ok(_) => Ok(file),
    }
}

/// Name of a photograph in messages.
pub(super) fn shown_path(path: &Path) -> String {
    if is_stdio(path) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Photographs of a folder, sorted by name.
pub(super) fn list_photographs(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let misused = |what: &dyn std::fmt::Display| {
        Failure::Misused(format!("--batch {}: {what}", dir.display()))
    };
    if dir.is_file() {
        return Err(misused(&format_args!(
            "is no folder; candor caption {} captions one photograph",
            dir.display()
        )));
    }
    let (mut photos, mut others) = (Vec::new(), 0);
    for entry in fs::read_dir(dir).map_err(|e| misused(&e))? {
        let path = entry.map_err(|e| misused(&e))?.path();
        let is_photo = path
            .extension()
            .is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)));
        if is_photo && !path.is_dir() {
            photos.push(path)
        } else {
            others += 1
        }
    }
    if photos.is_empty() {
        return Err(misused(&format_args!(
            "no photographs ({})",
            EXTENSIONS.join(", ")
        )));
    }
    if others > 0 {
        note(format_args!(
            "candor: {others} entries of {} are skipped: their names are not those of photographs",
            dir.display()
        ));
    }
    photos.sort();
    Ok(photos)
}

/// Formats an answer or a scored text for a person. `holder` is the object with the `guard` report.
pub(super) fn format_answer(text: &str, holder: &Value, how: TextStyle) -> String {
    let report = serde_json::from_value::<GuardReport>(holder["guard"].clone()).ok();
    let alt_text = report
        .as_ref()
        .and_then(|report| report.alt_text.as_deref());
    let mut spans = report
        .as_ref()
        .map(|report| report.spans.clone())
        .unwrap_or_default();
    spans.retain(|span| span.is_still_low() || is_change(span));
    match how {
        TextStyle::Plain => render::plain_marked(text, &[]),
        TextStyle::Hedged | TextStyle::Omitted => {
            render::plain_marked(alt_text.unwrap_or(text), &[])
        }
        TextStyle::Marked if console::colors_enabled() => render::ansi(text, &spans),
        TextStyle::Marked => render::plain_marked(text, &spans),
    }
}

/// Prints a note if the report says that the photograph is unlike the training photographs.
/// `holder` is the object with the `guard` report.
pub(super) fn note_unfamiliar(photo: &Path, holder: &Value) {
    if let Some(familiarity) = holder["guard"]["familiarity"]
        .as_f64()
        .filter(|&familiarity| familiarity < UNFAMILIAR)
    {
        let what = "is unlike the training photographs; the model is less reliable on it";
        note(format_args!(
            "candor: {} {what} (familiarity {familiarity:.2})",
            shown_path(photo)
        ));
    }
}

/// Returns `true` if a repair replaced or removed the span.
fn is_change(span: &Span) -> bool {
    matches!(span.action, Action::Regenerated | Action::Omitted)
        && span
            .original
            .as_ref()
            .is_some_and(|original| *original != span.text)
}

/// Rewrites a message of the API for the command line: flags for field names, and no message
/// indices.
pub(super) fn name_flags(message: &str) -> String {
    const FLAGS: [(&str, &str); 12] = [
        ("guard.mode", "--guard"),
        ("guard.threshold", "--threshold"),
        ("guard.target_fpr", "--target-fpr"),
        ("guard.render", "--render"),
        ("guard.on_unanswerable", "--on-unanswerable"),
        ("max_tokens", "--max-tokens"),
        ("max_completion_tokens", "--max-tokens"),
        ("temperature", "--temperature"),
        ("seed", "--seed"),
        ("model", "--model"),
        ("prompt", "the question"),
        ("response", "the text"),
    ];
    let is_image = |field: &str| {
        ["image", "image_url", "messages"]
            .contains(&field.split(['.', '[']).next().unwrap_or_default())
    };
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, quoted, after)) = quoted(rest) {
        out.push_str(before);
        rest = match FLAGS.iter().find(|(field, _)| *field == quoted) {
            Some((_, flag)) => {
                out.push_str(flag);
                after
            }
            None if is_image(quoted) && after.starts_with(": ") => &after[2..],
            None if is_image(quoted) => {
                out.push_str("the photograph");
                after
            }
            None => {
                out.push_str(&rest[before.len()..rest.len() - after.len()]);
                after
            }
        };
    }
    out + rest
}

/// Splits at the first quoted name: text before, inside and after the quotation marks.
fn quoted(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('\'')?;
    let (inside, after) = rest.split_once('\'')?;
    Some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn message_about_fields_names_flags() {
        for (message, want) in [
            (
                "'messages[0].content[0].image_url.url': the image is corrupt",
                "the image is corrupt",
            ),
            (
                "'guard.mode': the model has no scorer, so that only off is possible",
                "--guard: the model has no scorer, so that only off is possible",
            ),
            (
                "'messages': the data is not an image",
                "the data is not an image",
            ),
            (
                "'image_url.url': the data is not an image",
                "the data is not an image",
            ),
            (
                "'response' does not fit: the image has 49 tokens",
                "the text does not fit: the image has 49 tokens",
            ),
            ("'image_url' is missing", "the photograph is missing"),
            (
                "'guard.target_fpr' and 'guard.threshold' cannot",
                "--target-fpr and --threshold cannot",
            ),
            ("don't touch 'other' things", "don't touch 'other' things"),
            ("plain", "plain"),
        ] {
            assert_eq!(name_flags(message), want);
        }
    }

    #[test]
    fn repaired_answer_shows_what_changed() {
        console::set_colors_enabled(false);
        let span = |start, end, text: &str, action: &str, original: Option<&str>| {
            json!({ "start": start, "end": end, "text": text, "score": 0.25,
            "action": action, "original": original })
        };
        let holder = json!({ "guard": { "mode": "regenerate", "verdict": "flagged",
            "threshold": 0.5, "attempts": 1, "extra_tokens": 4,
            "alt_text": "A cat with what may be a hat.",
            "spans": [span(2, 5, "cat", "regenerated", Some("dog")),
                span(11, 16, "a hat", "flagged", None), span(16, 16, "", "regenerated",
                    Some(" in a car"))] } });
        let text = "A cat with a hat.";
        assert_eq!(
            format_answer(text, &holder, TextStyle::Marked),
            "A [dog → cat] with [a hat?0.25] [in a car → ]."
        );
        assert_eq!(format_answer(text, &holder, TextStyle::Plain), text);
        assert_eq!(
            format_answer(text, &holder, TextStyle::Hedged),
            "A cat with what may be a hat."
        );
        assert_eq!(format_answer(text, &json!({}), TextStyle::Hedged), text);
    }
}
