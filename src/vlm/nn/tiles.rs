//! Matrices of integers, laid out for their products.
//!
//! A tile is sixteen rows of the matrix, one a lane of a vector: all that a block of 32 columns
//! holds for them lies together, scales first, then the numbers as pairs of neighbors in a column.
//! Of quantized matrices nothing is lost or rounded: numbers, scales and minima are those of ggml's
//! blocks. Floats are rounded to 14 bits, with a scale for every block.
//!
//! Activations become 16-bit integers with a scale for every 32 values, which loses less than what
//! f32 sums of this length do; products of pairs are added exactly, as integers, within a block.

use std::{array, marker::PhantomData};

use bytes::Bytes;
use candle_core::quantized::GgmlDType;

use super::{
    encoding::half_to_f32,
    simd::{Kernel, LANES, Lanes, dispatch},
};
use crate::util::{pages, team::for_items};

/// Columns of a block.
const BLOCK: usize = 32;

/// Blocks that share the scales of a K type.
const SUPER: usize = 8;

/// Bytes of activations that a tile is multiplied by before the next one: they stay in the nearer
/// caches.
const NEAR_BYTES: usize = 1 << 18;

/// Bytes of a line of memory.
const LINE: usize = 64;

/// Bytes by which memory is asked for before it is read.
const AHEAD: usize = 1 << 11;

/// Bytes of a vector.
const VECTOR: usize = 4 * LANES;

/// Order of a block's columns in its planes: quarters of eight, of which each has four pairs.
const QUARTERS: usize = 4;

/// Largest number of rounded floats, and of activations that they are multiplied by: a block's
/// products add up to at most 31 bits.
const SHORT: i32 = (1 << 13) - 1;

/// Largest number of activations that quantized numbers are multiplied by.
const LONG: i32 = (1 << 15) - 1;

/// Numbers of a matrix in tiles.
#[derive(Debug, Clone, Copy)]
enum TileNumbers {
    /// Those of a quantized matrix.
    Quantized(GgmlDType),
    /// Rounded floats.
    Rounded,
}

/// Type of a tile's numbers: `scale * (number - OFFSET)`, or `scale * number + min`.
trait Numbers {
    /// Bits of a number in the first planes, 4, 8 or 16; numbers of 8 and 16 bits are signed.
    const LOW: usize;
    /// Bits of a number in the other planes, 0 to 2.
    const HIGH: usize;
    /// Number that stands for 0.
    const OFFSET: i32;
    /// Minima stand beside the scales.
    const MIN: bool;
    /// Scales and minima are bytes, relative to those that eight blocks share.
    const SUPER: bool;
    /// Scales of a block.
    const SCALES: usize;

    /// Bytes of a block for sixteen rows.
    const BYTES: usize = Self::HEAD + VECTOR * (Self::LOW + Self::HIGH);
    /// Bytes of its scales and minima.
    const HEAD: usize = match Self::SUPER {
        true => LANES * (Self::SCALES + Self::MIN as usize),
        false if Self::LOW == 16 => 4 * LANES,
        false => 2 * LANES * (1 + Self::MIN as usize),
    };
    /// Bytes of the scales and minima before every eight blocks.
    const SUPER_BYTES: usize = match Self::SUPER {
        true => 2 * LANES * (1 + Self::MIN as usize),
        false => 0,
    };
    /// Bytes of a tile of `blocks` blocks.
    fn tile_bytes(blocks: usize) -> usize {
        blocks * Self::BYTES + blocks / SUPER * Self::SUPER_BYTES
    }
}

macro_rules! numbers {
    ($($name:ident: $low:literal + $high:literal bits, offset $offset:literal, min $min:literal,
        super $super:literal, $scales:literal;)*) => {$(
        struct $name;
        impl Numbers for $name {
            const LOW: usize = $low;
            const HIGH: usize = $high;
            const OFFSET: i32 = $offset;
            const MIN: bool = $min;
            const SUPER: bool = $super;
            const SCALES: usize = $scales;
        }
    )*};
}

