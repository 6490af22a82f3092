//! JPEG decoding by libjpeg-turbo (in MozJPEG's edition), which gives the pixels of browsers and
//! Pillow for every sampling and scan order.
//!
//! The library repairs damage and reports it as warnings. Harmless warnings pass, as in browsers:
//! bytes between segments, a missing end marker. Warnings that leave part of the picture out are
//! errors here.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use image::metadata::Orientation::{self, NoTransforms};
use mozjpeg::{ColorSpace, Decompress, decompress::DecompressStarted};
use mozjpeg_sys::{self as sys, J_MESSAGE_CODE, jpeg_common_struct, jpeg_error_mgr};

use super::{
    limits::{ImageError, ImageLimits, StoredImage, check_size},
    resize::{BAND_BYTES, band_rows},
};

/// Maximum number of scans. Progressive files have about ten, and each costs a pass over the whole
/// picture, however short it is.
const MAX_SCANS: usize = 100;

/// Maximum pixels in all scans together: 16 scans of 50 megapixels, which take two seconds at
/// worst.
const MAX_SCANNED_PIXELS: u64 = 800_000_000;

/// Marker at the end of an image.
const END: u8 = 0xd9;

/// Bytes of a block's coefficients.
const BLOCK_BYTES: u64 = 128;

/// Reads the header and the structure of the scans.
pub(super) fn head(bytes: &[u8], limits: &ImageLimits) -> Result<StoredImage, ImageError> {
    let scans = scans(bytes)?;
    let (width, height, channels, blocks) = guarded(|| {
        let decoder = open(bytes)?;
        let (width, height) = (decoder.width() as u32, decoder.height() as u32);
        // Rows and columns of blocks are padded to whole units of all components.
        let whole =
            |count: u32, factor: i32| u64::from(count.next_multiple_of(factor.max(1) as u32));
        let blocks: u64 = (decoder.components().iter())
            .map(|c| {
                whole(c.width_in_blocks, c.h_samp_factor)
                    * whole(c.height_in_blocks, c.v_samp_factor)
            })
            .sum();
        Ok((width, height, decoder.components().len() as u64, blocks))
    })?;
    check_size(width, height, "JPEG", limits)?;
    let scanned = scans.count as u64 * u64::from(width) * u64::from(height);
    if scanned > MAX_SCANNED_PIXELS {
        return Err(ImageError::Unsupported(format!(
            "JPEG (of {width}x{height} pixels in {} scans)",
            scans.count
        )));
    }
    // With several scans the library keeps all coefficients until the last one.
    let coefficients = if scans.several {
        BLOCK_BYTES * blocks
    } else {
        0
    };
    let line = u64::from(width) * channels.max(3);
    // Two rows of units of at most 32 pixels in the library, and the band with its RGB copy.
    let memory =
        coefficients + 64 * line + 2 * line.max(BAND_BYTES as u64).min(line * u64::from(height));
    Ok(StoredImage {
        width,
        height,
        turn: scans.orientation.into(),
        memory,
    })
}

/// Passes the rows to `take` in bands.
pub(super) fn rows(bytes: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), ImageError> {
    guarded(|| {
        let decoder = open(bytes)?;
        let is_cmyk = matches!(
            decoder.color_space(),
            ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK
        );
        let space = if is_cmyk {
            ColorSpace::JCS_CMYK
        } else {
            ColorSpace::JCS_RGB
        };
        let mut decoder = decoder
            .to_colorspace(space)
            .map_err(|_| corrupt("its data break off"))?;
        let (line, height) = (
            decoder.width() * if is_cmyk { 4 } else { 3 },
            decoder.height(),
        );
        let rows = band_rows(line).min(height);
        let mut band = vec![0; line * rows];
        let mut colors = Vec::new();
        for first in (0..height).step_by(rows) {
            let band = &mut band[..line * rows.min(height - first)];
            read(&mut decoder, band)?;
            if is_cmyk {
                colors.clear();
                colors.extend(band.as_chunks::<4>().0.iter().flat_map(|inks| rgb(*inks)));
                take(&colors);
            } else {
                take(band);
            }
        }
        Ok(())
    })
}

fn open(bytes: &[u8]) -> Result<Decompress<&[u8]>, ImageError> {
    let decoder = Decompress::builder()
        .with_err(error_handlers())
        .from_mem(bytes);
    decoder.map_err(|_| corrupt("there is no picture in it"))
}

fn read(decoder: &mut DecompressStarted<&[u8]>, rows: &mut [u8]) -> Result<(), ImageError> {
    decoder
        .read_scanlines_into(rows)
        .map(|_| ())
        .map_err(|_| corrupt("its data break off"))
}

/// Runs `work` and catches the unwinding by which the error handlers below stop the library, which
/// is built to allow it.
fn guarded<T>(work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => Err(payload
            .downcast::<Stop>()
            .map_or_else(|other| resume_unwind(other), |stop| error(*stop))),
    }
}

