//! Calibration of scorers: raw scores to probabilities, fitted on the tuning half of the
//! development split.

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

/// Description of the data behind captions' calibrations, recorded with them.
const FITTED_ON: &str =
    "things named in the policy's own captions of every second development image";

/// The same for calibrations of other authors' texts.
const OTHERS_FITTED_ON: &str = "words that claim something in a person's caption of every second \
                                development image, as it is and with one thing changed";

/// The same for calibrations of yes/no answers.
const ANSWERS_FITTED_ON: &str =
    "the policy's own yes or no to derived questions about every second development image";

/// One scorer's scores of the object mentions in the policy's captions.
pub fn object_mentions(
    captions: &[ComparedText],
    scorer: usize,
    half: DevelopmentHalf,
) -> Vec<ScoredToken> {
    captions
        .iter()
        .filter(|text| DevelopmentHalf::for_image(text.image) == half)
        .flat_map(|text| text.ranges(scorer))
        .map(|(_, scored)| scored)
        .collect()
}

/// Fits one calibration per scorer, in their order.
///
/// The weight of the log-probability beside a network's logit is fitted on all tokens of true and
/// perturbed captions, which hold all classes of words; slope, offset and thresholds are then
/// fitted on object mentions in the policy's captions, which is what is served.
///
/// # Errors
/// When the tuning half lacks grounded or ungrounded object mentions.
pub fn fit(
    split: &ScoredSplit,
    scorers: &[ComparedScorer],
) -> Result<Vec<Calibration>, TrainError> {
    let one = |(i, scorer): (usize, &ComparedScorer)| {
        let weight = if scorer.uses_log_probability() {
            log_probability_weight(&split.perturbed, i)
        } else {
            0.0
        };
        let tuning = split
            .captions
            .iter()
            .filter(|text| DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Tune);
        let adjusted: Vec<ComparedText> = tuning
            .map(|text| with_log_probability(text, i, weight))
            .collect();
        let (logits, good): (Vec<f32>, Vec<bool>) =
            object_mentions(&adjusted, i, DevelopmentHalf::Tune)
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
        let yes_no = scorer
            .uses_log_probability()
            .then(|| yes_no(&split.answers, i))
            .flatten()
            .map(Box::new);
        let others = scorer
            .uses_log_probability()
            .then(|| others(&split.perturbed, i, weight))
            .flatten();
        let others = others.map(|others| {
            Box::new(Calibration {
                yes_no: yes_no.clone(),
                ..others
            })
        });
        let fitted = Calibration {
            log_probability: weight,
            others,
            yes_no,
            ..fitted
        };
        let tuning = split
            .captions
            .iter()
            .filter(|text| DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Tune);
        let tokens = tuning.flat_map(|text| text.scores[i].iter().zip(&text.log_probabilities));
        let rewards = Some(Histogram::from_rewards(
            tokens.map(|(score, lp)| fitted.reward(*score, *lp)),
        ));
        Ok(Calibration { rewards, ..fitted })
    };
    scorers.iter().enumerate().map(one).collect()
}

/// Calibration of a yes or no that answers a question, if the tuning half has right and wrong ones.
fn yes_no(answers: &[ComparedText], scorer: usize) -> Option<Calibration> {
    let tuning = answers.iter().filter(|text| {
        DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Tune && text.is_yes_or_no(0)
    });
    let triple = |text: &ComparedText| {
        Some((
            text.scores[scorer][0],
            text.log_probabilities[0],
            (*text.labels.first()?)?,
        ))
    };
    let labeled: Vec<(f32, f32, bool)> = tuning.filter_map(triple).collect();
    let features: Vec<[f64; 2]> = labeled
        .iter()
        .map(|(score, lp, _)| [f64::from(*score), f64::from(*lp)])
        .collect();
    let targets: Vec<f64> = labeled
        .iter()
        .map(|(.., right)| f64::from(u8::from(*right)))
        .collect();
    let weight = relative_weight(&features, &targets);
    let logits: Vec<f32> = labeled
        .iter()
        .map(|(score, lp, _)| score + weight * lp)
        .collect();
    let good: Vec<bool> = labeled.iter().map(|(.., right)| *right).collect();
    let fitted = Calibration::fit(&logits, &good, ANSWERS_FITTED_ON)?;
    Some(Calibration {
        log_probability: weight,
        ..fitted
    })
}

