//! The standalone scorer (`detached` in files): a network of its own that reads image and text as
//! the policy does.
//!
//! It is initialized as a copy of the policy and fine-tuned end to end, so that it is not limited
//! to what the policy's hidden states encode. Its cost is a second decoder step per token.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{RewardState, ScoredRow, TokenReading, TokenReward, calibration::Calibrator};
use crate::vlm::{
    KvCache, Logits, Outputs, Row, VisionLanguageModel,
    models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
    nn::affine,
};

/// Images whose keys and values stay cached for later questions about them.
const PREFIXES: usize = 64;

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
        affine(hidden, &self.weight, Some(&self.bias))?.squeeze(1)
    }
}

/// Standalone scorer for serving: network and calibration. It reads the policy's tokens and image
/// features, so it is a scorer of the policy that it was trained beside.
pub struct StandaloneScorer {
    net: Arc<StandaloneNet>,
    calibrator: Arc<Calibrator>,
}

impl StandaloneScorer {
    /// Creates a scorer whose logits `calibrator` turns into rewards.
    pub fn new(net: Arc<StandaloneNet>, calibrator: Calibrator) -> Self {
        Self {
            net,
            calibrator: Arc::new(calibrator),
        }
    }
}

impl TokenReward for StandaloneScorer {
    fn kind(&self) -> &'static str {
        "detached"
    }

    fn new_state(
        &self,
        slots: usize,
        capacity: usize,
        positions: usize,
    ) -> Result<Box<dyn RewardState>> {
        let cache = self.net.decoder.new_cache(slots, capacity, positions)?;
        Ok(Box::new(StandaloneState {
            net: Arc::clone(&self.net),
            calibrator: Arc::clone(&self.calibrator),
            cache: cache.remembering(PREFIXES),
        }))
    }
}

/// Network with the cache of the sequences that it follows.
struct StandaloneState {
    net: Arc<StandaloneNet>,
    calibrator: Arc<Calibrator>,
    cache: KvCache,
}

impl RewardState for StandaloneState {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        _hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        let own: Vec<Row<'_>> = rows.iter().map(|scored| scored.row).collect();
        let decoder = &self.net.decoder;
        let outputs = Outputs {
            logits: Logits::None,
            hidden_layers: &[decoder.spec().layers - 1],
        };
        let step = decoder.forward(&own, &mut self.cache, outputs)?;
        let Some(hidden) = step.hidden else {
            bail!("the detached scorer returned no hidden states")
        };
        self.calibrator.readings(rows, &self.net.logits(&hidden)?)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.cache.truncate(slot, len);
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        self.cache.fork(from, to, len);
    }
}
