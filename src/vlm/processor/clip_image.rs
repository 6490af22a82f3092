//! Image processor of CLIP and of LLaVA, which makes one square of every picture:
//! `CLIPImageProcessor` and `LlavaImageProcessor` of transformers.

use std::ops::Range;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::{
    ImageLayout, ImageOptions, ProcessorError,
    checkpoint::ImageProcessor,
    pillow::{PaddedPicture, PillowFilter, PillowResize},
    pixel_values::PixelValues,
    processor_config::{ConfigSection, ProcessorFileError, ProcessorFiles},
};

/// Longest side of a square in pixels: a vision tower takes no larger one.
const MAX_SIDE: u32 = 4096;

/// Image processors that this one stands for.
const TYPES: [&str; 3] = [
    "CLIPImageProcessor",
    "CLIPFeatureExtractor",
    "LlavaImageProcessor",
];

/// Facts of a LLaVA's configuration that its processor must agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipTowerInput {
    /// Side of the tower's square in pixels.
    pub image_size: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Keeps the class token's features ("full") or drops them ("default").
    pub class_token: bool,
    /// Pads pictures to squares, whatever the image processor's files say.
    pub pad_to_square: bool,
}

/// Size that a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClipSize {
    /// Its own.
    Kept,
    /// Its shortest side; the aspect ratio is kept.
    ShortestEdge(u32),
    /// Width and height.
    Exact(u32, u32),
}

/// Resize, center crop and normalization to the one square that a tower takes.
#[derive(Debug, Clone)]
pub struct ClipImageProcessor {
    /// Color of the square that pictures are padded to first.
    pad: Option<[u8; 3]>,
    size: ClipSize,
    filter: PillowFilter,
    /// Side of the result.
    side: u32,
    values: PixelValues,
    tokens: usize,
    marker: String,
}

impl ClipImageProcessor {
    /// Reads a processor's files. `image_seq_length` is not among the keys: many files have a wrong
    /// one.
    ///
    /// # Errors
    /// When a key is missing, has another type or does not go with the tower.
    pub fn read(files: &ProcessorFiles, tower: ClipTowerInput) -> Result<Self, ProcessorFileError> {
        let image = &files.image;
        let squares = files.image_type(&TYPES)? == "LlavaImageProcessor";
        let do_pad = image.flag("do_pad")?.unwrap_or(false);
        if do_pad && !squares {
            return Err(image.error("do_pad", "is not supported but for LlavaImageProcessor"));
        }
        let pad = match do_pad || tower.pad_to_square {
            // Python's `int`: cut towards 0.
            true => Some(
                image
                    .channels("image_mean")?
                    .map(|mean| (mean * 255.0) as u8),
            ),
            false => None,
        };
        let size = read_size(image)?;
        let filter = read_filter(image, size != ClipSize::Kept)?;
        let processor = Self {
            pad,
            size,
            filter,
            side: tower.image_size,
            values: PixelValues::read(image)?,
            tokens: read_tokens(&files.processor, tower)?,
            marker: files
                .processor
                .text("image_token")?
                .unwrap_or("<image>")
                .to_owned(),
        };
        processor.check_result(image)?;
        Ok(processor)
    }

    /// Checks that every picture becomes the tower's square.
    fn check_result(&self, image: &ConfigSection) -> Result<(), ProcessorFileError> {
        let (side, what) = (self.side, "the vision tower takes");
        if image.flag("do_center_crop")?.unwrap_or(true) {
            let (width, height) = read_crop(image)?;
            return match (width, height) == (side, side) {
                true => Ok(()),
                false => Err(image.error(
                    "crop_size",
                    format!("is {width}x{height}, but {what} {side}x{side}"),
                )),
            };
        }
        let always = match self.size {
            ClipSize::Exact(width, height) => (width, height) == (side, side),
            ClipSize::ShortestEdge(edge) => self.pad.is_some() && edge == side,
            ClipSize::Kept => false,
        };
        match always {
            true => Ok(()),
            false => Err(image.error(
                "do_center_crop",
                format!(
                    "is false, and 'size' does not make {side}x{side} of every picture, which \
                         {what}"
                ),
            )),
        }
    }

