//! Rewards of existing texts, by whomever they were written: every group of texts is scored in one
//! step.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use candle_core::{DType, Result, Tensor, bail};

use super::TokenReward;
use crate::vlm::{KvCache, Row, VisionLanguageModel, Want, nn::log_sum_exp};

/// Maximum number of logits per step (128 MiB); a single text may exceed it.
const MAX_LOGITS: usize = 1 << 25;

/// Text about an image.
#[derive(Debug, Clone, Copy)]
pub struct TextWithImage<'a> {
    /// Encoded image, `(image_tokens, channels)`.
    pub image: &'a Tensor,
    /// Prompt and response.
    pub tokens: &'a [u32],
    /// Number of prompt tokens; at least one.
    pub prompt: usize,
}

/// Rewards and log-probabilities of the response tokens of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRewards {
    /// Calibrated rewards.
    pub rewards: Vec<f32>,
    /// Log-probability of each token under the policy: natural logarithms.
    pub log_probabilities: Vec<f32>,
}

/// Policy and scorer with caches separate from the engine's running batch.
pub struct Scorer {
    vlm: Arc<dyn VisionLanguageModel>,
    reward: Arc<dyn TokenReward>,
    slots: usize,
    capacity: usize,
    /// Created on first use, taken while in use, and dropped after a failed call, which may have
    /// left them inconsistent.
    idle: Mutex<Option<Caches>>,
}

struct Caches {
    policy: KvCache,
    scorer: Option<KvCache>,
}

impl Scorer {
    /// Creates a scorer for groups of at most `slots` texts of at most `capacity` positions each,
    /// image included.
    pub fn new(
        vlm: Arc<dyn VisionLanguageModel>,
        reward: Arc<dyn TokenReward>,
        slots: usize,
        capacity: usize,
    ) -> Self {
        Self {
            vlm,
            reward,
            slots: slots.max(1),
            capacity,
            idle: Mutex::new(None),
        }
    }

    /// Groups texts of the given lengths in tokens for [`Self::score`], in order.
    pub fn groups(&self, lengths: &[usize]) -> Vec<Range<usize>> {
        groups(
            lengths,
            self.slots,
            MAX_LOGITS / self.vlm.spec().vocab_size.max(1),
        )
    }

    /// Scores one group, and returns the time that the scorer itself took as well.
    ///
    /// # Errors
    /// When a text or the group is too long, a text lacks prompt or response, or a network fails.
    pub fn score(&self, group: &[TextWithImage<'_>]) -> Result<(Vec<TextRewards>, Duration)> {
        if group
            .iter()
            .any(|text| text.prompt == 0 || text.prompt >= text.tokens.len())
        {
            bail!("a text needs a prompt and a response");
        }
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut caches = idle.map_or_else(|| self.caches(), Ok)?;
        let rows: Vec<Row<'_>> = group
            .iter()
            .enumerate()
            .map(|(slot, text)| Row {
                slot,
                start: 0,
                image: Some(text.image),
                tokens: text.tokens,
            })
            .collect();
        let out = self.vlm.forward(&rows, &mut caches.policy, Want::All)?;
        let Some(logits) = out.logits else {
            bail!("the model returned no logits")
        };
        let log_probabilities = log_probabilities(group, &logits)?;
        let began = Instant::now();
        let rewards = self.reward.score(
            &rows,
            &out.hidden,
            &log_probabilities,
            caches.scorer.as_mut(),
        )?;
        let took = began.elapsed();
        if rewards.len() != log_probabilities.len() {
            bail!(
                "{} rewards for {} tokens",
                rewards.len(),
                log_probabilities.len()
            );
        }
        let scored = responses(group, &rewards, &log_probabilities)?;
        for slot in 0..group.len() {
            caches.policy.truncate(slot, 0);
            if let Some(cache) = &mut caches.scorer {
                cache.truncate(slot, 0);
            }
        }
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(caches);
        Ok((scored, took))
    }

    fn caches(&self) -> Result<Caches> {
        let policy = self
            .vlm
            .new_cache(self.slots, self.capacity)?
            .remembering(self.slots);
        let scorer = self.reward.new_cache(self.slots, self.capacity)?;
        Ok(Caches {
            policy,
            scorer: scorer.map(|cache| cache.remembering(self.slots)),
        })
    }
}

/// Returns the log-probability under the policy of every token of the group's texts; 0 for prompt
/// tokens, as scorers expect.
fn log_probabilities(group: &[TextWithImage<'_>], logits: &Tensor) -> Result<Vec<f32>> {
    let (lines, width) = logits.dims2()?;
    if lines != group.iter().map(|text| text.tokens.len()).sum::<usize>() {
        bail!(
            "{lines} lines of logits for the tokens of {} texts",
            group.len()
        );
    }
    let logits = logits
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let mut out = Vec::with_capacity(lines);
    for text in group {
        out.resize(out.len() + text.prompt, 0.0);
        for &token in &text.tokens[text.prompt..] {
            // The logits of the preceding position.
            let line = &logits[(out.len() - 1) * width..out.len() * width];
            let Some(logit) = line.get(token as usize) else {
                bail!("token {token} is not in the vocabulary of {width}")
            };
            out.push(logit - log_sum_exp(line));
        }
    }
    Ok(out)
}

/// Selects the values of each response from those of all tokens of the group.
fn responses(
    group: &[TextWithImage<'_>],
    rewards: &[f32],
    log_probabilities: &[f32],
) -> Result<Vec<TextRewards>> {
    let mut first = 0;
    let scored = group.iter().map(|text| {
        let tokens = first + text.prompt..first + text.tokens.len();
        first = tokens.end;
        TextRewards {
            rewards: rewards[tokens.clone()].to_vec(),
            log_probabilities: log_probabilities[tokens].to_vec(),
        }
    });
    let scored: Vec<TextRewards> = scored.collect();
    match scored
        .iter()
        .flat_map(|text| &text.rewards)
        .find(|r| !(0.0..=1.0).contains(*r))
    {
        Some(bad) => bail!("reward {bad} is not between 0 and 1"),
        None => Ok(scored),
    }
}

fn groups(lengths: &[usize], most: usize, tokens: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut held = 0;
    for (i, &length) in lengths.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if group.len() < most && held + length <= tokens => {
                group.end = i + 1;
                held += length;
            }
            _ => {
                groups.push(i..i + 1);
                held = length;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_hold_every_text_once_in_order_within_bounds(
            lengths in proptest::collection::vec(1usize..50, 0..40), most in 1usize..9,
            tokens in 1usize..120,
        ) {
            let groups = groups(&lengths, most, tokens);
            prop_assert_eq!(groups.iter().cloned().flatten().collect::<Vec<_>>(),
                (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let held: usize = lengths[group.clone()].iter().sum();
                prop_assert!(group.len() == 1 || (group.len() <= most && held <= tokens));
            }
        }
    }
}
