//! Training of the evidence model (`candor train evidence`): a small network on the vision tower's
//! features, the reference for familiarity, and calibrations that combine evidence with rewards.
//!
//! Networks first learn from Flickr8k alone, then from all origins. The second stage trains one
//! network per [fold](crate::eval::honesty::fold_index) on the other folds, and one on the
//! configured folds, which is shipped. Calibrations are fitted on evidence of networks that did not
//! see the photograph, since a network is overconfident on its training data.

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
use super::{
    TrainError, checkpoint::RunDir, report_progress, scored_split::DevelopmentHalf, setup::Setup,
};
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

/// Temperature of the sampled captions beside the greedy ones.
const TEMPERATURE: f32 = 1.0;

/// Configuration of `candor train evidence --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRecipe {
    /// Folder with the origins: `flickr8k` and optionally `coco-mini`, `daquar` and `vqa-rad`.
    pub data: PathBuf,
    /// Bundle (directory or embedded name) with the policy and the scorer.
    pub policy: String,
    /// Folder of cached image features; runs can share it.
    pub features: PathBuf,
    /// Folds of the small origins that the shipped network and its calibrations learn from, 0 to 4.
    pub parts: Vec<usize>,
    /// Seed of all random generators.
    pub seed: u64,
    /// Worker threads; 0 uses all cores.
    pub workers: usize,
    /// Selection of the outputs.
    pub vocabulary: VocabularyConfig,
    /// Crops per photograph of coco-mini.
    pub crops: usize,
    /// Number of independently trained networks, whose logits are averaged.
    pub networks: usize,
    /// Size and regularization of each network.
    pub head: HeadConfig,
    /// First stage.
    pub first: StageConfig,
    /// Second stage.
    pub second: StageConfig,
    /// Text-image matching networks.
    #[serde(rename = "match")]
    pub matching: MatchingConfig,
    /// Reference photographs for familiarity.
    pub reference: ReferenceConfig,
    /// Reference photographs for the scope outside which no question is answered.
    pub scope: ScopeRecipe,
    /// Calibrations.
    pub calibration: CalibrationConfig,
}

/// Evidence training run, ready to start or resume.
pub struct EvidenceTraining {
    recipe: EvidenceRecipe,
    run: RunDir,
    setup: Setup,
    photographs: AllPhotographs,
    crops: Crops,
}

/// Outputs for every photograph after the training split, from networks that did not train on it.
struct HeldOutOutputs {
    images: Vec<ImageEvidence>,
    /// Mean cosine to the nearest reference photographs.
    cosines: Vec<f64>,
}

