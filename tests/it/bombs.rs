//! Files that are small and ask for much: each is answered or refused in words, and the process's
//! memory stays within what the configuration allows.

use std::{
    io::{self, Read},
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use candor::{config::Config, feedback::record::ImageHash};
use flate2::{Compression, Crc, write::ZlibEncoder};
use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    cli::{Process, candor},
    http,
    served::{Served, about, and, data_url, picture},
};

/// Memory in bytes that requests, answers and the allocator may take beside the budget of decoding.
const BESIDE: u64 = 128 << 20;

/// Zeros, packed by zlib.
fn zeros(len: u64) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut io::repeat(0).take(len), &mut packed).unwrap();
    packed.finish().unwrap()
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(content);
    [
        &(content.len() as u32).to_be_bytes()[..],
        kind,
        content,
        &crc.sum().to_be_bytes(),
    ]
    .concat()
}

/// A PNG with these chunks between its header and its end.
fn png_of(
    width: u32,
    height: u32,
    depth: u8,
    color: u8,
    interlaced: bool,
    chunks: &[Vec<u8>],
) -> Vec<u8> {
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[depth, color, 0, 0, u8::from(interlaced)],
    ]
    .concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        &chunks.concat(),
        &chunk(b"IEND", b""),
    ]
    .concat()
}

/// A black PNG of gray (color 0), RGB (2) or RGBA (6).
fn black(width: u32, height: u32, depth: u8, color: u8, interlaced: bool) -> Vec<u8> {
    let channels = [1, 0, 3, 0, 0, 0, 4][usize::from(color)];
    let row = 1 + u64::from(width) * channels * u64::from(depth) / 8;
    png_of(
        width,
        height,
        depth,
        color,
        interlaced,
        &[chunk(b"IDAT", &zeros(u64::from(height) * row))],
    )
}

/// A small picture with a chunk in front of it.
fn small_behind(extra: &[u8]) -> Vec<u8> {
    png_of(
        64,
        64,
        8,
        2,
        false,
        &[extra.to_vec(), chunk(b"IDAT", &zeros(64 * 193))],
    )
}

/// Sampling factors of components, across and down.
type Factors = [(u32, u32)];
const HALVED: &Factors = &[(2, 2), (1, 1), (1, 1)];
const FULL: &Factors = &[(1, 1), (1, 1), (1, 1)];
const INKS: &Factors = &[(1, 1), (1, 1), (1, 1), (1, 1)];

/// A scan: its components, from 1; its first and last coefficient, and its bits; its data.
type Scan = (Vec<u8>, [u8; 3], Vec<u8>);

