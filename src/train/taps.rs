//! Layers of the policy that probes read: as a recipe names them, or chosen by how well a linear
//! probe of each ranks the things named in the policy's own captions of tuning photographs.
//!
//! The best layer differs between models (HALP, arXiv 2603.05465).

use std::{collections::BTreeMap, fmt, fs, path::Path};

use candle_core::{DType, Device, Result as CandleResult, Tensor, bail};
use candle_nn::{Init, VarBuilder, VarMap, ops::sigmoid};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use super::{
    Tensors, TrainError,
    compared_scorers::{ComparedScorer, ScoreSource},
    optim::{AdamW, OptimConfig},
    reward::RewardTraining,
    reward_data::{Examples, own_captions},
    scored_split::{self, DevelopmentHalf, ImageStatements, dev_features},
    scorers::{Net, ScorerConfig, ScorerConfigs, ScorerInput, standardization},
};
use crate::{
    eval::{
        data::flickr8k::Image,
        report::{Column, GoodDirection, NumberFormat, ReportTable, Section, TableRow},
        tokens::Ranking,
    },
    vlm::models::candor_mini::CandorMiniConfig,
};

/// Layers of the policy that a probe reads, as its recipe names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "layers: must be a number of last layers, a list of layers from 0, or \
                 \"validation\""
)]
pub enum ProbeLayers {
    /// Number of last layers; all of them if the policy has fewer.
    Last(usize),
    /// Indices from 0, in ascending order.
    Listed(Vec<usize>),
    /// Left to the training.
    Chosen(TapCriterion),
}

/// Criterion by which training chooses a probe's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapCriterion {
    /// AUROC on the tuning half of the development split.
    Validation,
}

impl ProbeLayers {
    /// Returns the indices among a policy's `layers`, in ascending order; `None` if training has
    /// yet to choose them.
    pub fn taps(&self, layers: usize) -> Option<Vec<usize>> {
        match self {
            Self::Last(n) => Some((layers.saturating_sub(*n)..layers).collect()),
            Self::Listed(taps) => Some(taps.clone()),
            Self::Chosen(TapCriterion::Validation) => None,
        }
    }

    /// Checks them against a policy with `layers` layers.
    ///
    /// # Errors
    /// When they name no layer, a layer twice or out of order, or one that the policy lacks.
    pub fn check(&self, layers: usize) -> Result<(), String> {
        match self {
            Self::Last(0) => Err("must be at least 1".into()),
            Self::Listed(taps) if taps.is_empty() => Err("must name at least one layer".into()),
            Self::Listed(taps) if !taps.is_sorted_by(|a, b| a < b) => {
                Err(format!("must ascend, without repetition, not {taps:?}"))
            }
            Self::Listed(taps) => match taps.iter().find(|&&tap| tap >= layers) {
                Some(beyond) => Err(format!(
                    "there is no layer {beyond}; the policy has {layers}, the last being {}",
                    layers.saturating_sub(1)
                )),
                None => Ok(()),
            },
            Self::Last(_) | Self::Chosen(_) => Ok(()),
        }
    }
}

/// Layers whose states a linear probe was fitted on, and how well it ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TapCandidate {
    /// Layers, from 0.
    pub layers: Vec<usize>,
    /// AUROC on things named in the policy's captions of the tuning half.
    pub auroc: f64,
}

/// Difference of AUROC that counts as a tie.
const TIE: f64 = 0.002;

/// Returns the candidate with the best AUROC or, among those that tie with it, the best of those
/// with the fewest layers; `None` if no candidate has an AUROC.
pub fn choose(candidates: &[TapCandidate]) -> Option<&TapCandidate> {
    let best = candidates
        .iter()
        .map(|candidate| candidate.auroc)
        .fold(f64::NAN, f64::max);
    candidates
        .iter()
        .filter(|candidate| best - candidate.auroc <= TIE)
        .min_by(|a, b| {
            let fewer = a.layers.len().cmp(&b.layers.len());
            fewer.then(b.auroc.total_cmp(&a.auroc))
        })
}

