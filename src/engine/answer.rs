//! The text side of one sequence: tokens and rewards in, events out. Knows no networks.

use super::{Event, GuardParams, Token, stop::StopStrings};
use crate::guard::{
    Mode, Report, Span, policy,
    render::{Style, alt_text},
    spans::Joiner,
    words::{Transcript, Word},
};

/// Whether an answer's tokens get rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scoring {
    Off,
    On,
    /// The scorer failed on the way; the answer is finished without it.
    Lost,
}

/// An answer while it is written: what may be shown, and what was shown.
#[derive(Debug)]
pub(crate) struct Answer {
    params: GuardParams,
    scoring: Scoring,
    transcript: Transcript,
    stop: StopStrings,
    /// Rewards of the leading tokens.
    rewards: Vec<f32>,
    words: Vec<Word>,
    joiner: Option<Joiner>,
    spans: Vec<Span>,
    /// Spans that went out.
    spans_sent: usize,
    /// Tokens that did not go out yet.
    held: Vec<Token>,
    /// Tokens and bytes of text that went out.
    sent: (usize, usize),
}

impl Answer {
    pub(crate) fn new(params: GuardParams, stop: Vec<String>) -> Self {
        Self {
            params,
            scoring: if policy::scores(params.mode) { Scoring::On } else { Scoring::Off },
            transcript: Transcript::default(),
            stop: StopStrings::new(stop),
            rewards: Vec::new(),
            words: Vec::new(),
            joiner: policy::action(params.mode).map(|action| Joiner::new(params.threshold, action)),
            spans: Vec::new(),
            spans_sent: 0,
            held: Vec::new(),
            sent: (0, 0),
        }
    }

    /// Tokens written, those of a stop string included.
    pub(crate) fn len(&self) -> usize {
        self.transcript.len()
    }

    /// Whether the scorer is to see this sequence.
    pub(crate) fn is_scored(&self) -> bool {
        self.scoring == Scoring::On
    }

    /// Whether a token of the answer still waits for its reward.
    pub(crate) fn awaits_reward(&self) -> bool {
        self.is_scored() && self.rewards.len() < self.transcript.contributing()
    }

    /// Appends a token. Returns whether it completes a stop string; the text then ends before it.
    pub(crate) fn push(&mut self, token: Token) -> bool {
        self.transcript.push(&token.token.bytes);
        self.held.push(token);
        let cut = self.stop.find(self.transcript.text());
        if cut.is_some() {
            self.transcript.close(cut);
        }
        cut.is_some()
    }

    /// Takes the reward of the first token that has none.
    pub(crate) fn reward(&mut self, reward: f32) {
        self.rewards.push(reward);
    }

    /// Goes on without the scorer: the answer will be `unscored`.
    pub(crate) fn lose_scorer(&mut self) {
        self.scoring = Scoring::Lost;
    }

    /// What may be shown now and was not: up to the open word where words are scored, and never what could begin a stop string.
    pub(crate) fn release(&mut self) -> Option<Event> {
        let text = self.transcript.text();
        let safe = text.len() - self.stop.held(text);
        let (tokens, end) = if self.is_scored() {
            self.read_words(Some(safe));
            self.transcript.boundary(self.rewards.len(), safe.min(self.transcript.settled()))
        } else {
            self.transcript.boundary(self.transcript.len(), safe)
        };
        (tokens > self.sent.0).then(|| self.delta(tokens, end))
    }

    /// Ends the answer: the last delta, where anything is left to say, and the summary.
    pub(crate) fn finish(&mut self) -> (Option<Event>, Summary) {
        self.transcript.close(None);
        self.read_words(None);
        if let Some(joiner) = &mut self.joiner {
            self.spans.extend(joiner.finish(self.transcript.text()));
        }
        let tokens = self.transcript.contributing().max(self.sent.0);
        let end = self.transcript.text().len();
        let rest = tokens > self.sent.0 || end > self.sent.1 || self.spans.len() > self.spans_sent;
        let delta = rest.then(|| self.delta(tokens, end));
        let guard = (self.scoring != Scoring::Off).then(|| self.report(tokens));
        (delta, Summary { completion_tokens: tokens, guard, doubted_tokens: self.doubted_tokens() })
    }

    fn read_words(&mut self, within: Option<usize>) {
        if self.scoring == Scoring::Off {
            return;
        }
        while let Some(word) = self.transcript.next_word(&self.rewards, within) {
            if let Some(joiner) = &mut self.joiner {
                self.spans.extend(joiner.push(self.transcript.text(), &word));
            }
            self.words.push(word);
        }
    }

    fn delta(&mut self, tokens: usize, end: usize) -> Event {
        let (first, start) = std::mem::replace(&mut self.sent, (tokens, end));
        let mut out: Vec<Token> = self.held.drain(..tokens - first).collect();
        for (i, token) in out.iter_mut().enumerate() {
            token.reward = self.rewards.get(first + i).copied();
        }
        let spans = self.spans[self.spans_sent..].to_vec();
        self.spans_sent = self.spans.len();
        Event::Delta { text: self.transcript.text()[start..end].to_owned(), tokens: out, spans }
    }

    fn report(&self, tokens: usize) -> Report {
        let GuardParams { mode, threshold } = self.params;
        let complete = self.is_scored() && self.rewards.len() >= tokens;
        let (verdict, score) = policy::judge(mode, threshold, &self.words, complete);
        let alt_text = self.joiner.is_some().then(|| alt_text(self.transcript.text(), &self.spans, Style::Hedged));
        let spans = self.spans.clone();
        Report { mode, verdict, score, threshold, spans, attempts: 0, extra_tokens: 0, alt_text }
    }

    /// Tokens of doubted words, each counted once, where doubt is acted on.
    fn doubted_tokens(&self) -> usize {
        if self.params.mode == Mode::Score {
            return 0;
        }
        let doubted = self.words.iter().filter(|w| !w.function && w.reward.is_some_and(|r| r < self.params.threshold));
        let (_, count) = doubted.fold((0, 0), |(seen, n), w| (w.tokens.end, n + w.tokens.end - w.tokens.start.max(seen)));
        count
    }
}

/// What a complete answer came to.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) completion_tokens: usize,
    pub(crate) guard: Option<Report>,
    pub(crate) doubted_tokens: usize,
}
