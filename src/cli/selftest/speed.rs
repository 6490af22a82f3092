//! Speed of decoding on a device, beside that of its memory.

use std::{hint::black_box, sync::Arc, time::Instant};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{
    checks::{QUESTIONS, SIZE, message, picture},
    report::DecodeSpeed,
    subject::{EncodedPrompt, Subject, argmax, numbers, text},
};
use crate::{
    bundle::Bundle,
    reward::{ReaderPrompt, RewardState, ScoredRow},
    vlm::{
        KvCache, Logits, Outputs, Row, kv_cache::BLOCK, nn::log_sum_exp, processor::ImageOptions,
    },
};

/// Tokens that a sequence decodes before it is rolled back to its prompt.
const ANSWER: usize = 64;

/// Bytes whose copying on a device is measured.
const COPIED: usize = 1 << 30;

/// Bytes whose reading on the CPU is measured: more than its caches hold.
const READ: usize = 1 << 29;

/// Repetitions of which the fastest counts.
const REPEATS: usize = 5;

/// Returns the bytes that the device's memory gives in a second: read by all cores of a CPU, read
/// and written by a copy within another device.
pub(super) fn memory_bandwidth(device: &Device) -> Result<f64, String> {
    let mut fastest = f64::INFINITY;
    let bytes = if device.is_cpu() {
        // Zeros would be one page of the system's.
        let values = vec![1f32; READ / size_of::<f32>()];
        for _ in 0..REPEATS {
            let begun = Instant::now();
            let sums = values.par_chunks(1 << 18).map(sum);
            black_box(sums.sum::<f32>());
            fastest = fastest.min(begun.elapsed().as_secs_f64());
        }
        READ
    } else {
        let mut copy = || {
            let source = Tensor::zeros(COPIED / size_of::<f32>(), DType::F32, device)?;
            for _ in 0..REPEATS {
                device.synchronize()?;
                let begun = Instant::now();
                black_box(source.copy()?);
                device.synchronize()?;
                fastest = fastest.min(begun.elapsed().as_secs_f64());
            }
            candle_core::Result::Ok(())
        };
        copy().map_err(text)?;
        2 * COPIED
    };
    Ok(bytes as f64 / fastest)
}

/// Adds numbers in partial sums, so that the loop vectorizes.
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0f32; 32];
    for chunk in values.as_chunks::<32>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum()
}

/// Sequences that are decoded together.
struct DecodedBatch<'a> {
    bundle: &'a Bundle,
    prompt: EncodedPrompt,
    /// Prompt of a scorer with a model of its own.
    reader: Option<Arc<ReaderPrompt>>,
    cache: KvCache,
    scorer: Option<Box<dyn RewardState>>,
    /// Token that each sequence is fed next, and its log-probability.
    next: Vec<(u32, f32)>,
}

/// Measures decoding for some seconds, with `batch` sequences in every step, the likeliest token of
/// each on the host and, if wanted, its score.
pub(super) fn measure(
    bundle: &Bundle,
    scored: bool,
    batch: usize,
    seconds: u64,
) -> Result<DecodeSpeed, String> {
    let mut sequences = DecodedBatch::new(bundle, scored, batch)?;
    sequences.begin()?;
    let len = sequences.prompt.len();
    // The first steps load kernels and fill caches.
    let mut position = len;
    let mut begun = Instant::now();
    let (mut steps, warm_up) = (0u64, 3);
    while steps <= warm_up || begun.elapsed().as_secs() < seconds {
        if position == sequences.cache.capacity() {
            sequences.roll_back();
            position = len;
        }
        sequences.step(position)?;
        position += 1;
        steps += 1;
        if steps == warm_up {
            begun = Instant::now();
        }
    }
    let per_second = (steps - warm_up) as f64 / begun.elapsed().as_secs_f64();
    let scorer = bundle.reward.as_ref().filter(|_| scored);
    Ok(DecodeSpeed {
        scorer: scorer.map_or("off", |scorer| scorer.kind()),
        batch,
        tokens_per_second: per_second * batch as f64,
        weight_bytes_per_second: per_second * bundle.vlm.spec().step_bytes as f64,
    })
}

impl<'a> DecodedBatch<'a> {
    fn new(bundle: &'a Bundle, scored: bool, batch: usize) -> Result<Self, String> {
        let prompt = prompt(bundle)?;
        let reward = bundle.reward.as_ref().filter(|_| scored);
        let reads = reward.is_some_and(|reward| reward.reads_text());
        let reader = match reads {
            true => {
                let EncodedPrompt { prompt, images } = self::prompt(bundle.judge())?;
                let image = images
                    .into_iter()
                    .next()
                    .ok_or("the scorer takes no image")?;
                Some(Arc::new(ReaderPrompt { prompt, image }))
            }
            false => None,
        };
        let capacity = (prompt.len() + ANSWER).min(bundle.vlm.spec().context_len);
        if capacity <= prompt.len() {
            return Err(format!(
                "the prompt has {} tokens, the context {capacity}",
                prompt.len()
            ));
        }
        let positions = batch * capacity.next_multiple_of(BLOCK);
        let state = reward.map(|reward| reward.new_state(batch, capacity, positions));
        Ok(Self {
            bundle,
            prompt,
            reader,
            cache: bundle
                .vlm
                .new_cache(batch, capacity, positions)
                .map_err(text)?,
            scorer: state.transpose().map_err(text)?,
            next: vec![(0, 0.0); batch],
        })
    }

