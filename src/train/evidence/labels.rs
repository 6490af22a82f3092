//! Labels of the outputs, and the truth of mentions: objects that photographs show, and how certain
//! their absence is.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::origins::{AllPhotographs, LabeledPhotograph, object_text};
use crate::{
    eval::{chair::ChairVocabulary, honesty::PhotographOrigin},
    lexicon::{ConceptId, ConceptKind, Lexicon, Mention, ReferenceTexts, Support, WordClass},
};

/// Minimum number of photographs of an origin that must name an object for it to get an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VocabularyConfig {
    /// Minimum in the captions of Flickr8k's training split.
    pub flickr8k: usize,
    /// Minimum in coco-mini's captions and objects; COCO's 80 objects always have outputs.
    pub coco_mini: usize,
    /// Minimum in DAQUAR's questions and answers.
    pub daquar: usize,
}

/// Weight of the absence of an object that nobody was asked about.
const UNASKED_WEIGHT: f32 = 0.15;

/// Natural objects that no indoor photograph shows, hyponyms included.
const NATURE: [&str; 18] = [
    "mountain", "snow", "beach", "sea", "ocean", "field", "street", "hill", "sky", "grass",
    "river", "lake", "sand", "rock", "tree", "wave", "cliff", "forest",
];

/// Vehicles that no indoor photograph shows.
const VEHICLES: [&str; 3] = ["vehicle", "boat", "car"];

/// Objects whose absence an origin guarantees when no text names them.
pub(in crate::train) struct KnownAbsences {
    coco: BTreeSet<ConceptId>,
    outdoors: BTreeSet<ConceptId>,
    person: Option<ConceptId>,
}

impl KnownAbsences {
    pub(in crate::train) fn new(lexicon: &Lexicon) -> Self {
        let named = |words: &[&str]| {
            words
                .iter()
                .filter_map(|word| lexicon.concept(word))
                .collect::<BTreeSet<_>>()
        };
        Self {
            coco: coco_concepts(lexicon),
            outdoors: &named(&NATURE) | &named(&VEHICLES),
            person: lexicon.concept("person"),
        }
    }

    /// Certainty, 0 to 1, that an object which no text of a photograph names is absent.
    pub(super) fn weight(
        &self,
        lexicon: &Lexicon,
        photograph: &LabeledPhotograph,
        concept: ConceptId,
    ) -> f32 {
        let below =
            |set: &BTreeSet<ConceptId>| set.iter().any(|&upper| lexicon.is_a(concept, upper));
        match photograph.origin {
            PhotographOrigin::CocoMini if photograph.image.captions.is_empty() => {
                f32::from(u8::from(below(&self.coco)))
            }
            PhotographOrigin::Daquar => {
                let is_animate =
                    Some(concept) == self.person || lexicon.kind(concept) == ConceptKind::Animal;
                if is_animate || below(&self.outdoors) {
                    1.0
                } else {
                    UNASKED_WEIGHT
                }
            }
            _ => 1.0,
        }
    }
}

/// Class of the words that name a concept.
pub(super) fn class_of(concept: ConceptId) -> WordClass {
    match Lexicon::shared().kind(concept) {
        ConceptKind::Person => WordClass::Person,
        ConceptKind::Animal => WordClass::Animal,
        _ => WordClass::Object,
    }
}

/// Concept of one of COCO's objects: the parser's reading, or else the noun or its last word.
pub(super) fn object_concept(lexicon: &Lexicon, object: &str) -> Option<ConceptId> {
    let parsed = lexicon
        .all_mentions(&object_text(object))
        .last()
        .map(|mention| mention.concept);
    let last = || {
        object
            .rsplit_once(' ')
            .and_then(|(_, last)| lexicon.concept(last))
    };
    parsed.or_else(|| lexicon.concept(object)).or_else(last)
}

/// Concepts of COCO's 80 objects.
pub(super) fn coco_concepts(lexicon: &Lexicon) -> BTreeSet<ConceptId> {
    ChairVocabulary::coco80()
        .names()
        .iter()
        .filter_map(|object| object_concept(lexicon, object))
        .collect()
}

