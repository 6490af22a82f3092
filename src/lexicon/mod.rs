//! Words and the kinds of things that they name.
//!
//! An open vocabulary of concrete nouns from WordNet (`nouns.tsv`, made by `tools/make_lexicon.py`,
//! under WordNet's licence beside it), and small tables of the other words that captions are made
//! of (`words.txt`, `entails.txt`). [`Lexicon::mentions`] finds the things that a text names;
//! [`ReferenceTexts`] says which of them other texts support.

mod class;
mod lemma;
mod mentions;
mod phrase;
mod support;
mod verbs;
mod words;

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use foldhash::fast::FixedState;

pub use class::WordClass;
pub use lemma::{indefinite_article, is_always_plural};
pub use mentions::Mention;
pub use phrase::{Attribute, Phrase};
pub use support::{Reading, ReferenceTexts, Support};
pub use verbs::{VerbForm, VerbTable};
pub use words::{Classes, TextWord, words};

/// The tables are asked for every word of every text, and hold no one else's keys: a quick hash
/// will do.
type Map<K, V> = HashMap<K, V, FixedState>;
type Set<K> = HashSet<K, FixedState>;

/// A kind of thing: a set of synonyms in `nouns.tsv`. All people are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConceptId(u32);

/// Kind of thing that a concept is: WordNet's lexicographer files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConceptKind {
    /// Animals.
    Animal,
    /// Things made by people.
    Artifact,
    /// Parts of bodies.
    Body,
    /// Food and drink.
    Food,
    /// Natural objects and places.
    Object,
    /// People.
    Person,
    /// Plants.
    Plant,
    /// Substances.
    Substance,
}

impl ConceptKind {
    /// The kind of a letter in `nouns.tsv`.
    fn of_letter(letter: &str) -> Option<Self> {
        Some(match letter {
            "a" => Self::Animal,
            "t" => Self::Artifact,
            "b" => Self::Body,
            "f" => Self::Food,
            "o" => Self::Object,
            "p" => Self::Person,
            "l" => Self::Plant,
            "s" => Self::Substance,
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Concept {
    words: Vec<&'static str>,
    kind: ConceptKind,
    /// The concepts right above this one, in the table's order.
    parents: Vec<ConceptId>,
    /// Every concept above this one, itself left out; sorted.
    ancestors: Vec<ConceptId>,
}

/// The tables, loaded.
#[derive(Debug)]
pub struct Lexicon {
    concepts: Vec<Concept>,
    /// Each word as it stands in the table, and its concept.
    nouns: Map<&'static str, (&'static str, ConceptId)>,
    plurals: Map<&'static str, &'static str>,
    /// First words of compounds.
    compound_starts: Set<&'static str>,
    entails: Map<&'static str, Vec<ConceptId>>,
    classes: Classes,
    verbs: VerbTable,
}

static SHARED: LazyLock<Lexicon> =
    LazyLock::new(|| Lexicon::parse(include_str!("nouns.tsv"), include_str!("plurals.tsv")));

impl Lexicon {
    /// The one lexicon of the program, loaded when first asked for.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Reads the tables. They are part of the program, so that a line that cannot be read is left
    /// out; a test checks that there is none.
    fn parse(nouns: &'static str, plurals: &'static str) -> Self {
        let rows: Vec<(Vec<&str>, ConceptKind, Vec<&str>)> = nouns
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('\t');
                let words = columns.next()?.split('|').collect();
                let kind = ConceptKind::of_letter(columns.next()?)?;
                Some((
                    words,
                    kind,
                    columns
                        .next()?
                        .split('|')
                        .filter(|p| !p.is_empty())
                        .collect(),
                ))
            })
            .collect();
        let person = rows
            .iter()
            .position(|(words, ..)| words[0] == "person")
            .unwrap_or(0);
        let mut by_word = Map::default();
        for (i, (words, kind, _)) in rows.iter().enumerate() {
            let id = ConceptId(if *kind == ConceptKind::Person {
                person
            } else {
                i
            } as u32);
            by_word.extend(words.iter().map(|&word| (word, (word, id))));
        }
        let parents: Vec<Vec<ConceptId>> = rows
            .iter()
            .map(|(_, _, above)| {
                above
                    .iter()
                    .filter_map(|p| by_word.get(p).map(|&(_, id)| id))
                    .collect()
            })
            .collect();
        let concepts = rows
            .into_iter()
            .enumerate()
            .map(|(i, (words, kind, _))| Concept {
                words,
                kind,
                parents: parents[i].clone(),
                ancestors: ancestors(ConceptId(i as u32), &parents),
            })
            .collect();
        let classes = Classes::parse(include_str!("words.txt"));
        let verbs = VerbTable::new(classes.verbs());
        let plurals = plurals
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .collect();
        let compound_starts = by_word
            .keys()
            .filter_map(|word| word.split_once(' ').map(|(first, _)| first))
            .collect();
        let mut lexicon = Self {
            concepts,
            nouns: by_word,
            plurals,
            compound_starts,
            entails: Map::default(),
            classes,
            verbs,
        };
        lexicon.entails = support::parse_entailments(include_str!("entails.txt"), &lexicon);
        lexicon
    }

    /// The small word classes: colours, counts, sizes, ...
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Verbs of action and their forms.
    pub fn verbs(&self) -> &VerbTable {
        &self.verbs
    }

    /// The concept of a noun in the singular (`hot dog`), if it names a concrete thing.
    pub fn concept(&self, noun: &str) -> Option<ConceptId> {
        self.nouns.get(noun).map(|&(_, id)| id)
    }

    /// The first word of a concept.
    pub fn name(&self, concept: ConceptId) -> &'static str {
        self.concepts[concept.0 as usize].words[0]
    }

