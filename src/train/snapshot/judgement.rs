//! What a record of feedback is worth as a correction, and whose word holds where several people
//! judged the same answer. Pure.

use std::collections::{BTreeMap, HashMap};

use super::Reason;
use crate::{
    feedback::record::{Feedback, Kind, Scope as Judged},
    train::corrections::{Correction, Scope},
};

/// Most tokens of a response.
const TOKENS: usize = 96;

/// Most code points of a prompt.
const PROMPT_CHARS: usize = 240;

/// The record as a correction.
pub(super) fn correction(record: &Feedback) -> Result<Correction, Reason> {
    let scope = match (record.scope, record.kind) {
        (Some(Judged::AllErrors), _) => Scope::AllErrors,
        // What only names a missing thing judges no token.
        (None, Kind::Missing) => return Err(Reason::NothingJudged),
        (Some(Judged::FirstError) | None, _) => Scope::FirstError,
    };
    if record.response.trim().is_empty() || (record.kind == Kind::Bad && record.errors.is_empty()) {
        return Err(Reason::NothingJudged);
    }
    if record.tokens.len() > TOKENS
        || record.response.chars().count() > 8 * TOKENS
        || record.prompt.chars().count() > PROMPT_CHARS
    {
        return Err(Reason::TooLong);
    }
    if [&record.prompt, &record.response]
        .iter()
        .any(|text| text.contains("<|"))
    {
        return Err(Reason::SpecialToken);
    }
    let (corrected, complete) = corrected(record, scope);
    Ok(Correction {
        image: record.image.to_string(),
        prompt: record.prompt.trim().to_owned(),
        response: record.response.clone(),
        scope,
        errors: record.errors.iter().map(|e| (e.start, e.end)).collect(),
        corrected,
        complete,
    })
}

/// How the response should read, as far as somebody said so, and whether it should end there: where
/// only the first error was judged the text ends with what stands in its place, and where nobody
/// said what should, before it.
fn corrected(record: &Feedback, scope: Scope) -> (String, bool) {
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
        if scope == Scope::FirstError {
            return (tidy(&text), false);
        }
        at = error.end;
    }
    text += &piece(at, usize::MAX);
    (tidy(&text), true)
}

/// One space between words, and none before a full stop: where a word was left out, two were.
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

/// One judgement of an answer, and its maker.
pub(super) struct Voice {
    pub(super) annotator: Option<String>,
    pub(super) correction: Correction,
}

impl Voice {
    /// Returns `true` if two say the same: of all errors, or, where one of them looked no further,
    /// of the first.
    fn agrees(&self, other: &Self) -> bool {
        let (a, b) = (&self.correction, &other.correction);
        match (a.scope, b.scope) {
            (Scope::AllErrors, Scope::AllErrors) => a.errors == b.errors,
            _ => a.errors.first() == b.errors.first(),
        }
    }
}

