//! Final rewards of texts in training and evaluation, computed as a bundle serves them.

use std::sync::Arc;

use super::{TrainError, features::Features, policy::Policy, scored_split::ComparedText};
use crate::{
    bundle::{Bundle, serve_thresholds},
    reward::{
        calibration::Calibration,
        evidence::{Evidence, ImageEvidence},
        finish::{Finisher, WrittenBy},
        scorer::TextRewards,
    },
};

/// Evidence model and the evidence of a set of images, from which final rewards are computed.
pub struct Finishers {
    evidence: Arc<Evidence>,
    images: Vec<ImageEvidence>,
}

impl Finishers {
    /// Computes the evidence of the images of `features`; `None` if the policy's bundle has no
    /// evidence model.
    ///
    /// # Errors
    /// When the bundle's files are invalid or features cannot be read.
    pub fn open(policy: &Policy, features: &Features) -> Result<Option<Self>, TrainError> {
        let Some(evidence) =
            Bundle::evidence_of(&policy.name).map_err(|e| TrainError::Run(e.to_string()))?
        else {
            return Ok(None);
        };
        let image = |i: usize| evidence.evaluate(&features.batch(&[(i, 0)])?.squeeze(0)?);
        let images = (0..features.len())
            .map(image)
            .collect::<candle_core::Result<_>>()?;
        Ok(Some(Self {
            evidence: Arc::new(evidence),
            images,
        }))
    }

    /// Replaces one scorer's calibrated rewards of a text with the final, served rewards.
    ///
    /// # Errors
    /// When the text's image is unknown or the text cannot be tokenized.
    pub fn finish(
        &self,
        text: &mut ComparedText,
        scorer: usize,
        writer: WrittenBy,
        policy: &Policy,
    ) -> Result<(), TrainError> {
        let failed =
            |e: &dyn std::fmt::Display| TrainError::Run(format!("image {}: {e}", text.image));
        let image = self
            .images
            .get(text.image)
            .ok_or_else(|| failed(&"there is no evidence of it"))?;
        let tokens = text
            .text
            .tokens(&policy.tokenizer)
            .map_err(|e| failed(&e))?;
        let rewards = std::mem::take(&mut text.scores[scorer]);
        let mut scored = TextRewards {
            rewards,
            log_probabilities: text.log_probabilities.clone(),
        };
        let finisher = Finisher::new(Arc::clone(&self.evidence), image.clone(), writer);
        finisher.finish_scored(
            tokens.iter().map(|token| policy.tokenizer.bytes(token.id)),
            &mut scored,
        );
        text.scores[scorer] = scored.rewards;
        Ok(())
    }

    /// Copy of a scorer's calibration with the thresholds served for final rewards.
    pub fn served(&self, mut calibration: Calibration) -> Calibration {
        serve_thresholds(&mut calibration, &self.evidence.config().calibration.own);
        calibration
    }
}
