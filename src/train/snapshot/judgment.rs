//! Conversion of feedback records to corrections, and majority vote where several annotators judged
//! the same answer. Pure.

use std::collections::{BTreeMap, HashMap};

use super::ExclusionReason;
use crate::{
    feedback::record::{Feedback, JudgedPart, JudgmentKind, ResponseToken},
    train::corrections::{CorrectedAnswer, RecordedTokens},
};

/// Largest number of tokens in a response.
const TOKENS: usize = 96;

/// Largest number of code points in a prompt.
const PROMPT_CHARS: usize = 240;

/// Converts a record to a correction; an error is the reason to leave it out.
pub(super) fn correction(record: &Feedback) -> Result<CorrectedAnswer, ExclusionReason> {
    let scope = match (record.scope, record.kind) {
        (Some(JudgedPart::AllErrors), _) => JudgedPart::AllErrors,
        // Missing content alone judges no token.
        (None, JudgmentKind::Missing) => return Err(ExclusionReason::NothingJudged),
        (Some(JudgedPart::FirstError) | None, _) => JudgedPart::FirstError,
    };
    if record.response.trim().is_empty()
        || (record.kind == JudgmentKind::Bad && record.errors.is_empty())
    {
        return Err(ExclusionReason::NothingJudged);
    }
    if record.tokens.len() > TOKENS
        || record.response.chars().count() > 8 * TOKENS
        || record.prompt.chars().count() > PROMPT_CHARS
    {
        return Err(ExclusionReason::TooLong);
    }
    if [&record.prompt, &record.response]
        .iter()
        .any(|text| text.contains("<|"))
    {
        return Err(ExclusionReason::SpecialToken);
    }
    let (corrected, complete) = corrected(record, scope);
    Ok(CorrectedAnswer {
        image: record.image.to_string(),
        prompt: record.prompt.trim().to_owned(),
        response: record.response.clone(),
        scope,
        errors: record.errors.iter().map(|e| (e.start, e.end)).collect(),
        corrected,
        complete,
        tokens: recorded_tokens(record, scope),
    })
}

/// Tokens and labels of a record as [`derive`](crate::feedback::derive) made them; `None` if it
/// does not name its tokenizer.
fn recorded_tokens(record: &Feedback, scope: JudgedPart) -> Option<RecordedTokens> {
    // Trailing tokens without text write what was cut off the response.
    let written = record
        .tokens
        .iter()
        .rposition(|token| token.start < token.end);
    let tokens = &record.tokens[..written.map_or(0, |last| last + 1)];
    Some(RecordedTokens {
        tokenizer: record.versions.tokenizer.clone()?,
        response: tokens.iter().map(|token| token.id).collect(),
        labels: tokens.iter().map(|token| token.label).collect(),
        corrected: corrected_tokens(record, tokens, scope),
    })
}

/// Token ids of [`corrected`]'s text: those of the response, with each error's tokens replaced by
/// those of its correction. `None` if two errors share a token.
fn corrected_tokens(
    record: &Feedback,
    tokens: &[ResponseToken],
    scope: JudgedPart,
) -> Option<Vec<u32>> {
    let ids = |from: usize, to: usize| {
        let between = tokens.get(from..to)?;
        Some(between.iter().map(|token| token.id))
    };
    let (mut corrected, mut at) = (Vec::new(), 0);
    for error in &record.errors {
        corrected.extend(ids(at, error.token_start)?);
        if error.correction.is_none() {
            return Some(corrected);
        }
        corrected.extend(error.corrected_tokens.as_ref()?);
        if scope == JudgedPart::FirstError {
            return Some(corrected);
        }
        at = error.token_end;
    }
    corrected.extend(ids(at, tokens.len())?);
    Some(corrected)
}

