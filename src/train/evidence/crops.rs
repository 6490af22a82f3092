//! Crops of photographs with object boxes, and the labels that follow from the boxes. They turn the
//! few photographs of coco-mini into thousands of examples, with and without people.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    labels::{coco_concepts, object_concept},
    origins::{AllPhotographs, LabeledPhotograph},
};
use crate::{
    eval::{
        data::{ObjectBox, Rect},
        honesty::PhotographOrigin,
    },
    lexicon::{ConceptId, Lexicon},
    train::features::Crop,
};

/// Share of a box inside a crop above which its object counts as shown.
const SHOWN: f64 = 0.5;

/// The same threshold for large objects, which every small crop cuts: on the share of the box
/// inside the crop and on the share of the crop inside the box.
const MIN_SHARE_LARGE: f64 = 0.25;

/// Thresholds on these two shares below which the object counts as absent.
const ABSENT: (f64, f64) = (0.1, 0.03);

/// Minimum width and height of a crop.
const MIN_SIDE: f64 = 0.25;

/// Number of candidates for a crop that avoids objects.
const TRIES: usize = 30;

/// Crops of the annotated photographs.
#[derive(Debug, Clone, Default)]
pub(super) struct Crops {
    /// Indices of the photographs.
    pub(super) photographs: Vec<usize>,
    /// Crops of each photograph, equally many.
    pub(super) crops: Vec<Vec<Crop>>,
}

impl Crops {
    /// Draws `each` crops of every photograph whose objects all have boxes; deterministic in
    /// `seed`.
    pub(super) fn draw(photographs: &AllPhotographs, each: usize, seed: u64) -> Self {
        let has_boxes = |photograph: &LabeledPhotograph| {
            let has_box =
                |object: &String| photograph.boxes.iter().any(|item| item.object == *object);
            photograph
                .objects
                .as_ref()
                .is_some_and(|objects| objects.iter().all(has_box))
        };
        let is_drawn = |&i: &usize| each > 0 && has_boxes(&photographs.all[i]);
        let numbers: Vec<usize> = photographs
            .indices_of(PhotographOrigin::CocoMini)
            .filter(is_drawn)
            .collect();
        let crops = numbers.iter().map(|&i| {
            let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(i as u64));
            (0..each)
                .map(|number| crop(&photographs.all[i].boxes, number, &mut rng))
                .collect()
        });
        Self {
            crops: crops.collect(),
            photographs: numbers,
        }
    }

    /// Every crop with the index of its photograph.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Crop)> {
        self.photographs
            .iter()
            .zip(&self.crops)
            .flat_map(|(&photograph, crops)| crops.iter().map(move |crop| (photograph, crop)))
    }
}

/// Random crop, mirrored half of the time: in turn a large one, a small one, one around an object,
/// and one that avoids people or, without people, all objects.
fn crop(boxes: &[ObjectBox], number: usize, rng: &mut SmallRng) -> Crop {
    let rect = match number % 4 {
        0 => random_rect(0.5..1.0, rng),
        1 => random_rect(0.3..0.7, rng),
        2 => object_rect(boxes, rng).unwrap_or_else(|| random_rect(0.3..1.0, rng)),
        _ => rect_without(boxes, rng),
    };
    Crop {
        rect,
        is_mirrored: rng.random(),
    }
}

/// Crop whose sides are about `share` of the photograph's.
fn random_rect(share: std::ops::Range<f64>, rng: &mut SmallRng) -> Rect {
    let (share, stretch) = (
        rng.random_range(share),
        rng.random_range(-0.3f64..0.3).exp(),
    );
    let (width, height) = (
        (share * stretch).clamp(MIN_SIDE, 1.0),
        (share / stretch).clamp(MIN_SIDE, 1.0),
    );
    Rect {
        left: rng.random_range(0.0..=1.0 - width),
        top: rng.random_range(0.0..=1.0 - height),
        width,
        height,
    }
}

