//! `candor eval honesty`

mod args;
mod captions;
mod cards;
mod material;
mod prompts;
mod questions;
mod scored;

use std::{fs, path::Path};

use serde_json::Value;

pub(super) use self::args::EvalHonestyArgs;
use self::{
    captions::CaptionResults,
    material::HonestyMaterial,
    prompts::{HonestyAnswers, HonestyPrompt},
    questions::AnswerResults,
};
use super::{Output, RunFacts, command};
use crate::{
    cli::{Failure, common::settle, output::failed_at},
    eval::{
        honesty::{
            FOLDS, PhotographNumbers, PhotographOrigin, Resampling, ScoredOutcome,
            bars::{self, Finding, Measure, MeasuredValue},
            calibration::{BINS, CalibrationError, calibration_error},
            risk::{risk_at, risk_coverage, risk_plot},
        },
        report::{
            Column, EvaluationReport, GoodDirection, NumberFormat, ReportTable, Section, TableCell,
            TableRow,
        },
    },
};

pub(super) fn run(args: EvalHonestyArgs) -> Result<(), Failure> {
    // The process may re-execute itself, so nothing is written before.
    settle(args.model.load(&[])?.model.threads.value())?;
    let before = args.against.as_deref().map(EarlierRun::open).transpose()?;
    let pictures = tempfile::tempdir().map_err(Failure::failed)?;
    if let Some(folder) = &args.report {
        fs::create_dir_all(folder).map_err(failed_at(folder))?;
    }
    let material = HonestyMaterial::open(&args, pictures.path())?;
    let mut answers = HonestyAnswers::open(
        &args,
        &material,
        args.report
            .as_ref()
            .map(|folder| folder.join("answers.jsonl")),
    )?;
    let captions = PhotographOrigin::ALL.into_iter().flat_map(|origin| {
        let numbers: Vec<usize> = material
            .photographs_from(origin)
            .map(|(number, _)| number)
            .collect();
        numbers.into_iter().flat_map(move |number| {
            captions::prompt_modes(origin)
                .iter()
                .map(move |&mode| HonestyPrompt::answer(number, mode, ""))
        })
    });
    answers.ask(
        captions
            .chain(questions::prompts(&material))
            .chain(scored::prompts(&material)),
    )?;
    let controls = [
        captions::controls(&material, &answers),
        questions::controls(&material, &answers),
    ]
    .concat();
    answers.ask(controls)?;
    let report = report(&args, &material, &answers, before.as_ref())?;
    if let Some(folder) = &args.report {
        let json = serde_json::to_string_pretty(&report.to_json()).map_err(Failure::failed)?;
        crate::cli::output::write_file(
            &folder.join("report.json"),
            format!("{json}\n").as_bytes(),
        )?;
    }
    Output {
        json: args.json,
        html: args.report.map(|folder| folder.join("index.html")),
    }
    .show(&report)
}

/// Figures of an earlier run.
struct EarlierRun(Value);

impl EarlierRun {
    fn open(path: &Path) -> Result<Self, Failure> {
        let text = fs::read(path).map_err(failed_at(path))?;
        let wrong = |what: &dyn std::fmt::Display| {
            Failure::Misused(format!("--against {}: {what}", path.display()))
        };
        let json: Value = serde_json::from_slice(&text).map_err(|e| wrong(&e))?;
        match json["sections"]["Bars"]["tables"]["Bars"].is_object() {
            true => Ok(Self(json)),
            false => Err(wrong(&"is not a report.json of candor eval honesty")),
        }
    }

    fn figure(&self, measure: Measure) -> Option<f64> {
        let tables = self.0["sections"]["Bars"]["tables"].as_object()?;
        tables
            .values()
            .find_map(|table| table["rows"][measure.bar().name]["figure"]["value"].as_f64())
    }
}

fn report(
    args: &EvalHonestyArgs,
    material: &HonestyMaterial,
    answers: &HonestyAnswers<'_>,
    before: Option<&EarlierRun>,
) -> Result<EvaluationReport, Failure> {
    let resampling = Resampling {
        repeats: args.resamples,
        seed: args.seed,
    };
    let known = |measure| before.and_then(|run| run.figure(measure));
    let CaptionResults {
        mut findings,
        sections: caption_sections,
        mentions,
    } = captions::measure(material, answers, resampling, known);
    let AnswerResults {
        findings: answer_findings,
        sections: answer_sections,
        scores,
    } = questions::measure(material, answers, resampling);
    let (text_findings, text_sections) = scored::measure(material, answers, resampling);
    findings.extend(answer_findings);
    findings.extend(text_findings);
    findings.extend(captions::familiarity(material, answers, resampling));
    let (calibration, errors) = calibration(&mentions, &scores, resampling);
    findings.extend(errors);
    let bars = Section {
        title: "Bars".into(),
        tables: bars::tables(&findings, known),
        ..Section::default()
    };
    let mut text = bars::summary(&findings);
    text.extend(people_in_words(&findings));
    let mut sections = vec![
        Section {
            title: "Summary".into(),
            text,
            ..Section::default()
        },
        bars,
    ];
    sections.extend([risk(&scores), calibration]);
    sections.extend([caption_sections, answer_sections, text_sections].concat());
    let run = RunFacts {
        model: Some(answers.model()?),
        data: Some(&args.data),
        photographs: material.photographs.len(),
        seed: args.seed,
        resamples: args.resamples,
    };
    let by_origin = PhotographOrigin::ALL.into_iter().map(|origin| {
        (
            origin.name().to_owned(),
            material.photographs_from(origin).count().to_string(),
        )
    });
    Ok(EvaluationReport {
        title: "Honesty on any photograph".into(),
        command: command(),
        facts: run.facts().into_iter().chain(by_origin).collect(),
        notes: [vec![networks(args)], material.notes.clone()].concat(),
        sections,
    })
}

