//! Image preprocessing: from files to the input of a vision tower.
//!
//! [`decode_resized`] reads untrusted bytes: sizes and memory are checked from the header before
//! anything is decoded, and a partial picture is an error. [`to_pixels`] resizes as Pillow's
//! `Image.resize(..., BICUBIC)` does, to one level in 255. Neither holds a whole picture or a whole
//! resize pass unless the format requires it; [`ImageHeader::memory`] gives their memory.

use candle_core::{Device, Error, Result as TensorResult, Tensor};
use image::{RgbImage, metadata::Orientation::NoTransforms};

mod decode;
mod jpeg;
mod layout;
mod limits;
mod lossless;
mod png;
mod raster;
mod repair;
mod resize;
mod sniff;

pub use decode::{ImageHeader, check, decode, decode_resized, inspect};
pub use layout::image_length;
pub use limits::{ImageError, ImageLimits};

use resize::{RowResizer, band_rows};

/// Resizes to `size` x `size` without keeping the aspect ratio and normalizes to `(level - mean) /
/// std`, with `mean` and `std` in levels (0 to 255) of red, green and blue: `(3, size, size)` in
/// `f32`.
///
/// # Errors
/// When `size` or the image is empty, or the tensor cannot be created.
pub fn to_pixels(
    image: &RgbImage,
    size: usize,
    mean: [f32; 3],
    std: [f32; 3],
    device: &Device,
) -> TensorResult<Tensor> {
    let resized = resize(image, size as u32)?;
    let (levels, _) = resized.as_chunks::<3>();
    let normalized = (0..3).flat_map(|c| {
        levels
            .iter()
            .map(move |level| (f32::from(level[c]) - mean[c]) / std[c])
    });
    Tensor::from_vec(normalized.collect::<Vec<_>>(), (3, size, size), device)
}

/// Resized image with `size * size * 3` levels.
fn resize(image: &RgbImage, size: u32) -> TensorResult<RgbImage> {
    let (width, height) = image.dimensions();
    if size == 0 || width == 0 || height == 0 {
        return Err(Error::msg(format!(
            "cannot resize {width}x{height} to {size}x{size}"
        )));
    }
    let mut resizer = RowResizer::new(width, height, NoTransforms.into(), size);
    let line = 3 * width as usize;
    image
        .as_raw()
        .chunks(line * band_rows(line))
        .for_each(|band| resizer.push(band));
    resizer.finish().map_err(Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_pixels_normalizes_per_channel_channels_first() {
        let image = RgbImage::from_pixel(5, 7, image::Rgb([127, 255, 0]));
        let pixels = to_pixels(&image, 2, [127., 127., 0.], [128., 64., 1.], &Device::Cpu).unwrap();
        assert_eq!(
            pixels.to_vec3::<f32>().unwrap(),
            [[[0.; 2]; 2], [[2.; 2]; 2], [[0.; 2]; 2]]
        );
    }

    #[test]
    fn to_pixels_empty_image_is_an_error() {
        assert!(to_pixels(&RgbImage::new(0, 4), 8, [0.; 3], [1.; 3], &Device::Cpu).is_err());
        assert!(to_pixels(&RgbImage::new(4, 4), 0, [0.; 3], [1.; 3], &Device::Cpu).is_err());
    }
}
