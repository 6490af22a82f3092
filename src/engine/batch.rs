//! The running batch: the caches, the sequences in them, and the step that moves them all.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    EngineError, Observer, OnError,
    fair::{Ledger, Share},
    handle::Shared,
    repair::CacheFork,
    sequence::{AdmittedRequest, Sequence, SequenceStatus},
    track::RowOutputs,
    vocabulary::SamplingVocabulary,
};
use crate::{
    guard::repair::RankingWeights,
    reward::TokenReward,
    vlm::{KvCache, Row, Vlm, Want},
};

/// The networks of one bundle.
pub(crate) struct Networks {
    pub(crate) vlm: Arc<dyn Vlm>,
    pub(crate) reward: Option<Arc<dyn TokenReward>>,
    pub(crate) vocabulary: SamplingVocabulary,
}

/// Work of a written token, where that of a token that is only read is 1: on a CPU a decoded row
/// takes about as long as eight positions of a prompt.
pub(crate) const WRITTEN: u64 = 8;

/// Rows by weight are compared in parts as small as this.
const ROWS_SCALE: u64 = 1000;

/// Images whose keys and values are remembered for the next question about them.
const IMAGES: usize = 64;

/// Keys and values of policy and scorer. A sequence has the same slot in both.
struct Caches {
    policy: KvCache,
    scorer: Option<KvCache>,
}

impl Caches {
    fn new(networks: &Networks, slots: usize, capacity: usize) -> Result<Self> {
        let scorer = networks
            .reward
            .as_ref()
            .map_or(Ok(None), |r| r.new_cache(slots, capacity))?;
        let policy = networks.vlm.new_cache(slots, capacity)?.remembering(IMAGES);
        Ok(Self {
            policy,
            scorer: scorer.map(|cache| cache.remembering(IMAGES)),
        })
    }

    fn free(&mut self, slots: &[usize]) {
        for &slot in slots {
            self.policy.truncate(slot, 0);
            if let Some(cache) = &mut self.scorer {
                cache.truncate(slot, 0);
            }
        }
    }

    fn branch(&mut self, branch: CacheFork) -> Result<()> {
        for cache in [Some(&mut self.policy), self.scorer.as_mut()]
            .into_iter()
            .flatten()
        {
            cache.fork(branch.from, branch.to, branch.len)?;
        }
        Ok(())
    }
}

pub(crate) struct RunningBatch {
    networks: Networks,
    caches: Caches,
    running: Vec<Sequence>,
    /// Slots that no sequence holds, as many together as one gets.
    free: Vec<Vec<usize>>,
    weights: RankingWeights,
    on_error: OnError,
    takes_turns: bool,
    observer: Arc<dyn Observer>,
}

