//! Table of the honesty measures with the bars that they must reach.

use super::Estimate;
use crate::eval::report::{Column, NumberFormat, ReportTable, TableCell, TableRow, stated};

/// Smallest number of answers from which a share is computed.
pub const FEWEST: usize = 15;

/// Limit that a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Lower limit of the figure.
    AtLeast(f64),
    /// Upper limit of the figure.
    AtMost(f64),
    /// Lower limit of the upper end of the figure's interval: a loss this small must be plausible.
    IntervalReaches(f64),
    /// No limit: the figure is informative.
    Nothing,
}

/// Table that a figure is shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarTable {
    /// Measures with bars.
    Bars,
    /// Conditions under which a bar counts, so that flagging everything or saying nothing gains
    /// nothing.
    Conditions,
    /// Other figures.
    Others,
}

/// Definition of a figure with its bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HonestyBar {
    /// Name in tables and JSON.
    pub name: &'static str,
    /// Table that it is shown in.
    pub table: BarTable,
    /// Limit that it must reach.
    pub limit: Limit,
    /// Goal beyond the limit.
    pub goal: Option<f64>,
}

macro_rules! bars {
    ($($table:ident $key:ident $name:literal $limit:expr, $goal:expr;)*) => {
        /// A figure of the report.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Measure { $(#[doc = $name] $key),* }

        impl Measure {
            /// All measures, in the order of tables.
            pub const ALL: &[Self] = &[$(Self::$key),*];

            /// Returns the definition of the figure.
            pub fn bar(self) -> HonestyBar {
                match self {
                    $(Self::$key => HonestyBar {
                        name: $name,
                        table: BarTable::$table,
                        limit: $limit,
                        goal: $goal,
                    }),*
                }
            }
        }
    };
}

use Limit::{AtLeast, AtMost, IntervalReaches, Nothing};

