//! Rows of JSONL files and elements of JSON arrays, and their problems.
//!
//! A reader takes each field as an [`AnyValue`] and checks its type itself: a wrong type then
//! invalidates one row instead of the file, and one run reports all problems.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{eval::data::flickr8k::DatasetError, util::jsonl};

/// Number of problems of a file that are reported individually.
const LISTED: usize = 20;

/// Error while reading data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file or folder is not readable as data, or lacks what was requested.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// Problem, and what was expected.
        what: String,
    },
    /// A folder in Flickr8k's layout is invalid.
    #[error(transparent)]
    Flickr8k(#[from] DatasetError),
    /// Rows are invalid.
    #[error("{0}")]
    Rows(RowProblems),
}

/// Position of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPosition {
    /// The whole file.
    File,
    /// A line, counted from 1.
    Line(usize),
    /// An element of the named list (`""` is the whole file), counted from 0.
    Element(&'static str, usize),
}

impl RowPosition {
    /// Description that refers back to a row of the same file.
    pub(in crate::eval) fn back_reference(self) -> String {
        match self {
            Self::File => String::new(),
            Self::Line(line) => format!(" in line {line}"),
            Self::Element(list, index) => format!(" at {list}[{index}]"),
        }
    }
}

impl fmt::Display for RowPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, ":{line}"),
            Self::Element(list, index) => write!(f, ": {list}[{index}]"),
        }
    }
}

/// Problems of a file's rows: the first [`LISTED`] of them, and their number.
#[derive(Debug)]
pub struct RowProblems {
    path: PathBuf,
    listed: Vec<(RowPosition, String)>,
    total: usize,
}

impl RowProblems {
    pub(in crate::eval) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            listed: Vec::new(),
            total: 0,
        }
    }

    pub(in crate::eval) fn add(&mut self, position: RowPosition, what: impl Into<String>) {
        self.total += 1;
        if self.listed.len() < LISTED {
            self.listed.push((position, what.into()));
        }
    }

    /// Adds a `serde_json` error about a text that begins on `line`.
    fn add_json(&mut self, line: usize, error: &serde_json::Error) {
        let text = error.to_string();
        let what = text
            .split_once(" at line ")
            .map_or(text.as_str(), |(what, _)| what);
        let kind = if error.is_data() {
            "unexpected JSON"
        } else {
            "broken JSON"
        };
        self.add(
            RowPosition::Line(line + error.line().max(1) - 1),
            format!("{kind} at column {}: {what}", error.column()),
        );
    }

    /// Unwraps the value of a row, or notes its problem.
    pub(in crate::eval) fn take<T>(
        &mut self,
        position: RowPosition,
        value: Result<T, String>,
    ) -> Option<T> {
        value.map_err(|what| self.add(position, what)).ok()
    }

    /// Returns an error if there are problems.
    ///
    /// # Errors
    /// [`DataError::Rows`] with all problems.
    pub(in crate::eval) fn into_result(self) -> Result<(), DataError> {
        if self.total == 0 {
            Ok(())
        } else {
            Err(DataError::Rows(self))
        }
    }
}

impl fmt::Display for RowProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (position, what)) in self.listed.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}{position}: {what}", self.path.display())?;
        }
        if self.total > self.listed.len() {
            write!(
                f,
                "\n{}: {} problems in all, the first {LISTED} are shown",
                self.path.display(),
                self.total
            )?;
        }
        Ok(())
    }
}

/// Reads a text file; `-` is standard input.
///
/// # Errors
/// If the file cannot be read, is not UTF-8 (with the line) or is empty.
pub(in crate::eval) fn read(path: &Path) -> Result<String, DataError> {
    let unusable = |what: String| DataError::Unusable {
        path: path.to_owned(),
        what,
    };
    let bytes = match path.as_os_str() == "-" {
        true => {
            let mut all = Vec::new();
            io::stdin().lock().read_to_end(&mut all).map(|_| all)
        }
        false => fs::read(path),
    };
    let bytes = bytes.map_err(|source| DataError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
            + 1;
        unusable(format!(
            "line {line} is not UTF-8 (byte {good} of the file)"
        ))
    })?;
    // Some editors write a byte order mark, which is not JSON.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.trim().is_empty() {
        Err(unusable("the file is empty".into()))
    } else {
        Ok(text)
    }
}

