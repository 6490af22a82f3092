//! The data of a run as networks see them, and the networks.

use rayon::prelude::*;

use super::{
    super::{
        Tensors, TrainError, export::read_weights, features::Features, scored_split::dev_features,
    },
    EvidenceRecipe, EvidenceTraining,
    crops::BoxLabels,
    figures::{Counts, label_counts},
    head::{self, Standardization},
    labels::{self, KnownAbsences},
    learn::{self, StageConfig, TrainingRows},
    origins::{AllPhotographs, OTHERS, TrainingSource},
};
use crate::{
    eval::{
        data::flickr8k::Image,
        honesty::{FOLDS, PhotographOrigin},
    },
    lexicon::{ConceptId, Lexicon},
};

/// Photographs whose features are read at once.
const AT_ONCE: usize = 64;

impl EvidenceTraining {
    /// Pooled features of all photographs and then of all crops, and the features of the
    /// photographs behind the training split.
    pub(super) fn features(&self) -> Result<(Vec<Vec<f32>>, Features), TrainError> {
        let (setup, folder) = (&self.setup, &self.recipe.features);
        let train = setup.features(&setup.data.train, 1, &folder.join("train-plain.f16"))?;
        let mut rest = dev_features(setup, folder)?;
        for origin in OTHERS {
            let images: Vec<Image> = self
                .photographs
                .of(origin)
                .map(|i| self.photographs.all[i].image.clone())
                .collect();
            if !images.is_empty() {
                rest.append(setup.features(
                    &images,
                    1,
                    &folder.join(format!("{}.f16", origin.name())),
                )?)?;
            }
        }
        let annotated: Vec<Image> = self
            .crops
            .photographs
            .iter()
            .map(|&i| self.photographs.all[i].image.clone())
            .collect();
        let crops = Features::compute_crops(
            &annotated,
            &self.crops.of_each,
            &setup.policy.tower,
            &setup.workers,
            &folder.join(format!("{}-crops.f16", PhotographOrigin::CocoMini.name())),
        )?;
        let mut pooled =
            Vec::with_capacity(self.photographs.all.len() + crops.len() * crops.views());
        for features in [&train, &rest, &crops] {
            let views: Vec<(usize, usize)> = (0..features.len())
                .flat_map(|i| (0..features.views()).map(move |view| (i, view)))
                .collect();
            let chunks: Vec<&[(usize, usize)]> = views.chunks(AT_ONCE).collect();
            let means = setup.workers.map(&chunks, |chunk| {
                features.batch(chunk)?.mean(1)?.to_vec2::<f32>()
            })?;
            pooled.extend(means.into_iter().flatten());
        }
        Ok((pooled, rest))
    }

    /// Counts of the labels of photographs that are learned from, and of crops.
    pub(super) fn label_counts(
        &self,
        rows: &TrainingRows,
        concepts: &[ConceptId],
    ) -> (Counts, Counts) {
        let AllPhotographs {
            all, train, dev, ..
        } = &self.photographs;
        let learned = (0..all.len())
            .filter(|i| !(*train..train + dev).contains(i))
            .map(|i| (i, all[i].origin));
        let crops = self
            .crops
            .iter()
            .enumerate()
            .map(|(j, (photograph, _))| (all.len() + j, all[photograph].origin));
        (
            label_counts(learned, rows, concepts),
            label_counts(crops, rows, concepts),
        )
    }

    /// The outputs, and what networks learn from.
    pub(super) fn rows(
        &self,
        pooled: &[Vec<f32>],
        standard: &Standardization,
    ) -> (Vec<ConceptId>, TrainingRows) {
        let shown = labels::all_shown(&self.photographs);
        let concepts = labels::choose(&self.photographs, &shown, self.recipe.vocabulary);
        let absence = KnownAbsences::new(Lexicon::shared());
        let mut labelled: Vec<(Vec<f32>, Vec<f32>)> = self
            .photographs
            .all
            .par_iter()
            .zip(&shown)
            .map(|(photograph, shown)| labels::labels(photograph, shown, &concepts, &absence))
            .collect();
        let boxes = BoxLabels::new(&concepts);
        let crops: Vec<_> = self.crops.iter().collect();
        let of_crops = crops.par_iter().map(|&(photograph, crop)| {
            let (labels, weights) = &labelled[photograph];
            boxes.crop_labels(
                &crop.rect,
                &self.photographs.all[photograph].boxes,
                labels,
                weights,
            )
        });
        let of_crops: Vec<_> = of_crops.collect();
        labelled.extend(of_crops);
        let (labels, weights) = labelled.into_iter().unzip();
        (
            concepts,
            TrainingRows {
                inputs: pooled.iter().map(|row| standard.apply(row)).collect(),
                labels,
                weights,
            },
        )
    }

