//! Training loop shared by all methods: iterations, periodic evaluation, a checkpoint after each
//! evaluation within bounds, and a bundle at the end.

use std::{fs, path::Path};

use candle_core::{Device, Tensor};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use rayon::prelude::*;
use serde::Serialize;

use super::{
    Method,
    config::AlignConfig,
    data::{self, CorrectionTokens},
    learner::Learner,
    log::{RunLog, RunMetrics},
    reward::FrozenModels,
    watch::WatchInputs,
};
use crate::{
    bundle::{Bundle, BundleConfig, ScorersConfig},
    eval::text::Consensus,
    lexicon::{Lexicon, Reading},
    reward::RewardKind,
    train::{
        Tensors, TrainError,
        checkpoint::{RunDir, write_atomically},
        corrections,
        export::{copy_evidence, write_json, write_weights},
        features::{Features, VIEWS},
        losses::kl::AdaptiveKl,
        optim::OptimConfig,
        progress,
        scored_split::dev_features,
        setup::Setup,
        snapshot::Snapshot,
        stats::CaptionStats,
        tower::Tower,
    },
    util::digest::sha256_hex,
    util::time::unix_seconds,
};

/// Alignment run, ready to start or resume.
pub struct Alignment {
    pub(super) method: Method,
    pub(super) config: AlignConfig,
    run: RunDir,
    pub(super) setup: Setup,
    pub(super) train_features: Features,
    dev_features: Features,
    pub(super) judge: FrozenModels,
    pub(super) stats: CaptionStats,
    pub(super) corrected: Vec<CorrectionTokens>,
    /// Training images with human captions.
    described: Vec<usize>,
    /// Parsed human captions by training image.
    pub(super) readings: Vec<Vec<Reading>>,
    /// CIDEr-D statistics of the training captions, if they are rewarded.
    pub(super) consensus: Option<Consensus>,
}

/// Settings that a run directory records; a resumed run must match them.
#[derive(Serialize)]
struct RunRecord<'a> {
    version: &'static str,
    method: Method,
    config: &'a AlignConfig,
    /// SHA-256 of the training data and weights.
    hashes: std::collections::BTreeMap<String, String>,
}

/// State besides the learner that an iteration changes.
struct State {
    kl: AdaptiveKl,
    /// Policy at the beginning of the round, for methods with rounds.
    opponent: Tensors,
}

const OPPONENT: &str = "opponent/";
const BETA: &str = "kl_beta";
const STEPS: &str = "optimiser_steps";

impl Alignment {
    /// Reads policy, data and corrections; the first run with the same settings computes them.
    ///
    /// # Errors
    /// When the configuration, the data, the policy or the run directory is invalid.
    pub fn prepare(
        method: Method,
        config: AlignConfig,
        out: &Path,
        resume: bool,
    ) -> Result<Self, TrainError> {
        check(&config)?;
        let mut setup = Setup::open(&config.data, &config.policy, config.workers)?;
        let judge = FrozenModels::open(&setup.policy)?;
        let mut train_features =
            setup.features(&setup.data.train, VIEWS, &config.features.join("train.f16"))?;
        let dev_features = dev_features(&setup, &config.features)?;
        let snapshot = config
            .corrections
            .from
            .as_deref()
            .map(Snapshot::open)
            .transpose()?;
        if let Some(snapshot) = &snapshot {
            snapshot.join(&mut setup, &mut train_features, &config.features)?;
        }
        let corrections = data::corrections(&setup, &train_features, &config, snapshot.as_ref())?;
        let corrected = data::corrected(&setup, &corrections)?;
        let mut hashes = std::collections::BTreeMap::new();
        hashes.extend(snapshot.map(|snapshot| ("snapshot".to_owned(), snapshot.facts.sha256)));
        for file in [
            config.data.join("captions.tsv"),
            config.data.join("train.txt"),
            config.data.join("dev.txt"),
        ] {
            let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            hashes.insert(name, sha256_hex(bytes));
        }
        let weights = Bundle::file(&config.policy, "model.safetensors")
            .map_err(|e| TrainError::Run(e.to_string()))?;
        hashes.insert("model.safetensors".into(), sha256_hex(&weights));
        let run = RunDir::open(
            out,
            &RunRecord {
                version: env!("CARGO_PKG_VERSION"),
                method,
                config: &config,
                hashes,
            },
            resume,
        )?;
        corrections::write(&run.file("corrections.jsonl"), &corrections)?;
        let lexicon = Lexicon::shared();
        let train = &setup.data.train;
        let readings = train
            .par_iter()
            .map(|image| {
                image
                    .captions
                    .iter()
                    .map(|c| Reading::new(lexicon, c))
                    .collect()
            })
            .collect();
        let references: Vec<&[String]> = train
            .iter()
            .map(|image| image.captions.as_slice())
            .collect();
        let consensus = (config.reward.consensus != 0.0).then(|| Consensus::new(&references));
        let stats = CaptionStats::new(train, lexicon);
        // An image without captions has no references to measure an answer by.
        let described = (0..train.len())
            .filter(|&i| !train[i].captions.is_empty())
            .collect();
        Ok(Self {
            method,
            config,
            run,
            setup,
            train_features,
            dev_features,
            judge,
            stats,
            corrected,
            described,
            readings,
            consensus,
        })
    }