numbers! {
    Q4_0: 4 + 0 bits, offset 8, min false, super false, 1;
    Q4_1: 4 + 0 bits, offset 0, min true, super false, 1;
    Q5_0: 4 + 1 bits, offset 16, min false, super false, 1;
    Q5_1: 4 + 1 bits, offset 0, min true, super false, 1;
    Q8_0: 8 + 0 bits, offset 0, min false, super false, 1;
    Q4K: 4 + 0 bits, offset 0, min true, super true, 1;
    Q5K: 4 + 1 bits, offset 0, min true, super true, 1;
    Q6K: 4 + 2 bits, offset 32, min false, super true, 2;
    Rounded: 16 + 0 bits, offset 0, min false, super false, 1;
}

/// Runs an expression with the type of a matrix' numbers as `$t`.
macro_rules! with_numbers {
    ($numbers:expr, $t:ident => $e:expr) => {
        match $numbers {
            TileNumbers::Quantized(GgmlDType::Q4_0) => {
                type $t = Q4_0;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q4_1) => {
                type $t = Q4_1;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q5_0) => {
                type $t = Q5_0;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q5_1) => {
                type $t = Q5_1;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q8_0) => {
                type $t = Q8_0;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q4K) => {
                type $t = Q4K;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q5K) => {
                type $t = Q5K;
                Some($e)
            }
            TileNumbers::Quantized(GgmlDType::Q6K) => {
                type $t = Q6K;
                Some($e)
            }
            TileNumbers::Rounded => {
                type $t = Rounded;
                Some($e)
            }
            TileNumbers::Quantized(_) => None,
        }
    };
}

/// A block of one row as ggml has it.
struct RowBlock {
    /// Numbers, not yet less the offset.
    numbers: [u8; BLOCK],
    /// Scale and minimum of the block in half precision, or of the eight blocks it belongs to.
    halves: [[u8; 2]; 2],
    /// Scales and minimum relative to those.
    parts: [u8; 3],
}

/// Reads block `block` of a row.
fn row_block(encoding: GgmlDType, row: &[u8], block: usize) -> RowBlock {
    let half = |at: usize, bytes: &[u8]| [bytes[at], bytes[at + 1]];
    let nibbles = |bytes: &[u8]| -> [u8; BLOCK] {
        array::from_fn(|i| match i < BLOCK / 2 {
            true => bytes[i] & 15,
            false => bytes[i - BLOCK / 2] >> 4,
        })
    };
    let fifths = |mut numbers: [u8; BLOCK], high: &[u8]| {
        for (i, number) in numbers.iter_mut().enumerate() {
            *number |= (high[i / 8] >> (i % 8) & 1) << 4;
        }
        numbers
    };
    let mut out = RowBlock {
        numbers: [0; BLOCK],
        halves: [[0; 2]; 2],
        parts: [0; 3],
    };
    let (large, part) = (block / SUPER, block % SUPER);
    match encoding {
        GgmlDType::Q4_0 => {
            let b = &row[block * 18..][..18];
            (out.halves[0], out.numbers) = (half(0, b), nibbles(&b[2..]));
        }
        GgmlDType::Q4_1 => {
            let b = &row[block * 20..][..20];
            (out.halves, out.numbers) = ([half(0, b), half(2, b)], nibbles(&b[4..]));
        }
        GgmlDType::Q5_0 => {
            let b = &row[block * 22..][..22];
            out.halves[0] = half(0, b);
            out.numbers = fifths(nibbles(&b[6..]), &b[2..6]);
        }
        GgmlDType::Q5_1 => {
            let b = &row[block * 24..][..24];
            out.halves = [half(0, b), half(2, b)];
            out.numbers = fifths(nibbles(&b[8..]), &b[4..8]);
        }
        GgmlDType::Q8_0 => {
            let b = &row[block * 34..][..34];
            out.halves[0] = half(0, b);
            out.numbers.copy_from_slice(&b[2..]);
        }
        GgmlDType::Q4K | GgmlDType::Q5K => {
            let fives = matches!(encoding, GgmlDType::Q5K);
            let size = if fives { 176 } else { 144 };
            let b = &row[large * size..][..size];
            out.halves = [half(0, b), half(2, b)];
            let (packed, rest) = b[4..].split_at(12);
            (out.parts[0], out.parts[2]) = match part {
                0..4 => (packed[part] & 63, packed[part + 4] & 63),
                _ => (
                    packed[part + 4] & 15 | packed[part - 4] >> 6 << 4,
                    packed[part + 4] >> 4 | packed[part] >> 6 << 4,
                ),
            };
            let (high, low) = rest.split_at(if fives { 32 } else { 0 });
            let low = &low[part / 2 * 32..][..32];
            out.numbers = array::from_fn(|i| {
                let fifth = high.get(i).map_or(0, |high| (high >> part & 1) << 4);
                low[i] >> (part % 2 * 4) & 15 | fifth
            });
        }
        _ => {
            let b = &row[large * 210..][..210];
            out.halves[0] = half(208, b);
            let (half, run) = (part / 4, part % 4);
            let low = &b[half * 64 + run % 2 * 32..][..32];
            let high = &b[128 + half * 32..][..32];
            let scales = &b[192 + part * 2..][..2];
            out.parts = [scales[0], scales[1], 0];
            out.numbers =
                array::from_fn(|i| low[i] >> (run / 2 * 4) & 15 | (high[i] >> (run * 2) & 3) << 4);
        }
    }
    out
}

