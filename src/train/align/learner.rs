//! The policy under training and its optimizer.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::value::ValueHead;
use crate::{
    train::{
        Tensors, TrainError,
        optim::{AdamW, OptimConfig, named_vars},
        policy::Policy,
    },
    vlm::models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
};

const VALUE: &str = "value";

/// Trainable variables of the policy and, for PPO, of a value head, with their optimizer and step
/// count.
pub(super) struct Learner {
    config: PrefixDecoderConfig,
    value_hidden: usize,
    vars: VarMap,
    /// Optimizer.
    pub(super) optim: AdamW,
    /// Optimizer steps done.
    pub(super) step: usize,
    /// Optimizer steps of the whole run, for the learning-rate schedule.
    pub(super) total: usize,
}

impl Learner {
    /// Copies the policy's weights; `value_hidden` 0 means no value head.
    pub(super) fn new(
        policy: &Policy,
        optim: OptimConfig,
        value_hidden: usize,
        total: usize,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let (config, vars) = (policy.config.model.language.clone(), VarMap::new());
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        PrefixDecoder::load(&config, vb.clone())?;
        if value_hidden > 0 {
            ValueHead::load(config.decoder.hidden_size, value_hidden, vb.pp(VALUE))?;
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        for (name, var) in named_vars(&vars) {
            match policy.weights.get(&name) {
                Some(weight) => var.set(weight)?,
                // candle's own initialization cannot be seeded.
                None if var.rank() == 2 && var.dim(0)? > 1 => {
                    let bound = (3.0 / var.dim(1)? as f32).sqrt();
                    let values: Vec<f32> = (0..var.elem_count())
                        .map(|_| rng.random_range(-bound..bound))
                        .collect();
                    var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
                }
                None => {}
            }
        }
        Ok(Self {
            config,
            value_hidden,
            optim: AdamW::new(&vars, optim)?,
            vars,
            step: 0,
            total,
        })
    }

    /// The policy on its variables, differentiable.
    pub(super) fn model(&self) -> CandleResult<PrefixDecoder> {
        PrefixDecoder::load(
            &self.config,
            VarBuilder::from_varmap(&self.vars, DType::F32, &Device::Cpu),
        )
    }

    /// The value head on its variables, differentiable.
    pub(super) fn value(&self) -> CandleResult<ValueHead> {
        let vb = VarBuilder::from_varmap(&self.vars, DType::F32, &Device::Cpu);
        ValueHead::load(
            self.config.decoder.hidden_size,
            self.value_hidden,
            vb.pp(VALUE),
        )
    }

    /// Copies of the policy's current weights by name.
    pub(super) fn weights(&self) -> CandleResult<Tensors> {
        let own = named_vars(&self.vars)
            .into_iter()
            .filter(|(name, _)| !name.starts_with(VALUE));
        own.map(|(name, var)| Ok((name, var.as_tensor().copy()?.detach())))
            .collect()
    }

    /// The policy's averaged weights by name.
    pub(super) fn averages(&self) -> CandleResult<Tensors> {
        Ok(self
            .optim
            .averages()?
            .into_iter()
            .filter(|(name, _)| !name.starts_with(VALUE))
            .collect())
    }

    /// Policy on fixed weights, without gradients.
    pub(super) fn frozen(&self, weights: Tensors) -> CandleResult<PrefixDecoder> {
        PrefixDecoder::load(
            &self.config,
            VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
        )
    }

    /// Applies one optimizer step and returns the gradient norm before clipping.
    pub(super) fn apply(&mut self, gradients: Vec<Vec<f32>>) -> CandleResult<f64> {
        let norm = self.optim.step(gradients, self.step, self.total)?;
        self.step += 1;
        Ok(norm)
    }
}
