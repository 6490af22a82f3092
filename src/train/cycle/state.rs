//! Persistent state of cycles: `NNNN/state.json` in the cycles' directory, `last.json` for
//! monitoring, and the lock that allows one run at a time.

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

/// Step of a cycle; the variants are in order of execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CycleStep {
    /// Exports corrections from the store.
    Snapshot,
    /// Fine-tunes the scorers on them.
    Reward,
    /// Aligns the policy.
    Policy,
    /// Re-fits the scorers to the new policy.
    Refit,
    /// Evaluates both versions.
    Evaluate,
    /// Judges the candidate.
    Gate,
    /// Registers the candidate.
    Register,
    /// Promotes the candidate if it passed.
    Promote,
}

impl CycleStep {
    /// All steps in order.
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

    /// Name in files and messages.
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

/// Outcome of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CycleOutcome {
    /// The candidate was promoted.
    Promoted,
    /// The candidate failed the gate and is kept with the reasons.
    Rejected,
    /// The candidate passed, but another version than its base was promoted meanwhile.
    Outdated,
    /// Steps failed repeatedly, or the cycle was abandoned.
    Failed,
}

impl CycleOutcome {
    /// All outcomes, the values of a metric's label.
    pub const ALL: [Self; 4] = [Self::Promoted, Self::Rejected, Self::Outdated, Self::Failed];

    /// Name in files and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Rejected => "rejected",
            Self::Outdated => "outdated",
            Self::Failed => "failed",
        }
    }
}

/// Version that a cycle began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseVersion {
    /// Id in the registry.
    pub id: String,
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// Name of the model.
    pub name: String,
    /// Version that the bundle states.
    pub version: String,
    /// `true` if the version was promoted, `false` for the configured model.
    pub promoted: bool,
}

/// Result of a completed step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Duration in seconds; of a resumed step, since it was resumed.
    pub seconds: f64,
    /// Result of the step.
    pub gave: Value,
}

/// Metrics of both versions, and of recent traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleEvaluation {
    /// Metrics of the base version.
    pub baseline: MetricValues,
    /// Metrics of the candidate.
    pub candidate: MetricValues,
    /// 95 % confidence interval of the difference in CHAIR_i.
    pub chair_interval: Option<(f64, f64)>,
    /// Metrics of recent traffic, such as `reward_drift_psi`.
    pub traffic: MetricValues,
}

/// Contents of `state.json`, on which the next step depends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CycleState {
    /// Version of the format.
    pub format: u32,
    /// Number of the cycle, from 1.
    pub number: u64,
    /// Unix time of its beginning.
    pub begun: u64,
    /// Recipe, fixed when the cycle began.
    pub recipe: Recipe,
    /// Base version.
    pub base: BaseVersion,
    /// Completed steps.
    pub steps: BTreeMap<CycleStep, StepOutcome>,
    /// Errors, oldest first.
    #[serde(default)]
    pub failures: Vec<String>,
    /// Evaluation of both versions.
    #[serde(default)]
    pub evaluated: Option<CycleEvaluation>,
    /// Verdict of the gate.
    #[serde(default)]
    pub verdict: Option<GateVerdict>,
    /// Id of the candidate in the registry.
    #[serde(default)]
    pub version: Option<String>,
    /// Outcome; absent while the cycle is unfinished.
    #[serde(default)]
    pub outcome: Option<CycleOutcome>,
    /// Unix time of its end.
    #[serde(default)]
    pub finished: Option<u64>,
}

impl CycleState {
    /// First step that is not completed.
    pub fn next(&self) -> Option<CycleStep> {
        CycleStep::ALL
            .into_iter()
            .find(|step| !self.steps.contains_key(step))
    }
}

/// Contents of `last.json`: the last ended cycle, and counts by outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastCycle {
    /// Number of the last ended cycle.
    pub number: u64,
    /// Its outcome.
    pub outcome: Option<CycleOutcome>,
    /// Unix time of its end.
    pub finished: u64,
    /// Records in the store at its snapshot.
    pub records: usize,
    /// Unix time at which a cycle last ended without failing, whatever the gate's verdict.
    pub last_success: Option<u64>,
    /// Number of cycles by outcome.
    pub outcomes: BTreeMap<CycleOutcome, u64>,
}

