//! The detached scorer: a network of its own that reads image and text as the policy does.
//!
//! It begins as a copy of the policy and is fine-tuned end to end, so that what it knows of the
//! image is not limited to what the policy's hidden states carry. Its price is a second decoder
//! step a token.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{TokenReward, calibration::Calibrator};
use crate::vlm::{
    KvCache, Row,
    llava::{PrefixDecoder, PrefixDecoderConfig},
};

/// Decoder with a linear head: one logit a token.
pub struct DetachedNet {
    decoder: PrefixDecoder,
    weight: Tensor,
    bias: Tensor,
}

impl DetachedNet {
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

    /// The decoder under the head.
    pub fn decoder(&self) -> &PrefixDecoder {
        &self.decoder
    }

    /// Logits that a token is grounded: `(n, hidden_size)` to `(n)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?
            .squeeze(1)
    }
}

/// The serving side: network, cache and calibration.
pub struct Detached {
    net: Arc<DetachedNet>,
    calibrator: Calibrator,
}

impl Detached {
    /// A scorer whose numbers mean what `calibrator` says.
    pub fn new(net: Arc<DetachedNet>, calibrator: Calibrator) -> Self {
        Self { net, calibrator }
    }
}

impl TokenReward for Detached {
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
