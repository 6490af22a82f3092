//! AVX-512 with VNNI, and AVX2.
//!
//! Every function here is inlined into [`avx512`] or [`avx2`], which run only on a machine with
//! their instructions: that is what makes the calls of intrinsics sound. Arguments are references
//! to arrays of the size that an instruction reads or writes.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes, Portable};

/// Runs a kernel with the best instructions of this machine.
pub(super) fn dispatch(kernel: impl Kernel) {
    if has_avx512() {
        // SAFETY: the machine has these instructions.
        unsafe { avx512(kernel) }
    } else if has_avx2() {
        // SAFETY: the machine has these instructions.
        unsafe { avx2(kernel) }
    } else {
        kernel.run::<Portable>();
    }
}

fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && has_avx2()
}

fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Runs a kernel with AVX2, if the machine has it.
#[cfg(test)]
pub(super) fn run_avx2(kernel: impl Kernel) -> bool {
    let has = has_avx2();
    if has {
        // SAFETY: the machine has these instructions.
        unsafe { avx2(kernel) }
    }
    has
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn avx512(kernel: impl Kernel) {
    kernel.run::<Avx512>();
}

#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(kernel: impl Kernel) {
    kernel.run::<Avx2>();
}

#[inline(always)]
fn prefetch(bytes: &[u8], ahead: usize) {
    let at = bytes.as_ptr().wrapping_add(ahead);
    // A hint: an address that is not mapped does nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

/// One register of 512 bits a vector.
#[derive(Clone, Copy)]
struct Avx512;

// SAFETY of all blocks: see the module.
impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    const IS_WIDE: bool = true;

    #[inline(always)]
    fn splat(value: f32) -> Self::F {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self::F {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self::F {
        unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self::F {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self::F {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_u8(bytes: &[u8; LANES]) -> Self::F {
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }
    }
    #[inline(always)]
    fn load_i8(bytes: &[u8; LANES]) -> Self::F {
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }
    }
    #[inline(always)]
    fn prefetch(bytes: &[u8], ahead: usize) {
        prefetch(bytes, ahead);
    }
    #[inline(always)]
    fn store(v: Self::F, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn sum(v: Self::F) -> f32 {
        unsafe {
            sum8(_mm256_add_ps(
                _mm512_castps512_ps256(v),
                _mm512_extractf32x8_ps::<1>(v),
            ))
        }
    }
    #[inline(always)]
    fn sums(v: [Self::F; LANES]) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        unsafe {
            let ab = pairs(quarters(&v, 0), quarters(&v, 1));
            let cd = pairs(quarters(&v, 2), quarters(&v, 3));
            let all = _mm512_add_ps(
                _mm512_shuffle_ps::<0x44>(ab, cd),
                _mm512_shuffle_ps::<0xEE>(ab, cd),
            );
            _mm512_storeu_ps(out.as_mut_ptr(), all);
        }
        out
    }
    #[inline(always)]
    fn float(v: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn splat_i32(value: i32) -> Self::I {
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    fn load_bits(bytes: &[u8; 4 * LANES]) -> Self::I {
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }
    #[inline(always)]
    fn and(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shl<const BITS: u32>(v: Self::I) -> Self::I {
        unsafe { _mm512_slli_epi16::<BITS>(v) }
    }
    #[inline(always)]
    fn shr<const BITS: u32>(v: Self::I) -> Self::I {
        unsafe { _mm512_srli_epi16::<BITS>(v) }
    }
    #[inline(always)]
    fn sar<const BITS: u32>(v: Self::I) -> Self::I {
        unsafe { _mm512_srai_epi16::<BITS>(v) }
    }
    #[inline(always)]
    fn dot_pairs(sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_dpwssd_epi32(sums, a, b) }
    }
}

// Functions, not closures: a closure has no instructions of its own to inline intrinsics with.

/// Adds the quarters of vectors `r`, `4 + r`, `8 + r` and `12 + r`, a quarter of the result each.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(v: &[__m512; LANES], r: usize) -> __m512 {
    let (ab, cd) = (halves(v[r], v[4 + r]), halves(v[8 + r], v[12 + r]));
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0x88>(ab, cd),
        _mm512_shuffle_f32x4::<0xDD>(ab, cd),
    )
}

/// Adds the halves of two vectors, a half of the result each.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0x44>(a, b),
        _mm512_shuffle_f32x4::<0xEE>(a, b),
    )
}

/// Adds the first two and the last two lanes of every quarter of two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
}

