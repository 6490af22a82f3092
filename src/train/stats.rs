//! Noun statistics of the captions of a training split.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::eval::data::flickr8k::Image;
use crate::lexicon::{
    ConceptId, Lexicon, ReferenceTexts, Support, indefinite_article, is_always_plural,
};

/// Rarer nouns make poor questions and replacements.
const MIN_IMAGES: usize = 8;

/// Counts of one noun.
#[derive(Debug, Clone, Default)]
struct Noun {
    /// Images that name it.
    images: usize,
    /// Singular uses with an article or number, and without any determiner.
    counted: usize,
    bare: usize,
    plural: usize,
    /// Singular uses with `the`.
    definite: usize,
    /// Other captions of the same image, and how many of them name the noun too.
    echoed: usize,
    echoes: usize,
    /// Color words before it, with counts.
    colors: BTreeMap<String, usize>,
}

/// Noun statistics of a split.
#[derive(Debug)]
pub struct CaptionStats {
    images: usize,
    nouns: BTreeMap<&'static str, Noun>,
    pairs: HashMap<(&'static str, &'static str), usize>,
}

impl CaptionStats {
    /// Computes the statistics of `images`.
    pub fn new(images: &[Image], lexicon: &Lexicon) -> Self {
        let mut this = Self {
            images: images.len(),
            nouns: BTreeMap::new(),
            pairs: HashMap::new(),
        };
        for image in images {
            this.add(image, lexicon);
        }
        this.nouns.retain(|_, noun| noun.images >= MIN_IMAGES);
        let nouns = &this.nouns;
        this.pairs
            .retain(|(a, b), _| nouns.contains_key(a) && nouns.contains_key(b));
        this
    }

    fn add(&mut self, image: &Image, lexicon: &Lexicon) {
        let mut named = BTreeSet::new();
        let references: Vec<ReferenceTexts<'_>> = image
            .captions
            .iter()
            .map(|c| ReferenceTexts::new(lexicon, [c]))
            .collect();
        for (i, caption) in image.captions.iter().enumerate() {
            for phrase in lexicon.phrases(caption) {
                let lemma = phrase.mention.lemma;
                let noun = self.nouns.entry(lemma).or_default();
                match phrase.determiner.as_deref() {
                    _ if phrase.mention.plural => noun.plural += 1,
                    Some("a" | "an" | "another") => noun.counted += 1,
                    _ if phrase.count.is_some() => noun.counted += 1,
                    None => noun.bare += 1,
                    Some("the") => noun.definite += 1,
                    Some(_) => {}
                }
                for color in &phrase.colors {
                    *noun
                        .colors
                        .entry(caption[color.range.clone()].to_lowercase())
                        .or_default() += 1;
                }
                let others = references.iter().enumerate().filter(|&(j, _)| j != i);
                noun.echoes += references.len() - 1;
                noun.echoed += others
                    .filter(|(_, r)| r.supports(&phrase.mention) == Support::Named)
                    .count();
                named.insert(lemma);
            }
        }
        for &a in &named {
            self.nouns.entry(a).or_default().images += 1;
            for &b in named.range(a..).filter(|&&b| b != a) {
                *self.pairs.entry((a, b)).or_default() += 1;
            }
        }
    }

