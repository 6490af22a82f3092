//! Network that gives evidence for words: a two-layer perceptron over a photograph's mean features.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarMap;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::super::{Tensors, losses::binary_cross_entropy};
use crate::vlm::nn::dropout;

/// Bound of the absolute standardized features.
const BOUND: f32 = 6.0;

/// Floor added to every standard deviation.
const MIN_SCALE: f32 = 1e-3;

/// Scale of the second layer's initial weights: first predictions are the prior.
const SECOND_LAYER_SCALE: f32 = 0.1;

/// Size and regularization of the network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Dropout probability of the inputs.
    pub input_dropout: f32,
    /// Dropout probability of the hidden units.
    pub hidden_dropout: f32,
}

/// Mean and standard deviation of features.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standardization {
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
}

impl Standardization {
    /// Computes mean and standard deviation of `rows`.
    pub(super) fn from_rows(rows: &[&[f32]]) -> Self {
        let (n, width) = (
            rows.len().max(1) as f64,
            rows.first().map_or(0, |row| row.len()),
        );
        let mut mean = vec![0f64; width];
        rows.iter().for_each(|row| {
            mean.iter_mut()
                .zip(*row)
                .for_each(|(sum, x)| *sum += f64::from(*x) / n)
        });
        let mut variance = vec![0f64; width];
        for row in rows {
            variance
                .iter_mut()
                .zip(&mean)
                .zip(*row)
                .for_each(|((sum, mean), x)| *sum += (f64::from(*x) - mean).powi(2) / n);
        }
        let scale = variance
            .iter()
            .map(|v| v.sqrt() as f32 + MIN_SCALE)
            .collect();
        Self {
            mean: mean.into_iter().map(|m| m as f32).collect(),
            scale,
        }
    }

    /// Standardizes and clamps a row.
    pub(super) fn apply(&self, row: &[f32]) -> Vec<f32> {
        row.iter()
            .zip(&self.mean)
            .zip(&self.scale)
            .map(|((x, mean), scale)| ((x - mean) / scale).clamp(-BOUND, BOUND))
            .collect()
    }
}

/// Initial weights, deterministic in `seed`; the second layer's biases are the prior log-odds.
///
/// # Errors
/// When a tensor operation fails.
pub(super) fn initial(inputs: usize, hidden: usize, prior: &[f32], seed: u64) -> Result<VarMap> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut uniform = |shape: &[usize], bound: f32| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        Var::from_vec(values, shape, &Device::Cpu)
    };
    let (outer, inner) = ((inputs as f32).powf(-0.5), (hidden as f32).powf(-0.5));
    let named = [
        ("fc1.weight", uniform(&[hidden, inputs], outer)?),
        ("fc1.bias", uniform(&[hidden], outer)?),
        (
            "fc2.weight",
            uniform(&[prior.len(), hidden], SECOND_LAYER_SCALE * inner)?,
        ),
        ("fc2.bias", Var::new(prior, &Device::Cpu)?),
    ];
    let vars = VarMap::new();
    let mut data = vars
        .data()
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    data.extend(named.map(|(name, var)| (name.to_owned(), var)));
    drop(data);
    Ok(vars)
}

/// Network whose logits are the mean of those of `networks`: their hidden units concatenated.
///
/// # Errors
/// When one of them lacks a weight; the error names it.
pub(super) fn average(networks: &[Tensors]) -> Result<Tensors> {
    let all = |name: &str| {
        let get = |weights: &Tensors| {
            weights
                .get(name)
                .cloned()
                .ok_or_else(|| candle_core::Error::Msg(format!("there is no {name}")))
        };
        networks.iter().map(get).collect::<Result<Vec<Tensor>>>()
    };
    let share = 1.0 / networks.len() as f64;
    let concatenated = |name: &str, dim: usize| Tensor::cat(&all(name)?, dim);
    Ok(Tensors::from([
        ("fc1.weight".to_owned(), concatenated("fc1.weight", 0)?),
        ("fc1.bias".to_owned(), concatenated("fc1.bias", 0)?),
        (
            "fc2.weight".to_owned(),
            (concatenated("fc2.weight", 1)? * share)?,
        ),
        (
            "fc2.bias".to_owned(),
            Tensor::stack(&all("fc2.bias")?, 0)?.mean(0)?,
        ),
    ]))
}

/// Network on given weights.
#[derive(Debug, Clone)]
pub(super) struct EvidenceHead {
    first: (Tensor, Tensor),
    second: (Tensor, Tensor),
}

impl EvidenceHead {
    /// Creates the network from weights by name.
    ///
    /// # Errors
    /// When a weight is missing; the error names it.
    pub(super) fn from_weights(weights: &Tensors) -> Result<Self> {
        let get = |name: &str| {
            weights.get(name).map_or_else(
                || candle_core::bail!("there is no {name}"),
                |t| t.to_dtype(DType::F32),
            )
        };
        let layer = |name: &str| {
            Ok::<_, candle_core::Error>((
                get(&format!("{name}.weight"))?,
                get(&format!("{name}.bias"))?,
            ))
        };
        Ok(Self {
            first: layer("fc1")?,
            second: layer("fc2")?,
        })
    }

    /// Logits `(n, outputs)` of standardized features `(n, inputs)`; with a seed, dropout is
    /// applied.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn logits(
        &self,
        inputs: &Tensor,
        regular: Option<(HeadConfig, u64)>,
    ) -> Result<Tensor> {
        let drop = |x: &Tensor, share: fn(&HeadConfig) -> f32, salt: u64| match &regular {
            Some((config, seed)) => dropout(x, share(config), seed ^ salt),
            None => Ok(x.clone()),
        };
        let hidden = linear(&drop(inputs, |c| c.input_dropout, 0)?, &self.first)?.gelu_erf()?;
        linear(
            &drop(&hidden, |c| c.hidden_dropout, 0x5bd1_e995)?,
            &self.second,
        )
    }
}

