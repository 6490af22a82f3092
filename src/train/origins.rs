//! Photographs of other origins than Flickr8k that scorers learn from, and what is known of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    TrainError,
    evidence::{
        labels::{Absence, truth},
        origins::{OTHERS, Photograph, Photographs, origin_named},
    },
    labels::LabelledText,
};
use crate::{
    eval::{
        data::flickr8k::{Dataset, Image},
        honesty::{Origin, folds::FOLDS},
        objects,
    },
    lexicon::{Lexicon, References},
};

/// Which photographs scorers learn from beside Flickr8k's, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginsConfig {
    /// Folder with the folders of `coco-mini`, `daquar` and `vqa-rad` that there are.
    pub data: PathBuf,
    /// Parts of them that are learned from, 0 to 4; the others are for figures.
    pub parts: Vec<usize>,
    /// Passes over an origin's photographs in an epoch. One of them that is not named is not learned from; Flickr8k's, not named, are passed over once.
    pub passes: BTreeMap<String, usize>,
}

impl OriginsConfig {
    /// How often an epoch passes over an origin's photographs.
    pub(super) fn passes(&self, origin: Origin) -> usize {
        self.passes.get(origin.name()).copied().unwrap_or(usize::from(origin == Origin::Flickr8k))
    }

    fn check(&self) -> Result<(), TrainError> {
        if self.parts.iter().any(|&part| part >= FOLDS) {
            return Err(TrainError::Run(format!("origins.parts: expected some of 0 to {}", FOLDS - 1)));
        }
        self.passes.keys().try_for_each(|name| origin_named("origins.passes", name).map(drop))
    }
}

/// The photographs of other origins that a training learns from.
pub(super) struct Others {
    pub(super) photographs: Vec<Photograph>,
    absence: Absence,
}

impl Others {
    /// Reads those that a configuration asks for; none without one.
    ///
    /// # Errors
    /// When the configuration names what there is not, or a folder cannot be read.
    pub(super) fn open(config: Option<&OriginsConfig>) -> Result<Self, TrainError> {
        let mut photographs = Vec::new();
        if let Some(config) = config {
            config.check()?;
            if OTHERS.iter().any(|&origin| config.passes(origin) > 0) {
                photographs = Photographs::open(&config.data, &Dataset { train: Vec::new(), dev: Vec::new() })?.all;
                photographs.retain(|photograph| config.parts.contains(&photograph.fold) && config.passes(photograph.origin) > 0);
            }
        }
        Ok(Self { photographs, absence: Absence::new(Lexicon::shared()) })
    }

    /// A text about a photograph, judged by what is known of that: things and, where people described it, colors and numbers.
    pub(super) fn judged(&self, photograph: &Photograph, text: String) -> LabelledText {
        let lexicon = Lexicon::shared();
        let references = References::new(lexicon, &photograph.texts);
        let known = LabelledText::by_mention(text, lexicon, |mention| truth(photograph, &references, mention, &self.absence));
        let captions = &photograph.image.captions;
        if captions.is_empty() {
            return known;
        }
        let properties = objects::judge(lexicon, &known.text, captions);
        known.with_properties(&properties)
    }
}

/// The photograph as questions are derived from it, with all that is known to be there; `None` where nobody described it: what is not named may be there then.
pub(super) fn questioned(photograph: &Photograph) -> Option<Image> {
    let Photograph { image, texts, .. } = photograph;
    (!image.captions.is_empty()).then(|| Image { captions: texts.clone(), ..image.clone() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn photograph(origin: Origin, captions: &[&str], more: &[&str]) -> Photograph {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let image = Image { name: "a.jpg".into(), path: "a.jpg".into(), captions: owned(captions) };
        Photograph { origin, image, texts: [owned(captions), owned(more)].concat(), objects: None, fold: 0 }
    }

    fn judged(photograph: &Photograph, text: &str) -> Vec<(String, Option<bool>)> {
        let others = Others::open(None).unwrap();
        let LabelledText { text, ranges, rest } = others.judged(photograph, text.to_owned());
        assert_eq!(rest, None, "what is no thing is unknown");
        ranges.into_iter().map(|(range, good)| (text[range].to_owned(), good)).collect()
    }

    fn named(words: &[(&str, bool)]) -> Vec<(String, Option<bool>)> {
        words.iter().map(|&(word, good)| (word.to_owned(), Some(good))).collect()
    }

    #[test]
    fn a_text_is_judged_by_what_its_origin_is_sure_of() {
        let text = "A man with a dog near a lamp.";
        let boxes_and_captions = photograph(Origin::CocoMini, &["A lamp on a table."], &["the dog"]);
        assert_eq!(judged(&boxes_and_captions, text), named(&[("man", false), ("dog", true), ("lamp", true)]));
        let boxes = photograph(Origin::CocoMini, &[], &["the dog"]);
        assert_eq!(judged(&boxes, text), named(&[("man", false), ("dog", true)]), "nobody looked for lamps");
        let room = photograph(Origin::Daquar, &[], &["What is on the table?", "the lamp"]);
        assert_eq!(judged(&room, text), named(&[("man", false), ("dog", false), ("lamp", true)]));
        let radiograph = photograph(Origin::VqaRad, &[], &[]);
        assert_eq!(judged(&radiograph, text), named(&[("man", false), ("dog", false), ("lamp", false)]));
    }

    #[test]
    fn questions_are_derived_where_people_described_a_photograph() {
        assert_eq!(questioned(&photograph(Origin::Daquar, &[], &["the lamp"])), None);
        let both = questioned(&photograph(Origin::CocoMini, &["A lamp."], &["the dog"])).unwrap();
        assert_eq!(both.captions, ["A lamp.", "the dog"]);
    }

    #[test]
    fn a_mistake_in_the_origins_is_named_and_flickr8k_is_always_there() {
        let config = |text: &str| -> OriginsConfig { toml::from_str(text).unwrap() };
        let error = |text: &str| Others::open(Some(&config(text))).err().map(|e| e.to_string()).unwrap_or_default();
        let parts = error("data = \"nowhere\"\nparts = [5]\npasses = {}");
        assert!(parts.contains("origins.parts") && parts.contains('4'), "{parts}");
        let name = error("data = \"nowhere\"\nparts = [0]\npasses = { coco = 2 }");
        assert!(name.contains("origins.passes") && name.contains("'coco'") && name.contains("coco-mini"), "{name}");
        // Folders that are not there are left out.
        let nowhere = config("data = \"nowhere\"\nparts = [0]\npasses = { coco-mini = 8 }");
        assert!(Others::open(Some(&nowhere)).unwrap().photographs.is_empty());
        let passes: BTreeSet<(&str, usize)> = OTHERS.iter().chain(&[Origin::Flickr8k]).map(|&o| (o.name(), nowhere.passes(o))).collect();
        assert_eq!(passes, BTreeSet::from([("coco-mini", 8), ("daquar", 0), ("flickr8k", 1), ("vqa-rad", 0)]));
    }
}
