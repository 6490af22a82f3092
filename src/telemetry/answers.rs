//! Metrics of answers as clients receive them, streamed or whole. Tokens that the engine decodes in
//! addition (repairs, other candidates) have separate series.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use prometheus::{Error, Histogram, IntCounter, IntCounterVec, Registry};

use super::{
    Metrics,
    register::{
        REWARDS, VERDICTS, counter, counters, ending_name, failure_name, histogram, verdict_name,
    },
    words::FlaggedWordMetrics,
};
use crate::{
    engine::{EngineError, FinishReason, GeneratedToken},
    guard::{Action, GuardReport, Span},
};

/// Metrics of answers.
pub(crate) struct AnswerMetrics {
    endings: IntCounterVec,
    failures: IntCounterVec,
    time_to_first_token: Histogram,
    e2e_latency: Histogram,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    token_reward: Histogram,
    familiarity: Histogram,
    scored_tokens: IntCounter,
    flagged_tokens: IntCounter,
    flagged_spans: IntCounterVec,
    flagged_words: FlaggedWordMetrics,
    responses: IntCounterVec,
    candidate_tokens: IntCounter,
    repair_attempts: IntCounterVec,
    repair_extra_tokens: IntCounter,
}

impl AnswerMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, Error> {
        Ok(Self {
            endings: counters(
                r,
                "request_success_total",
                "Answers by finish reason; abort: the client disconnected or the request timed out",
                "finished_reason",
                &ENDINGS,
            )?,
            failures: counters(
                r,
                "request_failure_total",
                "Completions that failed or were refused, by reason",
                "reason",
                &FAILURES,
            )?,
            time_to_first_token: histogram(
                r,
                "time_to_first_token_seconds",
                "Time from submission to the first text that can be sent",
                &FIRST_TOKEN,
            )?,
            e2e_latency: histogram(
                r,
                "e2e_request_latency_seconds",
                "Time from submission to the complete answer",
                &WHOLE_ANSWER,
            )?,
            prompt_tokens: counter(
                r,
                "prompt_tokens_total",
                "Tokens of the prompts of complete answers, image positions included",
            )?,
            generation_tokens: counter(r, "generation_tokens_total", "Tokens of answers as sent")?,
            token_reward: histogram(
                r,
                "token_reward",
                "Calibrated rewards of tokens as sent, 0 to 1",
                &REWARDS,
            )?,
            familiarity: histogram(
                r,
                "familiarity",
                "Familiarity of the photographs of answered completions, 0 to 1; low: unlike those \
                 that the model learnt from",
                &FAMILIARITY,
            )?,
            scored_tokens: counter(r, "scored_tokens_total", "Sent tokens that have a reward")?,
            flagged_tokens: counter(
                r,
                "flagged_tokens_total",
                "Tokens of low-reward words in answers as sent",
            )?,
            flagged_spans: counters(
                r,
                "flagged_spans_total",
                "Low-reward spans by the action taken",
                "action",
                &ACTIONS.map(action_name),
            )?,
            flagged_words: FlaggedWordMetrics::new(r)?,
            responses: counters(
                r,
                "responses_total",
                "Complete answers by the guard's verdict",
                "verdict",
                &VERDICTS.map(verdict_name),
            )?,
            candidate_tokens: counter(
                r,
                "candidate_tokens_total",
                "Tokens of discarded candidates",
            )?,
            repair_attempts: counters(
                r,
                "repair_attempts_total",
                "Repair attempts by outcome",
                "outcome",
                &ATTEMPTS,
            )?,
            repair_extra_tokens: counter(
                r,
                "repair_extra_tokens_total",
                "Tokens decoded for repairs and discarded",
            )?,
        })
    }

    /// Counts a completion that failed or was refused.
    pub(crate) fn count_failure(&self, error: &EngineError) {
        self.failures
            .with_label_values(&[failure_name(error)])
            .inc();
    }
}

/// Outcome of a finished answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerEnd<'a> {
    /// Finish reason.
    pub(crate) reason: FinishReason,
    /// Prompt tokens, image positions included.
    pub(crate) prompt_tokens: usize,
    /// Tokens of the answer and of its discarded candidates.
    pub(crate) completion_tokens: usize,
    /// Guard report.
    pub(crate) guard: &'a GuardReport,
}

/// Meter of one completion's answers. Answers that have not ended when it is dropped count as
/// aborted.
pub(crate) struct AnswerMeter {
    metrics: Arc<Metrics>,
    submitted: Instant,
    answers: Vec<ShownPart>,
    has_prompt: bool,
    /// Completion tokens of the finished answers.
    completion_tokens: usize,
    used: Arc<AtomicU64>,
}

/// Progress of one answer.
#[derive(Default, Clone)]
struct ShownPart {
    tokens: usize,
    begun: bool,
    ended: bool,
}

