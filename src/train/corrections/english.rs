//! English sentences with a phrase replaced or left out.

use crate::{
    guard::{Action, Span, render},
    lexicon::{Lexicon, Phrase, Reading, TextWord, words},
};

/// Verbs that are incomplete without an object.
const NEED_OBJECTS: [&str; 10] = [
    "wear", "hold", "carry", "ride", "throw", "catch", "hit", "use", "chase", "have",
];

/// Finds a substitute for `phrase` in the references, naming an object that the text does not name
/// yet; returns the byte at which it starts. Preferred is a phrase after the same word (`a red
/// ball` for `a frisbee` after `with`), then one with its own relation (`in the snow` for `near a
/// fence`).
pub(super) fn substitute(
    text: &str,
    phrase: &Phrase,
    references: &[String],
) -> Option<(usize, String)> {
    let lexicon = Lexicon::shared();
    let named = lexicon.phrases(text);
    let preceding_word = |text: &str, start: usize| words(&text[..start]).pop();
    let preceding = preceding_word(text, phrase.start);
    let new = |other: &Phrase| {
        !named
            .iter()
            .any(|p| lexicon.related(p.mention.concept, other.mention.concept))
    };
    let same = |reference: &String| {
        let word = |w: Option<TextWord>| w.map(|w| w.text);
        let alike = |p: &&Phrase| {
            p.determiner.is_some() == phrase.determiner.is_some()
                && word(preceding_word(reference, p.start)) == word(preceding.clone())
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
        let start = preceding.as_ref().filter(|w| relation(w))?.range.start;
        let found = lexicon.phrases(reference);
        let mut fitting = found
            .iter()
            .filter(|p| new(p))
            .filter_map(|p| Some((preceding_word(reference, p.start).filter(relation)?, p)));
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

/// Removes a phrase as alt text would; `None` if something has to stay in its place.
pub(super) fn leave_out(text: &str, phrase: &Phrase) -> Option<String> {
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

/// Ends the sentence before a phrase, without the words that lead to it; `None` if no object is
/// left.
pub(super) fn end_before(text: &str, phrase: &Phrase) -> Option<String> {
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

/// Returns the reference with the largest share of words in common with the text.
pub(super) fn nearest(text: &str, references: &[String]) -> String {
    let lexicon = Lexicon::shared();
    let own: Vec<String> = words(text).into_iter().map(|w| w.text).collect();
    let shared = |reference: &&String| {
        let theirs = words(reference);
        let common = theirs.iter().filter(|w| own.contains(&w.text)).count();
        // Shares in thousandths, which are comparable; among equals the reference that names more
        // objects.
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
