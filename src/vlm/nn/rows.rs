//! Products of rows of floats with each other, and their weighted sums.
//!
//! Every number is added in the same order, however many rows are asked for together: a batch gives
//! exactly what its rows give alone.

use std::{array, marker::PhantomData};

use super::simd::{Kernel, LANES, Lanes, dispatch};

/// Type of the numbers of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatKind {
    /// 32 bits.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl FloatKind {
    /// Returns the bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// Bytes of activations that the rows of a matrix are multiplied by before the next ones: they
/// stay in the nearer caches.
const NEAR_BYTES: usize = 1 << 18;

/// Rows of a matrix, and of activations, that are multiplied at a time.
const SIDE: usize = 4;

/// Activations that stay in the nearest cache beside rows that pass through it.
const NEAREST: usize = 1 << 12;

/// Bytes of a line of memory.
const LINE: usize = 64;

/// Bytes by which memory that is read in order is asked for before.
const AHEAD: usize = 1 << 11;

/// Computes the products of encoded `rows` with `x` `(n, cols)`: `out` holds for each row of `x`
/// those with all of `rows`.
pub(super) fn row_products(
    kind: FloatKind,
    rows: &[&[u8]],
    cols: usize,
    x: &[f32],
    out: &mut [&mut [f32]],
) {
    match kind {
        FloatKind::F32 => dispatch(RowProducts::<F32>(rows, cols, x, out, PhantomData)),
        FloatKind::F16 => dispatch(RowProducts::<F16>(rows, cols, x, out, PhantomData)),
        FloatKind::BF16 => dispatch(RowProducts::<Bf16>(rows, cols, x, out, PhantomData)),
    }
}

/// Computes sums of `rows` by the `shares` `(out.len(), rows.len())` of each: `out` has the width
/// of the rows.
pub(super) fn weighted_sums(rows: &[&[f32]], shares: &[f32], out: &mut [&mut [f32]]) {
    dispatch(WeightedSums(rows, shares, out));
}

/// Encoding of floats.
trait Element {
    /// Bytes of a vector.
    type Chunk;
    /// Splits bytes into whole vectors and a rest.
    fn chunks(bytes: &[u8]) -> (&[Self::Chunk], &[u8]);
    /// Loads a vector.
    fn load<S: Lanes>(chunk: &Self::Chunk) -> S::F;
    /// Loads a rest, filled up with zeros.
    fn load_rest<S: Lanes>(rest: &[u8]) -> S::F;
}

macro_rules! element {
    ($name:ident, $bytes:literal, $load:ident) => {
        struct $name;
        impl Element for $name {
            type Chunk = [u8; $bytes * LANES];
            #[inline(always)]
            fn chunks(bytes: &[u8]) -> (&[Self::Chunk], &[u8]) {
                bytes.as_chunks()
            }
            #[inline(always)]
            fn load<S: Lanes>(chunk: &Self::Chunk) -> S::F {
                S::$load(chunk)
            }
            #[inline(always)]
            fn load_rest<S: Lanes>(rest: &[u8]) -> S::F {
                let mut chunk = [0; $bytes * LANES];
                chunk[..rest.len()].copy_from_slice(rest);
                S::$load(&chunk)
            }
        }
    };
}

element!(F32, 4, load_f32);
element!(F16, 2, load_f16);
element!(Bf16, 2, load_bf16);

struct RowProducts<'a, 'b, E>(
    &'a [&'a [u8]],
    usize,
    &'a [f32],
    &'a mut [&'b mut [f32]],
    PhantomData<E>,
);

impl<E: Element> Kernel for RowProducts<'_, '_, E> {
    #[inline(always)]
    fn run<S: Lanes>(self) {
        let Self(rows, cols, x, out, _) = self;
        let near = (NEAR_BYTES / 4 / cols).max(2 * SIDE);
        for (x, out) in x.chunks(near * cols).zip(out.chunks_mut(near)) {
            if out.len() == 1 || out.len() <= SIDE && x.len() <= NEAREST {
                // Memory is what limits these, and is fastest read in order.
                all_rows::<S, E, 1, SIDE>(rows, cols, x, out);
            } else if S::IS_WIDE {
                all_rows::<S, E, SIDE, SIDE>(rows, cols, x, out);
            } else {
                all_rows::<S, E, 2, 2>(rows, cols, x, out);
            }
        }
    }
}

