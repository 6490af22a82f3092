//! Statement of what a photograph shows: the trusted mentions of a sentence, and objects that the
//! photograph has evidence of.

use super::{
    english::{article, is_listed, is_plural},
    parse::Document,
    unfamiliar::trusted_phrases,
};
use crate::{
    guard::Span,
    lexicon::{Lexicon, is_always_plural},
};

/// Maximum number of objects that it names.
const MAX_NAMES: usize = 3;

/// Returns a statement such as `There is a dog and a red cup.`: the mentions in `sentence` that no
/// span touches, then the objects of `likely` that it does not name; `None` if there are none.
pub fn statement(sentence: &str, spans: &[Span], likely: &[&str]) -> Option<String> {
    let mut names = trusted_phrases(&Document::new(sentence, &[], spans));
    for name in bare_names(sentence, spans)
        .into_iter()
        .chain(likely.iter().map(|&name| indefinite(name)))
    {
        if !is_named(&name, &names) {
            names.push(name);
        }
    }
    names.truncate(MAX_NAMES);
    let verb = if names.first()?.split(' ').next_back().is_some_and(is_plural) {
        "are"
    } else {
        "is"
    };
    let list = match &names[..] {
        // "There is a bench." would read like a truncated sentence.
        [one] => format!("{one} to be seen"),
        [more @ .., last] => format!("{} and {last}", more.join(", ")),
        [] => return None,
    };
    Some(format!("There {verb} {list}."))
}

/// Returns the bare names of mentions that are trusted although other words of their phrases are
/// flagged.
fn bare_names(sentence: &str, spans: &[Span]) -> Vec<String> {
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

/// Returns `true` if one of `names` names the concept of a phrase, or a related concept.
fn is_named(phrase: &str, names: &[String]) -> bool {
    let lexicon = Lexicon::shared();
    let last_concept = |text: &str| {
        lexicon
            .mentions(text)
            .into_iter()
            .map(|mention| mention.concept)
            .next_back()
    };
    let Some(concept) = last_concept(phrase) else {
        return false;
    };
    names.iter().any(|name| {
        last_concept(name).is_some_and(|other| other == concept || lexicon.related(other, concept))
    })
}

/// Returns a noun with its indefinite article, if it takes one.
fn indefinite(noun: &str) -> String {
    let head = noun.rsplit(' ').next().unwrap_or(noun);
    if is_listed("mass", head) || is_plural(head) || is_always_plural(head) {
        noun.to_owned()
    } else {
        format!("{} {noun}", article(noun))
    }
}
