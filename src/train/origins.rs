//! Training photographs of other origins than Flickr8k, with their labels.

use std::{collections::BTreeMap, path::PathBuf};

use rand::{
    Rng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    answers::ImageStatement,
    evidence::{
        labels::{KnownAbsences, truth},
        origins::{AllPhotographs, LabeledPhotograph, OTHERS, origin_named},
    },
    labels::LabeledText,
    text::capitalized,
};
use crate::{
    eval::{
        data::{
            flickr8k::{Dataset, Image},
            questions::AnnotatedQuestion,
        },
        honesty::{FOLDS, PhotographOrigin},
        objects,
        vqa::is_right,
    },
    lexicon::{Lexicon, ReferenceTexts},
};

/// Photographs of other origins that scorers learn from, and their frequency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginsConfig {
    /// Folder that holds the folders `coco-mini`, `daquar` and `vqa-rad`; missing ones are skipped.
    pub data: PathBuf,
    /// Folds to learn from, 0 to 4; the others are for evaluation.
    pub parts: Vec<usize>,
    /// Passes over an origin's photographs per epoch. Origins without an entry are skipped, except
    /// Flickr8k with one pass.
    pub passes: BTreeMap<String, usize>,
}

impl OriginsConfig {
    /// Passes per epoch over an origin's photographs.
    pub(super) fn passes(&self, origin: PhotographOrigin) -> usize {
        self.passes
            .get(origin.name())
            .copied()
            .unwrap_or(usize::from(origin == PhotographOrigin::Flickr8k))
    }

    fn check(&self) -> Result<(), TrainError> {
        if self.parts.iter().any(|&part| part >= FOLDS) {
            return Err(TrainError::Run(format!(
                "origins.parts: expected some of 0 to {}",
                FOLDS - 1
            )));
        }
        self.passes
            .keys()
            .try_for_each(|name| origin_named("origins.passes", name).map(drop))
    }
}

/// Photographs of other origins that a run learns from.
pub(super) struct OtherOrigins {
    pub(super) photographs: Vec<LabeledPhotograph>,
    /// People's questions about each photograph; none for radiographs, which only serve as
    /// negatives.
    questions: Vec<Vec<AnnotatedQuestion>>,
    absence: KnownAbsences,
}

impl OtherOrigins {
    /// Reads the configured photographs; none without a configuration.
    ///
    /// # Errors
    /// When the configuration is invalid or a folder cannot be read.
    pub(super) fn open(config: Option<&OriginsConfig>) -> Result<Self, TrainError> {
        let mut this = Self {
            photographs: Vec::new(),
            questions: Vec::new(),
            absence: KnownAbsences::new(Lexicon::shared()),
        };
        let Some(config) = config else {
            return Ok(this);
        };
        config.check()?;
        if OTHERS.iter().all(|&origin| config.passes(origin) == 0) {
            return Ok(this);
        }
        let AllPhotographs { all, questions, .. } = AllPhotographs::open(
            &config.data,
            &Dataset {
                train: Vec::new(),
                dev: Vec::new(),
            },
        )?;
        let mut asked: BTreeMap<usize, Vec<AnnotatedQuestion>> = BTreeMap::new();
        questions
            .into_iter()
            .for_each(|(number, question)| asked.entry(number).or_default().push(question));
        for (number, photograph) in all.into_iter().enumerate() {
            if config.parts.contains(&photograph.fold) && config.passes(photograph.origin) > 0 {
                let questions = asked
                    .remove(&number)
                    .filter(|_| photograph.origin == PhotographOrigin::Daquar);
                this.questions.push(questions.unwrap_or_default());
                this.photographs.push(photograph);
            }
        }
        Ok(this)
    }

    /// At most `n` of people's questions about photograph `number`.
    pub(super) fn questions(
        &self,
        number: usize,
        n: usize,
        rng: &mut impl Rng,
    ) -> Vec<&AnnotatedQuestion> {
        self.questions
            .get(number)
            .into_iter()
            .flatten()
            .choose_multiple(rng, n)
    }

    /// Answers to at most `n` of people's questions, about half of them taken from other questions
    /// and wrong.
    pub(super) fn answers(
        &self,
        number: usize,
        n: usize,
        rng: &mut impl Rng,
    ) -> Vec<ImageStatement> {
        let mut statements = Vec::new();
        for question in self.questions(number, n, rng) {
            let right = rng.random_bool(0.5);
            let other = if right {
                Some(question)
            } else {
                self.questions
                    .iter()
                    .filter(|questions| !questions.is_empty())
                    .choose(rng)
                    .and_then(|questions| questions.choose(rng))
            };
            let answer = other.and_then(|other| other.answers.choose(rng));
            let fits = |answer: &&String| is_right(answer, &question.answers) == right;
            let text = answer
                .filter(fits)
                .map(|answer| capitalized(&format!("{}.", answer.replace('_', " "))));
            statements.extend(
                text.map(|text| ImageStatement::answer(question.question.clone(), text, right)),
            );
        }
        statements
    }

    /// Labels a text about a photograph: object mentions and, if the photograph has captions,
    /// colors and numbers.
    pub(super) fn judged(&self, photograph: &LabeledPhotograph, text: String) -> LabeledText {
        let lexicon = Lexicon::shared();
        let references = ReferenceTexts::new(lexicon, &photograph.texts);
        let labeled = LabeledText::from_mentions(text, lexicon, |mention| {
            truth(photograph, &references, mention, &self.absence)
        });
        // Without captions no colors and numbers are known.
        let properties = objects::judge(lexicon, &labeled.text, &photograph.image.captions);
        labeled.with_properties(&properties)
    }
}

