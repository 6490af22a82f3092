//! Text-image matching: two networks trained contrastively (InfoNCE), so that in a batch the cosine
//! of each caption and its photograph exceeds that of any other pairing.

use std::collections::BTreeMap;

use candle_core::{D, Device, Result as CandleResult, Tensor, Var};
use candle_nn::VarMap;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::index};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Tensors, TrainError,
        optim::{AdamW, named_vars},
        parallel::Workers,
        progress,
    },
    EvidenceTraining,
    head::{EvidenceHead, HeadConfig, Standardization},
    learn::{self, StageConfig},
    origins::{LabeledPhotograph, TrainingSource, object_text},
};
use crate::{
    eval::honesty::{FOLDS, PhotographOrigin},
    lexicon::{ConceptId, Lexicon, words},
    reward::evidence::WordVectors,
    vlm::nn::cross_entropy,
};

/// Initial logarithm of the factor on cosines.
const TEMPERATURE: f32 = 2.5;

/// Bound of the initial word vectors.
const SPREAD: f32 = 0.5;

/// Floor added to squared lengths.
const MIN_LENGTH: f64 = 1e-12;

/// Settings of the matching networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchingConfig {
    /// Minimum number of Flickr8k's training captions that contain a word for it to get a vector.
    pub least: usize,
    /// Number of network pairs, trained on different samples; their cosines are averaged.
    pub members: usize,
    /// Length of the embeddings.
    pub width: usize,
    /// Maximum share of right captions flagged at the default threshold for texts by others, on
    /// each origin; the threshold is at most .5.
    pub right_flagged: f64,
    /// Image network.
    pub head: HeadConfig,
    /// First stage, on Flickr8k's training split alone.
    pub first: StageConfig,
    /// Second stage, with the origins that have captions or objects.
    pub second: StageConfig,
}

/// Trained matching model: vocabulary, networks trained without each fold, and the shipped
/// networks.
pub(super) struct TextMatching {
    pub(super) words: Vec<String>,
    pub(super) parts: Vec<Tensors>,
    pub(super) shipped: Tensors,
}

/// Training data: one row per photograph.
struct Pairs {
    /// Standardized features.
    inputs: Vec<Vec<f32>>,
    /// Vector indices of each of its texts.
    texts: Vec<Vec<Vec<u32>>>,
}

/// Photographs with one text each.
struct Batch {
    inputs: Tensor,
    /// Vector indices of all texts, concatenated, and the text that each belongs to.
    entries: (Tensor, Tensor),
    seed: u64,
}

impl Pairs {
    /// Draws distinct photographs and one text of each.
    fn draw(&self, shares: &[(Vec<usize>, usize)], rng: &mut SmallRng) -> CandleResult<Batch> {
        let (mut inputs, mut entries, mut owners, mut count) =
            (Vec::new(), Vec::new(), Vec::new(), 0);
        for (photographs, wanted) in shares {
            for index in index::sample(rng, photographs.len(), (*wanted).min(photographs.len())) {
                let photograph = photographs[index];
                let text =
                    &self.texts[photograph][rng.random_range(0..self.texts[photograph].len())];
                inputs.extend_from_slice(&self.inputs[photograph]);
                entries.extend_from_slice(text);
                owners.extend(std::iter::repeat_n(count as u32, text.len()));
                count += 1;
            }
        }
        let width = inputs.len() / count.max(1);
        let entries = (
            Tensor::new(entries, &Device::Cpu)?,
            Tensor::new(owners, &Device::Cpu)?,
        );
        Ok(Batch {
            inputs: Tensor::from_vec(inputs, (count, width), &Device::Cpu)?,
            entries,
            seed: rng.random(),
        })
    }
}