/// Objects that a photograph's texts and annotations name, with their hypernyms.
fn shown(lexicon: &Lexicon, photograph: &LabeledPhotograph) -> BTreeSet<ConceptId> {
    let named = photograph
        .texts
        .iter()
        .flat_map(|text| lexicon.all_mentions(text))
        .map(|mention| mention.concept);
    let objects = photograph
        .objects
        .iter()
        .flatten()
        .filter_map(|object| object_concept(lexicon, object));
    named
        .chain(objects)
        .flat_map(|concept| lexicon.ancestors(concept).iter().copied().chain([concept]))
        .collect()
}

/// Objects of every photograph, with their hypernyms.
pub(super) fn all_shown(photographs: &AllPhotographs) -> Vec<BTreeSet<ConceptId>> {
    photographs
        .all
        .par_iter()
        .map(|photograph| shown(Lexicon::shared(), photograph))
        .collect()
}

/// Minimum share of the photographs showing an object that must name it directly: a cup is also a
/// container, but nobody says so.
const MIN_NAMED_SHARE: f64 = 0.15;

/// Outputs whose names people use: COCO's objects, people, and objects that texts name directly
/// often enough. Flickr8k's development split does not count.
pub(super) fn named(
    photographs: &AllPhotographs,
    shown: &[BTreeSet<ConceptId>],
    outputs: &[ConceptId],
) -> BTreeSet<ConceptId> {
    let (lexicon, coco) = (Lexicon::shared(), coco_concepts(Lexicon::shared()));
    let is_dev = |i: usize| (photographs.train..photographs.train + photographs.dev).contains(&i);
    let (mut called, mut all): (BTreeMap<ConceptId, usize>, BTreeMap<ConceptId, usize>) =
        Default::default();
    for (i, photograph) in photographs
        .all
        .iter()
        .enumerate()
        .filter(|&(i, _)| !is_dev(i))
    {
        let own: BTreeSet<ConceptId> = photograph
            .texts
            .iter()
            .flat_map(|text| lexicon.mentions(text))
            .map(|mention| mention.concept)
            .collect();
        own.into_iter()
            .for_each(|concept| *called.entry(concept).or_default() += 1);
        shown[i]
            .iter()
            .for_each(|&concept| *all.entry(concept).or_default() += 1);
    }
    let count = |counts: &BTreeMap<ConceptId, usize>, concept: &ConceptId| {
        counts.get(concept).copied().unwrap_or_default() as f64
    };
    let is_named = |concept: &ConceptId| {
        let is_frequent =
            count(&called, concept) >= MIN_NAMED_SHARE * count(&all, concept).max(1.0);
        is_frequent || coco.contains(concept) || lexicon.kind(*concept) == ConceptKind::Person
    };
    outputs.iter().copied().filter(is_named).collect()
}

/// Selects the outputs: objects named often enough, and COCO's objects. Flickr8k's development
/// split does not count.
pub(super) fn select_outputs(
    photographs: &AllPhotographs,
    shown: &[BTreeSet<ConceptId>],
    config: VocabularyConfig,
) -> Vec<ConceptId> {
    let lexicon = Lexicon::shared();
    let mut chosen = coco_concepts(lexicon);
    for (origin, least) in [
        (PhotographOrigin::Flickr8k, config.flickr8k),
        (PhotographOrigin::CocoMini, config.coco_mini),
        (PhotographOrigin::Daquar, config.daquar),
    ] {
        let mut counts: BTreeMap<ConceptId, usize> = BTreeMap::new();
        let learned = |i: &usize| {
            photographs.all[*i].origin == origin
                && !(photographs.train..photographs.train + photographs.dev).contains(i)
        };
        for i in (0..photographs.all.len()).filter(learned) {
            shown[i]
                .iter()
                .for_each(|&concept| *counts.entry(concept).or_default() += 1);
        }
        chosen.extend(
            counts
                .into_iter()
                .filter(|&(_, count)| count >= least)
                .map(|(concept, _)| concept),
        );
    }
    chosen.into_iter().collect()
}

/// Labels (1 or 0) and weights of a photograph's outputs. Named objects and their hypernyms are
/// present; hyponyms of named objects and expected ones are unknown (weight 0); others are absent
/// with the certainty that the origin gives.
pub(super) fn labels(
    photograph: &LabeledPhotograph,
    shown: &BTreeSet<ConceptId>,
    concepts: &[ConceptId],
    absence: &KnownAbsences,
) -> (Vec<f32>, Vec<f32>) {
    let lexicon = Lexicon::shared();
    let references = ReferenceTexts::new(lexicon, &photograph.texts);
    let label = |&concept: &ConceptId| {
        if shown.contains(&concept) {
            return (1.0, 1.0);
        }
        let is_unknown = references.support(concept) != Support::None;
        (
            0.0,
            if is_unknown {
                0.0
            } else {
                absence.weight(lexicon, photograph, concept)
            },
        )
    };
    concepts.iter().map(label).unzip()
}

