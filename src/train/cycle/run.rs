//! Execution of a cycle, from its first or its interrupted step.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    base::{base, reference},
    config::Recipe,
    evaluate::{VersionMeasurement, VersionOutputs, compare_versions},
    state::{
        BaseVersion, CycleDirectory, CycleEvaluation, CycleOutcome, CycleState, CycleStep,
        LastCycle, StepOutcome,
    },
};
use crate::{
    eval::data::flickr8k::Dataset,
    feedback::{
        images::ImageStore,
        monitor,
        record::ImageHash,
        store::{Owners, Store, StoreError},
    },
    registry::{
        Registry, RegistryError, VersionFacts,
        gate::{self, GateInputs},
    },
    train::{
        TrainError, align::Alignment, export::write_json, reward::RewardTraining,
        snapshot::Snapshot,
    },
    util::digest::{hex, sha256_hex},
    util::time::unix_seconds,
};

/// Failed steps after which a cycle ends as failed.
const PATIENCE: usize = 3;

/// Directory of a cycle's snapshot.
const SNAPSHOT: &str = "snapshot";

/// Resources that a cycle works with.
pub struct CycleContext<'a> {
    /// Directory of all cycles.
    pub cycles: &'a CycleDirectory,
    /// Feedback store.
    pub store: &'a dyn Store,
    /// Images of the feedback.
    pub images: &'a ImageStore,
    /// Registry of versions.
    pub registry: &'a Registry,
    /// Configured model, the base if none is promoted.
    pub model: &'a str,
    /// Runtime for asynchronous calls to the store.
    pub runtime: &'a tokio::runtime::Runtime,
}

/// Cycle in progress.
pub struct CycleRun<'a> {
    context: CycleContext<'a>,
    state: CycleState,
    dir: PathBuf,
}

fn store(error: StoreError) -> TrainError {
    TrainError::Run(error.to_string())
}

pub(super) fn registry(error: RegistryError) -> TrainError {
    TrainError::Run(format!("the registry: {error}"))
}

fn text(path: &Path) -> Result<&str, TrainError> {
    path.to_str()
        .ok_or_else(|| TrainError::Run(format!("{} is not a Unicode path", path.display())))
}

/// Returns the number of records since the last cycle's snapshot, and `true` if an unfinished cycle
/// has to be resumed first.
///
/// # Errors
/// When the store or a state cannot be read.
pub fn waiting(context: &CycleContext<'_>) -> Result<(usize, bool), TrainError> {
    let stats = context
        .runtime
        .block_on(context.store.stats(&Owners::All))
        .map_err(store)?;
    let total: u64 = stats.feedback.values().sum();
    let under_way = context
        .cycles
        .newest()?
        .is_some_and(|state| state.outcome.is_none());
    Ok((
        (total as usize).saturating_sub(LastCycle::read(context.cycles.dir())?.records),
        under_way,
    ))
}

impl<'a> CycleRun<'a> {
    /// Opens the unfinished cycle, or begins a new one.
    ///
    /// # Errors
    /// When a state cannot be read or written, or there is no base model.
    pub fn open(
        context: CycleContext<'a>,
        recipe: impl FnOnce() -> Result<Recipe, TrainError>,
    ) -> Result<Self, TrainError> {
        let newest = context.cycles.newest()?;
        let state = match newest {
            Some(state) if state.outcome.is_none() => state,
            before => {
                let (recipe, base) = (recipe()?, base(&context)?);
                if let Some(before) = &before {
                    Snapshot::remove_photographs(
                        &context.cycles.cycle_dir(before.number).join(SNAPSHOT),
                    )?;
                }
                CycleState {
                    format: 1,
                    number: before.map_or(1, |state| state.number + 1),
                    begun: unix_seconds(),
                    recipe,
                    base,
                    steps: BTreeMap::new(),
                    failures: Vec::new(),
                    evaluated: None,
                    verdict: None,
                    version: None,
                    outcome: None,
                    finished: None,
                }
            }
        };
        context.cycles.keep(&state)?;
        Ok(Self {
            dir: context.cycles.cycle_dir(state.number),
            context,
            state,
        })
    }

    /// State of the cycle.
    pub fn state(&self) -> &CycleState {
        &self.state
    }

