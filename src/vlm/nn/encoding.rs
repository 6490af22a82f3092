//! Encodings of a matrix's rows: floats of 32 and 16 bits, and ggml's quantized blocks.
//!
//! A row is a run of blocks, each of which holds a fixed number of values. Layouts of blocks are
//! those of ggml (`ggml-common.h`, `ggml-quants.c`); all numbers are little-endian. The loops are
//! written for the compiler to vectorize.

use candle_core::quantized::GgmlDType;

/// Values of a small quantized block.
const SMALL: usize = 32;

/// Values of a quantized block of the K types.
const LARGE: usize = 256;

/// Function that decodes whole blocks, as many values as its output holds.
pub(super) type Decode = fn(&[u8], &mut [f32]);

/// Returns the decoder of an encoding, if it is one that is read.
pub(super) fn decoder(encoding: GgmlDType) -> Option<Decode> {
    Some(match encoding {
        GgmlDType::F32 => f32s,
        GgmlDType::F16 => f16s,
        GgmlDType::BF16 => bf16s,
        GgmlDType::Q4_0 => q4_0,
        GgmlDType::Q4_1 => q4_1,
        GgmlDType::Q5_0 => q5_0,
        GgmlDType::Q5_1 => q5_1,
        GgmlDType::Q8_0 => q8_0,
        GgmlDType::Q4K => q4_k,
        GgmlDType::Q5K => q5_k,
        GgmlDType::Q6K => q6_k,
        _ => return None,
    })
}

fn f32s(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_le_bytes(*bytes);
    }
}

fn f16s(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = half_to_f32(u16::from_le_bytes(*bytes));
    }
}

fn bf16s(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// Converts a half-precision number without branches, so that loops over it vectorize. Shifted
/// into place, exponents are too small by 112; the product with 2^112 is exact, subnormal numbers
/// included.
#[inline(always)]
pub(super) fn half_to_f32(bits: u16) -> f32 {
    let (sign, rest) = (
        u32::from(bits & 0x8000) << 16,
        u32::from(bits & 0x7FFF) << 13,
    );
    let finite = (f32::from_bits(rest) * f32::from_bits((127 + 112) << 23)).to_bits();
    // Infinities and NaNs keep the exponent of all ones.
    let bits = if rest >= 0x7C00 << 13 {
        rest | 0x7F80_0000
    } else {
        finite
    };
    f32::from_bits(bits | sign)
}

/// Half-precision number at `at`.
#[inline(always)]
fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    half_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Blocks of `BYTES` bytes with the `VALUES` values each decodes to.
#[inline(always)]
fn blocks<'a, const BYTES: usize, const VALUES: usize>(
    bytes: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; VALUES])> {
    bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0)
}

/// Scale; nibbles, the lower ones first.
fn q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<18, SMALL>(bytes, out) {
        let scale = half_at(block, 0);
        for i in 0..SMALL / 2 {
            let pair = block[2 + i];
            out[i] = (i32::from(pair & 15) - 8) as f32 * scale;
            out[i + SMALL / 2] = (i32::from(pair >> 4) - 8) as f32 * scale;
        }
    }
}

/// Scale, minimum; nibbles.
fn q4_1(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<20, SMALL>(bytes, out) {
        let (scale, min) = (half_at(block, 0), half_at(block, 2));
        for i in 0..SMALL / 2 {
            let pair = block[4 + i];
            out[i] = f32::from(pair & 15) * scale + min;
            out[i + SMALL / 2] = f32::from(pair >> 4) * scale + min;
        }
    }
}

/// Five-bit numbers of a block: the fifth bits stand in the four bytes before the nibbles.
#[inline(always)]
fn fives(high: [u8; 4], nibbles: &[u8; SMALL / 2]) -> [i32; SMALL] {
    let high = u32::from_le_bytes(high);
    std::array::from_fn(|i| {
        let nibble = match i < SMALL / 2 {
            true => nibbles[i] & 15,
            false => nibbles[i - SMALL / 2] >> 4,
        };
        i32::from(nibble) | ((high >> i & 1) << 4) as i32
    })
}

