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
        Logits, Outputs, Row,
        models::candor_mini::{PIXEL_MEAN, PIXEL_STD},
        nn::{Ragged, RaggedRow, ragged_attention},
        preprocess::{ImageLimits, decode_resized, to_pixels},
        processor::{ImageOptions, message::Message},
        prompt::{ImageFeatures, ImageId},
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
    const BLOCK: usize = 16;
    let (heads, kv_heads, head_dim) = (4, 4, 64);
    let blocks: Vec<u32> = (0..(sequences * CAPACITY / BLOCK) as u32).collect();
    let rows = blocks.chunks(CAPACITY / BLOCK).map(|blocks| RaggedRow {
        blocks,
        start: SEEN,
        len: 1,
        full: &[],
    });
    let ragged = Ragged {
        rows: rows.collect(),
        block: BLOCK,
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
    let layout = bundle
        .processor
        .layout(512, 512, &ImageOptions::default())
        .unwrap();
    let image = decode_resized(PHOTO, &ImageLimits::default(), layout.resized.0).unwrap();
    let pixels = bundle.processor.pixels(&image, &layout).unwrap();
    let features = [ImageFeatures {
        id: ImageId([0; 32]),
        features: bundle.vlm.encode(&pixels).unwrap(),
    }];
    let question = Message::text("user", "");
    let prompt = bundle.processor.prompt(&[question], &[layout]).unwrap();
    let mut cache = bundle.vlm.new_cache(sequences, 128, usize::MAX).unwrap();
    let outputs = Outputs {
        logits: Logits::Last,
        hidden_layers: &[],
    };
    let prefill: Vec<Row<'_>> = (0..sequences)
        .map(|slot| Row {
            spans: &prompt.images,
            images: &features,
            ..Row::text(slot, 0, &prompt.tokens)
        })
        .collect();
    bundle.vlm.forward(&prefill, &mut cache, outputs).unwrap();
    let start = cache.len(0);
    let step: Vec<Row<'_>> = (0..sequences)
        .map(|slot| Row::text(slot, start, &prompt.tokens[start - 1..]))
        .collect();
    bencher.bench_local(|| {
        let output = bundle.vlm.forward(&step, &mut cache, outputs).unwrap();
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
