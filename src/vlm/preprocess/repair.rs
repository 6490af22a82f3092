//! Repair of files whose picture is intact but whose container is not, so that decoders accept them
//! as browsers do.

use std::borrow::Cow;

use image::ImageFormat;

use super::layout::{GifFrame, gif_number};

/// Repairs a file: ends a PNG without an end, corrects the size of a WebP, and widens the screen of
/// a GIF to its first frame.
///
/// # Errors
/// When the picture of a WebP is truncated, or a BMP declares that its picture begins inside its
/// header; gives the reason.
pub(super) fn repair(bytes: &[u8], format: ImageFormat) -> Result<Cow<'_, [u8]>, &'static str> {
    match format {
        ImageFormat::Png => Ok(end_png(bytes)),
        ImageFormat::WebP => size_webp(bytes),
        ImageFormat::Gif => Ok(widen_gif(bytes)),
        ImageFormat::Bmp if begins_in_header(bytes) => Err("its picture begins inside its header"),
        _ => Ok(Cow::Borrowed(bytes)),
    }
}

/// Ends the file after its last complete chunk if it has no `IEND`.
fn end_png(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut offset = 8;
    while let Some([a, b, c, d, kind @ ..]) = bytes.get(offset..offset + 8) {
        let next = offset + 12 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if next > bytes.len() {
            break;
        }
        if kind == b"IEND" {
            return Cow::Borrowed(bytes);
        }
        offset = next;
    }
    let whole = bytes.get(..offset).unwrap_or(bytes);
    Cow::Owned([whole, b"\0\0\0\0IEND\xaeB`\x82"].concat())
}

/// Corrects the size in the file's header if it differs from that of the chunks.
fn size_webp(bytes: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let (mut offset, mut frames) = (12, 0);
    while let Some([kind @ .., a, b, c, d]) = bytes.get(offset..offset + 8) {
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        // The padding byte may be missing at the end.
        let next = offset + 8 + len;
        let is_picture =
            matches!(kind, b"VP8 " | b"VP8L" | b"ALPH") || (kind == b"ANMF" && frames == 0);
        if next > bytes.len() {
            if is_picture {
                return Err("its picture breaks off");
            }
            break;
        }
        frames += usize::from(is_picture);
        offset = (next + len % 2).min(bytes.len());
    }
    let size = (offset.saturating_sub(8) as u32).to_le_bytes();
    if offset == 12 || bytes.get(4..8) == Some(&size) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut sized = bytes.to_vec();
    sized[4..8].copy_from_slice(&size);
    Ok(Cow::Owned(sized))
}

/// Widens the screen to the first frame, which browsers show whole.
fn widen_gif(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (width, height) = (gif_number(bytes, 6), gif_number(bytes, 8));
    let Some(frame) = GifFrame::first(bytes) else {
        return Cow::Borrowed(bytes);
    };
    let shown = (
        width.max(frame.x + frame.width).min(0xffff),
        height.max(frame.y + frame.height).min(0xffff),
    );
    if shown == (width, height) {
        return Cow::Borrowed(bytes);
    }
    let (width, height) = shown;
    let mut wide = bytes.to_vec();
    wide[6..10].copy_from_slice(&[
        width as u8,
        (width >> 8) as u8,
        height as u8,
        (height >> 8) as u8,
    ]);
    Cow::Owned(wide)
}

/// Returns `true` if a BMP's pixels would be read from its header, as unnoticed noise.
fn begins_in_header(bytes: &[u8]) -> bool {
    let number = |at: usize| {
        bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |four| u64::from(u32::from_le_bytes(*four)))
    };
    number(10) < 14 + number(14)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GIF with a comment whose one frame, at (1, 2), has 3 x 4 pixels.
    fn gif(width: u8, height: u8) -> Vec<u8> {
        let mut gif =
            b"GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff!\xfe\x02hi\x01!\0,\x01\0\x02\0\x03\0\
              \x04\0\0"
                .to_vec();
        (gif[6], gif[8]) = (width, height);
        gif
    }

    #[test]
    fn repair_gif_screen_holds_first_frame() {
        for (screen, shown) in [
            ((0, 0), (4, 6)),
            ((4, 3), (4, 6)),
            ((9, 3), (9, 6)),
            ((4, 6), (4, 6)),
            ((9, 9), (9, 9)),
        ] {
            assert_eq!(
                *repair(&gif(screen.0, screen.1), ImageFormat::Gif).unwrap(),
                gif(shown.0, shown.1),
                "{screen:?}"
            );
        }
        let whole = gif(0, 0);
        for cut in 0..whole.len() - 9 {
            assert_eq!(
                *repair(&whole[..cut], ImageFormat::Gif).unwrap(),
                whole[..cut],
                "{cut}"
            );
        }
    }

    #[test]
    fn repair_bmp_pixels_in_header_is_an_error() {
        let bmp =
            |offset: u8| [&b"BM\0\0\0\0\0\0\0\0"[..], &[offset, 0, 0, 0, 40, 0, 0, 0]].concat();
        for (offset, reads) in [
            (0, false),
            (14, false),
            (53, false),
            (54, true),
            (200, true),
        ] {
            assert_eq!(
                repair(&bmp(offset), ImageFormat::Bmp).is_ok(),
                reads,
                "{offset}"
            );
        }
    }
}
