//! The last step of rewards, as a bundle serves them, for texts that were scored in a training or
//! an evaluation.

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

/// What finishes the rewards of texts about some images.
pub struct Finishers {
    evidence: Arc<Evidence>,
    images: Vec<ImageEvidence>,
}

impl Finishers {
    /// For the images that `features` are of; `None` where the policy's bundle has no evidence of
    /// what images show.
    ///
    /// # Errors
    /// When the bundle's files do not fit, or features cannot be read.
    pub fn open(policy: &Policy, features: &Features) -> Result<Option<Self>, TrainError> {
        let Some(evidence) =
            Bundle::evidence_of(&policy.name).map_err(|e| TrainError::Run(e.to_string()))?
        else {
            return Ok(None);
        };
        let of = |i: usize| evidence.evaluate(&features.batch(&[(i, 0)])?.squeeze(0)?);
        let images = (0..features.len())
            .map(of)
            .collect::<candle_core::Result<_>>()?;
        Ok(Some(Self {
            evidence: Arc::new(evidence),
            images,
        }))
    }

    /// Turns a contender's rewards of a text into those that are served.
    ///
    /// # Errors
    /// When the text is of another image, or cannot be cut into tokens.
    pub fn finish(
        &self,
        text: &mut ComparedText,
        contender: usize,
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
        let rewards = std::mem::take(&mut text.scores[contender]);
        let mut scored = TextRewards {
            rewards,
            log_probabilities: text.log_probabilities.clone(),
        };
        let finisher = Finisher::new(Arc::clone(&self.evidence), image.clone(), writer);
        finisher.finish_scored(
            tokens.iter().map(|token| policy.tokenizer.bytes(token.id)),
            &mut scored,
        );
        text.scores[contender] = scored.rewards;
        Ok(())
    }

    /// A scorer's calibration with the thresholds that are served for finished rewards.
    pub fn served(&self, mut calibration: Calibration) -> Calibration {
        serve_thresholds(&mut calibration, &self.evidence.config().calibration.own);
        calibration
    }
}
