//! Vision-language models: networks, tokenizer, chat template and image preprocessing, without
//! serving.
//!
//! A [`VisionLanguageModel`] is a vision tower, a projector and a decoder behind one trait. Its state is external:
//! the [`KvCache`] is an argument, so one model serves many sequences, and a step takes a ragged
//! batch ([`Row`]s of different lengths at different positions).

pub mod decoder;
mod kv_cache;
pub mod models;
pub mod nn;
pub mod preprocess;
pub mod processor;
pub mod projector;
pub mod vision;

pub use kv_cache::KvCache;

use candle_core::{Result, Tensor};

/// Part of a step that belongs to one sequence: tokens to append to `slot` from position `start`.
///
/// `start` must equal the slot's current length. An image precedes the tokens and is allowed only
/// at position 0; its positions attend to each other, text attends to the image and to earlier
/// text.
/// before it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Slot of the cache that the row extends.
    pub slot: usize,
    /// Position of the row's first element in its sequence.
    pub start: usize,
    /// Output of [`VisionLanguageModel::encode_images`] for one image, `(image_tokens, channels)`; requires `start
    /// == 0`.
    pub image: Option<&'a Tensor>,
    /// Text tokens after the image; not empty.
    pub tokens: &'a [u32],
}

/// Text tokens of a step whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Last token of each row, for decoding.
    Last,
    /// Every text token of each row, for scoring a given text.
    All,
    /// None, for scorers that only need hidden states.
    Hidden,
}

/// Outputs of a step.
#[derive(Debug)]
pub struct StepOutput {
    /// Logits: `(rows, vocabulary)` for [`Want::Last`], `(text tokens, vocabulary)` for
    /// [`Want::All`], `None` for [`Want::Hidden`].
    pub logits: Option<Tensor>,
    /// Hidden states of all layers for a scorer, one row per text token in the rows' order: `(text
    /// tokens, hidden_features)`.
    pub hidden: Tensor,
}

/// Sizes of a [`VisionLanguageModel`] that its callers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Number of positions that an image takes in a sequence.
    pub image_tokens: usize,
    /// Side of the square input image in pixels.
    pub image_size: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence in positions, image included.
    pub context_len: usize,
    /// Width of [`StepOutput::hidden`].
    pub hidden_features: usize,
}

/// Vision-language model: vision tower, projector and autoregressive decoder.
pub trait VisionLanguageModel: Send + Sync {
    /// Sizes of the model.
    fn spec(&self) -> Spec;

    /// Encodes normalized images `(batch, 3, size, size)` into `(batch, image_tokens, channels)`.
    /// Depends on the pixels only, so results can be cached by image content.
    fn encode_images(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Creates an empty cache for `slots` sequences of up to `capacity` positions each.
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache>;

    /// Appends every row to its sequence and returns logits and hidden states. Rows must have
    /// distinct slots.
    ///
    /// # Errors
    /// When a row does not fit its slot (see [`KvCache`]) or a tensor operation fails. The cache's
    /// lengths are then unchanged.
    fn forward(&self, rows: &[Row<'_>], cache: &mut KvCache, want: Want) -> Result<StepOutput>;
}
