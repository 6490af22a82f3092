//! Repairs of one answer: at a low-reward word, candidates are decoded side by side in slots of
//! their own, and the best one continues.

use std::collections::VecDeque;

use super::{
    FinishReason, GeneratedToken, Sampling,
    answer::{AnswerOutput, RepairCost, RepairedSpan},
    track::{DecodingContext, DecodingTrack, RowOutputs},
    versions::{
        block_start, byte_range, candidate_sampling, first_flagged, first_word, is_beyond_repair,
        log_probability, rejected_candidate, sentence, version,
    },
};
use crate::guard::{
    Candidate, Mode,
    render::is_whole,
    repair::{
        ATTEMPTS, CandidateStart, RankingWeights, RepairAttempt, RepairStart, RepairVersion,
        STATEMENT_TOKENS, repair_start,
    },
    sentence::fault,
};

/// Cache copy to perform before the next step: slot `to` becomes a copy of the first `len`
/// positions of slot `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheFork {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) len: usize,
}

/// A low-reward word under repair.
struct RepairPoint {
    /// Text of the lead up to the end of the word, before the repair.
    text: String,
    /// Token after the word.
    end: usize,
    /// Index of the first word of its sentence.
    sentence: usize,
    /// Original text of that sentence.
    original_text: String,
    /// Next rung of the repair ladder.
    rung: usize,
    /// Earliest token and byte where candidates differ from the lead.
    origin: Option<(usize, usize)>,
    /// The lead that a candidate replaced.
    replaced: Option<DecodingTrack>,
    /// First tokens already tried, with their positions.
    tried: Vec<(usize, u32)>,
    alternatives: Vec<Candidate>,
}

impl RepairPoint {
    fn is_changed(&self) -> bool {
        self.replaced.is_some()
    }
}

/// The original sentence while a regenerated one is decoded; the regenerated one is kept only if it
/// ends well.
struct OriginalSentence {
    track: DecodingTrack,
    /// Repair point to resume, with the rungs not tried yet, if the regenerated sentence is
    /// rejected.
    point: RepairPoint,
    /// Value of [`Repairs::settled`] for the original.
    settled: usize,
    /// Repairs recorded for the regenerated sentence.
    edits: Vec<RepairedSpan>,
}

impl OriginalSentence {
    /// Returns the decode steps spent on the original's tokens; the last token of an unfinished one
    /// is not fed yet.
    fn decode_steps(&self) -> usize {
        self.track
            .partial
            .tokens()
            .len()
            .saturating_sub(usize::from(!self.track.complete))
    }
}

/// State of the repairs of one answer.
pub(crate) struct Repairs {
    mode: Mode,
    weights: RankingWeights,
    /// Most tokens to decode beyond the answer's own.
    budget: usize,
    /// Part of the budget that is reserved for a statement of what the image shows; 0 disables
    /// statements.
    statement_budget: usize,
    /// Tokens decoded so far, candidates included.
    decoded: usize,
    attempts: u32,
    /// Tokens of the lead whose words are not repaired again.
    settled: usize,
    point: Option<RepairPoint>,
    original: Option<OriginalSentence>,
    forks: Vec<DecodingTrack>,
    free_slots: Vec<usize>,
    cache_forks: Vec<CacheFork>,
    /// Score of the text that was cut off.
    pub(crate) blocked: Option<f32>,
    /// Tokens that were cut off; they do not count as extra.
    cut: usize,
}

impl Repairs {
    pub(crate) fn new(
        mode: Mode,
        budget: usize,
        weights: RankingWeights,
        free_slots: Vec<usize>,
    ) -> Self {
        Self {
            mode,
            weights,
            budget,
            statement_budget: 0,
            decoded: 0,
            attempts: 0,
            settled: 0,
            point: None,
            original: None,
            forks: Vec::new(),
            free_slots,
            cache_forks: Vec::new(),
            blocked: None,
            cut: 0,
        }
    }

    /// Enables statements: reserves a part of the budget, and holds sentences back until they end.
    pub(crate) fn with_statements(self, states: bool) -> Self {
        Self {
            statement_budget: if states {
                STATEMENT_TOKENS.min(self.budget / 3)
            } else {
                0
            },
            ..self
        }
    }

