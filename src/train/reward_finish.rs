//! Finishing of a reward training run: calibration, choice of the default scorer, bundle and
//! report.

use std::{collections::BTreeMap, fs};

use super::{
    TrainError, calibrate,
    checkpoint::write_atomically,
    compared_scorers::{self, ComparedScorer},
    export::{copy_evidence, write_json, write_weights},
    reward::{NEGATIVES, RewardTraining, WEIGHTS},
    reward_report::RewardReportInputs,
    samples::Negatives,
    scored_split::{DevelopmentHalf, ScoredSplit, dev_features},
    taps::{self, ChosenTaps},
};
use crate::{
    bundle::{Bundle, BundleConfig, ScorersConfig},
    eval::report::{EvaluationReport, Section},
    reward::RewardKind,
    reward::calibration::Calibration,
    util::time::unix_seconds,
};

impl RewardTraining {
    /// Calibrates the trained scorers on the tuning half of the development split and writes
    /// `RUNDIR/bundle` with those named `probe` and `detached`, without a report, as a cycle needs
    /// it.
    ///
    /// # Errors
    /// See [`Self::finish`].
    pub fn calibrate(&self, name: &str, version: &str) -> Result<(), TrainError> {
        let scorers = compared_scorers::from_run(&self.run.file(""), &self.setup.policy)?;
        let features = dev_features(&self.setup, &self.config.features)?;
        let tuning: Vec<usize> = (0..self.setup.data.dev.len())
            .filter(|&i| DevelopmentHalf::for_image(i) == DevelopmentHalf::Tune)
            .collect();
        let split =
            ScoredSplit::from_images(&self.setup, &features, &scorers, self.config.seed, &tuning)?;
        let calibrations = calibrate::fit(&split, &scorers)?;
        let default = calibrate::best(&split, &scorers).ok_or_else(|| {
            TrainError::Run(
                "scorers: none is named probe or detached, so a bundle has none to serve".into(),
            )
        })?;
        self.write_bundle(
            &calibrate::served(&scorers, &calibrations),
            default,
            name,
            version,
        )
    }

    /// Calibrates the trained scorers and writes `RUNDIR/bundle` with those named `probe` and
    /// `detached`, `RUNDIR/report.json` and `report.html`.
    ///
    /// # Errors
    /// When the run is unfinished, the tuning half lacks grounded or ungrounded object mentions, or
    /// a file cannot be written.
    pub fn finish(&self, name: &str, version: &str) -> Result<EvaluationReport, TrainError> {
        let policy = &self.setup.policy;
        let mut scorers: Vec<ComparedScorer> = compared_scorers::baselines().into();
        scorers.extend(compared_scorers::from_run(&self.run.file(""), policy)?);
        let features = dev_features(&self.setup, &self.config.features)?;
        let mut split =
            ScoredSplit::from_development(&self.setup, &features, &scorers, self.config.seed)?;
        let calibrations = calibrate::fit(&split, &scorers)?;
        split.calibrate(&calibrations);
        let default = calibrate::best(&split, &scorers);
        if let Some(default) = default {
            self.write_bundle(
                &calibrate::served(&scorers, &calibrations),
                default,
                name,
                version,
            )?;
        }
        let chosen = default
            .and_then(|kind| scorers.iter().position(|c| c.name == kind.name()))
            .unwrap_or(scorers.len() - 1);
        let image = features.batch(&[(0, 0)])?.squeeze(0)?;
        let costs = compared_scorers::costs(policy, &scorers, &image, 50)?;
        let inputs = RewardReportInputs {
            images: &self.setup.data.dev,
            split: &split,
            scorers: &scorers,
            calibrations: &calibrations,
            costs: &costs,
            chosen,
            seed: self.config.seed,
        };
        let mut report = EvaluationReport {
            title: format!("Scorers of {name} {version}"),
            command: "candor train reward".into(),
            facts: inputs.facts(&self.config.data, &policy.name),
            ..inputs.report()
        };
        report
            .sections
            .extend(self.negatives()?.map(|negatives| Section {
                title: "What the scorers learned from".into(),
                tables: vec![negatives.table()],
                ..Section::default()
            }));
        report
            .sections
            .extend(ChosenTaps::read(&self.run.file(""))?.and_then(|taps| taps.section()));
        write_json(&self.run.file("report.json"), &report.to_json())?;
        let html = report.html().map_err(|e| TrainError::Run(e.to_string()))?;
        write_atomically(&self.run.file("report.html"), html.as_bytes())?;
        Ok(report)
    }

    /// Counts of right and wrong words in the training data, if the run recorded them.
    fn negatives(&self) -> Result<Option<Negatives>, TrainError> {
        let file = self.run.file(NEGATIVES);
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read(&file).map_err(TrainError::io(&file))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| TrainError::Run(format!("{}: {e}", file.display())))
    }

    fn write_bundle(
        &self,
        calibrations: &BTreeMap<RewardKind, Calibration>,
        default: RewardKind,
        name: &str,
        version: &str,
    ) -> Result<(), TrainError> {
        let dir = self.run.file("bundle");
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        let policy = &self.setup.policy;
        for file in ["model.safetensors", "tokenizer.json"] {
            let bytes =
                Bundle::file(&policy.name, file).map_err(|e| TrainError::Run(e.to_string()))?;
            write_atomically(&dir.join(file), &bytes)?;
        }
        copy_evidence(&policy.name, &dir)?;
        let served = |key: &str| {
            calibrations.keys().any(|kind| {
                key.strip_prefix(kind.name())
                    .is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let weights = super::export::read_weights(&self.run.file(WEIGHTS))?
            .into_iter()
            .filter(|(key, _)| served(key))
            .collect();
        write_weights(&dir.join("reward.safetensors"), weights)?;
        write_json(&dir.join("calibration.json"), calibrations)?;
        let scorers = taps::resolved(&self.run.file(""), &self.config.scorers)?;
        let has = |kind: RewardKind| {
            calibrations
                .contains_key(&kind)
                .then(|| scorers.get(kind.name()))
                .flatten()
        };
        let config = BundleConfig {
            name: name.to_owned(),
            version: version.to_owned(),
            created: unix_seconds(),
            reward: Some(ScorersConfig {
                default,
                probe: has(RewardKind::Probe).and_then(|scorer| scorer.probe(&policy.config.model)),
                detached: has(RewardKind::Detached).map(|_| policy.config.model.language.clone()),
            }),
            ..policy.config.clone()
        };
        write_json(&dir.join("config.json"), &config)
    }
}
