//! Limits of images and the errors of those that break them.

use serde::{Deserialize, Serialize};

use super::{resize::UprightMap, sniff::READ};

/// Maximum side of an image in pixels, in any format.
const MAX_SIDE: u32 = 65_535;

/// Maximum ratio of the long side to the short one.
const MAX_ASPECT: u32 = 200;

/// Limits on an image's size and on the memory to decode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// Maximum file size in bytes.
    pub max_bytes: usize,
    /// Maximum number of pixels.
    pub max_pixels: u64,
    /// Maximum memory in bytes for decoding and resizing, including all buffers of the decoder.
    pub max_alloc: u64,
}

impl Default for ImageLimits {
    /// Limits that admit a photograph of 50 megapixels, also as a progressive JPEG with halved
    /// colors.
    fn default() -> Self {
        Self {
            max_bytes: 20 << 20,
            max_pixels: 50_000_000,
            max_alloc: 160 << 20,
        }
    }
}

/// Reason to refuse an image, worded for its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file exceeds [`ImageLimits::max_bytes`].
    #[error("the image has {bytes} bytes, more than the {max} allowed")]
    TooManyBytes {
        /// File size.
        bytes: usize,
        /// Maximum.
        max: usize,
    },
    /// The file is not an image; it is described as far as recognized.
    #[error("the data is {0}, not an image; send {READ}")]
    NotAnImage(&'static str),
    /// Image format, or variant of one, that is not supported.
    #[error("{0} images are not supported; send {READ}")]
    Unsupported(String),
    /// A side exceeds the limit of all formats, or of its own.
    #[error("a side of the image is longer than the {max} pixels allowed")]
    SideTooLong {
        /// Maximum.
        max: u32,
    },
    /// The header announces more pixels than [`ImageLimits::max_pixels`].
    #[error("the image is {width}x{height}, more than the {max} pixels allowed")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Maximum.
        max: u64,
    },
    /// A side is more than 200 times as long as the other.
    #[error(
        "the image is {width}x{height}: one side is more than {max} times as long as the other"
    )]
    TooThin {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Maximum ratio.
        max: u32,
    },
    /// Decoding would exceed [`ImageLimits::max_alloc`].
    #[error("decoding the image takes more than the {max} bytes of memory allowed")]
    TooMuchMemory {
        /// Maximum.
        max: u64,
    },
    /// The pixels cannot be resized.
    #[error("the image cannot be resized: {0}")]
    Resize(String),
    /// The file is truncated or inconsistent.
    #[error("the {format} image is truncated or corrupt: {reason}")]
    Corrupt {
        /// Name of the format.
        format: &'static str,
        /// Description of the damage.
        reason: String,
    },
}

/// Image before orientation.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredImage {
    /// Stored width in pixels.
    pub(super) width: u32,
    /// Stored height in pixels.
    pub(super) height: u32,
    pub(super) turn: UprightMap,
    /// Memory of the decoder in bytes.
    pub(super) memory: u64,
}

/// Checks width and height against the limits. Every format calls it before it allocates memory
/// that depends on them.
pub(super) fn check_size(
    width: u32,
    height: u32,
    format: &'static str,
    limits: &ImageLimits,
) -> Result<(), ImageError> {
    let (short, long) = (width.min(height), width.max(height));
    if short == 0 {
        return Err(ImageError::Corrupt {
            format,
            reason: "its width or height is 0".to_owned(),
        });
    }
    if long > MAX_SIDE {
        return Err(ImageError::SideTooLong { max: MAX_SIDE });
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels {
            width,
            height,
            max: limits.max_pixels,
        });
    }
    if u64::from(long) > u64::from(MAX_ASPECT) * u64::from(short) {
        return Err(ImageError::TooThin {
            width,
            height,
            max: MAX_ASPECT,
        });
    }
    Ok(())
}

pub(super) fn check_memory(bytes: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    if bytes > limits.max_alloc {
        Err(ImageError::TooMuchMemory {
            max: limits.max_alloc,
        })
    } else {
        Ok(())
    }
}

/// Error for a side that the decoder itself finds too long.
pub(super) fn side_too_long() -> ImageError {
    ImageError::SideTooLong { max: MAX_SIDE }
}

/// Fragments of decoders' messages, with the reason to give the sender.
const REASONS: [(&str, &str); 8] = [
    ("CRC error", "a checksum is wrong"),
    (
        "Unrecognized critical chunk",
        "it has a part of an unknown kind",
    ),
    ("End of File", BREAKS_OFF),
    ("end of file", BREAKS_OFF),
    ("fill whole buffer", BREAKS_OFF),
    ("InsufficientInput", BREAKS_OFF),
    ("enough data", BREAKS_OFF),
    ("is missing", BREAKS_OFF),
];

const BREAKS_OFF: &str = "its data break off";

/// Reason in plain words for a decoder's message.
pub(super) fn reason(found: &str) -> &'static str {
    REASONS
        .iter()
        .find(|(part, _)| found.contains(part))
        .map_or("its data contradict each other", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_plain_words() {
        for (found, plain) in [
            (
                "Format error decoding Png: CRC error: expected 0x8c6ff900 have 0x8c6ff975 while \
                 decoding ChunkType { type: IDAT }",
                "a checksum is wrong",
            ),
            (
                "Format error decoding Png: Corrupt deflate stream. InsufficientInput",
                "its data break off",
            ),
            (
                "Format error decoding Png: IDAT or fDAT chunk does not have enough data for \
                 image.",
                "its data break off",
            ),
            (
                "Format error decoding Gif: Unexpected End of File",
                "its data break off",
            ),
            ("failed to fill whole buffer", "its data break off"),
            (
                "Format error decoding Gif: unknown block type encountered",
                "its data contradict each other",
            ),
        ] {
            assert_eq!(reason(found), plain, "{found}");
        }
    }
}