impl AnswerMeter {
    /// Starts a meter of `answers` answers, which are submitted now.
    pub(crate) fn new(metrics: &Arc<Metrics>, answers: usize) -> Self {
        let answers = vec![ShownPart::default(); answers];
        let (submitted, used) = (Instant::now(), Arc::default());
        Self {
            metrics: Arc::clone(metrics),
            submitted,
            answers,
            has_prompt: false,
            completion_tokens: 0,
            used,
        }
    }

    /// Returns a counter that will hold the completion's tokens, as `usage` counts them; 0 until
    /// all answers are finished.
    pub(crate) fn used(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.used)
    }

    /// Counts a part of an answer that could be sent at the time `at`.
    pub(crate) fn count_delta(
        &mut self,
        index: usize,
        at: Instant,
        tokens: &[GeneratedToken],
        flagged_tokens: usize,
        spans: &[Span],
    ) {
        let (Some(shown), metrics) = (self.answers.get_mut(index), &self.metrics.answers) else {
            return;
        };
        // An answer blocked before its first word has spans but no text.
        if !tokens.is_empty() && !std::mem::replace(&mut shown.begun, true) {
            metrics
                .time_to_first_token
                .observe((at - self.submitted).as_secs_f64());
        }
        shown.tokens += tokens.len();
        metrics.generation_tokens.inc_by(tokens.len() as u64);
        for reward in tokens.iter().filter_map(|token| token.reward) {
            metrics.token_reward.observe(reward.into());
            metrics.scored_tokens.inc();
        }
        metrics.flagged_tokens.inc_by(flagged_tokens as u64);
        spans.iter().for_each(|span| {
            metrics
                .flagged_spans
                .with_label_values(&[action_name(span.action)])
                .inc();
            let written = span.original.as_deref().unwrap_or(&span.text);
            metrics.flagged_words.count(written);
        });
    }

    /// Counts an answer as finished at the time `at`, after all of its parts.
    pub(crate) fn count_end(&mut self, index: usize, at: Instant, end: AnswerEnd<'_>) {
        let (Some(shown), metrics) = (self.answers.get_mut(index), &self.metrics.answers) else {
            return;
        };
        let AnswerEnd {
            reason,
            prompt_tokens,
            completion_tokens,
            guard,
        } = end;
        shown.ended = true;
        self.completion_tokens += completion_tokens;
        metrics
            .endings
            .with_label_values(&[ending_name(reason)])
            .inc();
        metrics
            .e2e_latency
            .observe((at - self.submitted).as_secs_f64());
        metrics
            .responses
            .with_label_values(&[verdict_name(guard.verdict)])
            .inc();
        // As in `usage`, the answers of a completion share one prompt.
        if !std::mem::replace(&mut self.has_prompt, true) {
            metrics.prompt_tokens.inc_by(prompt_tokens as u64);
            guard
                .familiarity
                .iter()
                .for_each(|&familiarity| metrics.familiarity.observe(familiarity.into()));
        }
        let candidates = completion_tokens.saturating_sub(shown.tokens) as u64;
        if self.answers.iter().all(|answer| answer.ended) {
            self.used
                .store((prompt_tokens + self.completion_tokens) as u64, Relaxed);
        }
        metrics.candidate_tokens.inc_by(candidates);
        metrics
            .repair_extra_tokens
            .inc_by(u64::from(guard.extra_tokens).saturating_sub(candidates));
        // Hedged and omitted spans have an original too, but no repair.
        let is_repair = |span: &&Span| {
            span.original.is_some() && matches!(span.action, Action::Regenerated | Action::Flagged)
        };
        let taken = guard.spans.iter().filter(is_repair).count() as u64;
        metrics
            .repair_attempts
            .with_label_values(&["taken"])
            .inc_by(taken);
        metrics
            .repair_attempts
            .with_label_values(&["dropped"])
            .inc_by(u64::from(guard.attempts).saturating_sub(taken));
    }

    /// Counts the completion as failed and none of its answers as aborted.
    pub(crate) fn count_failure(&mut self, error: &EngineError) {
        self.metrics.answers.count_failure(error);
        self.answers.clear();
    }
}

impl Drop for AnswerMeter {
    fn drop(&mut self) {
        let open = self.answers.iter().filter(|answer| !answer.ended).count();
        self.metrics
            .answers
            .endings
            .with_label_values(&["abort"])
            .inc_by(open as u64);
    }
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Flagged => "flagged",
        Action::Regenerated => "regenerated",
        Action::Hedged => "hedged",
        Action::Omitted => "omitted",
        Action::Blocked => "blocked",
    }
}

const FAMILIARITY: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const ENDINGS: [&str; 4] = ["stop", "length", "content_filter", "abort"];
const FAILURES: [&str; 5] = ["queue_full", "invalid", "shutting_down", "scorer", "model"];
const ACTIONS: [Action; 5] = [
    Action::Flagged,
    Action::Regenerated,
    Action::Hedged,
    Action::Omitted,
    Action::Blocked,
];
/// Outcomes of repair attempts.
const ATTEMPTS: [&str; 2] = ["taken", "dropped"];
const FIRST_TOKEN: [f64; 20] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
];
const WHOLE_ANSWER: [f64; 20] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 60.0, 120.0,
];
