//! Files that nobody has vouched for, to upright RGB.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
    metadata::Orientation::{self, NoTransforms},
};
use serde::{Deserialize, Serialize};

use super::{
    jpeg::decode_jpeg,
    repair::repair,
    sniff::{READ, sniff},
};

/// Longest side of an image in pixels, whatever its format.
const MAX_SIDE: u32 = 65_535;

/// How much an image may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// Size of the file in bytes.
    pub max_bytes: usize,
    /// Width times height.
    pub max_pixels: u64,
    /// Memory in bytes that the decoded image may take; a pixel takes up to 8.
    pub max_alloc: u64,
}

impl Default for ImageLimits {
    /// A photograph of 48 megapixels passes.
    fn default() -> Self {
        Self { max_bytes: 20 << 20, max_pixels: 50_000_000, max_alloc: 256 << 20 }
    }
}

/// Why an image was refused, in words for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file is over [`ImageLimits::max_bytes`].
    #[error("the image has {bytes} bytes, more than the {max} allowed")]
    TooManyBytes {
        /// Size of the file.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Something else, described as far as it is known.
    #[error("the data is {0}, not an image; send {READ}")]
    NotAnImage(&'static str),
    /// An image in a format, or a variant of one, that cannot be read.
    #[error("{0} images are not supported; send {READ}")]
    Unsupported(String),
    /// A side is longer than any format that is read, or the format itself, allows.
    #[error("a side of the image is longer than the {max} pixels allowed")]
    SideTooLong {
        /// The limit.
        max: u32,
    },
    /// The header announces more than [`ImageLimits::max_pixels`].
    #[error("the image is {width}x{height}, more than the {max} pixels allowed")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit.
        max: u64,
    },
    /// Decoding would take more than [`ImageLimits::max_alloc`].
    #[error("decoding the image takes more than the {max} bytes of memory allowed")]
    TooMuchMemory {
        /// The limit.
        max: u64,
    },
    /// The file breaks off or contradicts itself.
    #[error("the {format} image is truncated or corrupt: {reason}")]
    Corrupt {
        /// What it would have been.
        format: &'static str,
        /// What the decoder found.
        reason: String,
    },
}

/// Decodes the first frame to upright RGB with 8 bits a channel, transparency over white.
///
/// # Errors
/// See [`ImageError`].
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), max: limits.max_bytes });
    }
    let (mut image, orientation) = match sniff(bytes)? {
        (ImageFormat::Jpeg, _) => decode_jpeg(bytes, limits)?,
        (format, name) => {
            let whole = repair(bytes, format).map_err(|reason| ImageError::Corrupt { format: name, reason: reason.to_owned() })?;
            decode_other(&whole, format, name, limits)?
        }
    };
    image.apply_orientation(orientation);
    Ok(over_white(image))
}

/// Refuses an image by what its header announces; `bytes` is the memory that decoding it takes.
pub(super) fn check_size(width: u32, height: u32, bytes: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    if width.max(height) > MAX_SIDE {
        return Err(ImageError::SideTooLong { max: MAX_SIDE });
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, max: limits.max_pixels });
    }
    if bytes > limits.max_alloc {
        return Err(ImageError::TooMuchMemory { max: limits.max_alloc });
    }
    Ok(())
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &ImageLimits,
) -> Result<(DynamicImage, Orientation), ImageError> {
    let refuse = |e: image::ImageError| match e {
        image::ImageError::Limits(_) => ImageError::TooMuchMemory { max: limits.max_alloc },
        image::ImageError::Unsupported(what) => ImageError::Unsupported(format!("{name} ({what})")),
        other => ImageError::Corrupt { format: name, reason: other.to_string() },
    };
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(limits.max_alloc);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, decoder.total_bytes(), limits)?;
    let orientation = decoder.orientation().unwrap_or(NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    if format == ImageFormat::Bmp {
        make_opaque(&mut image);
    }
    Ok((image, orientation))
}

/// Takes an alpha channel that hides the whole image for one that was never filled, as browsers do: pictures from clipboards have such.
fn make_opaque(image: &mut DynamicImage) {
    if let DynamicImage::ImageRgba8(rgba) = image
        && rgba.pixels().all(|pixel| pixel.0[3] == 0)
    {
        rgba.pixels_mut().for_each(|pixel| pixel.0[3] = 255);
    }
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let over = |channel: u8, alpha: u8| {
        let (c, a) = (u32::from(channel), u32::from(alpha));
        ((c * a + 255 * (255 - a) + 127) / 255) as u8
    };
    let mut out = RgbImage::new(image.width(), image.height());
    for (to, from) in out.pixels_mut().zip(image.pixels()) {
        let [r, g, b, a] = from.0;
        to.0 = [over(r, a), over(g, a), over(b, a)];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_shows_white() {
        let mut image = image::RgbaImage::from_pixel(3, 1, image::Rgba([0, 100, 255, 0]));
        image.get_pixel_mut(1, 0).0[3] = 255;
        image.get_pixel_mut(2, 0).0[3] = 51;
        assert_eq!(over_white(image.into()).into_raw(), [255, 255, 255, 0, 100, 255, 204, 224, 255]);
    }
}
