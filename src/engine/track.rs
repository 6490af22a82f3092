//! One continuation of an answer during decoding: its cache slot, sampler and text.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Alternative, FinishReason, GeneratedToken, Request, Sampling,
    partial_answer::{PartialAnswer, TokenAlternatives},
    sampler::{self, Sampler},
    vocabulary::SamplingVocabulary,
};
use crate::{
    reward::TokenReading,
    vlm::{Row, nn::log_sum_exp},
};

/// Alternatives recorded at each token where a repair may start.
const ALTERNATIVES: usize = 32;

/// Time that a reader may wait for the readings of new tokens, so that the scorer reads several
/// together.
const PATIENCE: Duration = Duration::from_millis(25);

/// Outputs of a step for one row.
pub(crate) struct RowOutputs<'a> {
    /// Readings that became final, of the first tokens without one.
    pub(crate) readings: Vec<TokenReading>,
    /// Logits of the next token, none within a prompt; sampling modifies them.
    pub(crate) logits: &'a mut [f32],
    /// Positions now in the slot.
    pub(crate) fed: usize,
}

/// Parameters of a decoding step.
#[derive(Clone, Copy)]
pub(crate) struct DecodingContext<'a> {
    pub(crate) request: &'a Request,
    pub(crate) vocabulary: &'a SamplingVocabulary,
    /// Most tokens of the answer.
    pub(crate) budget: usize,
    pub(crate) scored: bool,
    /// `true` to record alternatives for repairs.
    pub(crate) repairs: bool,
}

pub(crate) struct DecodingTrack {
    pub(crate) slot: usize,
    pub(crate) partial: PartialAnswer,
    sampler: Sampler,
    /// Forced next tokens, which take precedence over sampling.
    forced: VecDeque<u32>,
    /// Positions in the cache.
    fed: usize,
    /// Positions of the prompt.
    prompt: usize,
    /// Positions of the prompt that the next step feeds, as long as some are left.
    part: usize,
    /// The token to feed next; `None` before the whole prompt is fed.
    last: Option<u32>,
    /// Log-probability of that token; 0 for the prompt.
    pub(crate) log_probability: f32,
    /// Time of the latest readings.
    read_at: Instant,
    /// Reason for the end of the answer; its last token may still wait for its reward.
    pub(crate) end: Option<FinishReason>,
    /// `true` if nothing more is computed.
    pub(crate) complete: bool,
}

impl DecodingTrack {
    /// Creates the track of an answer to a prompt of `prompt` positions.
    pub(crate) fn new(
        slot: usize,
        prompt: usize,
        partial: PartialAnswer,
        sampling: &Sampling,
    ) -> Self {
        let sampler = Sampler::new(sampling);
        Self {
            slot,
            partial,
            sampler,
            forced: VecDeque::new(),
            fed: 0,
            prompt,
            part: 0,
            last: None,
            log_probability: 0.0,
            read_at: Instant::now(),
            end: None,
            complete: false,
        }
    }

    /// Returns a continuation of the first `at` tokens, of which `shown` were sent. Its slot must
    /// become a copy of the first [`Self::position`] positions of this one's.
    pub(crate) fn fork(&self, at: usize, shown: usize, slot: usize, sampling: &Sampling) -> Self {
        let partial = self.partial.truncated(at, shown);
        let sampler = Sampler::with_history(sampling, partial.tokens().iter().map(|t| t.token.id));
        Self {
            slot,
            partial,
            sampler,
            forced: VecDeque::new(),
            fed: self.position(at),
            prompt: self.prompt,
            part: 0,
            last: None,
            log_probability: 0.0,
            read_at: Instant::now(),
            end: None,
            complete: false,
        }
    }

    /// Continues with a new sampler.
    pub(crate) fn resample_with(&mut self, sampling: &Sampling) {
        self.sampler =
            Sampler::with_history(sampling, self.partial.tokens().iter().map(|t| t.token.id));
    }

    /// Forces the next tokens.
    pub(crate) fn force(&mut self, forced: impl IntoIterator<Item = u32>) {
        self.forced = forced.into_iter().collect();
    }

    /// Returns `true` if the next token is forced.
    pub(crate) fn is_forced(&self) -> bool {
        !self.forced.is_empty()
    }

    /// Returns the number of positions before token `at` of the answer.
    pub(crate) fn position(&self, at: usize) -> usize {
        self.prompt + at
    }

