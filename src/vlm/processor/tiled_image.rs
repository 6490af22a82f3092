//! Image processor of Idefics3 and SmolVLM, which cuts a picture into square tiles and adds the
//! picture as a whole: `Idefics3ImageProcessor` and `SmolVLMImageProcessor` of transformers.

use std::{borrow::Cow, fmt::Write as _};

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

use super::{
    ImageLayout, ImageOptions, ProcessorError,
    checkpoint::ImageProcessor,
    clip_image::read_filter,
    pillow::{PillowFilter, PillowResize},
    pixel_values::PixelValues,
    processor_config::{ProcessorFileError, ProcessorFiles},
};

/// Longest side of a resized picture in pixels (`MAX_IMAGE_SIZE` of the reference).
const MAX_IMAGE_SIZE: u32 = 4096;

/// Shortest side of a tile in pixels.
const MIN_TILE: u32 = 16;

/// Image processors that this one stands for.
const TYPES: [&str; 2] = ["Idefics3ImageProcessor", "SmolVLMImageProcessor"];

/// Placeholder of an image in a prompt.
const MARKER: &str = "<image>";

/// Token on both sides of a picture and before every tile.
const FENCE: &str = "<fake_token_around_image>";

/// Token that says that the whole picture follows.
const WHOLE: &str = "<global-img>";

/// Facts of a model's configuration that its processor must agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileInput {
    /// Side of a tile in pixels, the tower's `image_size`.
    pub side: u32,
    /// Positions that a tile takes behind the pixel shuffle.
    pub tokens: usize,
}

/// Resize of the longest edge, cut into tiles, whole picture last.
///
/// All tiles are full squares, and each picture is processed alone, so nothing is padded and no
/// mask is needed.
#[derive(Debug, Clone)]
pub struct TiledImageProcessor {
    tile: TileInput,
    longest_edge: u32,
    split: bool,
    filter: PillowFilter,
    values: PixelValues,
}

impl TiledImageProcessor {
    /// Reads a processor's files.
    ///
    /// # Errors
    /// When a key is missing, has another type or does not go with the tower.
    pub fn read(files: &ProcessorFiles, tile: TileInput) -> Result<Self, ProcessorFileError> {
        const EDGE: &str = "longest_edge";
        let image = &files.image;
        files.image_type(&TYPES)?;
        let max = image.needed_section("max_image_size")?;
        let side = max.needed_integer(EDGE)?;
        if side != tile.side {
            return Err(max.error(
                EDGE,
                format!("is {side}, but the vision tower takes {0}x{0}", tile.side),
            ));
        }
        if !(MIN_TILE..=MAX_IMAGE_SIZE).contains(&side) || tile.tokens == 0 {
            return Err(max.error(
                EDGE,
                format!(
                    "is {side} pixels of {} positions; it must be {MIN_TILE} to {MAX_IMAGE_SIZE}, \
                     of at least 1",
                    tile.tokens
                ),
            ));
        }
        if !image.flag("do_resize")?.unwrap_or(true) {
            return Err(image.error("do_resize", "must be true: it bounds the number of tiles"));
        }
        let size = image.needed_section("size")?;
        let longest_edge = size.needed_integer(EDGE)?;
        if !(side..=MAX_IMAGE_SIZE).contains(&longest_edge) {
            return Err(size.error(
                EDGE,
                format!("is {longest_edge}; it must be {side} to {MAX_IMAGE_SIZE}"),
            ));
        }
        if let Some(tokens) = files.processor.integer("image_seq_len")?
            && tokens as usize != tile.tokens
        {
            return Err(files.processor.error(
                "image_seq_len",
                format!(
                    "is {tokens}, but the model gives a tile {} positions",
                    tile.tokens
                ),
            ));
        }
        Ok(Self {
            tile,
            longest_edge,
            split: image.flag("do_image_splitting")?.unwrap_or(true),
            filter: read_filter(image, true)?,
            values: PixelValues::read(image)?,
        })
    }

    /// Returns the size that the tiles are cut from.
    fn tiled_size(&self, (rows, columns): (u32, u32)) -> (u32, u32) {
        (columns * self.tile.side, rows * self.tile.side)
    }

    fn resize(&self, from: (u32, u32), to: (u32, u32)) -> PillowResize {
        PillowResize::whole(from, to, self.filter)
    }

    /// Returns the memory of [`ImageProcessor::pixels`] at its highest, in bytes.
    fn bytes(&self, size: (u32, u32), resized: (u32, u32), grid: (u32, u32)) -> u64 {
        let picture = |(width, height): (u32, u32)| 3 * u64::from(width) * u64::from(height);
        let square = (self.tile.side, self.tile.side);
        let first = self.resize(size, resized).bytes();
        let values = 4 * picture(square) * tiles(grid);
        if grid == (0, 0) {
            let whole = picture(resized) + self.resize(resized, square).bytes();
            return first.max(whole).max(picture(square) + values);
        }
        let tiled = self.tiled_size(grid);
        let second = picture(resized) + self.resize(resized, tiled).bytes();
        let whole = picture(tiled) + self.resize(tiled, square).bytes();
        first
            .max(second)
            .max(whole)
            .max(picture(tiled) + picture(square) + values)
    }
}

