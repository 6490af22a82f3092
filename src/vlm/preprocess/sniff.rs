//! Detection of file formats by their first bytes, with a description of files that are not
//! supported.

use image::ImageFormat;

use super::limits::ImageError;

/// Supported formats, for messages.
pub(super) const READ: &str = "JPEG, PNG, GIF, WebP or BMP";

/// First bytes of unsupported image formats.
const FOREIGN: [(&[u8], &str); 22] = [
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\x01\0", "ICO (icon)"),
    (b"\0\0\x02\0", "CUR (cursor)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"qoif", "QOI"),
    (b"farbfeld", "farbfeld"),
    (b"FUJIFILMCCD-RAW", "raw camera"),
    (b"IIRO", "raw camera"),
    (b"gimp xcf", "GIMP (XCF)"),
];

/// First bytes of files that are not images.
const OTHER: [(&[u8], &str); 10] = [
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"OggS", "Ogg audio or video"),
    (b"ID3", "audio"),
    (b"fLaC", "audio"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"/9j/", "base64 text (it was encoded twice)"),
    (b"iVBORw0KGgo", "base64 text (it was encoded twice)"),
];

/// Detects a supported format and its name.
///
/// # Errors
/// [`ImageError::Unsupported`] for other images, [`ImageError::NotAnImage`] for anything else.
pub(super) fn sniff(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    let unsupported = |name: &str| Err(ImageError::Unsupported(name.to_owned()));
    let begins = |table: &[(&[u8], &'static str)]| {
        table
            .iter()
            .find(|(first, _)| bytes.starts_with(first))
            .map(|(_, name)| *name)
    };
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Ok((ImageFormat::Jpeg, "JPEG")),
        [
            0x89,
            b'P',
            b'N',
            b'G',
            b'\r',
            b'\n',
            0x1a,
            b'\n',
            _,
            _,
            _,
            _,
            b'C',
            b'g',
            b'B',
            b'I',
            ..,
        ] => unsupported("iPhone-optimized PNG (CgBI)"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok((ImageFormat::Png, "PNG")),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok((ImageFormat::Gif, "GIF")),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Ok((ImageFormat::WebP, "WebP")),
        [b'R', b'I', b'F', b'F', ..] => Err(ImageError::NotAnImage("audio or video")),
        [b'B', b'M', ..] => Ok((ImageFormat::Bmp, "BMP")),
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => unsupported("Netpbm (PNM)"),
        [_, _, _, _, b'f', b't', b'y', b'p', brands @ ..] => iso_media(brands),
        [] => Err(ImageError::NotAnImage("empty")),
        _ => match (begins(&FOREIGN), begins(&OTHER)) {
            (Some(name), _) => unsupported(name),
            (None, Some(what)) => Err(ImageError::NotAnImage(what)),
            (None, None) => text(bytes),
        },
    }
}

/// Error for a file of ISO media, such as phones write by default. `brands`: the major brand, a
/// version, and the compatible brands.
fn iso_media(brands: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    let brands: Vec<[u8; 4]> = brands.as_chunks::<4>().0.iter().copied().take(16).collect();
    let has = |names: &[&[u8; 4]]| brands.iter().any(|brand| names.contains(&brand));
    let name = if has(&[b"avif", b"avis"]) {
        "AVIF"
    } else if has(&[
        b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1",
    ]) {
        "HEIC"
    } else if has(&[b"crx "]) {
        "raw camera"
    } else {
        return Err(ImageError::NotAnImage("a video"));
    };
    Err(ImageError::Unsupported(name.to_owned()))
}

/// Error for a file without a signature: SVG, text that servers and programs send in place of an
/// image, or unknown data.
fn text(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    let head = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let head = head[..head.len().min(1024)].trim_ascii_start();
    let lower = String::from_utf8_lossy(head).to_ascii_lowercase();
    let what = if lower.starts_with('<') && lower.contains("<svg") && !lower.contains("<html") {
        return Err(ImageError::Unsupported("SVG".to_owned()));
    } else if lower.starts_with("<!doctype html")
        || (lower.starts_with('<') && lower.contains("<html"))
    {
        "an HTML page"
    } else if lower.starts_with("<?xml") || lower.starts_with("<!doctype") {
        "XML"
    } else if lower.starts_with(['{', '[']) {
        "JSON"
    } else if !head.is_empty()
        && head
            .iter()
            .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..))
        && is_utf8(head)
    {
        "text"
    } else {
        "of no known kind"
    };
    Err(ImageError::NotAnImage(what))
}

/// Returns `true` for UTF-8, except for a character that the cut may have split.
fn is_utf8(head: &[u8]) -> bool {
    std::str::from_utf8(head)
        .err()
        .is_none_or(|e| e.error_len().is_none())
}
