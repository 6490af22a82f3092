//! The probe: a small perceptron on the policy's hidden states. It costs one small product a token and no cache.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::{TokenReward, calibration::Calibration};
use crate::vlm::{KvCache, Row};

/// Sizes of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Width of the policy's hidden states, all layers side by side.
    pub features: usize,
    /// Width between the two layers.
    pub hidden: usize,
}

/// `fc2(relu(fc1(standardised hidden states)))`: one logit a token.
pub struct ProbeNet {
    mean: Tensor,
    scale: Tensor,
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
}

impl ProbeNet {
    /// Loads `mean` and `scale` (of the training features), `fc1` and `fc2`.
    pub fn load(config: &ProbeConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let layer = |name: &str, out: usize, input: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            let init = candle_nn::Init::Randn { mean: 0.0, stdev: (input as f64).powf(-0.5) };
            Ok((vb.get_with_hints((out, input), "weight", init)?, vb.get_with_hints(out, "bias", candle_nn::Init::Const(0.0))?))
        };
        Ok(Self {
            mean: vb.get_with_hints(config.features, "mean", candle_nn::Init::Const(0.0))?.detach(),
            scale: vb.get_with_hints(config.features, "scale", candle_nn::Init::Const(1.0))?.detach(),
            fc1: layer("fc1", config.hidden, config.features)?,
            fc2: layer("fc2", 1, config.hidden)?,
        })
    }

    /// Logits that a token is grounded: `(n, features)` to `(n)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = hidden.broadcast_sub(&self.mean)?.broadcast_mul(&self.scale)?;
        let x = x.matmul(&self.fc1.0.t()?)?.broadcast_add(&self.fc1.1)?.relu()?;
        x.matmul(&self.fc2.0.t()?)?.broadcast_add(&self.fc2.1)?.squeeze(1)
    }
}

/// The serving side: network and calibration.
pub struct Probe {
    net: ProbeNet,
    calibration: Calibration,
}

impl Probe {
    /// A scorer whose numbers mean what `calibration` says.
    pub fn new(net: ProbeNet, calibration: Calibration) -> Self {
        Self { net, calibration }
    }
}

impl TokenReward for Probe {
    fn kind(&self) -> &'static str {
        "probe"
    }

    fn new_cache(&self, _slots: usize, _capacity: usize) -> Result<Option<KvCache>> {
        Ok(None)
    }

    fn score(&self, _rows: &[Row<'_>], hidden: &Tensor, _cache: Option<&mut KvCache>) -> Result<Vec<f32>> {
        let logits = self.net.logits(hidden)?.to_vec1::<f32>()?;
        Ok(logits.into_iter().map(|l| self.calibration.probability(l)).collect())
    }
}