/// Calibration of texts by other authors, if the tuning half has right and wrong claims.
fn others(texts: &[ComparedText], scorer: usize, weight: f32) -> Option<Calibration> {
    let tuning = texts
        .iter()
        .filter(|text| DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Tune)
        .map(|text| with_log_probability(text, scorer, weight));
    let (logits, good): (Vec<f32>, Vec<bool>) = tuning
        .flat_map(|text| text.claims(scorer).collect::<Vec<_>>())
        .unzip();
    let fitted = Calibration::fit(&logits, &good, OTHERS_FITTED_ON)?;
    Some(Calibration {
        log_probability: weight,
        ..fitted
    })
}

/// Copy of a text with the weighted log-probabilities added to one scorer's scores.
fn with_log_probability(text: &ComparedText, scorer: usize, weight: f32) -> ComparedText {
    let mut text = text.clone();
    text.scores[scorer]
        .iter_mut()
        .zip(&text.log_probabilities)
        .for_each(|(score, lp)| *score += weight * lp);
    text
}

/// Weight of a token's log-probability beside its logit, by logistic regression on the tuning half.
/// Never negative: likelier words must not get lower rewards.
fn log_probability_weight(texts: &[ComparedText], scorer: usize) -> f32 {
    let tokens = texts
        .iter()
        .filter(|text| DevelopmentHalf::for_image(text.image) == DevelopmentHalf::Tune)
        .flat_map(|text| {
            let scores = text
                .labels
                .iter()
                .zip(&text.scores[scorer])
                .zip(&text.log_probabilities);
            scores.filter_map(|((label, score), lp)| {
                Some((
                    [f64::from(*score), f64::from(*lp)],
                    f64::from(u8::from((*label)?)),
                ))
            })
        });
    let (features, good): (Vec<[f64; 2]>, Vec<f64>) = tokens.unzip();
    relative_weight(&features, &good)
}

/// Upper bound of the weight: with an uninformative logit any weight would fit, and none could be
/// calibrated.
const MAX_WEIGHT: f64 = 5.0;

/// Weight of the second feature (log-probability) relative to the first (logit) in a logistic
/// regression of the targets.
fn relative_weight(features: &[[f64; 2]], targets: &[f64]) -> f32 {
    match logistic_regression(features, targets) {
        Some([logit, log_probability, _]) if logit > 0.0 => {
            (log_probability / logit).clamp(0.0, MAX_WEIGHT) as f32
        }
        _ => 0.0,
    }
}

/// Servable scorer that ranks the object mentions of the tuning half best.
pub fn best(split: &ScoredSplit, scorers: &[ComparedScorer]) -> Option<RewardKind> {
    let auroc = |i: usize| {
        Ranking::new(object_mentions(&split.captions, i, DevelopmentHalf::Tune))
            .metrics(0.5)
            .auroc
    };
    let served = RewardKind::ALL.into_iter().filter_map(|kind| {
        let i = scorers.iter().position(|c| c.name == kind.name())?;
        Some((auroc(i), kind))
    });
    served
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, kind)| kind)
}

/// Calibrations of the servable scorers.
pub fn served(
    scorers: &[ComparedScorer],
    calibrations: &[Calibration],
) -> BTreeMap<RewardKind, Calibration> {
    let entry = |kind: RewardKind| {
        let i = scorers.iter().position(|c| c.name == kind.name())?;
        Some((kind, calibrations[i].clone()))
    };
    RewardKind::ALL.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weight fitted on tokens whose log-probability separates them, with the share `told` of that
    /// separation in the logit too.
    fn help(told: f64) -> f32 {
        let tokens = (0..400).map(|i| {
            let (good, noise) = (i % 3 != 0, f64::from(i * 7919 % 101) / 101.0 - 0.5);
            let sign = if good { 1.0 } else { -1.0 };
            // Some labels are flipped: perfectly separable data has no finite weight.
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
        relative_weight(&features, &targets)
    }

    #[test]
    fn relative_weight_uninformative_logit_is_bounded() {
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