    /// Nouns that at least `MIN_IMAGES` images name, in alphabetical order.
    pub fn nouns(&self) -> impl Iterator<Item = &'static str> {
        self.nouns.keys().copied()
    }

    /// Number of images that name a noun; 0 for rare nouns.
    pub fn images_with(&self, noun: &str) -> usize {
        self.nouns.get(noun).map_or(0, |n| n.images)
    }

    /// Number of images that name both nouns.
    pub fn images_with_both(&self, a: &'static str, b: &'static str) -> usize {
        self.pairs
            .get(&if a < b { (a, b) } else { (b, a) })
            .copied()
            .unwrap_or(0)
    }

    /// Smoothed lift of `noun` given `other`: 1 if the two are independent.
    pub fn lift(&self, noun: &'static str, other: &'static str) -> f64 {
        let expected = self.images_with(noun) as f64 * self.images_with(other) as f64
            / self.images.max(1) as f64;
        (self.images_with_both(noun, other) as f64 + 1.0) / (expected + 1.0)
    }

    /// Probability that another annotator names a noun that one has named; low for background
    /// objects.
    pub fn salience(&self, noun: &str) -> f64 {
        self.nouns
            .get(noun)
            .map_or(0.0, |n| n.echoed as f64 / n.echoes.max(1) as f64)
    }

    /// Returns `true` if a noun is mostly used without an article in the singular (`snow`).
    pub fn is_mass(&self, noun: &str) -> bool {
        self.nouns
            .get(noun)
            .is_some_and(|n| n.bare > 2 * n.counted && n.bare > n.plural)
    }

    /// Returns `true` if a noun is mostly used with an indefinite article (`a dog`).
    pub fn is_countable(&self, noun: &str) -> bool {
        self.nouns
            .get(noun)
            .is_some_and(|n| n.counted > n.bare && n.counted > n.definite / 4)
    }

    /// Noun in the singular with the article of a first mention: `a dog`, `snow`, `the ocean`.
    pub fn with_article(&self, noun: &str) -> String {
        if is_always_plural(noun) || self.is_mass(noun) {
            noun.to_owned()
        } else if self
            .nouns
            .get(noun)
            .is_some_and(|n| n.definite > 4 * n.counted)
        {
            format!("the {noun}")
        } else {
            format!("{} {noun}", indefinite_article(noun))
        }
    }

    /// Color words before a noun, with counts.
    pub fn colors(&self, noun: &str) -> Vec<(&str, usize)> {
        self.nouns.get(noun).map_or_else(Vec::new, |n| {
            n.colors.iter().map(|(w, &c)| (w.as_str(), c)).collect()
        })
    }

    /// Most frequent noun of a concept.
    pub fn usual_noun(&self, lexicon: &Lexicon, concept: ConceptId) -> Option<&'static str> {
        let synonyms = lexicon
            .synonyms(concept)
            .iter()
            .copied()
            .filter(|w| self.nouns.contains_key(w));
        synonyms.max_by_key(|w| self.images_with(w))
    }
}

/// Samples an index with probability proportional to its weight; `None` if all are zero.
pub(crate) fn weighted(weights: &[f64], rng: &mut impl rand::Rng) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let mut remaining = rng.random_range(0.0..total);
    let hit = weights.iter().position(|&w| {
        remaining -= w;
        remaining < 0.0
    });
    hit.or_else(|| weights.iter().rposition(|&w| w > 0.0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn image(captions: &[&str]) -> Image {
        Image {
            name: "x.jpg".into(),
            path: "x.jpg".into(),
            captions: captions.iter().map(|&c| c.into()).collect(),
        }
    }

    #[test]
    fn counts_dogs_and_cats_match_the_captions() {
        let dog = image(&["A black dog in snow .", "Dog with a frisbee ."]);
        let cat = image(&["A cat on the snow .", "A cat on a table ."]);
        let images: Vec<Image> = (0..10).flat_map(|_| [dog.clone(), cat.clone()]).collect();
        let stats = CaptionStats::new(&images, Lexicon::shared());
        assert_eq!(
            (
                stats.images_with("dog"),
                stats.images_with("snow"),
                stats.images_with("sofa")
            ),
            (10, 20, 0)
        );
        assert_eq!(
            (
                stats.images_with_both("dog", "frisbee"),
                stats.images_with_both("frisbee", "cat")
            ),
            (10, 0)
        );
        assert!(stats.lift("frisbee", "dog") > 1.0 && stats.lift("frisbee", "cat") < 1.0);
        assert!(stats.is_mass("snow") && !stats.is_mass("cat") && stats.is_countable("cat"));
        assert!(stats.salience("dog") > 0.99 && stats.salience("frisbee") < 0.01);
        assert_eq!(stats.colors("dog"), [("black", 10)]);
    }

    #[test]
    fn weighted_choice_is_proportional_to_weights() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let mut hits = [0; 3];
        for _ in 0..3000 {
            hits[weighted(&[1.0, 0.0, 2.0], &mut rng).unwrap()] += 1;
        }
        assert_eq!(hits[1], 0);
        assert!((900..1100).contains(&hits[0]), "{hits:?}");
        assert_eq!(weighted(&[0.0], &mut rng), None);
    }
}
