//! Resizing of 8-bit RGB pictures as Pillow's `Image.resize` does, bit for bit.
//!
//! Two passes, rows first, each with fixed-point weights of 22 bits and rounded to 8 bits
//! (`src/libImaging/Resample.c` of Pillow). The filter is stretched by the ratio where a picture
//! becomes smaller.

use std::{f64::consts::PI, ops::Range};

use image::RgbImage;
use rayon::prelude::*;

/// Fraction bits of a weight: 32 less 8 of a level and 2 of headroom for negative lobes.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// Half a level, for rounding.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Rows that one thread takes at least.
const ROWS_PER_TASK: usize = 8;

/// Filter of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PillowFilter {
    /// Mean of the covered pixels.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming-windowed sinc of one lobe.
    Hamming,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Sinc of three lobes, windowed by a sinc.
    Lanczos,
}

impl PillowFilter {
    /// Returns the filter of a number of `PIL.Image.Resampling`, the `resample` of image
    /// processors; `None` for others, and for 0, which is no filter but the nearest pixel.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            4 => Some(Self::Box),
            5 => Some(Self::Hamming),
            _ => None,
        }
    }

    /// Returns the distance from which on the filter is 0.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Hamming if distance < 1.0 => {
                sinc(distance) * (0.54 + 0.46 * (distance * PI).cos())
            }
            Self::Bicubic => cubic(distance),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Picture on a larger canvas of one color, which is never held whole.
#[derive(Debug, Clone, Copy)]
pub struct PaddedPicture<'a> {
    image: &'a RgbImage,
    /// Width and height of the canvas.
    size: (u32, u32),
    /// Column and row of the canvas at which the picture begins.
    at: (u32, u32),
    fill: [u8; 3],
}

impl<'a> From<&'a RgbImage> for PaddedPicture<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self {
            image,
            size: image.dimensions(),
            at: (0, 0),
            fill: [0; 3],
        }
    }
}

impl<'a> PaddedPicture<'a> {
    /// Centers a picture on a square of its longer side.
    pub fn square(image: &'a RgbImage, fill: [u8; 3]) -> Self {
        let (width, height) = image.dimensions();
        let side = width.max(height);
        Self {
            image,
            size: (side, side),
            at: ((side - width) / 2, (side - height) / 2),
            fill,
        }
    }

    /// Returns a row of the canvas, assembled in `scratch` unless the picture has it whole.
    fn row<'b>(&'b self, y: usize, scratch: &'b mut Vec<u8>) -> &'b [u8] {
        let line = 3 * self.image.width() as usize;
        let inside = y
            .checked_sub(self.at.1 as usize)
            .filter(|&row| row < self.image.height() as usize)
            .map(|row| &self.image.as_raw()[row * line..][..line]);
        match inside {
            Some(row) if self.size.0 == self.image.width() => row,
            row => {
                scratch.clear();
                scratch.extend(self.fill.iter().cycle().take(3 * self.size.0 as usize));
                if let Some(row) = row {
                    scratch[3 * self.at.0 as usize..][..line].copy_from_slice(row);
                }
                scratch
            }
        }
    }
}

/// Resize of which a part is wanted: levels are those of the whole result, at the cost of the part.
#[derive(Debug, Clone)]
pub struct PillowResize {
    /// Width and height of the source.
    pub from: (u32, u32),
    /// Width and height of the whole result.
    pub to: (u32, u32),
    /// Columns of the result that are wanted.
    pub columns: Range<u32>,
    /// Rows of the result that are wanted.
    pub rows: Range<u32>,
    /// Filter.
    pub filter: PillowFilter,
}

impl PillowResize {
    /// Creates a resize of which all is wanted.
    pub fn whole(from: (u32, u32), to: (u32, u32), filter: PillowFilter) -> Self {
        Self {
            from,
            to,
            columns: 0..to.0,
            rows: 0..to.1,
            filter,
        }
    }

