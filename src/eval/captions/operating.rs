//! Operating points: CHAIR_i against recall and against decoded tokens, over thresholds and beside
//! alternatives.

use super::flags::MentionKind;
use crate::eval::report::{
    Axis, Column, GoodDirection, NumberFormat, Plot, ReportTable, Section, Series, TableCell,
    TableRow,
};

/// Family of an operating point, which decides how it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointFamily {
    /// A mode with its defaults.
    Default,
    /// Mode regenerate at a threshold.
    Regenerate,
    /// Mode flag at a threshold, with flagged words left out.
    Flag,
    /// Best of several answers.
    BestOf,
    /// Sampling without the guard.
    Temperature,
    /// Another option of mode regenerate; shown in the table only.
    Window,
}

impl PointFamily {
    const DRAWN: [(Self, &'static str); 5] = [
        (Self::Regenerate, "regenerate, by threshold"),
        (Self::Flag, "flagged objects left out, by threshold"),
        (Self::Default, "with defaults"),
        (Self::BestOf, "best of several answers"),
        (Self::Temperature, "no guard, by temperature"),
    ];
}

/// Hallucination and recall of one setting over one vocabulary, as shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingRates {
    /// Share of mentions that are hallucinated.
    pub chair_i: f64,
    /// Share of the expected objects that are mentioned.
    pub recall: f64,
}

/// One setting with its hallucination, recall and cost.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatingPoint {
    /// Name of the setting in tables.
    pub name: String,
    /// Label beside the point.
    pub label: String,
    /// Family of the point.
    pub family: PointFamily,
    /// Decoded tokens as a ratio to those without the guard.
    pub decoded: f64,
    /// Rates of the open and the closed vocabulary; `None` if not measured.
    pub rates: [Option<OperatingRates>; 2],
}

/// Builds the plots of operating points and the table of their numbers.
pub fn sections(points: &[OperatingPoint]) -> [Section; 2] {
    let measured = |kind: usize| {
        points.iter().any(|point| {
            point.rates[kind].is_some_and(|r| r.chair_i.is_finite() && r.recall.is_finite())
        })
    };
    let kinds: Vec<usize> = (0..MentionKind::ALL.len())
        .filter(|kind| measured(*kind))
        .collect();
    let (table, plots) = (settings_table(points, &kinds), plots(points, &kinds));
    let text = "Points further down hallucinate less; points further right name more of what is \
                there, or cost more tokens. The table after the plots has every number, and the \
                settings that would crowd them.";
    [
        Section {
            title: "Trade-off".into(),
            text: vec![text.into()],
            plots,
            ..Section::default()
        },
        Section {
            title: "Trade-off in numbers".into(),
            tables: vec![table],
            ..Section::default()
        },
    ]
}

/// Table of every setting's cost, hallucination and recall over the vocabularies of `kinds`.
fn settings_table(points: &[OperatingPoint], kinds: &[usize]) -> ReportTable {
    let name = |kind: usize| MentionKind::ALL[kind].name();
    let mut columns =
        vec![Column::new("decoded, ratio", NumberFormat::Decimal(2)).better(GoodDirection::Lower)];
    for &kind in kinds {
        columns.push(
            Column::new(format!("CHAIR_i, {}", name(kind)), NumberFormat::Percent)
                .better(GoodDirection::Lower),
        );
        columns.push(
            Column::new(format!("recall, {}", name(kind)), NumberFormat::Percent)
                .better(GoodDirection::Higher),
        );
    }
    let row = |point: &OperatingPoint| {
        let rates = kinds.iter().flat_map(|&kind| {
            [
                point.rates[kind].map(|r| r.chair_i),
                point.rates[kind].map(|r| r.recall),
            ]
        });
        let cells: Vec<TableCell> = std::iter::once(point.decoded.into())
            .chain(rates.map(TableCell::from))
            .collect();
        TableRow {
            emphasis: point.family == PointFamily::Default,
            ..TableRow::new(point.name.clone(), cells)
        }
    };
    ReportTable {
        title: "Every setting".into(),
        note:
            "The numbers of the plots; intervals are in Figures. In rows of flag, flagged object \
               mentions are left out, as a reader who trusts no flagged word would do; the text \
               itself is unchanged."
                .into(),
        columns,
        rows: points.iter().map(row).collect(),
    }
}

