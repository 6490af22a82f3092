//! One running sequence: its request, the versions of its answer that are being written, and whom
//! to tell.

use std::time::Instant;

use tokio::sync::mpsc;

use super::{
    EngineError, Event, FinishReason, Observer, Request,
    answer::{AnswerOutput, AnswerSummary, RepairCost},
    fair::PoolPermit,
    partial_answer::PartialAnswer,
    repair::{CacheFork, Repairs},
    stop::StopStrings,
    track::{DecodingContext, DecodingTrack, RowOutputs},
    vocabulary::SamplingVocabulary,
};
use crate::{
    guard::{Verdict, policy, repair::RankingWeights},
    vlm::Row,
};

/// A request that was let in, and whom to tell.
#[derive(Debug)]
pub(crate) struct AdmittedRequest {
    pub(crate) request: Request,
    /// Positions of the prompt, image included.
    pub(crate) prompt_tokens: usize,
    /// Most tokens to write: what the request and the context allow.
    pub(crate) budget: usize,
    pub(crate) events: mpsc::Sender<Event>,
    /// Its place among the jobs of its competitor: the least is next.
    pub(crate) order: u64,
    /// Counts against the sequences that run, from when it is one of them.
    pub(crate) slot: Option<PoolPermit>,
    /// Counts against the bound until the job is dropped.
    pub(crate) _place: PoolPermit,
}

impl AdmittedRequest {
    /// Returns `true` if nobody listens any more.
    pub(crate) fn is_left(&self) -> bool {
        self.events.is_closed()
    }

    /// Tells the client. The channel has room for all that an answer can say, so this never waits.
    pub(crate) fn send(&self, event: Event) {
        // An error means that the client left, which the next step notices.
        let _ = self.events.try_send(event);
    }

    pub(crate) fn fail(&self, error: &EngineError) {
        tracing::warn!(id = %self.request.id, %error, "request failed");
        self.send(Event::Failed(error.clone()));
    }
}

/// Photographs less familiar than this get statements of what there is where nothing else repairs a
/// sentence.
const UNFAMILIAR: f32 = 0.5;

/// Whether a sequence goes on after a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SequenceStatus {
    Go,
    Done,
}

pub(crate) struct Sequence {
    pub(crate) job: AdmittedRequest,
    /// All slots that it holds.
    pub(crate) slots: Vec<usize>,
    pub(crate) answer: AnswerOutput,
    pub(crate) joined: Instant,
    /// What ends this sequence after the present step.
    pub(crate) failed: Option<EngineError>,
    /// Indicates whether the present step computes nothing of it, because it is another
    /// competitor's turn.
    pub(crate) pauses: bool,
    /// The version that will be the answer.
    lead: DecodingTrack,
    /// Where doubted words are written again.
    repairs: Option<Repairs>,
    /// The present step computes versions that were dropped since.
    stale: bool,
    /// Tokens that were counted as written.
    counted: usize,
    last_at: Option<Instant>,
}

impl Sequence {
    /// `slots` are its own: the first for the answer, the others for versions that are tried.
    pub(crate) fn new(
        mut job: AdmittedRequest,
        slots: Vec<usize>,
        weights: RankingWeights,
    ) -> Self {
        let guard = job.request.guard;
        let stop = StopStrings::new(std::mem::take(&mut job.request.stop));
        let (slot, spare) = slots
            .split_first()
            .map_or((0, Vec::new()), |(slot, spare)| (*slot, spare.to_vec()));
        let lead = DecodingTrack::new(
            slot,
            PartialAnswer::new(guard.thresholds, stop, job.request.finisher.clone()),
            &job.request.sampling,
        );
        let repairs = policy::repairs(guard.mode).then(|| {
            let states = job
                .request
                .finisher
                .as_ref()
                .is_some_and(|finisher| finisher.familiarity() < UNFAMILIAR);
            Repairs::new(guard.mode, guard.max_attempts, weights, spare).stating(states)
        });
        let (answer, joined) = (
            AnswerOutput::new(guard, job.request.gate.clone()),
            Instant::now(),
        );
        Self {
            job,
            slots,
            answer,
            joined,
            failed: None,
            pauses: false,
            lead,
            repairs,
            stale: false,
            counted: 0,
            last_at: None,
        }
    }

    /// The versions that the next step computes; none where the sequence pauses.
    pub(crate) fn tracks(&self) -> impl Iterator<Item = &DecodingTrack> {
        let tried = self.repairs.iter().flat_map(Repairs::active);
        let lead = self.is_led().then_some(&self.lead);
        tried.chain(lead).filter(|_| !self.pauses)
    }

