//! Report of the figures of captions.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Evaluation, JudgedCaption, Measures,
    compare::figure_differences,
    figures::{CaptionCounts, FIGURES, Figure, FigureGroup},
    repairs::card_words,
    weighted,
};
use crate::eval::{
    bootstrap::{Difference, Estimate, estimates, holm},
    report::{
        CaptionCard, Column, EvaluationReport, NumberFormat, Photo, Plot, PlotBar, ReportTable,
        Section, TableCell, TableRow, stated,
    },
};

/// Number of captions shown.
const SHOWN: usize = 12;

/// Number of nouns shown.
const NOUNS: usize = 20;

/// Name of the row of people's captions.
const PEOPLE: &str = "people, each judged by the others";

/// Significance level.
const LEVEL: f64 = 0.05;

/// Builds the report of captions under their models' names, all of the same images in the same
/// order; the first is the baseline of differences. The caller adds title, command and facts.
pub fn report(models: &[(&str, &Evaluation<'_>)], repeats: usize, seed: u64) -> EvaluationReport {
    let Some((_, first)) = models.first() else {
        return EvaluationReport::default();
    };
    let figures = measure(models, repeats, seed);
    let text = figures
        .iter()
        .take(models.len())
        .filter_map(|figures| summary(figures, first.measures))
        .collect();
    let mut sections = vec![
        Section {
            title: "Summary".into(),
            text,
            ..Section::default()
        },
        figures_section(first.measures, &figures),
    ];
    sections.extend((models.len() > 1).then(|| differences(models, repeats, seed)));
    sections.extend(first.measures.open.then(|| examples(models)));
    EvaluationReport {
        sections,
        ..EvaluationReport::default()
    }
}

/// Summarizes one model's figures in a sentence or two.
fn summary(figures: &ModelFigures<'_>, measures: Measures<'_>) -> Option<String> {
    let group = if measures.open {
        FigureGroup::Open
    } else {
        FigureGroup::Closed
    };
    let percent = |name| {
        figures
            .get(group, name)
            .map(|figure| stated(&figure, NumberFormat::Percent))
    };
    let (hallucinated, captions, recall) =
        (percent("CHAIR_i")?, percent("CHAIR_s")?, percent("recall")?);
    let (mentions, expected) = match group {
        FigureGroup::Open => (
            "objects that it names are in no reference",
            "what at least two people name",
        ),
        _ => (
            "objects that it names are not in the photograph",
            "the objects in the photographs",
        ),
    };
    Some(format!(
        "{}: {hallucinated} of the {mentions} (CHAIR_i); {captions} of its captions name at least \
         one such (CHAIR_s). It names {recall} of {expected} (recall).",
        figures.name
    ))
}

fn group_figures(group: FigureGroup) -> impl Iterator<Item = &'static Figure> {
    FIGURES.iter().filter(move |figure| figure.group == group)
}

/// Every figure of one set of captions with its interval.
#[derive(Debug, Clone)]
pub struct ModelFigures<'a> {
    /// Name of the model.
    pub name: &'a str,
    people: bool,
    /// Figures in the order of [`FIGURES`].
    figures: Vec<Estimate>,
}

impl ModelFigures<'_> {
    /// Returns a figure by its group and its name in tables.
    pub fn get(&self, group: FigureGroup, name: &str) -> Option<Estimate> {
        let index = FIGURES
            .iter()
            .position(|figure| figure.group == group && figure.name() == name)?;
        self.figures.get(index).copied()
    }
}

/// Computes the figures of every model, and of people in a last row if they can be judged. One set
/// of resamples serves all figures of a row.
pub fn measure<'a>(
    models: &[(&'a str, &Evaluation<'_>)],
    repeats: usize,
    seed: u64,
) -> Vec<ModelFigures<'a>> {
    let with_intervals = |lines: &[CaptionCounts]| {
        estimates(lines.len(), repeats, seed, |weights| {
            let sums = weighted(lines, weights);
            FIGURES.iter().map(|figure| (figure.value)(&sums)).collect()
        })
    };
    let mut rows: Vec<ModelFigures<'a>> = models
        .iter()
        .map(|(name, evaluation)| ModelFigures {
            name,
            people: false,
            figures: with_intervals(&evaluation.lines().0),
        })
        .collect();
    let judged = |evaluation: &&Evaluation<'_>| {
        evaluation
            .captions
            .iter()
            .any(|caption| caption.image.captions.len() > 1)
    };
    let people = models.first().map(|m| m.1).filter(judged);
    rows.extend(people.map(|evaluation| ModelFigures {
        name: PEOPLE,
        people: true,
        figures: with_intervals(&evaluation.lines().1),
    }));
    rows
}