    /// Directory of the cycle.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the remaining steps and passes each completed one to `tell`.
    ///
    /// # Errors
    /// When a step fails; the next run repeats it, and after repeated failures the cycle ends as
    /// failed.
    pub fn run(
        &mut self,
        mut tell: impl FnMut(CycleStep, &StepOutcome),
    ) -> Result<CycleOutcome, TrainError> {
        while let Some(step) = self.state.next() {
            let start = Instant::now();
            match self.step(step) {
                Ok(gave) => {
                    let done = StepOutcome {
                        seconds: start.elapsed().as_secs_f64(),
                        gave,
                    };
                    tell(step, &done);
                    self.state.steps.insert(step, done);
                    self.context.cycles.keep(&self.state)?;
                }
                Err(error) => {
                    self.state
                        .failures
                        .push(format!("{}: {error}", step.name()));
                    self.context.cycles.keep(&self.state)?;
                    if self.state.failures.len() >= PATIENCE {
                        self.end(CycleOutcome::Failed)?;
                    }
                    return Err(error);
                }
            }
        }
        let given = self
            .state
            .steps
            .get(&CycleStep::Promote)
            .and_then(|done| serde_json::from_value(done.gave["outcome"].clone()).ok());
        let outcome = given.unwrap_or(CycleOutcome::Failed);
        self.end(outcome)?;
        Ok(outcome)
    }