/// A JPEG of one flat color. In its code, 0 is "as before" of the first coefficient, 00 the end of
/// a block, and 01 the end of up to 32,767 blocks.
fn jpeg(
    kind: u8,
    width: u32,
    height: u32,
    factors: &Factors,
    segments: &[u8],
    scans: &[Scan],
) -> Vec<u8> {
    let count = factors.len() as u8;
    let mut file = [&b"\xff\xd8"[..], segments, b"\xff\xdb\0\x43\0", &[1; 64]].concat();
    file.extend([0xff, kind, 0, 8 + 3 * count, 8]);
    file.extend(
        (height as u16)
            .to_be_bytes()
            .into_iter()
            .chain((width as u16).to_be_bytes()),
    );
    file.push(count);
    (1..)
        .zip(factors)
        .for_each(|(id, (across, down))| file.extend([id, (across << 4 | down) as u8, 0]));
    file.extend(b"\xff\xc4\0\x14\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    file.extend(b"\xff\xc4\0\x15\x10\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xe0");
    for (components, band, data) in scans {
        file.extend([
            0xff,
            0xda,
            0,
            6 + 2 * components.len() as u8,
            components.len() as u8,
        ]);
        components.iter().for_each(|id| file.extend([*id, 0]));
        file.extend(band.iter().chain(data));
    }
    file.extend([0xff, 0xd9]);
    file
}

/// Blocks of a scan of all components.
fn all_blocks(width: u32, height: u32, factors: &Factors) -> u32 {
    let most = |side: fn(&(u32, u32)) -> u32| 8 * factors.iter().map(side).max().unwrap();
    let units = width.div_ceil(most(|f| f.0)) * height.div_ceil(most(|f| f.1));
    units
        * factors
            .iter()
            .map(|(across, down)| across * down)
            .sum::<u32>()
}

/// Blocks of a scan of one component.
fn blocks(width: u32, height: u32, factors: &Factors, component: usize) -> u32 {
    let (across, down) = (
        factors.iter().map(|f| f.0).max().unwrap(),
        factors.iter().map(|f| f.1).max().unwrap(),
    );
    let side = |length: u32, own: u32, most: u32| (length * own).div_ceil(most).div_ceil(8);
    side(width, factors[component].0, across) * side(height, factors[component].1, down)
}

fn bits(count: u32) -> Vec<u8> {
    vec![0; count.div_ceil(8) as usize]
}

fn baseline(width: u32, height: u32, factors: &Factors, segments: &[u8]) -> Vec<u8> {
    let scan = (
        (1..=factors.len() as u8).collect(),
        [0, 63, 0],
        bits(3 * all_blocks(width, height, factors)),
    );
    jpeg(0xc0, width, height, factors, segments, &[scan])
}

/// Not progressive, and a scan for each component.
fn one_by_one(width: u32, height: u32, factors: &Factors) -> Vec<u8> {
    let scans: Vec<Scan> = (0..factors.len())
        .map(|i| {
            (
                vec![i as u8 + 1],
                [0, 63, 0],
                bits(3 * blocks(width, height, factors, i)),
            )
        })
        .collect();
    jpeg(0xc0, width, height, factors, b"", &scans)
}

/// A progressive JPEG of so many scans, whose components take turns behind the first.
fn progressive(
    width: u32,
    height: u32,
    factors: &Factors,
    scans: usize,
    segments: &[u8],
) -> Vec<u8> {
    let first = (
        (1..=factors.len() as u8).collect(),
        [0, 0, 0],
        bits(all_blocks(width, height, factors)),
    );
    let further = (0..scans - 1).map(|n| n % factors.len()).map(|i| {
        let runs = blocks(width, height, factors, i).div_ceil(32_767);
        (
            vec![i as u8 + 1],
            [1, 63, 0],
            [0x7f, 0xff, 0].repeat(runs as usize),
        )
    });
    let scans: Vec<Scan> = std::iter::once(first).chain(further).collect();
    jpeg(0xc2, width, height, factors, segments, &scans)
}

/// A GIF whose frames are a pixel each.
fn gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let (w, h) = (width.to_le_bytes(), height.to_le_bytes());
    let frame = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0";
    [
        &b"GIF89a"[..],
        &w,
        &h,
        b"\x80\0\0\0\0\0\xff\xff\xff",
        &frame.repeat(frames),
        b"\x3b",
    ]
    .concat()
}

fn bmp(width: u32, height: u32, data: usize) -> Vec<u8> {
    let number = |n: u32| n.to_le_bytes();
    let head = [
        number(54 + data as u32),
        number(0),
        number(54),
        number(40),
        number(width),
        number(height),
    ]
    .concat();
    [&b"BM"[..], &head, &[1, 0, 24, 0], &[0; 24], &vec![0; data]].concat()
}

fn riff(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let chunks: Vec<u8> = chunks
        .iter()
        .flat_map(|(kind, content)| riff_chunk(kind, content))
        .collect();
    [
        &b"RIFF"[..],
        &(4 + chunks.len() as u32).to_le_bytes(),
        b"WEBP",
        &chunks,
    ]
    .concat()
}

fn riff_chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [
        &kind[..],
        &(content.len() as u32).to_le_bytes(),
        content,
        &[0][..content.len() % 2],
    ]
    .concat()
}

/// Bits, the lowest of a byte first.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.0.extend((0..count).map(|i| value >> i & 1 == 1));
    }

    fn bytes(&self) -> Vec<u8> {
        self.0
            .chunks(8)
            .map(|byte| {
                byte.iter()
                    .rev()
                    .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
            })
            .collect()
    }
}

fn lossless_header(width: u32, height: u32) -> Bits {
    let mut bits = Bits::default();
    bits.put(width - 1, 14);
    bits.put(height - 1, 14);
    bits.put(0, 4);
    bits
}

/// A lossless picture of one color, which takes no bit a pixel.
fn lossless(width: u32, height: u32) -> Vec<u8> {
    let mut bits = lossless_header(width, height);
    bits.put(0, 3);
    (0..5).for_each(|_| bits.put(1, 4));
    [&[0x2f][..], &bits.bytes(), &[0; 16]].concat()
}

