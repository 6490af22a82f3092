//! Wrong objects.

use std::{collections::HashMap, ops::Range};

use rand::{Rng, seq::IndexedRandom};

use super::{Edit, Perturber, Source, scenes::relation_before};
use crate::lexicon::{self, Lexicon, Phrase, Support};

impl Perturber {
    /// Replaces an object with another one of its kind; `small` selects small objects, otherwise
    /// all others.
    pub(super) fn object(
        &self,
        source: &Source<'_>,
        small: bool,
        rng: &mut impl Rng,
    ) -> Option<Vec<Edit>> {
        let lexicon = self.lexicon;
        let is_small = |noun: &str| lexicon.classes().is_small_object(noun);
        let fits = |p: &&Phrase| {
            lexicon.kind(p.mention.concept) != lexicon::ConceptKind::Person
                && is_small(p.mention.lemma) == small
        };
        let changeable: Vec<&Phrase> = source.phrases.iter().filter(fits).collect();
        let phrase = changeable.choose(rng)?;
        let mention = &phrase.mention;
        let counted = mention.plural
            || phrase.count.is_some()
            || matches!(phrase.determiner.as_deref(), Some("a" | "an" | "another"));
        let fits = |noun: &str| {
            if counted {
                self.stats.is_countable(noun)
            } else {
                phrase.determiner.is_some() || self.stats.is_mass(noun)
            }
        };
        // The replacement must occur behind the relation: things do not lie "on" everything.
        let relation = relation_before(source.text, phrase.start);
        let fits = |noun: &str| {
            is_small(noun) == small
                && fits(noun)
                && relation
                    .as_ref()
                    .is_none_or(|(r, _)| self.relations.contains(&(*r, noun)))
        };
        let noun = self.unsupported(lexicon.kind(mention.concept), source, phrase, fits, rng)?;
        let noun = if mention.plural {
            lexicon.plural(noun)
        } else {
            noun.to_owned()
        };
        Some(vec![Edit::wrong(mention.range.clone(), noun)])
    }

    /// Draws an unsupported noun of a kind as a replacement in `phrase`, weighted by frequency and
    /// by lift with the caption's other nouns.
    pub(super) fn unsupported(
        &self,
        kind: lexicon::ConceptKind,
        source: &Source<'_>,
        phrase: &Phrase,
        fits: impl Fn(&'static str) -> bool,
        rng: &mut impl Rng,
    ) -> Option<&'static str> {
        let references = &source.references;
        let others: Vec<&'static str> = source
            .phrases
            .iter()
            .filter(|p| p.mention.range != phrase.mention.range)
            .map(|p| p.mention.lemma)
            .collect();
        let is_unknown = |noun: &str| {
            !references.has_word(noun)
                && self
                    .lexicon
                    .concept(noun)
                    .is_some_and(|concept| references.support(concept) == Support::None)
        };
        let candidates: Vec<(&'static str, f64)> = self
            .nouns
            .get(&kind)?
            .iter()
            .filter(|noun| fits(noun) && is_unknown(noun))
            .map(|noun| {
                let lift: f64 = others
                    .iter()
                    .map(|other| self.stats.lift(noun, other).min(20.0))
                    .product::<f64>();
                (
                    *noun,
                    self.stats.images_with(noun) as f64
                        * lift.powf(1.0 / others.len().max(1) as f64),
                )
            })
            .collect();
        Some(candidates.choose_weighted(rng, |c| c.1).ok()?.0)
    }

    /// Replaces a phrase with one from another caption behind the same object and word: its noun is
    /// wrong, the rest unknown.
    pub(super) fn phrase(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let slots: Vec<(&Phrase, &[Donor])> = exchangeable(source.text, &source.phrases)
            .filter_map(|(key, phrase)| Some((phrase, self.donors.0.get(&key)?.as_slice())))
            .collect();
        let &(phrase, donors) = slots.choose(rng)?;
        let old = phrase.mention.concept;
        // A few random draws instead of a search, which would favor the first donors.
        (0..8).find_map(|_| {
            let donor = donors.choose(rng)?;
            let noun = self.lexicon.mentions(&donor.text).into_iter().next_back()?;
            let wrong = !self.lexicon.related(noun.concept, old)
                && source.references.supports(&noun) == Support::None;
            wrong.then(|| {
                vec![Edit {
                    range: phrase.start..phrase.mention.range.end,
                    bad: donor.noun.clone(),
                    replacement: donor.text.clone(),
                }]
            })
        })
    }
}

/// Phrase of a caption, from its article to its noun.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Donor {
    text: String,
    /// Byte range of the noun.
    noun: Range<usize>,
}

/// Phrases by the object named before them and the word directly before them.
#[derive(Debug, Default)]
pub(super) struct Donors(HashMap<(&'static str, String), Vec<Donor>>);

impl Donors {
    /// Adds the phrases of a caption.
    pub(super) fn learn(&mut self, text: &str, phrases: &[Phrase]) {
        for (key, phrase) in exchangeable(text, phrases) {
            let noun = &phrase.mention.range;
            let donor = Donor {
                text: text[phrase.start..noun.end].to_owned(),
                noun: noun.start - phrase.start..noun.end - phrase.start,
            };
            self.0.entry(key).or_default().push(donor);
        }
    }
}

/// Replaceable phrases: objects other than people that follow another object.
fn exchangeable<'a>(
    text: &'a str,
    phrases: &'a [Phrase],
) -> impl Iterator<Item = ((&'static str, String), &'a Phrase)> {
    let lexicon = Lexicon::shared();
    phrases.windows(2).filter_map(move |pair| {
        let [before, phrase] = pair else { return None };
        if lexicon.kind(phrase.mention.concept) == lexicon::ConceptKind::Person
            || phrase.count.is_some()
        {
            return None;
        }
        // In "a dog's bowl" the second phrase begins inside the first.
        let between = text.get(before.mention.range.end..phrase.start)?;
        let word = lexicon::words(between)
            .pop()
            .filter(|_| !between.contains([',', ';']))?;
        (word.text != "and").then_some(((before.mention.lemma, word.text), phrase))
    })
}