/// Number of squares of a grid, the whole picture included.
fn tiles((rows, columns): (u32, u32)) -> u64 {
    u64::from(rows) * u64::from(columns) + 1
}

/// Returns the size whose longest side is `longest_edge`; the other side is cut to an integer, then
/// made even (`_resize_output_size_rescale_to_max_len`).
fn rescaled((width, height): (u32, u32), longest_edge: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    let even = |side: f64| {
        let side = side as u32;
        (side + side % 2).max(1)
    };
    if width >= height {
        (longest_edge, even(f64::from(longest_edge) / aspect))
    } else {
        (even(f64::from(longest_edge) * aspect), longest_edge)
    }
}

/// Returns rows and columns of tiles that a picture of this size is stretched to
/// (`resize_for_vision_encoder`).
fn grid((width, height): (u32, u32), tile: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    // The other side follows the stretched one, and is cut to an integer first.
    let other = |side: f64| (side as u32).div_ceil(tile).max(1);
    if width >= height {
        let columns = width.div_ceil(tile);
        (other(f64::from(columns * tile) / aspect), columns)
    } else {
        let rows = height.div_ceil(tile);
        (rows, other(f64::from(rows * tile) * aspect))
    }
}

impl ImageProcessor for TiledImageProcessor {
    fn layout(
        &self,
        width: u32,
        height: u32,
        options: &ImageOptions,
    ) -> Result<ImageLayout, ProcessorError> {
        let tile = self.tile.side;
        let longest_edge = options.longest_edge.unwrap_or(self.longest_edge);
        if !(tile..=MAX_IMAGE_SIZE).contains(&longest_edge) {
            return Err(ProcessorError::Option(format!(
                "'longest_edge' is {longest_edge}; this model takes {tile} (one tile) to \
                 {MAX_IMAGE_SIZE}"
            )));
        }
        let resized = rescaled((width, height), longest_edge);
        let split = options.do_image_splitting.unwrap_or(self.split);
        let grid = match grid(resized, tile) {
            (1, 1) => (0, 0),
            _ if !split => (0, 0),
            grid => grid,
        };
        Ok(ImageLayout {
            size: (width, height),
            resized,
            grid,
            tokens: (tiles(grid) as usize).saturating_mul(self.tile.tokens),
            bytes: self.bytes((width, height), resized, grid),
            streamed: None,
        })
    }

