//! Models of which only the encoding of images is special: a decoder reads encoded images as it
//! reads tokens.

use candle_core::{Result, Tensor};

use super::config::TextModelConfig;
use crate::vlm::{
    Embedded, KvCache, Outputs, Row, Spec, StepOutput, VisionLanguageModel, decoder::Decoder,
    weights::Weights,
};

/// Vision tower and projector of a [`CausalModel`].
pub trait ImageEncoder: Send + Sync {
    /// Encodes one image, `(tiles, 3, height, width)`, to `(positions, hidden size of the text
    /// model)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;
}

/// Encoder of images in front of a decoder, whose attention is causal over images and text alike.
pub struct CausalModel<E> {
    encoder: E,
    decoder: Decoder,
    spec: Spec,
}

impl<E: ImageEncoder> CausalModel<E> {
    /// Loads the decoder's weights under `text` and joins it with an encoder.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        architecture: &'static str,
        encoder: E,
        text: &TextModelConfig,
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let weights = weights.pp("text");
        let mut config = text.decoder.clone();
        config.tie_word_embeddings |= !text.tie_is_known && !weights.has("lm_head.weight");
        let decoder = Decoder::load(&config, &weights)?;
        let spec = Spec {
            architecture,
            vocab_size: config.vocab_size,
            context_len: config.max_position_embeddings,
            layers: config.num_hidden_layers,
            width: config.hidden_size,
            step_bytes: decoder.step_bytes(),
            kv: decoder.kv_shape(),
            whole_images: false,
        };
        Ok(Self {
            encoder,
            decoder,
            spec,
        })
    }

    /// Returns the encoder of images.
    pub fn encoder(&self) -> &E {
        &self.encoder
    }
}

impl<E: ImageEncoder> VisionLanguageModel for CausalModel<E> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.encoder.encode(pixels)
    }

    fn embed(&self, rows: &[Row<'_>]) -> Result<Embedded> {
        self.decoder
            .embed_rows(rows, self.spec.whole_images, |image| {
                Ok(image.features.clone())
            })
    }

    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        self.decoder.decode(input, cache, outputs)
    }

    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache> {
        self.decoder.new_cache(slots, capacity, positions)
    }
}
