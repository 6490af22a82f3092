//! Vision-language models: networks, and what stands between a request and their tensors, without
//! serving.
//!
//! A [`VisionLanguageModel`] is a vision tower, a projector and a decoder behind one trait; the
//! [`Processor`](processor::Processor) beside it turns messages and images into its input. An image
//! is a range of the [`Prompt`](prompt::Prompt). A model's state is external: the [`KvCache`] is an
//! argument, so one model serves many sequences, and a step takes a ragged batch ([`Row`]s of
//! different lengths at different positions).

pub mod decoder;
pub mod kv_cache;
pub mod models;
pub mod nn;
pub mod preprocess;
pub mod processor;
pub mod projector;
pub mod prompt;
pub mod vision;
pub mod weights;

pub use kv_cache::KvCache;

use candle_core::{Result, Tensor, bail};

use kv_cache::{KvShape, PrefixKey, RowSpan};
use prompt::{ImageFeatures, ImageSpan};

/// Part of a step that belongs to one sequence: tokens to append to `slot` from position `start`.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Slot of the cache that the row extends.
    pub slot: usize,
    /// Position of the row's first token; equal to the slot's length.
    pub start: usize,
    /// Tokens of the positions from `start` on; not empty.
    pub tokens: &'a [u32],
    /// Images of the sequence, by their positions in it. What lies within the row is embedded.
    pub spans: &'a [ImageSpan],
    /// Encoded images that the spans refer to.
    pub images: &'a [ImageFeatures],
    /// Index of the first token whose outputs are wanted; the number of tokens if none are.
    pub from: usize,
}

impl<'a> Row<'a> {
    /// Returns a row of text.
    pub fn text(slot: usize, start: usize, tokens: &'a [u32]) -> Self {
        Self {
            slot,
            start,
            tokens,
            spans: &[],
            images: &[],
            from: 0,
        }
    }

    /// Returns the tokens whose outputs are wanted.
    pub fn wanted(&self) -> &'a [u32] {
        self.tokens.get(self.from..).unwrap_or_default()
    }

    /// Returns what remains of the row behind its first `len` tokens, which are not wanted.
    fn behind(&self, len: usize) -> Self {
        Self {
            start: self.start + len,
            tokens: self.tokens.get(len..).unwrap_or_default(),
            from: self.from.saturating_sub(len),
            ..*self
        }
    }
}

/// Logits to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None.
    None,
    /// Those of the last token of each row that wants outputs, for decoding: `(such rows,
    /// vocabulary)`.
    Last,
    /// Those of every wanted token, for scoring a given text: `(wanted tokens, vocabulary)`.
    All,
}

/// Outputs that a step is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// Logits.
    pub logits: Logits,
    /// Layers whose hidden states are returned, from 0; those of the last layer are behind the
    /// final norm.
    pub hidden_layers: &'a [usize],
}

/// Outputs of a step.
#[derive(Debug)]
pub struct StepOutput {
    /// Logits, as asked for; `None` if no row wants outputs.
    pub logits: Option<Tensor>,
    /// Hidden states of the asked layers side by side, one row per wanted token in the rows'
    /// order; `None` if no layer was asked for or no row wants outputs.
    pub hidden: Option<Tensor>,
}

/// Sizes and properties of a model that its callers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name of the architecture, as `model_type` in a `config.json`.
    pub architecture: &'static str,
    /// Number of rows of the output matrix, which may be more than the tokenizer's tokens.
    pub vocab_size: usize,
    /// Longest sequence in positions.
    pub context_len: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Bytes of the weights that every step of the decoder reads.
    pub step_bytes: usize,
    /// Sizes of the key/value cache.
    pub kv: KvShape,
    /// `true` if the positions of an image run attend to each other, so that one row must contain
    /// all of them.
    pub whole_images: bool,
}

/// Input of the decoder: embedded rows with the positions they take.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Embeddings of all rows' tokens, `(tokens, width)`.
    pub x: Tensor,
    /// Rotary position of every token.
    pub positions: Vec<u32>,
    /// Extent of every row in the cache.
    pub rows: Vec<RowSpan>,
    /// Index of each row's first wanted token.
    pub from: Vec<usize>,
}

