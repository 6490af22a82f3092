//! Wrong people: added to or substituted in captions without people, and replaced with other
//! objects in captions with people.

use std::ops::Range;

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{Edit, Perturber, Source};
use crate::lexicon::{self, Phrase, Support, is_always_plural};

/// Nouns for a person; the lexicon's own plurals are in [`PEOPLE`].
const PERSON: [&str; 6] = ["man", "woman", "boy", "girl", "child", "person"];

/// Nouns for several people.
const PEOPLE: [&str; 6] = ["men", "women", "boys", "girls", "children", "people"];

/// Words that imply a person where none is named: somebody holds the leash of the dog.
const TRACES: [&str; 13] = [
    "someone",
    "somebody",
    "everyone",
    "everybody",
    "he",
    "she",
    "him",
    "who",
    "hand",
    "arm",
    "finger",
    "lap",
    "shoulder",
];

/// Connectives of a person appended to a caption.
const CONNECTIVES: [&str; 4] = ["with", "near", "next to", "behind"];

/// Determiners of one object, before a noun with identical singular and plural.
const ONE: [&str; 6] = ["a", "an", "another", "each", "every", "this"];

/// Collective nouns, whose verb may be singular or plural.
const COLLECTIVE: [&str; 7] = [
    "crowd", "audience", "police", "family", "team", "couple", "crew",
];