    /// Returns `true` if the answer itself goes on in the next step, and not versions that are
    /// tried.
    fn is_led(&self) -> bool {
        self.repairs
            .as_ref()
            .is_none_or(|repairs| repairs.active().next().is_none())
    }

    /// This sequence's part of the next step.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.tracks().map(|track| track.row(&self.job.request))
    }

    /// Returns `true` if the prompt was not fed yet.
    pub(crate) fn is_new(&self) -> bool {
        self.lead.is_new()
    }

    /// Returns what caches must do before the next step.
    pub(crate) fn branches(&mut self) -> Vec<CacheFork> {
        self.repairs
            .as_mut()
            .map(Repairs::branches)
            .unwrap_or_default()
    }

    /// Goes on without the scorer.
    pub(crate) fn lose_scorer(&mut self) {
        self.stale = !self.is_led();
        self.answer.lose_scorer();
        if let Some(repairs) = &mut self.repairs {
            self.stale |= repairs.give_up(&mut self.lead);
        }
    }

    /// Takes what the step computed for [`Self::rows`], in their order.
    pub(crate) fn advance(
        &mut self,
        computed: Vec<RowOutputs<'_>>,
        vocabulary: &SamplingVocabulary,
        observer: &dyn Observer,
    ) -> candle_core::Result<SequenceStatus> {
        if !std::mem::take(&mut self.stale) {
            self.take(computed, vocabulary)?;
        }
        if !self.is_led() {
            return Ok(SequenceStatus::Go);
        }
        let repairs = self.repairs.as_ref().filter(|_| self.answer.is_scored());
        if self.lead.complete || repairs.is_none_or(|repairs| !repairs.may_change(&self.lead)) {
            self.count(observer);
        }
        if let (true, Some(reason)) = (self.lead.complete, self.lead.end) {
            self.finish(reason);
            return Ok(SequenceStatus::Done);
        }
        let window = self.job.request.guard.window;
        let repairs = self.repairs.as_ref().filter(|_| self.answer.is_scored());
        let limit = repairs.map_or(usize::MAX, |repairs| repairs.limit(&self.lead, window));
        let delta = self.answer.release(&self.lead.draft, limit);
        self.show(delta);
        Ok(SequenceStatus::Go)
    }

    fn take(
        &mut self,
        mut computed: Vec<RowOutputs<'_>>,
        vocabulary: &SamplingVocabulary,
    ) -> candle_core::Result<()> {
        let Self {
            job,
            answer,
            lead,
            repairs,
            ..
        } = self;
        let scored = answer.is_scored();
        let context = DecodingContext {
            request: &job.request,
            vocabulary,
            budget: job.budget,
            scored,
            repairs: scored && repairs.is_some(),
        };
        let tries = repairs
            .as_ref()
            .is_some_and(|repairs| repairs.active().next().is_some());
        match repairs {
            Some(repairs) if tries => repairs.take(computed.into_iter(), context)?,
            _ => {
                let Some(computed) = computed.pop() else {
                    return Ok(());
                };
                if let Some(repairs) = repairs.as_mut().filter(|_| !lead.is_new()) {
                    repairs.decoded();
                }
                lead.take(computed, context)?;
            }
        }
        match repairs {
            Some(repairs) if scored => repairs.settle(lead, answer, context),
            _ => Ok(()),
        }
    }

    /// Tells of the tokens that are new in the answer, those of a version that was taken among
    /// them.
    fn count(&mut self, observer: &dyn Observer) {
        let written = self.lead.draft.tokens().len();
        for _ in self.counted..written {
            let now = Instant::now();
            observer.token(self.last_at.replace(now).map(|before| now - before));
        }
        self.counted = self.counted.max(written);
    }

    fn show(&self, delta: Option<Event>) {
        if let Some(delta) = delta {
            self.job.send(delta);
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let draft = &self.lead.draft;
        let repairs = self.repairs.as_ref();
        let cost = repairs.map_or_else(RepairCost::default, |repairs| {
            repairs.cost(draft.tokens().len())
        });
        let (delta, summary) =
            self.answer
                .finish(draft, cost, repairs.and_then(|repairs| repairs.blocked));
        self.show(delta);
        let AnswerSummary {
            completion_tokens,
            guard,
        } = summary;
        // An abstention is whole, whatever ended the answer that it stands for.
        let is_withheld = guard
            .as_ref()
            .is_some_and(|guard| guard.verdict == Verdict::Abstained);
        let reason = if is_withheld {
            FinishReason::Stop
        } else {
            reason
        };
        let prompt_tokens = self.job.prompt_tokens;
        self.job.send(Event::Finished {
            reason,
            prompt_tokens,
            completion_tokens,
            guard,
        });
    }
}
