//! POPE (Li et al., EMNLP 2023, arXiv 2305.10355): does a model say yes when asked about absent
//! objects?
//!
//! [`build`] generates questions from annotated objects, [`read_answers`] and [`parse`] read any
//! model's answers, [`PopeCounts`] adds them up. File formats are those of the authors' code, so
//! that sets and answers can be exchanged with it.

mod build;
mod score;

use std::{collections::HashMap, fmt, io, path::Path, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

pub use self::{
    build::build,
    score::{PopeCounts, parse, read_answers},
};
use super::data::{AnyValue, DataError, RowProblems, read, rows};

/// Pairs of questions per image in the paper: six questions.
pub const PER_IMAGE: usize = 3;

/// Method of choosing absent objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// Any object of the data set, with equal probability.
    Random,
    /// Most frequent objects.
    Popular,
    /// Objects that most often occur with the present object asked about just before.
    Adversarial,
}

impl Setting {
    /// All settings, from the easiest to the hardest.
    pub const ALL: [Self; 3] = [Self::Random, Self::Popular, Self::Adversarial];

    /// Name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Popular => "popular",
            Self::Adversarial => "adversarial",
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let expected =
            || format!("'{name}' is not a POPE setting, expected random, popular or adversarial");
        Self::ALL
            .into_iter()
            .find(|setting| setting.name() == name)
            .ok_or_else(expected)
    }
}

/// A yes-or-no question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PopeQuestion {
    /// Unique id in its set.
    #[serde(rename = "question_id")]
    pub id: u64,
    /// File name of the image, or another name for it.
    pub image: String,
    /// The question.
    pub text: String,
    /// `true` if the object is present (label `yes`).
    #[serde(rename = "label", serialize_with = "yes_or_no")]
    pub present: bool,
    /// Object asked about; missing in files by others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Setting; missing in files by others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<Setting>,
}

fn yes_or_no<S: Serializer>(present: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *present { "yes" } else { "no" })
}

/// Question about an object, with the article that its first letter needs.
pub fn question(object: &str) -> String {
    let article = if object.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("Is there {article} {object} in the image?")
}

/// Writes questions as JSONL in POPE's format, with object and setting in additional fields, which
/// POPE's code ignores.
///
/// # Errors
/// If `out` fails.
pub fn write_questions(questions: &[PopeQuestion], mut out: impl io::Write) -> io::Result<()> {
    for question in questions {
        serde_json::to_writer(&mut out, question)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Row<'a> {
    #[serde(borrow, default)]
    question_id: AnyValue<'a>,
    #[serde(borrow, default)]
    image: AnyValue<'a>,
    #[serde(borrow, default)]
    text: AnyValue<'a>,
    #[serde(borrow, default)]
    question: AnyValue<'a>,
    #[serde(borrow, default)]
    label: AnyValue<'a>,
    #[serde(borrow, default)]
    object: AnyValue<'a>,
    #[serde(borrow, default)]
    setting: AnyValue<'a>,
}

/// Reads questions that POPE's code or [`write_questions`] wrote, or rows with `question` instead
/// of `text`. Without `question_id` a question's id is its number in the file.
///
/// # Errors
/// See [`DataError`].
pub fn read_questions(path: &Path) -> Result<Vec<PopeQuestion>, DataError> {
    let text = read(path)?;
    let mut problems = RowProblems::new(path);
    let mut seen = HashMap::new();
    let mut questions = Vec::new();
    for (position, row) in rows(&text, &mut problems) {
        let Some(question) = problems.take(position, from_row(row, questions.len())) else {
            continue;
        };
        if let Some(first) = seen.insert(question.id, position) {
            problems.add(
                position,
                format!(
                    "question {} is repeated{}",
                    question.id,
                    first.back_reference()
                ),
            );
        }
        questions.push(question);
    }
    problems.into_result()?;
    if questions.is_empty() {
        return Err(DataError::Unusable {
            path: path.to_owned(),
            what: "it contains no question".into(),
        });
    }
    Ok(questions)
}

/// Parses the id of a row.
fn number(id: AnyValue) -> Result<u64, String> {
    match id {
        AnyValue::Text(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("'question_id' is '{text}', expected an integer")),
        other => other.integer("question_id"),
    }
}

fn from_row(row: Row, before: usize) -> Result<PopeQuestion, String> {
    let optional = |any: AnyValue, field: &str| {
        if any.is_absent() {
            Ok(None)
        } else {
            any.text(field).map(|text| Some(text.into_owned()))
        }
    };
    Ok(PopeQuestion {
        id: if row.question_id.is_absent() {
            before as u64 + 1
        } else {
            number(row.question_id)?
        },
        image: row.image.name("image")?.into_owned(),
        text: if row.text.is_absent() && !row.question.is_absent() {
            row.question.full_text("question")
        } else {
            row.text.full_text("text")
        }?
        .into_owned(),
        present: match row.label.text("label")?.trim().to_lowercase().as_str() {
            "yes" => true,
            "no" => false,
            other => return Err(format!("'label' is '{other}', expected yes or no")),
        },
        object: optional(row.object, "object")?,
        setting: optional(row.setting, "setting")?
            .map(|name| name.parse())
            .transpose()?,
    })
}

#[cfg(test)]
mod tests;
