//! Training of the evidence for words (`candor train evidence`): a small network over the tower's features, the reference of familiarity, and what
//! evidence and rewards together mean.
//!
//! Networks first learn from Flickr8k alone, then from all origins. Of the second stage there are a network for each of the [five parts](crate::eval::honesty::folds), which
//! learns from the others, and one that learns from the parts that the configuration names and is shipped. Calibrations are fitted on evidence of
//! networks that did not see the photograph: a network is surer of its own.

mod answers;
mod calibrate;
mod figures;
mod files;
mod head;
mod labels;
mod learn;
mod mentions;
mod origins;
mod reference;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::{
    answers::Answered,
    calibrate::{Fitted, Row},
    figures::Judged,
    files::Common,
    head::Standard,
    labels::Absence,
    learn::Rows,
    mentions::{Author, BundleScorer, Judge, JudgedMention},
    origins::{OTHERS, Photographs, origin_named},
    reference::Reference,
};
pub use self::{calibrate::CalibrationConfig, head::HeadConfig, labels::VocabularyConfig, learn::StageConfig, reference::ReferenceConfig};
use super::{
    Tensors, TrainError,
    checkpoint::{RunDir, write_atomically},
    export::{read_weights, write_json},
    features::Features,
    judged::{Half, dev_features},
    setup::Setup,
    tell,
};
use crate::{
    eval::{
        data::flickr8k::Image,
        honesty::{Origin, Outcome, Resampling, folds::FOLDS},
        report::{Report, Section},
    },
    lexicon::{ConceptId, Lexicon},
    reward::{
        evidence::{EvidenceCalibrations, EvidenceConfig, EvidenceThresholds, FORMAT, FeatureCalibration, ImageEvidence, MentionFeatures},
        familiarity::FamiliarityScale,
        logistic::ridge_regression,
    },
};

/// Photographs whose features are read at once.
const AT_ONCE: usize = 64;

/// Temperature of the captions beside the likeliest ones.
const TEMPERATURE: f32 = 1.0;

/// Resamples of the report's intervals.
const REPEATS: usize = 300;

/// `candor train evidence --config FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRecipe {
    /// Folder with the origins: `flickr8k`, and those of `coco-mini`, `daquar` and `vqa-rad` that there are.
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
    /// The network.
    pub head: HeadConfig,
    /// The first stage.
    pub first: StageConfig,
    /// The second stage.
    pub second: StageConfig,
    /// The photographs that familiarity compares with.
    pub reference: ReferenceConfig,
    /// The calibrations.
    pub calibration: CalibrationConfig,
}

