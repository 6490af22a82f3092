//! Schemas of the guard.

use serde::Serialize;
use utoipa::ToSchema;

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
    /// Low-reward words are rolled back and rewritten.
    Regenerate,
    /// The answer is cut before the first span that could not be repaired.
    Block,
}

/// Treatment of words that stay low-reward because no attempt repaired them, or because the mode
/// does not repair.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnExhausted)]
pub(crate) enum OnExhaustedSchema {
    /// They are flagged.
    Flag,
    /// The answer says that they may be wrong and, if most of a caption is low-reward, that the
    /// photograph is unfamiliar.
    Hedge,
    /// The answer leaves them out; if most of a caption is low-reward, it says that the photograph
    /// is unfamiliar and names likely objects.
    Omit,
}

/// Verdict of the guard on an answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Verdict)]
pub(crate) enum VerdictSchema {
    /// Scored, and no word is below its threshold.
    Clean,
    /// At least one word is below its threshold.
    Flagged,
    /// Flagged words were rewritten or left out and the answer now passes; an answer with a
    /// rewritten word that is still low-reward is `flagged`.
    Repaired,
    /// The answer was cut off.
    Blocked,
    /// Not scored, or not completely: the mode does not ask for scores, or the scorer failed.
    Unscored,
    /// No answer was given: the photograph cannot answer the question, or the answer was probably
    /// wrong.
    Abstained,
}

/// Action taken on a span.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Action)]
pub(crate) enum ActionSchema {
    /// Marked, and left as written.
    Flagged,
    /// Rewritten.
    Regenerated,
    /// Hedged: the answer says that it may be wrong.
    Hedged,
    /// Left out of the answer.
    Omitted,
    /// The answer was cut before it.
    Blocked,
}

/// Maximal run of low-reward words, joined across function words. Offsets count Unicode code points
/// of the answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Span)]
pub(crate) struct SpanSchema {
    /// Start, in code points.
    pub(crate) start: usize,
    /// End, in code points; exclusive.
    pub(crate) end: usize,
    /// Text of the span in the answer.
    pub(crate) text: String,
    /// Lowest score of its content words.
    pub(crate) score: f32,
    /// Action taken.
    pub(crate) action: ActionSchema,
    /// Text before it was rewritten, hedged or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) original: Option<String>,
    /// Other versions that were tried in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) alternatives: Vec<CandidateSchema>,
}

/// Version of a span, or of an answer, that was generated and not used.
#[derive(Serialize, ToSchema)]
#[schema(as = Candidate)]
pub(crate) struct CandidateSchema {
    /// Text, as far as it was generated.
    pub(crate) text: String,
    /// Score; absent if it has no content words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
}

/// Report of the guard on an answer: the `guard` object of a response.
#[derive(Serialize, ToSchema)]
#[schema(as = GuardReport)]
pub(crate) struct GuardReportSchema {
    /// Mode in force.
    pub(crate) mode: ModeSchema,
    /// Verdict.
    pub(crate) verdict: VerdictSchema,
    /// Reason for an abstention; present if the verdict is `abstained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<UnanswerableSchema>,
    /// Withheld answer; present if one was generated and the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) withheld: Option<String>,
    /// Probability that a short answer is correct; absent if the model has no calibration for
    /// answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer_probability: Option<f32>,
    /// Score of the answer: the lowest score of its content words, or of any word if it has none.
    /// Absent if nothing was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
    /// Geometric mean of the scores of its content words, or of all words if it has none;
    /// comparable between answers of different lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mean_score: Option<f32>,
    /// Familiarity of the photograph: 1 if it resembles the training photographs, 0 if not. Absent
    /// if the model does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    pub(crate) familiarity: Option<f32>,
    /// Threshold in force.
    pub(crate) threshold: f32,
    /// Thresholds of classes of words that differ from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thresholds: Option<ClassThresholdsSchema>,
    /// Low-reward spans, in order.
    pub(crate) spans: Vec<SpanSchema>,
    /// Number of repair attempts.
    pub(crate) attempts: u32,
    /// Number of tokens decoded beyond those of the answer.
    pub(crate) extra_tokens: u32,
    /// Answer as a screen reader should read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alt_text: Option<String>,
    /// Other answers, the best `mean_score` first; present if `guard.candidates` asked for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<CandidateSchema>,
}

/// Treatment of questions that no photograph answers, and of answers that are probably wrong.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnUnanswerable)]
pub(crate) enum OnUnanswerableSchema {
    /// Questions are answered, and answers are given.
    Answer,
    /// The guard abstains: a fixed text says that the answer is unknown.
    Abstain,
}

/// Reason for which a question is not answered.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Unanswerable)]
pub(crate) enum UnanswerableSchema {
    /// It asks for text in the photograph.
    Text,
    /// It asks for a time or a date.
    Time,
    /// It asks for an identity, or for a name, age or relation that no photograph shows.
    Identity,
    /// It asks for advice, or what is safe, healthy or legal.
    Advice,
    /// It asks for a price.
    Price,
    /// It is not in English.
    Language,
    /// It asks about something else that no photograph shows.
    Beyond,
    /// The photograph is unfamiliar to the model.
    Unfamiliar,
    /// The generated answer is probably wrong.
    Unsure,
}

/// Rendering of an answer's flagged spans.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RenderStyle)]
pub(crate) enum RenderStyleSchema {
    /// As generated.
    Plain,
    /// Hedged: "what may be a frisbee".
    Hedged,
    /// Left out, or replaced by "something" where the sentence requires a noun.
    Omitted,
}

/// Thresholds of classes of words that differ from the common threshold.
#[derive(Default, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ClassThresholds)]
pub(crate) struct ClassThresholdsSchema {
    /// Words that name people, animals and objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) object: Option<f32>,
    /// Colors, sizes and materials.
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
    /// Spatial relations: `behind`, `next to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) relation: Option<f32>,
}

/// Reason why an answer ended.
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
