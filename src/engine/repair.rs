//! Repairs of one answer: where a word is doubted, other versions are written side by side in slots of their own, and the best goes on.

use std::ops::Range;

use super::{
    Sampling, Token,
    answer::{Answer, Cost, Edit},
    draft::Menu,
    track::{Computed, Context, Track},
};
use crate::guard::{
    Candidate, Mode,
    repair::{How, LADDER, Reach, Rung, Version, Weights, start, temperature},
    words::Word,
};

/// What a cache must do before the next step: make a slot a copy of the first positions of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Branch {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) len: usize,
}

/// A place where a word is doubted, while others are tried.
struct Place {
    /// What stood there first, up to the doubted word's end.
    text: String,
    /// The next rung of the ladder.
    rung: usize,
    /// Where versions begin to differ: token and byte.
    origin: Option<(usize, usize)>,
    changed: bool,
    /// First tokens that were tried, with their places.
    tried: Vec<(usize, u32)>,
    alternatives: Vec<Candidate>,
}

/// The repairs of one answer.
pub(crate) struct Repairs {
    mode: Mode,
    weights: Weights,
    /// Most tokens to decode beyond the answer's own.
    budget: usize,
    /// Tokens decoded for all versions.
    decoded: usize,
    attempts: u32,
    /// Tokens of the lead whose words are not looked at again.
    settled: usize,
    place: Option<Place>,
    forks: Vec<Track>,
    spare: Vec<usize>,
    branches: Vec<Branch>,
    /// Score of what was cut off.
    pub(crate) blocked: Option<f32>,
    /// Tokens that were cut off: they were the answer's own.
    cut: usize,
}

impl Repairs {
    pub(crate) fn new(mode: Mode, budget: usize, weights: Weights, spare: Vec<usize>) -> Self {
        Self {
            mode,
            weights,
            budget,
            decoded: 0,
            attempts: 0,
            settled: 0,
            place: None,
            forks: Vec::new(),
            spare,
            branches: Vec::new(),
            blocked: None,
            cut: 0,
        }
    }

