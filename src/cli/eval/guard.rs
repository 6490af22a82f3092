//! `candor eval guard`

use std::path::PathBuf;

use clap::{Args, builder::RangedU64ValueParser};
use serde_json::{Value, json};

use super::{
    CANDIDATES, Output, Part, RunFacts,
    answering::{AnswerSession, AnswerWithCost},
    command,
};
use crate::{
    cli::{
        Failure,
        common::{ModelArgs, number_up_to},
    },
    eval::{
        bootstrap::REPEATS,
        captions::{
            self, Evaluation, FigureGroup, Measures, ModelFigures, differences, examples,
            figures_section,
            flags::{self, GuardMarks, MentionKind},
            form_table,
            operating::{self, OperatingPoint, OperatingRates, PointFamily},
            repairs, selection,
        },
        chair::ChairVocabulary,
        data::{AnnotatedImage, Hypothesis, ReferenceSet, RowPosition},
        report::{
            Column, EvaluationReport, NumberFormat, ReportTable, Section, TableCell, TableRow,
            stated,
        },
        tradeoff,
    },
};

/// Measure the guard: what flags find, and hallucination, recall and description quality of
/// repaired captions against the policy alone
///
/// The same photographs are captioned under every setting. Token counts include all that the policy
/// decoded, discarded or not. One comparison is tested: regenerate with its defaults against off.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  candor eval guard --data ../shared/data/flickr8k --html guard.html"
)]
pub(super) struct EvalGuardArgs {
    /// Photographs with captions, in Flickr8k's or COCO's layout
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Split of the folder: test is the list test.txt, or captions_test.json [default: dev in
    /// Flickr8k's layout]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,

    /// Part of the images: one half was used for calibration and choices, the other is for
    /// reporting
    #[arg(long, value_name = "HALF", default_value = "report")]
    half: Part,

    /// Use only the first N images
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,

    /// Thresholds of mode regenerate for the trade-off curve, beside the default
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "R,...",
        default_value = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8",
        value_parser = |text: &str| number_up_to(text, 1.0).map(|threshold| threshold as f32)
    )]
    thresholds: Vec<f32>,

    /// Streaming windows in words; 1000 is the whole answer
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "WORDS,...",
        default_value = "0,1,3,6,1000"
    )]
    windows: Vec<usize>,

    /// Controls: best of this many answers by reward
    #[arg(long, value_delimiter = ',', value_name = "K,...", default_value = "5,10",
        value_parser = RangedU64ValueParser::<usize>::new().range(CANDIDATES))]
    best_of: Vec<usize>,

    /// Controls: sampling at these temperatures without the guard
    #[arg(long, value_delimiter = ',', value_name = "T,...", default_value = "0.3,0.7",
        value_parser = |text: &str| number_up_to(text, 2.0))]
    temperatures: Vec<f64>,

    /// Number of bootstrap resamples
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

/// One setting that captions every photograph.
struct Setting {
    name: String,
    fields: Value,
    /// Family by which its point is drawn and described.
    family: PointFamily,
    label: String,
}

/// All settings, the one without a guard first. Mode flag leaves the text as it is and is therefore
/// no row among the differences.
fn settings(args: &EvalGuardArgs) -> Vec<Setting> {
    let setting = |name: String, family: PointFamily, label: String, mut fields: Value| {
        fields["seed"] = json!(args.seed);
        Setting {
            name,
            fields,
            family,
            label,
        }
    };
    let regenerate = |name: String, family: PointFamily, label: String, more: Value| {
        let mut guard = json!({ "mode": "regenerate" });
        more.as_object()
            .into_iter()
            .flatten()
            .for_each(|(key, value)| guard[key] = value.clone());
        setting(name, family, label, json!({ "guard": guard }))
    };
    let flag = json!({ "guard": { "mode": "flag", "on_exhausted": "flag" }, "logprobs": true });
    let mut all = vec![
        setting(
            "off".into(),
            PointFamily::Default,
            "off".into(),
            json!({ "guard": { "mode": "off" } }),
        ),
        setting(FLAG.into(), PointFamily::Default, "flag".into(), flag),
        regenerate(
            "regenerate".into(),
            PointFamily::Default,
            "regenerate".into(),
            json!({}),
        ),
    ];
    all.extend(args.thresholds.iter().map(|t| {
        let guard = json!({ "threshold": t });
        regenerate(
            format!("regenerate below {t}"),
            PointFamily::Regenerate,
            t.to_string(),
            guard,
        )
    }));
    all.extend(args.windows.iter().map(|w| {
        let guard = json!({ "window": w });
        regenerate(
            format!("regenerate, window {w}"),
            PointFamily::Window,
            w.to_string(),
            guard,
        )
    }));
    all.extend(args.best_of.iter().map(|k| {
        let fields = json!({ "guard": { "mode": "score", "candidates": k } });
        setting(
            format!("best of {k}"),
            PointFamily::BestOf,
            k.to_string(),
            fields,
        )
    }));
    all.extend(args.temperatures.iter().map(|t| {
        let fields = json!({ "guard": { "mode": "off" }, "temperature": t });
        setting(
            format!("off, temperature {t}"),
            PointFamily::Temperature,
            t.to_string(),
            fields,
        )
    }));
    all
}

