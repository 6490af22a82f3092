//! The English grammar that rewriting a caption needs: word classes, number, articles and capitals.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Classes of words and phrases of each class, from `english.txt`.
struct Words {
    classes: HashMap<&'static str, Vec<&'static str>>,
    phrases: HashMap<&'static str, Vec<Vec<&'static str>>>,
    verbs: HashSet<String>,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| read(include_str!("english.txt")));

/// Parses `[class]` headings with words below them; in classes whose name ends in `phrases`, each
/// line is one phrase.
fn read(text: &'static str) -> Words {
    let mut words = Words {
        classes: HashMap::new(),
        phrases: HashMap::new(),
        verbs: HashSet::new(),
    };
    let mut class = "";
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            class = name;
        } else if class.ends_with("phrases") {
            words
                .phrases
                .entry(class)
                .or_default()
                .push(line.split(' ').collect());
        } else {
            for word in line.split(' ') {
                words.classes.entry(word).or_default().push(class);
            }
        }
    }
    for (&base, _) in words
        .classes
        .iter()
        .filter(|(_, classes)| classes.contains(&"verb"))
    {
        words.verbs.insert(base.to_owned());
        words.verbs.insert(third_person(base));
    }
    words
}

/// Returns `true` if `english.txt` lists a word, in lower case, in a class.
pub(super) fn is_listed(class: &str, word: &str) -> bool {
    WORDS
        .classes
        .get(word)
        .is_some_and(|classes| classes.contains(&class))
}

/// Returns the number of words of the longest phrase of a class that matches; `matches` is asked
/// for each word by its index.
pub(super) fn longest_phrase(class: &str, matches: impl Fn(usize, &str) -> bool) -> Option<usize> {
    let phrases = WORDS.phrases.get(class)?;
    phrases
        .iter()
        .filter(|words| words.iter().enumerate().all(|(i, word)| matches(i, word)))
        .map(Vec::len)
        .max()
}

/// Returns `true` if a word is a finite form of a verb: `run`, `runs`.
pub(super) fn is_finite_verb(word: &str) -> bool {
    WORDS.verbs.contains(word)
}

fn third_person(base: &str) -> String {
    let vowel_before_y = ["ay", "ey", "oy", "uy"]
        .iter()
        .any(|end| base.ends_with(end));
    match base.strip_suffix('y') {
        Some(stem) if !vowel_before_y => format!("{stem}ies"),
        _ if ["s", "x", "z", "ch", "sh", "go", "do"]
            .iter()
            .any(|end| base.ends_with(end)) =>
        {
            format!("{base}es")
        }
        _ => format!("{base}s"),
    }
}

/// Returns `true` if a noun in lower case is plural, as far as its form tells.
pub(super) fn is_plural(noun: &str) -> bool {
    let form = noun.ends_with('s')
        && !["ss", "us", "is", "as"]
            .iter()
            .any(|end| noun.ends_with(end))
        && noun.len() > 3;
    is_listed("plural", noun)
        || form && !is_listed("singular", noun)
        || noun.ends_with("men") && noun != "specimen"
}

/// Returns `true` if a noun in lower case names people of a kind.
pub(super) fn is_person(noun: &str) -> bool {
    has_form_listed("person", noun)
}

/// Returns `true` if a noun in lower case names animals.
pub(super) fn is_animal(noun: &str) -> bool {
    has_form_listed("animal", noun)
}

fn has_form_listed(class: &str, noun: &str) -> bool {
    let singular = |end: &str, to: &str| {
        noun.strip_suffix(end)
            .is_some_and(|stem| is_listed(class, &format!("{stem}{to}")))
    };
    is_listed(class, noun)
        || singular("s", "")
        || singular("es", "")
        || singular("men", "man")
        || singular("ies", "y")
}

/// Returns `a` or `an`, by the initial sound of a word as far as its spelling tells.
pub(super) fn article(word: &str) -> &'static str {
    let word = word.to_lowercase();
    let consonant = ["uni", "use", "usu", "one", "once", "eu", "ukul", "ut"]
        .iter()
        .any(|start| word.starts_with(start))
        && !["unim", "unin"].iter().any(|start| word.starts_with(start));
    let vowel = [
        "hour", "hono", "honest", "heir", "x-ray", "suv", "8", "11", "18",
    ]
    .iter()
    .any(|start| word.starts_with(start));
    if vowel || !consonant && word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// Returns a text with its first letter in upper case.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Returns a text with its first letter in lower case, unless the word has another capital or is
/// "I".
pub(super) fn uncapitalized(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return String::new();
    };
    if text == "I" || text.starts_with("I'") || chars.clone().any(char::is_uppercase) {
        return text.to_owned();
    }
    first.to_lowercase().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn article_follows_the_initial_sound() {
        for (word, expected) in [
            ("orange", "an"),
            ("unique", "a"),
            ("umbrella", "an"),
            ("hour", "an"),
            ("house", "a"),
            ("one", "a"),
            ("TV", "a"),
        ] {
            assert_eq!(article(word), expected, "{word}");
        }
    }

    #[test]
    fn number_and_kind_of_nouns_are_known() {
        assert!(
            is_plural("men")
                && is_plural("jeans")
                && is_plural("children")
                && !is_plural("grass")
                && !is_plural("bus")
        );
        assert!(
            is_person("women") && is_person("babies") && is_person("players") && !is_person("dogs")
        );
        assert!(is_animal("puppies") && !is_animal("boy"));
        assert!(is_finite_verb("catches") && is_finite_verb("play") && is_finite_verb("carries"));
        assert_eq!(
            (
                uncapitalized("TV"),
                uncapitalized("Dog"),
                uncapitalized("I")
            ),
            ("TV".into(), "dog".into(), "I".into())
        );
    }
}
