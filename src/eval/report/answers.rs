//! Sections of a report on answers to questions: confusion, risk, and wrong answers with their
//! photographs.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use rand::{SeedableRng, rngs::SmallRng, seq::IteratorRandom};

use super::{
    CaptionCard, CardWord, Column, GoodDirection, NumberFormat, Photo, ReportTable, Section,
    Series, TableCell, TableRow, stated,
};
use crate::eval::{
    bootstrap::{Estimate, REPEATS, estimates},
    honesty::{
        ScoredOutcome,
        risk::{risk_coverage, risk_plot},
    },
    tokens::{Ranking, ScoredToken},
};

/// Number of wrong answers shown per kind.
const SHOWN: usize = 12;

/// A question with its right answers and the given one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnsweredQuestion {
    /// Kind of question, by which wrong answers are grouped.
    pub kind: String,
    /// Name of the image.
    pub image: String,
    /// Path of the photograph, if available.
    pub photo: Option<PathBuf>,
    /// The question.
    pub question: String,
    /// Answers that count as right.
    pub right_answers: Vec<String>,
    /// Given answer.
    pub answer: String,
    /// `true` if the answer counts as right.
    pub is_right: bool,
    /// For yes-or-no questions: `true` if yes is right, and the answer given (`None`: neither yes
    /// nor no).
    pub yes: Option<(bool, Option<bool>)>,
    /// Guard's score of the answer, if it was scored.
    pub score: Option<f64>,
    /// Guard's verdict, if there is one.
    pub verdict: Option<String>,
}

impl AnsweredQuestion {
    /// Returns `true` if the guard withheld the answer.
    pub fn is_abstention(&self) -> bool {
        self.verdict.as_deref() == Some("abstained")
    }
}

/// For yes-or-no questions: `true` if yes is right, and the yes or no that an answer begins with.
/// `None` for other questions.
pub fn yes_or_no(right_answers: &[String], answer: &str) -> Option<(bool, Option<bool>)> {
    let whole =
        |right: &String| parse_yes_no(right).filter(|_| right.split_whitespace().count() == 1);
    Some((right_answers.iter().find_map(whole)?, parse_yes_no(answer)))
}

/// Parses the yes or no that an answer begins with: `true` for yes, `None` for neither.
fn parse_yes_no(answer: &str) -> Option<bool> {
    let first = answer
        .trim_start()
        .split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default();
    match first {
        word if word.eq_ignore_ascii_case("yes") => Some(true),
        word if word.eq_ignore_ascii_case("no") => Some(false),
        _ => None,
    }
}

/// Sections of a report on answers: the summary, which comes first, and confusion, risk and wrong
/// answers, which follow the figures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerSections {
    /// Findings in a few sentences.
    pub summary: Section,
    /// Tables and photographs.
    pub details: Vec<Section>,
}

/// Builds the sections of a report on `rows`; `seed` draws the wrong answers that are shown.
/// Abstentions are counted, and are neither right nor wrong.
pub fn sections(rows: &[AnsweredQuestion], seed: u64) -> AnswerSections {
    let given: Vec<AnsweredQuestion> = rows
        .iter()
        .filter(|row| !row.is_abstention())
        .cloned()
        .collect();
    let (questions, rows) = (rows.len(), given.as_slice());
    let images = image_numbers(rows);
    let is_scored = rows.iter().any(|row| row.score.is_some());
    let mut details = Vec::new();
    details.extend(
        rows.iter()
            .any(|row| row.yes.is_some())
            .then(|| confusion(rows)),
    );
    details.extend(is_scored.then(|| risk(rows, &images, seed)));
    details.extend(wrong_answers(rows, seed));
    let mut text = summary(rows, &images, seed);
    if questions > rows.len() {
        text += &format!(
            " {} of {questions} questions got no answer.",
            questions - rows.len()
        );
    }
    AnswerSections {
        summary: Section {
            title: "Summary".into(),
            text: vec![text],
            ..Section::default()
        },
        details,
    }
}

/// Index of each row's image.
fn image_numbers(rows: &[AnsweredQuestion]) -> Vec<usize> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    rows.iter()
        .map(|row| {
            let next = numbers.len();
            *numbers.entry(row.image.as_str()).or_insert(next)
        })
        .collect()
}