impl Perturber {
    /// Adds a person to a caption without people, or replaces one.
    pub(super) fn person(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        if !self.names_nobody(source) {
            return self.replace_person(source, rng);
        }
        if TRACES.iter().any(|word| source.references.has_word(word)) {
            return None;
        }
        let mut ways: [fn(&Self, &Source<'_>, &mut _) -> Option<Edit>; 3] = [
            Self::replace_object,
            Self::accompany_object,
            Self::append_person,
        ];
        ways.shuffle(rng);
        ways.into_iter()
            .find_map(|way| way(self, source, rng))
            .map(|edit| vec![edit])
    }

    /// Returns `true` if no text about the image names people.
    pub(super) fn names_nobody(&self, source: &Source<'_>) -> bool {
        self.lexicon
            .concept("person")
            .is_some_and(|person| source.references.support(person) == Support::None)
    }

    /// Replaces a person with an unsupported object.
    fn replace_person(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let is_person = |p: &&Phrase| {
            self.lexicon.kind(p.mention.concept) == lexicon::ConceptKind::Person
                && !COLLECTIVE.contains(&p.mention.lemma)
                && self.is_plural(p).is_some()
        };
        let people: Vec<&Phrase> = source.phrases.iter().filter(is_person).collect();
        let phrase = people.choose(rng)?;
        let mut kinds = [lexicon::ConceptKind::Animal, lexicon::ConceptKind::Artifact];
        if rng.random_bool(0.3) {
            kinds.reverse();
        }
        let fits = |noun: &str| {
            self.stats.is_countable(noun)
                && !is_always_plural(noun)
                && !self.lexicon.classes().is_small_object(noun)
        };
        let noun = kinds
            .into_iter()
            .find_map(|kind| self.unsupported(kind, source, phrase, fits, rng))?;
        let noun = if self.is_plural(phrase)? {
            self.lexicon.plural(noun)
        } else {
            noun.to_owned()
        };
        Some(vec![Edit::wrong(described_noun(source.text, phrase), noun)])
    }

    /// Replaces an animal, or the first object of the caption, with a person.
    fn replace_object(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Edit> {
        let is_alive =
            |p: &&Phrase| self.lexicon.kind(p.mention.concept) == lexicon::ConceptKind::Animal;
        let alive: Vec<&Phrase> = source.phrases.iter().filter(is_alive).collect();
        let phrase = match alive.choose(rng) {
            Some(phrase) => *phrase,
            // Without an article it may be a substance, which a person cannot replace.
            None => source
                .phrases
                .first()
                .filter(|p| p.start == 0 && (p.determiner.is_some() || p.mention.plural))?,
        };
        let person = person_noun(self.is_plural(phrase)?, rng)?;
        Some(Edit::wrong(described_noun(source.text, phrase), person))
    }

    /// Adds people next to the first object of the caption, in its number, so that the verb still
    /// agrees.
    fn accompany_object(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Edit> {
        let phrase = source.phrases.first().filter(|p| p.start == 0)?;
        let plural = self.is_plural(phrase)?;
        let (article, person) = (if plural { "" } else { "a " }, person_noun(plural, rng)?);
        let joint = if plural && rng.random_bool(0.5) {
            "and"
        } else {
            "with"
        };
        let first = lexicon::words(source.text).into_iter().next()?;
        let replacement = format!("{article}{person} {joint} {}", first.text);
        Some(Edit {
            range: first.range,
            bad: article.len()..article.len() + person.len(),
            replacement,
        })
    }

    /// Appends a person to the end of the caption.
    fn append_person(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Edit> {
        let body = source
            .text
            .strip_suffix('.')
            .filter(|body| body.ends_with(char::is_alphanumeric) && !body.contains(['.', '"']))?;
        let plural = rng.random_bool(0.3);
        let (article, person, beside) = (
            if plural { "" } else { "a " },
            person_noun(plural, rng)?,
            CONNECTIVES.choose(rng)?,
        );
        let before = format!(" {beside} {article}");
        let bad = before.len()..before.len() + person.len();
        Some(Edit {
            range: body.len()..body.len(),
            replacement: before + person,
            bad,
        })
    }

    /// Returns `true` if a phrase denotes several objects, `false` for one; `None` if ambiguous or
    /// negated.
    fn is_plural(&self, phrase: &Phrase) -> Option<bool> {
        let (lemma, determiner) = (phrase.mention.lemma, phrase.determiner.as_deref());
        let one = determiner.is_some_and(|word| ONE.contains(&word))
            || phrase.count.as_ref().is_some_and(|count| count.group == 1);
        match phrase.mention.plural {
            _ if determiner == Some("no") => None,
            true => (!one).then_some(true),
            false if one => Some(false),
            false
                if phrase.vague
                    || phrase.count.is_some()
                    || self.lexicon.plural(lemma) == lemma =>
            {
                None
            }
            false => Some(false),
        }
    }
}

fn person_noun(plural: bool, rng: &mut impl Rng) -> Option<&'static str> {
    let words = if plural { PEOPLE } else { PERSON };
    words.choose(rng).copied()
}

/// Range of a phrase's noun with its adjectives, without article and number.
fn described_noun(text: &str, phrase: &Phrase) -> Range<usize> {
    let article = phrase
        .determiner
        .as_ref()
        .map_or(phrase.start, |word| phrase.start + word.len());
    let start = phrase
        .count
        .as_ref()
        .map_or(article, |count| article.max(count.range.end));
    let end = phrase.mention.range.end;
    let space = text
        .get(start..end)
        .map_or(0, |rest| rest.len() - rest.trim_start().len());
    start + space..end
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::SmallRng};

    use super::{
        super::{PerturbationCounts, PerturbationKind, Perturbed, tests::images},
        *,
    };
    use crate::{
        eval::data::flickr8k::Image,
        guard::render::is_whole,
        lexicon::{Lexicon, ReferenceTexts},
        train::{
            corpus::{END, train_tokenizer},
            labels::LabeledText,
            stats::tests::image,
        },
        vlm::processor::tokenizer::TextTokenizer,
    };

    const NOBODY: [&str; 8] = [
        "A black dog runs in the snow .",
        "An orange cat sits on a bench .",
        "Two brown dogs run in the tall grass .",
        "The two white birds stand near the water .",
        "A red car stands in front of a house .",
        "Three boats wait on the lake .",
        "The dog jumps over a log .",
        "There is a horse standing in a field .",
    ];

    const SOMEBODY: [&str; 6] = [
        "A young man in a red hat sits on a bench .",
        "Two girls jump in a pool .",
        "The old woman stands behind a white car .",
        "Three people sit on a wooden bench .",
        "A boy and a girl run in the snow .",
        "An Asian child holds a cup .",
    ];

    /// Perturbations of the one caption of an image, by many seeds.
    fn made(perturber: &Perturber, of: &Image, shown: &[String]) -> Vec<Perturbed> {
        let perturb = |seed| {
            perturber.perturb(
                of,
                shown,
                &mut SmallRng::seed_from_u64(seed),
                &mut PerturbationCounts::default(),
            )
        };
        (0..200)
            .filter_map(perturb)
            .filter(|found| found.kind == PerturbationKind::Person)
            .collect()
    }

    /// Returns `true` if the first object mention of a text is plural.
    fn begins_with_several(text: &str) -> bool {
        Lexicon::shared().phrases(text)[0].mention.plural
    }

    /// Asserts the properties of every perturbation of people.
    fn holds(found: &Perturbed, tokenizer: &TextTokenizer) {
        let (text, original) = (&found.text, &found.original);
        assert!(
            (is_whole(text) || !is_whole(original))
                && text.starts_with(char::is_uppercase)
                && !text.contains("  "),
            "{found:?}"
        );
        assert_eq!(
            begins_with_several(text),
            begins_with_several(original),
            "the verb stays right: {found:?}"
        );
        for (article, next) in text
            .split(' ')
            .zip(text.split(' ').skip(1))
            .filter(|(word, _)| ["a", "an", "A", "An"].contains(word))
        {
            assert_eq!(
                article.to_lowercase(),
                lexicon::indefinite_article(next),
                "{found:?}"
            );
        }
        let ([bad], [replaced]) = (found.bad.as_slice(), found.replaced.as_slice()) else {
            panic!("one phrase: {found:?}")
        };
        assert!(
            original.ends_with(&text[replaced.end..]),
            "nothing behind it changes: {found:?}"
        );
        let labeled = LabeledText::from(found.clone());
        let tokens = tokenizer.encode(text).unwrap();
        let labels = labeled.token_labels(tokenizer, &tokens);
        let wrong: Vec<u32> = tokens
            .iter()
            .zip(&labels)
            .filter(|(_, label)| **label == Some(false))
            .map(|(token, _)| *token)
            .collect();
        assert_eq!(
            tokenizer.decode(&wrong).trim(),
            &text[bad.clone()],
            "{found:?}"
        );
    }

    fn tokenizer() -> TextTokenizer {
        let lines: Vec<String> = NOBODY
            .iter()
            .chain(&SOMEBODY)
            .map(|&line| line.to_owned())
            .collect();
        TextTokenizer::new(train_tokenizer(&lines, 300).unwrap(), END).unwrap()
    }

    #[test]
    fn person_without_people_adds_one_in_the_right_number() {
        let (perturber, tokenizer) = (Perturber::new(&images()), tokenizer());
        let mut people = BTreeSet::new();
        for caption in NOBODY {
            let found = made(&perturber, &image(&[caption]), &[]);
            assert!(found.len() > 10, "{caption}: {}", found.len());
            let texts: BTreeSet<&str> = found.iter().map(|found| found.text.as_str()).collect();
            assert!(texts.len() > 5, "{texts:?}");
            for found in &found {
                holds(found, &tokenizer);
                let wrong = found.text[found.bad[0].clone()].to_lowercase();
                assert!(
                    PERSON.iter().chain(&PEOPLE).any(|person| *person == wrong),
                    "{found:?}"
                );
                people.insert(wrong);
            }
        }
        assert_eq!(people.len(), PERSON.len() + PEOPLE.len(), "{people:?}");
    }

    #[test]
    fn person_is_replaced_by_an_unsupported_object() {
        let (perturber, tokenizer, lexicon) =
            (Perturber::new(&images()), tokenizer(), Lexicon::shared());
        for caption in SOMEBODY {
            let found = made(&perturber, &image(&[caption]), &[]);
            assert!(found.len() > 10, "{caption}: {}", found.len());
            let references = ReferenceTexts::new(lexicon, [caption]);
            for found in &found {
                holds(found, &tokenizer);
                let mentions = lexicon.mentions(&found.text[found.bad[0].clone()]);
                let is_wrong = |m: &lexicon::Mention| {
                    lexicon.kind(m.concept) != lexicon::ConceptKind::Person
                        && references.supports(m) == Support::None
                };
                assert!(
                    mentions.len() == 1 && mentions.iter().all(is_wrong),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn person_replacement_drops_adjectives_and_keeps_number() {
        for (text, want) in [
            ("A black and white dog runs.", "black and white dog"),
            ("The two small dogs run.", "small dogs"),
            ("Brown dogs run.", "Brown dogs"),
            ("A single bird stands.", "bird"),
            ("Dogs run.", "Dogs"),
        ] {
            assert_eq!(
                &text[described_noun(text, &Lexicon::shared().phrases(text)[0])],
                want
            );
        }
    }

    #[test]
    fn person_is_not_added_where_people_are_implied() {
        let perturber = Perturber::new(&images());
        for caption in [
            "A dog licks the hand .",
            "Someone throws a ball to a dog .",
            "A crowd .",
        ] {
            assert_eq!(made(&perturber, &image(&[caption]), &[]), [], "{caption}");
        }
        let dog = ["A dog runs in the snow .", "A dog with its owner ."];
        let found = made(&perturber, &image(&dog), &[]);
        let names_people = |found: &Perturbed| {
            Lexicon::shared().mentions(&found.text[found.bad[0].clone()])[0].lemma != "owner"
        };
        assert!(
            found
                .iter()
                .all(|found| found.original.contains("owner") && names_people(found)),
            "{found:?}"
        );
        assert_eq!(
            made(
                &perturber,
                &image(&["A dog runs in the snow ."]),
                &["the person".into()]
            ),
            [],
            "an annotator marked somebody"
        );
    }

    #[test]
    fn person_known_objects_are_never_wrong() {
        let perturber = Perturber::new(&images());
        let found = made(
            &perturber,
            &image(&["A man sits on a bench ."]),
            &["the dog".into()],
        );
        assert!(!found.is_empty());
        for found in found {
            assert!(!found.text.contains("dog"), "{found:?}");
        }
    }
}
