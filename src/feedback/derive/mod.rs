//! Turns a submission about an answer into a record: aligns errors with tokens and labels every
//! token. Pure: equal inputs make equal records.

mod check;
#[cfg(test)]
mod tests;

use super::{
    fold::is_spoken,
    record::{
        Correction, Feedback, ImageHash, JudgedPart, JudgmentKind, QueueDetails, Receipt,
        RecordedChoice, ResponseToken, TokenLabel, Versions,
    },
    submission::Submission,
};
use crate::{guard::Verdict, util::offsets::CharRange};
use check::{MarkedError, SubmittedJudgment, check_error, edit_errors, refuse, sort_errors};
pub use check::{NOTE_CHARS, SubmissionRefusal, TEXT_CHARS, check_name};
pub(super) use check::{abstention_refusal, check_notes, excerpt};

/// Answer that a submission judges, with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedAnswer {
    /// Owner of the answer.
    pub owner: String,
    /// Completion id and choice; `None` for an answer of another server.
    pub completion: Option<(String, usize)>,
    /// The image.
    pub image: ImageHash,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Tokens of the answer.
    pub tokens: Vec<ResponseToken>,
    /// Versions of the model and scorer that wrote and scored the answer.
    pub versions: Versions,
    /// `true` if the answer was shown without scores, marks or repairs.
    pub unassisted: bool,
    /// Spans that the guard flagged; `None` if the answer was not scored.
    pub flagged: Option<Vec<CharRange>>,
    /// Set if the annotation queue gave the answer to the annotator.
    pub queued: Option<QueueDetails>,
    /// End user whom the answer belongs to.
    pub user: Option<String>,
}

impl JudgedAnswer {
    /// Takes one answer out of a receipt.
    ///
    /// # Errors
    /// When the receipt has no such choice, or an abstention in its place.
    pub fn from_receipt(receipt: Receipt, choice: usize) -> Result<Self, SubmissionRefusal> {
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
            return Err(abstention_refusal("completion_id"));
        }
        let flagged = spans
            .iter()
            .filter(|span| span.is_still_low())
            .map(|span| CharRange::new(span.start, span.end))
            .collect();
        let flagged = (verdict != Verdict::Unscored).then_some(flagged);
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
            flagged,
            queued: None,
            user,
        })
    }
}

/// Identity of a new record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordStamp {
    /// `fb_...`
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// Owner of the API key that the submission came with.
    pub annotator_owner: String,
}

/// Makes the record of a submission. `encode` tokenizes a text with the policy's vocabulary, given
/// `true` if the text begins an answer, and returns `None` for a text that it cannot spell.
///
/// # Errors
/// [`SubmissionRefusal`] with the field that is invalid.
pub fn derive(
    subject: JudgedAnswer,
    submission: &Submission,
    stamp: RecordStamp,
    encode: impl Fn(&str, bool) -> Option<Vec<u32>>,
) -> Result<Feedback, SubmissionRefusal> {
    check_notes(submission)?;
    let judgment = SubmittedJudgment::from_submission(submission)?;
    if subject.response.is_empty() && !matches!(judgment, SubmittedJudgment::Missing(_)) {
        return refuse(
            "label",
            "invalid_value",
            "judges an empty response; only 'missing' applies to one",
        );
    }
    let mut tokens = subject.tokens;
    let text: Vec<char> = subject.response.chars().collect();
    let (kind, scope, errors, missing) = match judgment {
        SubmittedJudgment::Good => (
            JudgmentKind::Good,
            Some(JudgedPart::AllErrors),
            Vec::new(),
            Vec::new(),
        ),
        SubmittedJudgment::Missing(missing) => (JudgmentKind::Missing, None, Vec::new(), missing),
        SubmittedJudgment::Errors(errors, scope) => {
            let spans = errors
                .into_iter()
                .map(|(field, error)| check_error(&field, &error, &subject.response, &text));
            let spans = sort_errors(spans.collect::<Result<_, _>>()?)?;
            (JudgmentKind::Bad, Some(scope), spans, Vec::new())
        }
        SubmittedJudgment::Edit(edit) => {
            let spans = edit_errors(&subject.response, edit)?;
            let kind = match &spans[..] {
                // Typography alone was changed, so the response is right.
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
        flagged: subject.flagged,
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

/// Finds the tokens that write an error, and those of the correction that would replace them.
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
    let slice = |start: usize, end: usize| text[start..end].iter().collect::<String>();
    let covered = chars.to_tokens(tokens, ResponseToken::chars);
    let written = covered
        .to_chars(tokens, ResponseToken::chars)
        .map_or(chars, |written| {
            CharRange::new(written.start.min(chars.start), written.end.max(chars.end))
        });
    let corrected_tokens = match &correction {
        None => None,
        Some(correction) => {
            let whole =
                slice(written.start, chars.start) + correction + &slice(chars.end, written.end);
            // Removing a word also removes the space before it.
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
        text: slice(chars.start, chars.end),
        correction,
        partial_caption: slice(0, chars.start),
        token_start: covered.start,
        token_end: covered.end,
        error_tokens: tokens[covered.range()].iter().map(|t| t.id).collect(),
        corrected_tokens,
    })
}

/// Labels the judged tokens. Punctuation between the words of an error stays unlabeled.
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
        for token in &mut tokens[error.tokens().range()] {
            token.label = if signs_alone || token.text.chars().any(is_spoken) {
                TokenLabel::Bad
            } else {
                TokenLabel::None
            };
        }
    }
}
