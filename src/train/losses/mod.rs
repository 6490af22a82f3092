//! Training losses: alignment objectives as functions of token log-probabilities, and the binary
//! cross-entropy of labels.
//!
//! Tokens of many answers are concatenated without padding; a weight of 0 masks a token.

pub mod gae;
pub mod kl;
pub mod policy;
pub mod preference;

use candle_core::{Result, Tensor};

/// Weighted binary cross-entropy with logits, summed over all elements of three tensors of one
/// shape.
///
/// # Errors
/// When shapes differ or a tensor operation fails.
pub fn binary_cross_entropy(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    // softplus(x) - x·y, with softplus in its stable form.
    let softplus = (logits.relu()? + (logits.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    ((softplus - (logits * labels)?)? * weights)?.sum_all()
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::Device;
    use serde_json::Value;

    use super::*;

    /// Values computed by TRL (`tests/reference/alignment_losses.py`).
    pub(in crate::train) struct TrlReference(Value);

    pub(in crate::train) fn reference() -> TrlReference {
        TrlReference(
            serde_json::from_str(include_str!(
                "../../../tests/fixtures/alignment_losses.json"
            ))
            .unwrap(),
        )
    }

    impl TrlReference {
        pub(in crate::train) fn part(&self, name: &str) -> Self {
            Self(self.0[name].clone())
        }

        pub(in crate::train) fn sequences(&self) -> Vec<Self> {
            self.0["sequences"]
                .as_array()
                .unwrap()
                .iter()
                .cloned()
                .map(Self)
                .collect()
        }

        pub(in crate::train) fn values(&self, name: &str) -> Vec<f32> {
            match &self.0[name] {
                Value::Array(values) => values.iter().map(|v| v.as_f64().unwrap() as f32).collect(),
                value => vec![value.as_f64().unwrap_or_else(|| panic!("no {name}")) as f32],
            }
        }

        /// Values of all sequences, concatenated.
        pub(in crate::train) fn flat(&self, name: &str) -> Vec<f32> {
            self.sequences()
                .iter()
                .flat_map(|s| s.values(name))
                .collect()
        }

        pub(in crate::train) fn assert_close(&self, name: &str, ours: &[f32]) {
            let theirs = self.values(name);
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert!(
                    (a - b).abs() <= 1e-5 * (1.0 + b.abs()),
                    "{name}[{i}]: {a} is not {b}"
                );
            }
        }
    }

    #[test]
    fn binary_cross_entropy_is_the_weighted_sum_of_negative_log_likelihoods() {
        let tensor = |values: &[f32; 3]| Tensor::new(values, &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(
            &tensor(&[2.0, -1.0, 50.0]),
            &tensor(&[1.0, 0.0, 0.0]),
            &tensor(&[1.0, 0.5, 0.0]),
        )
        .unwrap();
        let want = (1.0 + (-2.0f32).exp()).ln() + 0.5 * (1.0 + (-1.0f32).exp()).ln();
        assert!((loss.to_scalar::<f32>().unwrap() - want).abs() < 1e-5);
    }
}
