//! Products with a model's matrices, whatever their storage.

use std::sync::Arc;

use candle_core::{
    DType, Device, Module, Result, Tensor, bail,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};

use super::{
    packed::PackedMatrix,
    products::{affine, packed_products},
};

/// Matrix `(out, in)` with an optional bias: the only type that multiplies by a weight.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// Storage of a matrix.
#[derive(Debug, Clone)]
enum Weight {
    /// In the dtype of the activations, or on another device than the CPU in half precision;
    /// differentiable.
    Dense(Tensor),
    /// Encoded, on the CPU; matrices of one width, one below the other.
    Packed(Vec<PackedMatrix>),
    /// Quantized, on another device; matrices of one width, one below the other.
    Device(Vec<Arc<QTensor>>),
}

impl Linear {
    /// Creates a layer from a matrix `(out, in)` and a bias `(out)`, both of the activations'
    /// dtype.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        weight.dims2()?;
        Self::new(Weight::Dense(weight), bias)
    }

    /// Creates a layer from an encoded matrix and a bias `(out)` in f32, on the device where it is
    /// to be multiplied: on the CPU floats stay where they are, and quantized numbers are laid out
    /// for products; elsewhere the matrix is copied.
    ///
    /// # Errors
    /// When the shapes do not fit or the device lacks memory.
    pub fn packed(matrix: PackedMatrix, bias: Option<Tensor>, device: &Device) -> Result<Self> {
        let weight = match device {
            Device::Cpu => Weight::Packed(vec![matrix.laid_out()]),
            _ => on_device(&matrix, device)?,
        };
        Self::new(weight, bias)
    }

    fn new(weight: Weight, bias: Option<Tensor>) -> Result<Self> {
        let layer = Self { weight, bias: None };
        let out = layer.out_features()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [out]) {
            bail!("a bias of {:?} for {out} outputs", bias.dims());
        }
        Ok(Self { bias, ..layer })
    }

    /// Joins layers of the same input into one, whose output is theirs side by side.
    ///
    /// # Errors
    /// When there is none, their inputs differ in width, or they are stored in different ways.
    pub fn stacked(layers: Vec<Self>) -> Result<Self> {
        let biases = layers.iter().filter_map(|layer| layer.bias.as_ref());
        let bias = match biases.clone().next() {
            None => None,
            Some(like) => Some(Tensor::cat(
                &layers
                    .iter()
                    .map(|layer| match &layer.bias {
                        Some(bias) => Ok(bias.clone()),
                        None => Tensor::zeros(layer.out_features()?, like.dtype(), like.device()),
                    })
                    .collect::<Result<Vec<_>>>()?,
                0,
            )?),
        };
        let mut weights = layers.into_iter().map(|layer| layer.weight);
        let mut joined = match weights.next() {
            Some(Weight::Dense(first)) => {
                let mut dense = vec![first];
                for weight in weights {
                    match weight {
                        Weight::Dense(weight) => dense.push(weight),
                        _ => bail!("dense and encoded matrices cannot be stacked"),
                    }
                }
                return Self::dense(Tensor::cat(&dense, 0)?, bias);
            }
            Some(weight) => weight,
            None => bail!("no layers to stack"),
        };
        for weight in weights {
            match (&mut joined, weight) {
                (Weight::Packed(parts), Weight::Packed(others))
                    if parts[0].cols() == others[0].cols() =>
                {
                    parts.extend(others);
                }
                (Weight::Device(parts), Weight::Device(others)) => parts.extend(others),
                _ => bail!("matrices of different widths or storage cannot be stacked"),
            }
        }
        Self::new(joined, bias)
    }

    /// Encodes the matrix on the CPU: quantized, in half precision or in f32. It is kept as it is
    /// if its rows are no whole number of the encoding's blocks or if it is on another device.
    ///
    /// # Errors
    /// When the encoding is not one that is read and written.
    pub fn quantize(self, encoding: GgmlDType) -> Result<Self> {
        let weight = match self.weight {
            Weight::Dense(dense)
                if dense.device().is_cpu()
                    && dense.dim(1)?.is_multiple_of(encoding.block_size()) =>
            {
                Weight::Packed(vec![packed(&dense)?.encode(encoding)?.laid_out()])
            }
            Weight::Packed(parts) => {
                let encode = |matrix: PackedMatrix| Ok(matrix.encode(encoding)?.laid_out());
                Weight::Packed(parts.into_iter().map(encode).collect::<Result<_>>()?)
            }
            other => other,
        };
        Ok(Self { weight, ..self })
    }

    /// Rounds a matrix of floats on the CPU to integers of 14 bits with a scale for every 32
    /// columns of a row, and later activations likewise: two to three times as fast where many
    /// rows are multiplied, and more exact than products of bfloat16. Others stay as they are.
    #[must_use]
    pub fn rounded(self) -> Self {
        let weight = match self.weight {
            Weight::Packed(parts) => {
                Weight::Packed(parts.into_iter().map(PackedMatrix::rounded).collect())
            }
            Weight::Dense(dense) => match packed(&dense) {
                Ok(matrix) => Weight::Packed(vec![matrix.rounded()]),
                Err(_) => Weight::Dense(dense),
            },
            other => other,
        };
        Self { weight, ..self }
    }

    /// Copies a matrix of floats that is on the CPU out of its mapped file into large pages of
    /// memory, from which it is read faster. Others stay where they are.
    #[must_use]
    pub fn in_large_pages(self) -> Self {
        let weight = match self.weight {
            Weight::Packed(parts) => Weight::Packed(
                parts
                    .into_iter()
                    .map(PackedMatrix::in_large_pages)
                    .collect(),
            ),
            other => other,
        };
        Self { weight, ..self }
    }

    /// Returns `true` if the matrix is in half precision.
    pub fn is_half(&self) -> bool {
        match &self.weight {
            Weight::Dense(dense) => matches!(dense.dtype(), DType::F16 | DType::BF16),
            Weight::Packed(parts) => parts
                .iter()
                .all(|part| matches!(part.encoding(), GgmlDType::F16 | GgmlDType::BF16)),
            Weight::Device(_) => false,
        }
    }

    /// Returns the width of the output.
    ///
    /// # Errors
    /// When the weight is no matrix.
    pub fn out_features(&self) -> Result<usize> {
        match &self.weight {
            Weight::Dense(weight) => weight.dim(0),
            Weight::Packed(parts) => Ok(parts.iter().map(PackedMatrix::rows).sum()),
            Weight::Device(parts) => parts.iter().map(|part| part.shape().dim(0)).sum(),
        }
    }

    /// Returns the encoded matrices on the CPU.
    #[cfg(test)]
    pub(crate) fn packed_matrices(&self) -> &[PackedMatrix] {
        match &self.weight {
            Weight::Packed(parts) => parts,
            _ => &[],
        }
    }

    /// Returns the bytes of the matrix and the bias, those of a mapped file included.
    pub fn bytes(&self) -> usize {
        let dense = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let weight = match &self.weight {
            Weight::Dense(weight) => dense(weight),
            Weight::Packed(parts) => parts.iter().map(PackedMatrix::len_bytes).sum(),
            Weight::Device(parts) => parts.iter().map(|part| part.storage_size_in_bytes()).sum(),
        };
        weight + self.bias.as_ref().map_or(0, dense)
    }

    /// Returns `x @ weightᵀ + bias` for `x` `(n, in)`: `(n, out)`.
    ///
    /// # Errors
    /// When the widths differ or a tensor operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = match &self.weight {
            Weight::Dense(weight) => return affine(x, weight, self.bias.as_ref()),
            Weight::Packed(parts) => return packed_products(x, parts, self.bias.as_ref()),
            Weight::Device(parts) => {
                let product = |part: &Arc<QTensor>| QMatMul::QTensor(part.clone()).forward(x);
                let products = parts.iter().map(product).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&products, 1)?
            }
        };
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    /// Returns rows of the matrix, `(ids, in)`, in the dtype of the activations: an embedding table
    /// is a matrix whose rows are tokens.
    ///
    /// # Errors
    /// When an id is beyond the last row.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(weight) => {
                let rows = weight.index_select(&Tensor::new(ids, weight.device())?, 0)?;
                match rows.dtype() {
                    DType::F16 | DType::BF16 => rows.to_dtype(DType::F32),
                    _ => Ok(rows),
                }
            }
            Weight::Packed(parts) => packed_rows(parts, ids),
            Weight::Device(parts) => match parts.as_slice() {
                [one] => one.embedding(&Tensor::new(ids, &one.device())?),
                _ => bail!("rows of stacked matrices"),
            },
        }
    }
}

