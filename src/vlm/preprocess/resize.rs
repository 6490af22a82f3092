//! Streaming equivalent of Pillow's `Image.resize(..., BICUBIC)`, which never holds the whole
//! picture or a whole pass in memory.
//!
//! Pillow resizes the rows first, clips to 8 bits, then resizes the columns. Here rows are resized
//! in bands, and of the columns only the sums are kept that later rows still contribute to. Sums
//! are integers, so the order of rows does not matter: a rotated or flipped picture gives the same
//! result as if it were turned upright first.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer as Convolution,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::{RgbImage, metadata::Orientation};

/// Bytes of a band of rows, unless a single row is larger.
pub(super) const BAND_BYTES: usize = 1 << 20;

/// Number of rows in a band, for rows of `row_bytes` bytes.
pub(super) fn band_rows(row_bytes: usize) -> usize {
    (BAND_BYTES / row_bytes.max(1)).max(1)
}

/// Transformation from the stored picture to the upright one: an optional swap of `x` and `y`, then
/// optional reversals of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UprightMap {
    /// Rows of the stored picture are columns of the upright one.
    pub(super) swapped: bool,
    /// The upright `x` runs against the stored direction.
    pub(super) x_reversed: bool,
    /// The upright `y` runs against the stored direction.
    pub(super) y_reversed: bool,
}

impl From<Orientation> for UprightMap {
    fn from(orientation: Orientation) -> Self {
        let (swapped, x_reversed, y_reversed) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, true, false),
            Orientation::Rotate270FlipH => (true, true, true),
            Orientation::Rotate270 => (true, false, true),
        };
        Self {
            swapped,
            x_reversed,
            y_reversed,
        }
    }
}