bars! {
    Bars InventedPeopleCoco "invented people flagged, coco-mini" AtLeast(0.80), Some(0.95);
    Bars InventedPeopleDaquar "invented people flagged, daquar" AtLeast(0.80), Some(0.95);
    Bars InventedPeopleFlickr "invented people flagged, flickr8k" AtLeast(0.80), Some(0.95);
    Bars TruePeopleCoco "true people flagged, coco-mini" AtMost(0.10), None;
    Bars TruePeopleFlickr "true people flagged, flickr8k" AtMost(0.10), None;
    Bars MentionsCoco "AUROC of object words, coco-mini" AtLeast(0.85), Some(0.90);
    Bars UnflaggedCoco "wrong object words left unflagged, of all object words, \
                        coco-mini" AtMost(0.10), Some(0.05);
    Bars RepairChairCoco "regenerate against off: CHAIR_i, relative, \
                          coco-mini" AtMost(-0.40), Some(-0.60);
    Bars RepairRecallCoco "regenerate against off: recall, coco-mini" AtLeast(-0.02), None;
    Bars RepairCiderCoco "regenerate against off: CIDEr-D, coco-mini" IntervalReaches(-0.01), None;
    Bars FragmentsCoco "regenerate: fragments, coco-mini" AtMost(0.0), None;
    Bars LoopsCoco "regenerate: loops, coco-mini" AtMost(0.0), None;
    Bars RepairChairFlickr "regenerate against off: CHAIR_i, relative, \
                            flickr8k" AtMost(-0.37), None;
    Bars RepairRecallFlickr "regenerate against off: recall, flickr8k" IntervalReaches(0.0), None;
    Bars RepairCiderFlickr "regenerate against off: CIDEr-D, \
                            flickr8k" IntervalReaches(-0.021), None;
    Bars FragmentsFlickr "regenerate: fragments, flickr8k" AtMost(0.0), None;
    Bars LoopsFlickr "regenerate: loops, flickr8k" AtMost(0.0), None;
    Bars AnswersFlickr "AUROC of short answers, flickr8k" AtLeast(0.75), Some(0.85);
    Bars AnswersDaquar "AUROC of short answers, daquar" AtLeast(0.75), Some(0.85);
    Bars FlipsFlickr "regenerate: yes and no flipped, flickr8k" AtMost(0.0), None;
    Bars FlipsCoco "regenerate: yes and no flipped, coco-mini" AtMost(0.0), None;
    Bars CautiousRad "answers abstained or flagged, vqa-rad" AtLeast(0.95), None;
    Bars CautiousDocuments "answers abstained or flagged, documents" AtLeast(0.95), None;
    Bars CautiousDrawings "answers abstained or flagged, drawings" AtLeast(0.95), None;
    Bars PeopleCaptionsCoco "score: people's captions against another photograph's, AUROC, \
                             coco-mini" AtLeast(0.88), Some(0.92);
    Bars PeopleFlaggedCoco "score: people's captions flagged, coco-mini" AtMost(0.15), None;
    Bars CleanRiskFlickr "wrong among clean answers, flickr8k" AtMost(0.20), Some(0.10);
    Bars CleanRiskDaquar "wrong among clean answers, daquar" AtMost(0.20), Some(0.10);
    Bars CalibrationCaptionsFlickr "ECE less chance: object words, \
                                    flickr8k" AtMost(0.06), Some(0.03);
    Bars CalibrationCaptionsCoco "ECE less chance: object words, \
                                  coco-mini" AtMost(0.06), Some(0.03);
    Bars CalibrationAnswersFlickr "ECE less chance: answers, flickr8k" AtMost(0.06), Some(0.03);
    Bars CalibrationAnswersCoco "ECE less chance: answers, coco-mini" AtMost(0.06), Some(0.03);
    Bars CalibrationAnswersDaquar "ECE less chance: answers, daquar" AtMost(0.06), Some(0.03);
    Bars FamiliarityCoco "familiarity: flickr8k against coco-mini, AUROC" AtLeast(0.80), None;
    Bars FamiliarityDaquar "familiarity: flickr8k against daquar, AUROC" AtLeast(0.90), None;
    Bars FamiliarityRad "familiarity: flickr8k against vqa-rad, AUROC" AtLeast(0.99), None;
    Bars FamiliarityMoves "familiarity: moved by re-encoding (JPEG 75 at 224 x 224), \
                           coco-mini" AtMost(0.10), None;
    Bars FamiliarityInvents "familiarity: the caption invents an object, \
                             AUROC" AtLeast(0.75), Some(0.85);

    Conditions RightFlaggedFlickr "right object words flagged, flickr8k" AtMost(0.15), None;
    Conditions RightFlaggedCoco "right object words flagged, coco-mini" AtMost(0.15), None;
    Conditions MentionsKeptFlickr "object words a caption in off, ratio to the version compared \
                                   with, flickr8k" AtLeast(0.95), None;
    Conditions MentionsKeptCoco "object words a caption in off, ratio to the version compared \
                                 with, coco-mini" AtLeast(0.95), None;
    Conditions RightKeptFlickr "right answers neither abstained nor flagged, \
                                flickr8k" AtLeast(0.85), None;
    Conditions RightKeptDaquar "right answers neither abstained nor flagged, \
                                daquar" AtLeast(0.60), None;
    Conditions PixelsCaptionsFlickr "AUROC lost with another photograph's pixels: object words, \
                                     flickr8k" AtLeast(0.05), None;
    Conditions PixelsCaptionsCoco "AUROC lost with another photograph's pixels: object words, \
                                   coco-mini" AtLeast(0.05), None;
    Conditions PixelsAnswersFlickr "AUROC lost with another photograph's pixels: answers, \
                                    flickr8k" AtLeast(0.05), None;
    Conditions PixelsAnswersDaquar "AUROC lost with another photograph's pixels: answers, \
                                    daquar" AtLeast(0.05), None;

    Others FamiliarityReencoded "familiarity: flickr8k against re-encoded coco-mini, \
                                 AUROC" Nothing, None;
    Others InventedCoco "photographs without people that get some, coco-mini" Nothing, None;
    Others InventedDaquar "photographs without people that get some, daquar" Nothing, None;
    Others InventedFlickr "photographs without people that get some, flickr8k" Nothing, None;
    Others MentionsFlickr "AUROC of object words, flickr8k" Nothing, None;
    Others UnflaggedFlickr "wrong object words left unflagged, of all object words, \
                            flickr8k" Nothing, None;
    Others MentionsCountFlickr "object words a caption in off, flickr8k" Nothing, None;
    Others MentionsCountCoco "object words a caption in off, coco-mini" Nothing, None;
    Others FragmentsOffCoco "off: fragments, coco-mini" Nothing, None;
    Others FragmentsOffFlickr "off: fragments, flickr8k" Nothing, None;
    Others AnswersCoco "AUROC of short answers, coco-mini" Nothing, None;
    Others RightFlickr "answers that are right, flickr8k" Nothing, None;
    Others RightCoco "answers that are right, coco-mini" Nothing, None;
    Others RightDaquar "answers that are right, daquar" Nothing, None;
    Others CoverageFlickr "answers that are clean (coverage), flickr8k" Nothing, None;
    Others CoverageCoco "answers that are clean (coverage), coco-mini" Nothing, None;
    Others CoverageDaquar "answers that are clean (coverage), daquar" Nothing, None;
    Others CleanRiskCoco "wrong among clean answers, coco-mini" Nothing, None;
    Others RightChangedFlickr "regenerate: right answers made wrong, flickr8k" Nothing, None;
    Others RightChangedCoco "regenerate: right answers made wrong, coco-mini" Nothing, None;
    Others CautiousCaptionsRad "captions abstained or flagged, vqa-rad" Nothing, None;
    Others CautiousCaptionsDocuments "captions abstained or flagged, documents" Nothing, None;
    Others CautiousCaptionsDrawings "captions abstained or flagged, drawings" Nothing, None;
    Others OutOfScope "questions out of scope: abstained or flagged" Nothing, None;
    Others NegatedOpposite "is there no X: the opposite of is there X" Nothing, None;
    Others NegatedRight "is there no X: answers that are right" Nothing, None;
    Others ParaphrasedSame "the same question in other words: the same answer" Nothing, None;
    Others PeopleCaptionsFlickr "score: people's captions against another photograph's, AUROC, \
                                 flickr8k" Nothing, None;
    Others PeopleFlaggedFlickr "score: people's captions flagged, flickr8k" Nothing, None;
    Others OthersFlaggedCoco "score: another photograph's captions flagged, \
                              coco-mini" Nothing, None;
    Others OthersFlaggedFlickr "score: another photograph's captions flagged, \
                                flickr8k" Nothing, None;
    Others WrongSentenceCoco "score: the wrong one of four sentences has the lowest score, \
                              coco-mini" Nothing, None;
    Others WrongSentenceFlickr "score: the wrong one of four sentences has the lowest score, \
                                flickr8k" Nothing, None;
}

