//! Corrections that a run learns from: people's, read from a snapshot, or a simulated annotator's
//! of the policy's captions of training images.

use std::fs;

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use sha2::{Digest, Sha256};

use super::{
    answers::AnswerGroup,
    config::{AlignConfig, CorrectionConfig},
};
use crate::{
    train::{
        TrainError,
        corpus::{Corpus, asks_for_description},
        corrections::{CorrectedAnswer, annotator::Annotator},
        export::write_json,
        features::Features,
        policy::Policy,
        reward_data::own_captions,
        setup::Setup,
        snapshot::Snapshot,
        text::normalize_caption,
    },
    util::digest::hex,
    vlm::processor::tokenizer::TokenizerError,
};

/// Tokenized correction.
pub(super) struct CorrectionTokens {
    /// Index of the image in the training split.
    pub(super) image: usize,
    /// Prompt tokens; `None` for a description, whose request is worded at random.
    pub(super) prompt: Option<Vec<u32>>,
    /// Tokens of the corrected answer, with the end token if the answer is complete.
    pub(super) better: Vec<u32>,
    /// Tokens of the policy's answer up to where it was judged; `None` if nothing was wrong.
    pub(super) worse: Option<Vec<u32>>,
}

impl CorrectionTokens {
    /// Returns `asked` with the two answers as its own, the better one first.
    pub(super) fn group(&self, asked: &AnswerGroup) -> AnswerGroup {
        let answers = std::iter::once(&self.better)
            .chain(&self.worse)
            .cloned()
            .collect();
        let prompt = self.prompt.clone().unwrap_or_else(|| asked.prompt.clone());
        AnswerGroup {
            image: self.image,
            prompt,
            answers,
            ..asked.clone()
        }
    }
}

/// Digest of all settings and weights that determine the policy's captions; names their cache file.
fn key(config: &AlignConfig, policy: &Policy) -> Result<String, TrainError> {
    let CorrectionConfig {
        captions,
        temperature,
        ..
    } = config.corrections;
    let mut hash = Sha256::new();
    hash.update(format!(
        "{captions} {temperature} {} {}",
        config.seed,
        config.data.display()
    ));
    hash.update(policy.tower.digest);
    let mut names: Vec<&String> = policy.weights.keys().collect();
    names.sort();
    for name in names {
        policy.weights[name]
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .for_each(|x| hash.update(x.to_le_bytes()));
    }
    Ok(hex(&hash.finalize()[..6]))
}

/// The policy's captions of the training images, the first per image greedy and the others sampled;
/// cached beside the features for runs that differ only in the annotator.
fn captions(
    setup: &Setup,
    features: &Features,
    config: &AlignConfig,
) -> Result<Vec<Vec<String>>, TrainError> {
    let file = config
        .features
        .join(format!("captions-{}.json", key(config, &setup.policy)?));
    if file.exists() {
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        return serde_json::from_slice(&json)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())));
    }
    crate::train::report_progress("the policy captions the training images, for the annotator");
    let mut all = Vec::new();
    for i in 0..config.corrections.captions {
        let temperature = if i == 0 {
            0.0
        } else {
            config.corrections.temperature
        };
        let said = own_captions(
            setup,
            &setup.data.train,
            features,
            temperature,
            caption_seed(config, i),
        )?;
        all.push(said.into_iter().map(|(_, text)| text.text).collect());
    }
    write_json(&file, &all)?;
    Ok(all)
}

fn caption_seed(config: &AlignConfig, caption: usize) -> u64 {
    config.seed.wrapping_add(1_000_003 * (caption as u64 + 1))
}

/// Corrections of a run in a deterministic order: the snapshot's, or the simulated annotator's.
pub(super) fn corrections(
    setup: &Setup,
    features: &Features,
    config: &AlignConfig,
    snapshot: Option<&Snapshot>,
) -> Result<Vec<CorrectedAnswer>, TrainError> {
    let mut all = match snapshot {
        Some(snapshot) => snapshot.learnt.clone(),
        None => simulated(setup, features, config)?,
    };
    all.shuffle(&mut SmallRng::seed_from_u64(config.seed));
    let limit = config.corrections.limit;
    if limit > 0 {
        // The limit counts corrections: a caption without an error costs an annotator a glance.
        let mut bad = 0;
        let last = all.iter().position(|c| {
            bad += usize::from(!c.errors.is_empty());
            bad == limit
        });
        all.truncate(last.map_or(all.len(), |last| last + 1));
    }
    Ok(all)
}

/// Lets the simulated annotator correct the policy's captions of the training images.
fn simulated(
    setup: &Setup,
    features: &Features,
    config: &AlignConfig,
) -> Result<Vec<CorrectedAnswer>, TrainError> {
    let CorrectionConfig {
        scope,
        wrong_labels,
        ..
    } = config.corrections;
    let annotator = Annotator {
        scope,
        wrong: wrong_labels,
    };
    let images = &setup.data.train;
    let mut all = Vec::new();
    for (i, said) in captions(setup, features, config)?.into_iter().enumerate() {
        let numbered: Vec<(usize, String)> = said.into_iter().enumerate().collect();
        let seed = caption_seed(config, i);
        all.extend(setup.workers.map(&numbered, |(i, text)| {
            let image = images
                .get(*i)
                .ok_or_else(|| candle_core::Error::Msg("more captions than images".into()))?;
            let references: Vec<String> = image
                .captions
                .iter()
                .map(|c| normalize_caption(c))
                .collect();
            let mut rng = SmallRng::seed_from_u64(seed ^ (*i as u64) << 24);
            Ok(annotator.correct(&image.name, text, &references, &mut rng))
        })?);
    }
    Ok(all)
}

/// Tokenizes corrections.
pub(super) fn corrected(
    setup: &Setup,
    corrections: &[CorrectedAnswer],
) -> Result<Vec<CorrectionTokens>, TrainError> {
    let numbers: std::collections::HashMap<&str, usize> = setup
        .data
        .train
        .iter()
        .enumerate()
        .map(|(i, image)| (image.name.as_str(), i))
        .collect();
    let (tokenizer, casing) = (&setup.policy.tokenizer, setup.policy.config.casing);
    let failed = |e: TokenizerError| TrainError::Run(e.to_string());
    let of = |c: &CorrectedAnswer| {
        let image = *numbers.get(c.image.as_str()).ok_or_else(|| {
            TrainError::Run(format!(
                "a correction of {}, which is no training image",
                c.image
            ))
        })?;
        let worse = (!c.errors.is_empty())
            .then(|| c.judged_tokens(tokenizer, casing))
            .transpose()
            .map_err(failed)?;
        let asks = !asks_for_description(&c.prompt);
        let prompt = asks
            .then(|| Corpus::prompt(tokenizer, &setup.policy.template, &c.prompt))
            .transpose()?;
        Ok(CorrectionTokens {
            image,
            prompt,
            better: c.corrected_tokens(tokenizer, casing).map_err(failed)?,
            worse,
        })
    };
    // An answer that is wrong from its first word on has no corrected text to learn.
    corrections
        .iter()
        .filter(|c| !c.corrected.is_empty())
        .map(of)
        .collect()
}
