//! One running sequence: its request, the continuations being decoded, and its event channel.

use std::time::Instant;

use tokio::sync::mpsc;
use tracing::Span;

use super::{
    EngineError, Event, FinishReason, Observer, Request,
    answer::{AnswerOutput, AnswerSummary, RepairCost},
    fair::PoolPermit,
    partial_answer::PartialAnswer,
    phases::PhaseRecorder,
    repair::{CacheFork, Repairs},
    room::RoomClaim,
    stop::StopStrings,
    track::{DecodingContext, DecodingTrack, RowOutputs},
    vocabulary::SamplingVocabulary,
};
use crate::{
    guard::{Verdict, policy, repair::RankingWeights},
    vlm::Row,
};

/// An admitted request and its event channel.
#[derive(Debug)]
pub(crate) struct AdmittedRequest {
    pub(crate) request: Request,
    /// Positions of the prompt, image included.
    pub(crate) prompt_tokens: usize,
    /// Most tokens to generate, limited by the request and the context.
    pub(crate) budget: usize,
    pub(crate) events: mpsc::Sender<Event>,
    /// Queue order within its competitor; the smallest is next.
    pub(crate) order: u64,
    /// Permit of a running sequence; `None` while it waits.
    pub(crate) slot: Option<PoolPermit>,
    /// Admission permit, held until the request is dropped.
    pub(crate) _admission: PoolPermit,
    /// Records the phases, if they are wanted.
    pub(crate) phases: Option<Box<PhaseRecorder>>,
    /// Span of the log that the request was submitted in.
    pub(crate) span: Span,
}

impl AdmittedRequest {
    /// Returns `true` if the client disconnected.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.events.is_closed()
    }

    /// Sends an event. Never blocks: the channel has capacity for all events of an answer.
    pub(crate) fn send(&self, event: Event) {
        // An error means that the client disconnected, which the next step detects.
        let _ = self.events.try_send(event);
    }

    pub(crate) fn fail(&mut self, error: &EngineError) {
        let _entered = self.span.enter();
        tracing::warn!(completion_id = %self.request.id, %error, "request failed");
        if let Some(phases) = &mut self.phases {
            phases.fail(error);
        }
        self.send(Event::Failed(error.clone()));
    }
}

/// Familiarity below which an unrepairable sentence is replaced by a statement of what the image
/// shows.
const UNFAMILIAR: f32 = 0.5;

/// Outcome of a step for one sequence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SequenceStatus {
    Go,
    Done,
}

pub(crate) struct Sequence {
    pub(crate) job: AdmittedRequest,
    /// All of its cache slots.
    pub(crate) slots: Vec<usize>,
    pub(crate) answer: AnswerOutput,
    pub(crate) joined: Instant,
    /// Error that ends this sequence after the current step.
    pub(crate) failed: Option<EngineError>,
    /// Its part of the key/value cache.
    pub(crate) claim: RoomClaim,
    /// `true` if the cache has no room for its next token until others end.
    pub(crate) lacks_room: bool,
    /// `true` if the current step skips this sequence in favor of others.
    pub(crate) pauses: bool,
    /// The continuation that becomes the answer unless a repair replaces it.
    lead: DecodingTrack,
    /// Repairs, in modes that have them.
    repairs: Option<Repairs>,
    /// The current step's outputs belong to candidates that were dropped.
    stale: bool,
    /// Tokens reported to the observer.
    counted: usize,
    last_at: Option<Instant>,
}

impl Sequence {
    /// Creates a sequence. The first of `slots` is for the answer, the others for repair
    /// candidates.
    pub(crate) fn new(
        mut job: AdmittedRequest,
        slots: Vec<usize>,
        claim: RoomClaim,
        weights: RankingWeights,
    ) -> Self {
        if let Some(phases) = &mut job.phases {
            phases.join();
        }
        let guard = job.request.guard;
        let stop = StopStrings::new(std::mem::take(&mut job.request.stop));
        let (slot, spare) = slots
            .split_first()
            .map_or((0, Vec::new()), |(slot, spare)| (*slot, spare.to_vec()));
        let lead = DecodingTrack::new(
            slot,
            job.prompt_tokens,
            PartialAnswer::new(guard.thresholds, stop, job.request.finisher.clone()),
            &job.request.sampling,
        );
        let repairs = policy::repairs(guard.mode).then(|| {
            let states = job
                .request
                .finisher
                .as_ref()
                .is_some_and(|finisher| finisher.familiarity() < UNFAMILIAR);
            Repairs::new(guard.mode, guard.max_attempts, weights, spare).with_statements(states)
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
            claim,
            lacks_room: false,
            pauses: false,
            lead,
            repairs,
            stale: false,
            counted: 0,
            last_at: None,
        }
    }

    /// Returns the continuations that the next step computes; none if the sequence pauses.
    pub(crate) fn tracks(&self) -> impl Iterator<Item = &DecodingTrack> {
        let tried = self.repairs.iter().flat_map(Repairs::active);
        let lead = self.decodes_lead().then_some(&self.lead);
        tried.chain(lead).filter(|_| !self.pauses)
    }

    /// Returns `true` if the next step decodes the lead, not candidates.
    fn decodes_lead(&self) -> bool {
        self.repairs
            .as_ref()
            .is_none_or(|repairs| repairs.active().next().is_none())
    }

    /// Returns the number of candidates that the next step decodes instead of the lead.
    fn candidates(&self) -> usize {
        self.repairs.iter().flat_map(Repairs::active).count()
    }

    /// Returns the [`Self::tracks`], each with `true` if the scorer reads its row of the next step.
    pub(crate) fn scored_tracks(&self) -> impl Iterator<Item = (&DecodingTrack, bool)> {
        let is_scored = self.answer.is_scored();
        self.tracks()
            .map(move |track| (track, is_scored && track.is_scored()))
    }

    /// Returns `true` if the scorer reads rows of this sequence in the current step.
    pub(crate) fn is_scored_now(&self) -> bool {
        self.scored_tracks().any(|(_, is_scored)| is_scored)
    }

    /// Returns this sequence's rows of the next step of a model that is `tapped` by its scorer, or
    /// not.
    pub(crate) fn rows(&self, tapped: bool) -> impl Iterator<Item = Row<'_>> {
        self.tracks()
            .map(move |track| track.row(&self.job.request, tapped))
    }

