//! `candor eval pope`

use std::{collections::HashMap, path::PathBuf};

use clap::Args as ClapArgs;

use super::{
    Output,
    answering::{Answered, Answering},
    command,
    facts::{AnswerGuard, Run, with_guard},
};
use crate::{
    cli::{Failure, common::ModelArgs},
    eval::{
        bootstrap::{REPEATS, estimates},
        data::{Annotated, References},
        pope::{self, Question, Scores, Setting},
        report::{
            Better, Cell, Column, Format, Report, Section, Table, TableRow,
            answers::{self, AnswerSections, AnsweredQuestion},
        },
    },
};

/// Ask whether things are there: POPE (Li et al., EMNLP 2023)
///
/// Questions are built from annotated objects, or read; answers come from a bundle, or are read.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  candor eval pope --data ../shared/data/coco-mini\n  candor eval pope --data ../shared/data/coco-mini --questions pope.jsonl   # writes them when the file is not there\n  \
                  candor eval pope --data ../shared/data/coco-mini --questions pope.jsonl --answers answers.jsonl"
)]
pub(super) struct Args {
    /// Images with annotated objects
    #[arg(long, value_name = "DIR|FILE")]
    data: PathBuf,

    /// POPE's own form, one question a line; built and written when the file is not there
    #[arg(long, value_name = "FILE.jsonl")]
    questions: Option<PathBuf>,

    /// Another model's answers to these questions, one a line, instead of the bundle's
    #[arg(long, value_name = "FILE.jsonl", requires = "questions")]
    answers: Option<PathBuf>,

    /// Present objects asked for an image and setting; as many absent ones
    #[arg(long, default_value_t = pope::PER_IMAGE)]
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

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let misused = |e: crate::eval::data::DataError| Failure::Misused(e.to_string());
    let references = References::open(&args.data, None).map_err(misused)?;
    let model = if args.answers.is_none() { Some(Answering::open(&args.model)?) } else { None };
    let questions = questions(&args, &references)?;
    let run_model = model.as_ref().map(Answering::model);
    let answers = match (&args.answers, model) {
        (Some(_), _) if args.guard.guard.is_some() => {
            return Err(Failure::Misused("--guard is of the answers that a model writes; --answers brings them along".into()));
        }
        (Some(file), _) => pope::read_answers(file, &questions).map_err(misused)?.into_iter().map(Answered::of_text).collect(),
        (None, Some(model)) => {
            let mode = args.guard.mode(&model).to_owned();
            model.all(&mode, &about(&args, &references, &questions)?)?
        }
        (None, None) => Vec::new(),
    };
    let mut images: HashMap<&str, usize> = HashMap::new();
    for question in &questions {
        let next = images.len();
        images.entry(&question.image).or_insert(next);
    }
    let judged: Vec<(usize, Option<Setting>, Scores)> = questions
        .iter()
        .zip(&answers)
        .map(|(question, answer)| {
            (images[question.image.as_str()], question.setting, Scores::of(question.present, pope::parse(&answer.text)))
        })
        .collect();
    let asked: Vec<AnsweredQuestion> =
        questions.iter().zip(&answers).map(|(question, answer)| answered(question, answer, &references)).collect();
    let AnswerSections { summary, details } = answers::sections(&asked, args.seed);
    let rows = Setting::ALL.into_iter().map(Some).chain([None]).filter_map(|setting| {
        let of: Vec<&(usize, Option<Setting>, Scores)> = judged.iter().filter(|j| setting.is_none() || j.1 == setting).collect();
        (!of.is_empty()).then(|| row(setting, &of, images.len(), args.seed))
    });
    let share = |name: &str, better: Option<Better>| Column { better, ..Column::new(name, Format::Percent) };
    let higher = Some(Better::Higher);
    let table = Table {
        title: "POPE".into(),
        note: "Yes is the positive class; the first sentence counts, and one with no or not in it is a no.".into(),
        columns: vec![
            share("accuracy", higher),
            share("precision", higher),
            share("recall", higher),
            share("F1", higher),
            share("yes", None),
            Column::new("questions", Format::Count),
        ],
        rows: rows.collect(),
    };
    let who = args.answers.as_ref().map_or_else(|| "the bundle".to_owned(), |file| file.display().to_string());
    let report = Report {
        title: "POPE: is it there?".into(),
        command: command(),
        facts: [
            Run { model: run_model, data: Some(&args.data), photographs: images.len(), seed: args.seed, ..Run::default() }.facts(),
            vec![("answers".into(), who)],
        ]
        .concat(),
        notes: Vec::new(),
        sections: [vec![summary, Section { title: "Answers".into(), tables: vec![table], ..Section::default() }], details].concat(),
    };
    args.output.show(&report)
}

