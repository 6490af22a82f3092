//! Comparison of a bundle's scorers on its device with the same on the CPU.

use candle_core::Device;

use super::{
    checks::{QUESTIONS, SIZE, message, picture},
    report::CheckResult,
    subject::{Subject, text},
};
use crate::{
    bundle::{Bundle, OpenOptions},
    reward::{
        RewardKind,
        scorer::{Scorer, TextWithImage},
    },
    vlm::processor::ImageOptions,
};

/// Texts to score, of different lengths.
const TEXTS: [&str; 3] = [
    "A dog runs across the grass.",
    "Two people in red jackets stand beside a wall of stone and look at the sea.",
    "A table.",
];

/// Largest difference of a reward, which is a probability.
const MOST: f64 = 1e-3;

/// Returns the kinds of scorers that a bundle of Candor's own form has.
pub(super) fn kinds(name: &str) -> Result<Vec<RewardKind>, String> {
    let config = Bundle::describe(name).map_err(text)?;
    let has = |kind: &RewardKind| {
        let scorers = config.reward.as_ref();
        scorers.is_some_and(|scorers| match kind {
            RewardKind::Probe => scorers.probe.is_some(),
            RewardKind::Detached => scorers.detached.is_some(),
        })
    };
    Ok(RewardKind::ALL.into_iter().filter(has).collect())
}

/// Opens a bundle with one of its scorers.
pub(super) fn open(name: &str, kind: RewardKind, device: &Device) -> Result<Bundle, String> {
    let options = OpenOptions {
        reward: Some(kind),
        ..OpenOptions::default()
    };
    Bundle::open(name, &options, device).map_err(text)
}

/// Compares the rewards that a scorer gives texts, all of them in one step.
pub(super) fn compare(name: &str, kind: RewardKind, bundle: &Bundle) -> CheckResult {
    let check = format!("CPU, {} scorer: rewards", kind.name());
    let off = || {
        let want = rewards(&open(name, kind, &Device::Cpu)?)?;
        let got = rewards(bundle)?;
        if got.len() != want.len() {
            return Err(format!("{} rewards, not {}", got.len(), want.len()));
        }
        let off = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
        Ok(f64::from(off.fold(0.0, f32::max)))
    };
    CheckResult::within(check, off(), MOST)
}

/// Returns the rewards of all tokens of the texts.
fn rewards(bundle: &Bundle) -> Result<Vec<f32>, String> {
    let reward = bundle.reward.clone().ok_or("the bundle has no scorer")?;
    let subject = Subject::of(bundle, MOST);
    let picture = subject.encode(0, &picture(SIZE), &ImageOptions::default())?;
    let prompt = subject.prompt(&[message(QUESTIONS[0], true)], &[picture])?;
    let tokens = |given: &&str| {
        let response = bundle.response(given)?;
        Ok([prompt.prompt.tokens.as_slice(), &response].concat())
    };
    let texts: Vec<Vec<u32>> = TEXTS.iter().map(tokens).collect::<Result<_, String>>()?;
    let group: Vec<TextWithImage<'_>> = texts
        .iter()
        .map(|tokens| TextWithImage {
            images: &prompt.images,
            spans: &prompt.prompt.images,
            tokens,
            prompt: prompt.len(),
        })
        .collect();
    let capacity = texts.iter().map(Vec::len).max().unwrap_or(0);
    let scorer = Scorer::new(bundle.vlm.clone(), reward, group.len(), capacity);
    let (scored, _) = scorer.score(&group).map_err(text)?;
    Ok(scored.into_iter().flat_map(|text| text.rewards).collect())
}
