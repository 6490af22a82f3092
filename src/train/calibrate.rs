//! From raw scores to probabilities: calibrations fitted on the tuning half of the development
//! split.

use std::collections::BTreeMap;

use super::{
    TrainError,
    compared_scorers::ComparedScorer,
    scored_split::{ComparedText, DevelopmentHalf, ScoredSplit},
};
use crate::{
    eval::tokens::{Ranking, ScoredToken},
    reward::RewardKind,
    reward::{calibration::Calibration, drift::Histogram, logistic::logistic_regression},
};

/// What calibrations are fitted on, in words.
const FITTED_ON: &str =
    "things named in the policy's own captions of every second development image";

/// What those of texts by others are fitted on.
const OTHERS_FITTED_ON: &str = "words that claim something in a person's caption of every second \
                                development image, as it is and with one thing changed";

/// What those of a yes or no are fitted on.
const ANSWERS_FITTED_ON: &str =
    "the policy's own yes or no to derived questions about every second development image";

/// Things that the policy's own captions name, with one contender's raw scores.
pub fn things(
    captions: &[ComparedText],
    contender: usize,
    half: DevelopmentHalf,
) -> Vec<ScoredToken> {
    captions
        .iter()
        .filter(|text| DevelopmentHalf::of(text.image) == half)
        .flat_map(|text| text.ranges(contender))
        .map(|(_, scored)| scored)
        .collect()
}

/// One calibration a contender, in their order.
///
/// How much of the log-probability helps a network's logit is fitted on every token of true and
/// perturbed captions, where words are of all sorts; slope, offset and thresholds then on the
/// things of the policy's own captions, which are what is served.
///
/// # Errors
/// When the tuning half has not both grounded and ungrounded things.
pub fn fit(
    judged: &ScoredSplit,
    contenders: &[ComparedScorer],
) -> Result<Vec<Calibration>, TrainError> {
    let one = |(i, contender): (usize, &ComparedScorer)| {
        let help = if contender.is_helped() {
            help_of_log_probability(&judged.perturbed, i)
        } else {
            0.0
        };
        let tuning = judged
            .captions
            .iter()
            .filter(|text| DevelopmentHalf::of(text.image) == DevelopmentHalf::Tune);
        let helped: Vec<ComparedText> = tuning.map(|text| with_help(text, i, help)).collect();
        let (logits, good): (Vec<f32>, Vec<bool>) = things(&helped, i, DevelopmentHalf::Tune)
            .iter()
            .map(|t| (t.reward, t.good))
            .unzip();
        let fitted = Calibration::fit(&logits, &good, FITTED_ON).ok_or_else(|| {
            TrainError::Run(
                "the tuning half of the development split names no ungrounded thing, \
                             or no grounded one"
                    .into(),
            )
        })?;
        let yes_no = contender
            .is_helped()
            .then(|| yes_no(&judged.answers, i))
            .flatten()
            .map(Box::new);
        let others = contender
            .is_helped()
            .then(|| others(&judged.perturbed, i, help))
            .flatten();
        let others = others.map(|others| {
            Box::new(Calibration {
                yes_no: yes_no.clone(),
                ..others
            })
        });
        let fitted = Calibration {
            log_probability: help,
            others,
            yes_no,
            ..fitted
        };
        let tuning = judged
            .captions
            .iter()
            .filter(|text| DevelopmentHalf::of(text.image) == DevelopmentHalf::Tune);
        let tokens = tuning.flat_map(|text| text.scores[i].iter().zip(&text.log_probabilities));
        let rewards = Some(Histogram::of(
            tokens.map(|(score, lp)| fitted.reward(*score, *lp)),
        ));
        Ok(Calibration { rewards, ..fitted })
    };
    contenders.iter().enumerate().map(one).collect()
}

/// The calibration of a yes or no that answers, where the tuning half has right and wrong ones.
fn yes_no(answers: &[ComparedText], contender: usize) -> Option<Calibration> {
    let tuning = answers.iter().filter(|text| {
        DevelopmentHalf::of(text.image) == DevelopmentHalf::Tune && text.is_yes_or_no(0)
    });
    let of = |text: &ComparedText| {
        Some((
            text.scores[contender][0],
            text.log_probabilities[0],
            (*text.labels.first()?)?,
        ))
    };
    let known: Vec<(f32, f32, bool)> = tuning.filter_map(of).collect();
    let features: Vec<[f64; 2]> = known
        .iter()
        .map(|(score, lp, _)| [f64::from(*score), f64::from(*lp)])
        .collect();
    let targets: Vec<f64> = known
        .iter()
        .map(|(.., right)| f64::from(u8::from(*right)))
        .collect();
    let help = help_of(&features, &targets);
    let logits: Vec<f32> = known
        .iter()
        .map(|(score, lp, _)| score + help * lp)
        .collect();
    let good: Vec<bool> = known.iter().map(|(.., right)| *right).collect();
    let fitted = Calibration::fit(&logits, &good, ANSWERS_FITTED_ON)?;
    Some(Calibration {
        log_probability: help,
        ..fitted
    })
}