/// A training of evidence that is ready to run, or to go on.
pub struct EvidenceTraining {
    recipe: EvidenceRecipe,
    run: RunDir,
    setup: Setup,
    photographs: Photographs,
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
            return Err(TrainError::Run(format!("parts: expected some of 0 to {}", FOLDS - 1)));
        }
        if recipe.head.hidden == 0 || recipe.reference.nearest == 0 || recipe.reference.components == 0 {
            return Err(TrainError::Run("head.hidden, reference.nearest and reference.components must be at least 1".into()));
        }
        if !(0.0..1.0).contains(&recipe.reference.unanswered_share) {
            return Err(TrainError::Run("reference.unanswered_share must be from 0 to below 1".into()));
        }
        let names = [
            ("first.shares", &recipe.first.shares),
            ("second.shares", &recipe.second.shares),
            ("calibration.origins", &recipe.calibration.origins),
        ];
        for (key, name) in names.into_iter().flat_map(|(key, of)| of.keys().map(move |name| (key, name))) {
            origin_named(key, name)?;
        }
        let setup = Setup::open(&recipe.data.join(Origin::Flickr8k.name()), &recipe.policy, recipe.workers)?;
        let photographs = Photographs::open(&recipe.data, &setup.data)?;
        let run = RunDir::open(out, &recipe, resume)?;
        Ok(Self { recipe, run, setup, photographs })
    }

    /// Trains, calibrates and writes `evidence.safetensors`, `evidence.json`, `report.json` and `report.html` into the run directory. Stages that an earlier run
    /// finished are not repeated.
    ///
    /// # Errors
    /// When the loss stops being a number, there is nothing to calibrate on, or a file cannot be written.
    pub fn train(&self) -> Result<Report, TrainError> {
        let scorer = BundleScorer::open(&self.setup)?;
        let (pooled, features) = self.features()?;
        let (train, all) = (self.photographs.train, &self.photographs.all);
        let of_train: Vec<&[f32]> = pooled[..train].iter().map(Vec::as_slice).collect();
        let standard = Standard::of(&of_train);
        let (concepts, rows) = self.rows(&pooled, &standard);
        let counts = figures::label_counts(&self.photographs, &rows, &concepts);
        if let Some(class) = figures::class_without_negatives(&counts) {
            return Err(TrainError::Run(format!("no photograph is known to lack any {class}: the network could not learn it")));
        }
        let prior = labels::prior(&rows.labels[..train], &rows.weights[..train]);
        let (parts, shipped) = self.networks(&rows, &prior)?;
        let channels = self.setup.policy.config.model.vision.head;
        let heads: Vec<&[f32]> = of_train.iter().map(|row| &row[..channels.min(row.len())]).collect();
        let reference = Reference::fit(&heads, self.recipe.reference, self.recipe.seed)?;
        let common = Common { standard, prior, reference };
        let nearest = self.recipe.reference.nearest.min(common.reference.points.len());
        let mut config = unfitted(&concepts, nearest);
        let evidence = parts.iter().map(|head| common.served(head, &config)).collect::<Result<Vec<_>, _>>()?;

        let judge = Judge { setup: &self.setup, photographs: &self.photographs, features: &features, scorer: &scorer };
        let everyone: Vec<usize> = (train..all.len()).collect();
        let often: Vec<usize> = everyone.iter().copied().filter(|&i| matches!(all[i].origin, Origin::CocoMini | Origin::Daquar)).collect();
        tell("the policy writes captions, and they are scored");
        let greedy = judge.captions(&everyone, 0.0, self.recipe.seed)?;
        let sampled = judge.captions(&often, TEMPERATURE, self.recipe.seed.wrapping_add(1_000_003))?;
        let peoples: Vec<_> = judge.peoples(&everyone);
        let own = judge.mentions(&greedy, &scorer.calibration)?;
        let own = [own, judge.mentions(&sampled, &scorer.calibration)?].concat();
        let of_others = scorer.calibration.of_others();
        let others = [judge.mentions(&peoples, of_others)?, judge.mentions(&greedy, of_others)?].concat();

        let mut seen = Seen { images: Vec::new(), cosines: Vec::new() };
        for &i in &everyone {
            let row = Tensor::from_slice(&pooled[i], (1, pooled[i].len()), &Device::Cpu)?;
            let image = evidence[all[i].fold].of(&row)?;
            let familiarity = f64::from(image.familiarity);
            seen.cosines.push((familiarity / (1.0 - familiarity)).ln());
            seen.images.push(image);
        }
        config.familiarity = self.familiarity(&own, &seen.cosines);
        for (image, &cosine) in seen.images.iter_mut().zip(&seen.cosines) {
            image.familiarity = config.familiarity.familiarity(cosine);
        }

        let first = evidence.first().ok_or_else(|| TrainError::Run("there is no network".into()))?;
        let rows_of = |mentions: &[JudgedMention], names: &[&str]| -> Vec<(JudgedMention, Row)> {
            let row = |mention: &JudgedMention| {
                let image = &seen.images[mention.photograph - train];
                let (output, is_person) = (first.concept_of(mention.concept)?, mention.is_person());
                let known = MentionFeatures::new(first, image, output, mention.reward, mention.log_probability, is_person)?;
                let features = names.iter().map(|name| known.value(name)).collect::<Option<_>>()?;
                Some((mention.clone(), self.row(mention.photograph, features, mention.truth?)))
            };
            mentions.iter().filter_map(row).collect()
        };
        let without_policy: Vec<&str> = MentionFeatures::NAMES.into_iter().filter(|&name| name != "log_probability").collect();
        let mut sections = vec![Section { title: "Labels".into(), tables: vec![figures::label_table(&counts)], ..Section::default() }];
        for (title, mentions, names, fitted_on) in [
            ("The policy's own captions", &own, &MentionFeatures::NAMES[..], OWN),
            ("Captions by others", &others, &without_policy[..], OTHERS_FITTED_ON),
        ] {
            let mentions = rows_of(mentions, names);
            let rows: Vec<Row> = mentions.iter().map(|(_, row)| row.clone()).collect();
            let fitted = calibrate::fit(&rows, names, &self.recipe.calibration, fitted_on)?;
            sections.push(self.section(title, &mentions, &fitted));
            let place = if fitted_on == OWN { &mut config.calibration.own } else { &mut config.calibration.others };
            *place = fitted.calibration;
        }
        sections.extend(self.answers(&judge, &parts, &common, &seen, &mut config)?);
        config.abstain_below_familiarity = self.unfamiliar(&seen);
        common.write(&self.run.file(""), &shipped, &config)?;
        self.report(sections, &config)
    }

    /// Pooled features of all photographs, and the features of those behind the training split.
    fn features(&self) -> Result<(Vec<Vec<f32>>, Features), TrainError> {
        let (setup, folder) = (&self.setup, &self.recipe.features);
        let train = setup.features(&setup.data.train, 1, &folder.join("train-plain.f16"))?;
        let mut rest = dev_features(setup, folder)?;
        for origin in OTHERS {
            let images: Vec<Image> = self.photographs.of(origin).map(|i| self.photographs.all[i].image.clone()).collect();
            if !images.is_empty() {
                rest.append(setup.features(&images, 1, &folder.join(format!("{}.f16", origin.name())))?)?;
            }
        }
        let mut pooled = Vec::with_capacity(self.photographs.all.len());
        for features in [&train, &rest] {
            let numbers: Vec<usize> = (0..features.len()).collect();
            let chunks: Vec<&[usize]> = numbers.chunks(AT_ONCE).collect();
            let means = setup.workers.map(&chunks, |chunk| {
                let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
                features.batch(&views)?.mean(1)?.to_vec2::<f32>()
            })?;
            pooled.extend(means.into_iter().flatten());
        }
        Ok((pooled, rest))
    }

    /// The outputs, and what networks learn from.
    fn rows(&self, pooled: &[Vec<f32>], standard: &Standard) -> (Vec<ConceptId>, Rows) {
        let shown = labels::all_shown(&self.photographs);
        let concepts = labels::choose(&self.photographs, &shown, self.recipe.vocabulary);
        let absence = Absence::new(Lexicon::shared());
        let labelled: Vec<(Vec<f32>, Vec<f32>)> = self
            .photographs
            .all
            .par_iter()
            .zip(&shown)
            .map(|(photograph, shown)| labels::labels(photograph, shown, &concepts, &absence))
            .collect();
        let (labels, weights) = labelled.into_iter().unzip();
        (concepts, Rows { inputs: pooled.iter().map(|row| standard.apply(row)).collect(), labels, weights })
    }

    /// The networks of the five parts, each of which did not learn from its part, and the shipped one.
    fn networks(&self, rows: &Rows, prior: &[f32]) -> Result<(Vec<Tensors>, Tensors), TrainError> {
        let EvidenceRecipe { seed, head, first, second, .. } = &self.recipe;
        let inputs = rows.inputs.first().map_or(0, Vec::len);
        let vars = head::initial(inputs, head.hidden, prior, *seed)?;
        let flickr8k = || (0..self.photographs.train).collect::<Vec<usize>>();
        let stage = |name: &str, begin: Option<&Tensors>, config: &StageConfig, seed: u64, takes: &dyn Fn(usize) -> bool| {
            let file = self.run.file(&format!("{name}.safetensors"));
            if file.exists() {
                return read_weights(&file);
            }
            begin.map_or(Ok(()), |weights| learn::set(&vars, weights))?;
            let learned = |origin: Origin| match origin {
                Origin::Flickr8k => flickr8k(),
                _ => self.photographs.of(origin).filter(|&i| takes(self.photographs.all[i].fold)).collect(),
            };
            let shares = learn::shares(config, learned)?;
            learn::train(&vars, rows, &shares, (config, *head, seed), (&self.setup.workers, name))?;
            let weights = learn::weights_of(&vars)?;
            let fresh = self.run.file(&format!("{name}.new"));
            candle_core::safetensors::save(&weights, &fresh)?;
            std::fs::rename(&fresh, &file).map_err(TrainError::io(&file))?;
            Ok(weights)
        };
        let begun = stage("first", None, first, *seed, &|_| false)?;
        let part = |part: usize| {
            let seed = seed.wrapping_add(1 + part as u64);
            stage(&format!("part-{part}"), Some(&begun), second, seed, &|fold| fold != part)
        };
        let parts = (0..FOLDS).map(part).collect::<Result<_, _>>()?;
        let shipped = stage("shipped", Some(&begun), second, seed.wrapping_add(100), &|fold| self.recipe.parts.contains(&fold))?;
        Ok((parts, shipped))
    }

    /// A row for a calibration about a photograph behind the training split.
    fn row(&self, photograph: usize, features: Vec<f64>, is_right: bool) -> Row {
        let Photographs { all, train, dev, .. } = &self.photographs;
        let fold = all[photograph].fold;
        let is_dev = photograph < train + dev;
        let is_tuning = !is_dev || Half::of(photograph - train) == Half::Tune;
        let is_shipped = is_tuning && (is_dev || self.recipe.parts.contains(&fold));
        Row { origin: all[photograph].origin, photograph, fold, is_tuning, is_shipped, features, is_right }
    }

    /// From cosines to the probability that the policy's likeliest caption invents nothing.
    fn familiarity(&self, own: &[JudgedMention], cosines: &[f64]) -> FamiliarityScale {
        let mut honest: Vec<Option<bool>> = vec![None; cosines.len()];
        for mention in own.iter().filter(|mention| mention.author == Author::Greedy) {
            let place = &mut honest[mention.photograph - self.photographs.train];
            *place = mention.truth.map_or(*place, |right| Some(place.unwrap_or(true) && right));
        }
        let known = honest.iter().zip(cosines).enumerate();
        let rows: Vec<Row> =
            known.filter_map(|(i, (honest, &cosine))| Some(self.row(self.photographs.train + i, vec![cosine], (*honest)?))).collect();
        let rows: Vec<&Row> = rows.iter().filter(|row| row.is_shipped).collect();
        let features: Vec<&[f64]> = rows.iter().map(|row| row.features.as_slice()).collect();
        let targets: Vec<f64> = rows.iter().map(|row| f64::from(u8::from(row.is_right))).collect();
        let fitted = ridge_regression(&features, &targets, &calibrate::importance(&rows, &self.recipe.calibration), 0.0);
        match fitted.as_ref().and_then(|fitted| Some((*fitted.weights.first()?, fitted.offset))) {
            Some((slope, offset)) if slope > 0.0 => FamiliarityScale { slope, offset },
            _ => {
                tell("captions of familiar photographs are no more often right: familiarity stays on the scale of cosines");
                UNFITTED
            }
        }
    }

    /// Calibrates short answers, where the policy gave some, with the finished calibrations of words.
    fn answers(
        &self,
        judge: &Judge<'_>,
        parts: &[Tensors],
        common: &Common,
        seen: &Seen,
        config: &mut EvidenceConfig,
    ) -> Result<Option<Section>, TrainError> {
        tell("the policy answers questions, and the answers are scored");
        let answered = judge.answers(&judge.questions(self.recipe.seed))?;
        if answered.is_empty() {
            return Ok(None);
        }
        let evidence = parts.iter().map(|head| common.served(head, config).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let names = answers::names(&answered);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let row = |answered: &Answered| {
            let photograph = answered.asked.photograph;
            let fold = self.photographs.all[photograph].fold;
            let known = judge.features(answered, &evidence[fold], &seen.images[photograph - self.photographs.train]);
            let features = names.iter().map(|name| known.value(name).unwrap_or(0.0)).collect();
            self.row(photograph, features, answered.is_right())
        };
        let rows: Vec<Row> = answered.iter().map(row).collect();
        let fitted = calibrate::fit(&rows, &names, &self.recipe.calibration, ANSWERS_FITTED_ON)?;
        let of = rows.iter().zip(&answered).zip(&fitted.out_of_fold).filter(|((row, _), _)| is_reported(row));
        let judged: Vec<Judged> = of
            .map(|((row, answered), &score)| Judged {
                origin: row.origin,
                outcome: Outcome { photograph: row.photograph, score, is_right: row.is_right },
                scorer: f64::from(answered.scorer()),
                is_person: false,
            })
            .collect();
        let table = figures::figures("Answers", NOTE, &judged, f64::from(fitted.calibration.thresholds.default), self.resampling());
        let text = vec![calibrate::described(&fitted.calibration)];
        config.calibration.answers = Some(fitted.calibration);
        Ok(Some(Section { title: "Short answers".into(), text, tables: vec![table], ..Section::default() }))
    }

    /// The familiarity below which lies the configured share of the development split's tuning half.
    fn unfamiliar(&self, seen: &Seen) -> Option<f32> {
        let tuning = seen.images.iter().take(self.photographs.dev).enumerate().filter(|(i, _)| Half::of(*i) == Half::Tune);
        let mut known: Vec<f32> = tuning.map(|(_, image)| image.familiarity).collect();
        known.sort_by(f32::total_cmp);
        known.get((self.recipe.reference.unanswered_share * known.len() as f64) as usize).copied()
    }

    fn resampling(&self) -> Resampling {
        Resampling { repeats: REPEATS, seed: self.recipe.seed }
    }

    /// Figures of mentions that no calibration was fitted on, or none of their part.
    fn section(&self, title: &str, mentions: &[(JudgedMention, Row)], fitted: &Fitted) -> Section {
        let judged = |(mention, row): &(JudgedMention, Row), score: f64, is_right: bool| Judged {
            origin: row.origin,
            outcome: Outcome { photograph: row.photograph, score, is_right },
            scorer: f64::from(mention.reward),
            is_person: mention.is_person(),
        };
        let reported =
            || mentions.iter().zip(&fitted.out_of_fold).filter(|((mention, row), _)| is_reported(row) && mention.author != Author::Sampled);
        let open: Vec<Judged> = reported().map(|(mention, &score)| judged(mention, score, mention.1.is_right)).collect();
        let coco: Vec<Judged> = reported().filter_map(|(mention, &score)| Some(judged(mention, score, mention.0.coco?))).collect();
        let threshold = f64::from(fitted.calibration.thresholds.default);
        let classes: Vec<_> = mentions.iter().map(|(mention, row)| (labels::class_of(mention.concept), row)).collect();
        Section {
            title: title.into(),
            text: vec![calibrate::described(&fitted.calibration)],
            tables: vec![
                figures::figures("Things", NOTE, &open, threshold, self.resampling()),
                figures::figures("COCO's objects", NOTE, &coco, threshold, self.resampling()),
                figures::mention_table("Mentions that the calibration is fitted on", &classes),
            ],
            ..Section::default()
        }
    }

    fn report(&self, sections: Vec<Section>, config: &EvidenceConfig) -> Result<Report, TrainError> {
        let policy = &self.setup.policy;
        let parts: Vec<String> = self.recipe.parts.iter().map(usize::to_string).collect();
        let of = |origin: Origin| format!("{} {}", self.photographs.of(origin).count(), origin.name());
        let facts = [
            ("bundle", policy.name.clone()),
            (
                "photographs",
                format!(
                    "{} to learn from, {} held out of flickr8k; {}",
                    self.photographs.train,
                    self.photographs.dev,
                    OTHERS.map(of).join(", ")
                ),
            ),
            ("outputs", config.concepts.len().to_string()),
            ("parts of the shipped network", parts.join(", ")),
            ("familiarity", format!("1 / (1 + exp(-({:.3} cosine {:+.3})))", config.familiarity.slope, config.familiarity.offset)),
            ("seed", self.recipe.seed.to_string()),
        ];
        let report = Report {
            title: format!("Evidence for the words of {} {}", policy.config.name, policy.config.version),
            command: "candor train evidence".into(),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            notes: vec![
                "The network of a part did not learn from it, and its probabilities are from calibrations that were fitted without it. The shipped network learned from fewer parts."
                    .into(),
            ],
            sections,
        };
        write_json(&self.run.file("report.json"), &report.to_json())?;
        let html = report.html().map_err(|e| TrainError::Run(e.to_string()))?;
        write_atomically(&self.run.file("report.html"), html.as_bytes())?;
        Ok(report)
    }
}