    /// Returns `true` before the whole prompt is fed.
    pub(crate) fn awaits_prefill(&self) -> bool {
        self.lead.awaits_prefill()
    }

    /// Returns the whole prompt as a row.
    pub(crate) fn prompt_row(&self) -> Row<'_> {
        self.lead.prompt_row(&self.job.request)
    }

    /// Returns the number of positions in the cache, those of prompt and answer.
    pub(crate) fn fed(&self) -> usize {
        self.lead.fed()
    }

    /// Sets the part of the prompt that the next step feeds; an empty one lets the sequence pause.
    pub(crate) fn plan_part(&mut self, start: usize, len: usize) {
        self.lead.plan_part(start, len);
        self.pauses |= len == 0;
    }

    /// Takes the cache copies to perform before the next step.
    pub(crate) fn take_cache_forks(&mut self) -> Vec<CacheFork> {
        self.repairs
            .as_mut()
            .map(Repairs::take_cache_forks)
            .unwrap_or_default()
    }

    /// Continues without the scorer.
    pub(crate) fn drop_scorer(&mut self) {
        self.stale = !self.decodes_lead();
        self.answer.drop_scorer();
        if let Some(repairs) = &mut self.repairs {
            self.stale |= repairs.give_up(&mut self.lead);
        }
    }

    /// Takes the step's outputs for [`Self::rows`], in that order.
    pub(crate) fn advance(
        &mut self,
        computed: Vec<RowOutputs<'_>>,
        vocabulary: &SamplingVocabulary,
        observer: &dyn Observer,
    ) -> candle_core::Result<SequenceStatus> {
        let awaited = self.awaits_prefill();
        let candidates = self.job.phases.as_ref().map(|_| self.candidates());
        if !std::mem::take(&mut self.stale) {
            self.take(computed, vocabulary)?;
        }
        let (awaits, decodes_lead) = (self.awaits_prefill(), self.decodes_lead());
        if let Some((phases, candidates)) = self.job.phases.as_mut().zip(candidates) {
            match awaited {
                true if !awaits => phases.end_prompt(),
                true => {}
                false => phases.decode(candidates, !decodes_lead),
            }
        }
        if awaits || !decodes_lead {
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
        let delta = self.answer.release(&self.lead.partial, limit);
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
                if let Some(repairs) = repairs.as_mut().filter(|_| !lead.awaits_prefill()) {
                    repairs.count_decoded();
                }
                lead.take(computed, context)?;
            }
        }
        match repairs {
            Some(repairs) if scored => repairs.settle(lead, answer, context),
            _ => Ok(()),
        }
    }

    /// Reports new tokens of the answer to the observer, those of an accepted candidate included.
    fn count(&mut self, observer: &dyn Observer) {
        let written = self.lead.partial.tokens().len();
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
        let partial = &self.lead.partial;
        let repairs = self.repairs.as_ref();
        let cost = repairs.map_or_else(RepairCost::default, |repairs| {
            repairs.cost(partial.tokens().len())
        });
        let (delta, summary) =
            self.answer
                .finish(partial, cost, repairs.and_then(|repairs| repairs.blocked));
        self.show(delta);
        let AnswerSummary {
            completion_tokens,
            guard,
        } = summary;
        // An abstention is complete, whatever ended the answer that it replaces.
        let is_withheld = guard
            .as_ref()
            .is_some_and(|guard| guard.verdict == Verdict::Abstained);
        let reason = if is_withheld {
            FinishReason::Stop
        } else {
            reason
        };
        if let Some(phases) = &mut self.job.phases {
            let verdict = guard.as_ref().map(|guard| guard.verdict);
            phases.finish(reason, verdict, completion_tokens);
        }
        let prompt_tokens = self.job.prompt_tokens;
        self.job.send(Event::Finished {
            reason,
            prompt_tokens,
            completion_tokens,
            guard,
        });
    }
}