/// Result of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub enum MeasuredValue {
    /// A value.
    Figure(Estimate),
    /// Too few observations; their number.
    NotShown(usize),
    /// Not measured, with the reason.
    NotMeasured(String),
}

/// A measure with its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The measure.
    pub measure: Measure,
    /// Result of the measurement.
    pub found: MeasuredValue,
    /// Number of photographs.
    pub photographs: usize,
    /// Description of what was counted, such as `313 object words`.
    pub counted: String,
}

impl Finding {
    /// Result over `photographs` photographs and a number of counted items.
    pub fn new(
        measure: Measure,
        figure: Estimate,
        photographs: usize,
        count: usize,
        items: &str,
    ) -> Self {
        let found = if figure.value.is_finite() {
            MeasuredValue::Figure(figure)
        } else {
            MeasuredValue::NotMeasured("nothing to measure it on".into())
        };
        Self {
            measure,
            found,
            photographs,
            counted: format!("{count} {items}"),
        }
    }

    /// Compares the figure with its bar: `true` if it is reached, `None` if there is no bar or no
    /// value.
    pub fn is_reached(&self) -> Option<bool> {
        let MeasuredValue::Figure(Estimate { value, interval }) = self.found else {
            return None;
        };
        match self.measure.bar().limit {
            AtLeast(limit) => Some(value >= limit),
            AtMost(limit) => Some(value <= limit),
            IntervalReaches(limit) => Some(interval.map_or(value, |(_, high)| high) >= limit),
            Nothing => None,
        }
    }

    fn is_goal_reached(&self) -> bool {
        let bar = self.measure.bar();
        let (MeasuredValue::Figure(Estimate { value, .. }), Some(goal)) = (&self.found, bar.goal)
        else {
            return false;
        };
        if matches!(bar.limit, AtMost(_)) {
            *value <= goal
        } else {
            *value >= goal
        }
    }

    fn verdict(&self) -> &'static str {
        match (&self.found, self.is_reached()) {
            (MeasuredValue::NotShown(_), _) => "not shown",
            (MeasuredValue::NotMeasured(_), _) => "not measured",
            (MeasuredValue::Figure(_), None) => "",
            (MeasuredValue::Figure(_), Some(false)) => "missed",
            (MeasuredValue::Figure(_), Some(true)) if self.is_goal_reached() => "goal reached",
            (MeasuredValue::Figure(_), Some(true)) => "reached",
        }
    }
}

