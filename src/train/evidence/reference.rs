//! Reference photographs for familiarity: their coordinates along the principal components of the
//! vision tower's head.

use candle_core::{Device, Result, Tensor};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

/// Surplus components of the iteration, which speed up convergence of the last wanted ones.
const MORE: usize = 16;

/// Iterations of the eigenvector search.
const ROUNDS: usize = 50;

/// Largest stored coordinate.
const LARGEST: f32 = 127.0;

/// Size of the familiarity reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceConfig {
    /// Number of principal components.
    pub components: usize,
    /// Number of photographs, drawn from the training split.
    pub photographs: usize,
    /// Number of nearest photographs averaged.
    pub nearest: usize,
}

/// Settings of the scope reference, from photographs of all origins, outside which no question is
/// answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeRecipe {
    /// Number of photographs of Flickr8k's training split, drawn by the seed; of the other origins
    /// all in the shipped folds.
    pub photographs: usize,
    /// Number of nearest photographs averaged.
    pub nearest: usize,
    /// Share of held-out photographs, with equal weight of origins, for which questions stay
    /// unanswered.
    pub unanswered_share: f64,
}

/// Reference as stored in a bundle.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredReference {
    /// Mean of the photographs' channels.
    pub(super) center: Vec<f32>,
    /// Principal components, one per row.
    pub(super) basis: Vec<Vec<f32>>,
    /// Coordinates of photographs, one per row, divided by the norm of the photograph's centered
    /// channels and quantized in units of `scale`.
    pub(super) points: Vec<Vec<i8>>,
    /// Quantization unit of each component.
    pub(super) scale: Vec<f32>,
}

impl StoredReference {
    /// Fits the reference to `rows`, one per photograph; deterministic in `seed`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn fit(rows: &[&[f32]], config: ReferenceConfig, seed: u64) -> Result<Self> {
        let weights = vec![1.0 / rows.len() as f64; rows.len()];
        Self::weighted(rows, &weights, config.components, config.photographs, seed)
    }

    /// Fits the reference with weights that sum to 1, used for the mean and the components.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub(super) fn weighted(
        rows: &[&[f32]],
        weights: &[f64],
        components: usize,
        photographs: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (n, width) = (rows.len(), rows.first().map_or(0, |row| row.len()));
        let mut center = vec![0f64; width];
        let all = || rows.iter().zip(weights);
        all().for_each(|(row, weight)| {
            center
                .iter_mut()
                .zip(*row)
                .for_each(|(sum, x)| *sum += f64::from(*x) * weight)
        });
        let center: Vec<f32> = center.into_iter().map(|x| x as f32).collect();
        let centered: Vec<f32> = rows
            .iter()
            .flat_map(|row| row.iter().zip(&center).map(|(x, mean)| x - mean))
            .collect();
        let factors: Vec<f32> = weights.iter().map(|weight| weight.sqrt() as f32).collect();
        let matrix = Tensor::from_slice(&centered, (n, width), &Device::Cpu)?
            .broadcast_mul(&Tensor::from_vec(factors, (n, 1), &Device::Cpu)?)?;
        let components = components.min(width).min(n);
        let basis = principal_components(&matrix.t()?.matmul(&matrix)?, components, &mut rng)?;
        let mut drawn: Vec<usize> = (0..n).collect();
        drawn.shuffle(&mut rng);
        drawn.truncate(photographs);
        let coordinates: Vec<Vec<f32>> = drawn
            .iter()
            .map(|&i| {
                let row = &centered[i * width..(i + 1) * width];
                let norm = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
                basis
                    .iter()
                    .map(|component| dot(component, row) / norm)
                    .collect()
            })
            .collect();
        let largest = |j: usize| {
            coordinates
                .iter()
                .map(|point| point[j].abs())
                .fold(0f32, f32::max)
        };
        let scale: Vec<f32> = (0..components)
            .map(|j| largest(j).max(f32::MIN_POSITIVE) / LARGEST)
            .collect();
        let stored = |point: &Vec<f32>| {
            point
                .iter()
                .zip(&scale)
                .map(|(x, unit)| (x / unit).round().clamp(-LARGEST, LARGEST) as i8)
                .collect()
        };
        Ok(Self {
            points: coordinates.iter().map(stored).collect(),
            center,
            basis,
            scale,
        })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Leading eigenvectors of a symmetric matrix by orthogonal iteration, largest eigenvalues first.
