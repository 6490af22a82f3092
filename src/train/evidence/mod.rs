//! Training of the evidence for words (`candor train evidence`): a small network over the tower's
//! features, the reference of familiarity, and what evidence and rewards together mean.
//!
//! Networks first learn from Flickr8k alone, then from all origins. Of the second stage there are a
//! network for each of the [five parts](crate::eval::honesty::fold_index), which learns from the
//! others, and one that learns from the parts that the configuration names and is shipped.
//! Calibrations are fitted on evidence of networks that did not see the photograph: a network is
//! surer of its own.

mod answers;
mod calibrate;
mod conclude;
mod crops;
mod figures;
mod files;
mod head;
pub(super) mod labels;
mod learn;
mod matching;
mod mentions;
mod networks;
pub(super) mod origins;
mod reference;
mod texts;
mod words;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::{
    calibrate::CalibrationConfig,
    head::HeadConfig,
    labels::VocabularyConfig,
    learn::StageConfig,
    matching::MatchingConfig,
    reference::{ReferenceConfig, ScopeRecipe},
};
use self::{
    calibrate::CalibrationRow,
    crops::Crops,
    files::SharedFit,
    head::Standardization,
    mentions::{BundleScorer, JudgedMention, MentionScorer, PhotographText, TextSource},
    origins::{AllPhotographs, origin_named, source_named},
    reference::StoredReference,
};
use super::{TrainError, checkpoint::RunDir, scored_split::DevelopmentHalf, setup::Setup, tell};
use crate::{
    eval::{
        honesty::{FOLDS, PhotographOrigin, texts::MixedText},
        report::{EvaluationReport, Section},
    },
    lexicon::{ConceptId, Lexicon},
    reward::{
        evidence::{
            EvidenceCalibrations, EvidenceConfig, EvidenceThresholds, FORMAT, FamiliarityScale,
            FeatureCalibration, ImageEvidence, MatchConfig, MentionFeatures, ScopeConfig,
            SentenceFeatures,
        },
        finish::WrittenBy,
    },
};

/// Temperature of the captions beside the likeliest ones.
const TEMPERATURE: f32 = 1.0;

/// `candor train evidence --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRecipe {
    /// Folder with the origins: `flickr8k`, and those of `coco-mini`, `daquar` and `vqa-rad` that
    /// there are.
    pub data: PathBuf,
    /// The bundle with the policy and the scorer: its directory, or the name of an embedded one.
    pub policy: String,
    /// Folder for the photographs' features, which several runs can share.
    pub features: PathBuf,
    /// Parts of the small origins that the shipped network and its calibrations learn from, 0 to 4.
    pub parts: Vec<usize>,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Worker threads; 0 takes every core.
    pub workers: usize,
    /// Which things have outputs.
    pub vocabulary: VocabularyConfig,
    /// Crops of each of coco-mini's photographs.
    pub crops: usize,
    /// Networks that are trained apart; what is shipped is their mean.
    pub networks: usize,
    /// Each of these networks.
    pub head: HeadConfig,
    /// The first stage.
    pub first: StageConfig,
    /// The second stage.
    pub second: StageConfig,
    /// The networks that compare texts with photographs.
    #[serde(rename = "match")]
    pub matching: MatchingConfig,
    /// The photographs that familiarity compares with.
    pub reference: ReferenceConfig,
    /// The photographs that tell which kinds no question is answered about.
    pub scope: ScopeRecipe,
    /// The calibrations.
    pub calibration: CalibrationConfig,
}

/// A training of evidence that is ready to run, or to go on.
pub struct EvidenceTraining {
    recipe: EvidenceRecipe,
    run: RunDir,
    setup: Setup,
    photographs: AllPhotographs,
    crops: Crops,
}

/// A trained network's answer for every photograph behind the training split.
struct Seen {
    images: Vec<ImageEvidence>,
    /// Mean cosine of the nearest reference photographs.
    cosines: Vec<f64>,
}

