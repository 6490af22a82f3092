//! Chat completion requests as received. Text is borrowed from the body; unknown fields are
//! ignored, except those listed in [`super::unsupported`].

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::{
    lenient::{BoundedList, FieldRequest, Object, TextOr, integer, variant},
    schema,
    unsupported::Screened,
    wording::{InputMistake, mistake},
};
use crate::{
    guard::{ClassThresholds, Mode, OnExhausted, OnUnanswerable, render::RenderStyle},
    serve::error::{ApiError, excerpt, truncate},
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
    /// Name of the served model.
    #[schema(required, nullable = false)]
    pub(crate) model: Option<String>,
    /// The conversation; its user messages have as many images as the model takes.
    #[serde(borrow)]
    #[schema(value_type = Vec<ChatMessage<'a>>, required, min_items = 1, max_items = 256)]
    pub(crate) messages: Option<BoundedList<Object<ChatMessage<'a>>, MESSAGES>>,
    /// Number of choices; at most as many as the engine can hold.
    #[schema(minimum = 1, maximum = 128)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) n: Option<i64>,
    /// Sampling temperature; 0 is greedy. The default is set in the server's configuration.
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f64>,
    /// Nucleus sampling: samples from the smallest set of tokens with this total probability.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f64>,
    /// Samples from this many of the most likely tokens; 0 or -1 from all.
    #[schema(minimum = -1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) top_k: Option<i64>,
    /// Random seed; the same seed and request give the same answer.
    #[serde(default, deserialize_with = "integer")]
    pub(crate) seed: Option<i64>,
    #[serde(borrow)]
    #[schema(schema_with = schema::stop)]
    pub(crate) stop: Option<TextOr<'a, String, 4>>,
    /// Most tokens of an answer; exclusive with `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) max_tokens: Option<i64>,
    /// Most tokens of an answer.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) max_completion_tokens: Option<i64>,
    /// Lowers (if positive) the probability of tokens that were already written.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f64>,
    /// Lowers (if positive) the probability of tokens the more often they were written.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Returns the log-probabilities of the answer's tokens.
    pub(crate) logprobs: Option<bool>,
    /// Number of alternatives to return per token; requires `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) top_logprobs: Option<i64>,
    /// Streams the answer as server-sent events.
    pub(crate) stream: Option<bool>,
    /// Stream options; require `stream`.
    #[schema(value_type = Option<StreamOptions>)]
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    /// End user, as named by the client. Data stored about the completion can be deleted by this
    /// name.
    pub(crate) user: Option<String>,
    /// Restricts reuse of the image's cached encoding to requests with the same salt, as in vLLM.
    /// Without it, the encoding is shared by requests of the key's owner.
    #[schema(min_length = 1, max_length = 256)]
    pub(crate) cache_salt: Option<String>,
    /// Options for the processing of images, as in vLLM.
    #[schema(value_type = Option<ProcessorKwargs>)]
    pub(crate) mm_processor_kwargs: Option<Object<ProcessorKwargs>>,
    /// Guard settings, an extension of OpenAI's API.
    #[schema(value_type = Option<GuardRequest>)]
    pub(crate) guard: Option<Object<GuardRequest>>,
}

/// Options for the processing of images; those that the model does not have are refused.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ProcessorKwargs {
    /// Splits images into tiles.
    pub(crate) do_image_splitting: Option<bool>,
    /// Size that images are resized to before they are split.
    #[schema(value_type = Option<ProcessorSize>)]
    pub(crate) size: Option<Object<ProcessorSize>>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) others: BTreeMap<String, IgnoredAny>,
}

/// Size of an image.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessorSize {
    /// Longest side in pixels.
    #[schema(minimum = 1, maximum = 4294967295i64)]
    pub(crate) longest_edge: Option<u32>,
}

/// A message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage<'a> {
    /// Author of the message; `developer` is treated as `system`.
    #[schema(value_type = schema::Role)]
    pub(crate) role: String,
    #[serde(borrow)]
    #[schema(schema_with = schema::content)]
    pub(crate) content: Option<TextOr<'a, Object<MessagePart<'a>>, PARTS>>,
    /// Refusal of an earlier answer, used if it has no content.
    pub(crate) refusal: Option<String>,
    #[serde(default)]
    #[schema(schema_with = schema::unsupported)]
    pub(crate) tool_calls: FieldRequest,
    #[serde(default)]
    #[schema(schema_with = schema::unsupported)]
    pub(crate) function_call: FieldRequest,
    #[serde(default)]
    #[schema(schema_with = schema::unsupported)]
    pub(crate) prefix: FieldRequest,
}

