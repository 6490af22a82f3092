//! Promotion gate: pure functions that decide if a candidate may replace the served version.
//!
//! A candidate passes only if CHAIR falls while recall, CIDEr-D, BLEU-4, VQA accuracy and caption
//! length stay within tolerances. A scorer that got worse on held-out corrections, and rewards that
//! drifted from the calibration, count against it. A required figure that was not measured counts
//! as failed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Figures by name: `chair_i`, `chair_s`, `recall`, `cider_d`, `bleu_4`, `words`, `vqa_accuracy`,
/// `scorer_auroc`, `scorer_ece`, `scorer_bad_words`.
pub type MetricValues = BTreeMap<String, f64>;

/// Tolerances of the gate. Losses of figures that are shares are absolute; other losses are
/// relative to the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// Minimum relative fall of CHAIR_i, which must fall in any case.
    pub min_chair_fall: f64,
    /// `true` to require that the 95 % interval of the fall of CHAIR_i, paired over images,
    /// excludes zero.
    pub significant: bool,
    /// Maximum absolute loss of recall.
    pub max_recall_loss: f64,
    /// Maximum relative loss of CIDEr-D.
    pub max_cider_loss: f64,
    /// Maximum relative loss of BLEU-4.
    pub max_bleu_loss: f64,
    /// Maximum absolute loss of VQA accuracy.
    pub max_vqa_loss: f64,
    /// Maximum relative loss of caption length in words.
    pub max_words_loss: f64,
    /// Maximum absolute loss of the scorer's AUROC on held-out corrections.
    pub max_auroc_loss: f64,
    /// Maximum absolute rise of the scorer's calibration error on held-out corrections.
    pub max_ece_rise: f64,
    /// Minimum number of bad words in the held-out corrections for the scorer to be judged at all.
    pub min_bad_words: usize,
    /// Maximum population stability index of recent rewards against those of the served version's
    /// calibration.
    pub max_psi: f64,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            min_chair_fall: 0.0,
            significant: true,
            max_recall_loss: 0.02,
            max_cider_loss: 0.05,
            max_bleu_loss: 0.05,
            max_vqa_loss: 0.02,
            max_words_loss: 0.2,
            max_auroc_loss: 0.03,
            max_ece_rise: 0.05,
            min_bad_words: 30,
            max_psi: 0.5,
        }
    }
}

/// Measurements that the gate decides on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GateInputs {
    /// Figures of the served version.
    pub baseline: MetricValues,
    /// Figures of the candidate on the same data.
    pub candidate: MetricValues,
    /// 95 % interval of the candidate's CHAIR_i minus the baseline's, paired over images.
    pub chair_interval: Option<(f64, f64)>,
    /// Population stability index of recent rewards, if there are enough of them.
    pub psi: Option<f64>,
}

/// Decision of the gate with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateVerdict {
    /// `true` if the candidate may be promoted.
    pub passed: bool,
    /// Failed requirements, one sentence each with figure, values and bound; empty if it passed.
    pub reasons: Vec<String>,
    /// Requirements that are met.
    pub held: Vec<String>,
}

/// Bound on the change of one figure.
struct Rule {
    figure: &'static str,
    /// Bound as a function of the baseline's value.
    bound: Box<dyn Fn(f64) -> f64>,
    side: Side,
    /// `true` if the figure must be measured; otherwise only if the baseline has it.
    required: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    AtMost,
    AtLeast,
}

impl Side {
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Below => value < bound,
            Self::AtMost => value <= bound,
            Self::AtLeast => value >= bound,
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::Below => "below",
            Self::AtMost => "at most",
            Self::AtLeast => "at least",
        }
    }
}

fn rules(config: &GateConfig) -> Vec<Rule> {
    let rule = |figure, side, required, bound: Box<dyn Fn(f64) -> f64>| Rule {
        figure,
        bound,
        side,
        required,
    };
    let less = |loss: f64| -> Box<dyn Fn(f64) -> f64> { Box::new(move |was| was - loss) };
    let share = |loss: f64| -> Box<dyn Fn(f64) -> f64> { Box::new(move |was| was * (1.0 - loss)) };
    let more = |rise: f64| -> Box<dyn Fn(f64) -> f64> { Box::new(move |was| was + rise) };
    vec![
        rule(
            "chair_i",
            Side::Below,
            true,
            share(config.min_chair_fall.max(0.0)),
        ),
        rule("chair_s", Side::AtMost, true, more(0.0)),
        rule("recall", Side::AtLeast, true, less(config.max_recall_loss)),
        rule("cider_d", Side::AtLeast, true, share(config.max_cider_loss)),
        rule("bleu_4", Side::AtLeast, true, share(config.max_bleu_loss)),
        rule("words", Side::AtLeast, true, share(config.max_words_loss)),
        rule(
            "vqa_accuracy",
            Side::AtLeast,
            false,
            less(config.max_vqa_loss),
        ),
    ]
}