impl Batch {
    /// Mean cross-entropy of matching texts to photographs and photographs to texts.
    fn loss(&self, weights: &Tensors, head: HeadConfig) -> CandleResult<Tensor> {
        let get = |name: &str| {
            weights.get(name).map_or_else(
                || candle_core::bail!("there is no {name}"),
                |weight| Ok(weight.clone()),
            )
        };
        let photographs = normalized(
            &EvidenceHead::from_weights(weights)?.logits(&self.inputs, Some((head, self.seed)))?,
        )?;
        let (entries, owners) = &self.entries;
        let gates = get("gates")?
            .index_select(entries, 0)?
            .exp()?
            .unsqueeze(1)?;
        let vectors = get("vectors")?
            .index_select(entries, 0)?
            .broadcast_mul(&gates)?;
        let texts = normalized(
            &Tensor::zeros(photographs.shape(), vectors.dtype(), &Device::Cpu)?
                .index_add(owners, &vectors, 0)?,
        )?;
        let logits = photographs
            .matmul(&texts.t()?)?
            .broadcast_mul(&get("temperature")?.exp()?)?;
        let n = logits.dim(0)?;
        let (own, mean): (Vec<u32>, _) = ((0..n as u32).collect(), vec![0.5 / n as f32; n]);
        cross_entropy(&logits, &own, &mean, 0.0)? + cross_entropy(&logits.t()?, &own, &mean, 0.0)?
    }
}

fn normalized(rows: &Tensor) -> CandleResult<Tensor> {
    rows.broadcast_div(&(rows.sqr()?.sum_keepdim(D::Minus1)? + MIN_LENGTH)?.sqrt()?)
}

/// Initial weights, deterministic in `seed`.
fn initial(
    inputs: usize,
    entries: usize,
    config: &MatchingConfig,
    seed: u64,
) -> CandleResult<VarMap> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut uniform = |shape: &[usize], bound: f32| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        Var::from_vec(values, shape, &Device::Cpu)
    };
    let (width, hidden) = (config.width, config.head.hidden);
    let (outer, inner) = ((inputs as f32).powf(-0.5), (hidden as f32).powf(-0.5));
    let named = [
        ("fc1.weight", uniform(&[hidden, inputs], outer)?),
        ("fc1.bias", uniform(&[hidden], outer)?),
        ("fc2.weight", uniform(&[width, hidden], inner)?),
        ("fc2.bias", uniform(&[width], inner)?),
        ("vectors", uniform(&[entries, width], SPREAD)?),
        (
            "gates",
            Var::from_vec(vec![0f32; entries], entries, &Device::Cpu)?,
        ),
        ("temperature", Var::new(&[TEMPERATURE], &Device::Cpu)?),
    ];
    let vars = VarMap::new();
    let mut data = vars
        .data()
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    data.extend(named.map(|(name, var)| (name.to_owned(), var)));
    drop(data);
    Ok(vars)
}

/// Trains the networks of `vars` for a stage; deterministic in the seed. `shares` holds the rows to
/// draw from and their number per step.
fn train(
    vars: &VarMap,
    pairs: &Pairs,
    shares: &[(Vec<usize>, usize)],
    (stage, head, seed): (&StageConfig, HeadConfig, u64),
    (workers, name): (&Workers, &str),
) -> Result<(), TrainError> {
    let mut optim = AdamW::new(vars, stage.optim)?;
    let (named, bar) = (named_vars(vars), progress(stage.steps, 0));
    bar.set_message(name.to_owned());
    for step in 0..stage.steps {
        let mut rng = SmallRng::seed_from_u64(
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(step as u64),
        );
        // The loss compares every pair with every other, so a batch is one shard.
        let batch = [pairs.draw(shares, &mut rng)?];
        let (loss, gradients) = workers.gradients(&batch, &optim.vars(), |batch| {
            let weights: Tensors = named
                .iter()
                .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
                .collect();
            batch.loss(&weights, head)
        })?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, loss });
        }
        optim.step(gradients, step, stage.steps)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Words, in base form, that at least `least` captions contain.
fn frequent_words<'c>(captions: impl Iterator<Item = &'c String>, least: usize) -> Vec<String> {
    let lexicon = Lexicon::shared();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for caption in captions {
        let mut own: Vec<String> = words(caption)
            .iter()
            .map(|word| lexicon.base_form(&word.text).to_owned())
            .collect();
        own.sort_unstable();
        own.dedup();
        own.into_iter()
            .for_each(|word| *counts.entry(word).or_default() += 1);
    }
    counts
        .into_iter()
        .filter(|&(_, count)| count >= least.max(1))
        .map(|(word, _)| word)
        .collect()
}

