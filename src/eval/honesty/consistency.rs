//! Consistency of answers: the same question negated, paraphrased, and after a repair.

use super::{
    PhotographNumbers, Resampling,
    bars::{Finding, Measure, MeasuredValue},
    share,
};
use crate::eval::{
    pope,
    report::{Column, NumberFormat, ReportTable, TableCell, TableRow, answers::yes_or_no},
};

/// Questions about the presence of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectQuestions {
    /// POPE's question.
    pub plain: String,
    /// Negated question: yes is right if no is right for the plain one.
    pub negated: String,
    /// Paraphrases of the plain question.
    pub paraphrases: [String; 2],
}

impl ObjectQuestions {
    /// The questions besides the plain one, in the order of [`ObjectAnswers::parse`].
    pub fn forms(&self) -> [&str; 3] {
        let [first, second] = &self.paraphrases;
        [&self.negated, first, second]
    }
}

/// Builds the questions about an object.
pub fn questions(object: &str) -> ObjectQuestions {
    let plain = pope::question(object);
    // "a cat", "an orange": as in the plain question.
    let with_article = plain
        .trim_start_matches("Is there ")
        .trim_end_matches(" in the image?")
        .to_owned();
    ObjectQuestions {
        negated: format!("Is there no {object} in the image?"),
        paraphrases: [
            format!("Can you see {with_article} in this photograph?"),
            format!("Does the image show {with_article}?"),
        ],
        plain,
    }
}

/// Parses the answer to a yes-or-no question: `true` for yes, `false` for no, `None` for neither.
pub fn parse_yes_no(answer: &str) -> Option<bool> {
    yes_or_no(&["yes".to_owned()], answer).and_then(|(_, yes)| yes)
}

/// Answers to the questions about one object of a photograph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectAnswers {
    /// Key of the photograph.
    pub photograph: usize,
    /// `true` if the object is present.
    pub is_present: bool,
    /// Answer to the plain question.
    pub plain: Option<bool>,
    /// Answer to the negated question.
    pub negated: Option<bool>,
    /// Answers to the paraphrases.
    pub paraphrases: [Option<bool>; 2],
}

impl ObjectAnswers {
    /// Parses the answers to the plain question and to its [`ObjectQuestions::forms`].
    pub fn parse(
        photograph: usize,
        is_present: bool,
        plain: &str,
        [negated, first, second]: [&str; 3],
    ) -> Self {
        Self {
            photograph,
            is_present,
            plain: parse_yes_no(plain),
            negated: parse_yes_no(negated),
            paraphrases: [parse_yes_no(first), parse_yes_no(second)],
        }
    }
}

/// Measures the consistency of answers. An answer that is neither yes nor no is inconsistent with
/// all others.
pub fn findings(answers: &[ObjectAnswers], resampling: Resampling) -> Vec<Finding> {
    let photographs = PhotographNumbers::new(answers.iter().map(|answer| answer.photograph)).len();
    let opposite = |answer: &ObjectAnswers| {
        (
            answer.photograph,
            answer
                .plain
                .zip(answer.negated)
                .is_some_and(|(plain, negated)| plain != negated),
        )
    };
    let right = |answer: &ObjectAnswers| {
        (
            answer.photograph,
            answer.negated == Some(!answer.is_present),
        )
    };
    let same = |answer: &ObjectAnswers| {
        let (photograph, plain) = (answer.photograph, answer.plain);
        answer
            .paraphrases
            .map(|other| (photograph, plain.is_some() && plain == other))
    };
    let finding = |measure, rows: Vec<(usize, bool)>, items: &str| {
        Finding::new(
            measure,
            share(&rows, resampling),
            photographs,
            rows.len(),
            items,
        )
    };
    vec![
        finding(
            Measure::NegatedOpposite,
            answers.iter().map(opposite).collect(),
            "pairs of questions",
        ),
        finding(
            Measure::NegatedRight,
            answers.iter().map(right).collect(),
            "questions",
        ),
        finding(
            Measure::ParaphrasedSame,
            answers.iter().flat_map(same).collect(),
            "pairs of questions",
        ),
    ]
}

/// Table of [`findings`].
pub fn table(findings: &[Finding]) -> ReportTable {
    let row = |finding: &Finding| {
        let figure = if let MeasuredValue::Figure(figure) = &finding.found {
            Some(*figure)
        } else {
            None
        };
        TableRow::new(
            finding.measure.bar().name,
            vec![TableCell::from(figure), finding.counted.as_str().into()],
        )
    };
    ReportTable {
        title: "Consistency".into(),
        note: "Each question once, negated and in two other forms. An answer that is neither yes \
               nor no is inconsistent with all others."
            .into(),
        columns: vec![
            Column::new("share", NumberFormat::Percent),
            Column::new("of", NumberFormat::Text),
        ],
        rows: findings.iter().map(row).collect(),
    }
}

/// An answer before and after the guard repaired it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedAnswer {
    /// Key of the photograph.
    pub photograph: usize,
    /// Yes or no before the repair, if the question asks for it.
    pub before: Option<bool>,
    /// Yes or no after the repair, if the question asks for it.
    pub after: Option<bool>,
    /// `true` if the answer was right before.
    pub was_right: bool,
    /// `true` if the answer is right after.
    pub is_right: bool,
}

