//! Model under test, and what its checks do with it.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::{
    bundle::Bundle,
    vlm::{
        KvCache, Logits, Outputs, Row, VisionLanguageModel,
        processor::{ImageLayout, ImageOptions, Processor, casing::Casing, message::Message},
        prompt::{ImageFeatures, ImageId, ImageSpan, Prompt},
    },
};

/// Positions of a cache beyond those of its prompt.
const MORE_POSITIONS: usize = 64;

/// Model under test.
pub(super) struct Subject<'a> {
    pub(super) vlm: &'a dyn VisionLanguageModel,
    pub(super) processor: &'a dyn Processor,
    pub(super) casing: Casing,
    /// Largest relative difference that passes.
    pub(super) tolerance: f64,
}

/// Prompt with its encoded images.
#[derive(Debug, Default)]
pub(super) struct EncodedPrompt {
    pub(super) prompt: Prompt,
    pub(super) images: Vec<ImageFeatures>,
}

/// Picture on its way into the model.
#[derive(Debug)]
pub(super) struct EncodedPicture {
    pub(super) layout: ImageLayout,
    pub(super) pixels: Tensor,
    pub(super) features: ImageFeatures,
}

impl<'a> Subject<'a> {
    /// Returns the model of a bundle.
    pub(super) fn of(bundle: &'a Bundle, tolerance: f64) -> Self {
        Self {
            vlm: bundle.vlm.as_ref(),
            processor: bundle.processor.as_ref(),
            casing: bundle.casing,
            tolerance,
        }
    }

    /// Returns `true` if the model takes images.
    pub(super) fn sees(&self) -> bool {
        *self.processor.images().end() > 0
    }

    /// Processes and encodes the picture number `index` of a request.
    pub(super) fn encode(
        &self,
        index: usize,
        picture: &RgbImage,
        options: &ImageOptions,
    ) -> Result<EncodedPicture, String> {
        let (width, height) = picture.dimensions();
        let layout = self
            .processor
            .layout(width, height, options)
            .map_err(text)?;
        let pixels = self.processor.pixels(picture, &layout).map_err(text)?;
        let features = self.vlm.encode(&pixels).map_err(text)?;
        let rows = features.dim(0).map_err(text)?;
        if rows != layout.tokens {
            return Err(format!(
                "the tower gives {rows} rows for {} positions",
                layout.tokens
            ));
        }
        let id = ImageId([index as u8; 32]);
        Ok(EncodedPicture {
            layout,
            pixels,
            features: ImageFeatures { id, features },
        })
    }

    /// Returns the prompt of messages with their encoded pictures.
    pub(super) fn prompt(
        &self,
        messages: &[Message],
        pictures: &[EncodedPicture],
    ) -> Result<EncodedPrompt, String> {
        let layouts: Vec<ImageLayout> = pictures.iter().map(|p| p.layout.clone()).collect();
        Ok(EncodedPrompt {
            prompt: self.processor.prompt(messages, &layouts).map_err(text)?,
            images: pictures.iter().map(|p| p.features.clone()).collect(),
        })
    }

    /// Creates a cache of `slots` sequences for prompts of up to `len` tokens.
    pub(super) fn cache(&self, slots: usize, len: usize) -> Result<KvCache, String> {
        let context = self.vlm.spec().context_len;
        if len >= context {
            return Err(format!(
                "the prompt has {len} tokens, the context {context}"
            ));
        }
        let capacity = len + MORE_POSITIONS;
        // A fork may own blocks of its own beside those that it shares.
        let positions = slots * (capacity + MORE_POSITIONS);
        self.vlm.new_cache(slots, capacity, positions).map_err(text)
    }

    /// Runs rows and returns the logits, a line a wanted token.
    pub(super) fn run(
        &self,
        rows: &[Row<'_>],
        cache: &mut KvCache,
        logits: Logits,
    ) -> Result<Vec<Vec<f32>>, String> {
        let outputs = Outputs {
            logits,
            hidden_layers: &[],
        };
        let output = self.vlm.forward(rows, cache, outputs).map_err(text)?;
        let logits = output.logits.ok_or("the model returned no logits")?;
        let logits = logits.to_dtype(DType::F32).map_err(text)?;
        logits.to_vec2().map_err(text)
    }
}

impl EncodedPrompt {
    /// Returns the number of tokens.
    pub(super) fn len(&self) -> usize {
        self.prompt.tokens.len()
    }