    /// Returns the size before the resize and behind it.
    fn sizes(&self, width: u32, height: u32) -> ((u32, u32), (u32, u32)) {
        let from = match self.pad {
            Some(_) => (width.max(height), width.max(height)),
            None => (width, height),
        };
        let to = match self.size {
            ClipSize::Kept => from,
            ClipSize::Exact(width, height) => (width, height),
            ClipSize::ShortestEdge(edge) => {
                let (short, long) = (from.0.min(from.1), from.0.max(from.1));
                let product = u64::from(edge) * u64::from(long);
                // Python divides as `f64` and cuts.
                let scaled = (product as f64 / f64::from(short)) as u32;
                if from.0 <= from.1 {
                    (edge, scaled)
                } else {
                    (scaled, edge)
                }
            }
        };
        (from, to)
    }

    /// Returns the resize of what the crop leaves, and where that lies in the square.
    fn plan(&self, width: u32, height: u32) -> (PillowResize, (u32, u32)) {
        let (from, to) = self.sizes(width, height);
        let (columns, left) = center_crop(to.0, self.side);
        let (rows, top) = center_crop(to.1, self.side);
        let resize = PillowResize {
            from,
            to,
            columns,
            rows,
            filter: self.filter,
        };
        (resize, (left, top))
    }
}

/// Returns the part of a side that a center crop keeps, and where it begins in the result, which
/// is black around shorter sides (`center_crop` of transformers).
fn center_crop(len: u32, crop: u32) -> (Range<u32>, u32) {
    match len.checked_sub(crop) {
        Some(more) => (more / 2..more / 2 + crop, 0),
        None => (0..len, (crop - len).div_ceil(2)),
    }
}

impl ImageProcessor for ClipImageProcessor {
    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError> {
        options.refuse("this model makes one square of every image")?;
        let (resize, _) = self.plan(width, height);
        Ok(ImageLayout {
            size: (width, height),
            resized: resize.to,
            grid: (0, 0),
            tokens: self.tokens,
            // The square in levels and in `f32`.
            bytes: resize.bytes() + 15 * u64::from(self.side) * u64::from(self.side),
            streamed: None,
        })
    }

    fn pixels(&self, image: &RgbImage, _: &ImageLayout) -> Result<Tensor, ProcessorError> {
        let (resize, at) = self.plan(image.width(), image.height());
        let source = match self.pad {
            Some(fill) => PaddedPicture::square(image, fill),
            None => image.into(),
        };
        let mut square = resize.run(source);
        if square.dimensions() != (self.side, self.side) {
            let mut canvas = RgbImage::new(self.side, self.side);
            image::imageops::replace(&mut canvas, &square, at.0.into(), at.1.into());
            square = canvas;
        }
        let side = self.side as usize;
        let mut values = vec![0.0; 3 * side * side];
        self.values.write(&square, (0, 0), self.side, &mut values);
        Ok(Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?)
    }

    fn marker(&self) -> &str {
        &self.marker
    }

    fn text(&self, _: &ImageLayout) -> String {
        self.marker.clone()
    }

    fn run_tokens(&self) -> usize {
        self.tokens
    }
}

/// Reads `resample`, which must be there if pictures are resized.
pub(super) fn read_filter(
    image: &ConfigSection,
    needed: bool,
) -> Result<PillowFilter, ProcessorFileError> {
    if !needed {
        return Ok(PillowFilter::Bicubic);
    }
    let number = image.needed_integer("resample")?;
    PillowFilter::from_number(number.into())
        .ok_or_else(|| image.error("resample", format!("is {number}; 1 to 5 are supported")))
}

fn read_size(image: &ConfigSection) -> Result<ClipSize, ProcessorFileError> {
    const KEY: &str = "size";
    if !image.flag("do_resize")?.unwrap_or(true) {
        return Ok(ClipSize::Kept);
    }
    if image.value(KEY).is_some_and(serde_json::Value::is_number) {
        let edge = image.needed_integer(KEY)?;
        return Ok(ClipSize::ShortestEdge(checked_side(image, KEY, edge)?));
    }
    let size = image.needed_section(KEY)?;
    let side = |key: &str| checked_side(&size, key, size.needed_integer(key)?);
    match (size.value("shortest_edge"), size.value("longest_edge")) {
        (_, Some(_)) => Err(size.error("longest_edge", "is not supported")),
        (Some(_), None) => Ok(ClipSize::ShortestEdge(side("shortest_edge")?)),
        (None, None) => Ok(ClipSize::Exact(side("width")?, side("height")?)),
    }
}

