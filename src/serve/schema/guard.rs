//! Schemas of the guard.

use serde::Serialize;
use utoipa::ToSchema;

use crate::serve::openai::response::ClosedSpans;

/// Mode of the guard: its treatment of low-reward words.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Mode)]
pub(crate) enum ModeSchema {
    /// Nothing is scored.
    Off,
    /// Rewards are reported, nothing is flagged.
    Score,
    /// Low-reward spans are marked.
    Flag,
    /// Low-reward words are rolled back and written again.
    Regenerate,
    /// The answer stops before the first span that could not be cleared.
    Block,
}

/// Treatment of words whose reward stays low: because no attempt could repair them, or because the
/// mode repairs nothing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnExhausted)]
pub(crate) enum OnExhaustedSchema {
    /// They are marked.
    Flag,
    /// The answer says that they may be wrong; where most of a caption is low, that the photograph
    /// is unfamiliar as well.
    Hedge,
    /// The answer leaves them out; where most of a caption is low, it says that the photograph is
    /// unfamiliar and names what is likely.
    Omit,
}

/// Conclusion of the guard about an answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Verdict)]
pub(crate) enum VerdictSchema {
    /// Scored, and no word is below the threshold.
    Clean,
    /// At least one word is below the threshold.
    Flagged,
    /// Doubted words were rewritten or left out, and the answer now passes; what was rewritten and
    /// is still low makes it `flagged`.
    Repaired,
    /// The answer was cut off.
    Blocked,
    /// Not (wholly) scored: the mode does not ask for it, or the scorer failed.
    Unscored,
    /// No answer: it cannot be told, or was too likely wrong.
    Abstained,
}

/// Action that was taken on one span.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Action)]
pub(crate) enum ActionSchema {
    /// Marked and left as it was.
    Flagged,
    /// Written again.
    Regenerated,
    /// The answer says that it may be wrong.
    Hedged,
    /// The answer leaves it out.
    Omitted,
    /// The answer stops here.
    Blocked,
}

/// A maximal run of low-reward words (function words in between join). Offsets count Unicode code
/// points of the answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Span)]
pub(crate) struct SpanSchema {
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// The text between them.
    pub(crate) text: String,
    /// Lowest reward of its words, function words left out.
    pub(crate) score: f32,
    /// Action that was taken.
    pub(crate) action: ActionSchema,
    /// Text that stood there before it was written again, hedged or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) original: Option<String>,
    /// Other versions that were tried there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) alternatives: Vec<CandidateSchema>,
}

/// A version of a span that was tried and not taken.
#[derive(Serialize, ToSchema)]
#[schema(as = Candidate)]
pub(crate) struct CandidateSchema {
    /// As far as it was written.
    pub(crate) text: String,
    /// Its lowest reward; absent when it claims nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
}

/// The `guard` object of a response (design, section 5).
#[derive(Serialize, ToSchema)]
#[schema(as = GuardReport)]
pub(crate) struct GuardReportSchema {
    /// The mode that was in force.
    pub(crate) mode: ModeSchema,
    /// The conclusion.
    pub(crate) verdict: VerdictSchema,
    /// Why there is no answer, where the verdict is `abstained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<UnanswerableSchema>,
    /// The answer that is not given, where one was written and the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) withheld: Option<String>,
    /// Probability that a short answer is right as a whole, where the model has a calibration of
    /// that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer_probability: Option<f32>,
    /// Lowest word reward of the answer, function words left out where there are others; absent
    /// when nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
    /// Geometric mean of its words' rewards, function words left out where there are others: what
    /// answers of different lengths are compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mean_score: Option<f32>,
    /// Closeness of the photograph to those that the model learned from: 1 is familiar, 0 is not.
    /// Absent where the model cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    pub(crate) familiarity: Option<f32>,
    /// The threshold that was in force.
    pub(crate) threshold: f32,
    /// Those of classes of words that have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thresholds: Option<ClassThresholdsSchema>,
    /// The low-reward spans, in order.
    pub(crate) spans: Vec<SpanSchema>,
    /// Repair attempts made.
    pub(crate) attempts: u32,
    /// Tokens decoded beyond the answer's own.
    pub(crate) extra_tokens: u32,
    /// The answer as a screen reader should say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alt_text: Option<String>,
    /// Other answers, where `guard.candidates` asked for several: best first, by `mean_score`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<CandidateSchema>,
}

/// Treatment of questions that no photograph answers, and of answers that are more likely wrong
/// than right.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnUnanswerable)]
pub(crate) enum OnUnanswerableSchema {
    /// They are answered, or given, all the same.
    Answer,
    /// The answer says that it cannot be told.
    Abstain,
}

/// Why a question is not answered.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Unanswerable)]
pub(crate) enum UnanswerableSchema {
    /// It asks for text in the picture.
    Text,
    /// It asks for a time or a date.
    Time,
    /// It asks who somebody is, or for what else of people and places no photograph shows: names,
    /// age, relations.
    Identity,
    /// It asks what is safe, healthy, legal or to be done.
    Advice,
    /// It asks what something costs.
    Price,
    /// It is not in English.
    Language,
    /// It asks for nothing that a photograph shows.
    Beyond,
    /// The photograph is unlike those that the model knows.
    Unfamiliar,
    /// The answer that was written is more likely wrong than right.
    Unsure,
}

/// Style in which an answer's flagged spans are said.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RenderStyle)]
pub(crate) enum RenderStyleSchema {
    /// As they were written.
    Plain,
    /// With the doubt: "what may be a frisbee".
    Hedged,
    /// Without them where the sentence allows it: "something".
    Omitted,
}

/// Thresholds that differ from the common one, by class of words.
#[derive(Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ClassThresholds)]
pub(crate) struct ClassThresholdsSchema {
    /// Words that name people, animals and things.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) object: Option<f32>,
    /// Colors, sizes, materials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) attribute: Option<f32>,
    /// Numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) count: Option<f32>,
    /// Verbs of action.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) action: Option<f32>,
    /// Words that say where things are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) relation: Option<f32>,
}

/// Why an answer ended.
#[derive(Serialize, ToSchema)]
#[schema(as = FinishReason, rename_all = "snake_case")]
pub(crate) enum FinishReasonSchema {
    /// End of sequence or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The guard blocked it.
    ContentFilter,
}

/// What the guard says while an answer is written.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChunkGuard)]
pub(crate) enum ChunkGuardSchema {
    /// On a chunk that closes spans: these alone.
    Closed(ClosedSpans),
    /// On the last chunk: everything.
    Summary(GuardReportSchema),
}
