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

use candle_core::{Device, Result, Tensor, bail};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::fair::Share;
use super::{
    Engine, EngineConfig, EngineError, EngineHandle, Event, EventStream, FinishReason,
    GeneratedToken, GuardParams, Request, Sampling,
};
use crate::{
    guard::{GuardReport, Mode, Span},
    reward::{RewardState, ScoredRow, TokenReading, TokenReward},
    vlm::{
        Embedded, KvCache, Logits, Outputs, Row, Spec, StepOutput, VisionLanguageModel,
        kv_cache::{KvShape, RowSpan},
        models::candor_mini::image_first,
        processor::tokenizer::TextTokenizer,
        prompt::{ImageFeatures, ImageId},
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

/// Slot, start and tokens of a row; without its image, 0 and the rest.
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
        let seen = rows.iter().map(|row| {
            let image = row.spans.last().map_or(0, |span| span.range.end);
            let begins = !row.spans.is_empty() && row.start <= image;
            let text = row.tokens.get(image.saturating_sub(row.start)..);
            let start = if begins { 0 } else { row.start };
            (row.slot, start, text.unwrap_or_default().to_vec())
        });
        let seen: Vec<SeenRow> = seen.collect();
        let bad = self.fails_on.load(SeqCst);
        let breaks = seen
            .iter()
            .any(|row| row.2.iter().any(|&t| bad == ANY || t as usize == bad));
        self.log.lock().unwrap().push(seen);
        if breaks {
            bail!("token {bad} broke the model");
        }
        assert!(!self.panics.swap(false, SeqCst), "the model panicked");
        Ok(())
    }
}

static SPEC: Spec = Spec {
    architecture: "toy",
    vocab_size: PIECES.len(),
    context_len: CONTEXT,
    layers: 1,
    width: 2,
    step_bytes: 0,
    kv: KvShape {
        layers: 1,
        kv_heads: 1,
        head_dim: 1,
    },
    whole_images: false,
};

impl VisionLanguageModel for Toy {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.encodes.fetch_add(1, SeqCst);
        let (1, 3, 2, 2) = pixels.dims4()? else {
            bail!("pixels must be (1, 3, 2, 2)")
        };
        pixels
            .flatten_all()?
            .narrow(0, 0, IMAGE_TOKENS)?
            .reshape((IMAGE_TOKENS, 1))
    }

    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache> {
        KvCache::new(SPEC.kv, slots, capacity, positions, &Device::Cpu)
    }

    fn embed(&self, rows: &[Row<'_>]) -> Result<Embedded> {
        self.apply_faults(rows)?;
        let mut x = Vec::new();
        for row in rows {
            let mut own: Vec<f32> = row.tokens.iter().map(|&t| t as f32).collect();
            for span in row.spans {
                let features = row.images[span.image].features.flatten_all()?;
                let features = features.to_vec1::<f32>()?;
                for (position, feature) in span.range.clone().zip(features) {
                    let at = position.checked_sub(row.start);
                    if let Some(x) = at.and_then(|at| own.get_mut(at)) {
                        *x = feature;
                    }
                }
            }
            x.extend(own);
        }
        let extent = |row: &Row<'_>| RowSpan {
            slot: row.slot,
            start: row.start,
            len: row.tokens.len(),
            full: Vec::new(),
        };
        Ok(Embedded {
            positions: Vec::new(),
            rows: rows.iter().map(extent).collect(),
            from: rows.iter().map(|row| row.from).collect(),
            x: Tensor::from_slice(&x, (x.len(), 1), &Device::Cpu)?,
        })
    }

    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        assert_eq!(outputs.logits, Logits::Last);
        cache.attend(0, &input.x, &input.x, &input.x, &input.rows)?;
        let (mut logits, mut hidden) = (Vec::new(), Vec::new());
        for (row, from) in input.rows.iter().zip(&input.from) {
            if *from >= row.len {
                continue;
            }
            let context = cache.keys(0, row.slot, row.start + row.len)?;
            for i in row.start + from..context.len() {
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
        let table = |values: Vec<f32>, width: usize| {
            let lines = values.len() / width;
            let tensor =
                (lines > 0).then(|| Tensor::from_vec(values, (lines, width), &Device::Cpu));
            tensor.transpose()
        };
        Ok(StepOutput {
            logits: table(logits, PIECES.len())?,
            hidden: table(hidden, 2)?,
        })
    }
}

/// Scorer of [`Toy`] with a state of its own; asserts that it gets every row of scored sequences,
/// with the right hidden states.
#[derive(Default)]
pub(crate) struct ToyReward {
    /// Tokens judged.
    pub(crate) seen: Arc<AtomicUsize>,
    pub(crate) fails: Arc<AtomicBool>,
    /// If not 0, it fails after this many tokens.
    pub(crate) fails_after: Arc<AtomicUsize>,
    pub(crate) out_of_range: Arc<AtomicBool>,
    /// Readings are held back until this many follow, or the text ends.
    pub(crate) lag: usize,
}