/// Photograph with all known texts, for deriving questions; `None` without captions, when unnamed
/// objects may be present.
pub(super) fn questioned(photograph: &LabeledPhotograph) -> Option<Image> {
    let LabeledPhotograph { image, texts, .. } = photograph;
    (!image.captions.is_empty()).then(|| Image {
        captions: texts.clone(),
        ..image.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn photograph(origin: PhotographOrigin, captions: &[&str], more: &[&str]) -> LabeledPhotograph {
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let image = Image {
            name: "a.jpg".into(),
            path: "a.jpg".into(),
            captions: owned(captions),
        };
        LabeledPhotograph {
            origin,
            image,
            texts: [owned(captions), owned(more)].concat(),
            objects: None,
            boxes: Vec::new(),
            fold: 0,
        }
    }

    fn judged(photograph: &LabeledPhotograph, text: &str) -> Vec<(String, Option<bool>)> {
        let others = OtherOrigins::open(None).unwrap();
        let LabeledText {
            text, ranges, rest, ..
        } = others.judged(photograph, text.to_owned());
        assert_eq!(rest, None, "what is no thing is unknown");
        ranges
            .into_iter()
            .map(|(range, good)| (text[range].to_owned(), good))
            .collect()
    }

    fn named(words: &[(&str, bool)]) -> Vec<(String, Option<bool>)> {
        words
            .iter()
            .map(|&(word, good)| (word.to_owned(), Some(good)))
            .collect()
    }

    #[test]
    fn judged_uses_the_certain_labels_of_each_origin() {
        let text = "A man with a dog near a lamp.";
        let boxes_and_captions = photograph(
            PhotographOrigin::CocoMini,
            &["A lamp on a table."],
            &["the dog"],
        );
        assert_eq!(
            judged(&boxes_and_captions, text),
            named(&[("man", false), ("dog", true), ("lamp", true)])
        );
        let boxes = photograph(PhotographOrigin::CocoMini, &[], &["the dog"]);
        assert_eq!(
            judged(&boxes, text),
            named(&[("man", false), ("dog", true)]),
            "nobody looked for lamps"
        );
        let room = photograph(
            PhotographOrigin::Daquar,
            &[],
            &["What is on the table?", "the lamp"],
        );
        assert_eq!(
            judged(&room, text),
            named(&[("man", false), ("dog", false), ("lamp", true)])
        );
        let radiograph = photograph(PhotographOrigin::VqaRad, &[], &[]);
        assert_eq!(
            judged(&radiograph, text),
            named(&[("man", false), ("dog", false), ("lamp", false)])
        );
    }

    #[test]
    fn answers_about_half_are_wrong() {
        let asked = |question: &str, answers: &[&str]| AnnotatedQuestion {
            image: "a.jpg".into(),
            photo: "a.jpg".into(),
            question: question.into(),
            answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
            kind: None,
            answer_type: None,
        };
        let questions = vec![
            vec![asked("what is on the desk?", &["garbage_bin", "book"])],
            vec![asked("what is red?", &["chair"])],
            Vec::new(),
        ];
        let others = OtherOrigins {
            questions,
            ..OtherOrigins::open(None).unwrap()
        };
        let mut rng = SmallRng::seed_from_u64(3);
        let statements: BTreeSet<(String, bool)> = (0..200)
            .flat_map(|_| others.answers(0, 2, &mut rng))
            .map(|statements| {
                (
                    statements.text.text.clone(),
                    statements.text.ranges == [(0..statements.text.text.len() - 1, Some(true))],
                )
            })
            .collect();
        let want = [("Book.", true), ("Chair.", false), ("Garbage bin.", true)]
            .map(|(text, right)| (text.to_owned(), right));
        assert_eq!(statements, BTreeSet::from(want));
        assert_eq!(
            (
                others.answers(2, 2, &mut rng),
                others.answers(7, 2, &mut rng)
            ),
            (Vec::new(), Vec::new())
        );
    }

    #[test]
    fn questioned_needs_captions() {
        assert_eq!(
            questioned(&photograph(PhotographOrigin::Daquar, &[], &["the lamp"])),
            None
        );
        let both = questioned(&photograph(
            PhotographOrigin::CocoMini,
            &["A lamp."],
            &["the dog"],
        ))
        .unwrap();
        assert_eq!(both.captions, ["A lamp.", "the dog"]);
    }

    #[test]
    fn open_invalid_origins_are_named_and_flickr8k_is_default() {
        let config = |text: &str| -> OriginsConfig { toml::from_str(text).unwrap() };
        let error = |text: &str| {
            OtherOrigins::open(Some(&config(text)))
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        let parts = error("data = \"nowhere\"\nparts = [5]\npasses = {}");
        assert!(
            parts.contains("origins.parts") && parts.contains('4'),
            "{parts}"
        );
        let name = error("data = \"nowhere\"\nparts = [0]\npasses = { coco = 2 }");
        assert!(
            name.contains("origins.passes")
                && name.contains("'coco'")
                && name.contains("coco-mini"),
            "{name}"
        );
        // Missing folders are skipped.
        let nowhere = config("data = \"nowhere\"\nparts = [0]\npasses = { coco-mini = 8 }");
        assert!(
            OtherOrigins::open(Some(&nowhere))
                .unwrap()
                .photographs
                .is_empty()
        );
        let passes: BTreeSet<(&str, usize)> = OTHERS
            .iter()
            .chain(&[PhotographOrigin::Flickr8k])
            .map(|&o| (o.name(), nowhere.passes(o)))
            .collect();
        assert_eq!(
            passes,
            BTreeSet::from([
                ("coco-mini", 8),
                ("daquar", 0),
                ("flickr8k", 1),
                ("vqa-rad", 0)
            ])
        );
    }
}
