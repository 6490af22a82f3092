//! Photographs of every origin, and what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::super::{TrainError, tell, text::normalize_caption};
use crate::eval::{
    data::{
        ObjectBox, ReferenceSet,
        flickr8k::{Dataset, Image},
        questions::{AnnotatedQuestion, questions_file, read_questions},
    },
    honesty::{PhotographOrigin, fold_index, photograph_digest},
};

/// The origins beside Flickr8k, in the order of features and tables.
pub(in crate::train) const OTHERS: [PhotographOrigin; 3] = [
    PhotographOrigin::CocoMini,
    PhotographOrigin::Daquar,
    PhotographOrigin::VqaRad,
];

/// COCO's names of objects that mean another thing, or nothing, in the lexicon.
const OTHER_NAMES: [(&str, &str); 4] = [
    ("microwave", "microwave oven"),
    ("mouse", "computer mouse"),
    ("remote", "remote control"),
    ("toaster", "toaster oven"),
];

/// The name of coco-mini's crops among the shares of a step.
const CROPS: &str = "coco-mini-crops";

/// What a training step can learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrainingSource {
    /// Whole photographs.
    Photographs(PhotographOrigin),
    /// Crops of those with boxes.
    Crops,
}

/// The origin of a name in the configuration; `key` is where it stands.
///
/// # Errors
/// Where no origin with photographs has that name.
pub(in crate::train) fn origin_named(
    key: &str,
    name: &str,
) -> Result<PhotographOrigin, TrainError> {
    with_photographs()
        .find(|origin| origin.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = with_photographs().map(PhotographOrigin::name).collect();
            TrainError::Run(format!(
                "{key}: there is no origin '{name}', only {}",
                names.join(", ")
            ))
        })
}

/// The origins with photographs.
fn with_photographs() -> impl Iterator<Item = PhotographOrigin> {
    std::iter::once(PhotographOrigin::Flickr8k).chain(OTHERS)
}

/// The same of what steps learn from, which has coco-mini's crops beside the origins.
///
/// # Errors
/// Where nothing has that name.
pub(super) fn source_named(key: &str, name: &str) -> Result<TrainingSource, TrainError> {
    match name {
        CROPS => Ok(TrainingSource::Crops),
        _ => origin_named(key, name)
            .map(TrainingSource::Photographs)
            .map_err(|error| TrainError::Run(format!("{error}, {CROPS}"))),
    }
}

/// A photograph with what is known of it.
#[derive(Debug, Clone)]
pub(in crate::train) struct LabeledPhotograph {
    pub(in crate::train) origin: PhotographOrigin,
    /// Its file, and people's captions of it.
    pub(in crate::train) image: Image,
    /// Texts whose things it shows: captions, objects, questions with their answers.
    pub(in crate::train) texts: Vec<String>,
    /// Names of COCO's objects on it, where somebody looked for them.
    pub(in crate::train) objects: Option<BTreeSet<String>>,
    /// Their boxes.
    pub(in crate::train) boxes: Vec<ObjectBox>,
    /// Its part of the five.
    pub(in crate::train) fold: usize,
}

/// The photographs of all origins in one list: Flickr8k's training split, its development split,
/// then the [others](OTHERS).
#[derive(Debug, Clone)]
pub(in crate::train) struct AllPhotographs {
    pub(in crate::train) all: Vec<LabeledPhotograph>,
    /// How many the training split has.
    pub(super) train: usize,
    /// How many the development split has.
    pub(super) dev: usize,
    /// People's questions with the numbers of their photographs.
    pub(in crate::train) questions: Vec<(usize, AnnotatedQuestion)>,
}

impl AllPhotographs {
    /// Reads the folders `coco-mini`, `daquar` and `vqa-rad` in `data`, and takes Flickr8k's. One
    /// that is not there is left out.
    ///
    /// # Errors
    /// When a folder cannot be read or a photograph is missing.
    pub(in crate::train) fn open(data: &Path, flickr8k: &Dataset) -> Result<Self, TrainError> {
        let captioned = |image: &Image| {
            let texts = image
                .captions
                .iter()
                .map(|caption| normalize_caption(caption))
                .collect();
            photograph(PhotographOrigin::Flickr8k, image.clone(), texts)
        };
        let all = flickr8k
            .train
            .iter()
            .chain(&flickr8k.dev)
            .map(captioned)
            .collect::<Result<_, _>>()?;
        let mut this = Self {
            all,
            train: flickr8k.train.len(),
            dev: flickr8k.dev.len(),
            questions: Vec::new(),
        };
        for origin in OTHERS {
            let folder = data.join(origin.name());
            match origin {
                _ if !folder.is_dir() => tell(format_args!(
                    "there is no folder {}: nothing is learned from it",
                    folder.display()
                )),
                PhotographOrigin::CocoMini => this.add_annotated(&folder)?,
                _ => this.add_asked(origin, &folder)?,
            }
        }
        Ok(this)
    }

