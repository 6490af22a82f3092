//! Files beside a checkpoint that say how images are processed: `processor_config.json`, which
//! newer ones hold as a whole, and `preprocessor_config.json`.

use std::{fs::File, io::Read, path::Path};

use serde_json::{Map, Value};

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// File of the whole processor.
const PROCESSOR_FILE: &str = "processor_config.json";

/// File of the image processor alone, in older checkpoints.
const IMAGE_FILE: &str = "preprocessor_config.json";

/// Error in a processor's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct ProcessorFileError {
    /// Name of the file.
    pub file: String,
    /// Key and problem.
    pub reason: String,
}

/// Object of a configuration file, which knows where it stands for the sake of errors.
#[derive(Debug, Clone)]
pub struct ConfigSection {
    file: String,
    /// Keys that lead to the object, each with a dot behind it.
    path: String,
    values: Map<String, Value>,
}

impl ConfigSection {
    /// Wraps the object of a file.
    pub fn new(file: &str, values: Map<String, Value>) -> Self {
        Self {
            file: file.to_owned(),
            path: String::new(),
            values,
        }
    }

    /// Creates an error about a key.
    pub fn error(&self, key: &str, problem: impl std::fmt::Display) -> ProcessorFileError {
        ProcessorFileError {
            file: self.file.clone(),
            reason: format!("'{}{key}' {problem}", self.path),
        }
    }

    /// Creates an error about a value that should have been `expected`.
    pub(crate) fn wrong(
        &self,
        key: &str,
        expected: impl std::fmt::Display,
        value: &Value,
    ) -> ProcessorFileError {
        self.error(key, format!("must be {expected}, not {}", shown(value)))
    }

    /// Returns the value of a key; `None` if it is missing or null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Returns what `parse` makes of a value, if there is one.
    pub(crate) fn read<'a, T>(
        &'a self,
        key: &str,
        expected: impl std::fmt::Display,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ProcessorFileError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match parse(value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.wrong(key, expected, value)),
        }
    }

    /// Returns a value that must be there.
    pub(crate) fn needed<T>(&self, key: &str, found: Option<T>) -> Result<T, ProcessorFileError> {
        found.ok_or_else(|| self.error(key, "is missing"))
    }

    /// Returns a flag, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ProcessorFileError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Returns a text, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ProcessorFileError> {
        self.read(key, "a string", Value::as_str)
    }

    /// Returns an integer of 32 bits, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&self, key: &str) -> Result<Option<u32>, ProcessorFileError> {
        self.read(key, "an integer of at least 0", as_u32)
    }

    /// Returns a number, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ProcessorFileError> {
        self.read(key, "a number", Value::as_f64)
    }

    /// Returns an integer that must be there.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn needed_integer(&self, key: &str) -> Result<u32, ProcessorFileError> {
        let found = self.integer(key)?;
        self.needed(key, found)
    }

    /// Returns a number for each of red, green and blue; a single one is that of all.
    ///
    /// # Errors
    /// When they are missing or something else.
    pub fn channels(&self, key: &str) -> Result<[f64; 3], ProcessorFileError> {
        let parse = |value: &Value| match value {
            Value::Array(each) => {
                let each: Option<Vec<f64>> = each.iter().take(4).map(Value::as_f64).collect();
                each?.try_into().ok()
            }
            one => one.as_f64().map(|number| [number; 3]),
        };
        let found = self.read(key, "a number or three", parse)?;
        self.needed(key, found)
    }

    /// Returns an object, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn section(&self, key: &str) -> Result<Option<Self>, ProcessorFileError> {
        let values = self.read(key, "an object", Value::as_object)?;
        Ok(values.map(|values| Self {
            file: self.file.clone(),
            path: format!("{}{key}.", self.path),
            values: values.clone(),
        }))
    }

    /// Returns an object, an empty one if it is missing.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn section_or_empty(&self, key: &str) -> Result<Self, ProcessorFileError> {
        let found = self.section(key)?;
        Ok(found.unwrap_or_else(|| Self {
            file: self.file.clone(),
            path: format!("{}{key}.", self.path),
            values: Map::new(),
        }))
    }

    /// Returns an object that must be there.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn needed_section(&self, key: &str) -> Result<Self, ProcessorFileError> {
        let found = self.section(key)?;
        self.needed(key, found)
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}

/// Returns a value as JSON, cut short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Settings from the files of a processor.
#[derive(Debug, Clone)]
pub struct ProcessorFiles {
    /// Settings of the processor; empty if the checkpoint has none.
    pub processor: ConfigSection,
    /// Settings of the image processor.
    pub image: ConfigSection,
}