/// Sentence of the report on the network that answered for each photograph.
fn networks(args: &EvalHonestyArgs) -> String {
    match &args.folds {
        Some(folder) => format!(
            "{FOLDS} bundles in {}: questions about each photograph were answered by the bundle of \
             its fold (by the SHA-256 of its file), which must have been trained without that \
             fold.",
            folder.display()
        ),
        None => {
            "One bundle answered about all photographs. It has not seen them in training only if \
             its card says so: the embedded one was trained on Flickr8k's training split alone, \
             and calibrated on the other half of its development split."
                .into()
        }
    }
}

/// The most important finding as a sentence.
fn people_in_words(findings: &[Finding]) -> Option<String> {
    let finding = findings
        .iter()
        .find(|finding| finding.measure == Measure::InventedPeopleCoco)?;
    let MeasuredValue::Figure(figure) = finding.found else {
        return None;
    };
    let share = crate::eval::report::stated(&figure, NumberFormat::Percent);
    Some(format!(
        "Captions name people on {} coco-mini photographs that show none; {share} of these {} \
         mentions are flagged.",
        finding.photographs, finding.counted
    ))
}

/// Risk-coverage section by origin.
fn risk(scores: &[(PhotographOrigin, Vec<ScoredOutcome>)]) -> Section {
    const COVERAGES: [f64; 4] = [0.1, 0.25, 0.5, 1.0];
    let curves: Vec<_> = scores
        .iter()
        .map(|(origin, outcomes)| risk_coverage(origin.name(), outcomes))
        .collect();
    let row = |(curve, outcomes): (&crate::eval::report::Series, usize)| {
        let mut cells: Vec<TableCell> = COVERAGES
            .iter()
            .map(|&coverage| risk_at(curve, coverage).into())
            .collect();
        cells.push(outcomes.into());
        TableRow::new(curve.name.clone(), cells)
    };
    let column = |coverage: f64| {
        Column::new(
            format!("at {:.0} %", coverage * 100.0),
            NumberFormat::Percent,
        )
        .better(GoodDirection::Lower)
    };
    let table = ReportTable {
        title: "Risk at coverage".into(),
        note: "Share of wrong answers among those with the highest scores, for each share of all \
             answers."
            .into(),
        columns: COVERAGES
            .into_iter()
            .map(column)
            .chain([Column::new("answers", NumberFormat::Count)])
            .collect(),
        rows: curves
            .iter()
            .zip(scores.iter().map(|(_, outcomes)| outcomes.len()))
            .map(row)
            .collect(),
    };
    Section {
        title: "Risk and coverage".into(),
        tables: vec![table],
        plots: vec![risk_plot(curves)],
        ..Section::default()
    }
}

/// Calibration table and findings by origin.
fn calibration(
    mentions: &[(PhotographOrigin, Vec<ScoredOutcome>)],
    scores: &[(PhotographOrigin, Vec<ScoredOutcome>)],
    resampling: Resampling,
) -> (Section, Vec<Finding>) {
    let measure = |origin: PhotographOrigin, is_mention: bool| match (origin, is_mention) {
        (PhotographOrigin::Flickr8k, true) => Measure::CalibrationCaptionsFlickr,
        (_, true) => Measure::CalibrationCaptionsCoco,
        (PhotographOrigin::Flickr8k, false) => Measure::CalibrationAnswersFlickr,
        (PhotographOrigin::CocoMini, false) => Measure::CalibrationAnswersCoco,
        (_, false) => Measure::CalibrationAnswersDaquar,
    };
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for (all, items, is_mention) in [(mentions, "object words", true), (scores, "answers", false)] {
        for (origin, outcomes) in all.iter().filter(|(_, outcomes)| !outcomes.is_empty()) {
            let CalibrationError {
                error,
                by_chance,
                excess,
            } = calibration_error(outcomes, resampling);
            let photographs =
                PhotographNumbers::new(outcomes.iter().map(|outcome| outcome.photograph)).len();
            findings.push(Finding::new(
                measure(*origin, is_mention),
                excess,
                photographs,
                outcomes.len(),
                items,
            ));
            let mean = |value: fn(&ScoredOutcome) -> f64| {
                outcomes.iter().map(value).sum::<f64>() / outcomes.len() as f64
            };
            let cells = vec![
                error.into(),
                by_chance.into(),
                excess.into(),
                mean(|outcome| outcome.score).into(),
                mean(|outcome| f64::from(u8::from(outcome.is_right))).into(),
                outcomes.len().into(),
            ];
            rows.push(TableRow::new(format!("{items}, {}", origin.name()), cells));
        }
    }
    let number = |name: &str, help: &str| Column::new(name, NumberFormat::Decimal(3)).help(help);
    let table = ReportTable {
        title: "Calibration".into(),
        note: format!(
            "Expected calibration error over {BINS} equal-mass bins, its expectation by chance if \
             every score were the probability of being right, and the difference."
        ),
        columns: vec![
            number(
                "ECE",
                "mean distance between score and share of right answers over the bins",
            ),
            number(
                "by chance",
                "expectation for perfectly calibrated scores on a sample of this size",
            ),
            number("excess", "the first minus the second").better(GoodDirection::Lower),
            number("mean score", ""),
            number("right", "share that is right"),
            Column::new("number", NumberFormat::Count),
        ],
        rows,
    };
    (
        Section {
            title: "Calibration".into(),
            tables: vec![table],
            ..Section::default()
        },
        findings,
    )
}