/// Vision-language model: vision tower, projector and autoregressive decoder.
pub trait VisionLanguageModel: Send + Sync {
    /// Returns the sizes of the model.
    fn spec(&self) -> &Spec;

    /// Encodes one image, `(tiles, 3, height, width)` from its processor, to `(rows, channels)`.
    /// Depends on the pixels only, so results can be cached by image content.
    ///
    /// # Errors
    /// When a tensor operation fails, or the model takes no images.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Embeds the rows' tokens and images.
    ///
    /// # Errors
    /// When a span lies outside its image, a row splits an image that must be whole, or a tensor
    /// operation fails.
    fn embed(&self, rows: &[Row<'_>]) -> Result<Embedded>;

    /// Runs the decoder on embedded rows, whose keys and values it writes to the cache.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput>;

    /// Creates an empty cache for `slots` sequences of at most `capacity` positions, together at
    /// most `positions`.
    ///
    /// # Errors
    /// When it cannot be allocated.
    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache>;

    /// Appends every row to its sequence and returns what was asked for. Rows must have distinct
    /// slots. A row that begins a sequence skips the prefix that the cache remembers.
    ///
    /// # Errors
    /// When a row does not fit its slot or a tensor operation fails. The cache's lengths are then
    /// unchanged.
    fn forward(
        &self,
        rows: &[Row<'_>],
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        let extents: Vec<(usize, usize, usize)> = rows
            .iter()
            .map(|row| (row.slot, row.start, row.tokens.len()))
            .collect();
        cache.check(&extents)?;
        let run = |cache: &mut KvCache| {
            let rest: Vec<Row<'_>> = rows
                .iter()
                .map(|row| Ok(row.behind(recall(row, cache)?)))
                .collect::<Result<_>>()?;
            let input = self.embed(&rest)?;
            let output = self.decode(&input, cache, outputs)?;
            for (row, extent) in rest.iter().zip(&input.rows) {
                cache.advance(extent);
                remember(row, cache)?;
            }
            Ok(output)
        };
        let stepped = run(cache);
        if stepped.is_err() {
            for &(slot, start, _) in &extents {
                cache.truncate(slot, start);
            }
        }
        stepped
    }
}

/// Returns the number of leading positions of a row whose outputs are not wanted, if they hold all
/// of its images; 0 for rows without images and those that continue a sequence.
fn prefix_len(row: &Row<'_>) -> usize {
    match row.spans.last() {
        Some(last) if row.start == 0 && last.range.end <= row.from => row.from,
        _ => 0,
    }
}

/// Returns the content of a prefix: equal keys have equal keys and values in the cache.
fn prefix_key(row: &Row<'_>, len: usize) -> Result<PrefixKey> {
    let image = |span: &ImageSpan| match row.images.get(span.image) {
        Some(image) => Ok((span.range.clone(), image.id, span.rows.clone())),
        None => bail!("a span of image {} of {}", span.image, row.images.len()),
    };
    Ok(PrefixKey {
        tokens: row.tokens[..len].to_vec(),
        images: row.spans.iter().map(image).collect::<Result<_>>()?,
    })
}

/// Restores in a row's slot what the cache remembers of the row's beginning, unless the slot
/// already holds as much, and returns its length; 0 if nothing was restored.
pub(crate) fn recall(row: &Row<'_>, cache: &mut KvCache) -> Result<usize> {
    let len = prefix_len(row);
    if cache.len(row.slot) >= len {
        return Ok(0);
    }
    Ok(cache.recall(row.slot, &prefix_key(row, len)?))
}

/// Remembers the beginning of a row that begins a sequence, if the row's slot holds all of it.
pub(crate) fn remember(row: &Row<'_>, cache: &mut KvCache) -> Result<()> {
    let len = prefix_len(row);
    if len > 0 && len <= cache.len(row.slot) {
        cache.remember(row.slot, prefix_key(row, len)?);
    }
    Ok(())
}