/// A lossless picture of 8 x 8 pixels that names so many groups of five tables, each of them
/// written in 94 bits and 4 kB large.
fn tables(groups: u32) -> Vec<u8> {
    let mut bits = lossless_header(8, 8);
    // No transform, no cache; a picture that says which group a block of 4 x 4 pixels has: all the
    // last one.
    bits.put(0b100, 3);
    bits.put(0, 3);
    bits.put(0, 1);
    for level in [(groups - 1) & 0xff, (groups - 1) >> 8] {
        bits.put(0b101, 3);
        bits.put(level, 8);
    }
    (0..3).for_each(|_| bits.put(1, 4));
    for _ in 0..5 * groups {
        // 14 lengths of words for lengths: 1 to 6 have three bits, 7 to 10 four.
        bits.put(10 << 1, 5);
        [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4]
            .into_iter()
            .for_each(|length| bits.put(length, 3));
        // 11 lengths follow: 1 to 10, and 10 again.
        bits.put(1 | 1 << 1 | 9 << 4, 8);
        for length in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10u32] {
            let (word, count) = if length < 7 {
                (length - 1, 3)
            } else {
                (length + 5, 4)
            };
            (0..count).rev().for_each(|bit| bits.put(word >> bit, 1));
        }
    }
    // 64 pixels of four words of one bit.
    [&[0x2f][..], &bits.bytes(), &[0; 64]].concat()
}