/// Color of inverted inks, in which Adobe and nearly all others write CMYK; Pillow's arithmetic.
fn rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(black) + 128;
        black - (((product >> 8) + product) >> 8) as u8
    })
}

/// Reason for a stop: the library's message code and the message's first parameter.
struct Stop(J_MESSAGE_CODE, u32);

/// Error handlers that end decoding by unwinding; harmless warnings are ignored.
fn error_handlers() -> jpeg_error_mgr {
    extern "C-unwind" fn stop(info: &mut jpeg_common_struct) {
        resume_unwind(Box::new(message(info)));
    }
    extern "C-unwind" fn warn(info: &mut jpeg_common_struct, level: c_int) {
        // Levels from 0 up are traces.
        if level < 0 && !is_harmless(message(info).0) {
            stop(info);
        }
    }
    extern "C-unwind" fn ignore(_: &mut jpeg_common_struct) {}
    jpeg_error_mgr {
        error_exit: Some(stop),
        emit_message: Some(warn),
        output_message: Some(ignore),
        format_message: None,
        reset_error_mgr: Some(ignore),
        msg_code: 0,
        msg_parm: sys::msg_parm_union::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    }
}

/// Error message of the library. The only `unsafe` code in this file: the library passes the
/// handlers as a pointer.
#[allow(unsafe_code)]
fn message(info: &jpeg_common_struct) -> Stop {
    // SAFETY: the pointer is the box that `Decompress` owns while the library runs, and nothing
    // else borrows it meanwhile.
    match unsafe { info.err.as_ref() } {
        Some(handlers) => Stop(
            handlers.msg_code as J_MESSAGE_CODE,
            handlers.msg_parm._bindgen_data_[0],
        ),
        None => Stop(0, 0),
    }
}

fn is_harmless(warning: J_MESSAGE_CODE) -> bool {
    // `JWRN_JPEG_EOF` is the missing end marker; missing data also cause other warnings or an error
    // from `scans`.
    matches!(
        warning,
        sys::JWRN_ADOBE_XFORM
            | sys::JWRN_BOGUS_PROGRESSION
            | sys::JWRN_EXTRANEOUS_DATA
            | sys::JWRN_JFIF_MAJOR
            | sys::JWRN_JPEG_EOF
            | sys::JWRN_NOT_SEQUENTIAL
    )
}

fn corrupt(reason: &str) -> ImageError {
    ImageError::Corrupt {
        format: "JPEG",
        reason: reason.to_owned(),
    }
}

fn error(Stop(code, parameter): Stop) -> ImageError {
    let unsupported = |what: &str| ImageError::Unsupported(format!("{what} JPEG"));
    match (code, parameter) {
        (sys::JERR_ARITH_NOTIMPL, _) => unsupported("arithmetic-coded"),
        // The parameter is the marker of the frame or of the file's kind.
        (sys::JERR_SOF_UNSUPPORTED, 0xc3 | 0xcb) => unsupported("lossless"),
        (sys::JERR_SOF_UNSUPPORTED, _) | (sys::JERR_UNKNOWN_MARKER, 0xde) => {
            unsupported("hierarchical")
        }
        (sys::JERR_UNKNOWN_MARKER, 0xf7) => ImageError::Unsupported("JPEG-LS".to_owned()),
        (sys::JERR_BAD_PRECISION, bits) => unsupported(&format!("{bits}-bit")),
        (sys::JERR_FRACT_SAMPLE_NOTIMPL | sys::JERR_CCIR601_NOTIMPL, _) => {
            unsupported("fractionally sampled")
        }
        (sys::JERR_CONVERSION_NOTIMPL | sys::JERR_BAD_J_COLORSPACE, _) => {
            unsupported("two-component or many-component")
        }
        (sys::JERR_EMPTY_IMAGE, _) => corrupt("its width or height is 0"),
        (sys::JERR_IMAGE_TOO_BIG, max) => ImageError::SideTooLong { max },
        (sys::JERR_OUT_OF_MEMORY, _) => corrupt("there is no memory to decode it"),
        (
            sys::JERR_INPUT_EMPTY
            | sys::JERR_INPUT_EOF
            | sys::JERR_NO_IMAGE
            | sys::JERR_SOF_NO_SOS
            | sys::JERR_FILE_READ,
            _,
        ) => corrupt("it ends before the picture"),
        (sys::JERR_BAD_HUFF_TABLE | sys::JERR_DHT_INDEX | sys::JERR_NO_HUFF_TABLE, _) => {
            corrupt("a Huffman table is wrong or missing")
        }
        (sys::JERR_DQT_INDEX | sys::JERR_NO_QUANT_TABLE, _) => {
            corrupt("a quantization table is wrong or missing")
        }
        (sys::JERR_BAD_LENGTH, _) => corrupt("a segment has the wrong length"),
        (sys::JERR_UNKNOWN_MARKER, marker) => {
            corrupt(&format!("it has an unknown marker (0x{marker:02x})"))
        }
        (sys::JWRN_HIT_MARKER, _) => corrupt("its data break off"),
        (sys::JWRN_MUST_RESYNC, _) => corrupt("a part of its data is missing"),
        (sys::JWRN_HUFF_BAD_CODE, _) => corrupt("its data are damaged"),
        _ => corrupt("its headers contradict each other"),
    }
}

