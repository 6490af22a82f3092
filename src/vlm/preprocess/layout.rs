//! What files say of their own structure, beside what decoders tell: where the image ends, and what takes memory while it is decoded.

use image::ImageFormat;

use super::{jpeg, sniff::sniff};

/// Returns the number of bytes of a file that are the image's own: behind the end that its format marks, programs leave video, depth, padding or
/// whatever they like. All of them, where there is no end, or no image.
pub fn image_length(bytes: &[u8]) -> usize {
    let end = match sniff(bytes) {
        Ok((ImageFormat::Jpeg, _)) => jpeg::end(bytes),
        Ok((ImageFormat::Png, _)) => png_end(bytes),
        Ok((ImageFormat::Gif, _)) => gif_end(bytes),
        Ok((ImageFormat::WebP, _)) => webp_end(bytes),
        Ok((ImageFormat::Bmp, _)) => bmp_end(bytes),
        _ => None,
    };
    end.map_or(bytes.len(), |end| end.min(bytes.len()))
}

fn png_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 8;
    loop {
        let [a, b, c, d, kind @ ..] = bytes.get(at..at + 8)? else { return None };
        at += 12 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind == b"IEND" {
            return Some(at);
        }
    }
}

/// The number of two bytes at an offset of a GIF; 0 where there are none.
pub(super) fn gif_number(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |pair| usize::from(pair[0]) | usize::from(pair[1]) << 8)
}

/// A frame of a GIF.
pub(super) struct GifFrame {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl GifFrame {
    /// The first frame, if the file has one.
    pub(super) fn first(bytes: &[u8]) -> Option<Self> {
        let at = gif_blocks(bytes)?;
        let number = |offset: usize| gif_number(bytes, at + offset);
        (bytes.get(at) == Some(&0x2c)).then(|| Self { x: number(1), y: number(3), width: number(5), height: number(7) })
    }
}

/// Bytes of a GIF's palette, by the flags in front of it.
fn gif_palette(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
}

/// Where the first block of a GIF stands that is no extension.
fn gif_blocks(bytes: &[u8]) -> Option<usize> {
    let mut at = 13 + gif_palette(*bytes.get(10)?);
    while *bytes.get(at)? == 0x21 {
        at = gif_sub_blocks(bytes, at + 2)?;
    }
    Some(at)
}

/// Behind sub-blocks that end with an empty one.
fn gif_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len == 0 {
            return Some(at);
        }
    }
}

fn gif_end(bytes: &[u8]) -> Option<usize> {
    let mut at = gif_blocks(bytes)?;
    loop {
        at = match bytes.get(at)? {
            0x21 => gif_sub_blocks(bytes, at + 2)?,
            // A frame: its palette, the width of its codes, its data.
            0x2c => gif_sub_blocks(bytes, at + 11 + gif_palette(*bytes.get(at + 9)?))?,
            0x3b => return Some(at + 1),
            _ => return None,
        };
    }
}

/// Returns the bytes that decoding a GIF takes beside the picture: the first frame, where it is not the whole picture, and notes in the file.
pub(super) fn gif_memory(bytes: &[u8]) -> u64 {
    let frame = GifFrame::first(bytes).map_or(0, |frame| 4 * frame.width as u64 * frame.height as u64);
    let screen = 4 * gif_number(bytes, 6) as u64 * gif_number(bytes, 8) as u64;
    bytes.len() as u64 + if frame == screen { 0 } else { frame }
}

/// The chunks of a RIFF file from an offset on that are whole: their kinds and what is in them.
fn chunks(bytes: &[u8], mut at: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let [kind @ .., a, b, c, d] = bytes.get(at..at + 8)? else { return None };
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let content = bytes.get(at + 8..at + 8 + len)?;
        at += 8 + len + len % 2;
        Some((kind, content))
    })
}

fn webp_end(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, _, a, b, c, d] = bytes.get(..8)? else { return None };
    let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
    let end = 8 + len + len % 2;
    // Some programs write a wrong size: one that leaves the picture out says nothing.
    let is_picture = |kind: &[u8]| matches!(kind, b"VP8 " | b"VP8L" | b"ANMF");
    let has_picture = chunks(bytes.get(..end.min(bytes.len()))?, 12).any(|(kind, _)| is_picture(kind));
    has_picture.then_some(end)
}

