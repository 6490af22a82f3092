//! PNG decoding, row by row unless interlaced.

use std::io::Cursor;

use ::png::{
    BitDepth, ColorType as PngColor, Decoder, DecodingError, Limits, Reader, Transformations,
};
use image::{
    ColorType,
    metadata::Orientation::{self, NoTransforms},
};

use super::{
    limits::{ImageError, ImageLimits, StoredImage, check_size, reason},
    raster::{Samples, conversion_memory, hand_out},
    resize::band_rows,
};

const NAME: &str = "PNG";

/// Memory of decompression that does not depend on the image: the window of 32 kB, tables and
/// buffers.
const UNPACKING: u64 = 256 << 10;

/// Number of copies of a chunk in memory: in a buffer that grows by doubling, and as the parsed
/// content.
const CHUNK_COPIES: usize = 3;

/// Bytes of rows that the decoder may hold: a row of 65,535 pixels of eight bytes takes half a
/// megabyte.
const ROWS: usize = 4 << 20;

/// Reads everything before the picture.
pub(super) fn head(bytes: &[u8], limits: &ImageLimits) -> Result<StoredImage, ImageError> {
    let reader = open(bytes, limits)?;
    let (info, (width, height)) = (reader.info(), reader.info().size());
    let exif = info
        .exif_metadata
        .as_deref()
        .and_then(Orientation::from_exif_chunk);
    let line = line_bytes(&reader, limits)? as u64;
    // An interlaced picture is complete only at its end.
    let picture = if info.interlaced {
        line * u64::from(height)
    } else {
        0
    };
    let memory = picture
        + UNPACKING
        + 16 * line
        + (CHUNK_COPIES * bytes.len()) as u64
        + conversion_memory(line, height);
    Ok(StoredImage {
        width,
        height,
        turn: exif.unwrap_or(NoTransforms).into(),
        memory,
    })
}

/// Passes the rows to `take` in bands.
pub(super) fn rows(
    bytes: &[u8],
    limits: &ImageLimits,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ImageError> {
    let mut reader = open(bytes, limits)?;
    let (width, height) = reader.info().size();
    let (samples, line) = (samples(&reader)?, line_bytes(&reader, limits)?);
    let refuse = |e| refusal(e, limits);
    if reader.info().interlaced {
        let mut picture = vec![0; line * height as usize];
        reader.next_frame(&mut picture).map_err(refuse)?;
        return hand_out(&picture, samples, width, NAME, take);
    }
    let mut band = Vec::new();
    for y in 1..=height as usize {
        let row = reader.next_row().map_err(refuse)?;
        let row = row.filter(|row| row.data().len() == line);
        band.extend_from_slice(row.ok_or_else(|| corrupt("rows are missing"))?.data());
        if y % band_rows(line) == 0 || y == height as usize {
            hand_out(&band, samples, width, NAME, take)?;
            band.clear();
        }
    }
    // Checks the checksums of the chunks after the last row.
    reader.next_row().map_err(refuse)?;
    Ok(())
}

/// Opens the decoder and reads the header. Texts and color profiles, which may be compressed a
/// thousandfold, are not unpacked.
fn open<'a>(bytes: &'a [u8], limits: &ImageLimits) -> Result<Reader<Cursor<&'a [u8]>>, ImageError> {
    let mut decoder = Decoder::new_with_limits(
        Cursor::new(bytes),
        Limits {
            bytes: CHUNK_COPIES * bytes.len() + ROWS,
        },
    );
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let info = decoder.read_header_info().map_err(|e| refusal(e, limits))?;
    check_size(info.width, info.height, NAME, limits)?;
    decoder.read_info().map_err(|e| refusal(e, limits))
}

fn line_bytes(reader: &Reader<Cursor<&[u8]>>, limits: &ImageLimits) -> Result<usize, ImageError> {
    reader
        .output_line_size(reader.info().width)
        .ok_or(ImageError::TooMuchMemory {
            max: limits.max_alloc,
        })
}

fn samples(reader: &Reader<Cursor<&[u8]>>) -> Result<Samples, ImageError> {
    let color = match reader.output_color_type() {
        (PngColor::Grayscale, BitDepth::Eight) => ColorType::L8,
        (PngColor::Grayscale, BitDepth::Sixteen) => ColorType::L16,
        (PngColor::GrayscaleAlpha, BitDepth::Eight) => ColorType::La8,
        (PngColor::GrayscaleAlpha, BitDepth::Sixteen) => ColorType::La16,
        (PngColor::Rgb, BitDepth::Eight) => ColorType::Rgb8,
        (PngColor::Rgb, BitDepth::Sixteen) => ColorType::Rgb16,
        (PngColor::Rgba, BitDepth::Eight) => ColorType::Rgba8,
        (PngColor::Rgba, BitDepth::Sixteen) => ColorType::Rgba16,
        (color, depth) => {
            return Err(ImageError::Unsupported(format!(
                "{NAME} ({color:?} of {} bits)",
                depth as u8
            )));
        }
    };
    Ok(Samples {
        color,
        big_endian: true,
    })
}

fn corrupt(reason: &str) -> ImageError {
    ImageError::Corrupt {
        format: NAME,
        reason: reason.to_owned(),
    }
}

fn refusal(error: DecodingError, limits: &ImageLimits) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => ImageError::TooMuchMemory {
            max: limits.max_alloc,
        },
        other => corrupt(reason(&other.to_string())),
    }
}
