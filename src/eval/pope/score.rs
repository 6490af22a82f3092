//! Scoring of answers to POPE's questions.

use std::{
    collections::HashMap,
    iter::Sum,
    ops::{Add, AddAssign},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::PopeQuestion;
use crate::eval::data::{AnyValue, DataError, RowPosition, RowProblems, read, rows};

/// Returns `true` if an answer means yes by the rule of POPE's code: no if a word up to the first
/// full stop is `No`, `no` or `not`, else yes.
///
/// The rule is crude (`NO`, `no!` and an empty answer are yes), but published figures depend on it.
pub fn parse(answer: &str) -> bool {
    let sentence = answer
        .split('.')
        .next()
        .unwrap_or_default()
        .replace(',', "");
    !sentence
        .split(' ')
        .any(|word| matches!(word, "No" | "no" | "not"))
}

/// Counts of answers; yes is the positive class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PopeCounts {
    /// Yes to a present object.
    pub true_positives: usize,
    /// Yes to an absent object: a hallucination.
    pub false_positives: usize,
    /// No to an absent object.
    pub true_negatives: usize,
    /// No to a present object.
    pub false_negatives: usize,
}

impl PopeCounts {
    /// Count of one answer.
    pub fn from_answer(present: bool, yes: bool) -> Self {
        let mut this = Self::default();
        *match (present, yes) {
            (true, true) => &mut this.true_positives,
            (false, true) => &mut this.false_positives,
            (false, false) => &mut this.true_negatives,
            (true, false) => &mut this.false_negatives,
        } = 1;
        this
    }

    /// Number of questions.
    pub fn total(&self) -> usize {
        self.true_positives + self.false_positives + self.true_negatives + self.false_negatives
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> Option<f64> {
        rate(self.true_positives + self.true_negatives, self.total())
    }

    /// Share of yes answers that are right.
    pub fn precision(&self) -> Option<f64> {
        rate(
            self.true_positives,
            self.true_positives + self.false_positives,
        )
    }

    /// Share of present objects that get a yes.
    pub fn recall(&self) -> Option<f64> {
        rate(
            self.true_positives,
            self.true_positives + self.false_negatives,
        )
    }

    /// Harmonic mean of precision and recall.
    pub fn f1(&self) -> Option<f64> {
        let found = 2 * self.true_positives;
        rate(found, found + self.false_positives + self.false_negatives)
    }

    /// Share of yes answers; one half is right for a balanced set.
    pub fn yes_rate(&self) -> Option<f64> {
        rate(self.true_positives + self.false_positives, self.total())
    }
}

fn rate(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl AddAssign for PopeCounts {
    fn add_assign(&mut self, other: Self) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.true_negatives += other.true_negatives;
        self.false_negatives += other.false_negatives;
    }
}

impl Add for PopeCounts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for PopeCounts {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::default(), Add::add)
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Row<'a> {
    #[serde(borrow, default)]
    question_id: AnyValue<'a>,
    #[serde(borrow, default)]
    question: AnyValue<'a>,
    #[serde(borrow, default)]
    answer: AnyValue<'a>,
    #[serde(borrow, default)]
    text: AnyValue<'a>,
}

/// Reads rows `{"question_id" or "question", "answer"}` (or `text` instead of `answer`, as LLaVA
/// writes it), and returns the answer to each of `questions` in order. A row without an id answers
/// the question with the same index, as in POPE's code; its `question`, if present, must begin like
/// that question.
///
/// # Errors
/// See [`DataError`]; also a question with no answer or with two.
pub fn read_answers(path: &Path, questions: &[PopeQuestion]) -> Result<Vec<String>, DataError> {
    let text = read(path)?;
    let mut problems = RowProblems::new(path);
    let rows: Vec<(RowPosition, Row)> = rows(&text, &mut problems);
    // With missing rows, all later ones would answer the wrong question.
    problems.into_result()?;
    let mut problems = RowProblems::new(path);
    let by_id: HashMap<u64, usize> = questions
        .iter()
        .enumerate()
        .map(|(i, question)| (question.id, i))
        .collect();
    let mut answers: Vec<Option<(RowPosition, String)>> = vec![None; questions.len()];
    for (i, (position, row)) in rows.into_iter().enumerate() {
        let Some((index, answer)) = problems.take(position, from_row(row, i, questions, &by_id))
        else {
            continue;
        };
        match &mut answers[index] {
            Some((first, _)) => problems.add(
                position,
                format!(
                    "question {} is already answered{}",
                    questions[index].id,
                    first.back_reference()
                ),
            ),
            free => *free = Some((position, answer)),
        }
    }
    for (question, _) in questions
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.is_none())
    {
        problems.add(
            RowPosition::File,
            format!("question {} has no answer", question.id),
        );
    }
    problems.into_result()?;
    Ok(answers
        .into_iter()
        .flatten()
        .map(|(_, answer)| answer)
        .collect())
}

/// Index of the question that a row answers, and the answer.
fn from_row(
    row: Row,
    number: usize,
    questions: &[PopeQuestion],
    by_id: &HashMap<u64, usize>,
) -> Result<(usize, String), String> {
    let index = if row.question_id.is_absent() {
        if number >= questions.len() {
            return Err(format!("there are only {} questions", questions.len()));
        }
        number
    } else {
        let id = super::number(row.question_id)?;
        *by_id.get(&id).ok_or_else(|| format!("no question {id}"))?
    };
    if !row.question.is_absent() {
        let (given, expected) = (row.question.text("question")?, &questions[index].text);
        if !given.to_lowercase().starts_with(&expected.to_lowercase()) {
            return Err(format!(
                "answers '{given}', but question {} is '{expected}'",
                questions[index].id
            ));
        }
    }
    let answer = if row.answer.is_absent() && !row.text.is_absent() {
        row.text.text("text")
    } else {
        row.answer.text("answer")
    };
    Ok((index, answer?.into_owned()))
}
