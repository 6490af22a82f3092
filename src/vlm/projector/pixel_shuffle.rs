//! Projector of Idefics3 (Laurençon et al., 2024, <https://arxiv.org/abs/2408.12637>): squares of
//! neighboring patches become channels of one position.

use candle_core::{Result, Tensor, bail};

use crate::vlm::{nn::Linear, weights::Weights};

/// Pixel shuffle and a matrix (`Idefics3Connector` of `modeling_idefics3.py`).
#[derive(Debug)]
pub struct PixelShuffleProjector {
    factor: usize,
    proj: Linear,
}

impl PixelShuffleProjector {
    /// Loads `modality_projection.proj` for patches of `channels`, `factor` x `factor` of which
    /// become one position of `width`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn load(
        factor: usize,
        (channels, width): (usize, usize),
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let input = channels * factor * factor;
        let proj = weights.linear("modality_projection.proj", width, input, false)?;
        Ok(Self { factor, proj })
    }

    /// Projects square tiles `(tiles, side * side, channels)` to `(tiles * (side / factor)²,
    /// width)`.
    ///
    /// # Errors
    /// When the shape differs or a tensor operation fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward(&shuffle(x, self.factor)?)
    }
}

/// Returns squares of `factor` x `factor` patches as rows, their patches side by side in reading
/// order: `(tiles * squares, factor² * channels)`.
fn shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (tiles, patches, channels) = x.dims3()?;
    let side = patches.isqrt();
    if side * side != patches || !side.is_multiple_of(factor) {
        bail!("{patches} patches are no square of squares of {factor} x {factor}");
    }
    let squares = side / factor;
    x.reshape((tiles, squares, factor, squares, factor * channels))?
        .transpose(2, 3)?
        .reshape((tiles * squares * squares, factor * factor * channels))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn shuffle_gathers_squares_in_reading_order() {
        // Patch `10 * row + column` of a 4 x 4 tile.
        let patches: Vec<f32> = (0..16).map(|i| (10 * (i / 4) + i % 4) as f32).collect();
        let x = Tensor::from_vec(patches, (1, 16, 1), &Device::Cpu).unwrap();
        let rows = shuffle(&x, 2).unwrap().to_vec2::<f32>().unwrap();
        let want = [
            [0., 1., 10., 11.],
            [2., 3., 12., 13.],
            [20., 21., 30., 31.],
            [22., 23., 32., 33.],
        ];
        assert_eq!(rows, want);
        assert!(shuffle(&x, 3).is_err());
        assert!(shuffle(&x.narrow(1, 0, 15).unwrap(), 2).is_err());
    }
}