/// Structure of the scans, known before decoding.
struct Scans {
    count: usize,
    /// `true` if there may be more than one scan, so that coefficients are kept until the last.
    several: bool,
    orientation: Orientation,
}

/// Reads the structure of the scans and refuses files that the library would decode without a
/// warning: those whose last scans are missing, and those with too many.
///
/// A component without a scan would be gray. A progressive file that stops early would be coarse,
/// which is intended only if an end marker follows.
fn scans(bytes: &[u8]) -> Result<Scans, ImageError> {
    let (mut count, mut has_end, mut orientation) = (0, false, None);
    // Per component: its id, and one bit per coefficient (64) for received ones and for complete
    // ones.
    let (mut components, mut progressive) = (Vec::<(u8, u64, u64)>::new(), false);
    for (_, segment) in segments(bytes) {
        match segment {
            [_, END, ..] => has_end = true,
            [_, kind @ 0xc0..=0xc2, _, _, _, _, _, _, _, _, ids @ ..] => {
                progressive = *kind == 0xc2;
                components = ids
                    .as_chunks::<3>()
                    .0
                    .iter()
                    .map(|[id, ..]| (*id, 0, 0))
                    .collect();
            }
            [_, 0xe1, _, _, b'E', b'x', b'i', b'f', 0, 0, exif @ ..]
                if count == 0 && orientation.is_none() =>
            {
                orientation = Some(Orientation::from_exif_chunk(exif).unwrap_or(NoTransforms));
            }
            [_, 0xda, _, _, selected_count, selected @ ..] => {
                count += 1;
                let (ids, band) = selected
                    .split_at_checked(2 * usize::from(*selected_count))
                    .unwrap_or_default();
                let (received, complete) = match band {
                    [first @ 0..64, last @ 0..64, bits, ..] if progressive && first <= last => {
                        let band = (u64::MAX >> (63 - (last - first))) << first;
                        (band, if bits & 15 == 0 { band } else { 0 })
                    }
                    _ => (u64::MAX, u64::MAX),
                };
                for (id, seen, done) in &mut components {
                    if ids
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .any(|[selected, _]| selected == id)
                    {
                        *seen |= received;
                        *done |= complete;
                    }
                }
                // After a single complete scan the library reads no further; with several it reads
                // all of them.
                let is_complete = usize::from(*selected_count) == components.len()
                    && components.iter().all(|(_, _, done)| *done == u64::MAX);
                if !progressive && count == 1 && is_complete {
                    return Ok(Scans {
                        count,
                        several: false,
                        orientation: orientation.unwrap_or(NoTransforms),
                    });
                }
            }
            _ => {}
        }
    }
    if count > MAX_SCANS {
        return Err(ImageError::Unsupported(format!(
            "JPEG (of more than {MAX_SCANS} scans)"
        )));
    }
    let missing = |(_, seen, done): &(u8, u64, u64)| {
        if has_end {
            seen & 1 == 0
        } else {
            *done != u64::MAX
        }
    };
    if count > 0 && components.iter().any(missing) {
        return Err(corrupt("a part of its data is missing"));
    }
    Ok(Scans {
        count,
        several: true,
        orientation: orientation.unwrap_or(NoTransforms),
    })
}

/// Segments of a file with their offsets, each from its marker to its end, up to the end-of-image
/// marker. Compressed data are skipped.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        // In compressed data 0xff is followed by 0; repeated 0xff are padding.
        let at = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))?;
        rest = &rest[at..];
        let offset = bytes.len() - rest.len();
        let len = match rest {
            // Standalone markers: start of image, restarts, end.
            [_, 0x01 | 0xd0..=0xd9, ..] => 2,
            [_, _, high, low, ..] => {
                (2 + usize::from(u16::from_be_bytes([*high, *low]))).min(rest.len())
            }
            _ => return None,
        };
        let (segment, following) = rest.split_at(len);
        rest = if segment[1] == END { &[] } else { following };
        Some((offset, segment))
    })
}

/// Number of bytes up to the end of the image, if it is marked.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    segments(bytes)
        .last()
        .filter(|(_, segment)| segment[1] == END)
        .map(|(offset, _)| offset + 2)
}