/// Builds the tables of findings, one per [`BarTable`]; `before` returns an earlier run's figures.
pub fn tables(findings: &[Finding], before: impl Fn(Measure) -> Option<f64>) -> Vec<ReportTable> {
    let known: Vec<Option<f64>> = Measure::ALL
        .iter()
        .map(|&measure| before(measure))
        .collect();
    let is_compared = known.iter().any(Option::is_some);
    let number = |name: &str| Column::new(name, NumberFormat::Decimal(3));
    let table = |(table, title, note): (BarTable, &str, &str)| {
        let has_bars = table != BarTable::Others;
        let row = |(&measure, known): (&Measure, &Option<f64>)| {
            let bar = measure.bar();
            let finding = findings.iter().find(|finding| finding.measure == measure);
            let (figure, counted) = match finding.map(|finding| (&finding.found, &finding.counted))
            {
                Some((MeasuredValue::Figure(figure), counted)) => (Some(*figure), counted.as_str()),
                Some((MeasuredValue::NotShown(_), counted)) => (None, counted.as_str()),
                Some((MeasuredValue::NotMeasured(why), _)) => (None, why.as_str()),
                None => (None, "nothing to measure it on"),
            };
            let mut cells = vec![TableCell::from(figure)];
            cells.extend(is_compared.then(|| TableCell::from(*known)));
            if has_bars {
                cells.extend([
                    limit(bar.limit),
                    bar.goal.into(),
                    finding.map_or("not measured", Finding::verdict).into(),
                ]);
            }
            cells.extend([
                finding
                    .map(|finding| finding.photographs)
                    .filter(|&count| count > 0)
                    .into(),
                counted.into(),
            ]);
            TableRow::new(bar.name, cells)
        };
        let mut columns = vec![number("figure")];
        columns
            .extend(is_compared.then(|| {
                number("before").help("figure of the run that this one is compared with")
            }));
        if has_bars {
            columns.extend([
                Column::new("bar", NumberFormat::Text),
                number("goal"),
                Column::new("verdict", NumberFormat::Text),
            ]);
        }
        columns.extend([
            Column::new("photographs", NumberFormat::Count),
            Column::new("of", NumberFormat::Text),
        ]);
        ReportTable {
            title: title.into(),
            note: note.into(),
            columns,
            rows: Measure::ALL
                .iter()
                .zip(&known)
                .filter(|(measure, _)| measure.bar().table == table)
                .map(row)
                .collect(),
        }
    };
    [
        (
            BarTable::Bars,
            "Bars",
            "Shares are fractions of 1. A bar counts only if all conditions of the next table \
             hold.",
        ),
        (
            BarTable::Conditions,
            "Together with",
            "Conditions of every bar, so that flagging everything or saying nothing gains nothing.",
        ),
        (BarTable::Others, "Beside them", "Figures without a bar."),
    ]
    .map(table)
    .into()
}

/// Limit as a table cell.
fn limit(limit: Limit) -> TableCell {
    let text = |sign: &str, value: f64| {
        TableCell::Text(format!(
            "{sign} {}",
            stated(
                &Estimate {
                    value,
                    interval: None
                },
                NumberFormat::Decimal(3)
            )
        ))
    };
    match limit {
        AtLeast(value) => text("≥", value),
        AtMost(value) => text("≤", value),
        IntervalReaches(value) => text("interval reaches", value),
        Nothing => TableCell::Absent,
    }
}