    /// All words of a concept; for people, only those that mean a person in general.
    pub fn synonyms(&self, concept: ConceptId) -> &[&'static str] {
        &self.concepts[concept.0 as usize].words
    }

    /// Returns the kind of thing that a concept is.
    pub fn kind(&self, concept: ConceptId) -> ConceptKind {
        self.concepts[concept.0 as usize].kind
    }

    /// Everything more general than a concept, in the order of the table.
    pub fn ancestors(&self, concept: ConceptId) -> &[ConceptId] {
        &self.concepts[concept.0 as usize].ancestors
    }

    /// Returns `true` if `upper` is the same as `lower` or more general.
    pub fn is_a(&self, lower: ConceptId, upper: ConceptId) -> bool {
        lower == upper
            || self.concepts[lower.0 as usize]
                .ancestors
                .binary_search(&upper)
                .is_ok()
    }

    /// The first answer of `found`, asked of a concept, then of those right above it, and so on
    /// upwards.
    pub fn nearest<T>(
        &self,
        concept: ConceptId,
        found: impl Fn(ConceptId) -> Option<T>,
    ) -> Option<T> {
        let mut asked = vec![concept];
        let mut next = 0;
        while let Some(&concept) = asked.get(next) {
            if let Some(answer) = found(concept) {
                return Some(answer);
            }
            for &parent in &self.concepts[concept.0 as usize].parents {
                if !asked.contains(&parent) {
                    asked.push(parent);
                }
            }
            next += 1;
        }
        None
    }

    /// Returns `true` if a word, in lower case, may be the first of a compound noun (`hot dog`).
    pub fn begins_compound(&self, word: &str) -> bool {
        self.compound_starts.contains(word)
    }

    /// Returns `true` if one of the two is the other, or more general than the other.
    pub fn related(&self, a: ConceptId, b: ConceptId) -> bool {
        self.is_a(a, b) || self.is_a(b, a)
    }

    /// Returns the number of noun words that the table holds.
    pub fn len(&self) -> usize {
        self.nouns.len()
    }

    /// Returns `true` if the table is empty: never.
    pub fn is_empty(&self) -> bool {
        self.nouns.is_empty()
    }
}

/// Everything above a concept; two concepts may lie above each other.
fn ancestors(concept: ConceptId, parents: &[Vec<ConceptId>]) -> Vec<ConceptId> {
    let mut found = HashSet::new();
    let mut open = vec![concept];
    while let Some(next) = open.pop() {
        open.extend(
            parents[next.0 as usize]
                .iter()
                .filter(|&&p| found.insert(p)),
        );
    }
    found.remove(&concept);
    let mut found: Vec<ConceptId> = found.into_iter().collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concept(word: &str) -> ConceptId {
        Lexicon::shared()
            .concept(word)
            .unwrap_or_else(|| panic!("no word {word}"))
    }

    #[test]
    fn every_line_is_read() {
        let lexicon = Lexicon::shared();
        assert_eq!(
            lexicon.concepts.len(),
            include_str!("nouns.tsv").lines().count()
        );
        assert_eq!(
            lexicon.plurals.len(),
            include_str!("plurals.tsv").lines().count()
        );
        assert!(lexicon.len() > 15_000);
    }

    #[test]
    fn knows_what_lies_above() {
        let lexicon = Lexicon::shared();
        for (lower, upper) in [
            ("poodle", "dog"),
            ("dog", "animal"),
            ("sneaker", "shoe"),
            ("jeep", "car"),
            ("car", "vehicle"),
            ("lake", "water"),
            ("guitar", "instrument"),
        ] {
            assert!(
                lexicon.is_a(concept(lower), concept(upper)),
                "{lower} is a {upper}"
            );
            assert!(
                !lexicon.is_a(concept(upper), concept(lower)),
                "{upper} is no {lower}"
            );
        }
        for (a, b) in [
            ("dog", "cat"),
            ("hot dog", "dog"),
            ("bat", "animal"),
            ("shirt", "pants"),
            ("frisbee", "ball"),
            ("tree", "grass"),
        ] {
            assert!(!lexicon.related(concept(a), concept(b)), "{a} and {b}");
        }
        assert_eq!(concept("man"), concept("firefighter"));
        assert_eq!(concept("sofa"), concept("couch"));
    }

    #[test]
    fn the_nearest_concept_above_is_found_first() {
        let lexicon = Lexicon::shared();
        let among = |word: &str, known: &[&str]| {
            lexicon.nearest(concept(word), |id| {
                known
                    .iter()
                    .find(|known| concept(known) == id)
                    .map(|known| (*known).to_owned())
            })
        };
        assert_eq!(among("poodle", &["animal", "dog"]).as_deref(), Some("dog"));
        assert_eq!(
            among("poodle", &["poodle", "dog"]).as_deref(),
            Some("poodle")
        );
        assert_eq!(among("firefighter", &["person"]).as_deref(), Some("person"));
        assert_eq!(among("cat", &["dog", "car"]), None);
    }

    #[test]
    fn holds_the_words_of_captions() {
        for word in [
            "fire hydrant",
            "ice cream",
            "skateboard",
            "frisbee",
            "wetsuit",
            "sunglasses",
            "stop sign",
            "t-shirt",
            "snowboarder",
            "field",
            "table",
        ] {
            concept(word);
        }
        for word in [
            "run", "white", "group", "picture", "front", "game", "day", "the",
        ] {
            assert_eq!(Lexicon::shared().concept(word), None, "{word}");
        }
    }
}