/// Texts of a photograph: its captions or, without captions, its objects.
fn texts(photograph: &LabeledPhotograph) -> Vec<String> {
    let objects: Vec<String> = photograph
        .objects
        .iter()
        .flatten()
        .map(|object| object_text(object))
        .collect();
    if photograph.image.captions.is_empty() {
        vec![objects.join(" and ")]
    } else {
        photograph.image.captions.clone()
    }
}

/// Weights of a member under their names in bundles, without those that only training needs.
fn stored(member: usize, weights: Tensors) -> impl Iterator<Item = (String, Tensor)> {
    weights
        .into_iter()
        .filter(|(name, _)| name != "temperature")
        .map(move |(name, weight)| (format!("match.{member}.{name}"), weight))
}

impl EvidenceTraining {
    /// Trains the matching networks.
    pub(super) fn matching(
        &self,
        pooled: &[Vec<f32>],
        standard: &Standardization,
        concepts: &[ConceptId],
    ) -> Result<TextMatching, TrainError> {
        let (config, seed) = (&self.recipe.matching, self.recipe.seed.wrapping_add(200));
        let (all, learned_from) = (&self.photographs.all, self.photographs.train);
        let words = frequent_words(
            all[..learned_from]
                .iter()
                .flat_map(|photograph| &photograph.image.captions),
            config.least,
        );
        let (vocabulary, lexicon) = (WordVectors::new(&words), Lexicon::shared());
        let outputs: BTreeMap<ConceptId, usize> = concepts
            .iter()
            .enumerate()
            .map(|(i, &concept)| (concept, i))
            .collect();
        let output =
            |concept: ConceptId| lexicon.nearest(concept, |concept| outputs.get(&concept).copied());
        let entries = |text: &String| {
            vocabulary
                .entries(text, output)
                .into_iter()
                .map(|entry| entry as u32)
                .collect::<Vec<_>>()
        };
        let vectors = |photograph: &LabeledPhotograph| {
            texts(photograph)
                .iter()
                .map(entries)
                .filter(|text| !text.is_empty())
                .collect()
        };
        let pairs = Pairs {
            inputs: pooled.iter().map(|row| standard.apply(row)).collect(),
            texts: all.par_iter().map(vectors).collect(),
        };
        let mut matching = TextMatching {
            words,
            parts: vec![Tensors::new(); FOLDS],
            shipped: Tensors::new(),
        };
        for member in 0..config.members {
            let seed = seed.wrapping_add(1000 * member as u64);
            let entries = matching.words.len() + concepts.len();
            let vars = initial(pooled.first().map_or(0, Vec::len), entries, config, seed)?;
            let stage = |name: &str,
                         begin: Option<&Tensors>,
                         stage: &StageConfig,
                         seed: u64,
                         includes: &dyn Fn(usize) -> bool| {
                let name = format!("match-{member}-{name}");
                self.saved(&name, || {
                    begin.map_or(Ok(()), |weights| learn::set_weights(&vars, weights))?;
                    let learned = |source: TrainingSource| -> Vec<usize> {
                        let has_text = |i: &usize| !pairs.texts[*i].is_empty();
                        match source {
                            TrainingSource::Photographs(PhotographOrigin::Flickr8k) => {
                                (0..learned_from).filter(has_text).collect()
                            }
                            TrainingSource::Photographs(origin) => self
                                .photographs
                                .indices_of(origin)
                                .filter(|&i| includes(all[i].fold))
                                .filter(has_text)
                                .collect(),
                            // A text about the whole photograph need not hold for a crop.
                            TrainingSource::Crops => Vec::new(),
                        }
                    };
                    let context = (&self.setup.workers, name.as_str());
                    train(
                        &vars,
                        &pairs,
                        &learn::shares(stage, learned)?,
                        (stage, config.head, seed),
                        context,
                    )?;
                    Ok(learn::weights_of(&vars)?)
                })
            };
            let first_stage = stage("first", None, &config.first, seed, &|_| false)?;
            for (part, weights) in matching.parts.iter_mut().enumerate() {
                let seed = seed.wrapping_add(1 + part as u64);
                weights.extend(stored(
                    member,
                    stage(
                        &format!("part-{part}"),
                        Some(&first_stage),
                        &config.second,
                        seed,
                        &|fold| fold != part,
                    )?,
                ));
            }
            let is_shipped = |fold: usize| self.recipe.parts.contains(&fold);
            let weights = stage(
                "shipped",
                Some(&first_stage),
                &config.second,
                seed.wrapping_add(100),
                &is_shipped,
            )?;
            matching.shipped.extend(stored(member, weights));
        }
        Ok(matching)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::optim::OptimConfig, *};

