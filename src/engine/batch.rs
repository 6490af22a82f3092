//! The running batch: the caches, the sequences in them, and the step that moves them all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    EngineError, Observer, OnError,
    handle::Shared,
    sequence::{Job, Next, Sequence, Vocabulary},
};
use crate::{
    reward::TokenReward,
    vlm::{KvCache, Row, Vlm, Want},
};

/// The networks of one bundle.
pub(crate) struct Networks {
    pub(crate) vlm: Arc<dyn Vlm>,
    pub(crate) reward: Option<Arc<dyn TokenReward>>,
    pub(crate) vocabulary: Vocabulary,
}

/// Images whose keys and values are remembered for the next question about them.
const IMAGES: usize = 64;

/// Keys and values of policy and scorer. A sequence has the same slot in both.
struct Caches {
    policy: KvCache,
    scorer: Option<KvCache>,
}

impl Caches {
    fn new(networks: &Networks, slots: usize, capacity: usize) -> Result<Self> {
        let scorer = networks.reward.as_ref().map_or(Ok(None), |r| r.new_cache(slots, capacity))?;
        let policy = networks.vlm.new_cache(slots, capacity)?.remembering(IMAGES);
        Ok(Self { policy, scorer: scorer.map(|cache| cache.remembering(IMAGES)) })
    }

    fn free(&mut self, slot: usize) {
        self.policy.truncate(slot, 0);
        if let Some(cache) = &mut self.scorer {
            cache.truncate(slot, 0);
        }
    }
}

pub(crate) struct Batch {
    networks: Networks,
    caches: Caches,
    running: Vec<Sequence>,
    /// Slots that no sequence holds.
    free: Vec<usize>,
    on_error: OnError,
    observer: Arc<dyn Observer>,
}

impl Batch {
    /// # Errors
    /// When the caches cannot be allocated.
    pub(crate) fn new(networks: Networks, slots: usize, capacity: usize, on_error: OnError, observer: Arc<dyn Observer>) -> Result<Self> {
        let caches = Caches::new(&networks, slots, capacity)?;
        Ok(Self { networks, caches, running: Vec::with_capacity(slots), free: (0..slots).rev().collect(), on_error, observer })
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        self.caches.policy.usage()
    }

    /// Gives `job` a slot. Without one, the job is dropped: ask [`Self::has_room`] first.
    pub(crate) fn admit(&mut self, job: Job) {
        if let Some(slot) = self.free.pop() {
            self.running.push(Sequence::new(job, slot));
        }
    }

    /// Frees the slots of sequences whose client left.
    pub(crate) fn drop_left(&mut self) {
        let observer = Arc::clone(&self.observer);
        self.remove(|s| {
            let left = s.job.is_left();
            if left {
                observer.cancelled();
            }
            left
        });
    }

    /// Ends every sequence for which `whom` is true with `error`.
    fn fail(&mut self, error: &EngineError, whom: impl Fn(&Sequence) -> bool) {
        let observer = Arc::clone(&self.observer);
        self.remove(|s| {
            let fails = whom(s);
            if fails {
                s.job.fail(error, observer.as_ref());
            }
            fails
        });
    }

