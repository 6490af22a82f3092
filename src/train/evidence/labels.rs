//! Which things photographs show, and how sure that is: the labels of the outputs and the truth of
//! mentions.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::origins::{AllPhotographs, LabeledPhotograph, object_text};
use crate::{
    eval::{chair::ChairVocabulary, honesty::PhotographOrigin},
    lexicon::{ConceptId, ConceptKind, Lexicon, Mention, ReferenceTexts, Support, WordClass},
};

/// In how many photographs of an origin a thing must be named for an output of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VocabularyConfig {
    /// In the captions of Flickr8k's training split.
    pub flickr8k: usize,
    /// In coco-mini's captions and objects; COCO's 80 objects have outputs anyway.
    pub coco_mini: usize,
    /// In DAQUAR's questions and answers.
    pub daquar: usize,
}

/// Weight of an absent thing that nobody was asked about.
const UNASKED: f32 = 0.15;

/// Nature that no room shows; what lies below counts too.
const NATURE: [&str; 18] = [
    "mountain", "snow", "beach", "sea", "ocean", "field", "street", "hill", "sky", "grass",
    "river", "lake", "sand", "rock", "tree", "wave", "cliff", "forest",
];

/// Vehicles that no room shows.
const VEHICLES: [&str; 3] = ["vehicle", "boat", "car"];

/// What origins are sure of where nobody names a thing.
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

    /// Returns how much the absence of a thing that no text of a photograph names counts, 0 to 1.
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
                let lives =
                    Some(concept) == self.person || lexicon.kind(concept) == ConceptKind::Animal;
                if lives || below(&self.outdoors) {
                    1.0
                } else {
                    UNASKED
                }
            }
            _ => 1.0,
        }
    }
}

/// The class of words that name a concept.
pub(super) fn class_of(concept: ConceptId) -> WordClass {
    match Lexicon::shared().kind(concept) {
        ConceptKind::Person => WordClass::Person,
        ConceptKind::Animal => WordClass::Animal,
        _ => WordClass::Object,
    }
}

/// The concept of one of COCO's objects: what the parser takes it for, or else the noun or its last
/// word as it stands.
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

/// The concepts of COCO's 80 objects.
pub(super) fn coco_concepts(lexicon: &Lexicon) -> BTreeSet<ConceptId> {
    ChairVocabulary::coco80()
        .names()
        .iter()
        .filter_map(|object| object_concept(lexicon, object))
        .collect()
}

/// The things that a photograph's texts name and its objects are, with everything above them.
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

/// Returns what every photograph's texts name.
pub(super) fn all_shown(photographs: &AllPhotographs) -> Vec<BTreeSet<ConceptId>> {
    photographs
        .all
        .par_iter()
        .map(|photograph| shown(Lexicon::shared(), photograph))
        .collect()
}

/// Of the photographs that show a thing, the share that must have it called by its own names, so
/// that it is named: who shows a cup shows a container, and nobody says so.
const OWN_NAME: f64 = 0.15;

/// Those of the outputs whose names people use: COCO's objects, people, and what texts call by a
/// name of its own, and not mostly by those of its kinds. Flickr8k's development split has no say.
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
    let count = |of: &BTreeMap<ConceptId, usize>, concept: &ConceptId| {
        of.get(concept).copied().unwrap_or_default() as f64
    };
    let is_named = |concept: &ConceptId| {
        let often = count(&called, concept) >= OWN_NAME * count(&all, concept).max(1.0);
        often || coco.contains(concept) || lexicon.kind(*concept) == ConceptKind::Person
    };
    outputs.iter().copied().filter(is_named).collect()
}

/// Chooses the outputs: what is named often enough, and COCO's objects. Flickr8k's development
/// split has no say.
pub(super) fn choose(
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

/// Labels of a photograph's outputs, 1 or 0, and their weights: a thing that the texts name, and
/// everything above it, is there; one that is more special than what they name, or to be expected,
/// is unknown (weight 0); any other is absent, as surely as the origin knows.
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

/// Log-odds of every output in the rows of labels and weights, within those of .0001 and .9999.
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

/// Returns whether a photograph shows what a text mentions, where that is known for certain.
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
    fn labelled(photograph: &LabeledPhotograph, words: &[&str]) -> Vec<(f32, f32)> {
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
    fn captions_and_boxes_are_united_and_unnamed_objects_are_absent() {
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
            labelled(
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
    fn without_captions_only_objects_that_were_looked_for_are_absent() {
        let objects = BTreeSet::from([
            "pizza".to_owned(),
            "potted plant".to_owned(),
            "skis".to_owned(),
        ]);
        let boxes = LabeledPhotograph {
            objects: Some(objects),
            ..photograph(PhotographOrigin::CocoMini, &[], &["the pizza"])
        };
        assert_eq!(labelled(&boxes, &["plant", "ski"]), [PRESENT, PRESENT]);
        // A jeep is a car, which COCO's annotators would have marked; nobody looked for lakes.
        assert_eq!(
            labelled(&boxes, &["pizza", "cat", "person", "jeep", "lake"]),
            [PRESENT, ABSENT, ABSENT, ABSENT, UNKNOWN]
        );
    }

    #[test]
    fn rooms_have_no_people_and_no_nature_and_radiographs_have_nothing() {
        let room = photograph(
            PhotographOrigin::Daquar,
            &[],
            &["What is on the table?", "the lamp"],
        );
        let unasked = (0.0, UNASKED);
        let words = [
            "lamp", "table", "person", "dog", "mountain", "car", "pillow",
        ];
        assert_eq!(
            labelled(&room, &words),
            [PRESENT, PRESENT, ABSENT, ABSENT, ABSENT, ABSENT, unasked]
        );
        let radiograph = photograph(PhotographOrigin::VqaRad, &[], &[]);
        assert_eq!(
            labelled(&radiograph, &["person", "pillow", "dog"]),
            [ABSENT; 3]
        );
        let flickr = photograph(
            PhotographOrigin::Flickr8k,
            &["A skier."],
            &["A skier on a hill."],
        );
        assert_eq!(
            labelled(&flickr, &["person", "hill", "ski", "dog"]),
            [PRESENT, PRESENT, UNKNOWN, ABSENT]
        );
    }

    #[test]
    fn the_prior_counts_what_is_known() {
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
    fn mentions_are_true_wrong_or_unknown() {
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
    fn outputs_are_what_is_named_often_and_the_objects_of_coco() {
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
            choose(
                &photographs,
                &shown,
                VocabularyConfig {
                    flickr8k,
                    coco_mini: 1,
                    daquar: 2,
                },
            )
        };
        let often = outputs(2);
        for word in [
            "poodle",
            "dog",
            "animal",
            "fountain",
            "cupboard",
            "toothbrush",
            "person",
        ] {
            assert!(often.contains(&concept(word)), "{word}");
        }
        assert!(
            !outputs(3).contains(&concept("fountain")),
            "two of them are learned from"
        );
        assert!(!often.contains(&concept("lamp")));
    }
}
