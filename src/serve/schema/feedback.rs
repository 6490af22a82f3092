//! Schemas of corrections.

use serde::Serialize;
use utoipa::ToSchema;

/// The address of an image by its content: SHA-256 of the file, written in lower-case hexadecimal.
#[derive(Serialize, ToSchema)]
#[schema(as = ImageHash, value_type = String, pattern = "^[0-9a-f]{64}$")]
pub(crate) struct ImageHashSchema([u8; 32]);

/// Versions of the model, policy, adapter and scorer that wrote and scored an answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Versions)]
pub(crate) struct VersionsSchema {
    /// The model's name; of answers that were written elsewhere, what the submitter calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// The policy's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// The adapter's version, where one is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<String>,
    /// The scorer's kind and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<String>,
}

/// A person's judgment of a token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TokenLabel)]
pub(crate) enum TokenLabelSchema {
    /// The image supports it.
    Good,
    /// The image does not.
    Bad,
    /// Nobody said: never to be taken for good.
    None,
}

/// A token of a response.
#[derive(Serialize, ToSchema)]
#[schema(as = ResponseToken)]
pub(crate) struct ResponseTokenSchema {
    /// Vocabulary id.
    pub(crate) id: u32,
    /// The code points that it writes, one of which it may share with a neighbor.
    pub(crate) text: String,
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// Natural logarithm of its probability under the untempered policy; absent when the policy did
    /// not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logprob: Option<f32>,
    /// Its calibrated reward; absent when it was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<f32>,
    /// A person's judgment of it.
    #[serde(default)]
    pub(crate) label: TokenLabelSchema,
}

/// Kind of judgment that a record states.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JudgmentKind)]
pub(crate) enum JudgmentKindSchema {
    /// Something in the response is wrong.
    Bad,
    /// All of it is right.
    Good,
    /// Something that matters is not in it.
    Missing,
}

/// Part of the response that was judged.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JudgedPart)]
pub(crate) enum JudgedPartSchema {
    /// Up to the first error and no further: what comes after it is unlabeled.
    FirstError,
    /// All of it: what is not marked as an error is good.
    AllErrors,
}

/// Origin of a record.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FeedbackSource)]
pub(crate) enum FeedbackSourceSchema {
    /// A person, through the API.
    Human,
    /// A file.
    Import,
    /// A program that stands in for a person.
    Simulated,
}

/// An error and what should stand in its place.
#[derive(Serialize, ToSchema)]
#[schema(as = Correction)]
pub(crate) struct CorrectionSchema {
    /// First code point; where something has only to be added, the place.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// The text between them.
    pub(crate) text: String,
    /// Text that should stand there: absent when nobody said, empty when nothing should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// The response up to the error.
    pub(crate) partial_caption: String,
    /// Index of the first token that writes some of the error.
    pub(crate) token_start: usize,
    /// One past the index of the last.
    pub(crate) token_end: usize,
    /// Those tokens.
    pub(crate) error_tokens: Vec<u32>,
    /// Tokens that should stand in the place of those tokens; absent when nobody said.
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

/// Details of an answer that was judged out of the annotation queue.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueDetails)]
pub(crate) struct QueueDetailsSchema {
    /// Indicates whether another annotator judges it too.
    pub(crate) overlap: bool,
}

/// Feedback about a response: the tuple that rewards and policies are trained on.
#[derive(Serialize, ToSchema)]
#[schema(as = Feedback)]
pub(crate) struct FeedbackSchema {
    /// `fb_...`; ids grow with time.
    pub(crate) id: String,
    /// Unix time in seconds.
    pub(crate) created: u64,
    /// The tenant that it belongs to: that of the completion or, without one, of the key that
    /// handed it in. Absent without keys, and where the reader has not the scope `feedback:read`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) owner: String,
    /// The completion that it is about, when it was one of this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) completion_id: Option<String>,
    /// Which of its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<usize>,
    /// The image.
    pub(crate) image: ImageHashSchema,
    /// The prompt.
    pub(crate) prompt: String,
    /// The answer.
    pub(crate) response: String,
    /// The answer's tokens and their labels.
    pub(crate) tokens: Vec<ResponseTokenSchema>,
    /// Kind of judgment that it states.
    pub(crate) kind: JudgmentKindSchema,
    /// Part that was judged; absent when only missing content was named, which judges no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<JudgedPartSchema>,
    /// The errors, in the order of the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<CorrectionSchema>,
    /// Content that is not in the response and should be, in the words of who misses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
    /// Spans that the guard flagged; absent when the answer was not scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) doubted: Option<Vec<CharRangeSchema>>,
    /// Versions of the model and the scorer that wrote and scored the answer.
    pub(crate) versions: VersionsSchema,
    /// Indicates whether the answer was shown without scores, marks or repairs.
    #[serde(default)]
    pub(crate) unassisted: bool,
    /// Present where the annotation queue gave the answer to who judged; then `unassisted` says
    /// what the queue showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queued: Option<QueueDetailsSchema>,
    /// Who judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotator: Option<String>,
    /// The tenant with whose key they judged. Absent as `owner` is, and where annotators are not
    /// named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) annotator_owner: String,
    /// The end user whom it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    /// Origin of the record.
    #[serde(default)]
    pub(crate) source: FeedbackSourceSchema,
}

/// Feedback about an answer of this server (`completion_id`) or about any other (`image`, `prompt`
/// and `response`).
///
/// It says one of four things: that all is right (`label: "good"`), where something is wrong
/// (`error` or `errors`), how the whole text should read (`edit`), or what is left out (`missing`).
/// A field that does not exist is an error: one that is misspelt would be lost in silence.
#[derive(Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Submission)]
pub(crate) struct SubmissionSchema {
    /// The completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_id: Option<String>,
    /// Which of its answers; 0 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<usize>,
    /// The image, as a `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// The prompt; a description where absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt: Option<String>,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<String>,
    /// Who wrote the answer, where that was not a model of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Good or bad; may be left out where the rest says that it is bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<JudgmentSchema>,
    /// Part of the response that was judged; for `error` up to it, for `errors` all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<JudgedPartSchema>,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorSpanSchema>,
    /// Text that should stand in the place of `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// All errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errors: Option<Vec<ErrorSpanSchema>>,
    /// The whole answer as it should read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edit: Option<String>,
    /// Content that is left out: a text or several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
    /// Who judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) annotator: Option<String>,
    /// The end user whom the record belongs to; that of the completion where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// A remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    /// Origin of the feedback; a person where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<FeedbackSourceSchema>,
}

/// Right or wrong.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Judgment)]
pub(crate) enum JudgmentSchema {
    /// Right.
    Good,
    /// Wrong.
    Bad,
}

/// Place of an error and the text that should stand there.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ErrorSpan)]
pub(crate) struct ErrorSpanSchema {
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// The text between them, for the server to check that both count alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Text that should stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) correction: Option<String>,
    /// Indicates whether nothing should stand there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) remove: bool,
}

/// Result of a removal, in numbers.
#[derive(Serialize, ToSchema)]
#[schema(as = RemovalCounts)]
pub(crate) struct RemovalCountsSchema {
    /// Records.
    pub(crate) feedback: u64,
    /// Receipts.
    pub(crate) receipts: u64,
    /// Records that stay without their annotator's name.
    pub(crate) unnamed: u64,
}
