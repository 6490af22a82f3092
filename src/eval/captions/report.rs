//! What captions' figures are shown as.

use std::{collections::BTreeMap, fs};

use super::{
    Caption, Evaluation,
    figures::{FIGURES, Figure, Group, Line},
    weighted,
};
use crate::{
    eval::{
        bootstrap::{Difference, Estimate, differences, estimates},
        report::{Bar, CaptionCard, CardWord, Cell, Column, Format, Photo, Plot, Report, Section, Table, TableRow},
    },
    lexicon::words,
};

/// Captions shown.
const SHOWN: usize = 12;

/// Nouns shown.
const NOUNS: usize = 20;

/// People's own row.
const PEOPLE: &str = "people, each judged by the others";

/// The report of captions under their models' names, all of the same images in the same order; the first one is the baseline of the differences.
/// Title, command and facts are the caller's to add.
pub fn report(models: &[(&str, &Evaluation<'_>)], repeats: usize, seed: u64) -> Report {
    let Some((_, first)) = models.first() else { return Report::default() };
    let measures = first.measures;
    let groups = [
        (Group::Open, "Open vocabulary", measures.open),
        (Group::Closed, "Closed vocabulary", measures.closed.is_some()),
        (Group::Description, "Description", measures.description),
    ];
    let mut figures = Section {
        title: "Figures".into(),
        text: vec![
            "Brackets hold 95 % intervals (bootstrap over images). Length and recall stand beside hallucination: a model that says less hallucinates \
             less. People's row is the floor of the measure: even their captions name things that the others do not."
                .into(),
        ],
        ..Section::default()
    };
    let rows = rows(models, repeats, seed);
    figures.tables.extend(groups.iter().filter(|g| g.2).map(|(group, title, _)| table(title, *group, &rows)));
    let mut sections = vec![figures];
    if models.len() > 1 {
        let tables = models[1..].iter().map(|other| difference_table(models[0], *other, repeats, seed)).collect();
        sections.push(Section { title: "Differences".into(), tables, ..Section::default() });
    }
    if measures.open {
        sections.push(examples(models));
    }
    Report { sections, ..Report::default() }
}

fn of_group(group: Group) -> impl Iterator<Item = &'static Figure> {
    FIGURES.iter().filter(move |figure| figure.group == group)
}

/// Every figure of one set of captions, in the order of [`FIGURES`].
struct Row<'a> {
    name: &'a str,
    people: bool,
    figures: Vec<Estimate>,
}

/// The figures of every model, and of people; one set of resamples serves all figures of a row.
fn rows<'a>(models: &[(&'a str, &Evaluation<'_>)], repeats: usize, seed: u64) -> Vec<Row<'a>> {
    let of = |lines: &[Line]| {
        estimates(lines.len(), repeats, seed, |weights| {
            let sums = weighted(lines, weights);
            FIGURES.iter().map(|figure| (figure.of)(&sums)).collect()
        })
    };
    let mut rows: Vec<Row<'a>> =
        models.iter().map(|(name, evaluation)| Row { name, people: false, figures: of(&evaluation.lines().0) }).collect();
    let judged = |evaluation: &&Evaluation<'_>| evaluation.captions.iter().any(|caption| caption.image.captions.len() > 1);
    let people = models.first().map(|m| m.1).filter(judged);
    rows.extend(people.map(|evaluation| Row { name: PEOPLE, people: true, figures: of(&evaluation.lines().1) }));
    rows
}

fn table(title: &str, group: Group, rows: &[Row<'_>]) -> Table {
    let cells = |row: &Row<'_>| -> Vec<Cell> {
        let own = FIGURES.iter().zip(&row.figures).filter(|(figure, _)| figure.group == group);
        own.map(|(figure, estimate)| match figure.name() {
            // Counts of what was judged have no sampling error.
            "captions" => estimate.value.into(),
            _ => (*estimate).into(),
        })
        .collect()
    };
    let shown = rows.iter().filter(|row| !(row.people && group == Group::Description));
    Table {
        title: title.into(),
        note: String::new(),
        columns: of_group(group).map(Figure::column).collect(),
        rows: shown.map(|row| TableRow::new(row.name, cells(row))).collect(),
    }
}

