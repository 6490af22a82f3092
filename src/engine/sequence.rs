//! One running sequence: its place in the cache, its generator, its answer, and whom to tell.

use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Alternative, EngineError, Event, FinishReason, Observer, Outcome, Request, Token,
    answer::{Answer, Summary},
    sampler::{self, Sampler},
};
use crate::vlm::{Row, tokenizer::TextTokenizer};

/// A request that was let in, and whom to tell.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Positions of the prompt, image included.
    pub(crate) prompt_tokens: usize,
    /// Most tokens to write: what the request and the context allow.
    pub(crate) budget: usize,
    pub(crate) submitted: Instant,
    pub(crate) events: mpsc::Sender<Event>,
    /// Counts against the bound until the job is dropped.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl Job {
    /// Whether nobody listens any more.
    pub(crate) fn is_left(&self) -> bool {
        self.events.is_closed()
    }

    /// Tells the client. The channel has room for all that an answer can say, so this never waits.
    pub(crate) fn send(&self, event: Event) {
        // An error means that the client left, which the next step notices.
        let _ = self.events.try_send(event);
    }

    pub(crate) fn fail(&self, error: &EngineError, observer: &dyn Observer) {
        tracing::warn!(id = %self.request.id, %error, "request failed");
        observer.failed(error);
        self.send(Event::Failed(error.clone()));
    }
}

/// What sampling needs to know about the vocabulary.
pub(crate) struct Vocabulary {
    pub(crate) tokenizer: std::sync::Arc<TextTokenizer>,
    /// Tokens that write nothing and do not end the answer, sorted: never chosen.
    pub(crate) masked: Vec<u32>,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: std::sync::Arc<TextTokenizer>, size: usize) -> Self {
        let masked = (0..size as u32).filter(|&id| id != tokenizer.eos() && tokenizer.bytes(id).is_empty()).collect();
        Self { tokenizer, masked }
    }
}

/// Whether a sequence goes on after a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    Done,
}

pub(crate) struct Sequence {
    pub(crate) job: Job,
    pub(crate) slot: usize,
    pub(crate) answer: Answer,
    pub(crate) joined: Instant,
    sampler: Sampler,
    /// Positions in the cache.
    pub(crate) fed: usize,
    /// What ends this sequence after the present step.
    pub(crate) failed: Option<EngineError>,
    /// The token to feed next; `None` before the prompt was fed.
    last: Option<u32>,
    /// How likely the policy found that token; 0 for the prompt.
    pub(crate) log_probability: f32,
    last_at: Option<Instant>,
    /// The answer is complete but for its last token's reward: feed that token, ignore what follows.
    closing: Option<FinishReason>,
    shown: bool,
}

impl Sequence {
    pub(crate) fn new(mut job: Job, slot: usize) -> Self {
        let answer = Answer::new(job.request.guard, std::mem::take(&mut job.request.stop));
        let sampler = Sampler::new(&job.request.sampling);
        Self {
            job,
            slot,
            answer,
            joined: Instant::now(),
            sampler,
            fed: 0,
            failed: None,
            last: None,
            log_probability: 0.0,
            last_at: None,
            closing: None,
            shown: false,
        }
    }

    /// This sequence's part of the next step.
    pub(crate) fn row(&self) -> Row<'_> {
        match &self.last {
            None => Row { slot: self.slot, start: 0, image: Some(&self.job.request.image), tokens: &self.job.request.prompt },
            Some(token) => Row { slot: self.slot, start: self.fed, image: None, tokens: std::slice::from_ref(token) },
        }
    }

    /// Whether the prompt was not fed yet.
    pub(crate) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// Takes what the step computed for [`Self::row`]: the fed token's reward and the logits of what follows.
    pub(crate) fn advance(
        &mut self,
        reward: Option<f32>,
        logits: &mut [f32],
        vocabulary: &Vocabulary,
        observer: &dyn Observer,
    ) -> candle_core::Result<Next> {
        if let Some(reward) = reward {
            self.answer.reward(reward);
        }
        if let Some(reason) = self.closing {
            self.finish(reason, observer);
            return Ok(Next::Done);
        }
        let token = self.sample(logits, vocabulary)?;
        let id = token.token.id;
        self.last = Some(id);
        self.log_probability = token.token.logprob;
        let reason = if id == vocabulary.tokenizer.eos() {
            Some(FinishReason::Stop)
        } else {
            let now = Instant::now();
            observer.token(self.last_at.replace(now).map(|before| now - before));
            let stopped = self.answer.push(token);
            stopped.then_some(FinishReason::Stop).or((self.answer.len() >= self.job.budget).then_some(FinishReason::Length))
        };
        match reason {
            Some(reason) if self.answer.awaits_reward() => self.closing = Some(reason),
            Some(reason) => {
                self.finish(reason, observer);
                return Ok(Next::Done);
            }
            None => {}
        }
        let delta = self.answer.release();
        self.show(delta, observer);
        Ok(Next::Go)
    }

    fn sample(&mut self, logits: &mut [f32], vocabulary: &Vocabulary) -> candle_core::Result<Token> {
        let alternative = |id: u32, logprob| Alternative { id, bytes: vocabulary.tokenizer.bytes(id).to_vec(), logprob };
        if self.job.request.top_logprobs.is_none() && !self.answer.is_scored() {
            let id = self.sampler.choose(logits, &vocabulary.masked)?;
            return Ok(Token { token: alternative(id, f32::NAN), top: Vec::new(), reward: None });
        }
        // Of the model's own distribution: before masks, penalties and temperature.
        let plain = logits.to_vec();
        let id = self.sampler.choose(logits, &vocabulary.masked)?;
        let total = sampler::log_sum_exp(&plain);
        let logprob = |id: u32| plain[id as usize] - total;
        let k = self.job.request.top_logprobs.unwrap_or(0);
        let top = sampler::top(&plain, k, &vocabulary.masked).into_iter().map(|id| alternative(id, logprob(id))).collect();
        Ok(Token { token: alternative(id, logprob(id)), top, reward: None })
    }

    fn show(&mut self, delta: Option<Event>, observer: &dyn Observer) {
        if let Some(delta) = delta {
            if !std::mem::replace(&mut self.shown, true) {
                observer.first_delta(self.job.submitted.elapsed());
            }
            self.job.send(delta);
        }
    }

    fn finish(&mut self, reason: FinishReason, observer: &dyn Observer) {
        let (delta, summary) = self.answer.finish();
        self.show(delta, observer);
        let Summary { completion_tokens, guard, doubted_tokens } = summary;
        let prompt_tokens = self.job.prompt_tokens;
        let elapsed = self.job.submitted.elapsed();
        observer.finished(&Outcome { reason, prompt_tokens, completion_tokens, doubted_tokens, elapsed, guard: guard.as_ref() });
        self.job.send(Event::Finished { reason, prompt_tokens, completion_tokens, guard });
    }
}
