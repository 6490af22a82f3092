//! `candor eval pope`

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Output, RunFacts,
    answering::{AnswerGuard, AnswerSession, AnswerWithCost, with_guard},
    command, refuse_shared_stdin,
};
use crate::{
    cli::{
        Failure,
        common::ModelArgs,
        output::{is_stdio, write_file},
    },
    eval::{
        bootstrap::{REPEATS, estimates},
        data::{AnnotatedImage, ReferenceSet},
        honesty::{
            Resampling,
            consistency::{self, ObjectAnswers, ObjectQuestions},
        },
        pope::{self, PopeCounts, PopeQuestion, Setting},
        report::{
            Column, EvaluationReport, GoodDirection, NumberFormat, ReportTable, Section, TableCell,
            TableRow,
            answers::{self, AnswerSections, AnsweredQuestion},
        },
    },
};

/// Ask whether objects are present: POPE (Li et al., EMNLP 2023)
///
/// Questions are built from annotated objects, or read from a file; answers come from a bundle, or
/// are read from a file.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  candor eval pope --data ../shared/data/coco-mini\n  candor eval \
                  pope --data ../shared/data/coco-mini --questions pope.jsonl   # writes them when \
                  the file is not there\n  \
                  candor eval pope --questions pope.jsonl --answers answers.jsonl   # another \
                  model's\n  \
                  candor eval pope --data ../shared/data/coco-mini --forms   # \"Is there no \
                  cat?\" and paraphrases"
)]
pub(super) struct EvalPopeArgs {
    /// Images with annotated objects; not needed with --answers
    #[arg(long, value_name = "DIR|FILE", required_unless_present = "answers")]
    data: Option<PathBuf>,

    /// Questions in POPE's own format, one per line; built and written if the file does not exist.
    /// `-` reads standard input
    #[arg(long, value_name = "FILE.jsonl")]
    questions: Option<PathBuf>,

    /// Another model's answers to the questions, one per line, instead of the bundle's. `-` reads
    /// standard input
    #[arg(long, value_name = "FILE.jsonl", requires = "questions")]
    answers: Option<PathBuf>,

    /// Present objects to ask about per image and setting, with as many absent ones
    #[arg(long, default_value_t = pope::PER_IMAGE)]
    per_image: usize,

    /// Also ask each question denied ("Is there no cat?") and in two other forms, and report how
    /// consistent the answers are
    #[arg(long, conflicts_with = "answers")]
    forms: bool,

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

pub(super) fn run(args: EvalPopeArgs) -> Result<(), Failure> {
    refuse_shared_stdin(&[
        ("--data", args.data.as_ref()),
        ("--questions", args.questions.as_ref()),
        ("--answers", args.answers.as_ref()),
    ])?;
    let Gathered {
        questions,
        answers,
        forms,
        references,
        mut notes,
        model,
    } = match &args.answers {
        Some(file) => Gathered::read(&args, file)?,
        None => Gathered::ask(&args)?,
    };
    let mut images: HashMap<&str, usize> = HashMap::new();
    for question in &questions {
        let next = images.len();
        images.entry(&question.image).or_insert(next);
    }
    let judged: Vec<(usize, Option<Setting>, PopeCounts)> = questions
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| !answer.is_abstention())
        .map(|(question, answer)| {
            (
                images[question.image.as_str()],
                question.setting,
                PopeCounts::from_answer(question.present, pope::parse(&answer.text)),
            )
        })
        .collect();
    let abstentions = answers
        .iter()
        .filter(|answer| answer.is_abstention())
        .count();
    if abstentions > 0 {
        notes.push(format!(
            "Abstentions, which POPE's figures leave out: {abstentions} of {} answers.",
            answers.len()
        ));
    }
    let answered: Vec<AnsweredQuestion> = questions
        .iter()
        .zip(&answers)
        .map(|(question, answer)| answered(question, answer, references.as_ref()))
        .collect();
    let AnswerSections { summary, details } = answers::sections(&answered, args.seed);
    let table = figures_table(&judged, images.len(), args.seed);
    let resampling = Resampling {
        repeats: REPEATS,
        seed: args.seed,
    };
    let consistency = (!forms.is_empty()).then(|| {
        consistency::table(&consistency::findings(
            &object_answers(&questions, &answers, &forms, &images),
            resampling,
        ))
    });
    let tables = std::iter::once(table).chain(consistency).collect();
    let who = args.answers.as_ref().map_or_else(
        || "the bundle".to_owned(),
        |file| file.display().to_string(),
    );
    let report = EvaluationReport {
        title: "POPE: is it there?".into(),
        command: command(),
        facts: [
            args.questions
                .as_ref()
                .map(|file| vec![("questions".into(), file.display().to_string())])
                .unwrap_or_default(),
            RunFacts {
                model,
                data: args.data.as_deref().filter(|_| args.answers.is_none()),
                photographs: images.len(),
                seed: args.seed,
                ..RunFacts::default()
            }
            .facts(),
            vec![("answers".into(), who)],
        ]
        .concat(),
        notes,
        sections: [
            vec![
                summary,
                Section {
                    title: "Answers".into(),
                    tables,
                    ..Section::default()
                },
            ],
            details,
        ]
        .concat(),
    };
    args.output.show(&report)
}

