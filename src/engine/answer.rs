//! What the client is shown of an answer while it is written, and what is concluded in the end.
//! Knows no networks.

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

/// Whether an answer's tokens get rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scoring {
    Off,
    On,
    /// The scorer failed on the way; the answer is finished without it.
    Lost,
}

/// A place where words were doubted and others tried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RepairedSpan {
    /// Bytes of the text that stand there now.
    pub(crate) bytes: Range<usize>,
    /// What stood there before; `None`: it is what was written first.
    pub(crate) original: Option<String>,
    /// Lowest reward of what stands there.
    pub(crate) score: Option<f32>,
    /// What was tried and not taken.
    pub(crate) alternatives: Vec<Candidate>,
}

/// What was shown of an answer, and what is to be said about it.
#[derive(Debug)]
pub(crate) struct AnswerOutput {
    params: GuardParams,
    gate: Option<Arc<AnswerGate>>,
    scoring: Scoring,
    /// How likely a short answer is right, where that and not the rewards of its words says whether
    /// it is flagged.
    probability: Option<f32>,
    joiner: Option<Joiner>,
    /// Words that the joiner has seen.
    joined: usize,
    spans: Vec<Span>,
    /// Spans that went out.
    spans_sent: usize,
    /// Places that were repaired and are not shown yet, in order.
    edits: Vec<RepairedSpan>,
    repaired: bool,
    /// Tokens and bytes of text that went out.
    sent: (usize, usize),
}