/// Two registers of 256 bits a vector.
#[derive(Clone, Copy)]
struct Avx2;

impl Avx2 {
    #[inline(always)]
    fn both<T: Copy, U>(v: [T; 2], f: impl Fn(T) -> U) -> [U; 2] {
        [f(v[0]), f(v[1])]
    }

    /// Bytes of the second half.
    #[inline(always)]
    fn second<const N: usize>(bytes: &[u8; N]) -> *const u8 {
        bytes[N / 2..].as_ptr()
    }
}

/// Sum of eight lanes, in halves.
#[inline(always)]
fn sum8(v: __m256) -> f32 {
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

impl Lanes for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const IS_WIDE: bool = false;

    #[inline(always)]
    fn splat(value: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self::F {
        let (a, b) = values.split_at(LANES / 2);
        unsafe { [_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())] }
    }
    #[inline(always)]
    fn load_f32(bytes: &[u8; 4 * LANES]) -> Self::F {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            _mm256_loadu_ps(at.cast())
        })
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self::F {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            _mm256_cvtph_ps(_mm_loadu_si128(at.cast()))
        })
    }
    #[inline(always)]
    fn load_bf16(bytes: &[u8; 2 * LANES]) -> Self::F {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn load_u8(bytes: &[u8; LANES]) -> Self::F {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())))
        })
    }
    #[inline(always)]
    fn load_i8(bytes: &[u8; LANES]) -> Self::F {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())))
        })
    }
    #[inline(always)]
    fn prefetch(bytes: &[u8], ahead: usize) {
        prefetch(bytes, ahead);
    }
    #[inline(always)]
    fn store(v: Self::F, out: &mut [f32; LANES]) {
        let (a, b) = out.split_at_mut(LANES / 2);
        unsafe {
            _mm256_storeu_ps(a.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(b.as_mut_ptr(), v[1]);
        }
    }
    #[inline(always)]
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sum(v: Self::F) -> f32 {
        sum8(unsafe { _mm256_add_ps(v[0], v[1]) })
    }
    #[inline(always)]
    fn float(v: Self::I) -> Self::F {
        Self::both(v, |v| unsafe { _mm256_cvtepi32_ps(v) })
    }
    #[inline(always)]
    fn splat_i32(value: i32) -> Self::I {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    fn load_bits(bytes: &[u8; 4 * LANES]) -> Self::I {
        Self::both([bytes.as_ptr(), Self::second(bytes)], |at| unsafe {
            _mm256_loadu_si256(at.cast())
        })
    }
    #[inline(always)]
    fn and(a: Self::I, b: Self::I) -> Self::I {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn or(a: Self::I, b: Self::I) -> Self::I {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn shl<const BITS: u32>(v: Self::I) -> Self::I {
        let count = unsafe { _mm_cvtsi32_si128(BITS as i32) };
        Self::both(v, |v| unsafe { _mm256_sll_epi16(v, count) })
    }
    #[inline(always)]
    fn shr<const BITS: u32>(v: Self::I) -> Self::I {
        let count = unsafe { _mm_cvtsi32_si128(BITS as i32) };
        Self::both(v, |v| unsafe { _mm256_srl_epi16(v, count) })
    }
    #[inline(always)]
    fn sar<const BITS: u32>(v: Self::I) -> Self::I {
        let count = unsafe { _mm_cvtsi32_si128(BITS as i32) };
        Self::both(v, |v| unsafe { _mm256_sra_epi16(v, count) })
    }
    #[inline(always)]
    fn dot_pairs(sums: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let one = |sums, a, b| unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)) };
        [one(sums[0], a[0], b[0]), one(sums[1], a[1], b[1])]
    }
}