    /// Trains to the end, or until a metric leaves its bounds, and writes `RUNDIR/bundle`: the
    /// averaged policy with the standalone scorer of the initial bundle.
    ///
    /// # Errors
    /// When an iteration fails or a metric leaves its bounds; the error names it, and
    /// `RUNDIR/bundle` holds the last policy within bounds.
    pub fn train(&self, name: &str, version: &str) -> Result<(), TrainError> {
        let mut learner = self.learner()?;
        let mut state = State {
            kl: self.config.ppo.kl,
            opponent: Tensors::new(),
        };
        let mut done = 0;
        if let Some((iteration, tensors)) = self.run.load()? {
            restore(&mut learner, &mut state, &tensors)?;
            done = iteration;
        }
        let mut log = RunLog::open(&self.run, done)?;
        let watch = WatchInputs {
            setup: &self.setup,
            features: &self.dev_features,
            judge: &self.judge,
            config: self.config.watch,
            max_tokens: self.config.max_tokens,
        };
        if log.first("watch/recall").is_none() {
            log.write(0, watch.evaluate(&self.setup.policy.model)?)?;
        }
        let total = self.config.corrections.iterations + self.config.iterations;
        let bar = progress(total, done);
        let mut recent = RunMetrics::new();
        for iteration in done..total {
            let start = std::time::Instant::now();
            let mut metrics = self.iterate(&mut learner, &mut state, iteration)?;
            metrics.insert("seconds".into(), start.elapsed().as_secs_f64());
            metrics.extend(peak_memory_mib().map(|mib| ("peak_memory_mib".to_owned(), mib)));
            if let Some((figure, value)) = metrics.iter().find(|(_, value)| !value.is_finite()) {
                return self.stop(
                    iteration + 1,
                    &format!("{figure} is {value}"),
                    name,
                    version,
                );
            }
            bar.set_position(iteration as u64 + 1);
            bar.set_message(
                metrics
                    .get("loss")
                    .map(|loss| format!("loss {loss:.4}"))
                    .unwrap_or_default(),
            );
            recent.extend(metrics.clone());
            if (iteration + 1) % self.config.watch.every == 0 || iteration + 1 == total {
                metrics.extend(watch.evaluate(&learner.frozen(learner.averages()?)?)?);
                recent.extend(metrics.clone());
                let broken = self
                    .config
                    .watch
                    .violated_bound(|name| log.first(name), &recent);
                bar.suspend(|| {
                    crate::train::report_progress(format_args!(
                        "{}: {}",
                        iteration + 1,
                        summary(&metrics)
                    ))
                });
                log.write(iteration + 1, metrics)?;
                log.draw()?;
                if let Some(why) = broken {
                    return self.stop(iteration + 1, &why, name, version);
                }
                self.run.save(iteration + 1, saved(&learner, &state)?)?;
            } else {
                log.write(iteration + 1, metrics)?;
            }
        }
        bar.finish();
        self.write_bundle(learner.averages()?, name, version)
    }