fn difference_table(first: (&str, &Evaluation<'_>), second: (&str, &Evaluation<'_>), repeats: usize, seed: u64) -> Table {
    let measures = first.1.measures;
    let shown = |figure: &&Figure| {
        figure.name() != "captions"
            && match figure.group {
                Group::Open => measures.open,
                Group::Closed => measures.closed.is_some(),
                Group::Description => measures.description,
            }
    };
    let figures: Vec<&Figure> = FIGURES.iter().filter(shown).collect();
    let of = |lines: &[Line], weights: &[u32]| {
        let sums = weighted(lines, weights);
        figures.iter().map(|figure| (figure.of)(&sums)).collect::<Vec<f64>>()
    };
    let (before, after) = (first.1.lines().0, second.1.lines().0);
    let found = differences(before.len(), repeats, seed, |w| of(&before, w), |w| of(&after, w));
    let row = |(figure, difference): (&&Figure, &Difference)| {
        let group = match figure.group {
            Group::Open if measures.closed.is_some() => " (open vocabulary)",
            Group::Closed if measures.open => " (closed vocabulary)",
            _ => "",
        };
        let said = if difference.is_significant() { "significant" } else { "not significant" };
        TableRow::new(format!("{}{group}", figure.name()), vec![difference.estimate.into(), difference.p.into(), said.into()])
    };
    Table {
        title: format!("{} against {}, the same images", second.0, first.0),
        note: "Paired: both captions of an image are drawn together. Shares are shares of 1.".into(),
        columns: vec![
            Column::new("difference", Format::Decimal(4)),
            Column::new("p", Format::Decimal(3)).help("two-sided, of the bootstrap"),
            Column::new("at 5 %", Format::Text),
        ],
        rows: figures.iter().zip(&found).map(row).collect(),
    }
}

/// What is invented most often, and the captions that invent most.
fn examples(models: &[(&str, &Evaluation<'_>)]) -> Section {
    let mut section = Section { title: "Examples".into(), ..Section::default() };
    for (name, evaluation) in models {
        let mut nouns: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for caption in &evaluation.captions {
            let mentions = caption.things.iter().flat_map(|j| &j.mentions);
            for (noun, (_, supported)) in caption.nouns.iter().zip(mentions) {
                let count = nouns.entry(noun).or_default();
                count[0] += usize::from(!supported);
                count[1] += 1;
            }
        }
        let mut nouns: Vec<(&str, [usize; 2])> = nouns.into_iter().filter(|n| n.1[0] > 0).collect();
        nouns.sort_by_key(|(noun, [wrong, _])| (usize::MAX - wrong, *noun));
        let bar = |(noun, [wrong, all]): (&str, [usize; 2])| Bar {
            name: noun.into(),
            value: wrong as f64,
            text: Some(format!("{wrong} of {all}")),
        };
        section.plots.push(Plot::Bars {
            title: format!("Most hallucinated things: {name}"),
            label: "mentions without support".into(),
            bars: nouns.into_iter().take(NOUNS).map(bar).collect(),
        });
        let invented = |caption: &&Caption<'_>| caption.things.as_ref().map_or(0, |j| j.hallucinated.len());
        let mut worst: Vec<&Caption<'_>> = evaluation.captions.iter().filter(|c| invented(c) > 0).collect();
        worst.sort_by_key(|caption| usize::MAX - invented(caption));
        section.cards.extend(worst.iter().take(SHOWN).map(|caption| card(name, caption)));
    }
    section
}

fn card(name: &str, caption: &Caption<'_>) -> CaptionCard {
    let photo = caption.image.photo.as_ref().and_then(|path| {
        let media_type = match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
            Some("png") => "image/png",
            Some("gif") => "image/gif",
            Some("webp") => "image/webp",
            _ => "image/jpeg",
        };
        Some(Photo { media_type: media_type.into(), bytes: fs::read(path).ok()? })
    });
    let mentions: Vec<_> = caption.things.iter().flat_map(|j| &j.mentions).collect();
    let (mut from, mut shown) = (0, Vec::new());
    for range in words(caption.text).into_iter().map(|word| word.range) {
        let mention = mentions.iter().find(|(m, _)| m.start < range.end && range.start < m.end);
        let word = CardWord { text: caption.text[from..range.end].to_owned(), hallucinated: mention.map(|m| !m.1), ..CardWord::default() };
        shown.push(word);
        from = range.end;
    }
    shown.push(CardWord { text: caption.text[from..].to_owned(), ..CardWord::default() });
    CaptionCard {
        id: caption.image.name().to_owned(),
        photo,
        words: shown,
        note: name.to_owned(),
        references: caption.image.captions.clone(),
    }
}