    /// Returns the memory that [`Self::run`] takes at most, its result included, in bytes.
    pub fn bytes(&self) -> u64 {
        let (columns, rows) = (self.columns.len() as u64, self.rows.len() as u64);
        let support = |from: u32, to: u32| {
            let scale = (f64::from(from) / f64::from(to.max(1))).max(1.0);
            (2.0 * self.filter.support() * scale).ceil() as u64 + 2
        };
        let (across, down) = (
            support(self.from.0, self.to.0),
            support(self.from.1, self.to.1),
        );
        // Both passes' results, weights, and each thread's row and sums.
        let source_rows = (rows * down).min(u64::from(self.from.1));
        let threads = rayon::current_num_threads() as u64;
        3 * columns * (source_rows + rows)
            + 4 * (columns * across + rows * down)
            + 48 * (columns + rows)
            + threads * (12 * columns + 3 * u64::from(self.from.0))
    }

    /// Resizes a picture of size [`Self::from`], which must not be empty.
    pub fn run(&self, source: PaddedPicture<'_>) -> RgbImage {
        let across = Windows::new(self.from.0, self.to.0, self.columns.clone(), self.filter);
        let down = Windows::new(self.from.1, self.to.1, self.rows.clone(), self.filter);
        let line = 3 * self.columns.len();
        let mut out = RgbImage::new(self.columns.len() as u32, self.rows.len() as u32);
        if line == 0 {
            return out;
        }
        let needed = down.span();
        let mut narrow = vec![0; line * needed.len()];
        narrow
            .par_chunks_exact_mut(line)
            .with_min_len(ROWS_PER_TASK)
            .enumerate()
            .for_each_init(Vec::new, |scratch, (y, to)| {
                across.convolve_row(source.row(needed.start + y, scratch), to);
            });
        out.par_chunks_exact_mut(line)
            .with_min_len(ROWS_PER_TASK)
            .zip(down.windows.par_iter())
            .for_each_init(
                || vec![0; line],
                |sums, (to, window)| {
                    let rows = &narrow[(window.first - needed.start) * line..];
                    down.convolve_rows(window, rows, sums, to);
                },
            );
        out
    }
}

/// Source pixels of one pixel of the result.
#[derive(Debug)]
struct FilterWindow {
    /// First source pixel.
    first: usize,
    /// Their weights, among those of all windows.
    weights: Range<usize>,
}

/// Fixed-point weights along one axis. An axis that keeps its size has windows of one pixel with
/// weight 1, which is the same as no pass.
#[derive(Debug)]
struct Windows {
    windows: Vec<FilterWindow>,
    weights: Vec<i32>,
}

impl Windows {
    fn new(from: u32, to: u32, wanted: Range<u32>, filter: PillowFilter) -> Self {
        let one = f64::from(1 << WEIGHT_BITS);
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let (mut windows, mut weights) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut exact: Vec<f64> = Vec::new();
        for at in wanted {
            exact.clear();
            let center = (f64::from(at) + 0.5) * scale;
            let first = if from == to {
                exact.push(1.0);
                at as usize
            } else {
                // Casts cut towards 0 as in C, and no window begins below 0.
                let first = (center - support + 0.5) as usize;
                let end = ((center + support + 0.5) as usize).min(from as usize);
                let weight = |x: usize| filter.weight((x as f64 - center + 0.5) * (1.0 / stretch));
                exact.extend((first..end).map(weight));
                first
            };
            let sum: f64 = exact.iter().sum();
            let sum = if sum == 0.0 { 1.0 } else { sum };
            let begin = weights.len();
            // `round` is half away from 0, as adding or subtracting .5 and cutting.
            weights.extend(
                exact
                    .iter()
                    .map(|weight| (weight / sum * one).round() as i32),
            );
            windows.push(FilterWindow {
                first,
                weights: begin..weights.len(),
            });
        }
        Self { windows, weights }
    }

