//! Generated pictures: pages of text and line drawings from a seed, and re-encoded photographs.

use image::{
    ColorType, ImageResult, Rgb, RgbImage,
    codecs::jpeg::JpegEncoder,
    imageops::{FilterType, resize},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

/// Width and height in pixels.
const SIZE: (u32, u32) = (480, 640);

/// Columns of a letter, each with its seven dots from the top in the low bits: capitals, digits and
/// a few signs.
const FONT: [(char, [u8; 5]); 40] = [
    ('A', [0x7E, 0x09, 0x09, 0x09, 0x7E]),
    ('B', [0x7F, 0x49, 0x49, 0x49, 0x36]),
    ('C', [0x3E, 0x41, 0x41, 0x41, 0x22]),
    ('D', [0x7F, 0x41, 0x41, 0x41, 0x3E]),
    ('E', [0x7F, 0x49, 0x49, 0x49, 0x41]),
    ('F', [0x7F, 0x09, 0x09, 0x09, 0x01]),
    ('G', [0x3E, 0x41, 0x49, 0x49, 0x7A]),
    ('H', [0x7F, 0x08, 0x08, 0x08, 0x7F]),
    ('I', [0x00, 0x41, 0x7F, 0x41, 0x00]),
    ('J', [0x20, 0x40, 0x41, 0x3F, 0x01]),
    ('K', [0x7F, 0x08, 0x14, 0x22, 0x41]),
    ('L', [0x7F, 0x40, 0x40, 0x40, 0x40]),
    ('M', [0x7F, 0x02, 0x0C, 0x02, 0x7F]),
    ('N', [0x7F, 0x04, 0x08, 0x10, 0x7F]),
    ('O', [0x3E, 0x41, 0x41, 0x41, 0x3E]),
    ('P', [0x7F, 0x09, 0x09, 0x09, 0x06]),
    ('Q', [0x3E, 0x41, 0x51, 0x21, 0x5E]),
    ('R', [0x7F, 0x09, 0x19, 0x29, 0x46]),
    ('S', [0x46, 0x49, 0x49, 0x49, 0x31]),
    ('T', [0x01, 0x01, 0x7F, 0x01, 0x01]),
    ('U', [0x3F, 0x40, 0x40, 0x40, 0x3F]),
    ('V', [0x1F, 0x20, 0x40, 0x20, 0x1F]),
    ('W', [0x3F, 0x40, 0x38, 0x40, 0x3F]),
    ('X', [0x63, 0x14, 0x08, 0x14, 0x63]),
    ('Y', [0x07, 0x08, 0x70, 0x08, 0x07]),
    ('Z', [0x61, 0x51, 0x49, 0x45, 0x43]),
    ('0', [0x3E, 0x51, 0x49, 0x45, 0x3E]),
    ('1', [0x00, 0x42, 0x7F, 0x40, 0x00]),
    ('2', [0x42, 0x61, 0x51, 0x49, 0x46]),
    ('3', [0x21, 0x41, 0x45, 0x4B, 0x31]),
    ('4', [0x18, 0x14, 0x12, 0x7F, 0x10]),
    ('5', [0x27, 0x45, 0x45, 0x45, 0x39]),
    ('6', [0x3C, 0x4A, 0x49, 0x49, 0x30]),
    ('7', [0x01, 0x71, 0x09, 0x05, 0x03]),
    ('8', [0x36, 0x49, 0x49, 0x49, 0x36]),
    ('9', [0x06, 0x49, 0x49, 0x29, 0x1E]),
    ('.', [0x00, 0x60, 0x60, 0x00, 0x00]),
    (',', [0x00, 0x50, 0x30, 0x00, 0x00]),
    (':', [0x00, 0x36, 0x36, 0x00, 0x00]),
    ('-', [0x08, 0x08, 0x08, 0x08, 0x08]),
];

/// Words printed on pages.
const WORDS: [&str; 36] = [
    "ACCOUNT",
    "AGREEMENT",
    "AMOUNT",
    "AND",
    "ANNUAL",
    "APPROVED",
    "BALANCE",
    "BETWEEN",
    "CHAPTER",
    "CLIENT",
    "COMMITTEE",
    "CONTRACT",
    "DATE",
    "DEPARTMENT",
    "FOR",
    "INVOICE",
    "LIMITED",
    "MEETING",
    "MINUTES",
    "NOTICE",
    "NUMBER",
    "OF",
    "ORDER",
    "PARAGRAPH",
    "PAYMENT",
    "REPORT",
    "RESULT",
    "SCHEDULE",
    "SECTION",
    "SIGNED",
    "SUMMARY",
    "TABLE",
    "THE",
    "TOTAL",
    "UNDER",
    "YEAR",
];

/// A canvas with a pen.
struct Canvas {
    image: RgbImage,
    ink: Rgb<u8>,
}

impl Canvas {
    fn new(paper: [u8; 3], ink: [u8; 3]) -> Self {
        Self {
            image: RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb(paper)),
            ink: Rgb(ink),
        }
    }

    fn dot(&mut self, x: i32, y: i32) {
        if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
            && x < SIZE.0
            && y < SIZE.1
        {
            self.image.put_pixel(x, y, self.ink);
        }
    }

    fn block(&mut self, (x, y): (i32, i32), width: i32, height: i32) {
        (y..y + height).for_each(|y| (x..x + width).for_each(|x| self.dot(x, y)));
    }

    /// Draws a line `thick` pixels wide.
    fn line(&mut self, from: (f32, f32), to: (f32, f32), thick: i32) {
        let steps = (to.0 - from.0)
            .abs()
            .max((to.1 - from.1).abs())
            .ceil()
            .max(1.0);
        for i in 0..=steps as i32 {
            let part = i as f32 / steps;
            let at = |from: f32, to: f32| (from + (to - from) * part) as i32 - thick / 2;
            self.block((at(from.0, to.0), at(from.1, to.1)), thick, thick);
        }
    }

    /// Draws a closed outline through points.
    fn outline(&mut self, points: &[(f32, f32)], thick: i32) {
        points
            .iter()
            .zip(points.iter().cycle().skip(1))
            .for_each(|(from, to)| self.line(*from, *to, thick));
    }

    fn circle(&mut self, center: (f32, f32), radius: f32, thick: i32) {
        let at = |i: u8| {
            let angle = f32::from(i) * std::f32::consts::TAU / 48.0;
            (
                center.0 + radius * angle.cos(),
                center.1 + radius * angle.sin(),
            )
        };
        self.outline(&(0..48).map(at).collect::<Vec<_>>(), thick);
    }

    /// Draws a line of text from its upper left corner, each dot of its letters a block of `scale`
    /// pixels. Returns its width.
    fn text(&mut self, (x, y): (i32, i32), text: &str, scale: i32) -> i32 {
        for (number, letter) in (0..).zip(text.chars()) {
            let Some((_, columns)) = FONT.iter().find(|(known, _)| *known == letter) else {
                continue;
            };
            for (column, dots) in (0..).zip(columns) {
                for row in (0..7).filter(|row| dots >> row & 1 == 1) {
                    self.block(
                        (x + (6 * number + column) * scale, y + row * scale),
                        scale,
                        scale,
                    );
                }
            }
        }
        6 * text.chars().count() as i32 * scale
    }
}

