//! Two networks that learn which captions are of which photograph: in a batch of pairs, each is to have a higher cosine than any other pairing (InfoNCE).

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::VarMap;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::index};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Tensors, TrainError,
        optim::{AdamW, named_vars},
        progress,
    },
    EvidenceTraining,
    head::{Head, HeadConfig, Standard},
    learn::{self, StageConfig},
    origins::{Photograph, Photographs, object_text},
};
use crate::{
    eval::honesty::{Origin, folds::FOLDS},
    lexicon::{ConceptId, Lexicon, words},
    reward::matching::Vocabulary,
    vlm::ops::cross_entropy,
};

/// Logarithm of the factor on cosines that training begins with.
const TEMPERATURE: f32 = 2.5;

/// Bound of the vectors that training begins with.
const SPREAD: f32 = 0.5;

/// Added to squared lengths.
const LEAST_LENGTH: f64 = 1e-12;

/// The networks that compare texts with photographs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchingConfig {
    /// In how many of Flickr8k's training captions a word must stand for a vector of its own.
    pub least: usize,
    /// Length of the vectors.
    pub width: usize,
    /// Share of the right captions that the default threshold for texts by others may flag, on each origin; at .5 where that flags fewer.
    pub right_flagged: f64,
    /// The photographs' network.
    pub head: HeadConfig,
    /// Flickr8k's training split alone.
    pub first: StageConfig,
    /// Then with the origins that have captions or objects.
    pub second: StageConfig,
}

/// The words with vectors, the networks of the parts, each of which did not learn from its part, and the shipped one.
pub(super) struct Matching {
    pub(super) words: Vec<String>,
    pub(super) parts: Vec<Tensors>,
    pub(super) shipped: Tensors,
}

/// Everything that is learned from: a row a photograph.
struct Pairs {
    /// Standardized features.
    inputs: Vec<Vec<f32>>,
    /// The vectors of each of its texts.
    texts: Vec<Vec<Vec<u32>>>,
}

/// Photographs and a text of each.
struct Batch {
    inputs: Tensor,
    /// Vectors of all texts behind one another, and the text that each is of.
    entries: (Tensor, Tensor),
    seed: u64,
}

impl Pairs {
    /// Draws photographs, none of them twice, and a text of each.
    fn draw(&self, shares: &[(Vec<usize>, usize)], rng: &mut SmallRng) -> Result<Batch> {
        let (mut inputs, mut entries, mut owners, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (photographs, wanted) in shares {
            for place in index::sample(rng, photographs.len(), (*wanted).min(photographs.len())) {
                let photograph = photographs[place];
                let text = &self.texts[photograph][rng.random_range(0..self.texts[photograph].len())];
                inputs.extend_from_slice(&self.inputs[photograph]);
                entries.extend_from_slice(text);
                owners.extend(std::iter::repeat_n(count as u32, text.len()));
                count += 1;
            }
        }
        let width = inputs.len() / count.max(1);
        let entries = (Tensor::new(entries, &Device::Cpu)?, Tensor::new(owners, &Device::Cpu)?);
        Ok(Batch { inputs: Tensor::from_vec(inputs, (count, width), &Device::Cpu)?, entries, seed: rng.random() })
    }
}

impl Batch {
    /// The mean cross-entropy of finding the text of each photograph and the photograph of each text.
    fn loss(&self, weights: &Tensors, head: HeadConfig) -> Result<Tensor> {
        let get = |name: &str| weights.get(name).map_or_else(|| candle_core::bail!("there is no {name}"), |weight| Ok(weight.clone()));
        let photographs = normalized(&Head::of(weights)?.logits(&self.inputs, Some((head, self.seed)))?)?;
        let (entries, owners) = &self.entries;
        let gates = get("gates")?.index_select(entries, 0)?.exp()?.unsqueeze(1)?;
        let vectors = get("vectors")?.index_select(entries, 0)?.broadcast_mul(&gates)?;
        let texts = normalized(&Tensor::zeros(photographs.shape(), vectors.dtype(), &Device::Cpu)?.index_add(owners, &vectors, 0)?)?;
        let logits = photographs.matmul(&texts.t()?)?.broadcast_mul(&get("temperature")?.exp()?)?;
        let n = logits.dim(0)?;
        let (own, mean): (Vec<u32>, _) = ((0..n as u32).collect(), vec![0.5 / n as f32; n]);
        cross_entropy(&logits, &own, &mean, 0.0)? + cross_entropy(&logits.t()?, &own, &mean, 0.0)?
    }
}

fn normalized(rows: &Tensor) -> Result<Tensor> {
    rows.broadcast_div(&(rows.sqr()?.sum_keepdim(D::Minus1)? + LEAST_LENGTH)?.sqrt()?)
}

/// Fresh weights, a function of the seed.
fn initial(inputs: usize, entries: usize, config: &MatchingConfig, seed: u64) -> Result<VarMap> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut uniform = |shape: &[usize], bound: f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
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
        ("gates", Var::from_vec(vec![0f32; entries], entries, &Device::Cpu)?),
        ("temperature", Var::new(&[TEMPERATURE], &Device::Cpu)?),
    ];
    let vars = VarMap::new();
    let mut data = vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    data.extend(named.map(|(name, var)| (name.to_owned(), var)));
    drop(data);
    Ok(vars)
}