/// Returns the corrected text, and `true` if the answer should end with it. The text stops after
/// the first error's correction if only that error was judged, and before an error without a
/// correction.
fn corrected(record: &Feedback, scope: JudgedPart) -> (String, bool) {
    let piece = |from: usize, to: usize| {
        record
            .response
            .chars()
            .take(to)
            .skip(from)
            .collect::<String>()
    };
    let (mut text, mut at) = (String::new(), 0);
    for error in &record.errors {
        text += &piece(at, error.start);
        let Some(correction) = &error.correction else {
            return (tidy(&text), false);
        };
        text += correction;
        if scope == JudgedPart::FirstError {
            return (tidy(&text), false);
        }
        at = error.end;
    }
    text += &piece(at, usize::MAX);
    (tidy(&text), true)
}

/// Joins words by single spaces, without one before punctuation: a removed word leaves two.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        let punctuation = word
            .chars()
            .all(|c| matches!(c, '.' | ',' | ';' | '!' | '?'));
        if !out.is_empty() && !punctuation {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Correction by an annotator.
pub(super) struct AnnotatorJudgment {
    pub(super) annotator: Option<String>,
    pub(super) correction: CorrectedAnswer,
}

impl AnnotatorJudgment {
    /// Returns `true` if two annotators marked the same errors or, if one judged only the first
    /// error, the same first error.
    fn agrees(&self, other: &Self) -> bool {
        let (a, b) = (&self.correction, &other.correction);
        match (a.scope, b.scope) {
            (JudgedPart::AllErrors, JudgedPart::AllErrors) => a.errors == b.errors,
            _ => a.errors.first() == b.errors.first(),
        }
    }
}

/// Returns one correction for each answer, in order of first judgment: the one that a majority of
/// its annotators agree on. Takes judgments oldest first; counts those left out.
pub(super) fn settle_judgments(
    judgments: Vec<AnnotatorJudgment>,
    left_out: &mut BTreeMap<ExclusionReason, usize>,
) -> Vec<CorrectedAnswer> {
    let mut count = |reason: ExclusionReason, n: usize| {
        if n > 0 {
            *left_out.entry(reason).or_default() += n;
        }
    };
    let mut order: Vec<Vec<AnnotatorJudgment>> = Vec::new();
    let mut numbers: HashMap<(String, String, String), usize> = HashMap::new();
    for judgment in judgments {
        let CorrectedAnswer {
            image,
            prompt,
            response,
            ..
        } = &judgment.correction;
        let number = *numbers
            .entry((image.clone(), prompt.clone(), response.clone()))
            .or_insert_with(|| {
                order.push(Vec::new());
                order.len() - 1
            });
        let judges = &mut order[number];
        let before = judges.len();
        judges.retain(|earlier| {
            earlier.annotator.is_none() || earlier.annotator != judgment.annotator
        });
        count(ExclusionReason::Superseded, before - judges.len());
        judges.push(judgment);
    }
    let mut kept = Vec::with_capacity(order.len());
    for judges in order {
        let agreeing = |judgment: &AnnotatorJudgment| {
            judges.iter().filter(|other| judgment.agrees(other)).count()
        };
        // Among equals an annotator who judged the whole answer counts more, then the latest.
        let best = judges.iter().enumerate().max_by_key(|(i, judgment)| {
            (
                agreeing(judgment),
                judgment.correction.scope == JudgedPart::AllErrors,
                *i,
            )
        });
        let Some((chosen, n)) = best.map(|(i, judgment)| (i, agreeing(judgment))) else {
            continue;
        };
        if 2 * n <= judges.len() {
            count(ExclusionReason::Contradicted, judges.len());
            continue;
        }
        count(ExclusionReason::Repeated, n - 1);
        count(ExclusionReason::Contradicted, judges.len() - n);
        kept.extend(
            judges
                .into_iter()
                .nth(chosen)
                .map(|judgment| judgment.correction),
        );
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::record::{self, FeedbackSource, ImageHash, TokenLabel, Versions};

    fn record(
        scope: Option<JudgedPart>,
        kind: JudgmentKind,
        errors: &[(usize, usize, Option<&str>)],
    ) -> Feedback {
        let error = |&(start, end, correction): &(usize, usize, Option<&str>)| record::Correction {
            start,
            end,
            text: String::new(),
            correction: correction.map(str::to_owned),
            partial_caption: String::new(),
            token_start: 0,
            token_end: 0,
            error_tokens: Vec::new(),
            corrected_tokens: None,
        };
        Feedback {
            id: "fb_1".into(),
            created: 1,
            owner: String::new(),
            completion_id: None,
            choice: None,
            image: ImageHash::digest(b"image"),
            prompt: String::new(),
            response: "A dog with a frisbee on grass.".into(),
            tokens: Vec::new(),
            kind,
            scope,
            errors: errors.iter().map(error).collect(),
            missing: Vec::new(),
            flagged: None,
            versions: Versions::default(),
            unassisted: false,
            queued: None,
            annotator: None,
            annotator_owner: String::new(),
            user: None,
            comment: None,
            source: FeedbackSource::Human,
        }
    }

    fn read(scope: JudgedPart, errors: &[(usize, usize, Option<&str>)]) -> (String, bool) {
        let c = correction(&record(Some(scope), JudgmentKind::Bad, errors)).unwrap();
        (c.corrected, c.complete)
    }

    #[test]
    fn corrected_text_ends_where_no_correction_is_known() {
        let expected = |text: &str, complete| (text.to_owned(), complete);
        assert_eq!(
            read(
                JudgedPart::AllErrors,
                &[(13, 20, Some("ball")), (24, 29, Some("snow"))]
            ),
            expected("A dog with a ball on snow.", true)
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(6, 20, Some(""))]),
            expected("A dog on grass.", true),
            "no double space is left"
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(20, 29, Some(""))]),
            expected("A dog with a frisbee.", true)
        );
        assert_eq!(
            read(JudgedPart::FirstError, &[(13, 20, Some("ball"))]),
            expected("A dog with a ball", false)
        );
        assert_eq!(
            read(JudgedPart::FirstError, &[(13, 20, None)]),
            expected("A dog with a", false)
        );
        assert_eq!(
            read(
                JudgedPart::AllErrors,
                &[(13, 20, Some("ball")), (24, 29, None)]
            ),
            expected("A dog with a ball on", false)
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(20, 20, Some(" lying"))]),
            expected("A dog with a frisbee lying on grass.", true)
        );
    }

    /// "A dog on grass" with a token a word, the second replaced by token 9.
    fn tokenized(scope: JudgedPart, tokenizer: Option<&str>) -> Feedback {
        let token = |(id, start, end, label)| ResponseToken {
            id,
            text: String::new(),
            start,
            end,
            logprob: None,
            reward: None,
            label,
        };
        let mut record = record(Some(scope), JudgmentKind::Bad, &[(2, 5, Some("cat"))]);
        record.response = "A dog on grass".into();
        record.versions.tokenizer = tokenizer.map(str::to_owned);
        record.tokens = [
            (1, 0, 1, TokenLabel::Good),
            (2, 1, 5, TokenLabel::Bad),
            (3, 5, 8, TokenLabel::None),
            (4, 8, 14, TokenLabel::None),
            (5, 14, 14, TokenLabel::None),
        ]
        .map(token)
        .into();
        let error = &mut record.errors[0];
        (error.token_start, error.token_end) = (1, 2);
        (error.error_tokens, error.corrected_tokens) = (vec![2], Some(vec![9]));
        record
    }

    #[test]
    fn correction_keeps_the_tokens_and_labels_of_its_record() {
        let kept = correction(&tokenized(JudgedPart::FirstError, Some("digest")))
            .unwrap()
            .tokens
            .unwrap();
        assert_eq!(kept.tokenizer, "digest");
        assert_eq!(kept.response, [1, 2, 3, 4], "without what was cut off");
        assert_eq!(
            kept.labels,
            [
                TokenLabel::Good,
                TokenLabel::Bad,
                TokenLabel::None,
                TokenLabel::None
            ]
        );
        assert_eq!(kept.corrected, Some(vec![1, 9]));
        let whole = correction(&tokenized(JudgedPart::AllErrors, Some("digest"))).unwrap();
        assert_eq!(whole.tokens.unwrap().corrected, Some(vec![1, 9, 3, 4]));
    }

    #[test]
    fn correction_of_a_record_without_tokenizer_has_no_tokens() {
        let old = correction(&tokenized(JudgedPart::AllErrors, None)).unwrap();
        assert_eq!(old.tokens, None);
    }

    #[test]
    fn correction_of_errors_within_one_token_has_no_corrected_tokens() {
        let mut record = tokenized(JudgedPart::AllErrors, Some("digest"));
        record.errors.push(record.errors[0].clone());
        let tokens = correction(&record).unwrap().tokens.unwrap();
        assert_eq!((tokens.response.len(), tokens.corrected), (4, None));
    }

    #[test]
    fn record_without_judged_tokens_is_excluded() {
        assert_eq!(
            correction(&record(None, JudgmentKind::Missing, &[])),
            Err(ExclusionReason::NothingJudged)
        );
        assert_eq!(
            correction(&record(Some(JudgedPart::AllErrors), JudgmentKind::Bad, &[])),
            Err(ExclusionReason::NothingJudged)
        );
        let good = correction(&record(
            Some(JudgedPart::AllErrors),
            JudgmentKind::Good,
            &[],
        ))
        .unwrap();
        assert_eq!(
            (good.errors.len(), good.complete, good.corrected.as_str()),
            (0, true, "A dog with a frisbee on grass.")
        );
        let long = Feedback {
            prompt: "x".repeat(300),
            ..record(Some(JudgedPart::AllErrors), JudgmentKind::Good, &[])
        };
        assert_eq!(correction(&long), Err(ExclusionReason::TooLong));
        let special = Feedback {
            prompt: "<|end|>".into(),
            ..record(Some(JudgedPart::AllErrors), JudgmentKind::Good, &[])
        };
        assert_eq!(correction(&special), Err(ExclusionReason::SpecialToken));
    }

    fn judgment(
        annotator: Option<&str>,
        scope: JudgedPart,
        errors: &[(usize, usize, Option<&str>)],
    ) -> AnnotatorJudgment {
        let kind = if errors.is_empty() {
            JudgmentKind::Good
        } else {
            JudgmentKind::Bad
        };
        AnnotatorJudgment {
            annotator: annotator.map(str::to_owned),
            correction: correction(&record(Some(scope), kind, errors)).unwrap(),
        }
    }

    #[test]
    fn majority_of_judgments_wins_and_others_are_counted() {
        const FRISBEE: &[(usize, usize, Option<&str>)] = &[(13, 20, Some("ball"))];
        const BOTH: &[(usize, usize, Option<&str>)] =
            &[(13, 20, Some("ball")), (24, 29, Some("snow"))];
        let settle = |judgments: Vec<AnnotatorJudgment>| {
            let mut left = BTreeMap::new();
            (
                settle_judgments(judgments, &mut left)
                    .iter()
                    .map(|c| c.errors.len())
                    .collect::<Vec<_>>(),
                left.into_iter().collect::<Vec<_>>(),
            )
        };
        let all = JudgedPart::AllErrors;
        assert_eq!(
            settle(vec![judgment(None, all, FRISBEE), judgment(None, all, &[])]),
            (vec![], vec![(ExclusionReason::Contradicted, 2)])
        );
        assert_eq!(
            settle(vec![
                judgment(None, all, FRISBEE),
                judgment(None, all, &[]),
                judgment(None, all, FRISBEE)
            ]),
            (
                vec![1],
                vec![
                    (ExclusionReason::Repeated, 1),
                    (ExclusionReason::Contradicted, 1)
                ]
            )
        );
        assert_eq!(
            settle(vec![
                judgment(Some("a"), all, &[]),
                judgment(Some("a"), all, FRISBEE)
            ]),
            (vec![1], vec![(ExclusionReason::Superseded, 1)])
        );
        assert_eq!(
            settle(vec![
                judgment(None, all, BOTH),
                judgment(None, JudgedPart::FirstError, FRISBEE)
            ]),
            (vec![2], vec![(ExclusionReason::Repeated, 1)]),
            "who looked no further than the first error agrees, and says less"
        );
    }
}