    /// The weights of a stage: those that an earlier run left, or else what `train` gives, which is
    /// kept for the next.
    pub(super) fn saved(
        &self,
        name: &str,
        train: impl FnOnce() -> Result<Tensors, TrainError>,
    ) -> Result<Tensors, TrainError> {
        let file = self.run.file(&format!("{name}.safetensors"));
        if file.exists() {
            return read_weights(&file);
        }
        let weights = train()?;
        let fresh = self.run.file(&format!("{name}.new"));
        candle_core::safetensors::save(&weights, &fresh)?;
        std::fs::rename(&fresh, &file).map_err(TrainError::io(&file))?;
        Ok(weights)
    }

    /// The networks of the five parts, each of which did not learn from its part, and the shipped
    /// one; each is the mean of several.
    pub(super) fn networks(
        &self,
        rows: &TrainingRows,
        prior: &[f32],
    ) -> Result<(Vec<Tensors>, Tensors), TrainError> {
        let EvidenceRecipe {
            seed,
            head,
            first,
            second,
            networks,
            ..
        } = &self.recipe;
        let inputs = rows.inputs.first().map_or(0, Vec::len);
        let learned = |source: TrainingSource, takes: &dyn Fn(usize) -> bool| -> Vec<usize> {
            let takes = |photograph: usize| takes(self.photographs.all[photograph].fold);
            match source {
                TrainingSource::Photographs(PhotographOrigin::Flickr8k) => {
                    (0..self.photographs.train).collect()
                }
                TrainingSource::Photographs(origin) => {
                    self.photographs.of(origin).filter(|&i| takes(i)).collect()
                }
                TrainingSource::Crops => {
                    let crops = self
                        .crops
                        .iter()
                        .enumerate()
                        .filter(|(_, (photograph, _))| takes(*photograph));
                    crops.map(|(j, _)| self.photographs.all.len() + j).collect()
                }
            }
        };
        let train = |begin: Option<&Tensors>,
                     name: &str,
                     config: &StageConfig,
                     seed: u64,
                     takes: &dyn Fn(usize) -> bool| {
            let vars = head::initial(inputs, head.hidden, prior, seed)?;
            begin.map_or(Ok(()), |weights| learn::set(&vars, weights))?;
            let shares = learn::shares(config, |source| learned(source, takes))?;
            learn::train(
                &vars,
                rows,
                &shares,
                (config, *head, seed),
                (&self.setup.workers, name),
            )?;
            Ok::<_, TrainError>(learn::weights_of(&vars)?)
        };
        let seed_of = |network: usize| seed.wrapping_add(1000 * network as u64);
        let begin = |network: usize| {
            let name = format!("first-{network}");
            self.saved(&name, || {
                train(None, &name, first, seed_of(network), &|_| false)
            })
        };
        let begun = (0..*networks).map(begin).collect::<Result<Vec<_>, _>>()?;
        let mean = |name: &str, number: u64, takes: &dyn Fn(usize) -> bool| {
            self.saved(name, || {
                let each = begun.iter().enumerate().map(|(i, weights)| {
                    let seed = seed_of(i).wrapping_add(number);
                    train(Some(weights), name, second, seed, takes)
                });
                Ok(head::average(&each.collect::<Result<Vec<_>, _>>()?)?)
            })
        };
        let parts = (0..FOLDS).map(|part| {
            mean(&format!("part-{part}"), 1 + part as u64, &|fold| {
                fold != part
            })
        });
        let parts = parts.collect::<Result<_, _>>()?;
        let shipped = mean("shipped", 100, &|fold| self.recipe.parts.contains(&fold))?;
        Ok((parts, shipped))
    }
}
