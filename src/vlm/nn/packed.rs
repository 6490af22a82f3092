//! Matrices that stay encoded in memory or in a mapped file, and their products with activations.

use std::{fmt, ops::Range, sync::Arc};

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail,
    quantized::{GgmlDType, QTensor},
};
use rayon::prelude::*;

use super::{PARALLEL_ELEMENTS, elements, encoding, fma};

/// Values decoded at a time: a multiple of every block, and little enough to stay in registers and
/// the nearest cache.
const RUN: usize = 256;

/// Independent partial sums of a product.
const SUMS: usize = 32;

/// Most rows of activations that are multiplied while a matrix is decoded; for more, bands of the
/// matrix are decoded and multiplied as a whole.
const FEW: usize = 8;

/// Values of a band.
const BAND: usize = 1 << 20;

/// Part of a memory area that several owners share, such as a mapped file.
#[derive(Clone)]
pub struct SharedBytes {
    area: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// Shares a whole memory area.
    pub fn new(area: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*area).as_ref().len();
        Self { area, range }
    }

    /// Returns the part of these bytes at `range`, if it lies within them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self {
            area: self.area.clone(),
            range: start..end,
        })
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        (*self.area)
            .as_ref()
            .get(self.range.clone())
            .unwrap_or_default()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// Order in which a matrix's rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are counted.
    Straight,
    /// Within each head of that many rows, row `i` of the first half precedes row `i` of the
    /// second: rotary pairs are neighbors, as llama.cpp has queries and keys of LLaMA.
    Paired(usize),
}

impl RowOrder {
    /// Returns where row `row` is stored.
    fn stored(self, row: usize) -> usize {
        match self {
            Self::Straight => row,
            Self::Paired(head) => {
                let (first, within, half) = (row / head * head, row % head, head / 2);
                first + within % half * 2 + within / half
            }
        }
    }
}

/// Matrix `(rows, cols)` on the CPU in its encoding.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    bytes: SharedBytes,
    encoding: GgmlDType,
    decode: encoding::Decode,
    order: RowOrder,
    rows: usize,
    cols: usize,
}

impl PackedMatrix {
    /// Creates a matrix from its encoded rows, without a copy.
    ///
    /// # Errors
    /// When the encoding is not one that is read, a row is no whole number of blocks, or there are
    /// more or fewer bytes than the rows take.
    pub fn new(
        bytes: SharedBytes,
        encoding: GgmlDType,
        order: RowOrder,
        (rows, cols): (usize, usize),
    ) -> Result<Self> {
        let Some(decode) = encoding::decoder(encoding) else {
            bail!("matrices of type {encoding:?} cannot be read")
        };
        let block = encoding.block_size();
        if cols == 0 || !cols.is_multiple_of(block) {
            bail!("rows of {cols} values, {encoding:?} has blocks of {block}");
        }
        if let RowOrder::Paired(head) = order
            && (head < 2 || !head.is_multiple_of(2) || !rows.is_multiple_of(head))
        {
            bail!("{rows} rows in heads of {head}");
        }
        let expected = (cols / block)
            .checked_mul(encoding.type_size())
            .and_then(|row| row.checked_mul(rows));
        let len = bytes.as_ref().len();
        if expected != Some(len) {
            bail!("{len} bytes for {rows} rows of {cols} values of type {encoding:?}");
        }
        Ok(Self {
            bytes,
            encoding,
            decode,
            order,
            rows,
            cols,
        })
    }

    /// Creates a matrix in f32 from its values, row by row.
    ///
    /// # Errors
    /// When there are more or fewer values than the shape has.
    pub fn from_values(values: &[f32], shape: (usize, usize)) -> Result<Self> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let bytes = SharedBytes::new(Arc::new(bytes));
        Self::new(bytes, GgmlDType::F32, RowOrder::Straight, shape)
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the encoding.
    pub fn encoding(&self) -> GgmlDType {
        self.encoding
    }

    /// Returns the encoded rows, in the order in which they are stored.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Returns the bytes that `values` values of a row take.
    fn bytes_of(&self, values: usize) -> usize {
        values / self.encoding.block_size() * self.encoding.type_size()
    }

    /// Returns the encoded row `row`.
    fn row(&self, row: usize) -> &[u8] {
        let len = self.bytes_of(self.cols);
        &self.as_bytes()[self.order.stored(row) * len..][..len]
    }