fn scorer_rules(config: &GateConfig) -> Vec<Rule> {
    let (auroc, ece) = (config.max_auroc_loss, config.max_ece_rise);
    vec![
        Rule {
            figure: "scorer_auroc",
            bound: Box::new(move |was| was - auroc),
            side: Side::AtLeast,
            required: false,
        },
        Rule {
            figure: "scorer_ece",
            bound: Box::new(move |was| was + ece),
            side: Side::AtMost,
            required: false,
        },
    ]
}

/// Decides on a candidate.
pub fn judge(evidence: &GateInputs, config: &GateConfig) -> GateVerdict {
    let mut verdict = GateVerdict {
        passed: true,
        reasons: Vec::new(),
        held: Vec::new(),
    };
    let finite = |figures: &MetricValues, name: &str| {
        figures.get(name).copied().filter(|value| value.is_finite())
    };
    let bad_words = finite(&evidence.candidate, "scorer_bad_words").unwrap_or(0.0);
    let scorer = if bad_words >= config.min_bad_words as f64 {
        scorer_rules(config)
    } else {
        Vec::new()
    };
    for Rule {
        figure,
        bound,
        side,
        required,
    } in rules(config).into_iter().chain(scorer)
    {
        match (
            finite(&evidence.baseline, figure),
            finite(&evidence.candidate, figure),
        ) {
            (Some(was), Some(is)) => {
                let bound = bound(was);
                let sentence = format!(
                    "{figure} is {is:.4}, was {was:.4}, must be {} {bound:.4}",
                    side.phrase()
                );
                let list = if side.holds(is, bound) {
                    &mut verdict.held
                } else {
                    &mut verdict.reasons
                };
                list.push(sentence);
            }
            (was, None) if required || was.is_some() => verdict
                .reasons
                .push(format!("{figure} of the candidate could not be measured")),
            (None, _) if required => verdict.reasons.push(format!(
                "{figure} of the served version could not be measured"
            )),
            _ => {}
        }
    }
    if config.significant {
        match evidence.chair_interval {
            Some((low, high)) if high < 0.0 => verdict
                .held
                .push(format!("chair_i changes by {low:.4} to {high:.4} (95 %)")),
            Some((low, high)) => {
                verdict.reasons.push(format!(
                    "the fall of chair_i may be chance: it changes by {low:.4} to \
                                   {high:.4} (95 %), must be below 0"
                ));
            }
            None => verdict.reasons.push(
                "the fall of chair_i may be chance: there are too few images for an interval"
                    .to_owned(),
            ),
        }
    }
    match evidence.psi {
        Some(psi) if psi <= config.max_psi => verdict.held.push(format!(
            "reward_drift_psi is {psi:.3}, must be at most \
                                       {:.3}",
            config.max_psi
        )),
        Some(psi) => verdict.reasons.push(format!(
            "reward_drift_psi is {psi:.3}, must be at most {:.3}: recent answers differ \
             from those of the calibration",
            config.max_psi
        )),
        None => {}
    }
    verdict.passed = verdict.reasons.is_empty();
    verdict
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 9] = [
        "chair_i",
        "chair_s",
        "recall",
        "cider_d",
        "bleu_4",
        "words",
        "vqa_accuracy",
        "scorer_auroc",
        "scorer_ece",
    ];
    const LOWER_IS_BETTER: [&str; 3] = ["chair_i", "chair_s", "scorer_ece"];

    fn figures(values: [f64; 9]) -> MetricValues {
        let mut figures: MetricValues = NAMES.map(str::to_owned).into_iter().zip(values).collect();
        figures.insert("scorer_bad_words".into(), 100.0);
        figures
    }

    fn served() -> MetricValues {
        figures([0.3, 0.57, 0.53, 0.45, 0.18, 11.0, 0.7, 0.85, 0.05])
    }

    fn better() -> GateInputs {
        let candidate = figures([0.2, 0.42, 0.53, 0.46, 0.19, 9.2, 0.7, 0.86, 0.05]);
        GateInputs {
            baseline: served(),
            candidate,
            chair_interval: Some((-0.12, -0.08)),
            psi: Some(0.1),
        }
    }

    #[test]
    fn better_candidate_passes() {
        let verdict = judge(&better(), &GateConfig::default());
        assert!(
            verdict.passed && verdict.reasons.is_empty() && verdict.held.len() == 11,
            "{verdict:?}"
        );
    }

    #[test]
    fn reasons_name_figure_values_and_bound() {
        let config = GateConfig::default();
        for (figure, value, bound) in [
            ("chair_i", 0.3, "0.3000"),
            ("chair_s", 0.58, "0.5700"),
            ("recall", 0.5, "0.5100"),
            ("cider_d", 0.42, "0.4275"),
            ("bleu_4", 0.17, "0.1710"),
            ("words", 8.0, "8.8000"),
            ("vqa_accuracy", 0.67, "0.6800"),
            ("scorer_auroc", 0.8, "0.8200"),
            ("scorer_ece", 0.2, "0.1000"),
        ] {
            let mut evidence = better();
            evidence.candidate.insert(figure.into(), value);
            let [reason] = &judge(&evidence, &config).reasons[..] else {
                panic!("{figure}")
            };
            let was = format!("{:.4}", evidence.baseline[figure]);
            assert!(
                [figure, &format!("{value:.4}"), &was, bound]
                    .iter()
                    .all(|part| reason.contains(part)),
                "{reason}"
            );
        }
        let drifted = GateInputs {
            psi: Some(0.9),
            ..better()
        };
        assert!(
            judge(&drifted, &config).reasons[0]
                .contains("reward_drift_psi is 0.900, must be at most 0.500")
        );
        let chance = GateInputs {
            chair_interval: Some((-0.1, 0.01)),
            ..better()
        };
        assert!(judge(&chance, &config).reasons[0].contains("may be chance"));
        assert!(
            judge(
                &chance,
                &GateConfig {
                    significant: false,
                    ..config
                }
            )
            .passed
        );
    }

    #[test]
    fn missing_figure_fails_and_few_corrections_judge_no_scorer() {
        let config = GateConfig::default();
        for figure in NAMES {
            let mut evidence = better();
            evidence.candidate.insert(figure.into(), f64::NAN);
            assert!(
                judge(&evidence, &config).reasons[0].contains(figure),
                "{figure}"
            );
        }
        let mut evidence = better();
        evidence.candidate.insert("scorer_auroc".into(), 0.1);
        evidence.candidate.insert("scorer_bad_words".into(), 29.0);
        assert!(judge(&evidence, &config).passed);
        assert!(!judge(&GateInputs::default(), &config).passed);
    }

    fn any_figures() -> impl Strategy<Value = MetricValues> {
        prop::array::uniform9(0.01f64..1.0).prop_map(figures)
    }

    fn any_evidence() -> impl Strategy<Value = GateInputs> {
        (any_figures(), any_figures(), -1.0f64..1.0, 0.0f64..1.0).prop_map(
            |(baseline, candidate, at, psi)| GateInputs {
                baseline,
                candidate,
                chair_interval: Some((at - 0.1, at)),
                psi: Some(psi),
            },
        )
    }

    proptest! {
        #[test]
        fn verdict_passes_exactly_without_reasons(evidence in any_evidence()) {
            let verdict = judge(&evidence, &GateConfig::default());
            prop_assert_eq!(verdict.passed, verdict.reasons.is_empty());
        }

        #[test]
        fn unchanged_candidate_is_rejected(figures in any_figures()) {
            let evidence = GateInputs { baseline: figures.clone(), candidate: figures,
                chair_interval: Some((-1.0, -0.5)), psi: None };
            prop_assert!(!judge(&evidence, &GateConfig::default()).passed);
        }

        #[test]
        fn better_figure_adds_no_reason(mut evidence in any_evidence(), which in 0usize..9,
            by in 0.0f64..1.0) {
            let config = GateConfig { significant: false, ..GateConfig::default() };
            let before = judge(&evidence, &config).reasons.len();
            let name = NAMES[which];
            let sign = if LOWER_IS_BETTER.contains(&name) { -1.0 } else { 1.0 };
            if let Some(value) = evidence.candidate.get_mut(name) {
                *value += sign * by;
            }
            prop_assert!(judge(&evidence, &config).reasons.len() <= before);
        }

        #[test]
        fn loss_above_the_tolerance_is_rejected(mut evidence in any_evidence(),
            loss in 0.021f64..1.0) {
            let recall = evidence.baseline["recall"] - loss;
            evidence.candidate.insert("recall".into(), recall);
            let verdict = judge(&evidence, &GateConfig::default());
            prop_assert!(verdict.reasons.iter().any(|reason| reason.starts_with("recall is")));
        }
    }
}
