//! Where a cycle stands: `NNNN/state.json` in the cycles' directory, `last.json` for those who
//! watch, and the lock that lets one run at a time.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Recipe;
use crate::{
    registry::gate::{GateVerdict, MetricValues},
    train::TrainError,
    util::private_files,
    util::time::unix_seconds,
};

/// What a cycle does, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CycleStep {
    /// Takes what people corrected out of the store.
    Snapshot,
    /// Fine-tunes the scorers on it.
    Reward,
    /// Aligns the policy.
    Policy,
    /// Fits the scorers to the new policy.
    Refit,
    /// Measures both versions.
    Evaluate,
    /// Judges the candidate.
    Gate,
    /// Keeps it in the registry.
    Register,
    /// Has it served, if it passed.
    Promote,
}

impl CycleStep {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Snapshot,
        Self::Reward,
        Self::Policy,
        Self::Refit,
        Self::Evaluate,
        Self::Gate,
        Self::Register,
        Self::Promote,
    ];

    /// Its name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Reward => "reward",
            Self::Policy => "policy",
            Self::Refit => "refit",
            Self::Evaluate => "evaluate",
            Self::Gate => "gate",
            Self::Register => "register",
            Self::Promote => "promote",
        }
    }
}

/// How a cycle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CycleOutcome {
    /// The candidate is served.
    Promoted,
    /// It failed the gate, and is kept with the reasons.
    Rejected,
    /// It passed, but another version was promoted meanwhile than the one that it was compared
    /// with.
    Outdated,
    /// A step failed again and again, or somebody gave the cycle up.
    Failed,
}

impl CycleOutcome {
    /// All of them: the values of a metric's label.
    pub const ALL: [Self; 4] = [Self::Promoted, Self::Rejected, Self::Outdated, Self::Failed];

    /// Its name in files and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Rejected => "rejected",
            Self::Outdated => "outdated",
            Self::Failed => "failed",
        }
    }
}

/// The version that a cycle began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseVersion {
    /// Its id in the registry.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Name of the model.
    pub name: String,
    /// What the bundle calls its version.
    pub version: String,
    /// Indicates whether it was promoted; otherwise it is the model of the configuration.
    pub promoted: bool,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Seconds that it took; of a step that died and went on, since then.
    pub seconds: f64,
    /// What it gave.
    pub gave: Value,
}

/// Both versions' figures, and what is known of the traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleEvaluation {
    /// Of the version that the cycle began with.
    pub baseline: MetricValues,
    /// Of the candidate.
    pub candidate: MetricValues,
    /// The 95 % interval of the difference of CHAIR_i.
    pub chair_interval: Option<(f64, f64)>,
    /// Figures of recent traffic: `reward_drift_psi` and the like.
    pub traffic: MetricValues,
}

/// `state.json`: everything that the next step depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CycleState {
    /// Version of this format.
    pub format: u32,
    /// The cycle's number, from 1.
    pub number: u64,
    /// Unix time of its beginning.
    pub begun: u64,
    /// What it does; a cycle goes on as it began.
    pub recipe: Recipe,
    /// What it began with.
    pub base: BaseVersion,
    /// The steps that are done.
    pub steps: BTreeMap<CycleStep, StepOutcome>,
    /// What went wrong, the last time last.
    #[serde(default)]
    pub failures: Vec<String>,
    /// What both versions are worth.
    #[serde(default)]
    pub evaluated: Option<CycleEvaluation>,
    /// What the gate said.
    #[serde(default)]
    pub verdict: Option<GateVerdict>,
    /// The candidate's id in the registry.
    #[serde(default)]
    pub version: Option<String>,
    /// How it ended; absent while it goes on.
    #[serde(default)]
    pub outcome: Option<CycleOutcome>,
    /// Unix time of its end.
    #[serde(default)]
    pub finished: Option<u64>,
}

impl CycleState {
    /// The first step that is not done.
    pub fn next(&self) -> Option<CycleStep> {
        CycleStep::ALL
            .into_iter()
            .find(|step| !self.steps.contains_key(step))
    }
}

