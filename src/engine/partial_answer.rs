//! Text of one continuation of an answer: takes tokens and rewards, yields words. Independent of
//! the networks and of the client.

use std::{ops::Range, sync::Arc};

use super::{GeneratedToken, stop::StopStrings};
use crate::{
    guard::{
        Thresholds,
        repair::{RepairStart, correct_selection_bias, repair_start},
        sentence::repeats,
        words::{Transcript, Word},
    },
    reward::{
        TokenReading,
        finish::{FinishedReward, Finisher, ScoredText},
    },
};

/// Likely alternatives to a token, recorded when it was sampled.
#[derive(Debug, Default)]
pub(crate) struct TokenAlternatives {
    /// Most likely tokens and their log-probabilities, best first.
    pub(crate) likely: Vec<(u32, f32)>,
    /// Most likely token that ends the answer: end of sequence, or a full stop.
    pub(crate) ending: Option<(u32, f32)>,
}

/// A continuation of an answer during decoding.
#[derive(Debug, Clone)]
pub(crate) struct PartialAnswer {
    thresholds: Thresholds,
    /// Adjusts rewards by image evidence; without it, the scorer's rewards are final.
    finisher: Option<Arc<Finisher>>,
    transcript: Transcript,
    stop: StopStrings,
    tokens: Vec<GeneratedToken>,
    /// Alternatives of each token; empty if repairs are off.
    alternatives_by_token: Vec<Arc<TokenAlternatives>>,
    /// The scorer's rewards of the leading tokens.
    rewards: Vec<f32>,
    /// Log-probabilities of the leading tokens under the scorer's own model, if it has one.
    log_probabilities: Vec<f32>,
    /// Closed words that have rewards.
    words: Vec<Word>,
    /// Number of leading words whose rewards are final.
    finished: usize,
    /// `true` if the next word's final reward depends on the word after it.
    awaits_next: bool,
    /// Words already sent before a rollback; their rewards stay final.
    shown: Vec<Word>,
    /// First word that repeats earlier text of its sentence; only if repairs are on.
    repetition_at: Option<usize>,
    /// Token ranges that were selected by reward, each with the number of candidates.
    chosen: Vec<(Range<usize>, usize)>,
    /// Correction for selecting the best of several rewards, in logits.
    optimism: f32,
}

impl PartialAnswer {
    pub(crate) fn new(
        thresholds: Thresholds,
        stop: StopStrings,
        finisher: Option<Arc<Finisher>>,
    ) -> Self {
        Self {
            thresholds,
            finisher,
            transcript: Transcript::default(),
            stop,
            tokens: Vec::new(),
            alternatives_by_token: Vec::new(),
            rewards: Vec::new(),
            log_probabilities: Vec::new(),
            words: Vec::new(),
            finished: 0,
            awaits_next: false,
            shown: Vec::new(),
            repetition_at: None,
            chosen: Vec::new(),
            optimism: 0.0,
        }
    }

    /// Appends a token. Returns `true` if it completes a stop string; the text then ends before it.
    pub(crate) fn push(
        &mut self,
        token: GeneratedToken,
        alternatives: Option<Arc<TokenAlternatives>>,
    ) -> bool {
        self.transcript.push(&token.token.bytes);
        self.tokens.push(token);
        self.alternatives_by_token.extend(alternatives);
        let cut = self.stop.find(self.transcript.text());
        if cut.is_some() {
            self.transcript.close(cut);
        }
        cut.is_some()
    }

    /// Sets the scorer's reading of the first token without one.
    pub(crate) fn read(&mut self, reading: TokenReading) {
        if let Some(token) = self.tokens.get_mut(self.rewards.len()) {
            token.reward = Some(reading.reward);
        }
        self.rewards.push(reading.reward);
        self.log_probabilities.extend(reading.log_probability);
    }

