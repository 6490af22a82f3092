//! Prompts: tokens of which ranges are images.

use std::ops::Range;

use candle_core::Tensor;

/// Tokenized prompt. Images take ordinary positions, so its length is that of [`Self::tokens`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    /// Token of every position. At an image's positions stands the model's placeholder, which is
    /// never embedded and may lie beyond the vocabulary.
    pub tokens: Vec<u32>,
    /// Images in order of their positions, one entry a contiguous run.
    pub images: Vec<ImageSpan>,
}

/// Contiguous run of positions that show (a part of) an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpan {
    /// Positions in the sequence.
    pub range: Range<usize>,
    /// Index of the image among those of the request.
    pub image: usize,
    /// Rows of the image's features, as many as positions.
    pub rows: Range<usize>,
}

/// Identity of an encoded image: its content, the settings it was processed with, and the scope
/// within which requests may share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageId(pub [u8; 32]);

/// Encoded image.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    /// Identity; equal ids have equal features.
    pub id: ImageId,
    /// Output of the model's `encode`, `(rows, channels)`.
    pub features: Tensor,
}
