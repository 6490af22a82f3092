//! Captions judged against annotations: hallucination, recall and description quality of one
//! model's captions, or of two models' on the same images.
//!
//! [`Evaluation::new`] counts each caption once; every figure is a function of summed counts, which
//! the bootstrap resamples.

mod compare;
mod figures;
pub mod flags;
mod form;
pub mod operating;
pub mod repairs;
mod report;
pub mod selection;

use std::{collections::BTreeSet, ops::Range};

use rayon::prelude::*;

pub use compare::{compare, figures, relative_changes};
pub use figures::FigureGroup;
pub use form::{Form, form_table};
pub use report::{ModelFigures, differences, examples, figures_section, measure, report};

use figures::{CaptionCounts, Sums};

use super::{
    chair::{self, ChairVocabulary},
    data::{AnnotatedImage, Hypothesis},
    objects::{self, ObjectJudgment, ObjectScores},
    text,
};
use crate::lexicon::{Lexicon, Reading};

/// Measures to compute.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures<'a> {
    /// Objects of the open vocabulary: concrete nouns of WordNet (needs reference captions).
    pub open: bool,
    /// Objects of a closed vocabulary.
    pub closed: Option<&'a ChairVocabulary>,
    /// BLEU, ROUGE-L and CIDEr-D (need reference captions).
    pub description: bool,
}

/// One caption with its judgments.
#[derive(Debug, Clone)]
pub struct JudgedCaption<'a> {
    /// The image.
    pub image: &'a AnnotatedImage,
    /// The caption.
    pub text: &'a str,
    /// Judgment by the open vocabulary.
    pub open: Option<ObjectJudgment>,
    /// Nouns of the open vocabulary, in the order of their mentions.
    pub nouns: Vec<&'static str>,
    /// Judgment by the closed vocabulary, if there is one.
    pub closed: Option<ClosedObjects<'a>>,
    /// Counts of the caption.
    sums: Sums,
    /// Counts of people's captions of the image, each judged by the others.
    people: Sums,
}

/// Mentions of a closed vocabulary's objects in a caption. Ranges are in bytes.
#[derive(Debug, Clone, Default)]
pub struct ClosedObjects<'a> {
    /// Every mention with its object, and `true` if the image shows the object.
    pub mentions: Vec<(Range<usize>, &'a str, bool)>,
    /// Mentions of each object in the image.
    pub present: Vec<Vec<Range<usize>>>,
}

/// Captions with their judgments.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// Measures that were computed.
    measures: Measures<'a>,
    /// The captions, in the order given.
    pub captions: Vec<JudgedCaption<'a>>,
}

/// An image and its caption.
pub type ImageCaption<'a> = (&'a AnnotatedImage, &'a Hypothesis);

