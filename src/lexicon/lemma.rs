//! Lemmatization of nouns by WordNet's morphological rules and exceptions.

use super::{ConceptId, Lexicon};

/// Plural endings and their replacements (WordNet's `morphy` for nouns), `-s` first.
const RULES: [(&str, &str); 8] = [
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
];

/// Noun of the table, as found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noun {
    pub(super) lemma: &'static str,
    pub(super) concept: ConceptId,
    pub(super) plural: bool,
}

impl Lexicon {
    /// Returns the noun of which a word or phrase in lower case is a form.
    pub(super) fn noun(&self, phrase: &str) -> Option<Noun> {
        let found = |lemma: &str, plural| {
            self.nouns.get(lemma).map(|&(lemma, concept)| Noun {
                lemma,
                concept,
                plural,
            })
        };
        if let Some(noun) = found(phrase, false) {
            return Some(Noun {
                plural: is_always_plural(noun.lemma),
                ..noun
            });
        }
        let (head, last) = phrase
            .rsplit_once(' ')
            .map_or(("", phrase), |(head, last)| (head, last));
        let rejoin = |last: &str| {
            if head.is_empty() {
                last.to_owned()
            } else {
                format!("{head} {last}")
            }
        };
        if let Some(&singular) = self.plurals.get(last) {
            return found(&rejoin(singular), true);
        }
        if last.ends_with("ss") || last.len() < 3 {
            return None;
        }
        RULES.iter().find_map(|(end, replacement)| {
            found(
                &rejoin(&format!("{}{replacement}", last.strip_suffix(end)?)),
                true,
            )
        })
    }

    /// Returns the base form of a word in lower case: of a verb, or else of a noun, or else the
    /// word itself.
    pub fn base_form<'w>(&self, word: &'w str) -> &'w str
    where
        Self: 'w,
    {
        let verb = self.verbs.analyze(word).map(|(base, _)| base);
        verb.or_else(|| self.noun(word).map(|noun| noun.lemma))
            .unwrap_or(word)
    }

    /// Returns the plural of a noun of the table.
    pub fn plural(&self, lemma: &str) -> String {
        if is_always_plural(lemma) || is_unchanging(lemma) {
            return lemma.to_owned();
        }
        let (head, last) = lemma
            .rsplit_once(' ')
            .map_or(("", lemma), |(head, last)| (head, last));
        let irregular = self
            .plurals
            .iter()
            .filter(|&(_, &singular)| singular == last)
            .map(|(&plural, _)| plural)
            .min();
        let plural = match irregular {
            Some(plural) => plural.to_owned(),
            None if ["s", "x", "z", "ch", "sh"]
                .iter()
                .any(|end| last.ends_with(end)) =>
            {
                format!("{last}es")
            }
            None if last.ends_with('y')
                && !last.ends_with(['a', 'e', 'o', 'u'])
                && !ends_in_vowel_y(last) =>
            {
                format!("{}ies", &last[..last.len() - 1])
            }
            None if last.ends_with("man") && last != "human" => {
                format!("{}men", &last[..last.len() - 3])
            }
            None => format!("{last}s"),
        };
        if head.is_empty() {
            plural
        } else {
            format!("{head} {plural}")
        }
    }
}

fn ends_in_vowel_y(word: &str) -> bool {
    ["ay", "ey", "oy", "uy"]
        .iter()
        .any(|end| word.ends_with(end))
}

/// Returns `true` if a noun is always plural (`pants`, `people`).
pub fn is_always_plural(lemma: &str) -> bool {
    let plural_s = lemma.ends_with('s')
        && !["ss", "us", "is", "as", "os", "lens", "cutlass"]
            .iter()
            .any(|end| lemma.ends_with(end));
    plural_s && !matches!(lemma, "bus" | "canvas" | "tennis" | "gas")
        || matches!(lemma, "people" | "police" | "cattle")
}

fn is_unchanging(lemma: &str) -> bool {
    matches!(
        lemma.rsplit(' ').next(),
        Some("fish" | "sheep" | "deer" | "clothing" | "luggage" | "equipment" | "aircraft")
    )
}

/// Returns `a` or `an`, by the initial sound of a word.
pub fn indefinite_article(word: &str) -> &'static str {
    let word = word.to_lowercase();
    let consonant_sound = ["uni", "use", "euro", "one", "u-", "ukul", "ut"]
        .iter()
        .any(|start| word.starts_with(start));
    let vowel_sound = ["hour", "honor", "heir", "x-ray", "suv", "8", "11", "18"]
        .iter()
        .any(|start| word.starts_with(start));
    if vowel_sound || !consonant_sound && word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noun_of_a_plural_is_its_singular() {
        let lexicon = Lexicon::shared();
        for (form, lemma, plural) in [
            ("dogs", "dog", true),
            ("dog", "dog", false),
            ("women", "woman", true),
            ("snowmen", "snowman", true),
            ("children", "child", true),
            ("leaves", "leaf", true),
            ("teeth", "tooth", true),
            ("benches", "bench", true),
            ("puppies", "puppy", true),
            ("buses", "bus", true),
            ("bus", "bus", false),
            ("glasses", "glasses", true),
            ("shoes", "shoe", true),
            ("hot dogs", "hot dog", true),
            ("fire hydrants", "fire hydrant", true),
            ("people", "people", true),
            ("pants", "pants", true),
            ("geese", "goose", true),
            ("skis", "ski", true),
            ("grass", "grass", false),
        ] {
            let noun = lexicon.noun(form).unwrap_or_else(|| panic!("{form}"));
            assert_eq!((noun.lemma, noun.plural), (lemma, plural), "{form}");
        }
        assert_eq!(lexicon.noun("this"), None);
        assert_eq!(lexicon.noun("has"), None);
    }

    #[test]
    fn base_form_of_verbs_and_nouns_is_known() {
        let forms = ["running", "waves", "dogs", "red", "sat", "fire hydrants"];
        assert_eq!(
            forms.map(|word| Lexicon::shared().base_form(word)),
            ["run", "wave", "dog", "red", "sat", "fire hydrant"]
        );
    }

    #[test]
    fn plural_of_a_noun_is_parsed_back() {
        let lexicon = Lexicon::shared();
        for (lemma, plural) in [
            ("dog", "dogs"),
            ("woman", "women"),
            ("child", "children"),
            ("bench", "benches"),
            ("puppy", "puppies"),
            ("toy", "toys"),
        ] {
            assert_eq!(lexicon.plural(lemma), plural);
            assert_eq!(lexicon.noun(plural).unwrap().lemma, lemma);
        }
    }
}