fn animation(width: u32, height: u32, frame: u32) -> Vec<u8> {
    let three = |n: u32| n.to_le_bytes()[..3].to_vec();
    let canvas = [&[2, 0, 0, 0][..], &three(width - 1), &three(height - 1)].concat();
    let picture = riff_chunk(b"VP8L", &lossless(frame, frame));
    let frame = [
        &[0; 6][..],
        &three(frame - 1),
        &three(frame - 1),
        &three(100),
        &[0],
        &picture,
    ]
    .concat();
    riff(&[(b"VP8X", canvas), (b"ANIM", vec![0; 6]), (b"ANMF", frame)])
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    Answered,
    /// With these words in the error.
    Refused(&'static str),
}

/// Files that are small and ask for much.
fn bombs() -> Vec<(&'static str, Vec<u8>, Becomes)> {
    use Becomes::{Answered, Refused};
    const SIDE: Becomes = Refused("longer than the 65535 pixels");
    const THIN: Becomes = Refused("more than 200 times as long as the other");
    const PIXELS: Becomes = Refused("more than the 50000000 pixels");
    const MEMORY: Becomes = Refused("bytes of memory allowed");
    const BREAKS_OFF: Becomes = Refused("its data break off");
    let apng = |frames: u32| {
        let size = [
            64u32.to_be_bytes(),
            64u32.to_be_bytes(),
            [0; 4],
            [0; 4],
            [0, 1, 0, 1],
        ]
        .concat();
        let control = |number: u32| {
            chunk(
                b"fcTL",
                &[&number.to_be_bytes()[..], &size, &[0, 0]].concat(),
            )
        };
        let picture = zeros(64 * 193);
        let mut chunks = vec![
            chunk(b"acTL", &[frames.to_be_bytes(), [0; 4]].concat()),
            control(0),
            chunk(b"IDAT", &picture),
        ];
        for i in 0..frames - 1 {
            chunks.extend([
                control(2 * i + 1),
                chunk(
                    b"fdAT",
                    &[&(2 * i + 2).to_be_bytes()[..], &picture].concat(),
                ),
            ]);
        }
        png_of(64, 64, 8, 2, false, &chunks)
    };
    let packed_text = [&b"x\0\0"[..], &zeros(200 << 20)].concat();
    let international = [&b"x\0\x01\0\0\0"[..], &zeros(200 << 20)].concat();
    let crumbs: Vec<_> = zeros(64 * 193)
        .chunks(1)
        .map(|byte| chunk(b"IDAT", byte))
        .collect();
    let mut endless_scans = progressive(640, 480, HALVED, 150, b"");
    endless_scans.truncate(endless_scans.len() - 2);
    vec![
        (
            "1 x 50,000,000 PNG",
            black(1, 50_000_000, 8, 0, false),
            SIDE,
        ),
        ("1 x 60,000 PNG", black(1, 60_000, 8, 0, false), THIN),
        ("60,000 x 1 PNG", black(60_000, 1, 8, 0, false), THIN),
        ("2 x 401 PNG", black(2, 401, 8, 0, false), THIN),
        ("65,500 x 8 JPEG", baseline(65_500, 8, &[(1, 1)], b""), THIN),
        ("65,535 x 1 GIF", gif(65_535, 1, 1), THIN),
        ("65,535 x 1 BMP", bmp(65_535, 1, 196_608), THIN),
        (
            "16,383 x 1 WebP",
            riff(&[(b"VP8L", lossless(16_383, 1))]),
            THIN,
        ),
        ("10 x 2,000 PNG", black(10, 2_000, 8, 0, false), Answered),
        (
            "327 x 65,400 PNG",
            black(327, 65_400, 8, 2, false),
            Answered,
        ),
        (
            "65,400 x 327 PNG",
            black(65_400, 327, 8, 2, false),
            Answered,
        ),
        ("50 MP PNG", black(8_000, 6_250, 8, 2, false), Answered),
        (
            "25 MP PNG of 16 bits",
            black(5_000, 5_000, 16, 6, false),
            Answered,
        ),
        (
            "25 MP PNG of 16 bits, interlaced",
            png_of(5_000, 5_000, 16, 6, true, &[chunk(b"IDAT", &zeros(100))]),
            MEMORY,
        ),
        (
            "packed color profile",
            small_behind(&chunk(b"iCCP", &packed_text)),
            Answered,
        ),
        (
            "packed texts",
            small_behind(&chunk(b"zTXt", &packed_text).repeat(4)),
            Answered,
        ),
        (
            "packed international texts",
            small_behind(&chunk(b"iTXt", &international).repeat(4)),
            Answered,
        ),
        (
            "huge metadata",
            small_behind(&chunk(b"eXIf", &vec![0; 7 << 20])),
            Answered,
        ),
        (
            "more data than the picture has",
            png_of(64, 64, 8, 2, false, &[chunk(b"IDAT", &zeros(300 << 20))]),
            Answered,
        ),
        (
            "a chunk a byte",
            png_of(64, 64, 8, 2, false, &crumbs),
            Answered,
        ),
        ("5,000 frames of APNG", apng(5_000), Answered),
        ("65,535 x 65,535 GIF", gif(65_535, 65_535, 1), PIXELS),
        (
            "49 MP GIF of a frame of one pixel",
            gif(7_000, 7_000, 1),
            MEMORY,
        ),
        (
            "25 MP GIF of a frame of one pixel",
            gif(5_000, 5_000, 1),
            Answered,
        ),
        ("100,000 frames of GIF", gif(64, 64, 100_000), Answered),
        ("49 MP BMP without data", bmp(7_000, 7_000, 100), BREAKS_OFF),
        ("16,383 x 16,383 WebP", animation(16_383, 16_383, 1), PIXELS),
        (
            "49 MP WebP of a frame of one pixel",
            animation(7_000, 7_000, 1),
            MEMORY,
        ),
        (
            "16 MP WebP of a frame of one pixel",
            animation(4_000, 4_000, 1),
            Answered,
        ),
        (
            "49 MP lossless WebP",
            riff(&[(b"VP8L", lossless(7_000, 7_000))]),
            MEMORY,
        ),
        (
            "16 MP lossless WebP",
            riff(&[(b"VP8L", lossless(4_000, 4_000))]),
            Answered,
        ),
        (
            "327,680 tables in a lossless WebP",
            riff(&[(b"VP8L", tables(65_536))]),
            MEMORY,
        ),
        (
            "a hundred tables in a lossless WebP",
            riff(&[(b"VP8L", tables(20))]),
            Answered,
        ),
        ("50 MP JPEG", baseline(8_000, 6_250, FULL, b""), Answered),
        (
            "35 MP JPEG of four inks, one by one",
            one_by_one(7_000, 5_000, INKS),
            MEMORY,
        ),
        (
            "35 MP progressive JPEG of four inks",
            progressive(7_000, 5_000, INKS, 5, b""),
            MEMORY,
        ),
        (
            "50 MP progressive JPEG",
            progressive(8_160, 6_120, HALVED, 10, b""),
            Answered,
        ),
        (
            "12 MP progressive JPEG of full colors",
            progressive(4_000, 3_000, FULL, 12, b""),
            Answered,
        ),
        (
            "50 MP progressive JPEG of 40 scans",
            progressive(8_160, 6_120, HALVED, 40, b""),
            Refused("in 40 scans"),
        ),
        (
            "progressive JPEG of 150 scans",
            endless_scans,
            Refused("more than 100 scans"),
        ),
        (
            "a million comments",
            baseline(640, 480, HALVED, &b"\xff\xfe\0\x02".repeat(1_000_000)),
            Answered,
        ),
        (
            "13 MB of metadata",
            baseline(
                640,
                480,
                HALVED,
                &[&b"\xff\xe1\xff\xff"[..], &[b'x'; 65_533]]
                    .concat()
                    .repeat(200),
            ),
            Answered,
        ),
    ]
}

/// The most memory that a process has taken so far, in bytes.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn request(file: &[u8]) -> Value {
    and(
        about(&data_url("image/png", file), ""),
        json!({ "max_tokens": 1 }),
    )
}