    /// Ends everything with `error`.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        self.fail(error, |_| true);
    }

    /// New caches, for when a step broke off in the middle of them. Call with nothing running.
    ///
    /// # Errors
    /// When they cannot be allocated; the old ones are then kept, empty.
    pub(crate) fn rebuild(&mut self) -> Result<()> {
        let (slots, capacity) = (self.caches.policy.slots(), self.caches.policy.capacity());
        self.caches = Caches::new(&self.networks, slots, capacity)?;
        Ok(())
    }

    fn remove(&mut self, mut whom: impl FnMut(&Sequence) -> bool) {
        let Self { running, caches, free, .. } = self;
        running.retain(|s| {
            let gone = whom(s);
            if gone {
                caches.free(s.slot);
                free.push(s.slot);
            }
            !gone
        });
    }

    /// One step of every running sequence: new ones read their prompt, the others their last token.
    ///
    /// An error of the model ends the sequences that joined in this step, if any did, else all of them.
    pub(crate) fn step(&mut self, shared: &Shared) {
        let rows: Vec<Row<'_>> = self.running.iter().map(Sequence::row).collect();
        let computed = forward(&self.networks, &rows, &mut self.caches.policy);
        let (mut logits, hidden) = match computed {
            Ok(computed) => computed,
            Err(error) => {
                let any_new = self.running.iter().any(Sequence::is_new);
                return self.fail(&model_error(&error), |s| s.is_new() == any_new);
            }
        };
        let rewards = self.score(&hidden);
        self.advance(&mut logits, &rewards, shared);
    }

    /// Rewards of the tokens that this step fed, by sequence. `None` for prompts and for sequences that are not scored.
    fn score(&mut self, hidden: &Tensor) -> Vec<Option<f32>> {
        let Some(reward) = self.networks.reward.clone() else { return vec![None; self.running.len()] };
        if !self.running.iter().any(|s| s.answer.is_scored()) {
            return vec![None; self.running.len()];
        }
        let began = Instant::now();
        match score(reward.as_ref(), &self.running, hidden, self.caches.scorer.as_mut()) {
            Ok(rewards) => {
                self.tell_scored(&rewards, began.elapsed());
                rewards
            }
            Err(error) => {
                self.scorer_failed(&first_line(&error));
                vec![None; self.running.len()]
            }
        }
    }

    fn tell_scored(&self, rewards: &[Option<f32>], took: Duration) {
        let known: Vec<f32> = rewards.iter().flatten().copied().collect();
        self.observer.scored(&known, took);
    }

    /// `guard.on_error`: ends what was to be scored, or goes on with it unscored.
    fn scorer_failed(&mut self, error: &str) {
        tracing::error!(error, "the scorer failed");
        for s in self.running.iter_mut().filter(|s| s.answer.is_scored()) {
            if let Some(cache) = &mut self.caches.scorer {
                cache.truncate(s.slot, 0);
            }
            match self.on_error {
                OnError::FailOpen => s.answer.lose_scorer(),
                OnError::FailClosed => s.failed = Some(EngineError::Scorer(error.to_owned())),
            }
        }
    }

    fn advance(&mut self, logits: &mut [f32], rewards: &[Option<f32>], shared: &Shared) {
        let Self { running, caches, free, networks, observer, .. } = self;
        let width = logits.len() / running.len().max(1);
        let mut rows = logits.chunks_exact_mut(width.max(1)).zip(rewards);
        running.retain_mut(|s| {
            let Some((logits, &reward)) = rows.next() else { return true };
            s.fed = caches.policy.len(s.slot);
            let next = match s.failed.take() {
                Some(error) => Err(error),
                None => s.advance(reward, logits, &networks.vocabulary, observer.as_ref()).map_err(|e| model_error(&e)),
            };
            if let Err(error) = &next {
                s.job.fail(error, observer.as_ref());
            }
            let goes_on = next == Ok(Next::Go);
            if !goes_on {
                shared.served(s.joined.elapsed());
                caches.free(s.slot);
                free.push(s.slot);
            }
            goes_on
        });
    }
}

/// The step's logits, one line of the vocabulary's size a row, and hidden states.
fn forward(networks: &Networks, rows: &[Row<'_>], cache: &mut KvCache) -> Result<(Vec<f32>, Tensor)> {
    let out = networks.vlm.forward(rows, cache, Want::Last)?;
    let Some(logits) = out.logits else { bail!("the model returned no logits") };
    // One transfer a step, whatever the device.
    let logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if logits.len() != rows.len() * networks.vlm.spec().vocab_size {
        bail!("the model returned {} logits for {} rows", logits.len(), rows.len());
    }
    Ok((logits, out.hidden))
}

/// Shows the scorer the rows of the sequences that are scored, and keeps the rewards of response tokens.
fn score(reward: &dyn TokenReward, running: &[Sequence], hidden: &Tensor, cache: Option<&mut KvCache>) -> Result<Vec<Option<f32>>> {
    let (mut rows, mut lines, mut line) = (Vec::with_capacity(running.len()), Vec::new(), 0u32);
    let mut log_probabilities = Vec::with_capacity(running.len());
    for s in running {
        let row = s.row();
        let end = line + row.tokens.len() as u32;
        if s.answer.is_scored() {
            log_probabilities.extend(row.tokens.iter().map(|_| s.log_probability));
            rows.push(row);
            lines.extend(line..end);
        }
        line = end;
    }
    let of_all = rows.len() == running.len();
    let selected = if of_all {
        hidden.clone()
    } else {
        hidden.index_select(&Tensor::new(lines.as_slice(), &Device::Cpu)?.to_device(hidden.device())?, 0)?
    };
    let rewards = reward.score(&rows, &selected, &log_probabilities, cache)?;
    if rewards.len() != lines.len() {
        bail!("{} rewards for {} tokens", rewards.len(), lines.len());
    }
    let mut left = rewards.as_slice();
    let mut of_row = |s: &Sequence| {
        let (own, rest) = left.split_at(s.row().tokens.len());
        left = rest;
        own.last().copied().filter(|_| !s.is_new())
    };
    let rewards: Vec<Option<f32>> = running.iter().map(|s| s.answer.is_scored().then(|| of_row(s)).flatten()).collect();
    match rewards.iter().flatten().find(|r| !(0.0..=1.0).contains(*r)) {
        Some(bad) => bail!("a reward of {bad} is no probability"),
        None => Ok(rewards),
    }
}

/// For the client: the message without the backtrace, which goes to the log.
fn model_error(error: &candle_core::Error) -> EngineError {
    tracing::error!(%error, "the model failed");
    EngineError::Model(first_line(error))
}

/// candle appends a backtrace to its messages where backtraces are on.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