impl<'a> Evaluation<'a> {
    /// Judges captions in parallel. Images without reference captions do not contribute to figures
    /// that need them.
    pub fn new(pairs: &[ImageCaption<'a>], measures: Measures<'a>) -> Self {
        let described: Vec<(&str, &[String])> = pairs
            .iter()
            .filter(|(image, _)| measures.description && !image.captions.is_empty())
            .map(|(image, h)| (h.caption.as_str(), image.captions.as_slice()))
            .collect();
        let mut described = text::score(&described).into_iter();
        let scores: Vec<Option<text::CaptionScores>> = pairs
            .iter()
            .map(|(image, _)| {
                if measures.description && !image.captions.is_empty() {
                    described.next()
                } else {
                    None
                }
            })
            .collect();
        let captions = pairs
            .par_iter()
            .zip(scores)
            .map(|(&(image, hypothesis), scores)| judge(image, hypothesis, measures, scores));
        Self {
            measures,
            captions: captions.collect(),
        }
    }

    /// Counts of every caption, and of people's captions of the same image.
    fn lines(&self) -> (Vec<CaptionCounts>, Vec<CaptionCounts>) {
        self.captions
            .iter()
            .map(|caption| (caption.sums.line(), caption.people.line()))
            .unzip()
    }
}

/// Weighted sum of the captions' counts.
fn weighted(lines: &[CaptionCounts], weights: &[u32]) -> Sums {
    let mut total = Sums::default();
    lines
        .iter()
        .zip(weights)
        .filter(|(_, w)| **w > 0)
        .for_each(|(line, &weight)| total.add(line, f64::from(weight)));
    total
}

fn judge<'a>(
    image: &'a AnnotatedImage,
    hypothesis: &'a Hypothesis,
    measures: Measures<'a>,
    scores: Option<text::CaptionScores>,
) -> JudgedCaption<'a> {
    let lexicon = Lexicon::shared();
    let text = hypothesis.caption.as_str();
    let (mut sums, mut people) = (Sums::default(), Sums::default());
    let (mut open, mut nouns, mut closed) = (None, Vec::new(), None);
    sums.words(crate::lexicon::words(text).len());
    if measures.open && !image.captions.is_empty() {
        let caption = Reading::new(lexicon, text);
        let references: Vec<Reading> = image
            .captions
            .iter()
            .map(|c| Reading::new(lexicon, c))
            .collect();
        let judgment =
            objects::judge_read(lexicon, &caption, &references.iter().collect::<Vec<_>>());
        sums.open(&ObjectScores::from(&judgment));
        let mut people_scores = ObjectScores::default();
        objects::judge_people(lexicon, &references)
            .iter()
            .for_each(|j| people_scores.add(j));
        people.open(&people_scores);
        nouns = caption.phrases.iter().map(|p| p.mention.lemma).collect();
        open = Some(judgment);
    }
    if let Some(vocabulary) = measures.closed {
        closed = Some(judge_closed(
            image,
            text,
            vocabulary,
            (&mut sums, &mut people),
        ));
    }
    if let Some(scores) = scores {
        sums.description(&scores);
    }
    if image.captions.len() > 1 {
        people.words(
            image
                .captions
                .iter()
                .map(|c| crate::lexicon::words(c).len())
                .sum(),
        );
        people.set_captions(image.captions.len());
    }
    JudgedCaption {
        image,
        text,
        open,
        nouns,
        closed,
        sums,
        people,
    }
}

