//! Vectors of sixteen numbers, in the widest instructions that the machine has.
//!
//! A kernel is written once, over [`Lanes`], and compiled for every instruction set; which one runs
//! is found out at run time. All give the same numbers: lanes are added in the same order.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::array;

use super::encoding::half_to_f32;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Vectors of an instruction set: sixteen f32, sixteen i32 or thirty-two 16-bit integers each.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32, or thirty-two 16-bit integers in pairs.
    type I: Copy;
    /// There are registers for sixteen sums and what is added to them.
    const IS_WIDE: bool;

    /// Returns the vector of one f32.
    fn splat(value: f32) -> Self::F;
    /// Loads f32 values.
    fn load(values: &[f32; LANES]) -> Self::F;
    /// Loads f32 values from little-endian bytes.
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self::F;
    /// Loads half-precision values from little-endian bytes.
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self::F;
    /// Loads bfloat16 values from little-endian bytes.
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self::F;
    /// Loads unsigned bytes.
    fn load_u8(bytes: &[u8; LANES]) -> Self::F;
    /// Loads signed bytes.
    fn load_i8(bytes: &[u8; LANES]) -> Self::F;
    /// Stores f32 values.
    fn store(v: Self::F, out: &mut [f32; LANES]);
    /// Returns `a * b + c`.
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Returns `a * b`.
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// Returns the sum of the lanes, added in halves.
    fn sum(v: Self::F) -> f32;
    /// Returns the sums of the lanes of sixteen vectors, each added as [`Self::sum`] does.
    #[inline(always)]
    fn sums(v: [Self::F; LANES]) -> [f32; LANES] {
        v.map(Self::sum)
    }
    /// Converts integers.
    fn float(v: Self::I) -> Self::F;

    /// Returns the vector of one i32.
    fn splat_i32(value: i32) -> Self::I;
    /// Loads 64 bytes.
    fn load_bits(bytes: &[u8; 4 * LANES]) -> Self::I;
    /// Returns the bits that both have.
    fn and(a: Self::I, b: Self::I) -> Self::I;
    /// Returns the bits that either has.
    fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts 16-bit numbers left.
    fn shl<const BITS: u32>(v: Self::I) -> Self::I;
    /// Shifts 16-bit numbers right and fills with zeros.
    fn shr<const BITS: u32>(v: Self::I) -> Self::I;
    /// Shifts 16-bit numbers right and fills with the sign.
    fn sar<const BITS: u32>(v: Self::I) -> Self::I;
    /// Adds the products of pairs of signed 16-bit numbers to `sums`.
    fn dot_pairs(sums: Self::I, a: Self::I, b: Self::I) -> Self::I;
}

/// Kernel with its arguments.
pub(crate) trait Kernel {
    /// Computes with an instruction set. Must be inlined always, and so must what it calls.
    fn run<S: Lanes>(self);
}

/// Runs a kernel with the best instruction set of this machine.
pub(crate) fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    return x86::dispatch(kernel);
    #[cfg(not(target_arch = "x86_64"))]
    kernel.run::<Portable>()
}

/// Arrays, for machines without instructions of their own here.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    #[inline(always)]
    fn halves(v: i32) -> [i16; 2] {
        [v as i16, (v >> 16) as i16]
    }

    #[inline(always)]
    fn pairs(v: [i32; LANES], f: impl Fn(i16) -> i16) -> [i32; LANES] {
        v.map(|pair| {
            let [low, high] = Self::halves(pair);
            i32::from(f(low)) & 0xFFFF | i32::from(f(high)) << 16
        })
    }
}

/// The `i`th number of `N` bytes.
#[inline(always)]
fn bytes_at<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
    array::from_fn(|j| bytes[i * N + j])
}

impl Lanes for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const IS_WIDE: bool = false;

    #[inline(always)]
    fn splat(value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self::F {
        *values
    }
    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self::F {
        array::from_fn(|i| f32::from_le_bytes(bytes_at(bytes, i)))
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self::F {
        array::from_fn(|i| half_to_f32(u16::from_le_bytes(bytes_at(bytes, i))))
    }
    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self::F {
        let bits = |i| u32::from(u16::from_le_bytes(bytes_at(bytes, i))) << 16;
        array::from_fn(|i| f32::from_bits(bits(i)))
    }
    #[inline(always)]
    fn load_u8(bytes: &[u8; LANES]) -> Self::F {
        bytes.map(f32::from)
    }
    #[inline(always)]
    fn load_i8(bytes: &[u8; LANES]) -> Self::F {
        bytes.map(|byte| f32::from(byte.cast_signed()))
    }
    #[inline(always)]
    fn store(v: Self::F, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        array::from_fn(|i| super::fma(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn mul(a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn sum(v: Self::F) -> f32 {
        let v: [f32; 8] = array::from_fn(|i| v[i] + v[i + 8]);
        let v: [f32; 4] = array::from_fn(|i| v[i] + v[i + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn float(v: Self::I) -> Self::F {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    fn splat_i32(value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    fn load_bits(bytes: &[u8; 4 * LANES]) -> Self::I {
        array::from_fn(|i| i32::from_le_bytes(bytes_at(bytes, i)))
    }
    #[inline(always)]
    fn and(a: Self::I, b: Self::I) -> Self::I {
        array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(a: Self::I, b: Self::I) -> Self::I {
        array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shl<const BITS: u32>(v: Self::I) -> Self::I {
        Self::pairs(v, |x| x << BITS)
    }
    #[inline(always)]
    fn shr<const BITS: u32>(v: Self::I) -> Self::I {
        Self::pairs(v, |x| (x.cast_unsigned() >> BITS).cast_signed())
    }
    #[inline(always)]
    fn sar<const BITS: u32>(v: Self::I) -> Self::I {
        Self::pairs(v, |x| x >> BITS)
    }
    #[inline(always)]
    fn dot_pairs(sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (Self::halves(a[i]), Self::halves(b[i]));
            sums[i] + i32::from(a0) * i32::from(b0) + i32::from(a1) * i32::from(b1)
        })
    }
}
