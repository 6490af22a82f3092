//! `candor eval vqa`

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use clap::Args;
use rand::{SeedableRng, rngs::SmallRng};

use super::{
    Output, RunFacts,
    answering::{AnswerGuard, AnswerSession, AnswerWithCost, with_guard},
    command,
};
use crate::{
    cli::{Failure, common::ModelArgs},
    eval::{
        bootstrap::{REPEATS, estimates},
        data::{
            AnnotatedImage,
            flickr8k::{self, Dataset},
            questions::{AnnotatedQuestion, questions_file, read_questions},
        },
        report::{
            Column, EvaluationReport, GoodDirection, NumberFormat, ReportTable, Section, TableCell,
            TableRow,
            answers::{self, AnswerSections, AnsweredQuestion, yes_or_no},
        },
        vqa::{RULE, is_right},
    },
    lexicon::Lexicon,
    train::{
        qa::{Qa, QaBuilder, QaKind},
        stats::CaptionStats,
    },
};

/// Ask people's questions, or questions derived from captions: presence, color and number
///
/// A file or folder of questions (questions.jsonl) has rows {"image", "question", "answers":
/// ["...", ...]}, with "kind" or "type" if there are kinds. In a folder in Flickr8k's layout,
/// questions are derived from the captions of its development split.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor eval vqa --data ../shared/data/daquar --limit 500\n  candor \
                  eval vqa --data ../shared/data/vqa-rad/questions.jsonl --json vqa.json\n  candor \
                  eval vqa --data ../shared/data/flickr8k"
)]
pub(super) struct EvalVqaArgs {
    /// Questions of people, or a folder in Flickr8k's layout
    #[arg(long, value_name = "DIR|FILE")]
    data: PathBuf,

    /// Use only the first N questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Maximum number of derived questions per image
    #[arg(long, default_value_t = 4)]
    per_image: usize,

    /// Seed of questions and bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    guard: AnswerGuard,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    output: Output,
}

/// Name of a kind of question in tables.
fn kind_name(kind: QaKind) -> &'static str {
    match kind {
        QaKind::Presence => "presence",
        QaKind::Color => "which color",
        QaKind::IsColor => "is it that color",
        QaKind::Count => "count",
        QaKind::Activity => "activity",
        QaKind::Place => "place",
        QaKind::Clothing => "clothing",
        QaKind::List => "list",
    }
}

impl EvalVqaArgs {
    fn limit(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit as usize)
    }
}

pub(super) fn run(args: EvalVqaArgs) -> Result<(), Failure> {
    let model = AnswerSession::open(&args.model)?;
    match questions_file(&args.data) {
        Some(file) => measure_questions(&args, model, &file),
        None => measure_derived(&args, model),
    }
}

fn measure_questions(args: &EvalVqaArgs, model: AnswerSession, file: &Path) -> Result<(), Failure> {
    let mut questions = read_questions(file).map_err(Failure::misused)?;
    let all = questions.len();
    questions.truncate(args.limit());
    let (run_model, mode) = (model.model(), args.guard.mode(&model).to_owned());
    let image = |q: &AnnotatedQuestion| AnnotatedImage {
        id: q.image.clone(),
        photo: Some(q.photo.clone()),
        ..AnnotatedImage::default()
    };
    let images: Vec<AnnotatedImage> = questions.iter().map(image).collect();
    let prompts: Vec<(&AnnotatedImage, &str)> = images
        .iter()
        .zip(&questions)
        .map(|(image, q)| (image, q.question.as_str()))
        .collect();
    let answers = model.answer_all(&mode, &prompts)?;
    let rows: Vec<AnsweredQuestion> = questions
        .iter()
        .zip(&answers)
        .map(|(question, answer)| answered(question, answer))
        .collect();
    let AnswerSections { summary, details } = answers::sections(&rows, args.seed);
    let photographs = questions
        .iter()
        .map(|q| q.image.as_str())
        .collect::<BTreeSet<_>>()
        .len();
    let run = RunFacts {
        model: Some(run_model),
        data: Some(&args.data),
        photographs,
        seed: args.seed,
        ..RunFacts::default()
    };
    let answers = Section {
        title: "Answers".into(),
        tables: tables(&questions, &rows, args.seed),
        ..Section::default()
    };
    let report = EvaluationReport {
        title: "Answers to people's questions".into(),
        command: command(),
        facts: [
            run.facts(),
            vec![("questions".into(), format!("{} of {all}", rows.len()))],
        ]
        .concat(),
        notes: [vec![RULE.into()], abstentions(&rows)].concat(),
        sections: [vec![summary, answers], details].concat(),
    };
    args.output.show(&report)
}