    /// Returns `true` before the whole prompt is fed.
    pub(crate) fn awaits_prefill(&self) -> bool {
        self.last.is_none()
    }

    /// Returns the number of positions that the cache holds.
    pub(crate) fn fed(&self) -> usize {
        self.fed
    }

    /// Sets the part of the prompt that the next step feeds: `len` positions from `start` on, up to
    /// which the cache holds the prompt.
    pub(crate) fn plan_part(&mut self, start: usize, len: usize) {
        (self.fed, self.part) = (start, len);
    }

    /// Returns `true` if the next step feeds a token, or the last part of the prompt.
    pub(crate) fn is_scored(&self) -> bool {
        !self.awaits_prefill() || self.fed + self.part >= self.prompt
    }

    /// Returns `true` if the end of the answer was written, which no scorer reads: what the next
    /// step feeds is nothing, and its only purpose are outstanding readings.
    pub(crate) fn only_reads(&self) -> bool {
        let last = self.partial.tokens().last();
        self.end.is_some() && last.map(|last| last.token.id) != self.last
    }

    /// Returns `true` if the next step's outputs for this track are wanted: not those of a part of
    /// the prompt before the last, nor those of an answer that has ended, unless its last token is
    /// read from a `tapped` layer of the model.
    pub(crate) fn wants_outputs(&self, tapped: bool) -> bool {
        self.is_scored() && (self.end.is_none() || tapped && !self.only_reads())
    }

    /// Returns `true` if the readings of what the next step feeds may come later.
    pub(crate) fn is_patient(&self) -> bool {
        self.read_at.elapsed() < PATIENCE
    }

    /// Returns the bytes of the generated token that the next step feeds, if it belongs to the
    /// text.
    pub(crate) fn judged(&self, vocabulary: &SamplingVocabulary) -> Option<&[u8]> {
        let id = self.last.filter(|&id| !vocabulary.tokenizer.is_end(id))?;
        let last = self.partial.tokens().last();
        last.filter(|last| last.token.id == id)
            .map(|last| last.token.bytes.as_slice())
    }