/// Chosen layers of a run's probes, `RUNDIR/taps.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChosenTaps {
    /// Layers by name of the scorer that reads them.
    scorers: BTreeMap<String, Vec<usize>>,
    /// Measured candidates; none if every scorer starts from a probe whose layers it reads.
    candidates: Vec<TapCandidate>,
}

/// File of a run's chosen layers.
const FILE: &str = "taps.json";

impl ChosenTaps {
    /// Gives each scorer the layers that `start` returns, which its initial weights read, or else
    /// the best of the candidates that `measure` returns.
    ///
    /// # Errors
    /// When `start` or `measure` fails, or no candidate has an AUROC.
    fn choose(
        names: &[&String],
        start: impl Fn(&str) -> Result<Option<Vec<usize>>, TrainError>,
        measure: impl FnOnce() -> Result<Vec<TapCandidate>, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut scorers = BTreeMap::new();
        for name in names {
            if let Some(taps) = start(name)? {
                scorers.insert((*name).clone(), taps);
            }
        }
        let mut candidates = Vec::new();
        if scorers.len() < names.len() {
            candidates = measure()?;
            let chosen = choose(&candidates).ok_or_else(|| {
                TrainError::Run(
                    "layers = \"validation\": the policy's captions of the tuning half name no \
                     ungrounded thing, or no grounded one"
                        .into(),
                )
            })?;
            for name in names {
                scorers
                    .entry((*name).clone())
                    .or_insert_with(|| chosen.layers.clone());
            }
        }
        Ok(Self {
            scorers,
            candidates,
        })
    }

    /// Reads a run's choice; `None` if it made none.
    ///
    /// # Errors
    /// When the file is invalid.
    pub(super) fn read(run: &Path) -> Result<Option<Self>, TrainError> {
        let file = run.join(FILE);
        if !file.exists() {
            return Ok(None);
        }
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))
    }

    /// Section of the report, if candidates were measured.
    pub(super) fn section(&self) -> Option<Section> {
        (!self.candidates.is_empty()).then(|| Section {
            title: "Layers that the probes read".into(),
            tables: vec![self.table()],
            ..Section::default()
        })
    }

    fn table(&self) -> ReportTable {
        let row = |candidate: &TapCandidate| TableRow {
            emphasis: choose(&self.candidates) == Some(candidate),
            ..TableRow::new(candidate.to_string(), vec![candidate.auroc.into()])
        };
        ReportTable {
            title: "Candidates".into(),
            note: format!(
                "Linear probes on the policy's states, ranking the things named in its own \
                 captions of the tuning half. A lead of less than {TIE} goes to fewer layers."
            ),
            columns: vec![
                Column::new("AUROC", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
            ],
            rows: self.candidates.iter().map(row).collect(),
        }
    }
}

impl fmt::Display for TapCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layers.as_slice() {
            [layer] => write!(f, "layer {layer}"),
            _ => f.write_str("all"),
        }
    }
}

impl fmt::Display for ChosenTaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for candidate in &self.candidates {
            write!(f, "{candidate} {:.3}, ", candidate.auroc)?;
        }
        let chosen = self.scorers.iter();
        let chosen: Vec<String> = chosen
            .map(|(name, taps)| format!("{name} reads {taps:?}"))
            .collect();
        f.write_str(&chosen.join(", "))
    }
}

/// Scorers of the run in `run`, with the layers that it chose in place of `"validation"`.
///
/// # Errors
/// When it has yet to choose them, or its choice cannot be read.
pub(super) fn resolved(run: &Path, scorers: &ScorerConfigs) -> Result<ScorerConfigs, TrainError> {
    let mut out = scorers.clone();
    if undecided(scorers).is_empty() {
        return Ok(out);
    }
    let missing = || TrainError::Run(format!("{}: has no {FILE}", run.display()));
    let mut chosen = ChosenTaps::read(run)?.ok_or_else(missing)?;
    for name in undecided(scorers) {
        let taps = chosen.scorers.remove(name).ok_or_else(|| {
            TrainError::Run(format!(
                "{}: has no scorer {name}",
                run.join(FILE).display()
            ))
        })?;
        if let Some(ScorerConfig::Probe { layers, .. }) = out.get_mut(name) {
            *layers = ProbeLayers::Listed(taps);
        }
    }
    Ok(out)
}

