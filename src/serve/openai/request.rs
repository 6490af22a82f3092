//! A chat completion request as it comes in. Text is borrowed from the body; unknown fields are ignored, as OpenAI does.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;
use utoipa::ToSchema;

use super::{
    lenient::{Asks, AtMost, Object, TextOr},
    schema,
};
use crate::{
    guard::{ByClass, Mode, OnExhausted, render::Style},
    serve::error::ApiError,
};

/// Most messages of a request.
pub(crate) const MESSAGES: usize = 256;
/// Most parts of a message.
pub(super) const PARTS: usize = 64;

/// A chat completion request. Ranges and meaning are [`super::check`]'s; the ranges in the schemas are the same (a test asks at their ends).
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest<'a> {
    /// The served model's name.
    #[schema(required, nullable = false)]
    pub(crate) model: Option<String>,
    /// The conversation, with exactly one image, in a message of the user.
    #[serde(borrow)]
    #[schema(value_type = Vec<Message<'a>>, required, min_items = 1, max_items = 256)]
    pub(crate) messages: Option<AtMost<Object<Message<'a>>, MESSAGES>>,
    /// How many answers; at most what the engine can hold.
    #[schema(minimum = 1, maximum = 128)]
    pub(crate) n: Option<i64>,
    /// 0 always takes the likeliest token; the configuration has the default.
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f64>,
    /// Chooses among the smallest set of tokens with this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f64>,
    /// Chooses among this many of the likeliest tokens.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    pub(crate) top_k: Option<i64>,
    /// The same seed and request give the same answer.
    pub(crate) seed: Option<i64>,
    #[serde(borrow)]
    #[schema(schema_with = schema::stop)]
    pub(crate) stop: Option<TextOr<'a, String, 4>>,
    /// Most tokens of an answer; not together with `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    pub(crate) max_tokens: Option<i64>,
    /// Most tokens of an answer.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    pub(crate) max_completion_tokens: Option<i64>,
    /// Makes tokens that were written less likely.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f64>,
    /// Makes tokens less likely the more often they were written.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Whether the answer's log-probabilities are reported.
    pub(crate) logprobs: Option<bool>,
    /// Alternatives to report a token; only with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub(crate) top_logprobs: Option<i64>,
    /// Whether the answer is streamed as server-sent events.
    pub(crate) stream: Option<bool>,
    /// Only with `stream`.
    #[schema(value_type = Option<StreamOptions>)]
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    /// Who asks, as the client calls them: what is remembered of the completion can be removed by it.
    pub(crate) user: Option<String>,
    /// What the guard does; an extension of OpenAI's API.
    #[schema(value_type = Option<GuardRequest>)]
    pub(crate) guard: Option<Object<GuardRequest>>,
    // What OpenAI has, changes the meaning of the answer, and is not here.
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) tools: Asks,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) tool_choice: Asks,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) functions: Asks,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) function_call: Asks,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) audio: Asks,
    #[schema(schema_with = schema::modalities)]
    pub(crate) modalities: Option<AtMost<String, 8>>,
    /// `text` is the only one.
    #[schema(value_type = Option<ResponseFormat>)]
    pub(crate) response_format: Option<Object<ResponseFormat>>,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) logit_bias: Asks,
    #[serde(default)]
    #[schema(schema_with = schema::refused_outright)]
    pub(crate) web_search_options: Option<Asks>,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) prediction: Asks,
}

/// One message.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Message<'a> {
    /// Who speaks; `developer` is taken for `system`.
    #[schema(value_type = schema::Role)]
    pub(crate) role: String,
    #[serde(borrow)]
    #[schema(schema_with = schema::content, required)]
    pub(crate) content: Option<TextOr<'a, Object<Part<'a>>, PARTS>>,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) tool_calls: Asks,
}

/// One part of a message; which of the fields count depends on its type.
#[derive(Debug, Deserialize)]
pub(crate) struct Part<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
    #[serde(borrow)]
    pub(crate) image_url: Option<Object<ImageUrl<'a>>>,
}

