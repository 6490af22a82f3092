//! Rewriting of a sentence with a phrase substituted or omitted.

use crate::{
    guard::{Action, Span, render},
    lexicon::{Lexicon, Phrase, Reading, TextWord, words},
};

/// Verbs that need an object.
const NEED_OBJECTS: [&str; 10] = [
    "wear", "hold", "carry", "ride", "throw", "catch", "hit", "use", "chase", "have",
];

/// Substitute for a phrase from the references, naming an object that the text does not name yet,
/// and its start in the text: a phrase behind the same word (`a red ball` for `a frisbee` behind
/// `with`) or else one with its own spatial relation (`in the snow` for `near a fence`).
pub(super) fn substitute(
    text: &str,
    phrase: &Phrase,
    references: &[String],
) -> Option<(usize, String)> {
    let lexicon = Lexicon::shared();
    let named = lexicon.phrases(text);
    let before = |text: &str, start: usize| words(&text[..start]).pop();
    let place = before(text, phrase.start);
    let new = |other: &Phrase| {
        !named
            .iter()
            .any(|p| lexicon.related(p.mention.concept, other.mention.concept))
    };
    let same = |reference: &String| {
        let word = |w: Option<TextWord>| w.map(|w| w.text);
        let alike = |p: &&Phrase| {
            p.determiner.is_some() == phrase.determiner.is_some()
                && word(before(reference, p.start)) == word(place.clone())
        };
        let found = lexicon.phrases(reference);
        found.iter().filter(alike).find(|p| new(p)).map(|p| {
            (
                phrase.start,
                reference[p.start..p.mention.range.end].to_owned(),
            )
        })
    };
    let relation = |w: &TextWord| lexicon.classes().is_relation(&w.text);
    let other = |reference: &String| {
        let start = place.as_ref().filter(|w| relation(w))?.range.start;
        let found = lexicon.phrases(reference);
        let mut fitting = found
            .iter()
            .filter(|p| new(p))
            .filter_map(|p| Some((before(reference, p.start).filter(relation)?, p)));
        fitting.next().map(|(word, p)| {
            (
                start,
                reference[word.range.start..p.mention.range.end].to_owned(),
            )
        })
    };
    references
        .iter()
        .find_map(same)
        .or_else(|| references.iter().find_map(other))
}

/// Text without the phrase, as `alt_text` omits it; `None` if the sentence needs it.
pub(super) fn without(text: &str, phrase: &Phrase) -> Option<String> {
    let chars = |byte: usize| text[..byte].chars().count();
    let range = phrase.mention.range.clone();
    let span = Span::new(
        chars(range.start)..chars(range.end),
        &text[range.clone()],
        0.0,
        Action::Flagged,
    );
    let shorter = render::alt_text(text, &[span], render::RenderStyle::Omitted);
    let vague = |text: &str| {
        ["some", "thing"]
            .iter()
            .any(|part| words(text).iter().any(|w| w.text.starts_with(part)))
    };
    (shorter != text && !vague(&shorter) && !shorter.is_empty()).then_some(shorter)
}

/// Text before the phrase as a sentence, without trailing function words and verbs; `None` if no
/// object mention remains.
pub(super) fn ended(text: &str, phrase: &Phrase) -> Option<String> {
    let lexicon = Lexicon::shared();
    let mut before = words(&text[..phrase.start]);
    let leads = |word: &str| {
        let acts = lexicon
            .verbs()
            .analyze(word)
            .is_some_and(|(verb, _)| NEED_OBJECTS.contains(&verb));
        acts || word == "near"
            || lexicon.classes().is_function(word)
            || lexicon.classes().is_adjective(word)
    };
    while before.last().is_some_and(|word| leads(&word.text)) {
        before.pop();
    }
    let kept = &text[..before.last()?.range.end];
    (!lexicon.phrases(kept).is_empty()).then(|| format!("{kept}."))
}

/// Reference that shares the largest part of its words with the text.
pub(super) fn nearest(text: &str, references: &[String]) -> String {
    let lexicon = Lexicon::shared();
    let own: Vec<String> = words(text).into_iter().map(|w| w.text).collect();
    let shared = |reference: &&String| {
        let theirs = words(reference);
        let common = theirs.iter().filter(|w| own.contains(&w.text)).count();
        // Share in thousandths, which is comparable; ties go to the reference with more phrases.
        (
            1000 * common / theirs.len().max(1),
            Reading::new(lexicon, reference).phrases.len(),
        )
    };
    references
        .iter()
        .max_by_key(shared)
        .cloned()
        .unwrap_or_default()
}
