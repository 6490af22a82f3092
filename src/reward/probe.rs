//! The probe: a small perceptron on the policy's hidden states. It costs one small matrix product
//! for some tokens and needs no cache.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::{RewardState, ScoredRow, TokenReading, TokenReward, calibration::Calibrator};
use crate::vlm::nn::affine;

/// Dimensions of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Width of the policy's hidden states, all tapped layers side by side.
    pub features: usize,
    /// Width of the hidden layer; 0 for a single linear layer.
    pub hidden: usize,
    /// Layers of the policy that it reads, from 0; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

impl ProbeConfig {
    /// Returns the layers that it reads of a policy with `layers` layers of `width`.
    ///
    /// # Errors
    /// When the policy has no such layer or its hidden states have another width.
    pub fn taps(&self, layers: usize, width: usize) -> Result<Vec<usize>> {
        let taps = match &self.layers {
            Some(taps) => taps.clone(),
            None => (0..layers).collect(),
        };
        if let Some(beyond) = taps.iter().find(|&&layer| layer >= layers) {
            bail!("the probe reads layer {beyond}; the policy has {layers} layers, from 0");
        }
        if taps.len() * width != self.features {
            bail!(
                "the probe expects {} features; {} layers of the policy have {}",
                self.features,
                taps.len(),
                taps.len() * width
            );
        }
        Ok(taps)
    }
}

/// `fc2(relu(fc1(standardized hidden states)))`, or `fc2` alone: one logit per token.
pub struct ProbeNet {
    /// Mean and scale of the training features, unless folded into the first layer.
    standardize: Option<(Tensor, Tensor)>,
    fc1: Option<(Tensor, Tensor)>,
    fc2: (Tensor, Tensor),
}

impl ProbeNet {
    /// Loads `mean` and `scale` (of the training features), `fc1` and `fc2`.
    pub fn load(config: &ProbeConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layer = |name: &str, out: usize, input: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            let init = candle_nn::Init::Randn {
                mean: 0.0,
                stdev: (input as f64).powf(-0.5),
            };
            Ok((
                vb.get_with_hints((out, input), "weight", init)?,
                vb.get_with_hints(out, "bias", candle_nn::Init::Const(0.0))?,
            ))
        };
        let mean = vb
            .get_with_hints(config.features, "mean", candle_nn::Init::Const(0.0))?
            .detach();
        let scale = vb
            .get_with_hints(config.features, "scale", candle_nn::Init::Const(1.0))?
            .detach();
        let fc1 = (config.hidden > 0)
            .then(|| layer("fc1", config.hidden, config.features))
            .transpose()?;
        let fc2 = layer(
            "fc2",
            1,
            if fc1.is_some() {
                config.hidden
            } else {
                config.features
            },
        )?;
        Ok(Self {
            standardize: Some((mean, scale)),
            fc1,
            fc2,
        })
    }

    /// Folds the standardization into the first layer, which saves two operations per step.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn folded(mut self) -> Result<Self> {
        if let Some((mean, scale)) = self.standardize.take() {
            let first = self.fc1.as_mut().unwrap_or(&mut self.fc2);
            let weight = first.0.broadcast_mul(&scale)?;
            let shift = weight.matmul(&mean.unsqueeze(1)?)?.squeeze(1)?;
            *first = (weight, (&first.1 - shift)?);
        }
        Ok(self)
    }

    /// Returns logits of groundedness: `(n, features)` to `(n)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = match &self.standardize {
            Some((mean, scale)) => hidden.broadcast_sub(mean)?.broadcast_mul(scale)?,
            None => hidden.clone(),
        };
        let x = match &self.fc1 {
            Some((weight, bias)) => affine(&x, weight, Some(bias))?.relu()?,
            None => x,
        };
        affine(&x, &self.fc2.0, Some(&self.fc2.1))?.squeeze(1)
    }
}

/// Probe for serving: network, tapped layers and calibration.
pub struct Probe {
    net: Arc<ProbeNet>,
    taps: Vec<usize>,
    calibrator: Arc<Calibrator>,
}

impl Probe {
    /// Creates a scorer that reads the layers `taps` and whose logits `calibrator` turns into
    /// rewards.
    pub fn new(net: Arc<ProbeNet>, taps: Vec<usize>, calibrator: Calibrator) -> Self {
        Self {
            net,
            taps,
            calibrator: Arc::new(calibrator),
        }
    }
}

