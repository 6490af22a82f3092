//! `candor eval vqa`

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::Args as ClapArgs;
use rand::{SeedableRng, rngs::SmallRng};

use super::{
    Output,
    answering::Answering,
    command,
    facts::{AnswerGuard, Run, with_guard},
};
use crate::{
    cli::{Failure, common::ModelArgs},
    eval::{
        bootstrap::{REPEATS, estimates},
        data::{Annotated, flickr8k::Dataset},
        report::{
            Better, Cell, Column, Format, Report, Section, Table, TableRow,
            answers::{self, AnswerSections, AnsweredQuestion, yes_or_no},
        },
    },
    lexicon::Lexicon,
    train::{
        qa::{Kind, Qa, QaBuilder},
        stats::CaptionStats,
    },
};

/// Ask questions derived from captions: presence, colour and number
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  candor eval vqa --data ../shared/data/flickr8k")]
pub(super) struct Args {
    /// Folder in Flickr8k's layout; questions are about its development split
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Only the first N questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Most questions an image
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

/// A kind of question as tables name it.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Presence => "presence",
        Kind::Color => "which color",
        Kind::IsColor => "is it that color",
        Kind::Count => "count",
        Kind::Activity => "activity",
        Kind::Place => "place",
        Kind::Clothing => "clothing",
        Kind::List => "list",
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let model = Answering::open(&args.model)?;
    let data = Dataset::open(&args.data).map_err(|e| Failure::Misused(e.to_string()))?;
    let stats = CaptionStats::new(&data.train, Lexicon::shared());
    let builder = QaBuilder::new(&stats, Lexicon::shared());
    let images: Vec<Annotated> = data
        .dev
        .iter()
        .map(|image| Annotated { id: image.name.clone(), photo: Some(image.path.clone()), ..Annotated::default() })
        .collect();
    let of = |i: usize| builder.pairs(&data.dev[i], &mut SmallRng::seed_from_u64(args.seed ^ (i as u64 + 1) << 20), args.per_image);
    let mut questions: Vec<(usize, Qa)> =
        (0..images.len()).flat_map(|i| of(i).into_iter().filter(|qa| qa.kind.is_closed()).map(move |qa| (i, qa))).collect();
    questions.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    let asked: Vec<(&Annotated, &str)> = questions.iter().map(|(i, qa)| (&images[*i], qa.question.as_str())).collect();
    let (run_model, mode) = (model.model(), args.guard.mode(&model).to_owned());
    let answers = model.all(&mode, &asked)?;
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
    let mut kinds: BTreeMap<String, Vec<(usize, bool, bool)>> = BTreeMap::new();
    for ((image, qa), answer) in questions.iter().zip(&answers) {
        let judged = (*image, answer.text.eq_ignore_ascii_case(&qa.answer), answer.text.eq_ignore_ascii_case("yes."));
        kinds.entry(kind_name(qa.kind).to_owned()).or_default().push(judged);
        kinds.entry("all".into()).or_default().push(judged);
    }
    let row = |(kind, judged): (&String, &Vec<(usize, bool, bool)>)| {
        let figures = |weights: &[u32]| {
            let mut sums = [0.0f64; 3];
            for &(image, right, yes) in judged {
                let weight = f64::from(weights[image]);
                sums.iter_mut().zip([1.0, f64::from(u8::from(right)), f64::from(u8::from(yes))]).for_each(|(s, x)| *s += weight * x);
            }
            vec![sums[1] / sums[0], sums[2] / sums[0]]
        };
        let mut cells: Vec<Cell> = estimates(images.len(), REPEATS, args.seed, figures).into_iter().map(Cell::from).collect();
        cells.push(judged.len().into());
        TableRow { emphasis: kind == "all", ..TableRow::new(kind.clone(), cells) }
    };
    let table = Table {
        title: "Questions derived from the captions".into(),
        note: "Right: the captions' own answer, word for word. Presence asks as often for what is there as for what is not.".into(),
        columns: vec![
            Column::new("right", Format::Percent).better(Better::Higher),
            Column::new("answered yes", Format::Percent),
            Column::new("questions", Format::Count),
        ],
        rows: kinds.iter().map(row).collect(),
    };
    let report = Report {
        title: "Answers to derived questions".into(),
        command: command(),
        facts: Run {
            model: Some(run_model),
            data: Some(&args.data),
            photographs: questions.iter().map(|(image, _)| image).collect::<BTreeSet<_>>().len(),
            seed: args.seed,
            ..Run::default()
        }
        .facts(),
        notes: Vec::new(),
        sections: [vec![summary, Section { title: "Answers".into(), tables: vec![table], ..Section::default() }], details].concat(),
    };
    args.output.show(&report)
}