/// Matrix in tiles.
#[derive(Debug)]
pub(super) struct Tiles {
    numbers: TileNumbers,
    cols: usize,
    bytes: Bytes,
}

impl Tiles {
    /// Lays out the rows of a quantized matrix; `None` if its encoding has no tiles.
    pub(super) fn new<'a>(
        encoding: GgmlDType,
        (rows, cols): (usize, usize),
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Option<Self> {
        let numbers = TileNumbers::Quantized(encoding);
        let bytes = with_numbers!(numbers, T => lay_out::<T>(encoding, (rows, cols), row))?;
        Some(Self {
            numbers,
            cols,
            bytes,
        })
    }

    /// Rounds floats, which `decode` writes for the row that it is given; `None` if the rows are no
    /// whole number of blocks.
    pub(super) fn rounded(
        (rows, cols): (usize, usize),
        decode: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Option<Self> {
        cols.is_multiple_of(BLOCK).then(|| Self {
            numbers: TileNumbers::Rounded,
            cols,
            bytes: round((rows, cols), decode),
        })
    }

    /// Returns activations for products with this matrix, `x` rounded.
    pub(super) fn activations(&self, x: &[f32]) -> Activations {
        let largest = match self.numbers {
            TileNumbers::Quantized(_) => LONG,
            TileNumbers::Rounded => SHORT,
        };
        Activations::new(x, self.cols, largest)
    }

    /// Returns the bytes of the matrix.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Decodes a row.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let blocks = self.cols / BLOCK;
        with_numbers!(self.numbers, T => {
            let size = T::tile_bytes(blocks);
            decode::<T>(&self.bytes[row / LANES * size..][..size], row % LANES, out)
        });
    }

    /// Computes the products of the rows from `first` on, a multiple of [`LANES`], with
    /// activations: `out` holds for each row of these the products with as many rows of the matrix.
    pub(super) fn products(&self, first: usize, x: &Activations, out: &mut [&mut [f32]]) {
        let blocks = self.cols / BLOCK;
        with_numbers!(self.numbers, T => {
            let tiles = &self.bytes[first / LANES * T::tile_bytes(blocks)..];
            dispatch(TileProducts::<T>(tiles, x, out, PhantomData))
        });
    }
}