/// Names of the scorers whose layers training chooses.
fn undecided(scorers: &ScorerConfigs) -> Vec<&String> {
    let chosen = |config: &ScorerConfig| {
        matches!(
            config,
            ScorerConfig::Probe {
                layers: ProbeLayers::Chosen(_),
                ..
            }
        )
    };
    scorers
        .iter()
        .filter(|(_, config)| chosen(config))
        .map(|(name, _)| name)
        .collect()
}

/// Chooses the layers that the recipe leaves to training and writes them to `RUNDIR/taps.json`,
/// unless the run did so before; returns the choice, or `None` if the recipe leaves nothing.
///
/// # Errors
/// When a tensor operation fails, nothing can be measured, or the file cannot be written.
pub(super) fn decide(
    training: &RewardTraining,
    examples: &Examples<'_>,
) -> Result<Option<ChosenTaps>, TrainError> {
    let names = undecided(&training.config.scorers);
    if names.is_empty() {
        return Ok(None);
    }
    if let Some(chosen) = ChosenTaps::read(&training.run.file(""))? {
        return Ok(Some(chosen));
    }
    let chosen = ChosenTaps::choose(
        &names,
        |name| training.initial_taps(name),
        || measure(training, examples),
    )?;
    super::export::write_json(&training.run.file(FILE), &chosen)?;
    Ok(Some(chosen))
}

/// Measures every single layer and all layers together; deterministic in the run's seed.
fn measure(
    training: &RewardTraining,
    examples: &Examples<'_>,
) -> Result<Vec<TapCandidate>, TrainError> {
    let setup = &training.setup;
    let model = &setup.policy.config.model;
    let layers = model.language.decoder.num_hidden_layers;
    let mut candidates: Vec<Vec<usize>> = (0..layers).map(|layer| vec![layer]).collect();
    candidates.extend((layers > 1).then(|| (0..layers).collect()));
    let states = LearnedStates::collect(training, examples, layers)?;
    let probes = setup
        .workers
        .map(&candidates, |taps| states.linear_probe(taps, model))?;

    let tuning: Vec<usize> = (0..setup.data.dev.len())
        .filter(|&i| DevelopmentHalf::for_image(i) == DevelopmentHalf::Tune)
        .collect();
    let images: Vec<Image> = tuning.iter().map(|&i| setup.data.dev[i].clone()).collect();
    let features = dev_features(setup, &training.config.features)?.plain(&tuning);
    let texts: Vec<ImageStatements> =
        own_captions(setup, &images, &features, 0.0, training.config.seed)?
            .into_iter()
            .map(|(_, text)| vec![(text.into(), None)])
            .collect();
    let scored = scored_split::score(setup, &features, &probes, &texts)?;
    let auroc = |probe: usize| {
        let mentions = scored.iter().flat_map(|text| text.ranges(probe));
        Ranking::new(mentions.map(|(_, scored)| scored).collect())
            .metrics(0.5)
            .auroc
    };
    Ok(candidates
        .into_iter()
        .enumerate()
        .map(|(i, layers)| TapCandidate {
            layers,
            auroc: auroc(i),
        })
        .collect())
}

/// Photographs whose examples the linear probes are fitted on.
const PHOTOGRAPHS: usize = 128;

/// Photographs per chunk of one worker.
const AT_ONCE: usize = 8;

/// Steps of a fit, each on all tokens: enough to settle on standardized states.
const STEPS: usize = 200;

/// Optimizer of the fits.
const OPTIM: OptimConfig = OptimConfig {
    learning_rate: 0.01,
    warmup_steps: 0,
    final_share: 0.02,
    weight_decay: 0.01,
    beta1: 0.9,
    beta2: 0.98,
    clip_norm: 1.0,
    ema_decay: 0.9,
};

/// The frozen policy's hidden states at the labeled tokens of some training examples.
struct LearnedStates {
    /// States after each layer, `(tokens, width)`.
    layers: Vec<Tensor>,
    /// 1 if grounded, 0 if not, `(tokens)`.
    labels: Tensor,
    /// Weights in the loss, `(tokens)`, which sum to 1.
    weights: Tensor,
}