/// Draws a page of text: a title, paragraphs, and on some a table or a stamp.
pub fn document(seed: u64) -> RgbImage {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shade = rng.random_range(225..=255);
    let mut page = Canvas::new(
        [shade, shade, shade - rng.random_range(0..20)],
        [rng.random_range(0..60); 3],
    );
    let (left, right) = (30, SIZE.0 as i32 - 30);
    let word = |rng: &mut SmallRng| {
        if rng.random_bool(0.15) {
            rng.random_range(1..2000).to_string()
        } else {
            (*WORDS.choose(rng).unwrap_or(&"")).to_owned()
        }
    };
    let title = format!("{} {}", word(&mut rng), word(&mut rng));
    page.text((left, 30), &title, 3);
    let table = rng.random_bool(0.5).then(|| rng.random_range(250..420));
    let mut y = 80;
    while y < SIZE.1 as i32 - 60 {
        if table.is_some_and(|top| (top - 16..top + 120).contains(&y)) {
            y += 16;
            continue;
        }
        let mut x = left + if rng.random_bool(0.2) { 24 } else { 0 };
        let end = if rng.random_bool(0.15) {
            right - rng.random_range(100..300)
        } else {
            right
        };
        loop {
            let next = word(&mut rng);
            if x + 6 * next.len() as i32 > end {
                break;
            }
            x += page.text((x, y), &next, 1) + 6;
        }
        y += if rng.random_bool(0.12) { 28 } else { 14 };
    }
    if let Some(top) = table {
        for row in 0..=5 {
            page.block((left, top + 20 * row), right - left, 1);
        }
        for column in 0..=3 {
            let x = left + (right - left) * column / 3;
            page.block((x, top), 1, 100);
            for row in (0..5).filter(|_| column < 3) {
                let cell = word(&mut rng);
                page.text((x + 6, top + 20 * row + 6), &cell, 1);
            }
        }
    }
    page.image
}