fn lay_out<'a, T: Numbers>(
    encoding: GgmlDType,
    (rows, cols): (usize, usize),
    row: impl Fn(usize) -> &'a [u8] + Sync,
) -> Bytes {
    let blocks = cols / BLOCK;
    let size = T::tile_bytes(blocks);
    let mut bytes = pages::zeros(rows.div_ceil(LANES) * size);
    let mut tiles: Vec<&mut [u8]> = bytes.chunks_mut(size).collect();
    for_items(&mut tiles, |tile, out| {
        for lane in 0..LANES.min(rows - tile * LANES) {
            let row = row(tile * LANES + lane);
            for block in 0..blocks {
                let b = row_block(encoding, row, block);
                let at = block * T::BYTES + (block / SUPER + 1) * T::SUPER_BYTES;
                let mut put = |at: usize, half: [u8; 2]| out[at..at + 2].copy_from_slice(&half);
                let halves = match T::SUPER {
                    true => at - T::SUPER_BYTES,
                    false => at,
                };
                if !T::SUPER || block % SUPER == 0 {
                    put(halves + 2 * lane, b.halves[0]);
                    if T::MIN {
                        put(halves + 2 * (LANES + lane), b.halves[1]);
                    }
                }
                if T::SUPER {
                    for i in 0..T::SCALES {
                        out[at + i * LANES + lane] = b.parts[i];
                    }
                    if T::MIN {
                        out[at + T::SCALES * LANES + lane] = b.parts[2];
                    }
                }
                let planes = &mut out[at + T::HEAD..at + T::BYTES];
                for (k, number) in b.numbers.into_iter().enumerate() {
                    // Pair `4 * quarter + step` of columns; `side` within it.
                    let (quarter, step, side) = (k / 8, k / 2 % 4, k % 2);
                    let pair = lane * 4 + side * 2;
                    if T::LOW == 8 {
                        planes[(2 * quarter + step / 2) * VECTOR + pair + step % 2] = number;
                        continue;
                    }
                    planes[quarter * VECTOR + pair + step / 2] |= (number & 15) << (step % 2 * 4);
                    let high = &mut planes[4 * VECTOR..];
                    if T::HIGH == 1 {
                        let bit = quarter * 4 + step;
                        high[pair + bit / 8] |= (number >> 4 & 1) << (bit % 8);
                    } else if T::HIGH == 2 {
                        let bits = quarter % 2 * 8 + step * 2;
                        high[quarter / 2 * VECTOR + pair + bits / 8] |=
                            (number >> 4 & 3) << (bits % 8);
                    }
                }
            }
        }
    });
    bytes.freeze()
}

/// Rounds rows of floats to tiles.
fn round((rows, cols): (usize, usize), decode: impl Fn(usize, &mut [f32]) + Sync) -> Bytes {
    let size = Rounded::tile_bytes(cols / BLOCK);
    let mut bytes = pages::zeros(rows.div_ceil(LANES) * size);
    let mut tiles: Vec<&mut [u8]> = bytes.chunks_mut(size).collect();
    for_items(&mut tiles, |tile, out| {
        let mut row = vec![0.0; cols];
        for lane in 0..LANES.min(rows - tile * LANES) {
            decode(tile * LANES + lane, &mut row);
            let blocks = row.as_chunks::<BLOCK>().0.iter();
            for (values, out) in blocks.zip(out.chunks_exact_mut(Rounded::BYTES)) {
                let mut pairs = [0; BLOCK / 2];
                let (_, scale) = round_block(values, SHORT, &mut pairs);
                let (scales, planes) = out.split_at_mut(Rounded::HEAD);
                scales[4 * lane..][..4].copy_from_slice(&scale.to_le_bytes());
                for (i, pair) in pairs.into_iter().enumerate() {
                    planes[i * VECTOR + 4 * lane..][..4].copy_from_slice(&pair.to_le_bytes());
                }
            }
        }
    });
    bytes.freeze()
}

/// Adding this rounds a number below 2^22 to an integer, which is then the difference of the bits.
const ROUNDER: f32 = 1.5 * (1 << 23) as f32;

