//! `candor eval vqa`

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args as ClapArgs;
use rand::{SeedableRng, rngs::SmallRng};

use super::{Output, answering::Answering, command};
use crate::{
    cli::{Failure, common::ModelArgs},
    eval::{
        bootstrap::{REPEATS, estimates},
        data::{Annotated, flickr8k::Dataset},
        report::{Better, Cell, Column, Format, Report, Section, Table, TableRow},
    },
    lexicon::Lexicon,
    train::{
        qa::{Qa, QaBuilder},
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

    /// Most questions an image
    #[arg(long, default_value_t = 4)]
    per_image: usize,

    /// Seed of questions and bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    output: Output,
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
    let questions: Vec<(usize, Qa)> =
        (0..images.len()).flat_map(|i| of(i).into_iter().filter(|qa| qa.kind.is_closed()).map(move |qa| (i, qa))).collect();
    let asked: Vec<(&Annotated, &str)> = questions.iter().map(|(i, qa)| (&images[*i], qa.question.as_str())).collect();
    let answers = model.all(&asked)?;
    let mut kinds: BTreeMap<String, Vec<(usize, bool, bool)>> = BTreeMap::new();
    for ((image, qa), answer) in questions.iter().zip(&answers) {
        let judged = (*image, answer.eq_ignore_ascii_case(&qa.answer), answer.eq_ignore_ascii_case("yes."));
        kinds.entry(format!("{:?}", qa.kind).to_lowercase()).or_default().push(judged);
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
        facts: vec![
            ("data".into(), args.data.display().to_string()),
            ("images".into(), images.len().to_string()),
            ("seed".into(), args.seed.to_string()),
        ],
        notes: Vec::new(),
        sections: vec![Section { title: "Answers".into(), tables: vec![table], ..Section::default() }],
    };
    args.output.show(&report)
}
