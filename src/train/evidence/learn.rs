//! Training stages of the networks: first on Flickr8k alone, then on all origins.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use candle_nn::VarMap;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Tensors, TrainError,
        optim::{AdamW, OptimConfig, named_vars},
        parallel::Workers,
        progress,
    },
    head::{EvidenceHead, HeadBatch, HeadConfig},
    origins::{TrainingSource, source_named},
};

/// Photographs per shard; fixed, so that sums of gradients do not depend on the number of cores.
const SHARD: usize = 96;

/// Training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Optimizer steps.
    pub steps: usize,
    /// Photographs per step.
    pub batch: usize,
    /// Share of each origin, and of `coco-mini-crops`, in a step; missing sources are skipped.
    pub shares: BTreeMap<String, f64>,
    /// Optimizer.
    pub optim: OptimConfig,
}

/// Training data of the networks: one row per photograph, then one per crop.
pub(super) struct TrainingRows {
    /// Standardized features.
    pub(super) inputs: Vec<Vec<f32>>,
    /// Labels of the outputs.
    pub(super) labels: Vec<Vec<f32>>,
    /// Weights of the labels.
    pub(super) weights: Vec<Vec<f32>>,
}

impl TrainingRows {
    fn batch(&self, photographs: &[usize], seed: u64) -> candle_core::Result<HeadBatch> {
        let tensor = |rows: &[Vec<f32>]| {
            let values: Vec<f32> = photographs
                .iter()
                .flat_map(|&i| rows[i].iter().copied())
                .collect();
            let width = values.len() / photographs.len().max(1);
            Tensor::from_vec(values, (photographs.len(), width), &Device::Cpu)
        };
        Ok(HeadBatch {
            inputs: tensor(&self.inputs)?,
            labels: tensor(&self.labels)?,
            weights: tensor(&self.weights)?,
            seed,
        })
    }
}

/// Rows of each source (their indices) with the number that a step draws of them.
pub(super) fn shares(
    stage: &StageConfig,
    rows_of: impl Fn(TrainingSource) -> Vec<usize>,
) -> Result<Vec<(Vec<usize>, usize)>, TrainError> {
    let mut all = Vec::new();
    for (name, &share) in &stage.shares {
        if !(share > 0.0 && share.is_finite()) {
            return Err(TrainError::Run(format!(
                "shares: {name} has {share}, not a positive number"
            )));
        }
        let photographs = rows_of(source_named("shares", name)?);
        if !photographs.is_empty() {
            all.push((photographs, share));
        }
    }
    let total: f64 = all.iter().map(|(_, share)| share).sum();
    if all.is_empty() || stage.batch == 0 {
        return Err(TrainError::Run(
            "shares: no photographs to learn from".into(),
        ));
    }
    let count = |share: f64| ((stage.batch as f64 * share / total).round() as usize).max(1);
    Ok(all
        .into_iter()
        .map(|(photographs, share)| (photographs, count(share)))
        .collect())
}

/// Trains the network of `vars` for a stage; deterministic in the seed. `shares` holds the rows to
/// draw from and their number per step.
///
/// # Errors
/// When the loss is not finite.
pub(super) fn train(
    vars: &VarMap,
    rows: &TrainingRows,
    shares: &[(Vec<usize>, usize)],
    (stage, head, seed): (&StageConfig, HeadConfig, u64),
    (workers, name): (&Workers, &str),
) -> Result<(), TrainError> {
    let mut optim = AdamW::new(vars, stage.optim)?;
    let (named, bar) = (named_vars(vars), progress(stage.steps, 0));
    bar.set_message(name.to_owned());
    for step in 0..stage.steps {
        let seed = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(step as u64);
        let mut rng = SmallRng::seed_from_u64(seed);
        let batch: Vec<usize> = shares
            .iter()
            .flat_map(|(photographs, count)| {
                (0..*count)
                    .map(|_| photographs[rng.random_range(0..photographs.len())])
                    .collect::<Vec<_>>()
            })
            .collect();
        let shards: Vec<HeadBatch> = batch
            .chunks(SHARD)
            .map(|shard| rows.batch(shard, rng.random()))
            .collect::<candle_core::Result<_>>()?;
        let (loss, gradients) = workers.gradients(&shards, &optim.vars(), |shard| {
            let weights: Tensors = named
                .iter()
                .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
                .collect();
            shard.loss(&EvidenceHead::from_weights(&weights)?, head, batch.len())
        })?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, loss });
        }
        optim.step(gradients, step, stage.steps)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Weights of a network by name.