/// Builds the section of figures, with a table per measure.
pub fn figures_section(measures: Measures<'_>, rows: &[ModelFigures<'_>]) -> Section {
    let groups = [
        (FigureGroup::Open, "Open vocabulary", measures.open),
        (
            FigureGroup::Closed,
            "Closed vocabulary",
            measures.closed.is_some(),
        ),
        (
            FigureGroup::Description,
            "Description",
            measures.description,
        ),
    ];
    Section {
        title: "Figures".into(),
        text: vec![
            "Brackets show 95 % intervals (bootstrap over images). Length and recall are shown \
             beside hallucination because a model that says less hallucinates less. The row of \
             people is the floor of the measure: even their captions name objects that the others \
             do not."
                .into(),
        ],
        tables: groups
            .iter()
            .filter(|g| g.2)
            .map(|(group, title, _)| table(title, *group, rows))
            .collect(),
        ..Section::default()
    }
}

fn table(title: &str, group: FigureGroup, rows: &[ModelFigures<'_>]) -> ReportTable {
    let cells = |row: &ModelFigures<'_>| -> Vec<TableCell> {
        let own = FIGURES
            .iter()
            .zip(&row.figures)
            .filter(|(figure, _)| figure.group == group);
        own.map(|(figure, estimate)| match figure.name() {
            // Counts have no sampling error.
            "captions" => estimate.value.into(),
            _ => (*estimate).into(),
        })
        .collect()
    };
    let shown = rows
        .iter()
        .filter(|row| !(row.people && group == FigureGroup::Description));
    ReportTable {
        title: title.into(),
        note: String::new(),
        columns: group_figures(group).map(Figure::column).collect(),
        rows: shown
            .map(|row| TableRow::new(row.name, cells(row)))
            .collect(),
    }
}

