//! Client-facing side of an answer: releases deltas while it is decoded and builds the final guard
//! report. Independent of the networks.

use std::{borrow::Cow, ops::Range, sync::Arc};

use super::{Event, GeneratedToken, GuardParams, partial_answer::PartialAnswer};
use crate::guard::{
    Action, Candidate, GuardReport, Mode, Span, Verdict,
    abstain::{AnswerGate, SHORT_ANSWER, WrittenAnswer},
    policy,
    question::Unanswerable,
    render::{RenderStyle, alt_text, render, unfamiliar_statement},
    spans::Joiner,
    words::Word,
};

/// Scoring state of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scoring {
    Off,
    On,
    /// The scorer failed during decoding; the answer continues without it.
    Lost,
}

/// A span in which candidates were tried in place of low-reward words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RepairedSpan {
    /// Byte range of the text that now fills the span.
    pub(crate) bytes: Range<usize>,
    /// Text that a candidate replaced; `None` if the original text was kept.
    pub(crate) original: Option<String>,
    /// Lowest reward in the span.
    pub(crate) score: Option<f32>,
    /// Candidates that were rejected.
    pub(crate) alternatives: Vec<Candidate>,
}

/// Text, spans and repairs of an answer: what was already sent, and what the guard report will
/// contain.
#[derive(Debug)]
pub(crate) struct AnswerOutput {
    params: GuardParams,
    gate: Option<Arc<AnswerGate>>,
    scoring: Scoring,
    /// Probability that a short answer is right, if flagging depends on it instead of the rewards
    /// of its words.
    probability: Option<f32>,
    joiner: Option<Joiner>,
    /// Number of words passed to the joiner.
    joined: usize,
    spans: Vec<Span>,
    /// Number of spans already sent.
    spans_sent: usize,
    /// Repairs that are not sent yet, in text order.
    edits: Vec<RepairedSpan>,
    repaired: bool,
    /// Tokens and bytes of text already sent.
    sent: (usize, usize),
}

/// Decoding cost of an answer's repairs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RepairCost {
    /// Candidates started.
    pub(crate) attempts: u32,
    /// Tokens decoded beyond those of the final answer.
    pub(crate) extra_tokens: u32,
}

impl AnswerOutput {
    pub(crate) fn new(params: GuardParams, gate: Option<Arc<AnswerGate>>) -> Self {
        Self {
            params,
            gate,
            scoring: if policy::scores(params.mode) {
                Scoring::On
            } else {
                Scoring::Off
            },
            probability: None,
            joiner: policy::action(params.mode).map(Joiner::new),
            joined: 0,
            spans: Vec::new(),
            spans_sent: 0,
            edits: Vec::new(),
            repaired: false,
            sent: (0, 0),
        }
    }

    /// Returns `true` if the scorer processes this sequence.
    pub(crate) fn is_scored(&self) -> bool {
        self.scoring == Scoring::On
    }

    /// Continues without the scorer; the verdict will be `unscored`.
    pub(crate) fn drop_scorer(&mut self) {
        self.scoring = Scoring::Lost;
    }

    /// Returns the number of tokens already sent; no repair can start before it.
    pub(crate) fn shown(&self) -> usize {
        self.sent.0
    }

    /// Records a repair. Earlier records from its start on no longer apply and are dropped.
    pub(crate) fn edit(&mut self, edit: RepairedSpan) {
        self.edits
            .retain(|earlier| earlier.bytes.start < edit.bytes.start);
        if let Some(earlier) = self.edits.last_mut() {
            earlier.bytes.end = earlier.bytes.end.min(edit.bytes.start);
        }
        self.edits.push(edit);
    }

