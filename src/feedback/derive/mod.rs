//! From what somebody sent to what is kept. Pure: the same answer and the same submission make the
//! same record.

mod check;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::{
    fold::is_spoken,
    record::{
        CharRange, Correction, Feedback, ImageHash, JudgedPart, JudgmentKind, QueueDetails,
        Receipt, RecordedChoice, ResponseToken, TokenLabel, Versions,
    },
    submission::Submission,
};
use crate::guard::Verdict;
use check::{MarkedError, SubmittedJudgment, check_place, edited, in_order, refuse};
pub use check::{NOTE_CHARS, SubmissionRefusal, TEXT_CHARS, check_name};
pub(super) use check::{abstained, brief, check_notes};

/// Answer that a submission is about, with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedAnswer {
    /// The tenant that it belongs to.
    pub owner: String,
    /// The completion and which of its answers, when it was one of this server.
    pub completion: Option<(String, usize)>,
    /// The image.
    pub image: ImageHash,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Its tokens.
    pub tokens: Vec<ResponseToken>,
    /// Versions of the model and the scorer that wrote and scored it.
    pub versions: Versions,
    /// Indicates whether it was shown without scores, marks or repairs.
    pub unassisted: bool,
    /// Spans that the guard flagged; `None` when it was not scored.
    pub doubted: Option<Vec<CharRange>>,
    /// Details of the annotation queue, where it gave the answer to who judges.
    pub queued: Option<QueueDetails>,
    /// Whom it belongs to.
    pub user: Option<String>,
}

impl JudgedAnswer {
    /// One of the answers that a receipt remembers.
    ///
    /// # Errors
    /// When it has no such answer, or an abstention in its place.
    pub fn of(receipt: Receipt, choice: usize) -> Result<Self, SubmissionRefusal> {
        let Receipt {
            id,
            owner,
            versions,
            image,
            prompt,
            user,
            unassisted,
            mut choices,
            ..
        } = receipt;
        if choice >= choices.len() {
            return refuse(
                "choice",
                "out_of_range",
                format_args!(
                    "is {choice}; the completion has {} answers, counted from 0",
                    choices.len()
                ),
            );
        }
        let RecordedChoice {
            response,
            tokens,
            verdict,
            spans,
            ..
        } = choices.swap_remove(choice);
        if verdict == Verdict::Abstained {
            return Err(abstained("completion_id"));
        }
        let doubted = spans
            .iter()
            .filter(|span| span.is_still_low())
            .map(|span| CharRange {
                start: span.start,
                end: span.end,
            })
            .collect();
        let doubted = (verdict != Verdict::Unscored).then_some(doubted);
        let completion = Some((id, choice));
        Ok(Self {
            owner,
            completion,
            image,
            prompt,
            response,
            tokens,
            versions,
            unassisted,
            doubted,
            queued: None,
            user,
        })
    }
}

/// Id and time of a record, and the tenant that hands it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordStamp {
    /// `fb_...`
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The tenant with whose key it is handed in.
    pub annotator_owner: String,
}