fn linear(x: &Tensor, (weight, bias): &(Tensor, Tensor)) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// Batch of photographs: standardized features, labels and weights, one row per photograph.
#[derive(Debug, Clone)]
pub(super) struct HeadBatch {
    pub(super) inputs: Tensor,
    pub(super) labels: Tensor,
    pub(super) weights: Tensor,
    pub(super) seed: u64,
}

impl HeadBatch {
    /// Weighted cross-entropy, summed over outputs and divided by `photographs`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn loss(
        &self,
        head: &EvidenceHead,
        config: HeadConfig,
        photographs: usize,
    ) -> Result<Tensor> {
        let logits = head.logits(&self.inputs, Some((config, self.seed)))?;
        binary_cross_entropy(&logits, &self.labels, &self.weights)? / photographs as f64
    }
}

#[cfg(test)]
impl EvidenceHead {
    /// Logits of rows of standardized features.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn evidence(&self, rows: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let width = rows.first().map_or(0, |row| row.len());
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.logits(
            &Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?,
            None,
        )?
        .to_vec2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optim::named_vars;

    const CONFIG: HeadConfig = HeadConfig {
        hidden: 5,
        input_dropout: 0.2,
        hidden_dropout: 0.2,
    };

    fn weights(vars: &VarMap) -> Tensors {
        named_vars(vars)
            .into_iter()
            .map(|(name, var)| (name, var.as_tensor().clone()))
            .collect()
    }

    fn tensor(rows: usize, columns: usize, f: impl Fn(usize) -> f32) -> Tensor {
        Tensor::from_vec(
            (0..rows * columns).map(f).collect::<Vec<f32>>(),
            (rows, columns),
            &Device::Cpu,
        )
        .unwrap()
    }

    #[test]
    fn loss_gradients_agree_with_finite_differences() {
        let vars = initial(4, CONFIG.hidden, &[-1.0, 0.5, 2.0], 7).unwrap();
        let batch = HeadBatch {
            inputs: tensor(6, 4, |i| (i as f32 * 1.3).sin() * 2.0),
            labels: tensor(6, 3, |i| f32::from(u8::from(i % 4 == 0))),
            weights: tensor(6, 3, |i| [1.0, 0.15, 0.0, 1.0][i % 4]),
            seed: 3,
        };
        let loss = || {
            batch
                .loss(
                    &EvidenceHead::from_weights(&weights(&vars)).unwrap(),
                    CONFIG,
                    6,
                )
                .unwrap()
        };
        let mut gradients = loss().backward().unwrap();
        for (name, var) in named_vars(&vars) {
            let gradient = gradients
                .remove(&var)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(gradient.iter().any(|g| g.abs() > 1e-4), "{name} takes part");
            let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..start.len() {
                let at = |step: f32| {
                    let mut moved = start.clone();
                    moved[i] += step;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                        .unwrap();
                    loss().to_scalar::<f32>().unwrap()
                };
                let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
                at(0.0);
                assert!(
                    (difference - gradient[i]).abs() < 2e-3 + 2e-2 * gradient[i].abs(),
                    "{name}[{i}]: {difference} {}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn initial_predicts_near_the_prior_and_is_deterministic() {
        let prior = [-3.0f32, 0.25];
        let head =
            EvidenceHead::from_weights(&weights(&initial(8, 16, &prior, 1).unwrap())).unwrap();
        let rows: Vec<Vec<f32>> = (0..3)
            .map(|i| (0..8).map(|j| ((i * 8 + j) as f32).cos()).collect())
            .collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let found = head.evidence(&rows).unwrap();
        assert!(
            found
                .iter()
                .flat_map(|row| row.iter().zip(&prior))
                .all(|(x, prior)| (x - prior).abs() < 0.3),
            "{found:?}"
        );
        assert_eq!(head.evidence(&rows).unwrap(), found);
        assert!(head.evidence(&[]).unwrap().is_empty());
    }

    #[test]
    fn average_logits_are_the_mean_of_the_networks_logits() {
        let networks: Vec<Tensors> = (1..4)
            .map(|seed| weights(&initial(8, 5, &[-1.0, seed as f32], seed).unwrap()))
            .collect();
        let row: Vec<f32> = (0..8).map(|i| (i as f32).cos() * 3.0).collect();
        let logits = |weights: &Tensors| {
            EvidenceHead::from_weights(weights)
                .unwrap()
                .evidence(&[&row])
                .unwrap()
                .remove(0)
        };
        let each: Vec<Vec<f32>> = networks.iter().map(logits).collect();
        let found = logits(&average(&networks).unwrap());
        for (j, found) in found.iter().enumerate() {
            let want = each.iter().map(|logits| logits[j]).sum::<f32>() / 3.0;
            assert!((found - want).abs() < 1e-5, "{j}: {found} {want}");
        }
        assert_eq!(logits(&average(&networks[..1]).unwrap()), each[0]);
        assert!(average(&[Tensors::new()]).is_err());
    }

    #[test]
    fn apply_standardizes_and_clamps() {
        let rows: [&[f32]; 2] = [&[0.0, 5.0], &[2.0, 5.0]];
        let standard = Standardization::from_rows(&rows);
        assert_eq!(standard.mean, [1.0, 5.0]);
        assert!(
            (standard.scale[0] - 1.001).abs() < 1e-6 && (standard.scale[1] - 0.001).abs() < 1e-6
        );
        let found = standard.apply(&[3.0, 6.0]);
        assert!((found[0] - 2.0 / 1.001).abs() < 1e-5);
        assert_eq!(found[1], 6.0, "a feature that never changed");
    }
}
