//! Body of `POST /v1/feedback`.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected, Visitor},
};

use super::record::{FeedbackSource, JudgedPart};

/// Feedback about an answer of this server (`completion_id`) or of any other (`image`, `prompt` and
/// `response`).
///
/// It states one of four judgments: all is right (`label: "good"`), parts are wrong (`error` or
/// `errors`), the text should read differently (`edit`), or content is missing (`missing`). Unknown
/// fields are errors, since a misspelled one would be ignored silently.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    /// Completion id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_id: Option<String>,
    /// Index of the answer among the completion's choices; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// Image, as a `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Prompt; absent or empty for a description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Name of the model that wrote the answer, if it is not one of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Good or bad; optional if another field states an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Judgment>,
    /// Part of the response that was judged. Default: up to the error for `error`, all for
    /// `errors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<JudgedPart>,
    /// First error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorSpan>,
    /// Text that replaces `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// All errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<ErrorSpan>>,
    /// Whole answer as it should read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<String>,
    /// Missing content: a text or several.
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub missing: Vec<String>,
    /// Name of the annotator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// End user whom the record belongs to; that of the completion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Free-text comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Origin of the feedback; a person if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<FeedbackSource>,
}

/// Judgment of a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgment {
    /// All of it is right.
    Good,
    /// Some of it is wrong.
    Bad,
}

/// Position of an error, and its correction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorSpan {
    /// First code point.
    #[serde(deserialize_with = "whole_number")]
    pub start: usize,
    /// One past the last code point.
    #[serde(deserialize_with = "whole_number")]
    pub end: usize,
    /// Text of the error, by which the server checks the offsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Text that replaces the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// `true` if the error has only to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

/// Reads a whole number of at least 0, also written with a point or an exponent, such as `18.0`.
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
