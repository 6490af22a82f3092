//! Rendering of a report as one self-contained HTML page without scripts, fonts or external
//! resources; its content security policy forbids them too.

use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{Environment, Error, Value, context};
use serde::Serialize;

use super::{
    CaptionCard, CardWord, Column, EvaluationReport, GoodDirection, NumberFormat, Photo, Plot,
    ReportTable, Section, TableRow, WordChange,
    format::{cell, marks, number},
    plots::draw,
};

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
/// The template engine escapes by file name extension.
const NAME: &str = "report.html";

impl EvaluationReport {
    /// Renders the report as an HTML page with plots and captions.
    ///
    /// # Errors
    /// If the template does not parse or fails, which no report should cause.
    pub fn html(&self) -> Result<String, Error> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.add_template(NAME, TEMPLATE)?;
        let sections: Vec<SectionView> = self.sections.iter().map(SectionView::new).collect();
        env.get_template(NAME)?.render(context! {
            title => self.title,
            command => self.command,
            facts => self.facts,
            notes => self.notes,
            style => Value::from_safe_string(STYLE.to_owned()),
            sections,
        })
    }
}

#[derive(Serialize)]
struct SectionView<'a> {
    title: &'a str,
    text: &'a [String],
    tables: Vec<TableView<'a>>,
    figures: Vec<FigureView>,
    cards: Vec<CardView<'a>>,
    /// `true` if the page needs the legend of word scores.
    scored: bool,
    judged: bool,
    changed: bool,
}

#[derive(Serialize)]
struct TableView<'a> {
    title: &'a str,
    note: &'a str,
    columns: Vec<ColumnView<'a>>,
    rows: Vec<RowView<'a>>,
    explained: bool,
}

#[derive(Serialize)]
struct ColumnView<'a> {
    name: &'a str,
    /// Name and unit, shown beside the figure when a narrow page stacks the cells of a row.
    label: String,
    marks: String,
    /// Direction for screen readers.
    better: &'static str,
    help: &'a str,
    words: bool,
}

#[derive(Serialize)]
struct RowView<'a> {
    name: &'a str,
    emphasis: bool,
    cells: Vec<(String, Option<String>, bool)>,
}

#[derive(Serialize)]
struct FigureView {
    title: String,
    svg: Value,
    legend: Vec<(Value, String)>,
}

#[derive(Serialize)]
struct CardView<'a> {
    id: &'a str,
    photo: Option<Value>,
    title: &'a str,
    alt: String,
    /// Label and words of each line; the label tells two captions apart.
    lines: Vec<(&'static str, Vec<WordView<'a>>)>,
    flagged: Vec<String>,
    hallucinated: Vec<&'a str>,
    facts: &'a [(String, String)],
    note: &'a str,
    references: &'a [String],
}

#[derive(Serialize)]
struct WordView<'a> {
    /// White space before the word, which stays uncolored.
    space: &'a str,
    text: &'a str,
    /// HTML element that conveys the change to screen readers.
    element: &'static str,
    class: String,
    /// Strength of the color: one minus the reward.
    heat: Option<String>,
    tip: String,
}

impl<'a> SectionView<'a> {
    fn new(section: &'a Section) -> Self {
        let words = || {
            section
                .cards
                .iter()
                .flat_map(|c| c.before.iter().chain(&c.words))
        };
        Self {
            title: &section.title,
            text: &section.text,
            tables: section.tables.iter().map(TableView::new).collect(),
            figures: section.plots.iter().map(FigureView::new).collect(),
            cards: section.cards.iter().map(CardView::new).collect(),
            scored: words().any(|w| w.reward.is_some()),
            judged: words().any(|w| w.hallucinated == Some(true)),
            changed: words().any(|w| w.change.is_some()),
        }
    }
}

