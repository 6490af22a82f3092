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
        other => match other.to_string() {
            long if long.contains("too large") => ImageError::SideTooLong { max: MAX_SIDE },
            found => ImageError::Corrupt { format: name, reason: reason(&found).to_owned() },
        },
    };
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(limits.max_alloc);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Corrupt { format: name, reason: "its width or height is 0".to_owned() });
    }
    check_size(width, height, decoder.total_bytes(), limits)?;
    let orientation = decoder.orientation().unwrap_or(NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    if format == ImageFormat::Bmp {
        make_opaque(&mut image);
    }
    Ok((image, orientation))
}

/// Parts of what decoders say, and what that means for whoever sent the file.
const REASONS: [(&str, &str); 8] = [
    ("CRC error", "a checksum is wrong"),
    ("Unrecognized critical chunk", "it has a part of an unknown kind"),
    ("End of File", BREAKS_OFF),
    ("end of file", BREAKS_OFF),
    ("fill whole buffer", BREAKS_OFF),
    ("InsufficientInput", BREAKS_OFF),
    ("enough data", BREAKS_OFF),
    ("is missing", BREAKS_OFF),
];
const BREAKS_OFF: &str = "its data break off";

/// What a decoder found, without its own types and numbers.
fn reason(found: &str) -> &'static str {
    REASONS.iter().find(|(part, _)| found.contains(part)).map_or("its data contradict each other", |(_, reason)| reason)
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
    fn reasons_are_in_plain_words() {
        for (found, plain) in [
            (
                "Format error decoding Png: CRC error: expected 0x8c6ff900 have 0x8c6ff975 while decoding ChunkType { type: IDAT }",
                "a checksum is wrong",
            ),
            ("Format error decoding Png: Corrupt deflate stream. InsufficientInput", "its data break off"),
            ("Format error decoding Png: IDAT or fDAT chunk does not have enough data for image.", "its data break off"),
            ("Format error decoding Gif: Unexpected End of File", "its data break off"),
            ("failed to fill whole buffer", "its data break off"),
            ("Format error decoding Gif: unknown block type encountered", "its data contradict each other"),
        ] {
            assert_eq!(reason(found), plain, "{found}");
        }
    }

    #[test]
    fn png_of_xcode_is_refused_by_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\x02";
        assert!(matches!(decode(png, &ImageLimits::default()), Err(ImageError::Unsupported(what)) if what.contains("CgBI")));
    }

    #[test]
    fn transparency_shows_white() {
        let mut image = image::RgbaImage::from_pixel(3, 1, image::Rgba([0, 100, 255, 0]));
        image.get_pixel_mut(1, 0).0[3] = 255;
        image.get_pixel_mut(2, 0).0[3] = 51;
        assert_eq!(over_white(image.into()).into_raw(), [255, 255, 255, 0, 100, 255, 204, 224, 255]);
    }
}
