//! The running batch: KV caches, their sequences, and the decode step.

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
    vlm::{KvCache, Row, VisionLanguageModel, Want},
};

/// Policy, scorer and vocabulary of one bundle.
pub(crate) struct Networks {
    pub(crate) vlm: Arc<dyn VisionLanguageModel>,
    pub(crate) reward: Option<Arc<dyn TokenReward>>,
    pub(crate) vocabulary: SamplingVocabulary,
}

/// Work units of one decoded token; a prefilled token counts 1. On a CPU a decoded row takes about
/// as long as eight prompt positions.
pub(crate) const DECODED_TOKEN_WORK: u64 = 8;

/// Fixed-point scale for comparing rows per weight as integers.
const ROWS_SCALE: u64 = 1000;

/// Images whose keys and values stay cached for later questions about them.
const IMAGES: usize = 64;

/// KV caches of policy and scorer. A sequence uses the same slot numbers in both.
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

    fn fork(&mut self, fork: CacheFork) -> Result<()> {
        for cache in [Some(&mut self.policy), self.scorer.as_mut()]
            .into_iter()
            .flatten()
        {
            cache.fork(fork.from, fork.to, fork.len)?;
        }
        Ok(())
    }
}

pub(crate) struct RunningBatch {
    networks: Networks,
    caches: Caches,
    running: Vec<Sequence>,
    /// Free slots, grouped as one sequence needs them.
    free: Vec<Vec<usize>>,
    weights: RankingWeights,
    on_error: OnError,
    takes_turns: bool,
    observer: Arc<dyn Observer>,
}

impl RunningBatch {
    /// Allocates the caches for at most `max_sequences` sequences of `capacity` positions.
    ///
    /// # Errors
    /// When the caches cannot be allocated.
    pub(crate) fn new(
        networks: Networks,
        max_sequences: usize,
        capacity: usize,
        weights: RankingWeights,
        on_error: OnError,
        takes_turns: bool,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        // Candidates have reserved slots, so that repairs do not depend on the rest of the batch.
        let slots_each = if networks.reward.is_some() {
            1 + weights.candidates
        } else {
            1
        };
        let caches = Caches::new(&networks, max_sequences * slots_each, capacity)?;
        let free = (0..max_sequences)
            .rev()
            .map(|i| {
                std::iter::once(i)
                    .chain((1..slots_each).map(|j| max_sequences * j + i))
                    .collect()
            })
            .collect();
        Ok(Self {
            networks,
            caches,
            running: Vec::with_capacity(max_sequences),
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

    /// Returns the shares of the running sequences.
    pub(crate) fn shares(&self) -> impl Iterator<Item = &Share> {
        self.running.iter().map(|s| &s.job.request.share)
    }

    pub(crate) fn kv_usage(&self) -> f64 {
        self.caches.policy.usage()
    }

    /// Adds a request to the batch. Without free slots the request is dropped: check
    /// [`Self::has_room`] first.
    pub(crate) fn admit(&mut self, job: AdmittedRequest) {
        if let Some(slots) = self.free.pop() {
            self.running.push(Sequence::new(job, slots, self.weights));
        }
    }

    /// Frees the slots of sequences whose client disconnected.
    pub(crate) fn drop_disconnected(&mut self) {
        self.remove(|s| s.job.is_disconnected());
    }

    /// Fails every sequence that matches `predicate` with `error`.
    fn fail(&mut self, error: &EngineError, predicate: impl Fn(&Sequence) -> bool) {
        self.remove(|s| {
            let fails = predicate(s);
            if fails {
                s.job.fail(error);
            }
            fails
        });
    }

    /// Fails all sequences with `error`.
    pub(crate) fn fail_all(&mut self, error: &EngineError) {
        self.fail(error, |_| true);
    }

    /// Allocates new caches after a step was interrupted. No sequence may be running.
    ///
    /// # Errors
    /// When they cannot be allocated; the old caches are then kept, empty.
    pub(crate) fn rebuild(&mut self) -> Result<()> {
        let (slots, capacity) = (self.caches.policy.slots(), self.caches.policy.capacity());
        self.caches = Caches::new(&self.networks, slots, capacity)?;
        Ok(())
    }

    fn remove(&mut self, mut predicate: impl FnMut(&Sequence) -> bool) {
        let Self {
            running,
            caches,
            free,
            ..
        } = self;
        running.retain(|s| {
            let gone = predicate(s);
            if gone {
                caches.free(&s.slots);
                free.push(s.slots.clone());
            }
            !gone
        });
    }

    /// Selects the sequences of the next step and charges their work to the ledger.
    ///
    /// With `takes_turns`, the competitor with the least work so far is served, together with all
    /// competitors that have at most as many rows per weight: similar demands share a step, and a
    /// single answer does not wait for another competitor's many.
    fn schedule(&mut self, ledger: &mut Ledger) {
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
            let max_share = first
                .and_then(|i| shares.get(i))
                .copied()
                .unwrap_or(u64::MAX);
            self.running
                .iter_mut()
                .zip(shares)
                .for_each(|(s, share)| s.pauses = share > max_share);
        }
        for s in &self.running {
            // Prompts were charged at admission.
            let rows = s.tracks().filter(|track| !track.awaits_prefill()).count();
            ledger.charge(&s.job.request.share, DECODED_TOKEN_WORK * rows as u64);
        }
    }

    /// Runs one step of the selected sequences: prefill for new ones, one decoded token for the
    /// others.
    ///
    /// If the model fails, the sequences that were to be prefilled fail; if there were none, all of
    /// this step fail.
    pub(crate) fn step(&mut self, shared: &Shared, ledger: &mut Ledger) {
        self.schedule(ledger);
        let rows: Vec<Row<'_>> = self.running.iter().flat_map(Sequence::rows).collect();
        let computed = forward(&self.networks, &rows, &mut self.caches.policy);
        let (mut logits, hidden) = match computed {
            Ok(computed) => computed,
            Err(error) => {
                let any_new = self.running.iter().any(|s| !s.pauses && s.awaits_prefill());
                return self.fail(&model_error(&error), |s| {
                    !s.pauses && s.awaits_prefill() == any_new
                });
            }
        };
        // Counted before scoring: a failing scorer drops candidates.
        let counts: Vec<usize> = self.running.iter().map(|s| s.tracks().count()).collect();
        let rewards = self.score(&hidden);
        self.advance(&mut logits, &rewards, &counts, shared);
    }

    /// Returns the reward of each row's last token: `None` for prompts and for sequences that are
    /// not scored.
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
                self.report_scored(&rewards, began.elapsed());
                rewards
            }
            Err(error) => {
                self.scorer_failed(&first_line(&error));
                // One entry a row of the forward pass, although unscored answers have dropped their
                // candidates.
                vec![None; rows]
            }
        }
    }

    fn report_scored(&self, rewards: &[Option<f32>], took: Duration) {
        let known: Vec<f32> = rewards.iter().flatten().copied().collect();
        self.observer.scored(&known, took);
    }

    /// Applies `guard.on_error`: fails the scored sequences, or continues them unscored.
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
                OnError::FailOpen => s.drop_scorer(),
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
            let mut fork_caches = || {
                s.take_cache_forks()
                    .into_iter()
                    .try_for_each(|fork| caches.fork(fork))
                    .map_err(|e| model_error(&e))
            };
            let next = next.and_then(|next| fork_caches().map(|()| next));
            if let Err(error) = &next {
                s.job.fail(error);
            }
            let goes_on = next == Ok(SequenceStatus::Go);
            if !goes_on {
                shared.record_service_time(s.joined.elapsed());
                caches.free(&s.slots);
                free.push(s.slots.clone());
            }
            goes_on
        });
    }
}

