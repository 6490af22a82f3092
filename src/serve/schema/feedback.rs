//! Schemas of corrections.

use serde::Serialize;
use utoipa::ToSchema;

/// Content address of an image: SHA-256 of its file, written as lower-case hexadecimal digits.
#[derive(Serialize, ToSchema)]
#[schema(as = ImageHash, value_type = String, pattern = "^[0-9a-f]{64}$")]
pub(crate) struct ImageHashSchema([u8; 32]);

/// Versions of the model, policy, adapter and scorer that wrote and scored an answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Versions)]
pub(crate) struct VersionsSchema {
    /// Name of the model; of an answer of another server, the submitter's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Version of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// Version of the adapter, if one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<String>,
    /// Kind and version of the scorer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<String>,
    /// SHA-256 of the vocabulary that the token ids belong to; absent in records of earlier
    /// versions, whose texts training tokenizes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<String>,
}

/// Label of a token by a person.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TokenLabel)]
pub(crate) enum TokenLabelSchema {
    /// The image supports it.
    Good,
    /// The image does not support it.
    Bad,
    /// Not judged. Never taken for good.
    None,
}

/// Token of a response.
#[derive(Serialize, ToSchema)]
#[schema(as = ResponseToken)]
pub(crate) struct ResponseTokenSchema {
    /// Vocabulary id.
    pub(crate) id: u32,
    /// Text that it writes; its first and last code point may be shared with a neighbor.
    pub(crate) text: String,
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// Natural logarithm of its probability under the untempered policy; absent if the policy did
    /// not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logprob: Option<f32>,
    /// Calibrated reward; absent if it was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<f32>,
    /// Label by a person.
    #[serde(default)]
    pub(crate) label: TokenLabelSchema,
}

/// Kind of a judgment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JudgmentKind)]
pub(crate) enum JudgmentKindSchema {
    /// Part of the response is wrong.
    Bad,
    /// All of the response is right.
    Good,
    /// Content is missing from the response.
    Missing,
}

/// Part of the response that was judged.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JudgedPart)]
pub(crate) enum JudgedPartSchema {
    /// Up to the first error; tokens after it are unlabeled.
    FirstError,
    /// The whole response; tokens outside of errors are good.
    AllErrors,
}

/// Origin of a record.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FeedbackSource)]
pub(crate) enum FeedbackSourceSchema {
    /// Person, through the API.
    Human,
    /// Imported file.
    Import,
    /// Program that simulates a person.
    Simulated,
}

/// Error in a response, and its correction.
#[derive(Serialize, ToSchema)]
#[schema(as = Correction)]
pub(crate) struct CorrectionSchema {
    /// First code point; for an insertion, its position.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// Text of the error.
    pub(crate) text: String,
    /// Text that replaces the error: absent if unknown, empty if the error has only to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// Response before the error.
    pub(crate) partial_caption: String,
    /// Index of the first token that writes part of the error.
    pub(crate) token_start: usize,
    /// One past the index of the last such token.
    pub(crate) token_end: usize,
    /// Ids of those tokens.
    pub(crate) error_tokens: Vec<u32>,
    /// Ids of the tokens that replace them; absent if the correction is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) corrected_tokens: Option<Vec<u32>>,
}

/// Code points of a response.
#[derive(Serialize, ToSchema)]
#[schema(as = CharRange)]
pub(crate) struct CharRangeSchema {
    /// The first.
    pub(crate) start: usize,
    /// One past the last.
    pub(crate) end: usize,
}

/// Details of an answer that the annotation queue gave out.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueDetails)]
pub(crate) struct QueueDetailsSchema {
    /// `true` if a second annotator judges it too.
    pub(crate) overlap: bool,
}

