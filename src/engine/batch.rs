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
    prefill::{PrefillBudget, UnreadPrompt, divide},
    repair::CacheFork,
    room::{RoomClaim, all_can_end},
    sequence::{AdmittedRequest, Sequence, SequenceStatus},
    track::RowOutputs,
    vocabulary::SamplingVocabulary,
};
use crate::{
    guard::{policy, repair::RankingWeights},
    reward::{RewardState, ScoredRow, TokenReading, TokenReward},
    vlm::{
        self, KvCache, Logits, Outputs, Row, VisionLanguageModel,
        kv_cache::{BLOCK, KvShape},
    },
};

/// Policy, scorer and vocabulary of one bundle.
pub(crate) struct Networks {
    pub(crate) vlm: Arc<dyn VisionLanguageModel>,
    pub(crate) reward: Option<Arc<dyn TokenReward>>,
    pub(crate) vocabulary: SamplingVocabulary,
}

impl Networks {
    /// Returns the layers of the policy whose outputs the scorer reads.
    fn taps(&self) -> &[usize] {
        self.reward.as_ref().map_or(&[], |reward| reward.taps())
    }
}

/// Work units of one decoded token; a prefilled token counts 1. On a CPU a decoded row takes about
/// as long as eight prompt positions.
pub(crate) const DECODED_TOKEN_WORK: u64 = 8;

/// Fixed-point scale for comparing rows per weight as integers.
const ROWS_SCALE: u64 = 1000;

/// Prompts with images whose keys and values stay cached for later ones that begin like them.
const PREFIXES: usize = 128;

/// Sizes of the caches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheSize {
    /// Most sequences.
    pub(crate) sequences: usize,
    /// Slots that one sequence needs: its own and those of repair candidates.
    pub(crate) slots_each: usize,
    /// Most positions of a sequence.
    pub(crate) context: usize,
    /// Most positions of all sequences together.
    pub(crate) positions: usize,
}

/// Returns the slots that a sequence needs. Candidates have reserved slots, so that repairs do not
/// depend on the rest of the batch.
pub(crate) fn slots_each(has_scorer: bool, weights: RankingWeights) -> usize {
    if has_scorer {
        1 + weights.candidates
    } else {
        1
    }
}

/// Returns the positions that fit into `bytes`, at most those of `slots` whole contexts.
pub(crate) fn kv_positions(shape: &KvShape, slots: usize, context: usize, bytes: u64) -> usize {
    let most = slots.saturating_mul(context.next_multiple_of(BLOCK));
    let fitting = bytes / shape.position_bytes().max(1) as u64;
    usize::try_from(fitting).unwrap_or(usize::MAX).min(most)
}

/// KV caches of policy and scorer. A sequence uses the same slot numbers in both.
struct Caches {
    policy: KvCache,
    scorer: Option<Box<dyn RewardState>>,
}

impl Caches {
    fn new(networks: &Networks, size: CacheSize) -> Result<Self> {
        let CacheSize {
            sequences,
            slots_each,
            context,
            positions,
        } = size;
        let slots = sequences * slots_each;
        let scorer = networks
            .reward
            .as_ref()
            .map(|reward| reward.new_state(slots, context, positions))
            .transpose()?;
        let policy = networks.vlm.new_cache(slots, context, positions)?;
        Ok(Self {
            policy: policy.remembering(PREFIXES),
            scorer,
        })
    }

    fn free(&mut self, slots: &[usize]) {
        for &slot in slots {
            self.policy.truncate(slot, 0);
            if let Some(scorer) = &mut self.scorer {
                scorer.truncate(slot, 0);
            }
        }
    }

    fn fork(&mut self, fork: CacheFork) {
        self.policy.fork(fork.from, fork.to, fork.len);
        if let Some(scorer) = &mut self.scorer {
            scorer.fork(fork.from, fork.to, fork.len);
        }
    }
}