impl EvidenceTraining {
    /// Reads policy and data.
    ///
    /// # Errors
    /// When the configuration, the data, the policy or the run directory is invalid.
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
        let shares = [
            ("match.first.shares", &recipe.matching.first.shares),
            ("match.second.shares", &recipe.matching.second.shares),
            ("calibration.origins", &recipe.calibration.origins),
            (
                "calibration.answer_origins",
                &recipe.calibration.answer_origins,
            ),
        ];
        for (key, shares) in shares {
            shares
                .keys()
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
    /// `report.html` into the run directory. Stages finished by an earlier run are not repeated.
    ///
    /// # Errors
    /// When the loss is not finite, there is nothing to calibrate on, or a file cannot be written.
    pub fn train(&self) -> Result<EvaluationReport, TrainError> {
        let scorer = BundleScorer::open(&self.setup)?;
        let (pooled, features) = self.features()?;
        let (train, all) = (self.photographs.train, &self.photographs.all);
        let train_rows: Vec<&[f32]> = pooled[..train].iter().map(Vec::as_slice).collect();
        let standard = Standardization::from_rows(&train_rows);
        let (concepts, rows) = self.rows(&pooled, &standard);
        let (counts, crop_counts) = self.label_counts(&rows, &concepts);
        if let Some(class) = figures::class_without_negatives(&counts) {
            return Err(TrainError::Run(format!(
                "no photograph is known to lack any {class}, so the network \
                 cannot learn its absence"
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
        let heads: Vec<&[f32]> = train_rows
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

        let scorer_of_texts = MentionScorer {
            setup: &self.setup,
            photographs: &self.photographs,
            features: &features,
            scorer: &scorer,
        };
        let held_out: Vec<usize> = (train..all.len()).collect();
        let sampled_photographs: Vec<usize> = held_out
            .iter()
            .copied()
            .filter(|&i| {
                matches!(
                    all[i].origin,
                    PhotographOrigin::CocoMini | PhotographOrigin::Daquar
                )
            })
            .collect();
        report_progress("sampling and scoring the policy's captions");
        let greedy = scorer_of_texts.scored(scorer_of_texts.captions(
            &held_out,
            0.0,
            self.recipe.seed,
        )?)?;
        let sampled = scorer_of_texts.scored(scorer_of_texts.captions(
            &sampled_photographs,
            TEMPERATURE,
            self.recipe.seed.wrapping_add(1_000_003),
        )?)?;
        let human = scorer_of_texts.scored(scorer_of_texts.human_captions(&held_out))?;
        let reported: Vec<usize> = held_out
            .iter()
            .copied()
            .filter(|&i| {
                all[i].origin != PhotographOrigin::Flickr8k
                    || DevelopmentHalf::for_image(i - train) == DevelopmentHalf::Report
            })
            .collect();
        let mixed = scorer_of_texts.mixed(&reported)?;
        let written = |(&photograph, text): (&usize, &MixedText)| PhotographText {
            photograph,
            source: photograph,
            author: TextSource::Person,
            text: text.text.clone(),
        };
        let texts = scorer_of_texts.scored(mixed.iter().map(written).collect())?;
        let (calibration, others_calibration) =
            (&scorer.calibration, scorer.calibration.for_others());
        let own = [
            scorer_of_texts.mentions(&greedy, calibration),
            scorer_of_texts.mentions(&sampled, calibration),
        ]
        .concat();
        let others = [
            scorer_of_texts.mentions(&human, others_calibration),
            scorer_of_texts.mentions(&greedy, others_calibration),
        ]
        .concat();

        let mut outputs = HeldOutOutputs {
            images: Vec::new(),
            cosines: Vec::new(),
        };
        for &i in &held_out {
            let row = Tensor::from_slice(&pooled[i], (1, pooled[i].len()), &Device::Cpu)?;
            let image = evidence[all[i].fold].evaluate(&row)?;
            let familiarity = f64::from(image.familiarity);
            outputs
                .cosines
                .push((familiarity / (1.0 - familiarity)).ln());
            outputs.images.push(image);
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
        let people_logits: Vec<f64> = outputs.images.iter().map(people).collect();
        config.familiarity = self.familiarity(&own, &outputs.cosines, &people_logits);
        for ((image, &cosine), &people) in outputs
            .images
            .iter_mut()
            .zip(&outputs.cosines)
            .zip(&people_logits)
        {
            image.familiarity = config.familiarity.familiarity(cosine, people);
        }

        let first = evidence
            .first()
            .ok_or_else(|| TrainError::Run("no network was trained".into()))?;
        let calibration_rows =
            |mentions: &[JudgedMention], names: &[&str]| -> Vec<(JudgedMention, CalibrationRow)> {
                let row =
                    |mention: &JudgedMention| {
                        let (image, evidence) = (
                            &outputs.images[mention.photograph - train],
                            &evidence[all[mention.photograph].fold],
                        );
                        let (output, is_person) =
                            (evidence.output_for(mention.concept)?, mention.is_person());
                        let values = MentionFeatures::new(
                            evidence,
                            image,
                            output,
                            mention.reward,
                            mention.log_probability,
                            is_person,
                        )?
                        .with_sentence(SentenceFeatures::new(evidence, image, &mention.sentence));
                        let features = names
                            .iter()
                            .map(|name| values.value(name))
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
            let mentions = calibration_rows(mentions, names);
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
        // The policy's words about rooms and radiographs are nearly all wrong: a calibration on
        // them would learn the kind of photograph instead of the word.
        let other_words = scorer_of_texts.words(&human, others_calibration, has_output);
        let held_out_evidence = (&evidence[..], &outputs);
        let other_words = self
            .word_calibration(
                &other_words,
                WrittenBy::Others,
                held_out_evidence,
                OTHER_WORDS,
            )?
            .unzip();
        sections.extend(other_words.1);
        let without_fold = |part: usize| {
            let mut config = config.clone();
            config.calibration.others = others.parts[part].clone();
            config.calibration.other_words = other_words
                .0
                .as_ref()
                .map(|words| words.parts[part].clone());
            common.served(&parts[part], &config).map(Arc::new)
        };
        let without_fold = (0..FOLDS)
            .map(without_fold)
            .collect::<Result<Vec<_>, _>>()?;
        let captions = self.scored_captions(&scorer_of_texts, &human, (&without_fold, &outputs))?;
        let threshold = self.text_threshold(&captions);
        sections.push(self.texts(
            &scorer_of_texts,
            &captions,
            (&mixed, &texts),
            (&without_fold, &outputs),
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
        config.calibration.own.rewards =
            Some(self.rewards(&scorer_of_texts, &greedy, &finished, &outputs)?);
        sections.extend(self.answers(&scorer_of_texts, &finished, &outputs, &mut config)?);
        config.scope = self
            .out_of_scope(&outputs)
            .map(|abstain_below| ScopeConfig {
                k: nearest,
                abstain_below,
            });
        common.write(&self.run.file(""), &shipped, &config)?;
        self.report(sections, &config)
    }

    /// Calibration row of a photograph after the training split.
    fn row(&self, photograph: usize, features: Vec<f64>, is_right: bool) -> CalibrationRow {
        let AllPhotographs {
            all, train, dev, ..
        } = &self.photographs;
        let fold = all[photograph].fold;
        let is_dev = photograph < train + dev;
        let is_tuning =
            !is_dev || DevelopmentHalf::for_image(photograph - train) == DevelopmentHalf::Tune;
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

/// Description of the data behind the calibration of the policy's texts, recorded with it.
const OWN: &str = "things named in the policy's own captions of photographs of all origins, with \
                   evidence out of fold";

/// The same for texts by others.
const OTHERS_FITTED_ON: &str = "things named in people's captions of their photographs and of \
                                others, and in the policy's own, with evidence out of fold";

/// The same for words without an output in texts by others.
const OTHER_WORDS: &str =
    "words without an output in people's captions of their photographs and of others";

/// Familiarity scale before fitting: familiarity is the sigmoid of the cosine.
const UNFITTED: FamiliarityScale = FamiliarityScale {
    slope: 1.0,
    people: 0.0,
    offset: 0.0,
};

/// Name of an output in `evidence.json`.
fn output_name(concept: ConceptId) -> String {
    format!("{}.n", Lexicon::shared().name(concept))
}

/// Configuration without calibrations.
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
    fn recipe_parses_and_its_origins_are_valid() {
        let recipe: EvidenceRecipe =
            toml::from_str(include_str!("../../../config/evidence.toml")).unwrap();
        let MatchingConfig { first, second, .. } = &recipe.matching;
        let stages = [&recipe.first, &recipe.second]
            .into_iter()
            .flat_map(|stage| stage.shares.keys());
        stages.for_each(|name| _ = source_named("shares", name).unwrap());
        let shares = [&first.shares, &second.shares, &recipe.calibration.origins]
            .into_iter()
            .flat_map(|shares| shares.keys());
        shares.for_each(|name| _ = origin_named("origins", name).unwrap());
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
    fn prepare_invalid_recipe_is_named_before_data_is_read() {
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
