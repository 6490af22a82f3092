//! Tensor operations that candle runs slowly or without a backward pass, fused for the CPU.
//!
//! candle's own fused `rms_norm`, `rope` and `softmax_last_dim` have no backward pass and silently
//! cut gradients. The operations here that training uses have one, and fall back to differentiable
//! compositions of candle's basic operations on other devices. All are f32.

mod activation;
mod attention;
mod cross_entropy;
mod device_attention;
mod dropout;
mod encoding;
mod linear;
mod log_prob;
mod norm;
mod packed;
mod products;
mod rope;
mod rows;
mod simd;
mod softmax;
mod swiglu;
mod tiles;

pub use activation::Activation;
pub use attention::{Ragged, RaggedRow, ragged_attention};
pub use cross_entropy::cross_entropy;
pub(crate) use cross_entropy::log_sum_exp;
pub use device_attention::DeviceAttention;
pub use dropout::dropout;
pub use linear::Linear;
pub use log_prob::log_probs;
pub use norm::{layer_norm, rms_norm};
pub use packed::{PackedMatrix, RowOrder, SharedArea, SharedBytes};
pub use products::affine;
pub use rope::{RopeAngles, rope};
pub use softmax::masked_softmax;
pub use swiglu::silu_mul;

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

use crate::util::team::for_items;

/// Minimum number of elements for which a parallel loop pays off.
const PARALLEL_ELEMENTS: usize = 1 << 15;

/// Contiguous f32 elements behind a storage and its layout.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{op}: arguments must be contiguous"),
    }
}

/// Calls `f` with a tensor's elements, without a copy if it is contiguous.
fn with_elements<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => f(elements(cpu, layout, "backward")?),
        _ => bail!("a CPU operation was given a tensor on another device"),
    }
}

/// Fills `out` row by row (`width` elements each), in parallel if that pays off.
fn for_lines(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_ELEMENTS {
        out.chunks_mut(width)
            .enumerate()
            .for_each(|(i, line)| f(i, line));
    } else {
        let lines = (PARALLEL_ELEMENTS / 4 / width).max(1);
        let mut chunks: Vec<&mut [f32]> = out.chunks_mut(width * lines).collect();
        for_items(&mut chunks, |block, chunk| {
            chunk
                .chunks_mut(width)
                .enumerate()
                .for_each(|(i, line)| f(block * lines + i, line));
        });
    }
}

/// `a * b + c`, fused if the target has the instruction; otherwise `f32::mul_add` would be a slow
/// library call.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// `e^x` to 2 ulp without branches, so that the compiler vectorizes loops over it (Cephes' `expf`:
/// range reduction by ln 2, degree-5 polynomial).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    let n = fma(x, std::f32::consts::LOG2_E, 12_582_912.0) - 12_582_912.0;
    let r = fma(n, 2.121_944_4e-4, fma(n, -355.0 / 512.0, x));
    let p = fma(r, 1.987_569_1e-4, 1.398_2e-3);
    let p = fma(r, p, 8.333_452e-3);
    let p = fma(r, p, 4.166_579_6e-2);
    let p = fma(r, p, 1.666_666_5e-1);
    let p = fma(r, p, 0.5);
    let y = fma(r * r, p, r) + 1.0;
    y * f32::from_bits((((n as i32) + 127) << 23) as u32)
}

/// Dot product with independent partial sums, so that it vectorizes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            sums[i] = fma(x[i], y[i], sums[i]);
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::exp;

    /// Asserts that the gradient of `sum(f(vars) * weights)` for every variable agrees with central
    /// differences.
    pub(crate) fn check_gradients(vars: &[Var], f: impl Fn() -> Tensor) {
        let out = f();
        let n = out.elem_count();
        let weights = Tensor::from_vec(
            (0..n)
                .map(|i| ((i * 37 % 11) as f32 - 5.0) / 5.0)
                .collect::<Vec<_>>(),
            out.shape(),
            &Device::Cpu,
        )
        .unwrap();
        let loss = || (f() * &weights).unwrap().sum_all().unwrap();
        let grads = loss().backward().unwrap();
        let value = || f64::from(loss().to_scalar::<f32>().unwrap());
        for (which, var) in vars.iter().enumerate() {
            let grad = grads
                .get(var)
                .expect("no gradient")
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(
                grad.iter().any(|g| *g != 0.0),
                "variable {which}: gradient is zero"
            );
            let base = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..base.len() {
                let at = |delta: f32| {
                    let mut moved = base.clone();
                    moved[i] += delta;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                        .unwrap();
                    value()
                };
                let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                at(0.0);
                let got = f64::from(grad[i]);
                assert!(
                    (numeric - got).abs() < 2e-3 * (1.0 + numeric.abs()),
                    "variable {which}[{i}]: {got} against {numeric}"
                );
            }
        }
    }

    pub(crate) fn var(values: usize, shape: impl Into<candle_core::Shape>, seed: u32) -> Var {
        let data = (0..values as u32).map(|i| {
            ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 8) % 2000) as f32 / 1000.0
                - 1.0
        });
        Var::from_tensor(&Tensor::from_vec(data.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap())
            .unwrap()
    }

    #[test]
    fn exp_in_range_is_accurate() {
        for i in -8600..8700 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - want) / want).abs() < 3e-7, "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