    /// The numbers of the photographs of an origin; of Flickr8k, those of the development split.
    pub(super) fn of(&self, origin: PhotographOrigin) -> impl Iterator<Item = usize> {
        (self.train..self.all.len()).filter(move |&i| self.all[i].origin == origin)
    }

    fn add_annotated(&mut self, folder: &Path) -> Result<(), TrainError> {
        let references = ReferenceSet::open(folder, None).map_err(unusable)?;
        for annotated in references.images() {
            let missing = || {
                TrainError::Run(format!(
                    "{}: there is no photograph for '{}'",
                    folder.display(),
                    annotated.name()
                ))
            };
            let path = annotated.photo.clone().ok_or_else(missing)?;
            let captions: Vec<String> = annotated
                .captions
                .iter()
                .map(|caption| normalize_caption(caption))
                .collect();
            let objects = annotated
                .objects
                .iter()
                .flatten()
                .map(|object| object_text(object));
            let texts = captions.iter().cloned().chain(objects).collect();
            let image = Image {
                name: annotated.name().to_owned(),
                path,
                captions,
            };
            let (objects, boxes) = (annotated.objects.clone(), annotated.boxes.clone());
            self.all.push(LabeledPhotograph {
                objects,
                boxes,
                ..photograph(PhotographOrigin::CocoMini, image, texts)?
            });
        }
        Ok(())
    }

    fn add_asked(&mut self, origin: PhotographOrigin, folder: &Path) -> Result<(), TrainError> {
        let missing =
            || TrainError::Run(format!("{}: there is no questions.jsonl", folder.display()));
        let questions =
            read_questions(&questions_file(folder).ok_or_else(missing)?).map_err(unusable)?;
        let mut by_image: BTreeMap<String, Vec<AnnotatedQuestion>> = BTreeMap::new();
        questions.into_iter().for_each(|question| {
            by_image
                .entry(question.image.clone())
                .or_default()
                .push(question)
        });
        for (name, questions) in by_image {
            let Some(first) = questions.first() else {
                continue;
            };
            let texts = if origin == PhotographOrigin::Daquar {
                questions.iter().flat_map(asked_texts).collect()
            } else {
                Vec::new()
            };
            let image = Image {
                name,
                path: first.photo.clone(),
                captions: Vec::new(),
            };
            let number = self.all.len();
            self.all.push(photograph(origin, image, texts)?);
            self.questions
                .extend(questions.into_iter().map(|question| (number, question)));
        }
        Ok(())
    }
}

fn photograph(
    origin: PhotographOrigin,
    image: Image,
    texts: Vec<String>,
) -> Result<LabeledPhotograph, TrainError> {
    let file = fs::read(&image.path).map_err(TrainError::io(&image.path))?;
    Ok(LabeledPhotograph {
        origin,
        image,
        texts,
        objects: None,
        boxes: Vec::new(),
        fold: fold_index(photograph_digest(&file)),
    })
}

fn unusable(error: impl std::fmt::Display) -> TrainError {
    TrainError::Run(error.to_string())
}

/// An annotated object as a text that names it.
pub(super) fn object_text(object: &str) -> String {
    let name = OTHER_NAMES
        .iter()
        .find(|(name, _)| *name == object)
        .map_or(object, |(_, other)| other);
    format!("the {name}")
}

/// A question and its answers as texts: what they name is there.
fn asked_texts(question: &AnnotatedQuestion) -> Vec<String> {
    let answers = question
        .answers
        .iter()
        .map(|answer| format!("the {}", answer.replace('_', " ")));
    std::iter::once(question.question.clone())
        .chain(answers)
        .collect()
}