impl<'a> TableView<'a> {
    fn new(table: &'a ReportTable) -> Self {
        let columns = table.columns.iter().map(|column| ColumnView {
            name: &column.name,
            label: marks(column).fold(column.name.clone(), |label, mark| label + "\u{a0}" + mark),
            marks: marks(column).collect::<Vec<_>>().join("\u{a0}"),
            better: match column.better {
                Some(GoodDirection::Higher) => "higher is better",
                Some(GoodDirection::Lower) => "lower is better",
                None => "",
            },
            help: &column.help,
            words: column.format == NumberFormat::Text,
        });
        let cells = |row: &TableRow| {
            let shown = |(i, c): (usize, &Column)| {
                let (figure, interval) = cell(row.cells.get(i), c.format);
                (figure, interval, c.format == NumberFormat::Text)
            };
            table.columns.iter().enumerate().map(shown).collect()
        };
        Self {
            title: &table.title,
            note: &table.note,
            columns: columns.collect(),
            rows: table
                .rows
                .iter()
                .map(|row| RowView {
                    name: &row.name,
                    emphasis: row.emphasis,
                    cells: cells(row),
                })
                .collect(),
            explained: table.columns.iter().any(|c| !c.help.is_empty()),
        }
    }
}

impl FigureView {
    fn new(plot: &Plot) -> Self {
        let drawn = draw(plot);
        let legend = drawn
            .legend
            .into_iter()
            .map(|(sample, name)| (Value::from_safe_string(sample), name));
        Self {
            title: drawn.title,
            svg: Value::from_safe_string(drawn.svg),
            legend: legend.collect(),
        }
    }
}

impl<'a> CardView<'a> {
    fn new(card: &'a CaptionCard) -> Self {
        let views = |words: &'a [CardWord]| words.iter().map(WordView::new).collect();
        let lines = match card.before.is_empty() {
            true => vec![("", views(&card.words))],
            false => vec![
                ("Before", views(&card.before)),
                ("After", views(&card.words)),
            ],
        };
        let bare = |w: &'a CardWord| w.text.trim();
        let flagged = card
            .words
            .iter()
            .filter(|w| w.flagged)
            .map(|w| format!("{} {}", bare(w), reward(w)));
        Self {
            id: &card.id,
            title: &card.title,
            photo: card.photo.as_ref().map(data_url),
            // A person's caption, since the one on the card may be wrong and is shown beside it
            // anyway.
            alt: card
                .references
                .first()
                .cloned()
                .unwrap_or_else(|| format!("Photograph {}", card.id)),
            lines,
            flagged: flagged.collect(),
            hallucinated: card
                .words
                .iter()
                .filter(|w| w.hallucinated == Some(true))
                .map(bare)
                .collect(),
            facts: &card.facts,
            note: &card.note,
            references: &card.references,
        }
    }
}

impl<'a> WordView<'a> {
    fn new(word: &'a CardWord) -> Self {
        let text = word.text.trim_start();
        let heat = word
            .reward
            .filter(|r| r.is_finite())
            .map(|r| format!("{:.2}", 1.0 - r.clamp(0.0, 1.0)));
        let judged = match word.hallucinated {
            Some(true) => ", not in the references",
            Some(false) => ", in the references",
            None => "",
        };
        Self {
            space: &word.text[..word.text.len() - text.len()],
            text,
            element: match word.change {
                Some(WordChange::Removed) => "del",
                Some(WordChange::Added) => "ins",
                None => "span",
            },
            class: [
                (true, "w"),
                (word.flagged, "flagged"),
                (word.hallucinated == Some(true), "hallucinated"),
            ]
            .iter()
            .filter(|(applies, _)| *applies)
            .map(|(_, class)| *class)
            .collect::<Vec<_>>()
            .join(" "),
            tip: match (&heat, word.change) {
                (Some(_), _) => format!("reward {}{judged}", reward(word)),
                (None, Some(WordChange::Removed)) => format!("removed{judged}"),
                (None, Some(WordChange::Added)) => format!("added{judged}"),
                (None, None) => judged.trim_start_matches(", ").to_owned(),
            },
            heat,
        }
    }
}

fn reward(word: &CardWord) -> String {
    word.reward
        .map(|r| number(f64::from(r), NumberFormat::Decimal(2)))
        .unwrap_or_default()
}