/// Table of POPE's figures by setting, and over all questions. `judged` has the image, the setting
/// and the count of each answer.
fn figures_table(
    judged: &[(usize, Option<Setting>, PopeCounts)],
    images: usize,
    seed: u64,
) -> ReportTable {
    let rows = Setting::ALL
        .into_iter()
        .map(Some)
        .chain([None])
        .filter_map(|setting| {
            let selected: Vec<&(usize, Option<Setting>, PopeCounts)> = judged
                .iter()
                .filter(|j| setting.is_none() || j.1 == setting)
                .collect();
            (!selected.is_empty()).then(|| row(setting, &selected, images, seed))
        });
    let share = |name: &str, better: Option<GoodDirection>| Column {
        better,
        ..Column::new(name, NumberFormat::Percent)
    };
    let higher = Some(GoodDirection::Higher);
    ReportTable {
        title: "POPE".into(),
        note: "Yes is the positive class. Only the first sentence of an answer counts; if it \
               contains no or not, the answer is no."
            .into(),
        columns: vec![
            share("accuracy", higher),
            share("precision", higher),
            share("recall", higher),
            share("F1", higher),
            share("yes", None),
            Column::new("questions", NumberFormat::Count),
        ],
        rows: rows.collect(),
    }
}

/// Questions, answers, and notes on them.
struct Gathered {
    questions: Vec<PopeQuestion>,
    answers: Vec<AnswerWithCost>,
    /// Answers to the other forms of a question, with the index of the question.
    forms: Vec<(usize, [AnswerWithCost; 3])>,
    /// The images with annotations; `None` for another model's answers.
    references: Option<ReferenceSet>,
    notes: Vec<String>,
    /// Name and version of the bundle that answered.
    model: Option<(String, String)>,
}

impl Gathered {
    /// Reads another model's answers.
    fn read(args: &EvalPopeArgs, file: &Path) -> Result<Self, Failure> {
        if args.guard.guard.is_some() {
            return Err(Failure::Misused(
                "--guard applies to answers that a model writes and cannot be combined with \
                 --answers"
                    .into(),
            ));
        }
        let (questions, notes) = questions(args, None)?;
        let answers = pope::read_answers(file, &questions).map_err(Failure::misused)?;
        let answers = answers.into_iter().map(AnswerWithCost::from_text).collect();
        Ok(Self {
            questions,
            answers,
            forms: Vec::new(),
            references: None,
            notes,
            model: None,
        })
    }

    /// Asks the bundle.
    fn ask(args: &EvalPopeArgs) -> Result<Self, Failure> {
        let answering = AnswerSession::open(&args.model)?;
        let references = references(args)?;
        let (questions, notes) = questions(args, Some(&references))?;
        let (model, mode) = (answering.model(), args.guard.mode(&answering).to_owned());
        let reworded = if args.forms {
            other_forms(&questions)?
        } else {
            Vec::new()
        };
        let mut prompts = image_questions(&references, &questions)?;
        for (index, forms) in &reworded {
            let (image, _) = prompts[*index];
            prompts.extend(forms.forms().map(|text| (image, text)));
        }
        let mut answers = answering.answer_all(&mode, &prompts)?;
        let mut others = answers.split_off(questions.len()).into_iter();
        let forms = reworded
            .iter()
            .map_while(|(index, _)| {
                Some((*index, [others.next()?, others.next()?, others.next()?]))
            })
            .collect();
        Ok(Self {
            questions,
            answers,
            forms,
            references: Some(references),
            notes,
            model: Some(model),
        })
    }
}

/// Other forms of the questions, once for each object of an image, with the index of the question.
fn other_forms(questions: &[PopeQuestion]) -> Result<Vec<(usize, ObjectQuestions)>, Failure> {
    let mut seen = HashSet::new();
    let fresh = questions
        .iter()
        .enumerate()
        .filter(|(_, question)| seen.insert((&question.image, &question.text)));
    let forms = |(index, question): (usize, &PopeQuestion)| {
        let missing = || {
            format!(
                "--forms: question {} has no 'object', which other forms need",
                question.id
            )
        };
        let object = question
            .object
            .as_deref()
            .ok_or_else(|| Failure::Misused(missing()))?;
        Ok((index, consistency::questions(object)))
    };
    fresh.map(forms).collect()
}

