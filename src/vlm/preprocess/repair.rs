//! Files whose picture is whole while the format around it is not, made such that the decoders take them as browsers do.

use std::borrow::Cow;

use image::ImageFormat;

/// The file, with an end where a PNG has none, and with the right size where a WebP has a wrong one.
///
/// # Errors
/// The reason, where the picture of a WebP breaks off.
pub(super) fn repair(bytes: &[u8], format: ImageFormat) -> Result<Cow<'_, [u8]>, &'static str> {
    match format {
        ImageFormat::Png => Ok(end_png(bytes)),
        ImageFormat::WebP => size_webp(bytes),
        _ => Ok(Cow::Borrowed(bytes)),
    }
}

/// Ends the file behind its last whole chunk, if it has no `IEND`.
fn end_png(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut at = 8;
    while let Some([a, b, c, d, kind @ ..]) = bytes.get(at..at + 8) {
        let next = at + 12 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if next > bytes.len() {
            break;
        }
        if kind == b"IEND" {
            return Cow::Borrowed(bytes);
        }
        at = next;
    }
    let whole = bytes.get(..at).unwrap_or(bytes);
    Cow::Owned([whole, b"\0\0\0\0IEND\xaeB`\x82"].concat())
}

/// Writes the size of all chunks into the file's head, if they do not end where it says.
fn size_webp(bytes: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let (mut at, mut frames) = (12, 0);
    while let Some([kind @ .., a, b, c, d]) = bytes.get(at..at + 8) {
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        // A byte of padding may be missing at the end.
        let next = at + 8 + len;
        let is_picture = matches!(kind, b"VP8 " | b"VP8L" | b"ALPH") || (kind == b"ANMF" && frames == 0);
        if next > bytes.len() {
            if is_picture {
                return Err("its picture breaks off");
            }
            break;
        }
        frames += usize::from(is_picture);
        at = (next + len % 2).min(bytes.len());
    }
    let size = (at.saturating_sub(8) as u32).to_le_bytes();
    if at == 12 || bytes.get(4..8) == Some(&size) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut sized = bytes.to_vec();
    sized[4..8].copy_from_slice(&size);
    Ok(Cow::Owned(sized))
}