/// Notes on abstentions, if there are any.
fn abstentions(rows: &[AnsweredQuestion]) -> Vec<String> {
    let abstained = rows.iter().filter(|row| row.is_abstention()).count();
    let note = || {
        format!(
            "Abstentions: {abstained} of {} questions got no answer. Coverage is the share of \
             questions with an answer; accuracy is measured on those.",
            rows.len()
        )
    };
    (abstained > 0).then(note).into_iter().collect()
}

/// A question with its answer for the report's page.
fn answered(question: &AnnotatedQuestion, answer: &AnswerWithCost) -> AnsweredQuestion {
    let kind = question.kind.as_ref().or(question.answer_type.as_ref());
    let row = AnsweredQuestion {
        kind: kind.map_or_else(|| "all".to_owned(), String::clone),
        image: question.image.clone(),
        photo: Some(question.photo.clone()),
        question: question.question.clone(),
        right_answers: question.answers.clone(),
        answer: answer.text.clone(),
        is_right: is_right(&answer.text, &question.answers),
        yes: yes_or_no(&question.answers, &answer.text),
        ..AnsweredQuestion::default()
    };
    with_guard(row, answer)
}

/// Returns the group of a question in its table.
type Group = fn(&AnnotatedQuestion) -> Option<&str>;

/// Exact match over all questions and by kind and, if there are abstentions, the share of questions
/// with an answer.
fn tables(
    questions: &[AnnotatedQuestion],
    answered: &[AnsweredQuestion],
    seed: u64,
) -> Vec<ReportTable> {
    let mut images: HashMap<&str, usize> = HashMap::new();
    for question in questions {
        let next = images.len();
        images.entry(&question.image).or_insert(next);
    }
    let abstains = answered.iter().any(AnsweredQuestion::is_abstention);
    let row = |name: &str, rows: &[&AnsweredQuestion]| {
        let figures = |weights: &[u32]| {
            let sum = |counts: &dyn Fn(&AnsweredQuestion) -> bool| {
                rows.iter()
                    .filter(|a| counts(a))
                    .map(|a| f64::from(weights[images[a.image.as_str()]]))
                    .sum::<f64>()
            };
            let given = sum(&|a| !a.is_abstention());
            let coverage = abstains.then(|| given / sum(&|_| true));
            std::iter::once(sum(&|a| a.is_right && !a.is_abstention()) / given)
                .chain(coverage)
                .collect()
        };
        let mut cells: Vec<TableCell> = estimates(images.len(), REPEATS, seed, figures)
            .into_iter()
            .map(TableCell::from)
            .collect();
        cells.push(rows.len().into());
        TableRow::new(name, cells)
    };
    let table = |title: &str, rows: Vec<TableRow>| ReportTable {
        title: title.into(),
        note: String::new(),
        columns: [Column::new("exact match", NumberFormat::Percent).better(GoodDirection::Higher)]
            .into_iter()
            .chain(coverage(abstains))
            .chain([Column::new("questions", NumberFormat::Count)])
            .collect(),
        rows,
    };
    let all = TableRow {
        emphasis: true,
        ..row("all", &answered.iter().collect::<Vec<_>>())
    };
    let mut tables = vec![table("All questions", vec![all])];
    let groups: [(&str, Group); 2] = [
        ("By kind", |q| q.kind.as_deref()),
        ("By type", |q| q.answer_type.as_deref()),
    ];
    for (title, group) in groups {
        let mut parts: BTreeMap<&str, Vec<&AnsweredQuestion>> = BTreeMap::new();
        for (question, answer) in questions.iter().zip(answered) {
            if let Some(name) = group(question) {
                parts.entry(name).or_default().push(answer);
            }
        }
        if !parts.is_empty() {
            tables.push(table(
                title,
                parts.iter().map(|(name, rows)| row(name, rows)).collect(),
            ));
        }
    }
    tables
}