/// What a repair cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RepairCost {
    /// Candidates that were begun.
    pub(crate) attempts: u32,
    /// Tokens decoded beyond those of the answer.
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

    /// Returns `true` if the scorer is to see this sequence.
    pub(crate) fn is_scored(&self) -> bool {
        self.scoring == Scoring::On
    }

    /// Goes on without the scorer: the answer will be `unscored`.
    pub(crate) fn lose_scorer(&mut self) {
        self.scoring = Scoring::Lost;
    }

    /// Tokens that went out: a repair cannot begin before.
    pub(crate) fn shown(&self) -> usize {
        self.sent.0
    }

    /// Notes a repair; what was noted about text behind its beginning is void.
    pub(crate) fn edit(&mut self, edit: RepairedSpan) {
        self.edits
            .retain(|earlier| earlier.bytes.start < edit.bytes.start);
        if let Some(earlier) = self.edits.last_mut() {
            earlier.bytes.end = earlier.bytes.end.min(edit.bytes.start);
        }
        self.edits.push(edit);
    }

    /// What may be shown of `draft` now and was not: up to the open word where words are scored, no
    /// further than `limit`, and never what could begin a stop string.
    pub(crate) fn release(&mut self, draft: &PartialAnswer, limit: usize) -> Option<Event> {
        let may_be_withheld = self.may_withhold() && draft.tokens().len() <= SHORT_ANSWER;
        if may_be_withheld || self.params.on_exhausted.rewrites().is_some() {
            return None;
        }
        let words = draft.words();
        let (tokens, end) = draft.boundary(self.is_scored(), limit);
        if self.scoring != Scoring::Off {
            self.join(draft.text(), words, limit);
        }
        (tokens > self.sent.0).then(|| self.delta(draft, draft.text(), tokens, end))
    }

    /// Ends the answer: the last delta, where anything is left to say, and the summary. `draft` is
    /// closed. `blocked` is the score of what was cut off.
    pub(crate) fn finish(
        &mut self,
        draft: &PartialAnswer,
        cost: RepairCost,
        blocked: Option<f32>,
    ) -> (Option<Event>, AnswerSummary) {
        let text = draft.text();
        let probability = if blocked.is_none() {
            self.judge(draft)
        } else {
            None
        };
        if let Some((probability, false)) = probability {
            return self.withhold(draft, cost, probability);
        }
        // What may be withheld and is given has been judged as a whole.
        let decides = self.may_withhold() && self.joined == 0 && self.params.mode != Mode::Block;
        self.probability = probability
            .filter(|_| decides)
            .map(|(probability, _)| probability);
        if self.scoring != Scoring::Off {
            self.join(text, &self.words(draft), usize::MAX);
        }
        if let Some(joiner) = &mut self.joiner {
            self.spans.extend(joiner.finish(text));
        }
        self.place_edits(text, text.len() + 1);
        if let Some(score) = blocked {
            let end = text.chars().count();
            self.spans
                .push(Span::new(end..end, "", score, Action::Blocked));
        }
        let rewritten = self.rewrite(text, draft);
        let text = rewritten.as_deref().unwrap_or(text);
        let tokens = draft.contributing().max(self.sent.0);
        let rest =
            tokens > self.sent.0 || text.len() > self.sent.1 || self.spans.len() > self.spans_sent;
        let delta = rest.then(|| self.delta(draft, text, tokens, text.len()));
        let guard = (self.scoring != Scoring::Off).then(|| {
            let report = self.report(draft, text, tokens, cost, blocked);
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

    /// The words of a draft. Where the probability of the whole is what counts, it is the reward of
    /// each.
    fn words<'d>(&self, draft: &'d PartialAnswer) -> Cow<'d, [Word]> {
        let Some(probability) = self.probability else {
            return Cow::Borrowed(draft.words());
        };
        let judged = |word: &Word| Word {
            score: word.score.map(|_| probability),
            ..word.clone()
        };
        Cow::Owned(draft.words().iter().map(judged).collect())
    }

    fn may_withhold(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.may_withhold())
    }

    /// Returns how likely a short answer is right, and whether it is given. One of which something
    /// went out is not judged where it might be withheld.
    fn judge(&self, draft: &PartialAnswer) -> Option<(f32, bool)> {
        let tokens = draft.contributing();
        let is_open = self.sent == (0, 0) || !self.may_withhold();
        let is_short = (1..=SHORT_ANSWER).contains(&tokens);
        let gate = self
            .gate
            .as_ref()
            .filter(|_| is_open && is_short && self.is_scored())?;
        let (_, score) = policy::judge(self.params.mode, draft.words(), draft.rewarded() >= tokens);
        let log_probability = draft
            .tokens()
            .iter()
            .take(tokens)
            .map(|token| token.token.logprob)
            .sum();
        Some(gate.judge(&WrittenAnswer {
            text: draft.text(),
            score,
            log_probability,
        }))
    }

    /// Says that it cannot be told, in place of an answer.
    fn withhold(
        &mut self,
        draft: &PartialAnswer,
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
            withheld: Some(draft.text().to_owned()),
            answer_probability: Some(probability),
            attempts: cost.attempts,
            extra_tokens: cost.extra_tokens + draft.contributing() as u32,
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

    /// Says what was repaired within the first `end` bytes of text: on the doubted span that is
    /// still there, or as a span of its own.
    fn place_edits(&mut self, text: &str, end: usize) {
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
            // A later cut may have left less of the text than there was.
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

    /// The answer with its doubted words hedged or left out, where that is asked for and there are
    /// any; its spans move with it.
    fn rewrite(&mut self, text: &str, draft: &PartialAnswer) -> Option<String> {
        let (style, action) = self.params.on_exhausted.rewrites()?;
        let unsaid = self.unsaid_spans();
        if unsaid.is_empty() {
            return None;
        }
        let rendered = unfamiliar_statement(text, &unsaid, style, &draft.likely_objects())
            .unwrap_or_else(|| render(text, &unsaid, style));
        let mut places = rendered.spans.iter().cloned();
        for span in &mut self.spans {
            let place = match span.is_unhedged() {
                true => {
                    span.action = action;
                    span.original = Some(std::mem::take(&mut span.text));
                    places.next().unwrap_or_default()
                }
                false => rendered.new_range(span.start..span.end),
            };
            (span.start, span.end) = (place.start, place.end);
        }
        // What is said in the place of doubted words can take in words beside them, which a repair
        // had written: they are the former's now.
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

    /// Returns what goes out of `text`: the draft's, or what was made of it.
    fn delta(&mut self, draft: &PartialAnswer, text: &str, tokens: usize, end: usize) -> Event {
        self.place_edits(draft.text(), end);
        let (first, start) = std::mem::replace(&mut self.sent, (tokens, end));
        let out: Vec<GeneratedToken> = draft.tokens()[first..tokens].to_vec();
        let spans = self.spans[self.spans_sent..].to_vec();
        self.spans_sent = self.spans.len();
        let flagged_tokens = self.flagged_tokens(&self.words(draft), first..tokens);
        Event::Delta {
            text: text[start..end].to_owned(),
            tokens: out,
            spans,
            flagged_tokens,
        }
    }

    fn report(
        &self,
        draft: &PartialAnswer,
        text: &str,
        tokens: usize,
        cost: RepairCost,
        blocked: Option<f32>,
    ) -> GuardReport {
        let GuardParams {
            mode, thresholds, ..
        } = self.params;
        let words = self.words(draft);
        let complete = self.is_scored() && draft.rewarded() >= tokens;
        let (verdict, score) = policy::judge(mode, &words, complete);
        let (verdict, score) = match (verdict, blocked) {
            (_, Some(low)) => (
                Verdict::Blocked,
                Some(score.map_or(low, |score| score.min(low))),
            ),
            (Verdict::Clean, None) if self.repaired => (Verdict::Repaired, score),
            // What was doubted is not said any more.
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
            .then(|| alt_text(text, &self.unsaid_spans(), RenderStyle::Hedged));
        GuardReport {
            verdict,
            score,
            mean_score: policy::mean_score(&words),
            spans: self.spans.clone(),
            attempts: cost.attempts,
            extra_tokens: cost.extra_tokens,
            alt_text,
            threshold: thresholds.for_answer(draft.text(), &words),
            ..GuardReport::new(mode, thresholds)
        }
    }

    /// The spans whose doubt the answer does not tell.
    fn unsaid_spans(&self) -> Vec<Span> {
        self.spans
            .iter()
            .filter(|span| span.is_unhedged())
            .cloned()
            .collect()
    }

    /// Tokens among `these` of low-reward words, each counted once, where such words are marked.
    fn flagged_tokens(&self, words: &[Word], these: Range<usize>) -> usize {
        if matches!(self.params.mode, Mode::Off | Mode::Score) {
            return 0;
        }
        let low = words.iter().filter(|word| word.is_flagged());
        let clip = |at: usize| at.clamp(these.start, these.end);
        let (_, count) = low.fold((these.start, 0), |(seen, n), w| {
            let (from, to) = (clip(w.tokens.start).max(seen), clip(w.tokens.end));
            (to.max(seen), n + to.saturating_sub(from))
        });
        count
    }
}

/// What a complete answer came to.
#[derive(Debug)]
pub(crate) struct AnswerSummary {
    pub(crate) completion_tokens: usize,
    pub(crate) guard: Option<GuardReport>,
}
