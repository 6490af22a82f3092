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
    prompt::{ImageFeatures, ImageSpan},
};

/// Prompts with images whose keys and values stay cached for later ones that begin like them.
const PREFIXES: usize = 128;

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

    /// Rounds the matrices, for serving; see [`crate::vlm::nn::Linear::rounded`].
    #[must_use]
    pub fn rounded(self) -> Self {
        Self {
            decoder: self.decoder.rounded(),
            ..self
        }
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
            unread: vec![UnreadTokens::default(); slots],
        }))
    }
}

/// Network with the cache of the sequences that it follows.
struct StandaloneState {
    net: Arc<StandaloneNet>,
    calibrator: Arc<Calibrator>,
    cache: KvCache,
    /// Of every slot, what stands behind the cached positions.
    unread: Vec<UnreadTokens>,
}

/// Tokens of a sequence that the network has not read yet.
#[derive(Debug, Clone, Default)]
struct UnreadTokens {
    tokens: Vec<u32>,
    /// Log-probability under the policy of each token that is to be judged.
    log_probabilities: Vec<Option<f32>>,
    spans: Vec<ImageSpan>,
    images: Vec<ImageFeatures>,
}

impl UnreadTokens {
    fn take(&mut self, scored: &ScoredRow<'_>) -> Result<()> {
        let row = &scored.row;
        let wanted = row.wanted().len();
        let log_probabilities = match scored.log_probabilities.get(scored.unjudged..) {
            Some(judged) if judged.len() == scored.judged().len() => judged,
            _ => bail!(
                "{} log-probabilities for {wanted} tokens",
                scored.log_probabilities.len()
            ),
        };
        self.tokens.extend(row.tokens);
        self.log_probabilities
            .resize(self.tokens.len() - log_probabilities.len(), None);
        self.log_probabilities
            .extend(log_probabilities.iter().map(|&p| Some(p)));
        if !row.spans.is_empty() {
            (self.spans, self.images) = (row.spans.to_vec(), row.images.to_vec());
        }
        Ok(())
    }

    /// Returns the index of the first token that is to be judged.
    fn from(&self) -> Option<usize> {
        self.log_probabilities.iter().position(Option::is_some)
    }

    fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.log_probabilities.truncate(len);
    }
}

impl RewardState for StandaloneState {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        _hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        let mut due = Vec::new();
        for (i, scored) in rows.iter().enumerate() {
            let slot = scored.row.slot;
            let unread = &mut self.unread[slot];
            if scored.row.start != self.cache.len(slot) + unread.tokens.len() {
                bail!("the detached scorer missed a part of slot {slot}");
            }
            unread.take(scored)?;
            let judged = unread.log_probabilities.iter().flatten().count();
            if scored.is_due(judged) {
                due.push((i, std::mem::take(unread)));
            }
        }
        let mut readings = vec![Vec::new(); rows.len()];
        if due.is_empty() {
            return Ok(readings);
        }
        let own = due.iter().map(|(i, unread)| {
            let slot = rows[*i].row.slot;
            Row {
                slot,
                start: self.cache.len(slot),
                tokens: &unread.tokens,
                spans: &unread.spans,
                images: &unread.images,
                from: unread.from().unwrap_or(0),
            }
        });
        let own: Vec<Row<'_>> = own.collect();
        let decoder = &self.net.decoder;
        let outputs = Outputs {
            logits: Logits::None,
            hidden_layers: &[decoder.spec().layers - 1],
        };
        let step = decoder.forward(&own, &mut self.cache, outputs)?;
        let Some(hidden) = step.hidden else {
            bail!("the detached scorer returned no hidden states")
        };
        let logits = self.net.logits(&hidden)?.to_vec1::<f32>()?;
        let mut logits = logits.into_iter();
        for ((i, unread), row) in due.iter().zip(&own) {
            let logits = logits.by_ref().take(row.wanted().len());
            let wanted = row
                .wanted()
                .iter()
                .zip(&unread.log_probabilities[row.from..]);
            let judged = logits
                .zip(wanted)
                .filter_map(|(logit, (&token, p))| Some((token, (logit, (*p)?))));
            let (tokens, numbers): (Vec<u32>, Vec<(f32, f32)>) = judged.unzip();
            let (logits, log_probabilities): (Vec<f32>, Vec<f32>) = numbers.into_iter().unzip();
            let rewards = self
                .calibrator
                .rewards(&tokens, &logits, &log_probabilities)?;
            readings[*i] = rewards.into_iter().map(TokenReading::of_policy).collect();
        }
        Ok(readings)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        let cached = self.cache.len(slot);
        self.unread[slot].truncate(len.saturating_sub(cached));
        if len < cached {
            self.cache.truncate(slot, len);
        }
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        let cached = self.cache.len(from);
        self.cache.fork(from, to, len.min(cached));
        let mut unread = self.unread[from].clone();
        unread.truncate(len.saturating_sub(cached));
        self.unread[to] = unread;
    }
}
