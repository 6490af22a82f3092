//! A chat completion request as it comes in. Text is borrowed from the body; unknown fields are ignored, as OpenAI does.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;

use super::lenient::{Asks, AtMost, Object, TextOr};
use crate::{
    guard::{ByClass, Mode, render::Style},
    serve::error::ApiError,
};

/// Most messages of a request.
pub(crate) const MESSAGES: usize = 256;
/// Most parts of a message.
const PARTS: usize = 64;

/// The request. Ranges and meaning are [`super::check`]'s.
#[derive(Debug, Deserialize)]
pub struct ChatRequest<'a> {
    pub(crate) model: Option<String>,
    #[serde(borrow)]
    pub(crate) messages: Option<AtMost<Object<Message<'a>>, MESSAGES>>,
    pub(crate) n: Option<i64>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) seed: Option<i64>,
    #[serde(borrow)]
    pub(crate) stop: Option<TextOr<'a, String, 4>>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_completion_tokens: Option<i64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<i64>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    /// Accepted and not used: who asks is not kept.
    #[serde(rename = "user")]
    pub(crate) _user: Option<String>,
    pub(crate) guard: Option<Object<GuardRequest>>,
    // What OpenAI has, changes the meaning of the answer, and is not here.
    #[serde(default)]
    pub(crate) tools: Asks,
    #[serde(default)]
    pub(crate) tool_choice: Asks,
    #[serde(default)]
    pub(crate) functions: Asks,
    #[serde(default)]
    pub(crate) function_call: Asks,
    #[serde(default)]
    pub(crate) audio: Asks,
    pub(crate) modalities: Option<AtMost<String, 8>>,
    pub(crate) response_format: Option<Object<ResponseFormat>>,
    #[serde(default)]
    pub(crate) logit_bias: Asks,
    #[serde(default)]
    pub(crate) web_search_options: Option<Asks>,
    #[serde(default)]
    pub(crate) prediction: Asks,
}

/// One message.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    pub(crate) role: String,
    #[serde(borrow)]
    pub(crate) content: Option<TextOr<'a, Object<Part<'a>>, PARTS>>,
    #[serde(default)]
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
#[derive(Debug, Deserialize)]
pub(crate) struct ImageUrl<'a> {
    #[serde(borrow)]
    pub(crate) url: Cow<'a, str>,
    pub(crate) detail: Option<String>,
}

/// What a stream carries beside the answer.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
}

/// How the answer is written.
#[derive(Debug, Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// Our extension. Its unknown fields are errors: a guard that is misspelt must not be off in silence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardRequest {
    pub(crate) mode: Option<Mode>,
    pub(crate) threshold: Option<f32>,
    pub(crate) target_fpr: Option<f32>,
    pub(crate) max_attempts: Option<i64>,
    /// Words that a stream holds back beside the open one.
    pub(crate) window: Option<i64>,
    /// Thresholds of classes of words.
    pub(crate) thresholds: Option<ByClass>,
    pub(crate) on_exhausted: Option<OnExhausted>,
    /// Answers to choose the best from.
    pub(crate) candidates: Option<i64>,
    pub(crate) render: Option<Style>,
}

/// What is done about words that no attempt could repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnExhausted {
    Flag,
    Hedge,
    Omit,
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
