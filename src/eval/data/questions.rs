//! Questions about photographs with people's answers.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    image_name,
    references::Photos,
    rows::{AnyValue, DataError, RowProblems, read, rows},
};

/// Names of the file of questions in a folder.
const FILES: [&str; 2] = ["questions.jsonl", "questions.json"];

/// A question with people's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatedQuestion {
    /// Photograph as the file names it.
    pub image: String,
    /// Path of the photograph.
    pub photo: PathBuf,
    /// The question.
    pub question: String,
    /// Answers, any of which is right.
    pub answers: Vec<String>,
    /// Kind of question, if the row has one (`kind`, or else `type`).
    pub kind: Option<String>,
    /// Type of answer (open, closed), if the row has a `type` besides its `kind`.
    pub answer_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Row<'a> {
    #[serde(borrow, default)]
    image_id: AnyValue<'a>,
    #[serde(borrow, default)]
    image: AnyValue<'a>,
    #[serde(borrow, default)]
    question: AnyValue<'a>,
    #[serde(borrow, default)]
    answers: AnyValue<'a>,
    #[serde(borrow, default)]
    answer: AnyValue<'a>,
    #[serde(borrow, default)]
    kind: AnyValue<'a>,
    #[serde(borrow, default, rename = "type")]
    answer_type: AnyValue<'a>,
}

/// File of questions at a path: the path itself, or a file in the folder.
pub fn questions_file(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        FILES
            .iter()
            .map(|name| path.join(name))
            .find(|file| file.is_file())
    } else {
        Some(path.to_owned())
    }
}

/// Reads rows `{"image", "question", "answers": [...]}` of JSONL or of a JSON array; `answer` is a
/// single answer, `kind` and `type` classify the question. Photographs are beside the file or in
/// its folder `images`.
///
/// # Errors
/// See [`DataError`]; also if a photograph does not exist.
pub fn read_questions(file: &Path) -> Result<Vec<AnnotatedQuestion>, DataError> {
    let text = read(file)?;
    let photos = Photos::new(file.parent().unwrap_or(Path::new("")), None);
    let mut problems = RowProblems::new(file);
    let mut questions = Vec::new();
    for (position, row) in rows(&text, &mut problems) {
        questions.extend(problems.take(position, question(row, &photos)));
    }
    problems.into_result()?;
    if questions.is_empty() {
        return Err(DataError::Unusable {
            path: file.to_owned(),
            what: "it contains no question".into(),
        });
    }
    Ok(questions)
}

fn question(row: Row, photos: &Photos) -> Result<AnnotatedQuestion, String> {
    let image = match row.image {
        image if image.is_absent() => image_name(row.image_id, image)?,
        image => image.name("image")?,
    }
    .into_owned();
    let photo = photos
        .find(&image)
        .ok_or_else(|| format!("no photograph '{image}' beside the file or in images/"))?;
    let question = row.question.full_text("question")?.into_owned();
    let answers = match (row.answers, row.answer) {
        (answers, answer) if answers.is_absent() => vec![answer],
        (AnyValue::List(answers), _) => answers,
        (one, _) => vec![one],
    };
    if answers.is_empty() {
        return Err("'answers' is an empty list, expected one answer or more".into());
    }
    let answers = answers
        .into_iter()
        .enumerate()
        .map(|(i, answer)| Ok(answer.name(&format!("answers[{i}]"))?.into_owned()));
    let answers = answers.collect::<Result<_, String>>()?;
    let optional = |any: AnyValue, field: &str| {
        if any.is_absent() {
            Ok(None)
        } else {
            any.name(field).map(|text| Some(text.into_owned()))
        }
    };
    let (kind, answer_type) = match (
        optional(row.kind, "kind")?,
        optional(row.answer_type, "type")?,
    ) {
        (None, only) => (only, None),
        both => both,
    };
    Ok(AnnotatedQuestion {
        image,
        photo,
        question,
        answers,
        kind,
        answer_type,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        fs::write(dir.path().join("images/a.jpg"), b"jpeg").unwrap();
        fs::write(dir.path().join("b.png"), b"png").unwrap();
        let file = dir.path().join("questions.jsonl");
        fs::write(&file, text).unwrap();
        (dir, file)
    }

    #[test]
    fn questions_in_several_formats_are_read() {
        let (dir, file) = folder(
            "{\"image\": \"a.jpg\", \"question\": \"What?\", \"answers\": [\"book\", \
             3.0]}\n{\"image\": \"b.png\", \"question\": \"Is it?\", \"answer\": \"Yes\", \
             \"type\": \"CLOSED\", \"kind\": \"PRES\", \"organ\": \"HEAD\"}\n{\"image\": \
             \"b.png\", \"question\": \"How?\", \"answers\": \"so\", \"type\": \"OPEN\"}",
        );
        assert_eq!(questions_file(dir.path()), Some(file.clone()));
        let questions = read_questions(&file).unwrap();
        assert_eq!(
            (questions[0].answers.as_slice(), &questions[0].kind),
            (&["book".to_owned(), "3".to_owned()][..], &None)
        );
        assert_eq!(questions[0].photo, dir.path().join("images/a.jpg"));
        assert_eq!(
            (
                questions[1].kind.as_deref(),
                questions[1].answer_type.as_deref()
            ),
            (Some("PRES"), Some("CLOSED"))
        );
        assert_eq!(
            (questions[2].kind.as_deref(), &questions[2].answer_type),
            (Some("OPEN"), &None)
        );
    }

    #[test]
    fn invalid_question_row_is_named() {
        let good = "{\"image\": \"a.jpg\", \"question\": \"What?\", \"answers\": [\"book\"]}";
        for (from, to, want) in [
            ("a.jpg", "c.jpg", "questions.jsonl:2: no photograph 'c.jpg'"),
            (
                "\"What?\"",
                "\"\"",
                "questions.jsonl:2: 'question' is empty",
            ),
            (
                "[\"book\"]",
                "[]",
                "questions.jsonl:2: 'answers' is an empty list",
            ),
            (
                "[\"book\"]",
                "[\"\"]",
                "questions.jsonl:2: 'answers[0]' is empty",
            ),
            (
                "\"answers\"",
                "\"replies\"",
                "questions.jsonl:2: 'answers[0]' is missing",
            ),
        ] {
            let (_dir, file) = folder(&format!("{good}\n{}", good.replacen(from, to, 1)));
            let error = read_questions(&file).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
