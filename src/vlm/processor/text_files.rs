//! Files beside a checkpoint that say how text is processed: tokenizer and chat template.

use std::{fs::File, io::Read, path::Path};

use serde_json::Value;

use super::processor_config::{ConfigSection, ProcessorFileError, read_object};

/// Tokenizer in the form of Hugging Face's library.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Settings of the tokenizer, with its special tokens and, in older checkpoints, the template.
const SETTINGS_FILE: &str = "tokenizer_config.json";

/// Special tokens of older checkpoints.
const SPECIAL_FILE: &str = "special_tokens_map.json";

/// Chat template, in newer checkpoints.
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Chat template, in older checkpoints of models that see.
const TEMPLATE_JSON_FILE: &str = "chat_template.json";

/// Whole processor, which may hold the template.
const PROCESSOR_FILE: &str = "processor_config.json";

/// Largest tokenizer that is read, in bytes.
const MAX_TOKENIZER_BYTES: u64 = 1 << 27;

/// Largest template that is read, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Variables of a template for special tokens.
const TOKENS: [&str; 8] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "image_token",
];

/// Chat template with the special tokens that it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFiles {
    /// Source of the template.
    pub source: String,
    /// Pairs of a variable and the text of the special token.
    pub tokens: Vec<(String, String)>,
}

impl TemplateFiles {
    /// Reads the template of a checkpoint: of `chat_template.jinja`, `chat_template.json`,
    /// `processor_config.json` or `tokenizer_config.json`, the first that has one.
    ///
    /// # Errors
    /// When a file cannot be read or none has a template.
    pub fn read(folder: &Path) -> Result<Self, ProcessorFileError> {
        let settings = read_object(folder, SETTINGS_FILE)?;
        let special = read_object(folder, SPECIAL_FILE)?;
        let tokens = TOKENS.into_iter().filter_map(|name| {
            let places = settings.iter().chain(&special);
            let text = places
                .filter_map(|place| token_text(place.value(name)?))
                .next()?;
            Some((name.to_owned(), text.to_owned()))
        });
        let tokens = tokens.collect();
        if let Some(source) = read_limited(folder, TEMPLATE_FILE, MAX_TEMPLATE_BYTES)? {
            let source = String::from_utf8(source)
                .map_err(|_| error(TEMPLATE_FILE, "is not encoded in UTF-8"))?;
            return Ok(Self { source, tokens });
        }
        let places = [
            read_object(folder, TEMPLATE_JSON_FILE)?,
            read_object(folder, PROCESSOR_FILE)?,
            settings,
        ];
        for place in places.iter().flatten() {
            if let Some(source) = template_of(place)? {
                return Ok(Self { source, tokens });
            }
        }
        Err(error(
            TEMPLATE_FILE,
            "is missing, and no 'chat_template' is in chat_template.json or tokenizer_config.json",
        ))
    }
}

/// Reads `tokenizer.json`.
///
/// # Errors
/// When it is missing, too large or cannot be read.
pub fn read_tokenizer(folder: &Path) -> Result<Vec<u8>, ProcessorFileError> {
    let found = read_limited(folder, TOKENIZER_FILE, MAX_TOKENIZER_BYTES)?;
    found.ok_or_else(|| {
        error(
            TOKENIZER_FILE,
            "is missing; a tokenizer.model alone is not read",
        )
    })
}

/// Returns the template in an object: text, or a list of named ones, of which "default" is taken.
fn template_of(place: &ConfigSection) -> Result<Option<String>, ProcessorFileError> {
    let expected = "a template, or a list of them with one named 'default'";
    place.read("chat_template", expected, |value| {
        let template = match value {
            Value::Array(named) => named
                .iter()
                .find(|entry| entry["name"] == "default")
                .map(|entry| &entry["template"])?,
            value => value,
        };
        template.as_str().map(str::to_owned)
    })
}

/// Returns the text of a special token: itself, or the content of an object.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

fn read_limited(
    folder: &Path,
    name: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, ProcessorFileError> {
    let file = match File::open(folder.join(name)) {
        Ok(file) => file,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(name, format!("cannot be read: {other}"))),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|other| error(name, format!("cannot be read: {other}")))?;
    match bytes.len() as u64 > limit {
        true => Err(error(name, format!("is larger than {limit} bytes"))),
        false => Ok(Some(bytes)),
    }
}

fn error(file: &str, reason: impl Into<String>) -> ProcessorFileError {
    ProcessorFileError {
        file: file.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn read_takes_the_newest_template_and_the_tokens_of_both_files() {
        let settings = r#"{
            "chat_template": [
                {"name": "tools", "template": "t"}, {"name": "default", "template": "oldest"}
            ],
            "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null
        }"#;
        let special = r#"{"bos_token": "other", "eos_token": "</s>"}"#;
        let mut files = vec![(SETTINGS_FILE, settings), (SPECIAL_FILE, special)];
        let later = [
            (PROCESSOR_FILE, r#"{"chat_template": "old"}"#, "old"),
            (TEMPLATE_JSON_FILE, r#"{"chat_template": "new"}"#, "new"),
            (TEMPLATE_FILE, "newest", "newest"),
        ];
        let read = TemplateFiles::read(folder(&files).path()).unwrap();
        assert_eq!(read.source, "oldest");
        let token = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            read.tokens,
            [token("bos_token", "<s>"), token("eos_token", "</s>")]
        );
        for (name, content, source) in later {
            files.push((name, content));
            let read = TemplateFiles::read(folder(&files).path()).unwrap();
            assert_eq!(read.source, source);
        }
    }

    #[test]
    fn read_errors_name_the_file() {
        let named = r#"{"chat_template": [{"name": "tools", "template": "t"}]}"#;
        for (files, expected) in [
            (vec![], "chat_template.jinja: is missing"),
            (
                vec![(SETTINGS_FILE, named)],
                "tokenizer_config.json: 'chat_template' must be a template",
            ),
            (
                vec![(TEMPLATE_JSON_FILE, "[]")],
                "chat_template.json: must be a JSON object",
            ),
        ] {
            let error = TemplateFiles::read(folder(&files).path()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let error = read_tokenizer(folder(&[]).path()).unwrap_err();
        assert!(error.to_string().starts_with("tokenizer.json: is missing"));
    }
}