/// Runs the policy on `rows` and returns logits `(rows, vocabulary)`, flattened, and hidden states.
fn forward(
    networks: &Networks,
    rows: &[Row<'_>],
    cache: &mut KvCache,
) -> Result<(Vec<f32>, Tensor)> {
    let out = networks.vlm.forward(rows, cache, Want::Last)?;
    let Some(logits) = out.logits else {
        bail!("the model returned no logits")
    };
    // One transfer from the device a step.
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

/// Scores the rows of scored sequences and returns one entry a row: the reward of its last token,
/// or `None` for prompts and unscored sequences.
fn score(
    reward: &dyn TokenReward,
    running: &[Sequence],
    hidden: &Tensor,
    cache: Option<&mut KvCache>,
) -> Result<Vec<Option<f32>>> {
    let (mut rows, mut positions, mut position) =
        (Vec::with_capacity(running.len()), Vec::new(), 0u32);
    let mut log_probabilities = Vec::with_capacity(running.len());
    // Index of each row's last token among the scored tokens; `None` where its reward is not used.
    let mut wanted = Vec::with_capacity(running.len());
    for s in running {
        for track in s.tracks() {
            let row = track.row(&s.job.request);
            let end = position + row.tokens.len() as u32;
            if s.answer.is_scored() {
                log_probabilities.extend(row.tokens.iter().map(|_| track.log_probability));
                positions.extend(position..end);
                wanted.push((!track.awaits_prefill()).then_some(positions.len() - 1));
                rows.push(row);
            } else {
                wanted.push(None);
            }
            position = end;
        }
    }
    let all_scored = rows.len() == wanted.len();
    let selected = if all_scored {
        hidden.clone()
    } else {
        hidden.index_select(
            &Tensor::new(positions.as_slice(), &Device::Cpu)?.to_device(hidden.device())?,
            0,
        )?
    };
    let rewards = reward.score(&rows, &selected, &log_probabilities, cache)?;
    if rewards.len() != positions.len() {
        bail!("{} rewards for {} tokens", rewards.len(), positions.len());
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

/// Converts a model error for the client; the backtrace only goes to the log.
fn model_error(error: &candle_core::Error) -> EngineError {
    tracing::error!(%error, "the model failed");
    EngineError::Model(first_line(error))
}

/// Returns the message without the backtrace that candle appends.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