/// A question with its answer, as pages show it.
fn answered(question: &Question, answer: &Answered, references: &References) -> AnsweredQuestion {
    let yes = pope::parse(&answer.text);
    let row = AnsweredQuestion {
        kind: question.setting.map_or("all", Setting::name).to_owned(),
        image: question.image.clone(),
        photo: references.get(&question.image).and_then(|image| image.photo.clone()),
        question: question.text.clone(),
        right_answers: vec![if question.present { "yes" } else { "no" }.to_owned()],
        answer: answer.text.clone(),
        is_right: yes == question.present,
        yes: Some((question.present, Some(yes))),
        ..AnsweredQuestion::default()
    };
    with_guard(row, answer)
}

fn questions(args: &Args, references: &References) -> Result<Vec<Question>, Failure> {
    if let Some(file) = args.questions.as_ref().filter(|file| file.exists()) {
        return pope::read_questions(file).map_err(|e| Failure::Misused(e.to_string()));
    }
    let images: Vec<_> = references.images().iter().filter_map(|image| Some((image.name(), image.objects.as_ref()?))).collect();
    if images.is_empty() {
        return Err(Failure::Misused(format!("{}: no image has annotated objects", args.data.display())));
    }
    let mut questions: Vec<Question> =
        Setting::ALL.into_iter().flat_map(|setting| pope::build(&images, setting, args.per_image, args.seed)).collect();
    // Each setting counts from 1; in one file numbers must be unique.
    questions.iter_mut().zip(1..).for_each(|(question, id)| question.id = id);
    if let Some(file) = &args.questions {
        let failed = |e: std::io::Error| Failure::Failed(format!("{}: {e}", file.display()));
        let out = std::fs::File::create(file).map_err(failed)?;
        pope::write_questions(&questions, std::io::BufWriter::new(out)).map_err(failed)?;
    }
    Ok(questions)
}

/// The image and the text of every question.
fn about<'a>(args: &Args, references: &'a References, questions: &'a [Question]) -> Result<Vec<(&'a Annotated, &'a str)>, Failure> {
    let image = |question: &Question| {
        references
            .get(&question.image)
            .ok_or_else(|| Failure::Misused(format!("{}: there is no image '{}'", args.data.display(), question.image)))
    };
    questions.iter().map(|question| Ok((image(question)?, question.text.as_str()))).collect()
}

fn row(setting: Option<Setting>, judged: &[&(usize, Option<Setting>, Scores)], images: usize, seed: u64) -> TableRow {
    let figures = |weights: &[u32]| {
        let mut sums = [0.0f64; 4];
        for (image, _, s) in judged {
            let counts = [s.true_positives, s.false_positives, s.true_negatives, s.false_negatives];
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n as f64 * f64::from(weights[*image]));
        }
        let [tp, fp, tn, fn_] = sums;
        let total = tp + fp + tn + fn_;
        vec![(tp + tn) / total, tp / (tp + fp), tp / (tp + fn_), 2.0 * tp / (2.0 * tp + fp + fn_), (tp + fp) / total]
    };
    let mut cells: Vec<Cell> = estimates(images, REPEATS, seed, figures).into_iter().map(Cell::from).collect();
    cells.push(judged.len().into());
    TableRow::new(setting.map_or("all", Setting::name), cells)
}