impl LearnedStates {
    fn collect(
        training: &RewardTraining,
        examples: &Examples<'_>,
        layers: usize,
    ) -> Result<Self, TrainError> {
        let (setup, seed) = (&training.setup, training.config.seed);
        let mut images = training.epoch.clone();
        images.shuffle(&mut SmallRng::seed_from_u64(seed));
        images.truncate(PHOTOGRAPHS);
        let chunks: Vec<(usize, &[usize])> = images.chunks(AT_ONCE).enumerate().collect();
        let parts = setup.workers.map(&chunks, |(i, chunk)| {
            let shard = examples
                .batch(chunk, seed ^ *i as u64)
                .map_err(candle_core::Error::wrap)?;
            let pass = ScorerInput::new(&setup.policy, &shard.images, &shard.batch)?;
            let labeled: Vec<u32> = (0..)
                .zip(&shard.weights)
                .filter(|(_, weight)| **weight > 0.0)
                .map(|(token, _)| token)
                .collect();
            let lines = Tensor::new(labeled.as_slice(), &Device::Cpu)?;
            let states = (0..layers).map(|layer| pass.hidden(&[layer])?.index_select(&lines, 0));
            let of = |values: Vec<f32>| -> Vec<f32> {
                labeled
                    .iter()
                    .map(|&token| values[token as usize])
                    .collect()
            };
            Ok((
                states.collect::<CandleResult<Vec<Tensor>>>()?,
                of(shard.labels),
                of(shard.weights),
            ))
        })?;
        let of_layer = |layer: usize| {
            let states: Vec<&Tensor> = parts.iter().map(|(states, ..)| &states[layer]).collect();
            Tensor::cat(&states, 0)
        };
        let labels: Vec<f32> = parts
            .iter()
            .flat_map(|(_, labels, _)| labels)
            .copied()
            .collect();
        let weights: Vec<f32> = parts
            .iter()
            .flat_map(|(.., weights)| weights)
            .copied()
            .collect();
        let total: f32 = weights.iter().sum();
        Ok(Self {
            layers: (0..layers).map(of_layer).collect::<CandleResult<_>>()?,
            labels: Tensor::new(labels, &Device::Cpu)?,
            weights: (Tensor::new(weights, &Device::Cpu)? / f64::from(total))?,
        })
    }

