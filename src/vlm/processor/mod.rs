//! Processors between requests and tensors: image operations, chat template, tokenizer, text
//! normalization.

pub mod candor_mini;
pub mod casing;
pub mod checkpoint;
pub mod clip_image;
pub mod gguf_tokenizer;
mod jinja;
mod jinja_budget;
pub mod message;
pub mod pillow;
pub mod pixel_values;
pub mod processor_config;
pub mod rendered;
pub mod template;
pub mod text_files;
pub mod tiled_image;
mod token_bytes;
pub mod tokenizer;
pub mod vocabulary;

use std::{ops::RangeInclusive, sync::Arc};

use candle_core::Tensor;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::prompt::Prompt;
use message::Message;
use template::TemplateError;
use tokenizer::{TextTokenizer, TokenizerError};

/// Options of a request for the processing of its images; `None` is the model's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOptions {
    /// `true` to split images into tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub do_image_splitting: Option<bool>,
    /// Longest side, in pixels, that images are resized to before they are split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_edge: Option<u32>,
}

impl ImageOptions {
    /// Refuses all options, for models that have none; `why` is a clause.
    ///
    /// # Errors
    /// When an option is set.
    pub fn refuse(&self, why: &str) -> Result<(), ProcessorError> {
        let set = match *self {
            Self {
                do_image_splitting: Some(_),
                ..
            } => "do_image_splitting",
            Self {
                longest_edge: Some(_),
                ..
            } => "longest_edge",
            _ => return Ok(()),
        };
        Err(ProcessorError::Option(format!(
            "'{set}' is not supported: {why}"
        )))
    }
}

/// Result of processing an image of a given size, known before a pixel is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayout {
    /// Width and height of the upright picture.
    pub size: (u32, u32),
    /// Width and height that the whole picture is resized to first.
    pub resized: (u32, u32),
    /// Rows and columns of tiles; `(0, 0)` if the picture is not split.
    pub grid: (u32, u32),
    /// Positions that the image takes in a prompt, without the markers around it.
    pub tokens: usize,
    /// Memory of the pixel tensor and of the pictures between, in bytes.
    pub bytes: u64,
    /// Side of the square to which a file may be resized while it is decoded, in place of the
    /// whole picture.
    pub streamed: Option<u32>,
}

/// Error of a processor.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// More or fewer images than the model takes.
    #[error("{}", images_message(*.given, .taken))]
    ImageCount {
        /// Images of the request.
        given: usize,
        /// Numbers of images that the model takes.
        taken: RangeInclusive<usize>,
    },
    /// An image that the model cannot take.
    #[error("{0}")]
    Image(String),
    /// An option that the model does not have, or a value that it does not take.
    #[error("{0}")]
    Option(String),
    /// The chat template refuses or fails on the messages.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn images_message(given: usize, taken: &RangeInclusive<usize>) -> String {
    let plural = |n: usize| if n == 1 { "image" } else { "images" };
    let (least, most) = (*taken.start(), *taken.end());
    let takes = match (least, most) {
        (_, 0) => "the model takes text alone".to_owned(),
        (least, most) if least == most => {
            format!("the model takes exactly {most} {}", plural(most))
        }
        (0, most) => format!("the model takes at most {most} {}", plural(most)),
        (least, usize::MAX) => format!("the model needs at least {least} {}", plural(least)),
        (least, most) => format!("the model takes {least} to {most} images"),
    };
    format!("{takes}; the request has {given}")
}

/// Everything between a request and a model's tensors.
pub trait Processor: Send + Sync {
    /// Returns the numbers of images that a prompt may have.
    fn images(&self) -> RangeInclusive<usize>;

    /// Checks the number of images of a request.
    ///
    /// # Errors
    /// When the model does not take so many.
    fn check_count(&self, given: usize) -> Result<(), ProcessorError> {
        let taken = self.images();
        match taken.contains(&given) {
            true => Ok(()),
            false => Err(ProcessorError::ImageCount { given, taken }),
        }
    }

    /// Returns what an image of `width` x `height` pixels becomes. No pixel is decoded: lengths and
    /// memory can be refused early.
    ///
    /// # Errors
    /// When the model cannot take such an image or does not have an option.
    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError>;

    /// Returns the input of the model's `encode` for a picture of the layout's size (or of its
    /// [`ImageLayout::streamed`] size): `(tiles, 3, height, width)` in `f32`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn pixels(&self, image: &RgbImage, layout: &ImageLayout) -> Result<Tensor, ProcessorError>;

    /// Returns the prompt of a conversation, ready to be answered; `images` are those of its
    /// messages in order.
    ///
    /// # Errors
    /// When the number of images is not one that the model takes, or the template refuses the
    /// conversation.
    fn prompt(
        &self,
        messages: &[Message],
        images: &[ImageLayout],
    ) -> Result<Prompt, ProcessorError>;

    /// Returns the indices of messages whose text the prompt does not contain.
    ///
    /// # Errors
    /// When the template fails.
    fn unused(&self, messages: &[Message]) -> Result<Vec<usize>, ProcessorError>;

    /// Returns the tokenizer.
    fn tokenizer(&self) -> &Arc<TextTokenizer>;
}

/// Folder of the tests' fixtures.
#[cfg(test)]
pub(crate) fn fixtures() -> std::path::PathBuf {
    let inside = || concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures").into();
    std::env::var("CANDOR_FIXTURES").map_or_else(|_| inside(), Into::into)
}
