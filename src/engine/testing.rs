//! Toy vision-language model for the engine's tests. Its logits are a hash of the whole context in
//! its cache, so a wrong slot, position, rollback or neighbor changes the answer. It checks the
//! contracts of [`VisionLanguageModel`] and [`TokenReward`] strictly.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
};

use candle_core::{DType, Device, Result, Tensor, bail};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::fair::Share;
use super::{
    Engine, EngineConfig, EngineError, EngineHandle, Event, EventStream, FinishReason,
    GeneratedToken, GuardParams, Request, Sampling,
};
use crate::{
    guard::{GuardReport, Mode, Span},
    reward::TokenReward,
    vlm::{
        KvCache, Row, Spec, StepOutput, VisionLanguageModel, Want,
        processor::tokenizer::TextTokenizer,
    },
};

pub(crate) const IMAGE_TOKENS: usize = 2;
pub(crate) const CONTEXT: usize = 40;
/// Value of [`Toy::fails_on`] that stands for every token.
pub(crate) const ANY: usize = 1000;

/// Vocabulary, including the two bytes of "é" and bytes that are no text alone.
const PIECES: [&str; 28] = [
    "<eos>",
    "<pad>",
    "<user>",
    "Ġa",
    "Ġthe",
    "Ġdog",
    "Ġfrisbee",
    "Ġcat",
    "Ġin",
    "Ġof",
    "s",
    "ing",
    ".",
    ",",
    "Ġ",
    "-",
    "'",
    "Ã",
    "©",
    "x",
    "3",
    "Ċ",
    "Ġred",
    "Ġb",
    "Ġon",
    "Ġgrass",
    "Ġis",
    "Ġruns",
];

pub(crate) fn tokenizer() -> Arc<TextTokenizer> {
    let vocab: serde_json::Map<_, _> = PIECES
        .iter()
        .enumerate()
        .map(|(i, p)| ((*p).to_owned(), i.into()))
        .collect();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": PIECES[id], "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": [special(0), special(1), special(2)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Arc::new(TextTokenizer::from_bytes(json.to_string().as_bytes(), "<eos>").unwrap())
}

/// Returns the model's output after `context`, the values in its cache: logits, and the reward of
/// the last token.
pub(crate) fn continuation(context: &[f32]) -> (Vec<f32>, f32) {
    let mut hasher = DefaultHasher::new();
    context.iter().for_each(|c| c.to_bits().hash(&mut hasher));
    let mut rng = SmallRng::seed_from_u64(hasher.finish());
    let mut logits: Vec<f32> = PIECES.iter().map(|_| rng.random_range(-3.0..3.0)).collect();
    logits[0] += 0.2;
    (logits, rng.random_range(0.0f32..1.0).sqrt())
}

/// Prompt after which [`Toy::writing_sentences`] starts a sentence: "of".
pub(crate) const SENTENCE_PROMPT: [u32; 1] = [9];

/// Returns the pieces that may follow another in sentences like "a red dog runs on the grass."
fn followers(piece: usize) -> &'static [usize] {
    match piece {
        9 => &[3, 4],
        3 | 4 => &[5, 6, 7, 22],
        22 => &[5, 6, 7, 12],
        5..=7 | 25 => &[26, 27, 8, 24, 12],
        26 => &[22, 8, 24],
        27 => &[8, 24, 12],
        8 | 24 => &[3, 4, 25],
        12 => &[0],
        _ => &[],
    }
}

/// Slot, start and tokens of a row.
pub(crate) type SeenRow = (usize, usize, Vec<u32>);

#[derive(Default)]
pub(crate) struct Toy {
    /// If set, every step waits for a message.
    gate: Option<Mutex<mpsc::Receiver<()>>>,
    /// Rows of every step.
    pub(crate) log: Mutex<Vec<Vec<SeenRow>>>,
    /// Steps with this token in a row fail.
    pub(crate) fails_on: AtomicUsize,
    pub(crate) panics: AtomicBool,
    pub(crate) encodes: AtomicUsize,
    /// `true` to prefer sentences of a small grammar.
    writes_sentences: bool,
}