/// Copies the values of a tensor on the CPU.
fn packed(dense: &Tensor) -> Result<PackedMatrix> {
    let shape = dense.dims2()?;
    if !dense.device().is_cpu() {
        bail!("a matrix that is not on the CPU");
    }
    let values = dense.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    PackedMatrix::from_values(&values, shape)
}

/// Copies a matrix to another device than the CPU.
fn on_device(matrix: &PackedMatrix, device: &Device) -> Result<Weight> {
    let shape = (matrix.rows(), matrix.cols());
    let encoding = matrix.encoding();
    let half = match encoding {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    };
    if let Some(dtype) = half {
        let values = Tensor::from_vec(matrix.decode_all(), shape, &Device::Cpu)?;
        return Ok(Weight::Dense(values.to_dtype(dtype)?.to_device(device)?));
    }
    let storage = QStorage::from_data(matrix.straight_bytes()?.into(), device, encoding)?;
    Ok(Weight::Device(vec![Arc::new(QTensor::new(
        storage, shape,
    )?)]))
}

/// Decodes rows of matrices that are counted one below the other.
fn packed_rows(parts: &[PackedMatrix], ids: &[u32]) -> Result<Tensor> {
    let cols = parts.first().map_or(0, PackedMatrix::cols);
    let mut values = vec![0.0; ids.len() * cols];
    for (&id, line) in ids.iter().zip(values.chunks_exact_mut(cols.max(1))) {
        let mut row = id as usize;
        let part = parts.iter().find(|part| {
            let within = row < part.rows();
            row -= if within { 0 } else { part.rows() };
            within
        });
        match part {
            Some(part) => part.decode_row(row, line),
            None => bail!("row {id} is beyond the last of the matrix"),
        }
    }
    Tensor::from_vec(values, (ids.len(), cols), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::nn::packed::tests::{assert_close, encoded, noise};

    #[test]
    fn stacked_layers_give_their_outputs_side_by_side() {
        let (a, b) = (noise(5, 64, 1), noise(3, 64, 2));
        let bias = noise(1, 3, 3).squeeze(0).unwrap();
        let x = noise(2, 64, 4);
        let dense = [
            Linear::dense(a.clone(), None).unwrap(),
            Linear::dense(b.clone(), Some(bias.clone())).unwrap(),
        ];
        let packed = dense
            .clone()
            .map(|layer| layer.quantize(GgmlDType::F32).unwrap());
        let want = Tensor::cat(&dense.each_ref().map(|layer| layer.forward(&x).unwrap()), 1);
        let want = want.unwrap();
        for layers in [dense, packed] {
            let joined = Linear::stacked(layers.to_vec()).unwrap();
            assert_eq!(joined.out_features().unwrap(), 8);
            assert_eq!(joined.bytes(), (8 * 64 + 8) * 4);
            assert_close(&joined.forward(&x).unwrap(), &want, 1e-6);
            let rows = Tensor::cat(&[&a, &b], 0).unwrap();
            let ids = Tensor::new(&[7u32, 0, 5], &Device::Cpu).unwrap();
            let rows = rows.index_select(&ids, 0).unwrap();
            assert_close(&joined.rows(&[7, 0, 5]).unwrap(), &rows, 0.0);
            assert!(joined.rows(&[8]).is_err());
        }
    }

    #[test]
    fn layers_that_do_not_fit_are_not_stacked() {
        let packed = |cols| {
            let (matrix, _) = encoded(&noise(2, cols, 1), GgmlDType::Q8_0);
            Linear::packed(matrix, None, &Device::Cpu).unwrap()
        };
        let dense = Linear::dense(noise(2, 32, 1), None).unwrap();
        assert!(Linear::stacked(vec![packed(32), packed(64)]).is_err());
        assert!(Linear::stacked(vec![packed(32), dense.clone()]).is_err());
        assert!(Linear::stacked(vec![dense, packed(32)]).is_err());
        assert!(Linear::stacked(Vec::new()).is_err());
        assert!(Linear::dense(noise(2, 3, 1), Some(noise(1, 3, 1).squeeze(0).unwrap())).is_err());
    }

    #[test]
    fn a_quantized_layer_takes_less_and_multiplies_as_its_decoded_matrix() {
        let source = noise(40, 96, 5);
        let x = noise(3, 96, 6);
        let (_, decoded) = encoded(&source, GgmlDType::Q8_0);
        let layer = Linear::dense(source.clone(), None).unwrap();
        let quantized = layer.clone().quantize(GgmlDType::Q8_0).unwrap();
        assert_eq!(quantized.bytes(), 48 * 3 * 34);
        let want = x.matmul(&decoded.t().unwrap()).unwrap();
        assert_close(&quantized.forward(&x).unwrap(), &want, 3e-5);
        // 96 is no multiple of 256: the matrix stays what it was.
        assert_eq!(layer.quantize(GgmlDType::Q4K).unwrap().bytes(), 40 * 96 * 4);
    }

    #[test]
    fn rounded_layers_multiply_more_exactly_than_bfloat16() {
        let source = noise(40, 512, 7);
        let x = noise(19, 512, 8);
        let want = x.matmul(&source.t().unwrap()).unwrap();
        let layer = Linear::dense(source.clone(), None).unwrap();
        let packed = layer.clone().quantize(GgmlDType::F32).unwrap();
        let ends = Tensor::new(&[0u32, 39], &Device::Cpu).unwrap();
        let ends = source.index_select(&ends, 0).unwrap();
        for rounded in [layer.rounded(), packed.rounded()] {
            assert_eq!(rounded.bytes(), 48 * 512 / 32 * 68);
            let got = rounded.forward(&x).unwrap();
            assert_close(&got, &want, 3e-4);
            let row = rounded.forward(&x.narrow(0, 3, 1).unwrap()).unwrap();
            assert_close(&row, &got.narrow(0, 3, 1).unwrap(), 0.0);
            assert_close(&rounded.rows(&[0, 39]).unwrap(), &ends, 1e-4);
        }
        // 40 columns are no whole number of 32.
        let odd = Linear::dense(noise(4, 40, 9), None).unwrap().rounded();
        assert_eq!(odd.bytes(), 4 * 40 * 4);
    }
}