/// What the calibration of the policy's own texts is fitted on, in words.
const OWN: &str = "things named in the policy's own captions of photographs of all origins, with evidence out of fold";

/// What that of texts by others is fitted on.
const OTHERS_FITTED_ON: &str =
    "things named in people's captions of their photographs and of others, and in the policy's own, with evidence out of fold";

/// What that of short answers is fitted on.
const ANSWERS_FITTED_ON: &str = "the policy's own short answers to questions about photographs of all origins, with evidence out of fold";

/// What a reader of figures must know.
const NOTE: &str = "Out of fold; of Flickr8k the reporting half of the development split. What is below .5 is flagged.";

/// Whether figures are of a row: of Flickr8k's only those that nothing was fitted on.
fn is_reported(row: &Row) -> bool {
    row.origin != Origin::Flickr8k || !row.is_tuning
}

/// A scale on which familiarity stands for the cosine itself.
const UNFITTED: FamiliarityScale = FamiliarityScale { slope: 1.0, offset: 0.0 };

/// A configuration before anything is calibrated.
fn unfitted(concepts: &[ConceptId], nearest: usize) -> EvidenceConfig {
    let nothing = || FeatureCalibration {
        features: Vec::new(),
        mean: Vec::new(),
        scale: Vec::new(),
        weights: Vec::new(),
        offset: 0.0,
        thresholds: EvidenceThresholds { default: 0.5, by_fpr: Vec::new() },
        fitted_on: "nothing".into(),
        rewards: None,
    };
    EvidenceConfig {
        format: FORMAT,
        concepts: concepts.iter().map(|&concept| format!("{}.n", Lexicon::shared().name(concept))).collect(),
        k: nearest,
        familiarity: UNFITTED,
        abstain_below_familiarity: None,
        calibration: EvidenceCalibrations { own: nothing(), others: nothing(), answers: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_can_be_read_and_names_origins_that_there_are() {
        let recipe: EvidenceRecipe = toml::from_str(include_str!("../../../config/evidence.toml")).unwrap();
        let names = [&recipe.first.shares, &recipe.second.shares, &recipe.calibration.origins].into_iter().flat_map(|of| of.keys());
        names.for_each(|name| _ = origin_named("shares", name).unwrap());
        assert!(recipe.parts.iter().all(|&part| part < FOLDS));
        let error = origin_named("first.shares", "flickr").unwrap_err().to_string();
        assert!(error.contains("first.shares") && error.contains("'flickr'") && error.contains("flickr8k"), "{error}");
    }

    #[test]
    fn a_mistake_in_the_recipe_is_named_before_anything_is_read() {
        let text = include_str!("../../../config/evidence.toml");
        for (from, to, want) in [
            ("parts = [0, 1, 2]", "parts = [5]", "parts"),
            ("parts = [0, 1, 2]", "parts = []", "parts"),
            ("hidden = 384", "hidden = 0", "head.hidden"),
            ("unanswered_share = 0.01", "unanswered_share = 1.0", "unanswered_share"),
            ("daquar = 0.15", "documents = 0.15", "second.shares"),
        ] {
            assert!(text.contains(from), "{from}");
            let recipe = EvidenceRecipe { data: "no such folder".into(), ..toml::from_str(&text.replace(from, to)).unwrap() };
            let error = EvidenceTraining::prepare(recipe, Path::new("nowhere"), false).err().unwrap().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
