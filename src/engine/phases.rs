//! Times of one answer's phases in the engine, recorded if its request asks for them.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{EngineError, FinishReason};
use crate::guard::Verdict;

/// Most repairs of an answer that are recorded one by one; the last one covers all further ones.
const MAX_REPAIRS: usize = 16;

/// Receives the phases of an answer once it has left the engine: complete, failed or canceled.
/// Mostly called on the engine's thread: implementations must return quickly.
pub trait AnswerObserver: Send + Sync + Debug {
    /// Called once for each request, unless nothing was to be decoded for it.
    fn ended(&self, phases: &AnswerPhases);
}

/// How an answer left the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerOutcome {
    /// The answer is complete.
    Finished {
        /// Reason for the end.
        reason: FinishReason,
        /// The guard's verdict; `None` in mode `off`.
        verdict: Option<Verdict>,
    },
    /// The request failed.
    Failed(EngineError),
    /// The client disconnected, or a time limit was reached.
    Canceled,
}

/// Work of the scorer on one answer. It judges a batch in each step, so the time is shared with
/// other answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoringPhase {
    /// Begin of the first step in which it judged the answer.
    pub began: Instant,
    /// End of the last one.
    pub ended: Instant,
    /// Time of all these steps' scoring.
    pub busy: Duration,
    /// Number of these steps.
    pub steps: usize,
}

/// One repair: candidates were decoded instead of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairPhase {
    /// Time when the low-reward word was found.
    pub began: Instant,
    /// Time when the answer continued.
    pub ended: Instant,
    /// Tokens decoded for candidates.
    pub tokens: usize,
}

/// Phases of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPhases {
    /// Index of the sequence within its completion.
    pub rank: usize,
    /// Time when the engine received the request.
    pub submitted: Instant,
    /// Time when it joined the batch; `None` if it never did.
    pub joined: Option<Instant>,
    /// Time when the whole prompt was read and the first token sampled.
    pub prefilled: Option<Instant>,
    /// Time when it left the engine.
    pub ended: Instant,
    /// Tokens of the prompt, image included.
    pub prompt_tokens: usize,
    /// Those among them that were found in the cache.
    pub cached_tokens: usize,
    /// Steps in which parts of the prompt were read.
    pub prefill_steps: usize,
    /// Steps after the prompt, those of repair candidates included.
    pub decode_steps: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Work of the scorer, if it judged the answer.
    pub scoring: Option<ScoringPhase>,
    /// Repairs, in order.
    pub repairs: Vec<RepairPhase>,
    /// How it left.
    pub outcome: AnswerOutcome,
}

/// Records the phases of one request, and reports them when it is dropped: whatever ends a request
/// drops it.
#[derive(Debug)]
pub(crate) struct PhaseRecorder {
    observer: Arc<dyn AnswerObserver>,
    phases: AnswerPhases,
    /// `true` once the end is known; otherwise the drop is the end.
    ended: bool,
    /// Begin of the repair in progress, and tokens decoded for it.
    repairing: Option<(Instant, usize)>,
}

impl PhaseRecorder {
    /// Starts with the submission of the request.
    pub(crate) fn new(
        observer: Arc<dyn AnswerObserver>,
        rank: usize,
        prompt_tokens: usize,
    ) -> Self {
        let now = Instant::now();
        let phases = AnswerPhases {
            rank,
            submitted: now,
            joined: None,
            prefilled: None,
            ended: now,
            prompt_tokens,
            cached_tokens: 0,
            prefill_steps: 0,
            decode_steps: 0,
            completion_tokens: 0,
            scoring: None,
            repairs: Vec::new(),
            outcome: AnswerOutcome::Canceled,
        };
        Self {
            observer,
            phases,
            ended: false,
            repairing: None,
        }
    }

    /// Records that the request joined the batch.
    pub(crate) fn join(&mut self) {
        self.phases.joined = Some(Instant::now());
    }

    /// Records a step that reads a part of the prompt, which the cache holds up to `start`.
    pub(crate) fn read_prompt(&mut self, start: usize) {
        if self.phases.prefill_steps == 0 {
            self.phases.cached_tokens = start;
        }
        self.phases.prefill_steps += 1;
    }

    /// Records that the whole prompt was read.
    pub(crate) fn end_prompt(&mut self) {
        self.phases.prefilled = Some(Instant::now());
    }