impl UprightMap {
    /// Width and height of the upright picture.
    pub(super) fn upright(self, width: u32, height: u32) -> (u32, u32) {
        if self.swapped {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Writes the stored row `y` into the upright picture.
    pub(super) fn place(self, upright: &mut RgbImage, y: u32, row: &[u8]) {
        let (width, height) = upright.dimensions();
        for (x, pixel) in (0..).zip(row.as_chunks::<3>().0) {
            let (x, y) = if self.swapped { (y, x) } else { (x, y) };
            let x = if self.x_reversed { width - 1 - x } else { x };
            let y = if self.y_reversed { height - 1 - y } else { y };
            upright.put_pixel(x, y, image::Rgb(*pixel));
        }
    }
}

/// Resizes a picture to a square from its stored rows in order.
pub(super) struct RowResizer {
    size: usize,
    width: usize,
    turn: UprightMap,
    rows: RowPass,
    columns: ColumnPass,
    /// Rows that have left the column pass and wait for the row pass, concatenated, and the upright
    /// column of each. Only swapped pictures have them.
    waiting: Vec<u8>,
    waiting_columns: Vec<usize>,
    out: Vec<u8>,
    failed: Option<String>,
}

impl RowResizer {
    /// Creates a resizer from stored `width` x `height` pixels to `size` x `size`, all nonzero.
    pub(super) fn new(width: u32, height: u32, turn: UprightMap, size: u32) -> Self {
        // The column pass sums stored rows along the stored columns, which are the upright rows of
        // a swapped picture.
        let reversed = if turn.swapped {
            turn.x_reversed
        } else {
            turn.y_reversed
        };
        Self {
            size: size as usize,
            width: width as usize,
            turn,
            rows: RowPass::new(width, size),
            columns: ColumnPass::new(height, size, reversed),
            waiting: Vec::new(),
            waiting_columns: Vec::new(),
            out: vec![0; 3 * size as usize * size as usize],
            failed: None,
        }
    }

    /// Maximum memory of such a resizer in bytes.
    pub(super) fn memory(width: u32, height: u32, size: u32) -> u64 {
        let (width, height, size) = (u64::from(width), u64::from(height), u64::from(size));
        let row = 3 * width.max(size);
        // A band, its reversed copy, and the resized band.
        let bands = 3 * (BAND_BYTES as u64).max(row) + 2 * row;
        // A stored row contributes to at most five resized rows when shrinking and, when enlarging,
        // to five times the enlargement.
        let sums = 4 * row * (5 * size.div_ceil(height.max(1)) + 2);
        let weights = 16 * (5 * (width + height) + 16 * size);
        bands + sums + weights + 3 * size * size
    }

    /// Takes whole rows, as stored.
    pub(super) fn push(&mut self, band: &[u8]) {
        if self.failed.is_none() {
            let pushed = if self.turn.swapped {
                self.push_swapped(band)
            } else {
                self.push_upright(band)
            };
            self.failed = pushed.err();
        }
    }

    fn push_upright(&mut self, band: &[u8]) -> Result<(), String> {
        let line = 3 * self.size;
        let (columns, out) = (&mut self.columns, &mut self.out);
        let take = |row: &[u8]| {
            columns.push(row, |y, resized| {
                out[y * line..][..line].copy_from_slice(resized)
            })
        };
        self.rows.run(band, self.turn.x_reversed, take)
    }

    fn push_swapped(&mut self, band: &[u8]) -> Result<(), String> {
        for row in band.chunks_exact(3 * self.width) {
            self.columns.push(row, |x, resized| {
                self.waiting.extend_from_slice(resized);
                self.waiting_columns.push(x);
            });
            if self.waiting.len() >= BAND_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Resizes the waiting rows and writes them as columns.
    fn flush(&mut self) -> Result<(), String> {
        let (size, out) = (self.size, &mut self.out);
        let mut columns = self.waiting_columns.drain(..);
        let take = |column: &[u8]| {
            let Some(x) = columns.next() else { return };
            for (y, pixel) in column.chunks_exact(3).enumerate() {
                out[3 * (y * size + x)..][..3].copy_from_slice(pixel);
            }
        };
        self.rows.run(&self.waiting, self.turn.y_reversed, take)?;
        self.waiting.clear();
        Ok(())
    }

    /// Returns the resized picture after all rows have been pushed.
    ///
    /// # Errors
    /// When resizing the rows failed.
    pub(super) fn finish(mut self) -> Result<RgbImage, String> {
        self.failed.take().map_or(Ok(()), Err)?;
        self.flush()?;
        RgbImage::from_raw(self.size as u32, self.size as u32, self.out)
            .ok_or_else(|| "its size overflows".to_owned())
    }
}

/// Pass that resizes rows to another width.
struct RowPass {
    width: u32,
    size: u32,
    inner: Convolution,
    options: ResizeOptions,
    reversed: Vec<u8>,
    resized: Vec<u8>,
}

impl RowPass {
    fn new(width: u32, size: u32) -> Self {
        // Catmull-Rom is the cubic that Pillow calls BICUBIC (a = -0.5).
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        Self {
            width,
            size,
            inner: Convolution::new(),
            options,
            reversed: Vec::new(),
            resized: Vec::new(),
        }
    }

    /// Passes the resized rows to `take`, each read from its end if `reversed`.
    fn run(
        &mut self,
        rows: &[u8],
        reversed: bool,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let (line, resized_line) = (3 * self.width as usize, 3 * self.size as usize);
        for band in rows.chunks(line * band_rows(line.max(resized_line))) {
            if reversed {
                self.reversed.clear();
                self.reversed.extend(
                    band.chunks_exact(line)
                        .flat_map(|row| row.rchunks_exact(3).flatten()),
                );
            }
            let band = if reversed {
                self.reversed.as_slice()
            } else {
                band
            };
            if self.width == self.size {
                band.chunks_exact(line).for_each(&mut take);
                continue;
            }
            let height = (band.len() / line) as u32;
            self.resized.resize(resized_line * height as usize, 0);
            let from = TypedImageRef::<U8x3>::from_buffer(self.width, height, band)
                .map_err(|e| e.to_string())?;
            let mut to = TypedImage::<U8x3>::from_buffer(self.size, height, &mut self.resized)
                .map_err(|e| e.to_string())?;
            // The untyped call would compile the kernels of all pixel types.
            self.inner
                .resize_typed(&from, &mut to, &self.options)
                .map_err(|e| e.to_string())?;
            self.resized.chunks_exact(resized_line).for_each(&mut take);
        }
        Ok(())
    }
}

/// Pass that resizes columns to another height, row by row.
///
/// Weights and sums are those of `fast_image_resize`, which does the rows: 16-bit fixed-point
/// weights with as many fractional bits as the largest weight allows.
struct ColumnPass {
    /// Windows by their first row.
    windows: Vec<Window>,
    precision: u8,
    /// Number of rows pushed.
    row: usize,
    /// Number of windows begun.
    started: usize,
    /// Indices of the windows begun but not completed, with their sums.
    open: Vec<(usize, Vec<i32>)>,
    spare: Vec<Vec<i32>>,
    clipped: Vec<u8>,
}

/// Range of input rows that contribute to a resized row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// Index of the resized row.
    out: usize,
    first: usize,
    weights: Vec<i16>,
}

impl ColumnPass {
    /// Creates a pass from `height` rows to `size`; `reversed` if rows come from last to first.
    fn new(height: u32, size: u32, reversed: bool) -> Self {
        let (mut windows, precision) = windows(height, size);
        if reversed {
            for window in &mut windows {
                window.first = height as usize - window.first - window.weights.len();
                window.weights.reverse();
            }
        }
        windows.sort_by_key(|window| window.first);
        Self {
            windows,
            precision,
            row: 0,
            started: 0,
            open: Vec::new(),
            spare: Vec::new(),
            clipped: Vec::new(),
        }
    }

    /// Takes the next row and passes the rows that it completes to `complete`.
    fn push(&mut self, row: &[u8], mut complete: impl FnMut(usize, &[u8])) {
        while let Some(window) = self.windows.get(self.started)
            && window.first <= self.row
        {
            let mut sums = self.spare.pop().unwrap_or_default();
            sums.clear();
            sums.resize(row.len(), 1 << (self.precision - 1));
            self.open.push((self.started, sums));
            self.started += 1;
        }
        let (current, precision) = (self.row, self.precision);
        let (windows, spare, clipped) = (&self.windows, &mut self.spare, &mut self.clipped);
        self.open.retain_mut(|(index, sums)| {
            let Window {
                out,
                first,
                weights,
            } = &windows[*index];
            if let Some(weight) = weights.get(current - first) {
                let weight = i32::from(*weight);
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, level)| *sum += weight * i32::from(*level));
            }
            let is_open = current + 1 < first + weights.len();
            if !is_open {
                clipped.clear();
                clipped.extend(
                    sums.iter()
                        .map(|sum| (sum >> precision).clamp(0, 255) as u8),
                );
                complete(*out, clipped);
                spare.push(std::mem::take(sums));
            }
            is_open
        });
        self.row += 1;
    }
}

/// Windows of `size` resized rows over `height` rows, and the fractional bits of their weights.
fn windows(height: u32, size: u32) -> (Vec<Window>, u8) {
    let scale = f64::from(height) / f64::from(size);
    let filter_scale = scale.max(1.0);
    let radius = 2.0 * filter_scale;
    let recip_filter_scale = 1.0 / filter_scale;
    let mut exact = Vec::with_capacity(size as usize);
    for out in 0..size {
        let in_center = (f64::from(out) + 0.5) * scale;
        let first = (in_center - radius).floor().max(0.) as u32;
        let end = (in_center + radius).ceil().min(f64::from(height)) as u32;
        let center = in_center - 0.5;
        let all: Vec<f64> = (first..end)
            .map(|y| catmull_rom((f64::from(y) - center) * recip_filter_scale))
            .collect();
        let zeros = all.iter().take_while(|weight| **weight == 0.).count();
        let mut weights = all[zeros..].to_vec();
        let sum: f64 = weights.iter().sum();
        while weights.last() == Some(&0.) {
            weights.pop();
        }
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        exact.push((first as usize + zeros, weights));
    }
    let largest = exact
        .iter()
        .flat_map(|(_, weights)| weights)
        .fold(0.0, |a: f64, b| a.max(*b));
    let fits = |bits: &u8| ((largest * f64::from(1u32 << (bits + 1))).round() as i32) < 1 << 15;
    // 22 bits remain of 32 beside 8 of a level and 2 for sums below 0 and above 1.
    let precision = (0..22).find(|bits| !fits(bits)).unwrap_or(21);
    let one = f64::from(1u32 << precision);
    let window = |(out, (first, weights)): (usize, (usize, Vec<f64>))| {
        let weights = weights
            .iter()
            .map(|weight| (weight * one).round() as i16)
            .collect();
        Window {
            out,
            first,
            weights,
        }
    };
    (
        exact.into_iter().enumerate().map(window).collect(),
        precision,
    )
}

fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.) * x - (A + 3.)) * x * x + 1.
    } else if x < 2.0 {
        (((x - 5.) * x + 8.) * x - 4.) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use fast_image_resize::{PixelType, images};
    use image::DynamicImage;
    use proptest::prelude::*;
    use rand::{RngCore, SeedableRng, rngs::SmallRng};

    use super::*;

    fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
        let mut levels = vec![0; 3 * width as usize * height as usize];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut levels);
        RgbImage::from_raw(width, height, levels).unwrap()
    }

    /// Both passes by `fast_image_resize`, each on the whole picture.
    fn whole(image: &RgbImage, size: u32) -> Vec<u8> {
        let source = images::ImageRef::new(
            image.width(),
            image.height(),
            image.as_raw(),
            PixelType::U8x3,
        )
        .unwrap();
        let mut narrow = images::Image::new(size, image.height(), PixelType::U8x3);
        let mut target = images::Image::new(size, size, PixelType::U8x3);
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        let mut convolution = Convolution::new();
        convolution.resize(&source, &mut narrow, &options).unwrap();
        convolution.resize(&narrow, &mut target, &options).unwrap();
        target.into_vec()
    }

    fn in_bands(image: &RgbImage, orientation: Orientation, size: u32, rows: usize) -> Vec<u8> {
        let mut resizer = RowResizer::new(image.width(), image.height(), orientation.into(), size);
        image
            .as_raw()
            .chunks(3 * image.width() as usize * rows)
            .for_each(|band| resizer.push(band));
        resizer.finish().unwrap().into_raw()
    }

    fn upright(image: &RgbImage, orientation: Orientation) -> RgbImage {
        let mut image = DynamicImage::from(image.clone());
        image.apply_orientation(orientation);
        image.into_rgb8()
    }

    #[test]
    fn resizer_in_bands_equals_whole_picture() {
        let shapes = [
            (1, 1),
            (1, 200),
            (200, 1),
            (3, 5),
            (224, 224),
            (223, 225),
            (224, 1000),
            (1000, 224),
            (3000, 15),
            (15, 3000),
            (1111, 777),
        ];
        for (width, height) in shapes {
            let image = noise(width, height, 7);
            for exif in 1..=8 {
                let orientation = Orientation::from_exif(exif).unwrap();
                let expected = whole(&upright(&image, orientation), 224);
                assert!(
                    in_bands(&image, orientation, 224, 16) == expected,
                    "{width}x{height}, orientation {exif}"
                );
            }
        }
    }

    #[test]
    fn resizer_several_bands_equals_whole_picture() {
        // Several bands of rows, and columns that wait for theirs.
        let image = noise(2500, 1200, 8);
        for exif in [1, 6] {
            let orientation = Orientation::from_exif(exif).unwrap();
            assert!(
                in_bands(&image, orientation, 200, 1200)
                    == whole(&upright(&image, orientation), 200),
                "{exif}"
            );
        }
    }

    #[test]
    fn place_rows_follow_the_orientation() {
        let image = noise(5, 3, 9);
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let (turn, expected) = (UprightMap::from(orientation), upright(&image, orientation));
            let (width, height) = turn.upright(5, 3);
            let mut placed = RgbImage::new(width, height);
            image
                .as_raw()
                .chunks(15)
                .zip(0..)
                .for_each(|(row, y)| turn.place(&mut placed, y, row));
            assert_eq!(placed, expected, "{exif}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn resizer_any_shape_equals_whole_picture(
            (width, height, size) in (1u32..300, 1u32..300, 1u32..100), exif in 1u8..=8,
            rows in 1usize..40, seed: u64,
        ) {
            let (image, orientation) = (noise(width, height, seed),
                Orientation::from_exif(exif).unwrap());
            prop_assert!(in_bands(&image, orientation, size, rows) == whole(&upright(&image,
                orientation), size));
        }

        #[test]
        fn memory_bounds_the_open_sums((height, size) in (1u32..3000, 1u32..600),
            reversed: bool) {
            let mut columns = ColumnPass::new(height, size, reversed);
            let mut complete = vec![false; size as usize];
            for _ in 0..height {
                columns.push(&[9; 3], |row, levels| {
                    assert_eq!(levels, [9; 3]);
                    assert!(!std::mem::replace(&mut complete[row], true));
                });
                let most = (5 * size.div_ceil(height) + 2) as usize;
                prop_assert!(columns.open.len() + columns.spare.len() <= most);
            }
            prop_assert!(complete.iter().all(|&complete| complete) && columns.open.is_empty());
        }
    }
}