impl Toy {
    /// Creates a model that mostly writes sentences after [`SENTENCE_PROMPT`].
    pub(crate) fn writing_sentences() -> Arc<Self> {
        Arc::new(Self {
            fails_on: AtomicUsize::new(usize::MAX),
            writes_sentences: true,
            ..Self::default()
        })
    }

    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            fails_on: AtomicUsize::new(usize::MAX),
            ..Self::default()
        })
    }

    /// Creates a model whose every step waits for a message from the sender.
    pub(crate) fn gated() -> (Arc<Self>, mpsc::Sender<()>) {
        let (sender, gate) = mpsc::channel();
        (
            Arc::new(Self {
                gate: Some(Mutex::new(gate)),
                fails_on: AtomicUsize::new(usize::MAX),
                ..Self::default()
            }),
            sender,
        )
    }

    pub(crate) fn steps(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    fn apply_faults(&self, rows: &[Row<'_>]) -> Result<()> {
        if let Some(gate) = &self.gate {
            // Once a test has ended, the remaining steps run freely.
            let _ = gate.lock().unwrap().recv();
        }
        self.log.lock().unwrap().push(
            rows.iter()
                .map(|r| (r.slot, r.start, r.tokens.to_vec()))
                .collect(),
        );
        let bad = self.fails_on.load(SeqCst);
        if rows
            .iter()
            .any(|r| r.tokens.iter().any(|&t| bad == ANY || t as usize == bad))
        {
            bail!("token {bad} broke the model");
        }
        assert!(!self.panics.swap(false, SeqCst), "the model panicked");
        Ok(())
    }
}

impl VisionLanguageModel for Toy {
    fn spec(&self) -> Spec {
        Spec {
            image_tokens: IMAGE_TOKENS,
            image_size: 2,
            vocab_size: PIECES.len(),
            context_len: CONTEXT,
            hidden_features: 2,
        }
    }

    fn encode_images(&self, pixels: &Tensor) -> Result<Tensor> {
        self.encodes.fetch_add(1, SeqCst);
        let (batch, 3, 2, 2) = pixels.dims4()? else {
            bail!("pixels must be (batch, 3, 2, 2)")
        };
        pixels
            .flatten_from(1)?
            .narrow(1, 0, IMAGE_TOKENS)?
            .reshape((batch, IMAGE_TOKENS, 1))
    }

    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(1, slots, capacity, 1, DType::F32, &Device::Cpu)
    }

    fn forward(&self, rows: &[Row<'_>], cache: &mut KvCache, want: Want) -> Result<StepOutput> {
        assert_eq!(want, Want::Last);
        cache.check(rows, IMAGE_TOKENS)?;
        self.apply_faults(rows)?;
        let (mut logits, mut hidden) = (Vec::new(), Vec::new());
        for row in rows {
            let image = row
                .image
                .map_or(Ok(Vec::new()), |i| i.flatten_all()?.to_vec1::<f32>())?;
            let new: Vec<f32> = image
                .iter()
                .copied()
                .chain(row.tokens.iter().map(|&t| t as f32))
                .collect();
            let lines = Tensor::from_slice(&new, (new.len(), 1), &Device::Cpu)?;
            cache.write(0, row.slot, &lines, &lines)?;
            cache.advance(row.slot, new.len(), image.len());
            let context = cache
                .layer(0)
                .0
                .narrow(0, row.slot * cache.capacity(), cache.len(row.slot))?
                .flatten_all()?
                .to_vec1::<f32>()?;
            for i in row.start + image.len()..context.len() {
                hidden.extend([continuation(&context[..=i]).1, context[i]]);
            }
            let mut next = continuation(&context).0;
            let last = context
                .last()
                .filter(|_| self.writes_sentences)
                .map_or(usize::MAX, |&piece| piece as usize);
            followers(last).iter().for_each(|&piece| next[piece] += 9.0);
            logits.extend(next);
        }
        Ok(StepOutput {
            logits: Some(Tensor::from_vec(
                logits,
                (rows.len(), PIECES.len()),
                &Device::Cpu,
            )?),
            hidden: Tensor::from_vec(
                hidden,
                (rows.iter().map(|r| r.tokens.len()).sum::<usize>(), 2),
                &Device::Cpu,
            )?,
        })
    }
}

/// Scorer of [`Toy`] with a cache of its own; asserts that it gets every row of scored sequences,
/// with the right hidden states.
#[derive(Default)]
pub(crate) struct ToyReward {
    /// Tokens scored.
    pub(crate) seen: AtomicUsize,
    pub(crate) fails: AtomicBool,
    /// If not 0, it fails after this many tokens.
    pub(crate) fails_after: AtomicUsize,
    pub(crate) out_of_range: AtomicBool,
}

impl TokenReward for ToyReward {
    fn kind(&self) -> &'static str {
        "toy"
    }

    fn new_cache(&self, slots: usize, capacity: usize) -> Result<Option<KvCache>> {
        KvCache::new(0, slots, capacity, 1, DType::F32, &Device::Cpu).map(Some)
    }

    fn score(
        &self,
        rows: &[Row<'_>],
        hidden: &Tensor,
        log_probabilities: &[f32],
        cache: Option<&mut KvCache>,
    ) -> Result<Vec<f32>> {
        let Some(cache) = cache else {
            bail!("the scorer's cache is missing")
        };
        cache.check(rows, IMAGE_TOKENS)?;
        let max_seen = self.fails_after.load(SeqCst);
        if self.fails.load(SeqCst) || (max_seen > 0 && self.seen.load(SeqCst) >= max_seen) {
            bail!("the scorer is broken");
        }
        for row in rows {
            let image = if row.image.is_some() { IMAGE_TOKENS } else { 0 };
            cache.advance(row.slot, image + row.tokens.len(), image);
        }
        let hidden = hidden.to_vec2::<f32>()?;
        let tokens: Vec<f32> = rows
            .iter()
            .flat_map(|r| r.tokens)
            .map(|&t| t as f32)
            .collect();
        assert_eq!(
            hidden.iter().map(|h| h[1]).collect::<Vec<_>>(),
            tokens,
            "hidden states of other tokens"
        );
        assert_eq!(log_probabilities.len(), tokens.len());
        let mut left = log_probabilities;
        for row in rows {
            let (own, rest) = left.split_at(row.tokens.len());
            left = rest;
            // Prompt tokens have log-probability 0, generated ones a negative one.
            assert!(
                own.iter().all(|&lp| if row.start == 0 {
                    lp == 0.0
                } else {
                    lp.is_finite() && lp < 0.0
                }),
                "{own:?}"
            );
        }
        self.seen.fetch_add(tokens.len(), SeqCst);
        let shift = if self.out_of_range.load(SeqCst) {
            2.0
        } else {
            0.0
        };
        Ok(hidden.iter().map(|h| h[0] + shift).collect())
    }
}

/// Returns a greedy request in mode `flag` about a constant image.
pub(crate) fn request(image: f32, prompt: &[u32]) -> Request {
    Request {
        share: Share::default(),
        rank: 0,
        id: "test".into(),
        image: Tensor::full(image, (IMAGE_TOKENS, 1), &Device::Cpu).unwrap(),
        finisher: None,
        prompt: prompt.to_vec(),
        max_tokens: 12,
        stop: Vec::new(),
        sampling: Sampling::default(),
        top_logprobs: Some(2),
        guard: GuardParams::new(Mode::Flag, 0.4),
        unanswerable: None,
        gate: None,
    }
}

pub(crate) fn start(toy: &Arc<Toy>, reward: &Arc<ToyReward>, config: EngineConfig) -> EngineHandle {
    Engine::start(toy.clone(), Some(reward.clone()), tokenizer(), config).unwrap()
}

pub(crate) fn engine(config: EngineConfig) -> EngineHandle {
    start(&Toy::new(), &Arc::default(), config)
}

/// All events of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReceivedEvents {
    pub(crate) deltas: Vec<String>,
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) spans: Vec<Span>,
    pub(crate) flagged_tokens: usize,
    pub(crate) end:
        std::result::Result<(FinishReason, usize, usize, Option<GuardReport>), EngineError>,
}

