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
/// How much of the log-probability helps a network's logit is fitted on every token of true and perturbed captions, where words are of all sorts; slope, offset
/// and thresholds then on the things of the policy's own captions, which are what is served.
///
/// # Errors
/// When the tuning half has not both grounded and ungrounded things.
pub fn fit(judged: &Judged, contenders: &[Contender]) -> Result<Vec<Calibration>, TrainError> {
    let one = |(i, contender): (usize, &Contender)| {
        let help = if contender.is_network() { help_of_log_probability(&judged.perturbed, i) } else { 0.0 };
        let tuning = judged.captions.iter().filter(|text| Half::of(text.image) == Half::Tune);
        let helped: Vec<ScoredText> = tuning.map(|text| with_help(text, i, help)).collect();
        let (logits, good): (Vec<f32>, Vec<bool>) = things(&helped, i, Half::Tune).iter().map(|t| (t.reward, t.good)).unzip();
        let fitted = Calibration::fit(&logits, &good, FITTED_ON).ok_or_else(|| {
            TrainError::Run("the tuning half of the development split names no ungrounded thing, or no grounded one".into())
        })?;
        Ok(Calibration { log_probability: help, ..fitted })
    };
    contenders.iter().enumerate().map(one).collect()
}

/// A text whose scores have what the log-probability adds to them.
fn with_help(text: &ScoredText, contender: usize, help: f32) -> ScoredText {
    let mut text = text.clone();
    text.scores[contender].iter_mut().zip(&text.log_probabilities).for_each(|(score, lp)| *score += help * lp);
    text
}

/// What of a token's log-probability is to be added to its logit: logistic regression on both, over the tuning half. Never negative: a likelier word is no
/// reason for doubt.
fn help_of_log_probability(texts: &[ScoredText], contender: usize) -> f32 {
    let tokens = texts.iter().filter(|text| Half::of(text.image) == Half::Tune).flat_map(|text| {
        let scores = text.labels.iter().zip(&text.scores[contender]).zip(&text.log_probabilities);
        scores.filter_map(|((label, score), lp)| Some(([f64::from(*score), f64::from(*lp)], (*label)?)))
    });
    let (features, good): (Vec<[f64; 2]>, Vec<bool>) = tokens.unzip();
    match logistic_regression(&features, &good) {
        Some([logit, log_probability, _]) if logit > 0.0 => (log_probability / logit).max(0.0) as f32,
        _ => 0.0,
    }
}

/// Coefficients of two features and the intercept, by Newton's method; `None` where they cannot be told apart.
fn logistic_regression(features: &[[f64; 2]], good: &[bool]) -> Option<[f64; 3]> {
    let mut weights = [1.0, 0.0, 0.0];
    for _ in 0..50 {
        let mut gradient = [0.0; 3];
        let mut hessian = [[0.0; 3]; 3];
        for (x, &good) in features.iter().zip(good) {
            let x = [x[0], x[1], 1.0];
            let z: f64 = x.iter().zip(weights).map(|(x, w)| x * w).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            for i in 0..3 {
                gradient[i] += (p - f64::from(u8::from(good))) * x[i];
                (0..3).for_each(|j| hessian[i][j] += p * (1.0 - p) * x[i] * x[j]);
            }
        }
        (0..3).for_each(|i| hessian[i][i] += 1e-6);
        let step = solve(hessian, gradient)?;
        // A full step far from the optimum can overshoot.
        let scale = (2.0 / step.iter().map(|s| s.abs()).sum::<f64>()).min(1.0);
        weights.iter_mut().zip(step).for_each(|(w, s)| *w -= scale * s);
        if step.iter().all(|s| s.abs() < 1e-9) {
            break;
        }
    }
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// Solves `a x = b` by Cramer's rule.
fn solve(a: [[f64; 3]; 3], b: [f64; 3]) -> Option<[f64; 3]> {
    let determinant = |m: &[[f64; 3]; 3]| {
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    };
    let whole = determinant(&a);
    let column = |i: usize| {
        let mut m = a;
        (0..3).for_each(|row| m[row][i] = b[row]);
        determinant(&m) / whole
    };
    (whole.abs() > 1e-12).then(|| [column(0), column(1), column(2)])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_how_much_the_second_feature_helps() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let (features, good): (Vec<[f64; 2]>, Vec<bool>) = (0..20_000)
            .map(|_| {
                let x = [uniform() * 8.0 - 4.0, -uniform() * 6.0];
                let z: f64 = 0.8 * x[0] + 0.2 * x[1] + 1.0;
                (x, uniform() < 1.0 / (1.0 + (-z).exp()))
            })
            .unzip();
        let [a, b, c] = logistic_regression(&features, &good).unwrap();
        assert!((a - 0.8).abs() < 0.03 && (b - 0.2).abs() < 0.03 && (c - 1.0).abs() < 0.1, "{a} {b} {c}");
    }
}