    /// Decodes row `row` into `out`, `cols` values.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        (self.decode)(self.row(row), out);
    }

    /// Decodes all rows: `rows * cols` values.
    pub fn decode_all(&self) -> Vec<f32> {
        self.decode_rows(0..self.rows)
    }

    /// Decodes `rows`, in parallel.
    pub(super) fn decode_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.cols];
        let lines = (PARALLEL_ELEMENTS / self.cols).max(1);
        out.par_chunks_mut(lines * self.cols)
            .zip(rows.clone().into_par_iter().step_by(lines))
            .for_each(|(chunk, first)| {
                for (row, line) in (first..).zip(chunk.chunks_exact_mut(self.cols)) {
                    self.decode_row(row, line);
                }
            });
        out
    }

    /// Returns the encoded rows as they are counted.
    pub(super) fn straight_bytes(&self) -> Vec<u8> {
        (0..self.rows)
            .flat_map(|row| self.row(row))
            .copied()
            .collect()
    }

    /// Returns ranges of rows of at most [`BAND`] values.
    fn bands(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, lines) = (self.rows, (BAND / self.cols).max(1));
        (0..rows)
            .step_by(lines)
            .map(move |first| first..(first + lines).min(rows))
    }

    /// Returns the matrix in another encoding, or itself if its rows are no whole number of that
    /// encoding's blocks.
    ///
    /// # Errors
    /// When the encoding is not one that is read and written.
    pub fn encode(self, encoding: GgmlDType) -> Result<Self> {
        if self.encoding == encoding || !self.cols.is_multiple_of(encoding.block_size()) {
            return Ok(self);
        }
        let mut bytes = Vec::with_capacity(
            self.rows * (self.cols / encoding.block_size()) * encoding.type_size(),
        );
        // As many bands at a time as there are threads: little of the matrix is ever decoded.
        let lines = (BAND / 16 / self.cols).max(1);
        let firsts: Vec<usize> = (0..self.rows).step_by(lines).collect();
        for firsts in firsts.chunks(rayon::current_num_threads()) {
            let encoded = firsts.par_iter().map(|&first| {
                let rows = first..(first + lines).min(self.rows);
                let shape = (rows.len(), self.cols);
                let band = Tensor::from_vec(self.decode_rows(rows), shape, &Device::Cpu)?;
                Ok(QTensor::quantize(&band, encoding)?.data()?.into_owned())
            });
            for band in encoded.collect::<Result<Vec<Vec<u8>>>>()? {
                bytes.extend_from_slice(&band);
            }
        }
        let shape = (self.rows, self.cols);
        let bytes = SharedBytes::new(Arc::new(bytes));
        Self::new(bytes, encoding, RowOrder::Straight, shape)
    }

    /// Multiplies row `row` by the few rows of activations `(n, cols)`, decoding it once.
    fn product(&self, row: usize, x: &[f32], out: &mut [f32]) {
        let mut run = [0f32; RUN];
        let mut sums = [[0f32; SUMS]; FEW];
        let bytes = self.row(row).chunks(self.bytes_of(RUN));
        for (bytes, first) in bytes.zip((0..self.cols).step_by(RUN)) {
            let run = &mut run[..RUN.min(self.cols - first)];
            (self.decode)(bytes, run);
            for (sums, x) in sums.iter_mut().zip(x.chunks_exact(self.cols)) {
                *sums = accumulate(*sums, run, &x[first..][..run.len()]);
            }
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            *out = sums.iter().sum();
        }
    }
}

/// Adds the products of two runs of values to partial sums.
#[inline(always)]
fn accumulate(mut sums: [f32; SUMS], a: &[f32], b: &[f32]) -> [f32; SUMS] {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..SUMS {
            sums[i] = fma(a[i], b[i], sums[i]);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = fma(*a, *b, *sum);
    }
    sums
}

