//! From raw scores to probabilities: calibrations fitted on the tuning half of the development split.

use std::collections::BTreeMap;

use super::{
    TrainError,
    contenders::Contender,
    judged::{Half, Judged, ScoredText},
};
use crate::{
    bundle::RewardKind,
    eval::tokens::{Ranking, Scored},
    reward::calibration::Calibration,
};

/// What calibrations are fitted on, in words.
const FITTED_ON: &str = "things named in the policy's own captions of every second development image";

/// Things that the policy's own captions name, with one contender's raw scores.
pub fn things(captions: &[ScoredText], contender: usize, half: Half) -> Vec<Scored> {
    captions.iter().filter(|text| Half::of(text.image) == half).flat_map(|text| text.ranges(contender)).map(|(_, scored)| scored).collect()
}

/// One calibration a contender, in their order.
///
/// # Errors
/// When the tuning half has not both grounded and ungrounded things.
pub fn fit(judged: &Judged, contenders: &[Contender]) -> Result<Vec<Calibration>, TrainError> {
    let one = |i: usize| {
        let (logits, good): (Vec<f32>, Vec<bool>) = things(&judged.captions, i, Half::Tune).iter().map(|t| (t.reward, t.good)).unzip();
        Calibration::fit(&logits, &good, FITTED_ON)
            .ok_or_else(|| TrainError::Run("the tuning half of the development split names no ungrounded thing, or no grounded one".into()))
    };
    (0..contenders.len()).map(one).collect()
}

/// Of the scorers that a bundle can serve, the one that ranks the tuning half's things best.
pub fn best(judged: &Judged, contenders: &[Contender]) -> Option<RewardKind> {
    let auroc = |i: usize| Ranking::new(things(&judged.captions, i, Half::Tune)).metrics(0.5).auroc;
    let served = [RewardKind::Probe, RewardKind::Detached].into_iter().filter_map(|kind| {
        let i = contenders.iter().position(|c| c.name == kind.name())?;
        Some((auroc(i), kind))
    });
    served.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, kind)| kind)
}

/// The calibrations of the scorers that a bundle can serve.
pub fn served(contenders: &[Contender], calibrations: &[Calibration]) -> BTreeMap<RewardKind, Calibration> {
    let of = |kind: RewardKind| {
        let i = contenders.iter().position(|c| c.name == kind.name())?;
        Some((kind, calibrations[i].clone()))
    };
    [RewardKind::Probe, RewardKind::Detached].into_iter().filter_map(of).collect()
}