/// Draws a line drawing: a few shapes such as houses, trees, suns, boxes, charts.
pub fn drawing(seed: u64) -> RgbImage {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut sheet = Canvas::new([255, 255, 250], [0; 3]);
    let thick = rng.random_range(2..5);
    let shapes: [Shape; 6] = [house, tree, sun, cube, chart, star];
    for _ in 0..rng.random_range(2..6) {
        sheet.ink = Rgb(*[[0, 0, 0], [20, 20, 120], [140, 20, 20], [20, 100, 40]]
            .choose(&mut rng)
            .unwrap_or(&[0; 3]));
        let size: f32 = rng.random_range(50.0..130.0);
        let coordinate =
            |length: u32, rng: &mut SmallRng| rng.random_range(size..length as f32 - size);
        let center = (coordinate(SIZE.0, &mut rng), coordinate(SIZE.1, &mut rng));
        if let Some(shape) = shapes.choose(&mut rng) {
            shape(&mut sheet, center, size, thick);
        }
    }
    sheet.image
}

/// Side of a re-encoded photograph in pixels, and its JPEG quality of 100.
const REENCODED: (u32, u8) = (224, 75);

/// Re-encodes a photograph as a small square JPEG, ignoring its aspect ratio: the content stays,
/// the encoding does not.
///
/// # Errors
/// If it cannot be encoded.
pub fn reencoded(photograph: &RgbImage) -> ImageResult<Vec<u8>> {
    let (side, quality) = REENCODED;
    let small = resize(photograph, side, side, FilterType::CatmullRom);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode(
        &small,
        side,
        side,
        ColorType::Rgb8.into(),
    )?;
    Ok(bytes)
}

/// Draws a shape of a size around a point, with lines of a width.
type Shape = fn(&mut Canvas, (f32, f32), f32, i32);

fn house(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    sheet.outline(
        &[
            (x - size, y),
            (x + size, y),
            (x + size, y + size),
            (x - size, y + size),
        ],
        thick,
    );
    sheet.outline(&[(x - size, y), (x, y - size), (x + size, y)], thick);
    sheet.outline(
        &[
            (x - size / 4.0, y + size),
            (x - size / 4.0, y + size / 2.0),
            (x + size / 4.0, y + size / 2.0),
            (x + size / 4.0, y + size),
        ],
        thick,
    );
}

fn tree(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    sheet.circle((x, y - size / 3.0), size * 0.6, thick);
    sheet.line((x, y + size * 0.27), (x, y + size), thick);
}

fn sun(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    sheet.circle((x, y), size / 2.0, thick);
    for i in 0..8u8 {
        let angle = f32::from(i) * std::f32::consts::TAU / 8.0;
        let at = |radius: f32| (x + radius * angle.cos(), y + radius * angle.sin());
        sheet.line(at(size * 0.6), at(size), thick);
    }
}

