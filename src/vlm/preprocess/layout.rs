//! File structure beyond what decoders report: the end of the image, and memory taken while
//! decoding.

use image::ImageFormat;

use super::{jpeg, lossless::table_memory, sniff::sniff};

/// Number of bytes that belong to the image: programs append video, depth maps, padding and other
/// data after the end that its format marks. The whole length if no end is found or the file is no
/// image.
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
        let [a, b, c, d, kind @ ..] = bytes.get(at..at + 8)? else {
            return None;
        };
        at += 12 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind == b"IEND" {
            return Some(at);
        }
    }
}

/// Two-byte number at an offset of a GIF; 0 beyond the end.
pub(super) fn gif_number(bytes: &[u8], at: usize) -> usize {
    bytes
        .get(at..at + 2)
        .map_or(0, |pair| usize::from(pair[0]) | usize::from(pair[1]) << 8)
}

/// Frame of a GIF.
pub(super) struct GifFrame {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl GifFrame {
    /// First frame, if the file has one.
    pub(super) fn first(bytes: &[u8]) -> Option<Self> {
        let at = gif_blocks(bytes)?;
        let number = |offset: usize| gif_number(bytes, at + offset);
        (bytes.get(at) == Some(&0x2c)).then(|| Self {
            x: number(1),
            y: number(3),
            width: number(5),
            height: number(7),
        })
    }
}

/// Bytes of a GIF's palette, from the flags before it.
fn gif_palette(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        6 << (flags & 7)
    }
}

/// Offset of a GIF's first block that is not an extension.
fn gif_blocks(bytes: &[u8]) -> Option<usize> {
    let mut at = 13 + gif_palette(*bytes.get(10)?);
    while *bytes.get(at)? == 0x21 {
        at = gif_sub_blocks(bytes, at + 2)?;
    }
    Some(at)
}

/// Offset after a sequence of sub-blocks, which an empty one ends.
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
            // A frame: palette, code width, data.
            0x2c => gif_sub_blocks(bytes, at + 11 + gif_palette(*bytes.get(at + 9)?))?,
            0x3b => return Some(at + 1),
            _ => return None,
        };
    }
}

/// Bytes that decoding a GIF takes beside the picture: the first frame, if it is not the whole
/// picture, and metadata.
pub(super) fn gif_memory(bytes: &[u8]) -> u64 {
    let frame =
        GifFrame::first(bytes).map_or(0, |frame| 4 * frame.width as u64 * frame.height as u64);
    let screen = 4 * gif_number(bytes, 6) as u64 * gif_number(bytes, 8) as u64;
    bytes.len() as u64 + if frame == screen { 0 } else { frame }
}

/// Complete chunks of a RIFF file from an offset, as kind and content.
fn chunks(bytes: &[u8], mut at: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let [kind @ .., a, b, c, d] = bytes.get(at..at + 8)? else {
            return None;
        };
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let content = bytes.get(at + 8..at + 8 + len)?;
        at += 8 + len + len % 2;
        Some((kind, content))
    })
}

fn webp_end(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, _, a, b, c, d] = bytes.get(..8)? else {
        return None;
    };
    let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
    let end = 8 + len + len % 2;
    // Some programs write a wrong size; one that excludes the picture is ignored.
    let is_picture = |kind: &[u8]| matches!(kind, b"VP8 " | b"VP8L" | b"ANMF");
    let has_picture =
        chunks(bytes.get(..end.min(bytes.len()))?, 12).any(|(kind, _)| is_picture(kind));
    has_picture.then_some(end)
}

/// Bytes that decoding a WebP takes beside the picture in RGB or RGBA; `None` if the file is
/// truncated or inconsistent.
pub(super) fn webp_memory(bytes: &[u8]) -> Option<u64> {
    let number = |content: &[u8], at: usize| {
        content
            .get(at..at + 3)
            .map(|n| u64::from(n[0]) | u64::from(n[1]) << 8 | u64::from(n[2]) << 16)
    };
    let size =
        |content: &[u8], at: usize| Some((1 + number(content, at)?, 1 + number(content, at + 3)?));
    let mut rest = chunks(bytes, 12);
    let first = rest.next()?;
    let canvas = if first.0 == b"VP8X" {
        size(first.1, 4)?
    } else {
        (0, 0)
    };
    let all: Vec<_> = if first.0 == b"VP8X" {
        rest.collect()
    } else {
        vec![first]
    };
    let animated = all
        .iter()
        .find(|(kind, _)| *kind == b"ANMF")
        .map(|(_, frame)| *frame);
    let (parts, frame) = match animated {
        Some(frame) => (chunks(frame, 16).take(2).collect(), size(frame, 6)?),
        None => (all, canvas),
    };
    let part = |name: &[u8]| {
        parts
            .iter()
            .find(|(kind, _)| *kind == name)
            .map(|(_, content)| *content)
    };
    let pixels = |(width, height): (u64, u64)| width * height;
    let mut memory = 2 * bytes.len() as u64;
    // A frame of an animation is decoded separately and drawn onto the canvas.
    if animated.is_some() {
        memory += 4 * pixels(canvas) + 4 * pixels(frame);
    }
    // Each part has a size of its own, which the decoder compares with that of canvas or frame only
    // after decoding, or never.
    if let Some(lossy) = part(b"VP8 ") {
        let (width, height) = (number(lossy, 6)? & 0x3fff, number(lossy, 8)? & 0x3fff);
        // Luma and chroma planes of whole blocks, and data per block.
        memory += width.next_multiple_of(16) * height.next_multiple_of(16) * 7 / 4;
    }
    // The picture with alpha, its green channel, and transforms of a sixteenth.
    if let Some(alpha) = part(b"ALPH") {
        memory += 5 * pixels(frame);
        if alpha.first()? & 3 == 1 {
            memory += table_memory(&alpha[1..], Some(frame))?;
        }
    }
    if let Some(lossless) = part(b"VP8L") {
        let bits = number(lossless, 1)? | number(lossless, 4)? << 24;
        memory += 5 * pixels((1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)))
            + table_memory(lossless, None)?;
    }
    Some(memory)
}

fn bmp_end(bytes: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]))
    };
    let (declared, offset) = (number(2)? as usize, number(10)? as usize);
    let (width, height, bits, coding) = match number(14)? {
        12 => {
            let sides = number(18)?;
            (sides & 0xffff, sides >> 16, number(22)? >> 16, 0)
        }
        _ => (
            number(18)?,
            number(22)?.cast_signed().unsigned_abs(),
            number(26)? >> 16,
            number(30)?,
        ),
    };
    // Run lengths hide the length of the picture.
    let rows = match coding {
        1 | 2 => 1,
        _ => (u64::from(width) * u64::from(bits)).div_ceil(32) * 4 * u64::from(height),
    };
    let min_end = u64::try_from(offset).ok()?.checked_add(rows)?;
    match coding {
        1 | 2 => (declared as u64 > min_end).then_some(declared),
        // A color profile may follow the rows.
        _ => usize::try_from(min_end.max(declared as u64)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_length_without_end_is_the_file_length() {
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
    fn image_length_run_length_bmp_uses_the_declared_size() {
        let mut bmp =
            b"BM\x50\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x08\0\x01\0\0\0"
                .to_vec();
        bmp.resize(100, 7);
        assert_eq!(image_length(&bmp), 0x50);
        // A size that excludes the picture is ignored.
        bmp[2] = 0x20;
        assert_eq!(image_length(&bmp), 100);
    }
}