pub(super) fn weights_of(vars: &VarMap) -> candle_core::Result<Tensors> {
    named_vars(vars)
        .into_iter()
        .map(|(name, var)| Ok((name, var.as_tensor().copy()?)))
        .collect()
}

/// Sets a network's weights.
pub(super) fn set_weights(vars: &VarMap, weights: &Tensors) -> candle_core::Result<()> {
    for (name, var) in named_vars(vars) {
        match weights.get(&name) {
            Some(weight) => var.set(weight)?,
            None => candle_core::bail!("there is no {name}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::head::initial, *};
    use crate::eval::honesty::PhotographOrigin;

    fn stage(shares: &[(&str, f64)], steps: usize) -> StageConfig {
        let optim = OptimConfig {
            learning_rate: 2e-2,
            warmup_steps: 5,
            final_share: 0.0,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.98,
            clip_norm: 5.0,
            ema_decay: 0.0,
        };
        StageConfig {
            steps,
            batch: 40,
            shares: shares
                .iter()
                .map(|&(name, share)| (name.to_owned(), share))
                .collect(),
            optim,
        }
    }

    #[test]
    fn shares_divide_a_step_by_origin() {
        let of = |source: TrainingSource| match source {
            TrainingSource::Photographs(PhotographOrigin::Flickr8k) => vec![1, 2, 3],
            TrainingSource::Photographs(PhotographOrigin::Daquar) => vec![7],
            TrainingSource::Photographs(_) => Vec::new(),
            TrainingSource::Crops => vec![8, 9],
        };
        let all = [("flickr8k", 0.5), ("coco-mini", 0.3), ("daquar", 0.2)];
        // Without coco-mini, five and two sevenths of forty.
        assert_eq!(
            shares(&stage(&all, 1), of).unwrap(),
            [(vec![7], 11), (vec![1, 2, 3], 29)]
        );
        let crops = [("flickr8k", 0.3), ("coco-mini-crops", 0.1)];
        assert_eq!(
            shares(&stage(&crops, 1), of).unwrap(),
            [(vec![8, 9], 10), (vec![1, 2, 3], 30)]
        );
        for wrong in [
            &[("flickr", 1.0)][..],
            &[("documents", 1.0)],
            &[("flickr8k", 0.0)],
            &[("coco-mini", 1.0)],
            &[],
        ] {
            assert!(shares(&stage(wrong, 1), of).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn train_learns_and_is_deterministic_on_any_number_of_cores() {
        // The first channel determines the first object; the second object is labeled wrongly, with
        // weight 0.
        let inputs: Vec<Vec<f32>> = (0..50)
            .map(|i| {
                vec![
                    if i % 2 == 0 { 1.0 } else { -1.0 },
                    ((i * 7) % 11) as f32 / 5.0 - 1.0,
                ]
            })
            .collect();
        let labels = inputs
            .iter()
            .map(|x| vec![f32::from(u8::from(x[0] > 0.0)), 1.0])
            .collect();
        let rows = TrainingRows {
            labels,
            weights: vec![vec![1.0, 0.0]; 50],
            inputs,
        };
        let head = HeadConfig {
            hidden: 8,
            input_dropout: 0.1,
            hidden_dropout: 0.1,
        };
        let learned = |cores: usize| {
            let vars = initial(2, head.hidden, &[0.0, -3.0], 4).unwrap();
            let stage = stage(&[("flickr8k", 1.0)], 120);
            let shares = vec![((0..50).collect(), 200)];
            train(
                &vars,
                &rows,
                &shares,
                (&stage, head, 9),
                (&Workers::new(cores).unwrap(), "test"),
            )
            .unwrap();
            let found = EvidenceHead::from_weights(&weights_of(&vars).unwrap()).unwrap();
            found
                .evidence(&rows.inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())
                .unwrap()
        };
        let found = learned(1);
        for (input, logits) in rows.inputs.iter().zip(&found) {
            assert!(logits[0] * input[0] > 1.0, "{input:?}: {logits:?}");
            assert!(
                logits[1] < 0.0,
                "a label of weight 0 teaches nothing: {logits:?}"
            );
        }
        assert_eq!(learned(2), found);
    }
}