/// Rules of the batch that do not depend on the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepRules {
    /// Most prompts that a step reads.
    pub(crate) max_prefills: usize,
    /// Weights of the ranking of repair candidates.
    pub(crate) weights: RankingWeights,
    /// Policy for answers whose scorer fails.
    pub(crate) on_error: OnError,
    /// `true` to serve competitors with unlike demands in separate steps.
    pub(crate) takes_turns: bool,
}

pub(crate) struct RunningBatch {
    networks: Networks,
    caches: Caches,
    running: Vec<Sequence>,
    /// Free slots, grouped as one sequence needs them.
    free: Vec<Vec<usize>>,
    size: CacheSize,
    rules: StepRules,
    prefill: PrefillBudget,
    observer: Arc<dyn Observer>,
}

impl RunningBatch {
    /// Allocates the caches.
    ///
    /// # Errors
    /// When the caches cannot be allocated.
    pub(crate) fn new(
        networks: Networks,
        size: CacheSize,
        rules: StepRules,
        prefill: PrefillBudget,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let CacheSize {
            sequences,
            slots_each,
            ..
        } = size;
        let caches = Caches::new(&networks, size)?;
        let free = (0..sequences)
            .rev()
            .map(|i| {
                std::iter::once(i)
                    .chain((1..slots_each).map(|j| sequences * j + i))
                    .collect()
            })
            .collect();
        Ok(Self {
            networks,
            caches,
            running: Vec::with_capacity(sequences),
            free,
            size,
            rules,
            prefill,
            observer,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Returns `true` if the request can join now: slots are free, no sequence waits for room in
    /// the cache, and there is room for this one.
    pub(crate) fn has_room(&self, job: &AdmittedRequest) -> bool {
        let claims = self.running.iter().map(|s| s.claim);
        !self.free.is_empty()
            && !self.running.iter().any(|s| s.lacks_room)
            && all_can_end(claims.chain([self.first_claim(job)]), self.size.positions)
    }

    /// Returns a request's claim when it joins: for its prompt and first tokens, or, if it may have
    /// repair candidates, for all that it may need.
    fn first_claim(&self, job: &AdmittedRequest) -> RoomClaim {
        let most = self.most_positions(job);
        let held = if policy::repairs(job.request.guard.mode) {
            most
        } else {
            job.prompt_tokens + job.budget.min(BLOCK)
        };
        RoomClaim { held: 0, most }.holding(held)
    }

    /// Gives the sequences room for their next token, the oldest first. Those for which there is
    /// none wait until others end.
    fn make_room(&mut self) {
        for i in 0..self.running.len() {
            let s = &self.running[i];
            let (old, new) = (s.claim, s.claim.holding(s.fed() + 1));
            let others = self.running.iter().map(|s| s.claim).enumerate();
            let others = others
                .filter(|&(other, _)| other != i)
                .map(|(_, claim)| claim);
            let fits = old == new || all_can_end(others.chain([new]), self.size.positions);
            let s = &mut self.running[i];
            s.claim = if fits { new } else { old };
            s.lacks_room = !fits;
        }
    }

    /// Returns the most positions that a request may take, those of repair candidates included.
    fn most_positions(&self, job: &AdmittedRequest) -> usize {
        let CacheSize {
            slots_each,
            context,
            positions,
            ..
        } = self.size;
        let whole = |n: usize| n.next_multiple_of(BLOCK);
        let candidates = if policy::repairs(job.request.guard.mode) {
            slots_each - 1
        } else {
            0
        };
        let needed =
            whole(job.prompt_tokens + job.budget) + candidates * (whole(job.budget) + BLOCK);
        needed.min(slots_each * whole(context)).min(positions)
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
        let claim = self.first_claim(&job);
        if let Some(slots) = self.free.pop() {
            let sequence = Sequence::new(job, slots, claim, self.rules.weights);
            self.running.push(sequence);
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
        self.caches = Caches::new(&self.networks, self.size)?;
        Ok(())
    }

    fn remove(&mut self, mut predicate: impl FnMut(&mut Sequence) -> bool) {
        let Self {
            running,
            caches,
            free,
            ..
        } = self;
        running.retain_mut(|s| {
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
        self.make_room();
        self.running
            .iter_mut()
            .for_each(|s| s.pauses = s.lacks_room);
        if self.rules.takes_turns {
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
            let ready: Vec<(&Share, u64)> = self
                .shares()
                .zip(shares.iter().copied())
                .zip(&self.running)
                .filter_map(|(entry, s)| (!s.pauses).then_some(entry))
                .collect();
            let first = ledger.next(ready.iter().copied());
            let max_share = first
                .and_then(|i| ready.get(i))
                .map_or(u64::MAX, |&(_, share)| share);
            self.running
                .iter_mut()
                .zip(shares)
                .for_each(|(s, share)| s.pauses |= share > max_share);
        }
        for s in &self.running {
            // Prompts were charged at admission.
            let rows = s.tracks().filter(|track| !track.awaits_prefill()).count();
            ledger.charge(&s.job.request.share, DECODED_TOKEN_WORK * rows as u64);
        }
    }

    /// Divides the step's budget for prompts among the selected sequences that have not read
    /// theirs. Returns the number of positions given out.
    ///
    /// # Errors
    /// When a prompt names an image that it does not have.
    fn plan_prefill(&mut self) -> Result<usize> {
        let answers_are_written = self.running.iter().any(|s| !s.awaits_prefill());
        let cache = &mut self.caches.policy;
        let mut unread: Vec<&mut Sequence> = self
            .running
            .iter_mut()
            .filter(|s| !s.pauses && s.awaits_prefill())
            .collect();
        let mut starts = Vec::with_capacity(unread.len());
        for s in &unread {
            // Another sequence may have read the same prefix meanwhile.
            starts.push(vlm::recall(&s.prompt_row(), cache)?.max(s.fed()));
        }
        let prompts: Vec<UnreadPrompt<'_>> = unread
            .iter()
            .zip(&starts)
            .take(self.rules.max_prefills)
            .map(|(s, &start)| UnreadPrompt {
                start,
                prompt: &s.job.request.prompt,
            })
            .collect();
        let mut parts = divide(
            &prompts,
            self.prefill.positions(answers_are_written),
            self.networks.vlm.spec().whole_images,
        );
        parts.resize(starts.len(), 0);
        for ((s, start), &part) in unread.iter_mut().zip(starts).zip(&parts) {
            if part > 0 && s.fed() == 0 {
                self.observer.prompt(s.job.prompt_tokens, start);
            }
            if let Some(phases) = s.job.phases.as_mut().filter(|_| part > 0) {
                phases.read_prompt(start);
            }
            s.plan_part(start, part);
        }
        Ok(parts.iter().sum())
    }

    /// Runs the policy on the selected sequences' rows: parts of prompts, and one token of each
    /// answer.
    fn compute(&mut self) -> Result<Computed> {
        let prefilled = self.plan_prefill()?;
        let tapped = !self.networks.taps().is_empty();
        let rows: Vec<Row<'_>> = self.running.iter().flat_map(|s| s.rows(tapped)).collect();
        let cache = &mut self.caches.policy;
        let (logits, hidden) = forward(&self.networks, &rows, cache)?;
        let wanted = rows.iter().map(|row| !row.wanted().is_empty()).collect();
        for s in &self.running {
            if !s.pauses && s.awaits_prefill() {
                vlm::remember(&s.prompt_row(), cache)?;
            }
        }
        Ok(Computed {
            prefilled,
            wanted,
            logits,
            hidden,
        })
    }

    /// Runs one step of the selected sequences: a part of their prompts for new ones, one decoded
    /// token for the others.
    ///
    /// If the model fails, the sequences whose prompts were to be read fail; if there were none,
    /// all of this step fail.
    pub(crate) fn step(&mut self, shared: &Shared, ledger: &mut Ledger) {
        let began = Instant::now();
        self.schedule(ledger);
        let computed = match self.compute() {
            Ok(computed) => computed,
            Err(error) => {
                let any_new = self.running.iter().any(|s| !s.pauses && s.awaits_prefill());
                return self.fail(&model_error(&error), |s| {
                    !s.pauses && s.awaits_prefill() == any_new
                });
            }
        };
        let prefilled = computed.prefilled;
        // Counted before scoring: a failing scorer drops candidates.
        let counts: Vec<usize> = self.running.iter().map(|s| s.tracks().count()).collect();
        let readings = self.score(computed.hidden.as_ref());
        self.advance(computed, readings, &counts, shared);
        self.prefill.observe(prefilled, began.elapsed());
    }

    /// Returns the readings of each row that became final: none for prompts and for sequences that
    /// are not scored.
    fn score(&mut self, hidden: Option<&Tensor>) -> Vec<Vec<TokenReading>> {
        let rows = self.running.iter().flat_map(Sequence::tracks).count();
        let Some(scorer) = &mut self.caches.scorer else {
            return vec![Vec::new(); rows];
        };
        if !self.running.iter().any(Sequence::is_scored_now) {
            return vec![Vec::new(); rows];
        }
        let began = Instant::now();
        match score(
            scorer.as_mut(),
            &self.running,
            &self.networks.vocabulary,
            hidden,
        ) {
            Ok(readings) => {
                let took = began.elapsed();
                self.report_scored(&readings, took);
                for s in self.running.iter_mut().filter(|s| s.is_scored_now()) {
                    if let Some(phases) = &mut s.job.phases {
                        phases.score(began, took);
                    }
                }
                readings
            }
            Err(error) => {
                self.scorer_failed(&first_line(&error));
                // One entry a row of the forward pass, although unscored answers have dropped their
                // candidates.
                vec![Vec::new(); rows]
            }
        }
    }

    fn report_scored(&self, readings: &[Vec<TokenReading>], took: Duration) {
        let known: Vec<f32> = readings.iter().flatten().map(|r| r.reward).collect();
        self.observer.scored(&known, took);
    }

    /// Applies `guard.on_error`: fails the sequences that were to be scored, or continues them
    /// unscored.
    fn scorer_failed(&mut self, error: &str) {
        tracing::error!(error, "the scorer failed");
        let scored = self.running.iter().filter(|s| s.is_scored_now());
        self.observer.scorer_failed(scored.count());
        for s in self.running.iter_mut().filter(|s| s.is_scored_now()) {
            if let Some(scorer) = &mut self.caches.scorer {
                s.slots.iter().for_each(|&slot| scorer.truncate(slot, 0));
            }
            match self.rules.on_error {
                OnError::FailOpen => s.drop_scorer(),
                OnError::FailClosed => s.failed = Some(EngineError::Scorer(error.to_owned())),
            }
        }
    }

    fn advance(
        &mut self,
        mut computed: Computed,
        readings: Vec<Vec<TokenReading>>,
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
        let width = networks.vlm.spec().vocab_size.max(1);
        let mut lines = computed.logits.chunks_exact_mut(width);
        let line = |wanted: bool| wanted.then(|| lines.next()).flatten().unwrap_or_default();
        let mut results = computed.wanted.into_iter().map(line).zip(readings);
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
            let computed = computed.map(|((logits, readings), &slot)| RowOutputs {
                readings,
                logits,
                fed: caches.policy.len(slot),
            });
            let next = match s.failed.take() {
                Some(error) => Err(error),
                None => s
                    .advance(computed.collect(), &networks.vocabulary, observer.as_ref())
                    .map_err(|e| model_error(&e)),
            };
            if next.is_ok() {
                s.take_cache_forks()
                    .into_iter()
                    .for_each(|fork| caches.fork(fork));
            }
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

/// The policy's part of a step.
struct Computed {
    /// Positions of prompts that were read.
    prefilled: usize,
    /// `true` for each row that wanted outputs.
    wanted: Vec<bool>,
    /// Logits of those rows, flattened.
    logits: Vec<f32>,
    /// Hidden states that the scorer reads, one line for each of those rows.
    hidden: Option<Tensor>,
}

/// Runs the policy on `rows` and returns the logits of those that want outputs, `(such rows,
/// vocabulary)`, flattened, and their hidden states that the scorer reads.
fn forward(
    networks: &Networks,
    rows: &[Row<'_>],
    cache: &mut KvCache,
) -> Result<(Vec<f32>, Option<Tensor>)> {
    let rows: Vec<Row<'_>> = rows
        .iter()
        .filter(|row| !row.tokens.is_empty())
        .copied()
        .collect();
    if rows.is_empty() {
        return Ok((Vec::new(), None));
    }
    let outputs = Outputs {
        logits: Logits::Last,
        hidden_layers: networks.taps(),
    };
    let out = networks.vlm.forward(&rows, cache, outputs)?;
    // One transfer from the device a step.
    let logits = match out.logits {
        Some(logits) => logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        None => Vec::new(),
    };
    let wanted = rows.iter().filter(|row| !row.wanted().is_empty()).count();
    if logits.len() != wanted * networks.vlm.spec().vocab_size {
        bail!(
            "the model returned {} logits for {wanted} rows",
            logits.len()
        );
    }
    Ok((logits, out.hidden))
}

/// Scores the rows of scored sequences and returns the readings of every row that became final;
/// none of prompts and unscored sequences. `hidden` has one line a row that wants outputs; rows
/// without outputs are left to the step that reads the last part of their prompt.
fn score(
    scorer: &mut dyn RewardState,
    running: &[Sequence],
    vocabulary: &SamplingVocabulary,
    hidden: Option<&Tensor>,
) -> Result<Vec<Vec<TokenReading>>> {
    let all = || {
        running.iter().flat_map(|s| {
            s.scored_tracks()
                .map(move |(track, scored)| (s, track, scored))
        })
    };
    let is_scored: Vec<bool> = all().map(|(_, _, scored)| scored).collect();
    let scored = || all().filter(|(_, _, scored)| *scored);
    let judged: Vec<Option<&[u8]>> = scored()
        .map(|(_, track, _)| track.judged(vocabulary))
        .collect();
    let rows: Vec<ScoredRow<'_>> = scored()
        .zip(&judged)
        .map(|((s, track, _), judged)| {
            let row = track.scored_row(&s.job.request);
            let log_probability = std::slice::from_ref(&track.log_probability);
            ScoredRow {
                row,
                unjudged: row.wanted().len() - judged.iter().len(),
                log_probabilities: &log_probability[..row.wanted().len()],
                bytes: judged.as_slice(),
                ends: track.end.is_some(),
                at_once: policy::repairs(s.job.request.guard.mode) || !track.is_patient(),
                reader: s.job.request.reader.as_ref(),
            }
        })
        .collect();
    let with_line = all().filter(|(_, track, _)| track.wants_outputs(true));
    let is_read: Vec<bool> = with_line.map(|(_, _, scored)| scored).collect();
    let hidden = match hidden {
        Some(hidden) if is_read.contains(&false) => {
            let lines = (0u32..).zip(&is_read).filter(|(_, is_read)| **is_read);
            let lines: Vec<u32> = lines.map(|(line, _)| line).collect();
            let lines = Tensor::new(lines.as_slice(), &Device::Cpu)?.to_device(hidden.device())?;
            Some(hidden.index_select(&lines, 0)?)
        }
        hidden => hidden.cloned(),
    };
    let readings = scorer.score(&rows, hidden.as_ref())?;
    if readings.len() != rows.len() {
        bail!("readings of {} rows for {}", readings.len(), rows.len());
    }
    let mut rewards = readings.iter().flatten().map(|reading| reading.reward);
    if let Some(bad) = rewards.find(|r| !(0.0..=1.0).contains(r)) {
        bail!("a reward of {bad} is no probability");
    }
    let mut readings = readings.into_iter();
    let of_row = |scored| match scored {
        true => readings.next().unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(is_scored.into_iter().map(of_row).collect())
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
