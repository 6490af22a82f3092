//! Singular of English nouns by the rules of the `pattern` library, which CHAIR's reference code
//! uses, errors included.
//!
//! The rules are those of `pattern.en.inflect.singularize` (De Smedt and Daelemans, JMLR 2012;
//! after Bermi Ferrer's Inflector) for words in lower case. CHAIR's published figures depend on
//! their errors: `bus` becomes `bu` and `ties` becomes `ty`, so that neither is counted.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Words that are their own plural or have none.
const UNCHANGING: &str = "advice bison bread bream breeches britches butter carp chassis cheese \
                          christmas clippers cod contretemps corps debris \
    diabetes djinn eland electricity elk equipment flounder fruit furniture gallows garbage \
    georgia graffiti gravel happiness headquarters herpes \
    high-jinks homework information innings jackanapes ketchup knowledge love luggage mackerel \
    mathematics mayonnaise measles meat mews mumps mustard \
    news pincers pliers proceedings progress rabies research rice salmon sand scissors series \
    shears software species swine swiss trout tuna \
    understanding water whiting wildebeest";

/// Endings in -ie whose plural the library leaves alone (`cookies`). The two with a `^` were meant
/// to exclude `tie` and `pie`, and match neither.
const IN_IE: &str = "^pie ^tie alergie auntie beanie birdie bogie bombie collie cookie cutie \
                     doggie eyrie freebie goonie groupie hankie hippie hoagie hottie \
    indie junkie laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie rookie \
    softie sortie stoolie sweetie techie toughie \
    valkyrie veggie weenie yuppie zombie";

/// Irregular endings and their replacements.
#[rustfmt::skip]
const IRREGULAR: &[(&str, &str)] = &[
    ("atlantes", "atlas"), ("atlases", "atlas"), ("axes", "axe"), ("beeves", "beef"),
    ("brethren", "brother"), ("children", "child"),
    ("corpora", "corpus"), ("corpuses", "corpus"), ("ephemerides", "ephemeris"), ("feet", "foot"),
    ("ganglia", "ganglion"), ("geese", "goose"),
    ("genera", "genus"), ("genii", "genie"), ("graffiti", "graffito"), ("helves", "helve"),
    ("kine", "cow"), ("leaves", "leaf"),
    ("loaves", "loaf"), ("men", "man"), ("mongooses", "mongoose"), ("monies", "money"),
    ("moves", "move"), ("mythoi", "mythos"),
    ("numena", "numen"), ("occipita", "occiput"), ("octopodes", "octopus"), ("opera", "opus"),
    ("opuses", "opus"), ("our", "my"),
    ("oxen", "ox"), ("penes", "penis"), ("penises", "penis"), ("people", "person"),
    ("sexes", "sex"), ("soliloquies", "soliloquy"),
    ("teeth", "tooth"), ("testes", "testis"), ("trilbys", "trilby"), ("turves", "turf"),
    ("zoa", "zoon"),
];

/// Words before which the first part of a compound is inflected (`mothers-in-law`).
const PREPOSITIONS: &str = "about above across after among around at athwart before behind below \
                            beneath beside besides between betwixt beyond but by \
    during except for from in into near of off on onto out over since till to under until unto \
    upon with";

/// Rule for an ending: condition on the text before it, the ending, and its replacement.
type Rule = (Before, &'static str, &'static str);

/// Condition on the text before an ending.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// No condition.
    Any,
    /// At least one character.
    Character,
    /// One of these characters.
    In(&'static str),
    /// A character other than these.
    NotIn(&'static str),
    /// One of these texts.
    One(&'static [&'static str]),
    /// Exactly this text.
    Only(&'static str),
}
use Before::{Any, Character, In, NotIn, One, Only};

/// Rules in order; the first that matches a word applies.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    (Character, "ae", "a"),
    (Character, "itis", "itis"),
    (Character, "eaux", "eau"),
    (One(&["quiz"]), "zes", ""),
    (One(&["matr"]), "ices", "ix"),
    (One(&["ap", "vert", "ind"]), "ices", "ex"),
    (One(&["alias", "status"]), "es", ""),
    // The library means "octop or vir" but writes a character class; likewise "m or l" below.
    (In("octp|vir"), "i", "us"),
    (One(&["cris", "ax", "test"]), "es", "is"),
    (One(&["shoe"]), "s", ""),
    (One(&["o", "bus"]), "es", ""),
    (In("m|l"), "ice", "ouse"),
    (One(&["x", "ch", "ss", "sh"]), "es", ""),
    (One(&["m"]), "ovies", "ovie"),
    (Character, "ombies", "ombie"),
    (One(&["s"]), "eries", "eries"),
    (NotIn("aeiouy"), "ies", "y"),
    (One(&["qu"]), "ies", "y"),
    (One(&["al", "el", "ol"]), "ves", "f"),
    (NotIn("d"), "eaves", "eaf"),
    (Any, "arves", "arf"),
    (Any, "erves", "erve"),
    (One(&["ni", "li", "wi"]), "ves", "fe"),
    (In("lr"), "ves", "f"),
    (In("aeo"), "ves", "ve"),
    (One(&["sive", "tive", "hive"]), "s", ""),
    (NotIn("f"), "ves", "fe"),
    (Only("analy"), "ses", "sis"),
    // The library's expression repeats a captured group here.
    (One(&["analy"]), "ses", "asis"),
    (One(&["ba", "diagno", "parenthe", "progno", "synop", "the"]), "ses", "sis"),
    (Character, "opses", "opsis"),
    (Character, "yses", "ysis"),
    (One(&["h", "d", "r", "o", "n", "b", "cl", "p"]), "oses", "ose"),
    (Character, "oses", "osis"),
    (In("ti"), "a", "um"),
    (One(&["n"]), "ews", "ews"),
    (Any, "s", ""),
];