    /// Records a step after the prompt that decoded `candidates`, or the answer if there are none;
    /// `repairs` tells if the next step decodes candidates.
    pub(crate) fn decode(&mut self, candidates: usize, repairs: bool) {
        self.phases.decode_steps += 1;
        if let Some((_, tokens)) = &mut self.repairing {
            *tokens += candidates;
        }
        if repairs {
            self.repairing.get_or_insert_with(|| (Instant::now(), 0));
        } else {
            self.end_repair(Instant::now());
        }
    }

    /// Records that the scorer judged the answer in a step, from `began` for the time `took`.
    pub(crate) fn score(&mut self, began: Instant, took: Duration) {
        let scoring = self.phases.scoring.get_or_insert(ScoringPhase {
            began,
            ended: began,
            busy: Duration::ZERO,
            steps: 0,
        });
        scoring.ended = began + took;
        scoring.busy += took;
        scoring.steps += 1;
    }

    /// Records the end of the answer.
    pub(crate) fn finish(
        &mut self,
        reason: FinishReason,
        verdict: Option<Verdict>,
        completion_tokens: usize,
    ) {
        self.phases.completion_tokens = completion_tokens;
        self.end(AnswerOutcome::Finished { reason, verdict });
    }

    /// Records a failure.
    pub(crate) fn fail(&mut self, error: &EngineError) {
        self.end(AnswerOutcome::Failed(error.clone()));
    }

    fn end(&mut self, outcome: AnswerOutcome) {
        self.phases.outcome = outcome;
        self.phases.ended = Instant::now();
        self.ended = true;
    }

    fn end_repair(&mut self, now: Instant) {
        let Some((began, tokens)) = self.repairing.take() else {
            return;
        };
        let repairs = &mut self.phases.repairs;
        match repairs.get_mut(MAX_REPAIRS - 1) {
            Some(last) => {
                last.ended = now;
                last.tokens += tokens;
            }
            None => repairs.push(RepairPhase {
                began,
                ended: now,
                tokens,
            }),
        }
    }
}

impl Drop for PhaseRecorder {
    fn drop(&mut self) {
        if !self.ended {
            self.phases.ended = Instant::now();
        }
        self.end_repair(self.phases.ended);
        self.observer.ended(&self.phases);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<AnswerPhases>>);

    impl AnswerObserver for Kept {
        fn ended(&self, phases: &AnswerPhases) {
            self.0.lock().unwrap().push(phases.clone());
        }
    }

    fn record(work: impl FnOnce(&mut PhaseRecorder)) -> AnswerPhases {
        let kept = Arc::<Kept>::default();
        let mut recorder = PhaseRecorder::new(kept.clone(), 0, 7);
        work(&mut recorder);
        drop(recorder);
        let mut kept = std::mem::take(&mut *kept.0.lock().unwrap());
        assert_eq!(kept.len(), 1);
        kept.remove(0)
    }

    #[test]
    fn request_that_is_dropped_counts_as_canceled() {
        let phases = record(|_| {});
        assert_eq!(phases.outcome, AnswerOutcome::Canceled);
        assert_eq!((phases.joined, phases.prefilled), (None, None));
        assert!(phases.ended >= phases.submitted);
    }

    #[test]
    fn repairs_have_their_tokens_and_stay_bounded() {
        let phases = record(|recorder| {
            recorder.join();
            recorder.read_prompt(3);
            recorder.read_prompt(5);
            recorder.end_prompt();
            for _ in 0..20 {
                recorder.decode(0, true);
                recorder.decode(4, true);
                recorder.decode(2, false);
            }
            recorder.finish(FinishReason::Stop, Some(Verdict::Repaired), 9);
        });
        assert_eq!((phases.cached_tokens, phases.prefill_steps), (3, 2));
        assert_eq!((phases.decode_steps, phases.completion_tokens), (60, 9));
        let tokens: Vec<usize> = phases.repairs.iter().map(|repair| repair.tokens).collect();
        assert_eq!(tokens, [[6; 15].as_slice(), &[30]].concat());
        assert!(phases.repairs.iter().all(|r| r.began <= r.ended));
    }

    #[test]
    fn scoring_adds_up_over_steps() {
        let (began, took) = (Instant::now(), Duration::from_millis(5));
        let phases = record(|recorder| {
            recorder.score(began, took);
            recorder.score(began + 4 * took, took);
        });
        let scoring = phases.scoring.unwrap();
        assert_eq!((scoring.busy, scoring.steps), (2 * took, 2));
        assert_eq!((scoring.began, scoring.ended), (began, began + 5 * took));
    }
}
