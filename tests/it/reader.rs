//! Candor-mini's scorer as the judge of another policy's texts, cut into other tokens.

use std::{ops::Range, sync::Arc};

use candle_core::Device;
use candor::{
    bundle::Bundle,
    reward::{
        ReaderPrompt, RewardKind, RewardState, ScoredRow, TokenReading, TokenReward,
        reader::TextReader,
        scorer::{Scorer, TextWithImage},
    },
    vlm::{
        Row,
        preprocess::{ImageLimits, decode},
        processor::{ImageOptions, message::Message},
        prompt::{ImageFeatures, ImageId},
    },
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

const PHOTO: &[u8] = include_bytes!("../fixtures/photos/cat.jpg");
/// Positions of the other policy's prompt.
const PROMPT: usize = 7;
const TEXTS: [&str; 4] = [
    "A cat sits on a couch.",
    "A man rides a wave on a surfboard, and two dogs watch him from the beach. The sky is blue.",
    "A CAT!\nTwo  children — über-happy — play with a frisbee\u{301}.",
    "no",
];

struct Judge {
    bundle: Bundle,
    reader: TextReader,
    prompt: Arc<ReaderPrompt>,
}

impl Judge {
    fn load(kind: RewardKind) -> Self {
        let bundle = Bundle::load("candor-mini", Some(kind), &Device::Cpu).unwrap();
        let picture = decode(PHOTO, &ImageLimits::default()).unwrap();
        let (width, height) = picture.dimensions();
        let layout = bundle
            .processor
            .layout(width, height, &ImageOptions::default())
            .unwrap();
        let pixels = bundle.processor.pixels(&picture, &layout).unwrap();
        let image = ImageFeatures {
            id: ImageId([1; 32]),
            features: bundle.vlm.encode(&pixels).unwrap(),
        };
        let messages = [Message::text("user", "Describe the photograph.")];
        let prompt = bundle.processor.prompt(&messages, &[layout]).unwrap();
        let (reward, _) = bundle.reader.clone().unwrap();
        let vocabulary = bundle.vocabulary();
        Self {
            reader: TextReader::new(Arc::clone(&bundle.vlm), reward, vocabulary),
            prompt: Arc::new(ReaderPrompt { prompt, image }),
            bundle,
        }
    }

    /// Readings of the whole text in one pass: bytes, reward and log-probability of each of the
    /// scorer's own tokens.
    fn whole(&self, text: &str) -> Vec<(Range<usize>, f32, f32)> {
        let response = self.bundle.response(text).unwrap();
        let (reward, _) = self.bundle.reader.clone().unwrap();
        let scorer = Scorer::new(Arc::clone(&self.bundle.vlm), reward, 1, 160);
        let prompt = &self.prompt.prompt;
        let tokens = [&prompt.tokens[..], &response].concat();
        let (scored, _) = scorer
            .score(&[TextWithImage {
                images: std::slice::from_ref(&self.prompt.image),
                spans: &prompt.images,
                tokens: &tokens,
                prompt: prompt.tokens.len(),
            }])
            .unwrap();
        let mut end = 0;
        let readings = scored[0].rewards.iter().zip(&scored[0].log_probabilities);
        response
            .iter()
            .zip(readings)
            .map(|(&id, (&reward, &log_probability))| {
                let start = end;
                end += self.bundle.tokenizer().bytes(id).len();
                (start..end, reward, log_probability)
            })
            .collect()
    }
}

/// Cuts a text into tokens of one to five bytes.
fn pieces(text: &str, rng: &mut SmallRng) -> Vec<Vec<u8>> {
    let mut rest = text.as_bytes();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rng.random_range(1..=5).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces
}

/// Feeds one token of the other policy; `ends` if it is the last.
fn feed(
    state: &mut dyn RewardState,
    slot: usize,
    at: usize,
    piece: &[u8],
    ends: bool,
) -> Vec<TokenReading> {
    let row = ScoredRow {
        row: Row::text(slot, PROMPT + at, &[1]),
        unjudged: 0,
        log_probabilities: &[-1.0],
        bytes: &[piece],
        ends,
        at_once: true,
        reader: None,
    };
    state.score(&[row], None).unwrap().remove(0)
}

/// Feeds the other policy's prompt.
fn begin(state: &mut dyn RewardState, slot: usize, prompt: &Arc<ReaderPrompt>) {
    let row = ScoredRow {
        row: Row {
            from: PROMPT - 1,
            ..Row::text(slot, 0, &[1; PROMPT])
        },
        unjudged: 1,
        log_probabilities: &[0.0],
        bytes: &[],
        ends: false,
        at_once: true,
        reader: Some(prompt),
    };
    assert!(state.score(&[row], None).unwrap()[0].is_empty());
}

/// Asserts that the readings of `pieces` follow from those of the scorer's own tokens.
fn check(whole: &[(Range<usize>, f32, f32)], pieces: &[Vec<u8>], readings: &[TokenReading]) {
    assert_eq!(readings.len(), pieces.len());
    let mut end = 0;
    for (piece, reading) in pieces.iter().zip(readings) {
        let bytes = end..end + piece.len();
        end = bytes.end;
        let overlapping = whole
            .iter()
            .filter(|(own, ..)| own.start < bytes.end && bytes.start < own.end);
        let reward = overlapping.map(|own| own.1).reduce(f32::min).unwrap();
        assert!(
            (reading.reward - reward).abs() < 1e-4,
            "{:?}: {} instead of {reward}",
            String::from_utf8_lossy(piece),
            reading.reward
        );
    }
    let sum = |values: &mut dyn Iterator<Item = f32>| values.sum::<f32>();
    let read = sum(&mut readings.iter().map(|r| r.log_probability.unwrap()));
    let expected = sum(&mut whole.iter().map(|own| own.2));
    assert!(
        (read - expected).abs() < 1e-2,
        "{read} instead of {expected}"
    );
}

#[test]
fn texts_in_other_tokens_are_read_as_a_whole_text_is() {
    for kind in RewardKind::ALL {
        let judge = Judge::load(kind);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut state = judge.reader.new_state(3, 200, 600).unwrap();
        for (slot, text) in TEXTS.iter().enumerate() {
            let slot = slot % 3;
            state.truncate(slot, 0);
            begin(state.as_mut(), slot, &judge.prompt);
            let pieces = pieces(text, &mut rng);
            let mut readings = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                let ends = at + 1 == pieces.len();
                let new = feed(state.as_mut(), slot, at, piece, ends);
                // No token is read before it was written.
                assert!(readings.len() + new.len() <= at + 1);
                readings.extend(new);
            }
            check(&judge.whole(text), &pieces, &readings);
        }
    }
}