/// `last.json`: the last cycle that ended, and how many ended how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastCycle {
    /// Its number.
    pub number: u64,
    /// How it ended.
    pub outcome: Option<CycleOutcome>,
    /// Unix time of its end.
    pub finished: u64,
    /// Records in the store when its snapshot was taken.
    pub records: usize,
    /// Unix time at which a cycle last came to its end, whatever the gate said.
    pub last_success: Option<u64>,
    /// Cycles by outcome.
    pub outcomes: BTreeMap<CycleOutcome, u64>,
}

impl LastCycle {
    /// Reads it; what no cycle has written yet is empty.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(cycles: &Path) -> Result<Self, TrainError> {
        read(&cycles.join("last.json")).map(Option::unwrap_or_default)
    }
}

/// The directory of all cycles, held by this process.
pub struct CycleDirectory {
    dir: PathBuf,
    _lock: File,
}

impl CycleDirectory {
    /// Takes the directory, which is made where it is missing.
    ///
    /// # Errors
    /// When another process holds it: the error says which.
    pub fn hold(dir: &Path) -> Result<Self, TrainError> {
        private_files::create_dir(dir).map_err(TrainError::io(dir))?;
        // Snapshots in it have photographs and what people said of them.
        match private_files::narrow(dir) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(dir = %dir.display(), "other users could read the folder, and \
                    cannot any more")
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "other users can read the folder, and \
                    its mode cannot be changed")
            }
        }
        // Trainings name files in it, and a cycle goes on wherever the program is started.
        let dir = dir.canonicalize().map_err(TrainError::io(dir))?;
        let file = dir.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&file)
            .map_err(TrainError::io(&file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(TrainError::Run(format!(
                    "another cycle is running: {}; it holds {}",
                    holder.trim(),
                    file.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(TrainError::io(&file)(error)),
        }
        let said = format!(
            "process {} since {}\n",
            std::process::id(),
            humantime::format_rfc3339_seconds(std::time::SystemTime::now())
        );
        lock.set_len(0)
            .and_then(|()| lock.write_all(said.as_bytes()))
            .map_err(TrainError::io(&file))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Returns where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of a cycle.
    pub fn of(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:04}"))
    }

    /// The newest cycle.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn newest(&self) -> Result<Option<CycleState>, TrainError> {
        let entries = fs::read_dir(&self.dir).map_err(TrainError::io(&self.dir))?;
        let numbers =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        // A directory without a state is one that died before it had any.
        for number in numbers.into_iter().rev() {
            if let Some(state) = read(&self.of(number).join("state.json"))? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Keeps a cycle's state, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, state: &CycleState) -> Result<(), TrainError> {
        let dir = self.of(state.number);
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        replace(&dir.join("state.json"), state)
    }

    /// Ends a cycle, for all to see.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn end(
        &self,
        state: &mut CycleState,
        outcome: CycleOutcome,
        records: usize,
    ) -> Result<(), TrainError> {
        let before = LastCycle::read(&self.dir)?;
        state.outcome = Some(outcome);
        state.finished = Some(unix_seconds());
        // A process that died between the two files counts a cycle once.
        if before.number < state.number {
            let mut outcomes = before.outcomes;
            *outcomes.entry(outcome).or_default() += 1;
            let last_success = if outcome == CycleOutcome::Failed {
                before.last_success
            } else {
                state.finished
            };
            let last = LastCycle {
                number: state.number,
                outcome: Some(outcome),
                finished: unix_seconds(),
                records,
                last_success,
                outcomes,
            };
            replace(&self.dir.join("last.json"), &last)?;
        }
        self.keep(state)
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>, TrainError> {
    match fs::read(file) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrainError::io(file)(error)),
    }
}

/// Writes a file so that a crash of the machine leaves the old content or the new one.
fn replace(file: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
    let fresh = file.with_extension("new");
    let written =
        File::create(&fresh).and_then(|mut out| out.write_all(&json).and_then(|()| out.sync_all()));
    written
        .and_then(|()| fs::rename(&fresh, file))
        .map_err(TrainError::io(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_the_cycles_and_another_is_told_which() {
        let dir = tempfile::tempdir().unwrap();
        let held = CycleDirectory::hold(dir.path()).unwrap();
        let refused = CycleDirectory::hold(dir.path()).err().unwrap().to_string();
        assert!(
            refused.contains(&format!("process {} since 2", std::process::id())),
            "{refused}"
        );
        drop(held);
        CycleDirectory::hold(dir.path()).unwrap();
    }
}
