//! From a network's raw scores to rewards, each token by the calibration that fits what it says.

use candle_core::{Result, Tensor, bail};

use super::calibration::Calibration;
use crate::vlm::{Row, tokenizer::TextTokenizer};

/// A calibration, and the tokens that may be a yes or no that answers.
pub struct Calibrator {
    calibration: Calibration,
    yes_or_no: Vec<u32>,
}

impl Calibrator {
    /// Tokens are those of `tokenizer`: a yes or no without a space before it can only begin a
    /// text.
    pub fn new(calibration: Calibration, tokenizer: &TextTokenizer) -> Self {
        let said = |id: &u32| {
            ["yes", "no"]
                .iter()
                .any(|word| tokenizer.bytes(*id).eq_ignore_ascii_case(word.as_bytes()))
        };
        Self {
            calibration,
            yes_or_no: (0..tokenizer.vocab_size() as u32).filter(said).collect(),
        }
    }

    /// Rewards of every text token of `rows`: `logits` is `(tokens)`, and `log_probabilities` says
    /// how likely the policy found each.
    ///
    /// # Errors
    /// When these are not equally many.
    pub fn rewards(
        &self,
        rows: &[Row<'_>],
        logits: &Tensor,
        log_probabilities: &[f32],
    ) -> Result<Vec<f32>> {
        let logits = logits.to_vec1::<f32>()?;
        let tokens = rows.iter().flat_map(|row| row.tokens);
        let count = tokens.clone().count();
        if logits.len() != count || log_probabilities.len() != count {
            bail!(
                "{} scores and {} log-probabilities for {count} tokens",
                logits.len(),
                log_probabilities.len()
            );
        }
        let reward = |((id, &logit), &lp): ((&u32, &f32), &f32)| {
            self.calibration
                .of(self.yes_or_no.contains(id))
                .reward(logit, lp)
        };
        Ok(tokens
            .zip(&logits)
            .zip(log_probabilities)
            .map(reward)
            .collect())
    }
}