    fn config(steps: usize) -> MatchingConfig {
        let optim = OptimConfig {
            learning_rate: 2e-2,
            warmup_steps: 5,
            final_share: 0.0,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.98,
            clip_norm: 5.0,
            ema_decay: 0.0,
        };
        let stage = StageConfig {
            steps,
            batch: 8,
            shares: BTreeMap::new(),
            optim,
        };
        let head = HeadConfig {
            hidden: 6,
            input_dropout: 0.0,
            hidden_dropout: 0.0,
        };
        MatchingConfig {
            least: 2,
            members: 1,
            width: 4,
            right_flagged: 0.1,
            head,
            first: stage.clone(),
            second: stage,
        }
    }

    /// Photographs of four kinds; a text has one word of its kind and one that all share.
    fn pairs() -> Pairs {
        let inputs = (0..8)
            .map(|i| {
                (0..4)
                    .map(|j| if i % 4 == j { 1.0 } else { -0.3 } + i as f32 * 0.01)
                    .collect()
            })
            .collect();
        Pairs {
            inputs,
            texts: (0..8)
                .map(|i| vec![vec![i % 4, 4], vec![4, i % 4, i % 4]])
                .collect(),
        }
    }

    fn weights(vars: &VarMap) -> Tensors {
        named_vars(vars)
            .into_iter()
            .map(|(name, var)| (name, var.as_tensor().clone()))
            .collect()
    }

    #[test]
    fn loss_gradients_agree_with_finite_differences() {
        let config = config(1);
        let vars = initial(4, 5, &config, 3).unwrap();
        let batch = pairs()
            .draw(&[((0..4).collect(), 4)], &mut SmallRng::seed_from_u64(1))
            .unwrap();
        let loss = || batch.loss(&weights(&vars), config.head).unwrap();
        let mut gradients = loss().backward().unwrap();
        for (name, var) in named_vars(&vars) {
            let gradient = gradients
                .remove(&var)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(gradient.iter().any(|g| g.abs() > 1e-5), "{name} takes part");
            let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..start.len() {
                let at = |step: f32| {
                    let mut moved = start.clone();
                    moved[i] += step;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                        .unwrap();
                    loss().to_scalar::<f32>().unwrap()
                };
                let difference = (at(2e-3) - at(-2e-3)) / 4e-3;
                at(0.0);
                assert!(
                    (difference - gradient[i]).abs() < 5e-3 + 5e-2 * gradient[i].abs(),
                    "{name}[{i}]: {difference} {}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn train_matches_texts_on_any_number_of_cores() {
        let (config, pairs) = (config(200), pairs());
        // One photograph of each kind a step.
        let shares: Vec<(Vec<usize>, usize)> =
            (0..4).map(|kind| (vec![kind, kind + 4], 1)).collect();
        let learned = |cores: usize| {
            let vars = initial(4, 5, &config, 3).unwrap();
            train(
                &vars,
                &pairs,
                &shares,
                (&config.first, config.head, 7),
                (&Workers::new(cores).unwrap(), "test"),
            )
            .unwrap();
            let batch = pairs
                .draw(&shares, &mut SmallRng::seed_from_u64(5))
                .unwrap();
            batch
                .loss(&weights(&vars), config.head)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let loss = learned(1);
        // Chance level is log 4.
        assert!(loss < 0.2, "{loss}");
        assert_eq!(learned(2), loss);
    }

    #[test]
    fn frequent_words_are_in_base_form() {
        let captions = ["A dog runs.", "Dogs running, dogs!", "A cat."].map(str::to_owned);
        assert_eq!(frequent_words(captions.iter(), 2), ["a", "dog", "run"]);
    }
}
