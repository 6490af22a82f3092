//! Risk of answers without a warning: how often they are wrong, and how many there are.

use super::{
    PhotographNumbers, Resampling, ScoredOutcome,
    bars::{FEWEST, Finding, Measure, MeasuredValue},
    share,
};
use crate::eval::report::{Axis, Plot, Series};

/// Number of points of a curve.
const POINTS: usize = 200;

/// Fate of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFate {
    /// Given without a warning.
    Clean,
    /// Flagged or cut off, so that the reader is warned.
    Warned,
    /// Withheld.
    Abstained,
}

impl AnswerFate {
    /// Classifies the guard's verdict. An answer that is not flagged, cut off or withheld carries
    /// no warning.
    pub fn from_verdict(verdict: &str) -> Self {
        match verdict {
            "abstained" => Self::Abstained,
            "flagged" | "blocked" => Self::Warned,
            _ => Self::Clean,
        }
    }
}

/// An answer with known truth, under the guard's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RiskAnswer {
    /// Key of the photograph.
    pub photograph: usize,
    /// `true` if it is right.
    pub is_right: bool,
    /// Fate of the answer.
    pub fate: AnswerFate,
}

/// Share of wrong answers among those without a warning; not shown for fewer than [`FEWEST`].
pub fn clean_risk(measure: Measure, answers: &[RiskAnswer], resampling: Resampling) -> Finding {
    let clean: Vec<(usize, bool)> = answers
        .iter()
        .filter(|answer| answer.fate == AnswerFate::Clean)
        .map(|answer| (answer.photograph, !answer.is_right))
        .collect();
    let photographs = PhotographNumbers::new(clean.iter().map(|row| row.0)).len();
    let counted = format!("{} clean answers of {}", clean.len(), answers.len());
    if answers.is_empty() || clean.len() >= FEWEST {
        return Finding {
            counted,
            ..Finding::new(
                measure,
                share(&clean, resampling),
                photographs,
                clean.len(),
                "clean answers",
            )
        };
    }
    Finding {
        measure,
        found: MeasuredValue::NotShown(clean.len()),
        photographs,
        counted,
    }
}

/// Share of answers for which `holds` is `true` among those that `among` selects.
pub fn share_among(
    measure: Measure,
    answers: &[RiskAnswer],
    among: impl Fn(&RiskAnswer) -> bool,
    holds: impl Fn(&RiskAnswer) -> bool,
    items: &str,
    resampling: Resampling,
) -> Finding {
    let rows: Vec<(usize, bool)> = answers
        .iter()
        .filter(|answer| among(answer))
        .map(|answer| (answer.photograph, holds(answer)))
        .collect();
    let photographs = PhotographNumbers::new(rows.iter().map(|row| row.0)).len();
    Finding::new(
        measure,
        share(&rows, resampling),
        photographs,
        rows.len(),
        items,
    )
}

/// Risk-coverage curve: share of wrong answers among the highest-scored ones, for every number of
/// them. Answers with the same score are taken together.
pub fn risk_coverage(name: &str, rows: &[ScoredOutcome]) -> Series {
    let mut rows: Vec<&ScoredOutcome> = rows.iter().collect();
    rows.sort_by(|a, b| b.score.total_cmp(&a.score));
    let all = rows.len() as f64;
    let (mut wrong, mut points) = (0.0, Vec::new());
    for (i, row) in rows.iter().enumerate() {
        wrong += f64::from(u8::from(!row.is_right));
        if rows.get(i + 1).is_none_or(|next| next.score != row.score) {
            let taken = (i + 1) as f64;
            points.push((taken / all, wrong / taken));
        }
    }
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let points = points
        .into_iter()
        .enumerate()
        .filter(|(i, _)| i % step == 0 || *i == last)
        .map(|(_, point)| point)
        .collect();
    Series {
        name: name.to_owned(),
        points,
        ..Series::default()
    }
}

/// Plot of risk-coverage curves.
pub fn risk_plot(curves: Vec<Series>) -> Plot {
    let axis = |label: &str| Axis {
        label: label.to_owned(),
        range: Some((0.0, 1.0)),
    };
    Plot::Lines {
        title: "Risk and coverage".into(),
        x: axis("coverage: share of answers that are given"),
        y: axis("risk: share of these that are wrong"),
        series: curves,
        diagonal: false,
    }
}

