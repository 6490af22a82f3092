//! A chat completion request as it comes in. Text is borrowed from the body; unknown fields are
//! ignored, but for those that [`super::unsupported`] lists.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::{
    lenient::{BoundedList, FieldRequest, Object, TextOr, integer, word},
    schema,
    unsupported::Screened,
    wording::{InputMistake, mistake},
};
use crate::{
    guard::{ClassThresholds, Mode, OnExhausted, OnUnanswerable, render::RenderStyle},
    serve::error::{ApiError, cut, excerpt},
    serve::schema::guard::{
        ClassThresholdsSchema, ModeSchema, OnExhaustedSchema, OnUnanswerableSchema,
        RenderStyleSchema,
    },
};

/// Most messages of a request.
pub(crate) const MESSAGES: usize = 256;
/// Most parts of a message.
pub(super) const PARTS: usize = 64;

/// A chat completion request.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest<'a> {
    /// The served model's name.
    #[schema(required, nullable = false)]
    pub(crate) model: Option<String>,
    /// The conversation, with exactly one image, in a message of the user.
    #[serde(borrow)]
    #[schema(value_type = Vec<ChatMessage<'a>>, required, min_items = 1, max_items = 256)]
    pub(crate) messages: Option<BoundedList<Object<ChatMessage<'a>>, MESSAGES>>,
    /// Number of answers; at most what the engine can hold.
    #[schema(minimum = 1, maximum = 128)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) n: Option<i64>,
    /// 0 always takes the likeliest token; the configuration has the default.
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f64>,
    /// Chooses among the smallest set of tokens with this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f64>,
    /// Chooses among this many of the likeliest tokens; 0 and -1: among all.
    #[schema(minimum = -1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) top_k: Option<i64>,
    /// The same seed and request give the same answer.
    #[serde(default, deserialize_with = "integer")]
    pub(crate) seed: Option<i64>,
    #[serde(borrow)]
    #[schema(schema_with = schema::stop)]
    pub(crate) stop: Option<TextOr<'a, String, 4>>,
    /// Most tokens of an answer; not together with `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) max_tokens: Option<i64>,
    /// Most tokens of an answer.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
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
    #[serde(default, deserialize_with = "integer")]
    pub(crate) top_logprobs: Option<i64>,
    /// Whether the answer is streamed as server-sent events.
    pub(crate) stream: Option<bool>,
    /// Only with `stream`.
    #[schema(value_type = Option<StreamOptions>)]
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    /// Who asks, as the client calls them: what is remembered of the completion can be removed by
    /// it.
    pub(crate) user: Option<String>,
    /// The image's encoding is remembered for requests with the same salt alone; without one, for
    /// those of the key's owner. As in vLLM.
    #[schema(min_length = 1, max_length = 256)]
    pub(crate) cache_salt: Option<String>,
    /// What the guard does; an extension of OpenAI's API.
    #[schema(value_type = Option<GuardRequest>)]
    pub(crate) guard: Option<Object<GuardRequest>>,
}

/// One message.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage<'a> {
    /// Who speaks; `developer` is taken for `system`.
    #[schema(value_type = schema::Role)]
    pub(crate) role: String,
    #[serde(borrow)]
    #[schema(schema_with = schema::content)]
    pub(crate) content: Option<TextOr<'a, Object<MessagePart<'a>>, PARTS>>,
    /// What an earlier answer said in place of content.
    pub(crate) refusal: Option<String>,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) tool_calls: FieldRequest,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) function_call: FieldRequest,
    #[serde(default)]
    #[schema(schema_with = schema::refused)]
    pub(crate) prefix: FieldRequest,
}

/// One part of a message; which of the fields count depends on its type.
#[derive(Debug, Deserialize)]
pub(crate) struct MessagePart<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
    pub(crate) refusal: Option<String>,
    #[serde(borrow)]
    pub(crate) image_url: Option<ImageField<'a>>,
    #[serde(borrow)]
    pub(crate) image: Option<ImageField<'a>>,
}

/// An image's URL: alone, or in an object as OpenAI's chat completions have it.
#[derive(Debug)]
pub(crate) enum ImageField<'a> {
    Url(Cow<'a, str>),
    Object(ImageUrl<'a>),
}

impl<'a> ImageField<'a> {
    /// The URL.
    pub(crate) fn into_url(self) -> Cow<'a, str> {
        match self {
            Self::Url(url) | Self::Object(ImageUrl { url, .. }) => url,
        }
    }
}

struct ImageFieldVisitor;

impl<'de> Visitor<'de> for ImageFieldVisitor {
    type Value = ImageField<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object with a url")
    }

    fn visit_borrowed_str<E: Error>(self, url: &'de str) -> Result<Self::Value, E> {
        Ok(ImageField::Url(Cow::Borrowed(url)))
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<Self::Value, E> {
        Ok(ImageField::Url(Cow::Owned(url.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        ImageUrl::deserialize(MapAccessDeserializer::new(map)).map(ImageField::Object)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ImageField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ImageFieldVisitor)
    }
}

/// An image. Its `detail` is taken and not used: every image is seen at the model's one size.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ImageUrl<'a> {
    /// A `data:` URL of the image's file; what it says of the type does not matter.
    #[serde(borrow)]
    #[schema(value_type = String, format = "image-data-url", pattern = "^[Dd][Aa][Tt][Aa]:[^,]*,")]
    pub(crate) url: Cow<'a, str>,
}

/// What a stream carries beside the answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the token counts.
    pub(crate) include_usage: Option<bool>,
}