/// Judges a caption by the closed vocabulary, and people's captions each by the others.
fn judge_closed<'a>(
    image: &AnnotatedImage,
    text: &str,
    vocabulary: &'a ChairVocabulary,
    (sums, people): (&mut Sums, &mut Sums),
) -> ClosedObjects<'a> {
    let instances = || image.objects.iter().flatten();
    // Each person's objects are read once: for the ground truth, and for the ground truth
    // without that person.
    let named: Vec<BTreeSet<String>> = image
        .captions
        .iter()
        .map(|c| vocabulary.objects(None::<&str>, [c]))
        .collect();
    let annotated = vocabulary.objects(instances(), None::<&str>);
    let truth = |without: Option<usize>| {
        let others = named
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != without)
            .flat_map(|(_, objects)| objects);
        annotated
            .iter()
            .chain(others)
            .cloned()
            .collect::<BTreeSet<String>>()
    };
    let present = truth(None);
    let judged = chair::judge(vocabulary, text, &present);
    sums.closed(&judged.stats);
    let mentions: Vec<(Range<usize>, &str, bool)> = judged
        .mentions
        .into_iter()
        .map(|(mention, is_present)| (mention.range, mention.object, is_present))
        .collect();
    let naming = |object: &String| {
        mentions
            .iter()
            .filter(|m| m.1 == object)
            .map(|m| m.0.clone())
            .collect()
    };
    let present = present
        .iter()
        .filter(|name| vocabulary.object(name) == Some(name))
        .map(naming)
        .collect();
    if image.captions.len() > 1 {
        let stats = |(i, caption): (usize, &String)| {
            chair::judge(vocabulary, caption, &truth(Some(i))).stats
        };
        people.closed(&image.captions.iter().enumerate().map(stats).sum());
    }
    ClosedObjects { mentions, present }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::data::RowPosition;

    fn image(id: &str, captions: &[&str]) -> AnnotatedImage {
        AnnotatedImage {
            id: id.into(),
            captions: captions.iter().map(|&c| c.into()).collect(),
            ..AnnotatedImage::default()
        }
    }

    fn hypothesis(image: &str, caption: &str) -> Hypothesis {
        Hypothesis {
            image: image.into(),
            caption: caption.into(),
            objects: None,
            position: RowPosition::Line(1),
        }
    }

    fn figure(report: &serde_json::Value, table: &str, row: &str, column: &str) -> f64 {
        let found = &report["sections"]["Figures"]["tables"][table]["rows"][row][column]["value"];
        found
            .as_f64()
            .unwrap_or_else(|| panic!("{table} / {row} / {column}: {found} in {report}"))
    }

    #[test]
    fn figures_equal_those_of_their_modules() {
        let images = [
            image("a", &["A dog on grass.", "A dog in the grass."]),
            image("b", &["Two cats on a sofa.", "Cats sleep on a couch."]),
        ];
        let captions = [
            hypothesis("a", "A dog with a frisbee on the grass."),
            hypothesis("b", "Two cats on a sofa."),
        ];
        let pairs: Vec<ImageCaption<'_>> = images.iter().zip(&captions).collect();
        let measures = Measures {
            open: true,
            closed: Some(ChairVocabulary::coco80()),
            description: true,
        };
        let report = report(&[("mine", &Evaluation::new(&pairs, measures))], 200, 1).to_json();
        assert_eq!(figure(&report, "Open vocabulary", "mine", "CHAIR_i"), 0.2);
        assert_eq!(figure(&report, "Open vocabulary", "mine", "CHAIR_s"), 0.5);
        assert_eq!(
            figure(
                &report,
                "Open vocabulary",
                "people, each judged by the others",
                "CHAIR_i"
            ),
            0.0
        );
        assert_eq!(
            figure(&report, "Closed vocabulary", "mine", "CHAIR_i"),
            0.25,
            "frisbee of dog, frisbee, cat and couch"
        );
        assert!(figure(&report, "Description", "mine", "CIDEr-D") > 0.0);
        assert_eq!(figure(&report, "Description", "mine", "words"), 6.5);
    }

    #[test]
    fn differences_of_two_models_are_paired_by_image() {
        let images: Vec<AnnotatedImage> = (0..60)
            .map(|i| image(&i.to_string(), &["A dog on grass.", "A dog in the grass."]))
            .collect();
        let good: Vec<Hypothesis> = images
            .iter()
            .map(|i| hypothesis(&i.id, "A dog on the grass."))
            .collect();
        let bad: Vec<Hypothesis> = images
            .iter()
            .map(|i| hypothesis(&i.id, "A cat on the grass."))
            .collect();
        let pairs = |of| images.iter().zip(of).collect::<Vec<ImageCaption<'_>>>();
        let measures = Measures {
            open: true,
            ..Measures::default()
        };
        let (good, bad) = (
            Evaluation::new(&pairs(&good), measures),
            Evaluation::new(&pairs(&bad), measures),
        );
        let compared = report(&[("good", &good), ("bad", &bad)], 200, 1).to_json();
        let row = &compared["sections"]["Differences"]["tables"]["bad against good, the same \
            images"]["rows"]["CHAIR_i"];
        assert_eq!(row["difference"]["value"], 0.5, "{compared}");
        assert_eq!(row["at 5 %"], "significant");
        let same = report(&[("good", &good), ("good again", &good)], 200, 1).to_json();
        let row = &same["sections"]["Differences"]["tables"]["good again against good, the same \
            images"]["rows"]["CHAIR_i"];
        assert_eq!(row["at 5 %"], "not significant", "{same}");
    }

    #[test]
    fn images_without_references_are_left_out_of_figures_that_need_them() {
        let images = [
            image("a", &["A dog on grass."]),
            AnnotatedImage {
                objects: Some(["cat".to_owned()].into()),
                ..image("b", &[])
            },
        ];
        let captions = [hypothesis("a", "A dog."), hypothesis("b", "A dog.")];
        let pairs: Vec<ImageCaption<'_>> = images.iter().zip(&captions).collect();
        let measures = Measures {
            open: true,
            closed: Some(ChairVocabulary::coco80()),
            description: true,
        };
        let report = report(&[("mine", &Evaluation::new(&pairs, measures))], 200, 1).to_json();
        assert_eq!(figure(&report, "Open vocabulary", "mine", "captions"), 1.0);
        assert_eq!(
            figure(&report, "Closed vocabulary", "mine", "captions"),
            2.0
        );
        assert_eq!(figure(&report, "Closed vocabulary", "mine", "CHAIR_i"), 0.5);
    }
}
