//! Object matching of CHAIR's reference code (`utils/chair.py` of Rohrbach et al.), including what
//! is hard-coded there.

use std::{borrow::Cow, collections::HashMap, ops::Range, sync::LazyLock};

use super::{singularize::singularize, tokenize::tokens};

/// Pairs of words that count as one compound.
const PAIRS: &str = "motor bike|motor cycle|air plane|traffic light|street light|traffic \
                     signal|stop light|fire hydrant|stop sign|parking meter|\
    suit case|sports ball|baseball bat|baseball glove|tennis racket|wine glass|hot dog|cell \
    phone|mobile phone|teddy bear|hair drier|potted plant|\
    laptop computer|home plate";
/// Pairs of words that count as another word. `glass` is `glas` after [`singularize`].
const PAIRS_OF_ONE: [(&str, &str); 3] = [
    ("bow tie", "tie"),
    ("toilet seat", "toilet"),
    ("wine glas", "wine glass"),
];
/// After `baby` or `adult`, these are not people.
const ANIMALS: &str = "bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|animal|cub";
/// After `passenger`, these are not people.
const VEHICLES: &str = "jet|train";

type Pairs = HashMap<String, HashMap<String, String>>;

/// First word, second word, and the word they count as.
static JOINED: LazyLock<Pairs> = LazyLock::new(|| {
    let qualified = |qualifier: &'static str, nouns: &'static str| {
        nouns
            .split('|')
            .map(move |noun| (format!("{qualifier} {noun}"), noun))
    };
    let mut joined = Pairs::new();
    let pairs = PAIRS
        .split('|')
        .map(|pair| (pair.to_owned(), pair))
        .chain(PAIRS_OF_ONE.map(|(pair, one)| (pair.to_owned(), one)));
    let pairs = pairs
        .chain(qualified("baby", ANIMALS))
        .chain(qualified("adult", ANIMALS))
        .chain(qualified("passenger", VEHICLES));
    for (pair, one) in pairs {
        if let Some((first, second)) = pair.split_once(' ') {
            joined
                .entry(first.to_owned())
                .or_default()
                .insert(second.to_owned(), one.to_owned());
        }
    }
    joined
});

/// Finds the words of a caption that are in a list: byte range and entry of each.
pub(super) fn find<T: Copy>(caption: &str, list: &HashMap<String, T>) -> Vec<(Range<usize>, T)> {
    let ranges = tokens(caption);
    let lower: Vec<Cow<str>> = ranges
        .iter()
        .map(|range| lower(&caption[range.clone()]))
        .collect();
    let words: Vec<_> = lower.iter().map(|word| singularize(word)).collect();
    let mut joined: Vec<(Range<usize>, &str)> = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let pair = JOINED
            .get(&*words[at])
            .zip(words.get(at + 1))
            .and_then(|(seconds, second)| seconds.get(&**second));
        let taken = 1 + usize::from(pair.is_some());
        joined.push((
            ranges[at].start..ranges[at + taken - 1].end,
            pair.map_or(&*words[at], String::as_str),
        ));
        at += taken;
    }
    if joined.iter().any(|(_, word)| *word == "toilet") {
        joined.retain(|(_, word)| *word != "seat");
    }
    joined
        .into_iter()
        .filter_map(|(range, word)| Some((range, *list.get(word)?)))
        .collect()
}

/// Word in lower case, copied only if it has capitals.
fn lower(word: &str) -> Cow<'_, str> {
    if word
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(word.to_lowercase())
    }
}