#[test]
fn bombs_are_answered_or_refused_in_words_and_take_no_more_memory_than_allowed() {
    let process = Process::serve(&[]);
    let allowed = peak(&process) + Config::default().images.max_memory_bytes + BESIDE;
    for (what, file, becomes) in bombs() {
        let reply = http::chat(process.at, &request(&file));
        match becomes {
            Becomes::Answered => assert_eq!(reply.status, 200, "{what}: {}", reply.text()),
            Becomes::Refused(words) => {
                let error = reply.error(400);
                assert!(
                    error["message"].as_str().unwrap().contains(words),
                    "{what}: {error}"
                );
                assert!(
                    error["param"].as_str().unwrap().contains("image_url"),
                    "{what}: {error}"
                );
            }
        }
        // A cut file is something else, and as harmless.
        for share in [2, 3] {
            let status = http::chat(
                process.at,
                &request(&file[..file.len() - file.len() / share]),
            )
            .status;
            assert!(matches!(status, 200 | 400), "{what}, cut: {status}");
        }
        assert!(
            peak(&process) <= allowed,
            "{what}: {} MiB of {}",
            peak(&process) >> 20,
            allowed >> 20
        );
    }
    assert!(allowed <= 600 << 20, "{}", allowed >> 20);
}

#[test]
fn large_images_at_once_wait_for_memory_in_turn() {
    let process = Process::serve(&[("CANDOR_IMAGES__WORKERS", "8")]);
    let allowed = peak(&process) + Config::default().images.max_memory_bytes + BESIDE;
    let at = process.at;
    let asked: Vec<_> = (0..6u8)
        .map(|n| {
            // Comments make them different images.
            let file = progressive(8_160, 6_120, HALVED, 5, &[0xff, 0xfe, 0, 3, n]);
            thread::spawn(move || http::chat(at, &request(&file)).status)
        })
        .collect();
    for reply in asked {
        assert_eq!(reply.join().unwrap(), 200);
    }
    assert!(
        peak(&process) <= allowed,
        "{} MiB of {}",
        peak(&process) >> 20,
        allowed >> 20
    );
}

#[test]
fn the_command_line_refuses_bombs_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("thin.png", black(1, 60_000, 8, 0, false)),
        ("inks.jpg", progressive(7_000, 5_000, INKS, 5, b"")),
        ("fine.png", picture(1, ImageFormat::Png)),
    ];
    for (name, file) in &files {
        std::fs::write(folder.path().join(name), file).unwrap();
    }
    let output = candor(&["caption", "thin.png", "inks.jpg", "fine.png"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains(
            "thin.png: the image is 1x60000: one side is more than 200 times as long as the other"
        ),
        "{err}"
    );
    assert!(
        err.contains(
            "inks.jpg: decoding the image takes more than the 167772160 bytes of memory allowed"
        ),
        "{err}"
    );
    assert!(out.starts_with("fine.png: "), "{out}");
}

#[test]
fn corrections_bring_no_bombs_and_keep_the_image_alone() {
    let served = Served::new();
    let submission = |file: &[u8]| {
        let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(file));
        let body = json!({ "image": image, "prompt": "What is it?", "response": "A dog runs.",
            "label": "good" });
        http::exchange(
            served.at,
            &http::request(
                "POST",
                "/v1/feedback",
                &[http::JSON],
                body.to_string().as_bytes(),
            ),
        )
    };
    let error = submission(&black(1, 60_000, 8, 0, false)).error(400);
    assert_eq!(error["param"], "image");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("more than 200 times"),
        "{error}"
    );
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Bmp,
    ] {
        let file = picture(3, format);
        let reply = submission(&[&file[..], b"what a camera leaves behind the end"].concat());
        assert_eq!(reply.status, 201, "{format:?}: {}", reply.text());
        assert_eq!(
            reply.json()["image"],
            ImageHash::digest(&file).to_string(),
            "{format:?}"
        );
    }
}

#[test]
fn what_stands_behind_an_image_makes_no_other_image() {
    let served = Served::new();
    let file = picture(5, ImageFormat::Jpeg);
    let behind = [&file[..], &picture(6, ImageFormat::Jpeg)].concat();
    let ask = |file: &[u8]| {
        served
            .chat(&and(request(file), json!({ "temperature": 0 })))
            .json()
    };
    let (alone, followed) = (ask(&file), ask(&behind));
    assert_eq!(
        alone["choices"][0]["message"],
        followed["choices"][0]["message"]
    );
    assert_eq!(served.metric("candor_image_cache_hits_total"), 1.0);
}