/// The calibration of texts that the policy did not write, where some are wrong.
fn others(texts: &[ComparedText], contender: usize, help: f32) -> Option<Calibration> {
    let tuning = texts
        .iter()
        .filter(|text| DevelopmentHalf::of(text.image) == DevelopmentHalf::Tune)
        .map(|text| with_help(text, contender, help));
    let (logits, good): (Vec<f32>, Vec<bool>) = tuning
        .flat_map(|text| text.claims(contender).collect::<Vec<_>>())
        .unzip();
    let fitted = Calibration::fit(&logits, &good, OTHERS_FITTED_ON)?;
    Some(Calibration {
        log_probability: help,
        ..fitted
    })
}

/// A text whose scores have what the log-probability adds to them.
fn with_help(text: &ComparedText, contender: usize, help: f32) -> ComparedText {
    let mut text = text.clone();
    text.scores[contender]
        .iter_mut()
        .zip(&text.log_probabilities)
        .for_each(|(score, lp)| *score += help * lp);
    text
}

/// What of a token's log-probability is to be added to its logit: logistic regression on both, over
/// the tuning half. Never negative: a likelier word is no reason for doubt.
fn help_of_log_probability(texts: &[ComparedText], contender: usize) -> f32 {
    let tokens = texts
        .iter()
        .filter(|text| DevelopmentHalf::of(text.image) == DevelopmentHalf::Tune)
        .flat_map(|text| {
            let scores = text
                .labels
                .iter()
                .zip(&text.scores[contender])
                .zip(&text.log_probabilities);
            scores.filter_map(|((label, score), lp)| {
                Some((
                    [f64::from(*score), f64::from(*lp)],
                    f64::from(u8::from((*label)?)),
                ))
            })
        });
    let (features, good): (Vec<[f64; 2]>, Vec<f64>) = tokens.unzip();
    help_of(&features, &good)
}

/// The most that a nat of log-probability adds to a logit: beside a logit that says nothing, any
/// number would fit, and none of them could be calibrated.
const MOST_HELP: f64 = 5.0;

/// Returns what of a log-probability, the second feature, is to be added to a logit, the first one,
/// that together they tell best.
fn help_of(features: &[[f64; 2]], targets: &[f64]) -> f32 {
    match logistic_regression(features, targets) {
        Some([logit, log_probability, _]) if logit > 0.0 => {
            (log_probability / logit).clamp(0.0, MOST_HELP) as f32
        }
        _ => 0.0,
    }
}

/// Of the scorers that a bundle can serve, the one that ranks the tuning half's things best.
pub fn best(judged: &ScoredSplit, contenders: &[ComparedScorer]) -> Option<RewardKind> {
    let auroc = |i: usize| {
        Ranking::new(things(&judged.captions, i, DevelopmentHalf::Tune))
            .metrics(0.5)
            .auroc
    };
    let served = RewardKind::ALL.into_iter().filter_map(|kind| {
        let i = contenders.iter().position(|c| c.name == kind.name())?;
        Some((auroc(i), kind))
    });
    served
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, kind)| kind)
}

/// The calibrations of the scorers that a bundle can serve.
pub fn served(
    contenders: &[ComparedScorer],
    calibrations: &[Calibration],
) -> BTreeMap<RewardKind, Calibration> {
    let of = |kind: RewardKind| {
        let i = contenders.iter().position(|c| c.name == kind.name())?;
        Some((kind, calibrations[i].clone()))
    };
    RewardKind::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens whose log-probability tells them apart, `told` of the difference being in the logit
    /// too.
    fn help(told: f64) -> f32 {
        let tokens = (0..400).map(|i| {
            let (good, noise) = (i % 3 != 0, f64::from(i * 7919 % 101) / 101.0 - 0.5);
            let sign = if good { 1.0 } else { -1.0 };
            // Some are mistaken: what tells everything has no finite weight.
            let sign = if i % 10 == 0 { -sign } else { sign };
            (
                [
                    told * sign + noise,
                    sign + f64::from(i * 104_729 % 97) / 97.0 - 0.5,
                ],
                f64::from(u8::from(good)),
            )
        });
        let (features, targets): (Vec<_>, Vec<_>) = tokens.unzip();
        help_of(&features, &targets)
    }

    #[test]
    fn a_logit_that_says_nothing_is_not_drowned() {
        let some = help(1.0);
        assert!(some > 0.0 && some < 5.0, "{some}");
        assert!(
            [1e-3, -1e-3, 0.0]
                .iter()
                .all(|&told| (0.0..=5.0).contains(&help(told)))
        );
        assert!((help(1e-2) - 5.0).abs() < 1e-6 || help(1e-2) == 0.0);
    }
}