    fn pixels(&self, image: &RgbImage, layout: &ImageLayout) -> Result<Tensor, ProcessorError> {
        let resize = |image: Cow<'_, RgbImage>, to: (u32, u32)| match image.dimensions() == to {
            true => image.into_owned(),
            false => self.resize(image.dimensions(), to).run((&*image).into()),
        };
        let tile = self.tile.side;
        let (rows, columns) = layout.grid;
        let mut picture = resize(Cow::Borrowed(image), layout.resized);
        if layout.grid != (0, 0) {
            picture = resize(Cow::Owned(picture), self.tiled_size(layout.grid));
        }
        let whole = resize(Cow::Borrowed(&picture), (tile, tile));
        let corners = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
        let corners: Vec<(u32, u32)> = corners.map(|(x, y)| (x * tile, y * tile)).collect();
        let parts = corners.into_par_iter().map(|at| (&picture, at));
        let parts = parts.chain(rayon::iter::once((&whole, (0, 0))));
        let side = tile as usize;
        let count = tiles(layout.grid) as usize;
        let mut values = vec![0.0; count * 3 * side * side];
        values
            .par_chunks_exact_mut(3 * side * side)
            .zip(parts)
            .for_each(|(values, (picture, at))| self.values.write(picture, at, tile, values));
        Ok(Tensor::from_vec(
            values,
            (count, 3, side, side),
            &Device::Cpu,
        )?)
    }

    fn marker(&self) -> &str {
        MARKER
    }

    fn text(&self, layout: &ImageLayout) -> String {
        let (rows, columns) = layout.grid;
        let mut text = String::new();
        for row in 1..=rows {
            for column in 1..=columns {
                // Writing to a string does not fail.
                let _ = write!(text, "{FENCE}<row_{row}_col_{column}>{MARKER}");
            }
            text.push('\n');
        }
        if rows > 0 {
            text.push('\n');
        }
        text + FENCE + WHOLE + MARKER + FENCE
    }

    fn run_tokens(&self) -> usize {
        self.tile.tokens
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::vlm::processor::processor_config::ConfigSection;

    fn read(image: Value, processor: Value) -> Result<TiledImageProcessor, ProcessorFileError> {
        read_tiles(image, processor, 512)
    }

    fn read_tiles(
        image: Value,
        processor: Value,
        side: u32,
    ) -> Result<TiledImageProcessor, ProcessorFileError> {
        let section = |file: &str, value: &Value| {
            ConfigSection::new(file, value.as_object().unwrap().clone())
        };
        let mut values = json!({
            "image_processor_type": "SmolVLMImageProcessor",
            "max_image_size": {"longest_edge": 512},
            "size": {"longest_edge": 2048},
            "resample": 1,
            "image_mean": 0.5,
            "image_std": 0.5,
        });
        values
            .as_object_mut()
            .unwrap()
            .extend(image.as_object().unwrap().clone());
        let files = ProcessorFiles {
            processor: section("processor_config.json", &processor),
            image: section("preprocessor_config.json", &values),
        };
        let tile = TileInput { side, tokens: 64 };
        TiledImageProcessor::read(&files, tile)
    }

    #[test]
    fn layout_sizes_equal_the_reference() {
        // Picture, longest edge and tile; size and grid of `Idefics3ImageProcessorPil`. Small
        // pictures grow; the other side is cut to an integer, then made even.
        for (size, longest_edge, tile, resized, tiles) in [
            ((386, 290), 2048, 512, (2048, 1538), (4, 4)),
            ((290, 386), 2048, 512, (1538, 2048), (4, 4)),
            ((7, 7), 73, 32, (73, 74), (3, 3)),
            ((200, 1), 100, 32, (100, 1), (1, 4)),
            ((1, 200), 100, 32, (1, 100), (4, 1)),
            ((512, 512), 512, 512, (512, 512), (0, 0)),
            ((640, 427), 1536, 384, (1536, 1024), (3, 4)),
            ((427, 640), 1536, 384, (1024, 1536), (4, 3)),
            ((333, 334), 1456, 364, (1452, 1456), (4, 4)),
            ((3000, 1999), 4096, 364, (4096, 2730), (8, 12)),
            ((1023, 1024), 4095, 36, (4092, 4095), (114, 114)),
            ((5000, 49), 2048, 384, (2048, 20), (1, 6)),
            ((1920, 1080), 2048, 512, (2048, 1152), (3, 4)),
        ] {
            let edges = (
                json!({"longest_edge": tile}),
                json!({"longest_edge": longest_edge}),
            );
            let processor = read_tiles(
                json!({"max_image_size": edges.0, "size": edges.1}),
                json!({}),
                tile,
            )
            .unwrap();
            let layout = processor
                .layout(size.0, size.1, &ImageOptions::default())
                .unwrap();
            assert_eq!((layout.resized, layout.grid), (resized, tiles), "{size:?}");
        }
    }

    #[test]
    fn layout_published_size() {
        let processor = read(json!({}), json!({"image_seq_len": 64})).unwrap();
        let options = |do_image_splitting| ImageOptions {
            do_image_splitting,
            ..ImageOptions::default()
        };
        let split = processor.layout(386, 386, &options(None)).unwrap();
        assert_eq!((split.grid, split.tokens), ((4, 4), 1088));
        let whole = processor.layout(386, 386, &options(Some(false))).unwrap();
        assert_eq!((whole.grid, whole.tokens), ((0, 0), 64));
        assert!(whole.bytes < split.bytes);
        assert_eq!(
            processor.text(&whole),
            "<fake_token_around_image><global-img><image><fake_token_around_image>"
        );
    }

    #[test]
    fn read_refuses_what_the_model_does_not_take() {
        let edge = |edge: u32| json!({"longest_edge": edge});
        for (image, processor, expected) in [
            (
                json!({"max_image_size": edge(364)}),
                json!({}),
                "preprocessor_config.json: 'max_image_size.longest_edge' is 364, but the vision",
            ),
            (
                json!({"size": edge(511)}),
                json!({}),
                "preprocessor_config.json: 'size.longest_edge' is 511; it must be 512 to 4096",
            ),
            (
                json!({"size": {"height": 1, "width": 1}}),
                json!({}),
                "preprocessor_config.json: 'size.longest_edge' is missing",
            ),
            (
                json!({"max_image_size": null}),
                json!({}),
                "preprocessor_config.json: 'max_image_size' is missing",
            ),
            (
                json!({"do_resize": false}),
                json!({}),
                "preprocessor_config.json: 'do_resize' must be true",
            ),
            (
                json!({}),
                json!({"image_seq_len": 169}),
                "processor_config.json: 'image_seq_len' is 169, but the model gives a tile 64",
            ),
            (
                json!({"image_processor_type": "CLIPImageProcessor"}),
                json!({}),
                "preprocessor_config.json: 'image_processor_type' is \"CLIPImageProcessor\"",
            ),
        ] {
            let error = read(image, processor).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