/// Every suffix of an unchanging word: the library tests whether such a word ends in the one at
/// hand, not whether it equals it.
static ENDS_OF_UNCHANGING: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    UNCHANGING
        .split_whitespace()
        .flat_map(|word| word.char_indices().map(|(at, _)| &word[at..]))
        .collect()
});

/// Irregular endings and rules in order, by the last letter of the ending, so that most words test
/// few.
static BY_LAST: LazyLock<HashMap<u8, Vec<Rule>>> = LazyLock::new(|| {
    let mut by_last: HashMap<u8, Vec<Rule>> = HashMap::new();
    for rule in IRREGULAR
        .iter()
        .map(|&(ending, by)| (Any, ending, by))
        .chain(RULES.iter().copied())
    {
        rule.1
            .bytes()
            .next_back()
            .into_iter()
            .for_each(|last| by_last.entry(last).or_default().push(rule));
    }
    by_last
});

static AFTER_FIRST: LazyLock<HashSet<&str>> =
    LazyLock::new(|| PREPOSITIONS.split_whitespace().collect());

impl Before {
    fn fits(self, head: &str) -> bool {
        match self {
            Any => true,
            Character => !head.is_empty(),
            In(set) => head.chars().next_back().is_some_and(|c| set.contains(c)),
            NotIn(set) => head.chars().next_back().is_some_and(|c| !set.contains(c)),
            One(ends) => ends.iter().any(|end| head.ends_with(end)),
            Only(all) => head == all,
        }
    }
}

/// Singular of a word in lower case, as the reference code computes it.
pub fn singularize(word: &str) -> Cow<'_, str> {
    let mut parts = word.split('-');
    if let (Some(first), Some(second)) = (parts.next(), parts.next())
        && AFTER_FIRST.contains(second)
    {
        return Cow::Owned(format!("{}{}", singularize(first), &word[first.len()..]));
    }
    if let Some(owner) = word.strip_suffix('\'') {
        return Cow::Owned(format!("{}'s", singularize(owner)));
    }
    // The one rule that looks at the beginning of a word. The library applies it later, after rules
    // that match no such word.
    if let Some(rest) = word.strip_prefix("oxen") {
        return Cow::Owned(format!("ox{rest}"));
    }
    let Some(rules) = word.bytes().next_back().and_then(|last| BY_LAST.get(&last)) else {
        return Cow::Borrowed(word);
    };
    let in_ie = || {
        word.strip_suffix('s').is_some_and(|stem| {
            stem.ends_with("ie") && IN_IE.split(' ').any(|ie| stem.ends_with(ie))
        })
    };
    if ENDS_OF_UNCHANGING.contains(word) || in_ie() {
        return Cow::Borrowed(word);
    }
    let fits = |(before, ending, _): &&Rule| {
        word.strip_suffix(ending)
            .is_some_and(|head| before.fits(head))
    };
    match rules.iter().find(fits) {
        Some((_, ending, by)) => Cow::Owned(format!("{}{by}", &word[..word.len() - ending.len()])),
        None => Cow::Borrowed(word),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn singularize_equals_the_library_errors_included() {
        for (word, want) in [
            ("dogs", "dog"),
            ("women", "woman"),
            ("people", "person"),
            ("children", "child"),
            ("buses", "bus"),
            ("bus", "bu"),
            ("glass", "glas"),
            ("glasses", "glass"),
            ("ties", "ty"),
            ("pies", "py"),
            ("cookies", "cookies"),
            ("puppies", "puppy"),
            ("mice", "mouse"),
            ("slice", "slouse"),
            ("knives", "knife"),
            ("sheaves", "sheaf"),
            ("headsleaves", "headsleaf"),
            ("deaves", "deave"),
            ("benches", "bench"),
            ("skis", "ski"),
            ("taxi", "taxi"),
            ("safari", "safarus"),
            ("pasta", "pastum"),
            ("bases", "basis"),
            ("analyses", "analysis"),
            ("reanalyses", "reanalyasis"),
            ("noses", "nose"),
            ("scissors", "scissors"),
            ("s", "s"),
            ("ice", "ice"),
            ("four", "fmy"),
            ("geese", "goose"),
            ("oxen", "ox"),
            ("oxenford", "oxford"),
            ("tomatoes", "tomato"),
            ("shoes", "shoe"),
            ("movies", "movie"),
            ("series", "series"),
            ("this", "thi"),
            ("men-at-arms", "man-at-arms"),
            ("t-shirts", "t-shirt"),
            ("dogs'", "dog's"),
            ("'", "'s"),
            ("", ""),
            ("cafés", "café"),
        ] {
            assert_eq!(singularize(word), want, "{word}");
        }
    }

    #[test]
    fn rule_is_never_hidden_by_an_earlier_one() {
        // The order of the irregular endings does not matter in the library either.
        for (ending, _) in IRREGULAR {
            assert_eq!(
                IRREGULAR
                    .iter()
                    .filter(|(other, _)| ending.ends_with(other))
                    .count(),
                1,
                "{ending}"
            );
        }
    }

    proptest! {
        #[test]
        fn singularize_of_any_word_does_not_panic(word in "\\PC{0,12}") {
            singularize(&word);
        }
    }
}