/// Share of rows for which `holds` is `true` among those that `among` selects, with its interval
/// over images.
fn share(
    rows: &[AnsweredQuestion],
    images: &[usize],
    seed: u64,
    among: impl Fn(&AnsweredQuestion) -> bool + Sync,
    holds: impl Fn(&AnsweredQuestion) -> bool + Sync,
) -> Estimate {
    let count = images.iter().max().map_or(0, |last| last + 1);
    let figure = |weights: &[u32]| {
        let chosen = || {
            rows.iter()
                .zip(images)
                .filter(|(row, _)| among(row))
                .map(|(row, &image)| (row, f64::from(weights[image])))
        };
        let part: f64 = chosen()
            .filter(|(row, _)| holds(row))
            .map(|(_, weight)| weight)
            .sum();
        vec![part / chosen().map(|(_, weight)| weight).sum::<f64>()]
    };
    let found = estimates(count, REPEATS, seed, figure);
    found.first().copied().unwrap_or(Estimate {
        value: f64::NAN,
        interval: None,
    })
}

fn kinds(rows: &[AnsweredQuestion]) -> BTreeMap<&str, Vec<&AnsweredQuestion>> {
    let mut kinds: BTreeMap<&str, Vec<&AnsweredQuestion>> = BTreeMap::new();
    rows.iter()
        .for_each(|row| kinds.entry(row.kind.as_str()).or_default().push(row));
    kinds
}

fn summary(rows: &[AnsweredQuestion], images: &[usize], seed: u64) -> String {
    let right = share(rows, images, seed, |_| true, |row| row.is_right);
    let photographs = images.iter().max().map_or(0, |last| last + 1);
    let mut text = format!(
        "{} of {} answers about {photographs} photographs are right.",
        stated(&right, NumberFormat::Percent),
        rows.len()
    );
    let rate = |rows: &[&AnsweredQuestion]| {
        rows.iter().filter(|row| row.is_right).count() as f64 / rows.len().max(1) as f64
    };
    let mut rates: Vec<(f64, &str)> = kinds(rows)
        .into_iter()
        .map(|(kind, rows)| (rate(&rows), kind))
        .collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let [worst, .., best] = rates[..] {
        let percent = |value| {
            stated(
                &Estimate {
                    value,
                    interval: None,
                },
                NumberFormat::Percent,
            )
        };
        text += &format!(
            " Best: {} ({}); worst: {} ({}).",
            best.1,
            percent(best.0),
            worst.1,
            percent(worst.0)
        );
    }
    let yes = share(
        rows,
        images,
        seed,
        |row| row.yes.is_some(),
        |row| matches!(row.yes, Some((_, Some(true)))),
    );
    let expected = share(
        rows,
        images,
        seed,
        |row| row.yes.is_some(),
        |row| matches!(row.yes, Some((true, _))),
    );
    if yes.value.is_finite() {
        let expected = stated(
            &Estimate {
                interval: None,
                ..expected
            },
            NumberFormat::Percent,
        );
        text += &format!(
            " Of the yes-or-no questions, {} got a yes; {expected} should have.",
            stated(&yes, NumberFormat::Percent)
        );
    }
    text
}

fn confusion(rows: &[AnsweredQuestion]) -> Section {
    let judged: Vec<(bool, Option<bool>)> = rows.iter().filter_map(|row| row.yes).collect();
    let row = |(name, truth): (&str, bool)| {
        let count = |yes: Option<bool>| judged.iter().filter(|j| **j == (truth, yes)).count();
        let all = judged.iter().filter(|j| j.0 == truth).count();
        TableRow::new(
            name,
            vec![
                count(Some(true)).into(),
                count(Some(false)).into(),
                count(None).into(),
                all.into(),
            ],
        )
    };
    let count = |name: &str| Column::new(name, NumberFormat::Count);
    Section {
        title: "Yes and no".into(),
        tables: vec![ReportTable {
            title: "What was answered to questions of yes or no".into(),
            note: "Answers by the truth: a yes that should be a no claims an absent object.".into(),
            columns: vec![
                count("answered yes"),
                count("answered no"),
                count("neither"),
                count("questions"),
            ],
            rows: [("yes is right", true), ("no is right", false)]
                .map(row)
                .into(),
        }],
        ..Section::default()
    }
}