    /// Returns the log-probability of a token under the scorer's own model, if it has one, or under
    /// the policy.
    pub(crate) fn log_probability(&self, token: usize) -> f32 {
        let own = self.log_probabilities.get(token).copied();
        let policy = || self.tokens.get(token).map(|token| token.token.logprob);
        own.or_else(policy).unwrap_or(0.0)
    }

    /// Reads the closed words that have rewards.
    pub(crate) fn read_words(&mut self) {
        let end = self.safe_len();
        self.read_within(Some(end));
    }

    /// Ends the text and closes the open word.
    pub(crate) fn close(&mut self) {
        self.transcript.close(None);
        self.read_within(None);
    }

    fn read_within(&mut self, within: Option<usize>) {
        while let Some(word) = self.transcript.next_word(&self.rewards, within) {
            self.words.push(word);
        }
        while self.finish_word(within.is_none()) {}
    }

    /// Finalizes the reward of the next word. Returns `false` if there is no such word, or its
    /// reward depends on a word to come.
    fn finish_word(&mut self, whole: bool) -> bool {
        let at = self.finished;
        let Some(word) = self.words.get(at) else {
            return false;
        };
        let tried = self.candidate_count(&word.tokens);
        let shown = self
            .shown
            .get(at)
            .filter(|shown| shown.bytes == word.bytes)
            .cloned();
        let finish = if shown.is_some() {
            FinishedReward::Unchanged
        } else {
            self.finish(whole)
        };
        self.awaits_next = finish == FinishedReward::Pending;
        let Some(word) = self
            .words
            .get_mut(at)
            .filter(|_| finish != FinishedReward::Pending)
        else {
            return false;
        };
        if let FinishedReward::Reward(reward) = finish {
            word.score = Some(reward);
            self.tokens
                .iter_mut()
                .take(word.tokens.end)
                .skip(word.tokens.start)
                .for_each(|token| token.reward = Some(reward));
        }
        word.threshold = self.thresholds.for_word(self.transcript.text(), word);
        word.score = match shown {
            Some(shown) => shown.score,
            None => word
                .score
                .map(|reward| correct_selection_bias(reward, self.optimism, tried)),
        };
        self.finished += 1;
        if !self.alternatives_by_token.is_empty() && self.repetition_at.is_none() {
            let (text, words) = (self.transcript.text(), &self.words[..self.finished]);
            let sentence = words[repair_start(RepairStart::Sentence, text, words, at)]
                .bytes
                .start..words[at].bytes.end;
            self.repetition_at = text.get(sentence).is_some_and(repeats).then_some(at);
        }
        true
    }

    /// Returns the final reward of the first word that is not final yet.
    fn finish(&self, whole: bool) -> FinishedReward {
        let Some(finisher) = &self.finisher else {
            return FinishedReward::Unchanged;
        };
        let log_probability = |token: usize| self.log_probability(token);
        let (text, words, rewards) = (self.transcript.text(), &self.words[..], &self.rewards[..]);
        finisher.finish(
            &ScoredText {
                text,
                whole,
                words,
                rewards,
                log_probability,
            },
            self.finished,
            self.awaits_next,
        )
    }

    /// Records that the tokens from `from` on were selected among `tried` candidates by reward, and
    /// corrects their words' rewards for it.
    pub(crate) fn mark_selected(&mut self, from: usize, tried: usize, optimism: f32) {
        self.chosen.push((from..self.tokens.len(), tried));
        self.optimism = optimism;
        let lowest = |tokens: &Range<usize>| {
            self.tokens
                .get(tokens.clone())?
                .iter()
                .filter_map(|token| token.reward)
                .reduce(f32::min)
        };
        let rewards: Vec<Option<f32>> = (self.words.iter().take(self.finished))
            .map(|word| {
                lowest(&word.tokens)
                    .filter(|_| word.tokens.end > from)
                    .map(|reward| {
                        correct_selection_bias(reward, optimism, self.candidate_count(&word.tokens))
                    })
            })
            .collect();
        for (word, reward) in self.words.iter_mut().zip(rewards) {
            word.score = reward.or(word.score);
        }
    }