/// Of all judgements, the oldest first, one an answer: that which more than half of its judges
/// hold, in the place of the answer's first. The others are counted.
pub(super) fn settled(
    voices: Vec<Voice>,
    left_out: &mut BTreeMap<Reason, usize>,
) -> Vec<Correction> {
    let mut count = |reason: Reason, n: usize| {
        if n > 0 {
            *left_out.entry(reason).or_default() += n;
        }
    };
    let mut order: Vec<Vec<Voice>> = Vec::new();
    let mut places: HashMap<(String, String, String), usize> = HashMap::new();
    for voice in voices {
        let Correction {
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
        count(Reason::Superseded, before - judges.len());
        judges.push(voice);
    }
    let mut kept = Vec::with_capacity(order.len());
    for judges in order {
        let with = |voice: &Voice| judges.iter().filter(|other| voice.agrees(other)).count();
        // Who looked at everything says more; of those the last one.
        let best = judges
            .iter()
            .enumerate()
            .max_by_key(|(i, voice)| (with(voice), voice.correction.scope == Scope::AllErrors, *i));
        let Some((chosen, n)) = best.map(|(i, voice)| (i, with(voice))) else {
            continue;
        };
        if 2 * n <= judges.len() {
            count(Reason::Contradicted, judges.len());
            continue;
        }
        count(Reason::Repeated, n - 1);
        count(Reason::Contradicted, judges.len() - n);
        kept.extend(judges.into_iter().nth(chosen).map(|voice| voice.correction));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::record::{self, ImageHash, Source, Versions};

    fn record(
        scope: Option<Judged>,
        kind: Kind,
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
            source: Source::Human,
        }
    }

    fn read(scope: Judged, errors: &[(usize, usize, Option<&str>)]) -> (String, bool) {
        let c = correction(&record(Some(scope), Kind::Bad, errors)).unwrap();
        (c.corrected, c.complete)
    }

    #[test]
    fn a_correction_reads_as_far_as_somebody_said_how() {
        let said = |text: &str, complete| (text.to_owned(), complete);
        assert_eq!(
            read(
                Judged::AllErrors,
                &[(13, 20, Some("ball")), (24, 29, Some("snow"))]
            ),
            said("A dog with a ball on snow.", true)
        );
        assert_eq!(
            read(Judged::AllErrors, &[(6, 20, Some(""))]),
            said("A dog on grass.", true),
            "no double space is left"
        );
        assert_eq!(
            read(Judged::AllErrors, &[(20, 29, Some(""))]),
            said("A dog with a frisbee.", true)
        );
        assert_eq!(
            read(Judged::FirstError, &[(13, 20, Some("ball"))]),
            said("A dog with a ball", false)
        );
        assert_eq!(
            read(Judged::FirstError, &[(13, 20, None)]),
            said("A dog with a", false)
        );
        assert_eq!(
            read(Judged::AllErrors, &[(13, 20, Some("ball")), (24, 29, None)]),
            said("A dog with a ball on", false)
        );
        assert_eq!(
            read(Judged::AllErrors, &[(20, 20, Some(" lying"))]),
            said("A dog with a frisbee lying on grass.", true)
        );
    }

    #[test]
    fn what_judges_no_token_is_no_correction() {
        assert_eq!(
            correction(&record(None, Kind::Missing, &[])),
            Err(Reason::NothingJudged)
        );
        assert_eq!(
            correction(&record(Some(Judged::AllErrors), Kind::Bad, &[])),
            Err(Reason::NothingJudged)
        );
        let good = correction(&record(Some(Judged::AllErrors), Kind::Good, &[])).unwrap();
        assert_eq!(
            (good.errors.len(), good.complete, good.corrected.as_str()),
            (0, true, "A dog with a frisbee on grass.")
        );
        let long = Feedback {
            prompt: "x".repeat(300),
            ..record(Some(Judged::AllErrors), Kind::Good, &[])
        };
        assert_eq!(correction(&long), Err(Reason::TooLong));
        let special = Feedback {
            prompt: "<|end|>".into(),
            ..record(Some(Judged::AllErrors), Kind::Good, &[])
        };
        assert_eq!(correction(&special), Err(Reason::SpecialToken));
    }

    fn voice(
        annotator: Option<&str>,
        scope: Judged,
        errors: &[(usize, usize, Option<&str>)],
    ) -> Voice {
        let kind = if errors.is_empty() {
            Kind::Good
        } else {
            Kind::Bad
        };
        Voice {
            annotator: annotator.map(str::to_owned),
            correction: correction(&record(Some(scope), kind, errors)).unwrap(),
        }
    }

    #[test]
    fn more_than_half_of_the_judges_decide_and_the_others_are_counted() {
        const FRISBEE: &[(usize, usize, Option<&str>)] = &[(13, 20, Some("ball"))];
        const BOTH: &[(usize, usize, Option<&str>)] =
            &[(13, 20, Some("ball")), (24, 29, Some("snow"))];
        let settle = |voices: Vec<Voice>| {
            let mut left = BTreeMap::new();
            (
                settled(voices, &mut left)
                    .iter()
                    .map(|c| c.errors.len())
                    .collect::<Vec<_>>(),
                left.into_iter().collect::<Vec<_>>(),
            )
        };
        let all = Judged::AllErrors;
        assert_eq!(
            settle(vec![voice(None, all, FRISBEE), voice(None, all, &[])]),
            (vec![], vec![(Reason::Contradicted, 2)])
        );
        assert_eq!(
            settle(vec![
                voice(None, all, FRISBEE),
                voice(None, all, &[]),
                voice(None, all, FRISBEE)
            ]),
            (
                vec![1],
                vec![(Reason::Repeated, 1), (Reason::Contradicted, 1)]
            )
        );
        assert_eq!(
            settle(vec![
                voice(Some("a"), all, &[]),
                voice(Some("a"), all, FRISBEE)
            ]),
            (vec![1], vec![(Reason::Superseded, 1)])
        );
        assert_eq!(
            settle(vec![
                voice(None, all, BOTH),
                voice(None, Judged::FirstError, FRISBEE)
            ]),
            (vec![2], vec![(Reason::Repeated, 1)]),
            "who looked no further than the first error agrees, and says less"
        );
    }
}
