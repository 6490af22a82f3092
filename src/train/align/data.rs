//! The corrections of a run: the policy's own captions of training images, judged by the simulated annotator.

use std::path::PathBuf;

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use sha2::{Digest, Sha256};

use super::{
    answers::Group,
    config::{AlignConfig, CorrectionConfig},
};
use crate::train::{
    TrainError,
    corrections::{self, Correction, annotator::Annotator},
    features::Features,
    policy::Policy,
    reward_data::own_captions,
    setup::Setup,
    text::normalize_caption,
};

/// A correction in tokens.
pub(super) struct Corrected {
    /// Number of the image in the training split.
    pub(super) image: usize,
    /// How the answer should read, its end included where it should end there.
    pub(super) better: Vec<u32>,
    /// What the policy wrote, as far as it was judged; `None` where all was right.
    pub(super) worse: Option<Vec<u32>>,
}

impl Corrected {
    /// The two answers behind a prompt, the better one first.
    pub(super) fn group(&self, asked: &Group) -> Group {
        let answers = std::iter::once(&self.better).chain(&self.worse).cloned().collect();
        Group { image: self.image, answers, ..asked.clone() }
    }
}

/// Everything that decides what the corrections are, as a name for their file.
fn key(config: &AlignConfig, policy: &Policy) -> Result<String, TrainError> {
    let settings = serde_json::to_string(&CorrectionConfig { iterations: 0, ..config.corrections.clone() });
    let settings = settings.map_err(|e| TrainError::Run(e.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(format!("1 {settings} {} {} {}", config.seed, config.data.display(), policy.name));
    hash.update(policy.tower.digest);
    let weights: f32 = policy.weights.values().map(|t| t.flatten_all()?.sum_all()?.to_scalar::<f32>()).sum::<candle_core::Result<f32>>()?;
    hash.update(weights.to_le_bytes());
    Ok(hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect())
}

/// Reads the run's corrections or, where no run with the same settings left any, lets the policy caption the training images and the annotator judge them.
pub(super) fn corrections(setup: &Setup, features: &Features, config: &AlignConfig) -> Result<(PathBuf, Vec<Correction>), TrainError> {
    let file = config.features.join(format!("corrections-{}.jsonl", key(config, &setup.policy)?));
    if file.exists() {
        return Ok((file.clone(), corrections::read(&file)?));
    }
    eprintln!("the policy captions the training images, for the annotator");
    let CorrectionConfig { scope, wrong_labels, captions, temperature, limit, .. } = config.corrections;
    let annotator = Annotator { scope, wrong: wrong_labels };
    let images = &setup.data.train;
    let mut all = Vec::new();
    for caption in 0..captions {
        let seed = config.seed.wrapping_add(1_000_003 * (caption as u64 + 1));
        let said = own_captions(setup, images, features, if caption == 0 { 0.0 } else { temperature }, seed)?;
        let numbered: Vec<(usize, String)> = said.into_iter().map(|(_, text)| text.text).enumerate().collect();
        all.extend(setup.workers.map(&numbered, |(i, text)| {
            let references: Vec<String> = images[*i].captions.iter().map(|c| normalize_caption(c)).collect();
            let mut rng = SmallRng::seed_from_u64(seed ^ (*i as u64) << 24);
            Ok(annotator.correct(&images[*i].name, text, &references, &mut rng))
        })?);
    }
    all.shuffle(&mut SmallRng::seed_from_u64(config.seed));
    if limit > 0 {
        // Captions that need no correction cost an annotator a glance; what is counted is corrections.
        let (mut bad, mut kept) = (0, Vec::new());
        for correction in all {
            if bad == limit {
                break;
            }
            bad += usize::from(!correction.errors.is_empty());
            kept.push(correction);
        }
        all = kept;
    }
    corrections::write(&file, &all)?;
    Ok((file, all))
}

/// Corrections in tokens.
pub(super) fn corrected(setup: &Setup, corrections: &[Correction]) -> Result<Vec<Corrected>, TrainError> {
    let numbers: std::collections::HashMap<&str, usize> =
        setup.data.train.iter().enumerate().map(|(i, image)| (image.name.as_str(), i)).collect();
    let tokenizer = &setup.policy.tokenizer;
    let encode = |text: &str, ends: bool| {
        let mut tokens = tokenizer.encode(text).map_err(|e| TrainError::Run(e.to_string()))?;
        tokens.extend(ends.then(|| tokenizer.eos()));
        Ok::<_, TrainError>(tokens)
    };
    let of = |c: &Correction| {
        let image = *numbers
            .get(c.image.as_str())
            .ok_or_else(|| TrainError::Run(format!("a correction of {}, which is no training image", c.image)))?;
        let (judged, whole) = c.judged();
        let worse = if c.errors.is_empty() { None } else { Some(encode(&judged, whole)?) };
        Ok(Corrected { image, better: encode(&c.corrected, c.complete)?, worse })
    };
    corrections.iter().map(of).collect()
}
