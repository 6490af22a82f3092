//! Wrong attributes, numbers and bindings.

use std::ops::Range;

use rand::{Rng, seq::IndexedRandom};

use super::{Edit, Perturber, Source};
use crate::lexicon::Phrase;

/// Sizes and their opposites.
const SIZES: [(&str, &str); 10] = [
    ("small", "large"),
    ("little", "big"),
    ("tiny", "huge"),
    ("large", "small"),
    ("big", "little"),
    ("huge", "tiny"),
    ("tall", "short"),
    ("short", "tall"),
    ("long", "short"),
    ("giant", "tiny"),
];

impl Perturber {
    pub(super) fn attribute(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let references = &source.references;
        let described: Vec<&Phrase> = source
            .phrases
            .iter()
            .filter(|p| p.colors.len() == 1 || !p.sizes.is_empty())
            .collect();
        let phrase = described.choose(rng)?;
        if let ([color], true) = (
            phrase.colors.as_slice(),
            phrase.sizes.is_empty() || rng.random_bool(0.8),
        ) {
            let usual = self.stats.colors(phrase.mention.lemma);
            let classes = self.lexicon.classes();
            let is_named = |group: Option<usize>| {
                group.is_none_or(|g| {
                    g == color.group
                        || classes
                            .groups("color")
                            .get(g)
                            .is_some_and(|g| g.iter().any(|w| references.has_word(w)))
                })
            };
            let others: Vec<(&str, usize)> = usual
                .into_iter()
                .filter(|(word, _)| !is_named(classes.color(word)))
                .collect();
            let word = others.choose_weighted(rng, |o| o.1 as f64).ok()?.0;
            return Some(vec![Edit::wrong(color.range.clone(), word)]);
        }
        let size = phrase.sizes.first()?;
        let word = source.text[size.range.clone()].to_lowercase();
        let opposite = SIZES.iter().find(|(w, _)| *w == word)?.1;
        (!references.has_word(opposite)).then(|| vec![Edit::wrong(size.range.clone(), opposite)])
    }

    pub(super) fn count(&self, source: &Source<'_>, rng: &mut impl Rng) -> Option<Vec<Edit>> {
        let counted: Vec<_> = source
            .phrases
            .iter()
            .filter(|p| p.mention.plural)
            .filter_map(|p| p.count.as_ref())
            .collect();
        let count = counted.choose(rng)?;
        let near = [
            ("two", 2usize),
            ("three", 3),
            ("four", 4),
            ("five", 5),
            ("six", 6),
        ];
        let fits = |&&(word, n): &&(&str, usize)| {
            n != count.group && n.abs_diff(count.group) <= 2 && !source.references.has_word(word)
        };
        let others: Vec<_> = near.iter().filter(fits).collect();
        let word = others.choose(rng)?.0;
        // Replacing "both" or "the two" would not yield a natural count.
        (source.text[count.range.clone()].to_lowercase() != "both")
            .then(|| vec![Edit::wrong(count.range.clone(), word)])
    }

    pub(super) fn binding(&self, source: &Source<'_>) -> Option<Vec<Edit>> {
        let single: Vec<&Phrase> = source
            .phrases
            .iter()
            .filter(|p| p.colors.len() == 1)
            .collect();
        single.windows(2).find_map(|pair| {
            let (a, b) = (&pair[0].colors[0], &pair[1].colors[0]);
            let word = |r: &Range<usize>| source.text[r.clone()].to_lowercase();
            let is_named = |phrase: &Phrase, group: usize| {
                source.texts.iter().any(|t| {
                    self.phrases_about(t, phrase)
                        .any(|p| p.colors.iter().any(|c| c.group == group))
                })
            };
            let wrong =
                a.group != b.group && !is_named(pair[0], b.group) && !is_named(pair[1], a.group);
            wrong.then(|| {
                vec![
                    Edit::wrong(a.range.clone(), word(&b.range)),
                    Edit::wrong(b.range.clone(), word(&a.range)),
                ]
            })
        })
    }
}