    /// Returns the number of candidates among which a word of these tokens was selected.
    fn candidate_count(&self, tokens: &Range<usize>) -> usize {
        let within = self
            .chosen
            .iter()
            .filter(|(chosen, _)| chosen.start < tokens.end && tokens.start < chosen.end);
        within.map(|(_, tried)| *tried).max().unwrap_or(1)
    }

    /// Returns a copy rolled back to `len` tokens, all with rewards; the first `shown` of them were
    /// sent.
    pub(crate) fn truncated(&self, len: usize, shown: usize) -> Self {
        let mut copy = Self::new(
            self.thresholds,
            self.stop.restarted(),
            self.finisher.clone(),
        );
        for (i, token) in self.tokens.iter().take(len).enumerate() {
            // The finished reward may depend on text that is cut off.
            let reward = if i < shown {
                token.reward
            } else {
                self.rewards.get(i).copied()
            };
            copy.push(
                GeneratedToken {
                    reward,
                    ..token.clone()
                },
                self.alternatives_by_token.get(i).cloned(),
            );
        }
        copy.rewards.extend(self.rewards.iter().take(len));
        copy.log_probabilities
            .extend(self.log_probabilities.iter().take(len));
        if self.finisher.is_some() {
            copy.shown = self
                .words()
                .iter()
                .take_while(|word| word.tokens.end <= shown)
                .cloned()
                .collect();
        }
        copy.chosen.extend(
            self.chosen
                .iter()
                .filter(|(tokens, _)| tokens.start < len)
                .map(|(tokens, tried)| (tokens.start..tokens.end.min(len), *tried)),
        );
        copy.optimism = self.optimism;
        copy.read_words();
        copy
    }

    /// Returns the length in bytes of the text that cannot be part of a stop string.
    pub(crate) fn safe_len(&self) -> usize {
        let text = self.transcript.text();
        text.len() - self.stop.pending_len(text)
    }

    /// Returns the number of tokens, all with final rewards if `scored`, that end within `limit`
    /// bytes of settled text, and their end in bytes.
    pub(crate) fn boundary(&self, scored: bool, limit: usize) -> (usize, usize) {
        let limit = limit.min(self.safe_len());
        if scored {
            let open = self
                .words
                .get(self.finished)
                .map_or(usize::MAX, |word| word.bytes.start);
            self.transcript.boundary(
                self.rewards.len(),
                limit.min(self.transcript.settled()).min(open),
            )
        } else {
            self.transcript.boundary(self.tokens.len(), limit)
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.transcript.text()
    }

    /// Returns the first word that repeats earlier text of its sentence.
    pub(crate) fn repetition_at(&self) -> Option<usize> {
        self.repetition_at
    }

    /// Returns the words whose rewards are final.
    pub(crate) fn words(&self) -> &[Word] {
        self.words.get(..self.finished).unwrap_or(&self.words)
    }

    /// Returns the generated tokens, those of a stop string included.
    pub(crate) fn tokens(&self) -> &[GeneratedToken] {
        &self.tokens
    }

    /// Returns the names of objects that the image shows evidence of, most likely first.
    pub(crate) fn likely_objects(&self) -> Vec<&'static str> {
        self.finisher
            .as_ref()
            .map(|finisher| finisher.likely_objects())
            .unwrap_or_default()
    }

    pub(crate) fn alternatives(&self, at: usize) -> Option<&Arc<TokenAlternatives>> {
        self.alternatives_by_token.get(at)
    }

    /// Returns the number of tokens that contribute to the text.
    pub(crate) fn contributing(&self) -> usize {
        self.transcript.contributing()
    }

    /// Returns the number of leading tokens with rewards.
    pub(crate) fn rewarded(&self) -> usize {
        self.rewards.len()
    }

    /// Returns `true` if a token of the text has no reward yet.
    pub(crate) fn awaits_reward(&self) -> bool {
        self.rewards.len() < self.contributing()
    }
}