impl EvidenceTraining {
    /// Reads policy and data.
    ///
    /// # Errors
    /// When the configuration, the data, the policy or the run directory is not usable.
    pub fn prepare(recipe: EvidenceRecipe, out: &Path, resume: bool) -> Result<Self, TrainError> {
        if recipe.parts.is_empty() || recipe.parts.iter().any(|&part| part >= FOLDS) {
            return Err(TrainError::Run(format!(
                "parts: expected some of 0 to {}",
                FOLDS - 1
            )));
        }
        if recipe.networks == 0
            || recipe.head.hidden == 0
            || recipe.reference.nearest == 0
            || recipe.reference.components == 0
        {
            return Err(TrainError::Run(
                "networks, head.hidden, reference.nearest and \
                                        reference.components must be at least 1"
                    .into(),
            ));
        }
        if recipe.matching.head.hidden == 0
            || recipe.matching.width == 0
            || recipe.matching.members == 0
        {
            return Err(TrainError::Run(
                "match.members, match.head.hidden and match.width must be at least 1".into(),
            ));
        }
        if !(0.0..=1.0).contains(&recipe.calibration.default_threshold) {
            return Err(TrainError::Run(
                "calibration.default_threshold must be from 0 to 1".into(),
            ));
        }
        if !(0.0..=1.0).contains(&recipe.matching.right_flagged) {
            return Err(TrainError::Run(
                "match.right_flagged must be from 0 to 1".into(),
            ));
        }
        if !(0.0..1.0).contains(&recipe.scope.unanswered_share) || recipe.scope.nearest == 0 {
            return Err(TrainError::Run(
                "scope.unanswered_share must be from 0 to below 1, and scope.nearest at least 1"
                    .into(),
            ));
        }
        for (key, stage) in [
            ("first.shares", &recipe.first),
            ("second.shares", &recipe.second),
        ] {
            stage
                .shares
                .keys()
                .try_for_each(|name| source_named(key, name).map(drop))?;
        }
        let of_origins = [
            ("match.first.shares", &recipe.matching.first.shares),
            ("match.second.shares", &recipe.matching.second.shares),
            ("calibration.origins", &recipe.calibration.origins),
            (
                "calibration.answer_origins",
                &recipe.calibration.answer_origins,
            ),
        ];
        for (key, of) in of_origins {
            of.keys()
                .try_for_each(|name| origin_named(key, name).map(drop))?;
        }
        let setup = Setup::open(
            &recipe.data.join(PhotographOrigin::Flickr8k.name()),
            &recipe.policy,
            recipe.workers,
        )?;
        let photographs = AllPhotographs::open(&recipe.data, &setup.data)?;
        let crops = Crops::draw(&photographs, recipe.crops, recipe.seed);
        let run = RunDir::open(out, &recipe, resume)?;
        Ok(Self {
            recipe,
            run,
            setup,
            photographs,
            crops,
        })
    }