fn cube(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    let (half, depth) = (size * 0.6, size * 0.4);
    let corners = |shift: f32| {
        [
            (x - half + shift, y - half - shift),
            (x + half + shift, y - half - shift),
            (x + half + shift, y + half - shift),
            (x - half + shift, y + half - shift),
        ]
    };
    let (front, back) = (corners(0.0), corners(depth));
    sheet.outline(&front, thick);
    sheet.outline(&back, thick);
    front
        .iter()
        .zip(back)
        .for_each(|(from, to)| sheet.line(*from, to, thick));
}

fn chart(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    sheet.line((x - size, y - size), (x - size, y + size), thick);
    sheet.line((x - size, y + size), (x + size, y + size), thick);
    let heights = [0.2, 0.9, 0.5, 0.7, 1.2];
    for (i, height) in (0u8..).zip(heights) {
        let left = x - size * 0.8 + f32::from(i) * size * 0.35;
        let (right, top, bottom) = (left + size * 0.2, y + size - height * size, y + size);
        sheet.outline(
            &[(left, bottom), (left, top), (right, top), (right, bottom)],
            thick,
        );
    }
}

fn star(sheet: &mut Canvas, (x, y): (f32, f32), size: f32, thick: i32) {
    let at = |i: u8| {
        let angle = f32::from(i) * std::f32::consts::TAU / 10.0 - std::f32::consts::FRAC_PI_2;
        let radius = if i.is_multiple_of(2) {
            size
        } else {
            size * 0.4
        };
        (x + radius * angle.cos(), y + radius * angle.sin())
    };
    sheet.outline(&(0..10).map(at).collect::<Vec<_>>(), thick);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of pixels that are much darker than paper.
    fn ink(image: &RgbImage) -> f64 {
        let dark = image
            .pixels()
            .filter(|pixel| pixel.0.iter().any(|&channel| channel < 150))
            .count();
        dark as f64 / f64::from(image.width() * image.height())
    }

    #[test]
    fn generated_picture_depends_on_its_seed_and_is_not_blank() {
        for make in [document, drawing] {
            assert_eq!(make(3), make(3));
            assert_ne!(make(3), make(4));
            for seed in 0..40 {
                let image = make(seed);
                assert_eq!(image.dimensions(), SIZE);
                assert!(
                    (0.001..0.4).contains(&ink(&image)),
                    "{seed}: {}",
                    ink(&image)
                );
            }
        }
    }

    #[test]
    fn reencoded_photograph_has_the_same_content_in_fewer_bytes() {
        let photograph = RgbImage::from_fn(600, 300, |x, y| {
            Rgb([(x / 3) as u8, (y / 2) as u8, if x < 300 { 200 } else { 40 }])
        });
        let small = image::load_from_memory(&reencoded(&photograph).unwrap())
            .unwrap()
            .to_rgb8();
        assert_eq!(small.dimensions(), (224, 224));
        for (x, y) in [(30, 30), (80, 200), (200, 100)] {
            let (then, now) = (
                photograph.get_pixel(x * 600 / 224, y * 300 / 224).0,
                small.get_pixel(x, y).0,
            );
            assert!(
                then.iter()
                    .zip(now)
                    .all(|(then, now)| then.abs_diff(now) < 12),
                "{then:?} {now:?}"
            );
        }
    }

    #[test]
    fn text_is_drawn_at_its_position() {
        let mut page = Canvas::new([255; 3], [0; 3]);
        assert_eq!(page.text((10, 20), "I.", 2), 24);
        let dark = |x, y| page.image.get_pixel(x, y).0 == [0; 3];
        // The stem of an I: its third column, seven dots of two.
        assert!(
            (20..34).all(|y| dark(14, y) && dark(15, y))
                && !dark(14, 19)
                && !dark(14, 34)
                && !dark(10, 20)
        );
        // The full stop: second and third column, the two lowest dots.
        assert!(dark(24, 30) && dark(27, 33) && !dark(24, 29) && !dark(22, 33));
        let mut letters: Vec<char> = FONT.iter().map(|(letter, _)| *letter).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), FONT.len());
        assert!(
            WORDS
                .iter()
                .flat_map(|word| word.chars())
                .all(|letter| letters.contains(&letter))
        );
    }
}
