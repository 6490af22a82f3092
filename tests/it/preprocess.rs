//! Image decoding and resizing against Pillow. `tests/parity/make_images.py` makes the fixtures.

use std::{fs, path::PathBuf};

use candle_core::Device;
use candor::vlm::preprocess::{ImageError, ImageLimits, decode, to_pixels};
use image::RgbImage;
use proptest::prelude::*;

const JPEGS: [&str; 6] = ["rgb.jpg", "rgb444.jpg", "progressive.jpg", "restart.jpg", "grey.jpg", "cmyk.jpg"];
const LOSSLESS: [&str; 14] = [
    "rgba.png",
    "la.png",
    "grey.png",
    "one_bit.png",
    "palette.png",
    "palette_transparent.png",
    "rgb16.png",
    "grey16.png",
    "rgba16.png",
    "exif6.png",
    "rgb.bmp",
    "rgba.webp",
    "animated.gif",
    "animated.webp",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// What Pillow sees in the image.
fn expected(name: &str) -> RgbImage {
    image::open(folder().join(format!("expected/{name}.png"))).unwrap().into_rgb8()
}

fn decoded(name: &str) -> RgbImage {
    decode(&read(name), &ImageLimits::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn max_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn lossless_kinds_are_what_pillow_sees() {
    for name in LOSSLESS {
        let (ours, theirs) = (decoded(name), expected(name));
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
        let difference = max_difference(&ours, &theirs);
        assert!(difference <= 1, "{name}: {difference}");
    }
}

#[test]
fn lossy_kinds_are_what_pillow_sees_but_for_rounding() {
    for name in JPEGS.into_iter().chain(["lossy.webp"]) {
        let (ours, theirs) = (decoded(name), expected(name));
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
        let difference = max_difference(&ours, &theirs);
        assert!(difference <= 6, "{name}: {difference}");
    }
}

#[test]
fn all_eight_exif_orientations_are_honoured() {
    for orientation in 1..=8 {
        let name = format!("exif{orientation}.jpg");
        let (ours, theirs) = (decoded(&name), expected(&name));
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
        assert!(max_difference(&ours, &theirs) <= 6, "{name}");
    }
}

#[test]
fn resizing_is_pillows_bicubic_to_one_level() {
    for name in ["shrink.png", "grow.png", "keep.png", "photo.png"] {
        let source = image::open(folder().join(name)).unwrap().into_rgb8();
        let pixels = to_pixels(&source, 224, [0.; 3], [1.; 3], &Device::Cpu).unwrap();
        let levels = pixels.permute((1, 2, 0)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = expected(name);
        let differences: Vec<u8> = levels.iter().zip(expected.iter()).map(|(a, b)| (*a as u8).abs_diff(*b)).collect();
        // The harshest texture, enlarged, is two levels off in a few places: both libraries compute with rounded weights, on 8 bits twice.
        let (allowed, spread) = if name == "grow.png" { (2, 1e-4) } else { (1, 0.) };
        let beyond = differences.iter().filter(|d| **d > 1).count() as f64;
        assert!(differences.iter().all(|d| *d <= allowed) && beyond <= spread * levels.len() as f64, "{name}: {beyond} beyond one level");
    }
}

#[test]
fn an_image_cut_anywhere_is_an_error() {
    // Behind the picture stand only: the chunk IEND of a PNG, in a GIF the second frame.
    let files = [
        ("rgb.jpg", 0),
        ("progressive.jpg", 0),
        ("restart.jpg", 0),
        ("grey.jpg", 0),
        ("rgba.png", 12),
        ("animated.gif", 200),
        ("rgba.webp", 0),
        ("rgb.bmp", 0),
    ];
    for (name, spare) in files {
        let bytes = read(name);
        for len in 12..bytes.len() - spare {
            match decode(&bytes[..len], &ImageLimits::default()) {
                Err(ImageError::Corrupt { .. }) => {}
                Err(other) => panic!("{name} cut to {len} of {}: {other}", bytes.len()),
                Ok(_) => panic!("{name} cut to {len} of {} passes for whole", bytes.len()),
            }
        }
    }
}

#[test]
fn a_huge_header_is_refused_before_decoding() {
    let err = decode(&read("bomb.png"), &ImageLimits::default()).unwrap_err();
    assert_eq!(err, ImageError::TooManyPixels { width: 30_000, height: 30_000, max: ImageLimits::default().max_pixels });
    // 30,000 x 30,000 pixels of a JPEG: the size stands in its frame header.
    let mut jpeg = read("rgb.jpg");
    let frame = jpeg.windows(4).position(|w| w[..2] == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    assert!(matches!(decode(&jpeg, &ImageLimits::default()).unwrap_err(), ImageError::TooManyPixels { width: 30_000, .. }));
}

#[test]
fn every_limit_counts() {
    let bytes = read("rgba.png");
    let generous = ImageLimits::default();
    assert!(matches!(decode(&bytes, &ImageLimits { max_bytes: 10, ..generous }), Err(ImageError::TooManyBytes { max: 10, .. })));
    assert!(matches!(decode(&bytes, &ImageLimits { max_pixels: 48 * 32 - 1, ..generous }), Err(ImageError::TooManyPixels { .. })));
    assert!(decode(&bytes, &ImageLimits { max_pixels: 48 * 32, ..generous }).is_ok());
    for name in JPEGS.into_iter().chain(LOSSLESS) {
        let refused = decode(&read(name), &ImageLimits { max_alloc: 500, ..generous });
        assert_eq!(refused, Err(ImageError::TooMuchMemory { max: 500 }), "{name}");
    }
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in [&b""[..], b"hello, world", b"<svg></svg>", b"%PDF-1.7", &[0; 100]] {
        assert_eq!(decode(bytes, &ImageLimits::default()), Err(ImageError::NotAnImage));
    }
}

#[test]
fn foreign_formats_are_named() {
    let message = |bytes: &[u8]| decode(bytes, &ImageLimits::default()).unwrap_err().to_string();
    assert!(message(b"II*\0\x08\0\0\0").starts_with("TIFF images are not supported; send JPEG"));
    assert!(message(b"\0\0\0\x18ftypheic\0\0\0\0").starts_with("HEIC"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_never_panic(magic in 0..6usize, tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let magic: &[u8] = [&b""[..], b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"BM"][magic];
        let _ = decode(&[magic, &tail].concat(), &ImageLimits { max_pixels: 1 << 16, max_alloc: 1 << 20, ..ImageLimits::default() });
    }

    #[test]
    fn damaged_images_never_panic(which in 0..JPEGS.len() + LOSSLESS.len(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = read(JPEGS.iter().chain(&LOSSLESS).nth(which).unwrap());
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(image) = decode(&bytes, &ImageLimits { max_pixels: 1 << 16, max_alloc: 1 << 20, ..ImageLimits::default() }) {
            prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= 1 << 16);
        }
    }
}
