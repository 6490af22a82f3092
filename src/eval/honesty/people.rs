//! People in captions of photographs that show none.

use std::ops::Range;

use super::{PhotographNumbers, Resampling, share};
use crate::{
    eval::{
        bootstrap::Estimate, captions::flags::GuardMarks, chair::ChairVocabulary,
        data::AnnotatedImage,
    },
    lexicon::{ConceptKind, Lexicon},
};

/// Name of people in COCO.
const PERSON: &str = "person";

/// Returns `true` if annotated objects or captions name people; `None` if the image has neither
/// objects nor captions.
pub fn shows_people(image: &AnnotatedImage) -> Option<bool> {
    if image.objects.is_none() && image.captions.is_empty() {
        return None;
    }
    let (vocabulary, lexicon) = (ChairVocabulary::coco80(), Lexicon::shared());
    let annotated = image
        .objects
        .iter()
        .flatten()
        .any(|object| vocabulary.object(object) == Some(PERSON));
    let named = |caption: &String| {
        !person_mentions(caption).is_empty()
            || lexicon
                .mentions(caption)
                .iter()
                .any(|mention| lexicon.kind(mention.concept) == ConceptKind::Person)
    };
    Some(annotated || image.captions.iter().any(named))
}

/// Byte ranges in which a caption names people.
pub fn person_mentions(caption: &str) -> Vec<Range<usize>> {
    ChairVocabulary::coco80()
        .mentions(caption)
        .into_iter()
        .filter(|mention| mention.object == PERSON)
        .map(|mention| mention.range)
        .collect()
}

/// A mention of people, or of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PersonMention {
    photograph: usize,
    is_flagged: bool,
}

/// Mentions of people on photographs of one origin.
#[derive(Debug, Clone, Default)]
pub struct PersonMentions {
    /// Mentions on photographs that show people.
    right: Vec<PersonMention>,
    /// Mentions on photographs that show none.
    invented: Vec<PersonMention>,
    /// Photographs that show nobody, with `true` if the caption names people.
    without_people: Vec<(usize, bool)>,
}

impl PersonMentions {
    /// Adds the caption of photograph `photograph`.
    pub fn add(
        &mut self,
        photograph: usize,
        shows_people: bool,
        caption: &str,
        marks: &GuardMarks,
    ) {
        let mentions = person_mentions(caption);
        if !shows_people {
            self.without_people.push((photograph, !mentions.is_empty()));
        }
        let list = if shows_people {
            &mut self.right
        } else {
            &mut self.invented
        };
        list.extend(mentions.iter().map(|range| PersonMention {
            photograph,
            is_flagged: marks.flags(range),
        }));
    }

    /// Share of invented mentions that are flagged, number of photographs, and number of mentions.
    pub fn invented_flagged(&self, resampling: Resampling) -> (Estimate, usize, usize) {
        flagged(&self.invented, resampling)
    }

    /// Share of grounded mentions that are flagged, number of photographs, and number of mentions.
    pub fn right_flagged(&self, resampling: Resampling) -> (Estimate, usize, usize) {
        flagged(&self.right, resampling)
    }

    /// Share of photographs without people whose caption names some, and number of photographs.
    pub fn invention_rate(&self, resampling: Resampling) -> (Estimate, usize) {
        (
            share(&self.without_people, resampling),
            self.without_people.len(),
        )
    }
}

fn flagged(mentions: &[PersonMention], resampling: Resampling) -> (Estimate, usize, usize) {
    let rows: Vec<(usize, bool)> = mentions
        .iter()
        .map(|mention| (mention.photograph, mention.is_flagged))
        .collect();
    let photographs = PhotographNumbers::new(rows.iter().map(|row| row.0)).len();
    (share(&rows, resampling), photographs, rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESAMPLING: Resampling = Resampling {
        repeats: 50,
        seed: 1,
    };

    fn image(captions: &[&str], objects: Option<&[&str]>) -> AnnotatedImage {
        AnnotatedImage {
            captions: captions.iter().map(|&caption| caption.to_owned()).collect(),
            objects: objects
                .map(|objects| objects.iter().map(|&object| object.to_owned()).collect()),
            ..AnnotatedImage::default()
        }
    }

    #[test]
    fn photograph_shows_people_if_annotated_or_named() {
        for (captions, objects, shown) in [
            (&[][..], None, None),
            (&[], Some(&["pizza"][..]), Some(false)),
            (&[], Some(&[]), Some(false)),
            (&[], Some(&["pizza", "person"]), Some(true)),
            (&["A dog runs."], None, Some(false)),
            (&["A dog runs.", "A woman walks a dog."], None, Some(true)),
            (&["A skier goes downhill."], None, Some(true)),
            (&["Broccoli on a plate."], Some(&["broccoli"]), Some(false)),
            (&["A chef cuts broccoli."], Some(&["broccoli"]), Some(true)),
        ] {
            assert_eq!(
                shows_people(&image(captions, objects)),
                shown,
                "{captions:?} {objects:?}"
            );
        }
    }

    #[test]
    fn invented_and_true_people_are_counted_separately() {
        let marks = |caption: &str, flagged: &[&str]| GuardMarks {
            flagged: flagged
                .iter()
                .map(|word| caption.find(word).map(|at| at..at + word.len()).unwrap())
                .collect(),
            ..GuardMarks::default()
        };
        let mut found = PersonMentions::default();
        for (photograph, shown, caption, flagged) in [
            (
                0,
                false,
                "A man and a woman sit on a bench.",
                &["woman"][..],
            ),
            (1, false, "A pizza on a table.", &["pizza"]),
            (2, false, "A person.", &["A person"]),
            (3, true, "Two boys play.", &[]),
            (4, true, "A dog and a man.", &["dog"]),
            (4, true, "A girl.", &["girl"]),
        ] {
            found.add(photograph, shown, caption, &marks(caption, flagged));
        }
        let (invented, photographs, mentions) = found.invented_flagged(RESAMPLING);
        assert_eq!((photographs, mentions), (2, 3), "man, woman, person");
        assert!((invented.value - 2.0 / 3.0).abs() < 1e-12);
        let (right, photographs, mentions) = found.right_flagged(RESAMPLING);
        assert_eq!((right.value, photographs, mentions), (1.0 / 3.0, 2, 3));
        let (inventing, photographs) = found.invention_rate(RESAMPLING);
        assert!((inventing.value - 2.0 / 3.0).abs() < 1e-12 && photographs == 3);
    }
}