    /// Returns the next delta, or `None` if nothing new may be sent: up to the open word if words
    /// are scored, at most `limit` bytes, and nothing that could begin a stop string.
    pub(crate) fn release(&mut self, partial: &PartialAnswer, limit: usize) -> Option<Event> {
        let can_be_withheld = self.can_withhold() && partial.tokens().len() <= SHORT_ANSWER;
        if can_be_withheld || self.params.on_exhausted.rewrites().is_some() {
            return None;
        }
        let words = partial.words();
        let (tokens, end) = partial.boundary(self.is_scored(), limit);
        if self.scoring != Scoring::Off {
            self.join(partial.text(), words, limit);
        }
        (tokens > self.sent.0).then(|| self.delta(partial, partial.text(), tokens, end))
    }

    /// Ends the answer and returns the last delta, if any, and the summary. `partial` is closed;
    /// `blocked` is the score of the text that was cut off.
    pub(crate) fn finish(
        &mut self,
        partial: &PartialAnswer,
        cost: RepairCost,
        blocked: Option<f32>,
    ) -> (Option<Event>, AnswerSummary) {
        let text = partial.text();
        let probability = if blocked.is_none() {
            self.judge(partial)
        } else {
            None
        };
        if let Some((probability, false)) = probability {
            return self.withhold(partial, cost, probability);
        }
        // An answer that could have been withheld is flagged by the probability of the whole.
        let decides = self.can_withhold() && self.joined == 0 && self.params.mode != Mode::Block;
        self.probability = probability
            .filter(|_| decides)
            .map(|(probability, _)| probability);
        if self.scoring != Scoring::Off {
            self.join(text, &self.words(partial), usize::MAX);
        }
        if let Some(joiner) = &mut self.joiner {
            self.spans.extend(joiner.finish(text));
        }
        self.attach_edits(text, text.len() + 1);
        if let Some(score) = blocked {
            let end = text.chars().count();
            self.spans
                .push(Span::new(end..end, "", score, Action::Blocked));
        }
        let rewritten = self.rewrite(text, partial);
        let text = rewritten.as_deref().unwrap_or(text);
        let tokens = partial.contributing().max(self.sent.0);
        let rest =
            tokens > self.sent.0 || text.len() > self.sent.1 || self.spans.len() > self.spans_sent;
        let delta = rest.then(|| self.delta(partial, text, tokens, text.len()));
        let guard = (self.scoring != Scoring::Off).then(|| {
            let report = self.report(partial, text, tokens, cost, blocked);
            GuardReport {
                answer_probability: probability.map(|(probability, _)| probability),
                ..report
            }
        });
        (
            delta,
            AnswerSummary {
                completion_tokens: tokens,
                guard,
            },
        )
    }