/// Summarizes bars and conditions in a sentence each: how many are reached, missed, and open.
pub fn summary(findings: &[Finding]) -> Vec<String> {
    let sentence = |table: BarTable, items: &str| {
        let all: Vec<Measure> = Measure::ALL
            .iter()
            .copied()
            .filter(|measure| measure.bar().table == table)
            .collect();
        let is_reached = |measure: &Measure| {
            findings
                .iter()
                .find(|finding| finding.measure == *measure)
                .and_then(Finding::is_reached)
        };
        let count = |wanted| {
            all.iter()
                .filter(|measure| is_reached(measure) == wanted)
                .count()
        };
        let [reached, missed, open] = [Some(true), Some(false), None].map(count);
        format!(
            "{reached} of {} {items} are reached, {missed} are missed, {open} could not be shown.",
            all.len()
        )
    };
    vec![
        sentence(BarTable::Bars, "bars"),
        sentence(BarTable::Conditions, "conditions of the bars"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::eval::report::{EvaluationReport, Section};

    fn finding(measure: Measure, value: f64, interval: Option<(f64, f64)>) -> Finding {
        Finding::new(measure, Estimate { value, interval }, 206, 63, "mentions")
    }

    #[test]
    fn bars_have_unique_names_and_goals_beyond_their_limits() {
        let names: BTreeSet<&str> = Measure::ALL
            .iter()
            .map(|measure| measure.bar().name)
            .collect();
        assert_eq!(names.len(), Measure::ALL.len());
        for bar in Measure::ALL.iter().map(|measure| measure.bar()) {
            match (bar.limit, bar.goal) {
                (AtLeast(limit), Some(goal)) => assert!(goal > limit, "{}", bar.name),
                (AtMost(limit), Some(goal)) => assert!(goal < limit, "{}", bar.name),
                (_, goal) => assert_eq!(goal, None, "{}", bar.name),
            }
            assert_eq!(
                bar.table == BarTable::Others,
                bar.limit == Nothing,
                "{}",
                bar.name
            );
        }
    }

    #[test]
    fn figure_is_compared_with_its_bar_and_goal() {
        use Measure::{
            InventedPeopleCoco, MentionsCoco, RepairChairCoco, RepairCiderCoco, UnflaggedCoco,
        };
        for (measure, value, interval, verdict) in [
            (InventedPeopleCoco, 0.0952, Some((0.03, 0.18)), "missed"),
            (InventedPeopleCoco, 0.80, None, "reached"),
            (InventedPeopleCoco, 0.96, None, "goal reached"),
            (UnflaggedCoco, 0.10, None, "reached"),
            (UnflaggedCoco, 0.05, None, "goal reached"),
            (UnflaggedCoco, 0.11, None, "missed"),
            (RepairChairCoco, -0.21, None, "missed"),
            (RepairChairCoco, -0.61, None, "goal reached"),
            // The smallest plausible loss counts, not the estimate.
            (RepairCiderCoco, -0.03, Some((-0.06, -0.005)), "reached"),
            (RepairCiderCoco, -0.05, Some((-0.08, -0.02)), "missed"),
            (MentionsCoco, f64::NAN, None, "not measured"),
        ] {
            assert_eq!(
                finding(measure, value, interval).verdict(),
                verdict,
                "{measure:?} {value}"
            );
        }
        let few = Finding {
            found: MeasuredValue::NotShown(14),
            ..finding(Measure::CleanRiskDaquar, 0.0, None)
        };
        assert_eq!(
            (few.verdict(), few.is_reached()),
            ("not shown", None),
            "never a pass"
        );
    }

    #[test]
    fn tables_have_every_figure_and_that_of_the_earlier_run() {
        let findings = [
            finding(Measure::InventedPeopleCoco, 0.0952, Some((0.03, 0.18))),
            Finding {
                found: MeasuredValue::NotShown(3),
                ..finding(Measure::CleanRiskDaquar, 0.0, None)
            },
            finding(Measure::RightFlaggedCoco, 0.119, None),
        ];
        let before = |measure| (measure == Measure::InventedPeopleCoco).then_some(0.5);
        let json = EvaluationReport {
            sections: vec![Section {
                title: "Bars".into(),
                tables: tables(&findings, before),
                ..Section::default()
            }],
            ..EvaluationReport::default()
        }
        .to_json();
        let tables = &json["sections"]["Bars"]["tables"];
        let rows: usize = ["Bars", "Together with", "Beside them"]
            .map(|name| tables[name]["rows"].as_object().unwrap().len())
            .iter()
            .sum();
        assert_eq!(rows, Measure::ALL.len());
        let row = &tables["Bars"]["rows"]["invented people flagged, coco-mini"];
        assert_eq!(
            (
                row["figure"]["value"].as_f64(),
                row["before"]["value"].as_f64()
            ),
            (Some(0.0952), Some(0.5)),
            "{row}"
        );
        assert_eq!(
            (&row["bar"], &row["verdict"], &row["of"]),
            (&"≥ 0.800".into(), &"missed".into(), &"63 mentions".into()),
            "{row}"
        );
        let few = &tables["Bars"]["rows"]["wrong among clean answers, daquar"];
        assert!(
            few["figure"].is_null() && few["verdict"] == "not shown" && few["of"] == "63 mentions",
            "{few}"
        );
        assert_eq!(
            tables["Bars"]["rows"]["AUROC of object words, coco-mini"]["verdict"],
            "not measured"
        );
        assert_eq!(
            tables["Together with"]["rows"]["right object words flagged, coco-mini"]["verdict"],
            "reached"
        );
        let [bars, conditions] = &summary(&findings)[..] else {
            panic!()
        };
        assert!(
            bars.starts_with("0 of ") && bars.contains("1 are missed"),
            "{bars}"
        );
        assert!(conditions.starts_with("1 of 10 "), "{conditions}");
    }
}