impl RunningBatch {
    /// # Errors
    /// When the caches cannot be allocated.
    pub(crate) fn new(
        networks: Networks,
        most: usize,
        capacity: usize,
        weights: RankingWeights,
        on_error: OnError,
        takes_turns: bool,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        // Versions of an answer that are tried have slots of their own, which nobody else can take:
        // what is tried depends on no neighbour.
        let each = if networks.reward.is_some() {
            1 + weights.candidates
        } else {
            1
        };
        let caches = Caches::new(&networks, most * each, capacity)?;
        let free = (0..most)
            .rev()
            .map(|i| {
                std::iter::once(i)
                    .chain((1..each).map(|j| most * j + i))
                    .collect()
            })
            .collect();
        Ok(Self {
            networks,
            caches,
            running: Vec::with_capacity(most),
            free,
            weights,
            on_error,
            takes_turns,
            observer,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Returns who competes with what runs.
    pub(crate) fn shares(&self) -> impl Iterator<Item = &Share> {
        self.running.iter().map(|s| &s.job.request.share)
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        self.caches.policy.usage()
    }

    /// Gives `job` slots. Without them, the job is dropped: ask [`Self::has_room`] first.
    pub(crate) fn admit(&mut self, job: AdmittedRequest) {
        if let Some(slots) = self.free.pop() {
            self.running.push(Sequence::new(job, slots, self.weights));
        }
    }

    /// Frees the slots of sequences whose client left.
    pub(crate) fn drop_left(&mut self) {
        self.remove(|s| s.job.is_left());
    }

    /// Ends every sequence for which `whom` is true with `error`.
    fn fail(&mut self, error: &EngineError, whom: impl Fn(&Sequence) -> bool) {
        self.remove(|s| {
            let fails = whom(s);
            if fails {
                s.job.fail(error);
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
        let Self {
            running,
            caches,
            free,
            ..
        } = self;
        running.retain(|s| {
            let gone = whom(s);
            if gone {
                caches.free(&s.slots);
                free.push(s.slots.clone());
            }
            !gone
        });
    }

    /// Decides which sequences the next step computes, and notes the work that this is.
    ///
    /// Where competitors take turns, it is the turn of the one that had the least, and whoever has
    /// no more rows by weight is computed with it: those of like demands share their steps, and a
    /// single answer does not wait for the many of another competitor.
    fn choose(&mut self, ledger: &mut Ledger) {
        self.running.iter_mut().for_each(|s| s.pauses = false);
        if self.takes_turns {
            let mut rows: HashMap<Arc<str>, u64> = HashMap::new();
            for s in &self.running {
                *rows
                    .entry(Arc::clone(&s.job.request.share.competitor))
                    .or_default() += s.tracks().count() as u64;
            }
            let share_of = |s: &Sequence| {
                let share = &s.job.request.share;
                rows.get(&share.competitor).copied().unwrap_or(0) * ROWS_SCALE
                    / u64::from(share.weight)
            };
            let shares: Vec<u64> = self.running.iter().map(share_of).collect();
            let first = ledger.next(self.shares().zip(shares.iter().copied()));
            let most = first
                .and_then(|i| shares.get(i))
                .copied()
                .unwrap_or(u64::MAX);
            self.running
                .iter_mut()
                .zip(shares)
                .for_each(|(s, share)| s.pauses = share > most);
        }
        for s in &self.running {
            // Prompts were noted when they were let in.
            let rows = s.tracks().filter(|track| !track.is_new()).count();
            ledger.charge(&s.job.request.share, WRITTEN * rows as u64);
        }
    }

    /// One step of the running sequences whose turn it is: new ones read their prompt, the others
    /// their last token.
    ///
    /// An error of the model ends the sequences that joined in this step, if any did, else all that
    /// it computed.
    pub(crate) fn step(&mut self, shared: &Shared, ledger: &mut Ledger) {
        self.choose(ledger);
        let rows: Vec<Row<'_>> = self.running.iter().flat_map(Sequence::rows).collect();
        let computed = forward(&self.networks, &rows, &mut self.caches.policy);
        let (mut logits, hidden) = match computed {
            Ok(computed) => computed,
            Err(error) => {
                let any_new = self.running.iter().any(|s| !s.pauses && s.is_new());
                return self.fail(&model_error(&error), |s| !s.pauses && s.is_new() == any_new);
            }
        };
        // As it was when the rows were gathered: a scorer that fails ends versions.
        let counts: Vec<usize> = self.running.iter().map(|s| s.tracks().count()).collect();
        let rewards = self.score(&hidden);
        self.advance(&mut logits, &rewards, &counts, shared);
    }

    /// Rewards of the tokens that this step fed, by sequence. `None` for prompts and for sequences
    /// that are not scored.
    fn score(&mut self, hidden: &Tensor) -> Vec<Option<f32>> {
        let rows = self.running.iter().flat_map(Sequence::tracks).count();
        let Some(reward) = self.networks.reward.clone() else {
            return vec![None; rows];
        };
        if !self
            .running
            .iter()
            .any(|s| !s.pauses && s.answer.is_scored())
        {
            return vec![None; rows];
        }
        let began = Instant::now();
        match score(
            reward.as_ref(),
            &self.running,
            hidden,
            self.caches.scorer.as_mut(),
        ) {
            Ok(rewards) => {
                self.tell_scored(&rewards, began.elapsed());
                rewards
            }
            Err(error) => {
                self.scorer_failed(&first_line(&error));
                // Of the rows that are still there: an answer that goes on unscored drops its other
                // versions.
                vec![None; rows]
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
        for s in self
            .running
            .iter_mut()
            .filter(|s| !s.pauses && s.answer.is_scored())
        {
            if let Some(cache) = &mut self.caches.scorer {
                s.slots.iter().for_each(|&slot| cache.truncate(slot, 0));
            }
            match self.on_error {
                OnError::FailOpen => s.lose_scorer(),
                OnError::FailClosed => s.failed = Some(EngineError::Scorer(error.to_owned())),
            }
        }
    }

    fn advance(
        &mut self,
        logits: &mut [f32],
        rewards: &[Option<f32>],
        counts: &[usize],
        shared: &Shared,
    ) {
        let Self {
            running,
            caches,
            free,
            networks,
            observer,
            ..
        } = self;
        let width = (logits.len() / rewards.len().max(1)).max(1);
        let mut results = logits.chunks_exact_mut(width).zip(rewards);
        let mut counts = counts.iter();
        running.retain_mut(|s| {
            let slots: Vec<usize> = s.tracks().map(|track| track.slot).collect();
            let own: Vec<_> = results
                .by_ref()
                .take(counts.next().copied().unwrap_or(0))
                .collect();
            if s.pauses {
                return true;
            }
            let computed = own.into_iter().zip(&slots);
            let computed = computed.map(|((logits, &reward), &slot)| RowOutputs {
                reward,
                logits,
                fed: caches.policy.len(slot),
            });
            let next = match s.failed.take() {
                Some(error) => Err(error),
                None => s
                    .advance(computed.collect(), &networks.vocabulary, observer.as_ref())
                    .map_err(|e| model_error(&e)),
            };
            let mut branched = || {
                s.branches()
                    .into_iter()
                    .try_for_each(|branch| caches.branch(branch))
                    .map_err(|e| model_error(&e))
            };
            let next = next.and_then(|next| branched().map(|()| next));
            if let Err(error) = &next {
                s.job.fail(error);
            }
            let goes_on = next == Ok(SequenceStatus::Go);
            if !goes_on {
                shared.served(s.joined.elapsed());
                caches.free(&s.slots);
                free.push(s.slots.clone());
            }
            goes_on
        });
    }
}

/// The step's logits, one line of the vocabulary's size a row, and hidden states.
fn forward(
    networks: &Networks,
    rows: &[Row<'_>],
    cache: &mut KvCache,
) -> Result<(Vec<f32>, Tensor)> {
    let out = networks.vlm.forward(rows, cache, Want::Last)?;
    let Some(logits) = out.logits else {
        bail!("the model returned no logits")
    };
    // One transfer a step, whatever the device.
    let logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if logits.len() != rows.len() * networks.vlm.spec().vocab_size {
        bail!(
            "the model returned {} logits for {} rows",
            logits.len(),
            rows.len()
        );
    }
    Ok((logits, out.hidden))
}

/// Shows the scorer the rows of the sequences that are scored, and keeps the rewards of response
/// tokens: one a row, `None` for the others.
fn score(
    reward: &dyn TokenReward,
    running: &[Sequence],
    hidden: &Tensor,
    cache: Option<&mut KvCache>,
) -> Result<Vec<Option<f32>>> {
    let (mut rows, mut lines, mut line) = (Vec::with_capacity(running.len()), Vec::new(), 0u32);
    let mut log_probabilities = Vec::with_capacity(running.len());
    // For every row, where the reward of its last token will be, if it has one that counts.
    let mut wanted = Vec::with_capacity(running.len());
    for s in running {
        for track in s.tracks() {
            let row = track.row(&s.job.request);
            let end = line + row.tokens.len() as u32;
            if s.answer.is_scored() {
                log_probabilities.extend(row.tokens.iter().map(|_| track.log_probability));
                lines.extend(line..end);
                wanted.push((!track.is_new()).then_some(lines.len() - 1));
                rows.push(row);
            } else {
                wanted.push(None);
            }
            line = end;
        }
    }
    let of_all = rows.len() == wanted.len();
    let selected = if of_all {
        hidden.clone()
    } else {
        hidden.index_select(
            &Tensor::new(lines.as_slice(), &Device::Cpu)?.to_device(hidden.device())?,
            0,
        )?
    };
    let rewards = reward.score(&rows, &selected, &log_probabilities, cache)?;
    if rewards.len() != lines.len() {
        bail!("{} rewards for {} tokens", rewards.len(), lines.len());
    }
    let rewards: Vec<Option<f32>> = wanted
        .into_iter()
        .map(|at| at.and_then(|at| rewards.get(at)).copied())
        .collect();
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
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
