//! Python's part in a chat template: functions, filters and methods that Hugging Face's templates
//! rely on, and the bounds of what a template may take.

use std::{collections::BTreeMap, io, time::Duration};

use minijinja::{
    Environment, Error, ErrorKind, Output, State, Template,
    value::{Kwargs, Value, ValueKind},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{jinja_budget, template::TemplateError};
use crate::util::time::since_epoch;

/// Maximum length of a prompt's text in bytes.
pub(super) const MAX_OUTPUT: usize = 1 << 20;

/// Error of a template's own, `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Error of a template that takes more memory than a prompt needs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Excess(String);

/// Returns the text of a `raise_exception` behind an error.
pub(super) fn refusal(error: &Error) -> Option<String> {
    cause::<Refusal>(error).map(|refusal| refusal.0.clone())
}

/// Returns the text of an exceeded bound behind an error.
pub(super) fn limit(error: &Error) -> Option<String> {
    cause::<Excess>(error).map(|excess| excess.0.clone())
}

fn cause<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        // An I/O error hides what it was made of.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = inner
            .and_then(|inner| inner.downcast_ref())
            .or_else(|| error.downcast_ref())
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn excess() -> Excess {
    Excess(format!("it makes more than {MAX_OUTPUT} bytes of text"))
}

pub(super) fn too_long() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too long").with_source(excess())
}

/// Renders a template, up to the maximum length.
pub(super) fn render(
    template: &Template<'_, '_>,
    context: BTreeMap<&str, Value>,
) -> Result<String, TemplateError> {
    jinja_budget::refill();
    let mut output = Bounded::default();
    template.render_captured_to(context, &mut output)?;
    String::from_utf8(output.0)
        .map_err(|_| TemplateError::Messages("the prompt is not UTF-8".to_owned()))
}

/// Text of bounded length.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(excess()));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds to `env` what transformers' environment has beyond Jinja's own.
pub(super) fn add_python(env: &mut Environment<'static>) {
    env.set_unknown_method_callback(|state, value, method, args| {
        jinja_budget::charge_product(method, value, args)?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
    jinja_budget::add_filter(env);
    jinja_budget::guard_filters(env);
    env.set_formatter(format_value);
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", |text: String| -> Result<Value, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, text.clone());
        Err(error.with_source(Refusal(text)))
    });
    env.add_function("strftime_now", |format: &str| {
        format_time(format, since_epoch())
    });
}

/// Writes a value as Python's `str` does.
fn format_value(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool if value.is_true() => out.write_str("True"),
        ValueKind::Bool => out.write_str("False"),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            jinja_budget::charge(text.len())?;
            out.write_str(text)
        }
        _ => write!(out, "{value}"),
    }
    .map_err(Error::from)
}

/// Python's `json.dumps(value, ensure_ascii=False)`.
fn to_json(value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let mut json = Bounded::default();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut json, PythonJson)),
        Some(indent) => {
            let space = " ".repeat(indent.min(64));
            let formatter = PrettyFormatter::with_indent(space.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        }
    };
    match written {
        Err(error) if error.is_io() => Err(too_long()),
        Err(error) => Err(Error::new(ErrorKind::BadSerialization, error.to_string())),
        Ok(()) => Ok(String::from_utf8_lossy(&json.0).into_owned().into()),
    }
}

/// JSON with a space behind commas and colons.
struct PythonJson;

impl Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

/// Python's `strftime` for the directives of dates and times that templates use, in UTC.
fn format_time(format: &str, since_epoch: Duration) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let seconds = since_epoch.as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, of_month) = civil_from_days(day);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(day % 7) as usize];
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&format!("{:02}", year % 100)),
            Some('m') => text.push_str(&format!("{month:02}")),
            Some('d') => text.push_str(&format!("{of_month:02}")),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(day_name),
            Some('a') => text.push_str(&day_name[..3]),
            Some('H') => text.push_str(&format!("{:02}", second / 3600)),
            Some('M') => text.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => text.push_str(&format!("{:02}", second % 60)),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// Year, month and day of the month of a day since 1970 (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Replaces `{% generation %}` blocks, which mark a model's answers for training, by blocks that
/// do nothing and control white space in the same way.
pub(super) fn without_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        text.push_str(before);
        rest = tag;
        let word = tag.trim_start_matches(['-', '+']).trim_start();
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let Some(after) = word.strip_prefix(name) else {
                continue;
            };
            let end = after.trim_start();
            if ["%}", "-%}", "+%}"]
                .iter()
                .any(|close| end.starts_with(close))
            {
                text.push_str(&tag[..tag.len() - word.len()]);
                text.push_str(instead);
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_generation_keeps_the_control_of_white_space() {
        assert_eq!(
            without_generation("a{%- generation -%} b {% endgeneration%}{% set generation = 1 %}"),
            "a{%- if true -%} b {% endif%}{% set generation = 1 %}"
        );
    }

    #[test]
    fn format_time_is_that_of_python() {
        let time = |seconds| {
            format_time(
                "%d %b %Y, %A %B %m/%y %H:%M:%S %%",
                Duration::from_secs(seconds),
            )
        };
        assert_eq!(time(0), "01 Jan 1970, Thursday January 01/70 00:00:00 %");
        assert_eq!(
            time(951_782_399),
            "28 Feb 2000, Monday February 02/00 23:59:59 %"
        );
        assert_eq!(
            time(1_709_208_000),
            "29 Feb 2024, Thursday February 02/24 12:00:00 %"
        );
    }
}
