//! The networks, and nothing about serving them.
//!
//! A [`Vlm`] is a vision tower, a connector and a decoder behind one trait. Its state is outside
//! it: the [`KvCache`] is an argument, so that one model serves many sequences, and a step takes a
//! ragged batch ([`Row`]s of different lengths at different positions).

pub mod casing;
pub mod connector;
pub mod convert;
pub mod decoder;
mod kv_cache;
pub mod llava;
pub mod ops;
pub mod preprocess;
pub mod template;
pub mod tokenizer;
pub mod vision;
pub mod vocabulary;

pub use kv_cache::KvCache;

use candle_core::{Result, Tensor};

/// One sequence's part of a step: the tokens to append to `slot`, beginning at position `start`.
///
/// `start` must equal the slot's present length. An image, where there is one, stands before the
/// tokens and only at position 0; its positions see each other, text sees the image and the text
/// before it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Which sequence of the cache this row extends.
    pub slot: usize,
    /// Position of the row's first element in its sequence.
    pub start: usize,
    /// Output of [`Vlm::encode_images`] for one image, `(image_tokens, channels)`: only with
    /// `start == 0`.
    pub image: Option<&'a Tensor>,
    /// Text tokens, after the image. May not be empty.
    pub tokens: &'a [u32],
}

/// For which text tokens of a step the logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The last token of each row: what decoding needs.
    Last,
    /// Every text token of each row: what scoring a given text needs.
    All,
    /// None: the scorer's own networks need hidden states alone.
    Hidden,
}

/// What a step computed.
#[derive(Debug)]
pub struct StepOutput {
    /// `(rows, vocabulary)` for [`Want::Last`], `(text tokens, vocabulary)` for [`Want::All`],
    /// `None` for [`Want::Hidden`].
    pub logits: Option<Tensor>,
    /// Hidden states for a scorer, one line a text token in the rows' order:
    /// `(text tokens, hidden_features)`.
    pub hidden: Tensor,
}

/// The sizes that callers of a [`Vlm`] need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Positions that an image takes in a sequence.
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

/// A vision-language model: image encoder, connector and autoregressive decoder.
pub trait Vlm: Send + Sync {
    /// The model's sizes.
    fn spec(&self) -> Spec;

    /// Encodes normalised images `(batch, 3, size, size)` into `(batch, image_tokens, channels)`.
    /// Depends on the pixels alone, so that the result can be cached by the image's content.
    fn encode_images(&self, pixels: &Tensor) -> Result<Tensor>;

    /// An empty cache for `slots` sequences of up to `capacity` positions each.
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache>;

    /// Appends every row to its sequence and returns logits and hidden states. Rows must name
    /// distinct slots.
    ///
    /// # Errors
    /// When a row does not fit its slot (see [`KvCache`]) or a tensor operation fails. The cache's
    /// lengths are then unchanged.
    fn forward(&self, rows: &[Row<'_>], cache: &mut KvCache, want: Want) -> Result<StepOutput>;
}
