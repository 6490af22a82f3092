//! Familiarity: the similarity of a photograph to the training photographs.
//!
//! The centered, pooled channels of the tower's head are compared with those of reference
//! photographs by cosine, in the coordinates of a few principal components. Both are divided by the
//! norm of all their channels, so that what lies outside the components makes a photograph less
//! similar to every reference.

use serde::{Deserialize, Serialize};

use super::{files::EvidenceError, tensor_file::TensorFile};

/// Logistic function from the mean cosine of the nearest references and the evidence of people to
/// familiarity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamiliarityScale {
    /// Factor on the mean cosine, positive.
    pub slope: f64,
    /// Factor on the evidence of people: the training photographs mostly show people, and the model
    /// names them where there are none.
    #[serde(default)]
    pub people: f64,
    /// Intercept.
    pub offset: f64,
}

impl FamiliarityScale {
    /// Returns `true` if the function rises with the cosine and has finite parameters.
    pub(super) fn is_rising(self) -> bool {
        self.slope.is_finite()
            && self.slope > 0.0
            && self.people.is_finite()
            && self.offset.is_finite()
    }

    /// Returns the familiarity for a mean cosine and the evidence of people (a logit): the
    /// probability that a caption invents no object.
    pub fn familiarity(self, cosine: f64, people: f64) -> f32 {
        (1.0 / (1.0
            + (-(self.slope * cosine + self.people * people.clamp(-8.0, 8.0) + self.offset)).exp()))
            as f32
    }
}

/// Reference photographs, and the coordinates in which they are compared.
pub(super) struct ReferencePhotographs {
    center: Vec<f32>,
    /// Principal components, one row each.
    basis: Vec<f32>,
    /// Coordinates of the references, one row each, in multiples of `units`.
    points: Vec<i8>,
    units: Vec<f32>,
    k: usize,
}

impl ReferencePhotographs {
    /// Loads the arrays `center`, `basis`, `points` and `scale` of a name. `channels` are those of
    /// the tower's features; the `k` nearest references are averaged.
    pub(super) fn load(
        stored: &TensorFile<'_>,
        name: &str,
        channels: usize,
        k: usize,
    ) -> Result<Self, EvidenceError> {
        let [center, basis, points, scale] =
            ["center", "basis", "points", "scale"].map(|array| format!("{name}.{array}"));
        let ((components, width), (photographs, _)) =
            (stored.sides(&basis)?, stored.sides(&points)?);
        if width > channels {
            return Err(stored.error(
                &basis,
                format!("has {width} channels; the tower has {channels}"),
            ));
        }
        if photographs < k {
            return Err(stored.error(
                &points,
                format!("has {photographs} photographs; k in evidence.json is {k}"),
            ));
        }
        Ok(Self {
            center: stored.floats(&center, &[width])?,
            basis: stored.floats(&basis, &[components, width])?,
            points: stored.bytes(&points, &[photographs, components])?,
            units: stored.floats(&scale, &[components])?,
            k,
        })
    }

    /// Returns the mean cosine of the nearest references to a photograph with the given pooled
    /// channels, of which only the first may be used.
    pub(super) fn mean_cosine(&self, pooled: &[f32]) -> f64 {
        let centered: Vec<f32> = pooled
            .iter()
            .zip(&self.center)
            .map(|(x, center)| x - center)
            .collect();
        let norm = centered
            .iter()
            .map(|x| x * x)
            .sum::<f32>()
            .sqrt()
            .max(f32::MIN_POSITIVE);
        let dot = |line: &[f32]| line.iter().zip(&centered).map(|(a, b)| a * b).sum::<f32>();
        // The query is scaled, so that references stay bytes.
        let lines = self.basis.chunks_exact(self.center.len());
        let query: Vec<f32> = lines
            .zip(&self.units)
            .map(|(line, unit)| dot(line) / norm * unit)
            .collect();
        let cosine = |point: &[i8]| {
            point
                .iter()
                .zip(&query)
                .map(|(&a, b)| f32::from(a) * b)
                .sum::<f32>()
        };
        let mut cosines: Vec<f32> = self.points.chunks_exact(query.len()).map(cosine).collect();
        let k = self.k.min(cosines.len());
        cosines.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        cosines[..k]
            .iter()
            .map(|&cosine| f64::from(cosine))
            .sum::<f64>()
            / k as f64
    }
}
