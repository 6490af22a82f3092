//! Scorers that are compared: trained ones, baselines without training, and controls that see
//! another image.

use std::{collections::BTreeMap, hint::black_box, path::Path, time::Instant};

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;

use super::{
    TrainError,
    checkpoint::RunDir,
    export::read_weights,
    policy::Policy,
    reward::{RewardTrainingConfig, WEIGHTS},
    rows::{ResponseBranch, RowBatch, TextRow},
    scorers::{Net, ScorerConfig, ScorerInput, next_image},
    taps,
};
use crate::{
    bundle::Bundle,
    reward::RewardKind,
    reward::calibration::Calibration,
    vlm::{
        Logits, Outputs, Row, VisionLanguageModel,
        decoder::Regular,
        prompt::{ImageFeatures, ImageId},
    },
};

/// Named scorer in a comparison.
pub struct ComparedScorer {
    /// Name in tables.
    pub name: String,
    /// Source of its scores.
    pub scorer: ScoreSource,
    /// Bytes of its weights as a bundle stores them.
    pub bytes: usize,
}

impl ComparedScorer {
    /// Returns `true` if the score is a trained network's logit, to which the calibration may add
    /// the policy's log-probability. A control that sees another image must not: the
    /// log-probability would tell it what is in this one.
    pub fn uses_log_probability(&self) -> bool {
        matches!(self.scorer, ScoreSource::Net(_) | ScoreSource::Mean(_))
    }
}

/// Source of raw scores; a higher score means a token is likelier grounded.
pub enum ScoreSource {
    /// The policy's log-probability of the token.
    LogProbability,
    /// Negative entropy of the policy's distribution before the token.
    Entropy,
    /// Logit of a trained network.
    Net(Box<Net>),
    /// Logit of another scorer's network (by index) given another image: prior knowledge without
    /// sight.
    OtherImage(usize),
    /// Mean of other scorers' logits (by index).
    Mean(Vec<usize>),
}

/// Loads the scorers of a bundle.
///
/// # Errors
/// When a file of the bundle is missing or invalid.
pub fn from_bundle(policy: &Policy) -> Result<Vec<ComparedScorer>, TrainError> {
    let Some(reward) = &policy.config.reward else {
        return Ok(Vec::new());
    };
    let file = Bundle::file(&policy.name, "reward.safetensors")
        .map_err(|e| TrainError::Run(e.to_string()))?;
    let stored = candle_core::safetensors::load_buffer(&file, &Device::Cpu)?;
    let decoder = &policy.config.model.language.decoder;
    let mut configs = Vec::new();
    if let Some(probe) = &reward.probe {
        let taps = probe.taps(decoder.num_hidden_layers, decoder.hidden_size)?;
        configs.push((
            RewardKind::Probe.name(),
            ScorerConfig::stored_probe(taps, probe.hidden),
        ));
    }
    if reward.detached.is_some() {
        configs.push((RewardKind::Detached.name(), ScorerConfig::stored_detached()));
    }
    configs
        .into_iter()
        .map(|(name, config)| load(name, &config, policy, &stored))
        .collect()
}

/// Calibrations of a bundle's scorers, as it serves them.
///
/// # Errors
/// When its `calibration.json` is missing or invalid.
pub fn calibrations(policy: &Policy) -> Result<BTreeMap<RewardKind, Calibration>, TrainError> {
    if policy.config.reward.is_none() {
        return Ok(BTreeMap::new());
    }
    let file = Bundle::file(&policy.name, "calibration.json")
        .map_err(|e| TrainError::Run(e.to_string()))?;
    serde_json::from_slice(&file)
        .map_err(|e| TrainError::Run(format!("bundle {}: calibration.json: {e}", policy.name)))
}