impl LastCycle {
    /// Reads `last.json`; empty if no cycle has ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(cycles: &Path) -> Result<Self, TrainError> {
        read(&cycles.join("last.json")).map(Option::unwrap_or_default)
    }
}

/// Directory of all cycles, locked by this process.
pub struct CycleDirectory {
    dir: PathBuf,
    _lock: File,
}

impl CycleDirectory {
    /// Locks the directory, creating it if missing.
    ///
    /// # Errors
    /// When another process holds the lock; the error names it.
    pub fn hold(dir: &Path) -> Result<Self, TrainError> {
        private_files::create_dir(dir).map_err(TrainError::io(dir))?;
        // Snapshots contain users' photographs and corrections.
        match private_files::narrow(dir) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(dir = %dir.display(), "other users could read the \
                    folder; its mode is now restricted")
            }
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "other users can read the folder, \
                    and its mode cannot be changed")
            }
        }
        // Training runs store paths in it, and a cycle must resume from any working directory.
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
        let holder_text = format!(
            "process {} since {}\n",
            std::process::id(),
            humantime::format_rfc3339_seconds(std::time::SystemTime::now())
        );
        lock.set_len(0)
            .and_then(|()| lock.write_all(holder_text.as_bytes()))
            .map_err(TrainError::io(&file))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Path of the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory of cycle `number`.
    pub fn cycle_dir(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:04}"))
    }

    /// State of the newest cycle.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn newest(&self) -> Result<Option<CycleState>, TrainError> {
        let numbers = self.numbers()?;
        // A cycle interrupted before its first save has a directory without a state.
        for number in numbers.into_iter().rev() {
            if let Some(state) = read(&self.cycle_dir(number).join("state.json"))? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Returns the numbers and folders of finished cycles beyond the `keep` newest cycles, oldest
    /// first; none if `keep` is 0.
    ///
    /// # Errors
    /// When the directory or a state cannot be read.
    pub fn surplus(&self, keep: usize) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        if keep == 0 {
            return Ok(Vec::new());
        }
        let mut numbers = self.numbers()?;
        numbers.truncate(numbers.len().saturating_sub(keep));
        let mut surplus = Vec::new();
        for number in numbers {
            let dir = self.cycle_dir(number);
            let state = read::<CycleState>(&dir.join("state.json"))?;
            if state.is_none_or(|state| state.outcome.is_some()) {
                surplus.push((number, dir));
            }
        }
        Ok(surplus)
    }

    /// Returns the numbers of all cycles, oldest first.
    fn numbers(&self) -> Result<Vec<u64>, TrainError> {
        let entries = fs::read_dir(&self.dir).map_err(TrainError::io(&self.dir))?;
        let numbers =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Writes a cycle's state durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, state: &CycleState) -> Result<(), TrainError> {
        let dir = self.cycle_dir(state.number);
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        replace(&dir.join("state.json"), state)
    }

    /// Records the end of a cycle in its state and in `last.json`.
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
        // Counts a cycle once even if the process died between the two writes.
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

/// Writes a file atomically and durably.
fn replace(file: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))?;
    let temporary = file.with_extension("new");
    let written = File::create(&temporary)
        .and_then(|mut out| out.write_all(&json).and_then(|()| out.sync_all()));
    written
        .and_then(|()| fs::rename(&temporary, file))
        .map_err(TrainError::io(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surplus_cycles_are_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let cycles = CycleDirectory::hold(dir.path()).unwrap();
        for number in [1, 2, 3, 10, 11] {
            fs::create_dir_all(cycles.cycle_dir(number)).unwrap();
        }
        let surplus = |keep| -> Vec<u64> {
            let surplus = cycles.surplus(keep).unwrap().into_iter();
            surplus.map(|(number, _)| number).collect()
        };
        assert_eq!(surplus(0), [0; 0]);
        assert_eq!(surplus(2), [1, 2, 3]);
        assert_eq!(surplus(5), [0; 0]);
    }

    #[test]
    fn hold_second_process_is_told_the_holder() {
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