/// What the guard does. Unknown fields are errors: a guard that is misspelt must not be off in
/// silence.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardRequest {
    /// What is done with low-reward words; the configuration has the default.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<ModeSchema>)]
    pub(crate) mode: Option<Mode>,
    /// Words with a reward below it are flagged; not together with `target_fpr`.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) threshold: Option<f32>,
    /// The threshold at which this share of grounded words is flagged, by the model's calibration.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) target_fpr: Option<f32>,
    /// Most repairs of an answer.
    #[schema(minimum = 0, maximum = 1000000)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) max_attempts: Option<i64>,
    /// Words that are held back beside the open one, for repairs to reach.
    #[schema(minimum = 0, maximum = 1000000)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) window: Option<i64>,
    /// Thresholds of classes of words; the others have `threshold`.
    #[schema(value_type = Option<ClassThresholdsSchema>)]
    pub(crate) thresholds: Option<ClassThresholds>,
    /// What is done about words whose reward stays low, where `mode` is `flag` or `regenerate`. An
    /// answer that may be written again is shown when it is complete, also in a stream.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<OnExhaustedSchema>)]
    pub(crate) on_exhausted: Option<OnExhausted>,
    /// So many answers are written, and the one whose words have the highest mean reward is given.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) candidates: Option<i64>,
    /// What is done about questions that no photograph answers and about short answers that are
    /// more likely wrong than right, where `mode` is `flag`, `regenerate` or `block`. A short
    /// answer is shown when it is complete, also in a stream, where it may be withheld.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<OnUnanswerableSchema>)]
    pub(crate) on_unanswerable: Option<OnUnanswerable>,
    /// Whether `guard.withheld` has the answer that an abstention stands for.
    pub(crate) show_withheld: Option<bool>,
    /// How `guard.alt_text` says flagged words.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<RenderStyleSchema>)]
    pub(crate) render: Option<RenderStyle>,
}

/// Reads a request's body.
///
/// # Errors
/// 400 that says where the body is no UTF-8 or no JSON, or names the field that has the wrong type
/// or is not supported.
pub fn parse(body: &[u8]) -> Result<ChatRequest<'_>, ApiError> {
    read_supported(body, "a chat completion request")
}

/// Reads a JSON object that may have fields of OpenAI's API and of its other servers: those that
/// ask for what is not supported are refused.
///
/// # Errors
/// As [`parse`].
pub(crate) fn read_supported<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    what: &str,
) -> Result<T, ApiError> {
    let Screened { request, refused } = read(body, what)?;
    refused.map_or(Ok(request), Err)
}

/// Reads a JSON object; `what` says in errors what it should have been.
///
/// # Errors
/// 400 that says where the body is no UTF-8 or no JSON, or names the field that has the wrong type.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| not_utf8(body, e.valid_up_to()))?;
    // Some programs begin what they write with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Err(ApiError::invalid(
            "invalid_json",
            format!("the request's body is empty; it must be {what}, in JSON"),
        ));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(request) =
        serde_path_to_error::deserialize(&mut json).map_err(|e| describe(&e, text, what))?;
    json.end().map_err(|e| not_json(&e))?;
    Ok(request)
}

fn not_utf8(body: &[u8], at: usize) -> ApiError {
    let why = match body {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "it looks like UTF-16".to_owned(),
        _ => format!("the byte at offset {at} begins no character"),
    };
    ApiError::invalid(
        "invalid_utf8",
        format!("the request's body is not valid UTF-8: {why}"),
    )
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let what = error
        .to_string()
        .replace("EOF while parsing", "it ends within")
        .replace("expected ident", "expected a value");
    ApiError::invalid(
        "invalid_json",
        format!("the request's body is not valid JSON: {what}"),
    )
}

/// Longest path of a field in a message, in characters: keys are the client's.
const PATH_CHARS: usize = 200;

/// Returns what is wrong and with which field, as OpenAI writes paths: `messages[0].content`.
fn describe(
    error: &serde_path_to_error::Error<serde_json::Error>,
    body: &str,
    request: &str,
) -> ApiError {
    let inner = error.inner();
    let message = inner.to_string();
    // The line and column are of a body that no person has seen.
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(message, _)| message);
    let InputMistake { code, what, field } = match inner.classify() {
        Category::Data => mistake(message),
        Category::Syntax => match unreadable(message, body) {
            Some(mistake) => mistake,
            None => return not_json(inner),
        },
        Category::Eof | Category::Io => return not_json(inner),
    };
    let path = cut(&error.path().to_string(), PATH_CHARS);
    let path = match field {
        Some(field) if path == "." => excerpt(&field),
        Some(field) => format!("{path}.{}", excerpt(&field)),
        None if path == "." => {
            return ApiError::invalid(
                "invalid_type",
                format!("the request's body is not {request}: it {what}"),
            );
        }
        None => path,
    };
    let message = format!("'{path}' {what}");
    ApiError::param(path, code, message)
}

/// Returns what the parser calls bad syntax although it is JSON: the value is none of those that
/// the field takes.
fn unreadable(message: &str, body: &str) -> Option<InputMistake> {
    let (code, what) = match message {
        "number out of range" => ("out_of_range", "is a number out of range"),
        "recursion limit exceeded" => ("invalid_value", "is nested too deeply"),
        "expected value" => ("invalid_type", "must be a string"),
        _ => return None,
    };
    serde_json::from_str::<IgnoredAny>(body).ok()?;
    Some(InputMistake {
        code,
        what: what.to_owned(),
        field: None,
    })
}