/// Plots of hallucination against recall and against cost, for the vocabularies of `kinds`.
fn plots(points: &[OperatingPoint], kinds: &[usize]) -> Vec<Plot> {
    let name = |kind: usize| MentionKind::ALL[kind].name();
    let mut plots = Vec::new();
    for &kind in kinds {
        let rates = |point: &OperatingPoint| point.rates[kind];
        let y = || Axis {
            label: "CHAIR_i, % (lower is better)".into(),
            range: None,
        };
        let plot =
            |title: &str, label: &str, x: fn(&OperatingPoint, OperatingRates) -> f64| Plot::Lines {
                title: format!("{title}, {}", name(kind)),
                x: Axis {
                    label: label.into(),
                    range: None,
                },
                y: y(),
                series: series(points, |point| {
                    rates(point).map(|r| (x(point, r), 100.0 * r.chair_i))
                }),
                diagonal: false,
            };
        plots.push(plot(
            "Hallucination against recall",
            "recall, % (higher is better)",
            |_, r| 100.0 * r.recall,
        ));
        plots.push(plot(
            "Hallucination against decoded tokens",
            "decoded tokens, ratio to no guard",
            |point, _| point.decoded,
        ));
    }
    plots
}

fn series(
    points: &[OperatingPoint],
    position: impl Fn(&OperatingPoint) -> Option<(f64, f64)>,
) -> Vec<Series> {
    let family_series = |(family, name): (PointFamily, &str)| {
        let found: Vec<((f64, f64), String)> = points
            .iter()
            .filter(|p| p.family == family)
            .filter_map(|p| Some((position(p)?, p.label.clone())))
            .collect();
        let (points, labels): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let scattered = !matches!(family, PointFamily::Regenerate | PointFamily::Flag);
        (!points.is_empty()).then(|| Series {
            name: name.to_owned(),
            points,
            marks: true,
            scattered,
            labels,
        })
    };
    PointFamily::DRAWN
        .into_iter()
        .filter_map(family_series)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, family: PointFamily, chair_i: f64, recall: f64) -> OperatingPoint {
        OperatingPoint {
            name: name.into(),
            label: name.into(),
            family,
            decoded: 1.5,
            rates: [Some(OperatingRates { chair_i, recall }), None],
        }
    }

    #[test]
    fn points_of_a_family_are_one_series_and_all_are_in_the_table() {
        let points = [
            point("off", PointFamily::Default, 0.5, 0.4),
            point("regenerate below 0.3", PointFamily::Regenerate, 0.4, 0.4),
            point("regenerate below 0.6", PointFamily::Regenerate, 0.2, 0.3),
            point("regenerate, window 1", PointFamily::Window, 0.3, 0.3),
        ];
        let [section, numbers] = sections(&points);
        assert_eq!(numbers.tables[0].rows.len(), 4);
        assert_eq!(
            numbers.tables[0].columns.len(),
            3,
            "the closed vocabulary was not measured"
        );
        assert_eq!(section.plots.len(), 2);
        let Plot::Lines { series, .. } = &section.plots[0] else {
            panic!("{:?}", section.plots[0])
        };
        let names: Vec<(&str, bool)> = series
            .iter()
            .map(|s| (s.name.as_str(), s.scattered))
            .collect();
        assert_eq!(
            names,
            [("regenerate, by threshold", false), ("with defaults", true)]
        );
        assert_eq!(
            (&series[0].points[..], &series[1].points[..]),
            (&[(40.0, 40.0), (30.0, 20.0)][..], &[(40.0, 50.0)][..])
        );
        let Plot::Lines { series, .. } = &section.plots[1] else {
            panic!("{:?}", section.plots[1])
        };
        assert_eq!(series[1].points, [(1.5, 50.0)]);
    }

    #[test]
    fn sections_without_rates_have_a_table_and_no_plots() {
        let nothing = OperatingPoint {
            rates: [None; 2],
            ..point("off", PointFamily::Default, 0.0, 0.0)
        };
        let [plots, numbers] = sections(&[nothing]);
        assert!(plots.plots.is_empty() && numbers.tables[0].rows.len() == 1);
    }
}
