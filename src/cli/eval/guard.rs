//! `candor eval guard`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::{Output, Part, answering::Answered, answering::Answering, command};
use crate::{
    cli::{Failure, common::ModelArgs},
    eval::{
        bootstrap::REPEATS,
        captions::{Evaluation, Measures, report},
        chair::Vocabulary,
        data::{Annotated, Hypothesis, Place, References},
        report::{Column, Format, Section, Table, TableRow},
    },
};

/// Measure what the guard does: hallucination, recall and description of repaired captions against those of the model alone
///
/// The same photographs are captioned under every setting. Tokens are all that the policy decoded, whether they were kept or not.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  candor eval guard --data ../shared/data/flickr8k --html guard.html")]
pub(super) struct Args {
    /// Photographs with captions, in Flickr8k's or COCO's layout
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Which split of the folder: test is the list test.txt, or what captions_test.json has [default: dev in Flickr8k's layout]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,

    /// Which of its images: calibration and choices were made on one half
    #[arg(long, value_name = "HALF", default_value = "report")]
    half: Part,

    /// Only the first N of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// The curve: mode regenerate at these thresholds, beside the default
    #[arg(long, value_delimiter = ',', value_name = "R,...", default_value = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8")]
    thresholds: Vec<f32>,

    /// Windows of a stream, in words; 1000 is the whole answer
    #[arg(long, value_delimiter = ',', value_name = "WORDS,...", default_value = "0,1,3,6,1000")]
    windows: Vec<usize>,

    /// Controls: the best of so many answers, by reward
    #[arg(long, value_delimiter = ',', value_name = "K,...", default_value = "5,10")]
    best_of: Vec<usize>,

    /// Controls: sampling at these temperatures, without a guard
    #[arg(long, value_delimiter = ',', value_name = "T,...", default_value = "0.3,0.7")]
    temperatures: Vec<f64>,

    /// Resamples of the bootstrap
    #[arg(long, default_value_t = REPEATS)]
    resamples: usize,

    /// Seed of the bootstrap and of sampling
    #[arg(long, default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    output: Output,
}

/// One way of asking.
struct Setting {
    name: String,
    fields: Value,
}

fn settings(args: &Args) -> Vec<Setting> {
    let setting = |name: String, mut fields: Value| {
        fields["seed"] = json!(args.seed);
        Setting { name, fields }
    };
    let regenerate = |name: String, more: Value| {
        let mut guard = json!({ "mode": "regenerate" });
        more.as_object().into_iter().flatten().for_each(|(key, value)| guard[key] = value.clone());
        setting(name, json!({ "guard": guard }))
    };
    let mut all = vec![setting("off".into(), json!({ "guard": { "mode": "off" } })), regenerate("regenerate".into(), json!({}))];
    all.extend(args.thresholds.iter().map(|t| regenerate(format!("regenerate below {t}"), json!({ "threshold": t }))));
    all.extend(args.windows.iter().map(|w| regenerate(format!("regenerate, window {w}"), json!({ "window": w }))));
    all.extend(args.best_of.iter().map(|k| setting(format!("best of {k}"), json!({ "guard": { "mode": "score", "candidates": k } }))));
    all.extend(
        args.temperatures.iter().map(|t| setting(format!("off, temperature {t}"), json!({ "guard": { "mode": "off" }, "temperature": t }))),
    );
    all
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let misused = |e: crate::eval::data::DataError| Failure::Misused(e.to_string());
    let answering = Answering::open(&args.model)?;
    let references = References::open(&args.data, args.split.as_deref()).map_err(misused)?;
    let images = references.images().iter().enumerate().filter(|(i, _)| args.half.has(*i)).map(|(_, image)| image);
    let images: Vec<&Annotated> = images.take(args.limit.unwrap_or(usize::MAX)).collect();
    let asked: Vec<(&Annotated, &str)> = images.iter().map(|image| (*image, "")).collect();
    let settings = settings(&args);
    let mut answers: Vec<Vec<Answered>> = vec![Vec::with_capacity(asked.len()); settings.len()];
    let named: Vec<(&str, Value)> = settings.iter().map(|s| (s.name.as_str(), s.fields.clone())).collect();
    answering.each_of(&named, &asked, |setting, _, answer| {
        answers[setting].push(answer);
        Ok(())
    })?;
    let measures = Measures { open: true, closed: Some(Vocabulary::coco80()), description: true };
    let hypotheses: Vec<Vec<Hypothesis>> = answers.iter().map(|answers| hypotheses(&images, answers)).collect();
    let evaluations: Vec<Evaluation<'_>> =
        hypotheses.iter().map(|said| Evaluation::new(&images.iter().copied().zip(said).collect::<Vec<_>>(), measures)).collect();
    let models: Vec<(&str, &Evaluation<'_>)> = settings.iter().map(|s| s.name.as_str()).zip(&evaluations).collect();
    let mut report = report(&models, args.resamples, args.seed);
    report.sections.insert(1, cost(&settings, &answers));
    let fact = |name: &str, value: String| (name.to_owned(), value);
    report.title = "What the guard repairs".into();
    report.command = command();
    report.notes.extend(references.notes().iter().cloned());
    report.facts =
        vec![fact("photographs", images.len().to_string()), fact("bootstrap", format!("{} resamples, seed {}", args.resamples, args.seed))];
    args.output.show(&report)
}

fn hypotheses(images: &[&Annotated], answers: &[Answered]) -> Vec<Hypothesis> {
    let row = |(i, (image, answer)): (usize, (&&Annotated, &Answered))| Hypothesis {
        image: image.name().to_owned(),
        caption: answer.text.clone(),
        objects: None,
        place: Place::Line(i + 1),
    };
    images.iter().zip(answers).enumerate().map(row).collect()
}

/// Tokens and verdicts.
fn cost(settings: &[Setting], answers: &[Vec<Answered>]) -> Section {
    let decoded = |answers: &[Answered]| answers.iter().map(|a| a.tokens + a.extra_tokens).sum::<u64>();
    let base = answers.first().map_or(0, |off| decoded(off)).max(1);
    let row = |(setting, answers): (&Setting, &Vec<Answered>)| {
        let n = answers.len().max(1) as f64;
        let share = |verdict: &str| answers.iter().filter(|a| a.verdict == verdict).count() as f64 / n;
        let kept = answers.iter().map(|a| a.tokens).sum::<u64>() as f64 / n;
        let cells = vec![
            (decoded(answers) as f64 / base as f64).into(),
            (decoded(answers) as f64 / n).into(),
            kept.into(),
            share("clean").into(),
            share("repaired").into(),
            share("flagged").into(),
        ];
        TableRow::new(setting.name.clone(), cells)
    };
    let column = |name: &str, format| Column::new(name, format);
    let table = Table {
        title: "Tokens and verdicts".into(),
        note: "Decoded tokens count everything that the policy wrote, kept or not; the ratio is to the first row.".into(),
        columns: vec![
            column("decoded, ratio", Format::Decimal(2)),
            column("decoded a caption", Format::Decimal(1)),
            column("kept a caption", Format::Decimal(1)),
            column("clean", Format::Percent),
            column("repaired", Format::Percent),
            column("flagged", Format::Percent),
        ],
        rows: settings.iter().zip(answers).map(row).collect(),
    };
    Section { title: "Cost".into(), tables: vec![table], ..Section::default() }
}
