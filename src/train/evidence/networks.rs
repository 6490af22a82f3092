//! Features, labels and trained networks of a run.

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

/// Images whose features are read per chunk.
const AT_ONCE: usize = 64;

impl EvidenceTraining {
    /// Mean features of all photographs followed by all crops, and the full features of the
    /// photographs after the training split.
    pub(super) fn features(&self) -> Result<(Vec<Vec<f32>>, Features), TrainError> {
        let (setup, folder) = (&self.setup, &self.recipe.features);
        let train = setup.features(&setup.data.train, 1, &folder.join("train-plain.f16"))?;
        let mut rest = dev_features(setup, folder)?;
        for origin in OTHERS {
            let images: Vec<Image> = self
                .photographs
                .indices_of(origin)
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
            &self.crops.crops,
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

    /// Label counts of the training photographs and of the crops.
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

    /// Outputs and training rows.
    pub(super) fn rows(
        &self,
        pooled: &[Vec<f32>],
        standard: &Standardization,
    ) -> (Vec<ConceptId>, TrainingRows) {
        let shown = labels::all_shown(&self.photographs);
        let concepts = labels::select_outputs(&self.photographs, &shown, self.recipe.vocabulary);
        let absence = KnownAbsences::new(Lexicon::shared());
        let mut labeled: Vec<(Vec<f32>, Vec<f32>)> = self
            .photographs
            .all
            .par_iter()
            .zip(&shown)
            .map(|(photograph, shown)| labels::labels(photograph, shown, &concepts, &absence))
            .collect();
        let boxes = BoxLabels::new(&concepts);
        let crops: Vec<_> = self.crops.iter().collect();
        let crop_labels = crops.par_iter().map(|&(photograph, crop)| {
            let (labels, weights) = &labeled[photograph];
            boxes.crop_labels(
                &crop.rect,
                &self.photographs.all[photograph].boxes,
                labels,
                weights,
            )
        });
        let crop_labels: Vec<_> = crop_labels.collect();
        labeled.extend(crop_labels);
        let (labels, weights) = labeled.into_iter().unzip();
        (
            concepts,
            TrainingRows {
                inputs: pooled.iter().map(|row| standard.apply(row)).collect(),
                labels,
                weights,
            },
        )
    }

    /// Weights of a stage: loaded from an earlier run's file, or trained and saved.
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
        let temporary = self.run.file(&format!("{name}.new"));
        candle_core::safetensors::save(&weights, &temporary)?;
        std::fs::rename(&temporary, &file).map_err(TrainError::io(&file))?;
        Ok(weights)
    }

    /// Networks trained without each fold, and the shipped one; each averages several.
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
        let learned = |source: TrainingSource, includes: &dyn Fn(usize) -> bool| -> Vec<usize> {
            let includes = |photograph: usize| includes(self.photographs.all[photograph].fold);
            match source {
                TrainingSource::Photographs(PhotographOrigin::Flickr8k) => {
                    (0..self.photographs.train).collect()
                }
                TrainingSource::Photographs(origin) => self
                    .photographs
                    .indices_of(origin)
                    .filter(|&i| includes(i))
                    .collect(),
                TrainingSource::Crops => {
                    let crops = self
                        .crops
                        .iter()
                        .enumerate()
                        .filter(|(_, (photograph, _))| includes(*photograph));
                    crops.map(|(j, _)| self.photographs.all.len() + j).collect()
                }
            }
        };
        let train = |begin: Option<&Tensors>,
                     name: &str,
                     config: &StageConfig,
                     seed: u64,
                     includes: &dyn Fn(usize) -> bool| {
            let vars = head::initial(inputs, head.hidden, prior, seed)?;
            begin.map_or(Ok(()), |weights| learn::set_weights(&vars, weights))?;
            let shares = learn::shares(config, |source| learned(source, includes))?;
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
        let first_stage = |network: usize| {
            let name = format!("first-{network}");
            self.saved(&name, || {
                train(None, &name, first, seed_of(network), &|_| false)
            })
        };
        let first_stages = (0..*networks)
            .map(first_stage)
            .collect::<Result<Vec<_>, _>>()?;
        let mean = |name: &str, number: u64, includes: &dyn Fn(usize) -> bool| {
            self.saved(name, || {
                let each = first_stages.iter().enumerate().map(|(i, weights)| {
                    let seed = seed_of(i).wrapping_add(number);
                    train(Some(weights), name, second, seed, includes)
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