    /// Ends the cycle as failed.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn abandon(&mut self) -> Result<(), TrainError> {
        self.state.failures.push("abandoned on request".to_owned());
        self.end(CycleOutcome::Failed)
    }

    fn end(&mut self, outcome: CycleOutcome) -> Result<(), TrainError> {
        // The corrections of a failed cycle still count as waiting.
        let taken = self
            .state
            .steps
            .get(&CycleStep::Snapshot)
            .filter(|_| outcome != CycleOutcome::Failed);
        let records = match taken.and_then(|done| done.gave["records"].as_u64()) {
            Some(records) => records as usize,
            None => LastCycle::read(self.context.cycles.dir())?.records,
        };
        self.clear();
        self.context.cycles.end(&mut self.state, outcome, records)
    }

    /// Removes features and checkpoints, about a gigabyte that is useless after a cycle. Errors are
    /// ignored.
    fn clear(&self) {
        let runs = ["reward", "policy", "refit"]
            .map(|run| self.dir.join(run).join("checkpoint.safetensors"));
        let features = Snapshot::open(&self.snapshot_dir())
            .map(|snapshot| snapshot.features(&self.state.recipe.align.features));
        for file in runs.into_iter().chain(features.into_iter().flatten()) {
            let _ = fs::remove_file(file);
        }
    }

    fn step(&mut self, step: CycleStep) -> Result<Value, TrainError> {
        match step {
            CycleStep::Snapshot => self.snapshot(),
            CycleStep::Reward => self.reward(),
            CycleStep::Policy => self.policy(),
            CycleStep::Refit => self.refit(),
            CycleStep::Evaluate => self.evaluate(),
            CycleStep::Gate => self.gate(),
            CycleStep::Register => self.register(),
            CycleStep::Promote => self.promote(),
        }
    }

    fn snapshot(&self) -> Result<Value, TrainError> {
        let Recipe {
            align,
            snapshot: config,
            ..
        } = &self.state.recipe;
        let data = Dataset::open(&align.data)?;
        let hash = |image: &crate::eval::data::flickr8k::Image| {
            fs::read(&image.path)
                .map(|bytes| ImageHash::digest(&bytes))
                .map_err(TrainError::io(&image.path))
        };
        let never = data
            .dev
            .iter()
            .map(hash)
            .collect::<Result<HashSet<_>, _>>()?;
        let CycleContext {
            store,
            images,
            runtime,
            ..
        } = self.context;
        let taken = runtime.block_on(Snapshot::take(
            store,
            images,
            &self.snapshot_dir(),
            config,
            &never,
        ))?;
        if taken.learnt.is_empty() {
            return Err(TrainError::Run("no corrections to learn from".into()));
        }
        serde_json::to_value(&taken.facts).map_err(|e| TrainError::Run(e.to_string()))
    }

    fn reward(&self) -> Result<Value, TrainError> {
        let CycleState {
            recipe,
            base,
            number,
            ..
        } = &self.state;
        let config = recipe.scorers(text(&base.bundle)?, &self.snapshot_dir(), *number);
        self.train_scorers("reward", config)
    }

    fn refit(&self) -> Result<Value, TrainError> {
        let (policy, scorers) = (self.bundle("policy"), self.bundle("reward"));
        let config = self.state.recipe.refit(
            text(&policy)?,
            text(&scorers)?,
            &self.snapshot_dir(),
            self.state.number,
        );
        self.train_scorers("refit", config)
    }

    fn train_scorers(
        &self,
        name: &str,
        config: crate::train::reward::RewardTrainingConfig,
    ) -> Result<Value, TrainError> {
        let (out, resume) = self.run_dir(name);
        let training = RewardTraining::prepare(config, &out, resume)?;
        training.train()?;
        training.calibrate(&self.state.base.name, &self.version())?;
        Ok(json!({ "bundle": self.bundle(name) }))
    }

    /// Aligns the policy. A policy that left its bounds is still a candidate if it passed an
    /// earlier evaluation; the gate decides.
    fn policy(&self) -> Result<Value, TrainError> {
        let CycleState {
            recipe,
            number,
            base,
            ..
        } = &self.state;
        let rewarded = self.bundle("reward");
        let config = recipe.alignment(text(&rewarded)?, &self.snapshot_dir(), *number);
        let (out, resume) = self.run_dir("policy");
        let alignment = Alignment::prepare(recipe.policy.method, config, &out, resume)?;
        let stopped = match alignment.train(&base.name, &self.version()) {
            Err(TrainError::Stopped { iteration, why, .. })
                if self.bundle("policy").join("config.json").exists() =>
            {
                Some(format!("stopped after iteration {iteration}: {why}"))
            }
            other => other.map(|()| None)?,
        };
        Ok(json!({ "bundle": self.bundle("policy"), "stopped": stopped }))
    }

    fn evaluate(&mut self) -> Result<Value, TrainError> {
        let CycleState { recipe, base, .. } = &self.state;
        let (data, cache, workers) = (
            &recipe.align.data,
            &recipe.align.features,
            recipe.align.workers,
        );
        let snapshot = Snapshot::open(&self.snapshot_dir())?;
        let candidate = self.bundle("refit");
        let measuring = VersionMeasurement::open(data, text(&candidate)?, cache, workers)?;
        let (written, words) = (
            measuring.write(&recipe.evaluation)?,
            measuring.words(&snapshot)?,
        );
        let dev = measuring.setup.data.dev.clone();
        drop(measuring);
        write_json(&self.dir.join("candidate.json"), &written)?;
        let measuring = VersionMeasurement::open(data, text(&base.bundle)?, cache, workers)?;
        let before = self.written_by_base(&measuring)?;
        let found = compare_versions(
            &dev,
            (&before, &measuring.words(&snapshot)?),
            (&written, &words),
        )?;
        let traffic = self.traffic()?;
        let found = CycleEvaluation { traffic, ..found };
        let result = serde_json::to_value(&found).map_err(|e| TrainError::Run(e.to_string()))?;
        self.state.evaluated = Some(found);
        Ok(result)
    }

    /// Outputs of the base version, cached for later cycles by version, evaluation settings and
    /// data.
    fn written_by_base(
        &self,
        measuring: &VersionMeasurement<'_>,
    ) -> Result<VersionOutputs, TrainError> {
        let recipe = &self.state.recipe;
        let dir = self.context.cycles.dir().join("evaluations");
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        let mut hash = Sha256::new();
        hash.update(
            serde_json::to_vec(&recipe.evaluation).map_err(|e| TrainError::Run(e.to_string()))?,
        );
        hash.update(serde_json::to_vec(&self.data()?).map_err(|e| TrainError::Run(e.to_string()))?);
        let key = hex(&hash.finalize()[..6]);
        let file = dir.join(format!("{}-{key}.json", self.state.base.id));
        if let Ok(json) = fs::read(&file)
            && let Ok(written) = serde_json::from_slice(&json)
        {
            return Ok(written);
        }
        let written = measuring.write(&recipe.evaluation)?;
        write_json(&file, &written)?;
        Ok(written)
    }

    /// Metrics of recent answers and corrections for the base version.
    fn traffic(&self) -> Result<gate::MetricValues, TrainError> {
        let reference = reference(text(&self.state.base.bundle)?)?;
        // Receipts name a promoted version by its registry id, other models by the bundle's
        // version.
        let BaseVersion {
            id,
            version,
            promoted,
            ..
        } = &self.state.base;
        let summary = monitor::measure(
            self.context.store,
            if *promoted { id } else { version },
            reference.as_ref(),
        );
        let traffic = self.context.runtime.block_on(summary).map_err(store)?;
        Ok(traffic.figures())
    }

    fn gate(&mut self) -> Result<Value, TrainError> {
        let found = self
            .state
            .evaluated
            .clone()
            .ok_or_else(|| TrainError::Run("no evaluation to judge".into()))?;
        let inputs = GateInputs {
            baseline: found.baseline,
            candidate: found.candidate,
            chair_interval: found.chair_interval,
            psi: found.traffic.get("reward_drift_psi").copied(),
        };
        let verdict = gate::judge(&inputs, &self.state.recipe.gate);
        let result = serde_json::to_value(&verdict).map_err(|e| TrainError::Run(e.to_string()))?;
        self.state.verdict = Some(verdict);
        Ok(result)
    }

    fn register(&mut self) -> Result<Value, TrainError> {
        let CycleState {
            base,
            evaluated,
            verdict,
            number,
            ..
        } = &self.state;
        let (Some(found), Some(verdict)) = (evaluated, verdict) else {
            return Err(TrainError::Run(
                "no evaluation or verdict to register".into(),
            ));
        };
        let mut data = self.data()?;
        data.insert(
            "snapshot".into(),
            Snapshot::open(&self.snapshot_dir())?.facts.sha256,
        );
        let mut reasons = vec![format!("cycle {number}")];
        let stopped = self
            .state
            .steps
            .get(&CycleStep::Policy)
            .and_then(|done| done.gave["stopped"].as_str());
        reasons.extend(stopped.map(|why| format!("the policy's training {why}")));
        reasons.extend(
            verdict
                .reasons
                .iter()
                .chain(if verdict.passed {
                    &verdict.held[..]
                } else {
                    &[]
                })
                .cloned(),
        );
        let facts = VersionFacts {
            parents: vec![base.id.clone()],
            data,
            figures: found.candidate.clone(),
            baseline: found.baseline.clone(),
            reasons,
            rejected: !verdict.passed,
        };
        let version = self
            .context
            .registry
            .register(&self.bundle("refit"), facts)
            .map_err(registry)?;
        self.state.version = Some(version.id.clone());
        Ok(json!({ "version": version.id }))
    }

    fn promote(&self) -> Result<Value, TrainError> {
        let CycleState {
            base,
            verdict,
            version,
            ..
        } = &self.state;
        let (Some(verdict), Some(version)) = (verdict, version) else {
            return Err(TrainError::Run("no registered version to promote".into()));
        };
        if !verdict.passed {
            return Ok(json!({ "outcome": CycleOutcome::Rejected }));
        }
        let promoted = self.context.registry.state().map_err(registry)?.promoted;
        // A cycle interrupted after the promotion finds its version promoted already.
        if promoted.as_ref() != Some(version) {
            if promoted.as_ref() != base.promoted.then_some(&base.id) {
                return Ok(json!({ "outcome": CycleOutcome::Outdated, "promoted": promoted }));
            }
            self.context
                .registry
                .promote(version, false)
                .map_err(registry)?;
        }
        Ok(json!({ "outcome": CycleOutcome::Promoted, "version": version }))
    }

    /// SHA-256 of the files that define training and evaluation data.
    fn data(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let hash_of = |name: &str| {
            let file = self.state.recipe.align.data.join(name);
            let bytes = fs::read(&file).map_err(TrainError::io(&file))?;
            Ok((name.to_owned(), sha256_hex(bytes)))
        };
        ["captions.tsv", "train.txt", "dev.txt"]
            .into_iter()
            .map(hash_of)
            .collect()
    }

    fn snapshot_dir(&self) -> PathBuf {
        self.dir.join(SNAPSHOT)
    }

    /// Directory of a training run, and whether to resume it.
    fn run_dir(&self, name: &str) -> (PathBuf, bool) {
        let dir = self.dir.join(name);
        let resume = dir.join("config.json").exists();
        (dir, resume)
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("bundle")
    }

    /// Version of the candidate: the base's version and the cycle's number.
    fn version(&self) -> String {
        let own = self
            .state
            .base
            .version
            .split('+')
            .next()
            .unwrap_or_default();
        format!("{own}+cycle.{}", self.state.number)
    }
}
