//! Statement of what a photograph shows: the trusted mentions of a sentence, and objects that the
//! photograph has evidence of.

use super::{
    english::{article, is, is_plural},
    parse::Document,
    unfamiliar::trusted_phrases,
};
use crate::{
    guard::Span,
    lexicon::{Lexicon, is_always_plural},
};

/// Maximum number of objects that it names.
const MOST: usize = 3;

/// Returns a statement such as `There is a dog and a red cup.`: the mentions in `sentence` that no
/// span touches, then the objects of `likely` that it does not name; `None` if there are none.
pub fn statement(sentence: &str, spans: &[Span], likely: &[&str]) -> Option<String> {
    let mut things = trusted_phrases(&Document::new(sentence, &[], spans));
    for name in bare_things(sentence, spans)
        .into_iter()
        .chain(likely.iter().map(|&name| indefinite(name)))
    {
        if !is_named(&name, &things) {
            things.push(name);
        }
    }
    things.truncate(MOST);
    let verb = if things
        .first()?
        .split(' ')
        .next_back()
        .is_some_and(is_plural)
    {
        "are"
    } else {
        "is"
    };
    let list = match &things[..] {
        // "There is a bench." would read like a truncated sentence.
        [one] => format!("{one} to be seen"),
        [more @ .., last] => format!("{} and {last}", more.join(", ")),
        [] => return None,
    };
    Some(format!("There {verb} {list}."))
}

/// Returns the bare names of mentions that are trusted although other words of their phrases are
/// flagged.
fn bare_things(sentence: &str, spans: &[Span]) -> Vec<String> {
    let chars = |byte: usize| {
        sentence
            .get(..byte)
            .map_or(0, |before| before.chars().count())
    };
    let mentions = Lexicon::shared().mentions(sentence);
    let trusted = mentions.iter().filter(|mention| {
        let (start, end) = (chars(mention.range.start), chars(mention.range.end));
        !spans
            .iter()
            .any(|span| span.start < end && start < span.end)
    });
    trusted
        .filter_map(|mention| sentence.get(mention.range.clone()))
        .map(|name| indefinite(&name.to_lowercase()))
        .collect()
}

/// Returns `true` if one of `named` names what a phrase names, or a related concept.
fn is_named(phrase: &str, things: &[String]) -> bool {
    let lexicon = Lexicon::shared();
    let of = |text: &str| {
        lexicon
            .mentions(text)
            .into_iter()
            .map(|mention| mention.concept)
            .next_back()
    };
    let Some(concept) = of(phrase) else {
        return false;
    };
    things.iter().any(|thing| {
        of(thing).is_some_and(|other| other == concept || lexicon.related(other, concept))
    })
}

/// Returns a noun with its indefinite article, if it takes one.
fn indefinite(noun: &str) -> String {
    let head = noun.rsplit(' ').next().unwrap_or(noun);
    if is("mass", head) || is_plural(head) || is_always_plural(head) {
        noun.to_owned()
    } else {
        format!("{} {noun}", article(noun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::render::{is_whole, tests::example};

    #[test]
    fn it_names_what_is_trusted_and_what_there_is_evidence_of() {
        for (marked, likely, expected) in [
            (
                "A [man] is [riding] a [wave].",
                &["surfboard"][..],
                "There is a surfboard to be seen.",
            ),
            (
                "A man and a woman are [sitting] in a [car].",
                &["pizza"],
                "There is a man, a woman and a pizza.",
            ),
            (
                "A [boy] is sitting on a bench.",
                &[],
                "There is a bench to be seen.",
            ),
            (
                "A little boy is playing in a [small] toy.",
                &[],
                "There is a little boy and a toy.",
            ),
            (
                "Two dogs are [riding] a [horse].",
                &["dog", "grass"],
                "There are two dogs and grass.",
            ),
            (
                "A [white] [dog] is running on the [beach].",
                &["elephant", "apple"],
                "There is an elephant and an apple.",
            ),
            (
                "A man and a woman and a dog and a [cat] are [here].",
                &["pizza"],
                "There is a man, a woman and a dog.",
            ),
        ] {
            let (text, spans) = example(marked);
            let found = statement(&text, &spans, likely);
            assert_eq!(found.as_deref(), Some(expected), "{marked}");
            assert!(is_whole(expected), "{expected}");
        }
        let (text, spans) = example("A [man] is [riding] a [wave].");
        assert_eq!(statement(&text, &spans, &[]), None);
    }
}