/// Builds the section on how well the guard's score separates wrong answers from right ones.
fn risk(rows: &[AnsweredQuestion], images: &[usize], seed: u64) -> Section {
    let is_flagged = |row: &&AnsweredQuestion| row.verdict.as_deref() == Some("flagged");
    let row = |name: &str, chosen: Vec<(&AnsweredQuestion, usize)>| {
        let scored = |(row, image): &(&AnsweredQuestion, usize)| {
            Some(ScoredToken {
                reward: row.score? as f32,
                good: row.is_right,
                image: *image as u32,
            })
        };
        let ranking = Ranking::new(chosen.iter().filter_map(scored).collect());
        let figures = |weights: &[u32]| {
            let sum = |holds: &dyn Fn(&AnsweredQuestion) -> bool| {
                chosen
                    .iter()
                    .filter(|(row, _)| holds(row))
                    .map(|(_, image)| f64::from(weights[*image]))
                    .sum::<f64>()
            };
            let flagged = |right: bool| {
                sum(&|row| row.is_right == right && is_flagged(&row))
                    / sum(&|row| row.is_right == right)
            };
            let unflagged =
                sum(&|row| row.is_right && !is_flagged(&row)) / sum(&|row| !is_flagged(&row));
            vec![
                ranking.weighted(0.0, weights).auroc,
                flagged(false),
                flagged(true),
                unflagged,
            ]
        };
        let count = images.iter().max().map_or(0, |last| last + 1);
        let mut cells: Vec<TableCell> = estimates(count, REPEATS, seed, figures)
            .into_iter()
            .map(TableCell::from)
            .collect();
        cells.push(chosen.len().into());
        TableRow {
            emphasis: name == "all",
            ..TableRow::new(name, cells)
        }
    };
    let mut by_kind: BTreeMap<&str, Vec<(&AnsweredQuestion, usize)>> = BTreeMap::new();
    rows.iter().zip(images).for_each(|(row, &image)| {
        by_kind
            .entry(row.kind.as_str())
            .or_default()
            .push((row, image))
    });
    let all: Vec<(&AnsweredQuestion, usize)> = by_kind.values().flatten().copied().collect();
    let several = by_kind.len() > 1;
    let curve = |name: &str, chosen: &[(&AnsweredQuestion, usize)]| {
        let outcome = |&(row, photograph): &(&AnsweredQuestion, usize)| {
            Some(ScoredOutcome {
                photograph,
                score: row.score?,
                is_right: row.is_right,
            })
        };
        risk_coverage(name, &chosen.iter().filter_map(outcome).collect::<Vec<_>>())
    };
    let of_kinds = by_kind
        .iter()
        .filter(|_| several)
        .map(|(kind, chosen)| curve(kind, chosen));
    let series: Vec<Series> = std::iter::once(curve("all", &all))
        .chain(of_kinds)
        .filter(|curve| !curve.points.is_empty())
        .collect();
    let mut table_rows = vec![row("all", all)];
    table_rows.extend(
        by_kind
            .into_iter()
            .filter(|_| several)
            .map(|(kind, chosen)| row(kind, chosen)),
    );
    let share = |name: &str, better| Column::new(name, NumberFormat::Percent).better(better);
    Section {
        title: "Risk".into(),
        tables: vec![ReportTable {
            title: "Whether the guard's score tells wrong answers from right ones".into(),
            note: "The answers are unchanged. AUROC is the probability that a wrong answer has a \
                   lower score than a right one; 0.5 is chance."
                .into(),
            columns: vec![
                Column::new("AUROC", NumberFormat::Decimal(3)).better(GoodDirection::Higher),
                share("wrong answers flagged", GoodDirection::Higher),
                share("right answers flagged", GoodDirection::Lower),
                share("right among unflagged", GoodDirection::Higher),
                Column::new("questions", NumberFormat::Count),
            ],
            rows: table_rows,
        }],
        plots: vec![risk_plot(series)],
        ..Section::default()
    }
}

/// Builds a section of wrong answers with photographs for every kind of question.
fn wrong_answers(rows: &[AnsweredQuestion], seed: u64) -> Vec<Section> {
    let section = |(kind, rows): (&str, Vec<&AnsweredQuestion>)| {
        let wrong: Vec<&AnsweredQuestion> =
            rows.iter().copied().filter(|row| !row.is_right).collect();
        // In the order of the questions, so that a seed shows the same ones however they were
        // drawn.
        let mut drawn = (0..wrong.len()).choose_multiple(&mut SmallRng::seed_from_u64(seed), SHOWN);
        drawn.sort_unstable();
        let text = match wrong.len() {
            0 => format!("None of {} answers is wrong.", rows.len()),
            n if n > SHOWN => format!(
                "{SHOWN} of {n} wrong answers ({} questions), drawn with seed {seed}.",
                rows.len()
            ),
            n => format!("All {n} wrong answers ({} questions).", rows.len()),
        };
        Section {
            title: format!("Wrong answers: {kind}"),
            text: vec![text],
            cards: drawn.into_iter().map(|i| card(wrong[i])).collect(),
            ..Section::default()
        }
    };
    kinds(rows).into_iter().map(section).collect()
}