/// Scale; fifth bits; nibbles.
fn q5_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<22, SMALL>(bytes, out) {
        let scale = half_at(block, 0);
        let [_, _, a, b, c, d, nibbles @ ..] = block;
        for (out, q) in out.iter_mut().zip(fives([*a, *b, *c, *d], nibbles)) {
            *out = (q - 16) as f32 * scale;
        }
    }
}

/// Scale, minimum; fifth bits; nibbles.
fn q5_1(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<24, SMALL>(bytes, out) {
        let (scale, min) = (half_at(block, 0), half_at(block, 2));
        let [_, _, _, _, a, b, c, d, nibbles @ ..] = block;
        for (out, q) in out.iter_mut().zip(fives([*a, *b, *c, *d], nibbles)) {
            *out = q as f32 * scale + min;
        }
    }
}

/// Scale; bytes.
fn q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<34, SMALL>(bytes, out) {
        let scale = half_at(block, 0);
        for i in 0..SMALL {
            out[i] = f32::from(block[2 + i].cast_signed()) * scale;
        }
    }
}

/// Scale and minimum of the eight parts of a block, six bits each in twelve bytes.
#[inline(always)]
fn part_scale(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, min) = match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => (
            packed[part + 4] & 15 | packed[part - 4] >> 6 << 4,
            packed[part + 4] >> 4 | packed[part] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

/// Scale, minimum; scales and minima of eight parts; nibbles, of two parts in each 32 bytes.
fn q4_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<144, LARGE>(bytes, out) {
        let (scale, min) = (half_at(block, 0), half_at(block, 2));
        let (packed, nibbles) = block[4..].split_at(12);
        for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (part_scale, part_min) = part_scale(packed, part);
            let (scale, min) = (scale * part_scale, min * part_min);
            let shift = part % 2 * 4;
            for (out, pair) in out.iter_mut().zip(&nibbles[part / 2 * 32..][..32]) {
                *out = scale * f32::from(pair >> shift & 15) - min;
            }
        }
    }
}

/// Like [`q4_k`] with 32 bytes of fifth bits before the nibbles, one bit a part.
fn q5_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<176, LARGE>(bytes, out) {
        let (scale, min) = (half_at(block, 0), half_at(block, 2));
        let (packed, rest) = block[4..].split_at(12);
        let (high, nibbles) = rest.split_at(32);
        for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (part_scale, part_min) = part_scale(packed, part);
            let (scale, min) = (scale * part_scale, min * part_min);
            let shift = part % 2 * 4;
            let pairs = &nibbles[part / 2 * 32..][..32];
            for ((out, pair), high) in out.iter_mut().zip(pairs).zip(high) {
                let q = pair >> shift & 15 | (high >> part & 1) << 4;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

/// Lower nibbles; upper bit pairs; scales of 16 values; scale. In each half of a block, 64 bytes of
/// nibbles and 32 of pairs hold four runs of 32 values.
fn q6_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks::<210, LARGE>(bytes, out) {
        let scale = half_at(block, 208);
        let (low, rest) = block.split_at(128);
        let (high, scales) = rest.split_at(64);
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, run) = (run / 4, run % 4);
            let low = &low[half * 64 + run % 2 * 32..][..32];
            let high = &high[half * 32..][..32];
            let scales = &scales[half * 8 + run * 2..][..2];
            for (i, out) in out.iter_mut().enumerate() {
                let q = low[i] >> (run / 2 * 4) & 15 | (high[i] >> (run * 2) & 3) << 4;
                let part = scale * f32::from(scales[i / 16].cast_signed());
                *out = part * (i32::from(q) - 32) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_half_converts_as_the_reference_does() {
        for bits in 0..=u16::MAX {
            let (got, want) = (half_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#06x}: {got} against {want}"
            );
            let mut out = [0.0];
            bf16s(&bits.to_le_bytes(), &mut out);
            let want = bf16::from_bits(bits).to_f32();
            assert!(out[0].to_bits() == want.to_bits() || out[0].is_nan() && want.is_nan());
        }
    }
}