/// An image.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ImageUrl<'a> {
    /// A `data:` URL of the image's file; what it says of the type does not matter.
    #[serde(borrow)]
    #[schema(value_type = String, format = "image-data-url", pattern = "^[Dd][Aa][Tt][Aa]:[^,]*,")]
    pub(crate) url: Cow<'a, str>,
    /// Taken and not used: every image is seen at the model's one size.
    #[schema(value_type = Option<schema::Detail>)]
    pub(crate) detail: Option<String>,
}

/// What a stream carries beside the answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the token counts.
    pub(crate) include_usage: Option<bool>,
}

/// How the answer is written.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text` is the only one.
    #[serde(rename = "type")]
    #[schema(value_type = schema::TextOnly)]
    pub(crate) kind: String,
}

/// What the guard does. Unknown fields are errors: a guard that is misspelt must not be off in silence.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardRequest {
    /// What is done with doubted words; the configuration has the default.
    pub(crate) mode: Option<Mode>,
    /// Words with a reward below it are doubted; not together with `target_fpr`.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) threshold: Option<f32>,
    /// The threshold at which this share of grounded words is doubted, by the model's calibration.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) target_fpr: Option<f32>,
    /// Most repairs of an answer.
    #[schema(minimum = 0, maximum = 1000000)]
    pub(crate) max_attempts: Option<i64>,
    /// Words that are held back beside the open one, for repairs to reach.
    #[schema(minimum = 0, maximum = 1000000)]
    pub(crate) window: Option<i64>,
    /// Thresholds of classes of words; the others have `threshold`.
    pub(crate) thresholds: Option<ByClass>,
    /// What is done about words that stay doubted, where `mode` is `flag` or `regenerate`. An answer that may be written again is shown when it is
    /// complete, also in a stream.
    pub(crate) on_exhausted: Option<OnExhausted>,
    /// So many answers are written, and the one whose words have the highest mean reward is given.
    #[schema(minimum = 1, maximum = 16)]
    pub(crate) candidates: Option<i64>,
    /// How `guard.alt_text` says doubted words.
    pub(crate) render: Option<Style>,
}

/// Reads a request's body.
///
/// # Errors
/// 400 that says where the body is no UTF-8 or no JSON, or names the field that has the wrong type.
pub fn parse(body: &[u8]) -> Result<ChatRequest<'_>, ApiError> {
    read(body, "a chat completion request")
}

/// Reads a JSON object; `what` says in errors what it should have been.
///
/// # Errors
/// As [`parse`].
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| {
        ApiError::invalid(
            "invalid_utf8",
            format!("the request's body is not valid UTF-8: the byte at offset {} begins no character", e.valid_up_to()),
        )
    })?;
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(request) = serde_path_to_error::deserialize(&mut json).map_err(|e| describe(&e, what))?;
    json.end().map_err(|e| not_json(&e))?;
    Ok(request)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::invalid("invalid_json", format!("the request's body is not valid JSON: {error}"))
}

/// What is wrong and with which field, as OpenAI writes paths: `messages[0].content`.
fn describe(error: &serde_path_to_error::Error<serde_json::Error>, request: &str) -> ApiError {
    let inner = error.inner();
    if !matches!(inner.classify(), Category::Data) {
        return not_json(inner);
    }
    let what = inner.to_string();
    // The line and column are of a body that no person has seen.
    let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
    let path = error.path().to_string();
    let missing = what.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    let (path, code) = match missing {
        Some(field) if path == "." => (field.to_owned(), "missing_required_parameter"),
        Some(field) => (format!("{path}.{field}"), "missing_required_parameter"),
        None if what.starts_with("invalid type") => (path, "invalid_type"),
        None => (path, "invalid_value"),
    };
    match path.as_str() {
        "." => ApiError::invalid("invalid_type", format!("the request's body is not {request}: {what}")),
        _ => ApiError::param(path.clone(), code, format!("'{path}': {what}")),
    }
}
