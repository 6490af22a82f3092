//! From trained scorers to a bundle: calibration, choice of the default, and the report.

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
    /// `RUNDIR/bundle` with those named `probe` and `detached`, and nothing else: what a cycle
    /// needs.
    ///
    /// # Errors
    /// See [`Self::finish`].
    pub fn calibrate(&self, name: &str, version: &str) -> Result<(), TrainError> {
        let contenders = compared_scorers::of_run(&self.run.file(""), &self.setup.policy)?;
        let features = dev_features(&self.setup, &self.config.features)?;
        let tuning: Vec<usize> = (0..self.setup.data.dev.len())
            .filter(|&i| DevelopmentHalf::of(i) == DevelopmentHalf::Tune)
            .collect();
        let judged = ScoredSplit::of_some(
            &self.setup,
            &features,
            &contenders,
            self.config.seed,
            &tuning,
        )?;
        let calibrations = calibrate::fit(&judged, &contenders)?;
        let default = calibrate::best(&judged, &contenders).ok_or_else(|| {
            TrainError::Run(
                "scorers: there is none named probe or detached, which a bundle could serve".into(),
            )
        })?;
        self.write_bundle(
            &calibrate::served(&contenders, &calibrations),
            default,
            name,
            version,
        )
    }

    /// Calibrates the trained scorers, writes `RUNDIR/bundle` with those named `probe` and
    /// `detached`, and `RUNDIR/report.json` and `report.html`.
    ///
    /// # Errors
    /// When the run is not finished, the tuning half has not both grounded and ungrounded things,
    /// or a file cannot be written.
    pub fn finish(&self, name: &str, version: &str) -> Result<EvaluationReport, TrainError> {
        let policy = &self.setup.policy;
        let mut contenders: Vec<ComparedScorer> = compared_scorers::baselines().into();
        contenders.extend(compared_scorers::of_run(&self.run.file(""), policy)?);
        let features = dev_features(&self.setup, &self.config.features)?;
        let mut judged =
            ScoredSplit::of_dev(&self.setup, &features, &contenders, self.config.seed)?;
        let calibrations = calibrate::fit(&judged, &contenders)?;
        judged.calibrate(&calibrations);
        let default = calibrate::best(&judged, &contenders);
        if let Some(default) = default {
            self.write_bundle(
                &calibrate::served(&contenders, &calibrations),
                default,
                name,
                version,
            )?;
        }
        let chosen = default
            .and_then(|kind| contenders.iter().position(|c| c.name == kind.name()))
            .unwrap_or(contenders.len() - 1);
        let image = features.batch(&[(0, 0)])?.squeeze(0)?;
        let costs = compared_scorers::costs(policy, &contenders, &image, 50)?;
        let evidence = RewardReportInputs {
            images: &self.setup.data.dev,
            judged: &judged,
            contenders: &contenders,
            calibrations: &calibrations,
            costs: &costs,
            chosen,
            seed: self.config.seed,
        };
        let mut report = EvaluationReport {
            title: format!("Scorers of {name} {version}"),
            command: "candor train reward".into(),
            facts: evidence.facts(&self.config.data, &policy.name),
            ..evidence.report()
        };
        report
            .sections
            .extend(self.negatives()?.map(|negatives| Section {
                title: "What the scorers learned from".into(),
                tables: vec![negatives.table()],
                ..Section::default()
            }));
        write_json(&self.run.file("report.json"), &report.to_json())?;
        let html = report.html().map_err(|e| TrainError::Run(e.to_string()))?;
        write_atomically(&self.run.file("report.html"), html.as_bytes())?;
        Ok(report)
    }

    /// Right and wrong words that the training learned from, where it counted them.
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
        let has = |kind: RewardKind| {
            calibrations
                .contains_key(&kind)
                .then(|| self.config.scorers.get(kind.name()))
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
