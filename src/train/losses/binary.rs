//! Labels of which each is true or false.

use candle_core::{Result, Tensor};

/// Weighted binary cross-entropy with logits, summed over all elements; the three tensors have one
/// shape.
///
/// # Errors
/// When they have not, or a tensor operation fails.
pub fn binary_cross_entropy(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    // softplus(x) - x·y, with softplus in its stable form.
    let softplus = (logits.relu()? + (logits.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    ((softplus - (logits * labels)?)? * weights)?.sum_all()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn is_the_weighted_sum_of_negative_log_likelihoods() {
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