/// Crop with a random object near its middle.
fn object_rect(boxes: &[ObjectBox], rng: &mut SmallRng) -> Option<Rect> {
    let object = (!boxes.is_empty()).then(|| &boxes[rng.random_range(0..boxes.len())].rect)?;
    let zoom = rng.random_range(1.1..3.0);
    let (width, height) = (
        (object.width * zoom).clamp(MIN_SIDE, 1.0),
        (object.height * zoom).clamp(MIN_SIDE, 1.0),
    );
    let mut begin = |first: f64, length: f64, crop: f64| {
        let middle = first + length / 2.0 + rng.random_range(-0.2..0.2) * crop;
        (middle - crop / 2.0).clamp(0.0, 1.0 - crop)
    };
    Some(Rect {
        left: begin(object.left, object.width, width),
        top: begin(object.top, object.height, height),
        width,
        height,
    })
}

/// The one of some random crops with the least of people, or without people of all objects; larger
/// crops are allowed slightly more.
fn rect_without(boxes: &[ObjectBox], rng: &mut SmallRng) -> Rect {
    let people: Vec<&ObjectBox> = boxes
        .iter()
        .filter(|item| item.object == "person")
        .collect();
    let avoided = if people.is_empty() {
        boxes.iter().collect()
    } else {
        people
    };
    let cost = |rect: &Rect| {
        let shares = avoided.iter().map(|item| shares(rect, &item.rect));
        shares
            .map(|(inside, covered)| inside.max(covered))
            .sum::<f64>()
            - 0.3 * rect.area()
    };
    let mut best = random_rect(0.3..0.8, rng);
    for _ in 1..TRIES {
        let other = random_rect(0.3..0.8, rng);
        if cost(&other) < cost(&best) {
            best = other;
        }
    }
    best
}

/// Share of the box inside the crop, and share of the crop inside the box.
fn shares(crop: &Rect, object: &Rect) -> (f64, f64) {
    let common = crop.overlap(object);
    (common / object.area(), common / crop.area())
}

/// Labels of outputs derived from object boxes.
pub(super) struct BoxLabels<'a> {
    concepts: &'a [ConceptId],
    /// For every output, those of COCO's objects that equal or generalize it; if all of them are
    /// absent, so is the output.
    above: Vec<Vec<ConceptId>>,
}

impl<'a> BoxLabels<'a> {
    pub(super) fn new(concepts: &'a [ConceptId]) -> Self {
        let (lexicon, coco) = (Lexicon::shared(), coco_concepts(Lexicon::shared()));
        let above = |&concept: &ConceptId| {
            coco.iter()
                .copied()
                .filter(|&upper| lexicon.is_a(concept, upper))
                .collect()
        };
        Self {
            concepts,
            above: concepts.iter().map(above).collect(),
        }
    }