    fn learner(&self) -> Result<Learner, TrainError> {
        let config = &self.config;
        let (optim, steps) = match self.method {
            Method::Ppo | Method::SequencePpo => {
                (config.optim, config.ppo.epochs * config.ppo.minibatches)
            }
            Method::Dpo | Method::Ddpo | Method::Spin => (
                OptimConfig {
                    learning_rate: config.preference.learning_rate,
                    ..config.optim
                },
                1,
            ),
            Method::Rest => (
                OptimConfig {
                    learning_rate: config.rest.learning_rate,
                    ..config.optim
                },
                1,
            ),
        };
        let value_hidden = if matches!(self.method, Method::Ppo | Method::SequencePpo) {
            config.ppo.value_hidden
        } else {
            0
        };
        let total = config.corrections.iterations + config.iterations * steps;
        Learner::new(&self.setup.policy, optim, value_hidden, total, config.seed)
    }

    fn iterate(
        &self,
        learner: &mut Learner,
        state: &mut State,
        iteration: usize,
    ) -> Result<RunMetrics, TrainError> {
        let config = &self.config;
        let seed = config.seed ^ (iteration as u64 + 1) << 32;
        let Some(own) = iteration.checked_sub(config.corrections.iterations) else {
            let all: Vec<usize> = (0..self.corrected.len()).collect();
            let mut groups = self.corrected_groups(&all, iteration, seed)?;
            // Only the better answer: errors are not imitated.
            groups
                .iter_mut()
                .for_each(|group| group.answers.truncate(1));
            return self.imitate(learner, &groups, seed);
        };
        let images: Vec<usize> = self
            .batch(self.described.len(), own, 0)
            .into_iter()
            .map(|i| self.described[i])
            .collect();
        let rounds = match self.method {
            Method::Spin => config.preference.spin_rounds,
            Method::Rest => config.rest.rounds,
            _ => 0,
        };
        let length = config.iterations.div_ceil(rounds.max(1)).max(1);
        if rounds > 0 && own.is_multiple_of(length) {
            state.opponent = learner.weights()?;
        }
        match self.method {
            Method::Ppo | Method::SequencePpo => self.ppo(
                learner,
                &mut state.kl,
                &images,
                seed,
                self.method == Method::SequencePpo,
            ),
            Method::Dpo | Method::Ddpo => self.dpo(learner, own, seed, self.method == Method::Ddpo),
            Method::Spin => self.spin(learner, &state.opponent, &images, seed),
            Method::Rest => self.rest(learner, &state.opponent, &images, seed, own / length),
        }
    }

    /// Indices of an iteration's batch out of `n` items, in a new random order each pass.
    pub(super) fn batch(&self, n: usize, iteration: usize, salt: u64) -> Vec<usize> {
        if n == 0 {
            return Vec::new();
        }
        let size = self.config.batch_images.min(n);
        let per_pass = n / size;
        let (pass, batch) = (iteration / per_pass, iteration % per_pass);
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(
            self.config.seed ^ salt ^ (pass as u64 + 1) << 20,
        ));
        order[batch * size..(batch + 1) * size].to_vec()
    }

    /// Ends a run whose metric left its bounds, and writes the last checkpoint's policy.
    fn stop(
        &self,
        iteration: usize,
        why: &str,
        name: &str,
        version: &str,
    ) -> Result<(), TrainError> {
        let outcome = match self.run.load()? {
            Some((last, tensors)) => {
                let average = |(k, t): (String, Tensor)| {
                    Some((
                        k.strip_prefix("average/")
                            .filter(|k| !k.starts_with("value"))?
                            .to_owned(),
                        t,
                    ))
                };
                self.write_bundle(
                    tensors.into_iter().filter_map(average).collect(),
                    name,
                    version,
                )?;
                format!(
                    "{} holds the policy of iteration {last}",
                    self.run.file("bundle").display()
                )
            }
            None => "no earlier policy was within bounds".into(),
        };
        Err(TrainError::Stopped {
            iteration,
            why: why.to_owned(),
            kept: outcome,
        })
    }

    /// Writes the aligned policy with its standalone scorer. The probe is left out: it reads the
    /// hidden states of another policy.
    fn write_bundle(&self, weights: Tensors, name: &str, version: &str) -> Result<(), TrainError> {
        let (dir, policy) = (self.run.file("bundle"), &self.setup.policy);
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        let read = |file: &str| {
            Bundle::file(&policy.name, file).map_err(|e| TrainError::Run(e.to_string()))
        };
        let stored =
            candle_core::safetensors::load_buffer(&read("model.safetensors")?, &Device::Cpu)?;
        let mut model: Tensors = stored
            .into_iter()
            .filter(|(k, _)| k.starts_with(Tower::PREFIX))
            .collect();
        model.extend(weights);
        write_weights(&dir.join("model.safetensors"), model)?;
        write_atomically(&dir.join("tokenizer.json"), &read("tokenizer.json")?)?;
        copy_evidence(&policy.name, &dir)?;
        let (kind, stored) = (
            RewardKind::Detached,
            candle_core::safetensors::load_buffer(&read("reward.safetensors")?, &Device::Cpu)?,
        );
        let scorer = stored
            .into_iter()
            .filter(|(k, _)| k.starts_with(&format!("{}.", kind.name())))
            .collect();
        write_weights(&dir.join("reward.safetensors"), scorer)?;
        let calibrations = crate::train::compared_scorers::calibrations(policy)?;
        write_json(
            &dir.join("calibration.json"),
            &calibrations
                .into_iter()
                .filter(|(k, _)| *k == kind)
                .collect::<std::collections::BTreeMap<_, _>>(),
        )?;
        let detached = policy
            .config
            .reward
            .as_ref()
            .and_then(|r| r.detached.clone());
        let reward = Some(ScorersConfig {
            default: kind,
            probe: None,
            detached,
        });
        let config = BundleConfig {
            name: name.to_owned(),
            version: version.to_owned(),
            created: unix_seconds(),
            reward,
            ..policy.config.clone()
        };
        write_json(&dir.join("config.json"), &config)
    }
}