/// Returns `x @ matrixᵀ` for matrices of one width: their outputs side by side, `(n, rows)`.
/// Differentiable in `x`.
///
/// # Errors
/// When the widths differ or a tensor operation fails.
pub(super) fn packed_products(x: &Tensor, matrices: &[PackedMatrix]) -> Result<Tensor> {
    let (n, cols) = x.dims2()?;
    if let Some(matrix) = matrices.iter().find(|matrix| matrix.cols != cols) {
        bail!("{cols} inputs for a matrix of {}", matrix.cols);
    }
    if x.dtype() != DType::F32 {
        bail!("encoded matrices take f32, not {:?}", x.dtype());
    }
    if n <= FEW && !x.track_op() {
        return x.contiguous()?.apply_op1_no_bwd(&FewRows(matrices));
    }
    let bands = matrices.iter().flat_map(|matrix| {
        matrix.bands().map(|rows| {
            let shape = (rows.len(), cols);
            let band = Tensor::from_vec(matrix.decode_rows(rows), shape, x.device())?;
            x.matmul(&band.t()?)
        })
    });
    match bands.collect::<Result<Vec<_>>>()?.as_slice() {
        [one] => Ok(one.clone()),
        bands => Tensor::cat(bands, 1),
    }
}

/// Product of a few rows of activations, which reads and decodes every row of the matrices once.
struct FewRows<'a>(&'a [PackedMatrix]);

