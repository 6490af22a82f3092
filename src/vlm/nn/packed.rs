//! Matrices that stay encoded in memory or in a mapped file, and their products with activations.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use candle_core::{
    Device, Result, Tensor, bail,
    quantized::{GgmlDType, QTensor},
};

use super::{PARALLEL_ELEMENTS, encoding, products::MatrixRows, rows::FloatKind, tiles::Tiles};
use crate::util::{pages, team::for_items};

/// Values of a band: little of a matrix is ever decoded.
const BAND: usize = 1 << 16;

/// Memory area that several owners share.
pub trait SharedArea: AsRef<[u8]> + Send + Sync {
    /// Gives memory back that the system can fill again when it is read.
    fn give_back(&self) {}
}

impl SharedArea for Vec<u8> {}

impl SharedArea for Bytes {}

impl SharedArea for Cow<'static, [u8]> {}

/// Part of a memory area that several owners share, such as a mapped file.
#[derive(Clone)]
pub struct SharedBytes {
    area: Arc<dyn SharedArea>,
    range: Range<usize>,
}

impl SharedBytes {
    /// Shares a whole memory area.
    pub fn new(area: Arc<dyn SharedArea>) -> Self {
        let range = 0..(*area).as_ref().len();
        Self { area, range }
    }

    /// Gives the memory of the whole area back, as far as the system can fill it again.
    pub fn give_back(&self) {
        self.area.give_back();
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
    pub(super) fn stored(self, row: usize) -> usize {
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
    storage: Storage,
    encoding: GgmlDType,
    rows: usize,
    cols: usize,
}

/// Arrangement of a matrix in memory.
#[derive(Debug, Clone)]
enum Storage {
    /// Row by row, as files have it.
    Rows(SharedBytes, RowOrder, encoding::Decode),
    /// As products read it.
    Tiles(Arc<Tiles>),
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
            storage: Storage::Rows(bytes, order, decode),
            encoding,
            rows,
            cols,
        })
    }

    /// Creates a matrix in f32 from its values, row by row.
    ///
    /// # Errors
    /// When there are more or fewer values than the shape has.
    pub fn from_values(values: &[f32], shape: (usize, usize)) -> Result<Self> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let bytes = SharedBytes::new(Arc::new(bytes.to_vec()));
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

    /// Returns the encoded rows in the order in which they are stored.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Rows(bytes, ..) => bytes.as_ref(),
            Storage::Tiles(_) => &[],
        }
    }

    /// Returns the bytes that the matrix takes, those of a mapped file included.
    pub fn len_bytes(&self) -> usize {
        match &self.storage {
            Storage::Rows(bytes, ..) => bytes.as_ref().len(),
            Storage::Tiles(tiles) => tiles.len(),
        }
    }

    /// Returns row `row` as it is stored in `bytes`.
    fn stored_row<'a>(&self, bytes: &'a SharedBytes, order: RowOrder, row: usize) -> &'a [u8] {
        let len = self.cols / self.encoding.block_size() * self.encoding.type_size();
        &bytes.as_ref()[order.stored(row) * len..][..len]
    }

    /// Lays out a quantized matrix for products; others stay where they are.
    pub(super) fn laid_out(self) -> Self {
        let tiles = match &self.storage {
            Storage::Rows(bytes, order, _) => {
                let row = |row| self.stored_row(bytes, *order, row);
                Tiles::new(self.encoding, (self.rows, self.cols), row)
            }
            Storage::Tiles(_) => None,
        };
        self.in_tiles(tiles)
    }

    /// Copies a matrix of floats out of its file into large pages; others stay where they are.
    pub(super) fn in_large_pages(self) -> Self {
        let Storage::Rows(bytes, order, decode) = &self.storage else {
            return self;
        };
        let copy = SharedBytes::new(Arc::new(pages::copy(bytes.as_ref())));
        Self {
            storage: Storage::Rows(copy, *order, *decode),
            ..self
        }
    }

    fn in_tiles(self, tiles: Option<Tiles>) -> Self {
        match tiles {
            Some(tiles) => Self {
                storage: Storage::Tiles(Arc::new(tiles)),
                ..self
            },
            None => self,
        }
    }

    /// Rounds a matrix of floats to integers of 14 bits with a scale for every 32 columns of a row,
    /// if its rows are a whole number of these; others stay as they are.
    pub(super) fn rounded(self) -> Self {
        let tiles = match &self.storage {
            Storage::Rows(..) if self.encoding.block_size() == 1 => {
                let decode = |row: usize, out: &mut [f32]| self.decode_row(row, out);
                Tiles::rounded((self.rows, self.cols), decode)
            }
            _ => None,
        };
        self.in_tiles(tiles)
    }

    /// Returns the rows for products. A quantized matrix must be laid out.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn for_products(&self) -> Result<MatrixRows<'_>> {
        let kind = match self.encoding {
            GgmlDType::F32 => Some(FloatKind::F32),
            GgmlDType::F16 => Some(FloatKind::F16),
            GgmlDType::BF16 => Some(FloatKind::BF16),
            _ => None,
        };
        match (&self.storage, kind) {
            (Storage::Tiles(tiles), _) => Ok(MatrixRows::Tiles(tiles)),
            (Storage::Rows(bytes, order, _), Some(kind)) => {
                Ok(MatrixRows::Floats(kind, bytes.as_ref(), *order))
            }
            _ => bail!("a matrix of type {:?} has no products", self.encoding),
        }
    }

    /// Decodes row `row` into `out`, `cols` values.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        match &self.storage {
            Storage::Rows(bytes, order, decode) => {
                decode(self.stored_row(bytes, *order, row), out);
            }
            Storage::Tiles(tiles) => tiles.decode_row(row, out),
        }
    }

    /// Decodes all rows: `rows * cols` values.
    pub fn decode_all(&self) -> Vec<f32> {
        self.decode_rows(0..self.rows)
    }

    /// Decodes `rows`, in parallel.
    pub(super) fn decode_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.cols];
        let lines = (PARALLEL_ELEMENTS / self.cols).max(1);
        let mut parts: Vec<&mut [f32]> = out.chunks_mut(lines * self.cols).collect();
        for_items(&mut parts, |part, out| {
            let first = rows.start + part * lines;
            for (row, line) in (first..).zip(out.chunks_exact_mut(self.cols)) {
                self.decode_row(row, line);
            }
        });
        out
    }

    /// Returns the encoded rows as they are counted.
    ///
    /// # Errors
    /// When the matrix is laid out for products.
    pub(super) fn straight_bytes(&self) -> Result<Vec<u8>> {
        let Storage::Rows(bytes, order, _) = &self.storage else {
            bail!("a matrix that is laid out for products cannot be copied to a device")
        };
        let rows = (0..self.rows).flat_map(|row| self.stored_row(bytes, *order, row));
        Ok(rows.copied().collect())
    }

    /// Returns ranges of rows of at most [`BAND`] values.
    pub(super) fn bands(&self, values: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, lines) = (self.rows, (values / self.cols).max(1));
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
        let bands: Vec<Range<usize>> = self.bands(BAND).collect();
        for bands in bands.chunks(rayon::current_num_threads()) {
            let mut encoded: Vec<Result<Vec<u8>>> = bands.iter().map(|_| Ok(Vec::new())).collect();
            for_items(&mut encoded, |i, out| {
                let mut values = vec![0.0; bands[i].len() * self.cols];
                for (row, line) in bands[i].clone().zip(values.chunks_exact_mut(self.cols)) {
                    self.decode_row(row, line);
                }
                let band = Tensor::from_vec(values, (bands[i].len(), self.cols), &Device::Cpu);
                let encode = |band| Ok(QTensor::quantize(&band, encoding)?.data()?.into_owned());
                *out = band.and_then(encode);
            });
            for band in encoded {
                bytes.extend_from_slice(&band?);
            }
        }
        let shape = (self.rows, self.cols);
        let bytes = SharedBytes::new(Arc::new(bytes));
        Self::new(bytes, encoding, RowOrder::Straight, shape)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{super::products::packed_products, *};

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
            for matrix in [matrix.clone(), matrix.laid_out()] {
                let rows = matrix.decode_rows(0..5);
                let rows = Tensor::from_vec(rows, (5, 512), &Device::Cpu).unwrap();
                assert_close(&rows, &want, 0.0);
            }
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
            let (first, second) = (first.laid_out(), second.laid_out());
            let want = Tensor::cat(&[first_want, second_want], 0).unwrap();
            for n in [1, 3, 8, 9, 40] {
                let x = noise(n, cols, seed + 100);
                let got = packed_products(&x, &[first.clone(), second.clone()], None).unwrap();
                assert_close(&got, &x.matmul(&want.t().unwrap()).unwrap(), 3e-5);
            }
        }
    }

    #[test]
    fn products_in_bands_are_those_of_the_whole() {
        let source = noise(515, 4096, 3);
        let (matrix, want) = encoded(&source, GgmlDType::BF16);
        let x = noise(9, 4096, 4);
        let got = packed_products(&x, &[matrix], None).unwrap();
        assert_close(&got, &x.matmul(&want.t().unwrap()).unwrap(), 1e-5);
    }

    #[test]
    fn gradients_pass_through() {
        let (matrix, want) = encoded(&noise(6, 32, 5), GgmlDType::Q8_0);
        let matrix = matrix.laid_out();
        let x = candle_core::Var::from_tensor(&noise(2, 32, 6)).unwrap();
        let y = packed_products(x.as_tensor(), &[matrix], None).unwrap();
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