/// Makes the record. `encode` cuts a text into the policy's tokens, told whether an answer begins
/// with it; `None` where it cannot.
///
/// # Errors
/// [`SubmissionRefusal`]: what is wrong with the submission, and in which field.
pub fn derive(
    subject: JudgedAnswer,
    submission: &Submission,
    stamp: RecordStamp,
    encode: impl Fn(&str, bool) -> Option<Vec<u32>>,
) -> Result<Feedback, SubmissionRefusal> {
    check_notes(submission)?;
    let said = SubmittedJudgment::of(submission)?;
    if subject.response.is_empty() && !matches!(said, SubmittedJudgment::Missing(_)) {
        return refuse(
            "label",
            "invalid_value",
            "judges a response that is empty; only 'missing' can be said of it",
        );
    }
    let mut tokens = subject.tokens;
    let text: Vec<char> = subject.response.chars().collect();
    let (kind, scope, errors, missing) = match said {
        SubmittedJudgment::Good => (
            JudgmentKind::Good,
            Some(JudgedPart::AllErrors),
            Vec::new(),
            Vec::new(),
        ),
        SubmittedJudgment::Missing(missing) => (JudgmentKind::Missing, None, Vec::new(), missing),
        SubmittedJudgment::Errors(places, scope) => {
            let spans = places
                .into_iter()
                .map(|(field, place)| check_place(&field, &place, &subject.response, &text));
            let spans = in_order(spans.collect::<Result<_, _>>()?)?;
            (JudgmentKind::Bad, Some(scope), spans, Vec::new())
        }
        SubmittedJudgment::Edit(edit) => {
            let spans = edited(&subject.response, edit)?;
            let kind = match &spans[..] {
                // Only typography: the response stands.
                [] => JudgmentKind::Good,
                spans if spans.iter().all(|span| span.chars.is_empty()) => JudgmentKind::Missing,
                _ => JudgmentKind::Bad,
            };
            (kind, Some(JudgedPart::AllErrors), spans, Vec::new())
        }
    };
    let errors = errors
        .into_iter()
        .map(|span| align(span, &text, &tokens, &encode))
        .collect::<Result<Vec<_>, _>>()?;
    label(&mut tokens, &errors, scope);
    let (completion_id, choice) = subject.completion.unzip();
    Ok(Feedback {
        id: stamp.id,
        created: stamp.created,
        owner: subject.owner,
        completion_id,
        choice,
        image: subject.image,
        prompt: subject.prompt,
        response: subject.response,
        tokens,
        kind,
        scope,
        errors,
        missing,
        versions: subject.versions,
        unassisted: subject.unassisted,
        queued: subject.queued,
        doubted: subject.doubted,
        annotator_owner: submission
            .annotator
            .as_ref()
            .map(|_| stamp.annotator_owner)
            .unwrap_or_default(),
        annotator: submission.annotator.clone(),
        user: submission.user.clone().or(subject.user),
        comment: submission.comment.clone(),
        source: submission.source.unwrap_or_default(),
    })
}

/// Finds the tokens that write a span, and those that would write the correction in their place.
fn align(
    span: MarkedError,
    text: &[char],
    tokens: &[ResponseToken],
    encode: &impl Fn(&str, bool) -> Option<Vec<u32>>,
) -> Result<Correction, SubmissionRefusal> {
    let MarkedError {
        field,
        chars,
        correction,
    } = span;
    let slice = |range: Range<usize>| text[range].iter().collect::<String>();
    let covered = if chars.is_empty() {
        let at = tokens.partition_point(|t| t.start < chars.start);
        at..at
    } else {
        let first = tokens.partition_point(|t| t.end <= chars.start);
        first..tokens.partition_point(|t| t.start < chars.end).max(first)
    };
    let written = tokens.get(covered.clone()).filter(|t| !t.is_empty());
    let written = written.map_or(chars.clone(), |t| {
        t[0].start.min(chars.start)..t[t.len() - 1].end.max(chars.end)
    });
    let corrected_tokens = match &correction {
        None => None,
        Some(correction) => {
            let whole =
                slice(written.start..chars.start) + correction + &slice(chars.end..written.end);
            // Of a word that goes, the space before it would be left.
            let whole = if correction.is_empty() {
                whole.trim_end()
            } else {
                &whole
            };
            let unknown = || {
                SubmissionRefusal::new(
                    field,
                    "invalid_value",
                    "cannot be written in the model's vocabulary",
                )
            };
            let begins = !text[..written.start].iter().any(|c| c.is_alphanumeric());
            Some(encode(whole, begins).ok_or_else(unknown)?)
        }
    };
    Ok(Correction {
        start: chars.start,
        end: chars.end,
        text: slice(chars.clone()),
        correction,
        partial_caption: slice(0..chars.start),
        token_start: covered.start,
        token_end: covered.end,
        error_tokens: tokens[covered].iter().map(|t| t.id).collect(),
        corrected_tokens,
    })
}

/// Labels what was judged, and nothing else: signs between the words of an error are not.
fn label(tokens: &mut [ResponseToken], errors: &[Correction], scope: Option<JudgedPart>) {
    let judged = match (scope, errors.first()) {
        (None, _) => 0,
        (Some(JudgedPart::FirstError), Some(first)) => first.token_end,
        (Some(_), _) => tokens.len(),
    };
    tokens[..judged]
        .iter_mut()
        .for_each(|token| token.label = TokenLabel::Good);
    tokens[judged..]
        .iter_mut()
        .for_each(|token| token.label = TokenLabel::None);
    for error in errors {
        let signs_alone = !error.text.chars().any(is_spoken);
        for token in &mut tokens[error.token_start..error.token_end] {
            token.label = if signs_alone || token.text.chars().any(is_spoken) {
                TokenLabel::Bad
            } else {
                TokenLabel::None
            };
        }
    }
}