    /// Returns the words of an answer. If the answer is flagged by its probability of being right,
    /// that is the reward of every scored word.
    fn words<'d>(&self, partial: &'d PartialAnswer) -> Cow<'d, [Word]> {
        let Some(probability) = self.probability else {
            return Cow::Borrowed(partial.words());
        };
        let judged = |word: &Word| Word {
            score: word.score.map(|_| probability),
            ..word.clone()
        };
        Cow::Owned(partial.words().iter().map(judged).collect())
    }

    fn can_withhold(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.may_withhold())
    }

    /// Returns the probability that a short answer is right and whether the gate lets it pass;
    /// `None` for longer answers, for unscored ones, and if text was already sent of an answer that
    /// could be withheld.
    fn judge(&self, partial: &PartialAnswer) -> Option<(f32, bool)> {
        let tokens = partial.contributing();
        let is_open = self.sent == (0, 0) || !self.can_withhold();
        let is_short = (1..=SHORT_ANSWER).contains(&tokens);
        let gate = self
            .gate
            .as_ref()
            .filter(|_| is_open && is_short && self.is_scored())?;
        let (_, score) = policy::judge(
            self.params.mode,
            partial.words(),
            partial.rewarded() >= tokens,
        );
        let log_probability = (0..tokens)
            .map(|token| partial.log_probability(token))
            .sum();
        Some(gate.judge(&WrittenAnswer {
            text: partial.text(),
            score,
            log_probability,
        }))
    }

    /// Replaces the answer with an abstention.
    fn withhold(
        &mut self,
        partial: &PartialAnswer,
        cost: RepairCost,
        probability: f32,
    ) -> (Option<Event>, AnswerSummary) {
        let GuardParams {
            mode, thresholds, ..
        } = self.params;
        let reason = Unanswerable::Unsure;
        let delta = Event::Delta {
            text: reason.wording().to_owned(),
            tokens: Vec::new(),
            spans: Vec::new(),
            flagged_tokens: 0,
        };
        let guard = GuardReport {
            withheld: Some(partial.text().to_owned()),
            answer_probability: Some(probability),
            attempts: cost.attempts,
            extra_tokens: cost.extra_tokens + partial.contributing() as u32,
            ..GuardReport::abstained(mode, thresholds, reason)
        };
        (
            Some(delta),
            AnswerSummary {
                completion_tokens: 0,
                guard: Some(guard),
            },
        )
    }

    fn join(&mut self, text: &str, words: &[Word], limit: usize) {
        while let Some(word) = words
            .get(self.joined)
            .filter(|word| word.bytes.end <= limit)
        {
            if let Some(joiner) = &mut self.joiner {
                self.spans.extend(joiner.push(text, word));
            }
            self.joined += 1;
        }
    }

    /// Attaches the repairs within the first `end` bytes to spans: to the flagged span at the same
    /// position, or as a span of their own.
    fn attach_edits(&mut self, text: &str, end: usize) {
        let open = self
            .joiner
            .as_ref()
            .and_then(Joiner::open_start)
            .unwrap_or(usize::MAX);
        let ready = self
            .edits
            .iter()
            .take_while(|edit| edit.bytes.end < end.min(open))
            .count();
        for edit in self.edits.drain(..ready) {
            self.repaired |= edit.original.is_some();
            // A later rollback may have shortened the text.
            let start = text.floor_char_boundary(edit.bytes.start);
            let end = text.floor_char_boundary(edit.bytes.end).max(start);
            let first = text[..start].chars().count();
            let range = first..first + text[start..end].chars().count();
            let unsent = &mut self.spans[self.spans_sent..];
            if let Some(span) = unsent
                .iter_mut()
                .find(|span| span.start < range.end.max(range.start + 1) && range.start < span.end)
            {
                span.original = span.original.take().or(edit.original);
                span.alternatives.extend(edit.alternatives);
            } else if edit.original.is_some() {
                let score = edit.score.unwrap_or(1.0);
                let span = Span::new(range.clone(), &text[start..end], score, Action::Regenerated);
                let at = unsent
                    .iter()
                    .position(|span| span.start >= range.end)
                    .unwrap_or(unsent.len());
                let span = Span {
                    original: edit.original,
                    alternatives: edit.alternatives,
                    ..span
                };
                self.spans.insert(self.spans_sent + at, span);
            }
        }
    }

    /// Returns the answer with its low-reward words hedged or omitted, if `on_exhausted` asks for
    /// that and there are any; moves the spans accordingly.
    fn rewrite(&mut self, text: &str, partial: &PartialAnswer) -> Option<String> {
        let (style, action) = self.params.on_exhausted.rewrites()?;
        let unsaid = self.unhedged_spans();
        if unsaid.is_empty() {
            return None;
        }
        let rendered = unfamiliar_statement(text, &unsaid, style, &partial.likely_objects())
            .unwrap_or_else(|| render(text, &unsaid, style));
        let mut ranges = rendered.spans.iter().cloned();
        for span in &mut self.spans {
            let range = match span.is_unhedged() {
                true => {
                    span.action = action;
                    span.original = Some(std::mem::take(&mut span.text));
                    ranges.next().unwrap_or_default()
                }
                false => rendered.new_range(span.start..span.end),
            };
            (span.start, span.end) = (range.start, range.end);
        }
        // A hedge can swallow adjacent words that a repair wrote; their spans shrink to what is
        // left.
        let rewritten = |span: &Span| span.action == action;
        let mut next = usize::MAX;
        for span in self.spans.iter_mut().rev() {
            if !rewritten(span) {
                (span.start, span.end) = (span.start.min(next), span.end.min(next));
            }
            next = span.start;
        }
        let mut last = 0;
        for span in &mut self.spans {
            if !rewritten(span) {
                (span.start, span.end) = (span.start.max(last), span.end.max(last));
            }
            last = span.end;
        }
        for span in &mut self.spans {
            span.text = rendered
                .text
                .chars()
                .skip(span.start)
                .take(span.end.saturating_sub(span.start))
                .collect();
        }
        Some(rendered.text)
    }

    /// Builds the next delta from `text`: the decoded text or its rewritten form.
    fn delta(&mut self, partial: &PartialAnswer, text: &str, tokens: usize, end: usize) -> Event {
        self.attach_edits(partial.text(), end);
        let (first, start) = std::mem::replace(&mut self.sent, (tokens, end));
        let out: Vec<GeneratedToken> = partial.tokens()[first..tokens].to_vec();
        let spans = self.spans[self.spans_sent..].to_vec();
        self.spans_sent = self.spans.len();
        let flagged_tokens = self.flagged_tokens(&self.words(partial), first..tokens);
        Event::Delta {
            text: text[start..end].to_owned(),
            tokens: out,
            spans,
            flagged_tokens,
        }
    }

    fn report(
        &self,
        partial: &PartialAnswer,
        text: &str,
        tokens: usize,
        cost: RepairCost,
        blocked: Option<f32>,
    ) -> GuardReport {
        let GuardParams {
            mode, thresholds, ..
        } = self.params;
        let words = self.words(partial);
        let complete = self.is_scored() && partial.rewarded() >= tokens;
        let (verdict, score) = policy::judge(mode, &words, complete);
        let (verdict, score) = match (verdict, blocked) {
            (_, Some(low)) => (
                Verdict::Blocked,
                Some(score.map_or(low, |score| score.min(low))),
            ),
            (Verdict::Clean, None) if self.repaired => (Verdict::Repaired, score),
            // The low-reward words were omitted.
            (Verdict::Flagged, None)
                if self.spans.iter().any(|span| span.action == Action::Omitted) =>
            {
                (Verdict::Repaired, score)
            }
            (verdict, None) => (verdict, score),
        };
        let alt_text = self
            .joiner
            .is_some()
            .then(|| alt_text(text, &self.unhedged_spans(), RenderStyle::Hedged));
        GuardReport {
            verdict,
            score,
            mean_score: policy::mean_score(&words),
            spans: self.spans.clone(),
            attempts: cost.attempts,
            extra_tokens: cost.extra_tokens,
            alt_text,
            threshold: thresholds.for_answer(partial.text(), &words),
            ..GuardReport::new(mode, thresholds)
        }
    }

    /// Returns the low-reward spans that the text does not mark as uncertain.
    fn unhedged_spans(&self) -> Vec<Span> {
        self.spans
            .iter()
            .filter(|span| span.is_unhedged())
            .cloned()
            .collect()
    }

    /// Counts the tokens within `range` that belong to low-reward words, each once; 0 in modes that
    /// do not flag.
    fn flagged_tokens(&self, words: &[Word], range: Range<usize>) -> usize {
        if matches!(self.params.mode, Mode::Off | Mode::Score) {
            return 0;
        }
        let low = words.iter().filter(|word| word.is_flagged());
        let clip = |at: usize| at.clamp(range.start, range.end);
        let (_, count) = low.fold((range.start, 0), |(seen, n), w| {
            let (from, to) = (clip(w.tokens.start).max(seen), clip(w.tokens.end));
            (to.max(seen), n + to.saturating_sub(from))
        });
        count
    }
}

/// Result of a finished answer.
#[derive(Debug)]
pub(crate) struct AnswerSummary {
    pub(crate) completion_tokens: usize,
    pub(crate) guard: Option<GuardReport>,
}
