//! Processor of a checkpoint in Hugging Face's form: its chat template, its tokenizer and, if it
//! sees, its image processor.

use std::{fmt::Debug, ops::RangeInclusive, sync::Arc};

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::{
    ImageLayout, ImageOptions, Processor, ProcessorError, message::Message,
    processor_config::ProcessorFileError, rendered::RenderedPrompt, template::ChatTemplate,
    tokenizer::TextTokenizer,
};
use crate::vlm::prompt::{ImageSpan, Prompt};

/// Maximum ratio of an image's long side to its short one.
const MAX_ASPECT: u32 = 200;

/// Treatment of images that is special to an architecture, in pixels and in the prompt's text.
pub trait ImageProcessor: Debug + Send + Sync {
    /// Returns what an image of `width` x `height` pixels, both at least 1, becomes.
    ///
    /// # Errors
    /// When the model cannot take such an image or does not have an option.
    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError>;

    /// Returns the input of the model's `encode` for a picture of the layout's size:
    /// `(tiles, 3, height, width)` in `f32` on the CPU.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn pixels(&self, image: &RgbImage, layout: &ImageLayout) -> Result<Tensor, ProcessorError>;

    /// Returns the placeholder that templates write for an image, which is a special token.
    fn marker(&self) -> &str;

    /// Returns the text that stands for an image in the prompt, with one [`Self::marker`] for each
    /// run of its features, in their order.
    fn text(&self, layout: &ImageLayout) -> String;

    /// Returns the number of positions, and of rows of features, of a run.
    fn run_tokens(&self) -> usize;
}

/// Processor of a checkpoint, of text alone or of text and any number of images.
#[derive(Debug)]
pub struct CheckpointProcessor {
    template: ChatTemplate,
    tokenizer: Arc<TextTokenizer>,
    image: Option<ImageInput>,
    device: Device,
}

#[derive(Debug)]
struct ImageInput {
    processor: Box<dyn ImageProcessor>,
    /// Token of the processor's marker.
    token: u32,
}

impl CheckpointProcessor {
    /// Combines the parts of a processor; without an image processor the model takes text alone.
    ///
    /// # Errors
    /// When the tokenizer does not have the image processor's marker as a token.
    pub fn new(
        template: ChatTemplate,
        tokenizer: Arc<TextTokenizer>,
        image: Option<Box<dyn ImageProcessor>>,
        device: Device,
    ) -> Result<Self, ProcessorFileError> {
        let with_token = |processor: Box<dyn ImageProcessor>| {
            let marker = processor.marker();
            let token = tokenizer.id(marker).ok_or_else(|| ProcessorFileError {
                file: "tokenizer.json".to_owned(),
                reason: format!("has no image token '{marker}'"),
            })?;
            Ok::<_, ProcessorFileError>(ImageInput { processor, token })
        };
        Ok(Self {
            image: image.map(with_token).transpose()?,
            template,
            tokenizer,
            device,
        })
    }

    /// Returns the chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Returns the token of an image's positions; `None` if the model takes text alone.
    pub fn image_token(&self) -> Option<u32> {
        self.image.as_ref().map(|image| image.token)
    }

    /// Returns the image processor of a model that has one.
    fn image(&self) -> Result<&ImageInput, ProcessorError> {
        self.image.as_ref().ok_or(ProcessorError::ImageCount {
            given: 1,
            taken: 0..=0,
        })
    }

    /// Returns the prompt of rendered text.
    fn encode(
        &self,
        mut rendered: RenderedPrompt,
        images: &[ImageLayout],
    ) -> Result<Prompt, ProcessorError> {
        let Some(image) = &self.image else {
            return Ok(Prompt {
                tokens: self.tokenizer.encode_prompt(&rendered)?,
                images: Vec::new(),
            });
        };
        if rendered.images() != images.len() {
            return Err(ProcessorError::Image(format!(
                "the prompt shows {} images, the request has {}",
                rendered.images(),
                images.len()
            )));
        }
        rendered.expand_images(|index| {
            images
                .get(index)
                .map_or_else(String::new, |layout| image.processor.text(layout))
        });
        let tokens = self.tokenizer.encode_prompt(&rendered)?;
        let runs = images
            .iter()
            .map(|layout| layout.tokens / image.processor.run_tokens());
        spread(&tokens, image.token, image.processor.run_tokens(), runs)
    }
}

/// Gives every image token of `tokens` the positions of a run, of which each image has a number in
/// `runs`. Adjacent tokens encode no text between them, so a marker can stand for its run until
/// the text is encoded.
fn spread(
    tokens: &[u32],
    image_token: u32,
    run_tokens: usize,
    runs: impl Iterator<Item = usize>,
) -> Result<Prompt, ProcessorError> {
    let mut rows = runs.enumerate().flat_map(|(image, runs)| {
        (0..runs).map(move |run| (image, run * run_tokens..(run + 1) * run_tokens))
    });
    let miscounted = || {
        ProcessorError::Image(
            "tokenizer.json: the image token does not stand for every part of an image".to_owned(),
        )
    };
    let mut prompt = Prompt::default();
    for &token in tokens {
        if token != image_token {
            prompt.tokens.push(token);
            continue;
        }
        let (image, rows) = rows.next().ok_or_else(miscounted)?;
        let start = prompt.tokens.len();
        prompt.tokens.resize(start + run_tokens, image_token);
        let range = start..start + run_tokens;
        prompt.images.push(ImageSpan { range, image, rows });
    }
    match rows.next() {
        None => Ok(prompt),
        Some(_) => Err(miscounted()),
    }
}

impl Processor for CheckpointProcessor {
    fn images(&self) -> RangeInclusive<usize> {
        match self.image {
            Some(_) => 0..=usize::MAX,
            None => 0..=0,
        }
    }

    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError> {
        let (short, long) = (width.min(height), width.max(height));
        if short == 0 || u64::from(long) > u64::from(MAX_ASPECT) * u64::from(short) {
            return Err(ProcessorError::Image(format!(
                "the image is {width}x{height}: its sides must be at least 1, and one at most \
                 {MAX_ASPECT} times as long as the other"
            )));
        }
        self.image()?.processor.layout(width, height, options)
    }

    fn pixels(&self, image: &RgbImage, layout: &ImageLayout) -> Result<Tensor, ProcessorError> {
        if image.dimensions() != layout.size {
            let ((width, height), of) = (image.dimensions(), layout.size);
            return Err(ProcessorError::Image(format!(
                "the image is {width}x{height}, its layout is of {}x{}",
                of.0, of.1
            )));
        }
        let pixels = self.image()?.processor.pixels(image, layout)?;
        Ok(pixels.to_device(&self.device)?)
    }

    fn prompt(
        &self,
        messages: &[Message],
        images: &[ImageLayout],
    ) -> Result<Prompt, ProcessorError> {
        self.check_count(images.len())?;
        let marker = self.image.as_ref().map(|image| image.processor.marker());
        let rendered = self.template.render_prompt(messages, marker)?;
        self.encode(rendered, images)
    }

    fn unused(&self, messages: &[Message]) -> Result<Vec<usize>, ProcessorError> {
        Ok(self.template.unused(messages)?)
    }

    fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }
}

#[cfg(test)]
mod tests;