fn read_crop(image: &ConfigSection) -> Result<(u32, u32), ProcessorFileError> {
    const KEY: &str = "crop_size";
    if image.value(KEY).is_some_and(serde_json::Value::is_number) {
        let side = image.needed_integer(KEY)?;
        return Ok((side, side));
    }
    let size = image.needed_section(KEY)?;
    Ok((
        size.needed_integer("width")?,
        size.needed_integer("height")?,
    ))
}

/// Checks a side against [`MAX_SIDE`].
fn checked_side(section: &ConfigSection, key: &str, side: u32) -> Result<u32, ProcessorFileError> {
    match side {
        1..=MAX_SIDE => Ok(side),
        _ => Err(section.error(key, format!("is {side}; it must be 1 to {MAX_SIDE}"))),
    }
}

/// Returns the positions of an image, which the processor's settings must agree on with the tower.
fn read_tokens(
    processor: &ConfigSection,
    tower: ClipTowerInput,
) -> Result<usize, ProcessorFileError> {
    const STRATEGY: &str = "vision_feature_select_strategy";
    let patch = processor.integer("patch_size")?.unwrap_or(tower.patch_size);
    if patch == 0 || patch > tower.image_size || tower.image_size > MAX_SIDE {
        return Err(processor.error(
            "patch_size",
            format!(
                "is {patch}, which does not divide {} pixels",
                tower.image_size
            ),
        ));
    }
    // Older files leave the class token out.
    let added = processor
        .integer("num_additional_image_tokens")?
        .unwrap_or(1);
    let class_token = match processor.text(STRATEGY)? {
        None => tower.class_token,
        Some("default") => false,
        Some("full") => true,
        Some(_) => return Err(processor.error(STRATEGY, "must be \"default\" or \"full\"")),
    };
    let count = |patch: u32, added: u32, class_token: bool| {
        let side = u64::from(tower.image_size / patch);
        (side * side + u64::from(added)).saturating_sub(u64::from(!class_token))
    };
    let found = count(patch, added, class_token);
    let expected = match tower.patch_size {
        0 => 0,
        patch => count(patch, 1, tower.class_token),
    };
    if found != expected || found == 0 {
        return Err(processor.error(
            "patch_size",
            format!(
                "with 'num_additional_image_tokens' and '{STRATEGY}' gives an image {found} \
                 positions; the vision tower gives {expected}"
            ),
        ));
    }
    Ok(found as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOWER: ClipTowerInput = ClipTowerInput {
        image_size: 42,
        patch_size: 14,
        class_token: false,
        pad_to_square: false,
    };

    fn files(image: &Value, processor: &Value) -> ProcessorFiles {
        let section = |file: &str, value: &Value| {
            ConfigSection::new(file, value.as_object().unwrap().clone())
        };
        ProcessorFiles {
            processor: section("processor_config.json", processor),
            image: section("preprocessor_config.json", image),
        }
    }

    fn with(change: Value) -> Value {
        let mut image = json!({
            "image_processor_type": "CLIPImageProcessorFast",
            "crop_size": 42,
            "size": 42,
            "resample": 3,
            "image_mean": [0.48, 0.45, 0.4],
            "image_std": [0.26, 0.26, 0.27],
        });
        image
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        image
    }

    fn read(change: Value) -> Result<ClipImageProcessor, ProcessorFileError> {
        ClipImageProcessor::read(&files(&with(change), &json!({})), TOWER)
    }

    #[test]
    fn sizes_cut_as_python_does() {
        let processor = read(json!({})).unwrap();
        for (from, to) in [
            ((61, 37), (69, 42)),
            ((37, 61), (42, 69)),
            ((29, 53), (42, 76)),
            ((90, 11), (343, 42)),
            ((5, 5), (42, 42)),
        ] {
            assert_eq!(processor.sizes(from.0, from.1), (from, to));
        }
        let exact = read(json!({"size": {"width": 50, "height": 44}})).unwrap();
        assert_eq!(exact.sizes(7, 9), ((7, 9), (50, 44)));
        assert_eq!(
            read(json!({"do_resize": false})).unwrap().sizes(7, 9),
            ((7, 9), (7, 9))
        );
    }

    #[test]
    fn center_crop_pads_shorter_sides() {
        assert_eq!(center_crop(69, 42), (13..55, 0));
        assert_eq!(center_crop(42, 42), (0..42, 0));
        assert_eq!(center_crop(39, 42), (0..39, 2));
        assert_eq!(center_crop(40, 42), (0..40, 1));
    }

    #[test]
    fn pixels_black_around_a_kept_size() {
        let values = json!({
            "do_resize": false, "image_mean": 0, "image_std": 1, "rescale_factor": 1,
        });
        let processor = read(values).unwrap();
        let image = RgbImage::from_pixel(39, 100, image::Rgb([7; 3]));
        let layout = processor.layout(39, 100, &ImageOptions::default()).unwrap();
        let pixels = processor.pixels(&image, &layout).unwrap();
        let row = pixels.squeeze(0).unwrap().to_vec3::<f32>().unwrap()[1][41].clone();
        let expected: Vec<f32> = (0..42)
            .map(|x| if (2..41).contains(&x) { 7.0 } else { 0.0 })
            .collect();
        assert_eq!(row, expected);
    }

    #[test]
    fn layout_memory_does_not_grow_with_the_aspect_ratio() {
        let processor = read(json!({})).unwrap();
        let bytes = |width, height| {
            let options = ImageOptions::default();
            processor.layout(width, height, &options).unwrap().bytes
        };
        assert!(bytes(20_000, 100) < bytes(1500, 1500) + (1 << 20));
    }

    #[test]
    fn read_refuses_what_the_tower_does_not_take() {
        for (change, expected) in [
            (
                json!({"crop_size": 41}),
                "'crop_size' is 41x41, but the vision tower takes 42x42",
            ),
            (
                json!({"crop_size": {"width": 42}}),
                "'crop_size.height' is missing",
            ),
            (
                json!({"do_center_crop": false}),
                "'do_center_crop' is false, and 'size'",
            ),
            (
                json!({"size": {"shortest_edge": 0}}),
                "'size.shortest_edge' is 0; it must be 1",
            ),
            (
                json!({"size": 5000}),
                "'size' is 5000; it must be 1 to 4096",
            ),
            (json!({"size": null}), "'size' is missing"),
            (
                json!({"size": {"shortest_edge": 4, "longest_edge": 9}}),
                "'size.longest_edge' is not",
            ),
            (json!({"resample": 0}), "'resample' is 0; 1 to 5"),
            (json!({"resample": null}), "'resample' is missing"),
            (json!({"do_pad": true}), "'do_pad' is not supported but for"),
            (
                json!({"do_resize": "yes"}),
                "'do_resize' must be true or false, not \"yes\"",
            ),
            (
                json!({"image_processor_type": "SiglipImageProcessor"}),
                "'image_processor_type' is \"SiglipImageProcessor\"; this architecture's are CLIP",
            ),
            (
                json!({"image_processor_type": null}),
                "'image_processor_type' is missing",
            ),
        ] {
            let error = read(change).unwrap_err().to_string();
            let expected = format!("preprocessor_config.json: {expected}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn read_counts_as_the_tower_does() {
        let tokens = |processor: Value, tower| {
            ClipImageProcessor::read(&files(&with(json!({})), &processor), tower)
                .map(|read| read.tokens)
                .map_err(|error| error.to_string())
        };
        let full = ClipTowerInput {
            class_token: true,
            ..TOWER
        };
        assert_eq!(tokens(json!({}), TOWER), Ok(9));
        assert_eq!(tokens(json!({"image_seq_length": 576}), full), Ok(10));
        for (processor, tower) in [
            (json!({"patch_size": 7}), TOWER),
            (json!({"patch_size": 0}), TOWER),
            (json!({"num_additional_image_tokens": 0}), TOWER),
            (json!({"vision_feature_select_strategy": "full"}), TOWER),
            (json!({"vision_feature_select_strategy": "default"}), full),
            (json!({"patch_size": 43}), TOWER),
        ] {
            let error = tokens(processor.clone(), tower).unwrap_err();
            assert!(error.contains("'patch_size'"), "{processor}: {error}");
        }
    }
}