impl RepairedAnswer {
    /// Returns `true` if a yes became a no, or a no a yes.
    pub fn is_flipped(&self) -> bool {
        self.before
            .zip(self.after)
            .is_some_and(|(before, after)| before != after)
    }
}

/// Share of yes-or-no answers that a repair flips, and share of right answers that it makes wrong.
pub fn repair_findings(
    [flips, broken]: [Measure; 2],
    answers: &[RepairedAnswer],
    resampling: Resampling,
) -> [Finding; 2] {
    let finding = |measure, rows: Vec<(usize, bool)>, items: &str| {
        let photographs = PhotographNumbers::new(rows.iter().map(|row| row.0)).len();
        Finding::new(
            measure,
            share(&rows, resampling),
            photographs,
            rows.len(),
            items,
        )
    };
    let binary = answers.iter().filter(|answer| answer.before.is_some());
    let right = answers.iter().filter(|answer| answer.was_right);
    [
        finding(
            flips,
            binary
                .map(|answer| (answer.photograph, answer.is_flipped()))
                .collect(),
            "answers of yes or no",
        ),
        finding(
            broken,
            right
                .map(|answer| (answer.photograph, !answer.is_right))
                .collect(),
            "right answers",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::honesty::bars::MeasuredValue;

    const RESAMPLING: Resampling = Resampling {
        repeats: 50,
        seed: 1,
    };

    fn value(finding: &Finding) -> f64 {
        let MeasuredValue::Figure(figure) = &finding.found else {
            panic!("{finding:?}")
        };
        figure.value
    }

    #[test]
    fn questions_have_the_right_article() {
        let cat = questions("cat");
        assert_eq!(
            (cat.plain.as_str(), cat.negated.as_str()),
            (
                "Is there a cat in the image?",
                "Is there no cat in the image?"
            )
        );
        assert_eq!(
            cat.paraphrases,
            [
                "Can you see a cat in this photograph?",
                "Does the image show a cat?"
            ]
        );
        assert_eq!(
            questions("orange").paraphrases[1],
            "Does the image show an orange?"
        );
    }

    #[test]
    fn answers_are_parsed_in_the_order_of_their_questions() {
        let cat = questions("cat");
        assert_eq!(
            cat.forms(),
            [
                cat.negated.as_str(),
                cat.paraphrases[0].as_str(),
                cat.paraphrases[1].as_str()
            ]
        );
        let answers = ObjectAnswers::parse(
            3,
            true,
            "Yes.",
            [
                "No.",
                "Yes, there is.",
                "I cannot tell from this photograph.",
            ],
        );
        assert_eq!(
            (answers.plain, answers.negated, answers.paraphrases),
            (Some(true), Some(false), [Some(true), None])
        );
        let table = table(&findings(&[answers], RESAMPLING));
        assert_eq!((table.rows.len(), table.columns.len()), (3, 2));
    }

    #[test]
    fn findings_count_agreement_in_pairs() {
        let (yes, no) = (Some(true), Some(false));
        let answers = [
            ObjectAnswers {
                photograph: 0,
                is_present: true,
                plain: yes,
                negated: no,
                paraphrases: [yes, yes],
            },
            ObjectAnswers {
                photograph: 1,
                is_present: false,
                plain: yes,
                negated: yes,
                paraphrases: [no, yes],
            },
            ObjectAnswers {
                photograph: 1,
                is_present: true,
                plain: None,
                negated: yes,
                paraphrases: [None, yes],
            },
            ObjectAnswers {
                photograph: 2,
                is_present: false,
                plain: no,
                negated: None,
                paraphrases: [no, None],
            },
        ];
        let [opposite, right, same] = &findings(&answers, RESAMPLING)[..] else {
            panic!()
        };
        assert_eq!(
            (value(opposite), value(right), value(same)),
            (0.25, 0.5, 0.5)
        );
        assert_eq!(
            (opposite.photographs, same.counted.as_str()),
            (3, "8 pairs of questions")
        );
    }

    #[test]
    fn repair_findings_count_flips_of_yes_or_no_answers() {
        let answer = |before: &str, after: &str, was_right: bool, is_right: bool| RepairedAnswer {
            photograph: 0,
            before: parse_yes_no(before),
            after: parse_yes_no(after),
            was_right,
            is_right,
        };
        let answers = [
            answer("No.", "Yes.", true, false),
            answer("No.", "No.", true, true),
            answer("Yes.", "A dog.", false, false),
            answer("No, there is none.", "No.", true, true),
            answer("Red.", "Blue.", true, false),
            answer("Two.", "Yes.", false, false),
        ];
        assert_eq!(
            answers.iter().filter(|answer| answer.is_flipped()).count(),
            1
        );
        let [flips, broken] = repair_findings(
            [Measure::FlipsFlickr, Measure::RightChangedFlickr],
            &answers,
            RESAMPLING,
        );
        assert_eq!(
            (value(&flips), flips.counted.as_str(), flips.is_reached()),
            (0.25, "4 answers of yes or no", Some(false))
        );
        assert_eq!(
            (value(&broken), broken.counted.as_str()),
            (0.5, "4 right answers")
        );
    }
}