    /// Versions that the next step computes in place of the lead.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Track> {
        self.forks.iter().filter(|fork| !self.is_done(fork))
    }

    /// What caches must do before the next step.
    pub(crate) fn branches(&mut self) -> Vec<Branch> {
        std::mem::take(&mut self.branches)
    }

    pub(crate) fn cost(&self, kept: usize) -> Cost {
        Cost { attempts: self.attempts, extra_tokens: self.decoded.saturating_sub(kept + self.cut) as u32 }
    }

    /// A token of the lead was decoded.
    pub(crate) fn decoded(&mut self) {
        self.decoded += 1;
    }

    /// Takes what the step computed for [`Self::active`], in that order.
    pub(crate) fn take<'a>(&mut self, computed: impl Iterator<Item = Computed<'a>>, context: Context<'_>) -> candle_core::Result<()> {
        let active: Vec<usize> = (0..self.forks.len()).filter(|&i| !self.is_done(&self.forks[i])).collect();
        for (i, computed) in active.into_iter().zip(computed) {
            self.decoded += 1;
            self.forks[i].take(computed, context)?;
        }
        Ok(())
    }

    /// Drops what is being tried, for an answer that goes on without its scorer.
    pub(crate) fn give_up(&mut self) {
        self.spare.extend(self.forks.drain(..).map(|fork| fork.slot));
        self.branches.clear();
        self.place = None;
    }

    /// Returns `true` if a version need not go on to be judged.
    fn is_done(&self, fork: &Track) -> bool {
        let at = self.place.as_ref().and_then(|place| place.origin).map_or(0, |origin| origin.0);
        let version = version(fork, at, &[]);
        fork.complete || version.len() >= self.weights.horizon || !version.passes()
    }

    /// Judges versions that are ready, and begins others where a word of the lead is doubted. When it returns and nothing is [`Self::active`], the lead
    /// may go on, and what it has written stays.
    pub(crate) fn settle(&mut self, lead: &mut Track, answer: &mut Answer, context: Context<'_>) -> candle_core::Result<()> {
        loop {
            if !self.forks.is_empty() {
                let active = self.active().count();
                if active > 0 && active <= self.left() {
                    return Ok(());
                }
                self.judge(lead, &context.request.sampling);
            }
            if !self.open_place(lead) {
                return Ok(());
            }
            if !self.begin(lead, answer.shown(), context)? {
                self.close_place(lead, answer);
                if self.blocked.is_some() {
                    return Ok(());
                }
            }
        }
    }

    /// Tokens that may still be decoded for versions which may be dropped.
    fn left(&self) -> usize {
        let kept = self.place.as_ref().and_then(|place| place.origin).map_or(0, |origin| origin.0);
        (self.budget + kept).saturating_sub(self.decoded)
    }

    /// Finds the first doubted word, unless a place is open already. False when nothing is doubted.
    fn open_place(&mut self, lead: &Track) -> bool {
        if self.place.is_some() {
            return true;
        }
        let Some(word) = first_doubted(lead, self.settled).and_then(|i| lead.draft.words().get(i)) else { return false };
        let text = lead.draft.text()[..word.bytes.end].to_owned();
        self.place = Some(Place { text, rung: 0, origin: None, changed: false, tried: Vec::new(), alternatives: Vec::new() });
        true
    }

    /// The doubted word of the open place, if the lead still has one there.
    fn doubted(&self, lead: &Track) -> Option<usize> {
        first_doubted(lead, self.place.as_ref().and_then(|place| place.origin).map_or(self.settled, |origin| origin.0))
    }

    /// Begins the versions of the next rung that has any. False when the place is settled or there is nothing left to try.
    fn begin(&mut self, lead: &mut Track, shown: usize, context: Context<'_>) -> candle_core::Result<bool> {
        let Some(at) = self.doubted(lead) else { return Ok(false) };
        loop {
            let Some(place) = &mut self.place else { return Ok(false) };
            let Some(rung) = LADDER.get(place.rung).copied() else { return Ok(false) };
            place.rung += 1;
            let words = lead.draft.words();
            let from = start(rung.reach, lead.draft.text(), words, at);
            let Some(from) = (from..=at).find(|&i| words[i].tokens.start >= shown) else { return Ok(false) };
            let origin = (words[from].tokens.start, words[from].bytes.start);
            // Versions are compared from the earliest place on.
            place.origin = Some(place.origin.map_or(origin, |earlier| earlier.min(origin)));
            if self.branch(lead, rung, origin, shown, context)? {
                return Ok(true);
            }
        }
    }

    /// Begins versions at `origin`, as many as slots and budget allow.
    fn branch(
        &mut self,
        lead: &Track,
        rung: Rung,
        origin: (usize, usize),
        shown: usize,
        context: Context<'_>,
    ) -> candle_core::Result<bool> {
        let (at, _) = origin;
        // A version that ends at once decodes nothing: attempts have the same bound of their own.
        let most = self.weights.candidates.min(self.spare.len()).min(self.left()).min(self.budget.saturating_sub(self.attempts as usize));
        let Some((menu, place)) = lead.draft.menu(at).cloned().zip(self.place.as_mut()) else { return Ok(false) };
        let written = &lead.draft.tokens()[at];
        let mut openings = Vec::new();
        if rung.reach != Reach::Word && lead.draft.words().iter().any(|word| word.tokens.end <= at && !word.function) {
            openings.extend(menu.ending.filter(|&(id, _)| id != written.token.id).map(|opening| (Some(opening), 0)));
        }
        match rung.how {
            How::Sampled => openings.extend((0..most).map(|number| (None, number))),
            How::NextBest => openings.extend(menu.likely.iter().map(|&opening| (Some(opening), 0))),
        }
        let mut begun = 0;
        for (opening, number) in openings {
            if begun == most {
                break;
            }
            let tried = |id: u32| id == written.token.id || place.tried.contains(&(at, id));
            if opening.is_some_and(|(id, logprob)| tried(id) || (logprob < self.weights.floor && Some((id, logprob)) != menu.ending)) {
                continue;
            }
            let Some(slot) = self.spare.pop() else { break };
            let sampling = warmed(&context.request.sampling, opening.is_none().then_some(number), self.attempts);
            let mut fork = lead.fork(at, shown, slot, &sampling);
            let id = match opening {
                Some((id, _)) => id,
                None => fork.draw(&menu, context.vocabulary.size)?,
            };
            place.tried.push((at, id));
            let token =
                Token { token: context.vocabulary.alternative(id, log_probability(&menu, id)), top: written.top.clone(), reward: None };
            fork.write(token, Some(menu.clone()), context);
            self.branches.push(Branch { from: lead.slot, to: slot, len: lead.position(at) });
            self.forks.push(fork);
            self.attempts += 1;
            begun += 1;
        }
        Ok(begun > 0)
    }

    /// Makes the best version the lead.
    fn judge(&mut self, lead: &mut Track, sampling: &Sampling) {
        let Some(place) = &mut self.place else { return };
        let (at, byte) = place.origin.unwrap_or_default();
        let value = |track: &Track| {
            let likely: Vec<f32> = track.draft.tokens()[at.min(track.draft.tokens().len())..].iter().map(|t| t.token.logprob).collect();
            let version = version(track, at, &likely);
            (version.passes(), version.value(&self.weights))
        };
        let mut best: Option<(usize, (bool, f32))> = None;
        for (i, fork) in self.forks.iter().enumerate() {
            let worth = value(fork);
            if best.is_none_or(|(_, old)| (worth.0, worth.1) > old) {
                best = Some((i, worth));
            }
        }
        if let Some((winner, (passes, worth))) = best
            && (passes || worth > value(lead).1)
        {
            std::mem::swap(lead, &mut self.forks[winner]);
            lead.sample_as(sampling);
            place.changed = true;
        }
        for fork in self.forks.drain(..) {
            let claims = version(&fork, at, &[]);
            let text = fork.draft.text().get(byte..).unwrap_or_default().trim().to_owned();
            if !text.is_empty() && claims.words.len() > claims.from {
                place.alternatives.push(Candidate { text, score: claims.score() });
            }
            self.spare.push(fork.slot);
        }
    }

    /// The place is settled, for better or worse.
    fn close_place(&mut self, lead: &mut Track, answer: &mut Answer) {
        let doubted = self.doubted(lead);
        let Some(place) = self.place.take() else { return };
        let words = lead.draft.words();
        self.settled = words.last().map_or(0, |word| word.tokens.end);
        if let (Mode::Block, Some(word)) = (self.mode, doubted.and_then(|i| words.get(i)).cloned()) {
            self.blocked = Some(word.reward.unwrap_or(0.0));
            let (written, shown) = (lead.draft.tokens().len(), answer.shown());
            let mut at = word.tokens.start.max(shown);
            lead.block(at, shown);
            // Without what followed it a word may name something else, which is doubted.
            while let Some(word) = first_doubted(lead, shown).and_then(|i| lead.draft.words().get(i)).filter(|_| at > shown) {
                at = word.tokens.start.max(shown);
                lead.block(at, shown);
            }
            self.cut = written.saturating_sub(at);
            return;
        }
        let Some((at, byte)) = place.origin else { return };
        let version = version(lead, at, &[]);
        // As what stood there ends with its doubted claim, so does what stands there now with its first.
        let rest = &words[version.from..];
        let claim = rest.iter().position(|word| !word.function);
        let bytes = span_of(lead.draft.text(), claim.map_or(rest, |claim| &rest[..=claim]), byte);
        let score = claim.and_then(|claim| rest[claim].reward);
        let original = place.changed.then(|| place.text.get(byte..).unwrap_or_default().to_owned());
        answer.edit(Edit { bytes, original, score, alternatives: place.alternatives });
    }
}