/// Rounds the values of a block to integers up to `largest`, in pairs of 16 bits with the first in
/// the lower half. Returns the sums of both halves of them, and the value of 1.
// Not inlined: inside a loop, the compiler vectorizes across blocks, which is slower.
#[inline(never)]
fn round_block(values: &[f32; BLOCK], largest: i32, out: &mut [i32; BLOCK / 2]) -> ([i32; 2], f32) {
    // Compared as integers, so that numbers that are not finite come out on top.
    let mut tops = [0i32; 8];
    for eight in values.as_chunks::<8>().0 {
        for (top, x) in tops.iter_mut().zip(eight) {
            *top = (*top).max((x.to_bits() & !(1 << 31)).cast_signed());
        }
    }
    let top = tops.into_iter().fold(0, i32::max);
    let (top, largest) = (f32::from_bits(top.cast_unsigned()), largest as f32);
    let inverse = if top > 0.0 { largest / top } else { 0.0 };
    let mut numbers = [0; BLOCK];
    for (number, x) in numbers.iter_mut().zip(values) {
        let bits = (x * inverse + ROUNDER).to_bits();
        *number = bits.wrapping_sub(ROUNDER.to_bits()).cast_signed();
    }
    for (out, [a, b]) in out.iter_mut().zip(numbers.as_chunks::<2>().0) {
        *out = a & 0xFFFF | b << 16;
    }
    let (a, b) = numbers.split_at(BLOCK / 2);
    // Of numbers that are not finite, anything.
    let sum = |half: &[i32]| half.iter().fold(0, |sum: i32, &n| sum.wrapping_add(n));
    ([sum(a), sum(b)], top / largest)
}

/// Decodes one lane of a tile.
fn decode<T: Numbers>(tile: &[u8], lane: usize, out: &mut [f32]) {
    let half = |at: usize| half_to_f32(u16::from_le_bytes([tile[at], tile[at + 1]]));
    for (block, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let at = block * T::BYTES + (block / SUPER + 1) * T::SUPER_BYTES;
        if T::LOW == 16 {
            let scale = f32::from_le_bytes(*bytes(tile, at + 4 * lane));
            for (k, out) in out.iter_mut().enumerate() {
                let number = at + T::HEAD + k / 2 * VECTOR + 4 * lane + k % 2 * 2;
                *out = f32::from(i16::from_le_bytes(*bytes(tile, number))) * scale;
            }
            continue;
        }
        let halves = match T::SUPER {
            true => (block / SUPER) * (SUPER * T::BYTES + T::SUPER_BYTES),
            false => at,
        };
        let (scale, min) = (
            half(halves + 2 * lane),
            match T::MIN {
                true => half(halves + 2 * (LANES + lane)),
                false => 0.0,
            },
        );
        let part = |i: usize| tile[at + i * LANES + lane];
        let planes = &tile[at + T::HEAD..at + T::BYTES];
        for (k, out) in out.iter_mut().enumerate() {
            let (quarter, step, side) = (k / 8, k / 2 % 4, k % 2);
            let pair = lane * 4 + side * 2;
            let number = if T::LOW == 8 {
                let byte = planes[(2 * quarter + step / 2) * VECTOR + pair + step % 2];
                i32::from(byte.cast_signed())
            } else {
                let low = planes[quarter * VECTOR + pair + step / 2] >> (step % 2 * 4) & 15;
                let high = &planes[4 * VECTOR..];
                let high = match T::HIGH {
                    1 => {
                        let bit = quarter * 4 + step;
                        high[pair + bit / 8] >> (bit % 8) & 1
                    }
                    2 => {
                        let bits = quarter % 2 * 8 + step * 2;
                        high[quarter / 2 * VECTOR + pair + bits / 8] >> (bits % 8) & 3
                    }
                    _ => 0,
                };
                i32::from(low | high << 4)
            };
            let number = (number - T::OFFSET) as f32;
            *out = match (T::SUPER, T::MIN) {
                (false, false) => number * scale,
                (false, true) => number * scale + min,
                (true, true) => scale * f32::from(part(0)) * number - min * f32::from(part(1)),
                (true, false) => scale * f32::from(part(k / 16).cast_signed()) * number,
            };
        }
    }
}

/// Rows of activations as 16-bit integers.
pub(super) struct Activations {
    rows: usize,
    cols: usize,
    /// Neighbors in pairs, `(rows, cols / 2)`.
    pairs: Vec<i32>,
    /// Of every block: the value of 1, and the sum of its values.
    scales: Vec<[f32; 2]>,
    /// Sums of the integers of both halves of every block.
    halves: Vec<[i32; 2]>,
}

