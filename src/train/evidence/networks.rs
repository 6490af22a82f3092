//! The data of a run as networks see them, and the networks.

use rayon::prelude::*;

use super::{
    super::{Tensors, TrainError, export::read_weights, features::Features, judged::dev_features},
    EvidenceRecipe, EvidenceTraining,
    head::{self, Standard},
    labels::{self, Absence},
    learn::{self, Rows, StageConfig},
    origins::OTHERS,
};
use crate::{
    eval::{
        data::flickr8k::Image,
        honesty::{Origin, folds::FOLDS},
    },
    lexicon::{ConceptId, Lexicon},
};

/// Photographs whose features are read at once.
const AT_ONCE: usize = 64;

impl EvidenceTraining {
    /// Pooled features of all photographs, and the features of those behind the training split.
    pub(super) fn features(&self) -> Result<(Vec<Vec<f32>>, Features), TrainError> {
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
    pub(super) fn rows(&self, pooled: &[Vec<f32>], standard: &Standard) -> (Vec<ConceptId>, Rows) {
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

    /// The weights of a stage: those that an earlier run left, or else what `train` gives, which is kept for the next.
    pub(super) fn saved(&self, name: &str, train: impl FnOnce() -> Result<Tensors, TrainError>) -> Result<Tensors, TrainError> {
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

    /// The networks of the five parts, each of which did not learn from its part, and the shipped one.
    pub(super) fn networks(&self, rows: &Rows, prior: &[f32]) -> Result<(Vec<Tensors>, Tensors), TrainError> {
        let EvidenceRecipe { seed, head, first, second, .. } = &self.recipe;
        let inputs = rows.inputs.first().map_or(0, Vec::len);
        let vars = head::initial(inputs, head.hidden, prior, *seed)?;
        let flickr8k = || (0..self.photographs.train).collect::<Vec<usize>>();
        let stage = |name: &str, begin: Option<&Tensors>, config: &StageConfig, seed: u64, takes: &dyn Fn(usize) -> bool| {
            self.saved(name, || {
                begin.map_or(Ok(()), |weights| learn::set(&vars, weights))?;
                let learned = |origin: Origin| match origin {
                    Origin::Flickr8k => flickr8k(),
                    _ => self.photographs.of(origin).filter(|&i| takes(self.photographs.all[i].fold)).collect(),
                };
                let shares = learn::shares(config, learned)?;
                learn::train(&vars, rows, &shares, (config, *head, seed), (&self.setup.workers, name))?;
                Ok(learn::weights_of(&vars)?)
            })
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
}