    /// Trains, calibrates and writes `evidence.safetensors`, `evidence.json`, `report.json` and
    /// `report.html` into the run directory. Stages that an earlier run finished are not repeated.
    ///
    /// # Errors
    /// When the loss stops being a number, there is nothing to calibrate on, or a file cannot be
    /// written.
    pub fn train(&self) -> Result<EvaluationReport, TrainError> {
        let scorer = BundleScorer::open(&self.setup)?;
        let (pooled, features) = self.features()?;
        let (train, all) = (self.photographs.train, &self.photographs.all);
        let of_train: Vec<&[f32]> = pooled[..train].iter().map(Vec::as_slice).collect();
        let standard = Standardization::of(&of_train);
        let (concepts, rows) = self.rows(&pooled, &standard);
        let (counts, crop_counts) = self.label_counts(&rows, &concepts);
        if let Some(class) = figures::class_without_negatives(&counts) {
            return Err(TrainError::Run(format!(
                "no photograph is known to lack any {class}: the network could not learn it"
            )));
        }
        let prior = labels::prior(&rows.labels[..train], &rows.weights[..train]);
        let (mut parts, mut shipped) = self.networks(&rows, &prior)?;
        let matching = self.matching(&pooled, &standard, &concepts)?;
        parts
            .iter_mut()
            .zip(matching.parts)
            .for_each(|(part, weights)| part.extend(weights));
        shipped.extend(matching.shipped);
        let channels = self.setup.policy.config.model.vision.head;
        let heads: Vec<&[f32]> = of_train
            .iter()
            .map(|row| &row[..channels.min(row.len())])
            .collect();
        let reference = StoredReference::fit(&heads, self.recipe.reference, self.recipe.seed)?;
        let scope = Some(self.scope(&pooled, channels)?);
        let common = SharedFit {
            standard,
            prior,
            reference,
            scope,
        };
        let nearest = self
            .recipe
            .reference
            .nearest
            .min(common.reference.points.len());
        let mut config = EvidenceConfig {
            matching: Some(MatchConfig {
                words: matching.words,
                members: self.recipe.matching.members,
            }),
            named: labels::named(
                &self.photographs,
                &labels::all_shown(&self.photographs),
                &concepts,
            )
            .into_iter()
            .map(output_name)
            .collect(),
            ..unfitted(&concepts, nearest)
        };
        let nearest = common
            .scope
            .as_ref()
            .map_or(0, |scope| self.recipe.scope.nearest.min(scope.points.len()));
        config.scope = Some(ScopeConfig {
            k: nearest,
            abstain_below: -1.0,
        });
        let evidence = parts
            .iter()
            .map(|head| common.served(head, &config))
            .collect::<Result<Vec<_>, _>>()?;

        let judge = MentionScorer {
            setup: &self.setup,
            photographs: &self.photographs,
            features: &features,
            scorer: &scorer,
        };
        let everyone: Vec<usize> = (train..all.len()).collect();
        let often: Vec<usize> = everyone
            .iter()
            .copied()
            .filter(|&i| {
                matches!(
                    all[i].origin,
                    PhotographOrigin::CocoMini | PhotographOrigin::Daquar
                )
            })
            .collect();
        tell("the policy writes captions, and they are scored");
        let greedy = judge.scored(judge.captions(&everyone, 0.0, self.recipe.seed)?)?;
        let sampled = judge.scored(judge.captions(
            &often,
            TEMPERATURE,
            self.recipe.seed.wrapping_add(1_000_003),
        )?)?;
        let peoples = judge.scored(judge.peoples(&everyone))?;
        let reported: Vec<usize> = everyone
            .iter()
            .copied()
            .filter(|&i| {
                all[i].origin != PhotographOrigin::Flickr8k
                    || DevelopmentHalf::of(i - train) == DevelopmentHalf::Report
            })
            .collect();
        let mixed = judge.mixed(&reported)?;
        let written = |(&photograph, text): (&usize, &MixedText)| PhotographText {
            photograph,
            source: photograph,
            author: TextSource::Person,
            text: text.text.clone(),
        };
        let texts = judge.scored(mixed.iter().map(written).collect())?;
        let (calibration, of_others) = (&scorer.calibration, scorer.calibration.for_others());
        let own = [
            judge.mentions(&greedy, calibration),
            judge.mentions(&sampled, calibration),
        ]
        .concat();
        let others = [
            judge.mentions(&peoples, of_others),
            judge.mentions(&greedy, of_others),
        ]
        .concat();

        let mut seen = Seen {
            images: Vec::new(),
            cosines: Vec::new(),
        };
        for &i in &everyone {
            let row = Tensor::from_slice(&pooled[i], (1, pooled[i].len()), &Device::Cpu)?;
            let image = evidence[all[i].fold].evaluate(&row)?;
            let familiarity = f64::from(image.familiarity);
            seen.cosines.push((familiarity / (1.0 - familiarity)).ln());
            seen.images.push(image);
        }
        let person = Lexicon::shared()
            .concept("person")
            .and_then(|person| evidence.first()?.output_for(person));
        let people = |image: &ImageEvidence| {
            person
                .and_then(|person| image.logits.get(person))
                .copied()
                .map_or(0.0, f64::from)
        };
        let seen_people: Vec<f64> = seen.images.iter().map(people).collect();
        config.familiarity = self.familiarity(&own, &seen.cosines, &seen_people);
        for ((image, &cosine), &people) in
            seen.images.iter_mut().zip(&seen.cosines).zip(&seen_people)
        {
            image.familiarity = config.familiarity.familiarity(cosine, people);
        }

        let first = evidence
            .first()
            .ok_or_else(|| TrainError::Run("there is no network".into()))?;
        let rows_of =
            |mentions: &[JudgedMention], names: &[&str]| -> Vec<(JudgedMention, CalibrationRow)> {
                let row = |mention: &JudgedMention| {
                    let (image, evidence) = (
                        &seen.images[mention.photograph - train],
                        &evidence[all[mention.photograph].fold],
                    );
                    let (output, is_person) =
                        (evidence.output_for(mention.concept)?, mention.is_person());
                    let known = MentionFeatures::new(
                        evidence,
                        image,
                        output,
                        mention.reward,
                        mention.log_probability,
                        is_person,
                    )?
                    .with_sentence(SentenceFeatures::new(
                        evidence,
                        image,
                        &mention.sentence,
                    ));
                    let features = names
                        .iter()
                        .map(|name| known.value(name))
                        .collect::<Option<_>>()?;
                    Some((
                        mention.clone(),
                        self.row(mention.photograph, features, mention.truth?),
                    ))
                };
                mentions.iter().filter_map(row).collect()
            };
        let without_policy = MentionFeatures::NAMES
            .into_iter()
            .filter(|&name| name != "log_probability");
        let without_policy: Vec<&str> = without_policy.chain(SentenceFeatures::NAMES).collect();
        let mut sections = vec![Section {
            title: "Labels".into(),
            tables: figures::label_tables(&counts, &crop_counts),
            ..Section::default()
        }];
        let mut calibrated = |title: &str,
                              mentions: &[JudgedMention],
                              names: &[&str],
                              (threshold, fitted_on): (f32, &str)| {
            let mentions = rows_of(mentions, names);
            let rows: Vec<CalibrationRow> = mentions.iter().map(|(_, row)| row.clone()).collect();
            let mut fitted = calibrate::fit(&rows, names, &self.recipe.calibration, fitted_on)?;
            fitted.calibration.thresholds.default = threshold;
            sections.push(self.section(title, &mentions, &fitted));
            Ok::<_, TrainError>(fitted)
        };
        let threshold = self.recipe.calibration.default_threshold;
        let own = calibrated(
            "The policy's own captions",
            &own,
            &MentionFeatures::NAMES,
            (threshold, OWN),
        )?;
        let mut others = calibrated(
            "Captions by others",
            &others,
            &without_policy,
            (calibrate::DEFAULT_THRESHOLD, OTHERS_FITTED_ON),
        )?;

        let has_output = |concept| first.output_for(concept).is_some();
        // What the policy says of rooms and radiographs is nearly all wrong: it would tell of the
        // photograph, not of the word.
        let other_words = judge.words(&peoples, of_others, has_output);
        let by = (&evidence[..], &seen);
        let other_words = self
            .word_calibration(&other_words, WrittenBy::Others, by, OTHER_WORDS)?
            .unzip();
        sections.extend(other_words.1);
        let without = |part: usize| {
            let mut config = config.clone();
            config.calibration.others = others.parts[part].clone();
            config.calibration.other_words = other_words
                .0
                .as_ref()
                .map(|words| words.parts[part].clone());
            common.served(&parts[part], &config).map(Arc::new)
        };
        let without = (0..FOLDS).map(without).collect::<Result<Vec<_>, _>>()?;
        let captions = self.scored_captions(&judge, &peoples, (&without, &seen))?;
        let threshold = self.text_threshold(&captions);
        sections.push(self.texts(
            &judge,
            &captions,
            (&mixed, &texts),
            (&without, &seen),
            threshold.into(),
        )?);
        others.calibration.thresholds.default = threshold;
        config.calibration.own = own.calibration;
        config.calibration.others = others.calibration;
        config.calibration.other_words = other_words.0.map(|words| words.calibration);
        let finished = parts
            .iter()
            .map(|head| common.served(head, &config).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        config.calibration.own.rewards = Some(self.rewards(&judge, &greedy, &finished, &seen)?);
        sections.extend(self.answers(&judge, &finished, &seen, &mut config)?);
        config.scope = self.out_of_scope(&seen).map(|abstain_below| ScopeConfig {
            k: nearest,
            abstain_below,
        });
        common.write(&self.run.file(""), &shipped, &config)?;
        self.report(sections, &config)
    }

    /// A row for a calibration about a photograph behind the training split.
    fn row(&self, photograph: usize, features: Vec<f64>, is_right: bool) -> CalibrationRow {
        let AllPhotographs {
            all, train, dev, ..
        } = &self.photographs;
        let fold = all[photograph].fold;
        let is_dev = photograph < train + dev;
        let is_tuning = !is_dev || DevelopmentHalf::of(photograph - train) == DevelopmentHalf::Tune;
        let is_shipped = is_tuning && (is_dev || self.recipe.parts.contains(&fold));
        CalibrationRow {
            origin: all[photograph].origin,
            photograph,
            fold,
            is_tuning,
            is_shipped,
            features,
            is_right,
        }
    }
}

/// What the calibration of the policy's own texts is fitted on, in words.
const OWN: &str = "things named in the policy's own captions of photographs of all origins, with \
                   evidence out of fold";

/// What that of texts by others is fitted on.
const OTHERS_FITTED_ON: &str = "things named in people's captions of their photographs and of \
                                others, and in the policy's own, with evidence out of fold";

/// What that of such words in texts by others is fitted on.
const OTHER_WORDS: &str =
    "words without an output in people's captions of their photographs and of others";

/// A scale on which familiarity stands for the cosine itself.
const UNFITTED: FamiliarityScale = FamiliarityScale {
    slope: 1.0,
    people: 0.0,
    offset: 0.0,
};

/// Returns what `evidence.json` calls an output.
fn output_name(concept: ConceptId) -> String {
    format!("{}.n", Lexicon::shared().name(concept))
}

/// A configuration before anything is calibrated.
fn unfitted(concepts: &[ConceptId], nearest: usize) -> EvidenceConfig {
    let nothing = || FeatureCalibration {
        features: Vec::new(),
        mean: Vec::new(),
        scale: Vec::new(),
        weights: Vec::new(),
        offset: 0.0,
        thresholds: EvidenceThresholds::unmeasured(0.5),
        fitted_on: "nothing".into(),
        rewards: None,
    };
    EvidenceConfig {
        format: FORMAT,
        concepts: concepts.iter().copied().map(output_name).collect(),
        named: Vec::new(),
        k: nearest,
        familiarity: UNFITTED,
        scope: None,
        matching: None,
        calibration: EvidenceCalibrations {
            own: nothing(),
            others: nothing(),
            answers: None,
            own_words: None,
            other_words: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_can_be_read_and_names_origins_that_there_are() {
        let recipe: EvidenceRecipe =
            toml::from_str(include_str!("../../../config/evidence.toml")).unwrap();
        let MatchingConfig { first, second, .. } = &recipe.matching;
        let stages = [&recipe.first, &recipe.second]
            .into_iter()
            .flat_map(|stage| stage.shares.keys());
        stages.for_each(|name| _ = source_named("shares", name).unwrap());
        let of_origins = [&first.shares, &second.shares, &recipe.calibration.origins]
            .into_iter()
            .flat_map(|of| of.keys());
        of_origins.for_each(|name| _ = origin_named("origins", name).unwrap());
        assert!(recipe.parts.iter().all(|&part| part < FOLDS));
        let error = origin_named("first.shares", "flickr")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("first.shares")
                && error.contains("'flickr'")
                && error.contains("flickr8k"),
            "{error}"
        );
    }

    #[test]
    fn a_mistake_in_the_recipe_is_named_before_anything_is_read() {
        let text = include_str!("../../../config/evidence.toml");
        for (from, to, want) in [
            ("parts = [0, 1, 2]", "parts = [5]", "parts"),
            ("parts = [0, 1, 2]", "parts = []", "parts"),
            ("hidden = 384", "hidden = 0", "head.hidden"),
            ("width = 64", "width = 0", "match.width"),
            ("members = 3", "members = 0", "match.members"),
            (
                "right_flagged = 0.12",
                "right_flagged = -1.0",
                "match.right_flagged",
            ),
            (
                "unanswered_share = 0.03",
                "unanswered_share = 1.0",
                "unanswered_share",
            ),
            (
                "default_threshold = 0.45",
                "default_threshold = 45.0",
                "calibration.default_threshold",
            ),
            ("networks = 3", "networks = 0", "networks"),
            ("daquar = 0.12", "documents = 0.12", "second.shares"),
            (
                "coco-mini = 1.0",
                "coco-mini-crops = 1.0",
                "calibration.origins",
            ),
        ] {
            assert!(text.contains(from), "{from}");
            let recipe = EvidenceRecipe {
                data: "no such folder".into(),
                ..toml::from_str(&text.replace(from, to)).unwrap()
            };
            let error = EvidenceTraining::prepare(recipe, Path::new("nowhere"), false)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