    /// Fits a logistic regression on the states after the layers `taps`.
    fn linear_probe(
        &self,
        taps: &[usize],
        model: &CandorMiniConfig,
    ) -> CandleResult<ComparedScorer> {
        let states: Vec<&Tensor> = taps.iter().map(|&tap| &self.layers[tap]).collect();
        let states = Tensor::cat(&states, 1)?;
        let (mean, scale) = standardization(&states)?;
        let states = states.broadcast_sub(&mean)?.broadcast_mul(&scale)?;
        let vars = VarMap::new();
        for (name, shape) in [
            ("fc2.bias", vec![1]),
            ("fc2.weight", vec![1, states.dim(1)?]),
        ] {
            vars.get(shape, name, Init::Const(0.0), DType::F32, &Device::Cpu)?;
        }
        let mut optim = AdamW::new(&vars, OPTIM)?;
        // In the order of their names.
        let trained = optim.vars();
        let [bias, weight] = trained.as_slice() else {
            bail!("a linear probe has a weight and a bias")
        };
        for step in 0..STEPS {
            let logits = states
                .matmul(&weight.t()?)?
                .squeeze(1)?
                .broadcast_add(bias)?;
            let slopes = ((sigmoid(&logits)? - &self.labels)? * &self.weights)?;
            let gradients = vec![
                vec![slopes.sum_all()?.to_scalar::<f32>()?],
                slopes
                    .unsqueeze(0)?
                    .matmul(&states)?
                    .squeeze(0)?
                    .to_vec1::<f32>()?,
            ];
            optim.step(gradients, step, STEPS)?;
        }
        let mut weights: Tensors = optim.averages()?;
        weights.extend([("mean".to_owned(), mean), ("scale".to_owned(), scale)]);
        let net = Net::load(
            &ScorerConfig::stored_probe(taps.to_vec(), 0),
            model,
            VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
        )?;
        Ok(ComparedScorer {
            name: format!("{taps:?}"),
            scorer: ScoreSource::Net(Box::new(net)),
            bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(measured: &[(&[usize], f64)]) -> Vec<TapCandidate> {
        let candidate = |&(layers, auroc): &(&[usize], f64)| TapCandidate {
            layers: layers.to_vec(),
            auroc,
        };
        measured.iter().map(candidate).collect()
    }

    fn chosen(measured: &[(&[usize], f64)]) -> Option<Vec<usize>> {
        choose(&candidates(measured)).map(|candidate| candidate.layers.clone())
    }

    #[test]
    fn the_best_candidate_is_chosen_and_a_tie_goes_to_fewer_layers() {
        assert_eq!(
            chosen(&[(&[0], 0.80), (&[1], 0.85), (&[0, 1], 0.853)]),
            Some(vec![0, 1]),
            "a lead of more than a tie"
        );
        assert_eq!(
            chosen(&[(&[0], 0.8485), (&[1], 0.849), (&[0, 1], 0.85)]),
            Some(vec![1]),
            "the better of two single layers that tie with all"
        );
        assert_eq!(
            chosen(&[(&[0], 0.85), (&[1], 0.85)]),
            Some(vec![0]),
            "the first of equals"
        );
    }

    #[test]
    fn one_layer_is_chosen_and_none_without_an_auroc() {
        assert_eq!(chosen(&[(&[0], 0.4)]), Some(vec![0]));
        assert_eq!(chosen(&[(&[0], f64::NAN), (&[1], 0.6)]), Some(vec![1]));
        assert_eq!(chosen(&[(&[0], f64::NAN)]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn scorers_that_start_from_a_probe_read_its_layers_without_a_measurement() {
        let (probe, linear) = ("probe".to_owned(), "linear".to_owned());
        let start = |name: &str| Ok((name == "probe").then(|| vec![2]));
        let kept = ChosenTaps::choose(&[&probe], start, || Err(TrainError::Run("measured".into())))
            .unwrap();
        assert_eq!(kept.scorers["probe"], [2]);
        assert!(kept.section().is_none());
        let both = ChosenTaps::choose(&[&linear, &probe], start, || {
            Ok(candidates(&[(&[0], 0.7), (&[1], 0.9)]))
        })
        .unwrap();
        assert_eq!(both.scorers["probe"], [2]);
        assert_eq!(both.scorers["linear"], [1]);
        assert!(
            ChosenTaps::choose(&[&linear], start, || Ok(Vec::new())).is_err(),
            "nothing could be measured"
        );
    }

    #[test]
    fn layers_parse_in_three_forms_and_an_error_names_them() {
        #[derive(Debug, Deserialize)]
        struct Table {
            layers: ProbeLayers,
        }
        let parsed = |value: &str| toml::from_str::<Table>(&format!("layers = {value}"));
        let taps = |value: &str| parsed(value).unwrap().layers.taps(4);
        assert_eq!(taps("2"), Some(vec![2, 3]));
        assert_eq!(taps("9"), Some(vec![0, 1, 2, 3]));
        assert_eq!(taps("[1, 3]"), Some(vec![1, 3]));
        assert_eq!(taps("\"validation\""), None);
        for wrong in ["\"test\"", "-1", "1.5", "[1, -3]"] {
            let error = parsed(wrong).unwrap_err().to_string();
            assert!(
                error.contains("layers: must be a number") && error.contains("\"validation\""),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn layers_that_a_policy_lacks_or_that_do_not_ascend_are_refused() {
        let check = |layers: ProbeLayers| layers.check(4);
        for right in [vec![0], vec![1, 3], vec![0, 1, 2, 3]] {
            assert_eq!(check(ProbeLayers::Listed(right)), Ok(()));
        }
        assert_eq!(check(ProbeLayers::Last(4)), Ok(()));
        assert!(check(ProbeLayers::Last(0)).is_err());
        for (wrong, why) in [
            (vec![], "at least one"),
            (vec![3, 1], "ascend"),
            (vec![1, 1], "ascend"),
            (vec![1, 4], "no layer 4; the policy has 4"),
        ] {
            let error = check(ProbeLayers::Listed(wrong)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
