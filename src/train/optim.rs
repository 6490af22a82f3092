//! AdamW with global-norm clipping and an exponential moving average of the weights.

use candle_core::{Device, Result, Tensor, Var, bail};
use candle_nn::VarMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Tensors;

/// Hyperparameters of the optimizer. The learning rate warms up linearly and decays along a cosine
/// to `final_share` of its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Final learning rate as a share of the peak.
    pub final_share: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// Decay `β₁` of the first moment.
    pub beta1: f64,
    /// Decay `β₂` of the second moment.
    pub beta2: f64,
    /// Maximum global norm of a gradient.
    pub clip_norm: f64,
    /// Decay of the averaged weights, which are evaluated and exported.
    pub ema_decay: f64,
}

impl OptimConfig {
    /// Learning rate of step `step` (from 0) of `total`.
    pub fn learning_rate_at(&self, step: usize, total: usize) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let progress = (step - self.warmup_steps) as f64
            / (total.saturating_sub(self.warmup_steps)).max(1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
        self.learning_rate * (self.final_share + (1.0 - self.final_share) * cosine)
    }
}

struct Slot {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
    average: Vec<f32>,
}

/// AdamW optimizer over the variables of a [`VarMap`], in the order of their names, with moments
/// and averages.
pub struct AdamW {
    config: OptimConfig,
    slots: Vec<Slot>,
}

impl AdamW {
    /// Starts with zero moments and averages equal to the weights.
    pub fn new(vars: &VarMap, config: OptimConfig) -> Result<Self> {
        let slots = named_vars(vars).into_iter().map(|(name, var)| {
            let average = var.flatten_all()?.to_vec1::<f32>()?;
            Ok(Slot {
                name,
                first: vec![0.0; average.len()],
                second: vec![0.0; average.len()],
                average,
                var,
            })
        });
        Ok(Self {
            config,
            slots: slots.collect::<Result<_>>()?,
        })
    }

    /// Variables, in the order in which [`Self::step`] expects their gradients.
    pub fn vars(&self) -> Vec<Var> {
        self.slots.iter().map(|s| s.var.clone()).collect()
    }

    /// Clips `gradients` and applies step `step` (from 0) of `total`. Returns the gradient norm
    /// before clipping.
    pub fn step(&mut self, mut gradients: Vec<Vec<f32>>, step: usize, total: usize) -> Result<f64> {
        let norm = gradients
            .par_iter()
            .map(|g| g.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>())
            .collect::<Vec<_>>();
        let norm = norm.iter().sum::<f64>().sqrt();
        let scale = (self.config.clip_norm / norm.max(1e-12)).min(1.0) as f32;
        let OptimConfig {
            beta1,
            beta2,
            weight_decay,
            ema_decay,
            ..
        } = self.config;
        let rate = self.config.learning_rate_at(step, total);
        let t = (step + 1) as i32;
        let (bias1, bias2) = (1.0 - beta1.powi(t), 1.0 - beta2.powi(t));
        let ema = ema_decay.min((1.0 + step as f64) / (10.0 + step as f64)) as f32;
        let (b1, b2, step_size, root_bias2) = (
            beta1 as f32,
            beta2 as f32,
            (rate / bias1) as f32,
            (1.0 / bias2).sqrt() as f32,
        );
        self.slots
            .par_iter_mut()
            .zip(gradients.par_iter_mut())
            .try_for_each(|(slot, gradient)| {
                let mut weights = slot.var.flatten_all()?.to_vec1::<f32>()?;
                if weights.len() != gradient.len() {
                    bail!(
                        "{}: {} weights, {} gradients",
                        slot.name,
                        weights.len(),
                        gradient.len()
                    );
                }
                let decay = if slot.var.rank() > 1 {
                    (rate * weight_decay) as f32
                } else {
                    0.0
                };
                for (i, g) in gradient.iter().enumerate() {
                    let g = g * scale;
                    slot.first[i] = b1 * slot.first[i] + (1.0 - b1) * g;
                    slot.second[i] = b2 * slot.second[i] + (1.0 - b2) * g * g;
                    let w = weights[i] * (1.0 - decay)
                        - step_size * slot.first[i] / (slot.second[i].sqrt() * root_bias2 + 1e-8);
                    weights[i] = w;
                    slot.average[i] += (1.0 - ema) * (w - slot.average[i]);
                }
                slot.var.set(&Tensor::from_vec(
                    weights,
                    slot.var.shape(),
                    slot.var.device(),
                )?)
            })?;
        Ok(norm)
    }

