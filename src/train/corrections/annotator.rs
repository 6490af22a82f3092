//! Simulated annotator: marks objects that none of an image's reference captions name, and corrects
//! them with objects that a caption does name.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use super::{CorrectedAnswer, english};
use crate::{
    feedback::record::JudgedPart,
    lexicon::{Lexicon, Phrase, ReferenceTexts, Support},
};

/// Settings of the simulated annotator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotator {
    /// Part of an answer that it judges.
    pub scope: JudgedPart,
    /// Share of answers in which it marks a right object instead of the wrong ones, 0 to 1.
    pub wrong: f64,
}

/// Largest number of errors in an answer.
const MOST: usize = 8;

impl Annotator {
    /// Judges one description of an image by its reference captions. Deterministic for a state of
    /// `rng`.
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
            // A mistaken annotator marks a single error.
            marked = marked.choose(rng).copied().into_iter().collect();
        }
        marked.truncate(if self.scope == JudgedPart::FirstError {
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
            (JudgedPart::FirstError, Some(phrase)) => correct_first(response, phrase, references),
            (JudgedPart::AllErrors, Some(phrase)) if errs => {
                (correct_phrase(response, phrase, references), true)
            }
            (JudgedPart::AllErrors, Some(_)) => (correct_all(response, &named, references), true),
        };
        CorrectedAnswer {
            image: image.to_owned(),
            prompt: String::new(),
            response: response.to_owned(),
            scope: self.scope,
            errors,
            corrected,
            complete,
            tokens: None,
        }
    }
}

/// Returns the text up to a correction of `phrase`, and `true` if the sentence is complete there.
fn correct_first(text: &str, phrase: &Phrase, references: &[String]) -> (String, bool) {
    match english::substitute(text, phrase, references) {
        Some((start, substitute)) => (format!("{}{substitute}", &text[..start]), false),
        None => (
            english::end_before(text, phrase).unwrap_or_else(|| english::nearest(text, references)),
            true,
        ),
    }
}

/// Corrects every object that no reference names, from the last to the first: leaving out an object
/// may change the words before it, never those after it.
fn correct_all(text: &str, named: &ReferenceTexts<'_>, references: &[String]) -> String {
    let mut text = text.to_owned();
    for _ in 0..MOST {
        let phrases = Lexicon::shared().phrases(&text);
        let Some(wrong) = phrases
            .iter()
            .rfind(|p| named.supports(&p.mention) == Support::None)
        else {
            break;
        };
        text = correct_phrase(&text, wrong, references);
    }
    text
}

/// Replaces a phrase or, if no substitute fits, leaves it out.
fn correct_phrase(text: &str, phrase: &Phrase, references: &[String]) -> String {
    if let Some((start, substitute)) = english::substitute(text, phrase, references) {
        return format!(
            "{}{substitute}{}",
            &text[..start],
            &text[phrase.mention.range.end..]
        );
    }
    english::leave_out(text, phrase)
        .or_else(|| english::end_before(text, phrase))
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

    fn corrected(scope: JudgedPart, response: &str) -> CorrectedAnswer {
        Annotator { scope, wrong: 0.0 }.correct(
            "a.jpg",
            response,
            &references(),
            &mut SmallRng::seed_from_u64(1),
        )
    }

    #[test]
    fn unnamed_objects_are_replaced_by_named_ones() {
        let found = corrected(
            JudgedPart::AllErrors,
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
    fn errors_to_the_end_are_replaced_by_a_true_sentence() {
        let response = "A group of people are standing in hands take their way near a fence.";
        let found = corrected(JudgedPart::AllErrors, response);
        assert!(
            objects::judge(Lexicon::shared(), &found.corrected, &references())
                .hallucinated
                .is_empty(),
            "{found:?}"
        );
    }

    #[test]
    fn error_without_substitute_is_left_out() {
        let response = "A dog with a red ball runs up a hill through the snow near a fence.";
        assert_eq!(
            corrected(JudgedPart::AllErrors, response).corrected,
            "A dog with a red ball runs up a hill through the snow."
        );
        assert_eq!(
            corrected(
                JudgedPart::AllErrors,
                "A dog with a ball runs near a fence."
            )
            .corrected,
            "A dog with a ball runs through the snow."
        );
        assert_eq!(
            corrected(JudgedPart::AllErrors, "A dog in the snow.").errors,
            []
        );
    }

    #[test]
    fn first_error_ends_the_judged_text() {
        let found = corrected(
            JudgedPart::FirstError,
            "A dog runs with a frisbee in the grass.",
        );
        assert_eq!(
            (found.corrected.as_str(), found.complete),
            ("A dog runs with a red ball", false)
        );
        assert_eq!(found.judged().0, "A dog runs with a frisbee");
        let found = corrected(
            JudgedPart::FirstError,
            "A dog with a ball runs up a hill in the snow near a fence in the grass.",
        );
        assert_eq!(
            (found.corrected.as_str(), found.complete),
            ("A dog with a ball runs up a hill in the snow.", true)
        );
    }

    #[test]
    fn mistaken_annotator_marks_a_right_object() {
        let wrong = Annotator {
            scope: JudgedPart::AllErrors,
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
