//! Schemas of the annotation queue.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::guard::{SpanSchema, VerdictSchema};

/// Word of an answer. Offsets count Unicode code points of the answer.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueWord)]
pub(crate) struct QueueWordSchema {
    /// First code point.
    pub(crate) start: usize,
    /// One past the last code point.
    pub(crate) end: usize,
    /// Text of the word.
    pub(crate) text: String,
    /// Lowest calibrated reward of its tokens; absent if it was not scored and in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<f32>,
    /// `true` if the guard flagged the word; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) doubted: Option<bool>,
}

/// Answer for an annotator to judge. `POST /v1/feedback` with its `completion_id`, `choice` and
/// `annotator` closes it.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueItem)]
pub(crate) struct QueueItemSchema {
    /// Id of the item in `/v1/queue/{id}/...`.
    pub(crate) id: String,
    /// Completion id.
    pub(crate) completion_id: String,
    /// Index of the answer among the completion's choices.
    pub(crate) choice: usize,
    /// Unix time of the completion.
    pub(crate) created: u64,
    /// The image, as a `data:` URL.
    pub(crate) image: String,
    /// The prompt; empty for a description.
    pub(crate) prompt: String,
    /// The answer.
    pub(crate) response: String,
    /// Words of the answer.
    pub(crate) words: Vec<QueueWordSchema>,
    /// `true` if the answer was drawn at random and is shown without rewards, marks and proposals:
    /// errors found in such answers estimate the guard's recall.
    pub(crate) unassisted: bool,
    /// Spans that the guard flagged, with its proposals; empty in unassisted items.
    pub(crate) spans: Vec<SpanSchema>,
    /// Verdict of the guard; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<VerdictSchema>,
    /// Threshold of the answer; absent in unassisted items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<f32>,
    /// Unix time at which the lease ends and others may get the item.
    pub(crate) lease_expires: u64,
}

/// Agreement of annotators on overlapping answers, and the guard's recall.
#[derive(Serialize, ToSchema)]
#[schema(as = Agreement)]
pub(crate) struct AgreementSchema {
    /// Answers judged by two annotators.
    pub(crate) items: usize,
    /// Agreement that a word is right or wrong, over all content words judged by two annotators.
    pub(crate) overall: AgreementFiguresSchema,
    /// The same by kind of claim, including missing content.
    pub(crate) by_kind: BTreeMap<&'static str, AgreementFiguresSchema>,
    /// Each annotator compared with all others.
    pub(crate) by_annotator: Vec<AnnotatorFiguresSchema>,
    /// Pairs of annotators, those with most common units first.
    pub(crate) pairs: Vec<PairFiguresSchema>,
    /// Recall of the guard.
    pub(crate) recall: GuardRecallSchema,
}

/// Agreement of one annotator with all others.
#[derive(Serialize, ToSchema)]
#[schema(as = AnnotatorFigures)]
pub(crate) struct AnnotatorFiguresSchema {
    /// Name; `annotator 1` and so on if names are not shown.
    pub(crate) annotator: String,
    /// Answers that another annotator judged too.
    pub(crate) items: usize,
    /// Figures of agreement.
    #[serde(flatten)]
    pub(crate) figures: AgreementFiguresSchema,
}

/// Agreement of two annotators.
#[derive(Serialize, ToSchema)]
#[schema(as = PairFigures)]
pub(crate) struct PairFiguresSchema {
    /// Names; `annotator 1` and so on if names are not shown.
    pub(crate) annotators: [String; 2],
    /// Figures of agreement.
    #[serde(flatten)]
    pub(crate) figures: AgreementFiguresSchema,
}

/// Share of all errors that the guard flags, measured on unassisted answers.
#[derive(Serialize, ToSchema)]
#[schema(as = GuardRecall)]
pub(crate) struct GuardRecallSchema {
    /// Answers judged completely.
    pub(crate) answers: usize,
    /// Errors that annotators found in them.
    pub(crate) errors: usize,
    /// Number of those errors that the guard flagged.
    pub(crate) flagged: usize,
    /// `flagged / errors`; absent without errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recall: Option<f64>,
    /// 95 % confidence interval of the recall (Wilson).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<[f64; 2]>,
}

/// Figures of agreement.
#[derive(Serialize, ToSchema)]
#[schema(as = AgreementFigures)]
pub(crate) struct AgreementFiguresSchema {
    /// Units judged by at least two annotators.
    pub(crate) units: usize,
    /// Share of equal judgments among all pairs on the same unit; absent without pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed: Option<f64>,
    /// Cohen's kappa over all pairs of judgments; absent if chance alone makes all agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kappa: Option<f64>,
    /// Krippendorff's alpha; absent if all judgments are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alpha: Option<f64>,
}

/// Numbers of items in the queue, by state.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueLength)]
pub(crate) struct QueueLengthSchema {
    /// Waiting or leased.
    pub(crate) open: u64,
    /// Open items with a running lease, counted once for each lease.
    pub(crate) leased: u64,
    /// Open items that are shown without marks.
    pub(crate) unassisted: u64,
    /// Completely judged. Equal answers of several completions are one item.
    pub(crate) done: u64,
    /// Skipped too often to be shown again.
    pub(crate) skipped: u64,
}

/// Number of an annotator's records.
#[derive(Serialize, ToSchema)]
#[schema(as = AnnotatorProgress)]
pub(crate) struct AnnotatorProgressSchema {
    /// All records.
    pub(crate) total: u64,
    /// Records since midnight UTC.
    pub(crate) today: u64,
}
