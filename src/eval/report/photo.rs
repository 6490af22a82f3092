//! Thumbnails of photographs, small enough that a page of hundreds can be sent and opened.

use std::{fs, path::Path};

use image::{
    ColorType,
    codecs::jpeg::JpegEncoder,
    imageops::{FilterType, resize},
};

use crate::vlm::preprocess::{ImageLimits, decode};

/// Longest side in pixels.
const SIDE: u32 = 208;

/// Quality of the JPEG, of 100.
const QUALITY: u8 = 65;

/// An encoded photograph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Photo {
    /// Media type, such as `image/jpeg`.
    pub media_type: String,
    /// Encoded file.
    pub bytes: Vec<u8>,
}

impl Photo {
    /// Thumbnail of the photograph in a file, as a JPEG, decoded like the model's input; `None` if
    /// it cannot be read.
    pub fn thumbnail(path: &Path) -> Option<Self> {
        let photo = decode(&fs::read(path).ok()?, &ImageLimits::default()).ok()?;
        let (width, height) = photo.dimensions();
        let longest = width.max(height);
        let side = |length: u32| {
            (u64::from(length) * u64::from(SIDE) / u64::from(longest.max(1))).max(1) as u32
        };
        let small = if longest > SIDE {
            resize(&photo, side(width), side(height), FilterType::CatmullRom)
        } else {
            photo
        };
        let mut bytes = Vec::new();
        let (width, height) = small.dimensions();
        JpegEncoder::new_with_quality(&mut bytes, QUALITY)
            .encode(&small, width, height, ColorType::Rgb8.into())
            .ok()?;
        Some(Self {
            media_type: "image/jpeg".into(),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::{CaptionCard, EvaluationReport, Section};

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/photos")
            .join(name)
    }

    #[test]
    fn thumbnail_is_a_small_copy_of_the_photograph() {
        let photo = Photo::thumbnail(&fixture("cat.jpg")).unwrap();
        let limits = ImageLimits::default();
        let (small, whole) = (
            decode(&photo.bytes, &limits).unwrap(),
            decode(&fs::read(fixture("cat.jpg")).unwrap(), &limits).unwrap(),
        );
        assert_eq!(small.width().max(small.height()), SIDE);
        let shape = |image: &image::RgbImage| f64::from(image.width()) / f64::from(image.height());
        assert!(
            (shape(&small) - shape(&whole)).abs() < 0.02,
            "{} {}",
            shape(&small),
            shape(&whole)
        );
        let mean = |image: &image::RgbImage| {
            image.iter().map(|&v| f64::from(v)).sum::<f64>() / image.len() as f64
        };
        assert!(
            (mean(&small) - mean(&whole)).abs() < 2.0,
            "{} {}",
            mean(&small),
            mean(&whole)
        );
        assert_eq!(Photo::thumbnail(&fixture("README.md")), None);
        assert_eq!(Photo::thumbnail(&fixture("absent.jpg")), None);
    }

    #[test]
    fn page_with_200_photographs_is_below_three_megabytes() {
        let photos = ["astronaut.jpg", "cat.jpg", "coffee.jpg", "photographer.jpg"]
            .map(|name| Photo::thumbnail(&fixture(name)).unwrap());
        let cards = (0..200)
            .map(|i| CaptionCard {
                photo: Some(photos[i % 4].clone()),
                ..CaptionCard::default()
            })
            .collect();
        let page = EvaluationReport {
            sections: vec![Section {
                cards,
                ..Section::default()
            }],
            ..EvaluationReport::default()
        }
        .html()
        .unwrap();
        assert_eq!(page.matches("<img ").count(), 200);
        assert!(page.len() < 3_000_000, "{}", page.len());
    }
}