    /// Labels and weights of a crop's outputs, given those of the whole photograph. Outputs absent
    /// from the whole are absent from the crop. Objects are shown or absent by their boxes, which
    /// also shows their hypernyms and makes hyponyms absent. The rest is unknown (weight 0): cut
    /// objects and those that only captions name.
    pub(super) fn crop_labels(
        &self,
        crop: &Rect,
        boxes: &[ObjectBox],
        labels: &[f32],
        weights: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let lexicon = Lexicon::shared();
        // Maps each boxed object to whether it is shown (`true`) or cut (`false`); absent ones are
        // left out.
        let (mut boxed, mut visible) = (Vec::new(), BTreeMap::<ConceptId, bool>::new());
        for (concept, object) in boxes
            .iter()
            .filter_map(|object| Some((object_concept(lexicon, &object.object)?, object)))
        {
            boxed.push(concept);
            let (inside, covered) = shares(crop, &object.rect);
            let is_shown = (inside >= SHOWN && !object.is_crowd)
                || (inside >= MIN_SHARE_LARGE && covered >= MIN_SHARE_LARGE);
            if is_shown || inside >= ABSENT.0 || covered >= ABSENT.1 {
                *visible.entry(concept).or_default() |= is_shown;
            }
        }
        let shown: Vec<ConceptId> = visible
            .iter()
            .filter(|(_, is_shown)| **is_shown)
            .map(|(&concept, _)| concept)
            .collect();
        let label = |(j, &concept): (usize, &ConceptId)| {
            if shown.iter().any(|&object| lexicon.is_a(object, concept)) {
                return (1.0, 1.0);
            }
            if labels[j] == 0.0 && weights[j] > 0.0 {
                return (0.0, weights[j]);
            }
            let above = &self.above[j];
            let is_named_alone =
                labels[j] > 0.0 && !above.iter().any(|object| boxed.contains(object));
            let is_unknown = above.is_empty()
                || is_named_alone
                || above.iter().any(|object| visible.contains_key(object));
            (0.0, if is_unknown { 0.0 } else { 1.0 })
        };
        self.concepts.iter().enumerate().map(label).unzip()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::eval::data::flickr8k::Image;

    fn rect(left: f64, top: f64, width: f64, height: f64) -> Rect {
        Rect {
            left,
            top,
            width,
            height,
        }
    }

    fn boxed(object: &str, rect: Rect) -> ObjectBox {
        ObjectBox {
            object: object.into(),
            rect,
            is_crowd: false,
        }
    }

    const SHOWN: (f32, f32) = (1.0, 1.0);
    const ABSENT: (f32, f32) = (0.0, 1.0);
    const UNKNOWN: (f32, f32) = (0.0, 0.0);

    /// Label and weight of each word's output in a crop, from those of the whole.
    fn labels_in(
        crop: &Rect,
        boxes: &[ObjectBox],
        outputs: &[(&str, (f32, f32))],
    ) -> Vec<(f32, f32)> {
        let concepts: Vec<ConceptId> = outputs
            .iter()
            .map(|(word, _)| Lexicon::shared().concept(word).unwrap())
            .collect();
        let (labels, weights): (Vec<f32>, Vec<f32>) =
            outputs.iter().map(|(_, whole)| *whole).unzip();
        let (labels, weights) =
            BoxLabels::new(&concepts).crop_labels(crop, boxes, &labels, &weights);
        labels.into_iter().zip(weights).collect()
    }

    #[test]
    fn crop_labels_follow_the_visible_share_of_boxes() {
        let left = rect(0.0, 0.0, 0.5, 1.0);
        let person = |box_left: f64, width: f64, height: f64| {
            let boxes = [boxed("person", rect(box_left, 0.0, width, height))];
            labels_in(&left, &boxes, &[("person", SHOWN)])[0]
        };
        assert_eq!(person(0.1, 0.2, 0.2), SHOWN, "wholly inside");
        assert_eq!(person(0.375, 0.25, 0.2), SHOWN, "half of it");
        assert_eq!(person(0.42, 0.2, 0.2), UNKNOWN, "two fifths of it");
        assert_eq!(person(0.49, 0.2, 0.2), ABSENT, "a twentieth of it");
        assert_eq!(person(0.6, 0.2, 0.2), ABSENT, "outside");
        // Two fifths of a large object, which fill two fifths of the crop; a twentieth, which fills
        // a twentieth.
        assert_eq!(person(0.3, 0.5, 1.0), SHOWN);
        assert_eq!(person(0.475, 0.5, 1.0), UNKNOWN);
        let mut crowd = boxed("person", rect(0.0, 0.0, 0.5, 0.2));
        assert_eq!(
            labels_in(&left, std::slice::from_ref(&crowd), &[("person", SHOWN)]),
            [SHOWN]
        );
        crowd.is_crowd = true;
        assert_eq!(
            labels_in(&left, &[crowd.clone()], &[("person", SHOWN)]),
            [UNKNOWN],
            "a group may be anywhere in its box"
        );
        let one = boxed("person", rect(0.1, 0.1, 0.1, 0.1));
        assert_eq!(
            labels_in(&left, &[crowd, one], &[("person", SHOWN)]),
            [SHOWN],
            "one of them is enough"
        );
    }

    #[test]
    fn crop_labels_combine_boxes_with_the_whole_photograph() {
        let boxes = [
            boxed("dog", rect(0.0, 0.0, 0.2, 0.2)),
            boxed("car", rect(0.8, 0.0, 0.2, 0.2)),
        ];
        let left = rect(0.0, 0.0, 0.5, 1.0);
        // The captions of the whole name a jeep, a beach and a pizza, which has no box; nothing is
        // known about a lake.
        let whole = [
            ("dog", SHOWN),
            ("animal", SHOWN),
            ("poodle", UNKNOWN),
            ("car", SHOWN),
            ("jeep", SHOWN),
            ("vehicle", SHOWN),
            ("cat", ABSENT),
            ("mountain", ABSENT),
            ("beach", SHOWN),
            ("pizza", SHOWN),
            ("lake", UNKNOWN),
        ];
        let want = [
            SHOWN, SHOWN, // A kind of what is shown.
            UNKNOWN,
            ABSENT, // A jeep would be a car with a box; another vehicle need not have one.
            ABSENT, UNKNOWN, ABSENT, ABSENT, UNKNOWN, UNKNOWN, UNKNOWN,
        ];
        assert_eq!(labels_in(&left, &boxes, &whole), want);
        let right = labels_in(&rect(0.5, 0.0, 0.5, 1.0), &boxes, &whole);
        assert_eq!(right[..6], [ABSENT, UNKNOWN, ABSENT, SHOWN, UNKNOWN, SHOWN]);
    }

    #[test]
    fn draw_skips_photographs_with_unboxed_objects() {
        let photograph = |origin, objects: Option<&[&str]>, boxes: &[&str]| LabeledPhotograph {
            origin,
            image: Image {
                name: "a.jpg".into(),
                path: "a.jpg".into(),
                captions: Vec::new(),
            },
            texts: Vec::new(),
            objects: objects.map(|objects| {
                objects
                    .iter()
                    .map(|&object| object.to_owned())
                    .collect::<BTreeSet<_>>()
            }),
            boxes: boxes
                .iter()
                .map(|object| boxed(object, rect(0.1, 0.1, 0.5, 0.5)))
                .collect(),
            fold: 0,
        };
        let all = vec![
            photograph(PhotographOrigin::Flickr8k, Some(&["dog"]), &["dog"]),
            photograph(
                PhotographOrigin::CocoMini,
                Some(&["dog", "cat"]),
                &["dog", "dog"],
            ),
            photograph(
                PhotographOrigin::CocoMini,
                Some(&["dog", "cat"]),
                &["cat", "dog"],
            ),
            photograph(PhotographOrigin::CocoMini, None, &[]),
            photograph(PhotographOrigin::CocoMini, Some(&[]), &[]),
        ];
        let photographs = AllPhotographs {
            all,
            train: 1,
            dev: 0,
            questions: Vec::new(),
        };
        let crops = Crops::draw(&photographs, 3, 1);
        assert_eq!(
            crops.photographs,
            [2, 4],
            "all objects of these have boxes, or nobody found one"
        );
        assert_eq!(
            crops
                .iter()
                .map(|(photograph, _)| photograph)
                .collect::<Vec<_>>(),
            [2, 2, 2, 4, 4, 4]
        );
        assert_ne!(crops.crops[0], crops.crops[1]);
        assert_eq!(Crops::draw(&photographs, 3, 1).crops, crops.crops);
        assert_eq!(Crops::draw(&photographs, 0, 1).iter().count(), 0);
    }

    #[test]
    fn draw_crops_lie_inside_and_some_avoid_people() {
        let boxes = [
            boxed("person", rect(0.3, 0.2, 0.15, 0.4)),
            boxed("dog", rect(0.7, 0.6, 0.1, 0.2)),
        ];
        let drawn = |boxes: &[ObjectBox]| {
            let mut rng = SmallRng::seed_from_u64(5);
            (0..64)
                .map(|number| crop(boxes, number, &mut rng))
                .collect::<Vec<Crop>>()
        };
        let crops = drawn(&boxes);
        for Crop { rect, .. } in crops.iter().chain(&drawn(&[])) {
            assert!(
                rect.left >= 0.0
                    && rect.top >= 0.0
                    && rect.width >= MIN_SIDE
                    && rect.height >= MIN_SIDE,
                "{rect:?}"
            );
            assert!(
                rect.left + rect.width <= 1.0 + 1e-9 && rect.top + rect.height <= 1.0 + 1e-9,
                "{rect:?}"
            );
        }
        let people: Vec<(f32, f32)> = crops
            .iter()
            .map(|crop| labels_in(&crop.rect, &boxes, &[("person", (1.0, 1.0))])[0])
            .collect();
        for label in [SHOWN, ABSENT] {
            assert!(
                people.iter().filter(|found| **found == label).count() >= 8,
                "{label:?}: {people:?}"
            );
        }
        assert!(
            crops.iter().any(|crop| crop.is_mirrored) && !crops.iter().all(|crop| crop.is_mirrored)
        );
        assert_eq!(crops, drawn(&boxes));
    }
}
