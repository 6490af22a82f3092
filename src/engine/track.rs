//! One version of an answer on its way through the networks: its slot in the caches, its generator
//! and its draft.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Alternative, FinishReason, GeneratedToken, Request, Sampling,
    partial_answer::{PartialAnswer, TokenAlternatives},
    sampler::{self, Sampler},
    vocabulary::SamplingVocabulary,
};
use crate::{vlm::Row, vlm::ops::log_sum_exp};

/// Alternatives that are remembered at every place where a repair may begin.
const MENU: usize = 32;

/// What the step computed for one row.
pub(crate) struct RowOutputs<'a> {
    /// Reward of the row's last token, where it was scored.
    pub(crate) reward: Option<f32>,
    /// Logits of what follows; spoilt by sampling.
    pub(crate) logits: &'a mut [f32],
    /// Positions that the slot now holds.
    pub(crate) fed: usize,
}

/// What a track needs to know to go on.
#[derive(Clone, Copy)]
pub(crate) struct DecodingContext<'a> {
    pub(crate) request: &'a Request,
    pub(crate) vocabulary: &'a SamplingVocabulary,
    /// Most tokens of the answer.
    pub(crate) budget: usize,
    pub(crate) scored: bool,
    /// Indicates whether menus are kept, for repairs.
    pub(crate) repairs: bool,
}

pub(crate) struct DecodingTrack {
    pub(crate) slot: usize,
    pub(crate) draft: PartialAnswer,
    sampler: Sampler,
    /// Tokens that are written next, whatever the policy would write.
    script: VecDeque<u32>,
    /// Positions in the cache.
    fed: usize,
    /// Positions of the prompt.
    prompt: usize,
    /// The token to feed next; `None` before the prompt was fed.
    last: Option<u32>,
    /// How likely the policy found that token; 0 for the prompt.
    pub(crate) log_probability: f32,
    /// Why the answer ends; its last token may still wait for its reward.
    pub(crate) end: Option<FinishReason>,
    /// Nothing more is to be computed.
    pub(crate) complete: bool,
}

impl DecodingTrack {
    pub(crate) fn new(slot: usize, draft: PartialAnswer, sampling: &Sampling) -> Self {
        let sampler = Sampler::new(sampling);
        Self {
            slot,
            draft,
            sampler,
            script: VecDeque::new(),
            fed: 0,
            prompt: 0,
            last: None,
            log_probability: 0.0,
            end: None,
            complete: false,
        }
    }

    /// Another version that begins with the first `at` tokens of this one, `shown` of which were.
    /// Its slot must become a copy of this one's, [`Self::position`] long.
    pub(crate) fn fork(&self, at: usize, shown: usize, slot: usize, sampling: &Sampling) -> Self {
        let draft = self.draft.cut(at, shown);
        let sampler = Sampler::after(sampling, draft.tokens().iter().map(|t| t.token.id));
        Self {
            slot,
            draft,
            sampler,
            script: VecDeque::new(),
            fed: self.position(at),
            prompt: self.prompt,
            last: None,
            log_probability: 0.0,
            end: None,
            complete: false,
        }
    }

    /// Goes on with another generator.
    pub(crate) fn sample_as(&mut self, sampling: &Sampling) {
        self.sampler = Sampler::after(sampling, self.draft.tokens().iter().map(|t| t.token.id));
    }

    /// Has these tokens written next.
    pub(crate) fn follow(&mut self, script: impl IntoIterator<Item = u32>) {
        self.script = script.into_iter().collect();
    }

    /// Returns `true` if the next token is given.
    pub(crate) fn is_scripted(&self) -> bool {
        !self.script.is_empty()
    }

    /// Positions before token `at` of the answer.
    pub(crate) fn position(&self, at: usize) -> usize {
        self.prompt + at
    }

    /// Returns `true` if the prompt was not fed yet.
    pub(crate) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// This version's part of the next step.
    pub(crate) fn row<'a>(&'a self, request: &'a Request) -> Row<'a> {
        match &self.last {
            None => Row {
                slot: self.slot,
                start: 0,
                image: Some(&request.image),
                tokens: &request.prompt,
            },
            Some(token) => Row {
                slot: self.slot,
                start: self.fed,
                image: None,
                tokens: std::slice::from_ref(token),
            },
        }
    }

    /// Takes what the step computed for [`Self::row`].
    pub(crate) fn take(
        &mut self,
        computed: RowOutputs<'_>,
        context: DecodingContext<'_>,
    ) -> candle_core::Result<()> {
        self.fed = computed.fed;
        if self.is_new() {
            self.prompt = computed.fed;
        }
        if let Some(reward) = computed.reward {
            self.draft.reward(reward);
        }
        if self.end.is_some() {
            self.conclude();
            return Ok(());
        }
        let (token, menu) = self.choose(computed.logits, context)?;
        self.write(token, menu, context);
        Ok(())
    }

    /// Appends a token, or ends the answer with it.
    pub(crate) fn write(
        &mut self,
        token: GeneratedToken,
        menu: Option<Arc<TokenAlternatives>>,
        context: DecodingContext<'_>,
    ) {
        let id = token.token.id;
        self.last = Some(id);
        self.log_probability = token.token.logprob;
        if id == context.vocabulary.tokenizer.eos() {
            self.end = Some(FinishReason::Stop);
        } else {
            let stopped = self.draft.push(token, menu);
            let full = self.draft.tokens().len() >= context.budget;
            self.end = stopped
                .then_some(FinishReason::Stop)
                .or(full.then_some(FinishReason::Length));
        }
        if self.end.is_some() && !(context.scored && self.draft.awaits_reward()) {
            self.conclude();
        } else if context.scored {
            self.draft.read();
        }
    }

    /// Ends the answer before token `at`; the first `shown` went out.
    pub(crate) fn end_at(&mut self, at: usize, shown: usize, reason: FinishReason) {
        self.draft = self.draft.cut(at, shown);
        self.end = Some(reason);
        self.conclude();
    }

    fn conclude(&mut self) {
        self.complete = true;
        self.draft.close();
    }

    /// A token for this version to begin with, from what was likely there.
    pub(crate) fn draw(
        &mut self,
        menu: &TokenAlternatives,
        size: usize,
    ) -> candle_core::Result<u32> {
        let mut logits = vec![f32::NEG_INFINITY; size];
        menu.likely
            .iter()
            .for_each(|&(id, logprob)| logits[id as usize] = logprob);
        self.sampler.choose(&mut logits, &[])
    }

    fn next_token(
        &mut self,
        logits: &mut [f32],
        vocabulary: &SamplingVocabulary,
    ) -> candle_core::Result<u32> {
        match self.script.pop_front() {
            Some(given) => {
                self.sampler.note(given);
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
            let id = self.next_token(logits, vocabulary)?;
            return Ok((
                GeneratedToken {
                    token: vocabulary.alternative(id, f32::NAN),
                    top: Vec::new(),
                    reward: None,
                },
                None,
            ));
        }
        // Of the model's own distribution: before masks, penalties and temperature.
        let plain = logits.to_vec();
        let id = self.next_token(logits, vocabulary)?;
        let total = log_sum_exp(&plain);
        let logprob = |id: u32| plain[id as usize] - total;
        let k = request.top_logprobs.unwrap_or(0);
        let likely = sampler::top(
            &plain,
            if repairs { k.max(MENU) } else { k },
            &vocabulary.masked,
        );
        let top: Vec<Alternative> = likely
            .iter()
            .take(k)
            .map(|&id| vocabulary.alternative(id, logprob(id)))
            .collect();
        let menu = repairs.then(|| {
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
            menu,
        ))
    }
}