    /// Averaged weights by name.
    pub fn averages(&self) -> Result<Tensors> {
        self.slots
            .iter()
            .map(|s| {
                Ok((
                    s.name.clone(),
                    Tensor::from_vec(s.average.clone(), s.var.shape(), &Device::Cpu)?,
                ))
            })
            .collect()
    }

    /// Checkpoint tensors: weights, moments and averages.
    pub fn state(&self) -> Result<Tensors> {
        let mut out = Tensors::new();
        for slot in &self.slots {
            let tensor = |v: &[f32]| Tensor::from_slice(v, slot.var.shape(), &Device::Cpu);
            out.insert(
                format!("weight/{}", slot.name),
                slot.var.as_tensor().clone(),
            );
            out.insert(format!("first/{}", slot.name), tensor(&slot.first)?);
            out.insert(format!("second/{}", slot.name), tensor(&slot.second)?);
            out.insert(format!("average/{}", slot.name), tensor(&slot.average)?);
        }
        Ok(out)
    }

    /// Restores a checkpoint written by [`Self::state`].
    pub fn restore(&mut self, state: &Tensors) -> Result<()> {
        for slot in &mut self.slots {
            let get = |kind: &str| match state.get(&format!("{kind}/{}", slot.name)) {
                Some(t) if t.shape() == slot.var.shape() => Ok(t),
                _ => bail!("the checkpoint has no fitting {kind} of {}", slot.name),
            };
            let flat = |kind: &str| get(kind)?.flatten_all()?.to_vec1::<f32>();
            let (first, second, average) = (flat("first")?, flat("second")?, flat("average")?);
            slot.var.set(get("weight")?)?;
            (slot.first, slot.second, slot.average) = (first, second, average);
        }
        Ok(())
    }
}

/// Variables of a map, sorted by name.
pub fn named_vars(vars: &VarMap) -> Vec<(String, Var)> {
    let mut named: Vec<_> = match vars.data().lock() {
        Ok(map) => map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        Err(poisoned) => poisoned
            .into_inner()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: OptimConfig = OptimConfig {
        learning_rate: 0.1,
        warmup_steps: 10,
        final_share: 0.1,
        weight_decay: 0.0,
        beta1: 0.9,
        beta2: 0.98,
        clip_norm: 1.0,
        ema_decay: 0.99,
    };

    fn quadratic() -> (VarMap, AdamW) {
        let vars = VarMap::new();
        let start = Var::new(&[4f32, -3.0, 2.0], &Device::Cpu).unwrap();
        vars.data().lock().unwrap().insert("x".into(), start);
        let optim = AdamW::new(&vars, CONFIG).unwrap();
        (vars, optim)
    }

    fn run(optim: &mut AdamW, from: usize, to: usize) -> Vec<f32> {
        for step in from..to {
            let x = optim.vars()[0].to_vec1::<f32>().unwrap();
            optim
                .step(vec![x.iter().map(|x| 2.0 * x).collect()], step, 200)
                .unwrap();
        }
        optim.vars()[0].to_vec1().unwrap()
    }

    #[test]
    fn step_quadratic_descends() {
        let (_vars, mut optim) = quadratic();
        assert!(run(&mut optim, 0, 200).iter().all(|x| x.abs() < 0.05));
    }

    #[test]
    fn restore_continues_bit_for_bit() {
        let (_vars, mut whole) = quadratic();
        let want = run(&mut whole, 0, 60);
        let (_vars, mut first) = quadratic();
        run(&mut first, 0, 25);
        let (_vars, mut second) = quadratic();
        second.restore(&first.state().unwrap()).unwrap();
        assert_eq!(run(&mut second, 25, 60), want);
    }

    #[test]
    fn learning_rate_at_warms_up_and_decays() {
        assert!((CONFIG.learning_rate_at(0, 100) - 0.01).abs() < 1e-12);
        assert!((CONFIG.learning_rate_at(10, 100) - 0.1).abs() < 1e-12);
        assert!((CONFIG.learning_rate_at(100, 100) - 0.01).abs() < 1e-12);
    }
}