fn principal_components(
    matrix: &Tensor,
    components: usize,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<f32>>> {
    let width = matrix.dim(0)?;
    let count = (components + MORE).min(width);
    let mut vectors: Vec<Vec<f32>> = (0..count)
        .map(|_| (0..width).map(|_| rng.random_range(-1.0..1.0)).collect())
        .collect();
    for _ in 0..ROUNDS {
        orthonormalize(&mut vectors);
        let rows = Tensor::from_vec(vectors.concat(), (count, width), &Device::Cpu)?;
        // By symmetry, rows times the matrix equal the matrix times columns.
        vectors = rows.matmul(matrix)?.to_vec2()?;
    }
    orthonormalize(&mut vectors);
    vectors.truncate(components);
    Ok(vectors)
}

/// Orthonormalizes rows in their order, in two passes against rounding errors.
fn orthonormalize(rows: &mut [Vec<f32>]) {
    for i in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(i);
        let Some(row) = rest.first_mut() else { return };
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(other, row);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            let norm = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Twelve photographs with five channels.
    pub(in crate::train::evidence) fn photographs() -> Vec<Vec<f32>> {
        let channel = |i: f64, j: f64| (1.7 * i + 0.9 * j * j + 0.3 * i * j).sin() * (5.0 - j);
        (0..12)
            .map(|i| {
                (0..5)
                    .map(|j| channel(f64::from(i), f64::from(j)) as f32)
                    .collect()
            })
            .collect()
    }

    #[test]
    fn fit_components_agree_with_numpy() {
        let rows = photographs();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let config = ReferenceConfig {
            components: 2,
            photographs: 12,
            nearest: 3,
        };
        let reference = StoredReference::fit(&rows, config, 5).unwrap();
        // numpy: rows.mean(0), and numpy.linalg.svd(rows - rows.mean(0))[2][:2]
        let center = [
            -0.028_998_5,
            0.131_387_2,
            -0.133_341,
            -0.007_409_7,
            0.072_932_5,
        ];
        let components = [
            [
                -0.814_858_7,
                0.573_735_2,
                -0.011_56,
                0.081_531_2,
                -0.007_227_6,
            ],
            [
                0.327_359,
                0.500_686_9,
                -0.716_710_4,
                -0.356_489_4,
                -0.037_285_8,
            ],
        ];
        assert!(
            reference
                .center
                .iter()
                .zip(center)
                .all(|(ours, theirs)| (ours - theirs).abs() < 1e-5)
        );
        for (ours, theirs) in reference.basis.iter().zip(components) {
            let sign = if (ours[0] > 0.0) == (theirs[0] > 0.0) {
                1.0
            } else {
                -1.0
            };
            assert!(
                ours.iter()
                    .zip(theirs)
                    .all(|(a, b)| (sign * a - b).abs() < 1e-3),
                "{ours:?}"
            );
        }
        assert_eq!((reference.points.len(), reference.scale.len()), (12, 2));
        assert!(
            (0..2).all(|j| reference.points.iter().any(|point| point[j].abs() == 127)),
            "the range is used"
        );
        let fewer = StoredReference::fit(
            &rows,
            ReferenceConfig {
                photographs: 4,
                components: 40,
                ..config
            },
            5,
        )
        .unwrap();
        assert_eq!((fewer.points.len(), fewer.basis.len()), (4, 5));
    }
}