impl TokenReward for Probe {
    fn kind(&self) -> &'static str {
        "probe"
    }

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn new_state(&self, slots: usize, _: usize, _: usize) -> Result<Box<dyn RewardState>> {
        Ok(Box::new(ProbeState {
            net: Arc::clone(&self.net),
            calibrator: Arc::clone(&self.calibrator),
            unread: vec![UnreadLines::default(); slots],
        }))
    }
}

/// Probe with what it has not read yet.
struct ProbeState {
    net: Arc<ProbeNet>,
    calibrator: Arc<Calibrator>,
    /// Of every slot.
    unread: Vec<UnreadLines>,
}

/// Tokens of a sequence with their hidden states, in order of their positions.
#[derive(Debug, Clone, Default)]
struct UnreadLines {
    positions: Vec<usize>,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    /// Hidden states, one line a token.
    lines: Vec<Tensor>,
}

impl UnreadLines {
    /// Takes the tokens that are to be judged; `first` is the row's first line.
    fn take(&mut self, scored: &ScoredRow<'_>, hidden: &Tensor, first: usize) -> Result<()> {
        let (wanted, skipped) = (scored.row.wanted().len(), scored.unjudged);
        if scored.log_probabilities.len() != wanted {
            bail!(
                "{} log-probabilities for {wanted} tokens",
                scored.log_probabilities.len()
            );
        }
        let position = scored.row.start + scored.row.from;
        for i in skipped..wanted {
            self.positions.push(position + i);
            self.tokens.push(scored.row.wanted()[i]);
            self.log_probabilities.push(scored.log_probabilities[i]);
            self.lines.push(hidden.narrow(0, first + i, 1)?);
        }
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        let kept = self.positions.partition_point(|&position| position < len);
        self.positions.truncate(kept);
        self.tokens.truncate(kept);
        self.log_probabilities.truncate(kept);
        self.lines.truncate(kept);
    }
}

impl RewardState for ProbeState {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        let expected: usize = rows.iter().map(|scored| scored.row.wanted().len()).sum();
        let found = hidden.map_or(Ok(0), |hidden| hidden.dim(0))?;
        if found != expected {
            bail!("hidden states of {found} tokens for {expected}");
        }
        let (mut first, mut due) = (0, Vec::new());
        for (i, scored) in rows.iter().enumerate() {
            let unread = &mut self.unread[scored.row.slot];
            if let Some(hidden) = hidden {
                unread.take(scored, hidden, first)?;
            }
            first += scored.row.wanted().len();
            if scored.is_due(unread.tokens.len()) {
                due.push((i, std::mem::take(unread)));
            }
        }
        let mut readings = vec![Vec::new(); rows.len()];
        let lines: Vec<&Tensor> = due.iter().flat_map(|(_, unread)| &unread.lines).collect();
        if lines.is_empty() {
            return Ok(readings);
        }
        let logits = self.net.logits(&Tensor::cat(&lines, 0)?)?;
        let logits = logits.to_vec1::<f32>()?;
        let mut rest = logits.as_slice();
        for (i, unread) in due {
            let own = rest.split_off(..unread.tokens.len()).unwrap_or_default();
            let rewards =
                self.calibrator
                    .rewards(&unread.tokens, own, &unread.log_probabilities)?;
            readings[i] = rewards.into_iter().map(TokenReading::of_policy).collect();
        }
        Ok(readings)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.unread[slot].truncate(len);
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        let mut unread = self.unread[from].clone();
        unread.truncate(len);
        self.unread[to] = unread;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use candle_nn::{VarBuilder, VarMap};

    use super::*;

    #[test]
    fn folded_probe_has_the_same_logits() {
        let (vars, config) = (
            VarMap::new(),
            ProbeConfig {
                features: 6,
                hidden: 4,
                layers: None,
            },
        );
        let load = || {
            ProbeNet::load(
                &config,
                VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu),
            )
            .unwrap()
        };
        drop(load());
        for (name, var) in vars.data().lock().unwrap().iter() {
            let first = name.bytes().map(usize::from).sum::<usize>();
            let values: Vec<f32> = (0..var.elem_count())
                .map(|i| ((first + i * 17) % 13) as f32 / 6.0 - 0.9)
                .collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
        let hidden = Tensor::from_vec(
            (0..18).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<_>>(),
            (3, 6),
            &Device::Cpu,
        )
        .unwrap();
        let (plain, folded) = (
            load().logits(&hidden).unwrap(),
            load().folded().unwrap().logits(&hidden).unwrap(),
        );
        let pairs = plain
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .zip(folded.to_vec1::<f32>().unwrap());
        assert!(
            pairs
                .clone()
                .all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs())),
            "{:?}",
            pairs.collect::<Vec<_>>()
        );
    }
}