    /// Source pixels of all windows.
    fn span(&self) -> Range<usize> {
        let first = self.windows.first().map_or(0, |window| window.first);
        let end = self
            .windows
            .last()
            .map_or(0, |window| window.first + window.weights.len());
        first..end
    }

    fn convolve_row(&self, from: &[u8], to: &mut [u8]) {
        let (from, _) = from.as_chunks::<3>();
        let (to, _) = to.as_chunks_mut::<3>();
        for (to, window) in to.iter_mut().zip(&self.windows) {
            let weights = &self.weights[window.weights.clone()];
            let mut sums = [HALF; 3];
            for (pixel, &weight) in from[window.first..].iter().zip(weights) {
                for (sum, &level) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(level) * weight;
                }
            }
            *to = sums.map(level);
        }
    }

    /// Sums `rows`, which begin with the window's first one.
    fn convolve_rows(&self, window: &FilterWindow, rows: &[u8], sums: &mut [i32], to: &mut [u8]) {
        sums.fill(HALF);
        let weights = &self.weights[window.weights.clone()];
        for (row, &weight) in rows.chunks_exact(to.len()).zip(weights) {
            for (sum, &level) in sums.iter_mut().zip(row) {
                *sum += i32::from(level) * weight;
            }
        }
        for (to, &sum) in to.iter_mut().zip(&*sums) {
            *to = level(sum);
        }
    }
}

