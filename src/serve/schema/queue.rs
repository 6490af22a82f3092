//! Schemas of the annotation queue.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::guard::{SpanSchema, VerdictSchema};

/// A word of the answer, to be pointed at. Offsets count Unicode code points of the answer.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueWord)]
pub(crate) struct QueueWordSchema {
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// The word.
    pub(crate) text: String,
    /// Its calibrated reward; absent when it was not scored and in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<f32>,
    /// Indicates whether the guard flagged it; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) doubted: Option<bool>,
}

/// An answer for an annotator to judge: by `POST /v1/feedback` with its `completion_id`, `choice`
/// and `annotator`, which closes it.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueItem)]
pub(crate) struct QueueItemSchema {
    /// The item's name in `/v1/queue/{id}/...`.
    pub(crate) id: String,
    /// The completion.
    pub(crate) completion_id: String,
    /// Which of its answers.
    pub(crate) choice: usize,
    /// When the answer was written, in Unix time.
    pub(crate) created: u64,
    /// The image, as a `data:` URL.
    pub(crate) image: String,
    /// The prompt; empty for a description.
    pub(crate) prompt: String,
    /// The answer.
    pub(crate) response: String,
    /// Its words.
    pub(crate) words: Vec<QueueWordSchema>,
    /// Drawn by chance, and shown without rewards, marks and proposals: what people find in such
    /// answers estimates the guard's recall.
    pub(crate) unassisted: bool,
    /// Spans that the guard flagged, with what it would write instead; empty in unassisted items.
    pub(crate) spans: Vec<SpanSchema>,
    /// The guard's conclusion; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<VerdictSchema>,
    /// The threshold that was in force; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<f32>,
    /// Unix time after which somebody else may get it.
    pub(crate) lease_expires: u64,
}

/// Agreement of annotators on answers that two of them got, and how many errors the guard finds.
#[derive(Serialize, ToSchema)]
#[schema(as = Agreement)]
pub(crate) struct AgreementSchema {
    /// Answers that two annotators have judged.
    pub(crate) items: usize,
    /// Agreement on whether a word is right, for all words that claim something and were judged by
    /// two.
    pub(crate) overall: AgreementFiguresSchema,
    /// The same by what the word is about, and for whether something is left out.
    pub(crate) by_kind: BTreeMap<&'static str, AgreementFiguresSchema>,
    /// Each annotator with all others taken together.
    pub(crate) by_annotator: Vec<AnnotatorFiguresSchema>,
    /// Each two of them; those with the most in common come first.
    pub(crate) pairs: Vec<PairFiguresSchema>,
    /// Recall of the guard.
    pub(crate) recall: GuardRecallSchema,
}

/// An annotator with all others.
#[derive(Serialize, ToSchema)]
#[schema(as = AnnotatorFigures)]
pub(crate) struct AnnotatorFiguresSchema {
    /// Who; `annotator 1` and so on where names are not asked for.
    pub(crate) annotator: String,
    /// Answers that somebody else has judged too.
    pub(crate) items: usize,
    /// The figures.
    #[serde(flatten)]
    pub(crate) figures: AgreementFiguresSchema,
}

/// Two annotators.
#[derive(Serialize, ToSchema)]
#[schema(as = PairFigures)]
pub(crate) struct PairFiguresSchema {
    /// Who; `annotator 1` and so on where names are not asked for.
    pub(crate) annotators: [String; 2],
    /// The figures.
    #[serde(flatten)]
    pub(crate) figures: AgreementFiguresSchema,
}

/// The share of all errors that the guard marks, from answers that were drawn by chance and shown
/// without marks.
#[derive(Serialize, ToSchema)]
#[schema(as = GuardRecall)]
pub(crate) struct GuardRecallSchema {
    /// Answers that were judged whole.
    pub(crate) answers: usize,
    /// Errors that people found in them.
    pub(crate) errors: usize,
    /// Of those, how many the guard had flagged.
    pub(crate) flagged: usize,
    /// `flagged / errors`; absent without errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recall: Option<f64>,
    /// Its 95 % interval (Wilson).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<[f64; 2]>,
}

/// Figures of agreement.
#[derive(Serialize, ToSchema)]
#[schema(as = AgreementFigures)]
pub(crate) struct AgreementFiguresSchema {
    /// Units that at least two have judged.
    pub(crate) units: usize,
    /// Share of the pairs of judgments of one unit that are the same; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed: Option<f64>,
    /// Cohen's kappa over all pairs of judges; absent where chance alone would make all agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kappa: Option<f64>,
    /// Krippendorff's alpha; absent where all have said the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alpha: Option<f64>,
}

/// Numbers of answers in the queue, by state.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueLength)]
pub(crate) struct QueueLengthSchema {
    /// Waiting, or in work.
    pub(crate) open: u64,
    /// Of the open: leased to somebody now. One that two have counts twice.
    pub(crate) leased: u64,
    /// Of the open: drawn by chance, to be shown without marks.
    pub(crate) unassisted: u64,
    /// Judged by all who had to; the same answer of several completions counts once here and
    /// elsewhere.
    pub(crate) done: u64,
    /// Skipped by too many to be shown again.
    pub(crate) skipped: u64,
}

/// Progress of an annotator.
#[derive(Serialize, ToSchema)]
#[schema(as = AnnotatorProgress)]
pub(crate) struct AnnotatorProgressSchema {
    /// Their records.
    pub(crate) total: u64,
    /// Those since midnight, in UTC.
    pub(crate) today: u64,
}