impl ReceivedEvents {
    pub(crate) fn text(&self) -> String {
        self.deltas.concat()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.token.id).collect()
    }

    pub(crate) fn rewards(&self) -> Vec<f32> {
        self.tokens.iter().map_while(|t| t.reward).collect()
    }

    pub(crate) fn report(&self) -> GuardReport {
        self.end.clone().unwrap().3.unwrap()
    }
}

pub(crate) fn collect_events(mut stream: EventStream) -> ReceivedEvents {
    let (mut deltas, mut tokens, mut spans, mut flagged_tokens) =
        (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut end = None;
    while let Some(event) = stream.blocking_next() {
        assert!(end.is_none(), "an event after the last");
        match event {
            Event::Delta {
                text,
                tokens: t,
                spans: s,
                flagged_tokens: flagged,
            } => {
                flagged_tokens += flagged;
                deltas.push(text);
                tokens.extend(t);
                spans.extend(s);
            }
            Event::Finished {
                reason,
                prompt_tokens,
                completion_tokens,
                guard,
            } => end = Some(Ok((reason, prompt_tokens, completion_tokens, guard))),
            Event::Failed(error) => end = Some(Err(error)),
        }
    }
    ReceivedEvents {
        deltas,
        tokens,
        spans,
        flagged_tokens,
        end: end.expect("the stream ends with an end"),
    }
}