impl Activations {
    /// Rounds `x`, rows of `cols` values, a multiple of [`BLOCK`], to integers up to `largest`.
    fn new(x: &[f32], cols: usize, largest: i32) -> Self {
        let blocks = x.len() / BLOCK;
        let mut pairs = vec![0; x.len() / 2];
        let (mut scales, mut halves) = (vec![[0.0; 2]; blocks], vec![[0; 2]; blocks]);
        let each = blocks.div_ceil(blocks / NEAR_BLOCKS + 1).max(1);
        let mut parts: Vec<RoundedPart<'_>> = x
            .chunks(each * BLOCK)
            .zip(pairs.chunks_mut(each * BLOCK / 2))
            .zip(scales.chunks_mut(each).zip(halves.chunks_mut(each)))
            .collect();
        let round = |((x, out), (scales, halves)): &mut RoundedPart<'_>| {
            let out = out.as_chunks_mut::<{ BLOCK / 2 }>().0;
            let sums = scales.iter_mut().zip(halves.iter_mut());
            for ((x, out), (scale, half)) in x.as_chunks().0.iter().zip(out).zip(sums) {
                let one;
                (*half, one) = round_block(x, largest, out);
                *scale = [one, one * half[0].wrapping_add(half[1]) as f32];
            }
        };
        match parts.as_mut_slice() {
            [one] => round(one),
            _ => for_items(&mut parts, |_, part| round(part)),
        }
        Self {
            rows: x.len() / cols,
            cols,
            pairs,
            scales,
            halves,
        }
    }
}

/// Blocks of activations that a thread rounds at a time.
const NEAR_BLOCKS: usize = 1 << 10;

/// Values with what they are rounded to.
type RoundedPart<'a> = (
    (&'a [f32], &'a mut [i32]),
    (&'a mut [[f32; 2]], &'a mut [[i32; 2]]),
);

struct TileProducts<'a, 'b, T>(
    &'a [u8],
    &'a Activations,
    &'a mut [&'b mut [f32]],
    PhantomData<T>,
);

impl<T: Numbers> Kernel for TileProducts<'_, '_, T> {
    #[inline(always)]
    fn run<S: Lanes>(self) {
        let Self(tiles, x, out, _) = self;
        let width = out.first().map_or(0, |out| out.len());
        let size = T::tile_bytes(x.cols / BLOCK);
        let near = (NEAR_BYTES / 2 / x.cols).max(8);
        for first in (0..x.rows).step_by(near) {
            let last = (first + near).min(x.rows);
            for (tile, column) in tiles.chunks_exact(size).zip((0..width).step_by(LANES)) {
                let mut i = first;
                while i < last {
                    i += match last - i {
                        8.. if S::IS_WIDE => tile_rows::<S, T, 8>(tile, x, i, column, out),
                        4.. if S::IS_WIDE => tile_rows::<S, T, 4>(tile, x, i, column, out),
                        2.. => tile_rows::<S, T, 2>(tile, x, i, column, out),
                        _ => tile_rows::<S, T, 1>(tile, x, i, column, out),
                    };
                }
            }
        }
    }
}

/// The bytes at `at`.
#[inline(always)]
fn bytes<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    match bytes[at..].first_chunk() {
        Some(bytes) => bytes,
        None => &[0; N],
    }
}