    /// Reads the prompt in every sequence.
    fn begin(&mut self) -> Result<(), String> {
        let prompt = std::mem::take(&mut self.prompt);
        for slot in 0..self.next.len() {
            let row = prompt.row(slot);
            self.run(&[row], row.wanted().len(), slot)?;
        }
        self.prompt = prompt;
        Ok(())
    }

    /// Decodes a token of every sequence.
    fn step(&mut self, position: usize) -> Result<(), String> {
        let tokens: Vec<[u32; 1]> = self.next.iter().map(|&(token, _)| [token]).collect();
        let rows = tokens.iter().enumerate();
        let rows: Vec<Row<'_>> = rows
            .map(|(slot, token)| Row::text(slot, position, token))
            .collect();
        self.run(&rows, 0, 0)
    }

    /// Runs rows of the slots from `first` on, whose first `unjudged` tokens are a prompt's.
    fn run(&mut self, rows: &[Row<'_>], unjudged: usize, first: usize) -> Result<(), String> {
        let reward = self
            .bundle
            .reward
            .as_ref()
            .filter(|_| self.scorer.is_some());
        let outputs = Outputs {
            logits: Logits::Last,
            hidden_layers: reward.map_or(&[], |reward| reward.taps()),
        };
        let vlm = &self.bundle.vlm;
        let output = vlm.forward(rows, &mut self.cache, outputs).map_err(text)?;
        let logits = numbers(&output.logits.ok_or("the model returned no logits")?)?;
        if let Some(scorer) = &mut self.scorer {
            let tokenizer = self.bundle.tokenizer();
            let known: Vec<(Vec<f32>, [&[u8]; 1])> = rows
                .iter()
                .zip(&self.next[first..])
                .map(|(row, &(token, log_probability))| {
                    let mut known = vec![0.0; row.wanted().len()];
                    known[unjudged..].fill(log_probability);
                    (known, [tokenizer.bytes(token)])
                })
                .collect();
            let rows = rows.iter().zip(&known);
            let rows = rows.map(|(row, (log_probabilities, bytes))| ScoredRow {
                row: *row,
                unjudged,
                log_probabilities,
                bytes: if unjudged == 0 { bytes } else { &[] },
                ends: false,
                at_once: false,
                reader: self.reader.as_ref(),
            });
            let rows: Vec<ScoredRow<'_>> = rows.collect();
            black_box(scorer.score(&rows, output.hidden.as_ref()).map_err(text)?);
        }
        let lines = logits.chunks(vlm.spec().vocab_size.max(1));
        for (next, line) in self.next[first..].iter_mut().zip(lines) {
            let token = argmax(line);
            *next = (token, line[token as usize] - log_sum_exp(line));
        }
        Ok(())
    }

    /// Rolls every sequence back to its prompt.
    fn roll_back(&mut self) {
        let len = self.prompt.len();
        for slot in 0..self.next.len() {
            self.cache.truncate(slot, len);
            if let Some(scorer) = &mut self.scorer {
                scorer.truncate(slot, len);
            }
        }
    }
}

/// Returns a question that the model takes, about a picture if it sees.
fn prompt(bundle: &Bundle) -> Result<EncodedPrompt, String> {
    let subject = Subject::of(bundle, 0.0);
    let picture = subject.sees().then(|| picture(SIZE));
    let picture = picture.map(|picture| subject.encode(0, &picture, &ImageOptions::default()));
    let pictures: Vec<_> = picture.transpose()?.into_iter().collect();
    subject.prompt(&[message(QUESTIONS[0], subject.sees())], &pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_sums_add_all_numbers() {
        let values: Vec<f32> = (0..96).map(|i| i as f32).collect();
        assert_eq!(sum(&values), 4560.0);
    }

    #[test]
    fn decoding_is_measured_with_every_scorer() {
        for kind in super::super::scorers::kinds("candor-mini").unwrap() {
            let bundle = super::super::scorers::open("candor-mini", kind, &Device::Cpu).unwrap();
            let speed = measure(&bundle, true, 2, 0).unwrap();
            assert_eq!((speed.scorer, speed.batch), (kind.name(), 2));
            assert!(speed.tokens_per_second > 0.0 && speed.weight_bytes_per_second > 0.0);
        }
    }
}