/// The words, in their base form, of at least `least` of these captions.
fn often<'c>(captions: impl Iterator<Item = &'c String>, least: usize) -> Vec<String> {
    let lexicon = Lexicon::shared();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for caption in captions {
        let mut own: Vec<String> = words(caption).iter().map(|word| lexicon.base_form(&word.text).to_owned()).collect();
        own.sort_unstable();
        own.dedup();
        own.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    }
    counts.into_iter().filter(|&(_, count)| count >= least.max(1)).map(|(word, _)| word).collect()
}

/// What a photograph is compared with: people's captions of it, or else its objects.
fn texts(photograph: &Photograph) -> Vec<String> {
    let objects: Vec<String> = photograph.objects.iter().flatten().map(|object| object_text(object)).collect();
    if photograph.image.captions.is_empty() { vec![objects.join(" and ")] } else { photograph.image.captions.clone() }
}

/// Weights by the names that bundles give them, those that only training needs left out.
fn stored(weights: Tensors) -> Tensors {
    weights.into_iter().filter(|(name, _)| name != "temperature").map(|(name, weight)| (format!("match.{name}"), weight)).collect()
}

impl EvidenceTraining {
    /// Trains the networks that compare texts with photographs.
    pub(super) fn matching(&self, pooled: &[Vec<f32>], standard: &Standard, concepts: &[ConceptId]) -> std::result::Result<Matching, TrainError> {
        let (config, seed) = (&self.recipe.matching, self.recipe.seed.wrapping_add(200));
        let Photographs { all, train, .. } = &self.photographs;
        let words = often(all[..*train].iter().flat_map(|photograph| &photograph.image.captions), config.least);
        let (vocabulary, lexicon) = (Vocabulary::new(&words), Lexicon::shared());
        let outputs: BTreeMap<ConceptId, usize> = concepts.iter().enumerate().map(|(i, &concept)| (concept, i)).collect();
        let output = |concept: ConceptId| lexicon.nearest(concept, |concept| outputs.get(&concept).copied());
        let entries = |text: &String| vocabulary.entries(text, output).into_iter().map(|entry| entry as u32).collect::<Vec<_>>();
        let of = |photograph: &Photograph| texts(photograph).iter().map(entries).filter(|text| !text.is_empty()).collect();
        let pairs = Pairs { inputs: pooled.iter().map(|row| standard.apply(row)).collect(), texts: all.par_iter().map(of).collect() };
        let vars = initial(pooled.first().map_or(0, Vec::len), words.len() + concepts.len(), config, seed)?;
        let stage = |name: &str, begin: Option<&Tensors>, stage: &StageConfig, seed: u64, takes: &dyn Fn(usize) -> bool| {
            self.saved(name, || {
                begin.map_or(Ok(()), |weights| learn::set(&vars, weights))?;
                let learned = |origin: Origin| -> Vec<usize> {
                    let known = |i: &usize| !pairs.texts[*i].is_empty();
                    match origin {
                        Origin::Flickr8k => (0..*train).filter(known).collect(),
                        _ => self.photographs.of(origin).filter(|&i| takes(all[i].fold)).filter(known).collect(),
                    }
                };
                self.learn_pairs(&vars, &pairs, &learn::shares(stage, learned)?, (stage, seed), name)?;
                Ok(learn::weights_of(&vars)?)
            })
        };
        let begun = stage("match-first", None, &config.first, seed, &|_| false)?;
        let part = |part: usize| {
            stage(&format!("match-part-{part}"), Some(&begun), &config.second, seed.wrapping_add(1 + part as u64), &|fold| fold != part)
        };
        let parts = (0..FOLDS).map(|fold| part(fold).map(stored)).collect::<std::result::Result<_, _>>()?;
        let is_shipped = |fold: usize| self.recipe.parts.contains(&fold);
        let shipped = stage("match-shipped", Some(&begun), &config.second, seed.wrapping_add(100), &is_shipped)?;
        Ok(Matching { words, parts, shipped: stored(shipped) })
    }

    /// Trains the networks of `vars` for a stage; a function of the seed.
    fn learn_pairs(
        &self,
        vars: &VarMap,
        pairs: &Pairs,
        shares: &[(Vec<usize>, usize)],
        (stage, seed): (&StageConfig, u64),
        name: &str,
    ) -> std::result::Result<(), TrainError> {
        let mut optim = AdamW::new(vars, stage.optim)?;
        let (named, bar) = (named_vars(vars), progress(stage.steps, 0));
        bar.set_message(name.to_owned());
        for step in 0..stage.steps {
            let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(step as u64));
            // Every pair is compared with every other: a batch is one shard.
            let batch = [pairs.draw(shares, &mut rng)?];
            let (loss, gradients) = self.setup.workers.gradients(&batch, &optim.vars(), |batch| {
                let weights: Tensors = named.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
                batch.loss(&weights, self.recipe.matching.head)
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
}