impl CustomOp1 for FewRows<'_> {
    fn name(&self) -> &'static str {
        "packed-products"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout, self.name())?;
        let n = layout.shape().dims2()?.0;
        let rows: usize = self.0.iter().map(|matrix| matrix.rows).sum();
        // Every row of a matrix gives `n` neighbors.
        let mut out = vec![0.0; rows * n];
        let mut rest = out.as_mut_slice();
        let mut parts = Vec::new();
        for matrix in self.0.iter().filter(|_| n > 0) {
            let (mine, others) = rest.split_at_mut(matrix.rows * n);
            let lines = (PARALLEL_ELEMENTS / matrix.cols).max(1);
            let chunks = mine.chunks_mut(lines * n).zip((0..).step_by(lines));
            parts.extend(chunks.map(|(out, first)| (matrix, first, out)));
            rest = others;
        }
        let multiply = |(matrix, first, out): (&PackedMatrix, usize, &mut [f32])| {
            for (row, out) in (first..).zip(out.chunks_exact_mut(n)) {
                matrix.product(row, x, out);
            }
        };
        match parts.len() {
            0 | 1 => parts.into_iter().for_each(multiply),
            _ => parts.into_par_iter().for_each(multiply),
        }
        if n > 1 {
            let columns = (0..n).map(|i| out.iter().skip(i).step_by(n).copied());
            out = columns.flatten().collect();
        }
        Ok((CpuStorage::F32(out), (n, rows).into()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every encoding that is read.
    const ENCODINGS: [GgmlDType; 11] = [
        GgmlDType::F32,
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    /// Reproducible numbers between -1 and 1.
    pub(crate) fn noise(rows: usize, cols: usize, seed: u32) -> Tensor {
        let values = (0..(rows * cols) as u32).map(|i| {
            let hash = (i ^ seed << 20).wrapping_mul(2_654_435_761);
            ((hash ^ hash >> 15).wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        Tensor::from_iter(values, &Device::Cpu)
            .unwrap()
            .reshape((rows, cols))
            .unwrap()
    }

    /// A matrix as candle encodes it, and what candle decodes it to.
    pub(crate) fn encoded(source: &Tensor, encoding: GgmlDType) -> (PackedMatrix, Tensor) {
        let reference = QTensor::quantize(source, encoding).unwrap();
        let bytes = SharedBytes::new(Arc::new(reference.data().unwrap().into_owned()));
        let shape = source.dims2().unwrap();
        let matrix = PackedMatrix::new(bytes, encoding, RowOrder::Straight, shape).unwrap();
        (matrix, reference.dequantize(&Device::Cpu).unwrap())
    }

    /// Asserts that two tensors are equal to `tolerance` of the second's largest value.
    pub(crate) fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32) {
        assert_eq!(got.dims(), want.dims());
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (got, want) = (values(got), values(want));
        let most = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!(
                (got - want).abs() <= tolerance * most,
                "{got} against {want}"
            );
        }
    }

    #[test]
    fn rows_decode_as_the_reference_does() {
        for encoding in ENCODINGS {
            let (matrix, want) = encoded(&noise(5, 512, 1), encoding);
            let rows = Tensor::from_vec(matrix.decode_rows(0..5), (5, 512), &Device::Cpu).unwrap();
            assert_close(&rows, &want, 0.0);
        }
    }

    #[test]
    fn products_are_those_of_the_decoded_matrix() {
        for (encoding, seed) in ENCODINGS.into_iter().zip(2..) {
            // Odd numbers of rows; widths that are no multiple of the run where blocks allow it.
            let (cols, odd) = match encoding.block_size() {
                1 => (301, 77),
                32 => (7 * 32, 131),
                _ => (3 * 256, 131),
            };
            let (first, first_want) = encoded(&noise(odd, cols, seed), encoding);
            let (second, second_want) = encoded(&noise(3, cols, seed + 50), encoding);
            let want = Tensor::cat(&[first_want, second_want], 0).unwrap();
            for n in [1, 3, 8, 9, 40] {
                let x = noise(n, cols, seed + 100);
                let got = packed_products(&x, &[first.clone(), second.clone()]).unwrap();
                assert_close(&got, &x.matmul(&want.t().unwrap()).unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn products_in_bands_are_those_of_the_whole() {
        let source = noise(2 * BAND / 4096 + 3, 4096, 3);
        let (matrix, want) = encoded(&source, GgmlDType::BF16);
        let x = noise(9, 4096, 4);
        let got = packed_products(&x, &[matrix]).unwrap();
        assert_close(&got, &x.matmul(&want.t().unwrap()).unwrap(), 1e-5);
    }

    #[test]
    fn gradients_pass_through() {
        let (matrix, want) = encoded(&noise(6, 32, 5), GgmlDType::Q8_0);
        let x = candle_core::Var::from_tensor(&noise(2, 32, 6)).unwrap();
        let y = packed_products(x.as_tensor(), &[matrix]).unwrap();
        let gradient = y.sum_all().unwrap().backward().unwrap();
        let sums = want.sum_keepdim(0).unwrap().repeat((2, 1)).unwrap();
        assert_close(gradient.get(x.as_tensor()).unwrap(), &sums, 1e-6);
    }

    #[test]
    fn paired_rows_are_put_back() {
        // Two heads of six rows; stored as a file has them, the value tells the row it must be.
        let stored = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(|row: u8| f32::from(row));
        let bytes: Vec<u8> = stored.iter().flat_map(|row| row.to_le_bytes()).collect();
        let bytes = SharedBytes::new(Arc::new(bytes));
        let order = RowOrder::Paired(6);
        let matrix = PackedMatrix::new(bytes, GgmlDType::F32, order, (12, 1)).unwrap();
        let rows: Vec<f32> = (0u8..12).map(f32::from).collect();
        assert_eq!(matrix.decode_rows(0..12), rows);
        let half = matrix.encode(GgmlDType::F16).unwrap();
        assert_eq!(half.decode_rows(0..12), rows);
    }

    #[test]
    fn encoding_is_what_the_reference_writes() {
        let source = noise(300, 512, 7);
        let (plain, _) = encoded(&source, GgmlDType::F32);
        for encoding in ENCODINGS {
            let (want, _) = encoded(&source, encoding);
            let got = plain.clone().encode(encoding).unwrap();
            assert_eq!(got.encoding(), encoding);
            assert!(got.as_bytes() == want.as_bytes(), "{encoding:?}");
        }
        // Rows of 320 values are no whole number of blocks of 256.
        let (odd, _) = encoded(&noise(2, 320, 8), GgmlDType::BF16);
        assert_eq!(
            odd.encode(GgmlDType::Q4K).unwrap().encoding(),
            GgmlDType::BF16
        );
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let new = |len: usize, encoding, order, shape| {
            let bytes = SharedBytes::new(Arc::new(vec![0u8; len]));
            PackedMatrix::new(bytes, encoding, order, shape).map_err(|e| e.to_string())
        };
        let straight = RowOrder::Straight;
        assert!(new(34, GgmlDType::Q8_0, straight, (1, 32)).is_ok());
        for (len, encoding, order, shape, message) in [
            (
                33,
                GgmlDType::Q8_0,
                straight,
                (1, 32),
                "33 bytes for 1 rows",
            ),
            (34, GgmlDType::Q8_0, straight, (1, 33), "blocks of 32"),
            (0, GgmlDType::F32, straight, (usize::MAX, 8), "0 bytes for"),
            (84, GgmlDType::Q2K, straight, (1, 256), "cannot be read"),
            (
                20,
                GgmlDType::F32,
                RowOrder::Paired(2),
                (5, 1),
                "heads of 2",
            ),
            (
                20,
                GgmlDType::F32,
                RowOrder::Paired(0),
                (5, 1),
                "heads of 0",
            ),
        ] {
            let error = new(len, encoding, order, shape).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