fn card(row: &AnsweredQuestion) -> CaptionCard {
    let right = if row.right_answers.len() == 1 {
        "Right answer"
    } else {
        "Right answers"
    };
    let mut facts = vec![(right.to_owned(), row.right_answers.join(" · "))];
    facts.extend(
        row.score
            .map(|score| ("Score".to_owned(), format!("{score:.2}"))),
    );
    facts.extend(
        row.verdict
            .iter()
            .map(|verdict| ("Verdict".to_owned(), verdict.clone())),
    );
    let answer = if row.answer.trim().is_empty() {
        "(no answer)"
    } else {
        row.answer.as_str()
    };
    CaptionCard {
        id: row.image.clone(),
        title: row.question.clone(),
        photo: row.photo.as_deref().and_then(Photo::thumbnail),
        words: vec![CardWord {
            text: answer.to_owned(),
            ..CardWord::default()
        }],
        facts,
        ..CaptionCard::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::{EvaluationReport, Plot};

    fn question(kind: &str, image: usize, right: bool, score: Option<f64>) -> AnsweredQuestion {
        AnsweredQuestion {
            kind: kind.into(),
            image: format!("{image}.jpg"),
            question: format!("Is there a dog in {image}?"),
            right_answers: vec!["Yes.".into()],
            answer: if right { "Yes." } else { "No." }.into(),
            is_right: right,
            yes: (kind == "presence").then_some((true, Some(right))),
            score,
            verdict: score.map(|s| if s < 0.5 { "flagged" } else { "clean" }.to_owned()),
            ..AnsweredQuestion::default()
        }
    }

    fn report(rows: &[AnsweredQuestion], seed: u64) -> EvaluationReport {
        let AnswerSections { summary, details } = sections(rows, seed);
        EvaluationReport {
            sections: [vec![summary], details].concat(),
            ..EvaluationReport::default()
        }
    }

    #[test]
    fn wrong_answers_are_shown_by_kind_with_truth_and_score() {
        let mut rows: Vec<AnsweredQuestion> = (0..40)
            .map(|i| question("presence", i, i % 2 == 0, None))
            .collect();
        rows.extend((0..3).map(|i| question("count", i, false, None)));
        rows.push(question("color", 0, true, None));
        let json = report(&rows, 1).to_json();
        let wrong = |kind: &str| json["sections"][format!("Wrong answers: {kind}")].clone();
        assert_eq!(
            wrong("presence")["text"][0],
            "12 of 20 wrong answers (40 questions), drawn with seed 1."
        );
        assert_eq!(
            wrong("count")["text"][0],
            "All 3 wrong answers (3 questions)."
        );
        assert_eq!(wrong("color")["text"][0], "None of 1 answers is wrong.");
        let cards = wrong("presence")["captions"].as_array().unwrap().clone();
        assert_eq!(cards.len(), 12);
        assert_eq!(cards[0]["words"][0]["text"], "No.");
        assert_eq!(
            cards[0]["facts"][0],
            serde_json::json!(["Right answer", "Yes."])
        );
        assert!(
            cards
                .iter()
                .all(|card| card["title"].as_str().unwrap().starts_with("Is there"))
        );
        let same = report(&rows, 1).to_json();
        assert_eq!(json, same);
        assert_ne!(
            wrong("presence")["captions"],
            report(&rows, 2).to_json()["sections"]["Wrong answers: presence"]["captions"]
        );
        assert!(json["sections"]["Risk"].is_null(), "nothing was scored");
        let summary = json["sections"]["Summary"]["text"][0].as_str().unwrap();
        assert!(
            summary.contains("of 44 answers about 40 photographs")
                && summary.contains("worst: count (0.0\u{a0}%)"),
            "{summary}"
        );
    }

    #[test]
    fn confusion_and_risk_count_answers() {
        let rows: Vec<AnsweredQuestion> = (0..60)
            .map(|i| {
                let right = i % 3 > 0;
                // Every wrong answer scores below every right one, and half of the wrong ones are
                // below the threshold.
                question(
                    "presence",
                    i,
                    right,
                    Some(if right {
                        0.9
                    } else if i % 2 == 0 {
                        0.2
                    } else {
                        0.6
                    }),
                )
            })
            .collect();
        let json = report(&rows, 1).to_json();
        let confusion = &json["sections"]["Yes and no"]["tables"]["What was answered to questions \
            of yes or no"]["rows"]["yes is right"];
        assert_eq!(
            (
                confusion["answered yes"]["value"].as_f64(),
                confusion["answered no"]["value"].as_f64()
            ),
            (Some(40.0), Some(20.0))
        );
        let risk = &json["sections"]["Risk"]["tables"]["Whether the guard's score tells wrong \
            answers from right ones"]["rows"]["all"];
        for (column, wanted) in [
            ("AUROC", 1.0),
            ("wrong answers flagged", 0.5),
            ("right answers flagged", 0.0),
            ("right among unflagged", 0.8),
        ] {
            assert_eq!(risk[column]["value"].as_f64(), Some(wanted), "{column}");
        }
        assert!(risk["AUROC"]["low"].as_f64().is_some());
    }

    #[test]
    fn abstention_is_neither_right_nor_wrong() {
        let mut rows: Vec<AnsweredQuestion> = (0..8)
            .map(|i| {
                question(
                    "presence",
                    i,
                    i % 4 > 0,
                    Some(if i % 4 > 0 { 0.9 } else { 0.2 }),
                )
            })
            .collect();
        let abstained = |i| AnsweredQuestion {
            verdict: Some("abstained".into()),
            yes: Some((true, None)),
            ..question("presence", i, false, None)
        };
        rows.extend((8..12).map(abstained));
        let json = report(&rows, 1).to_json();
        let summary = json["sections"]["Summary"]["text"][0].as_str().unwrap();
        assert!(
            summary.contains("75.0\u{a0}%")
                && summary.contains("of 8 answers")
                && summary.ends_with("4 of 12 questions got no answer."),
            "{summary}"
        );
        let confusion = &json["sections"]["Yes and no"]["tables"]["What was answered to questions \
            of yes or no"]["rows"]["yes is right"];
        assert_eq!(
            (
                confusion["neither"]["value"].as_f64(),
                confusion["questions"]["value"].as_f64()
            ),
            (Some(0.0), Some(8.0))
        );
        assert_eq!(
            json["sections"]["Wrong answers: presence"]["text"][0],
            "All 2 wrong answers (8 questions)."
        );
    }

    #[test]
    fn risk_of_several_kinds_has_a_curve_for_each() {
        let mut rows: Vec<AnsweredQuestion> = (0..4)
            .map(|i| question("presence", i, i > 0, Some(0.2 + 0.2 * i as f64)))
            .collect();
        rows.extend((0..2).map(|i| question("color", i, false, Some(0.5))));
        let curves = |rows: &[AnsweredQuestion]| match sections(rows, 1)
            .details
            .into_iter()
            .find(|section| section.title == "Risk")
            .unwrap()
            .plots
            .remove(0)
        {
            Plot::Lines { series, .. } => series,
            other => panic!("{other:?}"),
        };
        let found = curves(&rows);
        let names: Vec<&str> = found.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["all", "color", "presence"]);
        // The two answers on color have equal scores; of those on presence the wrong one scores
        // lowest.
        assert_eq!(found[1].points, [(1.0, 1.0)]);
        assert_eq!(
            found[2].points,
            [(0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (1.0, 0.25)]
        );
        assert_eq!(curves(&rows[..4]).len(), 1, "one kind is all");
    }

    #[test]
    fn answer_is_yes_or_no_by_its_first_word() {
        for (answer, wanted) in [
            ("Yes.", Some(true)),
            ("no, there is none", Some(false)),
            (" YES", Some(true)),
            ("Nobody.", None),
            ("", None),
            ("Two.", None),
        ] {
            assert_eq!(parse_yes_no(answer), wanted, "{answer}");
        }
        let right = |answers: &[&str]| {
            answers
                .iter()
                .map(|&a| a.to_owned())
                .collect::<Vec<String>>()
        };
        assert_eq!(
            yes_or_no(&right(&["Yes."]), "No."),
            Some((true, Some(false)))
        );
        assert_eq!(yes_or_no(&right(&["no"]), "Perhaps."), Some((false, None)));
        assert_eq!(
            yes_or_no(&right(&["no one"]), "No."),
            None,
            "the question is who"
        );
    }

    #[test]
    fn report_without_questions_is_valid() {
        let report = report(&[], 1);
        assert!(
            report
                .html()
                .unwrap()
                .contains("of 0 answers about 0 photographs")
        );
    }
}
