//! Simulated annotator: finds the object mentions in an answer that no reference supports, and
//! corrects them with what the references name. It stands in for a person.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use super::{CorrectedAnswer, CorrectionScope, english};
use crate::lexicon::{Lexicon, Phrase, ReferenceTexts, Support};

/// Settings of the simulated annotator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotator {
    /// Part of an answer that is corrected.
    pub scope: CorrectionScope,
    /// Share of answers in which something correct is marked instead of the errors, 0 to 1.
    pub wrong: f64,
}

/// Maximum errors per answer.
const MOST: usize = 8;

impl Annotator {
    /// Corrects one description of an image with the given references; deterministic in the state
    /// of `rng`.
    pub fn correct(
        &self,
        image: &str,
        response: &str,
        references: &[String],
        rng: &mut SmallRng,
    ) -> CorrectedAnswer {
        let lexicon = Lexicon::shared();
        let named = ReferenceTexts::new(lexicon, references);
        let phrases = lexicon.phrases(response);
        let errs = rng.random_bool(self.wrong);
        let wrong = |phrase: &&Phrase| (named.supports(&phrase.mention) == Support::None) != errs;
        let mut marked: Vec<&Phrase> = phrases.iter().filter(wrong).collect();
        if errs {
            // A mistaken annotator marks one correct phrase.
            marked = marked.choose(rng).copied().into_iter().collect();
        }
        marked.truncate(if self.scope == CorrectionScope::FirstError {
            1
        } else {
            MOST
        });
        let chars = |byte: usize| response[..byte].chars().count();
        let errors = marked
            .iter()
            .map(|p| (chars(p.mention.range.start), chars(p.mention.range.end)))
            .collect();
        let (corrected, complete) = match (self.scope, marked.first()) {
            (_, None) => (response.to_owned(), true),
            (CorrectionScope::FirstError, Some(phrase)) => first(response, phrase, references),
            (CorrectionScope::AllErrors, Some(phrase)) if errs => {
                (whole(response, phrase, references), true)
            }
            (CorrectionScope::AllErrors, Some(_)) => (all(response, &named, references), true),
        };
        CorrectedAnswer {
            image: image.to_owned(),
            prompt: String::new(),
            response: response.to_owned(),
            scope: self.scope,
            errors,
            corrected,
            complete,
        }
    }
}

/// Text up to and including the substitute of a phrase, and whether the text is complete there.
fn first(text: &str, phrase: &Phrase, references: &[String]) -> (String, bool) {
    match english::substitute(text, phrase, references) {
        Some((start, substitute)) => (format!("{}{substitute}", &text[..start]), false),
        None => (
            english::ended(text, phrase).unwrap_or_else(|| english::nearest(text, references)),
            true,
        ),
    }
}

/// Corrects all unsupported phrases, starting from the last: an omission may change text before it,
/// but not after it.
fn all(text: &str, named: &ReferenceTexts<'_>, references: &[String]) -> String {
    let mut text = text.to_owned();
    for _ in 0..MOST {
        let phrases = Lexicon::shared().phrases(&text);
        let Some(wrong) = phrases
            .iter()
            .rfind(|p| named.supports(&p.mention) == Support::None)
        else {
            break;
        };
        text = whole(&text, wrong, references);
    }
    text
}

/// Text with a phrase substituted or, if nothing fits, omitted.
fn whole(text: &str, phrase: &Phrase, references: &[String]) -> String {
    if let Some((start, substitute)) = english::substitute(text, phrase, references) {
        return format!(
            "{}{substitute}{}",
            &text[..start],
            &text[phrase.mention.range.end..]
        );
    }
    english::without(text, phrase)
        .or_else(|| english::ended(text, phrase))
        .unwrap_or_else(|| english::nearest(text, references))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::eval::objects;

    fn references() -> Vec<String> {
        [
            "A black dog runs through the snow with a red ball.",
            "A dog in the snow.",
            "The dog is playing on a hill.",
        ]
        .map(str::to_owned)
        .into()
    }

    fn corrected(scope: CorrectionScope, response: &str) -> CorrectedAnswer {
        Annotator { scope, wrong: 0.0 }.correct(
            "a.jpg",
            response,
            &references(),
            &mut SmallRng::seed_from_u64(1),
        )
    }

    #[test]
    fn what_nobody_named_is_replaced_by_what_somebody_did() {
        let found = corrected(
            CorrectionScope::AllErrors,
            "A dog runs with a frisbee in the grass.",
        );
        assert_eq!(found.errors.len(), 2);
        assert_eq!(found.corrected, "A dog runs with a red ball in the snow.");
        assert!(
            objects::judge(Lexicon::shared(), &found.corrected, &references())
                .hallucinated
                .is_empty()
        );
    }

    #[test]
    fn several_errors_that_end_the_sentence_leave_one_that_is_right() {
        let response = "A group of people are standing in hands take their way near a fence.";
        let found = corrected(CorrectionScope::AllErrors, response);
        assert!(
            objects::judge(Lexicon::shared(), &found.corrected, &references())
                .hallucinated
                .is_empty(),
            "{found:?}"
        );
    }

    #[test]
    fn what_cannot_be_replaced_is_left_out() {
        let response = "A dog with a red ball runs up a hill through the snow near a fence.";
        assert_eq!(
            corrected(CorrectionScope::AllErrors, response).corrected,
            "A dog with a red ball runs up a hill through the snow."
        );
        assert_eq!(
            corrected(
                CorrectionScope::AllErrors,
                "A dog with a ball runs near a fence."
            )
            .corrected,
            "A dog with a ball runs through the snow."
        );
        assert_eq!(
            corrected(CorrectionScope::AllErrors, "A dog in the snow.").errors,
            []
        );
    }

    #[test]
    fn a_first_error_says_nothing_of_what_follows() {
        let found = corrected(
            CorrectionScope::FirstError,
            "A dog runs with a frisbee in the grass.",
        );
        assert_eq!(
            (found.corrected.as_str(), found.complete),
            ("A dog runs with a red ball", false)
        );
        assert_eq!(found.judged().0, "A dog runs with a frisbee");
        let found = corrected(
            CorrectionScope::FirstError,
            "A dog with a ball runs up a hill in the snow near a fence in the grass.",
        );
        assert_eq!(
            (found.corrected.as_str(), found.complete),
            ("A dog with a ball runs up a hill in the snow.", true)
        );
    }

    #[test]
    fn a_wrong_annotator_marks_what_is_right() {
        let wrong = Annotator {
            scope: CorrectionScope::AllErrors,
            wrong: 1.0,
        };
        let found = wrong.correct(
            "a.jpg",
            "A dog runs with a frisbee.",
            &references(),
            &mut SmallRng::seed_from_u64(1),
        );
        assert_eq!(found.errors, [(2, 5)]);
    }
}