fn level(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::util::digest::hex;

    const FILTERS: [PillowFilter; 5] = [
        PillowFilter::Box,
        PillowFilter::Bilinear,
        PillowFilter::Hamming,
        PillowFilter::Bicubic,
        PillowFilter::Lanczos,
    ];

    /// Noise from a linear congruential generator that begins with the size.
    fn noise(width: u32, height: u32) -> RgbImage {
        let mut state = width * 65537 + height;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let levels = (0..3 * width * height).map(|_| next()).collect();
        RgbImage::from_raw(width, height, levels).unwrap()
    }

    fn resized(image: &RgbImage, to: (u32, u32), filter: PillowFilter) -> RgbImage {
        PillowResize::whole(image.dimensions(), to, filter).run(image.into())
    }

    /// Sizes of source and result, and the first half of the result's SHA-256 by filter, from
    /// Pillow 13.0.
    type Recorded = ((u32, u32), (u32, u32), [&'static str; 5]);

    #[rustfmt::skip]
    const RECORDED: [Recorded; 11] = [
        ((37, 23), (37, 23), [
            "7114830db94efae9", "7114830db94efae9", "7114830db94efae9",
            "7114830db94efae9", "7114830db94efae9",
        ]),
        ((37, 23), (16, 16), [
            "e86e2b0468d53689", "5b68a308224e810c", "8fc687a6c4571c95",
            "4132a9b59b4603dd", "3e8e7688b4fcab0e",
        ]),
        ((37, 23), (74, 46), [
            "320034e0d99c6ed5", "917d48a8f46bc99a", "0408df6667642ebf",
            "cceabc3db1349ce4", "e6bade33e9e6d6ef",
        ]),
        ((37, 23), (37, 11), [
            "201dc1ec554149db", "ce308e71e8666d74", "4ffc45561de097fe",
            "f8e10316f77d73f7", "f87dcae2a6e70b3e",
        ]),
        ((37, 23), (9, 23), [
            "6389ba0bf787d795", "ec2dd22eb49279a7", "35e085330ea9005f",
            "407406cbbb4e1276", "ffa6c0ea6ff93e18",
        ]),
        ((1, 1), (5, 7), [
            "7bb9fd6d5a603985", "7bb9fd6d5a603985", "7bb9fd6d5a603985",
            "7bb9fd6d5a603985", "7bb9fd6d5a603985",
        ]),
        ((200, 3), (7, 31), [
            "2e443f232868ad0d", "3a53fff31af3a577", "6e3075b239f641ed",
            "ae9e4d1bbb1f6c61", "1c2baacfd0687a79",
        ]),
        ((5, 7), (1, 1), [
            "39a107c8bd5096c2", "7be2d093f6efbd11", "8da9f61da9aba905",
            "9b69153402d64ca2", "092595ad36b0b37b",
        ]),
        ((101, 67), (100, 66), [
            "67e44ad5cd5d7d86", "36a10731ed45477d", "baa2fb45acac6ad9",
            "bba5299e53e9bcac", "39e5f0e2e211bae2",
        ]),
        ((331, 257), (48, 37), [
            "081b1d23e6c3e2bf", "4c567c1c5ee5e64a", "df5fac5c0bc14b4e",
            "e5ad6f52eb80b742", "2f1385a21c370e65",
        ]),
        ((64, 48), (211, 163), [
            "56a207d3e3424184", "5a670145e6287b04", "a4889bddca711e41",
            "069844ecf6b35e37", "c9465e3a38676b12",
        ]),
    ];

    #[test]
    fn run_equals_pillow() {
        for (from, to, expected) in RECORDED {
            for (filter, expected) in FILTERS.into_iter().zip(expected) {
                let found = resized(&noise(from.0, from.1), to, filter);
                assert_eq!(found.dimensions(), to);
                let digest = hex(&Sha256::digest(found.as_raw()));
                assert_eq!(&digest[..16], expected, "{from:?} to {to:?} by {filter:?}");
            }
        }
    }

    #[test]
    fn run_levels_are_clipped() {
        let mut edge = RgbImage::new(2, 1);
        edge.put_pixel(1, 0, image::Rgb([255; 3]));
        let found = resized(&edge, (6, 1), PillowFilter::Lanczos);
        let reds: Vec<u8> = found.pixels().map(|pixel| pixel.0[0]).collect();
        // Pillow's.
        assert_eq!(reds, [0, 0, 82, 173, 255, 255]);
    }

    proptest! {
        #[test]
        fn run_part_equals_that_part_of_the_whole(
            from in (1u32..40, 1u32..40), to in (1u32..40, 1u32..40), which in 0usize..5,
            part in (0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0),
        ) {
            let range = |len: u32, a: f64, b: f64| {
                let cut = |x: f64| (x * f64::from(len)) as u32;
                cut(a.min(b))..cut(a.max(b)) + 1
            };
            let image = noise(from.0, from.1);
            let whole = PillowResize::whole(from, to, FILTERS[which]);
            let (columns, rows) = (range(to.0, part.0, part.1), range(to.1, part.2, part.3));
            let part = PillowResize {
                columns: columns.clone(),
                rows: rows.clone(),
                ..whole.clone()
            };
            let expected = image::imageops::crop_imm(
                &whole.run((&image).into()),
                columns.start,
                rows.start,
                columns.len() as u32,
                rows.len() as u32,
            ).to_image();
            prop_assert_eq!(part.run((&image).into()), expected);
            prop_assert!(part.bytes() <= whole.bytes());
        }

        #[test]
        fn run_padded_equals_the_resize_of_a_padded_copy(
            size in (1u32..20, 1u32..20), side in 1u32..20,
        ) {
            let (image, fill) = (noise(size.0, size.1), [9, 200, 77]);
            let long = size.0.max(size.1);
            let mut canvas = RgbImage::from_pixel(long, long, image::Rgb(fill));
            let at = ((long - size.0) / 2, (long - size.1) / 2);
            image::imageops::replace(&mut canvas, &image, at.0.into(), at.1.into());
            let resize = PillowResize::whole((long, long), (side, side), PillowFilter::Bicubic);
            prop_assert_eq!(
                resize.run(PaddedPicture::square(&image, fill)),
                resize.run((&canvas).into())
            );
        }
    }
}
