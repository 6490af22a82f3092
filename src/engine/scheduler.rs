//! The engine's thread: admission to the batch, the step loop, shutdown.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Instant,
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    EngineConfig, EngineError, EngineHandle,
    batch::{CacheSize, Networks, RunningBatch, StepRules, kv_positions, slots_each},
    fair::{Ledger, Pool, SharedPool},
    handle::{Command, LoadReader, Shared},
    prefill::PrefillBudget,
    sequence::AdmittedRequest,
    vocabulary::SamplingVocabulary,
};
use crate::{
    reward::TokenReward,
    vlm::{VisionLanguageModel, processor::tokenizer::TextTokenizer},
};

/// Queue positions between sequences of one completion, so that a completion with many answers does
/// not block later requests of the same competitor.
const APART: u64 = 4;

/// State of the engine's thread.
pub struct Engine {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    waiting: Vec<AdmittedRequest>,
    batch: RunningBatch,
    /// Work done for each competitor.
    ledger: Ledger,
    /// Permits of running sequences.
    slots: SharedPool,
    arrivals: u64,
    max_prefills: usize,
    /// Set by a drain: no new requests; running ones end by then.
    deadline: Option<Instant>,
    /// Dropped when no work is left, which ends [`EngineHandle::drain`].
    drained: Vec<oneshot::Sender<()>>,
}

