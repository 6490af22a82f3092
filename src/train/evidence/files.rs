//! Writing of a bundle's two evidence files, which [`Evidence`] reads.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use half::f16;
use safetensors::{Dtype, View};

use super::{
    super::{Tensors, TrainError, checkpoint::write_atomically, export::write_json},
    head::Standardization,
    reference::StoredReference,
};
use crate::reward::evidence::{CONFIG_FILE, Evidence, EvidenceConfig, WEIGHTS_FILE};

/// Array of a safetensors file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn f16(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F16,
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
        }
    }

    fn i8(shape: &[usize], values: &[i8]) -> Self {
        Self {
            dtype: Dtype::I8,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Parts of the evidence model shared by all networks of a run.
pub(super) struct SharedFit {
    pub(super) standard: Standardization,
    /// Log-odds of every output in the training labels.
    pub(super) prior: Vec<f32>,
    pub(super) reference: StoredReference,
    /// Scope reference from photographs of all origins.
    pub(super) scope: Option<StoredReference>,
}

impl SharedFit {
    /// Serializes `evidence.safetensors` with the weights of the networks.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn weights_file(&self, networks: &Tensors) -> Result<Vec<u8>, TrainError> {
        let named = [
            (
                "mean",
                Stored::f32(&[self.standard.mean.len()], &self.standard.mean),
            ),
            (
                "scale",
                Stored::f32(&[self.standard.scale.len()], &self.standard.scale),
            ),
            ("prior", Stored::f32(&[self.prior.len()], &self.prior)),
        ];
        let mut stored: BTreeMap<String, Stored> =
            named.map(|(name, array)| (name.to_owned(), array)).into();
        for (name, reference) in [
            ("reference", Some(&self.reference)),
            ("scope", self.scope.as_ref()),
        ] {
            let Some(StoredReference {
                center,
                basis,
                points,
                scale,
            }) = reference
            else {
                continue;
            };
            stored.extend([
                (
                    format!("{name}.center"),
                    Stored::f32(&[center.len()], center),
                ),
                (
                    format!("{name}.basis"),
                    Stored::f16(&[basis.len(), center.len()], &basis.concat()),
                ),
                (
                    format!("{name}.points"),
                    Stored::i8(&[points.len(), scale.len()], &points.concat()),
                ),
                (format!("{name}.scale"), Stored::f32(&[scale.len()], scale)),
            ]);
        }
        for (name, tensor) in networks {
            stored.insert(
                name.clone(),
                Stored::f16(tensor.dims(), &tensor.flatten_all()?.to_vec1::<f32>()?),
            );
        }
        safetensors::serialize(&stored, None)
            .map_err(|e| TrainError::Run(format!("{WEIGHTS_FILE}: {e}")))
    }

    /// Builds the evidence model as it is served.
    ///
    /// # Errors
    /// When the parts do not match.
    pub(super) fn served(
        &self,
        networks: &Tensors,
        config: &EvidenceConfig,
    ) -> Result<Evidence, TrainError> {
        let json = serde_json::to_vec(config).map_err(|e| TrainError::Run(e.to_string()))?;
        let read = Evidence::from_files(Some(&json), Some(&self.weights_file(networks)?))
            .map_err(|e| TrainError::Run(e.to_string()))?;
        read.ok_or_else(|| TrainError::Run("evidence files are empty".into()))
    }

    /// Writes both files into `dir`.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub(super) fn write(
        &self,
        dir: &Path,
        networks: &Tensors,
        config: &EvidenceConfig,
    ) -> Result<(), TrainError> {
        write_atomically(&dir.join(WEIGHTS_FILE), &self.weights_file(networks)?)?;
        write_json(&dir.join(CONFIG_FILE), config)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::{
        super::{
            head::initial,
            reference::{ReferenceConfig, tests::photographs},
            unfitted,
        },
        *,
    };
    use crate::{lexicon::Lexicon, train::optim::named_vars};

    #[test]
    fn served_files_round_trip_and_match_numpy_cosines() {
        let rows = photographs();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let reference = StoredReference::fit(
            &rows,
            ReferenceConfig {
                components: 2,
                photographs: 12,
                nearest: 3,
            },
            5,
        )
        .unwrap();
        let common = SharedFit {
            standard: Standardization::from_rows(&rows),
            prior: vec![-1.0],
            reference,
            scope: None,
        };
        let vars = initial(5, 3, &common.prior, 1).unwrap();
        let head: Tensors = named_vars(&vars)
            .into_iter()
            .map(|(name, var)| (name, var.as_tensor().clone()))
            .collect();
        let config = unfitted(&[Lexicon::shared().concept("dog").unwrap()], 3);
        let dir = tempfile::tempdir().unwrap();
        common.write(dir.path(), &head, &config).unwrap();
        let evidence = Evidence::load(dir.path()).unwrap().unwrap();
        // numpy: the mean of the three largest of points @ (q - center) @ basis.T / norm(q -
        // center), in full precision.
        for (i, want) in [0.329_191_1, 0.065_280_7, 0.505_954_1]
            .into_iter()
            .enumerate()
        {
            let photograph: Vec<f32> = (0..5)
                .map(|j| {
                    ((2.3 * i as f64 + 0.4 * f64::from(j)).cos() * (5.0 - f64::from(j))) as f32
                })
                .collect();
            let found = evidence
                .evaluate(&Tensor::from_vec(photograph, (1, 5), &Device::Cpu).unwrap())
                .unwrap();
            assert_eq!(found.logits.len(), 1);
            let cosine = (f64::from(found.familiarity) / (1.0 - f64::from(found.familiarity))).ln();
            assert!((cosine - want).abs() < 0.01, "{i}: {cosine}");
        }
    }
}
