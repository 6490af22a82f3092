//! Photographs as they come in, to what a vision tower takes.
//!
//! [`decode`] reads bytes that nobody has vouched for: sizes are checked from the header before anything is decoded, and half a picture is an
//! error. [`to_pixels`] resizes as Pillow's `Image.resize(..., BICUBIC)` does, to one level in 255.

use candle_core::{Device, Error, Result as TensorResult, Tensor};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images};
use image::RgbImage;

mod decode;
mod jpeg;
mod repair;
mod sniff;

pub use decode::{ImageError, ImageLimits, decode};

/// Resizes to `size` x `size` without keeping the aspect ratio, then `(level - mean) / std` with `mean` and `std` in levels (0 to 255) of red,
/// green and blue: `(3, size, size)` in `f32`.
///
/// # Errors
/// When `size` or the image is empty, or the tensor cannot be made.
pub fn to_pixels(image: &RgbImage, size: usize, mean: [f32; 3], std: [f32; 3], device: &Device) -> TensorResult<Tensor> {
    let resized = resize(image, size as u32)?;
    let (levels, _) = resized.as_chunks::<3>();
    let normalised = (0..3).flat_map(|c| levels.iter().map(move |level| (f32::from(level[c]) - mean[c]) / std[c]));
    Tensor::from_vec(normalised.collect::<Vec<_>>(), (3, size, size), device)
}

/// Rows of RGB levels, `size * size * 3` of them.
fn resize(image: &RgbImage, size: u32) -> TensorResult<Vec<u8>> {
    if size == 0 || image.width() == 0 || image.height() == 0 {
        return Err(Error::msg(format!("cannot resize {}x{} to {size}x{size}", image.width(), image.height())));
    }
    let source = images::ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(Error::wrap)?;
    let mut narrow = images::Image::new(size, image.height(), PixelType::U8x3);
    let mut target = images::Image::new(size, size, PixelType::U8x3);
    // Catmull-Rom is the cubic that Pillow calls BICUBIC (a = -0.5). Pillow resizes rows first and clips to 0..=255 in between; the crate
    // by itself would begin with the columns.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let mut resizer = Resizer::new();
    resizer.resize(&source, &mut narrow, &options).map_err(Error::wrap)?;
    resizer.resize(&narrow, &mut target, &options).map_err(Error::wrap)?;
    Ok(target.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_is_per_channel_and_channels_come_first() {
        let image = RgbImage::from_pixel(5, 7, image::Rgb([127, 255, 0]));
        let pixels = to_pixels(&image, 2, [127., 127., 0.], [128., 64., 1.], &Device::Cpu).unwrap();
        assert_eq!(pixels.to_vec3::<f32>().unwrap(), [[[0.; 2]; 2], [[2.; 2]; 2], [[0.; 2]; 2]]);
    }

    #[test]
    fn an_image_of_no_size_is_an_error() {
        assert!(to_pixels(&RgbImage::new(0, 4), 8, [0.; 3], [1.; 3], &Device::Cpu).is_err());
        assert!(to_pixels(&RgbImage::new(4, 4), 0, [0.; 3], [1.; 3], &Device::Cpu).is_err());
    }
}