/// Log-odds of every output in weighted labels, clamped to probabilities from .0001 to .9999.
pub(super) fn prior(labels: &[Vec<f32>], weights: &[Vec<f32>]) -> Vec<f32> {
    let outputs = labels.first().map_or(0, Vec::len);
    let log_odds = |j: usize| {
        let sum = |rows: &[Vec<f32>]| rows.iter().map(|row| f64::from(row[j])).sum::<f64>();
        let shown: f64 = labels
            .iter()
            .zip(weights)
            .map(|(label, weight)| f64::from(label[j] * weight[j]))
            .sum();
        let share = (shown / sum(weights).max(1.0)).clamp(1e-4, 1.0 - 1e-4);
        (share / (1.0 - share)).ln() as f32
    };
    (0..outputs).map(log_odds).collect()
}

/// Returns `true` if a photograph shows the object of a mention, `false` if it surely does not,
/// `None` if unknown.
pub(in crate::train) fn truth(
    photograph: &LabeledPhotograph,
    references: &ReferenceTexts<'_>,
    mention: &Mention,
    absence: &KnownAbsences,
) -> Option<bool> {
    match references.supports(mention) {
        Support::Named => Some(true),
        Support::Expected => None,
        Support::None => {
            (absence.weight(Lexicon::shared(), photograph, mention.concept) >= 1.0).then_some(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::eval::data::flickr8k::Image;

    fn photograph(
        origin: PhotographOrigin,
        captions: &[&str],
        texts: &[&str],
    ) -> LabeledPhotograph {
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let image = Image {
            name: "a.jpg".into(),
            path: PathBuf::from("a.jpg"),
            captions: owned(captions),
        };
        LabeledPhotograph {
            origin,
            image,
            texts: owned(texts),
            objects: None,
            boxes: Vec::new(),
            fold: 0,
        }
    }

    fn concept(word: &str) -> ConceptId {
        Lexicon::shared()
            .concept(word)
            .unwrap_or_else(|| panic!("no word {word}"))
    }

    /// Label and weight of each word's output.
    fn labeled(photograph: &LabeledPhotograph, words: &[&str]) -> Vec<(f32, f32)> {
        let lexicon = Lexicon::shared();
        let (shown, absence) = (shown(lexicon, photograph), KnownAbsences::new(lexicon));
        let of = |word: &&str| {
            let (labels, weights) = labels(photograph, &shown, &[concept(word)], &absence);
            (labels[0], weights[0])
        };
        words.iter().map(of).collect()
    }

    const PRESENT: (f32, f32) = (1.0, 1.0);
    const ABSENT: (f32, f32) = (0.0, 1.0);
    const UNKNOWN: (f32, f32) = (0.0, 0.0);

    #[test]
    fn labels_unite_captions_and_boxes() {
        let captions = ["A dog on a bench."];
        let both = photograph(
            PhotographOrigin::CocoMini,
            &captions,
            &["A dog on a bench.", "the pizza", "the computer mouse"],
        );
        let want = [
            PRESENT, PRESENT, PRESENT, PRESENT, UNKNOWN, ABSENT, ABSENT, ABSENT,
        ];
        assert_eq!(
            labeled(
                &both,
                &[
                    "dog",
                    "animal",
                    "pizza",
                    "computer mouse",
                    "poodle",
                    "cat",
                    "person",
                    "lake"
                ]
            ),
            want
        );
    }

    #[test]
    fn labels_without_captions_only_annotated_objects_are_absent() {
        let objects = BTreeSet::from([
            "pizza".to_owned(),
            "potted plant".to_owned(),
            "skis".to_owned(),
        ]);
        let boxes = LabeledPhotograph {
            objects: Some(objects),
            ..photograph(PhotographOrigin::CocoMini, &[], &["the pizza"])
        };
        assert_eq!(labeled(&boxes, &["plant", "ski"]), [PRESENT, PRESENT]);
        // A jeep is a car, which COCO's annotators would have marked; lakes were not annotated.
        assert_eq!(
            labeled(&boxes, &["pizza", "cat", "person", "jeep", "lake"]),
            [PRESENT, ABSENT, ABSENT, ABSENT, UNKNOWN]
        );
    }

    #[test]
    fn labels_rooms_lack_people_and_nature_and_radiographs_everything() {
        let room = photograph(
            PhotographOrigin::Daquar,
            &[],
            &["What is on the table?", "the lamp"],
        );
        let unasked = (0.0, UNASKED_WEIGHT);
        let words = [
            "lamp", "table", "person", "dog", "mountain", "car", "pillow",
        ];
        assert_eq!(
            labeled(&room, &words),
            [PRESENT, PRESENT, ABSENT, ABSENT, ABSENT, ABSENT, unasked]
        );
        let radiograph = photograph(PhotographOrigin::VqaRad, &[], &[]);
        assert_eq!(
            labeled(&radiograph, &["person", "pillow", "dog"]),
            [ABSENT; 3]
        );
        let flickr = photograph(
            PhotographOrigin::Flickr8k,
            &["A skier."],
            &["A skier on a hill."],
        );
        assert_eq!(
            labeled(&flickr, &["person", "hill", "ski", "dog"]),
            [PRESENT, PRESENT, UNKNOWN, ABSENT]
        );
    }

    #[test]
    fn prior_counts_weighted_labels() {
        let labels = [
            vec![1.0, 0.0],
            vec![0.0, 0.0],
            vec![0.0, 0.0],
            vec![0.0, 0.0],
        ];
        let weights = [
            vec![1.0, 1.0],
            vec![1.0, 1.0],
            vec![0.0, 1.0],
            vec![1.0, 1.0],
        ];
        let found = prior(&labels, &weights);
        assert!(
            (found[0] - 0.5f32.ln()).abs() < 1e-6,
            "one of three: {found:?}"
        );
        assert!(
            (found[1] - (1e-4f32 / (1.0 - 1e-4)).ln()).abs() < 1e-3,
            "never: {found:?}"
        );
    }

    #[test]
    fn truth_is_true_false_or_unknown() {
        let lexicon = Lexicon::shared();
        let absence = KnownAbsences::new(lexicon);
        let judged = |photograph: &LabeledPhotograph, text: &str| {
            let references = ReferenceTexts::new(lexicon, &photograph.texts);
            lexicon
                .mentions(text)
                .iter()
                .map(|mention| truth(photograph, &references, mention, &absence))
                .collect::<Vec<_>>()
        };
        let room = photograph(
            PhotographOrigin::Daquar,
            &[],
            &["What is on the table?", "the lamp"],
        );
        assert_eq!(
            judged(&room, "A man and a lamp near a pillow."),
            [Some(false), Some(true), None]
        );
        let boxes = photograph(PhotographOrigin::CocoMini, &[], &["the dog"]);
        assert_eq!(
            judged(&boxes, "A dog and a cat at a lake."),
            [Some(true), Some(false), None]
        );
    }

    #[test]
    fn select_outputs_takes_frequent_and_coco_objects() {
        let dogs = (0..3).map(|_| {
            photograph(
                PhotographOrigin::Flickr8k,
                &[],
                &["A poodle near a fountain."],
            )
        });
        let rooms = (0..2).map(|_| photograph(PhotographOrigin::Daquar, &[], &["the cupboard"]));
        let photographs = AllPhotographs {
            // The last of the first three is held out.
            all: dogs.chain(rooms).collect(),
            train: 2,
            dev: 1,
            questions: Vec::new(),
        };
        let shown = all_shown(&photographs);
        let outputs = |flickr8k| {
            select_outputs(
                &photographs,
                &shown,
                VocabularyConfig {
                    flickr8k,
                    coco_mini: 1,
                    daquar: 2,
                },
            )
        };
        let is_frequent = outputs(2);
        for word in [
            "poodle",
            "dog",
            "animal",
            "fountain",
            "cupboard",
            "toothbrush",
            "person",
        ] {
            assert!(is_frequent.contains(&concept(word)), "{word}");
        }
        assert!(
            !outputs(3).contains(&concept("fountain")),
            "two of them are learned from"
        );
        assert!(!is_frequent.contains(&concept("lamp")));
    }
}