impl Engine {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if a limit is 0 or the tokenizer does not fit the model;
    /// [`EngineError::Model`] if the caches cannot be allocated or the thread cannot be started.
    pub fn start(
        vlm: Arc<dyn VisionLanguageModel>,
        reward: Option<Arc<dyn TokenReward>>,
        tokenizer: Arc<TextTokenizer>,
        config: EngineConfig,
    ) -> Result<EngineHandle, EngineError> {
        let EngineConfig {
            max_batch,
            max_waiting,
            context_len,
            max_prefills,
            prefill_chunk,
            repair,
            on_error,
            takes_turns,
            kv_bytes,
            observer,
        } = config;
        let spec = vlm.spec().clone();
        let context = context_len.min(spec.context_len);
        if max_batch == 0 || max_prefills == 0 || context == 0 || prefill_chunk == Some(0) {
            return Err(EngineError::Invalid(
                "max_batch, max_prefills, prefill_chunk and context_len must be positive"
                    .to_owned(),
            ));
        }
        if tokenizer.eos() as usize >= spec.vocab_size {
            return Err(EngineError::Invalid(
                "the tokenizer's end-of-sequence token is not in the model's vocabulary".to_owned(),
            ));
        }
        let more = max_batch.div_ceil(8);
        let slots_each = slots_each(reward.is_some(), repair);
        let sequences = max_batch + more;
        let positions = kv_positions(&spec.kv, sequences * slots_each, context, kv_bytes);
        let context = context.min(positions);
        let shared = Arc::new(Shared::new(
            spec.clone(),
            context,
            reward.as_deref(),
            max_batch,
            max_waiting,
        ));
        let networks = Networks {
            vlm,
            reward,
            vocabulary: SamplingVocabulary::new(tokenizer, spec.vocab_size),
        };
        let batch = RunningBatch::new(
            networks,
            CacheSize {
                sequences,
                slots_each,
                context,
                positions,
            },
            StepRules {
                max_prefills,
                weights: repair,
                on_error,
                takes_turns,
            },
            PrefillBudget::new(prefill_chunk),
            Arc::clone(&observer),
        )
        .map_err(|e| EngineError::Model(e.to_string()))?;
        observer.started(LoadReader(Arc::downgrade(&shared)));
        // Submissions are bounded by their admission permits; the rest is for drains.
        let (sender, commands) = mpsc::channel(2 * max_batch + max_waiting + 4);
        let engine = Self {
            shared: Arc::clone(&shared),
            commands,
            waiting: Vec::new(),
            batch,
            ledger: Ledger::default(),
            slots: SharedPool::new(Pool::new(max_batch as u64, more as u64)),
            arrivals: 0,
            max_prefills,
            deadline: None,
            drained: Vec::new(),
        };
        let started = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run());
        started.map_err(|e| EngineError::Model(format!("no thread for the engine: {e}")))?;
        Ok(EngineHandle {
            shared,
            commands: sender,
        })
    }

    fn run(mut self) {
        while self.take_commands() {
            self.admit();
            self.step();
        }
        self.stop();
    }

    /// Receives commands and drops disconnected requests; blocks if there is no work. Returns
    /// `false` when the engine must stop.
    fn take_commands(&mut self) -> bool {
        loop {
            self.drop_disconnected();
            self.enforce_deadline();
            let idle = self.waiting.is_empty() && self.batch.len() == 0;
            if idle && self.deadline.is_some() {
                return false;
            }
            let command = if idle {
                self.report_load();
                self.commands.blocking_recv()
            } else {
                match self.commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => None,
                }
            };
            match command {
                Some(Command::Submit(mut job)) => {
                    job.order = self.arrivals + APART * job.request.rank as u64;
                    self.arrivals += 1;
                    self.waiting.push(*job);
                }
                Some(Command::Drain(until, done)) => {
                    self.deadline = Some(self.deadline.map_or(until, |d| d.min(until)));
                    self.drained.push(done);
                }
                None => return !idle,
            }
        }
    }

    fn drop_disconnected(&mut self) {
        self.batch.drop_disconnected();
        self.waiting.retain(|job| !job.is_disconnected());
    }

    fn enforce_deadline(&mut self) {
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            self.batch.fail_all(&EngineError::ShuttingDown);
            self.waiting
                .drain(..)
                .for_each(|mut job| job.fail(&EngineError::ShuttingDown));
        }
    }

    fn admit(&mut self) {
        let waiting = self.waiting.iter().map(|job| &job.request.share);
        self.ledger.set_active(waiting.chain(self.batch.shares()));
        for _ in 0..self.max_prefills {
            let Some(mut job) = self.next() else { break };
            self.ledger
                .charge(&job.request.share, job.prompt_tokens as u64);
            job.slot = self.slots.take(&job.request.share, 1).ok();
            self.batch.admit(job);
        }
    }

    /// Removes the next request from the queue; `None` if none waits or no slot is free for its
    /// competitor.
    fn next(&mut self) -> Option<AdmittedRequest> {
        let free = |job: &AdmittedRequest| {
            self.batch.has_room(job) && self.slots.can_take(&job.request.share, 1)
        };
        let open: Vec<usize> = (0..self.waiting.len())
            .filter(|&i| free(&self.waiting[i]))
            .collect();
        let next = self.ledger.next(
            open.iter()
                .map(|&i| (&self.waiting[i].request.share, self.waiting[i].order)),
        )?;
        Some(self.waiting.remove(open[next]))
    }

    /// Runs one step. A panic fails the running requests, not the engine.
    fn step(&mut self) {
        self.shared.idle.store(false, Relaxed);
        self.report_load();
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            self.batch.step(&self.shared, &mut self.ledger)
        }));
        if let Err(panic) = stepped {
            let what = message(panic.as_ref());
            tracing::error!(
                panic = what,
                "a step panicked; its requests fail and the caches are built anew"
            );
            self.batch
                .fail_all(&EngineError::Model(format!("internal error: {what}")));
            if let Err(error) = self.batch.rebuild() {
                tracing::error!(%error, "the caches could not be built anew");
            }
        }
        self.shared.record_step();
    }

    fn report_load(&self) {
        let (running, waiting, kv_usage) =
            (self.batch.len(), self.waiting.len(), self.batch.kv_usage());
        self.shared.running.store(running, Relaxed);
        self.shared.kv_usage.store(kv_usage.to_bits(), Relaxed);
        self.shared.idle.store(running + waiting == 0, Relaxed);
    }

    /// Fails requests that arrived during shutdown.
    fn stop(mut self) {
        self.shared.admissions.close();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit(mut job) = command {
                job.fail(&EngineError::ShuttingDown);
            }
        }
        self.report_load();
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}
