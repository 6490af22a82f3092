//! The standalone scorer (`detached` in files): a network of its own that reads image and text as
//! the policy does.
//!
//! It is initialized as a copy of the policy and fine-tuned end to end, so that it is not limited
//! to what the policy's hidden states encode. Its cost is a second decoder step per token.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{TokenReward, calibration::Calibrator};
use crate::vlm::{
    KvCache, Row,
    models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
};

/// Decoder with a linear head: one logit per token.
pub struct StandaloneNet {
    decoder: PrefixDecoder,
    weight: Tensor,
    bias: Tensor,
}

impl StandaloneNet {
    /// Loads `connector`, `decoder` and `head`.
    pub fn load(config: &PrefixDecoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let head = vb.pp("head");
        let weight = head.get_with_hints(
            (1, config.decoder.hidden_size),
            "weight",
            candle_nn::Init::Const(0.0),
        )?;
        let bias = head.get_with_hints(1, "bias", candle_nn::Init::Const(0.0))?;
        Ok(Self {
            decoder: PrefixDecoder::load(config, vb)?,
            weight,
            bias,
        })
    }

    /// Returns the decoder.
    pub fn decoder(&self) -> &PrefixDecoder {
        &self.decoder
    }

    /// Returns logits of groundedness: `(n, hidden_size)` to `(n)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?
            .squeeze(1)
    }
}

/// Standalone scorer for serving: network, cache and calibration.
pub struct StandaloneScorer {
    net: Arc<StandaloneNet>,
    calibrator: Calibrator,
}

impl StandaloneScorer {
    /// Creates a scorer whose logits `calibrator` turns into rewards.
    pub fn new(net: Arc<StandaloneNet>, calibrator: Calibrator) -> Self {
        Self { net, calibrator }
    }
}

impl TokenReward for StandaloneScorer {
    fn kind(&self) -> &'static str {
        "detached"
    }

    fn new_cache(&self, slots: usize, capacity: usize) -> Result<Option<KvCache>> {
        self.net.decoder.new_cache(slots, capacity).map(Some)
    }

    fn score(
        &self,
        rows: &[Row<'_>],
        _hidden: &Tensor,
        log_probabilities: &[f32],
        cache: Option<&mut KvCache>,
    ) -> Result<Vec<f32>> {
        let Some(cache) = cache else {
            bail!("the detached scorer needs its cache")
        };
        let states = self.net.decoder.step(rows, cache)?;
        let Some(last) = states.last() else {
            bail!("the decoder has no layers")
        };
        self.calibrator
            .rewards(rows, &self.net.logits(last)?, log_probabilities)
    }
}