/// Rows of JSONL text, or elements of a JSON array. Blank lines are skipped; invalid rows are noted
/// as problems.
pub(in crate::eval) fn rows<'a, T: Deserialize<'a>>(
    text: &'a str,
    problems: &mut RowProblems,
) -> Vec<(RowPosition, T)> {
    if text.trim_start().starts_with('[') {
        let list: Vec<T> = whole(text, problems).unwrap_or_default();
        return list
            .into_iter()
            .enumerate()
            .map(|(i, row)| (RowPosition::Element("", i), row))
            .collect();
    }
    let mut found = Vec::new();
    for (number, row) in jsonl::parse(text) {
        match row {
            Ok(row) => found.push((RowPosition::Line(number), row)),
            Err(error) => problems.add_json(number, &error),
        }
    }
    found
}

/// Parses a text that is one JSON value.
pub(super) fn whole<'a, T: Deserialize<'a>>(
    text: &'a str,
    problems: &mut RowProblems,
) -> Option<T> {
    serde_json::from_str(text)
        .map_err(|error| problems.add_json(1, &error))
        .ok()
}

/// Value of a field, of any type.
#[derive(Debug, Default, PartialEq)]
pub(in crate::eval) enum AnyValue<'a> {
    /// The field is missing.
    #[default]
    Absent,
    Null,
    Bool,
    /// An integer; also a number with a zero fraction, such as 7.0.
    Integer(i128),
    /// A number with a fraction, or larger than any id.
    Number,
    Text(Cow<'a, str>),
    List(Vec<AnyValue<'a>>),
    Object,
}

impl<'a> AnyValue<'a> {
    pub(in crate::eval) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent | Self::Null)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "missing",
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Number => "a number with a fraction",
            Self::Text(text) if text.trim().is_empty() => "empty",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object => "an object",
        }
    }

    fn wrong<T>(&self, field: &str, expected: &str) -> Result<T, String> {
        Err(format!("'{field}' is {}, expected {expected}", self.kind()))
    }

    pub(in crate::eval) fn integer(self, field: &str) -> Result<u64, String> {
        match self {
            Self::Integer(number) => u64::try_from(number)
                .map_err(|_| format!("'{field}' is {number}, expected an integer of 0 or more")),
            other => other.wrong(field, "an integer"),
        }
    }

    /// Name: a string that is not blank, or an integer.
    pub(in crate::eval) fn name(self, field: &str) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Integer(number) => Ok(number.to_string().into()),
            Self::Text(text) if !text.trim().is_empty() => Ok(text),
            other => other.wrong(field, "an integer or a string"),
        }
    }

    pub(in crate::eval) fn text(self, field: &str) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Text(text) => Ok(text),
            other => other.wrong(field, "a string"),
        }
    }

    /// String that is not blank.
    pub(in crate::eval) fn full_text(self, field: &str) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Text(text) if !text.trim().is_empty() => Ok(text),
            other => other.wrong(field, "a string that is not empty"),
        }
    }

    /// List of strings that are not blank.
    pub(in crate::eval) fn texts<C: FromIterator<String>>(self, field: &str) -> Result<C, String> {
        let item = |(i, item): (usize, AnyValue<'a>)| {
            item.full_text(&format!("{field}[{i}]"))
                .map(Cow::into_owned)
        };
        match self {
            Self::List(list) => list.into_iter().enumerate().map(item).collect(),
            other => other.wrong(field, "a list of strings"),
        }
    }

    /// List of values of any type.
    pub(in crate::eval) fn list(self, field: &str) -> Result<Vec<AnyValue<'a>>, String> {
        match self {
            Self::List(list) => Ok(list),
            other => other.wrong(field, "a list"),
        }
    }

    /// Names of objects, if present.
    pub(in crate::eval) fn objects(self) -> Result<Option<BTreeSet<String>>, String> {
        if self.is_absent() {
            Ok(None)
        } else {
            self.texts("objects").map(Some)
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for AnyValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = AnyValue<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Integer(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<AnyValue<'de>, E> {
        // Above this, floating-point numbers do not represent every integer.
        let whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
        Ok(if whole {
            AnyValue::Integer(number as i128)
        } else {
            AnyValue::Number
        })
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<AnyValue<'de>, E> {
        Ok(AnyValue::Text(text.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AnyValue<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(AnyValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyValue<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(AnyValue::Object)
    }
}