/// Loads the scorers of a finished run of `candor train reward` on the same policy.
///
/// # Errors
/// When the run is unfinished or was trained on another policy.
pub fn from_run(run: &Path, policy: &Policy) -> Result<Vec<ComparedScorer>, TrainError> {
    let config: RewardTrainingConfig = RunDir::config(run)?;
    let weights = |name: &str| {
        Bundle::file(name, "model.safetensors").map_err(|e| TrainError::Run(e.to_string()))
    };
    if config.policy != policy.name && weights(&config.policy)? != weights(&policy.name)? {
        return Err(TrainError::Run(format!(
            "{} scores the policy {}, not {}",
            run.display(),
            config.policy,
            policy.name
        )));
    }
    let stored = read_weights(&run.join(WEIGHTS))?;
    taps::resolved(run, &config.scorers)?
        .iter()
        .map(|(name, config)| load(name, config, policy, &stored))
        .collect()
}

fn load(
    name: &str,
    config: &ScorerConfig,
    policy: &Policy,
    stored: &super::Tensors,
) -> Result<ComparedScorer, TrainError> {
    let own: super::Tensors = stored
        .iter()
        .filter_map(|(k, t)| {
            Some((
                k.strip_prefix(name)?.strip_prefix('.')?.to_owned(),
                t.clone(),
            ))
        })
        .collect();
    let bytes = own
        .values()
        .map(|t| t.elem_count() * t.dtype().size_in_bytes())
        .sum();
    let own = own
        .into_iter()
        .map(|(k, t)| Ok((k, t.to_dtype(DType::F32)?)))
        .collect::<CandleResult<_>>()?;
    let net = Net::load(
        config,
        &policy.config.model,
        VarBuilder::from_tensors(own, DType::F32, &Device::Cpu),
    )?;
    Ok(ComparedScorer {
        name: name.to_owned(),
        scorer: ScoreSource::Net(Box::new(net)),
        bytes,
    })
}

/// Baselines without training: log-probability and entropy.
pub fn baselines() -> [ComparedScorer; 2] {
    [
        ("log-probability", ScoreSource::LogProbability),
        ("entropy", ScoreSource::Entropy),
    ]
    .map(|(name, scorer)| ComparedScorer {
        name: name.into(),
        scorer,
        bytes: 0,
    })
}

/// Computes every scorer's raw scores of a batch's learned tokens, one vector per scorer, and the
/// policy's log-probabilities of those tokens.
///
/// # Errors
/// When a tensor operation fails.
pub fn score(
    policy: &Policy,
    scorers: &[ComparedScorer],
    images: &Tensor,
    batch: &RowBatch,
) -> CandleResult<(Vec<Vec<f32>>, Vec<f32>)> {
    let pass = ScorerInput::new(policy, images, batch)?;
    let other = next_image(images)?;
    let needs_other = scorers
        .iter()
        .any(|c| matches!(c.scorer, ScoreSource::OtherImage(_)));
    let blind = needs_other
        .then(|| ScorerInput::new(policy, &other, batch))
        .transpose()?;
    let policy_scores = self::policy_scores(policy, &pass)?;
    let net = |i: usize| {
        if let ScoreSource::Net(net) = &scorers[i].scorer {
            Ok(net)
        } else {
            candle_core::bail!("scorer {i} has no network")
        }
    };
    let logits = |net: &Net, pass: &ScorerInput<'_>| {
        net.score(pass, Regular::default())?.logits.to_vec1::<f32>()
    };
    let mut scores: Vec<Vec<f32>> = Vec::with_capacity(scorers.len());
    for scorer in scorers {
        let own = match &scorer.scorer {
            ScoreSource::LogProbability => policy_scores.0.clone(),
            ScoreSource::Entropy => policy_scores.1.clone(),
            ScoreSource::Net(net) => logits(net, &pass)?,
            ScoreSource::OtherImage(index) => match &blind {
                Some(blind) => logits(net(*index)?, blind)?,
                None => Vec::new(),
            },
            ScoreSource::Mean(indices) => mean(
                &indices
                    .iter()
                    .map(|&i| scores[i].as_slice())
                    .collect::<Vec<_>>(),
            ),
        };
        scores.push(own);
    }
    Ok((scores, policy_scores.0))
}

fn mean(parts: &[&[f32]]) -> Vec<f32> {
    let n = parts.first().map_or(0, |first| first.len());
    (0..n)
        .map(|i| parts.iter().map(|scores| scores[i]).sum::<f32>() / parts.len() as f32)
        .collect()
}

