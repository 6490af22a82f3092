//! Feedback as somebody sends it: the body of `POST /v1/feedback`.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected, Visitor},
};

use super::record::{FeedbackSource, JudgedPart};

/// Feedback about an answer of this server (`completion_id`) or about any other (`image`, `prompt`
/// and `response`).
///
/// It says one of four things: that all is right (`label: "good"`), where something is wrong
/// (`error` or `errors`), how the whole text should read (`edit`), or what is left out (`missing`).
/// A field that does not exist is an error: one that is misspelt would be lost in silence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    /// The completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_id: Option<String>,
    /// Which of its answers; 0 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// The image, as a `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The prompt; a description where absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Who wrote the answer, where that was not a model of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Good or bad; may be left out where the rest says that it is bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Judgment>,
    /// Part of the response that was judged; for `error` up to it, for `errors` all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<JudgedPart>,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorSpan>,
    /// Text that should stand in the place of `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// All errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<ErrorSpan>>,
    /// The whole answer as it should read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<String>,
    /// Content that is left out: a text or several.
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub missing: Vec<String>,
    /// Who judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// The end user whom the record belongs to; that of the completion where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Origin of the feedback; a person where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<FeedbackSource>,
}

/// Right or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgment {
    /// Right.
    Good,
    /// Wrong.
    Bad,
}

/// Place of an error and the text that should stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorSpan {
    /// First code point.
    #[serde(deserialize_with = "whole_number")]
    pub start: usize,
    /// One past the last code point.
    #[serde(deserialize_with = "whole_number")]
    pub end: usize,
    /// The text between them, for the server to check that both count alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Text that should stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// Indicates whether nothing should stand there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

/// Reads an integer of at least 0, also where it is written with a point or an exponent: `18.0`.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct WholeNumber;

    impl Visitor<'_> for WholeNumber {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer of at least 0")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<usize, E> {
            usize::try_from(number)
                .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<usize, E> {
            let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
            if whole {
                Ok(number as usize)
            } else {
                Err(E::invalid_type(Unexpected::Float(number), &self))
            }
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
            Err(E::invalid_value(Unexpected::Signed(number), &self))
        }
    }

    deserializer.deserialize_u64(WholeNumber)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or an array of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    })
}
