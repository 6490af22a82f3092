//! Run directories: configuration, loss log and checkpoint of a training run, from which it resumes
//! after a kill.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{Tensors, TrainError};
use crate::util::jsonl;

/// Line of `loss.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Optimizer step.
    pub step: usize,
    /// Mean loss of the step's batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<f64>,
    /// Mean loss on the development split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<f64>,
}

/// Directory of a training run: `config.json` (frozen at the start), `loss.jsonl`,
/// `checkpoint.safetensors`.
pub struct RunDir {
    path: PathBuf,
}

const STEP: &str = "step";

impl RunDir {
    /// Creates a run directory or, with `resume`, reopens one. The configuration must equal the one
    /// that the run began with.
    ///
    /// # Errors
    /// When the directory holds a run and `resume` is false, holds none and `resume` is true, or
    /// has another configuration.
    pub fn open<C: Serialize>(path: &Path, config: &C, resume: bool) -> Result<Self, TrainError> {
        let file = path.join("config.json");
        let json =
            serde_json::to_string_pretty(config).map_err(|e| TrainError::Run(e.to_string()))?;
        match (fs::read_to_string(&file), resume) {
            (Ok(_), false) => {
                return Err(TrainError::Run(format!(
                    "{} already holds a run; --resume continues it",
                    path.display()
                )));
            }
            (Ok(old), true) if old != json => {
                return Err(TrainError::Run(format!(
                    "{} was begun with another configuration (see its config.json)",
                    path.display()
                )));
            }
            (Err(_), true) => {
                return Err(TrainError::Run(format!(
                    "{} holds no run to resume",
                    path.display()
                )));
            }
            _ => {}
        }
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        write_atomically(&file, json.as_bytes())?;
        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// Configuration that the run in `path` began with.
    ///
    /// # Errors
    /// When there is no run, or its configuration has another form.
    pub fn config<C: serde::de::DeserializeOwned>(path: &Path) -> Result<C, TrainError> {
        let file = path.join("config.json");
        let json = fs::read(&file).map_err(TrainError::io(&file))?;
        serde_json::from_slice(&json)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))
    }

    /// Path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the state after `step` steps atomically: a crash leaves the old checkpoint or the new
    /// one.
    pub fn save(&self, step: usize, mut state: Tensors) -> Result<(), TrainError> {
        state.insert(STEP.into(), Tensor::new(step as i64, &Device::Cpu)?);
        let (file, temporary) = (
            self.file("checkpoint.safetensors"),
            self.file("checkpoint.new"),
        );
        candle_core::safetensors::save(&state, &temporary)?;
        fs::File::open(&temporary)
            .and_then(|f| f.sync_all())
            .map_err(TrainError::io(&temporary))?;
        fs::rename(&temporary, &file).map_err(TrainError::io(&file))
    }

    /// Returns the steps done and the state of the last checkpoint, if any, and drops losses logged
    /// after it.
    pub fn load(&self) -> Result<Option<(usize, Tensors)>, TrainError> {
        let file = self.file("checkpoint.safetensors");
        let found = if file.exists() {
            let mut state = candle_core::safetensors::load(&file, &Device::Cpu)?;
            let step = state
                .remove(STEP)
                .ok_or_else(|| TrainError::Run(format!("{}: no step", file.display())))?;
            Some((step.to_scalar::<i64>()? as usize, state))
        } else {
            None
        };
        let done = found.as_ref().map_or(0, |(step, _)| *step);
        let retained: Vec<LossPoint> = self
            .losses()?
            .into_iter()
            .filter(|p| p.step < done || (p.step == done && p.dev.is_some()))
            .collect();
        let lines: String = retained
            .iter()
            .filter_map(|p| serde_json::to_string(p).ok())
            .map(|l| l + "\n")
            .collect();
        write_atomically(&self.file("loss.jsonl"), lines.as_bytes())?;
        Ok(found)
    }

    /// Appends a line to the loss log.
    pub fn log(&self, point: &LossPoint) -> Result<(), TrainError> {
        let file = self.file("loss.jsonl");
        let line = serde_json::to_string(point).map_err(|e| TrainError::Run(e.to_string()))?;
        let mut out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(TrainError::io(&file))?;
        writeln!(out, "{line}").map_err(TrainError::io(&file))
    }

    /// Reads the loss log, skipping a last line torn by a kill.
    pub fn losses(&self) -> Result<Vec<LossPoint>, TrainError> {
        let file = self.file("loss.jsonl");
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&file).map_err(TrainError::io(&file))?;
        Ok(jsonl::parse(&text)
            .filter_map(|(_, point)| point.ok())
            .collect())
    }
}

/// Writes a file atomically: a crash leaves the old content or the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).map_err(TrainError::io(&temporary))?;
    fs::rename(&temporary, path).map_err(TrainError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_existing_run_needs_resume_and_the_same_configuration() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunDir::open(dir.path(), &1, true).is_err());
        let run = RunDir::open(dir.path(), &1, false).unwrap();
        assert!(RunDir::open(dir.path(), &1, false).is_err());
        assert!(RunDir::open(dir.path(), &2, true).is_err());
        for step in 0..5 {
            run.log(&LossPoint {
                step,
                train: Some(step as f64),
                dev: None,
            })
            .unwrap();
        }
        let state = Tensors::from([(
            "w".to_string(),
            Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap(),
        )]);
        run.save(3, state).unwrap();
        let (step, state) = RunDir::open(dir.path(), &1, true)
            .unwrap()
            .load()
            .unwrap()
            .unwrap();
        assert_eq!(
            (step, state["w"].to_vec1::<f32>().unwrap()),
            (3, vec![1.0, 2.0])
        );
        assert_eq!(run.losses().unwrap().len(), 3);
    }
}