/// Products of a tile with rows `first..first + N` of the activations. Returns their number.
#[inline(always)]
fn tile_rows<S: Lanes, T: Numbers, const N: usize>(
    tile: &[u8],
    x: &Activations,
    first: usize,
    column: usize,
    out: &mut [&mut [f32]],
) -> usize {
    let blocks = x.cols / BLOCK;
    let pairs: [&[[i32; BLOCK / 2]]; N] = array::from_fn(|i| {
        let line = &x.pairs[(first + i) * (x.cols / 2)..][..x.cols / 2];
        &line.as_chunks().0[..blocks]
    });
    let scales: [&[[f32; 2]]; N] = array::from_fn(|i| &x.scales[(first + i) * blocks..][..blocks]);
    let halves: [&[[i32; 2]]; N] = array::from_fn(|i| &x.halves[(first + i) * blocks..][..blocks]);
    let mut sums = [S::splat(0.0); N];
    let (mut large, mut large_min) = (S::splat(0.0), S::splat(0.0));
    let mut rest = tile;
    for block in 0..blocks {
        for line in 0..T::BYTES.div_ceil(LINE) {
            S::prefetch(rest, AHEAD + line * LINE);
        }
        if T::SUPER && block % SUPER == 0 {
            large = S::load_f16(bytes(rest, 0));
            if T::MIN {
                large_min = S::mul(S::load_f16(bytes(rest, 2 * LANES)), S::splat(-1.0));
            }
            rest = &rest[T::SUPER_BYTES..];
        }
        let scale = |i: usize| match T::SUPER {
            true if T::MIN => S::mul(large, S::load_u8(bytes(rest, i * LANES))),
            true => S::mul(large, S::load_i8(bytes(rest, i * LANES))),
            false if T::LOW == 16 => S::load_f32(bytes(rest, 0)),
            false => S::load_f16(bytes(rest, 0)),
        };
        let group = QUARTERS / T::SCALES;
        let mut high = [S::splat_i32(0); 2];
        for (i, high) in high.iter_mut().enumerate().take(T::HIGH) {
            *high = S::load_bits(bytes(rest, T::HEAD + (4 + i) * VECTOR));
        }
        for part in 0..T::SCALES {
            let mut dots: [S::I; N] = array::from_fn(|i| {
                let [a, b] = halves[i][block];
                let sum = if T::SCALES == 1 {
                    a + b
                } else if part == 0 {
                    a
                } else {
                    b
                };
                S::splat_i32(-T::OFFSET * sum)
            });
            for quarter in part * group..(part + 1) * group {
                let numbers = quarter_numbers::<S, T>(&rest[T::HEAD..], quarter, &mut high);
                for (step, numbers) in numbers.into_iter().enumerate() {
                    for (dot, pairs) in dots.iter_mut().zip(&pairs) {
                        let pair = S::splat_i32(pairs[block][4 * quarter + step]);
                        *dot = S::dot_pairs(*dot, numbers, pair);
                    }
                }
            }
            let scale = scale(part);
            for i in 0..N {
                let scale = S::mul(scale, S::splat(scales[i][block][0]));
                sums[i] = S::fma(S::float(dots[i]), scale, sums[i]);
            }
        }
        if T::MIN {
            let min = match T::SUPER {
                true => S::mul(large_min, S::load_u8(bytes(rest, T::SCALES * LANES))),
                false => S::load_f16(bytes(rest, 2 * LANES)),
            };
            for i in 0..N {
                sums[i] = S::fma(min, S::splat(scales[i][block][1]), sums[i]);
            }
        }
        rest = &rest[T::BYTES..];
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let out = &mut out[first + i][column..];
        match out.first_chunk_mut() {
            Some(out) => S::store(sums, out),
            None => {
                let mut line = [0.0; LANES];
                S::store(sums, &mut line);
                out.copy_from_slice(&line[..out.len()]);
            }
        }
    }
    N
}

