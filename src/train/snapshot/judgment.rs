//! Conversion of feedback records into corrections, and the majority vote where several annotators
//! judged the same answer. Pure functions.

use std::collections::{BTreeMap, HashMap};

use super::ExclusionReason;
use crate::{
    feedback::record::{Feedback, JudgedPart, JudgmentKind},
    train::corrections::{CorrectedAnswer, CorrectionScope},
};

/// Maximum tokens of a response.
const TOKENS: usize = 96;

/// Maximum code points of a prompt.
const PROMPT_CHARS: usize = 240;

/// Converts a record into a correction.
pub(super) fn correction(record: &Feedback) -> Result<CorrectedAnswer, ExclusionReason> {
    let scope = match (record.scope, record.kind) {
        (Some(JudgedPart::AllErrors), _) => CorrectionScope::AllErrors,
        // A record that only names a missing object judges no token.
        (None, JudgmentKind::Missing) => return Err(ExclusionReason::NothingJudged),
        (Some(JudgedPart::FirstError) | None, _) => CorrectionScope::FirstError,
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
    })
}

/// Corrected response as far as annotators gave replacements, and whether it is complete: if only
/// the first error was judged, the text ends after its replacement, and an error without a
/// replacement ends the text before it.
fn corrected(record: &Feedback, scope: CorrectionScope) -> (String, bool) {
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
        if scope == CorrectionScope::FirstError {
            return (tidy(&text), false);
        }
        at = error.end;
    }
    text += &piece(at, usize::MAX);
    (tidy(&text), true)
}

/// Normalizes spaces, which omissions leave doubled: one between words, none before punctuation.
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

/// Judgment of an answer with its annotator.
pub(super) struct AnnotatorJudgment {
    pub(super) annotator: Option<String>,
    pub(super) correction: CorrectedAnswer,
}

impl AnnotatorJudgment {
    /// Returns `true` if two judgments have the same errors, or the same first error if one of them
    /// went no further.
    fn agrees(&self, other: &Self) -> bool {
        let (a, b) = (&self.correction, &other.correction);
        match (a.scope, b.scope) {
            (CorrectionScope::AllErrors, CorrectionScope::AllErrors) => a.errors == b.errors,
            _ => a.errors.first() == b.errors.first(),
        }
    }
}

/// Reduces judgments (oldest first) to one per answer: the one held by more than half of its
/// annotators, in the order of the answers' first judgments. The others are counted in `left_out`.
pub(super) fn settled(
    voices: Vec<AnnotatorJudgment>,
    left_out: &mut BTreeMap<ExclusionReason, usize>,
) -> Vec<CorrectedAnswer> {
    let mut count = |reason: ExclusionReason, n: usize| {
        if n > 0 {
            *left_out.entry(reason).or_default() += n;
        }
    };
    let mut order: Vec<Vec<AnnotatorJudgment>> = Vec::new();
    let mut places: HashMap<(String, String, String), usize> = HashMap::new();
    for voice in voices {
        let CorrectedAnswer {
            image,
            prompt,
            response,
            ..
        } = &voice.correction;
        let place = *places
            .entry((image.clone(), prompt.clone(), response.clone()))
            .or_insert_with(|| {
                order.push(Vec::new());
                order.len() - 1
            });
        let judges = &mut order[place];
        let before = judges.len();
        judges
            .retain(|earlier| earlier.annotator.is_none() || earlier.annotator != voice.annotator);
        count(ExclusionReason::Superseded, before - judges.len());
        judges.push(voice);
    }
    let mut kept = Vec::with_capacity(order.len());
    for judges in order {
        let with =
            |voice: &AnnotatorJudgment| judges.iter().filter(|other| voice.agrees(other)).count();
        // Ties go to judgments of all errors, then to the latest.
        let best = judges.iter().enumerate().max_by_key(|(i, voice)| {
            (
                with(voice),
                voice.correction.scope == CorrectionScope::AllErrors,
                *i,
            )
        });
        let Some((chosen, n)) = best.map(|(i, voice)| (i, with(voice))) else {
            continue;
        };
        if 2 * n <= judges.len() {
            count(ExclusionReason::Contradicted, judges.len());
            continue;
        }
        count(ExclusionReason::Repeated, n - 1);
        count(ExclusionReason::Contradicted, judges.len() - n);
        kept.extend(judges.into_iter().nth(chosen).map(|voice| voice.correction));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::record::{self, FeedbackSource, ImageHash, Versions};

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
            image: ImageHash::of(b"image"),
            prompt: String::new(),
            response: "A dog with a frisbee on grass.".into(),
            tokens: Vec::new(),
            kind,
            scope,
            errors: errors.iter().map(error).collect(),
            missing: Vec::new(),
            doubted: None,
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
    fn a_correction_reads_as_far_as_somebody_said_how() {
        let said = |text: &str, complete| (text.to_owned(), complete);
        assert_eq!(
            read(
                JudgedPart::AllErrors,
                &[(13, 20, Some("ball")), (24, 29, Some("snow"))]
            ),
            said("A dog with a ball on snow.", true)
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(6, 20, Some(""))]),
            said("A dog on grass.", true),
            "no double space is left"
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(20, 29, Some(""))]),
            said("A dog with a frisbee.", true)
        );
        assert_eq!(
            read(JudgedPart::FirstError, &[(13, 20, Some("ball"))]),
            said("A dog with a ball", false)
        );
        assert_eq!(
            read(JudgedPart::FirstError, &[(13, 20, None)]),
            said("A dog with a", false)
        );
        assert_eq!(
            read(
                JudgedPart::AllErrors,
                &[(13, 20, Some("ball")), (24, 29, None)]
            ),
            said("A dog with a ball on", false)
        );
        assert_eq!(
            read(JudgedPart::AllErrors, &[(20, 20, Some(" lying"))]),
            said("A dog with a frisbee lying on grass.", true)
        );
    }

    #[test]
    fn what_judges_no_token_is_no_correction() {
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

    fn voice(
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
    fn more_than_half_of_the_judges_decide_and_the_others_are_counted() {
        const FRISBEE: &[(usize, usize, Option<&str>)] = &[(13, 20, Some("ball"))];
        const BOTH: &[(usize, usize, Option<&str>)] =
            &[(13, 20, Some("ball")), (24, 29, Some("snow"))];
        let settle = |voices: Vec<AnnotatorJudgment>| {
            let mut left = BTreeMap::new();
            (
                settled(voices, &mut left)
                    .iter()
                    .map(|c| c.errors.len())
                    .collect::<Vec<_>>(),
                left.into_iter().collect::<Vec<_>>(),
            )
        };
        let all = JudgedPart::AllErrors;
        assert_eq!(
            settle(vec![voice(None, all, FRISBEE), voice(None, all, &[])]),
            (vec![], vec![(ExclusionReason::Contradicted, 2)])
        );
        assert_eq!(
            settle(vec![
                voice(None, all, FRISBEE),
                voice(None, all, &[]),
                voice(None, all, FRISBEE)
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
                voice(Some("a"), all, &[]),
                voice(Some("a"), all, FRISBEE)
            ]),
            (vec![1], vec![(ExclusionReason::Superseded, 1)])
        );
        assert_eq!(
            settle(vec![
                voice(None, all, BOTH),
                voice(None, JudgedPart::FirstError, FRISBEE)
            ]),
            (vec![2], vec![(ExclusionReason::Repeated, 1)]),
            "who looked no further than the first error agrees, and says less"
        );
    }
}