/// The policy's log-probability of every learned token and the negative entropy of the distribution
/// before it.
fn policy_scores(policy: &Policy, pass: &ScorerInput<'_>) -> CandleResult<(Vec<f32>, Vec<f32>)> {
    let logits = policy
        .model
        .llama()
        .logits(&pass.predicting()?)?
        .to_vec2::<f32>()?;
    Ok(logits
        .iter()
        .zip(&pass.batch.targets)
        .map(|(line, &target)| token_scores(line, target))
        .unzip())
}

fn token_scores(line: &[f32], target: u32) -> (f32, f32) {
    let max = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0f32, 0.0f32);
    for &x in line {
        let e = (x - max).exp();
        sum += e;
        weighted += e * (x - max);
    }
    let log_sum = sum.ln();
    (
        line[target as usize] - max - log_sum,
        weighted / sum - log_sum,
    )
}

/// Milliseconds that each scorer adds to a decoded token, in the scorers' order: median of
/// `repeats` single steps on one core.
///
/// # Errors
/// When a tensor operation fails.
pub fn costs(
    policy: &Policy,
    scorers: &[ComparedScorer],
    image: &Tensor,
    repeats: usize,
) -> CandleResult<Vec<f64>> {
    let row = TextRow {
        prompt: vec![1],
        branches: vec![ResponseBranch {
            after_prompt: true,
            tokens: vec![2],
            learn_from: 0,
        }],
    };
    let batch = RowBatch::new(&[row], image.dim(0)?)?;
    let images = image.unsqueeze(0)?;
    let pass = ScorerInput::new(policy, &images, &batch)?;
    let line = policy
        .model
        .llama()
        .logits(&pass.predicting()?)?
        .to_vec2::<f32>()?
        .concat();
    let mut costs: Vec<f64> = Vec::with_capacity(scorers.len());
    for scorer in scorers {
        let cost = match &scorer.scorer {
            ScoreSource::LogProbability | ScoreSource::Entropy => median_ms(repeats, || {
                black_box(token_scores(&line, 2));
                Ok(())
            })?,
            ScoreSource::Net(net) => match net.detached() {
                Some(own) => {
                    let decoder = own.decoder();
                    let capacity = image.dim(0)? + 4;
                    let mut cache = decoder.new_cache(1, capacity, capacity)?;
                    let outputs = Outputs {
                        logits: Logits::None,
                        hidden_layers: &[decoder.spec().layers - 1],
                    };
                    let (prompt, encoded) = (
                        decoder.prompt(&[1]),
                        [ImageFeatures {
                            id: ImageId([0; 32]),
                            features: image.clone(),
                        }],
                    );
                    let first = Row {
                        spans: &prompt.images,
                        images: &encoded,
                        ..Row::text(0, 0, &prompt.tokens)
                    };
                    decoder.forward(&[first], &mut cache, outputs)?;
                    let start = cache.len(0);
                    median_ms(repeats, || {
                        let row = Row::text(0, start, &[2]);
                        let step = decoder.forward(&[row], &mut cache, outputs)?;
                        if let Some(last) = step.hidden {
                            black_box(own.logits(&last)?.to_vec1::<f32>()?);
                        }
                        cache.truncate(0, start);
                        Ok(())
                    })?
                }
                None => median_ms(repeats, || {
                    black_box(
                        net.score(&pass, Regular::default())?
                            .logits
                            .to_vec1::<f32>()?,
                    );
                    Ok(())
                })?,
            },
            ScoreSource::OtherImage(index) => costs[*index],
            ScoreSource::Mean(indices) => indices.iter().map(|&i| costs[i]).sum(),
        };
        costs.push(cost);
    }
    Ok(costs)
}

fn median_ms(repeats: usize, mut f: impl FnMut() -> CandleResult<()>) -> CandleResult<f64> {
    let mut times = Vec::with_capacity(repeats);
    // The first repeats warm up caches and the allocator.
    for i in 0..repeats + repeats / 4 + 1 {
        let start = Instant::now();
        f()?;
        if i > repeats / 4 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
