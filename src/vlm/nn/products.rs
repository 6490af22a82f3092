//! Products of activations with matrices on the CPU, shared by all threads.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::{
    elements,
    packed::{PackedMatrix, RowOrder},
    rows::{FloatKind, row_products},
    simd::LANES,
    tiles::Tiles,
};
use crate::util::team::for_items;

/// Products below which sharing them costs more than it saves.
const ALONE: usize = 1 << 16;

/// Parts of the work for each thread: one that is interrupted leaves little to wait for.
const PARTS_EACH: usize = 4;

/// Values of a matrix that are decoded at a time where a product needs a backward pass.
const BAND: usize = 1 << 20;

/// Rows of a matrix for products.
pub(super) enum MatrixRows<'a> {
    /// Floats, row by row.
    Floats(FloatKind, &'a [u8], RowOrder),
    /// Integers.
    Tiles(&'a Tiles),
}

/// Matrix with its number of rows.
type Sized<'a> = (MatrixRows<'a>, usize);

/// Returns `x @ matrixᵀ + bias` for matrices of one width: their outputs side by side, `(n, rows)`.
/// Differentiable in `x`.
///
/// # Errors
/// When the widths differ or a tensor operation fails.
pub(super) fn packed_products(
    x: &Tensor,
    matrices: &[PackedMatrix],
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (_, cols) = x.dims2()?;
    if let Some(matrix) = matrices.iter().find(|matrix| matrix.cols() != cols) {
        bail!("{cols} inputs for a matrix of {}", matrix.cols());
    }
    if x.dtype() != DType::F32 {
        bail!("encoded matrices take f32, not {:?}", x.dtype());
    }
    if !x.track_op() {
        let rows = matrices.iter();
        let rows = rows.map(|matrix| Ok((matrix.for_products()?, matrix.rows())));
        return multiply(x, &rows.collect::<Result<Vec<_>>>()?, cols, bias);
    }
    let bands = matrices.iter().flat_map(|matrix| {
        matrix.bands(BAND).map(|rows| {
            let shape = (rows.len(), cols);
            let band = Tensor::from_vec(matrix.decode_rows(rows), shape, x.device())?;
            x.matmul(&band.t()?)
        })
    });
    let product = match bands.collect::<Result<Vec<_>>>()?.as_slice() {
        [one] => one.clone(),
        bands => Tensor::cat(bands, 1)?,
    };
    match bias {
        Some(bias) => product.broadcast_add(bias),
        None => Ok(product),
    }
}

/// Returns `x @ weightᵀ + bias` for `x` `(n, in)` and `weight` `(out, in)`: `(n, out)`.
/// Differentiable.
///
/// # Errors
/// When the shapes do not fit or a tensor operation fails.
pub fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let tracked = [Some(x), Some(weight), bias];
    let is_ours = x.device().is_cpu()
        && weight.dtype() == DType::F32
        && x.dtype() == DType::F32
        && weight.is_contiguous()
        && !tracked.into_iter().flatten().any(Tensor::track_op);
    if !is_ours {
        let product = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
        let product = product.to_dtype(x.dtype())?;
        return match bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        };
    }
    let (rows, cols) = weight.dims2()?;
    let (storage, layout) = weight.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        bail!("a matrix that is not on the CPU")
    };
    let values = elements(storage, layout, "affine")?;
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let matrix = MatrixRows::Floats(FloatKind::F32, bytes, RowOrder::Straight);
    multiply(x, &[(matrix, rows)], cols, bias)
}

fn multiply(
    x: &Tensor,
    matrices: &[Sized<'_>],
    cols: usize,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let bias = bias.map(|bias| bias.to_vec1::<f32>()).transpose()?;
    let products = Products {
        matrices,
        cols,
        bias,
    };
    x.contiguous()?.apply_op1_no_bwd(&products)
}

struct Products<'a> {
    matrices: &'a [Sized<'a>],
    cols: usize,
    bias: Option<Vec<f32>>,
}

/// Rows of one matrix from `first` on, and their products with each row of activations.
struct Part<'a, 'b> {
    matrix: &'a MatrixRows<'a>,
    first: usize,
    /// Column of the first product in the output.
    column: usize,
    out: Vec<&'b mut [f32]>,
}

impl CustomOp1 for Products<'_> {
    fn name(&self) -> &'static str {
        "products"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let (n, cols) = layout.shape().dims2()?;
        if cols != self.cols {
            bail!("{cols} inputs for a matrix of {}", self.cols);
        }
        let width: usize = self.matrices.iter().map(|(_, rows)| rows).sum();
        let mut out = vec![0.0; n * width];
        let activations = self.matrices.iter().find_map(|(matrix, _)| match matrix {
            MatrixRows::Tiles(tiles) => Some(tiles.activations(x)),
            MatrixRows::Floats(..) => None,
        });
        let mut parts = self.parts(n, width, &mut out);
        let compute = |part: &mut Part<'_, '_>| {
            match (part.matrix, &activations) {
                (MatrixRows::Tiles(tiles), Some(x)) => {
                    tiles.products(part.first, x, &mut part.out);
                }
                (MatrixRows::Floats(kind, bytes, order), _) => {
                    let count = part.out.first().map_or(0, |out| out.len());
                    let size = kind.bytes() * cols;
                    let row = |row| &bytes[order.stored(row) * size..][..size];
                    let rows: Vec<&[u8]> = (part.first..part.first + count).map(row).collect();
                    row_products(*kind, &rows, cols, x, &mut part.out);
                }
                (MatrixRows::Tiles(_), None) => {}
            }
            if let Some(bias) = &self.bias {
                for out in &mut part.out {
                    let bias = &bias[part.column..][..out.len()];
                    out.iter_mut()
                        .zip(bias)
                        .for_each(|(out, bias)| *out += bias);
                }
            }
        };
        if n * width * cols >= ALONE {
            for_items(&mut parts, |_, part| compute(part));
        } else {
            parts.iter_mut().for_each(compute);
        }
        drop(parts);
        Ok((CpuStorage::F32(out), (n, width).into()))
    }
}

impl Products<'_> {
    /// Splits the work and the output `(n, width)` into parts.
    fn parts<'b>(&self, n: usize, width: usize, out: &'b mut [f32]) -> Vec<Part<'_, 'b>> {
        let wanted = match n * width * self.cols {
            0 => return Vec::new(),
            1..ALONE => 1,
            _ => PARTS_EACH * rayon::current_num_threads(),
        };
        let lines = width.div_ceil(wanted).next_multiple_of(LANES);
        let mut parts = Vec::with_capacity(wanted + self.matrices.len());
        let mut column = 0;
        for (matrix, rows) in self.matrices {
            for first in (0..*rows).step_by(lines) {
                parts.push(Part {
                    matrix,
                    first,
                    column: column + first,
                    out: Vec::with_capacity(n),
                });
            }
            column += rows;
        }
        let ends: Vec<usize> = parts.iter().skip(1).map(|part| part.column).collect();
        for mut line in out.chunks_exact_mut(width) {
            for (part, end) in parts.iter_mut().zip(ends.iter().chain([&width])) {
                let (mine, others) = line.split_at_mut(end - part.column);
                part.out.push(mine);
                line = others;
            }
        }
        parts
    }
}