/// Returns the bytes that decoding a WebP takes beside the picture in RGB or RGBA.
pub(super) fn webp_memory(bytes: &[u8]) -> u64 {
    let number =
        |content: &[u8], at: usize| content.get(at..at + 3).map_or(0, |n| u64::from(n[0]) | u64::from(n[1]) << 8 | u64::from(n[2]) << 16);
    let mut all = chunks(bytes, 12).peekable();
    let canvas = match all.peek() {
        Some((b"VP8X", content)) => Some((1 + number(content, 4), 1 + number(content, 7))),
        _ => None,
    };
    let all: Vec<_> = all.take_while(|(kind, _)| *kind != b"ANMF").collect();
    let animated = chunks(bytes, 12).find(|(kind, _)| *kind == b"ANMF").map(|(_, frame)| frame);
    let parts: Vec<_> = match animated {
        Some(frame) => chunks(frame, 16).take(2).collect(),
        None => all,
    };
    let part = |name: &[u8]| parts.iter().find(|(kind, _)| *kind == name).map(|(_, content)| *content);
    let (lossy, lossless, alpha) = (part(b"VP8 "), part(b"VP8L"), part(b"ALPH"));
    // Each of the two codings has its own size, which the decoder compares with the canvas or the frame after decoding, or not at all.
    let lossy_size = lossy.map_or((0, 0), |content| (number(content, 6) & 0x3fff, number(content, 8) & 0x3fff));
    let lossless_size = lossless.map_or((0, 0), |content| {
        let bits = number(content, 1) | number(content, 4) << 24;
        (1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff))
    });
    let frame_size = animated.map_or((0, 0), |frame| (1 + number(frame, 6), 1 + number(frame, 9)));
    let pixels = |(width, height): (u64, u64)| width * height;
    let largest = [lossy_size, lossless_size, frame_size, canvas.filter(|_| animated.is_none()).unwrap_or_default()].map(pixels);
    let frame = largest.into_iter().max().unwrap_or(0);
    let whole = |(width, height): (u64, u64)| width.next_multiple_of(16) * height.next_multiple_of(16);
    // Planes of brightness and color, of whole blocks, and notes about each block.
    let planes = whole(lossy_size) * 7 / 4;
    // The picture with alpha, its green channel, tables and transforms of a sixteenth.
    let with_alpha = 5 * frame;
    let shown = if lossless.is_some() || alpha.is_some() { with_alpha } else { 0 };
    // An animation's frame is decoded by itself and drawn onto the canvas.
    let drawn = if animated.is_some() { 4 * frame + 4 * canvas.map_or(0, pixels) } else { 0 };
    2 * bytes.len() as u64 + planes + shown + drawn
}

fn bmp_end(bytes: &[u8]) -> Option<usize> {
    let number = |at: usize| bytes.get(at..at + 4).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]));
    let (told, offset) = (number(2)? as usize, number(10)? as usize);
    let (width, height, bits, coding) = match number(14)? {
        12 => {
            let sides = number(18)?;
            (sides & 0xffff, sides >> 16, number(22)? >> 16, 0)
        }
        _ => (number(18)?, number(22)?.cast_signed().unsigned_abs(), number(26)? >> 16, number(30)?),
    };
    // Run lengths alone hide how long the picture is.
    let rows = match coding {
        1 | 2 => 1,
        _ => (u64::from(width) * u64::from(bits)).div_ceil(32) * 4 * u64::from(height),
    };
    let least = u64::try_from(offset).ok()?.checked_add(rows)?;
    match coding {
        1 | 2 => (told as u64 > least).then_some(told),
        // A color profile may stand behind the rows.
        _ => usize::try_from(least.max(told as u64)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_end_all_is_the_image() {
        for bytes in [
            &b""[..],
            b"text",
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            b"\x89PNG\r\n\x1a\n\0\0\0\x05IHDR",
            b"GIF89a\0\0",
            b"RIFF\x04\0\0\0WEBPVP8 ",
            b"BM\0\0",
        ] {
            assert_eq!(image_length(bytes), bytes.len(), "{bytes:?}");
        }
    }

    #[test]
    fn runs_of_a_bmp_end_where_it_says() {
        let mut bmp = b"BM\x50\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x08\0\x01\0\0\0".to_vec();
        bmp.resize(100, 7);
        assert_eq!(image_length(&bmp), 0x50);
        // A size that leaves the picture out says nothing.
        bmp[2] = 0x20;
        assert_eq!(image_length(&bmp), 100);
    }
}
