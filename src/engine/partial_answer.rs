//! The text side of one version of an answer: tokens and rewards in, words out. Knows no networks
//! and nothing of who reads it.

use std::{ops::Range, sync::Arc};

use super::{GeneratedToken, stop::StopStrings};
use crate::{
    guard::{
        Thresholds,
        repair::{RepairStart, correct_selection_bias, repair_start},
        sentence::repeats,
        words::{Transcript, Word},
    },
    reward::finish::{FinishedReward, Finisher, ScoredText},
};

/// What could have been written in place of a token.
#[derive(Debug, Default)]
pub(crate) struct TokenAlternatives {
    /// The likeliest tokens and their log-probabilities, best first.
    pub(crate) likely: Vec<(u32, f32)>,
    /// The likeliest way to end the answer: the end-of-sequence token, or a full stop that it will
    /// follow.
    pub(crate) ending: Option<(u32, f32)>,
}

/// A version of an answer while it is written.
#[derive(Debug, Clone)]
pub(crate) struct PartialAnswer {
    thresholds: Thresholds,
    /// What finishes rewards; without it they are the scorer's.
    finisher: Option<Arc<Finisher>>,
    transcript: Transcript,
    stop: StopStrings,
    tokens: Vec<GeneratedToken>,
    /// One a token where repairs are possible.
    menus: Vec<Arc<TokenAlternatives>>,
    /// The scorer's rewards of the leading tokens.
    rewards: Vec<f32>,
    /// Words that closed and have their rewards.
    words: Vec<Word>,
    /// How many of them have rewards that are final.
    finished: usize,
    /// Indicates whether the next one waits for the word after it.
    waits: bool,
    /// Words of the version that this one began with which were shown: their rewards are final
    /// whatever follows.
    shown: Vec<Word>,
    /// The first word with which a sentence repeats itself, where repairs are possible.
    loop_at: Option<usize>,
    /// Tokens that were chosen among others for their rewards, and among how many.
    chosen: Vec<(Range<usize>, usize)>,
    /// What selection adds to the logits of such rewards.
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
            menus: Vec::new(),
            rewards: Vec::new(),
            words: Vec::new(),
            finished: 0,
            waits: false,
            shown: Vec::new(),
            loop_at: None,
            chosen: Vec::new(),
            optimism: 0.0,
        }
    }

    /// Appends a token. Returns whether it completes a stop string; the text then ends before it.
    pub(crate) fn push(
        &mut self,
        token: GeneratedToken,
        menu: Option<Arc<TokenAlternatives>>,
    ) -> bool {
        self.transcript.push(&token.token.bytes);
        self.tokens.push(token);
        self.menus.extend(menu);
        let cut = self.stop.find(self.transcript.text());
        if cut.is_some() {
            self.transcript.close(cut);
        }
        cut.is_some()
    }

    /// Takes the scorer's reward of the first token that has none.
    pub(crate) fn reward(&mut self, reward: f32) {
        if let Some(token) = self.tokens.get_mut(self.rewards.len()) {
            token.reward = Some(reward);
        }
        self.rewards.push(reward);
    }

    /// Reads the words that have closed and have their rewards.
    pub(crate) fn read(&mut self) {
        let safe = self.safe();
        self.read_within(Some(safe));
    }

    /// Ends the text: what is open closes.
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

    /// Finishes the first word that is not; false where there is none, or what it names is open.
    fn finish_word(&mut self, whole: bool) -> bool {
        let at = self.finished;
        let Some(word) = self.words.get(at) else {
            return false;
        };
        let tried = self.choices(&word.tokens);
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
        self.waits = finish == FinishedReward::Pending;
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
        if !self.menus.is_empty() && self.loop_at.is_none() {
            let (text, words) = (self.transcript.text(), &self.words[..self.finished]);
            let sentence = words[repair_start(RepairStart::Sentence, text, words, at)]
                .bytes
                .start..words[at].bytes.end;
            self.loop_at = text.get(sentence).is_some_and(repeats).then_some(at);
        }
        true
    }

    /// Returns what becomes of the reward of the first word that is not finished.
    fn finish(&self, whole: bool) -> FinishedReward {
        let Some(finisher) = &self.finisher else {
            return FinishedReward::Unchanged;
        };
        let log_probability = |token: usize| {
            self.tokens
                .get(token)
                .map_or(0.0, |token| token.token.logprob)
        };
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
            self.waits,
        )
    }

    /// Notes that the tokens from `from` on were chosen among `tried` versions for their rewards:
    /// those of their words lose what that added.
    pub(crate) fn choose(&mut self, from: usize, tried: usize, optimism: f32) {
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
                        correct_selection_bias(reward, optimism, self.choices(&word.tokens))
                    })
            })
            .collect();
        for (word, reward) in self.words.iter_mut().zip(rewards) {
            word.score = reward.or(word.score);
        }
    }

    /// Among how many versions a word of these tokens was chosen.
    fn choices(&self, tokens: &Range<usize>) -> usize {
        let within = self
            .chosen
            .iter()
            .filter(|(chosen, _)| chosen.start < tokens.end && tokens.start < chosen.end);
        within.map(|(_, tried)| *tried).max().unwrap_or(1)
    }

    /// The version as it was when it had `len` tokens, all of them with rewards; the first `shown`
    /// of them have been shown.
    pub(crate) fn cut(&self, len: usize, shown: usize) -> Self {
        let mut cut = Self::new(self.thresholds, self.stop.afresh(), self.finisher.clone());
        for (i, token) in self.tokens.iter().take(len).enumerate() {
            // What finished its reward may not be there any more.
            let reward = if i < shown {
                token.reward
            } else {
                self.rewards.get(i).copied()
            };
            cut.push(
                GeneratedToken {
                    reward,
                    ..token.clone()
                },
                self.menus.get(i).cloned(),
            );
        }
        cut.rewards.extend(self.rewards.iter().take(len));
        if self.finisher.is_some() {
            cut.shown = self
                .words()
                .iter()
                .take_while(|word| word.tokens.end <= shown)
                .cloned()
                .collect();
        }
        cut.chosen.extend(
            self.chosen
                .iter()
                .filter(|(tokens, _)| tokens.start < len)
                .map(|(tokens, tried)| (tokens.start..tokens.end.min(len), *tried)),
        );
        cut.optimism = self.optimism;
        cut.read();
        cut
    }

    /// Bytes of text that cannot be the beginning of a stop string.
    pub(crate) fn safe(&self) -> usize {
        let text = self.transcript.text();
        text.len() - self.stop.held(text)
    }

    /// The most tokens, all with final rewards where `scored`, that end within `limit` bytes of
    /// settled text; and where they end.
    pub(crate) fn boundary(&self, scored: bool, limit: usize) -> (usize, usize) {
        let limit = limit.min(self.safe());
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

    /// The first word with which a sentence repeats itself.
    pub(crate) fn loop_at(&self) -> Option<usize> {
        self.loop_at
    }

    /// Words whose rewards are final.
    pub(crate) fn words(&self) -> &[Word] {
        self.words.get(..self.finished).unwrap_or(&self.words)
    }

    /// Tokens written, those of a stop string included.
    pub(crate) fn tokens(&self) -> &[GeneratedToken] {
        &self.tokens
    }

    /// Names of what the photograph has evidence of, the likeliest first.
    pub(crate) fn likely_objects(&self) -> Vec<&'static str> {
        self.finisher
            .as_ref()
            .map(|finisher| finisher.likely_objects())
            .unwrap_or_default()
    }

    pub(crate) fn menu(&self, at: usize) -> Option<&Arc<TokenAlternatives>> {
        self.menus.get(at)
    }

    /// Tokens that contribute to the text.
    pub(crate) fn contributing(&self) -> usize {
        self.transcript.contributing()
    }

    /// Returns how many leading tokens have rewards.
    pub(crate) fn rewarded(&self) -> usize {
        self.rewards.len()
    }

    /// Returns `true` if a token that contributes to the text still waits for its reward.
    pub(crate) fn awaits_reward(&self) -> bool {
        self.rewards.len() < self.contributing()
    }
}
