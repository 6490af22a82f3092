//! Processor of Candor's own small models: one image, resized to a square, before all text.

use std::{ops::RangeInclusive, sync::Arc};

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::{
    ImageLayout, ImageOptions, Processor, ProcessorError, message::Message, template::ChatTemplate,
    tokenizer::TextTokenizer,
};
use crate::vlm::{
    models::candor_mini::{PIXEL_MEAN, PIXEL_STD, image_first},
    preprocess,
    prompt::Prompt,
};

/// Processor of a [`CandorMini`](crate::vlm::models::candor_mini::CandorMini).
#[derive(Debug)]
pub struct CandorMiniProcessor {
    /// Template of the text, which does not mention the image.
    pub template: ChatTemplate,
    /// Tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// Side of the square input image in pixels.
    pub image_size: usize,
    /// Positions that an image takes.
    pub image_tokens: usize,
    /// Device of the pixels.
    pub device: Device,
}

impl Processor for CandorMiniProcessor {
    fn images(&self) -> RangeInclusive<usize> {
        1..=1
    }

    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError> {
        options.refuse("this model resizes every image to one square")?;
        let side = self.image_size as u32;
        Ok(ImageLayout {
            size: (width, height),
            resized: (side, side),
            grid: (0, 0),
            tokens: self.image_tokens,
            bytes: 15 * u64::from(side) * u64::from(side),
            streamed: Some(side),
        })
    }

    fn pixels(&self, image: &RgbImage, _layout: &ImageLayout) -> Result<Tensor, ProcessorError> {
        let size = self.image_size;
        let pixels = preprocess::to_pixels(image, size, PIXEL_MEAN, PIXEL_STD, &self.device)?;
        Ok(pixels.unsqueeze(0)?)
    }

    fn prompt(
        &self,
        messages: &[Message],
        images: &[ImageLayout],
    ) -> Result<Prompt, ProcessorError> {
        self.check_count(images.len())?;
        let texts: Vec<_> = messages.iter().map(Message::without_images).collect();
        let prompt = self.template.render_prompt(&texts, None)?;
        Ok(image_first(
            self.image_tokens,
            &self.tokenizer.encode_prompt(&prompt)?,
        ))
    }

    fn unused(&self, messages: &[Message]) -> Result<Vec<usize>, ProcessorError> {
        Ok(self.template.unused(messages)?)
    }

    fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }
}
