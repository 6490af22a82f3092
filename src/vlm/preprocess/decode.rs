//! Files that nobody has vouched for, to upright RGB.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
    metadata::Orientation::{self, NoTransforms},
};
use serde::{Deserialize, Serialize};
use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

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
    /// No image format begins like this.
    #[error("the data is not an image; send JPEG, PNG, GIF, WebP or BMP")]
    NotAnImage,
    /// An image in a format, or a variant of one, that cannot be read.
    #[error("{0} images are not supported; send JPEG, PNG, GIF, WebP or BMP")]
    Unsupported(String),
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
        (format, name) => decode_other(bytes, format, name, limits)?,
    };
    image.apply_orientation(orientation);
    Ok(over_white(image))
}

/// The format by its first bytes, if it is one that we read, and its name.
fn sniff(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    let known = image::guess_format(bytes).ok();
    let name = match known {
        Some(ImageFormat::Jpeg) => "JPEG",
        Some(ImageFormat::Png) => "PNG",
        Some(ImageFormat::Gif) => "GIF",
        Some(ImageFormat::WebP) => "WebP",
        Some(ImageFormat::Bmp) => "BMP",
        Some(other) => return Err(ImageError::Unsupported(format!("{other:?}").to_uppercase())),
        // What phones write by default; unknown to the crate's list of formats.
        None if bytes.get(4..8) == Some(b"ftyp") => return Err(ImageError::Unsupported("HEIC and other ISO media".into())),
        None => return Err(ImageError::NotAnImage),
    };
    known.map(|format| (format, name)).ok_or(ImageError::NotAnImage)
}

fn check_size(width: u32, height: u32, bytes: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, max: limits.max_pixels });
    }
    if bytes > limits.max_alloc {
        return Err(ImageError::TooMuchMemory { max: limits.max_alloc });
    }
    Ok(())
}

/// In the decoder's strict mode, which the `image` crate does not offer: its lenient one makes grey of what is missing. Four channels
/// are read as inverted, which is how Adobe and nearly all others write CMYK.
fn decode_jpeg(bytes: &[u8], limits: &ImageLimits) -> Result<(DynamicImage, Orientation), ImageError> {
    let corrupt = |e: DecodeErrors| match e {
        DecodeErrors::Unsupported(what) => ImageError::Unsupported(format!("JPEG ({what:?})")),
        other => ImageError::Corrupt { format: "JPEG", reason: format!("{other:?}").trim_matches('"').to_owned() },
    };
    if !has_end_marker(bytes) {
        return Err(ImageError::Corrupt { format: "JPEG", reason: "the end is missing".into() });
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt)?;
    let (width, height) = decoder.dimensions().map_or((0, 0), |(w, h)| (w as u32, h as u32));
    check_size(width, height, 3 * u64::from(width) * u64::from(height), limits)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(NoTransforms);
    let pixels = decoder.decode().map_err(corrupt)?;
    match RgbImage::from_raw(width, height, pixels) {
        Some(image) => Ok((image.into(), orientation)),
        None => Err(ImageError::Corrupt { format: "JPEG", reason: format!("its pixels do not fill {width}x{height}") }),
    }
}

/// Whether the file comes to its end marker: the decoder fills up what is missing of the last rows without a word.
fn has_end_marker(jpeg: &[u8]) -> bool {
    let mut rest = jpeg;
    // In compressed data 0xff is followed by 0; several 0xff are padding.
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff)) {
        rest = &rest[at..];
        let len = match rest {
            [_, 0xd9, ..] => return true,
            // Markers that stand alone: start of image, restarts.
            [_, 0x01 | 0xd0..=0xd8, ..] => 2,
            [_, _, high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    false
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
    Ok((DynamicImage::from_decoder(decoder).map_err(refuse)?, orientation))
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