/// Name of the setting that flags.
const FLAG: &str = "flag";

pub(super) fn run(args: EvalGuardArgs) -> Result<(), Failure> {
    let misused = |e: crate::eval::data::DataError| Failure::Misused(e.to_string());
    let answering = AnswerSession::open(&args.model)?;
    let references = ReferenceSet::open(&args.data, args.split.as_deref()).map_err(misused)?;
    let images = references
        .images()
        .iter()
        .enumerate()
        .filter(|(i, _)| args.half.has(*i))
        .map(|(_, image)| image);
    let images: Vec<&AnnotatedImage> = images.take(args.limit.unwrap_or(usize::MAX)).collect();
    let prompts: Vec<(&AnnotatedImage, &str)> = images.iter().map(|image| (*image, "")).collect();
    let model = answering.model();
    let settings = settings(&args);
    let mut answers: Vec<Vec<AnswerWithCost>> =
        vec![Vec::with_capacity(prompts.len()); settings.len()];
    let named: Vec<(&str, Value)> = settings
        .iter()
        .map(|s| (s.name.as_str(), s.fields.clone()))
        .collect();
    answering.answer_each(&named, &prompts, |setting, _, answer| {
        answers[setting].push(answer);
        Ok(())
    })?;
    let run = RunFacts {
        model: Some(model),
        data: Some(&args.data),
        photographs: images.len(),
        seed: args.seed,
        resamples: args.resamples,
    };
    let undescribed = images
        .iter()
        .filter(|image| image.captions.is_empty())
        .count();
    let note = format!(
        "{undescribed} photographs have no reference captions and are left out of the figures of \
         the open vocabulary and of description."
    );
    args.output.show(&EvaluationReport {
        title: "What the guard flags and repairs".into(),
        command: command(),
        facts: run.facts(),
        notes: (undescribed > 0)
            .then_some(note)
            .into_iter()
            .chain(references.notes().iter().cloned())
            .collect(),
        sections: sections(&images, &settings, &answers, &args),
    })
}