/// A part of a message; its `type` determines which fields are used.
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

/// An image's URL, plain or in an object as in OpenAI's chat completions.
#[derive(Debug)]
pub(crate) enum ImageField<'a> {
    Url(Cow<'a, str>),
    Object(ImageUrl<'a>),
}

impl<'a> ImageField<'a> {
    /// Returns the URL.
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

/// An image. The field `detail` is accepted and ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ImageUrl<'a> {
    /// A `data:` URL of the image's file; its media type is ignored.
    #[serde(borrow)]
    #[schema(value_type = String, format = "image-data-url", pattern = "^[Dd][Aa][Tt][Aa]:[^,]*,")]
    pub(crate) url: Cow<'a, str>,
}

/// Options of a stream.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Ends the stream with a chunk that has the token counts.
    pub(crate) include_usage: Option<bool>,
}

/// Guard settings. Unknown fields are rejected, so that a misspelled setting cannot silently
/// disable the guard.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardRequest {
    /// Treatment of low-reward words. The default is set in the server's configuration.
    #[serde(default, deserialize_with = "variant")]
    #[schema(value_type = Option<ModeSchema>)]
    pub(crate) mode: Option<Mode>,
    /// Reward below which words are flagged; exclusive with `target_fpr`.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) threshold: Option<f32>,
    /// Share of grounded words that may be flagged; the threshold follows from the model's
    /// calibration.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) target_fpr: Option<f32>,
    /// Most tokens that repairs may decode beyond the answer's own.
    #[schema(minimum = 0, maximum = 1000000)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) max_attempts: Option<i64>,
    /// Number of closed words held back while streaming, so that repairs can still change them.
    #[schema(minimum = 0, maximum = 1000000)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) window: Option<i64>,
    /// Thresholds by word class; other words use `threshold`.
    #[schema(value_type = Option<ClassThresholdsSchema>)]
    pub(crate) thresholds: Option<ClassThresholds>,
    /// Treatment of words that stay flagged, in modes `flag` and `regenerate`. An answer that may
    /// be rewritten is sent when it is complete, also in a stream.
    #[serde(default, deserialize_with = "variant")]
    #[schema(value_type = Option<OnExhaustedSchema>)]
    pub(crate) on_exhausted: Option<OnExhausted>,
    /// Number of candidate answers to generate; the one with the highest mean reward is returned.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(default, deserialize_with = "integer")]
    pub(crate) candidates: Option<i64>,
    /// Treatment of questions that no image can answer, and of short answers more likely wrong than
    /// right, in modes `flag`, `regenerate` and `block`. A short answer that may be withheld is
    /// sent when it is complete, also in a stream.
    #[serde(default, deserialize_with = "variant")]
    #[schema(value_type = Option<OnUnanswerableSchema>)]
    pub(crate) on_unanswerable: Option<OnUnanswerable>,
    /// Includes the withheld answer in `guard.withheld` when the server abstains.
    pub(crate) show_withheld: Option<bool>,
    /// Rendering of flagged words in `guard.alt_text`.
    #[serde(default, deserialize_with = "variant")]
    #[schema(value_type = Option<RenderStyleSchema>)]
    pub(crate) render: Option<RenderStyle>,
}

/// Parses a request body.
///
/// # Errors
/// 400 with the position of invalid UTF-8 or JSON, or naming the field that has the wrong type or
/// is not supported.
pub fn parse(body: &[u8]) -> Result<ChatRequest<'_>, ApiError> {
    read_supported(body, "a chat completion request")
}

/// Parses a JSON object and rejects fields of OpenAI's or other servers' APIs that ask for
/// something unsupported.
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

/// Parses a JSON object; `what` names the expected type in errors.
///
/// # Errors
/// 400 with the position of invalid UTF-8 or JSON, or naming the field that has the wrong type.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| not_utf8(body, e.valid_up_to()))?;
    // Some programs write a byte order mark first.
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
        _ => format!("invalid byte at offset {at}"),
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

/// Longest field path in a message, in characters: keys are client input.
const PATH_CHARS: usize = 200;

/// Converts a deserialization error, with the field's path in OpenAI's notation:
/// `messages[0].content`.
fn describe(
    error: &serde_path_to_error::Error<serde_json::Error>,
    body: &str,
    request: &str,
) -> ApiError {
    let inner = error.inner();
    let message = inner.to_string();
    // Line and column refer to a body that no person wrote.
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
    let path = truncate(&error.path().to_string(), PATH_CHARS);
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

/// Returns the mistake for errors that the parser reports as syntax although the body is valid
/// JSON.
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