/// Column with the number of questions that got an answer, if there are abstentions.
fn coverage(abstains: bool) -> Option<Column> {
    abstains.then(|| Column::new("coverage", NumberFormat::Percent))
}

/// Photographs and the questions that their captions settle.
pub(super) struct DerivedQuestions {
    pub(super) images: Vec<AnnotatedImage>,
    /// Each with the index of its photograph.
    pub(super) questions: Vec<(usize, Qa)>,
}

/// Derives at most `per_image` questions about each photograph of the development split of a folder
/// in Flickr8k's layout.
pub(super) fn derived_questions(
    folder: &Path,
    per_image: usize,
    seed: u64,
) -> Result<DerivedQuestions, Failure> {
    if !folder.join("captions.tsv").is_file() {
        let what = "expected questions.jsonl (people's questions), or captions.tsv with train.txt \
                    and dev.txt (Flickr8k's layout)";
        return Err(Failure::Misused(format!("{}: {what}", folder.display())));
    }
    let data = Dataset::open_for_evaluation(folder).map_err(Failure::misused)?;
    let stats = CaptionStats::new(&data.train, Lexicon::shared());
    let builder = QaBuilder::new(&stats, Lexicon::shared());
    let image = |image: &flickr8k::Image| AnnotatedImage {
        id: image.name.clone(),
        photo: Some(image.path.clone()),
        captions: image.captions.clone(),
        ..AnnotatedImage::default()
    };
    let image_pairs = |i: usize| {
        builder.pairs(
            &data.dev[i],
            &mut SmallRng::seed_from_u64(seed ^ (i as u64 + 1) << 20),
            per_image,
        )
    };
    let closed = |i: usize| {
        image_pairs(i)
            .into_iter()
            .filter(|qa| qa.kind.is_closed())
            .map(move |qa| (i, qa))
    };
    let questions = (0..data.dev.len()).flat_map(closed).collect();
    Ok(DerivedQuestions {
        images: data.dev.iter().map(image).collect(),
        questions,
    })
}

fn measure_derived(args: &EvalVqaArgs, model: AnswerSession) -> Result<(), Failure> {
    let DerivedQuestions {
        images,
        mut questions,
    } = derived_questions(&args.data, args.per_image, args.seed)?;
    questions.truncate(args.limit());
    let prompts: Vec<(&AnnotatedImage, &str)> = questions
        .iter()
        .map(|(i, qa)| (&images[*i], qa.question.as_str()))
        .collect();
    let (run_model, mode) = (model.model(), args.guard.mode(&model).to_owned());
    let answers = model.answer_all(&mode, &prompts)?;
    let rows: Vec<AnsweredQuestion> = questions
        .iter()
        .zip(&answers)
        .map(|((image, qa), answer)| {
            let question = AnsweredQuestion {
                kind: kind_name(qa.kind).to_owned(),
                image: images[*image].id.clone(),
                photo: images[*image].photo.clone(),
                question: qa.question.clone(),
                right_answers: vec![qa.answer.clone()],
                answer: answer.text.clone(),
                is_right: answer.text.eq_ignore_ascii_case(&qa.answer),
                yes: yes_or_no(std::slice::from_ref(&qa.answer), &answer.text),
                ..AnsweredQuestion::default()
            };
            with_guard(question, answer)
        })
        .collect();
    let AnswerSections { summary, details } = answers::sections(&rows, args.seed);
    let table = derived_table(&questions, &rows, images.len(), args.seed);
    let report = EvaluationReport {
        title: "Answers to derived questions".into(),
        command: command(),
        facts: RunFacts {
            model: Some(run_model),
            data: Some(&args.data),
            photographs: questions
                .iter()
                .map(|(image, _)| image)
                .collect::<BTreeSet<_>>()
                .len(),
            seed: args.seed,
            ..RunFacts::default()
        }
        .facts(),
        notes: abstentions(&rows),
        sections: [
            vec![
                summary,
                Section {
                    title: "Answers".into(),
                    tables: vec![table],
                    ..Section::default()
                },
            ],
            details,
        ]
        .concat(),
    };
    args.output.show(&report)
}

