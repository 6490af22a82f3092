//! Time of the parts that a request spends its time in, with the embedded model on the CPU.
//!
//! ```bash
//! cargo bench                       # all of them
//! cargo bench -- attention          # those whose name contains this
//! ```

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use candor::{
    bundle::Bundle,
    eval::text::score,
    guard::{
        Action,
        spans::spans,
        words::{with_threshold, words},
    },
    vlm::{
        Row, Want,
        models::candor_mini::{PIXEL_MEAN, PIXEL_STD},
        nn::{Ragged, RaggedRow, ragged_attention},
        preprocess::{ImageLimits, decode_resized, to_pixels},
        processor::template::Message,
    },
};
use divan::{Bencher, black_box};

/// A photograph of 512 x 512 pixels.
const PHOTO: &[u8] = include_bytes!("../tests/fixtures/photos/astronaut.jpg");
const CAPTION: &str = "A man in a red jacket is riding a brown horse along a sandy beach.";

fn main() {
    divan::main();
}

/// A JPEG file to the pixels that the vision tower takes.
#[divan::bench]
fn preprocessing(bencher: Bencher<'_, '_>) {
    const SIZE: u32 = 224;
    bencher.bench(|| {
        let image = decode_resized(black_box(PHOTO), &ImageLimits::default(), SIZE).unwrap();
        to_pixels(&image, SIZE as usize, PIXEL_MEAN, PIXEL_STD, &Device::Cpu).unwrap()
    });
}

/// One layer's attention of one new token a sequence over 96 cached positions.
#[divan::bench(args = [1, 16])]
fn attention(bencher: Bencher<'_, '_>, sequences: usize) {
    const CAPACITY: usize = 128;
    const SEEN: usize = 96;
    const IMAGE: usize = 49;
    let (heads, kv_heads, head_dim) = (4, 4, 64);
    let rows = (0..sequences).map(|slot| RaggedRow {
        line: slot * CAPACITY,
        start: SEEN,
        len: 1,
        prefix: IMAGE,
    });
    let ragged = Ragged {
        rows: rows.collect(),
        heads,
        kv_heads,
        head_dim,
    };
    let random = |lines, width| Tensor::randn(0f32, 1.0, (lines, width), &Device::Cpu).unwrap();
    let q = random(sequences, heads * head_dim);
    let k = random(sequences * CAPACITY, kv_heads * head_dim);
    let v = random(sequences * CAPACITY, kv_heads * head_dim);
    bencher.bench(|| ragged_attention(&q, &k, &v, &ragged).unwrap());
}

/// One step of the embedded policy: a token a sequence, each behind a photograph and a prompt.
#[divan::bench(args = [1, 16])]
fn decode_step(bencher: Bencher<'_, '_>, sequences: usize) {
    let bundle = Bundle::load("candor-mini", None, &Device::Cpu).unwrap();
    let image = decode_resized(PHOTO, &ImageLimits::default(), bundle.image_size()).unwrap();
    let pixels = bundle.pixels(&image).unwrap().unsqueeze(0).unwrap();
    let features = bundle
        .vlm
        .encode_images(&pixels)
        .unwrap()
        .squeeze(0)
        .unwrap();
    let question = Message {
        role: "user".to_owned(),
        content: String::new(),
    };
    let prompt = bundle.prompt(&[question]).unwrap();
    let mut cache = bundle.vlm.new_cache(sequences, 128).unwrap();
    let prefill: Vec<Row<'_>> = (0..sequences)
        .map(|slot| Row {
            slot,
            start: 0,
            image: Some(&features),
            tokens: &prompt,
        })
        .collect();
    bundle
        .vlm
        .forward(&prefill, &mut cache, Want::Last)
        .unwrap();
    let start = cache.len(0);
    let step: Vec<Row<'_>> = (0..sequences)
        .map(|slot| Row {
            slot,
            start,
            image: None,
            tokens: &prompt[..1],
        })
        .collect();
    bencher.bench_local(|| {
        let output = bundle.vlm.forward(&step, &mut cache, Want::Last).unwrap();
        (0..sequences).for_each(|slot| cache.truncate(slot, start));
        output
    });
}

/// The spans of an answer of 200 sentences, every third word of which has a low reward.
#[divan::bench]
fn span_joiner(bencher: Bencher<'_, '_>) {
    let text = format!("{CAPTION} ").repeat(200);
    let tokens: Vec<&[u8]> = text.split_inclusive(' ').map(str::as_bytes).collect();
    let rewards: Vec<f32> = (0..tokens.len())
        .map(|i| if i % 3 == 0 { 0.2 } else { 0.9 })
        .collect();
    let (text, words) = words(tokens, &rewards);
    let words = with_threshold(words, 0.5);
    bencher.bench(|| spans(&text, &words, Action::Flagged));
}

/// BLEU, ROUGE-L and CIDEr-D of 100 captions with five references each.
#[divan::bench]
fn cider(bencher: Bencher<'_, '_>) {
    let words: Vec<&str> = CAPTION.split(' ').collect();
    let rotated = |by: usize| {
        let (front, back) = words.split_at(by % words.len());
        [back, front].concat().join(" ")
    };
    let captions: Vec<String> = (0..100).map(rotated).collect();
    let references: Vec<Vec<String>> = (0..100)
        .map(|image| (1..=5).map(|n| rotated(image + 2 * n)).collect())
        .collect();
    let pairs: Vec<(&str, &[String])> = captions
        .iter()
        .zip(&references)
        .map(|(caption, references)| (caption.as_str(), references.as_slice()))
        .collect();
    bencher.bench(|| score(&pairs));
}