    /// Returns the first position whose logits are looked at: that behind the last image.
    pub(super) fn from(&self) -> usize {
        let end = self.prompt.images.last().map_or(0, |span| span.range.end);
        end.min(self.len().saturating_sub(1))
    }

    /// Returns the whole prompt as a row.
    pub(super) fn row(&self, slot: usize) -> Row<'_> {
        Row {
            from: self.from(),
            ..self.part(slot, 0..self.len())
        }
    }

    /// Returns a part of the prompt, of which every image lies within or outside, as a row.
    pub(super) fn part(&self, slot: usize, range: Range<usize>) -> Row<'_> {
        let begun = |span: &&ImageSpan| span.range.end <= range.end;
        let spans = self.prompt.images.iter().take_while(begun).count();
        Row {
            slot,
            start: range.start,
            tokens: &self.prompt.tokens[range.clone()],
            spans: &self.prompt.images[..spans],
            images: &self.images,
            from: 0,
        }
    }

    /// Returns the least parts that a model takes: single tokens, and images as a whole.
    pub(super) fn parts(&self) -> Vec<Range<usize>> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for span in &self.prompt.images {
            parts.extend((at..span.range.start).map(|i| i..i + 1));
            parts.push(span.range.clone());
            at = span.range.end;
        }
        parts.extend((at..self.len()).map(|i| i..i + 1));
        parts
    }
}

/// Returns the numbers of a tensor on any device.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f32>, String> {
    let on_cpu = tensor.to_device(&Device::Cpu);
    let flat = on_cpu.and_then(|tensor| tensor.to_dtype(DType::F32)?.flatten_all());
    flat.and_then(|flat| flat.to_vec1()).map_err(text)
}

/// Returns the largest difference relative to the largest number of `want`; infinite if a number is
/// not finite or the shapes differ.
pub(super) fn difference(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    let is_alike = got.len() == want.len()
        && got
            .iter()
            .zip(want)
            .all(|(got, want)| got.len() == want.len());
    let is_finite = |lines: &[Vec<f32>]| lines.iter().flatten().all(|x| x.is_finite());
    if !is_alike || !is_finite(got) || !is_finite(want) {
        return f64::INFINITY;
    }
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    let off = pairs.map(|(got, want)| f64::from((got - want).abs()));
    let size = want.iter().flatten().map(|x| f64::from(x.abs()));
    off.fold(0.0, f64::max) / size.fold(f64::MIN_POSITIVE, f64::max)
}

/// Returns the index of the largest number of a line; the first of several.
pub(super) fn argmax(line: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in line.iter().enumerate() {
        if *value > line[best] {
            best = i;
        }
    }
    best as u32
}

/// Converts an error for `map_err`.
pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_is_relative_to_the_largest_number() {
        let want = [vec![1.0, -4.0], vec![0.5, 0.0]];
        assert_eq!(difference(&want, &want), 0.0);
        assert_eq!(difference(&[vec![1.0, -4.0], vec![0.5, 1.0]], &want), 0.25);
        assert_eq!(
            difference(&[vec![1.0, f32::NAN], vec![0.5, 0.0]], &want),
            f64::INFINITY
        );
        assert_eq!(difference(&want[..1], &want), f64::INFINITY);
        assert_eq!(argmax(&[-1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn parts_are_tokens_and_whole_images() {
        let span = |range: Range<usize>| ImageSpan {
            image: 0,
            rows: 0..range.len(),
            range,
        };
        let encoded = EncodedPrompt {
            prompt: Prompt {
                tokens: vec![7; 9],
                images: vec![span(1..4), span(4..6)],
            },
            images: Vec::new(),
        };
        assert_eq!(encoded.parts(), [0..1, 1..4, 4..6, 6..7, 7..8, 8..9]);
        assert_eq!(encoded.from(), 6);
        assert_eq!(encoded.part(0, 1..4).spans.len(), 1);
        assert_eq!(encoded.part(0, 6..7).spans.len(), 2);
    }
}