fn check(config: &AlignConfig) -> Result<(), TrainError> {
    let positive = [
        ("batch_images", config.batch_images),
        ("samples", config.samples),
        ("max_tokens", config.max_tokens),
        ("corrections.captions", config.corrections.captions),
        ("ppo.epochs", config.ppo.epochs),
        ("ppo.minibatches", config.ppo.minibatches),
        ("ppo.value_hidden", config.ppo.value_hidden),
        ("preference.spin_rounds", config.preference.spin_rounds),
        ("rest.rounds", config.rest.rounds),
        ("watch.every", config.watch.every),
        ("watch.images", config.watch.images),
    ];
    if let Some((name, _)) = positive.into_iter().find(|(_, n)| *n == 0) {
        return Err(TrainError::Run(format!("{name}: must be at least 1")));
    }
    if config.temperature <= 0.0 || config.temperature.is_nan() {
        return Err(TrainError::Run(format!(
            "temperature: must be above 0, not {}",
            config.temperature
        )));
    }
    if !(0.0..=1.0).contains(&config.corrections.wrong_labels) {
        return Err(TrainError::Run(format!(
            "corrections.wrong_labels: must be a share, 0 to 1, not {}",
            config.corrections.wrong_labels
        )));
    }
    Ok(())
}

/// Peak resident memory of this process in MiB, where the system reports it.
fn peak_memory_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(
        kib.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<f64>()
            .ok()?
            / 1024.0,
    )
}

/// Checkpoint tensors: optimizer, opponent, KL coefficient and step count.
fn saved(learner: &Learner, state: &State) -> Result<Tensors, TrainError> {
    let mut tensors = learner.optim.state()?;
    tensors.extend(
        state
            .opponent
            .iter()
            .map(|(k, t)| (format!("{OPPONENT}{k}"), t.clone())),
    );
    tensors.insert(BETA.into(), Tensor::new(state.kl.beta, &Device::Cpu)?);
    tensors.insert(
        STEPS.into(),
        Tensor::new(learner.step as i64, &Device::Cpu)?,
    );
    Ok(tensors)
}

fn restore(learner: &mut Learner, state: &mut State, tensors: &Tensors) -> Result<(), TrainError> {
    let get = |name: &str| {
        tensors
            .get(name)
            .ok_or_else(|| TrainError::Run(format!("the checkpoint has no {name}")))
    };
    learner.optim.restore(tensors)?;
    learner.step = get(STEPS)?.to_scalar::<i64>()? as usize;
    state.kl.beta = get(BETA)?.to_scalar::<f64>()?;
    state.opponent = tensors
        .iter()
        .filter_map(|(k, t)| Some((k.strip_prefix(OPPONENT)?.to_owned(), t.clone())))
        .collect();
    Ok(())
}

fn summary(metrics: &RunMetrics) -> String {
    metrics
        .iter()
        .map(|(name, value)| format!("{} {value:.3}", name.trim_start_matches("watch/")))
        .collect::<Vec<_>>()
        .join(", ")
}
