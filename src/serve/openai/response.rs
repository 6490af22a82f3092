//! Chat completion responses, whole and streamed.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    engine::{Alternative, FinishReason, GeneratedToken},
    guard::{GuardReport, Span},
    serve::schema::guard::{FinishReasonSchema, GuardReportSchema, SpanSchema},
};

/// A chat completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Identification of the completion.
    #[serde(flatten)]
    pub head: CompletionHead,
    /// Choices, in order of index.
    pub choices: Vec<Choice>,
    /// Token counts.
    pub usage: Usage,
    /// Parts of the request that had no effect; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// A part of the request that had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warning {
    /// `ignored`, or `unscored` for an answer that the scorer cannot judge.
    pub code: &'static str,
    /// Field of the request, such as `messages[0]`.
    pub param: String,
    /// Human-readable message.
    pub message: String,
}

impl Warning {
    /// Prefixes field and message with a part of the request, such as `items[3]`.
    pub(crate) fn with_prefix(self, part: Option<&str>) -> Self {
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
    /// Identification of the completion, the same in every chunk.
    #[serde(flatten)]
    pub head: CompletionHead,
    /// One choice; empty in the chunk with the usage.
    pub choices: Vec<ChunkChoice>,
    /// Token counts, in the last chunk if requested by `stream_options.include_usage`; `null` in
    /// the other chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// Parts of the request that had no effect; in the chunk that ends the last choice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// Fields that identify a completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompletionHead {
    /// Id of the completion, `chatcmpl-…`; feedback refers to it.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// `chat.completion` or `chat.completion.chunk`.
    pub object: &'static str,
    /// Creation time, Unix seconds.
    pub created: u64,
    /// Name of the model.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// Version of the model.
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
    /// Index of the choice, from 0.
    pub index: usize,
    /// The answer.
    pub message: AnswerMessage,
    /// Log-probabilities; `null` unless requested.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// Reason for the end of the answer.
    #[schema(value_type = FinishReasonSchema)]
    pub finish_reason: &'static str,
    /// Guard report.
    #[schema(value_type = GuardReportSchema)]
    pub guard: GuardReport,
}

/// The message of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// Text of the answer.
    pub content: String,
    /// Always `null`.
    #[schema(required)]
    pub refusal: Option<String>,
}

/// A piece of one answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Index of the choice, from 0.
    pub index: usize,
    /// New text.
    pub delta: Delta,
    /// Log-probabilities of the new tokens; `null` unless requested.
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// Reason for the end of the answer; `null` before it.
    #[schema(value_type = Option<FinishReasonSchema>, required)]
    pub finish_reason: Option<&'static str>,
    /// Guard data, on chunks that close spans and on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ChunkGuardSchema>)]
    pub guard: Option<ChunkGuard>,
}

/// New text of an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Delta {
    /// Role, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// New text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Schema of [`ChunkGuard`].
#[expect(dead_code, reason = "only its schema is used")]
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChunkGuard)]
pub(crate) enum ChunkGuardSchema {
    /// Spans closed by the chunk.
    Closed(ClosedSpans),
    /// Complete report, on the last chunk.
    Summary(GuardReportSchema),
}

/// Guard data of a chunk.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ChunkGuard {
    /// On chunks that close spans: only those.
    Closed(ClosedSpans),
    /// On the last chunk of a choice: the whole report.
    Summary(GuardReport),
}

/// Spans closed by a chunk. It has no other field, unlike a report.
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
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
    /// Always `null`.
    #[schema(required)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A generated token.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub token: Logprob,
    /// Most likely tokens at its position.
    pub top_logprobs: Vec<Logprob>,
    /// Calibrated reward, 0 to 1; absent if it was not scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Logprob {
    /// Text of the token; bytes that are not valid UTF-8 alone become U+FFFD.
    pub token: String,
    /// Natural-log probability; `-9999` for impossible tokens, as in OpenAI's API.
    pub logprob: f32,
    /// Bytes of the token.
    pub bytes: Vec<u8>,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, image positions included; counted once for all choices.
    pub prompt_tokens: usize,
    /// Tokens of all answers.
    pub completion_tokens: usize,
    /// Sum of both.
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
    /// Converts generated tokens.
    pub fn from_tokens(tokens: Vec<GeneratedToken>) -> Self {
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

/// Returns OpenAI's name of a finish reason.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
    }
}
