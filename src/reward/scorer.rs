//! Rewards of existing texts, by whomever they were written: every group of texts is scored in one
//! step.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use candle_core::{DType, Result, Tensor, bail};

use super::{RewardState, ScoredRow, TokenReading, TokenReward};
use crate::vlm::{
    KvCache, Logits, Outputs, Row, VisionLanguageModel,
    nn::log_sum_exp,
    prompt::{ImageFeatures, ImageSpan},
};

/// Maximum number of logits per step (128 MiB); a single text may exceed it.
const MAX_LOGITS: usize = 1 << 25;

/// Text about images.
#[derive(Debug, Clone, Copy)]
pub struct TextWithImage<'a> {
    /// Encoded images that the prompt shows.
    pub images: &'a [ImageFeatures],
    /// Positions of the images.
    pub spans: &'a [ImageSpan],
    /// Prompt, images included, and response.
    pub tokens: &'a [u32],
    /// Number of prompt positions; at least one.
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
    scorer: Box<dyn RewardState>,
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
                tokens: text.tokens,
                spans: text.spans,
                images: text.images,
                // Logits of the prompt's last position are those of the first response token.
                from: text.prompt - 1,
            })
            .collect();
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: self.reward.taps(),
        };
        let out = self.vlm.forward(&rows, &mut caches.policy, outputs)?;
        let Some(logits) = out.logits else {
            bail!("the model returned no logits")
        };
        let log_probabilities = log_probabilities(&rows, &logits)?;
        let began = Instant::now();
        let scored = rows.iter().zip(&log_probabilities);
        let scored: Vec<ScoredRow<'_>> = scored
            .map(|(row, log_probabilities)| ScoredRow {
                row: *row,
                unjudged: 1,
                log_probabilities,
                bytes: &[],
                ends: true,
                at_once: true,
                reader: None,
            })
            .collect();
        let readings = caches.scorer.score(&scored, out.hidden.as_ref())?;
        let took = began.elapsed();
        let texts = collect(&readings, log_probabilities)?;
        for slot in 0..group.len() {
            caches.policy.truncate(slot, 0);
            caches.scorer.truncate(slot, 0);
        }
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(caches);
        Ok((texts, took))
    }

    fn caches(&self) -> Result<Caches> {
        let positions = self.slots * self.capacity;
        let policy = self.vlm.new_cache(self.slots, self.capacity, positions)?;
        Ok(Caches {
            policy: policy.remembering(self.slots),
            scorer: self
                .reward
                .new_state(self.slots, self.capacity, positions)?,
        })
    }
}

/// Returns the log-probability under the policy of every wanted token of the rows; 0 for the
/// first, which belongs to the prompt.
fn log_probabilities(rows: &[Row<'_>], logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    let (lines, width) = logits.dims2()?;
    if lines != rows.iter().map(|row| row.wanted().len()).sum::<usize>() {
        bail!(
            "{lines} lines of logits for the tokens of {} texts",
            rows.len()
        );
    }
    let logits = logits
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let mut lines = logits.chunks_exact(width.max(1));
    let mut of_rows = Vec::with_capacity(rows.len());
    for row in rows {
        let mut out = vec![0.0];
        for (&token, line) in row.wanted()[1..].iter().zip(&mut lines) {
            let Some(logit) = line.get(token as usize) else {
                bail!("token {token} is not in the vocabulary of {width}")
            };
            out.push(logit - log_sum_exp(line));
        }
        // The last token's own logits predict what follows the text.
        lines.next();
        of_rows.push(out);
    }
    Ok(of_rows)
}

/// Joins the readings of each text with its log-probabilities.
fn collect(
    readings: &[Vec<TokenReading>],
    log_probabilities: Vec<Vec<f32>>,
) -> Result<Vec<TextRewards>> {
    let texts = readings.iter().zip(log_probabilities);
    texts
        .map(|(readings, mut log_probabilities)| {
            log_probabilities.remove(0);
            if readings.len() != log_probabilities.len() {
                bail!(
                    "{} rewards for {} tokens",
                    readings.len(),
                    log_probabilities.len()
                );
            }
            let rewards: Vec<f32> = readings.iter().map(|reading| reading.reward).collect();
            match rewards.iter().find(|r| !(0.0..=1.0).contains(*r)) {
                Some(bad) => bail!("reward {bad} is not between 0 and 1"),
                None => Ok(TextRewards {
                    rewards,
                    log_probabilities,
                }),
            }
        })
        .collect()
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