/// Risk at a coverage: that of the smallest set of answers that reaches it.
pub fn risk_at(curve: &Series, coverage: f64) -> Option<f64> {
    curve
        .points
        .iter()
        .find(|(covered, _)| *covered >= coverage - 1e-12)
        .map(|point| point.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESAMPLING: Resampling = Resampling {
        repeats: 50,
        seed: 1,
    };

    fn answers(clean_right: usize, clean_wrong: usize, warned: usize) -> Vec<RiskAnswer> {
        let answers_with = |count: usize, is_right: bool, fate: AnswerFate| {
            (0..count).map(move |photograph| RiskAnswer {
                photograph,
                is_right,
                fate,
            })
        };
        answers_with(clean_right, true, AnswerFate::Clean)
            .chain(answers_with(clean_wrong, false, AnswerFate::Clean))
            .chain(answers_with(warned, false, AnswerFate::Warned))
            .collect()
    }

    #[test]
    fn clean_risk_counts_clean_answers_and_needs_enough_of_them() {
        let found = clean_risk(Measure::CleanRiskFlickr, &answers(15, 5, 100), RESAMPLING);
        let MeasuredValue::Figure(risk) = found.found else {
            panic!("{found:?}")
        };
        assert_eq!(
            (risk.value, found.counted.as_str(), found.photographs),
            (0.25, "20 clean answers of 120", 15)
        );
        for clean in [0, 1, 14] {
            let found = clean_risk(
                Measure::CleanRiskFlickr,
                &answers(clean, 0, 100),
                RESAMPLING,
            );
            assert_eq!(
                (&found.found, found.is_reached()),
                (&MeasuredValue::NotShown(clean), None),
                "no wrong one among {clean} is no pass"
            );
        }
        assert!(matches!(
            clean_risk(Measure::CleanRiskFlickr, &[], RESAMPLING).found,
            MeasuredValue::NotMeasured(_)
        ));
    }

    #[test]
    fn share_among_counts_selected_answers() {
        let all = answers(6, 2, 4);
        let kept = share_among(
            Measure::RightKeptFlickr,
            &all,
            |a| a.is_right,
            |a| a.fate == AnswerFate::Clean,
            "right answers",
            RESAMPLING,
        );
        assert_eq!(
            (kept.is_reached(), kept.counted.as_str()),
            (Some(true), "6 right answers")
        );
        let coverage = share_among(
            Measure::CoverageFlickr,
            &all,
            |_| true,
            |a| a.fate == AnswerFate::Clean,
            "answers",
            RESAMPLING,
        );
        assert_eq!(
            coverage.found,
            MeasuredValue::Figure(share(
                &all.iter()
                    .map(|a| (a.photograph, a.fate == AnswerFate::Clean))
                    .collect::<Vec<_>>(),
                RESAMPLING
            ))
        );
    }

    #[test]
    fn verdict_decides_the_fate_of_an_answer() {
        for (verdict, fate) in [
            ("clean", AnswerFate::Clean),
            ("repaired", AnswerFate::Clean),
            ("unscored", AnswerFate::Clean),
            ("flagged", AnswerFate::Warned),
            ("blocked", AnswerFate::Warned),
            ("abstained", AnswerFate::Abstained),
        ] {
            assert_eq!(AnswerFate::from_verdict(verdict), fate, "{verdict}");
        }
    }

    #[test]
    fn risk_coverage_takes_the_highest_scores_first_and_ties_together() {
        let outcome = |(photograph, &(score, is_right)): (usize, &(f64, bool))| ScoredOutcome {
            photograph,
            score,
            is_right,
        };
        let rows: Vec<ScoredOutcome> = [
            (0.9, true),
            (0.8, false),
            (0.8, true),
            (0.8, true),
            (0.2, false),
        ]
        .iter()
        .enumerate()
        .map(outcome)
        .collect();
        let curve = risk_coverage("all", &rows);
        assert_eq!(curve.points, [(0.2, 0.0), (0.8, 0.25), (1.0, 0.4)]);
        assert_eq!(
            (
                risk_at(&curve, 0.2),
                risk_at(&curve, 0.5),
                risk_at(&curve, 1.0)
            ),
            (Some(0.0), Some(0.25), Some(0.4))
        );
        assert_eq!(risk_at(&risk_coverage("none", &[]), 0.5), None);
        let many: Vec<(f64, bool)> = (0..1000).map(|i| (f64::from(i), i % 3 == 0)).collect();
        let curve = risk_coverage(
            "many",
            &many.iter().enumerate().map(outcome).collect::<Vec<_>>(),
        );
        assert!(
            curve.points.len() <= 201 && curve.points.last().is_some_and(|point| point.0 == 1.0)
        );
    }
}