#[test]
fn a_text_rolled_back_and_continued_is_read_as_if_it_had_been_written_so() {
    for kind in RewardKind::ALL {
        let judge = Judge::load(kind);
        let mut rng = SmallRng::seed_from_u64(2);
        let mut state = judge.reader.new_state(2, 200, 400).unwrap();
        for round in 0..12 {
            let (before, after) = (TEXTS[round % 3], TEXTS[(round + 1) % 3]);
            begin(state.as_mut(), 0, &judge.prompt);
            let first = pieces(before, &mut rng);
            let mut readings = Vec::new();
            for (at, piece) in first.iter().enumerate() {
                readings.extend(feed(state.as_mut(), 0, at, piece, false));
            }
            // As the engine does: every token before a rollback has been read.
            let keep = rng.random_range(0..=readings.len());
            state.fork(0, 1, PROMPT + keep);
            let mut kept = first[..keep].to_vec();
            let mut again = readings[..keep].to_vec();
            // Cuts within a character do not happen: a word is rewritten from its beginning.
            let whole = kept.concat();
            if std::str::from_utf8(&whole).is_err() {
                state.truncate(0, 0);
                state.truncate(1, 0);
                continue;
            }
            let rest = pieces(&format!(" {after}"), &mut rng);
            for (at, piece) in rest.iter().enumerate() {
                let ends = at + 1 == rest.len();
                again.extend(feed(state.as_mut(), 1, keep + at, piece, ends));
            }
            kept.extend(rest);
            let text = String::from_utf8(kept.concat()).unwrap();
            let expected = judge.whole(&text);
            // Readings given out before the rollback are final; those after it are of the new text.
            let from: usize = kept[..keep].iter().map(Vec::len).sum();
            let mut end = 0;
            for (piece, reading) in kept.iter().zip(&again) {
                let bytes = end..end + piece.len();
                end = bytes.end;
                if bytes.start < from {
                    continue;
                }
                let reward = expected
                    .iter()
                    .filter(|(own, ..)| own.start < bytes.end && bytes.start < own.end)
                    .map(|own| own.1)
                    .reduce(f32::min)
                    .unwrap();
                assert!(
                    (reading.reward - reward).abs() < 1e-4,
                    "{text:?} at {bytes:?}"
                );
            }
            assert_eq!(again.len(), kept.len());
            state.truncate(0, 0);
            state.truncate(1, 0);
        }
    }
}