/// Products of all rows, `R` at a time, with `x`, `N` at a time.
#[inline(always)]
fn all_rows<S: Lanes, E: Element, const R: usize, const N: usize>(
    rows: &[&[u8]],
    cols: usize,
    x: &[f32],
    out: &mut [&mut [f32]],
) {
    let (whole, rest) = rows.as_chunks::<R>();
    for (rows, column) in whole.iter().zip((0..).step_by(R)) {
        all_x::<S, E, R, N>(rows, cols, x, out, column);
    }
    for (row, column) in rest.iter().zip(whole.len() * R..) {
        all_x::<S, E, 1, N>(&[row], cols, x, out, column);
    }
}

#[inline(always)]
fn all_x<S: Lanes, E: Element, const R: usize, const N: usize>(
    rows: &[&[u8]; R],
    cols: usize,
    x: &[f32],
    out: &mut [&mut [f32]],
    column: usize,
) {
    let (groups, rest) = out.as_chunks_mut::<N>();
    let mut lines = x.chunks_exact(cols);
    let mut next = || lines.next().unwrap_or_default();
    // The first products ask for the rows that come next, which mostly lie behind these.
    let mut ahead = match R {
        1 => AHEAD,
        _ => R * rows[0].len(),
    };
    for group in groups {
        some_x::<S, E, R, N>(rows, array::from_fn(|_| next()), group, column, ahead);
        ahead = 0;
    }
    for out in rest {
        some_x::<S, E, R, 1>(rows, [next()], array::from_mut(out), column, ahead);
        ahead = 0;
    }
}

/// Products of `R` rows with `N` rows of activations; asks for the memory that lies `ahead`.
#[inline(always)]
fn some_x<S: Lanes, E: Element, const R: usize, const N: usize>(
    rows: &[&[u8]; R],
    x: [&[f32]; N],
    out: &mut [&mut [f32]; N],
    column: usize,
    ahead: usize,
) {
    let bytes = rows;
    let mut sums = [[S::splat(0.0); R]; N];
    let (rows, x) = (rows.map(E::chunks), x.map(|x| x.as_chunks::<LANES>()));
    let whole = rows[0].0.len();
    let (chunks, lines) = (rows.map(|row| &row.0[..whole]), x.map(|x| &x.0[..whole]));
    let chunk = size_of::<E::Chunk>();
    for k in 0..whole {
        if ahead > 0 && (chunk == LINE || k % (LINE / chunk) == 0) {
            for row in bytes {
                S::prefetch(row, ahead + k * chunk);
            }
        }
        let w: [S::F; R] = array::from_fn(|r| E::load::<S>(&chunks[r][k]));
        for (sums, line) in sums.iter_mut().zip(&lines) {
            let x = S::load(&line[k]);
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = S::fma(w, x, *sum);
            }
        }
    }
    if !rows[0].1.is_empty() {
        let w: [S::F; R] = array::from_fn(|r| E::load_rest::<S>(rows[r].1));
        for (sums, (_, rest)) in sums.iter_mut().zip(&x) {
            let x = S::load(&padded(rest));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = S::fma(w, x, *sum);
            }
        }
    }
    if R == SIDE && N == SIDE {
        let all = S::sums(array::from_fn(|i| sums[i / SIDE][i % SIDE]));
        for (out, sums) in out.iter_mut().zip(all.as_chunks::<R>().0) {
            out[column..][..R].copy_from_slice(sums);
        }
    } else {
        for (out, sums) in out.iter_mut().zip(sums) {
            out[column..][..R].copy_from_slice(&sums.map(S::sum));
        }
    }
}

/// The values, filled up with zeros.
#[inline(always)]
fn padded(values: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

struct WeightedSums<'a, 'b>(&'a [&'a [f32]], &'a [f32], &'a mut [&'b mut [f32]]);

impl Kernel for WeightedSums<'_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self) {
        let Self(rows, shares, out) = self;
        let width = out.first().map_or(0, |out| out.len());
        let mut column = 0;
        while column < width {
            let vectors = (width - column) / LANES;
            column += match vectors {
                0 => some_columns::<S, 1>(rows, shares, out, column),
                1 => some_columns::<S, 1>(rows, shares, out, column),
                2 | 3 => some_columns::<S, 2>(rows, shares, out, column),
                _ if S::IS_WIDE => some_columns::<S, 4>(rows, shares, out, column),
                _ => some_columns::<S, 2>(rows, shares, out, column),
            };
        }
    }
}