fn sections(
    images: &[&AnnotatedImage],
    settings: &[Setting],
    answers: &[Vec<AnswerWithCost>],
    args: &EvalGuardArgs,
) -> Vec<Section> {
    let measures = Measures {
        open: true,
        closed: Some(ChairVocabulary::coco80()),
        description: true,
    };
    let hypotheses: Vec<Vec<Hypothesis>> = answers
        .iter()
        .map(|answers| hypotheses(images, answers))
        .collect();
    let evaluations: Vec<Evaluation<'_>> = hypotheses
        .iter()
        .map(|captions| {
            Evaluation::new(
                &images.iter().copied().zip(captions).collect::<Vec<_>>(),
                measures,
            )
        })
        .collect();
    let models: Vec<(&str, &Evaluation<'_>)> = settings
        .iter()
        .map(|s| s.name.as_str())
        .zip(&evaluations)
        .collect();
    let [off, flag, regenerate, ..] = &models[..] else {
        return Vec::new();
    };
    let (resamples, seed) = (args.resamples, args.seed);
    let figures = captions::measure(&models, resamples, seed);
    let marks: Vec<GuardMarks> = answers[1]
        .iter()
        .map(|answer| answer.marks.clone())
        .collect();
    let flags = flags::section(flag.1, &marks, resamples, seed);
    let forms = form_table(&models, resamples, seed);
    let without_flag: Vec<(&str, &Evaluation<'_>)> =
        models.iter().copied().filter(|m| m.0 != FLAG).collect();
    let points = points(
        settings,
        answers,
        &figures,
        (flag.1, &marks),
        &args.thresholds,
    );
    let most = examples(&[*off, *regenerate]);
    let [plots, numbers] = operating::sections(&points);
    let mut sections = vec![
        summary(&figures, answers, &flags.tables[0], &forms),
        figures_section(measures, &figures),
        Section {
            title: "Cost".into(),
            tables: vec![cost(settings, answers)],
            ..Section::default()
        },
        plots,
        numbers,
        differences(&without_flag, resamples, seed),
        flags,
        Section {
            title: "Fragments and loops".into(),
            tables: vec![forms],
            ..Section::default()
        },
    ];
    sections.extend(repairs::sections(off.1, regenerate.1, resamples, seed));
    let written: Vec<Vec<selection::RepairedPhrase>> = answers[2]
        .iter()
        .map(|answer| answer.chosen.clone())
        .collect();
    let selection = selection::selection_table(regenerate.1, &written);
    sections.push(Section {
        title: "What selection adds".into(),
        tables: vec![selection],
        ..Section::default()
    });
    sections.push(Section {
        title: "Most hallucinated things".into(),
        plots: most.plots,
        ..Section::default()
    });
    sections
}

/// Answers as hypotheses for their photographs.
pub(super) fn hypotheses(
    images: &[&AnnotatedImage],
    answers: &[AnswerWithCost],
) -> Vec<Hypothesis> {
    let row = |(i, (image, answer)): (usize, (&&AnnotatedImage, &AnswerWithCost))| Hypothesis {
        image: image.name().to_owned(),
        caption: answer.text.clone(),
        objects: None,
        position: RowPosition::Line(i + 1),
    };
    images.iter().zip(answers).enumerate().map(row).collect()
}

/// Number of tokens that the policy decoded, discarded ones included.
fn decoded(answers: &[AnswerWithCost]) -> f64 {
    answers
        .iter()
        .map(|a| a.tokens + a.extra_tokens)
        .sum::<u64>() as f64
}

/// Ratio of decoded tokens to those of the first setting.
fn ratio(answers: &[Vec<AnswerWithCost>], setting: usize) -> f64 {
    decoded(&answers[setting]) / decoded(&answers[0]).max(1.0)
}

/// Operating points of all settings, and of mode flag at every threshold.
fn points(
    settings: &[Setting],
    answers: &[Vec<AnswerWithCost>],
    figures: &[ModelFigures<'_>],
    (flagged, marks): (&Evaluation<'_>, &[GuardMarks]),
    thresholds: &[f32],
) -> Vec<OperatingPoint> {
    let left = |reward: fn(&GuardMarks, &std::ops::Range<usize>) -> f32, thresholds: &[f32]| {
        let curves = MentionKind::ALL.map(|kind| {
            tradeoff::curve(&kind.rewarded_mentions(flagged, marks, reward), thresholds)
        });
        (0..thresholds.len())
            .map(|i| {
                [0, 1].map(|kind| {
                    Some(OperatingRates {
                        chair_i: curves[kind][i].chair_i,
                        recall: curves[kind][i].recall,
                    })
                })
            })
            .collect::<Vec<_>>()
    };
    let is_flagged = |marks: &GuardMarks, range: &std::ops::Range<usize>| {
        if marks.flags(range) { 0.0 } else { 1.0 }
    };
    let measured = |figures: &ModelFigures<'_>| {
        [FigureGroup::Open, FigureGroup::Closed].map(|group| {
            let value = |name| figures.get(group, name).map(|figure| figure.value);
            Some(OperatingRates {
                chair_i: value("CHAIR_i")?,
                recall: value("recall")?,
            })
        })
    };
    let mut points: Vec<OperatingPoint> = settings
        .iter()
        .enumerate()
        .map(|(i, setting)| OperatingPoint {
            name: setting.name.clone(),
            label: setting.label.clone(),
            family: setting.family,
            decoded: ratio(answers, i),
            rates: if setting.name == FLAG {
                left(is_flagged, &[0.5])[0]
            } else {
                measured(&figures[i])
            },
        })
        .collect();
    let score =
        |marks: &GuardMarks, range: &std::ops::Range<usize>| marks.score(range).unwrap_or(1.0);
    let by_threshold = thresholds
        .iter()
        .zip(left(score, thresholds))
        .map(|(threshold, rates)| OperatingPoint {
            name: format!("flag below {threshold}"),
            label: threshold.to_string(),
            family: PointFamily::Flag,
            decoded: ratio(answers, 1),
            rates,
        });
    points.extend(by_threshold);
    points
}

/// Main findings as sentences.
fn summary(
    figures: &[ModelFigures<'_>],
    answers: &[Vec<AnswerWithCost>],
    flags: &ReportTable,
    forms: &ReportTable,
) -> Section {
    let percent = |setting: usize, group, name| {
        figures[setting]
            .get(group, name)
            .filter(|f| f.value.is_finite())
            .map(|f| stated(&f, NumberFormat::Percent))
    };
    let cell = |table: &ReportTable, row: &str, column: usize| match table
        .rows
        .iter()
        .find(|r| r.name == row)
        .and_then(|r| r.cells.get(column))
    {
        Some(TableCell::Value(figure)) if figure.value.is_finite() => {
            Some(stated(figure, NumberFormat::Percent))
        }
        _ => None,
    };
    let (mentions, group) = match percent(0, FigureGroup::Open, "CHAIR_i") {
        Some(_) => (
            "objects that captions name are in no reference",
            FigureGroup::Open,
        ),
        None => (
            "objects that captions name are not in the photograph",
            FigureGroup::Closed,
        ),
    };
    let repaired = || {
        Some(format!(
            "Without the guard, {} of the {mentions} (CHAIR_i); in mode regenerate with its \
             defaults {}. Recall is {} and {}. It decodes {:.2} times the tokens, and {} of the \
             captions are fragments, against {} before.",
            percent(0, group, "CHAIR_i")?,
            percent(2, group, "CHAIR_i")?,
            percent(0, group, "recall")?,
            percent(2, group, "recall")?,
            ratio(answers, 2),
            cell(forms, "regenerate", 0)?,
            cell(forms, "off", 0)?,
        ))
    };
    let vocabulary = if group == FigureGroup::Open {
        MentionKind::Open
    } else {
        MentionKind::Closed
    }
    .name();
    let flagged = || {
        Some(format!(
            "Mode flag marks {} of the hallucinated mentions and {} of the grounded ones \
             ({vocabulary}); {} of all mentions are hallucinated and not marked.",
            cell(flags, vocabulary, 0)?,
            cell(flags, vocabulary, 1)?,
            cell(flags, vocabulary, 3)?,
        ))
    };
    Section {
        title: "Summary".into(),
        text: [repaired(), flagged()].into_iter().flatten().collect(),
        ..Section::default()
    }
}

/// Table of decoded tokens and verdicts by setting.
fn cost(settings: &[Setting], answers: &[Vec<AnswerWithCost>]) -> ReportTable {
    let row = |(i, setting): (usize, &Setting)| {
        let n = answers[i].len().max(1) as f64;
        let share =
            |verdict: &str| answers[i].iter().filter(|a| a.verdict == verdict).count() as f64 / n;
        let given = answers[i].iter().map(|a| a.tokens).sum::<u64>() as f64 / n;
        let cells = vec![
            ratio(answers, i).into(),
            (decoded(&answers[i]) / n).into(),
            given.into(),
            share("clean").into(),
            share("repaired").into(),
            share("flagged").into(),
        ];
        TableRow::new(setting.name.clone(), cells)
    };
    let column = |name: &str, format| Column::new(name, format);
    ReportTable {
        title: "Tokens and verdicts".into(),
        note: "Decoded tokens include discarded ones; the ratio is to the first row.".into(),
        columns: vec![
            column("decoded, ratio", NumberFormat::Decimal(2)),
            column("decoded a caption", NumberFormat::Decimal(1)),
            column("kept a caption", NumberFormat::Decimal(1)),
            column("clean", NumberFormat::Percent),
            column("repaired", NumberFormat::Percent),
            column("flagged", NumberFormat::Percent),
        ],
        rows: settings.iter().enumerate().map(row).collect(),
    }
}