fn span_of(text: &str, words: &[Word], byte: usize) -> Range<usize> {
    let at = byte.min(text.len());
    words.first().zip(words.last()).map_or(at..at, |(first, last)| first.bytes.start..last.bytes.end)
}

/// A track from token `at` on. Its first word may begin before: a hyphen makes one word of two.
fn version<'a>(track: &'a Track, at: usize, log_probabilities: &'a [f32]) -> Version<'a> {
    let words = track.draft.words();
    Version { words, from: words.partition_point(|word| word.tokens.end <= at), log_probabilities }
}

/// The first doubted word that token `at` or a later one writes.
fn first_doubted(track: &Track, at: usize) -> Option<usize> {
    track.draft.words().iter().position(|word| word.tokens.end > at && word.doubted())
}

fn log_probability(menu: &Menu, id: u32) -> f32 {
    let found = menu.likely.iter().chain(&menu.ending).find(|(likely, _)| *likely == id);
    found.map_or(f32::NEG_INFINITY, |(_, logprob)| *logprob)
}

/// How a version is sampled: as the answer is, or warmer, from a seed that no other version has.
fn warmed(sampling: &Sampling, number: Option<usize>, attempt: u32) -> Sampling {
    let temperature = number.map_or(sampling.temperature, |number| temperature(sampling.temperature, number));
    let seed = sampling.seed ^ (u64::from(attempt) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Sampling { temperature, seed, ..sampling.clone() }
}