/// Weighted sums of `V` vectors of columns; returns how many columns these are.
#[inline(always)]
fn some_columns<S: Lanes, const V: usize>(
    rows: &[&[f32]],
    shares: &[f32],
    out: &mut [&mut [f32]],
    column: usize,
) -> usize {
    let count = rows.len();
    let share = |i: usize| &shares[i * count..][..count];
    let (mut i, n) = (0, out.len());
    while i < n {
        let most = if S::IS_WIDE { SIDE } else { 2 };
        let some = &mut out[i..];
        i += match n - i {
            3.. if most == SIDE => {
                sums_of::<S, V, 3>(rows, [0, 1, 2].map(|j| share(i + j)), some, column)
            }
            2.. => sums_of::<S, V, 2>(rows, [0, 1].map(|j| share(i + j)), some, column),
            _ => sums_of::<S, V, 1>(rows, [share(i)], some, column),
        };
    }
    V * LANES
}

#[inline(always)]
fn sums_of<S: Lanes, const V: usize, const N: usize>(
    rows: &[&[f32]],
    shares: [&[f32]; N],
    out: &mut [&mut [f32]],
    column: usize,
) -> usize {
    let mut sums = [[S::splat(0.0); V]; N];
    for (p, row) in rows.iter().enumerate() {
        let row = &row[column..];
        let lanes: [S::F; V] = array::from_fn(|v| match row.as_chunks().0.get(v) {
            Some(lanes) => S::load(lanes),
            None => S::load(&padded(row)),
        });
        for (sums, shares) in sums.iter_mut().zip(shares) {
            let share = S::splat(shares[p]);
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                *sum = S::fma(share, lanes, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (v, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0; LANES];
            S::store(sum, &mut lanes);
            let out = &mut out[column + v * LANES..];
            let len = out.len().min(LANES);
            out[..len].copy_from_slice(&lanes[..len]);
        }
    }
    N
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible numbers between -1 and 1.
    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| (i.wrapping_add(seed * 7919)).wrapping_mul(2_654_435_761) >> 8;
        (0..len as u32)
            .map(|i| number(i) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn products_are_the_same_whatever_they_are_computed_with() {
        for (count, cols, n) in [(1, 16, 1), (9, 40, 7), (13, 301, 9), (4, 1000, 70)] {
            let (w, x) = (noise(count * cols, 1), noise(n * cols, 2));
            let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
            let rows: Vec<&[u8]> = bytes.chunks(4 * cols).collect();
            let mut all = vec![0.0; n * count];
            let mut out: Vec<&mut [f32]> = all.chunks_mut(count).collect();
            row_products(FloatKind::F32, &rows, cols, &x, &mut out);
            for (i, x) in x.chunks(cols).enumerate() {
                for (r, row) in rows.iter().enumerate() {
                    let mut one = [0.0];
                    row_products(FloatKind::F32, &[row], cols, x, &mut [&mut one]);
                    assert_eq!(one[0].to_bits(), all[i * count + r].to_bits());
                    let w = &w[r * cols..][..cols];
                    let want: f64 = w.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum();
                    assert!((f64::from(one[0]) - want).abs() < 1e-4, "{} {want}", one[0]);
                }
            }
        }
    }

    #[test]
    fn sums_are_the_same_whatever_they_are_computed_with() {
        for (count, width, n) in [(1, 16, 1), (5, 24, 3), (40, 64, 9), (33, 80, 4), (3, 7, 2)] {
            let (values, shares) = (noise(count * width, 3), noise(n * count, 4));
            let rows: Vec<&[f32]> = values.chunks(width).collect();
            let mut all = vec![0.0; n * width];
            let mut out: Vec<&mut [f32]> = all.chunks_mut(width).collect();
            weighted_sums(&rows, &shares, &mut out);
            for (i, shares) in shares.chunks(count).enumerate() {
                let mut one = vec![0.0; width];
                weighted_sums(&rows, shares, &mut [&mut one]);
                assert_eq!(bits(&one), bits(&all[i * width..][..width]));
                for (column, got) in one.iter().enumerate() {
                    let terms = rows.iter().zip(shares);
                    let want: f64 = terms.map(|(row, s)| f64::from(row[column] * s)).sum();
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
                }
            }
        }
    }
}