/// Record of feedback about a response, from which rewards and policies are trained.
#[derive(Serialize, ToSchema)]
#[schema(as = Feedback)]
pub(crate) struct FeedbackSchema {
    /// `fb_...`; ids grow with time.
    pub(crate) id: String,
    /// Unix time in seconds.
    pub(crate) created: u64,
    /// Owner of the completion or, for an answer of another server, of the API key. Absent without
    /// keys, and for readers without the scope `feedback:read`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) owner: String,
    /// Id of the completion; absent for an answer of another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) completion_id: Option<String>,
    /// Index of the answer among the completion's choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<usize>,
    /// The image.
    pub(crate) image: ImageHashSchema,
    /// The prompt.
    pub(crate) prompt: String,
    /// The answer.
    pub(crate) response: String,
    /// Tokens of the answer, with labels.
    pub(crate) tokens: Vec<ResponseTokenSchema>,
    /// Kind of the judgment.
    pub(crate) kind: JudgmentKindSchema,
    /// Part that was judged; absent if only missing content was named, which judges no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<JudgedPartSchema>,
    /// Errors, in order of the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<CorrectionSchema>,
    /// Descriptions of content that the response should have and has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
    /// Spans that the guard flagged; absent if the answer was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) doubted: Option<Vec<CharRangeSchema>>,
    /// Versions of the model and scorer that wrote and scored the answer.
    pub(crate) versions: VersionsSchema,
    /// `true` if the answer was shown without scores, marks or repairs.
    #[serde(default)]
    pub(crate) unassisted: bool,
    /// Present if the annotation queue gave out the answer; `unassisted` then tells how the queue
    /// showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queued: Option<QueueDetailsSchema>,
    /// Name of the annotator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotator: Option<String>,
    /// Owner of the annotator's API key. Absent like `owner`, and if annotators are not named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) annotator_owner: String,
    /// End user whom the record belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Free-text comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    /// Origin of the record.
    #[serde(default)]
    pub(crate) source: FeedbackSourceSchema,
}

/// Feedback about an answer of this server (`completion_id`) or of any other (`image`, `prompt` and
/// `response`).
///
/// It states one of four judgments: all is right (`label: "good"`), parts are wrong (`error` or
/// `errors`), the text should read differently (`edit`), or content is missing (`missing`). Unknown
/// fields are errors, since a misspelled one would be ignored silently.
#[derive(Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Submission)]
pub(crate) struct SubmissionSchema {
    /// Completion id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_id: Option<String>,
    /// Index of the answer among the completion's choices; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<usize>,
    /// Image, as a `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Prompt; absent or empty for a description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt: Option<String>,
    /// Answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<String>,
    /// Name of the model that wrote the answer, if it is not one of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Good or bad; optional if another field states an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<JudgmentSchema>,
    /// Part of the response that was judged. Default: up to the error for `error`, all for
    /// `errors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<JudgedPartSchema>,
    /// First error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorSpanSchema>,
    /// Text that replaces `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// All errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errors: Option<Vec<ErrorSpanSchema>>,
    /// Whole answer as it should read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edit: Option<String>,
    /// Content that is left out: a text or several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
    /// Name of the annotator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) annotator: Option<String>,
    /// End user whom the record belongs to; that of the completion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Free-text comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    /// Origin of the feedback; a person if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<FeedbackSourceSchema>,
}

/// Judgment of a whole answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Judgment)]
pub(crate) enum JudgmentSchema {
    /// All of it is right.
    Good,
    /// Some of it is wrong.
    Bad,
}

/// Position of an error, and its correction.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ErrorSpan)]
pub(crate) struct ErrorSpanSchema {
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// Text of the error, by which the server checks the offsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Text that replaces the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// `true` if the error has only to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) remove: bool,
}

/// Numbers of removed rows.
#[derive(Serialize, ToSchema)]
#[schema(as = RemovalCounts)]
pub(crate) struct RemovalCountsSchema {
    /// Records.
    pub(crate) feedback: u64,
    /// Receipts.
    pub(crate) receipts: u64,
    /// Records that lost their annotator's name.
    pub(crate) unnamed: u64,
}
