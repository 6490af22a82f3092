//! Decoding of untrusted image files to upright RGB.
//!
//! Sizes and memory are checked from the header before anything is decoded; then rows are passed on
//! as they are decoded.

use std::borrow::Cow;

use image::{ImageFormat, RgbImage};

use super::{
    jpeg,
    limits::{ImageError, ImageLimits, StoredImage, check_memory},
    png, raster,
    repair::repair,
    resize::RowResizer,
    sniff::sniff,
};

/// Header of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Name of the format.
    pub format: &'static str,
    /// Width in pixels, after orientation.
    pub width: u32,
    /// Height in pixels, after orientation.
    pub height: u32,
    /// Memory of the decoder in bytes.
    decoder: u64,
}

impl ImageHeader {
    /// Maximum memory in bytes of decoding the whole picture and holding it.
    pub fn picture_memory(&self) -> u64 {
        self.decoder + 3 * u64::from(self.width) * u64::from(self.height)
    }

    /// Maximum memory in bytes of decoding and resizing to `size` x `size`, without the file
    /// itself.
    pub fn memory(&self, size: u32) -> u64 {
        self.decoder
            + RowResizer::memory(
                self.width.max(self.height),
                self.width.max(self.height),
                size,
            )
    }
}

/// Reads the header of an image and refuses it if it exceeds a limit. Nothing is decoded, and no
/// memory is allocated that depends on the header.
///
/// # Errors
/// See [`ImageError`].
pub fn inspect(bytes: &[u8], limits: &ImageLimits) -> Result<ImageHeader, ImageError> {
    Ok(Source::open(bytes, limits)?.header())
}

/// Decodes the first frame and discards it.
///
/// # Errors
/// See [`ImageError`].
pub fn check(bytes: &[u8], limits: &ImageLimits) -> Result<(), ImageError> {
    Source::open(bytes, limits)?.read(&mut |_| ())
}

/// Decodes the first frame to upright RGB with 8 bits per channel and transparency over white. The
/// result takes 3 bytes per pixel, in addition to [`ImageLimits::max_alloc`].
///
/// # Errors
/// See [`ImageError`].
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let source = Source::open(bytes, limits)?;
    let ImageHeader { width, height, .. } = source.header();
    let (mut image, mut y) = (RgbImage::new(width, height), 0);
    source.read(&mut |band| {
        for row in band.chunks_exact(3 * source.head.width as usize) {
            source.head.turn.place(&mut image, y, row);
            y += 1;
        }
    })?;
    Ok(image)
}

/// Decodes the first frame as [`decode`] does and resizes it to `size` x `size` as
/// [`super::to_pixels`] does, without holding the whole image in memory.
///
/// # Errors
/// See [`ImageError`].
pub fn decode_resized(
    bytes: &[u8],
    limits: &ImageLimits,
    size: u32,
) -> Result<RgbImage, ImageError> {
    let source = Source::open(bytes, limits)?;
    check_memory(source.header().memory(size), limits)?;
    if size == 0 {
        return Err(ImageError::Resize("its new size is 0".to_owned()));
    }
    let mut resizer = RowResizer::new(
        source.head.width,
        source.head.height,
        source.head.turn,
        size,
    );
    source.read(&mut |band| resizer.push(band))?;
    resizer.finish().map_err(ImageError::Resize)
}

/// File with its header, checked against the limits.
struct Source<'a> {
    bytes: Cow<'a, [u8]>,
    format: ImageFormat,
    name: &'static str,
    head: StoredImage,
    limits: &'a ImageLimits,
}

impl<'a> Source<'a> {
    fn open(bytes: &'a [u8], limits: &'a ImageLimits) -> Result<Self, ImageError> {
        if bytes.len() > limits.max_bytes {
            return Err(ImageError::TooManyBytes {
                bytes: bytes.len(),
                max: limits.max_bytes,
            });
        }
        let (format, name) = sniff(bytes)?;
        let bytes = repair(bytes, format).map_err(|reason| ImageError::Corrupt {
            format: name,
            reason: reason.to_owned(),
        })?;
        let mut head = match format {
            ImageFormat::Jpeg => jpeg::head(&bytes, limits)?,
            ImageFormat::Png => png::head(&bytes, limits)?,
            _ => raster::head(&bytes, format, name, limits)?,
        };
        if let Cow::Owned(copy) = &bytes {
            head.memory += copy.len() as u64;
        }
        check_memory(head.memory, limits)?;
        Ok(Self {
            bytes,
            format,
            name,
            head,
            limits,
        })
    }

    fn header(&self) -> ImageHeader {
        let (width, height) = self.head.turn.upright(self.head.width, self.head.height);
        ImageHeader {
            format: self.name,
            width,
            height,
            decoder: self.head.memory,
        }
    }

    /// Passes all rows, as stored, to `take` in bands of whole rows; returns an error if rows are
    /// missing.
    fn read(&self, take: &mut dyn FnMut(&[u8])) -> Result<(), ImageError> {
        match self.format {
            ImageFormat::Jpeg => jpeg::rows(&self.bytes, take),
            ImageFormat::Png => png::rows(&self.bytes, self.limits, take),
            format => raster::rows(&self.bytes, format, self.name, self.limits, take),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sniff_xcode_png_is_refused_by_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\x02";
        assert!(matches!(decode(png, &ImageLimits::default()),
                Err(ImageError::Unsupported(what)) if what.contains("CgBI")));
    }
}