impl ProcessorFiles {
    /// Reads the files of a checkpoint's folder. As in transformers, an image processor in
    /// `processor_config.json` precedes `preprocessor_config.json`.
    ///
    /// # Errors
    /// When a file cannot be read or is no JSON object, or none describes an image processor.
    pub fn read(folder: &Path) -> Result<Self, ProcessorFileError> {
        let processor = read_object(folder, PROCESSOR_FILE)?
            .unwrap_or_else(|| ConfigSection::new(PROCESSOR_FILE, Map::new()));
        let image = match processor.section("image_processor")? {
            Some(image) => image,
            None => read_object(folder, IMAGE_FILE)?.ok_or_else(|| ProcessorFileError {
                file: IMAGE_FILE.to_owned(),
                reason: format!(
                    "is missing, and {PROCESSOR_FILE} has no 'image_processor': it must say how \
                     images are processed"
                ),
            })?,
        };
        Ok(Self { processor, image })
    }

    /// Returns the type of the image processor without the name of its implementation (`Fast`,
    /// `Pil`): these compute the same but for rounding.
    ///
    /// # Errors
    /// When it is none of `known`, or missing.
    pub fn image_type(&self, known: &[&str]) -> Result<&str, ProcessorFileError> {
        const KEY: &str = "image_processor_type";
        let image = &self.image;
        let written = match image.text(KEY)? {
            Some(written) => written,
            None => image
                .text("feature_extractor_type")?
                .ok_or_else(|| image.error(KEY, "is missing"))?,
        };
        let name = written.strip_suffix("Fast").unwrap_or(written);
        let name = name.strip_suffix("Pil").unwrap_or(name);
        match known.contains(&name) {
            true => Ok(name),
            false => Err(image.error(
                KEY,
                format!(
                    "is {}; this architecture's are {}",
                    shown(&written.into()),
                    known.join(", ")
                ),
            )),
        }
    }
}

/// Reads a file that is a JSON object; `None` if there is none of that name.
pub(crate) fn read_object(
    folder: &Path,
    name: &str,
) -> Result<Option<ConfigSection>, ProcessorFileError> {
    let error = |reason: String| ProcessorFileError {
        file: name.to_owned(),
        reason,
    };
    let file = match File::open(folder.join(name)) {
        Ok(file) => file,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(format!("cannot be read: {other}"))),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| error(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(error(format!("is larger than {MAX_FILE_BYTES} bytes")));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(values)) => Ok(Some(ConfigSection::new(name, values))),
        Ok(other) => Err(error(format!(
            "must be a JSON object, not {}",
            shown(&other)
        ))),
        Err(invalid) => Err(error(format!("is not JSON: {invalid}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn read_takes_the_composite_file_first() {
        let both = folder(&[
            (
                PROCESSOR_FILE,
                r#"{"patch_size": 14, "image_processor": {"resample": 3}}"#,
            ),
            (IMAGE_FILE, r#"{"resample": 1}"#),
        ]);
        let files = ProcessorFiles::read(both.path()).unwrap();
        assert_eq!(files.image.integer("resample").unwrap(), Some(3));
        assert_eq!(files.processor.integer("patch_size").unwrap(), Some(14));
        let old = folder(&[(IMAGE_FILE, r#"{"resample": 1}"#)]);
        let files = ProcessorFiles::read(old.path()).unwrap();
        assert_eq!(files.image.integer("resample").unwrap(), Some(1));
        assert_eq!(files.processor.integer("patch_size").unwrap(), None);
    }

    #[test]
    fn read_errors_name_the_file() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "preprocessor_config.json: is missing"),
            (
                &[(IMAGE_FILE, "{")],
                "preprocessor_config.json: is not JSON",
            ),
            (
                &[(PROCESSOR_FILE, "[1]")],
                "processor_config.json: must be a JSON object, not [1]",
            ),
            (
                &[(PROCESSOR_FILE, r#"{"image_processor": 3}"#)],
                "processor_config.json: 'image_processor' must be an object, not 3",
            ),
        ];
        for (files, expected) in cases {
            let error = ProcessorFiles::read(folder(files).path()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let large = " ".repeat(MAX_FILE_BYTES as usize + 1);
        let error = ProcessorFiles::read(folder(&[(IMAGE_FILE, &large)]).path()).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    #[test]
    fn section_errors_name_the_key() {
        let Value::Object(values) = json!({
            "size": {"shortest_edge": -1},
            "mean": [0.5, "x", 0.5],
            "four": [1, 2, 3, 4],
            "gray": 0.5,
        }) else {
            unreachable!()
        };
        let section = ConfigSection::new("f.json", values);
        let size = section.needed_section("size").unwrap();
        for (error, expected) in [
            (
                size.integer("shortest_edge").unwrap_err(),
                "f.json: 'size.shortest_edge' must be an integer of at least 0, not -1",
            ),
            (
                section.channels("mean").unwrap_err(),
                "f.json: 'mean' must be a number or three, not [0.5,\"x\",0.5]",
            ),
            (
                section.channels("four").unwrap_err(),
                "f.json: 'four' must be a number or three, not [1,2,3,4]",
            ),
            (
                section.needed_integer("resample").unwrap_err(),
                "f.json: 'resample' is missing",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(section.channels("gray").unwrap(), [0.5; 3]);
    }
}