/// Answers about each object in all forms.
fn object_answers(
    questions: &[PopeQuestion],
    answers: &[AnswerWithCost],
    forms: &[(usize, [AnswerWithCost; 3])],
    images: &HashMap<&str, usize>,
) -> Vec<ObjectAnswers> {
    let parse = |(index, others): &(usize, [AnswerWithCost; 3])| {
        let question = &questions[*index];
        let others = others.each_ref().map(|answer| answer.text.as_str());
        ObjectAnswers::parse(
            images[question.image.as_str()],
            question.present,
            &answers[*index].text,
            others,
        )
    };
    forms.iter().map(parse).collect()
}

/// A question with its answer for the report's page.
fn answered(
    question: &PopeQuestion,
    answer: &AnswerWithCost,
    references: Option<&ReferenceSet>,
) -> AnsweredQuestion {
    let yes = pope::parse(&answer.text);
    let row = AnsweredQuestion {
        kind: question.setting.map_or("all", Setting::name).to_owned(),
        image: question.image.clone(),
        photo: references.and_then(|references| references.get(&question.image)?.photo.clone()),
        question: question.text.clone(),
        right_answers: vec![if question.present { "yes" } else { "no" }.to_owned()],
        answer: answer.text.clone(),
        is_right: !answer.is_abstention() && yes == question.present,
        yes: Some((
            question.present,
            Some(yes).filter(|_| !answer.is_abstention()),
        )),
        ..AnsweredQuestion::default()
    };
    with_guard(row, answer)
}

fn references(args: &EvalPopeArgs) -> Result<ReferenceSet, Failure> {
    let data = args.data.as_ref().ok_or_else(|| {
        Failure::Misused("--data is required: the images of the questions".into())
    })?;
    ReferenceSet::open(data, None).map_err(Failure::misused)
}

/// Questions of the file, or built from `references` (or from `--data` where that is `None`), with
/// notes on them.
fn questions(
    args: &EvalPopeArgs,
    given: Option<&ReferenceSet>,
) -> Result<(Vec<PopeQuestion>, Vec<String>), Failure> {
    if let Some(file) = args
        .questions
        .as_ref()
        .filter(|file| args.data.is_none() || is_stdio(file) || file.exists())
    {
        let questions = pope::read_questions(file).map_err(Failure::misused)?;
        return Ok((
            questions,
            given
                .map(|references| references.notes().to_vec())
                .unwrap_or_default(),
        ));
    }
    let read = if given.is_none() {
        Some(references(args)?)
    } else {
        None
    };
    let Some(references) = given.or(read.as_ref()) else {
        return Ok(Default::default());
    };
    let images: Vec<_> = references
        .images()
        .iter()
        .filter_map(|image| Some((image.name(), image.objects.as_ref()?)))
        .collect();
    if images.is_empty() {
        return Err(Failure::Misused(
            "--data: no image has annotated objects".into(),
        ));
    }
    let mut questions: Vec<PopeQuestion> = Setting::ALL
        .into_iter()
        .flat_map(|setting| pope::build(&images, setting, args.per_image, args.seed))
        .collect();
    // Each setting counts from 1; ids in one file must be unique.
    questions
        .iter_mut()
        .zip(1..)
        .for_each(|(question, id)| question.id = id);
    if let Some(file) = &args.questions {
        let mut text = Vec::new();
        pope::write_questions(&questions, &mut text).map_err(Failure::failed)?;
        write_file(file, &text)?;
    }
    Ok((questions, references.notes().to_vec()))
}

/// Image and text of every question.
fn image_questions<'a>(
    references: &'a ReferenceSet,
    questions: &'a [PopeQuestion],
) -> Result<Vec<(&'a AnnotatedImage, &'a str)>, Failure> {
    let image = |question: &PopeQuestion| {
        references.get(&question.image).ok_or_else(|| {
            Failure::Misused(format!(
                "--data: no image '{}' for question {}",
                question.image, question.id
            ))
        })
    };
    questions
        .iter()
        .map(|question| Ok((image(question)?, question.text.as_str())))
        .collect()
}

fn row(
    setting: Option<Setting>,
    judged: &[&(usize, Option<Setting>, PopeCounts)],
    images: usize,
    seed: u64,
) -> TableRow {
    let figures = |weights: &[u32]| {
        let mut sums = [0.0f64; 4];
        for (image, _, s) in judged {
            let counts = [
                s.true_positives,
                s.false_positives,
                s.true_negatives,
                s.false_negatives,
            ];
            sums.iter_mut()
                .zip(counts)
                .for_each(|(sum, n)| *sum += n as f64 * f64::from(weights[*image]));
        }
        let [tp, fp, tn, fn_] = sums;
        let total = tp + fp + tn + fn_;
        vec![
            (tp + tn) / total,
            tp / (tp + fp),
            tp / (tp + fn_),
            2.0 * tp / (2.0 * tp + fp + fn_),
            (tp + fp) / total,
        ]
    };
    let mut cells: Vec<TableCell> = estimates(images, REPEATS, seed, figures)
        .into_iter()
        .map(TableCell::from)
        .collect();
    cells.push(judged.len().into());
    TableRow::new(setting.map_or("all", Setting::name), cells)
}