impl TokenReward for ToyReward {
    fn kind(&self) -> &'static str {
        "toy"
    }

    fn taps(&self) -> &[usize] {
        &[0]
    }

    fn new_state(&self, slots: usize, _: usize, _: usize) -> Result<Box<dyn RewardState>> {
        Ok(Box::new(ToyState {
            seen: Arc::clone(&self.seen),
            fails: Arc::clone(&self.fails),
            fails_after: Arc::clone(&self.fails_after),
            out_of_range: Arc::clone(&self.out_of_range),
            lag: self.lag,
            slots: vec![ToySlot::default(); slots],
        }))
    }
}

struct ToyState {
    seen: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    fails_after: Arc<AtomicUsize>,
    out_of_range: Arc<AtomicBool>,
    lag: usize,
    slots: Vec<ToySlot>,
}

#[derive(Clone, Default)]
struct ToySlot {
    len: usize,
    prompt: usize,
    /// Rewards of all judged tokens, of which the first `given` were returned.
    rewards: Vec<f32>,
    given: usize,
}

impl ToySlot {
    fn truncated(&self, len: usize) -> Self {
        let judged = len.saturating_sub(self.prompt).min(self.rewards.len());
        Self {
            len: self.len.min(len),
            prompt: self.prompt,
            rewards: self.rewards[..judged].to_vec(),
            given: self.given.min(judged),
        }
    }
}

impl RewardState for ToyState {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        let max_seen = self.fails_after.load(SeqCst);
        if self.fails.load(SeqCst) || (max_seen > 0 && self.seen.load(SeqCst) >= max_seen) {
            bail!("the scorer is broken");
        }
        let hidden = hidden.map_or(Ok(Vec::new()), Tensor::to_vec2::<f32>)?;
        let with_tokens = rows.iter().filter(|scored| !scored.row.tokens.is_empty());
        assert_eq!(hidden.len(), with_tokens.count(), "one wanted token a row");
        let mut hidden = hidden.iter();
        let shift = if self.out_of_range.load(SeqCst) {
            2.0
        } else {
            0.0
        };
        let mut readings = Vec::new();
        for scored in rows {
            let row = scored.row;
            let slot = &mut self.slots[row.slot];
            assert_eq!(row.start, slot.len, "a row was left out");
            slot.len += row.tokens.len();
            assert_eq!(scored.bytes.len(), scored.judged().len());
            assert!(!row.tokens.is_empty() || scored.ends);
            if let Some(&wanted) = row.wanted().first() {
                let hidden = hidden.next().unwrap();
                assert_eq!(hidden[1], wanted as f32, "hidden states of another token");
                slot.rewards
                    .extend(scored.judged().iter().map(|_| hidden[0] + shift));
            }
            // Prompt tokens have log-probability 0, generated ones a negative one.
            for &lp in scored.log_probabilities {
                assert!(
                    if row.start == 0 {
                        lp == 0.0
                    } else {
                        lp.is_finite() && lp < 0.0
                    },
                    "{lp}"
                );
            }
            if row.start == 0 {
                slot.prompt = row.tokens.len();
            }
            self.seen.fetch_add(scored.judged().len(), SeqCst);
            let held_back = if scored.ends { 0 } else { self.lag };
            let until = slot.rewards.len().saturating_sub(held_back).max(slot.given);
            let reading = |&reward: &f32| TokenReading {
                reward,
                log_probability: None,
            };
            readings.push(
                slot.rewards[slot.given..until]
                    .iter()
                    .map(reading)
                    .collect(),
            );
            slot.given = until;
        }
        Ok(readings)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.slots[slot] = if len == 0 {
            ToySlot::default()
        } else {
            self.slots[slot].truncated(len)
        };
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        self.slots[to] = self.slots[from].truncated(len);
    }
}

/// Identity of a constant image.
fn image_id(image: f32) -> ImageId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&image.to_le_bytes());
    ImageId(id)
}

/// Returns a greedy request in mode `flag` about a constant image.
pub(crate) fn request(image: f32, prompt: &[u32]) -> Request {
    Request {
        share: Share::default(),
        rank: 0,
        id: "test".into(),
        images: vec![ImageFeatures {
            id: image_id(image),
            features: Tensor::full(image, (IMAGE_TOKENS, 1), &Device::Cpu).unwrap(),
        }],
        finisher: None,
        prompt: Arc::new(image_first(IMAGE_TOKENS, prompt)),
        reader: None,
        max_tokens: 12,
        stop: Vec::new(),
        sampling: Sampling::default(),
        top_logprobs: Some(2),
        guard: GuardParams::new(Mode::Flag, 0.4),
        unanswerable: None,
        gate: None,
        observer: None,
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