    /// Returns the whole prompt as a row.
    pub(crate) fn prompt_row<'a>(&self, request: &'a Request) -> Row<'a> {
        let tokens = &request.prompt.tokens;
        Row {
            slot: self.slot,
            start: 0,
            tokens,
            spans: &request.prompt.images,
            images: &request.images,
            from: tokens.len().saturating_sub(1),
        }
    }

    /// Returns the policy's row of the next step, without tokens if no outputs of an ended answer
    /// are wanted.
    pub(crate) fn row<'a>(&'a self, request: &'a Request, tapped: bool) -> Row<'a> {
        let wanted = self.wants_outputs(tapped);
        let Some(token) = &self.last else {
            let (start, end) = (self.fed, self.fed + self.part);
            let tokens = request.prompt.tokens.get(start..end).unwrap_or_default();
            return Row {
                start,
                tokens,
                from: tokens.len() - usize::from(wanted && !tokens.is_empty()),
                ..self.prompt_row(request)
            };
        };
        let tokens = if wanted {
            std::slice::from_ref(token)
        } else {
            &[]
        };
        Row::text(self.slot, self.fed, tokens)
    }

    /// Returns the scorer's row of the next step, if outputs are wanted: the scorer reads a prompt
    /// as a whole, together with the policy's last part of it.
    pub(crate) fn scored_row<'a>(&'a self, request: &'a Request) -> Row<'a> {
        match &self.last {
            Some(_) if self.only_reads() => Row::text(self.slot, self.fed, &[]),
            Some(token) => Row::text(self.slot, self.fed, std::slice::from_ref(token)),
            None => self.prompt_row(request),
        }
    }

    /// Takes the step's outputs for [`Self::row`].
    pub(crate) fn take(
        &mut self,
        computed: RowOutputs<'_>,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<()> {
        self.fed = computed.fed;
        if self.awaits_prefill() && self.fed < self.prompt {
            return Ok(());
        }
        if self.awaits_prefill() || !computed.readings.is_empty() {
            self.read_at = Instant::now();
        }
        for reading in computed.readings {
            self.partial.read(reading);
        }
        if self.end.is_some() {
            self.conclude();
            return Ok(());
        }
        let (token, alternatives) = self.choose(computed.logits, context)?;
        self.write(token, alternatives, context);
        Ok(())
    }

    /// Appends a token, or ends the answer with it.
    pub(crate) fn write(
        &mut self,
        mut token: GeneratedToken,
        alternatives: Option<Arc<TokenAlternatives>>,
        context: DecodingContext<'_>,
    ) {
        let id = token.token.id;
        let begins = self.partial.tokens().is_empty();
        if begins && context.vocabulary.tokenizer.leading_space() {
            // A word of SentencePiece begins with a space even where the text begins.
            let text = token.token.bytes.strip_prefix(b" ").map(<[u8]>::to_vec);
            token.token.bytes = text.unwrap_or(token.token.bytes);
        }
        self.last = Some(id);
        self.log_probability = token.token.logprob;
        if context.vocabulary.tokenizer.is_end(id) {
            self.end = Some(FinishReason::Stop);
        } else {
            let stopped = self.partial.push(token, alternatives);
            let full = self.partial.tokens().len() >= context.budget;
            self.end = stopped
                .then_some(FinishReason::Stop)
                .or(full.then_some(FinishReason::Length));
        }
        if self.end.is_some() && !(context.scored && self.partial.awaits_reward()) {
            self.conclude();
        } else if context.scored {
            self.partial.read_words();
        }
    }

    /// Ends the answer before token `at`; the first `shown` tokens were sent.
    pub(crate) fn end_at(&mut self, at: usize, shown: usize, reason: FinishReason) {
        self.partial = self.partial.truncated(at, shown);
        self.end = Some(reason);
        self.conclude();
    }

    fn conclude(&mut self) {
        self.complete = true;
        self.partial.close();
    }

    /// Samples a first token from recorded alternatives.
    pub(crate) fn draw(
        &mut self,
        alternatives: &TokenAlternatives,
        size: usize,
    ) -> candle_core::Result<u32> {
        let mut logits = vec![f32::NEG_INFINITY; size];
        alternatives
            .likely
            .iter()
            .for_each(|&(id, logprob)| logits[id as usize] = logprob);
        self.sampler.choose(&mut logits, &[])
    }

    fn take_next_token(
        &mut self,
        logits: &mut [f32],
        vocabulary: &SamplingVocabulary,
    ) -> candle_core::Result<u32> {
        match self.forced.pop_front() {
            Some(given) => {
                self.sampler.record(given);
                Ok(given)
            }
            None => self.sampler.choose(logits, &vocabulary.masked),
        }
    }

    fn choose(
        &mut self,
        logits: &mut [f32],
        context: DecodingContext<'_>,
    ) -> candle_core::Result<(GeneratedToken, Option<Arc<TokenAlternatives>>)> {
        let DecodingContext {
            request,
            vocabulary,
            scored,
            repairs,
            ..
        } = context;
        if request.top_logprobs.is_none() && !scored {
            let id = self.take_next_token(logits, vocabulary)?;
            return Ok((
                GeneratedToken {
                    token: vocabulary.alternative(id, f32::NAN),
                    top: Vec::new(),
                    reward: None,
                },
                None,
            ));
        }
        // Log-probabilities are the model's own: before masks, penalties and temperature.
        let plain = logits.to_vec();
        let id = self.take_next_token(logits, vocabulary)?;
        let total = log_sum_exp(&plain);
        let logprob = |id: u32| plain[id as usize] - total;
        let k = request.top_logprobs.unwrap_or(0);
        let likely = sampler::top_k(
            &plain,
            if repairs { k.max(ALTERNATIVES) } else { k },
            &vocabulary.masked,
        );
        let top: Vec<Alternative> = likely
            .iter()
            .take(k)
            .map(|&id| vocabulary.alternative(id, logprob(id)))
            .collect();
        let alternatives = repairs.then(|| {
            let with_logprob = |id: u32| (id, logprob(id));
            let ending = vocabulary
                .endings
                .iter()
                .map(|&id| with_logprob(id))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            Arc::new(TokenAlternatives {
                likely: likely.iter().map(|&id| with_logprob(id)).collect(),
                ending,
            })
        });
        Ok((
            GeneratedToken {
                token: vocabulary.alternative(id, logprob(id)),
                top,
                reward: None,
            },
            alternatives,
        ))
    }
}
