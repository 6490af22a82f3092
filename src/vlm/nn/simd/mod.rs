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
    /// Asks for the line of memory that begins so many bytes behind the beginning of `bytes`, which
    /// may lie outside of them.
    fn prefetch(bytes: &[u8], ahead: usize);
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
    fn prefetch(_: &[u8], _: usize) {}
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

#[cfg(test)]
mod tests {
    use super::*;

    /// All operations on reproducible bytes, as bits.
    struct Everything<'a>(&'a mut Vec<u32>);

    impl Kernel for Everything<'_> {
        #[inline(always)]
        fn run<S: Lanes>(self) {
            let bytes: [u8; 64] = array::from_fn(|i| (i * 37 % 251) as u8);
            let halves: [u8; 32] = array::from_fn(|i| if i % 2 == 0 { i as u8 } else { 0x3C });
            let small: [u8; LANES] = array::from_fn(|i| (i * 17) as u8);
            let floats: [f32; LANES] = array::from_fn(|i| (i as f32 - 6.5) / 3.0);
            let f = S::load(&floats);
            let i = S::load_bits(&bytes);
            let all_f = [
                S::splat(1.5),
                f,
                S::load_f32(
                    &floats
                        .map(f32::to_le_bytes)
                        .as_flattened()
                        .try_into()
                        .unwrap(),
                ),
                S::load_f16(&halves),
                S::load_bf16(&halves),
                S::load_u8(&small),
                S::load_i8(&small),
                S::fma(f, S::splat(0.3), S::load_u8(&small)),
                S::mul(f, S::load_i8(&small)),
                S::float(S::shr::<12>(i)),
            ];
            let all_i = [
                S::splat_i32(0x1234_5678),
                i,
                S::and(i, S::splat_i32(0x0F0F_0F0F)),
                S::or(i, S::splat_i32(0x0101_0101)),
                S::shl::<3>(i),
                S::shr::<4>(i),
                S::sar::<8>(i),
                S::dot_pairs(
                    S::splat_i32(-5),
                    i,
                    S::splat_i32(0x7FFF_8001_u32.cast_signed()),
                ),
            ];
            let mut out = [0.0; LANES];
            for v in all_f {
                S::store(v, &mut out);
                self.0.extend(out.map(f32::to_bits));
                self.0.push(S::sum(v).to_bits());
            }
            // Small integers survive the way through f32.
            for v in all_i {
                for part in [S::and(v, S::splat_i32(0xFFFF)), S::shr::<1>(v)] {
                    S::store(S::float(S::and(part, S::splat_i32(0xFFFF))), &mut out);
                    self.0.extend(out.map(f32::to_bits));
                }
            }
            let many: [S::F; LANES] = array::from_fn(|i| S::mul(f, S::splat(0.1 + i as f32)));
            self.0.extend(S::sums(many).map(f32::to_bits));
            self.0.extend(many.map(|v| S::sum(v).to_bits()));
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut want = Vec::new();
        Everything(&mut want).run::<Portable>();
        let mut best = Vec::new();
        dispatch(Everything(&mut best));
        assert_eq!(best, want);
        #[cfg(target_arch = "x86_64")]
        {
            let mut got = Vec::new();
            assert!(!x86::run_avx2(Everything(&mut got)) || got == want);
        }
        let sums = &want[want.len() - 2 * LANES..];
        assert_eq!(sums[..LANES], sums[LANES..]);
    }
}
