//! `candor eval reward`

use std::path::PathBuf;

use clap::Args;

use super::{Output, RunFacts, command};
use crate::{
    cli::{Failure, common::settle},
    eval::report::EvaluationReport,
    train::{
        TrainError, calibrate,
        compared_scorers::{self, ComparedScorer, ScoreSource},
        finishers::Finishers,
        reward_report::RewardReportInputs,
        scored_split::{ScoredSplit, dev_features},
        setup::Setup,
    },
};

/// Measure how well scorers tell grounded words from ungrounded ones
///
/// Needs a folder in Flickr8k's layout. Its development split is dealt out in turn: one half tunes,
/// the other is reported. If the bundle has evidence about images, the rewards that it serves are
/// measured beside those of its scorers alone.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor eval reward --data ../shared/data/flickr8k\n  candor eval \
                  reward --data ../shared/data/flickr8k --run runs/ablation --html ablation.html"
)]
pub(super) struct EvalRewardArgs {
    /// Folder in Flickr8k's layout
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Bundle whose policy writes the captions and whose scorers are measured
    #[arg(long, value_name = "NAME|DIR", default_value = "candor-mini")]
    model: String,

    /// Also measure the scorers of a finished run of candor train reward on the same policy
    #[arg(long, value_name = "RUNDIR")]
    run: Vec<PathBuf>,

    /// Scorers to measure, in this order [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    scorers: Vec<String>,

    /// Folder that caches the photographs' features
    #[arg(long, value_name = "DIR", default_value = "runs/features")]
    features: PathBuf,

    /// Seed of perturbations, questions and bootstrap
    #[arg(long, default_value_t = 23)]
    seed: u64,

    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: EvalRewardArgs) -> Result<(), Failure> {
    settle(None)?;
    let report = measure(&args).map_err(|e| match e {
        TrainError::Data(_) => Failure::misused(e),
        other => Failure::failed(other),
    })?;
    args.output.show(&report)
}

fn measure(args: &EvalRewardArgs) -> Result<EvaluationReport, TrainError> {
    let setup = Setup::open_for_evaluation(&args.data, &args.model, 0)?;
    let policy = &setup.policy;
    let mut contenders = gather(args, &setup)?;
    let default = policy.config.reward.as_ref().map(|r| r.default.name());
    let served = default.and_then(|name| contenders.iter().position(|c| c.name == name));
    let network = || {
        contenders
            .iter()
            .rposition(|c| matches!(c.scorer, ScoreSource::Net(_)))
    };
    let mut chosen = served.or_else(network).unwrap_or(contenders.len() - 1);
    if let ScoreSource::Net(_) = contenders[chosen].scorer {
        contenders.push(ComparedScorer {
            name: "other image".into(),
            scorer: ScoreSource::OtherImage(chosen),
            bytes: contenders[chosen].bytes,
        });
    }
    let features = dev_features(&setup, &args.features)?;
    let finishers = if served.is_some() {
        Finishers::open(policy, &features)?
    } else {
        None
    };
    let finished = finishers.is_some().then_some(contenders.len());
    if finished.is_some() {
        let name = format!("{}, with evidence", contenders[chosen].name);
        // The mean of a single scorer is that scorer.
        contenders.push(ComparedScorer {
            name,
            scorer: ScoreSource::Mean(vec![chosen]),
            bytes: contenders[chosen].bytes,
        });
    }
    let mut judged = ScoredSplit::from_development(&setup, &features, &contenders, args.seed)?;
    let mut calibrations = calibrate::fit(&judged, &contenders)?;
    // The bundle's scorers are measured with the calibration it serves.
    for (kind, calibration) in compared_scorers::calibrations(policy)? {
        if let Some(i) = contenders.iter().position(|c| c.name == kind.name()) {
            calibrations[i] = calibration;
        }
    }
    let finished = finished.zip(finishers.as_ref());
    if let Some((finished, finishers)) = finished {
        calibrations[finished] = finishers.served(calibrations[chosen].clone());
    }
    judged.calibrate(&calibrations);
    let mut rewards = "rewards of the scorer alone";
    if let Some((finished, finishers)) = finished {
        judged.finish(finished, finishers, &setup)?;
        chosen = finished;
        rewards = "as served: rewards of object mentions use the evidence of the image";
    }
    let costs = compared_scorers::costs(
        policy,
        &contenders,
        &features.batch(&[(0, 0)])?.squeeze(0)?,
        200,
    )?;
    let evidence = RewardReportInputs {
        images: &setup.data.dev,
        split: &judged,
        scorers: &contenders,
        calibrations: &calibrations,
        costs: &costs,
        chosen,
        seed: args.seed,
    };
    let title = format!(
        "Scorers of {} {}",
        policy.config.name, policy.config.version
    );
    let model = (policy.config.name.clone(), policy.config.version.clone());
    let run = RunFacts {
        model: Some(model),
        photographs: setup.data.dev.len(),
        seed: args.seed,
        ..RunFacts::default()
    };
    let facts = [
        run.facts(),
        evidence.facts(&args.data, &policy.name),
        vec![("rewards looked at".into(), rewards.into())],
    ]
    .concat();
    Ok(EvaluationReport {
        title,
        command: command(),
        facts,
        ..evidence.report()
    })
}

/// Baselines, the bundle's scorers, and those of the runs.
fn gather(args: &EvalRewardArgs, setup: &Setup) -> Result<Vec<ComparedScorer>, TrainError> {
    let mut all: Vec<ComparedScorer> = compared_scorers::baselines().into();
    all.extend(compared_scorers::from_bundle(&setup.policy)?);
    for run in &args.run {
        for contender in compared_scorers::from_run(run, &setup.policy)? {
            let taken = all.iter().any(|c| c.name == contender.name);
            let name = if taken {
                format!("{} ({})", contender.name, run.display())
            } else {
                contender.name.clone()
            };
            all.push(ComparedScorer { name, ..contender });
        }
    }
    if args.scorers.is_empty() {
        return Ok(all);
    }
    let mut chosen: Vec<ComparedScorer> = Vec::new();
    for name in &args.scorers {
        // A sum averages the logits of scorers listed before it.
        let parts: Vec<&str> = name.split('+').collect();
        if let Some(i) = all.iter().position(|c| c.name == *name) {
            chosen.push(all.remove(i));
        } else if let Some(parts) = parts
            .iter()
            .map(|part| chosen.iter().position(|c| c.name == *part))
            .collect::<Option<Vec<usize>>>()
        {
            let bytes = parts.iter().map(|&i| chosen[i].bytes).sum();
            chosen.push(ComparedScorer {
                name: name.clone(),
                scorer: ScoreSource::Mean(parts),
                bytes,
            });
        } else {
            let names = all
                .iter()
                .chain(&chosen)
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            return Err(TrainError::Run(format!(
                "--scorers: no scorer '{name}'; expected {names}"
            )));
        }
    }
    Ok(chosen)
}
