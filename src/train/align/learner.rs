//! The policy that is being aligned, and its optimiser.

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
    vlm::llava::{PrefixDecoder, PrefixDecoderConfig},
};

const VALUE: &str = "value";

/// Variables (the policy's, and a value head's where there is one), their optimiser, and how far it
/// is.
pub(super) struct Learner {
    config: PrefixDecoderConfig,
    value_hidden: usize,
    vars: VarMap,
    /// The optimiser.
    pub(super) optim: AdamW,
    /// Optimiser steps done.
    pub(super) step: usize,
    /// Optimiser steps of the whole run.
    pub(super) total: usize,
}

impl Learner {
    /// Begins as a copy of the policy; `value_hidden` 0 is no value head.
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
                // candle's own first weights are not a function of a seed.
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

    /// The policy with its variables, differentiable.
    pub(super) fn model(&self) -> CandleResult<PrefixDecoder> {
        PrefixDecoder::load(
            &self.config,
            VarBuilder::from_varmap(&self.vars, DType::F32, &Device::Cpu),
        )
    }

    /// The value head.
    pub(super) fn value(&self) -> CandleResult<ValueHead> {
        let vb = VarBuilder::from_varmap(&self.vars, DType::F32, &Device::Cpu);
        ValueHead::load(
            self.config.decoder.hidden_size,
            self.value_hidden,
            vb.pp(VALUE),
        )
    }

    /// The policy's present weights by name, copied.
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

    /// A policy without gradients.
    pub(super) fn frozen(&self, weights: Tensors) -> CandleResult<PrefixDecoder> {
        PrefixDecoder::load(
            &self.config,
            VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
        )
    }

    /// One optimiser step; returns the gradient's norm.
    pub(super) fn apply(&mut self, gradients: Vec<Vec<f32>>) -> CandleResult<f64> {
        let norm = self.optim.step(gradients, self.step, self.total)?;
        self.step += 1;
        Ok(norm)
    }
}