/// Builds the section of differences from the first model: the second model's, which is the planned
/// comparison and the only one tested, and the others'.
pub fn differences(models: &[(&str, &Evaluation<'_>)], repeats: usize, seed: u64) -> Section {
    let [first, rest @ ..] = models else {
        return Section::default();
    };
    let found: Vec<Vec<Difference>> = rest
        .iter()
        .map(|other| figure_differences(first.1, other.1, repeats, seed))
        .collect();
    let mut section = Section {
        title: "Differences".into(),
        ..Section::default()
    };
    let Some((planned, others)) = rest.split_first() else {
        return section;
    };
    let tested = FIGURES
        .iter()
        .filter(|figure| figure.is_tested() && is_measured(first.1.measures, figure.group))
        .count();
    section.text.push(format!(
        "One comparison was planned, {} against {}. Its {tested} p-values are corrected by Holm's \
         method; the smallest that {repeats} resamples can yield is {:.3}. Other figures are not \
         tested and have intervals only.",
        planned.0,
        first.0,
        2.0 * tested as f64 / repeats.max(1) as f64
    ));
    section
        .tables
        .push(planned_table(*first, *planned, &found[0]));
    if !others.is_empty() {
        section
            .tables
            .push(other_table(*first, others, &found[1..]));
    }
    section
}

fn is_measured(measures: Measures<'_>, group: FigureGroup) -> bool {
    match group {
        FigureGroup::Open => measures.open,
        FigureGroup::Closed => measures.closed.is_some(),
        FigureGroup::Description => measures.description,
    }
}

/// Name of a figure among figures of several groups.
fn full_name(figure: &Figure, measures: Measures<'_>) -> String {
    let group = match figure.group {
        FigureGroup::Open if measures.closed.is_some() => " (open vocabulary)",
        FigureGroup::Closed if measures.open => " (closed vocabulary)",
        _ => "",
    };
    format!("{}{group}", figure.name())
}

fn planned_table(
    first: (&str, &Evaluation<'_>),
    second: (&str, &Evaluation<'_>),
    found: &[Difference],
) -> ReportTable {
    let measures = first.1.measures;
    let tested: Vec<f64> = FIGURES
        .iter()
        .zip(found)
        .map(|(figure, d)| {
            if figure.is_tested()
                && is_measured(measures, figure.group)
                && d.estimate.value.is_finite()
            {
                d.p
            } else {
                f64::NAN
            }
        })
        .collect();
    let shown = |(figure, _): &(&Figure, _)| {
        figure.name() != "captions" && is_measured(measures, figure.group)
    };
    let row = |(figure, (difference, p)): (&Figure, (&Difference, f64))| {
        let verdict = (!p.is_nan()).then_some(if p < LEVEL {
            "significant"
        } else {
            "not significant"
        });
        TableRow::new(
            full_name(figure, measures),
            vec![difference.estimate.into(), p.into(), verdict.into()],
        )
    };
    ReportTable {
        title: format!("{} against {}, the same images", second.0, first.0),
        note:
            "Paired: both captions of an image are resampled together. Shares are fractions of 1."
                .into(),
        columns: vec![
            Column::new("difference", NumberFormat::Decimal(4)),
            Column::new("p", NumberFormat::Decimal(3))
                .help("two-sided bootstrap p-value, corrected by Holm's method"),
            Column::new("at 5 %", NumberFormat::Text),
        ],
        rows: FIGURES
            .iter()
            .zip(found.iter().zip(holm(&tested)))
            .filter(shown)
            .map(row)
            .collect(),
    }
}

fn other_table(
    first: (&str, &Evaluation<'_>),
    others: &[(&str, &Evaluation<'_>)],
    found: &[Vec<Difference>],
) -> ReportTable {
    let measures = first.1.measures;
    let shown: Vec<(usize, &Figure)> = FIGURES
        .iter()
        .enumerate()
        .filter(|(_, figure)| figure.is_tested() && is_measured(measures, figure.group))
        .collect();
    let row = |((name, _), found): (&(&str, &Evaluation<'_>), &Vec<Difference>)| {
        TableRow::new(
            *name,
            shown
                .iter()
                .map(|(i, _)| found[*i].estimate.into())
                .collect(),
        )
    };
    ReportTable {
        title: format!("Others against {}, the same images", first.0),
        note: "Differences with 95 % intervals, paired and not tested; among this many, some \
               exclude zero by chance. Shares are fractions of 1."
            .into(),
        columns: shown
            .iter()
            .map(|(_, figure)| Column::new(full_name(figure, measures), NumberFormat::Decimal(3)))
            .collect(),
        rows: others.iter().zip(found).map(row).collect(),
    }
}

/// Builds the section of examples: the most frequent hallucinated objects, and the captions with
/// the most hallucinations.
pub fn examples(models: &[(&str, &Evaluation<'_>)]) -> Section {
    let mut section = Section {
        title: "Examples".into(),
        ..Section::default()
    };
    for (name, evaluation) in models {
        let mut nouns: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for caption in &evaluation.captions {
            let mentions = caption.open.iter().flat_map(|j| &j.mentions);
            for (noun, (_, supported)) in caption.nouns.iter().zip(mentions) {
                let count = nouns.entry(noun).or_default();
                count[0] += usize::from(!supported);
                count[1] += 1;
            }
        }
        let mut nouns: Vec<(&str, [usize; 2])> = nouns.into_iter().filter(|n| n.1[0] > 0).collect();
        nouns.sort_by_key(|(noun, [wrong, _])| (usize::MAX - wrong, *noun));
        let bar = |(noun, [wrong, all]): (&str, [usize; 2])| PlotBar {
            name: noun.into(),
            value: wrong as f64,
            text: Some(format!("{wrong} of {all}")),
        };
        section.plots.push(Plot::Bars {
            title: format!("Most hallucinated objects: {name}"),
            label: "mentions without support".into(),
            bars: nouns.into_iter().take(NOUNS).map(bar).collect(),
        });
        let invented = |caption: &&JudgedCaption<'_>| {
            caption.open.as_ref().map_or(0, |j| j.hallucinated.len())
        };
        let mut worst: Vec<&JudgedCaption<'_>> = evaluation
            .captions
            .iter()
            .filter(|c| invented(c) > 0)
            .collect();
        worst.sort_by_key(|caption| usize::MAX - invented(caption));
        section.text.push(format!(
            "{name}: {} of {} captions that name unsupported objects, those with most first.",
            worst.len().min(SHOWN),
            worst.len()
        ));
        section
            .cards
            .extend(worst.iter().take(SHOWN).map(|caption| card(name, caption)));
    }
    section
}

fn card(name: &str, caption: &JudgedCaption<'_>) -> CaptionCard {
    CaptionCard {
        id: caption.image.name().to_owned(),
        photo: caption.image.photo.as_deref().and_then(Photo::thumbnail),
        words: card_words(caption, &BTreeSet::new(), None),
        note: name.to_owned(),
        references: caption.image.captions.clone(),
        ..CaptionCard::default()
    }
}
