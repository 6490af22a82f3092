//! Rows of JSONL files and elements of JSON arrays, and everything that is wrong with them.
//!
//! A reader takes each field as [`AnyValue`] value and says itself what it expected: a wrong type then
//! costs its own row and not the file, and one run over a file reports all of its problems.

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

/// Number of problems of a file that are reported one by one.
const LISTED: usize = 20;

/// Why data could not be used.
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
    /// A file or folder as a whole is none that can be read, or does not have what was asked for.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// Problem, and what was expected.
        what: String,
    },
    /// A folder in Flickr8k's layout is wrong.
    #[error(transparent)]
    Flickr8k(#[from] DatasetError),
    /// Rows are wrong.
    #[error("{0}")]
    Rows(RowProblems),
}

/// Place of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPosition {
    /// The whole file.
    File,
    /// A line, counted from 1.
    Line(usize),
    /// An element of the list with that name (`""` for the list that is the whole file), counted
    /// from 0.
    Element(&'static str, usize),
}

impl RowPosition {
    /// For pointing back to a row of the same file.
    pub(in crate::eval) fn back(self) -> String {
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

/// Problems of a file's rows: the first [`LISTED`] of them, and how many there are.
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

    pub(in crate::eval) fn add(&mut self, place: RowPosition, what: impl Into<String>) {
        self.total += 1;
        if self.listed.len() < LISTED {
            self.listed.push((place, what.into()));
        }
    }

    /// Adds what `serde_json` says of a text that begins in `line`.
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

    /// Takes the value of a row, or notes why it has none.
    pub(in crate::eval) fn take<T>(
        &mut self,
        place: RowPosition,
        value: Result<T, String>,
    ) -> Option<T> {
        value.map_err(|what| self.add(place, what)).ok()
    }

    /// # Errors
    /// When there was any problem.
    pub(in crate::eval) fn none(self) -> Result<(), DataError> {
        if self.total == 0 {
            Ok(())
        } else {
            Err(DataError::Rows(self))
        }
    }
}

impl fmt::Display for RowProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (place, what)) in self.listed.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}{place}: {what}", self.path.display())?;
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

/// Reads a text file that holds something; `-` is standard input.
///
/// # Errors
/// A file that cannot be read, is not UTF-8 (with the line) or is empty.
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
    // The byte-order mark of some editors is no JSON.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.trim().is_empty() {
        Err(unusable("the file is empty".into()))
    } else {
        Ok(text)
    }
}

/// The rows of JSONL text, or the elements of a JSON array; blank lines are no rows, and what
/// cannot be read as a row is noted.
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

/// A text that is one JSON value.
pub(super) fn whole<'a, T: Deserialize<'a>>(
    text: &'a str,
    problems: &mut RowProblems,
) -> Option<T> {
    serde_json::from_str(text)
        .map_err(|error| problems.add_json(1, &error))
        .ok()
}

/// The value of a field, whatever it is.
#[derive(Debug, Default, PartialEq)]
pub(in crate::eval) enum AnyValue<'a> {
    /// There is no such field.
    #[default]
    Absent,
    Null,
    Bool,
    /// Also one that is written with a fraction of zero, as 7.0.
    Integer(i128),
    /// With a fraction, or larger than any id.
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

    /// The name of something: a string that is not blank, or an integer.
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

    /// A string that is not blank.
    pub(in crate::eval) fn full_text(self, field: &str) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Text(text) if !text.trim().is_empty() => Ok(text),
            other => other.wrong(field, "a string with something in it"),
        }
    }

    /// A list of strings that are not blank.
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

    /// A list, whatever is in it.
    pub(in crate::eval) fn list(self, field: &str) -> Result<Vec<AnyValue<'a>>, String> {
        match self {
            Self::List(list) => Ok(list),
            other => other.wrong(field, "a list"),
        }
    }

    /// Names of objects, where they are given.
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
        // Beyond that not every integer is a floating-point number.
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
