//! The corrections of a run: people's, out of a snapshot, or the policy's own captions of training
//! images, judged by the simulated annotator.

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
};

/// A correction in tokens.
pub(super) struct CorrectionTokens {
    /// Number of the image among those of training.
    pub(super) image: usize,
    /// What was asked, in tokens; `None` for a description, which is asked for in many words.
    pub(super) prompt: Option<Vec<u32>>,
    /// How the answer should read, its end included where it should end there.
    pub(super) better: Vec<u32>,
    /// What the policy wrote, as far as it was judged; `None` where all was right.
    pub(super) worse: Option<Vec<u32>>,
}

impl CorrectionTokens {
    /// The two answers behind a prompt, the better one first.
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

/// Everything that decides what the policy says, as a name for a file of it.
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

/// The policy's own captions of the training images, once greedy and otherwise drawn: kept beside
/// the features, for runs that differ in how they are corrected.
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
    crate::train::tell("the policy captions the training images, for the annotator");
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

/// The corrections of a run, in the order in which they are counted: those of the snapshot, or the
/// annotator's.
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
        // Captions that need no correction cost an annotator a glance; what is counted is
        // corrections.
        let mut bad = 0;
        let last = all.iter().position(|c| {
            bad += usize::from(!c.errors.is_empty());
            bad == limit
        });
        all.truncate(last.map_or(all.len(), |last| last + 1));
    }
    Ok(all)
}

/// Lets the annotator judge what the policy says of the training images.
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

/// Corrections in tokens.
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
    let encode = |text: &str, ends: bool| {
        let mut tokens = tokenizer
            .encode_text(&casing.apply(text))
            .map_err(|e| TrainError::Run(e.to_string()))?;
        tokens.extend(ends.then(|| tokenizer.eos()));
        Ok::<_, TrainError>(tokens)
    };
    let of = |c: &CorrectedAnswer| {
        let image = *numbers.get(c.image.as_str()).ok_or_else(|| {
            TrainError::Run(format!(
                "a correction of {}, which is no training image",
                c.image
            ))
        })?;
        let (judged, whole) = c.judged();
        let worse = if c.errors.is_empty() {
            None
        } else {
            Some(encode(&judged, whole)?)
        };
        let asks = !asks_for_description(&c.prompt);
        let prompt = asks
            .then(|| Corpus::prompt(tokenizer, &setup.policy.template, &c.prompt))
            .transpose()?;
        Ok(CorrectionTokens {
            image,
            prompt,
            better: encode(&c.corrected, c.complete)?,
            worse,
        })
    };
    // Nobody said how an answer should read that is wrong from its first word on.
    corrections
        .iter()
        .filter(|c| !c.corrected.is_empty())
        .map(of)
        .collect()
}
