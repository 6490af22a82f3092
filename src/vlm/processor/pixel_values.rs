//! Conversion of 8-bit levels to the input of a vision tower.

use image::RgbImage;

use super::processor_config::{ConfigSection, ProcessorFileError};

/// Input value of every level of red, green and blue: rescaling and normalization, as
/// transformers computes them with NumPy (`rescale` in `f64`, `normalize` in `f32`).
#[derive(Debug, Clone)]
pub struct PixelValues {
    table: Box<[[f32; 256]; 3]>,
}

impl PixelValues {
    /// Reads `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean` and `image_std`.
    ///
    /// # Errors
    /// When one is of another type, a mean or deviation is missing, or values would not be finite.
    pub fn read(image: &ConfigSection) -> Result<Self, ProcessorFileError> {
        let rescaled = image.flag("do_rescale")?.unwrap_or(true);
        let factor = match rescaled {
            true => image.number("rescale_factor")?.unwrap_or(1.0 / 255.0),
            false => 1.0,
        };
        let (mean, std) = match image.flag("do_normalize")?.unwrap_or(true) {
            true => (image.channels("image_mean")?, image.channels("image_std")?),
            false => ([0.0; 3], [1.0; 3]),
        };
        let mut table = Box::new([[0.0; 256]; 3]);
        for ((values, mean), std) in table.iter_mut().zip(mean).zip(std) {
            for (value, level) in values.iter_mut().zip(0..=255u8) {
                let rescaled = (f64::from(level) * factor) as f32;
                *value = (rescaled - mean as f32) / std as f32;
            }
            if !values.iter().all(|value| value.is_finite()) {
                return Err(image.error("image_std", "gives values that are not finite"));
            }
        }
        Ok(Self { table })
    }

    /// Writes a square part of a picture, channels first; `out` has `3 * side * side` values.
    pub fn write(&self, image: &RgbImage, at: (u32, u32), side: u32, out: &mut [f32]) {
        let side = side as usize;
        let (pixels, _) = image.as_raw().as_chunks::<3>();
        let planes = out.chunks_exact_mut(side * side).zip(&*self.table);
        for (channel, (plane, values)) in planes.enumerate() {
            let rows = pixels
                .chunks_exact(image.width() as usize)
                .skip(at.1 as usize);
            for (line, row) in plane.chunks_exact_mut(side).zip(rows) {
                for (value, pixel) in line.iter_mut().zip(&row[at.0 as usize..]) {
                    *value = values[usize::from(pixel[channel])];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn section(value: Value) -> ConfigSection {
        ConfigSection::new(
            "preprocessor_config.json",
            value.as_object().unwrap().clone(),
        )
    }

    #[test]
    fn write_part_is_channels_first() {
        let values = PixelValues::read(&section(json!({
            "do_rescale": false, "image_mean": [0, 10, 0], "image_std": [1, 1, 2],
        })))
        .unwrap();
        let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, 10 + y as u8, 6]));
        let mut out = [0.0; 12];
        values.write(&image, (1, 0), 2, &mut out);
        assert_eq!(out, [1., 2., 1., 2., 0., 0., 1., 1., 3., 3., 3., 3.]);
    }

    #[test]
    fn read_without_normalization_needs_no_mean() {
        let values = PixelValues::read(&section(json!({"do_normalize": false}))).unwrap();
        let mut out = [0.0; 3];
        values.write(
            &RgbImage::from_pixel(1, 1, image::Rgb([255, 0, 51])),
            (0, 0),
            1,
            &mut out,
        );
        assert_eq!(out, [1.0, 0.0, 0.2]);
    }

    #[test]
    fn read_refuses_deviations_of_zero_and_missing_means() {
        for (config, key) in [
            (
                json!({"image_mean": 0.5, "image_std": [0.5, 0, 0.5]}),
                "'image_std'",
            ),
            (json!({"image_std": 1}), "'image_mean' is missing"),
        ] {
            let error = PixelValues::read(&section(config)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