/// Table of derived questions by kind: share of right answers and, since most ask for yes or no,
/// share of yes.
fn derived_table(
    questions: &[(usize, Qa)],
    rows: &[AnsweredQuestion],
    images: usize,
    seed: u64,
) -> ReportTable {
    let mut kinds: BTreeMap<&str, Vec<(usize, &AnsweredQuestion)>> = BTreeMap::new();
    for ((image, _), row) in questions.iter().zip(rows) {
        kinds.entry(&row.kind).or_default().push((*image, row));
        kinds.entry("all").or_default().push((*image, row));
    }
    let abstains = rows.iter().any(AnsweredQuestion::is_abstention);
    let row = |(kind, judged): (&&str, &Vec<(usize, &AnsweredQuestion)>)| {
        let figures = |weights: &[u32]| {
            let sum = |counts: &dyn Fn(&AnsweredQuestion) -> bool| {
                judged
                    .iter()
                    .filter(|(_, row)| counts(row))
                    .map(|(image, _)| f64::from(weights[*image]))
                    .sum::<f64>()
            };
            let given = sum(&|row| !row.is_abstention());
            let yes = sum(&|row| row.answer.eq_ignore_ascii_case("yes."));
            let coverage = abstains.then(|| given / sum(&|_| true));
            [sum(&|row| row.is_right) / given, yes / given]
                .into_iter()
                .chain(coverage)
                .collect()
        };
        let mut cells: Vec<TableCell> = estimates(images, REPEATS, seed, figures)
            .into_iter()
            .map(TableCell::from)
            .collect();
        cells.push(judged.len().into());
        TableRow {
            emphasis: *kind == "all",
            ..TableRow::new(*kind, cells)
        }
    };
    ReportTable {
        title: "Questions derived from the captions".into(),
        note: "Right: the captions' own answer, word for word. Presence questions ask equally \
               often about present and absent objects."
            .into(),
        columns: [
            Column::new("right", NumberFormat::Percent).better(GoodDirection::Higher),
            Column::new("answered yes", NumberFormat::Percent),
        ]
        .into_iter()
        .chain(coverage(abstains))
        .chain([Column::new("questions", NumberFormat::Count)])
        .collect(),
        rows: kinds.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(image: &str, kind: &str) -> AnnotatedQuestion {
        AnnotatedQuestion {
            image: image.into(),
            photo: PathBuf::new(),
            question: String::new(),
            answers: Vec::new(),
            kind: Some(kind.into()),
            answer_type: None,
        }
    }

    fn given(image: &str, is_right: bool, verdict: &str) -> AnsweredQuestion {
        AnsweredQuestion {
            image: image.into(),
            is_right,
            verdict: Some(verdict.into()),
            ..AnsweredQuestion::default()
        }
    }

    fn values(table: &ReportTable, row: usize) -> Vec<f64> {
        let value = |cell: &TableCell| match cell {
            TableCell::Value(estimate) => estimate.value,
            other => panic!("{other:?}"),
        };
        table.rows[row].cells.iter().map(value).collect()
    }

    #[test]
    fn abstention_lowers_coverage_but_not_accuracy() {
        let questions = [
            question("1", "color"),
            question("2", "color"),
            question("2", "count"),
            question("3", "count"),
        ];
        let rows = [
            given("1", true, "clean"),
            given("2", false, "abstained"),
            given("2", false, "flagged"),
            given("3", true, "clean"),
        ];
        let found = tables(&questions, &rows, 1);
        let names: Vec<&str> = found[0]
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(names, ["exact match", "coverage", "questions"]);
        assert!(
            values(&found[0], 0)
                .iter()
                .zip([2.0 / 3.0, 0.75, 4.0])
                .all(|(a, b)| (a - b).abs() < 1e-9)
        );
        assert_eq!(
            (values(&found[1], 0), values(&found[1], 1)),
            (vec![1.0, 0.5, 2.0], vec![0.5, 1.0, 2.0])
        );
        assert!(abstentions(&rows)[0].starts_with("Abstentions: 1 of 4"));
        let rows = rows.map(|row| AnsweredQuestion {
            verdict: None,
            ..row
        });
        let found = tables(&questions, &rows, 1);
        assert_eq!(
            (values(&found[0], 0), found[0].columns.len()),
            (vec![0.5, 4.0], 2)
        );
        assert!(abstentions(&rows).is_empty());
    }
}