/// Pairs of numbers of a quarter of a block, four of them a lane.
#[inline(always)]
fn quarter_numbers<S: Lanes, T: Numbers>(
    planes: &[u8],
    quarter: usize,
    high: &mut [S::I; 2],
) -> [S::I; 4] {
    if T::LOW == 16 {
        return array::from_fn(|i| S::load_bits(bytes(planes, (4 * quarter + i) * VECTOR)));
    }
    if T::LOW == 8 {
        let [a, b] = [0, 1].map(|i| S::load_bits(bytes(planes, (2 * quarter + i) * VECTOR)));
        let first = |v| S::sar::<8>(S::shl::<8>(v));
        return [first(a), S::sar::<8>(a), first(b), S::sar::<8>(b)];
    }
    let low = S::load_bits(bytes(planes, quarter * VECTOR));
    let nibble = |v| S::and(v, S::splat_i32(0x000F_000F));
    let numbers = [
        nibble(low),
        nibble(S::shr::<4>(low)),
        nibble(S::shr::<8>(low)),
        S::shr::<12>(low),
    ];
    let mask = S::splat_i32(((1 << T::HIGH) - 1) << 4 | ((1 << T::HIGH) - 1) << 20);
    let join = |number, bits| S::or(number, S::and(bits, mask));
    let [a, b, c, d] = numbers;
    match T::HIGH {
        1 => {
            let bits = high[0];
            high[0] = S::shr::<4>(bits);
            [
                join(a, S::shl::<4>(bits)),
                join(b, S::shl::<3>(bits)),
                join(c, S::shl::<2>(bits)),
                join(d, S::shl::<1>(bits)),
            ]
        }
        2 => {
            let bits = high[quarter / 2];
            high[quarter / 2] = S::shr::<8>(bits);
            [
                join(a, S::shl::<4>(bits)),
                join(b, S::shl::<2>(bits)),
                join(c, bits),
                join(d, S::shr::<2>(bits)),
            ]
        }
        _ => numbers,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::vlm::nn::packed::tests::{encoded, noise};

    const QUANTIZED: [GgmlDType; 8] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    /// Tiles of a matrix, and its decoded rows.
    fn tiles(source: &Tensor, encoding: GgmlDType) -> (Tiles, Vec<Vec<f32>>) {
        let (matrix, decoded) = encoded(source, encoding);
        let shape = (matrix.rows(), matrix.cols());
        let size = matrix.as_bytes().len() / shape.0;
        let row = |row: usize| &matrix.as_bytes()[row * size..][..size];
        let tiles = Tiles::new(encoding, shape, row).unwrap();
        (tiles, decoded.to_vec2().unwrap())
    }

    /// Products of all `rows` with `x`.
    fn products(tiles: &Tiles, rows: usize, x: &[f32]) -> Vec<f32> {
        let x = tiles.activations(x);
        let mut out = vec![0.0; x.rows * rows];
        let mut lines: Vec<&mut [f32]> = out.chunks_mut(rows).collect();
        tiles.products(0, &x, &mut lines);
        out
    }

    #[test]
    fn a_tile_takes_little_more_than_its_rows() {
        for encoding in QUANTIZED {
            let (matrix, _) = encoded(&noise(32, 512, 1), encoding);
            let (tiles, _) = tiles(&noise(32, 512, 1), encoding);
            let (ours, theirs) = (tiles.len() as f64, matrix.as_bytes().len() as f64);
            assert!(ours / theirs < 1.03, "{encoding:?}: {ours} of {theirs}");
        }
    }

    #[test]
    fn a_batch_gives_exactly_what_its_rows_give_alone() {
        for (encoding, seed) in QUANTIZED.into_iter().zip(1..) {
            let (tiles, _) = tiles(&noise(37, 512, seed), encoding);
            let x = noise(19, 512, seed + 20).flatten_all().unwrap();
            let x = x.to_vec1::<f32>().unwrap();
            let all = products(&tiles, 37, &x);
            for (x, all) in x.chunks(512).zip(all.chunks(37)) {
                assert_eq!(products(&tiles, 37, x), all, "{encoding:?}");
            }
        }
    }

    #[test]
    fn outliers_do_not_drown_their_neighbors() {
        let (tiles, rows) = tiles(&noise(16, 256, 5), GgmlDType::Q8_0);
        let mut x = vec![1e-3f32; 256];
        x[7] = 1e4;
        let got = products(&tiles, 16, &x);
        for (got, row) in got.iter().zip(rows) {
            // The block of the outlier is rounded to a 32,767th of it; the others are exact.
            let others: f32 = row.iter().skip(BLOCK).map(|w| w * 1e-3).sum();
            let want = row[7] * 1e4 + others;
            assert!((got - want).abs() < 1e4 / 32767.0 * 4.0, "{got} {want}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_stay_so() {
        let (tiles, _) = tiles(&noise(16, 64, 6), GgmlDType::Q4_1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.5; 64];
            x[40] = bad;
            assert!(products(&tiles, 16, &x).iter().all(|y| !y.is_finite()));
        }
        assert_eq!(products(&tiles, 16, &[0.0; 64]), [0.0; 16]);
    }
}
