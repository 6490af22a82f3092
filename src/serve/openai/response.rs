//! What goes out: whole completions and chunks of streamed ones.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    engine::{Alternative, FinishReason, GeneratedToken},
    guard::{GuardReport, Span},
    serve::schema::guard::{ChunkGuardSchema, FinishReasonSchema, GuardReportSchema, SpanSchema},
};

/// A whole completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// What all of its chunks would share.
    #[serde(flatten)]
    pub head: CompletionHead,
    /// The answers.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: Usage,
    /// Parts of the request that had no effect; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// A part of a request that had no effect on the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warning {
    /// `ignored`
    pub code: &'static str,
    /// Which part, such as `messages[0]`.
    pub param: String,
    /// For people.
    pub message: String,
}

impl Warning {
    /// Says in which part of the request the parameter is, such as `items[3]`.
    pub(crate) fn within(self, part: Option<&str>) -> Self {
        let Some(part) = part else { return self };
        Self {
            param: format!("{part}.{}", self.param),
            message: format!("{part}: {}", self.message),
            ..self
        }
    }
}

/// A chunk of a streamed completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The same in every chunk.
    #[serde(flatten)]
    pub head: CompletionHead,
    /// One answer, or none in the chunk with the usage.
    pub choices: Vec<ChunkChoice>,
    /// Absent unless asked for; then `null` in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// On the chunk that ends the last answer, as in a whole completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// What identifies a completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompletionHead {
    /// `chatcmpl-...`
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// `chat.completion` or `chat.completion.chunk`.
    pub object: &'static str,
    /// Unix time in seconds.
    pub created: u64,
    /// The model's name.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// The model's version.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    pub system_fingerprint: Arc<str>,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// One answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Choice {
    /// From 0.
    pub index: usize,
    /// The answer.
    pub message: AnswerMessage,
    /// `null` unless asked for.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    #[schema(value_type = FinishReasonSchema)]
    pub finish_reason: &'static str,
    /// What the guard says about it.
    #[schema(value_type = GuardReportSchema)]
    pub guard: GuardReport,
}

/// The answer itself.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// `assistant`
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always `null`.
    #[schema(required)]
    pub refusal: Option<String>,
}

/// More of one answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// From 0.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// `null` unless asked for.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// `null` until the end.
    #[schema(value_type = Option<FinishReasonSchema>, required)]
    pub finish_reason: Option<&'static str>,
    /// On chunks that close a span, and on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ChunkGuardSchema>)]
    pub guard: Option<ChunkGuard>,
}

/// What is new in an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Delta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What the guard says while an answer is written.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ChunkGuard {
    /// On a chunk that closes spans: these alone.
    Closed(ClosedSpans),
    /// On the last chunk: everything.
    Summary(GuardReport),
}

/// Spans that a chunk closes. Nothing stands beside them, which tells them from a whole report.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedSpans {
    /// The spans.
    #[schema(value_type = Vec<SpanSchema>)]
    pub spans: Vec<Span>,
}

/// Log-probabilities of an answer's tokens.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Logprobs {
    /// A token each.
    pub content: Vec<TokenLogprob>,
    /// Always `null`.
    #[schema(required)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A written token.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// The token in its place.
    #[serde(flatten)]
    pub token: Logprob,
    /// The likeliest tokens in its place.
    pub top_logprobs: Vec<Logprob>,
    /// Its calibrated reward, where it was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Logprob {
    /// Its text; bytes that are no UTF-8 alone are U+FFFD.
    pub token: String,
    /// Natural logarithm; `-9999` stands for impossible, as in OpenAI's API.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompt, image positions included; counted once for all answers.
    pub prompt_tokens: usize,
    /// Of all answers.
    pub completion_tokens: usize,
    /// The sum.
    pub total_tokens: usize,
}

impl Usage {
    /// Adds an answer.
    pub fn add(&mut self, prompt_tokens: usize, completion_tokens: usize) {
        self.prompt_tokens = prompt_tokens;
        self.completion_tokens += completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

impl Logprobs {
    /// Of an answer's tokens, or of some of them.
    pub fn of(tokens: Vec<GeneratedToken>) -> Self {
        Self {
            content: tokens.into_iter().map(TokenLogprob::from).collect(),
            refusal: None,
        }
    }
}

impl From<GeneratedToken> for TokenLogprob {
    fn from(token: GeneratedToken) -> Self {
        let top_logprobs = token.top.into_iter().map(Logprob::from).collect();
        Self {
            token: token.token.into(),
            top_logprobs,
            reward: token.reward,
        }
    }
}

impl From<Alternative> for Logprob {
    fn from(alternative: Alternative) -> Self {
        let Alternative { bytes, logprob, .. } = alternative;
        Self {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: logprob.max(-9999.0),
            bytes,
        }
    }
}

/// OpenAI's word for why an answer ended.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
    }
}
