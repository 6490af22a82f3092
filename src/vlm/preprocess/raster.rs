//! Decoding of formats that give the whole picture at once (GIF, WebP, BMP), and conversion of
//! colors to RGB.

use std::io::Cursor;

use image::{
    ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
    metadata::Orientation::NoTransforms,
};

use super::{
    layout::{gif_memory, webp_memory},
    limits::{ImageError, ImageLimits, StoredImage, check_size, reason, side_too_long},
    resize::{BAND_BYTES, band_rows},
};

/// Reads the header.
pub(super) fn head(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &ImageLimits,
) -> Result<StoredImage, ImageError> {
    let mut decoder = open(bytes, format, name, limits)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, name, limits)?;
    let turn = decoder.orientation().unwrap_or(NoTransforms).into();
    let picture = decoder.total_bytes();
    let inner = match format {
        ImageFormat::Gif => gif_memory(bytes),
        ImageFormat::WebP => webp_memory(bytes).ok_or_else(|| ImageError::Corrupt {
            format: name,
            reason: reason("").to_owned(),
        })?,
        _ => 0,
    };
    let line = u64::from(width) * u64::from(decoder.color_type().bytes_per_pixel());
    Ok(StoredImage {
        width,
        height,
        turn,
        memory: picture + inner + conversion_memory(line, height),
    })
}

/// Passes the rows to `take` in bands.
pub(super) fn rows(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: &ImageLimits,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ImageError> {
    let decoder = open(bytes, format, name, limits)?;
    let (width, color) = (decoder.dimensions().0, decoder.color_type());
    let mut picture = vec![0; usize::try_from(decoder.total_bytes()).map_err(|_| side_too_long())?];
    decoder
        .read_image(&mut picture)
        .map_err(|e| refusal(e, name, limits))?;
    if format == ImageFormat::Bmp && color == ColorType::Rgba8 {
        make_opaque(&mut picture);
    }
    hand_out(
        &picture,
        Samples {
            color,
            big_endian: false,
        },
        width,
        name,
        take,
    )
}

fn open<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    name: &'static str,
    limits: &ImageLimits,
) -> Result<impl ImageDecoder + 'a, ImageError> {
    let mut bounds = Limits::no_limits();
    bounds.max_alloc = Some(limits.max_alloc);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds);
    reader.into_decoder().map_err(|e| refusal(e, name, limits))
}

fn refusal(error: image::ImageError, name: &'static str, limits: &ImageLimits) -> ImageError {
    match error {
        image::ImageError::Limits(_) => ImageError::TooMuchMemory {
            max: limits.max_alloc,
        },
        image::ImageError::Unsupported(what) => ImageError::Unsupported(format!("{name} ({what})")),
        other => match other.to_string() {
            long if long.contains("too large") => side_too_long(),
            found => ImageError::Corrupt {
                format: name,
                reason: reason(&found).to_owned(),
            },
        },
    }
}

/// Ignores an alpha channel that hides the whole image, as browsers do: clipboard images often
/// leave it unfilled.
fn make_opaque(rgba: &mut [u8]) {
    if rgba.chunks_exact(4).all(|pixel| pixel[3] == 0) {
        rgba.chunks_exact_mut(4).for_each(|pixel| pixel[3] = 255);
    }
}

/// Sample format of a decoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Samples {
    pub(super) color: ColorType,
    /// Byte order of 16-bit samples: big-endian if `true`, native otherwise.
    pub(super) big_endian: bool,
}

/// Maximum bytes that [`hand_out`] allocates for rows of `line` bytes.
pub(super) fn conversion_memory(line: u64, height: u32) -> u64 {
    // The band's samples, with alpha, and in RGB; the last two may be four and three times as large
    // as the first.
    8 * line.max(BAND_BYTES as u64).min(line * u64::from(height))
}

/// Passes rows of any color to `take` as bands of RGB, transparency over white.
pub(super) fn hand_out(
    rows: &[u8],
    samples: Samples,
    width: u32,
    name: &'static str,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ImageError> {
    let line = width as usize * usize::from(samples.color.bytes_per_pixel());
    for band in rows.chunks(line * band_rows(line)) {
        if samples.color == ColorType::Rgb8 {
            take(band);
        } else {
            let height = (band.len() / line) as u32;
            let image = typed(band, samples, width, height);
            let image =
                image.ok_or_else(|| ImageError::Unsupported(format!("{name} (of this color)")))?;
            take(&over_white(image));
        }
    }
    Ok(())
}

fn typed(
    band: &[u8],
    Samples { color, big_endian }: Samples,
    width: u32,
    height: u32,
) -> Option<DynamicImage> {
    let bytes = || band.to_vec();
    let words = || {
        let read = if big_endian {
            u16::from_be_bytes
        } else {
            u16::from_ne_bytes
        };
        band.as_chunks::<2>()
            .0
            .iter()
            .map(|pair| read(*pair))
            .collect::<Vec<u16>>()
    };
    match color {
        ColorType::L8 => {
            ImageBuffer::from_raw(width, height, bytes()).map(DynamicImage::ImageLuma8)
        }
        ColorType::La8 => {
            ImageBuffer::from_raw(width, height, bytes()).map(DynamicImage::ImageLumaA8)
        }
        ColorType::Rgb8 => {
            ImageBuffer::from_raw(width, height, bytes()).map(DynamicImage::ImageRgb8)
        }
        ColorType::Rgba8 => {
            ImageBuffer::from_raw(width, height, bytes()).map(DynamicImage::ImageRgba8)
        }
        ColorType::L16 => {
            ImageBuffer::from_raw(width, height, words()).map(DynamicImage::ImageLuma16)
        }
        ColorType::La16 => {
            ImageBuffer::from_raw(width, height, words()).map(DynamicImage::ImageLumaA16)
        }
        ColorType::Rgb16 => {
            ImageBuffer::from_raw(width, height, words()).map(DynamicImage::ImageRgb16)
        }
        ColorType::Rgba16 => {
            ImageBuffer::from_raw(width, height, words()).map(DynamicImage::ImageRgba16)
        }
        _ => None,
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
    fn over_white_transparent_pixels_are_white() {
        let mut image = image::RgbaImage::from_pixel(3, 1, image::Rgba([0, 100, 255, 0]));
        image.get_pixel_mut(1, 0).0[3] = 255;
        image.get_pixel_mut(2, 0).0[3] = 51;
        assert_eq!(
            over_white(image.into()).into_raw(),
            [255, 255, 255, 0, 100, 255, 204, 224, 255]
        );
    }
}
