//! Metadata of a GGUF file.

use std::{collections::BTreeMap, path::PathBuf};

use super::super::WeightsError;

/// Value of a file's metadata. Integers and floats of all sizes are read as one type each.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum GgufValue {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Flags(Vec<bool>),
    Integers(Vec<i64>),
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// Metadata of a GGUF file: what other formats have in their configuration, and the tokenizer.
///
/// Every getter returns `None` for a name that the file lacks, and an error that names the file,
/// the value and what was expected if it is of another type.
#[derive(Debug)]
pub struct GgufMetadata {
    pub(super) file: PathBuf,
    pub(super) values: BTreeMap<String, GgufValue>,
}

impl GgufMetadata {
    /// Returns `true` if there is a value of that name.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.get(key, "a boolean", |value| match value {
            GgufValue::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Returns a number that is not negative.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn size(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        self.get(key, "an integer from 0 on", |value| match value {
            GgufValue::Integer(integer) => usize::try_from(*integer).ok(),
            _ => None,
        })
    }

    /// Returns a number.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn number(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.get(key, "a number", |value| match value {
            GgufValue::Number(number) => Some(*number),
            GgufValue::Integer(integer) => Some(*integer as f64),
            _ => None,
        })
    }

    /// Returns a text.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        self.get(key, "a text", |value| match value {
            GgufValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns a list of integers.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, WeightsError> {
        self.get(key, "a list of integers", |value| match value {
            GgufValue::Integers(integers) => Some(integers.as_slice()),
            _ => None,
        })
    }

    /// Returns a list of floating-point numbers.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn numbers(&self, key: &str) -> Result<Option<&[f64]>, WeightsError> {
        self.get(key, "a list of numbers", |value| match value {
            GgufValue::Numbers(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// Returns a list of texts.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, WeightsError> {
        self.get(key, "a list of texts", |value| match value {
            GgufValue::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// Returns what a getter found, which must be something.
    ///
    /// # Errors
    /// When the file lacks the value or it is of another type.
    pub fn require<'a, T>(
        &'a self,
        key: &str,
        getter: impl FnOnce(&'a Self, &str) -> Result<Option<T>, WeightsError>,
    ) -> Result<T, WeightsError> {
        getter(self, key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// Returns an error about a value.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> WeightsError {
        WeightsError::Metadata {
            file: self.file.clone(),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, format!("is not {expected}"))),
            },
        }
    }
}