    /// Returns the candidates that the next step decodes instead of the lead.
    pub(crate) fn active(&self) -> impl Iterator<Item = &DecodingTrack> {
        self.forks.iter().filter(|fork| !self.is_done(fork))
    }

    /// Takes the cache copies to perform before the next step.
    pub(crate) fn take_cache_forks(&mut self) -> Vec<CacheFork> {
        std::mem::take(&mut self.cache_forks)
    }

    pub(crate) fn cost(&self, answer_tokens: usize) -> RepairCost {
        RepairCost {
            attempts: self.attempts,
            extra_tokens: self.decoded.saturating_sub(answer_tokens + self.cut) as u32,
        }
    }

    /// Counts a decoded token of the lead.
    pub(crate) fn count_decoded(&mut self) {
        self.decoded += 1;
    }

    /// Takes the step's outputs for [`Self::active`], in that order.
    pub(crate) fn take<'a>(
        &mut self,
        computed: impl Iterator<Item = RowOutputs<'a>>,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<()> {
        let active: Vec<usize> = (0..self.forks.len())
            .filter(|&i| !self.is_done(&self.forks[i]))
            .collect();
        for (i, computed) in active.into_iter().zip(computed) {
            self.decoded += 1;
            self.forks[i].take(computed, context)?;
        }
        Ok(())
    }

    /// Drops all candidates when the answer continues without its scorer. Returns `true` if `lead`
    /// was replaced by the original of an unfinished regenerated sentence.
    pub(crate) fn give_up(&mut self, lead: &mut DecodingTrack) -> bool {
        let replaced = self.point.take().and_then(|point| point.replaced);
        let original = self
            .original
            .take()
            .map(|original| original.track)
            .or(replaced);
        self.forks.clear();
        self.cache_forks.clear();
        let is_other = original.is_some();
        original.into_iter().for_each(|original| *lead = original);
        is_other
    }

    /// Returns the first word from token `at` on that needs repair: flagged, or repeating its
    /// sentence.
    fn first_flaw(&self, lead: &DecodingTrack, at: usize) -> Option<usize> {
        let words = lead.partial.words();
        let repeated = lead
            .partial
            .repetition_at()
            .filter(|_| self.mode == Mode::Regenerate);
        let repeated = repeated.filter(|&i| words.get(i).is_some_and(|word| word.tokens.end > at));
        first_flagged(lead, at).into_iter().chain(repeated).min()
    }

    /// Returns `true` if words of the lead may still be repaired.
    pub(crate) fn may_change(&self, lead: &DecodingTrack) -> bool {
        self.original.is_some()
            || self.point.is_some()
            || self.first_flaw(lead, self.settled).is_some()
    }

    /// Returns the length in bytes of the lead's text that may be sent: without words that may
    /// still be repaired and without the last `window` words, which later repairs may reach; in
    /// mode `block`, or if statements are enabled, whole sentences only.
    pub(crate) fn limit(&self, lead: &DecodingTrack, window: usize) -> usize {
        if self.original.is_some() || self.point.is_some() {
            return 0;
        }
        let words = lead.partial.words();
        let flawed = self.first_flaw(lead, self.settled);
        let (end, held) = flawed.map_or((words.len(), window), |i| (i + 1, window.max(1)));
        let open = end
            .checked_sub(held)
            .map(|i| words.get(i).map_or(usize::MAX, |word| word.bytes.start))
            .unwrap_or(0);
        if self.mode != Mode::Block && self.statement_budget == 0 {
            return open;
        }
        let last = words.len().checked_sub(1).and_then(|last| {
            words.get(repair_start(
                RepairStart::Sentence,
                lead.partial.text(),
                words,
                last,
            ))
        });
        open.min(last.map_or(0, |word| word.bytes.start))
    }

    /// Returns `true` if a candidate can be judged without decoding further.
    fn is_done(&self, fork: &DecodingTrack) -> bool {
        let at = self
            .point
            .as_ref()
            .and_then(|point| point.origin)
            .map_or(0, |origin| origin.0);
        let version = version(fork, at, &[]);
        fork.complete
            || version.len() >= self.weights.horizon && !fork.is_forced()
            || !version.passes()
            || self
                .point
                .as_ref()
                .is_some_and(|point| is_beyond_repair(&point.original_text, point.sentence, fork))
    }

    /// Judges finished candidates and starts new ones at low-reward words of the lead. If nothing
    /// is [`Self::active`] afterwards, the lead continues, and its text is final unless
    /// [`Self::may_change`].
    pub(crate) fn settle(
        &mut self,
        lead: &mut DecodingTrack,
        answer: &mut AnswerOutput,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<()> {
        loop {
            if !self.forks.is_empty() {
                let active = self.active().count();
                if active > 0 && active <= self.remaining_budget() {
                    return Ok(());
                }
                self.judge(lead, &context.request.sampling);
            }
            if self.point.is_none() {
                self.check_regenerated(lead, answer);
            }
            if !self.open_point(lead) {
                return Ok(());
            }
            if !self.begin(lead, answer.shown(), context)? {
                self.close_point(lead, answer);
                if self.blocked.is_some() {
                    return Ok(());
                }
            }
        }
    }

    /// Returns the tokens that may still be decoded for candidates.
    fn remaining_budget(&self) -> usize {
        let own_tokens = self
            .point
            .as_ref()
            .and_then(|point| point.origin)
            .map_or(0, |origin| origin.0);
        let own_tokens = self.original.as_ref().map_or(own_tokens, |original| {
            own_tokens.min(original.decode_steps())
        });
        let is_stating = self
            .point
            .as_ref()
            .is_none_or(|point| point.rung == ATTEMPTS.len());
        let held_back = if is_stating { 0 } else { self.statement_budget };
        (self.budget + own_tokens).saturating_sub(self.decoded + held_back)
    }

    /// Opens a repair point at the first flawed word, unless one is open. Returns `false` if no
    /// word is flawed or its sentence has not ended: a sentence is repaired only once its original
    /// is complete.
    fn open_point(&mut self, lead: &DecodingTrack) -> bool {
        if self.point.is_some() {
            return true;
        }
        let (text, words) = (lead.partial.text(), lead.partial.words());
        let Some(at) = self.first_flaw(lead, self.settled) else {
            return false;
        };
        let original = self
            .original
            .as_ref()
            .map(|original| original.point.original_text.clone());
        let Some(original_text) =
            original.or_else(|| sentence(lead, at).map(|sentence| sentence.text.to_owned()))
        else {
            return false;
        };
        self.point = Some(RepairPoint {
            text: text[..words[at].bytes.end].to_owned(),
            end: words[at].tokens.end,
            sentence: repair_start(RepairStart::Sentence, text, words, at),
            original_text,
            rung: 0,
            origin: None,
            replaced: None,
            tried: Vec::new(),
            alternatives: Vec::new(),
        });
        true
    }

    /// Returns the flawed word at the open repair point, if the lead still has one there.
    fn flawed_word(&self, lead: &DecodingTrack) -> Option<usize> {
        let changed = self.point.as_ref().filter(|point| point.is_changed());
        self.first_flaw(
            lead,
            changed
                .and_then(|point| point.origin)
                .map_or(self.settled, |origin| origin.0),
        )
    }

    /// Checks a regenerated sentence: keeps it if it ended well, and restores the original if it
    /// cannot.
    fn check_regenerated(&mut self, lead: &mut DecodingTrack, answer: &mut AnswerOutput) {
        let Some(original) = &self.original else {
            return;
        };
        let ended = sentence(lead, original.point.sentence);
        let pending = self
            .first_flaw(lead, self.settled)
            .and_then(|at| lead.partial.words().get(at))
            .map(|word| word.bytes.start);
        let next = ended
            .and_then(|ended| {
                lead.partial
                    .words()
                    .iter()
                    .find(|word| word.bytes.start >= ended.end())
            })
            .map(|word| word.tokens.start);
        let was_last = original.track.end == Some(FinishReason::Stop)
            && sentence(&original.track, original.point.sentence)
                .is_some_and(|old| old.end() >= original.track.partial.text().trim_end().len());
        let keeps = match (sentence(&original.track, original.point.sentence), ended) {
            (Some(_), Some(new)) if pending.is_some_and(|byte| byte < new.end()) => return,
            (Some(old), Some(new)) => fault(&old, &new, self.weights.gain).is_none(),
            (_, None)
                if !is_beyond_repair(
                    &original.point.original_text,
                    original.point.sentence,
                    lead,
                ) =>
            {
                if self.decoded < self.budget + original.decode_steps() {
                    return;
                }
                false
            }
            _ => false,
        };
        let Some(OriginalSentence {
            track,
            mut point,
            settled,
            edits,
        }) = self.original.take()
        else {
            return;
        };
        if keeps {
            edits.into_iter().for_each(|edit| answer.edit(edit));
            // The original sentence ended the answer; drop what the policy wrote after the new one.
            if let (Some(next), true) = (next, was_last) {
                self.cut += lead.partial.tokens().len().saturating_sub(next);
                lead.end_at(next, answer.shown(), FinishReason::Stop);
            }
            self.free_slots.push(track.slot);
            return;
        }
        let dropped = std::mem::replace(lead, track);
        self.free_slots.push(dropped.slot);
        self.settled = settled;
        point.alternatives.extend(
            point
                .origin
                .and_then(|origin| rejected_candidate(&dropped, origin)),
        );
        self.point = Some(point);
    }

    /// Starts the candidates of the next rung that has any. Returns `false` if the word is settled
    /// or nothing is left to try.
    fn begin(
        &mut self,
        lead: &mut DecodingTrack,
        shown: usize,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<bool> {
        let Some(at) = self.flawed_word(lead) else {
            return Ok(false);
        };
        loop {
            let Some(point) = &mut self.point else {
                return Ok(false);
            };
            let Some(rung) = ATTEMPTS.get(point.rung).copied() else {
                return Ok(false);
            };
            point.rung += 1;
            let words = lead.partial.words();
            let from = repair_start(rung.start, lead.partial.text(), words, at);
            let Some(from) = (from..=at).find(|&i| words[i].tokens.start >= shown) else {
                return Ok(false);
            };
            let origin = (words[from].tokens.start, words[from].bytes.start);
            // All candidates are compared from the earliest start.
            point.origin = Some(point.origin.map_or(origin, |earlier| earlier.min(origin)));
            if self.branch(lead, rung, origin, shown, context)? {
                return Ok(true);
            }
        }
    }

    /// Starts candidates at `origin`, as many as slots and budget allow.
    fn branch(
        &mut self,
        lead: &DecodingTrack,
        rung: RepairAttempt,
        origin: (usize, usize),
        shown: usize,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<bool> {
        let (at, byte) = origin;
        // A candidate that ends at once decodes nothing, so the number of attempts is bounded too.
        let remaining = self.remaining_budget();
        let max_candidates = self
            .weights
            .candidates
            .min(self.free_slots.len())
            .min(remaining)
            .min(self.budget.saturating_sub(self.attempts as usize));
        let Some((alternatives, point)) = lead
            .partial
            .alternatives(at)
            .cloned()
            .zip(self.point.as_mut())
        else {
            return Ok(false);
        };
        let written = &lead.partial.tokens()[at];
        let mut openings = Vec::new();
        let mut forced = VecDeque::new();
        let (text, words) = (lead.partial.text(), lead.partial.words());
        let sentence_start = words
            .get(point.sentence)
            .map_or(0, |word| word.bytes.start)
            .min(byte);
        let is_short = !is_whole(&point.original_text);
        let leaves_whole = |text: &str| is_short || is_whole(&format!("{}.", text.trim_end()));
        if rung.start != RepairStart::Word
            && words
                .iter()
                .skip(point.sentence)
                .any(|word| word.tokens.end <= at && !word.function)
            && leaves_whole(&text[sentence_start..byte])
        {
            openings.extend(
                alternatives
                    .ending
                    .filter(|&(id, _)| id != written.token.id)
                    .map(|opening| (Some(opening), 0)),
            );
        }
        match rung.candidates {
            CandidateStart::Sampled => {
                openings.extend((0..max_candidates).map(|number| (None, number)))
            }
            CandidateStart::NextBest => openings.extend(
                alternatives
                    .likely
                    .iter()
                    .map(|&opening| (Some(opening), 0)),
            ),
            CandidateStart::Stated => {
                let original = self
                    .original
                    .as_ref()
                    .map(|original| &original.track)
                    .or(point.replaced.as_ref())
                    .unwrap_or(lead);
                let likely = lead.partial.likely_objects();
                let can_state = self.statement_budget > 0 && byte == sentence_start && !is_short;
                let statement = sentence(original, point.sentence)
                    .filter(|_| can_state)
                    .and_then(|sentence| sentence.statement(&likely));
                let space = if byte > 0 && written.token.bytes.starts_with(b" ") {
                    " "
                } else {
                    ""
                };
                let tokens = statement.and_then(|statement| {
                    context
                        .vocabulary
                        .tokenizer
                        .encode_text(&format!("{space}{statement}"))
                        .ok()
                });
                forced = tokens
                    .filter(|tokens| tokens.len() <= remaining)
                    .unwrap_or_default()
                    .into();
                openings = forced
                    .pop_front()
                    .map(|id| (Some((id, log_probability(&alternatives, id))), 0))
                    .into_iter()
                    .collect();
            }
        }
        let mut begun = 0;
        for (opening, number) in openings {
            if begun == max_candidates {
                break;
            }
            let was_tried = |id: u32| id == written.token.id || point.tried.contains(&(at, id));
            let is_forced = rung.candidates == CandidateStart::Stated;
            if opening.is_some_and(|(id, logprob)| {
                !is_forced
                    && (was_tried(id)
                        || logprob < self.weights.floor
                            && Some((id, logprob)) != alternatives.ending)
            }) {
                continue;
            }
            let Some(slot) = self.free_slots.pop() else {
                break;
            };
            let sampling = candidate_sampling(
                &context.request.sampling,
                opening.is_none().then_some(number),
                self.attempts,
            );
            let mut fork = lead.fork(at, shown, slot, &sampling);
            let id = match opening {
                Some((id, _)) => id,
                None => fork.draw(&alternatives, context.vocabulary.size)?,
            };
            point.tried.push((at, id));
            let token = GeneratedToken {
                token: context
                    .vocabulary
                    .alternative(id, log_probability(&alternatives, id)),
                top: written.top.clone(),
                reward: None,
            };
            fork.write(token, Some(alternatives.clone()), context);
            fork.force(std::mem::take(&mut forced));
            self.cache_forks.push(CacheFork {
                from: lead.slot,
                to: slot,
                len: lead.position(at),
            });
            self.forks.push(fork);
            self.attempts += 1;
            begun += 1;
        }
        Ok(begun > 0)
    }

    /// Makes the best candidate the lead, if it beats the lead.
    fn judge(&mut self, lead: &mut DecodingTrack, sampling: &Sampling) {
        let Some(mut point) = self.point.take() else {
            return;
        };
        let (at, byte) = point.origin.unwrap_or_default();
        let value = |track: &DecodingTrack, end: usize| {
            let (words, tokens) = (track.partial.words(), track.partial.tokens());
            let end = end.min(tokens.len());
            let likely: Vec<f32> = tokens[at.min(end)..end]
                .iter()
                .map(|t| t.token.logprob)
                .collect();
            let words = &words[..words.partition_point(|word| word.tokens.start < end)];
            let version = RepairVersion {
                words,
                from: first_word(words, at),
                log_probabilities: &likely,
            };
            (version.passes(), version.value(&self.weights))
        };
        let original = self
            .original
            .as_ref()
            .map(|original| &original.track)
            .or(point.replaced.as_ref())
            .unwrap_or(lead);
        let before = sentence(original, point.sentence);
        let is_sound = |fork: &DecodingTrack| {
            let ended = before.as_ref().zip(sentence(fork, point.sentence));
            !is_beyond_repair(&point.original_text, point.sentence, fork)
                && ended.is_none_or(|(old, new)| fault(old, &new, self.weights.gain).is_none())
        };
        let mut best: Option<(usize, (bool, f32))> = None;
        for (i, fork) in self
            .forks
            .iter()
            .enumerate()
            .filter(|(_, fork)| is_sound(fork))
        {
            let quality = value(fork, usize::MAX);
            if best.is_none_or(|(_, old)| (quality.0, quality.1) > old) {
                best = Some((i, quality));
            }
        }
        // The lead is compared up to the low-reward word; a replacement, to its end.
        let end = if point.is_changed() {
            usize::MAX
        } else {
            point.end
        };
        if let Some((winner, (passes, quality))) = best
            && (passes || quality > value(lead, end).1)
        {
            let mut fork = self.forks.swap_remove(winner);
            fork.resample_with(sampling);
            fork.partial
                .mark_selected(at, 1 + point.tried.len(), self.weights.optimism);
            let old = std::mem::replace(lead, fork);
            match point.replaced {
                Some(_) => self.free_slots.push(old.slot),
                None => point.replaced = Some(old),
            }
        }
        for fork in self.forks.drain(..) {
            point
                .alternatives
                .extend(rejected_candidate(&fork, (at, byte)));
            self.free_slots.push(fork.slot);
        }
        self.point = Some(point);
    }

    /// Closes the repair point and records the outcome.
    fn close_point(&mut self, lead: &mut DecodingTrack, answer: &mut AnswerOutput) {
        let flawed = self.flawed_word(lead);
        let Some(mut point) = self.point.take() else {
            return;
        };
        let words = lead.partial.words();
        let settled = self.settled;
        self.settled = if point.is_changed() {
            words.last().map_or(0, |word| word.tokens.end)
        } else {
            settled.max(point.end)
        };
        if let (Mode::Block, Some(word)) = (self.mode, flawed.and_then(|i| words.get(i)).cloned()) {
            self.blocked = Some(word.score.unwrap_or(0.0));
            let (written, shown) = (lead.partial.tokens().len(), answer.shown());
            let mut at = block_start(lead, point.sentence).max(shown);
            lead.end_at(at, shown, FinishReason::ContentFilter);
            // Without its context a word may name another object and be flagged.
            while let Some(word) = first_flagged(lead, shown).filter(|_| at > shown) {
                let sentence = repair_start(
                    RepairStart::Sentence,
                    lead.partial.text(),
                    lead.partial.words(),
                    word,
                );
                at = block_start(lead, sentence).max(shown);
                lead.end_at(at, shown, FinishReason::ContentFilter);
            }
            self.cut = written.saturating_sub(at);
            return;
        }
        let Some((at, byte)) = point.origin else {
            return;
        };
        let version = version(lead, at, &[]);
        // The original span ends with its flagged word; a replacement, with its first content word.
        let rest = &words[version.from..];
        let claim = match flawed.filter(|_| !point.is_changed()) {
            Some(at) => at.checked_sub(version.from),
            None => rest.iter().position(|word| !word.function),
        };
        let previous_end = words[..version.from]
            .last()
            .map_or(0, |word| word.bytes.end);
        let bytes = byte_range(
            claim.map_or(rest, |claim| &rest[..=claim]),
            previous_end.min(byte),
        );
        let score = claim.and_then(|claim| rest[claim].score);
        let original = point
            .is_changed()
            .then(|| point.text.get(byte..).unwrap_or_default().to_owned());
        let edit = RepairedSpan {
            bytes,
            original,
            score,
            alternatives: point.alternatives.clone(),
        };
        match (&mut self.original, point.replaced.take()) {
            (Some(original), replaced) => {
                original.edits.push(edit);
                self.free_slots.extend(replaced.map(|track| track.slot));
            }
            (None, Some(track)) => {
                self.original = Some(OriginalSentence {
                    track,
                    point,
                    settled,
                    edits: vec![edit],
                })
            }
            (None, None) => answer.edit(edit),
        }
    }
}