/// Photograph as a data URL. The template must not escape it (every slash of the base64 would
/// become six characters), so the media type may contain only the characters of media types.
fn data_url(photo: &Photo) -> Value {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '+' | '-' | '.');
    let media_type: String = photo.media_type.chars().filter(|&c| safe(c)).collect();
    Value::from_safe_string(format!(
        "data:{media_type};base64,{}",
        STANDARD.encode(&photo.bytes)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::sample;

    fn page() -> String {
        sample::report().html().unwrap()
    }

    #[test]
    fn data_never_becomes_markup() {
        let page = page();
        assert!(
            !page.contains("<script") && !page.contains("<of>"),
            "no script, no invented element"
        );
        assert!(!page.contains("onerror=\""), "no attribute broken out of");
        assert!(
            page.matches("&lt;script&gt;").count() >= 3,
            "in the caption, its summary and the legend"
        );
        let photo = Photo {
            media_type: "image/png\" onerror=\"alert(1)".to_owned(),
            bytes: vec![0xff; 3],
        };
        assert_eq!(
            data_url(&photo).to_string(),
            "data:image/pngonerroralert1;base64,////"
        );
    }

    #[test]
    fn page_is_self_contained() {
        let page = page();
        for outside in ["http:", "https:", "url(", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn table_has_captions_and_scopes() {
        let page = page();
        for part in [
            "scope=\"col\"",
            "<th scope=\"row\" role=\"rowheader\">candor</th>",
            "30.6 <span class=\"interval\">[28.1, 33.0]</span>",
            "<td role=\"cell\" data-column=\"CHAIR_i\u{a0}%\u{a0}↓\"><span>–</span></td>",
            "lower is better",
            "Share &lt;of&gt; mentions",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn word_shows_its_reward_and_judgment() {
        let page = page();
        assert!(page.contains(
            "<span class=\"w\" style=\"--low:0.09\" title=\"reward 0.91, in \
                               the references\">dog</span>"
        ));
        assert!(page.contains(
            "<span class=\"w flagged hallucinated\" style=\"--low:0.88\" \
                           title=\"reward 0.12, not in the references\">"
        ));
        assert!(page.contains("<span class=\"w\">.</span>"));
        assert!(page.contains("src=\"data:image/png;base64,"));
        assert_eq!(page.matches("<figure class=\"plot\">").count(), 3);
    }

    #[test]
    fn changed_caption_is_below_the_original() {
        let word = |text: &str, hallucinated, change| CardWord {
            text: text.to_owned(),
            hallucinated,
            change,
            ..CardWord::default()
        };
        let card = CaptionCard {
            id: "1.jpg".to_owned(),
            title: "Is this <it>?".to_owned(),
            before: vec![
                word("A dog", Some(false), None),
                word(" and a frisbee", Some(true), Some(WordChange::Removed)),
                word(".", None, None),
            ],
            words: vec![
                word("A dog", Some(false), None),
                word(" runs", None, Some(WordChange::Added)),
                word(".", None, None),
            ],
            facts: vec![("Right answer".to_owned(), "A & B".to_owned())],
            ..CaptionCard::default()
        };
        let page = EvaluationReport {
            sections: vec![Section {
                cards: vec![card],
                ..Section::default()
            }],
            ..EvaluationReport::default()
        }
        .html()
        .unwrap();
        let position = |part: &str| {
            page.find(part)
                .unwrap_or_else(|| panic!("{part} in {page}"))
        };
        assert!(
            position(">Before<") < position(">and a frisbee</del>")
                && position("</del>") < position(">After<")
                && position(">After<") < position(">runs</ins>")
        );
        for part in [
            "<h3 dir=\"auto\">Is this &lt;it&gt;?</h3>",
            "title=\"removed, not in the references\"",
            "<b>Right answer:</b> A &amp; B",
        ] {
            position(part);
        }
    }

    #[test]
    fn empty_report_is_a_valid_page() {
        let page = EvaluationReport {
            title: "Nothing".to_owned(),
            ..EvaluationReport::default()
        }
        .html()
        .unwrap();
        assert!(page.contains("<h1>Nothing</h1>") && !page.contains("<nav"));
    }
}
